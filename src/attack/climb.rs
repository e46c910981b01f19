//! Relatives of PGD that climb something else, or otherwise: Adam, the divergence from the clean prediction, a capped margin.
//! Must not know data sets or reports.
//! Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>; Zhang et al. 2019, <https://arxiv.org/abs/1901.08573> (TPGD); Carlini and
//! Wagner 2017, <https://arxiv.org/abs/1608.04644>, by projected steps as in Madry et al. 2018.

use serde_json::json;

use super::rows::{Rows, drive};
use super::{Attack, AttackLoss, Bound, Case, Found, Net, Parameters, Place, Target, Tell};
use crate::error::{Error, Result};
use crate::graph::{Graph, Loss, Op, StartKind, Value, vjp};
use crate::outcome::Cost;
use crate::plan::Segment;
use crate::session::Session;
use crate::tensor::{DType, Shape};
use crate::threat::{Goal, Norm, ThreatModel};

/// What the moments of Adam keep.
const KEEP: [f32; 2] = [0.9, 0.999];

/// What is climbed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// A loss on label or target.
    Loss(AttackLoss),
    /// `KL(softmax(z(x0)) || softmax(z(x)))`; labels have no say.
    Divergence,
    /// `min(max_{i != y} z_i - z_y, kappa)`: no more is gained once the margin is `kappa`. Untargeted.
    Margin {
        /// The cap, 0 or more.
        kappa: f64,
    },
}

/// How a gradient becomes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepping {
    /// As PGD's in the norm of the threat model.
    Steepest,
    /// Adam's on the plain gradient with 0.9, 0.999 and 1e-8, from moments of zero, then projected; L-inf. `alpha` is its rate.
    Adam,
}

/// Where it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum From {
    /// At the clean image.
    Clean,
    /// Anywhere in the ball.
    Ball,
    /// Beside the clean image: `x0 + size * N(0,1)`, clipped to the box and not to the ball.
    Near {
        /// Standard deviation in [0,1] units.
        size: f64,
    },
}

/// Projected ascent; the last iterate is returned. Random numbers belong to an image and a restart.
///
/// ```no_run
/// use petard::attack::{self, Climb};
/// use petard::{Dataset, Device, Given, Hooks, Job, Model, ThreatModel};
///
/// # fn main() -> petard::Result<()> {
/// let model = Model::load("resnet20-cifar10", Some("weights.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &Default::default())?;
/// let job = Job::new(Climb::tpgd(ThreatModel::linf(8.0 / 255.0), 2.0 / 255.0, 10), 64);
/// let device = Device::open("auto", &Default::default())?;
/// let outcome = attack::run(&device, &model, &images, &job, &Given::default(), Hooks::default())?;
/// println!("{:.2} % robust", 100.0 * outcome.robust_accuracy());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Climb {
    /// Name under which it is reported.
    pub name: &'static str,
    /// Norm and radius.
    pub threat: ThreatModel,
    /// Step size in [0,1] units, as PGD's; the rate of Adam.
    pub alpha: f64,
    /// Steps.
    pub steps: usize,
    /// Independent runs; an image leaves after the first that breaks it.
    pub restarts: usize,
    /// Where each run starts.
    pub start: From,
    /// What is climbed.
    pub objective: Objective,
    /// How.
    pub stepping: Stepping,
    /// What is aimed at.
    pub target: Target,
}

impl Climb {
    /// Adam up the cross-entropy from a random start.
    pub fn adam(threat: ThreatModel, alpha: f64, steps: usize) -> Self {
        Climb {
            name: "adam-pgd",
            threat,
            alpha,
            steps,
            restarts: 1,
            start: From::Ball,
            objective: Objective::Loss(AttackLoss::CrossEntropy),
            stepping: Stepping::Adam,
            target: Target::None,
        }
    }
    /// The inner attack of TRADES: away from the clean prediction, from noise of 0.001.
    pub fn tpgd(threat: ThreatModel, alpha: f64, steps: usize) -> Self {
        let (start, objective) = (From::Near { size: 0.001 }, Objective::Divergence);
        Climb { name: "tpgd", start, objective, stepping: Stepping::Steepest, ..Climb::adam(threat, alpha, steps) }
    }
    /// PGD on Carlini and Wagner's margin, capped at `kappa`.
    pub fn cw(threat: ThreatModel, alpha: f64, steps: usize, kappa: f64) -> Self {
        let objective = Objective::Margin { kappa };
        Climb { name: "cw-linf", objective, stepping: Stepping::Steepest, ..Climb::adam(threat, alpha, steps) }
    }

