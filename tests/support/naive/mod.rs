//! The f64 definition of every op: the plainest loops that the text of the op allows. Everything else is judged by it.
//! Must not call the engine; it shares only the graph and the geometry of convolutions and pools.

mod apgd;
mod black_box;
mod climb;
mod conv;
pub mod fft;
mod head;
mod hyperplane;
mod loss;
mod momentum;
mod nearest;
mod norm;
mod objective;
mod optim;
mod pointwise;
mod pool;
mod rows;

use std::collections::BTreeMap;

use petard::graph::{Graph, Op, Value};
use petard::tensor::Shape;

/// Values in f64; bits, bytes and integers as numbers.
pub type Values = BTreeMap<Value, Vec<f64>>;

/// The values of `wanted` for a batch of `batch`. What `given` holds is taken, all else is computed; only leaves and
/// dropout masks and random starts have to be given, and only those that `wanted` depends on.
pub fn eval(graph: &Graph, batch: usize, given: &Values, wanted: &[Value]) -> Vec<Vec<f64>> {
    let known = eval_all(graph, batch, given, wanted);
    wanted.iter().map(|v| known[v].clone()).collect()
}

/// Every value on the way to `wanted`.
pub fn eval_all(graph: &Graph, batch: usize, given: &Values, wanted: &[Value]) -> Values {
    let mut needed = vec![false; graph.nodes().len()];
    for v in wanted {
        needed[v.index()] = true;
    }
    for v in graph.values().rev().filter(|v| !given.contains_key(v)) {
        if needed[v.index()] {
            graph.node(v).inputs.iter().for_each(|i| needed[i.index()] = true);
        }
    }
    let mut known = Values::new();
    for v in graph.values().filter(|v| needed[v.index()]) {
        let node = graph.node(v);
        let out = match given.get(&v) {
            Some(data) => data.clone(),
            None => {
                let args: Vec<Arg> = node.inputs.iter().map(|i| Arg { data: &known[i], shape: graph.shape(*i), batch }).collect();
                apply(&node.op, &args, &node.label)
            }
        };
        assert_eq!(out.len(), node.shape.len(batch), "{:?} has shape {} with a batch of {batch}", node.op, node.shape);
        known.insert(v, out);
    }
    known
}

/// One input of an op.
#[derive(Clone, Copy)]
pub struct Arg<'a> {
    pub data: &'a [f64],
    pub shape: &'a Shape,
    pub batch: usize,
}

impl Arg<'_> {
    /// Size of the last dimension.
    fn channels(&self) -> usize {
        *self.shape.dims.last().expect("a value with channels")
    }
    /// The elements of each image.
    fn images(&self) -> impl Iterator<Item = &[f64]> {
        assert!(self.shape.batched, "{} has no rows", self.shape);
        self.data.chunks_exact(self.shape.elems())
    }
    /// Element by element.
    fn map(&self, f: impl FnMut(&f64) -> f64) -> Vec<f64> {
        self.data.iter().map(f).collect()
    }
    /// Element by element with its channel.
    fn map_channels(&self, f: impl Fn(f64, usize) -> f64) -> Vec<f64> {
        let c = self.channels();
        self.data.iter().enumerate().map(|(i, &v)| f(v, i % c)).collect()
    }
    /// Element by element with another of the same shape.
    fn zip(&self, other: &Arg, f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        assert_eq!(self.data.len(), other.data.len(), "{} against {}", self.shape, other.shape);
        self.data.iter().zip(other.data).map(|(&a, &b)| f(a, b)).collect()
    }
}

/// Images for what has no op.
#[allow(dead_code)] // the benches share this file
pub fn fft_arg<'a>(data: &'a [f64], shape: &'a Shape) -> Arg<'a> {
    Arg { data, shape, batch: data.len() / shape.elems() }
}

