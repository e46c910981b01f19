//! APGD: projected gradient ascent with momentum that sets its own step, on any loss, and towards one class after the other.
//! Must not know data sets or reports.
//! Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>; in L1: Croce and Hein 2021, <https://arxiv.org/abs/2103.01208>.

use serde_json::json;

use super::{Attack, AttackLoss, Bound, Case, Found, Keep, Net, Parameters, Place, Rows, Tell, drive};
use crate::error::{Error, Result};
use crate::graph::apgd::at;
use crate::graph::{ApgdRule, Graph, Op, StartKind, Value, vjp};
use crate::outcome::{Cost, Doubt};
use crate::plan::Segment;
use crate::session::Session;
use crate::tensor::{DType, Shape};
use crate::threat::{Goal, Norm, ThreatModel};

/// Auto-PGD with all its parameters. Each run starts at random on the surface of the ball.
///
/// Where the reference code compares the first loss with a row of zeros, the loss at the start is meant and used.
///
/// ```no_run
/// use petard::attack::{self, Apgd};
/// use petard::{Dataset, Device, DeviceOptions, Given, Hooks, Job, Model, ThreatModel, data};
///
/// let device = Device::open("auto", &DeviceOptions::default())?;
/// let model = Model::load("resnet20-cifar10", Some("weights.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:DIR", &data::Options::default())?;
/// let job = Job::new(Apgd::targeted(ThreatModel::linf(8.0 / 255.0)), 64);
/// let outcome = attack::run(&device, &model, &images, &job, &Given::default(), Hooks::default())?;
/// println!("{:.2} %", 100.0 * outcome.robust_accuracy());
/// # petard::Result::Ok(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Apgd {
    /// Name under which it is reported.
    pub name: &'static str,
    /// Norm and radius.
    pub threat: ThreatModel,
    /// Steps of a run.
    pub steps: usize,
    /// Runs, towards each target class where there are any; an image leaves after the first that breaks it.
    pub restarts: usize,
    /// Share of steps that must have raised the loss, or the step is halved; L1 does not use it.
    pub rho: f64,
    /// What is climbed.
    pub loss: AttackLoss,
    /// Runs towards so many classes, one after the other: those with the highest logits on the clean image but the label's.
    /// Any wrong class is a success.
    pub targets: Option<usize>,
    /// Which iterate is returned: the last or the first success (at which the image leaves), else the one with the highest
    /// loss; or always that.
    pub keep: Keep,
    /// Starts in balls of three and two times the radius, for 30 % of the steps each; L1 only.
    pub larger_eps: bool,
}

impl Apgd {
    /// One run of 100 steps on the cross-entropy.
    pub fn new(threat: ThreatModel) -> Self {
        Apgd {
            name: "apgd-ce",
            threat,
            steps: 100,
            restarts: 1,
            rho: 0.75,
            loss: AttackLoss::CrossEntropy,
            targets: None,
            keep: Keep::LastSuccess,
            larger_eps: false,
        }
    }
    /// The same on the difference of logits ratio.
    pub fn dlr(threat: ThreatModel) -> Self {
        Apgd { name: "apgd-dlr", loss: AttackLoss::Dlr, ..Apgd::new(threat) }
    }
    /// One run of 100 steps on the targeted difference of logits ratio towards each of nine classes.
    pub fn targeted(threat: ThreatModel) -> Self {
        Apgd { name: "apgd-t", targets: Some(9), ..Apgd::dlr(threat) }
    }

    fn rule(&self) -> ApgdRule {
        ApgdRule { norm: self.threat.norm, steps: self.steps, rho: self.rho as f32, larger: self.larger_eps }
    }

