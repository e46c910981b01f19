//! One training step as a plan: forward, gradients, update; with the attack and the evaluation beside it on one arena.
//! Must not know epochs, schedules, files or where images come from.

use std::collections::BTreeMap;

use super::recipe::{BatchNorm, Crafting};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Loss, Op, Role, StartKind, Value, vjp};
use crate::nn::{self, ModelCard, Weights};
use crate::plan::Segment;
use crate::session::{Model, Session, image_input};
use crate::tensor::{DType, HostData, HostTensor, Shape};

/// Weight of the batch in the running statistics, PyTorch's default.
const BN_MOMENTUM: f32 = 0.1;

/// What a step computes, apart from the images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    /// How training images are attacked; `None` trains on the images as they are.
    pub crafting: Option<Crafting>,
    /// Label smoothing of the training loss, in [0,1).
    pub smoothing: f32,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Whether a moving average of all parameters is kept.
    pub averaged: bool,
    /// Images in a batch.
    pub batch: usize,
    /// Seed of dropout.
    pub seed: u64,
}

/// What varies from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Learning rate.
    pub lr: f32,
    /// Momentum.
    pub momentum: f32,
    /// Weight decay, on every weight and bias.
    pub weight_decay: f32,
    /// Decay of the moving average.
    pub ema: f32,
}

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

/// The values that are written and read from outside.
struct Values {
    x: Value,
    label: Value,
    attack: Option<AttackValues>,
    /// Read by dropout: the images' indices and the number of the forward pass.
    dropout: Option<(Value, Value)>,
    logits: Value,
    eval_logits: Value,
    params: Vec<(String, Value)>,
    update: Update,
}

/// Clean images and, one an image, step and radius of the attack; and what its random starts are drawn from.
#[derive(Clone, Copy)]
struct AttackInput {
    x0: Value,
    alpha: Value,
    eps: Value,
    index: Value,
    restart: Value,
    seed: Value,
}

/// The attack's inputs, and its losses in the recipe's mode and on the network as deployed.
#[derive(Clone, Copy)]
struct AttackValues {
    input: AttackInput,
    craft: Value,
    probe: Value,
}

struct Update {
    loss: Value,
    hyper: Value,
    decay: Option<Value>,
    carries: Vec<(Value, Value)>,
    velocity: Vec<(String, Value)>,
    average: Vec<(String, Value)>,
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
        if let (Some(a), Some(c)) = (v.attack, form.crafting) {
            session.executor().write_f32(a.input.eps, 0, &vec![c.threat.eps as f32; form.batch])?;
        }
        for (name, average) in &v.update.average {
            let HostData::F32(data) = &model.weights.tensors[name].data else { unreachable!("weights are f32 once loaded") };
            session.executor().write_f32(*average, 0, data)?;
        }
        let label = vec![0; form.batch];
        let mut engine = Engine { session, form, v, label };
        if let Some(c) = form.crafting {
            engine.set_step_length(c.alpha)?;
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
        let input = self.v.attack.expect("the recipe has an attack").input;
        self.session.executor().write_i32(input.restart, 0, &vec![restart.into(); self.form.batch])?;
        self.session.executor().write_i32(input.seed, 0, &[seed as i32, (seed >> 32) as i32, step as i32])?;
        self.session.run("begin")
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
        let attack = self.v.attack.expect("the recipe has an attack");
        self.session.executor().write_f32(attack.input.alpha, 0, &vec![alpha as f32; self.form.batch])
    }

