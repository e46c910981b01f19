//! HopSkipJump's ops: distances and sums against f64, walks through the state by hand, queries on cards against the CPU.

use libtest_mimic::Trial;
use petard::cpu::Isa;
use petard::graph::hop::{self, Rules};
use petard::graph::{Graph, Op, Value};
use petard::tensor::{DType, Shape};
use petard::threat::Norm;

use super::direct::{against_cpu, carried_as_on_cpu, on_cards};
use super::{Bound, Case, NUMBERS, result};
use crate::support::engine::{Engine, How};
use crate::support::naive::Values;
use crate::support::{Rng, trial};

pub fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for elems in [1, 33, 300, 4097] {
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            let mut g = Graph::new();
            let [a, b] = ["a", "b"].map(|name| g.input(name, Shape::per_image(&[elems]), DType::F32));
            let y = g.push(Op::HopDistance { norm }, &[a, b]);
            let case =
                Case::new(format!("hop::distance.{norm}.{elems}"), format!("({norm:?}, {elems})"), g, y, Bound::Roundings(1));
            out.push(Case { scale: result, ..case });
        }
        let mut g = Graph::new();
        let sums = g.input("sums", Shape::per_image(&[2, elems]), DType::F32);
        let [q, x] = ["q", "x-"].map(|name| g.input(name, Shape::per_image(&[elems]), DType::F32));
        let state = g.input("state", Shape::per_image(&[hop::LEN]), DType::F32);
        let y = g.push(Op::HopGather, &[sums, q, x, state]);
        let case = Case::new(format!("hop::gather.{elems}"), format!("{elems}"), g, y, Bound::Roundings(3));
        out.push(Case { fills: NUMBERS, ..case });
    }
    out
}

pub fn trials() -> Vec<Trial> {
    let mut out = vec![trial("hop::walk", walk), trial("hop::limits", limits)];
    for norm in [Norm::L2, Norm::Linf] {
        out.extend(on_cards(&format!("hop::control.{norm}"), move |card| {
            // Verdicts by chance: every transition is met.
            let (g, carries, given) = controlled(norm, 40);
            carried_as_on_cpu(&g, &carries, 40, 60, &given, card, 0.0)
        }));
        for elems in [7, 48, 300, 4100] {
            out.extend(on_cards(&format!("hop::query.{norm}.{elems}"), move |card| {
                let (g, next, given) = queried(norm, elems);
                // Lengths are summed in f64 in another order: a rounding to f32 may move.
                against_cpu(&g, &[next], 7, &given, card, 2f32.powi(-23))
            }));
        }
        out.extend(on_cards(&format!("hop::in_place.{norm}"), move |card| {
            let (mut g, query, mut given) = queried(norm, 48);
            let [q, x, sums, state] = ["q", "x", "sums", "state"].map(|n| g.input_named(n).expect("the leaf"));
            let gathered = g.push(Op::HopGather, &[sums, q, x, state]);
            for n in 0..7 {
                given.get_mut(&state).expect("the state")[n * hop::LEN + hop::SIGN] = [0.0, 1.0, -1.0, 2.0, -2.0, 0.0, 1.0][n];
            }
            carried_as_on_cpu(&g, &[(q, query), (sums, gathered)], 7, 3, &given, card, 2f32.powi(-23))
        }));
    }
    out
}

fn rules(norm: Norm) -> Rules {
    Rules { norm, elems: 4, rounds: 2, queries: 100_000 }
}

