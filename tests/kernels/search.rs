//! The search over the constant before a loss, steps in tanh space and of FISTA.

use libtest_mimic::Trial;
use petard::graph::nearest::Objective;
use petard::graph::nearest::column;
use petard::graph::{Graph, Nearest, Op, Search, Value};
use petard::tensor::{DType, Shape};

use super::direct::{against_cpu, carried_as_on_cpu, on_cards};
use super::{Bound, Case, Fill};
use crate::support::Rng;
use crate::support::naive::Values;

/// Sizes of an image; the last is large enough for a block of 1024 threads.
pub const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [3, 5, 3], [8, 8, 3], [7, 9, 5], [40, 37, 3]];

pub fn cases() -> Vec<Case> {
    SIZES
        .into_iter()
        .flat_map(|size| (0..3).flat_map(move |kind| (0..3).map(move |at| next(size, kind, at))).chain(steps(size)))
        .collect()
}

pub fn trials() -> Vec<Trial> {
    let mut all = on_cards("search::rounds", |card| {
        // A short search from a fresh state to its end: carried states, margins on both sides.
        for kind in 0..3 {
            let (g, v, given) = turns(kind);
            carried_as_on_cpu(&g, &[(v[0], v[1])], 4, 14, &given, card, 1e-6)?;
        }
        Ok(())
    });
    all.extend(on_cards("search::corners", |card| {
        for mark in [f64::NAN, f64::INFINITY, 0.0, 1e-45] {
            for size in [[3, 5, 3], [8, 8, 3]] {
                for op in [Nearest::TanhStep { shrink: 1.0, kappa: 0.5 }, Nearest::Shrink { beta: 0.01, kappa: 0.5 }] {
                    let (g, out, mut given) = stepping(op, size, 3);
                    let slope = g.input_named("g").expect("a gradient");
                    given.entry(slope).and_modify(|g| g.iter_mut().step_by(7).for_each(|v| *v = mark));
                    against_cpu(&g, &[out], 3, &given, card, 1e-6).map_err(|e| format!("{op:?} with {mark}: {e}"))?;
                }
            }
        }
        Ok(())
    }));
    all
}

/// A state as a running attack has it: kinds of rows, and numbers that no threshold ties with. Row 0 is through.
pub fn state(n: usize, rng: &mut Rng) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..n {
        let mut s = [0.0; column::COUNT];
        s[column::ALIVE] = if i % 5 == 4 { 0.0 } else { 1.0 };
        s[column::BEST] = if i % 2 == 0 { f64::INFINITY } else { 0.5 + 4.0 * rng.unit() };
        s[column::MARGIN] = rng.normal();
        s[column::SLACK] = if i % 3 == 0 { 0.0 } else { 0.01 };
        s[column::RESTART] = f64::from(i % 7 == 5);
        s[column::CONSTANT] = 0.1 + rng.unit();
        s[column::LOW] = 0.05 * rng.unit();
        s[column::HIGH] = if i % 3 == 1 { f64::INFINITY } else { 1.5 + rng.unit() };
        s[column::STEP] = [20.0, 59.0, 99.0][i % 3];
        s[column::ROUND] = [3.0, 0.0, 8.0][i % 3];
        s[column::REACHED] = f64::from(i % 4 == 1);
        s[column::BEFORE] = if i % 2 == 0 { f64::INFINITY } else { 0.7 * rng.unit() };
        s[column::RATE] = 0.02 + 0.01 * rng.unit();
        s[column::SCALE] = 2.0 + rng.unit();
        out.extend(s.map(|v| f64::from(v as f32)));
    }
    out
}

fn objective(kind: usize) -> Objective {
    [Objective::Squared { shrink: 0.999_999 }, Objective::L1 { beta: 0.01 }, Objective::ElasticNet { beta: 0.01 }][kind]
}

/// What the errors of a state are measured against: a column that grows with an image's size is as exact as its size.
fn sizes(probe: &super::Probe) -> Vec<f64> {
    probe.want.iter().map(|w| w.abs().max(1.0)).collect()
}

fn next([h, w, c]: [usize; 3], kind: usize, at: usize) -> Case {
    let (steps, rounds) = [(100, 9), (100, 10), (100, 1)][at];
    let search = Search { objective: objective(kind), steps, rounds, abort: at != 2, kappa: at as f32 * 0.1, rate: 0.01 };
    let mut g = Graph::new();
    let image = Shape::per_image(&[h, w, c]);
    let state = g.input("state.search", Shape::per_image(&[column::COUNT]), DType::F32);
    let [x, x0] = ["x01", "y01"].map(|name| g.input(name, image.clone(), DType::F32));
    let margin = g.input("margin", Shape::per_image(&[]), DType::F32);
    let z = g.input("z", Shape::per_image(&[10]), DType::F32);
    let y = g.push(Op::Nearest(Nearest::Search(search)), &[state, x, x0, margin, z]);
    let literal = format!("next({:?}, {kind}, {at})", [h, w, c]);
    // The base is rounded to f32 five times, squares are summed; then one rounding of each column.
    let case = Case::new(format!("search::next.{kind}.{at}.{h}x{w}.c{c}"), literal, g, y, Bound::Roundings(8));
    Case { scale: sizes, fills: &[Fill::Normal, Fill::Ties], ..case }
}

