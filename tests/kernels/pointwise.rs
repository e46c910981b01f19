//! Element-wise ops alone and in chains.

use petard::graph::{Graph, Op, Role, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, NUMBERS};

/// Height, width, channels: around the words of masks and the lanes of vectors.
const ROWS: &[[usize; 3]] = &[[1, 1, 1], [3, 5, 7], [4, 4, 15], [2, 3, 16], [5, 5, 17], [3, 3, 33], [8, 8, 64]];

pub fn cases() -> Vec<Case> {
    let kinds = [add_bias, sum_channels, relu, relu6, mask, mask6, gate, add, scale, dropout, chain];
    let mut cases: Vec<Case> = ROWS.iter().flat_map(|&row| kinds.iter().map(move |kind| kind(row))).collect();
    cases.extend([add_self([3, 5, 7]), add_self([2, 3, 16]), long_chain([3, 5, 7]), long_chain([3, 3, 32])]);
    cases
}

fn case(what: &str, row: [usize; 3], graph: Graph, output: Value, bound: Bound) -> Case {
    let [h, w, c] = row;
    Case::new(format!("pointwise::{what}.{h}x{w}.c{c}"), format!("{row:?}"), graph, output, bound)
}

fn image(g: &mut Graph, name: &str, row: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&row), DType::F32)
}

fn bits(g: &mut Graph, row: [usize; 3]) -> Value {
    g.input("mask", Shape::per_image(&row), DType::Bits)
}

fn add_bias(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let b = g.param("b", &[row[2]], Role::Weight);
    let y = g.push(Op::AddBias, &[x, b]);
    case("add_bias", row, g, y, Bound::Roundings(1))
}

fn sum_channels(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let dy = image(&mut g, "g", row);
    let sums = g.push(Op::SumChannels, &[dy]);
    case("sum_channels", row, g, sums, Bound::Sum(8 * row[0] * row[1]))
}

fn relu(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let y = g.relu(x);
    Case { scale: super::result, ..case("relu", row, g, y, Bound::Exact) }
}

fn relu6(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let far = g.push(Op::Scale { factor: 8.0 }, &[x]); // a power of two: no rounding
    let y = g.relu6(far);
    Case { scale: super::result, ..case("relu6", row, g, y, Bound::Exact) }
}

fn mask(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let y = g.relu(x);
    let mask = g.push(Op::ReluMask { cap: None }, &[y]);
    let mut case = Case { scale: super::result, ..case("relu_mask", row, g, y, Bound::Exact) };
    case.outputs.push(mask);
    case
}

/// The mask of a value that comes from outside.
fn mask6(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let y = image(&mut g, "x", row);
    let mask = g.push(Op::ReluMask { cap: Some(1.0) }, &[y]);
    Case { scale: super::result, ..case("relu_mask_capped", row, g, mask, Bound::Exact) }
}

fn gate(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let dy = image(&mut g, "g", row);
    let mask = bits(&mut g, row);
    let dx = g.push(Op::Gate, &[dy, mask]);
    Case { scale: super::result, ..case("gate", row, g, dx, Bound::Exact) }
}

fn add(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let (a, b) = (image(&mut g, "a", row), image(&mut g, "b", row));
    let y = g.add(a, b);
    case("add", row, g, y, Bound::Roundings(1))
}

fn scale(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let y = g.push(Op::Scale { factor: -1.7 }, &[x]);
    case("scale", row, g, y, Bound::Roundings(1))
}

fn dropout(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let mask = bits(&mut g, row);
    let y = g.push(Op::Dropout { p: 0.3 }, &[x, mask]);
    case("dropout", row, g, y, Bound::Roundings(3))
}

/// What fusing must keep: a value that is read again later is stored as it was before the ops behind it.
fn chain(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let (a, b) = (image(&mut g, "a", row), image(&mut g, "b", row));
    let bias = g.param("bias", &[row[2]], Role::Weight);
    let sum = g.add(a, b);
    let shifted = g.push(Op::AddBias, &[sum, bias]);
    let active = g.relu(shifted);
    let again = g.add(active, sum);
    let mut case = case("chain", row, g, again, Bound::Roundings(4));
    case.outputs.extend([sum, shifted]);
    case.fills = NUMBERS;
    case
}

fn add_self(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let y = g.add(x, x);
    case("add_self", row, g, y, Bound::Exact)
}

/// More operations than one kernel takes, and two bounds in one list.
fn long_chain(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let mut y = x;
    for name in ["b0", "b1", "b2", "b3", "b4"] {
        let bias = g.param(name, &[row[2]], Role::Weight);
        let shifted = g.push(Op::AddBias, &[y, bias]);
        y = g.relu(shifted);
    }
    for cap in [6.0, 1.5] {
        y = g.push(Op::Relu { cap: Some(cap) }, &[y]);
        y = g.add(y, x);
    }
    case("long_chain", row, g, y, Bound::Roundings(7))
}
