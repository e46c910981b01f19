//! Projected gradient descent and its one-step relatives: one graph, whose single iteration is closed on itself.
//! Must not know data sets or reports.
//! Madry et al. 2018, <https://arxiv.org/abs/1706.06083>; Goodfellow et al. 2015 (FGSM); Tramer et al. 2018 (R-FGSM);
//! Wong et al. 2020 (FGSM-RS); Kurakin et al. 2017 (BIM).

use serde_json::json;

use super::{Attack, AttackLoss, Bound, Case, Found, Keep, Net, Parameters, Place, Target, Tell};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, StartKind, Value, vjp};
use crate::nn::ModelCard;
use crate::outcome::{Cost, Doubt};
use crate::plan::Segment;
use crate::session::Session;
use crate::tensor::{DType, Shape};
use crate::threat::{Goal, Norm, ThreatModel};

/// Where an attack starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// At the clean image.
    Clean,
    /// At random in the ball: L-inf uniform; L2 a Gaussian direction times a uniform share of eps; L1 uniform in volume.
    Random,
    /// A step of `length` along the sign of Gaussian noise (R-FGSM).
    Sign {
        /// Length in [0,1] units.
        length: f64,
    },
}

/// An iterated or one-step gradient attack with all its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Pgd {
    /// Name under which it is reported.
    pub name: &'static str,
    /// Norm and radius.
    pub threat: ThreatModel,
    /// Step size in [0,1] units: in L-inf per pixel, in L2 the length, in L1 the sum over the changed pixels.
    pub alpha: f64,
    /// Gradient steps.
    pub steps: usize,
    /// Independent runs; an image leaves after the first that breaks it.
    pub restarts: usize,
    /// Where each run starts.
    pub start: Start,
    /// What is climbed.
    pub loss: AttackLoss,
    /// What is aimed at.
    pub target: Target,
    /// Which iterate is returned.
    pub keep: Keep,
}

impl Pgd {
    /// PGD with random start, cross-entropy and one restart.
    pub fn new(threat: ThreatModel, alpha: f64, steps: usize) -> Self {
        Pgd {
            name: "pgd",
            threat,
            alpha,
            steps,
            restarts: 1,
            start: Start::Random,
            loss: AttackLoss::CrossEntropy,
            target: Target::None,
            keep: Keep::Last,
        }
    }
    /// One step of the whole radius from the clean image.
    pub fn fgsm(threat: ThreatModel) -> Self {
        Pgd { name: "fgsm", start: Start::Clean, ..Pgd::new(threat, threat.eps, 1) }
    }
    /// Half the radius along random signs, then one step of the other half (Tramer et al.; L-inf).
    pub fn r_fgsm(threat: ThreatModel) -> Self {
        Pgd { name: "r-fgsm", start: Start::Sign { length: threat.eps / 2.0 }, ..Pgd::new(threat, threat.eps / 2.0, 1) }
    }
    /// Uniform start, then one step of 1.25 times the radius (Wong et al.; L-inf).
    pub fn fgsm_rs(threat: ThreatModel) -> Self {
        Pgd { name: "fgsm-rs", ..Pgd::new(threat, 1.25 * threat.eps, 1) }
    }
    /// PGD from the clean image (I-FGSM).
    pub fn bim(threat: ThreatModel, alpha: f64, steps: usize) -> Self {
        Pgd { name: "bim", start: Start::Clean, ..Pgd::new(threat, alpha, steps) }
    }

    /// One iteration as a graph: forward, loss, gradient to the image, step; with what is kept on the side. `claims` asks
    /// for the device's own verdict on the last iterate, to be compared with that of the f32 network.
    pub fn step_graph(&self, card: &ModelCard, claims: bool) -> (Graph, StepValues) {
        self.graph(&Net::of(card, claims))
    }

