//! FAB and FAB-T: steps to the nearest class boundary, biased towards the original, and back whenever it is crossed.
//! Must not know data sets or reports.
//! Croce and Hein 2020, <https://arxiv.org/abs/1907.02044>; as in AutoAttack, <https://arxiv.org/abs/2003.01690>.

use serde_json::json;

use super::boundary::{self, Boundary, CANDIDATES, MOST_CANDIDATES};
use super::{Attack, Bound, Case, Found, Net, Parameters, Place, Rows, Tell, drive};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Plane, Value};
use crate::outcome::{Cost, Doubt};
use crate::plan::Segment;
use crate::session::Session;
use crate::tensor::{DType, Shape};
use crate::threat::{Distance, Goal, Norm, ThreatModel, distance};

/// The fast adaptive boundary attack with all its parameters, in L-inf, L2 or L1.
///
/// A step projects the image `x` and the original `x0` on the hyperplane that the boundary looks like at `x`, within [0,1],
/// goes past both by `eta` and takes a mean with at most `alpha_max` for the original's side. Where the class has changed, the
/// point is kept if it is the nearest so far, and `x` goes back to `x0 + beta (x - x0)`. It takes all its steps whatever it finds:
/// the nearest point is what it is after. Within a radius a run succeeds where that point is no further than the radius, and
/// returns the original otherwise.
///
/// Untargeted, the boundary is the nearest of `candidates` classes, each a backward pass. FAB-T takes one class after the
/// other instead, from the second highest clean logit down: one backward pass a step.
///
/// ```no_run
/// use petard::attack::Fab;
/// use petard::{Dataset, Device, Given, Hooks, Job, Model, ThreatModel, attack, data};
///
/// let device = Device::open("auto", &Default::default())?;
/// let model = Model::load("resnet20-cifar10", Some("resnet20.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &data::Options::default())?;
/// let job = Job::new(Fab::targeted(ThreatModel::linf(8.0 / 255.0)), 64);
/// let outcome = attack::run(&device, &model, &images, &job, &Given::default(), Hooks::default())?;
/// println!("{} of {} stand", outcome.robust, outcome.clean_correct);
/// # Ok::<(), petard::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Fab {
    /// Name under which it is reported.
    pub name: &'static str,
    /// Norm and radius. Where the nearest point is wanted the radius only bounds how far away restarts begin.
    pub threat: ThreatModel,
    /// Whether the nearest adversarial image is wanted, at whatever distance.
    pub nearest: bool,
    /// Steps of a run, each two forward passes and the backward passes named above.
    pub steps: usize,
    /// How far past the hyperplane a step goes: 1 is onto it.
    pub eta: f64,
    /// What is left of the way from the original after a step back, in (0,1).
    pub beta: f64,
    /// The largest weight of the original's side, in [0,1].
    pub alpha_max: f64,
    /// How many classes FAB-T aims at, one run each; more than there are means all. `None`: untargeted.
    pub targets: Option<usize>,
    /// How many of the classes with the highest logits the untargeted attack looks at in a step, up to 64; more than there
    /// are means all.
    pub candidates: usize,
    /// Runs, of FAB-T for each class; all but the first begin in a random direction.
    pub restarts: usize,
}

impl Fab {
    /// Untargeted: 100 steps, `eta` 1.05, `beta` 0.9, `alpha_max` 0.1, one run.
    pub fn new(threat: ThreatModel) -> Self {
        Fab {
            name: "fab",
            threat,
            nearest: false,
            steps: 100,
            eta: 1.05,
            beta: 0.9,
            alpha_max: 0.1,
            targets: None,
            candidates: CANDIDATES,
            restarts: 1,
        }
    }
    /// FAB-T: the same towards nine classes.
    pub fn targeted(threat: ThreatModel) -> Self {
        Fab { name: "fab-t", targets: Some(9), ..Fab::new(threat) }
    }
    /// Untargeted, after the nearest adversarial image.
    pub fn nearest(norm: Norm) -> Self {
        Fab { nearest: true, ..Fab::new(ThreatModel::new(norm, norm.default_eps())) }
    }

    /// Backward passes of a step.
    fn candidates(&self, classes: usize) -> usize {
        if self.targets.is_some() { 1 } else { self.candidates.min(classes - 1) }
    }

