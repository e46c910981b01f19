//! Losses and their gradients. The engine computes them in f64 and rounds once.

use petard::graph::{Graph, Loss, Op};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, NUMBERS, Probe};

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
    cases
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
