//! Which ops are measured: every distinct one that an attack on, or a training step of, the shipped networks runs.
//! Must not know how an op is run or timed.

use petard::graph::nearest::column;
use petard::graph::{ApgdRule, Follow, Graph, Loss, Nearest, Objective, Op, Plane, Role, Search, Value, hop, vjp};
use petard::nn::{self, ModelCard};
use petard::session::image_input;
use petard::tensor::{DType, Shape};
use petard::threat::{Distance, Norm};

use crate::STEMS;

/// Networks with the batch they are measured at. The first that has an op stands for the others in a quick run.
const CARDS: [(&str, usize); 4] = [("resnet18-cifar10", 64), ("vgg16-bn-cifar10", 64), ("resnet20-cifar10", 64), ("resnet50", 8)];

/// One op as a graph of its own.
pub struct Case {
    /// Stem and op: `conv.fprop`.
    pub name: &'static str,
    /// `n64.c64.32x32.k64.r3`.
    pub shape: String,
    pub graph: Graph,
    /// The op's inputs, in its order.
    pub leaves: Vec<Value>,
    pub output: Value,
    /// What falls out beside it, as in the networks: a ReLU's mask, a max-pool's winners.
    pub side: Option<Value>,
    pub batch: usize,
    card: usize,
}

/// An op where it stands in a network, for the stems to name.
pub struct Site<'a> {
    pub graph: &'a Graph,
    pub value: Value,
    pub batch: usize,
}

impl Site<'_> {
    pub fn op(&self) -> &Op {
        &self.graph.node(self.value).op
    }
    /// Shape of input `i`.
    pub fn input(&self, i: usize) -> &Shape {
        self.graph.shape(self.graph.node(self.value).inputs[i])
    }
    /// `n64.32x32.c64` of a batched shape.
    pub fn text(&self, shape: &Shape) -> String {
        let n = self.batch;
        match shape.dims[..] {
            [h, w, c] => format!("n{n}.{h}x{w}.c{c}"),
            [c] => format!("n{n}.c{c}"),
            _ => format!("n{n}"),
        }
    }
}

/// All cases in the order of the cards; without `everything` those that tell most.
pub fn cases(everything: bool) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (card, (name, batch)) in CARDS.into_iter().enumerate() {
        let model = ModelCard::find(name).unwrap_or_else(|e| panic!("a shipped card: {e}"));
        for graph in [attack_graph(&model), training_graph(&model), spectral_graph(&model)] {
            for value in graph.values() {
                let site = Site { graph: &graph, value, batch };
                let Some((name, shape)) = STEMS.iter().find_map(|describe| describe(&site)) else { continue };
                if !cases.iter().any(|c| (c.name, &c.shape) == (name, &shape)) {
                    cases.push(Case::of(&site, name, shape, card));
                }
            }
        }
    }
    if everything { cases } else { quick(cases) }
}

/// Of each op the first network's layers; where only memory is moved, the largest of them.
fn quick(cases: Vec<Case>) -> Vec<Case> {
    let first = |c: &Case| cases.iter().find(|o| o.name == c.name).map(|o| o.card) == Some(c.card);
    let computes = |c: &Case| c.name.starts_with("conv.") || c.name.starts_with("gemm.");
    let largest = |c: &Case| cases.iter().filter(|o| o.name == c.name && first(o)).all(|o| o.bytes() <= c.bytes());
    let keep: Vec<bool> = cases.iter().map(|c| first(c) && (computes(c) || largest(c))).collect();
    cases.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(c, _)| c).collect()
}

impl Case {
    /// Copies the op into a graph of its own: parameters stay parameters, everything else becomes an input.
    fn of(site: &Site, name: &'static str, shape: String, card: usize) -> Case {
        let mut graph = Graph::new();
        let node = site.graph.node(site.value);
        let mut leaves = Vec::new();
        for (i, &v) in node.inputs.iter().enumerate() {
            let input = site.graph.node(v);
            leaves.push(match &input.op {
                Op::Param { name, role } => graph.param(name, &input.shape.dims, *role),
                _ => graph.input(&format!("in{i}"), input.shape.clone(), input.dtype),
            });
        }
        let output = graph.push(node.op.clone(), &leaves);
        let side = match &node.op {
            Op::Relu { cap } => Some(graph.push(Op::ReluMask { cap: *cap }, &[output])),
            Op::MaxPool(pool) => Some(graph.push(Op::MaxPoolIndex(*pool), &[leaves[0]])),
            _ => None,
        };
        Case { name, shape, graph, leaves, output, side, batch: site.batch, card }
    }

    pub fn op(&self) -> &Op {
        &self.graph.node(self.output).op
    }
    /// Bytes of everything read and written, once each.
    pub fn bytes(&self) -> usize {
        let all = self.leaves.iter().chain([&self.output]).chain(&self.side);
        all.map(|&v| self.graph.shape(v).bytes(self.graph.node(v).dtype, self.batch)).sum()
    }
}

