//! Where an attack computes: the networks whose gradients it follows, the device, the batch.
//! Must not know any attack.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Value};
use crate::nn::{self, ModelCard};
use crate::plan::Segment;
use crate::rng;
use crate::session::{Model, Session, image_input};
use crate::tensor::{DType, Shape};

/// The network an attack sees: one model, or several of which it sees the mean of the logits.
#[derive(Clone, Debug)]
pub struct Net<'a> {
    cards: Vec<&'a ModelCard>,
    claims: bool,
}

impl<'a> Net<'a> {
    /// One network; `claims` asks attacks for the device's own verdict, to be compared with that of the f32 network.
    pub fn of(card: &'a ModelCard, claims: bool) -> Self {
        Net { cards: vec![card], claims }
    }
    /// Whether the device's own verdict is wanted.
    pub fn claims(&self) -> bool {
        self.claims
    }
    /// Classes.
    pub fn classes(&self) -> usize {
        self.cards[0].classes
    }
    /// `[C, H, W]` of an image.
    pub fn input(&self) -> [usize; 3] {
        self.cards[0].input
    }
    /// An input that holds an image for each row.
    pub fn image(&self, g: &mut Graph, name: &str) -> Value {
        image_input(g, name, self.cards[0])
    }
    /// An input that holds a number for each row.
    pub fn row(&self, g: &mut Graph, name: &str) -> Value {
        g.input(name, Shape::per_image(&[]), DType::F32)
    }
    /// An input that holds a whole number for each row.
    pub fn row_i32(&self, g: &mut Graph, name: &str) -> Value {
        g.input(name, Shape::per_image(&[]), DType::I32)
    }
    /// An input that holds `len` numbers for each row.
    pub fn state(&self, g: &mut Graph, name: &str, len: usize) -> Value {
        g.input(name, Shape::per_image(&[len]), DType::F32)
    }
    /// The logits on `x`. Built twice into one graph, both networks share their parameters.
    pub fn logits(&self, g: &mut Graph, x: Value) -> Value {
        let many = self.cards.len() > 1;
        let each: Vec<Value> = self
            .cards
            .iter()
            .enumerate()
            .map(|(i, card)| {
                g.set_prefix(&if many { prefix(i) } else { String::new() });
                nn::build(card, g, x, false).logits
            })
            .collect();
        g.set_prefix("");
        g.set_scope("");
        let sum = each[1..].iter().fold(each[0], |sum, &z| g.push(Op::Add, &[sum, z]));
        if many { g.push(Op::Scale { factor: 1.0 / each.len() as f32 }, &[sum]) } else { sum }
    }
}

/// What the parameters of model `i` among several begin with.
fn prefix(i: usize) -> String {
    format!("{i}:")
}

/// Models, device and batch, handed to [`super::Attack::bind`].
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// Where it runs.
    pub device: &'a Device,
    /// The models whose gradients are followed; of several, the mean of the logits.
    pub models: Vec<&'a Model>,
    /// Rows of a batch.
    pub batch: usize,
    /// Seed of every random number.
    pub seed: u64,
    /// Keep to direct kernels.
    pub exact: bool,
}

impl<'a> Place<'a> {
    /// The network, for building graphs.
    pub fn net(&self) -> Net<'a> {
        let claims = !self.exact && self.device.precision().half().is_some();
        Net { cards: self.models.iter().map(|m| &m.card).collect(), claims }
    }
    /// The same without 16-bit claims.
    pub fn with_batch(&self, batch: usize) -> Self {
        Place { batch, ..self.clone() }
    }
    /// The two words of the seed, and a step of 0, as ops that draw random numbers read them.
    pub fn seed_words(&self) -> [i32; 3] {
        rng::words(self.seed)
    }
    /// Compiles `segments`, binds them and writes the weights of every model.
    ///
    /// # Errors
    /// What compiling and binding can fail with.
    pub fn session(&self, graph: &Graph, segments: &[Segment]) -> Result<Session> {
        let many = self.models.len() > 1;
        let named = |name: &str| {
            let (model, key) = match name.split_once(':').filter(|_| many) {
                Some((i, key)) => (i.parse::<usize>().ok().and_then(|i| self.models.get(i)), key),
                None => (self.models.first(), name),
            };
            model.and_then(|m| m.weights.tensors.get(key))
        };
        Session::with_weights(self.device, &named, graph, segments, self.batch, self.exact)
    }
}

/// Refuses models that cannot be attacked together.
///
/// # Errors
/// [`Error::Usage`] naming the model that differs.
pub(super) fn same_kind(models: &[&Model]) -> Result<()> {
    let first = models[0];
    for other in &models[1..] {
        if other.input() != first.input() || other.card.classes != first.card.classes {
            let kind = |m: &Model| format!("{:?} images and {} classes", m.input(), m.card.classes);
            return Err(Error::usage(format!(
                "`{}` has {}, `{}` has {}: models of one attack must agree",
                first.card.name,
                kind(first),
                other.card.name,
                kind(other)
            )));
        }
    }
    Ok(())
}
