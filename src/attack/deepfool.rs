//! DeepFool: steps to the nearest class boundary, as if it were flat, until the class changes.
//! Must not know data sets or reports.
//! Moosavi-Dezfooli et al. 2016, <https://arxiv.org/abs/1511.04599>.

use serde_json::json;

use super::boundary::{self, Boundary, CANDIDATES};
use super::fab::check_candidates;
use super::{Attack, Bound, Case, Found, Net, Parameters, Place, Rows, Tell, drive};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Plane, Value};
use crate::outcome::{Cost, Doubt};
use crate::plan::Segment;
use crate::session::Session;
use crate::threat::{Distance, Goal, Norm};

/// How often rows are asked whether they are through, in turns.
const LOOK: usize = 2;

/// DeepFool with all its parameters, in L2 or L-inf: it looks for the nearest image of another class than the label.
///
/// A step goes to the nearest of the boundaries to `candidates` classes, each a backward pass, past it by `overshoot`, and is
/// clipped to [0,1]. An image is done when its class has changed.
///
/// ```no_run
/// use petard::attack::DeepFool;
/// use petard::{Dataset, Device, Given, Hooks, Job, Model, Norm, attack, data};
///
/// let device = Device::open("auto", &Default::default())?;
/// let model = Model::load("resnet20-cifar10", Some("resnet20.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &data::Options::default())?;
/// let job = Job::new(DeepFool::new(Norm::L2), 64);
/// let outcome = attack::run(&device, &model, &images, &job, &Given::default(), Hooks::default())?;
/// println!("{:?}", outcome.per_image.l2);
/// # Ok::<(), petard::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DeepFool {
    /// L2 or L-inf.
    pub norm: Norm,
    /// Steps at most.
    pub steps: usize,
    /// How far past the boundary a step goes, as a part of the step.
    pub overshoot: f64,
    /// What is added to the difference of logits, so that a step that ends on the boundary is not the last: 1e-4 in the original,
    /// 0 in torchattacks.
    pub push: f64,
    /// How many of the classes with the highest logits a step looks at, up to 64; more than there are means all.
    pub candidates: usize,
}

impl DeepFool {
    /// 50 steps, overshoot 0.02, up to 20 candidates.
    pub fn new(norm: Norm) -> Self {
        DeepFool { norm, steps: 50, overshoot: 0.02, push: 1e-4, candidates: CANDIDATES }
    }
    /// As torchattacks has it: L2 without a push.
    pub fn torchattacks() -> Self {
        DeepFool { push: 0.0, ..DeepFool::new(Norm::L2) }
    }

    fn candidates(&self, classes: usize) -> usize {
        self.candidates.min(classes - 1)
    }

    fn graph(&self, net: &Net) -> (Graph, Values) {
        let mut g = Graph::new();
        let x = net.image(&mut g, "x");
        let label = net.row_i32(&mut g, "label");
        let worst = net.row(&mut g, "worst");
        let logits = net.logits(&mut g, x);
        g.set_scope("boundary");
        let fooled = g.push(Op::Fooled { hit: false }, &[logits, label]);
        let Boundary { f, w } = boundary::nearest(&mut g, logits, label, x, self.norm, self.candidates(net.classes()));
        let status = g.push(Op::GradStatus, &[w]);
        let next_worst = g.push(Op::MaxRows, &[status, worst]);
        let step = Plane::DeepFoolStep { norm: self.norm, overshoot: self.overshoot as f32, push: self.push as f32 };
        let next = g.push(Op::Hyperplane(step), &[x, w, f, fooled]);
        (g, Values { x, label, worst, next_worst, fooled, next })
    }
}

