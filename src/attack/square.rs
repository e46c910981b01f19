//! Square: random search that changes one window of the image at a time and keeps what raises the loss. No gradient.
//! Must not know data sets or reports.
//! Andriushchenko et al. 2020, <https://arxiv.org/abs/1912.00049>; schedule and L1 as in AutoAttack, Croce and Hein 2020,
//! <https://arxiv.org/abs/2003.01690>.

use serde_json::json;

use super::looks::Looks;
use super::{Attack, AttackLoss, Bound, Case, Found, Net, Parameters, Place, Rows, Target, Tell, drive};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Value};
use crate::outcome::Cost;
use crate::plan::Segment;
use crate::session::Session;
use crate::tensor::{DType, Shape};
use crate::threat::{Goal, Norm, ThreatModel};

/// The share of the image in a window is divided by 2, 4, 8 .. after so many proposals.
const BREAKS: [usize; 9] = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];
/// What the breaks are meant for where they are scaled.
const BREAKS_OF: usize = 10_000;

/// Square with all its parameters.
///
/// ```no_run
/// use petard::{Dataset, Device, Given, Hooks, Job, Model, ThreatModel, attack, attack::Square};
///
/// let device = Device::open("auto", &Default::default())?;
/// let model = Model::load("tiny-resnet", None)?;
/// let images = Dataset::open("synthetic", &Default::default())?;
/// let square = Square { queries: 1000, ..Square::new(ThreatModel::linf(8.0 / 255.0)) };
/// let outcome = attack::run(&device, &model, &images, &Job::new(square, 64), &Given::default(), Hooks::default())?;
/// println!("robust {:.2} %", 100.0 * outcome.robust_accuracy());
/// # Ok::<(), petard::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Square {
    /// Norm and radius.
    pub threat: ThreatModel,
    /// Proposals an image at most; the start is one query more. At least 1, at most 2^24 - 2.
    pub queries: usize,
    /// Share of the image that the first windows cover, above 0 and at most 1.
    pub p_init: f64,
    /// Independent runs; an image leaves after the first that breaks it.
    pub restarts: usize,
    /// Whether the schedule, made for 10,000 queries, is scaled to `queries`.
    pub rescale_schedule: bool,
    /// What is climbed. A proposal that breaks the image is taken whatever the loss says.
    pub loss: AttackLoss,
    /// What is aimed at.
    pub target: Target,
}

impl Square {
    /// AutoAttack's: 5,000 proposals, windows from 0.8 of the image on, one run, the margin.
    pub fn new(threat: ThreatModel) -> Self {
        Square {
            threat,
            queries: 5000,
            p_init: 0.8,
            restarts: 1,
            rescale_schedule: false,
            loss: AttackLoss::Margin,
            target: Target::None,
        }
    }
    /// The same towards a target, with cross-entropy.
    pub fn targeted(threat: ThreatModel, target: Target) -> Self {
        Square { loss: AttackLoss::CrossEntropy, target, ..Square::new(threat) }
    }

    /// Graph and values of a turn: a look at the proposal, and the next one.
    fn graph(&self, net: &Net) -> (Graph, Values) {
        let norm = self.threat.norm;
        let mut g = Graph::new();
        let [x, x0, best] = ["x", "x0", "best"].map(|name| net.image(&mut g, name));
        let state = net.state(&mut g, "state", 4);
        let [label, index, restart] = ["label", "index", "restart"].map(|name| net.row_i32(&mut g, name));
        let [fresh, eps] = ["fresh", "eps"].map(|name| net.row(&mut g, name));
        let targeted = self.target != Target::None;
        let target = targeted.then(|| net.row_i32(&mut g, "target"));
        let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
        let book = Book::of(self, net.input());
        let schedule = g.input("schedule", Shape::fixed(&[book.windows.len(), 2]), DType::I32);
        let area = book.patterns.len() / (book.windows.len() + 1);
        let patterns =
            (norm != Norm::Linf).then(|| g.input("patterns", Shape::fixed(&[book.windows.len() + 1, area]), DType::F32));
        g.set_scope("start");
        let mut from = vec![x0, index, restart, eps, seed];
        from.extend(patterns);
        let start = g.push(Op::SquareStart { norm }, &from);
        let first = g.push(Op::SelectRows, &[fresh, start, x]);
        g.set_scope("");
        let logits = net.logits(&mut g, x);
        g.set_scope("loss");
        let mut judged = vec![logits, label];
        judged.extend(target);
        let loss = g.push(Op::Loss(self.loss.on_logits(targeted, net.classes())), &judged);
        let fooled = g.push(Op::Fooled { hit: targeted }, &[logits, target.unwrap_or(label)]);
        g.set_scope("attack");
        let next_state = g.push(Op::SquareControl, &[state, loss, fooled]);
        let better = g.push(Op::Column { index: 3 }, &[next_state]);
        let next_best = g.push(Op::SelectRows, &[better, x, best]);
        let mut from = vec![x, next_best, x0, next_state, index, restart, eps, seed, schedule];
        from.extend(patterns);
        let next = g.push(Op::SquareStep { norm }, &from);
        g.set_scope("");
        let rows = [label, index, restart, fresh, eps];
        let carries = [(state, next_state), (best, next_best), (x, next)];
        (g, Values { x, x0, best, state, rows, target, seed, schedule, patterns, first, carries })
    }
}

