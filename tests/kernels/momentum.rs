//! What attacks with a momentum keep, and the transformations of their images: against their definitions, as adjoints, and to
//! the bit on cards.

use libtest_mimic::Trial;
use petard::cpu::Isa;
use petard::graph::{Diversity, Graph, Op, Role, Value};
use petard::rng::{Purpose, Stream};
use petard::tensor::{DType, Shape};

use super::direct::{self, Card, against_cpu, carried_as_on_cpu, on_cards};
use super::{Bound, Case};
use crate::support::engine::{Engine, How};
use crate::support::naive::Values;
use crate::support::{Rng, trial};

const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [3, 5, 3], [16, 16, 3], [17, 33, 2], [40, 37, 3]];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [1, 2, 5].map(tick).into();
    for hwc in SIZES {
        cases.extend([ahead(hwc), accumulate(hwc), momentum(hwc)]);
    }
    for (hwc, taps) in [([1, 1, 1], 15), ([3, 5, 3], 15), ([16, 16, 1], 3), ([17, 15, 2], 15), ([20, 33, 3], 31), ([5, 4, 2], 1)]
    {
        cases.push(blur(hwc, taps));
    }
    cases
}

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, diversity) in [("shrink", SHRINK), ("grow", GROW), ("double", DOUBLE)] {
        for hwc in [[3, 5, 3], [10, 10, 1], [32, 32, 3], [17, 33, 2]] {
            let [h, w, c] = hwc;
            let label = format!("momentum::diversify.{name}.{h}x{w}.c{c}");
            all.push(trial(format!("{label}::cpu"), move || defined(diversity, hwc)));
            all.extend(on_cards(&label, move |card| {
                let (g, outputs, given) = diversified(diversity, hwc, 6);
                against_cpu(&g, &outputs, 6, &given, card, 0.0)
            }));
        }
    }
    for hwc in SIZES {
        let [h, w, c] = hwc;
        all.extend(on_cards(&format!("momentum::jitter.{h}x{w}.c{c}"), move |card| jitter(hwc, card)));
    }
    all.push(trial("momentum::blur.adjoint", blur_adjoint));
    all.extend(on_cards("momentum::in_place", in_place));
    all.extend(on_cards("momentum::corners", corners));
    all
}

const SHRINK: Diversity = Diversity { probability: 0.5, rate: 0.9 };
const GROW: Diversity = Diversity { probability: 1.0, rate: 1.1 };
const DOUBLE: Diversity = Diversity { probability: 0.7, rate: 2.0 };

fn image(g: &mut Graph, name: &str, hwc: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&hwc), DType::F32)
}

fn case(what: &str, hwc: [usize; 3], graph: Graph, output: Value, bound: Bound) -> Case {
    let [h, w, c] = hwc;
    Case::new(format!("momentum::{what}.{h}x{w}.c{c}"), format!("{what}({hwc:?})"), graph, output, bound)
}

fn state(g: &mut Graph) -> Value {
    g.input("state", Shape::per_image(&[2]), DType::F32)
}

fn tick(copies: usize) -> Case {
    let mut g = Graph::new();
    let state = state(&mut g);
    let next = g.push(Op::Tick { copies }, &[state]);
    Case { scale: super::result, ..case("tick", [1, 1, copies], g, next, Bound::Roundings(1)) }
}

fn ahead(hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let [x, m] = ["x", "m"].map(|name| image(&mut g, name, hwc));
    let reach = g.input("alpha", Shape::per_image(&[]), DType::F32);
    let state = state(&mut g);
    let at = g.push(Op::Ahead, &[x, m, reach, state]);
    case("ahead", hwc, g, at, Bound::Roundings(3))
}

fn accumulate(hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let [sum, dx] = ["sum", "g"].map(|name| image(&mut g, name, hwc));
    let state = state(&mut g);
    let next = g.push(Op::Accumulate { share: 0.3 }, &[sum, dx, state]);
    case("accumulate", hwc, g, next, Bound::Roundings(3))
}

