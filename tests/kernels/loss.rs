//! Losses and their gradients. The engine computes them in f64 and rounds once.

use petard::graph::{Graph, Loss, Op};
use petard::tensor::{DType, Shape};

use libtest_mimic::Trial;

use super::direct::{against_cpu, on_cards};
use super::{Bound, Case, NUMBERS, Probe};
use crate::support::naive::Values;

const LOSSES: &[(&str, Loss)] = &[
    ("cross_entropy", Loss::CrossEntropy { smoothing: 0.0 }),
    ("cross_entropy_smoothed", Loss::CrossEntropy { smoothing: 0.1 }),
    ("margin", Loss::Margin),
    ("hinge", Loss::Hinge { kappa: 0.0 }),
    ("hinge_kappa", Loss::Hinge { kappa: 0.75 }),
    ("dlr", Loss::Dlr),
    ("targeted_cross_entropy", Loss::TargetedCrossEntropy),
    ("targeted_margin", Loss::TargetedMargin),
    ("targeted_difference", Loss::TargetedDifference),
    ("targeted_dlr", Loss::TargetedDlr),
    ("logit", Loss::Logit),
    ("targeted_logit", Loss::TargetedLogit),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, loss) in LOSSES {
        for classes in [2, 3, 4, 10, 100] {
            let least = match loss {
                Loss::Dlr => 3,
                Loss::TargetedDlr => 4,
                _ => 2,
            };
            if classes >= least {
                cases.extend([case(name, loss, classes, false), case(name, loss, classes, true)]);
            }
        }
    }
    // More classes than a warp takes.
    for (name, loss) in [LOSSES[1], LOSSES[2], LOSSES[9]] {
        cases.extend([case(name, loss, 1500, false), case(name, loss, 1500, true)]);
    }
    cases
}

/// Ties of +0 and -0, infinities, and a NaN at each place: values and gradients of the CPU, NaN where it has NaN.
pub fn trials() -> Vec<Trial> {
    on_cards("loss::corners", |card| {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let mut z = vec![0.0, -0.0, 0.0, -0.0, 0.0, 2.0, 5.0, 5.0, 1.0, 5.0, -inf, 1.0, -inf, 0.5, 0.25];
        z.extend([inf, 0.0, 1.0, 2.0, 3.0, inf, 1.0, inf, 0.0, 0.0, 1e30, -1e30, 0.0, 1.0, 2.0]);
        z.extend((0..5).flat_map(|at| (0..5).map(move |i| if i == at { nan } else { [0.5, 3.0, 1.0, -2.0, 0.0][i] })));
        z.extend([nan, 1.0, nan, 2.0, nan, 0.5, -nan, 1.0, nan, 0.0, 0.5, 2.0, 1.0, -nan, 0.0]);
        let n = z.len() / 5;
        for &(name, loss) in LOSSES {
            for first in 0..5 {
                let row = |i: usize, by: usize| ((first + i + by) % 5) as f64;
                let mut g = Graph::new();
                let mut given = Values::new();
                let logits = g.input("z", Shape::per_image(&[5]), DType::F32);
                given.insert(logits, z.clone());
                let mut inputs = vec![logits];
                for (name, by) in [("label", 0), ("target", 2)].into_iter().take(1 + usize::from(loss.targeted())) {
                    let v = g.input(name, Shape::per_image(&[]), DType::I32);
                    given.insert(v, (0..n).map(|i| row(i, by)).collect());
                    inputs.push(v);
                }
                let outputs = [g.push(Op::Loss(loss), &inputs), g.push(Op::LossGrad(loss), &inputs)];
                against_cpu(&g, &outputs, n, &given, card, 2f32.powi(-22)).map_err(|e| format!("{name}: {e}"))?;
            }
        }
        Ok(())
    })
}

fn case(name: &str, loss: Loss, classes: usize, gradient: bool) -> Case {
    let mut g = Graph::new();
    let z = g.input("z", Shape::per_image(&[classes]), DType::F32);
    let mut inputs = vec![z, g.input("label", Shape::per_image(&[]), DType::I32)];
    if loss.targeted() {
        inputs.push(g.input("target", Shape::per_image(&[]), DType::I32));
    }
    let out = g.push(if gradient { Op::LossGrad(loss) } else { Op::Loss(loss) }, &inputs);
    let what = if gradient { "grad_" } else { "" };
    let name = format!("loss::{what}{name}.k{classes}");
    let case = Case::new(name, format!("({loss:?}, {classes}, {gradient})"), g, out, Bound::Roundings(2));
    Case { scale: size, fills: NUMBERS, ..case }
}

/// The result, and what cancels in f64 before the one rounding: 2^-53 of the largest logit, some ten times.
fn size(probe: &Probe) -> Vec<f64> {
    let z = probe.graph.input_named("z").expect("the logits");
    let classes = probe.graph.shape(z).elems();
    let each = probe.want.len() / probe.batch;
    let largest = |n: usize| probe.given[&z][n * classes..(n + 1) * classes].iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let lost = |i: usize| if each == 1 { 1e-8 * largest(i) } else { 1e-8 * largest(i / each).min(1.0) };
    probe.want.iter().enumerate().map(|(i, w)| w.abs() + lost(i)).collect()
}
