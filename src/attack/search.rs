//! Steps along the signs of gradients at one radius after the other, bisected for each image: the smallest radius that works.
//! Must not know data sets or reports.
//! I-FGSM with the search of Su et al. 2018, <https://arxiv.org/abs/1808.01688>.

use serde_json::json;

use super::rows::{Rows, drive};
use super::{Attack, AttackLoss, Bound, Case, Found, Net, Parameters, Place, Target, Tell};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Value, vjp};
use crate::outcome::{Cost, Doubt};
use crate::plan::Segment;
use crate::session::Session;
use crate::threat::{Distance, Goal, Norm};

/// For each image: `steps` steps of `radius / steps` from the clean image in the L-inf ball; after a success the radius moves
/// half way to the largest that failed (to its half where none did), after a failure half way to the smallest that succeeded
/// (to its double where none did). The last success is the answer. One attempt is I-FGSM at a fixed radius.
///
/// ```no_run
/// use petard::attack::{self, RadiusSearch};
/// use petard::{Dataset, Device, Given, Hooks, Job, Model};
///
/// # fn main() -> petard::Result<()> {
/// let model = Model::load("resnet20-cifar10", Some("weights.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &Default::default())?;
/// let device = Device::open("auto", &Default::default())?;
/// let outcome =
///     attack::run(&device, &model, &images, &Job::new(RadiusSearch::new(), 64), &Given::default(), Hooks::default())?;
/// println!("{} images broken", outcome.per_image.success.iter().filter(|s| **s).count());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RadiusSearch {
    /// The first radius in [0,1] units.
    pub eps: f64,
    /// Radii that are tried.
    pub attempts: usize,
    /// Steps at each radius.
    pub steps: usize,
    /// What is climbed.
    pub loss: AttackLoss,
    /// What is aimed at.
    pub target: Target,
}

impl Default for RadiusSearch {
    fn default() -> Self {
        RadiusSearch::new()
    }
}

impl RadiusSearch {
    /// Nine radii from 0.02 on, 50 steps at each, on the logit itself.
    pub fn new() -> Self {
        RadiusSearch { eps: 0.02, attempts: 9, steps: 50, loss: AttackLoss::Logit, target: Target::None }
    }

    fn graph(&self, net: &Net) -> (Graph, Values) {
        let mut g = Graph::new();
        let [x, x0, kept] = ["x", "x0", "kept"].map(|name| net.image(&mut g, name));
        let label = net.row_i32(&mut g, "label");
        let targeted = self.target != Target::None;
        let target = targeted.then(|| net.row_i32(&mut g, "target"));
        let [alpha, eps, worst] = ["alpha", "eps", "worst"].map(|name| net.row(&mut g, name));
        let logits = net.logits(&mut g, x);
        g.set_scope("loss");
        let loss = self.loss.on_logits(targeted, net.classes());
        let judged: Vec<Value> = [logits, label].into_iter().chain(target).collect();
        let cotangent = g.push(Op::LossGrad(loss), &judged);
        let value = g.push(Op::Loss(loss), &judged);
        let grad = vjp(&mut g, logits, cotangent, &[x])[0].expect("logits depend on the image");
        g.set_scope("attack");
        let status = g.push(Op::GradStatus, &[grad]);
        let next_worst = g.push(Op::MaxRows, &[status, worst]);
        let next = g.push(Op::PgdStep { norm: Norm::Linf }, &[x, x0, grad, alpha, eps]);
        let fooled = g.push(Op::Fooled { hit: targeted }, &[logits, target.unwrap_or(label)]);
        let next_kept = g.push(Op::SelectRows, &[fooled, x, kept]);
        let first = g.push(Op::Scale { factor: 1.0 }, &[x0]);
        let segment = |name: &str, outputs, carries| Segment { name: name.into(), outputs, carries };
        let segments = vec![
            segment("begin", vec![], vec![(x, first), (kept, first)]),
            segment("again", vec![], vec![(x, first)]),
            segment("step", vec![], vec![(worst, next_worst), (x, next)]),
            segment("judge", vec![fooled, value], vec![(kept, next_kept)]),
        ];
        (g, Values { x0, kept, label, target, alpha, eps, worst, fooled, loss: value, segments })
    }
}

