//! One training step bound to a device: images in, attack, update, state out; with the evaluation beside it on one arena.
//! Must not know epochs, schedules, files or where images come from.

use std::collections::BTreeMap;

use super::form::{Form, Hyper};
use super::recipe::Start;
use super::step::{Values, nodes};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::nn::{ModelCard, Weights};
use crate::plan::Segment;
use crate::session::{Model, Session};
use crate::tensor::{HostData, HostTensor};

/// Name of Free's perturbation in the state.
const DELTA: &str = "delta";

/// Images of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// `[N, C, H, W]` in [0,1].
    pub pixels: &'a [f32],
    /// Class of each.
    pub label: &'a [i32],
    /// Position of each in its split.
    pub index: &'a [u32],
}

/// What one training step saw before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Sum of the losses of the images.
    pub loss: f64,
    /// Images whose highest logit was at the label.
    pub correct: usize,
}

/// A bound training plan with its state: parameters, velocities, averages.
pub struct Engine {
    session: Session,
    form: Form,
    v: Values,
    /// Labels of the loaded images.
    label: Vec<i32>,
}

impl Engine {
    /// Plans training of `card` and binds it, starting from `weights` and velocities of zero.
    ///
    /// # Errors
    /// What compiling and binding can fail with.
    pub fn new(device: &Device, card: &ModelCard, weights: Weights, form: Form) -> Result<Self> {
        let (graph, v, segments) = nodes(card, &form);
        let model = Model { card: card.clone(), weights };
        let mut session = Session::new(device, &model, &graph, &segments, form.batch, false)?;
        for (name, average) in &v.update.average {
            let HostData::F32(data) = &model.weights.tensors[name].data else { unreachable!("weights are f32 once loaded") };
            session.executor().write_f32(*average, 0, data)?;
        }
        let label = vec![0; form.batch];
        let mut engine = Engine { session, form, v, label };
        if let Some(c) = form.crafting {
            engine.set_radius(c.threat.eps)?;
            engine.set_step_length(c.alpha)?;
            if let (Start::Noise(sigma), Some(at)) = (c.start, engine.v.attack.and_then(|a| a.input.sigma)) {
                engine.session.executor().write_f32(at, 0, &vec![sigma as f32; form.batch])?;
            }
        }
        Ok(engine)
    }

    /// Images in a batch.
    pub fn batch(&self) -> usize {
        self.form.batch
    }

