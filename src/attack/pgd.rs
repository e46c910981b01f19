//! Projected gradient descent and its one-step relatives: one graph, whose single iteration is closed on itself.
//! Must not know data sets or reports.
//! Madry et al. 2018, <https://arxiv.org/abs/1706.06083>; Goodfellow et al. 2015 (FGSM); Tramer et al. 2018 (R-FGSM);
//! Wong et al. 2020 (FGSM-RS); Kurakin et al. 2017 (BIM).

use std::fmt;

use serde_json::json;

use super::{Case, Job, Parameters, Target};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Loss, Op, Value, vjp};
use crate::nn::{self, ModelCard};
use crate::plan::Segment;
use crate::rng::{self, Purpose, Stream};
use crate::session::{Model, Session, image_input};
use crate::tensor::{DType, Shape};
use crate::threat::{Norm, ThreatModel};

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

/// The loss an attack climbs, before it is known whether it is targeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackLoss {
    /// Cross-entropy.
    CrossEntropy,
    /// Difference between the best other logit and the label's.
    Margin,
    /// Difference of logits ratio.
    Dlr,
}

impl AttackLoss {
    /// `ce`, `margin`, `dlr`.
    pub fn name(self) -> &'static str {
        match self {
            AttackLoss::CrossEntropy => "ce",
            AttackLoss::Margin => "margin",
            AttackLoss::Dlr => "dlr",
        }
    }
    /// The loss on logits. With fewer classes than DLR needs (3, towards a target 4) the margin takes its place.
    pub(super) fn on_logits(self, targeted: bool, classes: usize) -> Loss {
        match (self, targeted) {
            (AttackLoss::CrossEntropy, false) => Loss::CrossEntropy { smoothing: 0.0 },
            (AttackLoss::CrossEntropy, true) => Loss::TargetedCrossEntropy,
            (AttackLoss::Margin, false) => Loss::Margin,
            (AttackLoss::Margin, true) => Loss::TargetedMargin,
            (AttackLoss::Dlr, false) if classes >= 3 => Loss::Dlr,
            (AttackLoss::Dlr, false) => Loss::Margin,
            (AttackLoss::Dlr, true) if classes >= 4 => Loss::TargetedDlr,
            (AttackLoss::Dlr, true) => Loss::TargetedDifference,
        }
    }
}

