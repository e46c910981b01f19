//! Attacks that climb along an accumulated gradient, in any mixture: MI-, NI-, SI-, DI-, TI-, VMI- and VNI-FGSM. Made to carry over
//! from the networks whose gradients they follow to others.
//! Must not know data sets or reports.
//! Dong et al. 2018, <https://arxiv.org/abs/1710.06081> (MI); Lin et al. 2020, <https://arxiv.org/abs/1908.06281> (NI, SI);
//! Xie et al. 2019, <https://arxiv.org/abs/1803.06978> (DI); Dong et al. 2019, <https://arxiv.org/abs/1904.02884> (TI);
//! Wang and He 2021, <https://arxiv.org/abs/2103.15571> (VMI, VNI).

mod bound;

use std::fmt;

use serde_json::json;

use self::bound::BoundMomentum;
use super::{Attack, AttackLoss, Bound, Net, Parameters, Place, Target};
use crate::error::{Error, Result};
use crate::graph::{Diversity, Graph, Op, StartKind, Value, vjp};
use crate::outcome::Doubt;
use crate::plan::Segment;
use crate::tensor::{DType, Shape};
use crate::threat::{Goal, Norm, ThreatModel};

/// Taps along a side of a blur.
const TAPS: usize = 15;

/// The shape of the blur that makes a gradient indifferent to small shifts (TI-FGSM): 15 x 15 taps that sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The normal density at 15 points from -3 to 3, in both directions.
    Gaussian,
    /// All taps equal.
    Uniform,
    /// Falling linearly to zero beside the last tap, in both directions.
    Linear,
}

impl Kernel {
    /// `gaussian`, `uniform`, `linear`.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Gaussian => "gaussian",
            Kernel::Uniform => "uniform",
            Kernel::Linear => "linear",
        }
    }
    /// The taps of one direction, which sum to 1.
    pub fn taps(self) -> [f32; TAPS] {
        let half = (TAPS / 2) as f64;
        let height = |i: usize| {
            let place = i as f64 - half;
            match self {
                Kernel::Gaussian => (-0.5 * (3.0 * place / half).powi(2)).exp(),
                Kernel::Uniform => 1.0,
                Kernel::Linear => 1.0 - place.abs() / (half + 1.0),
            }
        };
        let total: f64 = (0..TAPS).map(height).sum();
        std::array::from_fn(|i| (height(i) / total) as f32)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An attack in the L-inf ball that steps by `alpha` along the sign of
/// `m <- decay * m + g / mean|g|`, from the clean image, and returns the last iterate. Its switches combine.
///
/// Every random number belongs to an image, a restart and an evaluation of the network, never to a batch.
///
/// ```no_run
/// use petard::attack::{self, Momentum};
/// use petard::{Dataset, Device, Given, Hooks, Job, Model, ThreatModel};
///
/// # fn main() -> petard::Result<()> {
/// let source = Model::load("resnet20-cifar10", Some("source.safetensors".as_ref()))?;
/// let victim = Model::load("resnet18-cifar10", Some("victim.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &Default::default())?;
/// let attack = Momentum { samples: 5, ..Momentum::new(ThreatModel::linf(8.0 / 255.0), 2.0 / 255.0, 10) };
/// let job = Job { sources: vec![source], ..Job::new(attack, 64) };
/// let device = Device::open("auto", &Default::default())?;
/// let outcome = attack::run(&device, &victim, &images, &job, &Given::default(), Hooks::default())?;
/// println!("{:.2} % robust", 100.0 * outcome.robust_accuracy());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Momentum {
    /// Name under which it is reported.
    pub name: &'static str,
    /// L-inf and the radius.
    pub threat: ThreatModel,
    /// Step size in [0,1] units.
    pub alpha: f64,
    /// Steps.
    pub steps: usize,
    /// Share of the momentum that the next step keeps; 0 for none.
    pub decay: f64,
    /// Takes each gradient at `x + alpha * decay * m` (NI). That point is not clipped.
    pub ahead: bool,
    /// Each gradient is the mean over `x`, `x/2`, .. `x/2^(copies-1)` (SI); 1 for `x` alone, at most 16.
    pub copies: usize,
    /// Probability with which an image is resized and framed before the network sees it (DI); 0 for never.
    pub probability: f64,
    /// Smallest side below 1, or largest side above 1, of a resized image of side 1; from 0.5 to 2.
    pub resize: f64,
    /// Blurs each gradient before it is normalised (TI).
    pub kernel: Option<Kernel>,
    /// Neighbours whose mean gradient, less the gradient itself, is added to the next one (VMI); 0 for none.
    pub samples: usize,
    /// How far away neighbours lie, in radii, uniformly; beyond the box too.
    pub beta: f64,
    /// Draws of the resized image that each gradient is the mean of.
    pub eot: usize,
    /// Starts anywhere in the ball.
    pub random_start: bool,
    /// Independent runs; an image leaves after the first that breaks it.
    pub restarts: usize,
    /// What is climbed.
    pub loss: AttackLoss,
    /// What is aimed at.
    pub target: Target,
}

