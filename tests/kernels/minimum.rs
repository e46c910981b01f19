//! The steps of DDN and FMN.

use libtest_mimic::Trial;
use petard::graph::nearest::column;
use petard::graph::{Follow, Graph, Nearest, Op, Value};
use petard::tensor::{DType, Shape};
use petard::threat::{Distance, Norm};

use super::direct::{against_cpu, carried_as_on_cpu, on_cards};
use super::search::SIZES;
use super::{Bound, Case, Fill};
use crate::support::Rng;
use crate::support::naive::Values;

/// DDN, then FMN in every distance.
fn kinds() -> [(&'static str, Follow); 5] {
    let one = |name, decoupled, distance| (name, Follow { decoupled, distance, steps: 20, rate: 1.0, gamma: 0.05 });
    [
        one("ddn", true, Distance::Norm(Norm::L2)),
        one("linf", false, Distance::Norm(Norm::Linf)),
        one("l2", false, Distance::Norm(Norm::L2)),
        one("l1", false, Distance::Norm(Norm::L1)),
        one("l0", false, Distance::L0),
    ]
}

pub fn cases() -> Vec<Case> {
    let of = |(name, follow): (&'static str, Follow)| {
        SIZES.into_iter().flat_map(move |size| [next(name, follow, size), step(name, follow, size)])
    };
    kinds().into_iter().flat_map(of).collect()
}

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, follow) in kinds() {
        all.extend(on_cards(&format!("minimum::in_place.{name}"), move |card| {
            for (size, slope) in [([5, 3, 3], 1.0), ([16, 16, 3], 1.0), ([5, 3, 3], 0.0)] {
                let (g, [x, to], given) = problem(follow, size, |rng| slope * rng.normal());
                carried_as_on_cpu(&g, &[(x, to)], 4, 3, &given, card, 2f32.powi(-23))
                    .map_err(|e| format!("slope {slope}: {e}"))?;
            }
            Ok(())
        }));
        all.extend(on_cards(&format!("minimum::corners.{name}"), move |card| {
            for mark in [f64::NAN, f64::INFINITY, 0.0, 1e-45, 3e38] {
                let (g, [_, to], mut given) = problem(follow, [4, 4, 3], |_| 0.0);
                let slope = g.input_named("g").expect("a gradient");
                given.entry(slope).and_modify(|g| g.iter_mut().skip(17).step_by(48).for_each(|v| *v = mark));
                against_cpu(&g, &[to], 4, &given, card, 2f32.powi(-23)).map_err(|e| format!("a gradient of {mark}: {e}"))?;
            }
            Ok(())
        }));
    }
    all
}

/// A state as a running attack has it.
pub fn state(n: usize, rng: &mut Rng) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..n {
        let mut s = [0.0; column::COUNT];
        s[column::ALIVE] = if i % 5 == 4 { 0.0 } else { 1.0 };
        s[column::BEST] = if i % 2 == 0 { f64::INFINITY } else { 0.2 + 2.0 * rng.unit() };
        s[column::TURNS] = (i * 7 % 20) as f64;
        s[column::MARGIN] = rng.normal();
        s[column::SLACK] = if i % 3 == 0 { 0.0 } else { 0.01 };
        s[column::RADIUS] = [0.3, 2.7, 40.5][i % 3] * (1.0 + 0.1 * rng.unit());
        s[column::ALPHA] = 0.02 + rng.unit();
        out.extend(s.map(|v| f64::from(v as f32)));
    }
    out
}

fn next(name: &str, follow: Follow, [h, w, c]: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let image = Shape::per_image(&[h, w, c]);
    let state = g.input("state.follow", Shape::per_image(&[column::COUNT]), DType::F32);
    let [x, x0, slope] = ["x01", "y01", "g"].map(|name| g.input(name, image.clone(), DType::F32));
    let margin = g.input("margin", Shape::per_image(&[]), DType::F32);
    let z = g.input("z", Shape::per_image(&[10]), DType::F32);
    let y = g.push(Op::Nearest(Nearest::Follow(follow)), &[state, x, x0, slope, margin, z]);
    // Sums in f64; then one rounding of each column.
    let case = Case::new(format!("minimum::next.{name}.{h}x{w}.c{c}"), format!("{follow:?}"), g, y, Bound::Roundings(2));
    Case { scale: super::result, fills: &[Fill::Normal, Fill::Ties], ..case }
}

fn step(name: &str, follow: Follow, hwc: [usize; 3]) -> Case {
    let (g, y) = stepped(follow, hwc);
    let [h, w, c] = hwc;
    let case = Case::new(format!("minimum::step.{name}.{h}x{w}.c{c}"), format!("{follow:?}, {hwc:?}"), g, y, Bound::Roundings(2));
    // All arithmetic is in f64.
    Case { scale: |probe| vec![1.0; probe.want.len()], fills: &[Fill::Normal, Fill::Ties, Fill::Zeros], ..case }
}

fn stepped(follow: Follow, hwc: [usize; 3]) -> (Graph, Value) {
    let mut g = Graph::new();
    let image = Shape::per_image(&hwc);
    let [x, x0, slope] = ["x01", "y01", "g"].map(|name| g.input(name, image.clone(), DType::F32));
    let state = g.input("state.follow", Shape::per_image(&[column::COUNT]), DType::F32);
    let index = g.input("label", Shape::per_image(&[]), DType::I32);
    let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
    let y = g.push(Op::Nearest(Nearest::FollowStep(follow)), &[x, x0, slope, state, index, seed]);
    (g, y)
}

/// A step with numbers for every leaf: `(graph, [x, next], leaves)`.
fn problem(follow: Follow, hwc: [usize; 3], slope: impl Fn(&mut Rng) -> f64) -> (Graph, [Value; 2], Values) {
    let (g, y) = stepped(follow, hwc);
    let (mut rng, mut given, n) = (Rng::new(6), Values::new(), 4);
    for v in g.values().filter(|&v| v != y) {
        let len = g.shape(v).len(n);
        let data = match g.node(v).label.as_str() {
            "state.follow" => state(n, &mut rng),
            "label" => (0..n).map(|i| (1000 * i) as f64).collect(),
            "seed" => vec![77.0, -3.0, 0.0],
            "g" => (0..len).map(|_| f64::from(slope(&mut rng) as f32)).collect(),
            _ => (0..len).map(|_| f64::from(rng.unit() as f32)).collect(),
        };
        given.insert(v, data);
    }
    let x = g.input_named("x01").expect("the iterate");
    (g, [x, y], given)
}
