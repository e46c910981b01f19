//! APGD's turn of an image: what its step becomes, and the move with momentum.
//! Must not know networks or losses; images are independent.
//! Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>; for L1: Croce and Hein 2021, <https://arxiv.org/abs/2103.01208>.

use rayon::prelude::*;

use super::rows::row_len;
use crate::graph::ApgdRule;
use crate::graph::apgd::{Phase, at};
use crate::threat::{Norm, changed, project_l1, sum};

/// What a turn looked at, one entry an image.
pub(crate) struct Seen<'a> {
    pub loss: &'a [f32],
    pub fooled: &'a [f32],
    pub eps: &'a [f32],
    /// The images looked at, the best before them, the originals: L1 counts the values that differ.
    pub images: Option<[&'a [f32]; 3]>,
}

/// The next state of each image, in place.
pub(crate) fn state(rule: &ApgdRule, state: &mut [f32], seen: &Seen) {
    let n = seen.loss.len();
    assert_eq!(state.len(), n * ApgdRule::STATE, "apgd: a state for each of {n} images");
    assert_eq!(seen.images.is_some(), rule.norm == Norm::L1, "apgd: images go with L1");
    let phases = rule.phases();
    state.par_chunks_mut(ApgdRule::STATE).enumerate().for_each(|(i, s)| {
        let better = s[at::TURN] == 0.0 || seen.loss[i] > s[at::BEST];
        let sparsity = seen.images.map_or((0.0, 1.0), |[x, best, x0]| {
            let len = row_len(n, x.len());
            let row = i * len..(i + 1) * len;
            (changed(&x0[row.clone()], &if better { x } else { best }[row]) as f32, len as f32)
        });
        advance(rule, &phases, s, seen.loss[i], seen.fooled[i] != 0.0, seen.eps[i], sparsity);
    });
}

/// One turn of one image. `sparsity`: values in which the best image differs from the original, out of how many.
fn advance(rule: &ApgdRule, phases: &[Phase], s: &mut [f32], loss: f32, fooled: bool, eps: f32, sparsity: (f32, f32)) {
    let which = s[at::PHASE] as usize;
    let (phase, last) = (phases[which], which + 1 == phases.len());
    let flag = |b: bool| f32::from(u8::from(b));
    let first = s[at::TURN] == 0.0;
    s[at::BETTER] = flag(first || loss > s[at::BEST]);
    s[at::STORE] = flag(first || fooled);
    s[at::BROKEN] = flag(last && (fooled || s[at::BROKEN] != 0.0));
    s[at::BACK] = 0.0;
    if first {
        begin(rule, &phase, s, loss, sparsity);
    } else {
        s[at::RISES] += flag(loss > s[at::LAST]);
        s[at::BEST] = if loss > s[at::BEST] { loss } else { s[at::BEST] };
        s[at::LAST] = loss;
        s[at::SINCE] += 1.0;
        if s[at::SINCE] == s[at::PERIOD] {
            let back = if rule.norm == Norm::L1 { look_l1(s, sparsity) } else { look(rule, &phase, s) };
            s[at::BACK] = flag(back);
            (s[at::SINCE], s[at::RISES]) = (0.0, 0.0);
        }
    }
    s[at::MOMENTUM] = if first { 0.0 } else { 0.25 };
    s[at::STEP] = s[at::ETA];
    s[at::TURN] += 1.0;
    if !last && s[at::TURN] > phase.steps as f32 {
        // The next phase starts at the best image of this one, brought into the smaller ball.
        (s[at::TURN], s[at::STEP], s[at::BACK]) = (0.0, 0.0, 1.0);
        s[at::PHASE] += 1.0;
        s[at::RADIUS] = (phases.len() - which - 1) as f32 * eps;
    }
}

