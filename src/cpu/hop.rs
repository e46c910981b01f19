//! HopSkipJump's ops: distances, the steps of its state, sums over an estimate, the next query. Images are independent.
//! Must not know networks.
//! Chen et al. 2020, <https://arxiv.org/abs/1904.02144>.

use rayon::prelude::*;

use super::arena::Views;
use super::rows::row_len;
use crate::graph::Op;
use crate::graph::hop::{
    BEST, BETTER, BISECT, BLEND, BLENDS, COUNT, DISTANCE, DONE, ESTIMATE, GIVEN, HALVINGS, HIGH, LEN, LENGTH, LOW, NOISE, NOISES,
    PHASE, PLUS, QUERIES, ROUND, Rules, SAMPLES, SIGN, STEP, TAKE_FAR, TAKE_X,
};
use crate::plan::Step;
use crate::rng::{Purpose, Stream};
use crate::threat::{Norm, distance, sum};

/// Any of the ops, for `n` images.
pub(super) fn run(step: &Step, op: &Op, n: usize, views: &Views, out: &mut [f32]) {
    let x = &step.inputs;
    let f = |i: usize| views.f32(x[i]);
    if matches!(op, Op::HopGather | Op::HopQuery { .. }) && !views.same_place(step.output, x[0]) {
        out.copy_from_slice(f(0));
    }
    match op {
        Op::HopDistance { norm } => {
            let len = row_len(n, f(0).len());
            let images = f(0).par_chunks(len).zip(f(1).par_chunks(len)).zip(out.par_iter_mut());
            images.for_each(|((a, b), out)| *out = distance(*norm, b, a) as f32);
        }
        Op::HopControl(rules) => {
            for (i, (out, s)) in out.chunks_exact_mut(LEN).zip(f(0).chunks_exact(LEN)).enumerate() {
                out.copy_from_slice(s);
                control(rules, out, f(1)[i] != 0.0, f(2)[i]);
            }
        }
        Op::HopGather => gather(f(1), f(2), f(3), out),
        Op::HopQuery { norm } => query(*norm, [f(1), f(2), f(3), f(4)], f(5), views.i32(x[6]), views.i32(x[7]), out),
        other => unreachable!("{other:?} is none of HopSkipJump's"),
    }
}

/// The state after the verdict on the last query, in place.
fn control(rules: &Rules, s: &mut [f32], hit: bool, distance: f32) {
    s[TAKE_X..=SIGN].fill(0.0);
    if s[PHASE] == DONE {
        return;
    }
    s[QUERIES] += 1.0;
    if hit && distance < s[BEST] {
        (s[BETTER], s[BEST]) = (1.0, distance);
    }
    match s[PHASE] {
        GIVEN if !hit => go(s, NOISE, 0.0),
        NOISE if hit => {
            take(s, distance, true);
            go(s, BLEND, 1.0 / BLENDS);
        }
        NOISE if s[COUNT] >= NOISES => s[PHASE] = DONE,
        GIVEN | BLEND | STEP if hit => {
            take(s, distance, true);
            bisect(rules, s, distance);
        }
        // The noise itself is the last of the steps.
        BLEND if s[COUNT] + 1.0 >= BLENDS => {
            let far = s[DISTANCE];
            bisect(rules, s, far);
        }
        BLEND => {
            s[COUNT] += 1.0;
            s[LENGTH] = s[COUNT] / BLENDS;
        }
        BISECT => {
            if hit {
                take(s, distance, false);
                s[HIGH] = s[LENGTH];
            } else {
                s[LOW] = s[LENGTH];
            }
            if s[COUNT] >= rules.halvings() as f32 {
                estimate(rules, s);
            } else {
                s[COUNT] += 1.0;
                s[LENGTH] = 0.5 * (s[LOW] + s[HIGH]);
            }
        }
        ESTIMATE => {
            s[PLUS] += f32::from(u8::from(hit));
            s[SIGN] = if hit { 1.0 } else { -1.0 } * if s[COUNT] == 1.0 { 2.0 } else { 1.0 };
            if s[COUNT] >= s[SAMPLES] {
                let length = (f64::from(s[DISTANCE]) / f64::from(s[ROUND]).sqrt()) as f32;
                go(s, STEP, length);
            } else {
                s[COUNT] += 1.0;
            }
        }
        STEP if s[COUNT] >= HALVINGS => estimate(rules, s),
        STEP => {
            s[COUNT] += 1.0;
            s[LENGTH] *= 0.5;
        }
        _ => s[COUNT] += 1.0,
    }
    if s[QUERIES] >= rules.queries as f32 {
        s[PHASE] = DONE;
    }
}

fn go(s: &mut [f32], phase: f32, length: f32) {
    (s[PHASE], s[COUNT], s[LENGTH]) = (phase, 1.0, length);
}