    fn graph(&self, net: &Net) -> (Graph, Values) {
        let mut g = Graph::new();
        let [x, x0, old, best, best_grad, kept] =
            ["x", "x0", "old", "best", "best-grad", "kept"].map(|name| net.image(&mut g, name));
        let [label, index, restart] = ["label", "index", "restart"].map(|name| net.row_i32(&mut g, name));
        let target = self.targets.map(|_| net.row_i32(&mut g, "target"));
        let [eps, worst, fresh] = ["eps", "worst", "fresh"].map(|name| net.row(&mut g, name));
        let state = net.state(&mut g, "state", ApgdRule::STATE);
        let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
        let norm = self.threat.norm;
        g.set_scope("start");
        let mut start = g.push(Op::Start { kind: StartKind::Boundary(norm) }, &[x0, index, restart, eps, seed]);
        if norm == Norm::L1 {
            // The state of a fresh row asks for a step of 0, which only projects, whatever leads it.
            start = g.push(Op::ApgdMove { norm }, &[start, x0, x0, state]);
        }
        let first = g.push(Op::SelectRows, &[fresh, start, x]);
        g.set_scope("");
        let logits = net.logits(&mut g, x);
        g.set_scope("loss");
        let loss = self.loss.on_logits(target.is_some(), net.classes());
        let judged: Vec<Value> = [logits, label].into_iter().chain(target).collect();
        let value = g.push(Op::Loss(loss), &judged);
        let cotangent = g.push(Op::LossGrad(loss), &judged);
        let fooled = g.push(Op::Fooled { hit: false }, &[logits, label]);
        let grad = vjp(&mut g, logits, cotangent, &[x])[0].expect("logits depend on the image");
        g.set_scope("attack");
        let status = g.push(Op::GradStatus, &[grad]);
        let next_worst = g.push(Op::MaxRows, &[status, worst]);
        let mut seen = vec![state, value, fooled, eps];
        seen.extend((norm == Norm::L1).then_some([x, best, x0]).into_iter().flatten());
        let next_state = g.push(Op::ApgdState(self.rule()), &seen);
        let [better, store, back, broken] =
            [at::BETTER, at::STORE, at::BACK, at::BROKEN].map(|index| g.push(Op::Column { index }, &[next_state]));
        let next_kept = g.push(Op::SelectRows, &[store, x, kept]);
        let next_best = g.push(Op::SelectRows, &[better, x, best]);
        let next_grad = g.push(Op::SelectRows, &[better, grad, best_grad]);
        let from = g.push(Op::SelectRows, &[back, next_best, x]);
        let lead = g.push(Op::SelectRows, &[back, next_grad, grad]);
        let momentum = (norm != Norm::L1).then_some(old);
        let moved: Vec<Value> = [from, x0, lead, next_state].into_iter().chain(momentum).collect();
        let next = g.push(Op::ApgdMove { norm }, &moved);
        let mut carries = vec![(kept, next_kept), (best, next_best), (best_grad, next_grad), (state, next_state)];
        carries.extend([(worst, next_worst), (x, next)]);
        carries.extend(momentum.map(|old| (old, from)));
        let segments = vec![
            Segment { name: "begin".into(), outputs: Vec::new(), carries: vec![(x, first)] },
            Segment { name: "attack".into(), outputs: vec![broken], carries },
        ];
        let v = Values { x0, best, kept, label, target, index, restart, eps, worst, fresh, state, broken, seed, segments };
        (g, v)
    }

    /// The class aimed at in run `restart`; `None` where there are fewer classes than that.
    fn target_of(&self, case: &Case, restart: usize) -> Option<i32> {
        let mut others: Vec<usize> = (0..case.logits.len()).filter(|&k| k as i32 != case.label).collect();
        others.sort_by(|&a, &b| case.logits[b].total_cmp(&case.logits[a]));
        others.get(restart / self.restarts).map(|&k| k as i32)
    }
}

