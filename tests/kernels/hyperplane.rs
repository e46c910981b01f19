//! FAB and DeepFool: which boundary, how far, the step; and that the projections are the nearest points.

use libtest_mimic::Trial;
use petard::cpu::Isa;
use petard::graph::{Graph, Op, Plane, Value};
use petard::rng::{self, Purpose, Stream};
use petard::tensor::{DType, Shape, chw_to_hwc, hwc_to_chw};
use petard::threat::Norm;

use super::direct::{self, Card, against_cpu, carried_as_on_cpu, on_cards};
use super::{Bound, Case, Fill, NUMBERS};
use crate::support::engine::{Engine, How};
use crate::support::naive::Values;
use crate::support::{Rng, close, trial};

const NORMS: [Norm; 3] = [Norm::Linf, Norm::L2, Norm::L1];
const SIZES: [[usize; 3]; 6] = [[1, 1, 1], [3, 5, 3], [8, 8, 3], [7, 9, 5], [32, 32, 3], [40, 37, 3]];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for norm in NORMS {
        for size in SIZES {
            cases.extend([fab(norm, size), distance(norm, size), nearer(norm, size)]);
            cases.extend((norm != Norm::L1).then(|| deepfool(norm, size)));
        }
    }
    cases.extend(SIZES.map(back));
    for (classes, place) in [(2, 0), (3, 1), (10, 0), (10, 8), (33, 7), (100, 40), (1000, 3)] {
        cases.push(rival(classes, place));
    }
    cases
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for norm in NORMS {
        trials.push(trial(format!("hyperplane::nearest_point.{norm}"), move || {
            (0..60).try_for_each(|seed| nearest_point(norm, seed, None))
        }));
        trials.extend(on_cards(&format!("hyperplane::nearest_point.{norm}"), move |card| {
            (0..6).try_for_each(|seed| nearest_point(norm, 10 * seed, Some(card)))
        }));
        trials.extend(on_cards(&format!("hyperplane::fab.in_place.{norm}"), move |card| {
            for hwc in [[5, 3, 3], [16, 16, 3]] {
                let (g, [x, next], given) = problem(norm, hwc, 3, |rng, _| rng.normal());
                carried_as_on_cpu(&g, &[(x, next)], 3, 4, &given, card, 2f32.powi(-23))?;
            }
            Ok(())
        }));
        trials.extend(on_cards(&format!("hyperplane::fab.corners.{norm}"), move |card| {
            for mark in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 1e-45, -1e-45, 3e38] {
                let (g, [_, next], given) = problem(norm, [4, 4, 3], 3, |_, i| if i % 48 == 17 { mark } else { 0.0 });
                against_cpu(&g, &[next], 3, &given, card, 2f32.powi(-23)).map_err(|e| format!("a gradient of {mark}: {e}"))?;
            }
            Ok(())
        }));
        for hwc in [[1, 1, 1], [3, 5, 3], [7, 9, 5], [32, 32, 3], [40, 37, 3]] {
            let [h, w, c] = hwc;
            trials.extend(on_cards(&format!("hyperplane::start.{norm}.{h}x{w}.c{c}"), move |card| starts(norm, hwc, card)));
        }
    }
    trials.extend(on_cards("hyperplane::no_slope", no_slope));
    trials.push(trial("hyperplane::start.length", start_length));
    trials.extend(on_cards("hyperplane::large", large));
    trials.extend(on_cards("hyperplane::rival.corners", |card| {
        let mut g = Graph::new();
        let z = g.input("z", Shape::per_image(&[5]), DType::F32);
        let label = g.input("label", Shape::per_image(&[]), DType::I32);
        let places = [0, 1, 2, 3].map(|place| g.push(Op::Hyperplane(Plane::Rival { place }), &[z, label]));
        let (nan, low) = (f64::NAN, f64::NEG_INFINITY);
        let rows = [[nan, 1.0, 2.0, nan, 0.0], [0.0, -0.0, 0.0, -0.0, 0.0], [low, low, 3.0, low, f64::INFINITY]];
        let given = Values::from([(z, rows.concat()), (label, vec![1.0, 2.0, 2.0])]);
        against_cpu(&g, &places, 3, &given, card, 0.0)
    }));
    trials
}

fn images<const N: usize>(g: &mut Graph, names: [&str; N], hwc: [usize; 3]) -> [Value; N] {
    names.map(|name| g.input(name, Shape::per_image(&hwc), DType::F32))
}

fn row(g: &mut Graph, name: &str) -> Value {
    g.input(name, Shape::per_image(&[]), DType::F32)
}

