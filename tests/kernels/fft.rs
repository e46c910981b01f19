//! Spectra: transforms and their adjoints, filters, sums over rings, BaSS; sizes of every radix, odd ones, oblong ones.

use libtest_mimic::Trial;
use petard::graph::{Graph, Op, Rings, Value};
use petard::tensor::{DType, Shape};

use super::direct::{Card, on_cards, run};
use super::{Bound, Case, Fill, Probe};
use crate::support::naive::{Arg, Values, eval};
use crate::support::rng::Rng;
use crate::support::trial;

/// Every radix alone and after another, odd and even, oblong both ways; one that shared memory does not hold.
const SIZES: &[[usize; 3]] =
    &[[8, 8, 1], [32, 32, 3], [16, 64, 2], [9, 15, 2], [7 * 2, 25, 1], [49, 8, 1], [27, 48, 1], [40, 21, 3], [128, 96, 1]];

/// Without numbers at both ends of the range: squares of them are not finite or not normal.
const MIDDLE: &[Fill] = &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros];
/// Where a whole channel becomes NaN.
const SPREADS: &[Fill] = &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros, Fill::Huge, Fill::OneNan];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &hwc in SIZES {
        for dual in [false, true] {
            cases.extend([forward(hwc, dual), inverse(hwc, dual)]);
        }
        cases.extend([filter(hwc), rings(hwc, false), rings(hwc, true)]);
    }
    cases
}

fn image(g: &mut Graph, name: &str, [h, w, c]: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&[h, w, c]), DType::F32)
}

/// Six roundings in each of log2(H W) halvings, as a radix of 2 would have them: more than any of the radices has.
fn bound([h, w, _]: [usize; 3], ways: usize) -> Bound {
    Bound::Sum(ways * 6 * (h * w).ilog2() as usize)
}

fn case(what: &str, [h, w, c]: [usize; 3], graph: Graph, y: Value, bound: Bound, fills: &'static [Fill]) -> Case {
    let name = format!("{what}.{h}x{w}.c{c}");
    Case { scale: spread, fills, ..Case::new(format!("fft::{name}"), name, graph, y, bound) }
}

/// Errors of a transform spread evenly over a channel: they are measured against its root mean square, and where a value is
/// larger against that.
fn spread(probe: &Probe) -> Vec<f64> {
    let shape = probe.graph.shape(probe.output);
    // Interleaved channels are taken together: they are of a size in every case here.
    let each = if matches!(probe.graph.node(probe.output).op, Op::Rfft2 { .. } | Op::RingSums { .. }) {
        shape.elems() / shape.dims[0]
    } else {
        shape.elems()
    };
    let mut out = Vec::with_capacity(probe.want.len());
    for channel in probe.want.chunks_exact(each) {
        let mean = channel.iter().filter(|v| v.is_finite()).map(|v| v * v).sum::<f64>() / each as f64;
        out.extend(channel.iter().map(|v| v.abs() + mean.sqrt()));
    }
    out
}

fn forward(hwc: [usize; 3], dual: bool) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", hwc);
    let y = g.push(Op::Rfft2 { dual }, &[x]);
    case(if dual { "forward_dual" } else { "forward" }, hwc, g, y, bound(hwc, 1), MIDDLE)
}

fn inverse([h, w, c]: [usize; 3], dual: bool) -> Case {
    let mut g = Graph::new();
    let x = g.input("x", Shape::per_image(&[c, h, w / 2 + 1, 2]), DType::F32);
    let y = g.push(Op::Irfft2 { width: w, dual }, &[x]);
    case(if dual { "inverse_dual" } else { "inverse" }, [h, w, c], g, y, bound([h, w, c], 1), MIDDLE)
}

fn filter(hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", hwc);
    let weight = g.param("weight", &[hwc[0], hwc[1] / 2 + 1], petard::graph::Role::Weight);
    let y = g.push(Op::SpectrumFilter, &[x, weight]);
    // The weights are as large as 4: what they enlarge may cancel in the way back.
    let bound = match bound(hwc, 2) {
        Bound::Sum(terms) => Bound::FastSum { terms, random: 2.0, worst: 8.0 },
        other => other,
    };
    case("filter", hwc, g, y, bound, SPREADS)
}