impl Attack for Apgd {
    fn name(&self) -> &str {
        self.name
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name));
        p.insert("norm".into(), json!(self.threat.norm.name()));
        p.insert("eps".into(), json!(self.threat.eps));
        p.insert("steps".into(), json!(self.steps));
        p.insert("restarts".into(), json!(self.restarts));
        if self.threat.norm == Norm::L1 {
            p.insert("larger_eps".into(), json!(self.larger_eps));
        } else {
            p.insert("rho".into(), json!(self.rho));
        }
        p.insert("loss".into(), json!(self.loss.name()));
        if let Some(targets) = self.targets {
            p.insert("targets".into(), json!(targets));
        }
        p.insert("return".into(), json!(self.keep.to_string()));
        p
    }

    fn check(&self, _classes: usize) -> Result<()> {
        let (eps, rho) = (self.threat.eps, self.rho);
        if !(eps.is_finite() && eps > 0.0) {
            return Err(Error::usage(format!("`eps` is {eps}, it must be above 0")));
        }
        if self.threat.norm == Norm::Linf && eps > 1.0 {
            return Err(Error::usage(format!("`eps` is {eps}, but images lie in [0,1]"))
                .with_hint("write radii of 8-bit images as fractions: `--eps 8/255`"));
        }
        if !(0.0..=1.0).contains(&rho) {
            return Err(Error::usage(format!("`rho` is {rho}, it is a share of steps between 0 and 1")));
        }
        if self.steps == 0 || self.restarts == 0 || self.targets == Some(0) {
            return Err(Error::usage("`steps`, `restarts` and `targets` must be at least 1"));
        }
        // Counts of steps are exact in f32.
        if self.steps > 1 << 20 || self.restarts() > usize::from(u16::MAX) {
            return Err(Error::usage(format!("{} steps and {} runs are too many", self.steps, self.restarts()))
                .with_hint("at most 1048576 steps and 65535 runs are possible"));
        }
        if self.larger_eps && self.threat.norm != Norm::L1 {
            return Err(Error::usage(format!("`larger-eps` is for `l1`, not for `{}`", self.threat.norm)));
        }
        if self.keep == Keep::Last {
            return Err(Error::usage("APGD has no use for its last iterate, whatever it is")
                .with_hint("return `last-success`, `first-success` or `best-loss`"));
        }
        Ok(())
    }

    fn goal(&self) -> Goal {
        Goal::Within(self.threat)
    }
    fn restarts(&self) -> usize {
        self.restarts.saturating_mul(self.targets.unwrap_or(1))
    }

    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>) {
        let (graph, v) = self.graph(net);
        (graph, v.segments)
    }

    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        let net = place.net();
        let (graph, v) = self.graph(&net);
        let mut session = place.session(&graph, &v.segments)?;
        let [low, high, _] = place.seed_words();
        // Other losses start elsewhere.
        let which = 1 + self.loss as i32 + if self.targets.is_some() { 8 } else { 0 };
        session.executor().write_i32(v.seed, 0, &[low, high, which])?;
        let turns = self.rule().turns();
        Ok(Box::new(BoundApgd { apgd: self.clone(), session, v, claims: net.claims(), turns, restart: 0, broken: Vec::new() }))
    }

    fn doubts(&self, classes: usize, _given_starts: bool) -> Vec<Doubt> {
        let needs = if self.targets.is_some() { 4 } else { 3 };
        let mut out = Vec::new();
        if self.loss == AttackLoss::Dlr && classes < needs {
            let message = format!("{}: DLR needs more than {classes} classes here: the margin was used in its place", self.name);
            out.push(Doubt::new("few-classes", message));
        }
        if let Some(targets) = self.targets.filter(|&targets| targets >= classes) {
            let message = format!("{}: {targets} target classes of {classes} classes: {} were aimed at", self.name, classes - 1);
            out.push(Doubt::new("few-targets", message));
        }
        out
    }
}

/// The values of the graph that are written and read from outside.
#[derive(Clone, Debug)]
struct Values {
    x0: Value,
    best: Value,
    kept: Value,
    label: Value,
    target: Option<Value>,
    index: Value,
    restart: Value,
    eps: Value,
    worst: Value,
    fresh: Value,
    state: Value,
    broken: Value,
    seed: Value,
    segments: Vec<Segment>,
}