    fn graph(&self, net: &Net) -> (Graph, Values) {
        let mut g = Graph::new();
        let norm = self.threat.norm;
        let [x, x0, kept] = ["x", "x0", "kept"].map(|name| net.image(&mut g, name));
        let [label, index, restart] = ["label", "index", "restart"].map(|name| net.row_i32(&mut g, name));
        let [best, worst, length, fresh] = ["best", "worst", "length", "fresh"].map(|name| net.row(&mut g, name));
        let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
        let target = self.targets.map(|_| net.row_i32(&mut g, "target"));
        g.set_scope("start");
        let start = match self.restarts {
            1 => x0,
            _ => g.push(Op::Hyperplane(Plane::Start { norm }), &[x0, index, restart, length, seed]),
        };
        let first = g.push(Op::SelectRows, &[fresh, start, x]);
        g.set_scope("");
        let logits = net.logits(&mut g, x);
        g.set_scope("boundary");
        let Boundary { f, w } = match target {
            Some(target) => boundary::towards(&mut g, logits, label, target, x),
            None => boundary::nearest(&mut g, logits, label, x, norm, self.candidates(net.classes())),
        };
        let status = g.push(Op::GradStatus, &[w]);
        let next_worst = g.push(Op::MaxRows, &[status, worst]);
        let step = Plane::FabStep { norm, eta: self.eta as f32, alpha_max: self.alpha_max as f32 };
        let moved = g.push(Op::Hyperplane(step), &[x, x0, w, f]);
        g.set_scope("");
        let logits = net.logits(&mut g, moved);
        g.set_scope("verdict");
        let fooled = g.push(Op::Fooled { hit: false }, &[logits, label]);
        let next_best = g.push(Op::Hyperplane(Plane::Nearer { norm }), &[fooled, moved, x0, best]);
        let better = g.push(Op::Greater, &[best, next_best]);
        let next_kept = g.push(Op::SelectRows, &[better, moved, kept]);
        let next = g.push(Op::Hyperplane(Plane::Back { beta: self.beta as f32 }), &[moved, x0, fooled]);
        let carries = vec![(worst, next_worst), (best, next_best), (kept, next_kept), (x, next)];
        let v = Values { x, x0, kept, label, target, index, restart, length, fresh, seed, best, worst, first, carries };
        (g, v)
    }
}

impl Attack for Fab {
    fn name(&self) -> &str {
        self.name
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name));
        p.insert("norm".into(), json!(self.threat.norm.name()));
        p.insert("eps".into(), json!(self.threat.eps));
        p.insert("nearest".into(), json!(self.nearest));
        p.insert("steps".into(), json!(self.steps));
        p.insert("restarts".into(), json!(self.restarts));
        p.insert("eta".into(), json!(self.eta));
        p.insert("beta".into(), json!(self.beta));
        p.insert("alpha_max".into(), json!(self.alpha_max));
        match self.targets {
            Some(targets) => p.insert("targets".into(), json!(targets)),
            None => p.insert("candidates".into(), json!(self.candidates)),
        };
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        let wrong = |name: &str, v: f64, must: &str| Err(Error::usage(format!("`{name}` is {v}, it must be {must}")));
        let Fab { eta, beta, alpha_max, .. } = *self;
        if !(self.threat.eps.is_finite() && self.threat.eps > 0.0) {
            return wrong("eps", self.threat.eps, "above 0");
        }
        if !(eta.is_finite() && eta > 0.0) {
            return wrong("eta", eta, "above 0");
        }
        if !(beta > 0.0 && beta < 1.0) {
            return wrong("beta", beta, "between 0 and 1");
        }
        if !(0.0..=1.0).contains(&alpha_max) {
            return wrong("alpha_max", alpha_max, "between 0 and 1");
        }
        if self.steps == 0 || self.restarts == 0 || self.targets == Some(0) || self.candidates == 0 {
            return Err(Error::usage("`steps`, `restarts`, `targets` and `candidates` must be at least 1"));
        }
        if self.restarts() > usize::from(u16::MAX) {
            return Err(Error::usage(format!("{} runs, at most {} are possible", self.restarts(), u16::MAX)));
        }
        check_candidates(self.candidates(classes))
    }

    fn goal(&self) -> Goal {
        if self.nearest { Goal::Nearest(Distance::Norm(self.threat.norm)) } else { Goal::Within(self.threat) }
    }
    fn restarts(&self) -> usize {
        self.targets.unwrap_or(1).saturating_mul(self.restarts)
    }

    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>) {
        let (graph, v) = self.graph(net);
        let segments = v.segments();
        (graph, segments)
    }

    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        let net = place.net();
        let (graph, v) = self.graph(&net);
        let mut session = place.session(&graph, &v.segments())?;
        if self.restarts > 1 {
            session.executor().write_i32(v.seed, 0, &place.seed_words())?;
        }
        Ok(Box::new(BoundFab { fab: self.clone(), session, v, claims: net.claims(), classes: net.classes() }))
    }

    fn doubts(&self, classes: usize, _given_starts: bool) -> Vec<Doubt> {
        let all = classes - 1;
        let (code, message) = match self.targets {
            Some(n) if n > all => ("few-classes", format!("{n} targets were asked for, the model has {all} other classes")),
            None if self.candidates < all => {
                let n = self.candidates;
                ("few-candidates", format!("each step looked at {n} of {all} other classes: a nearer boundary may be missed"))
            }
            _ => return Vec::new(),
        };
        vec![Doubt::new(code, message)]
    }
}

/// Refuses more backward passes than one graph should hold.
pub(super) fn check_candidates(candidates: usize) -> Result<()> {
    if candidates <= MOST_CANDIDATES {
        return Ok(());
    }
    Err(Error::usage(format!("`candidates` is {candidates}, at most {MOST_CANDIDATES} are possible")).with_hint(
        "classes with low logits are hardly ever the nearest: `--candidates 20`, or aim at classes with `--attack fab-t`",
    ))
}