    fn graph(&self, net: &Net) -> (Graph, Values) {
        let mut g = Graph::new();
        let [x, x0] = ["x", "x0"].map(|name| net.image(&mut g, name));
        let [index, restart] = ["index", "restart"].map(|name| net.row_i32(&mut g, name));
        let [alpha, eps, length, worst] = ["alpha", "eps", "length", "worst"].map(|name| net.row(&mut g, name));
        let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
        g.set_scope("start");
        let draw = [x0, index, restart, length, seed];
        let first = match self.start {
            From::Clean => g.push(Op::Scale { factor: 1.0 }, &[x0]),
            From::Ball => g.push(Op::Start { kind: StartKind::Ball(self.threat.norm) }, &draw),
            From::Near { .. } => g.push(Op::Shake, &draw),
        };
        let (mut begin, mut step) = (vec![(x, first)], Vec::new());
        let logits = net.logits(&mut g, x);
        let aim = self.judge(&mut g, net, logits, x0, &mut begin);
        let grad = vjp(&mut g, logits, aim.cotangent, &[x])[0].expect("logits depend on the image");
        g.set_scope("attack");
        let status = g.push(Op::GradStatus, &[grad]);
        step.push((worst, g.push(Op::MaxRows, &[status, worst])));
        let (next, state) = match self.stepping {
            Stepping::Steepest => (g.push(Op::PgdStep { norm: self.threat.norm }, &[x, x0, grad, alpha, eps]), None),
            Stepping::Adam => {
                let zero = g.push(Op::Scale { factor: 0.0 }, &[x0]);
                let state = net.state(&mut g, "state", 2);
                let [m, v] = [("m", false, KEEP[0]), ("v", true, KEEP[1])].map(|(name, square, keep)| {
                    let before = net.image(&mut g, name);
                    let after = g.push(Op::Moment { square, keep }, &[before, grad]);
                    begin.push((before, zero));
                    step.push((before, after));
                    after
                });
                let next = g.push(Op::AdamStep { keep: KEEP }, &[x, x0, m, v, alpha, eps, state]);
                step.push((state, g.push(Op::Tick { copies: 1 }, &[state])));
                (next, Some(state))
            }
        };
        step.push((x, next));
        let segments = vec![
            Segment { name: "begin".into(), outputs: Vec::new(), carries: begin },
            Segment { name: "step".into(), outputs: vec![aim.value], carries: step },
        ];
        let Aim { label, target, value: loss, .. } = aim;
        (g, Values { x, x0, label, target, alpha, eps, length, worst, index, restart, seed, state, loss, segments })
    }

    /// The objective at `logits`, and its gradient by them.
    fn judge(&self, g: &mut Graph, net: &Net, logits: Value, x0: Value, begin: &mut Vec<(Value, Value)>) -> Aim {
        let loss = match self.objective {
            Objective::Loss(loss) => loss.on_logits(self.target != Target::None, net.classes()),
            Objective::Margin { kappa } => Loss::Hinge { kappa: kappa as f32 },
            Objective::Divergence => {
                let before = net.logits(g, x0);
                let clean = net.state(g, "clean", net.classes());
                begin.push((clean, before));
                g.set_scope("loss");
                let [value, cotangent] = [Op::Kl, Op::KlGrad].map(|op| g.push(op, &[logits, clean]));
                return Aim { label: None, target: None, value, cotangent };
            }
        };
        let label = net.row_i32(g, "label");
        let target = (self.target != Target::None).then(|| net.row_i32(g, "target"));
        g.set_scope("loss");
        let judged: Vec<Value> = [logits, label].into_iter().chain(target).collect();
        let mut pair = [Op::Loss(loss), Op::LossGrad(loss)].map(|op| g.push(op, &judged));
        if matches!(self.objective, Objective::Margin { .. }) {
            // The hinge is what a minimum-norm attack lowers.
            pair = pair.map(|v| g.push(Op::Scale { factor: -1.0 }, &[v]));
        }
        Aim { label: Some(label), target, value: pair[0], cotangent: pair[1] }
    }
}

/// An objective in a graph.
struct Aim {
    label: Option<Value>,
    target: Option<Value>,
    value: Value,
    cotangent: Value,
}

