//! Square's ops: proposals against their definition in f64, drawn with the host's generator; then cards against the CPU.

use libtest_mimic::Trial;
use petard::attack::{Square, windows};
use petard::cpu::Isa;
use petard::graph::{Graph, Op, Value};
use petard::rng::{Purpose, Stream};
use petard::tensor::{DType, Shape};
use petard::threat::{Norm, ThreatModel};

use super::direct::{against_cpu, carried_as_on_cpu, on_cards};
use crate::support::engine::{Engine, How};
use crate::support::naive::{Values, eval};
use crate::support::{Rng, trial};

const NORMS: [Norm; 3] = [Norm::Linf, Norm::L2, Norm::L1];
const SIZES: [[usize; 3]; 4] = [[5, 5, 1], [8, 8, 3], [7, 9, 2], [32, 32, 3]];
const SEED: u64 = 0x1234_5678_9abc_def0;

pub fn trials() -> Vec<Trial> {
    let mut out = vec![trial("square::control.definition", control_definition)];
    out.extend(on_cards("square::control", |card| {
        let (g, next, given) = control();
        against_cpu(&g, &[next], 7, &given, card, 0.0)
    }));
    for norm in NORMS {
        for hwc in SIZES {
            let [h, w, c] = hwc;
            out.push(trial(format!("square::step.{norm}.{h}x{w}.c{c}.definition"), move || steps_as_defined(norm, hwc)));
            // Sums in f64 in another order may move a rounding to f32.
            let apart = if norm == Norm::Linf { 0.0 } else { 2f32.powi(-23) };
            out.extend(on_cards(&format!("square::start.{norm}.{h}x{w}.c{c}"), move |card| {
                let p = Problem::new(norm, hwc, [0, 0, 0]);
                against_cpu(&p.g, &[p.start], 3, &p.given, card, apart)
            }));
            out.extend(on_cards(&format!("square::step.{norm}.{h}x{w}.c{c}"), move |card| {
                for made in [[1, 11, 12], [60, 700, 9000]] {
                    let p = Problem::new(norm, hwc, made);
                    against_cpu(&p.g, &[p.next], 3, &p.given, card, apart).map_err(|e| format!("{made:?}: {e}"))?;
                }
                Ok(())
            }));
        }
        out.extend(on_cards(&format!("square::in_place.{norm}"), move |card| {
            let p = Problem::new(norm, [8, 8, 3], [1, 9, 49]);
            let apart = if norm == Norm::Linf { 0.0 } else { 2f32.powi(-23) };
            carried_as_on_cpu(&p.g, &p.carries, 3, 5, &p.given, card, apart)
        }));
    }
    out
}

