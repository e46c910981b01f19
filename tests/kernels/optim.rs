//! The update of parameters: velocities, steps, averages.

use petard::graph::{Graph, Op, Value};
use petard::tensor::{DType, Shape};

use libtest_mimic::Trial;
use petard::gpu::Driver;
use petard::gpu::lower::lower;
use petard::plan::{Segment, compile};

use super::direct::{carried_as_on_cpu, on_cards};
use super::{Bound, Case, NUMBERS};
use crate::emulated::{Build, Emulated, Profile, Schedule};
use crate::support::naive::Values;
use crate::support::{Rng, trial};

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

/// Parameters of a training step: around a vector, and above one and two chunks.
const SIZES: [usize; 6] = [1, 10, 64, 300, 4097, 9000];

/// All updates of a training step, with what they start from.
fn training(nesterov: bool) -> (Graph, Vec<(Value, Value)>, Values) {
    let (mut g, mut given, mut carries, mut rng) = (Graph::new(), Values::new(), Vec::new(), Rng::new(5));
    let hyper = g.input("hyper", Shape::fixed(&[3]), DType::F32);
    let decay = g.input("decay", Shape::fixed(&[]), DType::F32);
    given.extend([(hyper, vec![0.1, 0.9, 5e-4]), (decay, vec![0.99])]);
    for elems in SIZES {
        let [w, v, grad] = ["w", "v", "g"].map(|name| g.input(&format!("{name}{elems}"), Shape::fixed(&[elems]), DType::F32));
        given.extend([w, v, grad].map(|leaf| (leaf, rng.normals(elems))));
        let next_v = g.push(Op::SgdVelocity, &[v, grad, w, hyper]);
        let next_w = g.push(Op::SgdStep { nesterov }, &[w, grad, next_v, hyper]);
        carries.extend([(v, next_v), (w, next_w)]);
    }
    for (i, elems) in SIZES.into_iter().enumerate() {
        let average = g.input(&format!("average{elems}"), Shape::fixed(&[elems]), DType::F32);
        given.insert(average, rng.normals(elems));
        carries.push((average, g.push(Op::Ema, &[average, carries[2 * i + 1].1, decay])));
    }
    (g, carries, given)
}

pub fn trials() -> Vec<Trial> {
    let mut trials = on_cards("optim::in_place", |card| {
        for nesterov in [false, true] {
            let (g, carries, given) = training(nesterov);
            carried_as_on_cpu(&g, &carries, 1, 3, &given, card, 0.0)?;
        }
        Ok(())
    });
    trials.push(trial("optim::few_launches", || {
        let (g, carries, _) = training(false);
        let plan = compile(&g, &[Segment { name: "step".into(), outputs: vec![], carries }], 1).expect("a good plan");
        let card = Emulated::new(Profile::Hopper, Build::Fast, Schedule::IN_ORDER);
        let lowered = lower(&plan, card.props());
        let (_, launches) = lowered.programs.iter().find(|(name, _)| name == "step").expect("the segment");
        let blocks: Vec<u32> = launches.iter().map(|l| l.dims.grid[0]).collect();
        assert_eq!(blocks, [9, 9], "one launch for all velocities and steps, one for the averages");
    }));
    trials
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
