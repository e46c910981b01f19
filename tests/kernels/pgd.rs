//! The fused step of an attack.

use petard::graph::{Graph, Op, Value};
use petard::tensor::{DType, Shape};
use petard::threat::Norm;

use libtest_mimic::Trial;
use petard::graph::StartKind;
use petard::rng::{self, Purpose, Stream};
use petard::tensor::{chw_to_hwc, hwc_to_chw};

use super::direct::{Card, against_cpu, carried_as_on_cpu, on_cards};
use super::{Bound, Case, NUMBERS};
use crate::support::Rng;
use crate::support::naive::Values;

pub fn cases() -> Vec<Case> {
    // The last is large enough for a block of 1024 threads.
    let sizes = [[1, 1, 1], [3, 5, 3], [8, 8, 3], [7, 9, 5], [32, 32, 3], [40, 37, 3]];
    let norms = [Norm::Linf, Norm::L2, Norm::L1];
    norms.into_iter().flat_map(|norm| sizes.map(|size| step(norm, size))).chain(sizes.map(between)).collect()
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for norm in [Norm::Linf, Norm::L2, Norm::L1] {
        // Sums in f64 in another order may move a rounding to f32.
        let apart = if norm == Norm::Linf { 0.0 } else { 2f32.powi(-23) };
        trials.extend(on_cards(&format!("pgd::in_place.{norm}"), move |card| {
            for hwc in [[5, 3, 3], [16, 16, 3]] {
                let (g, [x, next], given) = problem(norm, hwc, 3, |rng, _| rng.normal());
                carried_as_on_cpu(&g, &[(x, next)], 3, 4, &given, card, apart)?;
            }
            Ok(())
        }));
        trials.extend(on_cards(&format!("pgd::corners.{norm}"), move |card| {
            for mark in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 1e-45, -1e-45, 3e38] {
                let (g, [_, next], given) = problem(norm, [4, 4, 3], 3, |_, i| if i % 48 == 17 { mark } else { 0.0 });
                against_cpu(&g, &[next], 3, &given, card, apart).map_err(|e| format!("a gradient of {mark}: {e}"))?;
            }
            Ok(())
        }));
        trials.extend(on_cards(&format!("pgd::rests.{norm}"), move |card| rests(norm, card)));
    }
    for kind in
        [StartKind::Ball(Norm::Linf), StartKind::Ball(Norm::L2), StartKind::Ball(Norm::L1), StartKind::Sign, StartKind::Normal]
    {
        let name = match kind {
            StartKind::Ball(norm) => norm.name(),
            StartKind::Sign | StartKind::Boundary(_) => "sign",
            StartKind::Normal => "normal",
        };
        for hwc in [[1, 1, 1], [3, 5, 3], [7, 9, 5], [32, 32, 3], [40, 37, 3]] {
            let [h, w, c] = hwc;
            trials.extend(on_cards(&format!("pgd::start.{name}.{h}x{w}.c{c}"), move |card| starts(kind, hwc, card)));
        }
    }
    trials
}