impl Attack for DeepFool {
    fn name(&self) -> &str {
        "deepfool"
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!("deepfool"));
        p.insert("norm".into(), json!(self.norm.name()));
        p.insert("steps".into(), json!(self.steps));
        p.insert("overshoot".into(), json!(self.overshoot));
        p.insert("push".into(), json!(self.push));
        p.insert("candidates".into(), json!(self.candidates));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        if self.norm == Norm::L1 {
            return Err(Error::usage("`norm` is l1, DeepFool is defined for `l2` and `linf`")
                .with_hint("`--attack fab --nearest --norm l1` looks for the nearest point in l1"));
        }
        for (name, v) in [("overshoot", self.overshoot), ("push", self.push)] {
            if !(v.is_finite() && v >= 0.0) {
                return Err(Error::usage(format!("`{name}` is {v}, it must be 0 or more")));
            }
        }
        if self.steps == 0 || self.candidates == 0 {
            return Err(Error::usage("`steps` and `candidates` must be at least 1"));
        }
        check_candidates(self.candidates(classes))
    }

    fn goal(&self) -> Goal {
        Goal::Nearest(Distance::Norm(self.norm))
    }

    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>) {
        let (graph, v) = self.graph(net);
        let segments = v.segments();
        (graph, segments)
    }

    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        let net = place.net();
        let (graph, v) = self.graph(&net);
        let session = place.session(&graph, &v.segments())?;
        Ok(Box::new(BoundDeepFool { deepfool: self.clone(), session, v, claims: net.claims(), classes: net.classes() }))
    }

    fn doubts(&self, classes: usize, _given_starts: bool) -> Vec<Doubt> {
        let (n, all) = (self.candidates, classes - 1);
        if n >= all {
            return Vec::new();
        }
        let message = format!("each step looked at {n} of {all} other classes: a nearer boundary may be missed");
        vec![Doubt::new("few-candidates", message)]
    }
}

/// The values of the graph that are written and read from outside.
struct Values {
    x: Value,
    label: Value,
    worst: Value,
    next_worst: Value,
    fooled: Value,
    next: Value,
}

impl Values {
    /// `attack` makes one step of the images that go on, `judge` only looks at them.
    fn segments(&self) -> Vec<Segment> {
        let carries = vec![(self.worst, self.next_worst), (self.x, self.next)];
        let attack = Segment { name: "attack".into(), outputs: vec![self.fooled], carries };
        vec![attack, Segment { name: "judge".into(), outputs: vec![self.fooled], carries: Vec::new() }]
    }
}

/// The attack bound to a device.
struct BoundDeepFool {
    deepfool: DeepFool,
    session: Session,
    v: Values,
    claims: bool,
    classes: usize,
}

impl Bound for BoundDeepFool {
    fn claims(&self) -> bool {
        self.claims
    }
    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        drive(self, cases, restart, tell)
    }
}

impl Rows for BoundDeepFool {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, _restart: usize) -> Result<()> {
        let (s, v) = (&mut self.session, &self.v);
        s.write_image(v.x, at, &case.x0)?;
        s.write_i32(v.label, at, case.label)?;
        s.write_f32(v.worst, at, 0.0)
    }

    fn begin(&mut self, _fresh: &[usize]) -> Result<()> {
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        self.session.run("attack")
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        let last = |made: usize| made >= self.deepfool.steps;
        if self.claims && turns.iter().flatten().any(|&made| last(made)) {
            // The verdict on where the last step led.
            self.session.run("judge")?;
        }
        // By its own turns: when a row leaves must not depend on its company.
        let asked = |made: usize| made.is_multiple_of(LOOK) || last(made);
        if !turns.iter().flatten().any(|&made| asked(made)) {
            return Ok(Vec::new());
        }
        let fooled = self.session.read(self.v.fooled)?;
        let leaves = |at: usize, made: usize| last(made) || (asked(made) && fooled[at] != 0.0);
        Ok((0..turns.len()).filter(|&at| turns[at].is_some_and(|made| leaves(at, made))).collect())
    }

    fn answer(&mut self, at: usize, _case: &Case, turns: usize) -> Result<Found> {
        let x = self.session.read_image(self.v.x, at)?;
        let claimed = if self.claims { Some(self.session.read_row(self.v.fooled, at)? != 0.0) } else { None };
        let status = self.session.read_row(self.v.worst, at)? as u8;
        let looks = u64::from(self.claims && turns >= self.deepfool.steps);
        let backwards = (turns * self.deepfool.candidates(self.classes)) as u64;
        let cost = Cost { forwards: turns as u64 + looks, backwards };
        Ok(Found { x, loss: 0.0, climbed: None, status, cost, claimed })
    }

    fn steps_a_turn(&self) -> u64 {
        self.deepfool.candidates(self.classes) as u64
    }
}