/// The attack bound to a device.
struct BoundApgd {
    apgd: Apgd,
    session: Session,
    v: Values,
    claims: bool,
    /// Turns of a row.
    turns: usize,
    restart: usize,
    /// Of each row, after the last turn that was asked about it, whether it has reached the goal.
    broken: Vec<f32>,
}

impl Bound for BoundApgd {
    fn claims(&self) -> bool {
        self.claims
    }

    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        self.restart = restart;
        let aimed = |case: &&Case| self.apgd.targets.is_none() || self.apgd.target_of(case, restart).is_some();
        if cases.iter().all(aimed) {
            return drive(self, cases, restart, tell);
        }
        // Every image has the same number of classes: there is no class left to aim at.
        let stays = |case: &&Case| Found {
            x: case.x0.clone(),
            loss: f32::NEG_INFINITY,
            climbed: None,
            status: 0,
            cost: Cost::default(),
            claimed: None,
        };
        Ok(cases.iter().map(stays).collect())
    }
}

impl Rows for BoundApgd {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, restart: usize) -> Result<()> {
        let target = self.v.target.map(|v| (v, self.apgd.target_of(case, restart).expect("only images with a target come here")));
        let (s, v) = (&mut self.session, &self.v);
        s.write_image(v.x0, at, &case.x0)?;
        s.write_i32(v.label, at, case.label)?;
        if let Some((value, class)) = target {
            s.write_i32(value, at, class)?;
        }
        s.write_i32(v.index, at, case.index as i32)?;
        s.write_i32(v.restart, at, i32::try_from(restart).expect("restarts are checked to fit 16 bits"))?;
        s.write_f32(v.eps, at, case.eps as f32)?;
        s.write_f32(v.worst, at, 0.0)?;
        s.write_f32(v.fresh, at, 1.0)?;
        s.executor().write_f32(v.state, at, &self.apgd.rule().fresh(case.eps as f32))
    }

    fn begin(&mut self, fresh: &[usize]) -> Result<()> {
        self.session.run("begin")?;
        fresh.iter().try_for_each(|&at| self.session.write_f32(self.v.fresh, at, 0.0))
    }

    fn turn(&mut self) -> Result<()> {
        self.session.run("attack")
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        let first = self.apgd.keep == Keep::FirstSuccess;
        let over = |made: &Option<usize>| made.is_some_and(|made| made >= self.turns);
        // The host waits for the device only where it needs an answer.
        if !first && !turns.iter().any(over) {
            return Ok(Vec::new());
        }
        self.broken = self.session.read(self.v.broken)?;
        let leaves = |at: &usize| over(&turns[*at]) || (first && turns[*at].is_some() && self.broken[*at] != 0.0);
        Ok((0..turns.len()).filter(leaves).collect())
    }

    fn answer(&mut self, at: usize, _case: &Case, turns: usize) -> Result<Found> {
        let keeps_success = self.apgd.keep != Keep::BestLoss;
        let broken = self.broken[at] != 0.0;
        let x = self.session.read_image(if broken && keeps_success { self.v.kept } else { self.v.best }, at)?;
        let state = self.session.executor().read_f32(self.v.state, at, 1)?;
        let status = self.session.read_row(self.v.worst, at)? as u8;
        let (first, best) = (state[at::FIRST], state[at::BEST]);
        let climbed = (turns == self.turns && turns > 2).then_some((first, best));
        Ok(Found { x, loss: best, climbed, status, cost: Cost::steps(turns), claimed: keeps_success.then_some(broken) })
    }

    /// Rows that leave together are refilled together; only those that leave early make room one by one.
    fn refills(&self) -> bool {
        self.apgd.keep == Keep::FirstSuccess
    }
}
