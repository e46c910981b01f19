//! HopSkipJump: the nearest adversarial image from verdicts alone: to the boundary by bisection, along it by estimated normals.
//! Must not know data sets or reports.
//! Chen et al. 2020, <https://arxiv.org/abs/1904.02144>.

use serde_json::json;

use super::looks::Looks;
use super::{Attack, Bound, Case, Found, Net, Parameters, Place, Rows, Target, Tell, drive};
use crate::error::{Error, Result};
use crate::graph::hop::{self, Rules};
use crate::graph::{Graph, Op, Value};
use crate::outcome::Cost;
use crate::plan::Segment;
use crate::session::Session;
use crate::tensor::{DType, Shape};
use crate::threat::{Distance, Goal, Norm};

/// Queries of an image where no limit was set: what a float still counts.
const MOST: usize = (1 << 24) - 1;

/// HopSkipJump with all its parameters.
///
/// It starts from an image that the caller gives ([`super::Given::starts`]) where that one reaches the goal, else from uniform
/// noise: the first of a thousand draws that does, blended with the original as far as it goes. Where nothing does, the image
/// comes back as it was.
///
/// Queries run on direct f32 kernels whatever the device's precision: the two sides of a bisection to a share of `d^-1.5` differ
/// by less than faster kernels do.
///
/// ```no_run
/// use petard::{Dataset, Device, Given, Hooks, Job, Model, Norm, attack, attack::HopSkipJump};
///
/// let device = Device::open("auto", &Default::default())?;
/// let model = Model::load("tiny-resnet", None)?;
/// let images = Dataset::open("synthetic", &Default::default())?;
/// let hop = HopSkipJump { steps: 10, ..HopSkipJump::new(Norm::L2) };
/// let outcome = attack::run(&device, &model, &images, &Job::new(hop, 64), &Given::default(), Hooks::default())?;
/// println!("{:?}", outcome.per_image.l2);
/// # Ok::<(), petard::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct HopSkipJump {
    /// L2 or L-inf: what is to be small.
    pub norm: Norm,
    /// Rounds: estimate, step, bisection. 0 leaves the first bisection.
    pub steps: usize,
    /// Queries of an image at most, 1 to 2^24 - 1; `None`: as many as the rounds take.
    pub queries: Option<usize>,
    /// What is aimed at. Towards a class, noise will seldom do: give starting images.
    pub target: Target,
}

impl HopSkipJump {
    /// 64 rounds away from the label, as foolbox.
    pub fn new(norm: Norm) -> Self {
        HopSkipJump { norm, steps: 64, queries: None, target: Target::None }
    }

    /// Graph and values of a turn: a verdict on the query, what follows from it, and the next query.
    fn graph(&self, net: &Net) -> (Graph, Values) {
        let mut g = Graph::new();
        let [q, x, far, x0, best] = ["q", "x", "far", "x0", "best"].map(|name| net.image(&mut g, name));
        let elems = g.shape(x0).elems();
        let state = net.state(&mut g, "state", hop::LEN);
        let sums = g.input("sums", Shape::per_image(&[2, elems]), DType::F32);
        let [label, index] = ["label", "index"].map(|name| net.row_i32(&mut g, name));
        let targeted = self.target != Target::None;
        let target = targeted.then(|| net.row_i32(&mut g, "target"));
        let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
        g.set_scope("start");
        let query = Op::HopQuery { norm: self.norm };
        let first = g.push(query.clone(), &[q, x, far, x0, sums, state, index, seed]);
        g.set_scope("");
        let logits = net.logits(&mut g, q);
        g.set_scope("attack");
        let hit = g.push(Op::Fooled { hit: targeted }, &[logits, target.unwrap_or(label)]);
        let distance = g.push(Op::HopDistance { norm: self.norm }, &[q, x0]);
        let rules = Rules { norm: self.norm, elems, rounds: self.steps, queries: self.queries.unwrap_or(MOST) };
        let next_state = g.push(Op::HopControl(rules), &[state, hit, distance]);
        let next_sums = g.push(Op::HopGather, &[sums, q, x, next_state]);
        let mut kept = |entry: usize, into: Value| {
            let flag = g.push(Op::Column { index: entry }, &[next_state]);
            g.push(Op::SelectRows, &[flag, q, into])
        };
        let [next_x, next_far, next_best] = [kept(hop::TAKE_X, x), kept(hop::TAKE_FAR, far), kept(hop::BETTER, best)];
        let next = g.push(query, &[q, next_x, next_far, x0, next_sums, next_state, index, seed]);
        g.set_scope("");
        let carries = [(state, next_state), (sums, next_sums), (x, next_x), (far, next_far), (best, next_best), (q, next)];
        (g, Values { q, x0, best, state, label, index, target, seed, first, carries })
    }
}

