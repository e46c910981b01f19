//! The change of a weight that perturbs it.

use petard::graph::{Graph, Op, Role};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, Fill, result};

pub fn cases() -> Vec<Case> {
    [vec![1], vec![7, 3], vec![64, 16, 3, 3], vec![4097], vec![3, 4096]].map(case).into()
}

fn case(dims: Vec<usize>) -> Case {
    let mut g = Graph::new();
    let w = g.param("w", &dims, Role::Weight);
    let dw = g.input("g", Shape::fixed(&dims), DType::F32);
    let gamma = g.input("gamma", Shape::fixed(&[]), DType::F32);
    let y = g.push(Op::Perturbation, &[w, dw, gamma]);
    let name = format!("perturb::weight.{}", dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x"));
    // With gradients of 1e-40 what stands for 0 in the length would decide.
    let fills = &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Huge];
    Case { scale: result, fills, ..Case::new(name, format!("{dims:?}"), g, y, Bound::Roundings(2)) }
}