fn stepped(op: Nearest, [h, w, c]: [usize; 3]) -> (Graph, Value) {
    let mut g = Graph::new();
    let image = Shape::per_image(&[h, w, c]);
    let planes = Shape::per_image(&[3, h, w, c]);
    let row = |g: &mut Graph, name: &str| g.input(name, Shape::per_image(&[]), DType::F32);
    let names: &[&str] = match op {
        Nearest::TanhStart { .. } => &["flag", "adam", "x01"],
        Nearest::TanhImage => &["adam"],
        Nearest::TanhStep { .. } => &["adam", "x01", "y01", "g", "margin", "state.search"],
        Nearest::Shrink { .. } => &["x01", "y01", "g", "margin", "state.search"],
        _ => &["x01", "y01", "z01", "state.search"],
    };
    let inputs: Vec<Value> = names
        .iter()
        .map(|&name| match name {
            "flag" | "margin" => row(&mut g, name),
            "adam" => g.input(name, planes.clone(), DType::F32),
            "state.search" => g.input(name, Shape::per_image(&[column::COUNT]), DType::F32),
            image_name => g.input(image_name, image.clone(), DType::F32),
        })
        .collect();
    let y = g.push(Op::Nearest(op), &inputs);
    (g, y)
}

fn steps(size: [usize; 3]) -> Vec<Case> {
    let ops = [
        Nearest::TanhStart { shrink: 0.999 },
        Nearest::TanhImage,
        Nearest::TanhStep { shrink: 0.999_999, kappa: 0.1 },
        Nearest::Shrink { beta: 0.01, kappa: 0.1 },
        Nearest::Momentum,
    ];
    let one = |op: Nearest| {
        let (g, y) = stepped(op, size);
        let [h, w, c] = size;
        let name = format!("search::{}.{h}x{w}.c{c}", op.name());
        // A handful of f32 operations on numbers of a few units; tanh to two last places.
        let case = Case::new(name, format!("{op:?}, {size:?}"), g, y, Bound::Roundings(12));
        Case { scale: sizes, fills: &[Fill::Normal], ..case }
    };
    ops.map(one).into()
}

/// One step with numbers for every leaf.
fn stepping(op: Nearest, size: [usize; 3], n: usize) -> (Graph, Value, Values) {
    let (g, y) = stepped(op, size);
    let mut rng = Rng::new(5);
    let mut given = Values::new();
    for v in g.values().filter(|&v| v != y) {
        let len = g.shape(v).len(n);
        given.insert(
            v,
            match g.node(v).label.as_str() {
                "state.search" => state(n, &mut rng),
                name if name.ends_with("01") => (0..len).map(|_| f64::from(rng.unit() as f32)).collect(),
                _ => rng.normals(len).iter().map(|&v| f64::from(v as f32)).collect(),
            },
        );
    }
    (g, y, given)
}

/// The state alone, carried through a whole search: `(graph, [state, next], leaves)`.
fn turns(kind: usize) -> (Graph, [Value; 2], Values) {
    let search = Search { objective: objective(kind), steps: 4, rounds: 3, abort: true, kappa: 0.0, rate: 0.01 };
    let (mut g, mut given, mut rng) = (Graph::new(), Values::new(), Rng::new(9));
    let state = g.input("state", Shape::per_image(&[column::COUNT]), DType::F32);
    let [x, x0] = ["x", "x0"].map(|name| g.input(name, Shape::per_image(&[5, 4, 3]), DType::F32));
    let margin = g.input("margin", Shape::per_image(&[]), DType::F32);
    let z = g.input("z", Shape::per_image(&[10]), DType::F32);
    let mut first = [0.0; column::COUNT];
    (first[column::ALIVE], first[column::CONSTANT]) = (1.0, 0.25);
    for at in [column::BEST, column::HIGH, column::BEFORE] {
        first[at] = f64::INFINITY;
    }
    given.insert(state, first.repeat(4));
    for image in [x, x0] {
        given.insert(image, (0..4 * 60).map(|_| f64::from(rng.unit() as f32)).collect());
    }
    given.extend([(margin, vec![1.0, -1.0, f64::NAN, 0.0]), (z, rng.normals(40).iter().map(|&v| f64::from(v as f32)).collect())]);
    let next = g.push(Op::Nearest(Nearest::Search(search)), &[state, x, x0, margin, z]);
    (g, [state, next], given)
}