/// The values of the graph that are written and read from outside.
struct Values {
    x: Value,
    x0: Value,
    kept: Value,
    label: Value,
    target: Option<Value>,
    index: Value,
    restart: Value,
    length: Value,
    fresh: Value,
    seed: Value,
    best: Value,
    worst: Value,
    first: Value,
    carries: Vec<(Value, Value)>,
}

impl Values {
    /// `begin` puts fresh images where they start, `attack` makes one step.
    fn segments(&self) -> Vec<Segment> {
        let begin = Segment { name: "begin".into(), outputs: Vec::new(), carries: vec![(self.x, self.first)] };
        vec![begin, Segment { name: "attack".into(), outputs: Vec::new(), carries: self.carries.clone() }]
    }
}

/// The attack bound to a device.
struct BoundFab {
    fab: Fab,
    session: Session,
    v: Values,
    claims: bool,
    classes: usize,
}

impl Bound for BoundFab {
    fn claims(&self) -> bool {
        self.claims
    }

    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        if self.fab.targets.is_some() && self.rank(restart) >= self.classes {
            return Ok(cases.iter().map(|case| nothing(case)).collect());
        }
        drive(self, cases, restart, tell)
    }
}

/// The answer where there is no class left to aim at.
fn nothing(case: &Case) -> Found {
    let cost = Cost::default();
    Found { x: case.x0.clone(), loss: f32::NEG_INFINITY, climbed: None, status: 0, cost, claimed: None }
}

/// The class at `rank` from the highest logit, 0 being the highest; of equals the lowest class first.
fn ranked(logits: &[f32], rank: usize) -> i32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order[rank] as i32
}

impl BoundFab {
    /// From the highest clean logit, of the class that this run aims at.
    fn rank(&self, restart: usize) -> usize {
        1 + restart / self.fab.restarts
    }

    /// How far from the original a run begins: half the smaller of the radius and the distance of what was found so far.
    fn length(&self, case: &Case, restart: usize) -> f64 {
        if restart.is_multiple_of(self.fab.restarts) {
            return 0.0;
        }
        let norm = self.fab.threat.norm;
        let found = case.best.as_ref().filter(|_| case.broken).map_or(f64::INFINITY, |b| distance(norm, &case.x0, &b.x));
        let radius = if case.eps.is_finite() { case.eps } else { self.fab.threat.eps };
        0.5 * found.min(radius)
    }
}

impl Rows for BoundFab {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, restart: usize) -> Result<()> {
        let (length, rank) = (self.length(case, restart), self.rank(restart));
        let (s, v) = (&mut self.session, &self.v);
        s.write_image(v.x0, at, &case.x0)?;
        s.write_i32(v.label, at, case.label)?;
        if let Some(target) = v.target {
            s.write_i32(target, at, ranked(&case.logits, rank))?;
        }
        if self.fab.restarts > 1 {
            s.write_i32(v.index, at, case.index as i32)?;
            s.write_i32(v.restart, at, i32::try_from(restart).expect("restarts are checked to fit 16 bits"))?;
            s.write_f32(v.length, at, length as f32)?;
        }
        s.write_f32(v.best, at, f32::INFINITY)?;
        s.write_f32(v.worst, at, 0.0)?;
        s.write_f32(v.fresh, at, 1.0)
    }

    fn begin(&mut self, fresh: &[usize]) -> Result<()> {
        self.session.run("begin")?;
        fresh.iter().try_for_each(|&at| self.session.write_f32(self.v.fresh, at, 0.0))
    }

    fn turn(&mut self) -> Result<()> {
        self.session.run("attack")
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        Ok((0..turns.len()).filter(|&at| turns[at].is_some_and(|made| made >= self.fab.steps)).collect())
    }

    fn answer(&mut self, at: usize, case: &Case, turns: usize) -> Result<Found> {
        let best = self.session.read_row(self.v.best, at)?;
        let mut x = case.x0.clone();
        let mut hit = false;
        if best.is_finite() {
            let kept = self.session.read_image(self.v.kept, at)?;
            let threat = ThreatModel { eps: case.eps.min(f64::MAX), ..self.fab.threat };
            if self.fab.nearest || threat.contains(&case.x0, &kept) {
                (x, hit) = (kept, true);
            }
        }
        let status = self.session.read_row(self.v.worst, at)? as u8;
        let backwards = (turns * self.fab.candidates(self.classes)) as u64;
        let cost = Cost { forwards: 2 * turns as u64, backwards };
        Ok(Found { x, loss: -best, climbed: None, status, cost, claimed: self.claims.then_some(hit) })
    }

    fn steps_a_turn(&self) -> u64 {
        self.fab.candidates(self.classes) as u64
    }
    fn refills(&self) -> bool {
        // All rows take equally many turns.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_come_by_clean_logits() {
        let z = [0.5, 2.0, -1.0, 2.0, f32::NEG_INFINITY];
        assert_eq!((0..5).map(|rank| ranked(&z, rank)).collect::<Vec<_>>(), [1, 3, 0, 2, 4]);
    }
}