/// The values that are written and read from outside.
#[derive(Clone, Copy, Debug)]
struct Values {
    x: Value,
    x0: Value,
    best: Value,
    state: Value,
    /// Label, index, restart, fresh, radius.
    rows: [Value; 5],
    target: Option<Value>,
    seed: Value,
    schedule: Value,
    patterns: Option<Value>,
    first: Value,
    carries: [(Value, Value); 3],
}

impl Values {
    fn segments(&self) -> Vec<Segment> {
        vec![
            Segment { name: "begin".into(), outputs: Vec::new(), carries: vec![(self.x, self.first)] },
            Segment { name: "attack".into(), outputs: Vec::new(), carries: self.carries.to_vec() },
        ]
    }
}

impl Attack for Square {
    fn name(&self) -> &str {
        "square"
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name()));
        p.insert("norm".into(), json!(self.threat.norm.name()));
        p.insert("eps".into(), json!(self.threat.eps));
        p.insert("queries".into(), json!(self.queries));
        p.insert("p_init".into(), json!(self.p_init));
        p.insert("rescale_schedule".into(), json!(self.rescale_schedule));
        p.insert("restarts".into(), json!(self.restarts));
        p.insert("loss".into(), json!(self.loss.name()));
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        let eps = self.threat.eps;
        if !(eps.is_finite() && eps > 0.0) || (self.threat.norm == Norm::Linf && eps > 1.0) {
            return Err(Error::usage(format!("`eps` is {eps}, it must be above 0, in L-inf at most 1")));
        }
        if !(self.p_init > 0.0 && self.p_init <= 1.0) {
            return Err(Error::usage(format!("`p-init` is {}, it is a share of the image: above 0, at most 1", self.p_init)));
        }
        // Counters are floats on the device.
        if self.queries == 0 || self.queries > (1 << 24) - 2 {
            return Err(Error::usage(format!("`queries` is {}, it must be from 1 to {}", self.queries, (1 << 24) - 2)));
        }
        if self.restarts == 0 || self.restarts > usize::from(u16::MAX) {
            return Err(Error::usage(format!("`restarts` is {}, it must be from 1 to {}", self.restarts, u16::MAX)));
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
        (graph, v.segments())
    }

    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        let net = place.net();
        let (graph, v) = self.graph(&net);
        let mut session = place.session(&graph, &v.segments())?;
        let book = Book::of(self, net.input());
        let schedule: Vec<i32> = book.windows.iter().flat_map(|&(from, side)| [from, side].map(small)).collect();
        session.executor().write_i32(v.seed, 0, &place.seed_words())?;
        session.executor().write_i32(v.schedule, 0, &schedule)?;
        if let Some(patterns) = v.patterns {
            session.executor().write_f32(patterns, 0, &book.patterns)?;
        }
        Ok(Box::new(BoundSquare { queries: self.queries, claims: net.claims(), session, v, looks: Looks::default() }))
    }
}

fn small(v: usize) -> i32 {
    i32::try_from(v).expect("queries and sides are far below 2^31")
}

/// Square bound to a device.
struct BoundSquare {
    queries: usize,
    claims: bool,
    session: Session,
    v: Values,
    looks: Looks,
}

impl Bound for BoundSquare {
    fn claims(&self) -> bool {
        self.claims
    }
    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        drive(self, cases, restart, tell)
    }
}

impl Rows for BoundSquare {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, restart: usize) -> Result<()> {
        let (s, v) = (&mut self.session, &self.v);
        let [label, index, number, fresh, eps] = v.rows;
        s.write_image(v.x0, at, &case.x0)?;
        s.executor().write_f32(v.state, at, &[0.0, f32::NEG_INFINITY, 0.0, 0.0])?;
        s.write_i32(label, at, case.label)?;
        s.write_i32(index, at, case.index as i32)?;
        s.write_i32(number, at, i32::try_from(restart).expect("restarts are checked to fit 16 bits"))?;
        s.write_f32(eps, at, case.eps as f32)?;
        if let Some(t) = v.target {
            s.write_i32(t, at, case.target.expect("a targeted attack has targets"))?;
        }
        s.write_f32(fresh, at, 1.0)
    }

    fn begin(&mut self, fresh: &[usize]) -> Result<()> {
        self.session.run("begin")?;
        fresh.iter().try_for_each(|&at| self.session.write_f32(self.v.rows[3], at, 0.0))
    }

    fn turn(&mut self) -> Result<()> {
        self.session.run("attack")
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        let over = |made: Option<usize>| made.is_some_and(|made| made > self.queries);
        let any_over = turns.iter().any(|&made| over(made));
        if !self.looks.due(turns) && !any_over {
            return Ok(Vec::new());
        }
        let state = self.session.read(self.v.state)?;
        let broken = |at: usize| state[4 * at + 2] != 0.0;
        Ok((0..turns.len()).filter(|&at| turns[at].is_some() && (broken(at) || over(turns[at]))).collect())
    }

    fn answer(&mut self, at: usize, case: &Case, _turns: usize) -> Result<Found> {
        let state = self.session.executor().read_f32(self.v.state, at, 1)?;
        let broken = state[2] != 0.0;
        // The clean image must not take the place of what another attack has found.
        let (x, loss) =
            if broken { (self.session.read_image(self.v.best, at)?, state[1]) } else { (case.x0.clone(), f32::NEG_INFINITY) };
        let cost = Cost { forwards: state[0] as u64, backwards: 0 };
        Ok(Found { x, loss, climbed: None, status: 0, cost, claimed: self.claims.then_some(broken) })
    }
}