fn momentum(hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let [m, dx] = ["m", "g"].map(|name| image(&mut g, name, hwc));
    let decay = g.input("alpha", Shape::per_image(&[]), DType::F32);
    let next = g.push(Op::Momentum, &[m, dx, decay]);
    case("momentum", hwc, g, next, Bound::Roundings(4))
}

fn blur(hwc: [usize; 3], taps: usize) -> Case {
    let mut g = Graph::new();
    let dx = image(&mut g, "g", hwc);
    // A parameter, so that gradients of 1e17 meet taps of a usual size.
    let taps_at = g.param("taps", &[taps], Role::Weight);
    let y = g.push(Op::Blur, &[dx, taps_at]);
    case(&format!("blur{taps}"), hwc, g, y, Bound::Sum(2 * taps))
}

/// Both directions of a draw: `(graph, [A x, A' y], leaves)`, for images at different turns.
fn diversified(diversity: Diversity, hwc: [usize; 3], n: usize) -> (Graph, [Value; 2], Values) {
    let (mut g, mut rng) = (Graph::new(), Rng::new(2));
    let [x, y] = ["x", "y"].map(|name| image(&mut g, name, hwc));
    let [index, restart] = ["index", "restart"].map(|name| g.input(name, Shape::per_image(&[]), DType::I32));
    let state = state(&mut g);
    let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
    let forward = g.push(Op::Diversify(diversity), &[x, index, restart, state, seed]);
    let back = g.push(Op::DiversifyGrad(diversity), &[y, index, restart, state, seed]);
    let elems = n * hwc.iter().product::<usize>();
    let turns = (0..n).flat_map(|i| [(3 * i) as f64, 0.5]).collect();
    let given = Values::from([
        (x, rng.normals(elems)),
        (y, rng.normals(elems)),
        (index, (0..n).map(|i| 70_000.0 * i as f64).collect()),
        (restart, (0..n).map(|i| (i % 2 * 65_535) as f64).collect()),
        (state, turns),
        (seed, vec![-7.0, 3.0, 99.0]),
    ]);
    (g, [forward, back], given)
}

/// On the CPU: what is resized is what the definition says, to a few roundings, and `<A x, y> = <x, A' y>` for each image.
fn defined(diversity: Diversity, hwc: [usize; 3]) {
    let n = 12;
    let (g, outputs, given) = diversified(diversity, hwc, n);
    let how = How { batch: n, isa: Isa::Scalar, threads: 2, exact: true };
    let got = Engine::new(&g, &outputs, how).and_then(|mut e| e.run(&given)).expect("the engine runs");
    let leaf = |name: &str| &given[&g.input_named(name).expect("the leaf")];
    let elems = hwc.iter().product::<usize>();
    let mut resized = 0;
    for i in 0..n {
        let part = |v: &[f64]| -> Vec<f64> { v[i * elems..][..elems].to_vec() };
        let wide = |v: &[f32]| -> Vec<f64> { v[i * elems..][..elems].iter().map(|&v| f64::from(v)).collect() };
        let (x, y, ax, ay) = (part(leaf("x")), part(leaf("y")), wide(&got[0]), wide(&got[1]));
        let stream = Stream {
            seed: 3 << 32 | u64::from(-7i32 as u32),
            index: 70_000 * i as u32,
            step: 3 * i as u32,
            purpose: Purpose::Transfer,
            restart: (i % 2 * 65_535) as u16,
        };
        let want = literal(diversity, hwc, &x, &stream);
        resized += usize::from(want != x);
        let far = ax.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // Places are computed in f32: a pixel of 64 moves by 64 * 2^-24, and neighbours differ by less than 10.
        assert!(far < 2e-4, "image {i}: off by {far:e}");
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let size = |a: &[f64]| dot(a, a).sqrt();
        let (left, right) = (dot(&ax, &y), dot(&x, &ay));
        // Both directions take the same weights; each element is a sum of at most some 50 products in f32.
        let allowed = 50.0 * 2f64.powi(-24) * (size(&ax) * size(&y) + size(&x) * size(&ay));
        assert!((left - right).abs() <= allowed, "image {i}: {left} and {right}");
    }
    let few = diversity.probability < 1.0;
    let moves = diversity.sides(hwc[0])[1] > 1 || diversity.sides(hwc[1])[1] > 1;
    assert!(!moves || (resized > 0 && (resized < n) == few), "{resized} of {n} images were resized");
}