fn rings(hwc: [usize; 3], power: bool) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", hwc);
    let y = g.push(Op::RingSums { power }, &[x]);
    let Bound::Sum(terms) = bound(hwc, 1) else { unreachable!("a bound of a sum") };
    let largest = Rings::new(hwc[0], hwc[1]).sizes().into_iter().max().expect("a ring");
    case(if power { "power" } else { "amplitude" }, hwc, g, y, Bound::Sum(2 * terms + largest / 16), MIDDLE)
}

pub fn trials() -> Vec<Trial> {
    let mut trials =
        on_cards("fft::bass", |card| SIZES.iter().try_for_each(|&hwc| bass(hwc, |g, y, n, given| run(g, &[y], n, given, card))));
    trials.push(trial("fft::bass::cpu", || {
        SIZES.iter().try_for_each(|&hwc| {
            bass(hwc, |g, y, n, given| {
                let how = crate::support::engine::How { batch: n, isa: petard::cpu::Isa::detect(), threads: 2, exact: true };
                crate::support::engine::Engine::new(g, &[y], how)?.run(given)
            })
        })
    }));
    trials.extend(on_cards("fft::large", |card: Card| {
        // Beyond the shared memory of every card; the check build would take minutes.
        if card.build == crate::emulated::Build::Check {
            return Ok(());
        }
        bass([256, 250, 1], |g, y, n, given| run(g, &[y], n, given, card))
    }));
    trials
}

/// Natural-looking images, a constant one, and one that is almost constant, against the published steps: the same bytes but
/// where the uncut value lies within `NEAR` of a whole number.
fn bass(hwc: [usize; 3], engine: impl Fn(&Graph, Value, usize, &Values) -> Result<Vec<Vec<f32>>, String>) -> Result<(), String> {
    const NEAR: f64 = 2e-3;
    let [h, w, c] = hwc;
    let mut g = Graph::new();
    let x = image(&mut g, "x", hwc);
    let y = g.push(Op::Bass, &[x]);
    let mut rng = Rng::named(&format!("bass{hwc:?}"));
    let byte = |v: f64| f64::from((v.round().clamp(0.0, 255.0) / 255.0) as f32);
    let mut data = Vec::new();
    for image in 0..4 {
        for i in 0..h * w * c {
            let (row, col) = ((i / c / w) as f64, (i / c % w) as f64);
            let smooth = 128.0 + 70.0 * (row / h as f64 * 5.0).sin() + 50.0 * (col / w as f64 * 7.0 + (i % c) as f64).cos();
            data.push(match image {
                0 => byte(smooth + 12.0 * rng.normal()),
                1 => byte(77.0),
                2 => byte(if i == 0 { 78.0 } else { 77.0 }),
                _ => byte(255.0 * rng.unit()),
            });
        }
    }
    let given = Values::from([(x, data.clone())]);
    let got = engine(&g, y, 4, &given)?.remove(0);
    let arg = Arg { data: &data, shape: g.shape(x), batch: 4 };
    let uncut = crate::support::naive::fft::bass_uncut(&arg);
    let want = eval(&g, 4, &given, &[y]).remove(0);
    let elems = h * w * c;
    if got[elems..3 * elems].iter().zip(&data[elems..]).any(|(g, d)| f64::from(*g) != *d) {
        return Err("a constant channel, or one with ring means below 1, was changed".into());
    }
    let (mut near, mut changed) = (0, 0);
    for i in 0..got.len() {
        let close = (uncut[i] - uncut[i].round()).abs() < NEAR;
        near += usize::from(close);
        changed += usize::from(f64::from(got[i]) != data[i]);
        let off = (f64::from(got[i]) - want[i]).abs() * 255.0;
        let fine = if close { off < 1.01 } else { off < 1e-3 };
        if !fine {
            return Err(format!(
                "{h}x{w}x{c}, element {i}: got {}, want {} (uncut {})",
                got[i] * 255.0,
                want[i] * 255.0,
                uncut[i]
            ));
        }
    }
    // Clipped values are whole numbers as well, and those of the two images that stay.
    let free = uncut[..elems].iter().chain(&uncut[3 * elems..]).filter(|v| **v > 0.0 && **v < 255.0).count();
    let unsure = near - (got.len() - free);
    if changed < elems || unsure * 50 > free {
        return Err(format!(
            "{changed} of {} pixels changed, {unsure} of {free} lie near whole numbers: too little was checked",
            got.len()
        ));
    }
    Ok(())
}
