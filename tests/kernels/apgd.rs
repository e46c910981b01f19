//! APGD's turn of an image, its moves and its starts.

use libtest_mimic::Trial;
use petard::cpu::Isa;
use petard::graph::apgd::at;
use petard::graph::{ApgdRule, Graph, Op, StartKind, Value};
use petard::tensor::{DType, Shape};
use petard::threat::Norm;

use super::direct::{Card, against_cpu, carried_as_on_cpu, on_cards, run};
use crate::support::engine::{Engine, How};
use crate::support::naive::{Values, eval};
use crate::support::{Rng, trial};

const NORMS: [Norm; 3] = [Norm::Linf, Norm::L2, Norm::L1];
/// The last is large enough for a block of 1024 threads.
const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [3, 5, 3], [7, 9, 5], [32, 32, 3], [40, 37, 3]];

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for norm in NORMS {
        // One rounding to f32 each of numbers below 2, and in L-inf four on the way.
        let apart = 2f32.powi(if norm == Norm::Linf { -21 } else { -23 });
        for [h, w, c] in SIZES {
            let name = format!("apgd::move.{norm}.{h}x{w}.c{c}");
            all.push(trial(format!("{name}::cpu"), move || defined(&moves(norm, [h, w, c]), None, apart)));
            all.extend(on_cards(&name, move |card| {
                let case = moves(norm, [h, w, c]);
                defined(&case, Some(card), apart)?;
                // In L-inf no sum takes another order.
                against_cpu(&case.0, &[case.1], ROWS, &case.2, card, if norm == Norm::Linf { 0.0 } else { 2f32.powi(-23) })
            }));
        }
        all.extend(on_cards(&format!("apgd::corners.{norm}"), move |card| corners(norm, card)));
        all.extend(on_cards(&format!("apgd::in_place.{norm}"), move |card| in_place(norm, card)));
        for larger in [false, true].into_iter().filter(|larger| !larger || norm == Norm::L1) {
            for steps in [1, 7, 100] {
                let rule = ApgdRule { norm, steps, rho: 0.75, larger };
                let name = format!("apgd::state.{norm}.{steps}{}", if larger { ".larger" } else { "" });
                // Three steps do not make three phases.
                let rule = ApgdRule { steps: if larger { steps.max(10) } else { steps }, ..rule };
                all.push(trial(format!("{name}::cpu"), move || whole_run(rule, None)));
                all.extend(on_cards(&name, move |card| whole_run(rule, Some(card))));
            }
        }
        for hwc in SIZES {
            let [h, w, c] = hwc;
            all.extend(on_cards(&format!("apgd::start.{norm}.{h}x{w}.c{c}"), move |card| starts(norm, hwc, card)));
        }
    }
    all
}

const ROWS: usize = 5;

type Problem = (Graph, Value, Values);

