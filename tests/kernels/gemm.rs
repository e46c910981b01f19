//! The linear layer and its two gradients.

use petard::graph::{Graph, Op, Role};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, Fill, NUMBERS};

/// Inputs and outputs of the layer.
const ROWS: &[(usize, usize)] = &[
    (1, 1),
    (1, 7),
    (7, 1),
    (3, 5),
    (15, 17),
    (16, 16),
    (17, 10),
    (31, 33),
    (64, 10),
    (20, 64),
    (128, 100),
    (257, 63),
    (512, 10),
];

pub fn cases() -> Vec<Case> {
    ROWS.iter().flat_map(|&row| [forward(row), biased(row), grad_input(row), grad_weight(row)]).collect()
}

fn case(what: &str, row: (usize, usize), graph: Graph, output: petard::graph::Value, terms: usize) -> Case {
    Case::new(format!("gemm::{what}.in{}.out{}", row.0, row.1), format!("{row:?}"), graph, output, Bound::Sum(terms))
}

fn forward(row: (usize, usize)) -> Case {
    let mut g = Graph::new();
    let x = g.input("x", Shape::per_image(&[row.0]), DType::F32);
    let w = g.param("w", &[row.1, row.0], Role::Weight);
    let y = g.push(Op::Linear, &[x, w]);
    case("linear", row, g, y, row.0)
}

fn biased(row: (usize, usize)) -> Case {
    let mut g = Graph::new();
    let x = g.input("x", Shape::per_image(&[row.0]), DType::F32);
    let y = g.linear("fc", x, row.1, true);
    let y = g.relu(y);
    let mut case = case("linear_bias_relu", row, g, y, row.0 + 1);
    case.fills = NUMBERS;
    case.scale = |probe| {
        let before = probe.graph.node(probe.output).inputs[0];
        super::magnitude(&super::Probe { output: before, ..*probe })
    };
    case
}

fn grad_input(row: (usize, usize)) -> Case {
    let mut g = Graph::new();
    let dy = g.input("g", Shape::per_image(&[row.1]), DType::F32);
    let w = g.param("w", &[row.1, row.0], Role::Weight);
    let dx = g.push(Op::LinearGradInput, &[dy, w]);
    case("grad_input", row, g, dx, row.1)
}

fn grad_weight(row: (usize, usize)) -> Case {
    let mut g = Graph::new();
    let x = g.input("x", Shape::per_image(&[row.0]), DType::F32);
    let dy = g.input("g", Shape::per_image(&[row.1]), DType::F32);
    let dw = g.push(Op::LinearGradWeight, &[x, dy]);
    // Huge times huge leaves the range of f32, tiny times tiny falls below it.
    Case { fills: &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros, Fill::OneNan], ..case("grad_weight", row, g, dw, 8) }
}