fn apply(op: &Op, args: &[Arg], label: &str) -> Vec<f64> {
    match op {
        Op::SquareStart { .. } | Op::SquareStep { .. } | Op::HopQuery { .. } => panic!("`{label}` ({op:?}) was not given"),
        Op::SquareControl => black_box::square_control(args),
        Op::HopDistance { norm } => black_box::distance(*norm, &args[0], &args[1]),
        Op::HopGather => black_box::gather(args),
        Op::HopControl(_) => panic!("`{label}` ({op:?}) was not given"),
        Op::Input { .. }
        | Op::Param { .. }
        | Op::DropoutMask { .. }
        | Op::Start { .. }
        | Op::Jitter
        | Op::Shake
        | Op::Diversify(_)
        | Op::DiversifyGrad(_) => {
            panic!("`{label}` ({op:?}) was not given")
        }

        Op::Conv2d(c) => conv::forward(c, &args[0], &args[1]),
        Op::Conv2dGradInput { conv, hw } => conv::grad_input(conv, *hw, &args[0], &args[1]),
        Op::Conv2dGradWeight(c) => conv::grad_weight(c, &args[0], &args[1]),
        Op::Linear => conv::linear(&args[0], &args[1]),
        Op::LinearGradInput => conv::linear_grad_input(&args[0], &args[1]),
        Op::LinearGradWeight => conv::linear_grad_weight(&args[0], &args[1]),

        Op::Normalise { mean, std } => args[0].map_channels(|v, c| (v - f64::from(mean[c])) / f64::from(std[c])),
        Op::NormaliseGrad { std } => args[0].map_channels(|v, c| v / f64::from(std[c])),
        Op::BatchNorm { eps } => norm::batch_norm(args, *eps),
        Op::BatchNormGrad { eps } => norm::grad(args, *eps),
        Op::BatchNormGradParams { eps } => norm::grad_params(&args[0], &args[1], args[2].data, args[3].data, *eps),
        Op::BatchStats => norm::stats(&args[0]),
        Op::BatchNormTrain { eps } => norm::train(args, *eps),
        Op::BatchNormTrainGradParams { eps } => {
            let (mean, var) = args[2].data.split_at(args[2].channels());
            norm::grad_params(&args[0], &args[1], mean, var, *eps)
        }
        Op::BatchNormTrainGrad { eps } => norm::train_grad(args, *eps),
        Op::RunningUpdate { momentum, row } => norm::running(args, *momentum, *row),

        Op::AddBias => args[0].map_channels(|v, c| v + args[1].data[c]),
        Op::SumChannels => pointwise::sum_channels(&args[0]),
        Op::Row { index } => {
            let len = args[0].data.len() / args[0].shape.dims[0];
            args[0].data[index * len..(index + 1) * len].to_vec()
        }
        Op::Relu { cap } => args[0].map(|&v| pointwise::relu(v, *cap)),
        Op::ReluMask { cap } => args[0].map(|&y| f64::from(y > 0.0 && cap.is_none_or(|cap| y < f64::from(cap)))),
        Op::Gate => args[0].zip(&args[1], |g, bit| if bit != 0.0 { g } else { 0.0 }),
        Op::Add => args[0].zip(&args[1], |a, b| a + b),
        Op::Scale { factor } => args[0].map(|v| v * f64::from(*factor)),
        Op::Dropout { p } => args[0].zip(&args[1], |x, bit| if bit != 0.0 { x / (1.0 - f64::from(*p)) } else { 0.0 }),
        Op::Concat => pointwise::concat(args),
        Op::SliceChannels { start, len } => pointwise::slice(&args[0], *start, *len),
        Op::PadChannels { start, total } => pointwise::pad(&args[0], *start, *total),
        Op::SubsamplePad { stride, before, after } => pointwise::subsample(&args[0], *stride, *before, *after),
        Op::SubsamplePadGrad { stride, before, after, hw } => {
            pointwise::subsample_grad(&args[0], *stride, [*before, *after], *hw)
        }
        Op::Window { from, hw, fill } => pointwise::window(&args[0], *from, *hw, *fill),
        Op::ResponseNorm(n) => norm::response_norm(n, &args[0]),
        Op::ResponseNormGrad(n) => norm::response_norm_grad(n, &args[0], &args[1]),
        Op::Flatten => pointwise::flatten(&args[0]),
        Op::Unflatten { hwc } => pointwise::unflatten(&args[0], *hwc),

        Op::MaxPool(p) => pool::max(p, &args[0]).into_iter().map(|(value, _)| value).collect(),
        Op::MaxPoolIndex(p) => pool::max(p, &args[0]).into_iter().map(|(_, place)| place as f64).collect(),
        Op::MaxPoolGrad { pool, hw } => pool::max_grad(pool, *hw, &args[0], &args[1]),
        Op::AvgPool(p) => pool::avg(p, &args[0]),
        Op::AvgPoolGrad { pool, hw } => pool::avg_grad(pool, *hw, &args[0]),
        Op::GlobalAvgPool => pool::global(&args[0]),
        Op::GlobalAvgPoolGrad { hw } => pool::global_grad(&args[0], *hw),

        Op::Loss(l) => loss::each_image(args, |z, y, t| vec![loss::value(*l, z, y, t)]),
        Op::LossGrad(l) => loss::each_image(args, |z, y, t| loss::gradient(*l, z, y, t)),
        Op::Objective(of) => objective::each_image(*of, args, |row| vec![row.value()]),
        Op::ObjectiveGrad { of, by } => objective::each_image(*of, args, |row| row.gradient(*by)),
        Op::UnitRows { gamma } => head::unit_rows(&args[0], *gamma),
        Op::UnitRowsGrad { gamma } => head::unit_rows_grad(&args[0], &args[1], *gamma),
        Op::RowScales { gamma } => head::row_scales(&args[0], *gamma),
        Op::RowScalesGrad { gamma } => head::row_scales_grad(&args[0], &args[1], *gamma),
        Op::ScaleChannels => args[0].map_channels(|v, c| v * args[1].data[c]),
        Op::ProductChannels => head::product_channels(&args[0], &args[1]),
        Op::ScaleRows => head::scale_rows(&args[0], &args[1]),
        Op::ClassMargins => head::class_margins(args),
        Op::Perturbation => head::perturbation(args),
        Op::Between => head::between(args),
        Op::Fooled { hit } => rows::fooled(&args[0], &args[1], *hit),
        Op::Greater => args[0].zip(&args[1], |a, b| f64::from(a > b)),
        Op::MaxRows => args[0].zip(&args[1], f64::max),
        Op::SelectRows => rows::select(&args[0], &args[1], &args[2]),
        Op::Column { index } => args[0].images().map(|row| row[*index]).collect(),
        Op::GradStatus => rows::grad_status(&args[0]),
        Op::PgdStep { norm } => rows::pgd_step(args, *norm),
        Op::ApgdState(rule) => apgd::state(args, rule),
        Op::ApgdMove { norm } => apgd::step(args, *norm),
        Op::Hyperplane(plane) => hyperplane::apply(*plane, args),
        Op::Tick { copies } => momentum::tick(&args[0], *copies),
        Op::Ahead => momentum::ahead(args),
        Op::Accumulate { share } => momentum::accumulate(args, *share),
        Op::Blur => momentum::blur(&args[0], args[1].data),
        Op::Momentum => momentum::momentum(args),
        Op::Kl => climb::kl(&args[0], &args[1]),
        Op::KlGrad => climb::kl_grad(&args[0], &args[1]),
        Op::Moment { square, keep } => climb::moment(&args[0], &args[1], *square, *keep),
        Op::AdamStep { keep } => climb::adam(args, *keep),
        Op::Nearest(nearest) => nearest::apply(*nearest, args),

        Op::SgdVelocity => optim::velocity(args),
        Op::SgdStep { nesterov } => optim::step(args, *nesterov),
        Op::Ema => optim::ema(args),

        Op::Rfft2 { dual } => fft::rfft2(&args[0], *dual),
        Op::Irfft2 { width, dual } => fft::irfft2(&args[0], *width, *dual),
        Op::SpectrumFilter => fft::filter(&args[0], args[1].data),
        Op::RingSums { power } => fft::ring_sums(&args[0], *power),
        Op::Bass => fft::bass(&args[0]),
    }
}
