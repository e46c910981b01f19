//! What attacks share that look for the nearest adversarial image: the inputs of their graphs, and the rows of a batch, each
//! with a state of its own on the device.
//! Must not know which attack it is.

use super::{AttackLoss, Bound, Case, Found, Net, Place, Rows, Tell, drive};
use crate::error::{Error, Result};
use crate::graph::nearest::column;
use crate::graph::{Graph, Op, Value, vjp};
use crate::outcome::Cost;
use crate::plan::{Precision, Segment};
use crate::session::Session;
use crate::tensor::{DType, Shape};

/// Inputs of a graph, one entry for each row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs {
    pub x0: Value,
    pub label: Value,
    pub target: Option<Value>,
    pub state: Value,
    /// The nearest adversarial image so far.
    pub best: Value,
    /// Worst gradient met.
    pub worst: Value,
    /// 1 for rows that start now.
    pub fresh: Value,
}

impl Inputs {
    pub fn new(g: &mut Graph, net: &Net, targeted: bool) -> Self {
        let [x0, best] = ["x0", "best"].map(|name| net.image(g, name));
        let label = net.row_i32(g, "label");
        let target = targeted.then(|| net.row_i32(g, "target"));
        let [worst, fresh] = ["worst", "fresh"].map(|name| net.row(g, name));
        Inputs { x0, label, target, state: net.state(g, "state", column::COUNT), best, worst, fresh }
    }
    /// The logits of `x`, and the margin by which the goal is reached there.
    pub fn judged(&self, g: &mut Graph, net: &Net, x: Value) -> [Value; 2] {
        let logits = net.logits(g, x);
        g.set_scope("loss");
        [logits, self.push(g, net, logits, AttackLoss::Margin, false)]
    }
    /// The gradient of `loss`, which grows towards the goal, by `x`.
    pub fn slope(&self, g: &mut Graph, net: &Net, [logits, x]: [Value; 2], loss: AttackLoss) -> Value {
        let cotangent = self.push(g, net, logits, loss, true);
        let slope = vjp(g, logits, cotangent, &[x])[0].expect("logits depend on the image");
        g.set_scope("attack");
        slope
    }
    fn push(&self, g: &mut Graph, net: &Net, logits: Value, loss: AttackLoss, grad: bool) -> Value {
        let kind = loss.on_logits(self.target.is_some(), net.classes());
        let judged: Vec<Value> = [logits, self.label].into_iter().chain(self.target).collect();
        g.push(if grad { Op::LossGrad(kind) } else { Op::Loss(kind) }, &judged)
    }
    /// Carries of every attack: the state, the nearest image, which is `x` where the state says so, and the worst gradient.
    pub fn carries(&self, g: &mut Graph, next: Value, x: Value, slope: Value) -> Vec<(Value, Value)> {
        let better = g.push(Op::Column { index: column::BETTER }, &[next]);
        let best = g.push(Op::SelectRows, &[better, x, self.best]);
        let status = g.push(Op::GradStatus, &[slope]);
        let worst = g.push(Op::MaxRows, &[status, self.worst]);
        vec![(self.best, best), (self.worst, worst), (self.state, next)]
    }
}

/// Index and seed, where an attack draws random numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    pub index: Value,
    pub seed: Value,
}

impl Draw {
    pub fn new(g: &mut Graph, net: &Net) -> Self {
        Draw { index: net.row_i32(g, "index"), seed: g.input("seed", Shape::fixed(&[3]), DType::I32) }
    }
}

/// A graph with what the rows of its batch need.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    pub graph: Graph,
    pub inputs: Inputs,
    pub draw: Option<Draw>,
    /// `begin` puts fresh rows where they start, `attack` makes one turn.
    pub segments: Vec<Segment>,
    /// The state of a row that starts, but for its slack.
    pub start: [f32; column::COUNT],
    /// Turns that a row makes at most.
    pub turns: usize,
    /// Turns between two looks at which rows are through.
    pub every: usize,
    /// Forward passes of a turn.
    pub forwards: u64,
}

impl Sketch {
    pub fn bind(self, place: &Place) -> Result<Box<dyn Bound>> {
        let mut session = place.session(&self.graph, &self.segments)?;
        if let Some(draw) = self.draw {
            session.executor().write_i32(draw.seed, 0, &place.seed_words())?;
        }
        let (claims, slack) = (place.net().claims(), slack(place));
        Ok(Box::new(Seats { sketch: self, session, claims, slack }))
    }
}

