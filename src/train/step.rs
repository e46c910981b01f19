//! One training step as a graph: forward passes, losses, gradients, update; with the attack and the evaluation beside it.
//! Must not know devices, epochs, schedules or where images come from.
//! Weight perturbation: Wu et al. 2020, <https://arxiv.org/abs/2004.05884>.

use std::ops::Range;

use super::form::{Criterion, Form};
use super::recipe::{Ascent, BatchNorm, Crafting, Pairing, Start};
use crate::graph::{Graph, Loss, Node, Objective, Op, Role, StartKind, Value, vjp};
use crate::nn::{self, ModelCard};
use crate::plan::Segment;
use crate::session::image_input;
use crate::tensor::{DType, Shape};

/// Weight of the batch in the running statistics, PyTorch's default.
const BN_MOMENTUM: f32 = 0.1;

/// The values that are written and read from outside.
pub(super) struct Values {
    pub x: Value,
    pub label: Value,
    pub attack: Option<AttackValues>,
    pub given: Given,
    /// Read by dropout: the images' indices and the number of the forward pass.
    pub dropout: Option<(Value, Value)>,
    pub logits: Value,
    pub eval_logits: Value,
    pub params: Vec<(String, Value)>,
    pub update: Update,
}

/// What the host gives to a step where its form asks for it.
#[derive(Clone, Copy, Default)]
pub(super) struct Given {
    /// `[N, K]`: target distributions.
    pub targets: Option<Value>,
    /// `[N]`: weights of the losses of clean and of attacked images.
    pub weights: Option<[Value; 2]>,
    /// `[3, K]`: scales, biases and margins of classes.
    pub table: Option<Value>,
    /// `[N]`: how far along the way from an image to its attacked form a point lies.
    pub share: Option<Value>,
    /// Free's perturbation.
    pub delta: Option<Value>,
    /// Scalar: size of weight perturbations.
    pub gamma: Option<Value>,
}

/// Clean images and, one an image, step and radius of the attack; and what its random starts are drawn from.
#[derive(Clone, Copy)]
pub(super) struct AttackInput {
    pub x0: Value,
    pub alpha: Value,
    pub eps: Value,
    /// Deviation of the noise that the attack starts from, where it does.
    pub sigma: Option<Value>,
    /// The answer to the clean images, where the attack climbs the divergence from it.
    pub anchor: Option<Value>,
    pub index: Value,
    pub restart: Value,
    pub seed: Value,
}

/// The attack's inputs, and its losses in the recipe's mode and on the network as deployed.
#[derive(Clone, Copy)]
pub(super) struct AttackValues {
    pub input: AttackInput,
    pub craft: Value,
}

pub(super) struct Update {
    pub loss: Value,
    pub hyper: Value,
    pub decay: Option<Value>,
    pub velocity: Vec<(String, Value)>,
    pub average: Vec<(String, Value)>,
}

/// One pass through the network in train mode.
#[derive(Clone)]
struct Pass {
    logits: Value,
    nodes: Range<usize>,
}

/// The graph in the making.
struct Builder<'a> {
    g: Graph,
    card: &'a ModelCard,
    form: &'a Form,
    segments: Vec<Segment>,
}