/// Which windows there are, and what they look like.
struct Book {
    /// From which proposal on, and the side.
    windows: Vec<(usize, usize)>,
    /// One row each of as many values as the largest window has, then the tile of the start. Empty in L-inf.
    patterns: Vec<f32>,
}

impl Book {
    fn of(square: &Square, [_, h, w]: [usize; 3]) -> Self {
        let windows = windows(square, [h, w]);
        if square.threat.norm == Norm::Linf {
            return Book { windows, patterns: Vec::new() };
        }
        let tile = tile(h, w);
        let area = windows.iter().map(|w| w.1).chain([tile]).max().expect("there is a window").pow(2);
        let row = |side: usize| {
            let mut row = lobes(square.threat.norm, side);
            row.resize(area, 0.0);
            row
        };
        let patterns = windows.iter().map(|w| w.1).chain([tile]).flat_map(row).collect();
        Book { windows, patterns }
    }
}

/// Windows by schedule on images of `[H, W]`: from which proposal on, counted from 0, and the side.
///
/// L-inf: the rounded root of the share of the image (halves to even), at least 1. L2, L1: odd, at least 3. Never more than
/// the image has.
pub fn windows(square: &Square, [h, w]: [usize; 2]) -> Vec<(usize, usize)> {
    let least = h.min(w);
    let side = |i: usize| {
        let side = (square.p_init / f64::from(1 << i) * (h * w) as f64).sqrt().round_ties_even() as usize;
        match square.threat.norm {
            Norm::Linf => side.max(1).min(least),
            Norm::L2 | Norm::L1 if (side.max(3) | 1) <= least => side.max(3) | 1,
            Norm::L2 | Norm::L1 => least - usize::from(least.is_multiple_of(2)),
        }
    };
    let from = |i: usize| match i.checked_sub(1).map(|i| BREAKS[i]) {
        None => 0,
        // The first proposal whose number, scaled to 10,000 and rounded down, is above the break.
        Some(after) if square.rescale_schedule => ((after + 1) * square.queries).div_ceil(BREAKS_OF),
        Some(after) => after + 1,
    };
    (0..=BREAKS.len()).map(|i| (from(i), side(i))).collect()
}

/// Side of the tiles of the start.
fn tile(h: usize, w: usize) -> usize {
    (h.min(w) / 5).max(1)
}

/// The two-lobed pattern of a window in L2 and L1: nested squares around the middle of each half, the k-th weighted `1/(k+1)^2` (L1:
/// `1/(k+1)^4`), one half up, one down; of length 1.
fn lobes(norm: Norm, side: usize) -> Vec<f32> {
    let power = if norm == Norm::L1 { 4 } else { 2 };
    let length = |v: &[f64]| match norm {
        Norm::L1 => v.iter().map(|v| v.abs()).sum::<f64>(),
        _ => v.iter().map(|v| v * v).sum::<f64>().sqrt(),
    };
    // A lobe of `rows` by `side`: an element lies in every square from its distance to the middle on.
    let lobe = |rows: usize| -> Vec<f64> {
        let (middle, layers) = ([rows / 2, side / 2], rows.max(side) / 2 + 1);
        let far = |e: usize| (e / side.max(1)).abs_diff(middle[0]).max((e % side).abs_diff(middle[1]));
        let value = |e: usize| (far(e)..layers).map(|k| 1.0 / f64::from(k as u32 + 1).powi(power)).sum::<f64>();
        let values: Vec<f64> = (0..rows * side).map(value).collect();
        let size = length(&values);
        values.iter().map(|v| v / size).collect()
    };
    let upper = lobe(side / 2);
    let both: Vec<f64> = upper.into_iter().chain(lobe(side - side / 2).into_iter().map(|v| -v)).collect();
    let size = length(&both);
    both.iter().map(|v| (v / size) as f32).collect()
}