/// The state of a row before its first turn, with some columns of its own.
pub(super) fn start(own: &[(usize, f64)]) -> [f32; column::COUNT] {
    let mut state = [0.0; column::COUNT];
    (state[column::ALIVE], state[column::BEST], state[column::MARGIN]) = (1.0, f32::INFINITY, f32::NEG_INFINITY);
    own.iter().for_each(|&(at, value)| state[at] = value as f32);
    state
}

/// How far logits may be from those of the verdict, in units of their spread: an image that only just reaches the goal by the
/// device's arithmetic is not believed, since the nearest would then be one that does not stand.
fn slack(place: &Place) -> f32 {
    match place.device.precision() {
        _ if place.exact => 0.0,
        Precision::F32 => 1e-5,
        Precision::Tf32 | Precision::F16 => 2e-3,
        Precision::Bf16 => 1e-2,
    }
}

/// The rows of a batch.
struct Seats {
    sketch: Sketch,
    session: Session,
    claims: bool,
    slack: f32,
}

impl Bound for Seats {
    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        drive(self, cases, restart, tell)
    }
    fn claims(&self) -> bool {
        self.claims
    }
}

impl Seats {
    fn state(&mut self, at: usize) -> Result<Vec<f32>> {
        let state = self.sketch.inputs.state;
        self.session.executor().read_f32(state, at, 1)
    }
}

impl Rows for Seats {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, _restart: usize) -> Result<()> {
        let (s, v) = (&mut self.session, &self.sketch.inputs);
        for image in [v.x0, v.best] {
            s.write_image(image, at, &case.x0)?;
        }
        s.write_i32(v.label, at, case.label)?;
        if let Some(target) = v.target {
            s.write_i32(target, at, case.target.expect("a targeted attack has targets"))?;
        }
        if let Some(draw) = self.sketch.draw {
            s.write_i32(draw.index, at, case.index as i32)?;
        }
        s.write_f32(v.worst, at, 0.0)?;
        s.write_f32(v.fresh, at, 1.0)?;
        let mut state = self.sketch.start;
        state[column::SLACK] = self.slack;
        s.executor().write_f32(v.state, at, &state)
    }

    fn begin(&mut self, fresh: &[usize]) -> Result<()> {
        self.session.run("begin")?;
        fresh.iter().try_for_each(|&at| self.session.write_f32(self.sketch.inputs.fresh, at, 0.0))
    }

    fn turn(&mut self) -> Result<()> {
        self.session.run("attack")
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        let look = |made: &usize| made.is_multiple_of(self.sketch.every) || *made >= self.sketch.turns;
        if !turns.iter().flatten().any(look) {
            return Ok(Vec::new());
        }
        let states = self.session.read(self.sketch.inputs.state)?;
        let ended = |at: &usize| turns[*at].is_some() && states[at * column::COUNT + column::ALIVE] == 0.0;
        Ok((0..turns.len()).filter(ended).collect())
    }

    fn answer(&mut self, at: usize, case: &Case, _turns: usize) -> Result<Found> {
        let state = self.state(at)?;
        let found = state[column::BEST].is_finite();
        let v = &self.sketch.inputs;
        let x = if found { self.session.read_image(v.best, at)? } else { case.x0.clone() };
        let status = self.session.read_row(v.worst, at)? as u8;
        // Turns that a row sits out until somebody looks are none of its attack's.
        let made = state[column::TURNS] as u64;
        let cost = Cost { forwards: made * self.sketch.forwards, backwards: made };
        let claimed = self.claims.then_some(found);
        Ok(Found { x, loss: state[column::MARGIN], climbed: None, status, cost, claimed })
    }
}

/// Refuses a number that is not above 0 (with `zero`: below 0) or not finite.
pub(super) fn check_number(name: &str, value: f64, zero: bool) -> Result<()> {
    if value.is_finite() && (value > 0.0 || (zero && value == 0.0)) {
        return Ok(());
    }
    Err(Error::usage(format!("`{name}` is {value}, it must be {}", if zero { "0 or more" } else { "above 0" })))
}

/// Refuses a count of 0, or of more than fits the state.
pub(super) fn check_count(name: &str, count: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(Error::usage(format!("`{name}` is {count}, it must be from 1 to {most}")))
}

/// Refuses a class that the model does not have.
pub(super) fn check_target(target: super::Target, classes: usize) -> Result<()> {
    match target {
        super::Target::Class(c) if c as usize >= classes => {
            Err(Error::usage(format!("target class {c} of a model with classes 0 to {}", classes - 1)))
        }
        _ => Ok(()),
    }
}