/// The resized and framed image, step by step, in f64.
fn literal(diversity: Diversity, [h, w, c]: [usize; 3], x: &[f64], stream: &Stream) -> Vec<f64> {
    let first = 0xffff_fff0;
    if stream.uniform(first) >= diversity.probability {
        return x.to_vec();
    }
    let below = |i: u32, n: usize| (f64::from(stream.bits(first + i)) / 4_294_967_296.0 * n as f64) as usize;
    let [low_h, choices_h, frame_h] = diversity.sides(h);
    let [low_w, choices_w, frame_w] = diversity.sides(w);
    let (side_h, side_w) = (low_h + below(1, choices_h), low_w + below(1, choices_w));
    let (top, left) = (below(2, (frame_h - side_h).max(1)), below(3, (frame_w - side_w).max(1)));
    let small = interpolate(x, [h, w, c], [side_h, side_w]);
    let mut framed = vec![0.0; frame_h * frame_w * c];
    for i in 0..side_h {
        for j in 0..side_w * c {
            framed[(top + i) * frame_w * c + left * c + j] = small[i * side_w * c + j];
        }
    }
    interpolate(&framed, [frame_h, frame_w, c], [h, w])
}

/// PyTorch's bilinear `interpolate` without aligned corners.
fn interpolate(x: &[f64], [h, w, c]: [usize; 3], [to_h, to_w]: [usize; 2]) -> Vec<f64> {
    let around = |i: usize, from: usize, to: usize| {
        let place = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let low = (place.floor() as usize).min(from - 1);
        (low, (low + 1).min(from - 1), place - low as f64)
    };
    let mut out = Vec::with_capacity(to_h * to_w * c);
    for i in 0..to_h {
        let (top, bottom, down) = around(i, h, to_h);
        for j in 0..to_w {
            let (left, right, across) = around(j, w, to_w);
            for k in 0..c {
                let at = |row: usize, column: usize| x[(row * w + column) * c + k];
                let row = |row: usize| at(row, left) * (1.0 - across) + at(row, right) * across;
                out.push(row(top) * (1.0 - down) + row(bottom) * down);
            }
        }
    }
    out
}

/// Noise has the bits of the host's generator, each image its own, by turn and restart.
fn jitter(hwc: [usize; 3], card: Card) -> Result<(), String> {
    let ([h, w, c], n) = (hwc, 3);
    let (index, restart, turns, length) = ([7, 70_000, -1], [0, 3, 65_535], [0.0, 5.0, 1e6], [0.03f32, 0.5, 6.0]);
    let (mut g, mut rng) = (Graph::new(), Rng::new(4));
    let x = image(&mut g, "x", hwc);
    let [at, turn] = ["index", "restart"].map(|name| g.input(name, Shape::per_image(&[]), DType::I32));
    let far = g.input("length", Shape::per_image(&[]), DType::F32);
    let state = state(&mut g);
    let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
    let near = g.push(Op::Jitter, &[x, at, turn, far, state, seed]);
    let elems = h * w * c;
    let pixels = rng.normals(n * elems);
    let mut want = Vec::new();
    for i in 0..n {
        let stream = Stream {
            seed: 5,
            index: index[i] as u32,
            step: turns[i] as u32,
            purpose: Purpose::Transfer,
            restart: restart[i] as u16,
        };
        for e in 0..elems {
            let u = stream.uniform((e % c * h * w + e / c) as u32);
            want.push((pixels[i * elems + e] as f32 + length[i] * (2.0 * u - 1.0)) * 0.25);
        }
    }
    let given = Values::from([
        (x, pixels),
        (at, index.map(f64::from).to_vec()),
        (turn, restart.map(f64::from).to_vec()),
        (far, length.map(f64::from).to_vec()),
        (state, turns.iter().flat_map(|&t| [t, 0.25]).collect()),
        (seed, vec![5.0, 0.0, 8.0]),
    ]);
    against_cpu(&g, &[near], n, &given, card, 0.0)?;
    let got = direct::run(&g, &[near], n, &given, card)?;
    crate::support::close::same_bits(&got[0], &want, &[n, h, w, c])
}

