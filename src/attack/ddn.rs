//! Decoupled direction and norm (DDN): steps on a sphere that shrinks where the image is adversarial and grows where not.
//! Must not know data sets or reports.
//! Rony et al. 2019, <https://arxiv.org/abs/1811.09600>.

use serde_json::json;

use super::fmn::{check, plan};
use super::nearest::{Sketch, check_number, check_target};
use super::{Attack, AttackLoss, Bound, Net, Parameters, Place, Target};
use crate::error::Result;
use crate::graph::{Follow, Graph};
use crate::plan::Segment;
use crate::threat::{Distance, Goal, Norm};

/// DDN with all its parameters; in L2. A failure gives the clean image back.
///
/// ```no_run
/// use petard::attack::Ddn;
/// use petard::{Dataset, Device, Given, Hooks, Job, Model};
/// # fn main() -> petard::Result<()> {
/// let device = Device::open("auto", &Default::default())?;
/// let model = Model::load("resnet20-cifar10", Some("weights.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &Default::default())?;
/// let outcome =
///     petard::attack::run(&device, &model, &images, &Job::new(Ddn::new(), 256), &Given::default(), Hooks::default())?;
/// println!("{:?}", outcome.per_image.l2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Ddn {
    /// Steps.
    pub steps: usize,
    /// Length of the first step; it falls to a hundredth.
    pub lr: f64,
    /// The first radius.
    pub eps: f64,
    /// How fast the radius changes, below 1.
    pub gamma: f64,
    /// What is aimed at.
    pub target: Target,
}

impl Ddn {
    /// 100 steps, the first of length 1, from radius 1; gamma 0.05.
    pub fn new() -> Self {
        Ddn { steps: 100, lr: 1.0, eps: 1.0, gamma: 0.05, target: Target::None }
    }

    fn plan(&self, net: &Net) -> Sketch {
        let (steps, rate, gamma) = (self.steps, self.lr as f32, self.gamma as f32);
        let follow = Follow { decoupled: true, distance: Distance::Norm(Norm::L2), steps, rate, gamma };
        plan(net, follow, AttackLoss::CrossEntropy, self.target, self.eps)
    }
}

impl Default for Ddn {
    fn default() -> Self {
        Ddn::new()
    }
}

impl Attack for Ddn {
    fn name(&self) -> &str {
        "ddn"
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name()));
        p.insert("norm".into(), json!("l2"));
        p.insert("steps".into(), json!(self.steps));
        p.insert("lr".into(), json!(self.lr));
        p.insert("eps".into(), json!(self.eps));
        p.insert("gamma".into(), json!(self.gamma));
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        check(self.steps, self.lr, self.gamma)?;
        check_number("eps", self.eps, false)?;
        check_target(self.target, classes)
    }

    fn goal(&self) -> Goal {
        Goal::Nearest(Distance::Norm(Norm::L2))
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
