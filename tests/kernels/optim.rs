//! The update of parameters: velocities, steps, averages.

use petard::graph::{Graph, Op, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, NUMBERS};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Around a vector, and above the chunk that one thread takes.
    for elems in [1, 15, 17, 300, 20_000] {
        cases.push(update("velocity", Op::SgdVelocity, &["v", "g", "w"], elems));
        cases.push(update("step", Op::SgdStep { nesterov: false }, &["w-", "g", "v"], elems));
        cases.push(update("step_nesterov", Op::SgdStep { nesterov: true }, &["w-", "g", "v"], elems));
        cases.push(ema(elems));
    }
    cases
}

fn case(name: String, graph: Graph, output: Value) -> Case {
    let literal = name.clone();
    Case { fills: NUMBERS, ..Case::new(format!("optim::{name}"), literal, graph, output, Bound::Roundings(5)) }
}

/// Inputs as the op takes them, then learning rate, momentum and weight decay.
fn update(name: &str, op: Op, inputs: &[&str], elems: usize) -> Case {
    let mut g = Graph::new();
    let mut values: Vec<Value> = inputs.iter().map(|name| g.input(name, Shape::fixed(&[elems]), DType::F32)).collect();
    values.push(g.input("hyper", Shape::fixed(&[3]), DType::F32));
    let y = g.push(op, &values);
    case(format!("{name}.{elems}"), g, y)
}

fn ema(elems: usize) -> Case {
    let mut g = Graph::new();
    let [average, value] = ["average", "value"].map(|name| g.input(name, Shape::fixed(&[elems]), DType::F32));
    let decay = g.input("decay", Shape::fixed(&[]), DType::F32);
    let y = g.push(Op::Ema, &[average, value, decay]);
    case(format!("ema.{elems}"), g, y)
}