impl Momentum {
    /// MI-FGSM with a decay of 1 and cross-entropy; every other switch off.
    pub fn new(threat: ThreatModel, alpha: f64, steps: usize) -> Self {
        Momentum {
            name: "mi-fgsm",
            threat,
            alpha,
            steps,
            decay: 1.0,
            ahead: false,
            copies: 1,
            probability: 0.0,
            resize: 0.9,
            kernel: None,
            samples: 0,
            beta: 1.5,
            eot: 1,
            random_start: false,
            restarts: 1,
            loss: AttackLoss::CrossEntropy,
            target: Target::None,
        }
    }

    /// Evaluations of the network for one gradient.
    fn evaluations(&self) -> usize {
        self.copies * self.eot
    }
    /// Whether two runs on one image differ.
    fn random(&self) -> bool {
        self.probability > 0.0 || self.samples > 0 || self.random_start
    }
    fn diversity(&self) -> Option<Diversity> {
        (self.probability > 0.0).then_some(Diversity { probability: self.probability as f32, rate: self.resize })
    }

    fn graph(&self, net: &Net) -> (Graph, Values) {
        let mut g = Graph::new();
        let v = Values::inputs(&mut g, net, self);
        let point = if self.ahead || self.copies > 1 { g.push(Op::Ahead, &[v.x, v.m, v.reach, v.state]) } else { v.x };
        let (loss, grad) = self.gradient(&mut g, net, &v, point);
        g.set_scope("start");
        let first = if self.random_start {
            g.push(Op::Start { kind: StartKind::Ball(Norm::Linf) }, &[v.x0, v.index, v.restart, v.eps, v.seed])
        } else {
            g.push(Op::Scale { factor: 1.0 }, &[v.x0])
        };
        let zero = g.push(Op::Scale { factor: 0.0 }, &[v.x0]);
        g.set_scope("attack");
        let tick = (v.state, g.push(Op::Tick { copies: self.copies }, &[v.state]));
        let mut draft = Draft { zero, tick, begin: vec![(v.x, first), (v.m, zero)], step: vec![tick], segments: Vec::new() };
        let mut slope = if self.evaluations() > 1 { self.mean(&mut g, net, &v, grad, &mut draft) } else { grad };
        let status = g.push(Op::GradStatus, &[slope]);
        draft.step.push((v.worst, g.push(Op::MaxRows, &[status, v.worst])));
        if self.samples > 0 {
            slope = self.vary(&mut g, net, &v, slope, &mut draft);
        }
        if let Some(taps) = v.taps {
            slope = g.push(Op::Blur, &[slope, taps]);
        }
        let m = g.push(Op::Momentum, &[v.m, slope, v.decay]);
        let next = g.push(Op::PgdStep { norm: Norm::Linf }, &[v.x, v.x0, m, v.alpha, v.eps]);
        draft.step.extend([(v.m, m), (v.x, next)]);
        let Draft { begin, step, mut segments, .. } = draft;
        segments.insert(0, segment("begin", vec![], begin));
        segments.push(segment("step", vec![loss], step));
        (g, Values { loss, segments, ..v })
    }

    /// The mean of the gradients of all evaluations: the segment that adds up, and the sum after the last of them.
    fn mean(&self, g: &mut Graph, net: &Net, v: &Values, grad: Value, draft: &mut Draft) -> Value {
        let total = net.image(g, "total");
        let sum = g.push(Op::Accumulate { share: 1.0 / self.evaluations() as f32 }, &[total, grad, v.state]);
        draft.segments.push(segment("sample", vec![], vec![(total, sum), draft.tick]));
        let cleared = g.push(Op::Scale { factor: 0.0 }, &[sum]);
        draft.begin.push((total, draft.zero));
        draft.step.push((total, cleared));
        sum
    }