/// Which iterate is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last one.
    Last,
    /// The one with the highest loss, the start included.
    BestLoss,
    /// The first that reaches the goal, at which the image leaves; else the last.
    FirstSuccess,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keep::Last => "last",
            Keep::BestLoss => "best-loss",
            Keep::FirstSuccess => "first-success",
        })
    }
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

    /// All parameters, resolved, in the order they are printed.
    pub fn parameters(&self) -> Parameters {
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

    /// Refuses what cannot be run on a model with `classes` classes.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the parameter.
    pub fn check(&self, classes: usize) -> Result<()> {
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

    /// Plans the attack for `model` and binds it to `device`.
    pub(super) fn bind<'a>(&'a self, device: &Device, model: &Model, batch: usize, job: &Job) -> Result<Bound<'a>> {
        let (graph, v) = self.step_graph(&model.card);
        let (attack, judge) = v.segments();
        let mut segments = vec![attack];
        segments.extend(judge);
        let session = Session::new(device, model, &graph, &segments, batch, job.exact)?;
        Ok(Bound { pgd: self, session, v, seed: job.seed })
    }

    /// One iteration as a graph: forward, loss, gradient to the image, step; with what is kept on the side.
    pub fn step_graph(&self, card: &ModelCard) -> (Graph, StepValues) {
        let mut g = Graph::new();
        let rows = Shape::per_image(&[]);
        let x = image_input(&mut g, "x", card);
        let x0 = image_input(&mut g, "x0", card);
        let label = g.input("label", rows.clone(), DType::I32);
        let alpha = g.input("alpha", rows.clone(), DType::F32);
        let eps = g.input("eps", rows.clone(), DType::F32);
        let worst = g.input("worst", rows.clone(), DType::F32);
        let targeted = self.target != Target::None;
        let target = targeted.then(|| g.input("target", rows.clone(), DType::I32));
        let logits = nn::build(card, &mut g, x, false).logits;
        g.set_scope("loss");
        let loss = self.loss.on_logits(targeted, card.classes);
        let mut judged = vec![logits, label];
        judged.extend(target);
        let value = g.push(Op::Loss(loss), &judged);
        let cotangent = g.push(Op::LossGrad(loss), &judged);
        let grad = vjp(&mut g, logits, cotangent, &[x])[0].expect("logits depend on the image");
        g.set_scope("attack");
        let kept = (self.keep != Keep::Last).then(|| {
            let image = image_input(&mut g, "kept", card);
            let best = g.input("best", rows.clone(), DType::F32);
            let score = match self.keep {
                Keep::FirstSuccess => g.push(Op::Fooled { hit: targeted }, &[logits, target.unwrap_or(label)]),
                Keep::BestLoss | Keep::Last => value,
            };
            let better = g.push(Op::Greater, &[score, best]);
            let next_image = g.push(Op::SelectRows, &[better, x, image]);
            let next_best = g.push(Op::MaxRows, &[score, best]);
            Kept { image, best, next_image, next_best }
        });
        let status = g.push(Op::GradStatus, &[grad]);
        let next_worst = g.push(Op::MaxRows, &[status, worst]);
        let next = g.push(Op::PgdStep { norm: self.threat.norm }, &[x, x0, grad, alpha, eps]);
        (g, StepValues { x, x0, label, target, alpha, eps, loss: value, worst, next_worst, next, kept })
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
}

/// The iterate worth keeping, and how good it is.
#[derive(Clone, Copy, Debug)]
struct Kept {
    image: Value,
    best: Value,
    next_image: Value,
    next_best: Value,
}

impl StepValues {
    /// `attack` makes one step; `judge` only looks at the current iterate, and exists where one may be kept.
    pub fn segments(&self) -> (Segment, Option<Segment>) {
        let kept: Vec<(Value, Value)> = self.kept.iter().flat_map(|k| [(k.image, k.next_image), (k.best, k.next_best)]).collect();
        let mut carries = kept.clone();
        carries.extend([(self.worst, self.next_worst), (self.x, self.next)]);
        let attack = Segment { name: "attack".into(), outputs: vec![self.loss], carries };
        let judge = Segment { name: "judge".into(), outputs: vec![self.loss], carries: kept };
        (attack, self.kept.is_some().then_some(judge))
    }
}

/// A point found for one image.
pub(super) struct Found {
    pub x: Vec<f32>,
    /// Loss at the start and at the last iterate that was looked at.
    pub first_loss: f32,
    pub loss: f32,
    /// Worst gradient met: 0 ordinary, 1 all zero, 2 not finite.
    pub status: u8,
    /// Forward and input gradient, how many times.
    pub steps: usize,
}

/// The attack bound to a device.
pub(super) struct Bound<'a> {
    pgd: &'a Pgd,
    session: Session,
    v: StepValues,
    seed: u64,
}

/// What one row of the batch is busy with.
struct Row {
    case: usize,
    step: usize,
    first_loss: f32,
    loss: f32,
    /// The last iterate, while it waits for its judgement.
    last: Option<Vec<f32>>,
}

/// Called between steps with images done and image-steps made; an error ends the attack.
pub(super) type Tell<'t> = &'t mut dyn FnMut(usize, u64) -> Result<()>;

