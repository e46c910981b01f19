//! Local response normalisation and its gradient: windows that are even, odd, one channel, and wider than there are channels.

use petard::graph::{Graph, Op, ResponseNorm, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, Fill};

/// Height, width, channels, and the norm.
type Row = ([usize; 3], ResponseNorm);

const ALEXNET: ResponseNorm = ResponseNorm { size: 5, alpha: 1e-4, beta: 0.75, bias: 1.0 };
/// One whose divisor differs from 1 on data of size 1.
const STRONG: ResponseNorm = ResponseNorm { size: 5, alpha: 1.5, beta: 0.75, bias: 2.0 };

const ROWS: &[Row] = &[
    ([1, 1, 1], STRONG),
    ([2, 3, 4], STRONG),
    ([3, 2, 3], ResponseNorm { size: 9, ..STRONG }),
    ([5, 4, 17], ResponseNorm { size: 4, ..STRONG }),
    ([3, 3, 33], ResponseNorm { size: 1, beta: 1.5, ..STRONG }),
    ([4, 4, 16], ResponseNorm { size: 2, beta: 0.5, ..STRONG }),
    ([6, 5, 96], ALEXNET),
    ([2, 2, 64], ResponseNorm { size: 11, beta: 2.0, ..STRONG }),
    // 255, 256 and 257 values are one less than, as many as, and one more than a block has threads.
    ([1, 1, 85], STRONG),
    ([2, 2, 8], STRONG),
];

/// Squares of 1e17 are beyond the range in which the gradient's terms are f32.
const FILLS: &[Fill] = &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros, Fill::Subnormal, Fill::OneNan];

pub fn cases() -> Vec<Case> {
    ROWS.iter().flat_map(|row| [forward(row), grad(row)]).collect()
}

fn name(what: &str, ([h, w, c], norm): &Row) -> String {
    format!("lrn::{what}.{h}x{w}.c{c}.s{}.b{}", norm.size, norm.beta)
}

fn image(g: &mut Graph, name: &str, dims: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&dims), DType::F32)
}

/// Sums and powers are f64: one rounding at the end, and what the power of a large number adds.
fn forward(row: &Row) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row.0);
    let ResponseNorm { size, alpha, beta, bias } = row.1;
    let y = g.local_response_norm(x, size, alpha, beta, bias);
    let case = Case::new(name("forward", row), format!("{row:?}"), g, y, Bound::Roundings(2));
    Case { scale: super::result, ..case }
}

/// The terms of the sum are rounded to f32; they are subtracted, so the errors are relative to sums of magnitudes.
fn grad(row: &Row) -> Case {
    let mut g = Graph::new();
    let dy = image(&mut g, "g", row.0);
    let x = image(&mut g, "x", row.0);
    let dx = g.push(Op::ResponseNormGrad(row.1), &[dy, x]);
    let case = Case::new(name("grad", row), format!("{row:?}"), g, dx, Bound::Sum(2));
    Case { scale, fills: FILLS, ..case }
}

/// `|g p|` and the sum of the magnitudes of the terms: the gradient of magnitudes with the second part added.
fn scale(probe: &super::Probe) -> Vec<f64> {
    let norm = probe.graph.nodes().iter().find_map(|n| if let Op::ResponseNormGrad(norm) = n.op { Some(norm) } else { None });
    let norm = norm.expect("the case is a gradient");
    let [g, x] = ["g", "x"].map(|name| &probe.given[&probe.graph.input_named(name).expect("an input of the case")]);
    let c = probe.graph.shape(probe.output).hwc().2;
    let mut out = Vec::new();
    for (g, x) in g.chunks_exact(c).zip(x.chunks_exact(c)) {
        let window = |k: usize| k.saturating_sub(norm.size / 2)..(k + (norm.size - 1) / 2 + 1).min(c);
        let share = f64::from(norm.alpha) / norm.size as f64;
        let base = |k: usize| f64::from(norm.bias) + share * x[window(k)].iter().map(|v| v * v).sum::<f64>();
        let beta = f64::from(norm.beta);
        let term = |k: usize| (g[k] * x[k]).abs() * base(k).powf(-beta - 1.0);
        out.extend((0..c).map(|k| {
            let sum: f64 = (0..c).filter(|&i| window(i).contains(&k)).map(term).sum();
            g[k].abs() * base(k).powf(-beta) + 2.0 * share * beta * x[k].abs() * sum
        }));
    }
    out
}