    /// One step of the recipe's attack on all images, for which the host does not wait. Panics where there is no attack.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn craft(&mut self, pass: u32) -> Result<()> {
        let attack = self.v.attack.expect("the recipe has an attack");
        self.number_pass(pass)?;
        self.session.run(if attack.craft == attack.probe { "probe" } else { "craft" })
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
        self.named(&self.v.update.average.clone(), "")
    }

    /// Overwrites parameters, such as with their averages.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn set_parameters(&mut self, tensors: &BTreeMap<String, HostTensor>) -> Result<()> {
        self.write(&self.v.params.clone(), "", tensors)?;
        self.session.run("pack")
    }

    /// Everything that a later step depends on: `param.NAME`, `velocity.NAME`, `ema.NAME`.
    ///
    /// # Errors
    /// What the device can fail with.
    pub fn state(&mut self) -> Result<BTreeMap<String, HostTensor>> {
        let mut out = BTreeMap::new();
        for (prefix, list) in self.lists() {
            out.extend(self.named(&list, prefix)?);
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

/// The graph of a training step and its segments: `infer`, `step`, and where there is an attack `probe` and `craft`.
fn nodes(card: &ModelCard, form: &Form) -> (Graph, Values, Vec<Segment>) {
    let mut g = Graph::new();
    let x = image_input(&mut g, "x", card);
    let label = g.input("label", Shape::per_image(&[]), DType::I32);
    let eval_logits = nn::build(card, &mut g, x, false).logits;
    let logits = nn::build_training(card, &mut g, x, form.seed).logits;
    let mut segments = vec![Segment { name: "infer".into(), outputs: vec![eval_logits], carries: Vec::new() }];
    let statistics = g.running_updates(BN_MOMENTUM);
    let attack = form.crafting.map(|crafting| {
        let rows = Shape::per_image(&[]);
        let input = AttackInput {
            x0: image_input(&mut g, "x0", card),
            alpha: g.input("alpha", rows.clone(), DType::F32),
            eps: g.input("eps", rows.clone(), DType::F32),
            // Dropout may have asked for it.
            index: g.input_named("index").unwrap_or_else(|| g.input("index", rows.clone(), DType::I32)),
            restart: g.input("restart", rows, DType::I32),
            seed: g.input("seed", Shape::fixed(&[3]), DType::I32),
        };
        let kind = StartKind::Ball(crafting.threat.norm);
        let start = g.push(Op::Start { kind }, &[input.x0, input.index, input.restart, input.eps, input.seed]);
        segments.push(Segment { name: "begin".into(), outputs: Vec::new(), carries: vec![(x, start)] });
        let (probe, next) = attack_nodes(&mut g, crafting, [x, label, eval_logits], input);
        segments.push(Segment { name: "probe".into(), outputs: vec![probe], carries: vec![(x, next)] });
        let mut craft = probe;
        if crafting.batch_norm == BatchNorm::Train {
            let (loss, next) = attack_nodes(&mut g, crafting, [x, label, logits], input);
            // Every forward pass in train mode moves the running statistics, as in PyTorch.
            let carries = statistics.iter().copied().chain([(x, next)]).collect();
            segments.push(Segment { name: "craft".into(), outputs: vec![loss], carries });
            craft = loss;
        }
        AttackValues { input, craft, probe }
    });
    let update = update_nodes(&mut g, form, [logits, label], &statistics);
    segments.push(Segment { name: "step".into(), outputs: vec![update.loss, logits], carries: update.carries.clone() });
    let params = g.params().iter().map(|(name, &value)| (name.clone(), value)).collect();
    let dropout = g.input_named("index").zip(g.input_named("step"));
    (g, Values { x, label, attack, dropout, logits, eval_logits, params, update }, segments)
}

/// One step up the cross-entropy of `[x, label, logits]`: the loss before it and the next iterate.
fn attack_nodes(g: &mut Graph, crafting: Crafting, [x, label, logits]: [Value; 3], input: AttackInput) -> (Value, Value) {
    g.set_scope("attack");
    let loss = Loss::CrossEntropy { smoothing: 0.0 };
    let value = g.push(Op::Loss(loss), &[logits, label]);
    let cotangent = g.push(Op::LossGrad(loss), &[logits, label]);
    let grad = vjp(g, logits, cotangent, &[x])[0].expect("logits depend on the image");
    let next = g.push(Op::PgdStep { norm: crafting.threat.norm }, &[x, input.x0, grad, input.alpha, input.eps]);
    (value, next)
}

/// Loss, gradients of all weights, and the SGD update of each; running statistics and averages move with it.
fn update_nodes(g: &mut Graph, form: &Form, [logits, label]: [Value; 2], statistics: &[(Value, Value)]) -> Update {
    g.set_scope("loss");
    let kind = Loss::CrossEntropy { smoothing: form.smoothing };
    let loss = g.push(Op::Loss(kind), &[logits, label]);
    let each = g.push(Op::LossGrad(kind), &[logits, label]);
    let mean = g.push(Op::Scale { factor: 1.0 / form.batch as f32 }, &[each]);
    let weights: Vec<(String, Value)> = g.params().iter().map(|(n, &v)| (n.clone(), v)).filter(|&(_, v)| trained(g, v)).collect();
    let values: Vec<Value> = weights.iter().map(|&(_, v)| v).collect();
    let grads = vjp(g, logits, mean, &values);
    let hyper = g.input("hyper", Shape::fixed(&[3]), DType::F32);
    let (mut carries, mut velocity) = (statistics.to_vec(), Vec::new());
    for ((name, w), grad) in weights.into_iter().zip(grads) {
        let Some(grad) = grad else { continue };
        g.set_scope(&name);
        let v = g.input(&format!("velocity.{name}"), g.shape(w).clone(), DType::F32);
        let next_v = g.push(Op::SgdVelocity, &[v, grad, w, hyper]);
        let next_w = g.push(Op::SgdStep { nesterov: form.nesterov }, &[w, grad, next_v, hyper]);
        carries.extend([(v, next_v), (w, next_w)]);
        velocity.push((name, v));
    }
    let (mut decay, mut average) = (None, Vec::new());
    if form.averaged {
        let share = g.input("decay", Shape::fixed(&[]), DType::F32);
        let moved: Vec<(Value, Value)> =
            carries.iter().copied().filter(|&(s, _)| matches!(g.node(s).op, Op::Param { .. })).collect();
        for (param, next) in moved {
            let name = g.node(param).label.clone();
            g.set_scope(&name);
            let state = g.input(&format!("ema.{name}"), g.shape(param).clone(), DType::F32);
            let next = g.push(Op::Ema, &[state, next, share]);
            carries.push((state, next));
            average.push((name, state));
        }
        decay = Some(share);
    }
    Update { loss, hyper, decay, carries, velocity, average }
}

fn trained(g: &Graph, v: Value) -> bool {
    matches!(g.node(v).op, Op::Param { role: Role::Weight, .. })
}