/// A move of five images: with and without momentum, one that only projects, one with ties among the gradients.
fn moves(norm: Norm, hwc: [usize; 3]) -> Problem {
    let (mut g, mut given, mut rng) = (Graph::new(), Values::new(), Rng::new(21));
    let (image, elems) = (Shape::per_image(&hwc), hwc.iter().product::<usize>());
    let [x, x0, dx] = ["x", "x0", "g"].map(|name| g.input(name, image.clone(), DType::F32));
    let state = g.input("state", Shape::per_image(&[ApgdRule::STATE]), DType::F32);
    let old = (norm != Norm::L1).then(|| g.input("old", image, DType::F32));
    let inputs: Vec<Value> = [x, x0, dx, state].into_iter().chain(old).collect();
    let next = g.push(Op::ApgdMove { norm }, &inputs);
    let narrow = |v: f64| f64::from(v as f32);
    let original: Vec<f64> =
        (0..ROWS * elems).map(|i| if i % 6 == 0 { (i / 6 % 2) as f64 } else { narrow(rng.unit()) }).collect();
    let near =
        |rng: &mut Rng| original.iter().map(|v| narrow((v + 0.02 * rng.unit() - 0.01).clamp(0.0, 1.0))).collect::<Vec<f64>>();
    given.insert(x, near(&mut rng));
    given.extend(old.map(|old| (old, near(&mut rng))));
    let slope = |i: usize, rng: &mut Rng| match i / elems {
        3 => ((i % 5) as f64 - 2.0) * 0.5,
        4 if !i.is_multiple_of(7) => 0.0,
        _ => narrow(rng.normal()),
    };
    given.insert(dx, (0..ROWS * elems).map(|i| slope(i, &mut rng)).collect());
    given.insert(x0, original);
    let radius = [8.0 / 255.0, 0.05 * (elems as f64).sqrt(), 0.004 * elems as f64][norm as usize];
    let mut rows = vec![0.0; ROWS * ApgdRule::STATE];
    for n in 0..ROWS {
        let row = &mut rows[n * ApgdRule::STATE..];
        // The last ball is so small that `x` lies outside.
        row[at::RADIUS] = narrow(radius * [1.0, 1.1, 0.3, 1.2, 0.05][n]);
        row[at::STEP] = narrow(radius * [0.7, 2.0, 0.0, 3.0, 0.5][n]);
        row[at::MOMENTUM] = if n == 1 { 0.0 } else { 0.25 };
        row[at::TOP] = narrow([0.2, 0.01, 0.5, 0.3, 0.9][n]);
    }
    given.insert(state, rows);
    (g, next, given)
}

/// The CPU's, or a card's, result is the definition's; its L1 selection may differ where f32 and f64 disagree on a count.
fn defined((g, y, given): &Problem, card: Option<Card>, apart: f32) -> Result<(), String> {
    let got = match card {
        Some(card) => run(g, &[*y], ROWS, given, card)?,
        None => Engine::new(g, &[*y], How { batch: ROWS, isa: Isa::Scalar, threads: 2, exact: true })?.run(given)?,
    };
    let want = &eval(g, ROWS, given, &[*y])[0];
    let off = |i: usize| (f64::from(got[0][i]) - want[i]).abs();
    match (0..want.len()).find(|&i| off(i).is_nan() || off(i) > f64::from(apart)) {
        Some(i) => Err(format!("element {i}: {} is not {}", got[0][i], want[i])),
        None => Ok(()),
    }
}

/// Gradients that are no ordinary numbers, and a last iterate that is none where there is no momentum.
fn corners(norm: Norm, card: Card) -> Result<(), String> {
    for mark in [f64::NAN, f64::INFINITY, 0.0, 1e-45, 3e38] {
        let (g, next, mut given) = moves(norm, [4, 4, 3]);
        let [dx, state] = ["g", "state"].map(|name| g.input_named(name).expect("the leaf"));
        given.insert(dx, (0..ROWS * 48).map(|i| if i % 48 == 17 { mark } else { 0.0 }).collect());
        if let Some(old) = g.input_named("old") {
            given.insert(old, vec![f64::NAN; ROWS * 48]);
            given.get_mut(&state).expect("given").chunks_mut(ApgdRule::STATE).for_each(|row| row[at::MOMENTUM] = 0.0);
        }
        against_cpu(&g, &[next], ROWS, &given, card, if norm == Norm::Linf { 0.0 } else { 2f32.powi(-23) })
            .map_err(|e| format!("a gradient of {mark}: {e}"))?;
        let nans = run(&g, &[next], ROWS, &given, card)?[0][..48].iter().filter(|v| v.is_nan()).count();
        let want = if mark.is_nan() { if norm == Norm::Linf { 1 } else { 48 } } else { nans };
        if nans != want || (mark == 0.0 && nans > 0) {
            return Err(format!("a gradient of {mark}: {nans} NaN"));
        }
    }
    Ok(())
}

