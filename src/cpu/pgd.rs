//! One projected-gradient step on a batch of images, fused: direction, step, ball, box.
//! Must not know networks, losses or schedules; images are independent.
//! Madry et al. 2018, <https://arxiv.org/abs/1706.06083>; the L1 step: Tramer and Boneh 2019, <https://arxiv.org/abs/1904.13000>.

use rayon::prelude::*;

use super::rows::row_len;
use crate::graph::StartKind;
use crate::rng::{self, Purpose, Stream};
use crate::tensor::{chw_to_hwc, hwc_to_chw};
use crate::threat::{Norm, ThreatModel, project_l1, sum};

/// Which random numbers each image starts from, and how far away.
pub(crate) struct Place<'a> {
    /// Index of the image in its split.
    pub index: &'a [i32],
    /// Number of the restart, below 2^16.
    pub restart: &'a [i32],
    /// Radius or step.
    pub length: &'a [f32],
    /// Lower and upper word, then the step.
    pub seed: &'a [i32],
}

/// Random starts around `x0`, images of `hwc`.
pub(crate) fn start(kind: StartKind, hwc: [usize; 3], x0: &[f32], place: Place, out: &mut [f32]) {
    let seed = u64::from(place.seed[0] as u32) | u64::from(place.seed[1] as u32) << 32;
    let len = hwc.iter().product();
    let images = x0.par_chunks(len).zip(out.par_chunks_mut(len)).enumerate();
    images.for_each(|(n, (x0, out))| {
        let restart = u16::try_from(place.restart[n]).expect("restarts are checked to fit 16 bits");
        let stream = Stream { seed, index: place.index[n] as u32, step: place.seed[2] as u32, purpose: Purpose::Start, restart };
        let (mut chw, mut drawn) = (vec![0.0; len], vec![0.0; len]);
        hwc_to_chw(x0, hwc.into(), &mut chw);
        match kind {
            StartKind::Ball(norm) => rng::start(norm, place.length[n], &stream, &chw, &mut drawn),
            StartKind::Sign => rng::start_sign(place.length[n], &stream, &chw, &mut drawn),
            StartKind::Boundary(norm) => rng::start_boundary(norm, place.length[n], &stream, &chw, &mut drawn),
            StartKind::Normal => rng::start_normal(place.length[n], &stream, &chw, &mut drawn),
        }
        chw_to_hwc(&drawn, hwc.into(), out);
    });
}

/// `clip(x0 + share * (x - x0), 0, 1)` for each image; `share` is `[N]`. A NaN stays one.
pub(crate) fn between(x0: &[f32], x: &[f32], share: &[f32], out: &mut [f32]) {
    assert!(x.len() == x0.len() && out.len() == x0.len(), "between: {} and {} into {}", x0.len(), x.len(), out.len());
    let len = row_len(share.len(), x.len());
    let images = x0.par_chunks(len).zip(x.par_chunks(len)).zip(share);
    out.par_chunks_mut(len).zip(images).for_each(|(out, ((x0, x), &share))| {
        out.iter_mut().zip(x0.iter().zip(x)).for_each(|(out, (&x0, &x))| *out = (x0 + share * (x - x0)).clamp(0.0, 1.0));
    });
}