/// A step with its images: `(graph, [x, next], leaves)`; the gradient by `slope`.
fn problem(norm: Norm, hwc: [usize; 3], n: usize, slope: impl Fn(&mut Rng, usize) -> f64) -> (Graph, [Value; 2], Values) {
    let (mut g, mut given, mut rng) = (Graph::new(), Values::new(), Rng::new(8));
    let (image, elems) = (Shape::per_image(&hwc), n * hwc.iter().product::<usize>());
    let [x, x0, dx] = ["x", "x0", "g"].map(|name| g.input(name, image.clone(), DType::F32));
    let [alpha, eps] = ["alpha", "eps"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
    let radius = [8.0 / 255.0, 0.5, 3.0][norm as usize];
    let original: Vec<f64> =
        (0..elems).map(|i| if i % 6 == 0 { (i / 6 % 2) as f64 } else { f64::from(rng.unit() as f32) }).collect();
    let moved = original.iter().map(|v| f64::from((v + 0.02 * rng.unit() - 0.01).clamp(0.0, 1.0) as f32)).collect();
    given.extend([(x, moved), (dx, (0..elems).map(|i| slope(&mut rng, i)).collect()), (x0, original)]);
    given.extend([(alpha, vec![radius / 4.0; n]), (eps, (0..n).map(|i| radius * (1.0 + 0.1 * i as f64)).collect())]);
    let next = g.push(Op::PgdStep { norm }, &[x, x0, dx, alpha, eps]);
    (g, [x, next], given)
}

/// Without a gradient an image stays to the bit where it is, also where rounding has put it just outside of the ball;
/// further outside it goes back.
fn rests(norm: Norm, card: Card) -> Result<(), String> {
    let (g, [x, next], mut given) = problem(norm, [16, 16, 3], 3, |_, i| if i % 2 == 0 { 0.0 } else { -0.0 });
    let [x0, eps] = ["x0", "eps"].map(|name| g.input_named(name).expect("the leaf"));
    let rows = |v: Value| given[&v].chunks(768).map(|r| r.iter().map(|&v| v as f32).collect::<Vec<f32>>());
    let threat = petard::ThreatModel::new(norm, 1.0);
    let slack = [0.5, 0.5, 4.0].map(|share| share * threat.tolerance(768));
    let radii = rows(x0).zip(rows(x)).zip(slack).map(|((x0, x), slack)| f64::from((threat.distance(&x0, &x) - slack) as f32));
    let radii = radii.collect();
    given.insert(eps, radii);
    against_cpu(&g, &[next], 3, &given, card, if norm == Norm::Linf { 0.0 } else { 2f32.powi(-23) })?;
    if norm != Norm::Linf {
        let got = super::direct::run(&g, &[next], 3, &given, card)?.remove(0);
        let stays = |n: usize| (0..768).all(|i| got[768 * n + i] == given[&x][768 * n + i] as f32);
        if [0, 1, 2].map(stays) != [true, true, false] {
            return Err(format!("stays: {:?}", [0, 1, 2].map(stays)));
        }
    }
    Ok(())
}

/// Random starts on a device have the bits of the host's generator, each image its own.
pub(super) fn starts(kind: StartKind, hwc: [usize; 3], card: Card) -> Result<(), String> {
    let (n, seed, step, [h, w, c]) = (3, 0x1234_5678_9abc_def0u64, 2, hwc);
    let elems = h * w * c;
    let (index, restart, eps) = ([7, 70_000, -1], [0, 3, 65_535], [0.03f32, 0.5, 6.0]);
    let x0: Vec<f32> = Rng::new(4).normals(n * elems).iter().map(|v| (0.5 + 0.3 * v).clamp(0.0, 1.0) as f32).collect();
    let mut want = vec![0.0; n * elems];
    for i in 0..n {
        let stream = Stream { seed, index: index[i] as u32, step, purpose: Purpose::Class, restart: restart[i] as u16 };
        let (mut from, mut to) = (vec![0.0; elems], vec![0.0; elems]);
        hwc_to_chw(&x0[i * elems..][..elems], (h, w, c), &mut from);
        match kind {
            StartKind::Ball(norm) => rng::start(norm, eps[i], &stream, &from, &mut to),
            StartKind::Sign => rng::start_sign(eps[i], &stream, &from, &mut to),
            StartKind::Boundary(norm) => rng::start_boundary(norm, eps[i], &stream, &from, &mut to),
            StartKind::Normal => rng::start_normal(eps[i], &stream, &from, &mut to),
        }
        chw_to_hwc(&to, (h, w, c), &mut want[i * elems..][..elems]);
    }
    let mut g = Graph::new();
    let (image, rows) = (Shape::per_image(&hwc), Shape::per_image(&[]));
    let from = g.input("x0", image, DType::F32);
    let [at, turn] = ["index", "restart"].map(|name| g.input(name, rows.clone(), DType::I32));
    let length = g.input("length", rows, DType::F32);
    let words = g.input("seed", Shape::fixed(&[3]), DType::I32);
    let start = g.push(Op::Start { kind }, &[from, at, turn, length, words]);
    let whole = |list: &[i32]| list.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let given = Values::from([
        (from, x0.iter().map(|&v| f64::from(v)).collect()),
        (at, whole(&index)),
        (turn, whole(&restart)),
        (length, eps.iter().map(|&v| f64::from(v)).collect()),
        (words, whole(&[seed as i32, (seed >> 32) as i32, step as i32])),
    ]);
    let got = super::direct::run(&g, &[start], n, &given, card)?;
    crate::support::close::same_bits(&got[0], &want, &[n, h, w, c])
}

fn step(norm: Norm, hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let image = Shape::per_image(&hwc);
    let [x, x0, dx] = ["x01", "y01", "g"].map(|name| g.input(name, image.clone(), DType::F32));
    let [alpha, eps] = ["alpha", "eps"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
    let next = g.push(Op::PgdStep { norm }, &[x, x0, dx, alpha, eps]);
    let [h, w, c] = hwc;
    // A few operations on numbers below 1.2, in f32 for L-inf.
    let case = Case::new(format!("pgd::{norm}.{h}x{w}.c{c}"), format!("({norm:?}, {hwc:?})"), g, next, Bound::Roundings(4));
    Case { scale: |probe| vec![1.2; probe.want.len()], fills: NUMBERS, ..case }
}

fn between(hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let image = Shape::per_image(&hwc);
    let [x0, x] = ["x01", "y01"].map(|name| g.input(name, image.clone(), DType::F32));
    let share = g.input("share", Shape::per_image(&[]), DType::F32);
    let y = g.push(Op::Between, &[x0, x, share]);
    let [h, w, c] = hwc;
    let case = Case::new(format!("pgd::between.{h}x{w}.c{c}"), format!("{hwc:?}"), g, y, Bound::Roundings(4));
    Case { scale: |probe| vec![1.0; probe.want.len()], fills: NUMBERS, ..case }
}