    fn graph(&self, net: &Net) -> (Graph, StepValues) {
        let mut g = Graph::new();
        let [x, x0] = ["x", "x0"].map(|name| net.image(&mut g, name));
        let label = net.row_i32(&mut g, "label");
        let [alpha, eps, worst] = ["alpha", "eps", "worst"].map(|name| net.row(&mut g, name));
        let targeted = self.target != Target::None;
        let target = targeted.then(|| net.row_i32(&mut g, "target"));
        let draw = Draw::inputs(&mut g);
        g.set_scope("start");
        let start = match self.start {
            Start::Clean => x0,
            Start::Random => draw.push(&mut g, StartKind::Ball(self.threat.norm), x0),
            Start::Sign { .. } => draw.push(&mut g, StartKind::Sign, x0),
        };
        let first = g.push(Op::SelectRows, &[draw.fresh, start, x]);
        g.set_scope("");
        let logits = net.logits(&mut g, x);
        g.set_scope("loss");
        let loss = self.loss.on_logits(targeted, net.classes());
        let mut judged = vec![logits, label];
        judged.extend(target);
        let value = g.push(Op::Loss(loss), &judged);
        let cotangent = g.push(Op::LossGrad(loss), &judged);
        let grad = vjp(&mut g, logits, cotangent, &[x])[0].expect("logits depend on the image");
        g.set_scope("attack");
        let kept = (self.keep != Keep::Last).then(|| {
            let image = net.image(&mut g, "kept");
            let best = net.row(&mut g, "best");
            let score = match self.keep {
                Keep::FirstSuccess | Keep::LastSuccess => {
                    g.push(Op::Fooled { hit: targeted }, &[logits, target.unwrap_or(label)])
                }
                Keep::BestLoss | Keep::Last => value,
            };
            let better = if self.keep == Keep::LastSuccess { score } else { g.push(Op::Greater, &[score, best]) };
            let next_image = g.push(Op::SelectRows, &[better, x, image]);
            let next_best = g.push(Op::MaxRows, &[score, best]);
            let first_image = g.push(Op::SelectRows, &[draw.fresh, first, image]);
            Kept { image, best, next_image, next_best, first_image }
        });
        let status = g.push(Op::GradStatus, &[grad]);
        let next_worst = g.push(Op::MaxRows, &[status, worst]);
        let next = g.push(Op::PgdStep { norm: self.threat.norm }, &[x, x0, grad, alpha, eps]);
        let fooled = net.claims().then(|| g.push(Op::Fooled { hit: targeted }, &[logits, target.unwrap_or(label)]));
        let v = StepValues { x, x0, label, target, alpha, eps, loss: value, worst, next_worst, next, kept, draw, first, fooled };
        (g, v)
    }
}

impl Attack for Pgd {
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
        p.insert("random_start".into(), json!(self.start != Start::Clean));
        p.insert("loss".into(), json!(self.loss.name()));
        p.insert("target".into(), json!(self.target.to_string()));
        p.insert("return".into(), json!(self.keep.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        let positive = |name: &str, v: f64| {
            if v.is_finite() && v > 0.0 { Ok(()) } else { Err(Error::usage(format!("`{name}` is {v}, it must be above 0"))) }
        };
        positive("eps", self.threat.eps)?;
        positive("alpha", self.alpha)?;
        if self.threat.norm == Norm::Linf && self.threat.eps > 1.0 {
            return Err(Error::usage(format!("`eps` is {}, but images lie in [0,1]", self.threat.eps))
                .with_hint("write radii of 8-bit images as fractions: `--eps 8/255`"));
        }
        if self.steps == 0 || self.restarts == 0 {
            return Err(Error::usage("`steps` and `restarts` must be at least 1"));
        }
        if self.restarts > usize::from(u16::MAX) {
            return Err(Error::usage(format!("`restarts` is {}, at most {} are possible", self.restarts, u16::MAX)));
        }
        if let Target::Class(c) = self.target
            && c as usize >= classes
        {
            return Err(Error::usage(format!("target class {c} of a model with classes 0 to {}", classes - 1)));
        }
        Ok(())
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
    fn takes_starts(&self) -> bool {
        matches!(self.start, Start::Clean | Start::Random)
    }

    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>) {
        let (graph, v) = self.graph(net);
        let segments = v.segments();
        (graph, segments)
    }

    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        let (graph, v) = self.graph(&place.net());
        let mut session = place.session(&graph, &v.segments())?;
        session.executor().write_i32(v.draw.seed, 0, &place.seed_words())?;
        Ok(Box::new(BoundPgd { pgd: self.clone(), session, v }))
    }

    fn doubts(&self, classes: usize, given_starts: bool) -> Vec<Doubt> {
        let mut out = Vec::new();
        let mut say = |code, message: String| out.push(Doubt::new(code, message));
        let reach = self.alpha * self.steps as f64;
        if self.start == Start::Clean && !given_starts && reach < self.threat.eps * (1.0 - 1e-6) {
            say(
                "cannot-reach-eps",
                format!("{} steps of {} cannot reach the radius {}", self.steps, self.alpha, self.threat.eps),
            );
        }
        let short = if self.target == Target::None { classes < 3 } else { classes < 4 };
        if self.loss == AttackLoss::Dlr && short {
            say("few-classes", format!("DLR needs more than {classes} classes here: the margin was used in its place"));
        }
        if self.keep == Keep::Last && self.steps == 1 && self.restarts == 1 {
            say("one-step", "one step is a weak attack: robust accuracy is likely too high".into());
        }
        out
    }
}