fn control() -> (Graph, Value, Values) {
    let mut g = Graph::new();
    let state = g.input("state", Shape::per_image(&[4]), DType::F32);
    let [loss, fooled] = ["loss", "fooled"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
    let next = g.push(Op::SquareControl, &[state, loss, fooled]);
    let low = f64::NEG_INFINITY;
    let rows = [
        [0.0, low, 0.0, 0.0],
        [3.0, 0.5, 0.0, 1.0],
        [3.0, 0.5, 0.0, 0.0],
        [3.0, 0.5, 0.0, 0.0],
        [9.0, 0.5, 1.0, 1.0],
        [4999.0, -1.0, 0.0, 0.0],
        [0.0, low, 0.0, 0.0],
    ];
    let given = Values::from([
        (state, rows.concat()),
        (loss, vec![-2.0, 0.75, 0.5, 0.25, 3.0, -1.0, low]),
        (fooled, vec![0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]),
    ]);
    (g, next, given)
}

fn control_definition() -> Result<(), String> {
    let (g, next, given) = control();
    let want = eval(&g, 7, &given, &[next]).remove(0);
    let got = on_cpu(&g, next, 7, &given)?;
    assert!(got.iter().zip(&want).all(|(g, w)| f64::from(*g) == *w), "{got:?}, not {want:?}");
    Ok(())
}

fn on_cpu(g: &Graph, output: Value, batch: usize, given: &Values) -> Result<Vec<f32>, String> {
    Ok(Engine::new(g, &[output], How { batch, isa: Isa::Scalar, threads: 1, exact: true })?.run(given)?.remove(0))
}

/// Three images on their way, each after so many queries; the last proposal as the engine makes it.
struct Problem {
    g: Graph,
    start: Value,
    next: Value,
    carries: Vec<(Value, Value)>,
    given: Values,
    square: Square,
    images: [Value; 3],
    patterns: Vec<f64>,
}

const INDEX: [i32; 3] = [7, 70_000, -1];
const RESTART: [i32; 3] = [0, 3, 65_535];

impl Problem {
    fn new(norm: Norm, hwc: [usize; 3], made: [usize; 3]) -> Self {
        let [h, w, c] = hwc;
        let eps = [8.0f32 / 255.0, 0.5, 3.0][norm as usize];
        let square = Square::new(ThreatModel::new(norm, f64::from(eps)));
        let book = windows(&square, [h, w]);
        let area = book.iter().map(|w| w.1).max().expect("windows").max(h.min(w) / 5).pow(2);
        // Any pattern will do.
        let mut rng = Rng::new(5);
        let patterns: Vec<f64> = (0..(book.len() + 1) * area).map(|_| f64::from(rng.normal() as f32)).collect();
        let (mut g, mut given) = (Graph::new(), Values::new());
        let (image, rows) = (Shape::per_image(&hwc), Shape::per_image(&[]));
        let images = ["x", "best", "x0"].map(|name| g.input(name, image.clone(), DType::F32));
        let [x, best, x0] = images;
        let state = g.input("state", Shape::per_image(&[4]), DType::F32);
        let [index, restart] = ["index", "restart"].map(|name| g.input(name, rows.clone(), DType::I32));
        let [radius, loss, fooled] = ["radius", "loss", "fooled"].map(|name| g.input(name, rows.clone(), DType::F32));
        let words = g.input("seed", Shape::fixed(&[3]), DType::I32);
        let schedule = g.input("schedule", Shape::fixed(&[book.len(), 2]), DType::I32);
        let table = (norm != Norm::Linf).then(|| g.input("patterns", Shape::fixed(&[book.len() + 1, area]), DType::F32));
        let push = |g: &mut Graph, op: Op, inputs: &[Value]| g.push(op, &[inputs, table.as_slice()].concat());
        let start = push(&mut g, Op::SquareStart { norm }, &[x0, index, restart, radius, words]);
        let step = |g: &mut Graph, best, state| {
            push(g, Op::SquareStep { norm }, &[x, best, x0, state, index, restart, radius, words, schedule])
        };
        let next = step(&mut g, best, state);
        let next_state = g.push(Op::SquareControl, &[state, loss, fooled]);
        let better = g.push(Op::Column { index: 3 }, &[next_state]);
        let next_best = g.push(Op::SelectRows, &[better, x, best]);
        let again = step(&mut g, next_best, next_state);
        let carries = vec![(state, next_state), (best, next_best), (x, again)];
        let elems = h * w * c;
        let original: Vec<f64> =
            (0..3 * elems).map(|i| if i % 6 == 0 { (i / 6 % 2) as f64 } else { f64::from(rng.unit() as f32) }).collect();
        let mut inside: Vec<f32> = original.iter().map(|v| (v + 0.2 * rng.unit() - 0.1) as f32).collect();
        for (x, x0) in inside.chunks_mut(elems).zip(original.chunks(elems)) {
            let x0: Vec<f32> = x0.iter().map(|&v| v as f32).collect();
            square.threat.project(&x0, x);
        }
        let inside: Vec<f64> = inside.iter().map(|&v| v.into()).collect();
        let whole = |list: &[i32]| list.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        given.extend([(x, inside.clone()), (best, inside), (x0, original)]);
        given.extend([(index, whole(&INDEX)), (restart, whole(&RESTART)), (radius, vec![f64::from(eps); 3])]);
        // The first image accepts nothing, the second the first proposal, the third breaks at once.
        given.extend([(loss, vec![-9.0, 2.0, 0.0]), (fooled, vec![0.0, 0.0, 1.0])]);
        given.insert(words, whole(&[SEED as i32, (SEED >> 32) as i32, 0]));
        given.insert(schedule, book.iter().flat_map(|w| [w.0 as f64, w.1 as f64]).collect());
        given.insert(state, made.iter().flat_map(|&m| [m as f64, 1.0, 0.0, 0.0]).collect());
        if let Some(table) = table {
            given.insert(table, patterns.clone());
        }
        Problem { g, start, next, carries, given, square, images, patterns }
    }
}

fn stream(n: usize, step: usize) -> Stream {
    let (index, restart) = (INDEX[n] as u32, RESTART[n] as u16);
    Stream { seed: SEED, index, step: step as u32, purpose: Purpose::Square, restart }
}

/// What a query draws: side, windows, whether the pattern is turned.
fn drawn(square: &Square, n: usize, made: usize, [h, w]: [usize; 2]) -> (usize, usize, [[usize; 2]; 2], bool) {
    let s = stream(n, made);
    let all = windows(square, [h, w]);
    let entry = all.iter().rposition(|w| w.0 < made).expect("a window");
    let side = all[entry].1;
    let place = |e: u32, size: usize| (f64::from(s.bits(e)) / 2f64.powi(32) * (size - side + 1) as f64) as usize;
    (entry, side, [[place(0, h), place(1, w)], [place(2, h), place(3, w)]], s.bits(4) >= 1 << 31)
}

/// Each proposal is what the paper says, in f64; and lies in ball and box.
fn steps_as_defined(norm: Norm, hwc: [usize; 3]) -> Result<(), String> {
    let [h, w, c] = hwc;
    let elems = h * w * c;
    for made in [[1, 11, 12], [60, 700, 9000]] {
        let p = Problem::new(norm, hwc, made);
        let got = on_cpu(&p.g, p.next, 3, &p.given)?;
        for (n, made) in made.into_iter().enumerate() {
            let row = |v: Value| &p.given[&v][n * elems..][..elems];
            let (best, x0) = (row(p.images[1]), row(p.images[2]));
            let (entry, side, at, turned) = drawn(&p.square, n, made, [h, w]);
            let area = p.patterns.len() / 11;
            let sign = |ch: usize| if stream(n, made).bits(8 + ch as u32) < 1 << 31 { 1.0 } else { -1.0 };
            let inside = |e: usize, k: usize| {
                let (i, j) = ((e / c / w).wrapping_sub(at[k][0]), (e / c % w).wrapping_sub(at[k][1]));
                (i < side && j < side).then(|| if turned { j * side + i } else { i * side + j })
            };
            let lobe = |e: usize| inside(e, 0).map(|i| p.patterns[entry * area + i] * sign(e % c));
            let want: Vec<f64> = match norm {
                Norm::Linf => {
                    let eps = p.square.threat.eps;
                    let step = |e: usize| if inside(e, 0).is_some() { 2.0 * eps * sign(e % c) } else { 0.0 };
                    (0..elems).map(|e| (x0[e] + (best[e] + step(e) - x0[e]).clamp(-eps, eps)).clamp(0.0, 1.0)).collect()
                }
                _ => moved(norm, c, p.square.threat.eps, best, x0, lobe, |e| inside(e, 1).is_some()),
            };
            let image = &got[n * elems..][..elems];
            for (e, (&got, &want)) in image.iter().zip(&want).enumerate() {
                // A few roundings of numbers below 1.1 in f32; f64 sums in L2 and L1.
                if (f64::from(got) - want).abs() > 2e-7 {
                    return Err(format!("image {n} after {made}, element {e}: {got}, by definition {want}"));
                }
            }
            let original: Vec<f32> = x0.iter().map(|&v| v as f32).collect();
            assert!(p.square.threat.contains(&original, image), "image {n}: {}", p.square.threat.distance(&original, image));
            // A window of one pixel may meet one that the box holds.
            assert!(side == 1 || image.iter().zip(best).any(|(a, b)| f64::from(*a) != *b), "image {n}: nothing was proposed");
        }
    }
    Ok(())
}

/// The proposal in L2 and L1: `lobe` is the signed pattern where the window is, `second` the window that is emptied.
fn moved(
    norm: Norm,
    c: usize,
    eps: f64,
    best: &[f64],
    x0: &[f64],
    lobe: impl Fn(usize) -> Option<f64>,
    second: impl Fn(usize) -> bool,
) -> Vec<f64> {
    let l1 = norm == Norm::L1;
    let size = |v: f64| if l1 { v.abs() } else { v * v };
    let root = |v: f64| if l1 { v } else { v.sqrt() };
    let mut delta: Vec<f64> = best.iter().zip(x0).map(|(a, b)| a - b).collect();
    let all: f64 = delta.iter().map(|&d| size(d)).sum();
    let slack = ((if l1 { eps } else { eps * eps }) - all).max(0.0);
    for ch in 0..c {
        let mine = || (ch..best.len()).step_by(c);
        let freed: f64 = mine().filter(|&e| lobe(e).is_some() || second(e)).map(|e| size(delta[e])).sum();
        let old = root(mine().filter(|&e| lobe(e).is_some()).map(|e| size(delta[e])).sum());
        let fresh: Vec<(usize, f64)> = mine().filter_map(|e| lobe(e).map(|v| (e, v + delta[e] / (old + 1e-12)))).collect();
        let length = root(fresh.iter().map(|f| size(f.1)).sum()) + 1e-12;
        let mass = if l1 { (slack / c as f64 + freed) * c as f64 } else { (slack / c as f64 + freed).sqrt() };
        mine().filter(|&e| second(e)).for_each(|e| delta[e] = 0.0);
        fresh.iter().for_each(|&(e, v)| delta[e] = v / length * mass);
    }
    let room = |e: usize, d: f64| if d > 0.0 { 1.0 - x0[e] } else { x0[e] };
    if l1 {
        // Bisection for the smallest reduction that fits.
        let cut = |d: f64, e: usize, by: f64| (d.abs() - by).max(0.0).min(room(e, d));
        let (mut low, mut high) = (0.0, delta.iter().fold(0.0f64, |a, d| a.max(d.abs())));
        let length = |by: f64| delta.iter().enumerate().map(|(e, &d)| cut(d, e, by)).sum::<f64>();
        if length(0.0) <= eps {
            high = 0.0;
        }
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if length(middle) > eps { low = middle } else { high = middle }
        }
        delta = delta.iter().enumerate().map(|(e, &d)| cut(d, e, high).copysign(d)).collect();
    } else {
        let length = delta.iter().map(|d| d * d).sum::<f64>().sqrt();
        delta.iter_mut().for_each(|d| *d *= eps / length);
    }
    delta.iter().zip(x0).map(|(d, x)| (x + d).clamp(0.0, 1.0)).collect()
}