fn case(name: &str, hwc: [usize; 3], graph: Graph, output: Value, bound: Bound) -> Case {
    let [h, w, c] = hwc;
    let case = Case::new(format!("hyperplane::{name}.{h}x{w}.c{c}"), format!("({name}, {hwc:?})"), graph, output, bound);
    Case { scale: |probe| vec![1.2; probe.want.len()], fills: NUMBERS, ..case }
}

/// In f64 and rounded once, but for the level of a way, which both find to 1e-14 of itself.
fn fab(norm: Norm, hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let [x, x0, w] = images(&mut g, ["x01", "y01", "w"], hwc);
    let f = row(&mut g, "f");
    let next = g.push(Op::Hyperplane(Plane::FabStep { norm, eta: 1.05, alpha_max: 0.1 }), &[x, x0, w, f]);
    case(&format!("fab.{norm}"), hwc, g, next, Bound::Roundings(2))
}

fn deepfool(norm: Norm, hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let [x, w] = images(&mut g, ["x01", "w"], hwc);
    let [f, stop] = ["f", "flag"].map(|name| row(&mut g, name));
    let next = g.push(Op::Hyperplane(Plane::DeepFoolStep { norm, overshoot: 0.02, push: 1e-4 }), &[x, w, f, stop]);
    case(&format!("deepfool.{norm}"), hwc, g, next, Bound::Roundings(2))
}

fn distance(norm: Norm, hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let f = row(&mut g, "f");
    let [w] = images(&mut g, ["w"], hwc);
    let far = g.push(Op::Hyperplane(Plane::Distance { norm }), &[f, w]);
    // Where all slopes are zero the distance is infinite, which has no error: `no_slope` looks at that.
    let fills = &[Fill::Normal, Fill::Equal, Fill::Subnormal, Fill::Huge];
    let case = case(&format!("distance.{norm}"), hwc, g, far, Bound::Roundings(2));
    Case { scale: super::result, fills, ..case }
}

fn nearer(norm: Norm, hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let flag = row(&mut g, "flag");
    let [x, x0] = images(&mut g, ["x01", "y01"], hwc);
    let best = row(&mut g, "best");
    let next = g.push(Op::Hyperplane(Plane::Nearer { norm }), &[flag, x, x0, best]);
    Case { scale: super::result, ..case(&format!("nearer.{norm}"), hwc, g, next, Bound::Roundings(2)) }
}

fn back(hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let [x, x0] = images(&mut g, ["x01", "y01"], hwc);
    let flag = row(&mut g, "flag");
    let next = g.push(Op::Hyperplane(Plane::Back { beta: 0.9 }), &[x, x0, flag]);
    case("back", hwc, g, next, Bound::Roundings(2))
}

fn rival(classes: usize, place: usize) -> Case {
    let mut g = Graph::new();
    let z = g.input("z", Shape::per_image(&[classes]), DType::F32);
    let label = g.input("label", Shape::per_image(&[]), DType::I32);
    let other = g.push(Op::Hyperplane(Plane::Rival { place }), &[z, label]);
    let name = format!("hyperplane::rival.k{classes}.{place}");
    Case { scale: super::result, ..Case::new(name.clone(), name, g, other, Bound::Exact) }
}

/// Without a slope there is no boundary to go to: infinitely far, whatever the difference of logits; a NaN stays one.
fn no_slope(card: Card) -> Result<(), String> {
    for norm in NORMS {
        let mut g = Graph::new();
        let f = row(&mut g, "f");
        let [w] = images(&mut g, ["w"], [3, 3, 3]);
        let far = g.push(Op::Hyperplane(Plane::Distance { norm }), &[f, w]);
        let slopes = [0.0, -0.0, 1e-45, f64::NAN].map(|v| (0..27).map(|i| if i == 13 { v } else { 0.0 }).collect::<Vec<f64>>());
        let given = Values::from([(f, vec![0.0, 3.0, 3.0, 3.0]), (w, slopes.concat())]);
        against_cpu(&g, &[far], 4, &given, card, 2f32.powi(-23))?;
        let got = direct::run(&g, &[far], 4, &given, card)?.remove(0);
        let fine = got[0] == f32::INFINITY && got[1] == f32::INFINITY && got[2].is_finite() && got[3].is_nan();
        if !fine {
            return Err(format!("{norm}: {got:?}"));
        }
    }
    Ok(())
}

/// A step of FAB with its images, `(graph, [x, next], leaves)`, the gradient by `slope`: pixels on the box among them, and a
/// boundary that each image in turn reaches well inside, near the corners, and not at all.
fn problem(norm: Norm, hwc: [usize; 3], n: usize, slope: impl Fn(&mut Rng, usize) -> f64) -> (Graph, [Value; 2], Values) {
    step_problem(Plane::FabStep { norm, eta: 1.05, alpha_max: 0.1 }, hwc, n, 8, slope)
}

