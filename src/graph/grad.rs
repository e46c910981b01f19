//! Every derivative rule, in one match. Gradients are nodes like any other: planned, fused and shown by `plan`.
//! Knows no loss: the caller supplies the cotangent, so one rule serves losses, class gradients and Jacobian rows.

use std::collections::BTreeMap;

use super::{Graph, Op, Value};

/// Vector-Jacobian products: for each value in `wrt` the gradient of `sum(output * cotangent)`.
///
/// Appends only the nodes that lead from `output` to `wrt`: asked for the image alone, no weight gradient is made.
/// `None` where `output` does not depend on the value. Panics where a rule is missing (integer-valued ops).
pub fn vjp(graph: &mut Graph, output: Value, cotangent: Value, wrt: &[Value]) -> Vec<Option<Value>> {
    assert_eq!(graph.shape(output), graph.shape(cotangent), "the cotangent has another shape than the output");
    let needed = leads_to(graph, output, wrt);
    let mut grads: BTreeMap<Value, Value> = BTreeMap::from([(output, cotangent)]);
    let scope = std::mem::take(&mut graph.scope);
    for index in (0..=output.index()).rev() {
        let value = Value(index as u32);
        let Some(&g) = grads.get(&value) else { continue };
        if !needed[index] {
            continue;
        }
        let node = graph.node(value).clone();
        graph.set_scope(&node.label);
        for (input, position) in distinct(&node.inputs) {
            if !needed[input.index()] || !differentiable(&node.op, position) {
                continue;
            }
            let d = rule(graph, value, &node.op, &node.inputs, g, position);
            let sum = match grads.get(&input) {
                Some(&before) => graph.push(Op::Add, &[before, d]),
                None => d,
            };
            grads.insert(input, sum);
        }
    }
    graph.scope = scope;
    wrt.iter().map(|v| grads.get(v).copied()).collect()
}

/// Inputs with their positions; a value read twice stands twice.
fn distinct(inputs: &[Value]) -> impl Iterator<Item = (Value, usize)> + '_ {
    inputs.iter().copied().enumerate().map(|(i, v)| (v, i))
}

/// For each node up to `output`, whether some path runs from it back to a value in `wrt`.
fn leads_to(graph: &Graph, output: Value, wrt: &[Value]) -> Vec<bool> {
    let mut needed = vec![false; output.index() + 1];
    for index in 0..=output.index() {
        let value = Value(index as u32);
        needed[index] = wrt.contains(&value)
            || graph
                .node(value)
                .inputs
                .iter()
                .enumerate()
                .any(|(i, v)| needed[v.index()] && differentiable(&graph.node(value).op, i));
    }
    needed
}

/// Whether gradient flows into input `position`. Labels, statistics and indices are constants.
fn differentiable(op: &Op, position: usize) -> bool {
    match op {
        Op::BatchNorm { .. } => position < 3,
        Op::BatchNormTrain { .. } => position != 1,
        Op::BatchStats | Op::RunningUpdate { .. } | Op::DropoutMask { .. } | Op::ReluMask { .. } | Op::MaxPoolIndex(_) => false,
        Op::Dropout { .. } | Op::SpectrumFilter | Op::Diversify(_) | Op::ScaleRows | Op::ClassMargins => position == 0,
        _ => true,
    }
}