/// The blur is its own adjoint for taps that read the same from both ends.
fn blur_adjoint() {
    let (mut g, mut rng) = (Graph::new(), Rng::new(6));
    let [x, y] = ["x", "y"].map(|name| image(&mut g, name, [20, 23, 3]));
    let taps = g.input("taps", Shape::fixed(&[15]), DType::F32);
    let outputs = [x, y].map(|v| g.push(Op::Blur, &[v, taps]));
    let kernel = petard::attack::Kernel::Gaussian.taps().map(f64::from).to_vec();
    let given = Values::from([(x, rng.normals(1380)), (y, rng.normals(1380)), (taps, kernel)]);
    let how = How { batch: 1, isa: Isa::Scalar, threads: 1, exact: true };
    let got = Engine::new(&g, &outputs, how).and_then(|mut e| e.run(&given)).expect("the engine runs");
    let dot = |a: &[f32], b: &[f64]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
    let (left, right) = (dot(&got[0], &given[&y]), dot(&got[1], &given[&x]));
    // 1,380 products of numbers of about 0.3 and 1, each off by some 30 roundings.
    assert!((left - right).abs() < 30.0 * 2f64.powi(-24) * 1380.0 && left.abs() > 1e-2, "{left} and {right}");
}

fn in_place(card: Card) -> Result<(), String> {
    for hwc in [[5, 3, 3], [16, 16, 3], [40, 37, 3]] {
        let (mut g, mut rng, n) = (Graph::new(), Rng::new(9), 3);
        let [m, total, dx] = ["m", "total", "g"].map(|name| image(&mut g, name, hwc));
        let decay = g.input("decay", Shape::per_image(&[]), DType::F32);
        let state = state(&mut g);
        let next = [
            (m, g.push(Op::Momentum, &[m, dx, decay])),
            (total, g.push(Op::Accumulate { share: 0.2 }, &[total, dx, state])),
            (state, g.push(Op::Tick { copies: 3 }, &[state])),
        ];
        let elems = n * hwc.iter().product::<usize>();
        let given = Values::from([
            (m, rng.normals(elems)),
            (total, rng.normals(elems)),
            (dx, rng.normals(elems)),
            (decay, vec![1.0, 0.0, 0.5]),
            (state, vec![0.0, 1.0, 4.0, 0.5, 9.0, 0.25]),
        ]);
        // Sums in f64 in another order may move the rounding of a mean.
        carried_as_on_cpu(&g, &next, n, 5, &given, card, 2f32.powi(-21))?;
    }
    Ok(())
}

/// A gradient of zeros leaves a decayed momentum (no division by zero); NaN and infinity show in the image that has them.
fn corners(card: Card) -> Result<(), String> {
    for mark in [f64::NAN, f64::INFINITY, 0.0, 1e-45, 3e38] {
        let mut g = Graph::new();
        let [m, dx] = ["m", "g"].map(|name| image(&mut g, name, [4, 4, 3]));
        let decay = g.input("decay", Shape::per_image(&[]), DType::F32);
        let next = g.push(Op::Momentum, &[m, dx, decay]);
        let slope = (0..144).map(|i| if i == 60 { mark } else { 0.0 }).collect();
        let given = Values::from([(m, vec![0.5; 144]), (dx, slope), (decay, vec![0.5; 3])]);
        against_cpu(&g, &[next], 3, &given, card, 0.0).map_err(|e| format!("a gradient of {mark}: {e}"))?;
        let got = direct::run(&g, &[next], 3, &given, card)?.remove(0);
        if got[..48].iter().chain(&got[96..]).any(|&v| v != 0.25) {
            return Err(format!("a gradient of {mark} moved another image"));
        }
    }
    Ok(())
}
