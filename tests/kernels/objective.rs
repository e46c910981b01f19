//! Losses that train and their gradients. The engine computes them in f64 and rounds once.

use libtest_mimic::Trial;
use petard::graph::{Graph, Objective, Op, Value};
use petard::tensor::{DType, Shape};

use super::direct::{against_cpu, on_cards};
use super::{Bound, Case, NUMBERS, Probe};
use crate::support::naive::Values;

const OBJECTIVES: &[(&str, Objective)] = &[
    ("kl", Objective::Kl),
    ("mart", Objective::Mart { weight: 5.0 }),
    ("squared", Objective::Squared),
    ("soft", Objective::Soft),
    ("focal", Objective::Focal { gamma: 2.0 }),
    ("focal_half", Objective::Focal { gamma: 1.5 }),
    ("sigmoid_focal", Objective::SigmoidFocal { gamma: 2.0 }),
    ("bce", Objective::SigmoidFocal { gamma: 0.0 }),
    ("soft_margin", Objective::SoftMargin),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, of) in OBJECTIVES {
        for classes in [2, 10, 33] {
            cases.push(case(name, of, classes, None));
            cases.push(case(name, of, classes, Some(0)));
            if of.moves_pair() {
                cases.push(case(name, of, classes, Some(1)));
            }
        }
    }
    // More classes than a warp takes.
    cases.extend([case("mart", OBJECTIVES[1].1, 1500, None), case("mart", OBJECTIVES[1].1, 1500, Some(1))]);
    cases
}

/// Ties, infinities and a NaN at each place: values and gradients of the CPU, NaN where it has NaN.
pub fn trials() -> Vec<Trial> {
    on_cards("objective::corners", |card| {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let mut z = vec![0.0, -0.0, 0.0, -0.0, 0.0, 2.0, 5.0, 5.0, 1.0, 5.0, -inf, 1.0, -inf, 0.5, 0.25];
        z.extend([1e30, -1e30, 0.0, 1.0, 2.0, 40.0, 0.0, 0.0, -800.0, 800.0]);
        z.extend((0..5).flat_map(|at| (0..5).map(move |i| if i == at { nan } else { [0.5, 3.0, 1.0, -2.0, 0.0][i] })));
        let n = z.len() / 5;
        let w: Vec<f64> = (0..z.len()).map(|i| f64::from(i as u32 % 7) / 4.0).collect();
        for &(name, of) in OBJECTIVES {
            for first in 0..5 {
                let (mut g, mut given) = (Graph::new(), Values::new());
                let inputs = leaves(&mut g, of, 5);
                given.insert(inputs[0], z.clone());
                if of.reads_pair() {
                    given.insert(inputs[1], w.clone());
                }
                if of.reads_label() {
                    given.insert(inputs[inputs.len() - 1], (0..n).map(|i| ((first + i) % 5) as f64).collect());
                }
                let mut outputs = vec![g.push(Op::Objective(of), &inputs), g.push(Op::ObjectiveGrad { of, by: 0 }, &inputs)];
                if of.moves_pair() {
                    outputs.push(g.push(Op::ObjectiveGrad { of, by: 1 }, &inputs));
                }
                against_cpu(&g, &outputs, n, &given, card, 2f32.powi(-22)).map_err(|e| format!("{name}: {e}"))?;
            }
        }
        Ok(())
    })
}

fn leaves(g: &mut Graph, of: Objective, classes: usize) -> Vec<Value> {
    let mut inputs = vec![g.input("z", Shape::per_image(&[classes]), DType::F32)];
    if of.reads_pair() {
        inputs.push(g.input("w", Shape::per_image(&[classes]), DType::F32));
    }
    if of.reads_label() {
        inputs.push(g.input("label", Shape::per_image(&[]), DType::I32));
    }
    inputs
}

fn case(name: &str, of: Objective, classes: usize, by: Option<usize>) -> Case {
    let mut g = Graph::new();
    let inputs = leaves(&mut g, of, classes);
    let out = g.push(by.map_or(Op::Objective(of), |by| Op::ObjectiveGrad { of, by }), &inputs);
    let what = by.map_or(String::new(), |by| format!("grad{by}_"));
    let name = format!("objective::{what}{name}.k{classes}");
    let case = Case::new(name, format!("({of:?}, {classes}, {by:?})"), g, out, Bound::Roundings(2));
    Case { scale: size, fills: NUMBERS, ..case }
}

/// The result, and what cancels in f64 before the one rounding: some tens of 2^-53 of the largest terms, for each class.
fn size(probe: &Probe) -> Vec<f64> {
    let at = |name: &str| probe.graph.input_named(name).map(|v| (&probe.given[&v], probe.graph.shape(v).elems()));
    let each = probe.want.len() / probe.batch;
    let largest = |name: &str, n: usize| {
        at(name).map_or(0.0, |(data, k)| data[n * k..(n + 1) * k].iter().fold(0.0, |m: f64, v| m.max(v.abs())))
    };
    let classes = at("z").map_or(1, |(_, k)| k) as f64;
    let soft = matches!(
        probe.graph.node(probe.output).op,
        Op::Objective(Objective::Soft) | Op::ObjectiveGrad { of: Objective::Soft, .. }
    );
    let lost = |n: usize| match soft {
        true => largest("w", n) * (1.0 + largest("z", n)),
        false => 1.0 + largest("z", n).max(largest("w", n)),
    };
    probe.want.iter().enumerate().map(|(i, w)| w.abs() + 1e-8 * classes * lost(i / each)).collect()
}
