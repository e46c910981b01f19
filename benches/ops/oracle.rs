//! Whether an executor computes the op at all, before anybody times it: its result against the f64 definition.
//! Must not know the executor: it is handed what came out.

use petard::graph::{Conv, Graph, Op, Role, Value};
use petard::tensor::DType;

use crate::cards::Case;
use crate::naive::{self, Values};

/// How far an element may be from the definition, in units of the result's root mean square. The least exact algorithm,
/// F(4x4, 3x3), errs by a few 1e-6 on the whole and some 1e-5 in its worst element; a wrong element errs by about 1.
/// Whether the last bits are right is for the tests to say.
const TOLERANCE: f64 = 3e-4;

/// Channels of a weight gradient that are looked at, of input and output each.
const CORNER: usize = 4;

/// Compares what came out, whole batches of numbers for output and side output, where the definition is affordable: in
/// the last image of a batch, in some channels of a weight gradient, else everywhere. `data` are the leaves' numbers.
pub fn check(case: &Case, data: &[Vec<f32>], got: &[Vec<f32>]) -> Result<(), String> {
    let outputs: Vec<Value> = [case.output].into_iter().chain(case.side).collect();
    let (want, got): (Vec<Vec<f64>>, Vec<Vec<f32>>) = match case.op() {
        Op::Conv2dGradWeight(conv) => weight_corner(case, conv, data, &got[0]),
        // Reads the size of the whole batch.
        Op::BatchNormTrainGrad { .. } => (naive::eval(&case.graph, case.batch, &wide(case, data), &outputs), got.to_vec()),
        _ if !case.graph.shape(case.output).batched => {
            (naive::eval(&case.graph, case.batch, &wide(case, data), &outputs), got.to_vec())
        }
        _ => {
            let last = |v: &Value, numbers: &[f32]| {
                let shape = case.graph.shape(*v);
                if shape.batched { numbers[numbers.len() - shape.elems()..].to_vec() } else { numbers.to_vec() }
            };
            let rows: Vec<Vec<f32>> = case.leaves.iter().zip(data).map(|(v, d)| last(v, d)).collect();
            let want = naive::eval(&case.graph, 1, &wide(case, &rows), &outputs);
            (want, outputs.iter().zip(got).map(|(v, g)| last(v, g)).collect())
        }
    };
    for (want, got) in want.iter().zip(&got) {
        let off = distance(got, want);
        let near = off <= TOLERANCE; // false where it is NaN
        if !near {
            return Err(format!("{} {}: {off:e} from its definition, {TOLERANCE:e} allowed", case.name, case.shape));
        }
    }
    Ok(())
}

/// The leaves as the definition takes them.
fn wide(case: &Case, data: &[Vec<f32>]) -> Values {
    let numbers = |d: &Vec<f32>| d.iter().map(|&v| f64::from(v)).collect();
    case.leaves.iter().zip(data).map(|(&v, d)| (v, numbers(d))).collect()
}

/// A weight's gradient depends on its own two channels alone: the definition on the last few of each side.
fn weight_corner(case: &Case, conv: &Conv, data: &[Vec<f32>], got: &[f32]) -> (Vec<Vec<f64>>, Vec<Vec<f32>>) {
    assert_eq!(conv.groups, 1, "no shipped network that is measured has groups");
    let small = Conv { c: conv.c.min(CORNER), k: conv.k.min(CORNER), ..*conv };
    let tail = |numbers: &[f32], width: usize, keep: usize| -> Vec<f64> {
        numbers.chunks_exact(width).flat_map(|p| p[width - keep..].iter().map(|&v| f64::from(v))).collect()
    };
    let mut graph = Graph::new();
    let mut given = Values::new();
    for (i, (width, keep)) in [(conv.c, small.c), (conv.k, small.k)].into_iter().enumerate() {
        let mut shape = case.graph.shape(case.leaves[i]).clone();
        shape.dims[2] = keep;
        given.insert(graph.input(&format!("in{i}"), shape, DType::F32), tail(&data[i], width, keep));
    }
    let leaves: Vec<Value> = given.keys().copied().collect();
    let output = graph.push(Op::Conv2dGradWeight(small), &leaves);
    let window = conv.kernel[0] * conv.kernel[1];
    let filters = got.chunks_exact(conv.c * window).skip(conv.k - small.k);
    let got = filters.flat_map(|f| f[(conv.c - small.c) * window..].to_vec()).collect();
    (naive::eval(&graph, case.batch, &given, &[output]), vec![got])
}

/// The largest difference over the root mean square of `want`; infinite where that is zero, NaN where one is among them.
fn distance(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "result and definition differ in length");
    let off = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).abs());
    // Not `f64::max`, which would pass over a NaN.
    let off = off.fold(0.0, |most: f64, d| if d > most || d.is_nan() { d } else { most });
    let size = (want.iter().map(|w| w * w).sum::<f64>() / want.len() as f64).sqrt();
    if off == 0.0 { 0.0 } else { off / size }
}

/// Whether a leaf must be positive: variances, and statistics that hold some.
pub fn positive(case: &Case, leaf: Value) -> bool {
    let node = case.graph.node(leaf);
    matches!(&node.op, Op::Param { role: Role::Statistic, .. })
        || (!node.shape.batched && node.shape.dims.len() == 2 && node.shape.dims[0] == 2)
}
