//! Pooling, its winners and its gradients.

use petard::graph::{Graph, Op, Pool, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case};
use crate::support::naive::eval;

const fn square(kernel: usize, stride: usize, pad: usize) -> Pool {
    Pool { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], ceil: false, count_pad: true }
}

/// Height, width, channels, and the window.
type Row = ([usize; 3], Pool);

const ROWS: &[Row] = &[
    ([1, 1, 1], square(1, 1, 0)),
    ([2, 2, 3], square(2, 2, 0)),
    ([8, 8, 16], square(2, 2, 0)),
    ([7, 5, 17], square(2, 2, 0)),
    ([7, 5, 33], square(3, 2, 1)),
    ([6, 6, 4], square(3, 1, 1)),
    ([5, 9, 15], square(3, 3, 0)),
    ([6, 7, 5], Pool { ceil: true, ..square(3, 2, 0) }),
    ([6, 7, 5], Pool { ceil: true, ..square(3, 2, 1) }),
    ([5, 5, 8], Pool { ceil: true, count_pad: false, ..square(2, 2, 1) }),
    ([6, 5, 31], Pool { count_pad: false, ..square(3, 2, 1) }),
    ([4, 4, 64], Pool { count_pad: false, ..square(3, 1, 1) }),
    ([8, 3, 2], Pool { kernel: [4, 1], stride: [3, 2], pad: [2, 0], ..square(1, 1, 0) }),
    ([3, 3, 2], square(2, 5, 0)),
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        ROWS.iter().flat_map(|row| [max(row), winners(row), max_grad(row), avg(row), avg_grad(row)]).collect();
    for hwc in [[1, 1, 1], [4, 4, 16], [3, 5, 33], [7, 7, 5]] {
        cases.extend([global(hwc), global_grad(hwc)]);
    }
    cases
}

fn case(what: &str, row: &Row, graph: Graph, output: Value, bound: Bound) -> Case {
    let ([h, w, c], p) = row;
    let size =
        format!("{h}x{w}.c{c}.r{}x{}.s{}x{}.p{}x{}", p.kernel[0], p.kernel[1], p.stride[0], p.stride[1], p.pad[0], p.pad[1]);
    let mode = format!("{}{}", if p.ceil { ".ceil" } else { "" }, if p.count_pad { "" } else { ".not_counted" });
    Case::new(format!("pool::{what}.{size}{mode}"), format!("{row:?}"), graph, output, bound)
}

fn image(g: &mut Graph, name: &str, dims: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&dims), DType::F32)
}

fn gradient(g: &mut Graph, ([h, w, c], pool): &Row) -> Value {
    let (p, q) = pool.out_hw(*h, *w);
    image(g, "g", [p, q, *c])
}

/// Maximum alone.
fn max(row: &Row) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row.0);
    let y = g.max_pool(x, row.1);
    Case { scale: super::result, ..case("max", row, g, y, Bound::Exact) }
}

/// Maximum and winners from one step.
fn winners(row: &Row) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row.0);
    let y = g.max_pool(x, row.1);
    let index = g.push(Op::MaxPoolIndex(row.1), &[x]);
    let mut case = Case { scale: super::result, ..case("max_index", row, g, y, Bound::Exact) };
    case.outputs.push(index);
    case
}

fn max_grad(row: &Row) -> Case {
    let mut g = Graph::new();
    let ([h, w, _], pool) = *row;
    let dy = gradient(&mut g, row);
    // Winners of real data: any index that points into the padding would be none.
    let x = image(&mut g, "x", row.0);
    let index = g.push(Op::MaxPoolIndex(pool), &[x]);
    let dx = g.push(Op::MaxPoolGrad { pool, hw: [h, w] }, &[dy, index]);
    let mut case = case("max_grad", row, g, dx, Bound::Sum(pool.kernel[0] * pool.kernel[1]));
    // The same winners with the magnitudes of the gradients.
    case.scale = |probe| {
        let is_g = |v: Value| probe.graph.node(v).label == "g";
        let sizes =
            |(&v, data): (&Value, &Vec<f64>)| (v, if is_g(v) { data.iter().map(|d| d.abs()).collect() } else { data.clone() });
        eval(probe.graph, probe.batch, &probe.given.iter().map(sizes).collect(), &[probe.output]).remove(0)
    };
    case
}

fn avg(row: &Row) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row.0);
    let y = g.avg_pool(x, row.1);
    case("avg", row, g, y, Bound::Sum(row.1.kernel[0] * row.1.kernel[1]))
}

fn avg_grad(row: &Row) -> Case {
    let mut g = Graph::new();
    let ([h, w, _], pool) = *row;
    let dy = gradient(&mut g, row);
    let dx = g.push(Op::AvgPoolGrad { pool, hw: [h, w] }, &[dy]);
    case("avg_grad", row, g, dx, Bound::Sum(pool.kernel[0] * pool.kernel[1]))
}

fn global(hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", hwc);
    let y = g.global_avg_pool(x);
    let [h, w, c] = hwc;
    Case::new(format!("pool::global.{h}x{w}.c{c}"), format!("{hwc:?}"), g, y, Bound::Sum(h * w))
}

fn global_grad(hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let [h, w, c] = hwc;
    let dy = g.input("g", Shape::per_image(&[c]), DType::F32);
    let dx = g.push(Op::GlobalAvgPoolGrad { hw: [h, w] }, &[dy]);
    Case::new(format!("pool::global_grad.{h}x{w}.c{c}"), format!("{hwc:?}"), g, dx, Bound::Roundings(2))
}