    /// The loss at `point`, transformed where the attack does that, and its gradient to `point`.
    fn gradient(&self, g: &mut Graph, net: &Net, v: &Values, point: Value) -> (Value, Value) {
        let seen = match self.diversity() {
            Some(diversity) => g.push(Op::Diversify(diversity), &[point, v.index, v.restart, v.state, v.seed]),
            None => point,
        };
        let logits = net.logits(g, seen);
        g.set_scope("loss");
        let loss = self.loss.on_logits(v.target.is_some(), net.classes());
        let judged: Vec<Value> = [logits, v.label].into_iter().chain(v.target).collect();
        let value = g.push(Op::Loss(loss), &judged);
        let cotangent = g.push(Op::LossGrad(loss), &judged);
        let grad = vjp(g, logits, cotangent, &[point])[0].expect("logits depend on the image");
        g.set_scope("");
        (value, grad)
    }

    /// Variance tuning: the segment that adds up gradients of neighbours, what a step keeps of their mean, and the sum of
    /// the gradient `slope` and what the step before has kept.
    fn vary(&self, g: &mut Graph, net: &Net, v: &Values, slope: Value, draft: &mut Draft) -> Value {
        let [variance, around] = ["variance", "around"].map(|name| net.image(g, name));
        let near = g.push(Op::Jitter, &[v.x, v.index, v.restart, v.length, v.state, v.seed]);
        let (_, grad) = self.gradient(g, net, v, near);
        g.set_scope("attack");
        let share = 1.0 / (self.samples * self.copies) as f32;
        let sum = g.push(Op::Accumulate { share }, &[around, grad, v.state]);
        draft.segments.push(segment("vary", vec![], vec![(around, sum), draft.tick]));
        let less = g.push(Op::Scale { factor: -1.0 }, &[slope]);
        let kept = g.push(Op::Add, &[around, less]);
        let cleared = g.push(Op::Scale { factor: 0.0 }, &[around]);
        draft.begin.extend([(variance, draft.zero), (around, draft.zero)]);
        draft.step.extend([(variance, kept), (around, cleared)]);
        g.push(Op::Add, &[slope, variance])
    }
}

/// What the segments carry, while the graph grows.
struct Draft {
    zero: Value,
    /// The state and the one after it.
    tick: (Value, Value),
    begin: Vec<(Value, Value)>,
    step: Vec<(Value, Value)>,
    segments: Vec<Segment>,
}

fn segment(name: &str, outputs: Vec<Value>, carries: Vec<(Value, Value)>) -> Segment {
    Segment { name: name.into(), outputs, carries }
}

