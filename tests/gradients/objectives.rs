//! Gradients of the losses that train, to each row that they read, against finite differences of their values.
//! Must not run the engine.

use libtest_mimic::Trial;
use petard::graph::{Graph, Objective, Op};
use petard::tensor::{DType, Shape};

use super::{BATCH, compare, numeric, spaced};
use crate::support::naive::{Values, eval};
use crate::support::{Rng, trial};

pub fn trials() -> Vec<Trial> {
    let one = |&(name, of): &(&'static str, Objective)| trial(format!("gradients::objective.{name}"), move || check(name, of));
    OBJECTIVES.iter().map(one).collect()
}

const OBJECTIVES: &[(&str, Objective)] = &[
    ("kl", Objective::Kl),
    ("mart", Objective::Mart { weight: 5.0 }),
    ("squared", Objective::Squared),
    ("soft", Objective::Soft),
    ("focal", Objective::Focal { gamma: 2.0 }),
    ("focal_half", Objective::Focal { gamma: 0.5 }),
    ("sigmoid_focal", Objective::SigmoidFocal { gamma: 2.0 }),
    ("bce", Objective::SigmoidFocal { gamma: 0.0 }),
    ("soft_margin", Objective::SoftMargin),
];

fn check(name: &str, of: Objective) -> Result<(), String> {
    let mut g = Graph::new();
    let mut inputs = vec![g.input("z", Shape::per_image(&[6]), DType::F32)];
    if of.reads_pair() {
        inputs.push(g.input("w", Shape::per_image(&[6]), DType::F32));
    }
    if of.reads_label() {
        inputs.push(g.input("label", Shape::per_image(&[]), DType::I32));
    }
    let value = g.push(Op::Objective(of), &inputs);
    let mut rng = Rng::named(name);
    for y in 0..6 {
        let small = |rng: &mut Rng| spaced(BATCH * 6, rng).iter().map(|v| v / 4.0).collect::<Vec<f64>>();
        let mut given = Values::from([(inputs[0], small(&mut rng))]);
        for &v in &inputs[1..] {
            let label = g.node(v).dtype == DType::I32;
            given.insert(v, if label { vec![f64::from(y); BATCH] } else { small(&mut rng) });
        }
        for by in 0..=usize::from(of.moves_pair()) {
            let grad = g.push(Op::ObjectiveGrad { of, by }, &inputs);
            let exact = eval(&g, BATCH, &given, &[grad]).remove(0);
            let objective = |given: &Values| eval(&g, BATCH, given, &[value])[0].iter().sum();
            compare(&format!("label {y}, row {by}"), &exact, &numeric(&given, inputs[by], objective))?;
        }
    }
    Ok(())
}
