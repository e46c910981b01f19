//! DDN and FMN: each image's next state, and the step along the gradient back to a ball that grows and shrinks.
//! Must not know networks; images are independent.
//! Rony et al. 2019, <https://arxiv.org/abs/1811.09600>; Pintor et al. 2021, <https://arxiv.org/abs/2102.12827>.

use rayon::prelude::*;

use super::rows::row_len;
use super::search::{Sight, look, verdict};
use crate::graph::Follow;
use crate::graph::nearest::column::*;
use crate::rng::{Purpose, Stream};
use crate::tensor::chw_to_hwc;
use crate::threat::{Distance, Norm, project_l1, sum};

/// What the rates fall to, as a share of the first step; and the last gamma of FMN.
const LAST: (f64, f64) = (0.01, 0.001);

/// The next state of every image, in place; `g` is the gradient.
pub(crate) fn follow(follow: &Follow, sight: Sight, g: &[f32], state: &mut [f32]) {
    let (len, classes) = (row_len(sight.margin.len(), g.len()), row_len(sight.margin.len(), sight.z.len()));
    state.par_chunks_mut(COUNT).enumerate().for_each(|(n, state)| {
        state[BETTER] = 0.0;
        if state[ALIVE] == 0.0 {
            return;
        }
        let (row, margin) = (n * len..(n + 1) * len, sight.margin[n]);
        let (x, x0) = (&sight.x[row.clone()], &sight.x0[row.clone()]);
        let far = follow.distance.between(x0, x);
        let turn = f64::from(state[TURNS]);
        let won = verdict(state, 0.0, margin, &sight.z[n * classes..][..classes]);
        look(state, won, margin, far);
        let fall = 0.5 * (1.0 + (std::f64::consts::PI * turn / follow.steps as f64).cos());
        let gamma = f64::from(follow.gamma);
        let gamma = if follow.decoupled { gamma } else { LAST.1.min(gamma) + (gamma - LAST.1.min(gamma)) * fall };
        let g = &g[row];
        let edge = || far + f64::from(margin).abs() / steepness(follow.distance, g).max(1e-12);
        let radius = next_radius(follow, state, won, gamma, edge);
        state[RADIUS] = radius.min(farthest(follow.distance, x0)) as f32;
        state[ALPHA] = (f64::from(follow.rate) * (LAST.0 + (1.0 - LAST.0) * fall)) as f32;
        state[ALIVE] = if turn + 1.0 < follow.steps as f64 { 1.0 } else { 0.0 };
    });
}

/// The radius before it is cut to what the box allows. `edge`: where the linear model of the margin crosses zero.
fn next_radius(follow: &Follow, state: &[f32], won: bool, gamma: f64, edge: impl Fn() -> f64) -> f64 {
    let (radius, best) = (f64::from(state[RADIUS]), f64::from(state[BEST]));
    match follow.distance {
        _ if follow.decoupled => radius * if won { 1.0 - gamma } else { 1.0 + gamma },
        Distance::L0 if won => (radius - 1.0).min((radius * (1.0 - gamma)).floor()).min(best).max(0.0),
        Distance::L0 => (radius + 1.0).max((radius * (1.0 + gamma)).floor()),
        Distance::Norm(_) if won => (radius * (1.0 - gamma)).min(best),
        Distance::Norm(_) if best.is_finite() => radius * (1.0 + gamma),
        Distance::Norm(_) => edge(),
    }
}

/// How fast a linear function with this gradient can rise with the distance: the dual norm.
fn steepness(distance: Distance, g: &[f32]) -> f64 {
    let size = |i: usize| f64::from(g[i]).abs();
    match distance {
        Distance::Norm(Norm::Linf) => sum(g.len(), size),
        Distance::Norm(Norm::L2) => sum(g.len(), |i| size(i) * size(i)).sqrt(),
        // Of values changed as of their sum.
        Distance::L0 | Distance::Norm(Norm::L1) => (0..g.len()).map(size).fold(0.0, f64::max),
    }
}

/// The distance of the corner of the box that lies farthest.
fn farthest(distance: Distance, x0: &[f32]) -> f64 {
    let room = |i: usize| f64::from(x0[i]).max(1.0 - f64::from(x0[i]));
    match distance {
        Distance::L0 => x0.len() as f64,
        Distance::Norm(Norm::Linf) => (0..x0.len()).map(room).fold(0.0, f64::max),
        Distance::Norm(Norm::L2) => sum(x0.len(), |i| room(i) * room(i)).sqrt(),
        Distance::Norm(Norm::L1) => sum(x0.len(), room),
    }
}

