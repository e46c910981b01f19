//! Dropout: which elements stay, and dropping the others.

use libtest_mimic::Trial;
use petard::graph::{Graph, Op, Value};
use petard::plan::Precision;
use petard::tensor::{DType, Shape};

use super::direct::{Card, against_cpu, on_cards};
use super::{Bound, Case};
use crate::emulated::Schedule;
use crate::support::Rng;
use crate::support::engine::{Emulation, Engine};
use crate::support::naive::{Values, eval};

pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 5] = [&[1], &[21], &[64], &[3, 5, 3], &[4, 4, 16]];
    dims.into_iter().map(apply).collect()
}

fn apply(dims: &[usize]) -> Case {
    let mut g = Graph::new();
    let x = g.input("x", Shape::per_image(dims), DType::F32);
    let mask = g.input("mask", Shape::per_image(dims), DType::Bits);
    let y = g.push(Op::Dropout { p: 0.3 }, &[x, mask]);
    let sizes: Vec<String> = dims.iter().map(ToString::to_string).collect();
    // 1 - p is rounded, too.
    let case = Case::new(format!("dropout::apply.{}", sizes.join("x")), format!("({dims:?})"), g, y, Bound::Roundings(3));
    Case { scale: super::result, ..case }
}

pub fn trials() -> Vec<Trial> {
    let masks = on_cards("dropout::mask", |card| {
        let dims: [&[usize]; 7] = [&[1], &[21], &[512], &[3, 5, 3], &[4, 4, 16], &[2, 3, 33], &[9, 9, 64]];
        dims.into_iter().try_for_each(|dims| mask(dims, card).map_err(|e| format!("{dims:?}: {e}")))
    });
    let halves = on_cards("dropout::halves", |card| {
        [Precision::Bf16, Precision::F16].into_iter().try_for_each(|p| half(p, card).map_err(|e| format!("{p}: {e}")))
    });
    [masks, halves].into_iter().flatten().collect()
}

/// The bits of the CPU, for images with any index.
fn mask(dims: &[usize], card: Card) -> Result<(), String> {
    let (mut g, mut given) = (Graph::new(), Values::new());
    let like = g.input("like", Shape::per_image(dims), DType::F32);
    let index = g.input("index", Shape::per_image(&[]), DType::I32);
    let step = g.input("step", Shape::fixed(&[]), DType::I32);
    let bits = g.push(Op::DropoutMask { p: 0.3, site: 5, seed: 0xfedc_ba98_7654_3210 }, &[like, index, step]);
    given.insert(like, vec![0.0; 3 * dims.iter().product::<usize>()]);
    given.extend([(index, vec![7.0, 50_000.0, 8.0]), (step, vec![12.0])]);
    against_cpu(&g, &[bits], 3, &given, card, 0.0)
}

/// Between two sums, so that what goes in and out may lie in 16 bits.
fn half(precision: Precision, card: Card) -> Result<(), String> {
    let (mut g, mut given, mut rng) = (Graph::new(), Values::new(), Rng::new(2));
    for channels in [16, 9] {
        let dims = [3, 3, channels];
        let [a, b] = ["a", "b"].map(|name| g.input(&format!("{name}{channels}"), Shape::per_image(&dims), DType::F32));
        let bits = g.input(&format!("mask{channels}"), Shape::per_image(&dims), DType::Bits);
        given.extend([a, b].map(|v| (v, rng.normals(27 * channels))));
        given.insert(bits, (0..27 * channels).map(|_| rng.below(2) as f64).collect());
        let sum = g.add(a, b);
        let dropped = g.push(Op::Dropout { p: 0.3 }, &[sum, bits]);
        let y: Value = g.add(dropped, b);
        let Card { profile, build } = card;
        let how = Emulation { batch: 3, profile, build, schedule: Schedule::IN_ORDER, precision };
        let got = Engine::emulated(&g, &[y], how)?.run(&given)?.remove(0);
        let want = eval(&g, 3, &given, &[y]).remove(0);
        let share = if precision == Precision::Bf16 { 2f64.powi(-8) } else { 2f64.powi(-11) };
        // Two roundings to 16 bits of at most (|a| + |b|) / 0.7.
        let bound = |i: usize| 2.2 * share * (given[&a][i].abs() + given[&b][i].abs()) / 0.7;
        let error = |i: usize| (f64::from(got[i]) - want[i]).abs();
        if let Some(i) = (0..want.len()).find(|&i| error(i) > bound(i)) {
            return Err(format!("{channels} channels, element {i}: got {:e}, want {:e}", got[i], want[i]));
        }
        if (0..want.len()).all(|i| error(i) <= 2f64.powi(-20)) {
            return Err("nothing was stored in 16 bits".into());
        }
    }
    Ok(())
}