/// The gradient of input `position` of the node that made `y` from `x`, given the gradient `g` of `y`.
fn rule(graph: &mut Graph, y: Value, op: &Op, x: &[Value], g: Value, position: usize) -> Value {
    let hw = |graph: &Graph, v: Value| {
        let (h, w, _) = graph.shape(v).hwc();
        [h, w]
    };
    match (op, position) {
        (Op::Normalise { std, .. }, _) => graph.push(Op::NormaliseGrad { std: std.clone() }, &[g]),
        (Op::Conv2d(conv), 0) => {
            let hw = hw(graph, x[0]);
            graph.push(Op::Conv2dGradInput { conv: *conv, hw }, &[g, x[1]])
        }
        (Op::Conv2d(conv), 1) => graph.push(Op::Conv2dGradWeight(*conv), &[x[0], g]),
        (Op::Linear, 0) => graph.push(Op::LinearGradInput, &[g, x[1]]),
        (Op::Linear, 1) => graph.push(Op::LinearGradWeight, &[x[0], g]),
        (Op::AddBias, 0) => g,
        (Op::AddBias, 1) => graph.push(Op::SumChannels, &[g]),
        (Op::BatchNorm { eps }, 0) => graph.push(Op::BatchNormGrad { eps: *eps }, &[g, x[1], x[4]]),
        (Op::BatchNorm { eps }, 1 | 2) => {
            let both = once(graph, Op::BatchNormGradParams { eps: *eps }, &[g, x[0], x[3], x[4]]);
            graph.push(Op::Row { index: 2 - position }, &[both])
        }
        (Op::BatchNormTrain { eps }, 0) => {
            let sums = once(graph, Op::BatchNormTrainGradParams { eps: *eps }, &[g, x[0], x[1]]);
            graph.push(Op::BatchNormTrainGrad { eps: *eps }, &[g, x[0], x[1], x[2], sums])
        }
        (Op::BatchNormTrain { eps }, 2 | 3) => {
            let sums = once(graph, Op::BatchNormTrainGradParams { eps: *eps }, &[g, x[0], x[1]]);
            graph.push(Op::Row { index: 3 - position }, &[sums])
        }
        (Op::Relu { cap }, _) => {
            let mask = once(graph, Op::ReluMask { cap: *cap }, &[y]);
            graph.push(Op::Gate, &[g, mask])
        }
        (Op::Gate, 0) => graph.push(Op::Gate, &[g, x[1]]),
        (Op::MaxPool(pool), _) => {
            let hw = hw(graph, x[0]);
            let index = once(graph, Op::MaxPoolIndex(*pool), &[x[0]]);
            graph.push(Op::MaxPoolGrad { pool: *pool, hw }, &[g, index])
        }
        (Op::AvgPool(pool), _) => {
            let hw = hw(graph, x[0]);
            graph.push(Op::AvgPoolGrad { pool: *pool, hw }, &[g])
        }
        (Op::GlobalAvgPool, _) => {
            let hw = hw(graph, x[0]);
            graph.push(Op::GlobalAvgPoolGrad { hw }, &[g])
        }
        (Op::Add, _) => g,
        (Op::Concat, _) => {
            let start = x[..position].iter().map(|&v| channels(graph, v)).sum();
            let len = channels(graph, x[position]);
            graph.push(Op::SliceChannels { start, len }, &[g])
        }
        (Op::SliceChannels { start, .. }, _) => {
            let total = channels(graph, x[0]);
            graph.push(Op::PadChannels { start: *start, total }, &[g])
        }
        (Op::SubsamplePad { stride, before, after }, _) => {
            let hw = hw(graph, x[0]);
            graph.push(Op::SubsamplePadGrad { stride: *stride, before: *before, after: *after, hw }, &[g])
        }
        (Op::Window { from, .. }, _) => {
            let hw = hw(graph, x[0]);
            graph.push(Op::Window { from: from.map(|f| -f), hw, fill: 0.0 }, &[g])
        }
        (Op::ResponseNorm(norm), _) => graph.push(Op::ResponseNormGrad(*norm), &[g, x[0]]),
        (Op::Flatten, _) => {
            let (h, w, c) = graph.shape(x[0]).hwc();
            graph.push(Op::Unflatten { hwc: [h, w, c] }, &[g])
        }
        (Op::Unflatten { .. }, _) => graph.push(Op::Flatten, &[g]),
        (Op::Scale { factor }, _) => graph.push(Op::Scale { factor: *factor }, &[g]),
        (Op::Diversify(diversity), 0) => graph.push(Op::DiversifyGrad(*diversity), &[g, x[1], x[2], x[3], x[4]]),
        (Op::UnitRows { gamma }, _) => graph.push(Op::UnitRowsGrad { gamma: *gamma }, &[g, x[0]]),
        (Op::RowScales { gamma }, _) => graph.push(Op::RowScalesGrad { gamma: *gamma }, &[g, x[0]]),
        (Op::ScaleChannels, 0) => graph.push(Op::ScaleChannels, &[g, x[1]]),
        (Op::ScaleChannels, 1) => graph.push(Op::ProductChannels, &[g, x[0]]),
        (Op::ScaleRows, 0) => graph.push(Op::ScaleRows, &[g, x[1]]),
        (Op::ClassMargins, 0) => {
            let scale = once(graph, Op::Row { index: 0 }, &[x[2]]);
            graph.push(Op::ScaleChannels, &[g, scale])
        }
        (Op::Dropout { p }, 0) => graph.push(Op::Dropout { p: *p }, &[g, x[1]]),
        (Op::SpectrumFilter, 0) => graph.push(Op::SpectrumFilter, &[g, x[1]]),
        (Op::Rfft2 { dual }, _) => {
            let width = hw(graph, x[0])[1];
            graph.push(Op::Irfft2 { width, dual: !dual }, &[g])
        }
        (Op::Irfft2 { dual, .. }, _) => graph.push(Op::Rfft2 { dual: !dual }, &[g]),
        (Op::Bass, _) => g,
        _ => panic!("{op:?} has no derivative in input {position}"),
    }
}

/// The node, made once: asked for again with the same inputs it is the earlier one.
fn once(graph: &mut Graph, op: Op, inputs: &[Value]) -> Value {
    let found = graph.values().rev().find(|&v| graph.node(v).op == op && graph.node(v).inputs == inputs);
    found.unwrap_or_else(|| graph.push(op, inputs))
}

fn channels(graph: &Graph, v: Value) -> usize {
    *graph.shape(v).dims.last().expect("a value with channels")
}