/// The values of a step graph that are written and read from outside.
#[derive(Clone, Copy, Debug)]
pub struct StepValues {
    x: Value,
    x0: Value,
    label: Value,
    target: Option<Value>,
    alpha: Value,
    eps: Value,
    loss: Value,
    worst: Value,
    next_worst: Value,
    next: Value,
    kept: Option<Kept>,
    draw: Draw,
    first: Value,
    fooled: Option<Value>,
}

/// What random starts are drawn from, one entry an image.
#[derive(Clone, Copy, Debug)]
struct Draw {
    /// 1 for images that start now, 0 for those on their way.
    fresh: Value,
    index: Value,
    restart: Value,
    length: Value,
    seed: Value,
}

impl Draw {
    fn inputs(g: &mut Graph) -> Self {
        let rows = Shape::per_image(&[]);
        Draw {
            fresh: g.input("fresh", rows.clone(), DType::F32),
            index: g.input("index", rows.clone(), DType::I32),
            restart: g.input("restart", rows.clone(), DType::I32),
            length: g.input("length", rows, DType::F32),
            seed: g.input("seed", Shape::fixed(&[3]), DType::I32),
        }
    }
    fn push(&self, g: &mut Graph, kind: StartKind, x0: Value) -> Value {
        g.push(Op::Start { kind }, &[x0, self.index, self.restart, self.length, self.seed])
    }
}

/// The iterate worth keeping, and how good it is.
#[derive(Clone, Copy, Debug)]
struct Kept {
    image: Value,
    best: Value,
    next_image: Value,
    next_best: Value,
    first_image: Value,
}

impl StepValues {
    /// `begin` puts fresh images where they start, `attack` makes one step; `judge` only looks at the current iterate, and
    /// exists where one may be kept or the device's verdict is wanted.
    pub fn segments(&self) -> Vec<Segment> {
        let kept: Vec<(Value, Value)> = self.kept.iter().flat_map(|k| [(k.image, k.next_image), (k.best, k.next_best)]).collect();
        let mut carries = kept.clone();
        carries.extend([(self.worst, self.next_worst), (self.x, self.next)]);
        let judged: Vec<Value> = std::iter::once(self.loss).chain(self.fooled).collect();
        let first = self.kept.iter().map(|k| (k.image, k.first_image)).chain([(self.x, self.first)]).collect();
        let mut segments = vec![
            Segment { name: "begin".into(), outputs: Vec::new(), carries: first },
            Segment { name: "attack".into(), outputs: vec![self.loss], carries },
        ];
        if self.judges() {
            segments.push(Segment { name: "judge".into(), outputs: judged, carries: kept });
        }
        segments
    }

    /// Whether the last iterate is looked at too.
    fn judges(&self) -> bool {
        self.kept.is_some() || self.fooled.is_some()
    }
}

/// The attack bound to a device.
struct BoundPgd {
    pgd: Pgd,
    session: Session,
    v: StepValues,
}

/// What one row of the batch is busy with.
struct Row {
    case: usize,
    step: usize,
    first_loss: f32,
    loss: f32,
    /// The last iterate, while it waits for its judgement and other rows go on.
    last: Option<Vec<f32>>,
}

impl Bound for BoundPgd {
    fn claims(&self) -> bool {
        self.v.fooled.is_some()
    }

    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        let mut found: Vec<Option<Found>> = cases.iter().map(|_| None).collect();
        let mut rows: Vec<Option<Row>> = (0..self.session.batch()).map(|_| None).collect();
        let (mut next, mut done, mut image_steps) = (0, 0, 0u64);
        loop {
            // Refilling one by one pays only where rows leave one by one.
            if self.pgd.keep == Keep::FirstSuccess || rows.iter().all(Option::is_none) {
                let fresh: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_none()).take(cases.len() - next).collect();
                for &at in &fresh {
                    self.load(at, cases[next], restart)?;
                    rows[at] = Some(Row { case: next, step: 0, first_loss: 0.0, loss: 0.0, last: None });
                    next += 1;
                }
                self.begin(&fresh)?;
            }
            if rows.iter().all(Option::is_none) {
                break;
            }
            tell(done, image_steps)?;
            let all_stepped = rows.iter().flatten().all(|r| r.step >= self.pgd.steps);
            self.session.run(if all_stepped { "judge" } else { "attack" })?;
            // The host waits for the device only where it needs an answer.
            let losses = if self.asks(&rows) { self.session.read(self.v.loss)? } else { Vec::new() };
            for (at, slot) in rows.iter_mut().enumerate() {
                let Some(row) = slot else { continue };
                image_steps += u64::from(row.step < self.pgd.steps);
                if let Some(&loss) = losses.get(at) {
                    row.first_loss = if row.step == 0 { loss } else { row.first_loss };
                    row.loss = loss;
                }
                row.step += 1;
                if let Some(f) = self.finish(at, row)? {
                    found[row.case] = Some(f);
                    *slot = None;
                    done += 1;
                }
            }
        }
        Ok(found.into_iter().map(|f| f.expect("every case went through a row")).collect())
    }
}