/// The graph of a training step and its segments: `infer`, `step`; where there is an attack `begin`, `probe` and what the
/// recipe's own needs of `noise`, `anchor`, `craft`; `perturb` for weight perturbation; `keep` and `along` for margins.
pub(super) fn nodes(card: &ModelCard, form: &Form) -> (Graph, Values, Vec<Segment>) {
    let mut b = Builder { g: Graph::new(), card, form, segments: Vec::new() };
    let x = image_input(&mut b.g, "x", card);
    let label = b.g.input("label", Shape::per_image(&[]), DType::I32);
    let eval_logits = nn::build(card, &mut b.g, x, false).logits;
    b.segment("infer", vec![eval_logits], Vec::new());
    let given = b.given();
    let attack = form.crafting.map(|crafting| b.attack_input(crafting));
    assert!(attack.is_some() || !(form.outer.reads_clean() || form.replay), "clean images beside others need an attack");
    let clean = attack.filter(|_| form.outer.reads_clean()).map(|a| b.pass(a.x0));
    let seen = match (attack, given.delta, given.share) {
        (Some(a), Some(delta), _) => b.g.add(a.x0, delta),
        (Some(a), None, Some(share)) if form.between => b.g.push(Op::Between, &[a.x0, x, share]),
        _ => x,
    };
    let attacked = b.pass(seen);
    let attack = attack.zip(form.crafting).map(|(input, crafting)| {
        let train = if seen == x { Some(attacked.clone()) } else { None };
        let craft = b.attack(crafting, input, [x, label, eval_logits], &given, train, clean.clone());
        AttackValues { input, craft }
    });
    if let (Some(a), Some(share), true) = (&attack, given.share, form.margins) {
        b.along(a.input.x0, x, share);
    }
    let passes: Vec<Range<usize>> = [clean.clone(), Some(attacked.clone()), clean.clone().filter(|_| form.outer.clean_twice)]
        .into_iter()
        .flatten()
        .map(|pass| pass.nodes)
        .collect();
    let statistics = b.g.running_updates_of(BN_MOMENTUM, &passes);
    let logits = attacked.logits;
    let ends = Ends { clean: clean.map(|c| c.logits), attacked: logits, label, seen };
    let update = b.update(&ends, attack.map(|a| a.input), &given, &statistics);
    let g = b.g;
    let params = g.params().iter().map(|(name, &value)| (name.clone(), value)).collect();
    let dropout = g.input_named("index").zip(g.input_named("step"));
    (g, Values { x, label, attack, given, dropout, logits, eval_logits, params, update }, b.segments)
}

/// What the losses of a step are computed from.
struct Ends {
    clean: Option<Value>,
    attacked: Value,
    label: Value,
    /// The images that `attacked` is the answer to.
    seen: Value,
}

/// Losses of all images and the gradients to the logits they come from.
#[derive(Default)]
struct Terms {
    loss: Option<Value>,
    clean: Option<Value>,
    attacked: Option<Value>,
}

fn plus(g: &mut Graph, sum: &mut Option<Value>, term: Value, factor: f64) {
    let term = if factor == 1.0 { term } else { g.push(Op::Scale { factor: factor as f32 }, &[term]) };
    *sum = Some(sum.map_or(term, |sum| g.add(sum, term)));
}