/// `x <- clip(x0 + project(x + alpha * dir(g) - x0, eps), 0, 1)` for each of `n` images; `alpha` and `eps` are `[N]`.
///
/// L-inf: `dir = sign(g)` with `sign(0) = 0`, computed in f32 in this order, as torchattacks does.
/// L2: `dir = g / (|g| + 1e-10)`, then scaled down to `eps`; lengths per image in f64.
/// L1: `alpha` spread over the twentieth of the values with the largest `|g|` that the box lets move, then the exact
/// projection on ball and box.
/// A zero gradient leaves an image inside the ball where it is (L-inf: up to rounding). A NaN in `g` makes `x` NaN: that
/// value in L-inf, the whole image in L2 and L1. An infinite gradient is NaN in L2, the steepest of all in L1.
pub(crate) fn step(norm: Norm, n: usize, x: &mut [f32], x0: &[f32], g: &[f32], alpha: &[f32], eps: &[f32]) {
    assert!(x.len() == x0.len() && x.len() == g.len(), "pgd: x {}, x0 {}, g {}", x.len(), x0.len(), g.len());
    assert!(alpha.len() == n && eps.len() == n, "pgd: {} alpha and {} eps for {n} images", alpha.len(), eps.len());
    let len = row_len(n, x.len());
    let images = x0.par_chunks(len).zip(g.par_chunks(len)).zip(alpha.par_iter().zip(eps));
    x.par_chunks_mut(len).zip(images).for_each(|(x, ((x0, g), (&alpha, &eps)))| match norm {
        Norm::Linf => step_linf(x, x0, g, alpha, eps),
        Norm::L2 => step_l2(x, x0, g, alpha, eps),
        Norm::L1 => step_l1(x, x0, g, alpha, eps),
    });
}

fn step_linf(x: &mut [f32], x0: &[f32], g: &[f32], alpha: f32, eps: f32) {
    for ((x, &x0), &g) in x.iter_mut().zip(x0).zip(g) {
        // Not f32::signum, which has no zero; the last term carries a NaN.
        let sign = f32::from(i8::from(g > 0.0) - i8::from(g < 0.0)) + if g.is_nan() { g } else { 0.0 };
        *x = (x0 + (*x + alpha * sign - x0).clamp(-eps, eps)).clamp(0.0, 1.0);
    }
}

fn step_l2(x: &mut [f32], x0: &[f32], g: &[f32], alpha: f32, eps: f32) {
    let steepness = sum(g.len(), |i| f64::from(g[i]) * f64::from(g[i])).sqrt();
    if steepness == 0.0 && rests(Norm::L2, x, x0, eps) {
        return;
    }
    let factor = f64::from(alpha) / (steepness + 1e-10);
    let delta = |x: f32, i: usize| f64::from(x) + factor * f64::from(g[i]) - f64::from(x0[i]);
    let length = sum(g.len(), |i| delta(x[i], i).powi(2)).sqrt();
    // Written so that a NaN length falls through to the product.
    let scale = if length <= f64::from(eps) { 1.0 } else { f64::from(eps) / length };
    for (i, x) in x.iter_mut().enumerate() {
        *x = (f64::from(x0[i]) + delta(*x, i) * scale).clamp(0.0, 1.0) as f32;
    }
}

fn step_l1(x: &mut [f32], x0: &[f32], g: &[f32], alpha: f32, eps: f32) {
    if g.iter().any(|g| g.is_nan()) {
        return x.fill(f32::NAN);
    }
    let chosen = steepest(x, g);
    if chosen.is_empty() && rests(Norm::L1, x, x0, eps) {
        return;
    }
    let mut delta: Vec<f64> = x.iter().zip(x0).map(|(&x, &x0)| f64::from(x) - f64::from(x0)).collect();
    let share = f64::from(alpha) / chosen.len() as f64;
    for i in chosen {
        delta[i] += share.copysign(f64::from(g[i]));
    }
    project_l1(f64::from(eps), x0, &mut delta);
    for ((x, &x0), delta) in x.iter_mut().zip(x0).zip(delta) {
        *x = (f64::from(x0) + delta).clamp(0.0, 1.0) as f32;
    }
}

/// The twentieth (rounded up) of the elements with the largest `|g|`, equal ones in memory order, among those that the box
/// lets move along `g`; fewer where fewer can. In no particular order.
fn steepest(x: &[f32], g: &[f32]) -> Vec<usize> {
    let free = |&(_, (&x, &g)): &(usize, (&f32, &f32))| (g > 0.0 && x < 1.0) || (g < 0.0 && x > 0.0);
    // Bits of positive floats sort as the floats; reversed, the largest comes first and the index settles ties.
    let key = |(i, (_, g)): (usize, (&f32, &f32))| u64::from(!g.abs().to_bits()) << 32 | i as u64;
    let mut keys: Vec<u64> = x.iter().zip(g).enumerate().filter(free).map(key).collect();
    let count = g.len().div_ceil(20);
    if keys.len() > count {
        keys.select_nth_unstable(count - 1);
        keys.truncate(count);
    }
    keys.into_iter().map(|key| (key & u64::from(u32::MAX)) as usize).collect()
}