impl BoundPgd {
    /// Whether some row's loss after this run is one that is reported, or may end its attack.
    fn asks(&self, rows: &[Option<Row>]) -> bool {
        let last = self.pgd.steps - usize::from(!self.v.judges());
        self.pgd.keep == Keep::FirstSuccess || rows.iter().flatten().any(|r| r.step == 0 || r.step >= last)
    }

    /// Puts a case into a row.
    fn load(&mut self, at: usize, case: &Case, restart: usize) -> Result<()> {
        let given = case.start.as_ref().filter(|_| restart == 0);
        let (s, v) = (&mut self.session, &self.v);
        s.write_image(v.x0, at, &case.x0)?;
        s.write_i32(v.label, at, case.label)?;
        if let Some(t) = v.target {
            s.write_i32(t, at, case.target.expect("a targeted attack has targets"))?;
        }
        s.write_f32(v.alpha, at, self.pgd.alpha as f32)?;
        s.write_f32(v.eps, at, case.eps as f32)?;
        let length = if let Start::Sign { .. } = self.pgd.start { case.eps / 2.0 } else { case.eps };
        s.write_f32(v.draw.length, at, length as f32)?;
        s.write_f32(v.worst, at, 0.0)?;
        s.write_i32(v.draw.index, at, case.index as i32)?;
        s.write_i32(v.draw.restart, at, i32::try_from(restart).expect("restarts are checked to fit 16 bits"))?;
        s.write_f32(v.draw.fresh, at, if given.is_some() { 0.0 } else { 1.0 })?;
        if let Some(start) = given {
            s.write_image(v.x, at, start)?;
        }
        if let Some(k) = v.kept {
            if let Some(start) = given {
                s.write_image(k.image, at, start)?;
            }
            let floor = if self.pgd.keep == Keep::BestLoss { f32::NEG_INFINITY } else { 0.0 };
            s.write_f32(k.best, at, floor)?;
        }
        Ok(())
    }

    /// Puts freshly loaded rows where they start; the others stay where they are.
    fn begin(&mut self, fresh: &[usize]) -> Result<()> {
        if fresh.is_empty() {
            return Ok(());
        }
        self.session.run("begin")?;
        fresh.iter().try_for_each(|&at| self.session.write_f32(self.v.draw.fresh, at, 0.0))
    }

    /// The answer of a row that is through, or nothing while it has steps to go.
    fn finish(&mut self, at: usize, row: &mut Row) -> Result<Option<Found>> {
        let steps = self.pgd.steps;
        let over = row.step >= steps + usize::from(self.v.judges());
        let (x, claimed) = match (self.pgd.keep, self.v.kept) {
            (Keep::FirstSuccess, Some(kept)) => {
                let hit = self.session.read_row(kept.best, at)? > 0.0;
                let x = match row.last.take() {
                    _ if hit => self.session.read_image(kept.image, at)?,
                    Some(last) => last,
                    None => {
                        if row.step == steps {
                            row.last = Some(self.session.read_image(self.v.x, at)?);
                        }
                        return Ok(None);
                    }
                };
                (x, Some(hit))
            }
            _ if !over => return Ok(None),
            (Keep::LastSuccess, Some(kept)) => {
                let hit = self.session.read_row(kept.best, at)? > 0.0;
                (self.session.read_image(if hit { kept.image } else { self.v.x }, at)?, Some(hit))
            }
            (Keep::BestLoss, Some(kept)) => (self.session.read_image(kept.image, at)?, None),
            _ => {
                let verdict = self.v.fooled.map(|f| self.session.read_row(f, at)).transpose()?;
                (self.session.read_image(self.v.x, at)?, verdict.map(|v| v > 0.0))
            }
        };
        let status = self.session.read_row(self.v.worst, at)? as u8;
        let made = row.step.min(steps);
        let climbed = (made > 1).then_some((row.first_loss, row.loss));
        let looks = u64::from(self.v.judges());
        let cost = Cost { forwards: made as u64 + looks, backwards: made as u64 };
        Ok(Some(Found { x, loss: row.loss, climbed, status, cost, claimed }))
    }
}