impl Attack for Momentum {
    fn name(&self) -> &str {
        self.name
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name));
        p.insert("norm".into(), json!(self.threat.norm.name()));
        p.insert("eps".into(), json!(self.threat.eps));
        p.insert("alpha".into(), json!(self.alpha));
        p.insert("steps".into(), json!(self.steps));
        p.insert("decay".into(), json!(self.decay));
        p.insert("ahead".into(), json!(self.ahead));
        p.insert("copies".into(), json!(self.copies));
        p.insert("probability".into(), json!(self.probability));
        p.insert("resize".into(), json!(self.resize));
        p.insert("kernel".into(), json!(self.kernel.map_or("none", Kernel::name)));
        p.insert("samples".into(), json!(self.samples));
        p.insert("beta".into(), json!(self.beta));
        p.insert("eot".into(), json!(self.eot));
        p.insert("random_start".into(), json!(self.random_start));
        p.insert("restarts".into(), json!(self.restarts));
        p.insert("loss".into(), json!(self.loss.name()));
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        let wrong = |name: &str, is: f64, must: &str| Err(Error::usage(format!("`{name}` is {is}, it must be {must}")));
        if self.threat.norm != Norm::Linf {
            return Err(Error::usage(format!("`{}` is defined for the norm `linf`, not for `{}`", self.name, self.threat.norm)));
        }
        for (name, is, low, high) in [("eps", self.threat.eps, 0.0, 1.0), ("alpha", self.alpha, 0.0, f64::MAX)] {
            if !(is > low && is <= high) {
                return wrong(name, is, if high == 1.0 { "above 0 and at most 1" } else { "above 0" });
            }
        }
        if !(self.decay.is_finite() && self.decay >= 0.0) {
            return wrong("decay", self.decay, "0 or more");
        }
        if !(0.0..=1.0).contains(&self.probability) {
            return wrong("probability", self.probability, "from 0 to 1");
        }
        if !(0.5..=2.0).contains(&self.resize) || self.resize == 1.0 {
            return wrong("resize", self.resize, "from 0.5 to 2 and not 1");
        }
        if !(self.beta.is_finite() && self.beta > 0.0) {
            return wrong("beta", self.beta, "above 0");
        }
        if self.steps == 0 || self.restarts == 0 || self.eot == 0 {
            return Err(Error::usage("`steps`, `restarts` and `eot` must be at least 1"));
        }
        if !(1..=16).contains(&self.copies) {
            return wrong("copies", self.copies as f64, "from 1 to 16");
        }
        // Turns are counted in f32, and numbers belong to a turn.
        if self.steps.saturating_mul(self.evaluations() + self.samples * self.copies) >= 1 << 24 {
            return Err(
                Error::usage("more than 16,777,215 evaluations an image").with_hint("take fewer `--steps` or `--samples`")
            );
        }
        if self.restarts > usize::from(u16::MAX) {
            return wrong("restarts", self.restarts as f64, "at most 65535");
        }
        if self.eot > 1 && self.probability == 0.0 {
            return Err(Error::usage(format!("`eot` is {}, but no input is drawn at random", self.eot))
                .with_hint("add `--probability 0.5`, or leave `--eot` out"));
        }
        if self.restarts > 1 && !self.random() {
            return Err(Error::usage(format!(
                "{} restarts of an attack without anything random are the same run",
                self.restarts
            ))
            .with_hint("leave `--restarts` out, or add `--random-start true`"));
        }
        match self.target {
            Target::Class(c) if c as usize >= classes => {
                Err(Error::usage(format!("target class {c} of a model with classes 0 to {}", classes - 1)))
            }
            _ => Ok(()),
        }
    }

    fn goal(&self) -> Goal {
        Goal::Within(self.threat)
    }
    fn target(&self) -> Target {
        self.target
    }
    fn restarts(&self) -> usize {
        self.restarts
    }

    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>) {
        let (graph, v) = self.graph(net);
        (graph, v.segments)
    }

    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        let (graph, v) = self.graph(&place.net());
        let mut session = place.session(&graph, &v.segments)?;
        session.executor().write_i32(v.seed, 0, &place.seed_words())?;
        if let Some((taps, kernel)) = v.taps.zip(self.kernel) {
            session.executor().write_f32(taps, 0, &kernel.taps())?;
        }
        Ok(Box::new(BoundMomentum::new(self.clone(), session, v)))
    }

    fn doubts(&self, _classes: usize, _given_starts: bool) -> Vec<Doubt> {
        let reach = self.alpha * self.steps as f64;
        if self.random_start || reach >= self.threat.eps * (1.0 - 1e-6) {
            return Vec::new();
        }
        let message = format!("{} steps of {} cannot reach the radius {}", self.steps, self.alpha, self.threat.eps);
        vec![Doubt::new("cannot-reach-eps", message)]
    }
}

/// The values of the graph that are written and read from outside, and what is run.
#[derive(Clone, Debug)]
struct Values {
    x: Value,
    x0: Value,
    m: Value,
    label: Value,
    target: Option<Value>,
    alpha: Value,
    eps: Value,
    decay: Value,
    /// How far along the momentum a gradient is taken.
    reach: Value,
    /// How far away neighbours lie.
    length: Value,
    worst: Value,
    index: Value,
    restart: Value,
    /// Evaluations made, and the factor of the copy that comes next.
    state: Value,
    seed: Value,
    taps: Option<Value>,
    loss: Value,
    segments: Vec<Segment>,
}

impl Values {
    fn inputs(g: &mut Graph, net: &Net, attack: &Momentum) -> Self {
        let [x, x0, m] = ["x", "x0", "m"].map(|name| net.image(g, name));
        let [label, index, restart] = ["label", "index", "restart"].map(|name| net.row_i32(g, name));
        let [alpha, eps, decay, reach, length, worst] =
            ["alpha", "eps", "decay", "reach", "length", "worst"].map(|name| net.row(g, name));
        let target = (attack.target != Target::None).then(|| net.row_i32(g, "target"));
        let state = net.state(g, "state", 2);
        let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
        let taps = attack.kernel.map(|_| g.input("taps", Shape::fixed(&[TAPS]), DType::F32));
        let (loss, segments) = (x, Vec::new());
        Values {
            x,
            x0,
            m,
            label,
            target,
            alpha,
            eps,
            decay,
            reach,
            length,
            worst,
            index,
            restart,
            state,
            seed,
            taps,
            loss,
            segments,
        }
    }
}