fn step_problem(
    plane: Plane,
    hwc: [usize; 3],
    n: usize,
    seed: u64,
    slope: impl Fn(&mut Rng, usize) -> f64,
) -> (Graph, [Value; 2], Values) {
    let (mut g, mut given, mut rng) = (Graph::new(), Values::new(), Rng::new(seed));
    let elems: usize = hwc.iter().product();
    let [x, x0, w] = images(&mut g, ["x", "x0", "w"], hwc);
    let f = row(&mut g, "f");
    let pixel = |rng: &mut Rng, i: usize| if i.is_multiple_of(6) { (i / 6 % 2) as f64 } else { f64::from(rng.unit() as f32) };
    let original: Vec<f64> = (0..n * elems).map(|i| pixel(&mut rng, i)).collect();
    let moved = original.iter().map(|v| f64::from((v + 0.02 * rng.unit() - 0.01).clamp(0.0, 1.0) as f32)).collect();
    let slopes: Vec<f64> = (0..n * elems).map(|i| f64::from(slope(&mut rng, i) as f32)).collect();
    let reach = |n: usize| slopes[n * elems..][..elems].iter().filter(|w| w.is_finite()).map(|w| w.abs()).sum::<f64>();
    let shares = [-0.01, 0.2, -0.45, 2.0];
    let over = (0..n).map(|n| f64::from((shares[n % 4] * reach(n)) as f32)).collect();
    given.extend([(x, moved), (x0, original), (f, over), (w, slopes.clone())]);
    let next = g.push(Op::Hyperplane(plane), &[x, x0, w, f]);
    (g, [x, next], given)
}

/// With `eta` 1 and no weight for the original the step is the projection: it must lie on the hyperplane, and the conditions of
/// Karush, Kuhn and Tucker must hold: every element goes as far as its share of one level says, or as its room.
fn nearest_point(norm: Norm, seed: u64, card: Option<Card>) -> Result<(), String> {
    let hwc = [[2, 3, 1], [5, 5, 3], [16, 16, 3]][seed as usize % 3];
    let (n, elems) = (4, hwc.iter().product::<usize>());
    let plane = Plane::FabStep { norm, eta: 1.0, alpha_max: 0.0 };
    // Halves make ties, and zeros.
    let slope = |rng: &mut Rng, _: usize| if seed.is_multiple_of(2) { rng.normal() } else { (2.0 * rng.normal()).round() / 2.0 };
    let (g, [x, next], given) = step_problem(plane, hwc, n, 100 + seed, slope);
    let got = match card {
        Some(card) => direct::run(&g, &[next], n, &given, card)?.remove(0),
        None => {
            let how = How { batch: n, isa: Isa::Scalar, threads: 1, exact: true };
            Engine::new(&g, &[next], how)?.run(&given)?.remove(0)
        }
    };
    let leaf = |name: &str| &given[&g.input_named(name).expect("the leaf")];
    for n in 0..n {
        let rows = n * elems..(n + 1) * elems;
        let (x, w, over) = (&given[&x][rows.clone()], &leaf("w")[rows.clone()], leaf("f")[n]);
        judge(norm, x, w, over, &got[rows]).map_err(|e| format!("seed {seed}, image {n}: {e}"))?;
    }
    Ok(())
}

