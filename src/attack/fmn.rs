//! Fast minimum-norm (FMN): follows the boundary in a ball that shrinks where it is crossed and grows where it is lost.
//! Must not know data sets or reports.
//! Pintor et al. 2021, <https://arxiv.org/abs/2102.12827>.

use serde_json::json;

use super::cw::MOST_TURNS;
use super::nearest::{Draw, Inputs, Sketch, check_count, check_number, check_target, start};
use super::{Attack, AttackLoss, Bound, Net, Parameters, Place, Target};
use crate::error::{Error, Result};
use crate::graph::nearest::column;
use crate::graph::{Follow, Graph, Nearest, Op};
use crate::plan::Segment;
use crate::threat::{Distance, Goal};

/// FMN with all its parameters. A failure gives the clean image back.
///
/// In L0 the radius changes by at least one value a step, as the authors' code does it; elsewhere it starts where the linear
/// model of the margin crosses zero. Steps have their length in L2 whatever the distance.
///
/// ```no_run
/// use petard::attack::Fmn;
/// use petard::threat::{Distance, Norm};
/// use petard::{Dataset, Device, Given, Hooks, Job, Model};
/// # fn main() -> petard::Result<()> {
/// let device = Device::open("auto", &Default::default())?;
/// let model = Model::load("resnet20-cifar10", Some("weights.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &Default::default())?;
/// let job = Job::new(Fmn::new(Distance::Norm(Norm::Linf)), 256);
/// let outcome = petard::attack::run(&device, &model, &images, &job, &Given::default(), Hooks::default())?;
/// println!("{:?}", outcome.per_image.linf);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Fmn {
    /// What is made small.
    pub distance: Distance,
    /// Steps.
    pub steps: usize,
    /// Length of the first step, in L2; it falls to a hundredth.
    pub lr: f64,
    /// How fast the radius changes at first, below 1; it falls to 0.001.
    pub gamma: f64,
    /// What is aimed at.
    pub target: Target,
}

impl Fmn {
    /// 100 steps, the first of length 1; gamma 0.05.
    pub fn new(distance: Distance) -> Self {
        Fmn { distance, steps: 100, lr: 1.0, gamma: 0.05, target: Target::None }
    }
}

/// The graph of an attack that follows the boundary, by the gradient of `loss`, from `radius`.
pub(super) fn plan(net: &Net, follow: Follow, loss: AttackLoss, target: Target, radius: f64) -> Sketch {
    let mut g = Graph::new();
    let v = Inputs::new(&mut g, net, target != Target::None);
    let draw = Draw::new(&mut g, net);
    let x = net.image(&mut g, "x");
    g.set_scope("start");
    let first = g.push(Op::SelectRows, &[v.fresh, v.x0, x]);
    let [logits, margin] = v.judged(&mut g, net, x);
    let slope = v.slope(&mut g, net, [logits, x], loss);
    let next = g.push(Op::Nearest(Nearest::Follow(follow)), &[v.state, x, v.x0, slope, margin, logits]);
    let mut carries = v.carries(&mut g, next, x, slope);
    let step = g.push(Op::Nearest(Nearest::FollowStep(follow)), &[x, v.x0, slope, next, draw.index, draw.seed]);
    carries.push((x, step));
    Sketch {
        graph: g,
        inputs: v,
        draw: Some(draw),
        segments: vec![
            Segment { name: "begin".into(), outputs: Vec::new(), carries: vec![(x, first)] },
            Segment { name: "attack".into(), outputs: Vec::new(), carries },
        ],
        start: start(&[(column::RADIUS, radius)]),
        turns: follow.steps,
        every: follow.steps,
        forwards: 1,
    }
}

/// Refuses what neither DDN nor FMN can be run with.
pub(super) fn check(steps: usize, lr: f64, gamma: f64) -> Result<()> {
    check_count("steps", steps, MOST_TURNS)?;
    check_number("lr", lr, false)?;
    check_number("gamma", gamma, false)?;
    if gamma >= 1.0 {
        return Err(Error::usage(format!("`gamma` is {gamma}, it must be below 1")));
    }
    Ok(())
}

impl Attack for Fmn {
    fn name(&self) -> &str {
        "fmn"
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name()));
        p.insert("norm".into(), json!(self.distance.name()));
        p.insert("steps".into(), json!(self.steps));
        p.insert("lr".into(), json!(self.lr));
        p.insert("gamma".into(), json!(self.gamma));
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        check(self.steps, self.lr, self.gamma)?;
        check_target(self.target, classes)
    }

    fn goal(&self) -> Goal {
        Goal::Nearest(self.distance)
    }
    fn target(&self) -> Target {
        self.target
    }
    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>) {
        let sketch = self.plan(net);
        (sketch.graph, sketch.segments)
    }
    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>> {
        self.plan(&place.net()).bind(place)
    }
}

impl Fmn {
    fn plan(&self, net: &Net) -> Sketch {
        let (steps, rate, gamma) = (self.steps, self.lr as f32, self.gamma as f32);
        let follow = Follow { decoupled: false, distance: self.distance, steps, rate, gamma };
        let radius = if self.distance == Distance::L0 { 1.0 } else { f64::INFINITY };
        plan(net, follow, AttackLoss::Margin, self.target, radius)
    }
}