impl Attack for RadiusSearch {
    fn name(&self) -> &str {
        "ifgsm-search"
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name()));
        p.insert("norm".into(), json!(Norm::Linf.name()));
        p.insert("eps".into(), json!(self.eps));
        p.insert("search_steps".into(), json!(self.attempts));
        p.insert("steps".into(), json!(self.steps));
        p.insert("loss".into(), json!(self.loss.name()));
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        if !(self.eps > 0.0 && self.eps <= 1.0) {
            return Err(Error::usage(format!("`eps` is {}, it must be above 0 and at most 1", self.eps)));
        }
        if self.attempts == 0 || self.steps == 0 {
            return Err(Error::usage("`search-steps` and `steps` must be at least 1"));
        }
        match self.target {
            Target::Class(c) if c as usize >= classes => {
                Err(Error::usage(format!("target class {c} of a model with classes 0 to {}", classes - 1)))
            }
            _ => Ok(()),
        }
    }

    fn goal(&self) -> Goal {
        Goal::Nearest(Distance::Norm(Norm::Linf))
    }
    fn target(&self) -> Target {
        self.target
    }
    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>) {
        let (graph, v) = self.graph(net);
        (graph, v.segments)
    }
    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        let (graph, v) = self.graph(&place.net());
        let session = place.session(&graph, &v.segments)?;
        let radii = vec![Radius::new(self.eps); place.batch];
        Ok(Box::new(BoundSearch { attack: self.clone(), session, v, radii }))
    }
    fn doubts(&self, _classes: usize, _given_starts: bool) -> Vec<Doubt> {
        Vec::new()
    }
}

/// The radius that is tried next, and what is known of others.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Radius {
    eps: f64,
    failed: Option<f64>,
    succeeded: Option<f64>,
}

impl Radius {
    fn new(eps: f64) -> Self {
        Radius { eps, failed: None, succeeded: None }
    }
    fn after(self, success: bool) -> Self {
        let eps = self.eps;
        if success {
            let next = self.failed.map_or(0.5 * eps, |failed| 0.5 * (eps + failed));
            Radius { eps: next, succeeded: Some(eps), ..self }
        } else {
            let next = self.succeeded.map_or(2.0 * eps, |succeeded| 0.5 * (eps + succeeded));
            Radius { eps: next, failed: Some(eps), ..self }
        }
    }
}

/// The values of the graph that are written and read from outside, and what is run.
struct Values {
    x0: Value,
    kept: Value,
    label: Value,
    target: Option<Value>,
    alpha: Value,
    eps: Value,
    worst: Value,
    fooled: Value,
    loss: Value,
    segments: Vec<Segment>,
}

/// The search bound to a device. A turn is an attempt of every row; between turns the host reads a verdict for each row and writes
/// its next radius.
struct BoundSearch {
    attack: RadiusSearch,
    session: Session,
    v: Values,
    radii: Vec<Radius>,
}

impl Bound for BoundSearch {
    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        drive(self, cases, restart, tell)
    }
}

impl Rows for BoundSearch {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, _restart: usize) -> Result<()> {
        let (s, v) = (&mut self.session, &self.v);
        s.write_image(v.x0, at, &case.x0)?;
        s.write_i32(v.label, at, case.label)?;
        if let Some(target) = v.target {
            s.write_i32(target, at, case.target.expect("a targeted attack has targets"))?;
        }
        self.radii[at] = Radius::new(self.attack.eps);
        s.write_f32(v.worst, at, 0.0)
    }

    fn begin(&mut self, _fresh: &[usize]) -> Result<()> {
        self.session.run("begin")
    }

    fn turn(&mut self) -> Result<()> {
        let (s, v) = (&mut self.session, &self.v);
        let radii = self.radii.iter().map(|r| r.eps as f32);
        let steps = self.radii.iter().map(|r| (r.eps / self.attack.steps as f64) as f32);
        s.executor().write_f32(v.eps, 0, &radii.collect::<Vec<f32>>())?;
        s.executor().write_f32(v.alpha, 0, &steps.collect::<Vec<f32>>())?;
        s.run("again")?;
        (0..self.attack.steps).try_for_each(|_| s.run("step"))?;
        s.run("judge")?;
        let verdicts = s.read(v.fooled)?;
        self.radii.iter_mut().zip(verdicts).for_each(|(radius, fooled)| *radius = radius.after(fooled > 0.0));
        Ok(())
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        Ok((0..turns.len()).filter(|&at| turns[at] == Some(self.attack.attempts)).collect())
    }

    fn answer(&mut self, at: usize, _case: &Case, turns: usize) -> Result<Found> {
        let x = self.session.read_image(self.v.kept, at)?;
        let loss = self.session.read_row(self.v.loss, at)?;
        let status = self.session.read_row(self.v.worst, at)? as u8;
        let (steps, turns) = (self.attack.steps as u64, turns as u64);
        let cost = Cost { forwards: turns * (steps + 1), backwards: turns * steps };
        Ok(Found { x, loss, climbed: None, status, cost, claimed: None })
    }

    fn steps_a_turn(&self) -> u64 {
        self.attack.steps as u64
    }

    fn refills(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn radii_are_bisected() {
        let walk = |verdicts: &[bool]| verdicts.iter().fold(Radius::new(0.02), |r, &success| r.after(success)).eps;
        assert_eq!(walk(&[true, true]), 0.005, "halved until one fails");
        assert_eq!(walk(&[false, false]), 0.08, "doubled until one succeeds");
        assert_eq!(walk(&[false, true]), 0.5 * (0.04 + 0.02));
        assert_eq!(walk(&[true, false]), 0.5 * (0.01 + 0.02));
        assert_eq!(walk(&[true, false, true]), 0.5 * (0.015 + 0.01));
    }
}