/// Whether an image without a direction may stay, to the bit, where it is.
fn rests(norm: Norm, x: &[f32], x0: &[f32], eps: f32) -> bool {
    ThreatModel::new(norm, f64::from(eps)).contains(x0, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream, start};

    const NORMS: [(Norm, f32, f32); 3] = [(Norm::Linf, 8.0 / 255.0, 2.0 / 255.0), (Norm::L2, 0.5, 0.1), (Norm::L1, 12.0, 1.0)];

    fn stream(index: usize, restart: u16) -> Stream {
        Stream { seed: 11, index: index as u32, step: 0, purpose: Purpose::Start, restart }
    }

    /// Originals (some pixels black or white), points in the ball, gradients.
    fn images(norm: Norm, eps: f32, n: usize, len: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (mut x0, mut x, mut g) = (vec![0.0; n * len], vec![0.0; n * len], vec![0.0; n * len]);
        for i in 0..n {
            let row = i * len..(i + 1) * len;
            stream(i, 0).fill_uniform(&mut x0[row.clone()]);
            x0[row.clone()].iter_mut().step_by(6).for_each(|v| *v = v.round());
            start(norm, eps, &stream(i, 1), &x0[row.clone()], &mut x[row.clone()]);
            stream(i, 2).fill_normal(&mut g[row]);
        }
        (x0, x, g)
    }

    fn stepped(norm: Norm, n: usize, x: &[f32], x0: &[f32], g: &[f32], (alpha, eps): (f32, f32)) -> Vec<f32> {
        let mut out = x.to_vec();
        step(norm, n, &mut out, x0, g, &vec![alpha; n], &vec![eps; n]);
        out
    }

    #[test]
    fn steps_stay_in_the_threat_model_and_rows_alone() {
        for (norm, eps, alpha) in NORMS {
            for (alpha, scale) in [(alpha, 1.0), (alpha * 50.0, 1e-30), (alpha / 50.0, 1e30)] {
                let (n, len) = (5, 300);
                let (x0, mut x, mut g) = images(norm, eps, n, len);
                g.iter_mut().for_each(|v| *v *= scale);
                for _ in 0..4 {
                    let next = stepped(norm, n, &x, &x0, &g, (alpha, eps));
                    for i in 0..n {
                        let row = i * len..(i + 1) * len;
                        let threat = ThreatModel::new(norm, f64::from(eps));
                        let (x0, x, g) = (&x0[row.clone()], &x[row.clone()], &g[row.clone()]);
                        assert!(
                            threat.contains(x0, &next[row.clone()]),
                            "{norm}: {:e}",
                            threat.distance(x0, &next[row]) - threat.eps
                        );
                        assert_eq!(next[row], stepped(norm, 1, x, x0, g, (alpha, eps)), "{norm}: row {i} alone");
                    }
                    x = next;
                }
            }
        }
    }

    #[test]
    fn linf_and_l2_match_plain_f64_loops() {
        for (norm, eps, alpha) in &NORMS[..2] {
            let (x0, x, g) = images(*norm, *eps, 1, 301);
            let got = stepped(*norm, 1, &x, &x0, &g, (*alpha, *eps));
            let f = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
            let (x0, x, g, eps, alpha) = (f(&x0), f(&x), f(&g), f64::from(*eps), f64::from(*alpha));
            let norm2 = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
            let dir: Vec<f64> = g.iter().map(|v| if *norm == Norm::Linf { v.signum() } else { v / norm2(&g) }).collect();
            let moved: Vec<f64> = (0..301).map(|i| x[i] + alpha * dir[i] - x0[i]).collect();
            let shrink = (eps / norm2(&moved)).min(1.0);
            for i in 0..301 {
                let d = if *norm == Norm::Linf { moved[i].clamp(-eps, eps) } else { moved[i] * shrink };
                let want = (x0[i] + d).clamp(0.0, 1.0);
                // A few roundings of numbers below 1.1 in f32.
                assert!((f64::from(got[i]) - want).abs() < 2e-7, "{norm} element {i}: {} not {want}", got[i]);
            }
        }
    }

    #[test]
    fn l1_spends_the_budget_on_the_steepest_that_can_move() {
        let len = 60;
        let x0 = vec![0.5f32; len];
        let mut x = x0.clone();
        let mut g: Vec<f32> = (0..len).map(|i| i as f32 * if i % 2 == 0 { 0.1 } else { -0.1 }).collect();
        // The steepest of all is at the box already; 57 and 55 tie.
        x[59] = 0.0;
        g[57] = -5.5;
        let got = stepped(Norm::L1, 1, &x, &x0, &g, (0.3, 5.0));
        let moved: Vec<usize> = (0..len).filter(|&i| got[i] != x[i]).collect();
        assert_eq!(moved, [55, 56, 58], "three of sixty; of equals the first");
        assert!((got[58] - 0.6).abs() < 1e-7 && (got[55] - 0.4).abs() < 1e-7);
    }

    #[test]
    fn l1_reaches_the_surface_of_the_ball() {
        let (x0, mut x, g) = images(Norm::L1, 3.0, 1, 400);
        for _ in 0..40 {
            x = stepped(Norm::L1, 1, &x, &x0, &g, (1.0, 3.0));
        }
        let threat = ThreatModel::new(Norm::L1, 3.0);
        assert!((threat.distance(&x0, &x) - 3.0).abs() < threat.tolerance(400));
    }

    #[test]
    fn zero_gradients_leave_x() {
        for (norm, eps, alpha) in NORMS {
            let (n, len) = (20, 1500);
            let (x0, mut x, g) = images(norm, eps, n, len);
            // On the surface of the ball.
            (0..3).for_each(|_| x = stepped(norm, n, &x, &x0, &g, (alpha * 20.0, eps)));
            // A radius that each image exceeds by half of what the threat model allows.
            let threat = ThreatModel::new(norm, f64::from(eps));
            let radius = |(x0, x): (&[f32], &[f32])| (threat.distance(x0, x) - 0.5 * threat.tolerance(len)) as f32;
            let eps: Vec<f32> = x0.chunks(len).zip(x.chunks(len)).map(radius).collect();
            let mut got = x.clone();
            step(norm, n, &mut got, &x0, &vec![-0.0; n * len], &vec![alpha; n], &eps);
            let allowed = if norm == Norm::Linf { 2f32.powi(-24) } else { 0.0 };
            assert!(got.iter().zip(&x).all(|(a, b)| (a - b).abs() <= allowed), "{norm} moves without a gradient");
        }
    }

    #[test]
    fn the_smallest_gradients_still_point() {
        for (norm, eps, alpha) in NORMS {
            let (x0, mut g) = ([0.5; 4], [0.0; 4]);
            (g[1], g[2]) = (f32::from_bits(1), -f32::from_bits(1));
            let got = stepped(norm, 1, &x0, &x0, &g, (alpha, eps));
            // In L2 the guard against division by zero is larger than such a gradient.
            assert_eq!(got[1] > 0.5, norm != Norm::L2, "{norm}");
            assert!(got[0] == 0.5 && got[3] == 0.5, "{norm}: sign(0) is 0");
        }
    }

    #[test]
    fn nan_shows() {
        for (norm, eps, alpha) in NORMS {
            let (x0, x, mut g) = images(norm, eps, 2, 100);
            g[3] = f32::NAN;
            let got = stepped(norm, 2, &x, &x0, &g, (alpha, eps));
            assert!(got[3].is_nan(), "{norm}");
            assert_eq!(got[4].is_nan(), norm != Norm::Linf, "{norm}");
            assert!(got[100..].iter().all(|v| !v.is_nan()), "{norm}: NaN leaks into another image");
            g[3] = f32::INFINITY;
            assert_eq!(stepped(norm, 2, &x, &x0, &g, (alpha, eps))[3].is_nan(), norm == Norm::L2, "{norm} infinite");
        }
    }
}