/// The first turn of a phase.
fn begin(rule: &ApgdRule, phase: &Phase, s: &mut [f32], loss: f32, (changed, elems): (f32, f32)) {
    if s[at::PHASE] == 0.0 {
        s[at::FIRST] = loss;
    }
    (s[at::BEST], s[at::LAST], s[at::AT_CHECK]) = (loss, loss, loss);
    (s[at::SINCE], s[at::RISES], s[at::HALVED]) = (0.0, 0.0, 1.0);
    s[at::PERIOD] = phase.first as f32;
    s[at::ETA] = if rule.norm == Norm::L1 { s[at::RADIUS] } else { 2.0 * s[at::RADIUS] };
    // A phase that starts where another ended is as sparse as that was.
    (s[at::TOP], s[at::CHANGED]) = if rule.larger { (changed / elems / 1.5, changed) } else { (0.2, elems) };
}

/// A check: whether the step was halved and the search goes back to the best image.
fn look(rule: &ApgdRule, phase: &Phase, s: &mut [f32]) -> bool {
    let swings = s[at::RISES] <= rule.rho * s[at::PERIOD];
    let stuck = s[at::HALVED] == 0.0 && s[at::AT_CHECK] >= s[at::BEST];
    let halve = swings || stuck;
    s[at::HALVED] = f32::from(u8::from(halve));
    s[at::AT_CHECK] = s[at::BEST];
    s[at::ETA] *= if halve { 0.5 } else { 1.0 };
    s[at::PERIOD] = (s[at::PERIOD] - phase.shrink as f32).max(phase.least as f32);
    halve
}

/// The same in L1: fewer changed values mean a fresh start from the best image, with as few values to move.
fn look_l1(s: &mut [f32], (changed, elems): (f32, f32)) -> bool {
    let sparser = changed / s[at::CHANGED] < 0.95;
    let (low, high) = (s[at::RADIUS] / 10.0, s[at::RADIUS]);
    s[at::ETA] = if sparser { high } else { (s[at::ETA] / 1.5).max(low).min(high) };
    (s[at::TOP], s[at::CHANGED]) = (changed / elems / 1.5, changed);
    sparser
}

/// Where a move starts from and what leads it.
pub(crate) struct Move<'a> {
    pub x0: &'a [f32],
    pub g: &'a [f32],
    pub state: &'a [f32],
    /// The images before `x`; L1 has no momentum.
    pub old: Option<&'a [f32]>,
}

/// `x <- P(x + a (z - x) + (1 - a) (x - old))` with `z = P(x + step * dir(g))` and `P` into ball and box; radius, step and
/// momentum `1 - a` stand in each image's state.
///
/// L-inf: `dir = sign(g)`, in f32 in this order. L2: `dir = g / (|g| + 1e-12)`; f64, rounded once. L1: `x <- P(x + step * dir)`
/// with `dir` the signs of the largest `|g|`, a share of the values that the state names (equals of the smallest come along),
/// divided by their number; P is exact. A NaN in `g` makes `x` NaN: that value in L-inf, the whole image else.
pub(crate) fn step(norm: Norm, n: usize, x: &mut [f32], by: &Move) {
    assert!(x.len() == by.x0.len() && x.len() == by.g.len(), "apgd: x {}, x0 {}, g {}", x.len(), by.x0.len(), by.g.len());
    assert!(by.state.len() == n * ApgdRule::STATE, "apgd: a state for each of {n} images");
    let len = row_len(n, x.len());
    x.par_chunks_mut(len).enumerate().for_each(|(i, x)| {
        let row = i * len..(i + 1) * len;
        let (x0, g, s) = (&by.x0[row.clone()], &by.g[row.clone()], &by.state[i * ApgdRule::STATE..][..ApgdRule::STATE]);
        match (norm, by.old) {
            (Norm::Linf, Some(old)) => step_linf(x, x0, g, &old[row], s),
            (Norm::L2, Some(old)) => step_l2(x, x0, g, &old[row], s),
            (Norm::L1, None) => step_l1(x, x0, g, s),
            _ => unreachable!("apgd: momentum goes with L-inf and L2"),
        }
    });
}