/// The values that are written and read from outside.
#[derive(Clone, Copy, Debug)]
struct Values {
    q: Value,
    x0: Value,
    best: Value,
    state: Value,
    label: Value,
    index: Value,
    target: Option<Value>,
    seed: Value,
    first: Value,
    carries: [(Value, Value); 6],
}

impl Values {
    /// `begin` makes the first query of fresh rows; of the others it makes the same once more.
    fn segments(&self) -> Vec<Segment> {
        vec![
            Segment { name: "begin".into(), outputs: Vec::new(), carries: vec![(self.q, self.first)] },
            Segment { name: "attack".into(), outputs: Vec::new(), carries: self.carries.to_vec() },
        ]
    }
}

impl Attack for HopSkipJump {
    fn name(&self) -> &str {
        "hop-skip-jump"
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name()));
        p.insert("norm".into(), json!(self.norm.name()));
        p.insert("steps".into(), json!(self.steps));
        p.insert("queries".into(), json!(self.queries.unwrap_or(MOST)));
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        if self.norm == Norm::L1 {
            return Err(Error::usage("`hop-skip-jump` is defined for `l2` and `linf` only"));
        }
        if let Some(queries) = self.queries.filter(|q| !(1..=MOST).contains(q)) {
            return Err(Error::usage(format!("`queries` is {queries}, it must be from 1 to {MOST}")));
        }
        // Rounds of 10,000 queries each would not be counted any more.
        if self.steps > 1500 {
            return Err(Error::usage(format!("`steps` is {}, at most 1500 are possible", self.steps)));
        }
        match self.target {
            Target::Class(c) if c as usize >= classes => {
                Err(Error::usage(format!("target class {c} of a model with classes 0 to {}", classes - 1)))
            }
            _ => Ok(()),
        }
    }

    fn goal(&self) -> Goal {
        Goal::Nearest(Distance::Norm(self.norm))
    }
    fn target(&self) -> Target {
        self.target
    }
    fn takes_starts(&self) -> bool {
        true
    }

    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>) {
        let (graph, v) = self.graph(net);
        (graph, v.segments())
    }

    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        let place = Place { exact: true, ..place.clone() };
        let (graph, v) = self.graph(&place.net());
        let mut session = place.session(&graph, &v.segments())?;
        session.executor().write_i32(v.seed, 0, &place.seed_words())?;
        Ok(Box::new(BoundHop { session, v, looks: Looks::default() }))
    }
}

/// HopSkipJump bound to a device.
struct BoundHop {
    session: Session,
    v: Values,
    looks: Looks,
}

impl Bound for BoundHop {
    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        drive(self, cases, restart, tell)
    }
}

impl Rows for BoundHop {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, _restart: usize) -> Result<()> {
        let (s, v) = (&mut self.session, &self.v);
        s.write_image(v.x0, at, &case.x0)?;
        s.write_image(v.q, at, case.start.as_ref().unwrap_or(&case.x0))?;
        let mut state = [0.0; hop::LEN];
        state[hop::PHASE] = if case.start.is_some() { hop::GIVEN } else { hop::NOISE };
        (state[hop::COUNT], state[hop::BEST]) = (1.0, f32::INFINITY);
        s.executor().write_f32(v.state, at, &state)?;
        s.write_i32(v.label, at, case.label)?;
        s.write_i32(v.index, at, case.index as i32)?;
        match v.target {
            Some(t) => s.write_i32(t, at, case.target.expect("a targeted attack has targets")),
            None => Ok(()),
        }
    }

    fn begin(&mut self, _fresh: &[usize]) -> Result<()> {
        self.session.run("begin")
    }

    fn turn(&mut self) -> Result<()> {
        self.session.run("attack")
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        if !self.looks.due(turns) {
            return Ok(Vec::new());
        }
        let state = self.session.read(self.v.state)?;
        let done = |at: usize| state[hop::LEN * at + hop::PHASE] == hop::DONE;
        Ok((0..turns.len()).filter(|&at| turns[at].is_some() && done(at)).collect())
    }

    fn answer(&mut self, at: usize, case: &Case, _turns: usize) -> Result<Found> {
        let state = self.session.executor().read_f32(self.v.state, at, 1)?;
        let some = state[hop::BEST].is_finite();
        let x = if some { self.session.read_image(self.v.best, at)? } else { case.x0.clone() };
        let cost = Cost { forwards: state[hop::QUERIES] as u64, backwards: 0 };
        Ok(Found { x, loss: -state[hop::BEST], climbed: None, status: 0, cost, claimed: None })
    }
}