/// Which random numbers belong to the images.
pub(crate) struct Draw<'a> {
    /// Index of the image in its split.
    pub index: &'a [i32],
    /// Lower and upper word; the third is not used.
    pub seed: &'a [i32],
}

/// A step of every image that is not through, `hwc` values each, in place.
pub(crate) fn step(follow: &Follow, hwc: [usize; 3], x: &mut [f32], x0: &[f32], g: &[f32], state: &[f32], draw: Draw) {
    let len = hwc.iter().product();
    let seed = u64::from(draw.seed[0] as u32) | u64::from(draw.seed[1] as u32) << 32;
    x.par_chunks_mut(len).enumerate().for_each(|(n, x)| {
        let (state, row) = (&state[n * COUNT..][..COUNT], n * len..(n + 1) * len);
        if state[ALIVE] == 0.0 {
            return;
        }
        let (index, step, purpose) = (draw.index[n] as u32, state[TURNS] as u32, Purpose::Direction);
        let stream = Stream { seed, index, step, purpose, restart: 0 };
        let (x0, radius) = (&x0[row.clone()], f64::from(state[RADIUS]));
        let mut delta = moved(&stream, hwc, x, x0, &g[row], f64::from(state[ALPHA]));
        if follow.decoupled {
            rescale(radius, &mut delta, false);
        } else {
            project(follow.distance, radius, x0, &mut delta);
        }
        for ((x, &x0), d) in x.iter_mut().zip(x0).zip(delta) {
            *x = (f64::from(x0) + d).clamp(0.0, 1.0) as f32;
        }
    });
}

/// The change after a step of length `alpha` along the gradient, or along a random direction where there is none.
fn moved(stream: &Stream, hwc: [usize; 3], x: &[f32], x0: &[f32], g: &[f32], alpha: f64) -> Vec<f64> {
    let length = |v: &[f32]| sum(v.len(), |i| f64::from(v[i]) * f64::from(v[i])).sqrt();
    let mut drawn = Vec::new();
    if g.iter().all(|&v| v == 0.0) {
        let mut chw = vec![0.0; g.len()];
        stream.fill_normal(&mut chw);
        drawn = vec![0.0; g.len()];
        chw_to_hwc(&chw, hwc.into(), &mut drawn);
    }
    let along = if drawn.is_empty() { g } else { &drawn };
    let factor = alpha / length(along);
    (0..g.len()).map(|i| f64::from(x[i]) - f64::from(x0[i]) + factor * f64::from(along[i])).collect()
}

/// To length `radius`; with `inwards` only where it is longer.
fn rescale(radius: f64, delta: &mut [f64], inwards: bool) {
    let length = sum(delta.len(), |i| delta[i] * delta[i]).sqrt();
    // Written so that a NaN length falls through to the product.
    if length == 0.0 || (inwards && length <= radius) {
        return;
    }
    delta.iter_mut().for_each(|d| *d *= radius / length);
}

/// The closest point of the ball; in L1 of ball and box together.
fn project(distance: Distance, radius: f64, x0: &[f32], delta: &mut [f64]) {
    match distance {
        Distance::Norm(Norm::Linf) => delta.iter_mut().for_each(|d| *d = d.clamp(-radius, radius)),
        Distance::Norm(Norm::L2) => rescale(radius, delta, true),
        Distance::Norm(Norm::L1) => project_l1(radius, x0, delta),
        Distance::L0 => keep_largest(radius as usize, delta),
    }
}

/// Sets all but the `count` largest to zero; of equals (in f32) the first stay.
fn keep_largest(count: usize, delta: &mut [f64]) {
    // Bits of positive floats sort as the floats; reversed, the largest comes first and the index settles ties.
    let key = |(i, d): (usize, &f64)| u64::from(!(d.abs() as f32).to_bits()) << 32 | i as u64;
    let mut keys: Vec<u64> = delta.iter().enumerate().map(key).collect();
    if count < keys.len() {
        keys.select_nth_unstable(count);
        keys[count..].iter().for_each(|key| delta[(key & u64::from(u32::MAX)) as usize] = 0.0);
    }
}
