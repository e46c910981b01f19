//! One value an image: verdicts, comparisons, choices, the state of a gradient.

use petard::graph::{Graph, Op, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case};

pub fn cases() -> Vec<Case> {
    let mut cases = vec![compare("greater", Op::Greater), compare("max_rows", Op::MaxRows)];
    for classes in [2, 3, 10, 100] {
        cases.extend([fooled(classes, false), fooled(classes, true)]);
    }
    for elems in [1, 7, 16, 33, 300] {
        cases.extend([select(elems), status(elems)]);
    }
    cases
}

fn case(name: String, graph: Graph, output: Value) -> Case {
    let literal = name.clone();
    Case { scale: super::result, ..Case::new(format!("rows::{name}"), literal, graph, output, Bound::Exact) }
}

fn row(g: &mut Graph, name: &str, dtype: DType) -> Value {
    g.input(name, Shape::per_image(&[]), dtype)
}

fn compare(name: &str, op: Op) -> Case {
    let mut g = Graph::new();
    let (a, b) = (row(&mut g, "a", DType::F32), row(&mut g, "b", DType::F32));
    let y = g.push(op, &[a, b]);
    case(name.into(), g, y)
}

fn fooled(classes: usize, hit: bool) -> Case {
    let mut g = Graph::new();
    let z = g.input("z", Shape::per_image(&[classes]), DType::F32);
    let label = row(&mut g, "label", DType::I32);
    let y = g.push(Op::Fooled { hit }, &[z, label]);
    case(format!("{}.k{classes}", if hit { "hit" } else { "fooled" }), g, y)
}

fn select(elems: usize) -> Case {
    let mut g = Graph::new();
    let (a, b) = (g.input("a", Shape::per_image(&[elems]), DType::F32), g.input("b", Shape::per_image(&[elems]), DType::F32));
    let flag = row(&mut g, "flag", DType::F32);
    let y = g.push(Op::SelectRows, &[flag, a, b]);
    case(format!("select.{elems}"), g, y)
}

fn status(elems: usize) -> Case {
    let mut g = Graph::new();
    let dx = g.input("g", Shape::per_image(&[elems]), DType::F32);
    let y = g.push(Op::GradStatus, &[dx]);
    case(format!("grad_status.{elems}"), g, y)
}