fn in_place(norm: Norm, card: Card) -> Result<(), String> {
    for hwc in [[5, 3, 3], [16, 16, 3]] {
        let (g, next, given) = moves(norm, hwc);
        let x = g.input_named("x").expect("the leaf");
        carried_as_on_cpu(&g, &[(x, next)], ROWS, 3, &given, card, if norm == Norm::Linf { 0.0 } else { 2f32.powi(-21) })?;
    }
    Ok(())
}

/// A run of so many steps with losses by chance: after each turn the definition's state, number for number but for the
/// roundings of quotients.
fn whole_run(rule: ApgdRule, card: Option<Card>) -> Result<(), String> {
    let (n, elems) = (9, 40);
    let mut g = Graph::new();
    let rows = Shape::per_image(&[]);
    let state = g.input("state", Shape::per_image(&[ApgdRule::STATE]), DType::F32);
    let [loss, fooled, eps] = ["loss", "fooled", "eps"].map(|name| g.input(name, rows.clone(), DType::F32));
    let images =
        (rule.norm == Norm::L1).then(|| ["x", "best", "x0"].map(|name| g.input(name, Shape::per_image(&[elems]), DType::F32)));
    let inputs: Vec<Value> = [state, loss, fooled, eps].into_iter().chain(images.into_iter().flatten()).collect();
    let next = g.push(Op::ApgdState(rule), &inputs);
    let mut rng = Rng::new(rule.steps as u64);
    let radii: Vec<f64> = (0..n).map(|i| 0.5 + 0.25 * i as f64).collect();
    let mut given = Values::from([(eps, radii.clone())]);
    let fresh = radii.iter().flat_map(|&r| rule.fresh(r as f32).map(f64::from)).collect();
    given.insert(state, fresh);
    let turns = rule.turns();
    for turn in 0..turns {
        // Some rise most of the time, some hardly ever; ties are frequent.
        let level = |i: usize, rng: &mut Rng| (turn as f64 * 0.1 * (i as f64 - 2.0) + 4.0 * rng.unit()).round() * 0.25;
        // The last image rises seven times out of eight, and never above its best.
        let saw = (turn % 8) as f64 * 0.25;
        given.insert(loss, (0..n).map(|i| if i + 1 == n { saw } else { level(i, &mut rng) }).collect());
        given.insert(fooled, (0..n).map(|i| f64::from(rng.unit() < 0.02 * i as f64)).collect());
        for (k, v) in images.into_iter().flatten().enumerate() {
            let density = 1.0 / (1.0 + 0.1 * turn as f64);
            given.insert(v, (0..n * elems).map(|_| f64::from(k < 2 && rng.unit() < density)).collect());
        }
        let got = match card {
            Some(card) => run(&g, &[next], n, &given, card)?.remove(0),
            None => Engine::new(&g, &[next], How { batch: n, isa: Isa::Scalar, threads: 1, exact: true })?.run(&given)?.remove(0),
        };
        let want = eval(&g, n, &given, &[next]).remove(0);
        if let Some(i) = (0..want.len()).find(|&i| (f64::from(got[i]) - want[i]).abs() > 1e-6 * want[i].abs().max(1e-3)) {
            let (row, column) = (i / ApgdRule::STATE, i % ApgdRule::STATE);
            return Err(format!("turn {turn} of {turns}, image {row}, column {column}: {} is not {}", got[i], want[i]));
        }
        // What the engine made goes on, so that roundings do not add up.
        given.insert(state, got.iter().map(|&v| f64::from(v)).collect());
    }
    let row = &given[&state][..ApgdRule::STATE];
    let last_phase = rule.phases().len() as f64 - 1.0;
    if row[at::PHASE] == last_phase && row[at::RADIUS] == radii[0] { Ok(()) } else { Err(format!("ends as {row:?}")) }
}

/// Starts on a card have the bits of the host's generator.
fn starts(norm: Norm, hwc: [usize; 3], card: Card) -> Result<(), String> {
    super::pgd::starts(StartKind::Boundary(norm), hwc, card)
}
