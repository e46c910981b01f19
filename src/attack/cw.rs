//! Carlini and Wagner's L2 attack: Adam in tanh space, and for each image a search for the smallest constant that works.
//! Must not know data sets or reports.
//! Carlini and Wagner 2017, <https://arxiv.org/abs/1608.04644>.

use serde_json::json;

use super::nearest::{Inputs, Sketch, check_count, check_number, check_target, start};
use super::{Attack, AttackLoss, Bound, Net, Parameters, Place, Target};
use crate::error::Result;
use crate::graph::nearest::Objective;
use crate::graph::nearest::column;
use crate::graph::{Graph, Nearest, Op, Search};
use crate::plan::Segment;
use crate::tensor::{DType, Shape};
use crate::threat::{Distance, Goal, Norm};

/// Rounds at most: the constant grows tenfold in each that fails.
pub(super) const MOST_ROUNDS: usize = 30;
/// Turns at most, which f32 counts exactly.
pub(super) const MOST_TURNS: usize = 1 << 24;

/// C&W with all its parameters: minimises `|x - x0|^2 + c * max(-margin, -kappa)` over `x = (tanh(w) + 1) / 2`.
///
/// Keeps the nearest iterate whose margin lies above `kappa`. Every decision is an image's own, so results do not depend on
/// the batch. A failure gives the clean image back.
///
/// ```no_run
/// use petard::attack::Cw;
/// use petard::{Dataset, Device, Given, Hooks, Job, Model};
/// # fn main() -> petard::Result<()> {
/// let device = Device::open("auto", &Default::default())?;
/// let model = Model::load("resnet20-cifar10", Some("weights.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &Default::default())?;
/// let job = Job::new(Cw { steps: 1000, ..Cw::new() }, 256);
/// let outcome = petard::attack::run(&device, &model, &images, &job, &Given::default(), Hooks::default())?;
/// println!("{} of {} stand at any distance", outcome.robust, outcome.images);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Cw {
    /// Steps of a round at most.
    pub steps: usize,
    /// Adam's learning rate, in tanh space.
    pub lr: f64,
    /// Rounds of the search over the constant, 1 to 30; 1 searches nothing.
    pub search_steps: usize,
    /// The first constant.
    pub initial_const: f64,
    /// Difference of logits that counts as reaching the goal.
    pub kappa: f64,
    /// Ends a round where a tenth of the steps has gained less than a ten-thousandth.
    pub abort_early: bool,
    /// What images are multiplied by before `atanh`, at most 1; at 1 black and white pixels never move.
    pub shrink: f64,
    /// What is aimed at.
    pub target: Target,
}

impl Cw {
    /// The authors' parameters: 9 rounds of 10,000 steps from 0.001.
    pub fn new() -> Self {
        Cw {
            steps: 10_000,
            lr: 0.01,
            search_steps: 9,
            initial_const: 1e-3,
            kappa: 0.0,
            abort_early: true,
            shrink: 0.999_999,
            target: Target::None,
        }
    }
    /// Those of torchattacks: 50 steps with the constant 1. Its early stop, which looks at the whole batch, is left out.
    pub fn torchattacks() -> Self {
        Cw { steps: 50, search_steps: 1, initial_const: 1.0, abort_early: false, shrink: 1.0, ..Cw::new() }
    }
    /// Those of Su et al. 2018 (<https://arxiv.org/abs/1808.01688>): 9 rounds of 1,000 steps of 0.002 from 0.01.
    pub fn su2018() -> Self {
        Cw { steps: 1000, lr: 2e-3, initial_const: 0.01, shrink: 0.999_999_5, ..Cw::new() }
    }

    fn plan(&self, net: &Net) -> Sketch {
        let (shrink, kappa) = (self.shrink as f32, self.kappa as f32);
        let mut g = Graph::new();
        let v = Inputs::new(&mut g, net, self.target != Target::None);
        let dims = [&[3], g.shape(v.x0).dims.as_slice()].concat();
        let adam = g.input("adam", Shape::per_image(&dims), DType::F32);
        g.set_scope("start");
        let first = g.push(Op::Nearest(Nearest::TanhStart { shrink }), &[v.fresh, adam, v.x0]);
        let x = g.push(Op::Nearest(Nearest::TanhImage), &[adam]);
        let [logits, margin] = v.judged(&mut g, net, x);
        let slope = v.slope(&mut g, net, [logits, x], AttackLoss::Margin);
        let search = Search {
            objective: Objective::Squared { shrink },
            steps: self.steps,
            rounds: self.search_steps,
            abort: self.abort_early,
            kappa,
            rate: self.lr as f32,
        };
        let next = g.push(Op::Nearest(Nearest::Search(search)), &[v.state, x, v.x0, margin, logits]);
        let mut carries = v.carries(&mut g, next, x, slope);
        let step = g.push(Op::Nearest(Nearest::TanhStep { shrink, kappa }), &[adam, x, v.x0, slope, margin, next]);
        carries.push((adam, step));
        Sketch {
            graph: g,
            inputs: v,
            draw: None,
            segments: vec![
                Segment { name: "begin".into(), outputs: Vec::new(), carries: vec![(adam, first)] },
                Segment { name: "attack".into(), outputs: Vec::new(), carries },
            ],
            start: start(&searched(self.initial_const)),
            turns: self.steps * self.search_steps,
            every: looks(self.steps),
            forwards: 1,
        }
    }
}

/// The columns of a search that starts.
pub(super) fn searched(constant: f64) -> [(usize, f64); 3] {
    [(column::CONSTANT, constant), (column::HIGH, f64::INFINITY), (column::BEFORE, f64::INFINITY)]
}

/// Turns between two looks: a row may sit out as many, so few against the steps of a round.
pub(super) fn looks(steps: usize) -> usize {
    (steps / 10).clamp(1, 32)
}

impl Default for Cw {
    fn default() -> Self {
        Cw::new()
    }
}

impl Attack for Cw {
    fn name(&self) -> &str {
        "cw"
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name()));
        p.insert("norm".into(), json!("l2"));
        p.insert("steps".into(), json!(self.steps));
        p.insert("lr".into(), json!(self.lr));
        p.insert("search_steps".into(), json!(self.search_steps));
        p.insert("initial_const".into(), json!(self.initial_const));
        p.insert("kappa".into(), json!(self.kappa));
        p.insert("abort_early".into(), json!(self.abort_early));
        p.insert("shrink".into(), json!(self.shrink));
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        check_number("lr", self.lr, false)?;
        check_number("initial-const", self.initial_const, false)?;
        check_number("kappa", self.kappa, true)?;
        check_number("shrink", self.shrink, false)?;
        check_number("1 - shrink", 1.0 - self.shrink, true)?;
        check_count("search-steps", self.search_steps, MOST_ROUNDS)?;
        check_count("steps", self.steps, MOST_TURNS / self.search_steps)?;
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