/// One step of PGD with every loss and norm.
fn attack_graph(card: &ModelCard) -> Graph {
    let mut g = Graph::new();
    let rows = Shape::per_image(&[]);
    let (x, x0) = (image_input(&mut g, "x", card), image_input(&mut g, "x0", card));
    let label = g.input("label", rows.clone(), DType::I32);
    let [alpha, eps] = ["alpha", "eps"].map(|name| g.input(name, rows.clone(), DType::F32));
    let state = g.input("state", Shape::per_image(&[ApgdRule::STATE]), DType::F32);
    let logits = nn::build(card, &mut g, x, false).logits;
    for loss in [Loss::Margin, Loss::Dlr] {
        g.push(Op::Loss(loss), &[logits, label]);
        g.push(Op::LossGrad(loss), &[logits, label]);
    }
    let loss = Loss::CrossEntropy { smoothing: 0.0 };
    g.push(Op::Loss(loss), &[logits, label]);
    g.push(Op::Fooled { hit: false }, &[logits, label]);
    let cotangent = g.push(Op::LossGrad(loss), &[logits, label]);
    let grad = vjp(&mut g, logits, cotangent, &[x])[0].expect("logits depend on the image");
    g.push(Op::GradStatus, &[grad]);
    for norm in [Norm::Linf, Norm::L2, Norm::L1] {
        g.push(Op::PgdStep { norm }, &[x, x0, grad, alpha, eps]);
        let moved = [x, x0, grad, state, x0];
        g.push(Op::ApgdMove { norm }, if norm == Norm::L1 { &moved[..4] } else { &moved });
        g.push(Op::Hyperplane(Plane::FabStep { norm, eta: 1.05, alpha_max: 0.1 }), &[x, x0, grad, alpha]);
    }
    let fool = Plane::DeepFoolStep { norm: Norm::L2, overshoot: 0.02, push: 1e-4 };
    g.push(Op::Hyperplane(fool), &[x, grad, alpha, eps]);
    g.push(Op::Hyperplane(Plane::Distance { norm: Norm::L2 }), &[alpha, grad]);
    nearest_ops(&mut g, [x, x0, grad, logits, alpha, label]);
    g.push(Op::HopDistance { norm: Norm::L2 }, &[x, x0]);
    let sums = g.input("sums", Shape::per_image(&[2, card.input.iter().product()]), DType::F32);
    let state = g.input("state", Shape::per_image(&[hop::LEN]), DType::F32);
    g.push(Op::HopGather, &[sums, x, x0, state]);
    g
}

/// Everything that is done to the spectra of a network's images.
fn spectral_graph(card: &ModelCard) -> Graph {
    let mut g = Graph::new();
    let x = image_input(&mut g, "x", card);
    let [_, h, w] = card.input;
    let weight = g.input("weight", Shape::fixed(&[h, w / 2 + 1]), DType::F32);
    let spectrum = g.push(Op::Rfft2 { dual: false }, &[x]);
    g.push(Op::Irfft2 { width: w, dual: false }, &[spectrum]);
    g.push(Op::SpectrumFilter, &[x, weight]);
    g.push(Op::RingSums { power: true }, &[x]);
    g
}

/// The ops of C&W, EAD, DDN and FMN; `margin` may be any number an image.
fn nearest_ops(g: &mut Graph, [x, x0, grad, logits, margin, label]: [Value; 6]) {
    let state = g.input("state", Shape::per_image(&[column::COUNT]), DType::F32);
    let planes = [&[3], g.shape(x).dims.as_slice()].concat();
    let adam = g.input("adam", Shape::per_image(&planes), DType::F32);
    let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
    let (steps, rounds, rate, kappa, shrink, beta) = (1 << 20, 9, 0.01, 0.0, 0.999_999, 1e-3);
    let search =
        Search { objective: petard::graph::nearest::Objective::Squared { shrink }, steps, rounds, abort: false, kappa, rate };
    g.push(Op::Nearest(Nearest::Search(search)), &[state, x, x0, margin, logits]);
    g.push(Op::Nearest(Nearest::TanhStep { shrink, kappa }), &[adam, x, x0, grad, margin, state]);
    g.push(Op::Nearest(Nearest::Shrink { beta, kappa }), &[x, x0, grad, margin, state]);
    g.push(Op::Nearest(Nearest::Momentum), &[x, grad, x0, state]);
    let distances = [Distance::Norm(Norm::Linf), Distance::Norm(Norm::L2), Distance::Norm(Norm::L1), Distance::L0];
    for distance in distances {
        let follow = Follow { decoupled: false, distance, steps, rate, gamma: 0.05 };
        g.push(Op::Nearest(Nearest::Follow(follow)), &[state, x, x0, grad, margin, logits]);
        g.push(Op::Nearest(Nearest::FollowStep(follow)), &[x, x0, grad, state, label, seed]);
    }
}

/// Forward and backward of one training step.
fn training_graph(card: &ModelCard) -> Graph {
    let mut g = Graph::new();
    let x = image_input(&mut g, "x", card);
    let label = g.input("label", Shape::per_image(&[]), DType::I32);
    let logits = nn::build(card, &mut g, x, true).logits;
    let cotangent = g.push(Op::LossGrad(Loss::CrossEntropy { smoothing: 0.0 }), &[logits, label]);
    let other = g.input("other", g.shape(logits).clone(), DType::F32);
    g.push(Op::Objective(Objective::Kl), &[logits, other]);
    for by in [0, 1] {
        g.push(Op::ObjectiveGrad { of: Objective::Kl, by }, &[logits, other]);
    }
    g.push(Op::ObjectiveGrad { of: Objective::Mart { weight: 5.0 }, by: 1 }, &[logits, other, label]);
    let trained = |v: &Value| matches!(g.node(*v).op, Op::Param { role: Role::Weight, .. });
    let weights: Vec<Value> = g.params().values().copied().filter(trained).collect();
    vjp(&mut g, logits, cotangent, &weights);
    g
}