impl Builder<'_> {
    fn segment(&mut self, name: &str, outputs: Vec<Value>, carries: Vec<(Value, Value)>) {
        self.segments.push(Segment { name: name.into(), outputs, carries });
    }

    fn rows(&mut self, name: &str, dtype: DType) -> Value {
        self.g.input_named(name).unwrap_or_else(|| self.g.input(name, Shape::per_image(&[]), dtype))
    }

    fn given(&mut self) -> Given {
        let (form, classes) = (self.form, self.card.classes);
        Given {
            targets: form.soft.then(|| self.g.input("targets", Shape::per_image(&[classes]), DType::F32)),
            weights: form.weighted.then(|| ["clean.weight", "attacked.weight"].map(|name| self.rows(name, DType::F32))),
            table: form.table.then(|| self.g.input("table", Shape::fixed(&[3, classes]), DType::F32)),
            share: (form.between || form.margins).then(|| self.rows("share", DType::F32)),
            delta: form.replay.then(|| image_input(&mut self.g, "delta", self.card)),
            gamma: form.perturbed.then(|| self.g.input("gamma", Shape::fixed(&[]), DType::F32)),
        }
    }

    fn pass(&mut self, image: Value) -> Pass {
        let from = self.g.nodes().len();
        let logits = nn::build_training(self.card, &mut self.g, image, self.form.seed).logits;
        Pass { logits, nodes: from..self.g.nodes().len() }
    }

    fn attack_input(&mut self, crafting: Crafting) -> AttackInput {
        let classes = self.card.classes;
        AttackInput {
            x0: image_input(&mut self.g, "x0", self.card),
            alpha: self.rows("alpha", DType::F32),
            eps: self.rows("eps", DType::F32),
            sigma: matches!(crafting.start, Start::Noise(_)).then(|| self.rows("sigma", DType::F32)),
            anchor: (crafting.ascent == Ascent::Kl).then(|| self.g.input("anchor", Shape::per_image(&[classes]), DType::F32)),
            // Dropout may have asked for it.
            index: self.rows("index", DType::I32),
            restart: self.rows("restart", DType::I32),
            seed: self.g.input("seed", Shape::fixed(&[3]), DType::I32),
        }
    }

    /// The segments of the attack: starts, the evaluation's step, the recipe's own. The loss that the latter climbs.
    fn attack(
        &mut self,
        crafting: Crafting,
        input: AttackInput,
        [x, label, eval_logits]: [Value; 3],
        given: &Given,
        train: Option<Pass>,
        clean: Option<Pass>,
    ) -> Value {
        let start = |b: &mut Self, kind, length| {
            b.g.push(Op::Start { kind }, &[input.x0, input.index, input.restart, length, input.seed])
        };
        let ball = start(self, StartKind::Ball(crafting.threat.norm), input.eps);
        self.segment("begin", Vec::new(), vec![(x, ball)]);
        if let Some(sigma) = input.sigma {
            let noisy = start(self, StartKind::Normal, sigma);
            self.segment("noise", Vec::new(), vec![(x, noisy)]);
        }
        self.g.set_scope("attack");
        let loss = Loss::CrossEntropy { smoothing: 0.0 };
        let hard = [Op::Loss(loss), Op::LossGrad(loss)].map(|op| self.g.push(op, &[eval_logits, label]));
        let next = self.climb(crafting, input, x, eval_logits, hard[1]);
        self.segment("probe", vec![hard[0]], vec![(x, next)]);
        let plain = crafting.ascent == Ascent::CrossEntropy && !self.form.mixed;
        if crafting.steps == 0 || plain && crafting.batch_norm == BatchNorm::Eval {
            return hard[0];
        }
        let eval = crafting.batch_norm == BatchNorm::Eval;
        let pass = if eval { None } else { Some(train.unwrap_or_else(|| self.pass(x))) };
        let moved = |b: &mut Self, pass: &Option<Pass>| match pass {
            // Every forward pass in train mode moves the running statistics, as in PyTorch.
            Some(p) if crafting.batch_norm == BatchNorm::Train => {
                b.g.running_updates_of(BN_MOMENTUM, std::slice::from_ref(&p.nodes))
            }
            _ => Vec::new(),
        };
        if let Some(anchor) = input.anchor {
            let clean = if eval { None } else { Some(clean.unwrap_or_else(|| self.pass(input.x0))) };
            let logits =
                clean.as_ref().map(|c| c.logits).unwrap_or_else(|| nn::build(self.card, &mut self.g, input.x0, false).logits);
            let mut carries = moved(self, &clean);
            // A carry is computed: the answer itself may be kept by other segments.
            carries.push((anchor, self.g.push(Op::Scale { factor: 1.0 }, &[logits])));
            self.segment("anchor", Vec::new(), carries);
        }
        let logits = pass.as_ref().map_or(eval_logits, |p| p.logits);
        self.g.set_scope("attack");
        let [value, cotangent] = match (crafting.ascent, input.anchor, given.targets.filter(|_| self.form.mixed)) {
            (Ascent::Kl, Some(anchor), _) => self.objective(Objective::Kl, &[anchor, logits], 1),
            (Ascent::SoftMargin, ..) => self.objective(Objective::SoftMargin, &[logits, label], 0),
            (_, _, Some(targets)) => self.objective(Objective::Soft, &[logits, targets], 0),
            _ => [Op::Loss(loss), Op::LossGrad(loss)].map(|op| self.g.push(op, &[logits, label])),
        };
        let next = self.climb(crafting, input, x, logits, cotangent);
        let mut carries = moved(self, &pass);
        carries.push((x, next));
        self.segment("craft", vec![value], carries);
        value
    }

    fn objective(&mut self, of: Objective, inputs: &[Value], by: usize) -> [Value; 2] {
        [Op::Objective(of), Op::ObjectiveGrad { of, by }].map(|op| self.g.push(op, inputs))
    }

    /// The next iterate of an attack that climbs what `cotangent` is the gradient of.
    fn climb(&mut self, crafting: Crafting, input: AttackInput, x: Value, logits: Value, cotangent: Value) -> Value {
        let grad = vjp(&mut self.g, logits, cotangent, &[x])[0].expect("logits depend on the image");
        self.g.push(Op::PgdStep { norm: crafting.threat.norm }, &[x, input.x0, grad, input.alpha, input.eps])
    }

    /// Points between the clean images and where an attack ended.
    fn along(&mut self, x0: Value, x: Value, share: Value) {
        let end = image_input(&mut self.g, "end", self.card);
        let kept = self.g.push(Op::Scale { factor: 1.0 }, &[x]);
        self.segment("keep", Vec::new(), vec![(end, kept)]);
        let point = self.g.push(Op::Between, &[x0, end, share]);
        self.segment("along", Vec::new(), vec![(x, point)]);
    }

    /// The loss of each image by its logits, and the gradient to these.
    fn criterion(&mut self, z: Value, label: Value, given: &Given) -> [Value; 2] {
        let seen = given.table.map_or(z, |table| self.g.push(Op::ClassMargins, &[z, label, table]));
        let [loss, grad] = match (self.form.criterion, given.targets) {
            (_, Some(targets)) => self.objective(Objective::Soft, &[seen, targets], 0),
            (Criterion::CrossEntropy { smoothing }, None) => {
                let kind = Loss::CrossEntropy { smoothing };
                [Op::Loss(kind), Op::LossGrad(kind)].map(|op| self.g.push(op, &[seen, label]))
            }
            (Criterion::Focal { gamma }, None) => self.objective(Objective::Focal { gamma }, &[seen, label], 0),
            (Criterion::SigmoidFocal { gamma }, None) => self.objective(Objective::SigmoidFocal { gamma }, &[seen, label], 0),
        };
        let grad = if seen == z { grad } else { vjp(&mut self.g, seen, grad, &[z])[0].expect("logits decide") };
        [loss, grad]
    }

    fn terms(&mut self, ends: &Ends, given: &Given) -> Terms {
        let (outer, mut out) = (self.form.outer, Terms::default());
        let sides = [(ends.clean, outer.clean), (Some(ends.attacked), outer.attacked)];
        for (side, (logits, factor)) in sides.into_iter().enumerate() {
            let Some(z) = logits.filter(|_| factor != 0.0) else { continue };
            let mut both = self.criterion(z, ends.label, given);
            if let Some(weights) = given.weights {
                both = both.map(|v| self.g.push(Op::ScaleRows, &[v, weights[side]]));
            }
            plus(&mut self.g, &mut out.loss, both[0], factor);
            plus(&mut self.g, if side == 0 { &mut out.clean } else { &mut out.attacked }, both[1], factor);
        }
        let coupled = [
            (Objective::Kl, outer.kl),
            (
                Objective::Squared,
                if outer.pairing == Pairing::Entries { outer.squared / self.card.classes as f64 } else { outer.squared },
            ),
            (Objective::Mart { weight: outer.mart.unwrap_or(0.0) as f32 }, f64::from(u8::from(outer.mart.is_some()))),
        ];
        for (of, factor) in coupled.into_iter().filter(|&(_, factor)| factor != 0.0) {
            let mut inputs = vec![ends.clean.expect("the form reads clean images"), ends.attacked];
            inputs.extend(of.reads_label().then_some(ends.label));
            let [loss, to_clean] = self.objective(of, &inputs, 0);
            let to_attacked = self.g.push(Op::ObjectiveGrad { of, by: 1 }, &inputs);
            plus(&mut self.g, &mut out.loss, loss, factor);
            plus(&mut self.g, &mut out.clean, to_clean, factor);
            plus(&mut self.g, &mut out.attacked, to_attacked, factor);
        }
        out
    }

    /// Loss, gradients of all weights, and the SGD update of each; running statistics and averages move with it.
    fn update(&mut self, ends: &Ends, input: Option<AttackInput>, given: &Given, statistics: &[(Value, Value)]) -> Update {
        self.g.set_scope("loss");
        let terms = self.terms(ends, given);
        let loss = terms.loss.expect("some term is minimised");
        let weights: Vec<(String, Value)> =
            self.g.params().iter().map(|(n, &v)| (n.clone(), v)).filter(|(_, v)| self.learns(*v)).collect();
        let mut wrt: Vec<Value> = weights.iter().map(|&(_, v)| v).collect();
        wrt.extend(given.delta.map(|_| ends.seen));
        let grads = self.gradients(ends, &terms, &wrt);
        let hyper = self.g.input("hyper", Shape::fixed(&[3]), DType::F32);
        let (mut carries, mut velocity, mut perturbed) = (statistics.to_vec(), Vec::new(), Vec::new());
        for ((name, w), grad) in weights.into_iter().zip(&grads) {
            let Some(grad) = *grad else { continue };
            self.g.set_scope(&name);
            let v = self.g.input(&format!("velocity.{name}"), self.g.shape(w).clone(), DType::F32);
            let next_v = self.g.push(Op::SgdVelocity, &[v, grad, w, hyper]);
            let mut next_w = self.g.push(Op::SgdStep { nesterov: self.form.nesterov }, &[w, grad, next_v, hyper]);
            let matrix = self.g.shape(w).dims.len() > 1 && name.ends_with("weight");
            if let Some(gamma) = given.gamma.filter(|_| matrix) {
                // What was added to the weight, with its sign turned: the step takes it away again.
                let back = self.g.input(&format!("perturbation.{name}"), self.g.shape(w).clone(), DType::F32);
                let by = self.g.push(Op::Perturbation, &[w, grad, gamma]);
                let turned = self.g.push(Op::Scale { factor: -1.0 }, &[by]);
                perturbed.extend([(w, self.g.add(w, by)), (back, turned)]);
                next_w = self.g.add(next_w, back);
            }
            carries.extend([(v, next_v), (w, next_w)]);
            velocity.push((name, v));
        }
        if !perturbed.is_empty() {
            self.segment("perturb", Vec::new(), perturbed);
        }
        if let (Some(delta), Some(a), Some(crafting)) = (given.delta, input, self.form.crafting) {
            let grad = grads.last().copied().flatten().expect("logits depend on the image");
            let moved = self.g.push(Op::PgdStep { norm: crafting.threat.norm }, &[ends.seen, a.x0, grad, a.alpha, a.eps]);
            let minus = self.g.push(Op::Scale { factor: -1.0 }, &[a.x0]);
            carries.push((delta, self.g.add(moved, minus)));
        }
        let (decay, average) = self.averages(&mut carries);
        self.segment("step", vec![loss, ends.attacked], carries);
        Update { loss, hyper, decay, velocity, average }
    }

    /// Whether a step moves this parameter.
    fn learns(&self, v: Value) -> bool {
        let weight = |v: Value| matches!(self.g.node(v).op, Op::Param { role: Role::Weight, .. });
        // Nothing else of a network's parameters is read by a linear layer or added after one.
        let last = |v: Value| {
            let of_linear = |n: &&Node| matches!(n.op, Op::Linear) && n.inputs[1] == v;
            let after_linear = |n: &&Node| n.op == Op::AddBias && n.inputs[1] == v && self.g.node(n.inputs[0]).op == Op::Linear;
            self.g.nodes().iter().any(|n| of_linear(&n) || after_linear(&n))
        };
        weight(v) && (!self.form.classifier_only || last(v))
    }

    /// The gradient of the mean loss to each of `wrt`.
    fn gradients(&mut self, ends: &Ends, terms: &Terms, wrt: &[Value]) -> Vec<Option<Value>> {
        let mut sums: Vec<Option<Value>> = vec![None; wrt.len()];
        for (logits, each) in [(ends.clean, terms.clean), (Some(ends.attacked), terms.attacked)] {
            let (Some(logits), Some(each)) = (logits, each) else { continue };
            let mean = self.g.push(Op::Scale { factor: 1.0 / self.form.batch as f32 }, &[each]);
            for (sum, grad) in sums.iter_mut().zip(vjp(&mut self.g, logits, mean, wrt)) {
                if let Some(grad) = grad {
                    plus(&mut self.g, sum, grad, 1.0);
                }
            }
        }
        sums
    }

    fn averages(&mut self, carries: &mut Vec<(Value, Value)>) -> (Option<Value>, Vec<(String, Value)>) {
        if !self.form.averaged {
            return (None, Vec::new());
        }
        let share = self.g.input("decay", Shape::fixed(&[]), DType::F32);
        let moved: Vec<(Value, Value)> =
            carries.iter().copied().filter(|&(s, _)| matches!(self.g.node(s).op, Op::Param { .. })).collect();
        let mut average = Vec::new();
        for (param, next) in moved {
            let name = self.g.node(param).label.clone();
            self.g.set_scope(&name);
            let state = self.g.input(&format!("ema.{name}"), self.g.shape(param).clone(), DType::F32);
            let next = self.g.push(Op::Ema, &[state, next, share]);
            carries.push((state, next));
            average.push((name, state));
        }
        (Some(share), average)
    }
}