fn step_linf(x: &mut [f32], x0: &[f32], g: &[f32], old: &[f32], s: &[f32]) {
    let (eps, eta, momentum) = (s[at::RADIUS], s[at::STEP], s[at::MOMENTUM]);
    for (((x, &x0), &g), &old) in x.iter_mut().zip(x0).zip(g).zip(old) {
        let (low, high) = ((x0 - eps).max(0.0), (x0 + eps).min(1.0));
        // Not f32::signum, which has no zero; the last term carries a NaN.
        let sign = f32::from(i8::from(g > 0.0) - i8::from(g < 0.0)) + if g.is_nan() { g } else { 0.0 };
        let z = (*x + eta * sign).clamp(low, high);
        // Without momentum `old` may hold anything.
        let to = if momentum == 0.0 { z } else { *x + (z - *x) * (1.0 - momentum) + (*x - old) * momentum };
        *x = to.clamp(low, high);
    }
}

fn step_l2(x: &mut [f32], x0: &[f32], g: &[f32], old: &[f32], s: &[f32]) {
    let [eps, eta, momentum] = [at::RADIUS, at::STEP, at::MOMENTUM].map(|k| f64::from(s[k]));
    let factor = eta / (sum(g.len(), |i| f64::from(g[i]).powi(2)).sqrt() + 1e-12);
    // Written so that a NaN length falls through to the quotient.
    let fits = |length: f64| if length <= eps { 1.0 } else { eps / length };
    let first = |x: f32, i: usize| f64::from(x) + factor * f64::from(g[i]) - f64::from(x0[i]);
    let scale = fits(sum(g.len(), |i| first(x[i], i).powi(2)).sqrt());
    let second = |x: f32, i: usize| {
        let (here, origin) = (f64::from(x), f64::from(x0[i]));
        let z = (origin + first(x, i) * scale).clamp(0.0, 1.0);
        if momentum == 0.0 {
            z - origin
        } else {
            here + (z - here) * (1.0 - momentum) + (here - f64::from(old[i])) * momentum - origin
        }
    };
    let scale = fits(sum(g.len(), |i| second(x[i], i).powi(2)).sqrt());
    for (i, x) in x.iter_mut().enumerate() {
        *x = (f64::from(x0[i]) + second(*x, i) * scale).clamp(0.0, 1.0) as f32;
    }
}

fn step_l1(x: &mut [f32], x0: &[f32], g: &[f32], s: &[f32]) {
    if g.iter().any(|g| g.is_nan()) {
        return x.fill(f32::NAN);
    }
    let edge = edge(g, s[at::TOP]);
    let chosen = |g: f32| g != 0.0 && g.abs() >= edge;
    let share = f64::from(s[at::STEP]) / (g.iter().filter(|g| chosen(**g)).count() as f64 + 1e-10);
    let one = |i: usize| {
        let d = f64::from(x[i]) - f64::from(x0[i]);
        if chosen(g[i]) { d + share.copysign(f64::from(g[i])) } else { d }
    };
    let mut delta: Vec<f64> = (0..x.len()).map(one).collect();
    project_l1(f64::from(s[at::RADIUS]), x0, &mut delta);
    for ((x, &x0), delta) in x.iter_mut().zip(x0).zip(delta) {
        *x = (f64::from(x0) + delta).clamp(0.0, 1.0) as f32;
    }
}

/// The smallest `|g|` among the `top` share of the values with the largest, at least one value.
fn edge(g: &[f32], top: f32) -> f32 {
    let below = ((1.0 - top) * g.len() as f32).clamp(0.0, (g.len() - 1) as f32) as usize;
    let mut sizes: Vec<u32> = g.iter().map(|g| g.abs().to_bits()).collect();
    // Bits of positive floats sort as the floats.
    f32::from_bits(*sizes.select_nth_unstable(below).1)
}