impl Attack for Climb {
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
        p.insert("restarts".into(), json!(self.restarts));
        p.insert("random_start".into(), json!(self.start != From::Clean));
        match self.objective {
            Objective::Loss(loss) => p.insert("loss".into(), json!(loss.name())),
            Objective::Divergence => p.insert("loss".into(), json!("kl")),
            Objective::Margin { kappa } => p.insert("kappa".into(), json!(kappa)),
        };
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        let wrong = |message: String| Err(Error::usage(message));
        let positive = |v: f64| v.is_finite() && v > 0.0;
        if !positive(self.threat.eps) || !positive(self.alpha) {
            return wrong(format!("`eps` {} and `alpha` {} must be above 0", self.threat.eps, self.alpha));
        }
        if self.threat.norm == Norm::Linf && self.threat.eps > 1.0 {
            return wrong(format!("`eps` is {}, but images lie in [0,1]", self.threat.eps));
        }
        if self.stepping == Stepping::Adam && self.threat.norm != Norm::Linf {
            return wrong(format!("`{}` is defined for the norm `linf`, not for `{}`", self.name, self.threat.norm));
        }
        if self.steps == 0 || self.steps >= 1 << 24 || self.restarts == 0 || self.restarts > usize::from(u16::MAX) {
            return wrong(format!("{} steps and {} restarts: both must be at least 1", self.steps, self.restarts));
        }
        if let Objective::Margin { kappa } = self.objective
            && !(kappa.is_finite() && kappa >= 0.0)
        {
            return wrong(format!("`kappa` is {kappa}, it must be 0 or more"));
        }
        if !matches!(self.objective, Objective::Loss(_)) && self.target != Target::None {
            return wrong(format!("`{}` aims at no class: it has no target", self.name));
        }
        match self.target {
            Target::Class(c) if c as usize >= classes => {
                wrong(format!("target class {c} of a model with classes 0 to {}", classes - 1))
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
        Ok(Box::new(BoundClimb { attack: self.clone(), session, v, step: 0, first_loss: Vec::new() }))
    }
}

/// The values of the graph that are written and read from outside, and what is run.
struct Values {
    x: Value,
    x0: Value,
    label: Option<Value>,
    target: Option<Value>,
    alpha: Value,
    eps: Value,
    length: Value,
    worst: Value,
    index: Value,
    restart: Value,
    seed: Value,
    state: Option<Value>,
    loss: Value,
    segments: Vec<Segment>,
}

/// The attack bound to a device. All rows make the same step.
struct BoundClimb {
    attack: Climb,
    session: Session,
    v: Values,
    step: usize,
    first_loss: Vec<f32>,
}

impl Bound for BoundClimb {
    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        drive(self, cases, restart, tell)
    }
}

impl Rows for BoundClimb {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, restart: usize) -> Result<()> {
        let (s, v, a) = (&mut self.session, &self.v, &self.attack);
        s.write_image(v.x0, at, &case.x0)?;
        if let Some(label) = v.label {
            s.write_i32(label, at, case.label)?;
        }
        if let Some(target) = v.target {
            s.write_i32(target, at, case.target.expect("a targeted attack has targets"))?;
        }
        s.write_i32(v.index, at, case.index as i32)?;
        s.write_i32(v.restart, at, i32::try_from(restart).expect("restarts are checked to fit 16 bits"))?;
        let length = if let From::Near { size } = a.start { size } else { case.eps };
        let numbers = [(v.alpha, a.alpha), (v.eps, case.eps), (v.length, length), (v.worst, 0.0)];
        numbers.into_iter().try_for_each(|(value, number)| s.write_f32(value, at, number as f32))?;
        v.state.map_or(Ok(()), |state| s.executor().write_f32(state, at, &[0.0, 1.0]))
    }

    fn begin(&mut self, _fresh: &[usize]) -> Result<()> {
        self.step = 0;
        self.session.run("begin")
    }

    fn turn(&mut self) -> Result<()> {
        self.session.run("step")?;
        if self.step == 0 {
            self.first_loss = self.session.read(self.v.loss)?;
        }
        self.step += 1;
        Ok(())
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        Ok((0..turns.len()).filter(|&at| turns[at] == Some(self.attack.steps)).collect())
    }

    fn answer(&mut self, at: usize, _case: &Case, turns: usize) -> Result<Found> {
        let x = self.session.read_image(self.v.x, at)?;
        let loss = self.session.read_row(self.v.loss, at)?;
        let status = self.session.read_row(self.v.worst, at)? as u8;
        let climbed = (turns > 1).then_some((self.first_loss[at], loss));
        let looks = u64::from(self.attack.objective == Objective::Divergence);
        let cost = Cost { forwards: turns as u64 + looks, backwards: turns as u64 };
        Ok(Found { x, loss, climbed, status, cost, claimed: None })
    }

    fn refills(&self) -> bool {
        false
    }
}