fn judge(norm: Norm, x: &[f64], w: &[f64], over: f64, got: &[f32]) -> Result<(), String> {
    // A pixel is rounded to f32 once: half an ulp of a number up to 1.
    let ulp = 2f64.powi(-25);
    let reach: f64 = w.iter().map(|w| w.abs()).sum();
    let step: Vec<f64> = got.iter().zip(x).map(|(&g, x)| f64::from(g) - x).collect();
    let left = over + w.iter().zip(&step).map(|(w, d)| w * d).sum::<f64>();
    let sign = |i: usize| if w[i] == 0.0 { 0.0 } else { -w[i].signum() * over.signum() };
    let room = |i: usize| if sign(i) > 0.0 { 1.0 - x[i] } else { x[i] };
    let cornered = (0..x.len()).all(|i| w[i] == 0.0 || (step[i].abs() - room(i)).abs() <= ulp);
    let slack = 1.01 * reach * ulp + 1e-13 * reach;
    if left.abs() > slack && !(cornered && left * over > 0.0) {
        return Err(format!("{left:e} of {over:e} left, {slack:e} allowed, in a corner: {cornered}"));
    }
    // Bounds that each element puts on the level (L1: on the |w| that is gone for).
    let (mut low, mut high) = (0f64, f64::INFINITY);
    for i in 0..x.len() {
        let (gone, steep) = (step[i] * sign(i), w[i].abs());
        if gone < -ulp || (steep == 0.0 && step[i] != 0.0) || gone > room(i) + ulp {
            return Err(format!("element {i} goes {:e} with a slope of {}", step[i], w[i]));
        }
        if steep == 0.0 {
            continue;
        }
        let (some, all) = (gone > ulp, gone >= room(i) - ulp);
        let share = |v: f64| if norm == Norm::L2 { v / steep } else { v };
        match norm {
            Norm::L1 => {
                low = if all { low } else { low.max(steep) };
                high = if some { high.min(steep) } else { high };
            }
            // At the wall the level is at least the room's; before it, exactly what was gone.
            _ if all => low = low.max(share(room(i) - ulp)),
            _ => (low, high) = (low.max(share(gone - ulp)), high.min(share(gone + ulp))),
        }
    }
    if low <= high * (1.0 + 1e-12) { Ok(()) } else { Err(format!("no level fits all elements: {low:e} to {high:e}")) }
}

/// Restarts on a device have the bits of the host's generator, each image its own.
fn starts(norm: Norm, hwc: [usize; 3], card: Card) -> Result<(), String> {
    let (n, seed, step, [h, w, c]) = (3, 0x1234_5678_9abc_def0u64, 2, hwc);
    let elems = h * w * c;
    let (index, restart, length) = ([7, 70_000, -1], [0, 3, 65_535], [0.03f32, 0.5, 0.0]);
    let x0: Vec<f32> = Rng::new(4).normals(n * elems).iter().map(|v| (0.5 + 0.3 * v).clamp(0.0, 1.0) as f32).collect();
    let mut want = vec![0.0; n * elems];
    for i in 0..n {
        let stream = Stream { seed, index: index[i] as u32, step, purpose: Purpose::Class, restart: restart[i] as u16 };
        let (mut from, mut to) = (vec![0.0; elems], vec![0.0; elems]);
        hwc_to_chw(&x0[i * elems..][..elems], (h, w, c), &mut from);
        rng::start_at(norm, length[i], &stream, &from, &mut to);
        chw_to_hwc(&to, (h, w, c), &mut want[i * elems..][..elems]);
    }
    let mut g = Graph::new();
    let [from] = images(&mut g, ["x0"], hwc);
    let [at, turn] = ["index", "restart"].map(|name| g.input(name, Shape::per_image(&[]), DType::I32));
    let far = row(&mut g, "length");
    let words = g.input("seed", Shape::fixed(&[3]), DType::I32);
    let start = g.push(Op::Hyperplane(Plane::Start { norm }), &[from, at, turn, far, words]);
    let whole = |list: &[i32]| list.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let floats = |list: &[f32]| list.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let given = Values::from([
        (from, floats(&x0)),
        (at, whole(&index)),
        (turn, whole(&restart)),
        (far, floats(&length)),
        (words, whole(&[seed as i32, (seed >> 32) as i32, step as i32])),
    ]);
    let got = direct::run(&g, &[start], n, &given, card)?;
    close::same_bits(&got[0], &want, &[n, h, w, c])
}

/// A start lies as far away as it was told, away from the walls; with no length it is the image.
fn start_length() {
    let x0 = vec![0.5f32; 768];
    for (norm, length) in [(Norm::Linf, 0.05), (Norm::L2, 0.4), (Norm::L1, 6.0)] {
        let at = |index, length| {
            let stream = Stream { seed: 1, index, step: 0, purpose: Purpose::FabStart, restart: 1 };
            let mut x = vec![0.0; 768];
            rng::start_at(norm, length, &stream, &x0, &mut x);
            x
        };
        let (a, b) = (at(1, length), at(2, length));
        let far = petard::threat::distance(norm, &x0, &a);
        assert!((far / f64::from(length) - 1.0).abs() < 1e-5, "{norm}: {far} not {length}");
        assert!(a != b && at(1, 0.0) == x0, "{norm}");
    }
}

/// An image of 224x224: more than a block's threads take at once, and starts whose sums are large.
fn large(card: Card) -> Result<(), String> {
    for norm in NORMS {
        let (g, [_, next], given) = problem(norm, [224, 224, 3], 1, |rng, _| rng.normal());
        against_cpu(&g, &[next], 1, &given, card, 2f32.powi(-23)).map_err(|e| format!("{norm}: {e}"))?;
    }
    starts(Norm::L2, [224, 224, 3], card)
}
