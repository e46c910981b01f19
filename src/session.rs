//! A model bound to a device: weights written, images carried across the border between NCHW and the engine's NHWC.
//! Must not know attacks.

use std::path::{Path, PathBuf};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::nn::{ModelCard, Weights, build};
use crate::plan::{Executor, Precision, Segment, compile_for};
use crate::tensor::{DType, HostData, HostTensor, Shape, chw_to_hwc, hwc_to_chw};

/// A network with its weights.
#[derive(Clone, Debug)]
pub struct Model {
    /// What the network is.
    pub card: ModelCard,
    /// Its parameters.
    pub weights: Weights,
}

impl Model {
    /// Reads the card (an embedded name or the path of a `.toml` file) and the weights: `weights`, or the file the card names.
    ///
    /// # Errors
    /// [`Error::Model`] where the card is unknown or wrong, where no weights are named, or where they do not fit;
    /// [`Error::Io`] where a file cannot be read.
    pub fn load(name_or_path: &str, weights: Option<&Path>) -> Result<Self> {
        Model::load_entry(name_or_path, weights, None)
    }

    /// The same, for a PyTorch checkpoint with several state dicts: `entry` says which, such as `ema`.
    ///
    /// # Errors
    /// As for [`Model::load`], and where there is no such entry.
    pub fn load_entry(name_or_path: &str, weights: Option<&Path>, entry: Option<&str>) -> Result<Self> {
        let card = ModelCard::find(name_or_path)?;
        let path: PathBuf = match weights {
            Some(p) => p.to_path_buf(),
            None => card.weights.clone().ok_or_else(|| {
                Error::model(format!("`{}` has no weights of its own", card.name))
                    .with_hint("name a file of weights: `--weights FILE.safetensors`")
            })?,
        };
        let (graph, _) = network(&card);
        let weights = Weights::load(&path, entry, &card, &graph)?;
        Ok(Model { card, weights })
    }

    /// `[C, H, W]` of an image.
    pub fn input(&self) -> [usize; 3] {
        self.card.input
    }
}

/// The bare eval-mode network of a card: its graph and its logits, over an input called `x`.
fn network(card: &ModelCard) -> (Graph, Value) {
    let mut graph = Graph::new();
    let x = image_input(&mut graph, "x", card);
    let logits = build(card, &mut graph, x, false).logits;
    (graph, logits)
}

/// An input that holds images of the card's size.
pub fn image_input(graph: &mut Graph, name: &str, card: &ModelCard) -> Value {
    let [c, h, w] = card.input;
    graph.input(name, Shape::per_image(&[h, w, c]), DType::F32)
}

/// A plan bound to a device, with the model's weights in place.
pub struct Session {
    executor: Box<dyn Executor>,
}

impl Session {
    /// Compiles `segments` of `graph` for batches of `batch`, binds them and writes the weights.
    ///
    /// # Errors
    /// What compiling and binding can fail with.
    pub fn new(device: &Device, model: &Model, graph: &Graph, segments: &[Segment], batch: usize, exact: bool) -> Result<Self> {
        Session::with_weights(device, &|name| model.weights.tensors.get(name), graph, segments, batch, exact)
    }