/// States of all phases, whose verdicts and distances stay as they are.
fn controlled(norm: Norm, n: usize) -> (Graph, Vec<(Value, Value)>, Values) {
    let (mut g, mut rng) = (Graph::new(), Rng::new(2));
    let state = g.input("state", Shape::per_image(&[hop::LEN]), DType::F32);
    let [hit, distance] = ["hit", "distance"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
    let next = g.push(Op::HopControl(rules(norm)), &[state, hit, distance]);
    let mut rows = Vec::new();
    for i in 0..n {
        let mut s = [0.0; hop::LEN];
        (s[hop::PHASE], s[hop::COUNT], s[hop::LENGTH]) = ((i % 7) as f64, 1.0 + (i % 3) as f64, f64::from(rng.unit() as f32));
        (s[hop::HIGH], s[hop::DISTANCE], s[hop::BEST]) = (1.0, f64::from(rng.unit() as f32), f64::INFINITY);
        (s[hop::ROUND], s[hop::SAMPLES]) = ((i % 2) as f64 + f64::from(u8::from(i % 7 >= 4)), 5.0);
        // The ends of phases.
        if i >= 21 {
            s[hop::COUNT] = [1.0, 1000.0, 49.0, 4.0, 5.0, 40.0, 1.0][i % 7];
        }
        rows.extend(s);
    }
    let given = Values::from([
        (state, rows),
        (hit, (0..n).map(|i| f64::from(u8::from(i / 7 % 2 == 0))).collect()),
        (distance, (0..n).map(|_| f64::from(rng.unit() as f32)).collect()),
    ]);
    (g, vec![(state, next)], given)
}

/// A query of each phase.
fn queried(norm: Norm, elems: usize) -> (Graph, Value, Values) {
    let (mut g, mut rng, n) = (Graph::new(), Rng::new(6), 7);
    let [q, x, far, x0] = ["q", "x", "far", "x0"].map(|name| g.input(name, Shape::per_image(&[elems]), DType::F32));
    let sums = g.input("sums", Shape::per_image(&[2, elems]), DType::F32);
    let state = g.input("state", Shape::per_image(&[hop::LEN]), DType::F32);
    let index = g.input("index", Shape::per_image(&[]), DType::I32);
    let seed = g.input("seed", Shape::fixed(&[3]), DType::I32);
    let next = g.push(Op::HopQuery { norm }, &[q, x, far, x0, sums, state, index, seed]);
    let mut given = Values::new();
    for v in [q, x, far, x0] {
        given.insert(v, (0..n * elems).map(|_| f64::from(rng.unit() as f32)).collect());
    }
    given.insert(sums, rng.normals(2 * n * elems).iter().map(|v| f64::from(*v as f32)).collect());
    let row = |i: usize| {
        let mut s = [0.0; hop::LEN];
        (s[hop::PHASE], s[hop::QUERIES], s[hop::LENGTH]) = (i as f64, 100.0 + i as f64, 0.25);
        (s[hop::SAMPLES], s[hop::PLUS]) = (20.0, 7.0);
        s
    };
    given.insert(state, (0..n).flat_map(row).collect());
    given.insert(index, (0..n).map(|i| 11.0 * i as f64).collect());
    given.insert(seed, vec![3.0, -4.0, 0.0]);
    (g, next, given)
}

/// One image at a time through the state on the CPU.
struct Walker {
    engine: Engine,
    leaves: [Value; 3],
    state: Vec<f64>,
}

impl Walker {
    fn new(rules: Rules, phase: f32) -> Self {
        let mut g = Graph::new();
        let state = g.input("state", Shape::per_image(&[hop::LEN]), DType::F32);
        let [hit, distance] = ["hit", "distance"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
        let next = g.push(Op::HopControl(rules), &[state, hit, distance]);
        let how = How { batch: 1, isa: Isa::Scalar, threads: 1, exact: true };
        let engine = Engine::new(&g, &[next], how).expect("a plan");
        let mut start = vec![0.0; hop::LEN];
        (start[hop::PHASE], start[hop::COUNT], start[hop::BEST]) = (f64::from(phase), 1.0, f64::INFINITY);
        Walker { engine, leaves: [state, hit, distance], state: start }
    }
    fn step(&mut self, hit: bool, distance: f64) -> &[f64] {
        let [state, answer, far] = self.leaves;
        let given = Values::from([(state, self.state.clone()), (answer, vec![f64::from(u8::from(hit))]), (far, vec![distance])]);
        let got = self.engine.run(&given).expect("a step").remove(0);
        self.state = got.iter().map(|&v| v.into()).collect();
        &self.state
    }
    fn answer(&mut self, hit: bool, distance: f64) {
        self.step(hit, distance);
    }
    fn phase(&self) -> f32 {
        self.state[hop::PHASE] as f32
    }
}

/// An image of 4 values: noise, blend, bisection of ceil(1.5 * 2) = 3 halvings, 100 samples, steps, and so on for two rounds.
fn walk() {
    let mut w = Walker::new(rules(Norm::L2), hop::NOISE);
    w.step(false, 0.9);
    assert_eq!((w.phase(), w.state[hop::COUNT]), (hop::NOISE, 2.0));
    let s = w.step(true, 0.8);
    assert_eq!((s[hop::TAKE_X], s[hop::TAKE_FAR], s[hop::BETTER], s[hop::BEST]), (1.0, 1.0, 1.0, f64::from(0.8f32)));
    assert_eq!((w.phase(), w.state[hop::LENGTH]), (hop::BLEND, f64::from(1.0f32 / 50.0)));
    w.step(false, 0.1);
    assert_eq!(w.state[hop::LENGTH], f64::from(2.0f32 / 50.0));
    w.step(true, 0.5);
    assert_eq!((w.phase(), w.state[hop::LENGTH]), (hop::BISECT, 0.5));
    w.step(false, 0.25);
    assert_eq!((w.state[hop::LOW], w.state[hop::LENGTH]), (0.5, 0.75));
    w.step(true, 0.375);
    assert_eq!((w.state[hop::HIGH], w.state[hop::LENGTH], w.state[hop::TAKE_FAR]), (0.75, 0.625, 0.0));
    w.step(false, 0.3125);
    assert_eq!((w.phase(), w.state[hop::ROUND], w.state[hop::LENGTH]), (hop::ESTIMATE, 1.0, f64::from(0.1f32)));
    for i in 1..=100 {
        assert_eq!(w.state[hop::SAMPLES], 100.0);
        let s = w.step(i % 4 == 0, 0.7);
        let sign = if i % 4 == 0 { 1.0 } else { -1.0 } * if i == 1 { 2.0 } else { 1.0 };
        assert_eq!(s[hop::SIGN], sign, "sample {i}");
    }
    assert_eq!((w.phase(), w.state[hop::PLUS], w.state[hop::LENGTH]), (hop::STEP, 25.0, 0.375));
    w.step(false, 0.2);
    assert_eq!(w.state[hop::LENGTH], 0.1875);
    w.step(true, 0.4375);
    assert_eq!((w.phase(), w.state[hop::DISTANCE], w.state[hop::BEST]), (hop::BISECT, 0.4375, 0.375));
    [false, false, true].into_iter().for_each(|hit| w.answer(hit, 0.4));
    // sqrt(2) * 100 rounded down, at a radius of a d-th of the distance.
    let radius = f64::from(0.25 * 0.4f32);
    assert_eq!((w.state[hop::ROUND], w.state[hop::SAMPLES], w.state[hop::LENGTH]), (2.0, 141.0, radius));
    (0..141).for_each(|_| w.answer(true, 0.5));
    let step = (f64::from(0.4f32) / 2f64.sqrt()) as f32;
    assert_eq!((w.phase(), w.state[hop::LENGTH]), (hop::STEP, f64::from(step)));
    // A step that never helps is given up.
    (0..39).for_each(|_| w.answer(false, 0.5));
    assert_eq!(w.phase(), hop::STEP);
    w.step(false, 0.5);
    assert_eq!((w.phase(), w.state[hop::QUERIES]), (hop::DONE, (2 + 2 + 3 + 100 + 2 + 3 + 141 + 40) as f64));
    let before = w.state.clone();
    w.step(true, 0.01);
    assert_eq!(w.state[..hop::TAKE_X], before[..hop::TAKE_X], "an image that is through stays as it is");
}

fn limits() {
    let mut w = Walker::new(rules(Norm::Linf), hop::NOISE);
    (0..999).for_each(|_| w.answer(false, 1.0));
    assert_eq!(w.phase(), hop::NOISE);
    w.step(false, 1.0);
    assert_eq!((w.phase(), w.state[hop::BEST]), (hop::DONE, f64::INFINITY));
    let mut w = Walker::new(Rules { queries: 3, ..rules(Norm::Linf) }, hop::GIVEN);
    w.step(true, 0.5);
    // In L-inf the bisection runs over radii.
    assert_eq!((w.phase(), w.state[hop::LENGTH]), (hop::BISECT, 0.25));
    w.step(true, 0.25);
    w.step(true, 0.125);
    assert_eq!((w.phase(), w.state[hop::QUERIES], w.state[hop::BEST]), (hop::DONE, 3.0, 0.125));
    let mut w = Walker::new(rules(Norm::L2), hop::GIVEN);
    w.step(false, 0.5);
    assert_eq!(w.phase(), hop::NOISE);
}