impl Bound<'_> {
    /// Attacks every case once; the answers are in the order of the cases.
    pub fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        let mut found: Vec<Option<Found>> = cases.iter().map(|_| None).collect();
        let mut rows: Vec<Option<Row>> = (0..self.session.batch()).map(|_| None).collect();
        let (mut next, mut done, mut image_steps) = (0, 0, 0u64);
        loop {
            // Refilling one by one pays only where rows leave one by one.
            if self.pgd.keep == Keep::FirstSuccess || rows.iter().all(Option::is_none) {
                for (at, row) in rows.iter_mut().enumerate() {
                    if row.is_none() && next < cases.len() {
                        self.load(at, cases[next], restart)?;
                        *row = Some(Row { case: next, step: 0, first_loss: 0.0, loss: 0.0, last: None });
                        next += 1;
                    }
                }
            }
            if rows.iter().all(Option::is_none) {
                break;
            }
            tell(done, image_steps)?;
            let all_stepped = rows.iter().flatten().all(|r| r.step >= self.pgd.steps);
            self.session.run(if all_stepped { "judge" } else { "attack" })?;
            let losses = self.session.read(self.v.loss)?;
            for (at, slot) in rows.iter_mut().enumerate() {
                let Some(row) = slot else { continue };
                image_steps += u64::from(row.step < self.pgd.steps);
                if row.step == 0 {
                    row.first_loss = losses[at];
                }
                row.loss = losses[at];
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

    /// Puts a case into a row, at its start.
    fn load(&mut self, at: usize, case: &Case, restart: usize) -> Result<()> {
        let start = self.start(case, restart);
        let (s, v) = (&mut self.session, &self.v);
        s.write_image(v.x0, at, &case.x0)?;
        s.write_image(v.x, at, &start)?;
        s.write_i32(v.label, at, case.label)?;
        if let Some(t) = v.target {
            s.write_i32(t, at, case.target.expect("a targeted attack has targets"))?;
        }
        s.write_f32(v.alpha, at, self.pgd.alpha as f32)?;
        s.write_f32(v.eps, at, self.pgd.threat.eps as f32)?;
        s.write_f32(v.worst, at, 0.0)?;
        if let Some(k) = v.kept {
            s.write_image(k.image, at, &start)?;
            let floor = if self.pgd.keep == Keep::BestLoss { f32::NEG_INFINITY } else { 0.0 };
            s.write_f32(k.best, at, floor)?;
        }
        Ok(())
    }

    fn start(&self, case: &Case, restart: usize) -> Vec<f32> {
        if let (0, Some(given)) = (restart, &case.start) {
            return given.clone();
        }
        let stream = Stream {
            seed: self.seed,
            index: case.index,
            step: 0,
            purpose: Purpose::Start,
            restart: u16::try_from(restart).expect("restarts are checked to fit 16 bits"),
        };
        let mut out = case.x0.clone();
        match self.pgd.start {
            Start::Clean => {}
            Start::Random => rng::start(self.pgd.threat.norm, self.pgd.threat.eps as f32, &stream, &case.x0, &mut out),
            Start::Sign { length } => rng::start_sign(length as f32, &stream, &case.x0, &mut out),
        }
        out
    }

    /// The answer of a row that is through, or nothing while it has steps to go.
    fn finish(&mut self, at: usize, row: &mut Row) -> Result<Option<Found>> {
        let steps = self.pgd.steps;
        let x = match (self.pgd.keep, self.v.kept) {
            (Keep::Last, _) | (_, None) => {
                if row.step < steps {
                    return Ok(None);
                }
                self.session.read_image(self.v.x, at)?
            }
            (Keep::BestLoss, Some(kept)) => {
                if row.step <= steps {
                    return Ok(None);
                }
                self.session.read_image(kept.image, at)?
            }
            (Keep::FirstSuccess, Some(kept)) => {
                if self.session.read_row(kept.best, at)? > 0.0 {
                    self.session.read_image(kept.image, at)?
                } else if let Some(last) = row.last.take() {
                    last
                } else {
                    if row.step == steps {
                        row.last = Some(self.session.read_image(self.v.x, at)?);
                    }
                    return Ok(None);
                }
            }
        };
        let status = self.session.read_row(self.v.worst, at)? as u8;
        Ok(Some(Found { x, first_loss: row.first_loss, loss: row.loss, status, steps: row.step.min(steps) }))
    }
}