    /// The same with each parameter from `weight`, by name. Panics where it has none, or not as floats: that is a fault of
    /// the caller.
    ///
    /// # Errors
    /// As for [`Session::new`].
    pub fn with_weights<'w>(
        device: &Device,
        weight: &dyn Fn(&str) -> Option<&'w HostTensor>,
        graph: &Graph,
        segments: &[Segment],
        batch: usize,
        exact: bool,
    ) -> Result<Self> {
        let precision = if exact { Precision::F32 } else { device.precision() };
        let plan = compile_for(graph, segments, batch, precision)?;
        let mut executor = device.bind(plan, exact)?;
        for (name, &value) in graph.params() {
            let tensor = weight(name).unwrap_or_else(|| panic!("no weights for `{name}`"));
            let HostData::F32(data) = &tensor.data else { unreachable!("weights are f32 once loaded") };
            executor.write_f32(value, 0, data)?;
        }
        executor.run("pack")?;
        Ok(Session { executor })
    }
    /// Images in a batch.
    pub fn batch(&self) -> usize {
        self.executor.plan().batch()
    }
    /// Runs a segment.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn run(&mut self, segment: &str) -> Result<()> {
        self.executor.run(segment)
    }
    /// Writes one NCHW image into row `row`.
    ///
    /// # Errors
    /// [`Error::Plan`] where `value` has no such row.
    pub fn write_image(&mut self, value: Value, row: usize, chw: &[f32]) -> Result<()> {
        let mut hwc = vec![0.0; chw.len()];
        chw_to_hwc(chw, self.executor.plan().graph().shape(value).hwc(), &mut hwc);
        self.executor.write_f32(value, row, &hwc)
    }
    /// Reads the image in row `row` as NCHW.
    ///
    /// # Errors
    /// As for `write_image`.
    pub fn read_image(&self, value: Value, row: usize) -> Result<Vec<f32>> {
        let hwc = self.executor.read_f32(value, row, 1)?;
        let mut chw = vec![0.0; hwc.len()];
        hwc_to_chw(&hwc, self.executor.plan().graph().shape(value).hwc(), &mut chw);
        Ok(chw)
    }
    /// Writes one number into row `row`.
    ///
    /// # Errors
    /// As for `write_image`.
    pub fn write_f32(&mut self, value: Value, row: usize, x: f32) -> Result<()> {
        self.executor.write_f32(value, row, &[x])
    }
    /// Writes one integer into row `row`.
    ///
    /// # Errors
    /// As for `write_image`.
    pub fn write_i32(&mut self, value: Value, row: usize, x: i32) -> Result<()> {
        self.executor.write_i32(value, row, &[x])
    }
    /// The number in row `row`.
    ///
    /// # Errors
    /// As for `write_image`.
    pub fn read_row(&self, value: Value, row: usize) -> Result<f32> {
        Ok(self.executor.read_f32(value, row, 1)?[0])
    }
    /// All rows of a value.
    ///
    /// # Errors
    /// As for `write_image`.
    pub fn read(&self, value: Value) -> Result<Vec<f32>> {
        let rows = self.executor.plan().rows(value);
        self.executor.read_f32(value, 0, rows)
    }
    /// The executor, for what has no verb here.
    pub fn executor(&mut self) -> &mut dyn Executor {
        self.executor.as_mut()
    }
}

/// A network that only answers: logits of images, on direct kernels, so that its word can be trusted.
pub struct Classifier {
    session: Session,
    x: Value,
    logits: Value,
    classes: usize,
}

impl Classifier {
    /// Binds the model for batches of `batch`.
    ///
    /// # Errors
    /// What compiling and binding can fail with.
    pub fn new(device: &Device, model: &Model, batch: usize) -> Result<Self> {
        let (graph, logits) = network(&model.card);
        let x = graph.input_named("x").expect("the network reads an input called x");
        let segment = Segment { name: "infer".into(), outputs: vec![logits], carries: Vec::new() };
        let session = Session::new(device, model, &graph, &[segment], batch, true)?;
        Ok(Classifier { session, x, logits, classes: model.card.classes })
    }
    /// Classes of the network.
    pub fn classes(&self) -> usize {
        self.classes
    }
    /// Logits `[images, K]` of NCHW images of `chw` values each, any number of them.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn logits(&mut self, images: &[&[f32]]) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(images.len() * self.classes);
        for group in images.chunks(self.session.batch()) {
            for row in 0..self.session.batch() {
                // The last batch is padded with its own last image: shapes stay static, results do not change.
                self.session.write_image(self.x, row, group[row.min(group.len() - 1)])?;
            }
            self.session.run("infer")?;
            out.extend_from_slice(&self.session.read(self.logits)?[..group.len() * self.classes]);
        }
        Ok(out)
    }
}

/// The class of the highest logit; of equals the lowest class. `None` where a logit is NaN.
pub fn argmax(logits: &[f32]) -> Option<usize> {
    if logits.iter().any(|z| z.is_nan()) {
        return None;
    }
    let best = logits.iter().enumerate().fold(0, |best, (i, z)| if *z > logits[best] { i } else { best });
    Some(best)
}
