//! The elastic-net attack (EAD): FISTA towards few and small changes, with C&W's search over the constant.
//! Must not know data sets or reports.
//! Chen et al. 2018, <https://arxiv.org/abs/1709.04114>.

use serde_json::json;

use super::cw::{MOST_ROUNDS, MOST_TURNS, looks, searched};
use super::nearest::{Inputs, Sketch, check_count, check_number, check_target, start};
use super::{Attack, AttackLoss, Bound, Net, Parameters, Place, Target};
use crate::error::Result;
use crate::graph::nearest::Objective;
use crate::graph::nearest::column;
use crate::graph::{Graph, Nearest, Op, Search};
use crate::plan::Segment;
use crate::threat::{Distance, Goal, Norm};

/// By what EAD calls an adversarial image nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The elastic net: `L2^2 + beta * L1`.
    En,
    /// L1.
    L1,
}

impl Rule {
    /// `en`, `l1`.
    pub fn name(self) -> &'static str {
        match self {
            Rule::En => "en",
            Rule::L1 => "l1",
        }
    }
}

/// EAD with all its parameters: minimises `c * max(-margin, -kappa) + |x - x0|^2 + beta * |x - x0|_1`.
///
/// Both sequences of FISTA go back to the image in every round. A turn is two forward passes (at FISTA's point and at the
/// iterate, which is judged) and one gradient. A failure gives the clean image back.
///
/// ```no_run
/// use petard::attack::{Ead, Rule};
/// use petard::{Dataset, Device, Given, Hooks, Job, Model};
/// # fn main() -> petard::Result<()> {
/// let device = Device::open("auto", &Default::default())?;
/// let model = Model::load("resnet20-cifar10", Some("weights.safetensors".as_ref()))?;
/// let images = Dataset::open("cifar10:data", &Default::default())?;
/// let job = Job::new(Ead { rule: Rule::L1, ..Ead::new() }, 256);
/// let outcome = petard::attack::run(&device, &model, &images, &job, &Given::default(), Hooks::default())?;
/// println!("{:?}", outcome.per_image.l1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Ead {
    /// Which success is kept.
    pub rule: Rule,
    /// Weight of L1, and how far values are shrunk in each step.
    pub beta: f64,
    /// Steps of a round at most.
    pub steps: usize,
    /// Step size at the start of a round; it falls with the square root of the steps left.
    pub lr: f64,
    /// Rounds of the search over the constant, 1 to 30; 1 searches nothing.
    pub search_steps: usize,
    /// The first constant.
    pub initial_const: f64,
    /// Difference of logits that counts as reaching the goal.
    pub kappa: f64,
    /// Ends a round where a tenth of the steps has gained less than a ten-thousandth.
    pub abort_early: bool,
    /// What is aimed at.
    pub target: Target,
}

impl Ead {
    /// The authors' parameters: 9 rounds of 1,000 steps from 0.001, beta 0.001, the elastic net's rule.
    pub fn new() -> Self {
        Ead {
            rule: Rule::En,
            beta: 1e-3,
            steps: 1000,
            lr: 0.01,
            search_steps: 9,
            initial_const: 1e-3,
            kappa: 0.0,
            abort_early: true,
            target: Target::None,
        }
    }
    /// Those of foolbox: 9 rounds of 10,000 steps, beta 0.01.
    pub fn foolbox() -> Self {
        Ead { steps: 10_000, beta: 1e-2, ..Ead::new() }
    }
    /// Those of torchattacks: 9 rounds of 100 steps.
    pub fn torchattacks() -> Self {
        Ead { steps: 100, ..Ead::new() }
    }
    /// Those of Su et al. 2018 (<https://arxiv.org/abs/1808.01688>): 9 rounds of 1,000 steps from 0.01, the rule of L1.
    pub fn su2018() -> Self {
        Ead { rule: Rule::L1, initial_const: 0.01, ..Ead::new() }
    }

    fn plan(&self, net: &Net) -> Sketch {
        let (beta, kappa) = (self.beta as f32, self.kappa as f32);
        let mut g = Graph::new();
        let v = Inputs::new(&mut g, net, self.target != Target::None);
        let [x, y] = ["x", "y"].map(|name| net.image(&mut g, name));
        g.set_scope("start");
        let first = [x, y].map(|image| (image, g.push(Op::SelectRows, &[v.fresh, v.x0, image])));
        let [seen, lead] = v.judged(&mut g, net, y);
        let slope = v.slope(&mut g, net, [seen, y], AttackLoss::Margin);
        let iterate = g.push(Op::Nearest(Nearest::Shrink { beta, kappa }), &[y, v.x0, slope, lead, v.state]);
        let [logits, margin] = v.judged(&mut g, net, iterate);
        g.set_scope("attack");
        let search = Search {
            objective: if self.rule == Rule::L1 { Objective::L1 { beta } } else { Objective::ElasticNet { beta } },
            steps: self.steps,
            rounds: self.search_steps,
            abort: self.abort_early,
            kappa,
            rate: self.lr as f32,
        };
        let next = g.push(Op::Nearest(Nearest::Search(search)), &[v.state, iterate, v.x0, margin, logits]);
        let mut carries = v.carries(&mut g, next, iterate, slope);
        let ahead = g.push(Op::Nearest(Nearest::Momentum), &[iterate, x, v.x0, next]);
        let restart = g.push(Op::Column { index: column::RESTART }, &[next]);
        let here = g.push(Op::SelectRows, &[restart, v.x0, iterate]);
        carries.extend([(y, ahead), (x, here)]);
        Sketch {
            graph: g,
            inputs: v,
            draw: None,
            segments: vec![
                Segment { name: "begin".into(), outputs: Vec::new(), carries: first.to_vec() },
                Segment { name: "attack".into(), outputs: Vec::new(), carries },
            ],
            start: start(&[searched(self.initial_const).as_slice(), &[(column::RATE, self.lr)]].concat()),
            turns: self.steps * self.search_steps,
            every: looks(self.steps),
            forwards: 2,
        }
    }
}

impl Default for Ead {
    fn default() -> Self {
        Ead::new()
    }
}

impl Attack for Ead {
    fn name(&self) -> &str {
        "ead"
    }

    fn parameters(&self) -> Parameters {
        let mut p = Parameters::new();
        p.insert("name".into(), json!(self.name()));
        p.insert("rule".into(), json!(self.rule.name()));
        p.insert("beta".into(), json!(self.beta));
        p.insert("steps".into(), json!(self.steps));
        p.insert("lr".into(), json!(self.lr));
        p.insert("search_steps".into(), json!(self.search_steps));
        p.insert("initial_const".into(), json!(self.initial_const));
        p.insert("kappa".into(), json!(self.kappa));
        p.insert("abort_early".into(), json!(self.abort_early));
        p.insert("target".into(), json!(self.target.to_string()));
        p
    }

    fn check(&self, classes: usize) -> Result<()> {
        check_number("lr", self.lr, false)?;
        check_number("initial-const", self.initial_const, false)?;
        check_number("kappa", self.kappa, true)?;
        check_number("beta", self.beta, true)?;
        check_count("search-steps", self.search_steps, MOST_ROUNDS)?;
        check_count("steps", self.steps, MOST_TURNS / self.search_steps)?;
        check_target(self.target, classes)
    }

    fn goal(&self) -> Goal {
        Goal::Nearest(Distance::Norm(Norm::L1))
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
