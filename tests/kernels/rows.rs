//! One value an image: verdicts, comparisons, choices, the state of a gradient.

use petard::graph::{Graph, Op, Value};
use petard::tensor::{DType, Shape};

use libtest_mimic::Trial;

use super::direct::{against_cpu, carried_as_on_cpu, on_cards};
use super::{Bound, Case};
use crate::support::Rng;
use crate::support::naive::Values;

pub fn cases() -> Vec<Case> {
    let mut cases = vec![compare("greater", Op::Greater), compare("max_rows", Op::MaxRows)];
    for classes in [2, 3, 10, 100] {
        cases.extend([fooled(classes, false), fooled(classes, true)]);
    }
    for elems in [1, 7, 16, 33, 300] {
        cases.extend([select(elems), status(elems), column(elems, elems / 2)]);
    }
    cases
}

pub fn trials() -> Vec<Trial> {
    let states = on_cards("rows::grad_status.corners", |card| {
        for elems in [5, 8, 1025] {
            let (mut g, mut given) = (Graph::new(), Values::new());
            let dx = g.input("g", Shape::per_image(&[elems]), DType::F32);
            let y = g.push(Op::GradStatus, &[dx]);
            let marks = [0.0, -0.0, 1e-45, -1e-45, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 3e38];
            let row = |mark: f64| (0..elems).map(move |i| if i == elems - 1 { mark } else { 0.0 });
            given.insert(dx, marks.iter().flat_map(|&m| row(m)).collect());
            against_cpu(&g, &[y], marks.len(), &given, card, 0.0)?;
        }
        Ok(())
    });
    let select = on_cards("rows::select.in_place", |card| {
        for elems in [1, 7, 300, 3072] {
            let (mut g, mut given, mut rng) = (Graph::new(), Values::new(), Rng::new(elems as u64));
            let [a, b] = ["a", "b"].map(|name| g.input(name, Shape::per_image(&[elems]), DType::F32));
            let flag = row(&mut g, "flag", DType::F32);
            given.extend([(a, rng.normals(4 * elems)), (b, rng.normals(4 * elems)), (flag, vec![1.0, 0.0, -0.0, 0.5])]);
            let next = g.push(Op::SelectRows, &[flag, a, b]);
            carried_as_on_cpu(&g, &[(b, next)], 4, 2, &given, card, 0.0)?;
        }
        Ok(())
    });
    [states, select].into_iter().flatten().collect()
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

fn column(len: usize, index: usize) -> Case {
    let mut g = Graph::new();
    let state = g.input("state", Shape::per_image(&[len]), DType::F32);
    let y = g.push(Op::Column { index }, &[state]);
    case(format!("column.{len}.{index}"), g, y)
}

fn status(elems: usize) -> Case {
    let mut g = Graph::new();
    let dx = g.input("g", Shape::per_image(&[elems]), DType::F32);
    let y = g.push(Op::GradStatus, &[dx]);
    case(format!("grad_status.{elems}"), g, y)
}