/// The last query is the point on the boundary, and the far end of the next bisection.
fn take(s: &mut [f32], distance: f32, far: bool) {
    (s[TAKE_X], s[TAKE_FAR], s[DISTANCE]) = (1.0, f32::from(u8::from(far)), distance);
}

/// Between the original and the far end, which is `distance` off. L2: by shares of the way; L-inf: by radii.
fn bisect(rules: &Rules, s: &mut [f32], distance: f32) {
    (s[LOW], s[HIGH]) = (0.0, if rules.norm == Norm::Linf { distance } else { 1.0 });
    let middle = 0.5 * s[HIGH];
    go(s, BISECT, middle);
}

/// The next round, if there is one.
fn estimate(rules: &Rules, s: &mut [f32]) {
    if s[ROUND] >= rules.rounds as f32 {
        s[PHASE] = DONE;
        return;
    }
    s[ROUND] += 1.0;
    (s[PLUS], s[SAMPLES]) = (0.0, Rules::samples(s[ROUND]));
    let length = if s[ROUND] == 1.0 { 0.1 } else { rules.radius() * s[DISTANCE] };
    go(s, ESTIMATE, length);
}

/// Adds what an estimate has learnt from the last query.
fn gather(q: &[f32], x: &[f32], state: &[f32], sums: &mut [f32]) {
    let len = row_len(state.len() / LEN, q.len());
    let images = q.par_chunks(len).zip(x.par_chunks(len)).zip(state.par_chunks(LEN));
    sums.par_chunks_mut(2 * len).zip(images).for_each(|(sums, ((q, x), state))| {
        let (sign, first) = (state[SIGN].signum(), state[SIGN].abs() == 2.0);
        if state[SIGN] == 0.0 {
            return;
        }
        let (signed, all) = sums.split_at_mut(len);
        for ((signed, all), (q, x)) in signed.iter_mut().zip(all).zip(q.iter().zip(x)) {
            let moved = q - x;
            *signed = if first { 0.0 } else { *signed } + sign * moved;
            *all = if first { 0.0 } else { *all } + moved;
        }
    });
}

/// The next queries into `out`, which holds the last ones. `images`: point on the boundary, far end, original, sums.
fn query(norm: Norm, images: [&[f32]; 4], state: &[f32], index: &[i32], seed: &[i32], out: &mut [f32]) {
    let len = row_len(index.len(), out.len());
    let [x, far, x0, sums] = images;
    let seed = u64::from(seed[0] as u32) | u64::from(seed[1] as u32) << 32;
    out.par_chunks_mut(len).zip(state.par_chunks(LEN)).enumerate().for_each(|(n, (out, s))| {
        let row = n * len..(n + 1) * len;
        let (x, far, x0, sums) = (&x[row.clone()], &far[row.clone()], &x0[row], &sums[2 * n * len..][..2 * len]);
        let step = s[QUERIES] as u32;
        let stream = Stream { seed, index: index[n] as u32, step, purpose: Purpose::HopSkipJump, restart: 0 };
        let length = s[LENGTH];
        match s[PHASE] {
            NOISE => stream.fill_uniform(out),
            BISECT if norm == Norm::Linf => {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = far[i].max(x0[i] - length).min(x0[i] + length).clamp(0.0, 1.0);
                }
            }
            BLEND | BISECT => {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = (x0[i] + length * (far[i] - x0[i])).clamp(0.0, 1.0);
                }
            }
            ESTIMATE => {
                stream.fill_normal(out);
                let size = sum(len, |i| f64::from(out[i]).powi(2)).sqrt();
                let factor = (f64::from(length) / (size + 1e-12)) as f32;
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = (x + factor * *out).clamp(0.0, 1.0);
                }
            }
            STEP => climb(norm, x, sums, s, out),
            // The start that was given waits for its verdict; a row that is through is not looked at.
            _ => {}
        }
    });
}

/// A step along the direction of the estimate: the signed sum minus the mean sign times the plain one, unless all signs agree.
fn climb(norm: Norm, x: &[f32], sums: &[f32], s: &[f32], out: &mut [f32]) {
    let (signed, all) = sums.split_at(x.len());
    let mean = (2.0 * f64::from(s[PLUS]) - f64::from(s[SAMPLES])) / f64::from(s[SAMPLES]);
    let mean = if mean.abs() == 1.0 { 0.0 } else { mean };
    let slope = |i: usize| f64::from(signed[i]) - mean * f64::from(all[i]);
    let size = sum(x.len(), |i| slope(i).powi(2)).sqrt();
    let factor = f64::from(s[LENGTH]) / (size + 1e-30);
    for (i, out) in out.iter_mut().enumerate() {
        let move_by = match norm {
            Norm::Linf => f64::from(s[LENGTH]) * (f64::from(u8::from(slope(i) > 0.0)) - f64::from(u8::from(slope(i) < 0.0))),
            Norm::L2 | Norm::L1 => factor * slope(i),
        };
        *out = (f64::from(x[i]) + move_by).clamp(0.0, 1.0) as f32;
    }
}