    /// Hands in the images of a batch; they are what the next attack starts from or the next step trains on.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn load(&mut self, images: Images) -> Result<()> {
        let n = self.form.batch;
        let size = images.pixels.len() / n;
        assert!(images.label.len() == n && images.index.len() == n && size * n == images.pixels.len(), "not {n} images");
        for (row, chw) in images.pixels.chunks_exact(size).enumerate() {
            self.session.write_image(self.v.x, row, chw)?;
            if let Some(a) = self.v.attack {
                self.session.write_image(a.input.x0, row, chw)?;
            }
        }
        self.session.executor().write_i32(self.v.label, 0, images.label)?;
        self.label.copy_from_slice(images.label);
        if let Some(index) = self.v.dropout.map(|d| d.0).or(self.v.attack.map(|a| a.input.index)) {
            let index_i32: Vec<i32> = images.index.iter().map(|&i| i as i32).collect();
            self.session.executor().write_i32(index, 0, &index_i32)?;
        }
        Ok(())
    }

    /// Moves all images to random starts in the ball around the loaded ones: those of [`crate::rng::start`] for this seed,
    /// step and restart and each image's index. Panics where there is no attack.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn begin(&mut self, seed: u64, step: u32, restart: u16) -> Result<()> {
        self.draw_by(seed, step, restart)?;
        self.session.run("begin")
    }

    fn draw_by(&mut self, seed: u64, step: u32, restart: u16) -> Result<()> {
        let input = self.v.attack.expect("the recipe has an attack").input;
        self.session.executor().write_i32(input.restart, 0, &vec![restart.into(); self.form.batch])?;
        self.session.executor().write_i32(input.seed, 0, &[seed as i32, (seed >> 32) as i32, step as i32])
    }

    /// Moves image `row` to `chw`, the start of an attack on the loaded one.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn start_at(&mut self, row: usize, chw: &[f32]) -> Result<()> {
        self.session.write_image(self.v.x, row, chw)
    }

    /// Length of the attack's steps from here on. Panics where there is no attack.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_step_length(&mut self, alpha: f64) -> Result<()> {
        self.set_step_lengths(&vec![alpha as f32; self.form.batch])
    }

    /// Radius of the attack from here on. Panics where there is no attack.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_radius(&mut self, eps: f64) -> Result<()> {
        self.set_radii(&vec![eps as f32; self.form.batch])
    }

    /// A radius for each image. Panics where there is no attack.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_radii(&mut self, eps: &[f32]) -> Result<()> {
        let attack = self.v.attack.expect("the recipe has an attack");
        self.session.executor().write_f32(attack.input.eps, 0, eps)
    }

    /// A step length for each image. Panics where there is no attack.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_step_lengths(&mut self, alpha: &[f32]) -> Result<()> {
        let attack = self.v.attack.expect("the recipe has an attack");
        self.session.executor().write_f32(attack.input.alpha, 0, alpha)
    }

    /// Target distributions `[N, K]` of the next steps. Panics where the form has none, as the other setters here do.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_targets(&mut self, targets: &[f32]) -> Result<()> {
        self.session.executor().write_f32(self.v.given.targets.expect("the form reads targets"), 0, targets)
    }

    /// Weights `[N]` of the losses of clean and of attacked images.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_weights(&mut self, clean: &[f32], attacked: &[f32]) -> Result<()> {
        let [c, a] = self.v.given.weights.expect("the form weighs losses");
        self.session.executor().write_f32(c, 0, clean)?;
        self.session.executor().write_f32(a, 0, attacked)
    }

    /// Scales, biases and margins of classes, `[3, K]`.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_table(&mut self, rows: &[f32]) -> Result<()> {
        self.session.executor().write_f32(self.v.given.table.expect("the form has a table"), 0, rows)
    }

    /// How far along the way from clean to attacked images the points lie that are looked at, `[N]`.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_share(&mut self, share: &[f32]) -> Result<()> {
        self.session.executor().write_f32(self.v.given.share.expect("the form looks at points between"), 0, share)
    }

    /// Keeps the images as they stand as the ends of the ways that [`Engine::along`] goes.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn keep(&mut self) -> Result<()> {
        self.session.run("keep")
    }

    /// Moves all images to the points on their ways that [`Engine::set_share`] says.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn along(&mut self) -> Result<()> {
        self.session.run("along")
    }

    /// Starts the recipe's own attack: as [`Engine::begin`], from noise where the recipe says so; where it climbs the divergence
    /// from the answer to the clean images, that is computed first. `pass` numbers this forward pass for dropout.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_out(&mut self, seed: u64, step: u32, pass: u32) -> Result<()> {
        let input = self.v.attack.expect("the recipe has an attack").input;
        self.anchor(pass)?;
        if input.sigma.is_none() {
            return self.begin(seed, step, 0);
        }
        self.draw_by(seed, step, 0)?;
        self.session.run("noise")
    }

    /// Takes the answer to the clean images that an attack on the divergence climbs away from; nothing without one.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn anchor(&mut self, pass: u32) -> Result<()> {
        if self.v.attack.is_none_or(|a| a.input.anchor.is_none()) {
            return Ok(());
        }
        self.number_pass(pass)?;
        self.session.run("anchor")
    }

    /// Moves the weights `gamma` of their length up the loss of the images as they stand; the next step takes that away again.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn perturb(&mut self, gamma: f32, pass: u32) -> Result<()> {
        self.number_pass(pass)?;
        self.session.executor().write_f32(self.v.given.gamma.expect("the form perturbs weights"), 0, &[gamma])?;
        self.session.run("perturb")?;
        self.session.run("pack")
    }

    /// Waits until the device has done everything.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn sync(&mut self) -> Result<()> {
        self.session.executor().sync()
    }

    /// One step of the recipe's attack on all images, for which the host does not wait. Panics where there is no attack.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn craft(&mut self, pass: u32) -> Result<()> {
        assert!(self.v.attack.is_some(), "the recipe has no attack");
        self.number_pass(pass)?;
        let own = self.session.executor().plan().program("craft").is_some();
        self.session.run(if own { "craft" } else { "probe" })
    }

    /// The sum of the losses that the last [`Engine::craft`] met before its step.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn crafted_loss(&self) -> Result<f64> {
        let attack = self.v.attack.expect("the recipe has an attack");
        Ok(total(&self.session.read(attack.craft)?))
    }

    /// One step of the attack on the network as it would be deployed.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn probe(&mut self) -> Result<()> {
        self.session.run("probe")
    }

    /// One SGD step on the images as they stand; `pass` numbers the forward pass for dropout.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn step(&mut self, hyper: Hyper, pass: u32) -> Result<Seen> {
        self.number_pass(pass)?;
        self.session.executor().write_f32(self.v.update.hyper, 0, &[hyper.lr, hyper.momentum, hyper.weight_decay])?;
        if let Some(decay) = self.v.update.decay {
            self.session.executor().write_f32(decay, 0, &[hyper.ema])?;
        }
        self.session.run("step")?;
        self.session.run("pack")?;
        let loss = total(&self.session.read(self.v.update.loss)?);
        let logits = self.session.read(self.v.logits)?;
        let classes = logits.len() / self.form.batch;
        let right = |(z, &y): (&[f32], &i32)| crate::session::argmax(z) == usize::try_from(y).ok();
        let correct = logits.chunks_exact(classes).zip(&self.label).filter(|&pair| right(pair)).count();
        Ok(Seen { loss, correct })
    }

    /// Logits `[N, K]` of the images as they stand, with running statistics.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn logits(&mut self) -> Result<Vec<f32>> {
        self.session.run("infer")?;
        self.session.read(self.v.eval_logits)
    }

    /// Image `row` as it stands.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn image(&self, row: usize) -> Result<Vec<f32>> {
        self.session.read_image(self.v.x, row)
    }

    /// The parameters by name, running statistics included.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn parameters(&mut self) -> Result<BTreeMap<String, HostTensor>> {
        self.named(&self.v.params.clone(), "")
    }

    /// The moving averages by the names of their parameters; empty where none are kept.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn averages(&mut self) -> Result<BTreeMap<String, HostTensor>> {
        let mut out = self.named(&self.v.update.average.clone(), "")?;
        if !out.is_empty() {
            // What no step moves, such as a bias without a say, is its own average.
            let still: Vec<(String, Value)> = self.v.params.iter().filter(|(name, _)| !out.contains_key(name)).cloned().collect();
            out.extend(self.named(&still, "")?);
        }
        Ok(out)
    }

    /// Overwrites parameters, such as with their averages.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_parameters(&mut self, tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
        self.write(&self.v.params.clone(), "", tensors)?;
        self.session.run("pack")
    }

    /// Everything that a later step depends on: `param.NAME`, `velocity.NAME`, `ema.NAME`, and Free's `delta`.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn state(&mut self) -> Result<BTreeMap<String, HostTensor>> {
        let mut out = BTreeMap::new();
        for (prefix, list) in self.lists() {
            out.extend(self.named(&list, prefix)?);
        }
        if let Some(delta) = self.v.given.delta {
            let data = self.session.read(delta)?;
            out.insert(DELTA.into(), HostTensor::f32(&[self.form.batch, data.len() / self.form.batch], data));
        }
        Ok(out)
    }

    /// Takes over the state of an engine for the same network.
    ///
    /// # Errors
    /// [`Error::Model`] where a tensor is missing or has another shape.
    pub fn restore(&mut self, state: &BTreeMap<String, HostTensor>) -> Result<()> {
        for (prefix, list) in self.lists() {
            self.write(&list, prefix, state)?;
        }
        if let Some(delta) = self.v.given.delta {
            let size = self.session.executor().plan().graph().shape(delta).elems();
            match state.get(DELTA) {
                // A batch that is not full has the first rows.
                Some(HostTensor { dims, data: HostData::F32(data) }) if dims.len() == 2 && dims[1] == size => {
                    self.session.executor().write_f32(delta, 0, &data[..size * dims[0].min(self.form.batch)])?;
                }
                _ => return Err(Error::model(format!("the training state has no `{DELTA}` with rows of {size}"))),
            }
        }
        self.session.run("pack")
    }

    fn lists(&self) -> [(&'static str, Vec<(String, Value)>); 3] {
        [
            ("param.", self.v.params.clone()),
            ("velocity.", self.v.update.velocity.clone()),
            ("ema.", self.v.update.average.clone()),
        ]
    }

    fn named(&mut self, list: &[(String, Value)], prefix: &str) -> Result<BTreeMap<String, HostTensor>> {
        let mut out = BTreeMap::new();
        for (name, value) in list {
            let dims = self.session.executor().plan().graph().shape(*value).dims.clone();
            out.insert(format!("{prefix}{name}"), HostTensor::f32(&dims, self.session.read(*value)?));
        }
        Ok(out)
    }

    fn write(&mut self, list: &[(String, Value)], prefix: &str, tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
        for (name, value) in list {
            let name = format!("{prefix}{name}");
            let dims = &self.session.executor().plan().graph().shape(*value).dims;
            match tensors.get(&name) {
                Some(HostTensor { dims: found, data: HostData::F32(data) }) if found == dims => {
                    self.session.executor().write_f32(*value, 0, data)?;
                }
                _ => return Err(Error::model(format!("the training state has no `{name}` of shape {dims:?} in f32"))),
            }
        }
        Ok(())
    }

    fn number_pass(&mut self, pass: u32) -> Result<()> {
        match self.v.dropout {
            Some((_, step)) => self.session.executor().write_i32(step, 0, &[pass as i32]),
            None => Ok(()),
        }
    }
}

fn total(losses: &[f32]) -> f64 {
    losses.iter().map(|&l| f64::from(l)).sum()
}

/// The graph of a training step and its segments, as [`Engine`] runs them.
pub fn step_graph(card: &ModelCard, form: &Form) -> (Graph, Vec<Segment>) {
    let (graph, _, segments) = nodes(card, form);
    (graph, segments)
}
