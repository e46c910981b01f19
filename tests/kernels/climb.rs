//! Losses against given logits, the moments and the step of Adam, starts beside the image.

use libtest_mimic::Trial;
use petard::graph::{Graph, Op, Value};
use petard::rng::{Purpose, Stream};
use petard::tensor::{DType, Shape};

use super::direct::{self, Card, against_cpu, carried_as_on_cpu, on_cards};
use super::{Bound, Case, Probe};
use crate::support::Rng;
use crate::support::naive::Values;

const SIZES: [[usize; 3]; 4] = [[1, 1, 1], [3, 5, 3], [16, 16, 3], [40, 37, 3]];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for classes in [1, 2, 10, 33, 1500] {
        cases.extend([divergence("kl", Op::Kl, classes), divergence("kl_grad", Op::KlGrad, classes)]);
    }
    for hwc in SIZES {
        cases.extend([moment(hwc, false), moment(hwc, true)]);
    }
    cases
}

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for hwc in SIZES {
        let [h, w, c] = hwc;
        all.extend(on_cards(&format!("climb::shake.{h}x{w}.c{c}"), move |card| shake(hwc, card)));
        all.extend(on_cards(&format!("climb::adam.{h}x{w}.c{c}"), move |card| adam(hwc, card)));
    }
    all.extend(on_cards("climb::corners", corners));
    all
}

fn divergence(name: &str, op: Op, classes: usize) -> Case {
    let mut g = Graph::new();
    let [z, clean] = ["z", "clean"].map(|name| g.input(name, Shape::per_image(&[classes]), DType::F32));
    let y = g.push(op, &[z, clean]);
    let case = Case::new(format!("climb::{name}.k{classes}"), format!("{name}({classes})"), g, y, Bound::Roundings(1));
    Case { scale: spread, ..case }
}

/// In f64, rounded once: against the result, or where terms cancel, against a millionth of the largest logit or of 1.
fn spread(probe: &Probe) -> Vec<f64> {
    let largest = probe.given.values().flatten().fold(1.0f64, |a, b| a.max(b.abs()));
    probe.want.iter().map(|w| w.abs().max(1e-6 * largest)).collect()
}

fn image(g: &mut Graph, name: &str, hwc: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&hwc), DType::F32)
}

fn moment(hwc: [usize; 3], square: bool) -> Case {
    let mut g = Graph::new();
    let [m, dx] = ["m", "g"].map(|name| image(&mut g, name, hwc));
    let next = g.push(Op::Moment { square, keep: 0.75 }, &[m, dx]);
    let ([h, w, c], name) = (hwc, if square { "square" } else { "first" });
    Case::new(format!("climb::{name}.{h}x{w}.c{c}"), format!("{name}({hwc:?})"), g, next, Bound::Roundings(4))
}

/// Steps of Adam with their moments, the bits of the CPU; the first against the definition.
fn adam(hwc: [usize; 3], card: Card) -> Result<(), String> {
    let (mut g, mut rng, n, keep) = (Graph::new(), Rng::new(5), 3, [0.9, 0.999]);
    let [x, x0, m, v, dx] = ["x", "x0", "m", "v", "g"].map(|name| image(&mut g, name, hwc));
    let [alpha, eps] = ["alpha", "eps"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
    let state = g.input("state", Shape::per_image(&[2]), DType::F32);
    let first = g.push(Op::Moment { square: false, keep: keep[0] }, &[m, dx]);
    let second = g.push(Op::Moment { square: true, keep: keep[1] }, &[v, dx]);
    let next = g.push(Op::AdamStep { keep }, &[x, x0, first, second, alpha, eps, state]);
    let turn = g.push(Op::Tick { copies: 1 }, &[state]);
    let elems = n * hwc.iter().product::<usize>();
    let pixels: Vec<f64> = (0..elems).map(|_| f64::from(rng.unit() as f32)).collect();
    let given = Values::from([
        (x, pixels.clone()),
        (x0, pixels),
        (m, vec![0.0; elems]),
        (v, vec![0.0; elems]),
        (dx, rng.normals(elems)),
        (alpha, vec![0.01, 0.02, 0.5]),
        (eps, vec![0.03, 0.5, 0.1]),
        (state, vec![0.0, 1.0, 0.0, 1.0, 7.0, 1.0]),
    ]);
    let carries = [(m, first), (v, second), (x, next), (state, turn)];
    carried_as_on_cpu(&g, &carries, n, 4, &given, card, 0.0)?;
    let got = direct::run(&g, &[next], n, &given, card)?.remove(0);
    let want = crate::support::naive::eval(&g, n, &given, &[next]).remove(0);
    // A dozen roundings of numbers below 2; moments of turn 8 are a tenth of their size and lose a digit.
    let far = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    if far < 1e-5 { Ok(()) } else { Err(format!("off by {far:e}")) }
}

/// Noise has the bits of the host's generator, each image its own.
fn shake(hwc: [usize; 3], card: Card) -> Result<(), String> {
    let ([h, w, c], n) = (hwc, 3);
    let (index, restart, length) = ([7, 70_000, -1], [0, 3, 65_535], [0.001f32, 0.5, 0.0]);
    let (mut g, mut rng) = (Graph::new(), Rng::new(4));
    let x0 = image(&mut g, "x0", hwc);
    let [at, turn] = ["index", "restart"].map(|name| g.input(name, Shape::per_image(&[]), DType::I32));
    let size = g.input("length", Shape::per_image(&[]), DType::F32);
    let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
    let start = g.push(Op::Shake, &[x0, at, turn, size, seed]);
    let elems = h * w * c;
    let pixels: Vec<f64> = (0..n * elems).map(|_| f64::from(rng.unit() as f32)).collect();
    let mut want = Vec::new();
    for i in 0..n {
        let stream = Stream { seed: 5, index: index[i] as u32, step: 8, purpose: Purpose::Start, restart: restart[i] as u16 };
        for e in 0..elems {
            let normal = stream.normal((e % c * h * w + e / c) as u32);
            want.push((pixels[i * elems + e] as f32 + length[i] * normal).clamp(0.0, 1.0));
        }
    }
    let given = Values::from([
        (x0, pixels),
        (at, index.map(f64::from).to_vec()),
        (turn, restart.map(f64::from).to_vec()),
        (size, length.map(f64::from).to_vec()),
        (seed, vec![5.0, 0.0, 8.0]),
    ]);
    against_cpu(&g, &[start], n, &given, card, 0.0)?;
    let got = direct::run(&g, &[start], n, &given, card)?;
    crate::support::close::same_bits(&got[0], &want, &[n, h, w, c])
}

/// Infinite logits and NaN: what the CPU gives.
fn corners(card: Card) -> Result<(), String> {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let rows = [[0.0, 1.0, -1e30], [nan, 0.0, 1.0], [0.0, -inf, 1.0], [inf, 0.0, 1.0], [5.0, 5.0, 5.0]];
    for clean in rows {
        let mut g = Graph::new();
        let [z, p] = ["z", "clean"].map(|name| g.input(name, Shape::per_image(&[3]), DType::F32));
        let outputs = [Op::Kl, Op::KlGrad].map(|op| g.push(op, &[z, p]));
        let given = Values::from([(z, rows.concat()), (p, [clean; 5].concat())]);
        against_cpu(&g, &outputs, 5, &given, card, 2f32.powi(-22)).map_err(|e| format!("{clean:?}: {e}"))?;
    }
    Ok(())
}
