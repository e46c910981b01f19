//! What the literature measures of models along frequencies: gradients, basis noise, perturbations, landscapes.
//! Must not know the command line or how a result is drawn.

pub mod heatmap;
pub mod landscape;
pub mod perturbation;
pub mod sensitivity;

use crate::data::Dataset;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Loss, Op, Value, vjp};
use crate::nn::build;
use crate::plan::Segment;
use crate::session::{Classifier, Model, Session, argmax, image_input};
use crate::tensor::{DType, Shape};

/// Asked between batches; `true` ends a study with [`Error::Interrupted`].
pub type Stop<'a> = &'a dyn Fn() -> bool;

/// The error of a study that was asked to end.
fn check(stop: Stop) -> Result<()> {
    if stop() { Err(Error::Interrupted { message: "stopped between two batches".into() }) } else { Ok(()) }
}

/// Images of a set in memory, with their classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// `[C, H, W]`.
    pub shape: [usize; 3],
    /// `[N, C, H, W]` in [0,1].
    pub pixels: Vec<f32>,
    /// Class of each: the set's label, or the model's prediction where the set has none; a NaN logit makes it class 0.
    pub label: Vec<i32>,
}

impl Samples {
    /// Reads a set whole.
    ///
    /// # Errors
    /// What reading and computing can fail with.
    pub fn read(device: &Device, model: &Model, data: &Dataset, batch: usize) -> Result<Self> {
        let (pixels, label) = read(data)?;
        let mut out = Samples { shape: data.shape(), pixels, label: Vec::new() };
        out.label = match label {
            Some(label) => label,
            None => {
                let mut classifier = Classifier::new(device, model, batch.min(data.len()))?;
                let logits = classifier.logits(&out.images().collect::<Vec<_>>())?;
                logits.chunks_exact(model.card.classes).map(|z| argmax(z).unwrap_or(0) as i32).collect()
            }
        };
        Ok(out)
    }
    /// Number of images.
    pub fn len(&self) -> usize {
        self.label.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.label.is_empty()
    }
    /// Image by image.
    pub fn images(&self) -> impl Iterator<Item = &[f32]> {
        self.pixels.chunks_exact(self.shape.iter().product())
    }
}

/// All pixels of a set as floats, and its labels.
fn read(data: &Dataset) -> Result<(Vec<f32>, Option<Vec<i32>>)> {
    let elems: usize = data.shape().iter().product();
    let mut pixels = vec![0.0; data.len() * elems];
    let mut images = pixels.chunks_exact_mut(elems);
    for chunk in data.chunks(1024) {
        let chunk = chunk?;
        for i in 0..chunk.len() {
            chunk.pixels_f32(i, images.next().expect("as many images as the set says"));
        }
    }
    Ok((pixels, data.labels().map(<[i32]>::to_vec)))
}

/// A model that gives each image's cross-entropy and its gradient with respect to the pixels.
pub struct Losses {
    session: Session,
    graph: Graph,
    x: Value,
    label: Value,
    loss: Value,
    grad: Value,
}

impl Losses {
    /// Binds the model for batches of `batch`, on direct f32 kernels.
    ///
    /// # Errors
    /// What compiling and binding can fail with.
    pub fn new(device: &Device, model: &Model, batch: usize) -> Result<Self> {
        let mut graph = Graph::new();
        let x = image_input(&mut graph, "x", &model.card);
        let label = graph.input("label", Shape::per_image(&[]), DType::I32);
        let logits = build(&model.card, &mut graph, x, false).logits;
        let kind = Loss::CrossEntropy { smoothing: 0.0 };
        let loss = graph.push(Op::Loss(kind), &[logits, label]);
        let cotangent = graph.push(Op::LossGrad(kind), &[logits, label]);
        let grad = vjp(&mut graph, logits, cotangent, &[x])[0].expect("logits depend on the image");
        let segment = |name: &str, v| Segment { name: name.into(), outputs: vec![v], carries: Vec::new() };
        let session = Session::new(device, model, &graph, &[segment("loss", loss), segment("grad", grad)], batch, true)?;
        Ok(Losses { session, graph, x, label, loss, grad })
    }

    /// Cross-entropy of each image.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn losses(&mut self, samples: &Samples) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(samples.len());
        let loss = self.loss;
        self.run("loss", samples, |session, row| {
            out.push(session.read_row(loss, row)?);
            Ok(())
        })?;
        Ok(out)
    }
    /// The gradient of each image's own cross-entropy, `[C, H, W]`, handed to `take`.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn gradients(&mut self, samples: &Samples, mut take: impl FnMut(Vec<f32>)) -> Result<()> {
        let grad = self.grad;
        self.run("grad", samples, |session, row| {
            take(session.read_image(grad, row)?);
            Ok(())
        })
    }
    /// Puts other numbers in place of the parameters, which are named as in the state dict.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_params<'a>(&mut self, params: impl IntoIterator<Item = (&'a str, &'a [f32])>) -> Result<()> {
        for (name, data) in params {
            let value = self.graph.params()[name];
            self.session.executor().write_f32(value, 0, data)?;
        }
        self.session.run("pack")
    }

    fn run(&mut self, segment: &str, samples: &Samples, mut take: impl FnMut(&Session, usize) -> Result<()>) -> Result<()> {
        let images: Vec<&[f32]> = samples.images().collect();
        for (images, labels) in images.chunks(self.session.batch()).zip(samples.label.chunks(self.session.batch())) {
            for row in 0..self.session.batch() {
                let from = row.min(images.len() - 1);
                self.session.write_image(self.x, row, images[from])?;
                self.session.write_i32(self.label, row, labels[from])?;
            }
            self.session.run(segment)?;
            (0..images.len()).try_for_each(|row| take(&self.session, row))?;
        }
        Ok(())
    }
}
