//! Local response normalisation across channels, and its gradient.
//! Must not know graphs; every pixel is on its own, sums are in f64.
//! Krizhevsky et al. 2012, <https://papers.nips.cc/paper/4824>.

use std::ops::Range;

use rayon::prelude::*;

use crate::graph::ResponseNorm;

/// Pixels that one thread takes at a time.
const PIXELS: usize = 64;

/// The channels that channel `k` of `c` is divided by, or, `backward`, those that divide by it.
fn around(norm: &ResponseNorm, k: usize, c: usize, backward: bool) -> Range<usize> {
    let (before, after) = (norm.size / 2, (norm.size - 1) / 2);
    let (before, after) = if backward { (after, before) } else { (before, after) };
    k.saturating_sub(before)..(k + after + 1).min(c)
}

/// What each channel of a pixel is divided by, before the exponent.
fn base(norm: &ResponseNorm, x: &[f32], k: usize) -> f64 {
    let sum: f64 = x[around(norm, k, x.len(), false)].iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    f64::from(norm.bias) + f64::from(norm.alpha) / norm.size as f64 * sum
}

/// `x` of pixels of `c` channels.
pub(crate) fn forward(norm: &ResponseNorm, c: usize, x: &[f32], y: &mut [f32]) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(c), "response norm of {} values, {c} a pixel", x.len());
    y.par_chunks_mut(c * PIXELS).zip(x.par_chunks(c * PIXELS)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for (k, y) in y.iter_mut().enumerate() {
                *y = (f64::from(x[k]) * base(norm, x, k).powf(-f64::from(norm.beta))) as f32;
            }
        }
    });
}

/// The gradient of [`forward`]: `g_k p_k - 2 alpha beta / size x_k sum g x p / base`, `p = base ^ -beta`.
pub(crate) fn grad(norm: &ResponseNorm, c: usize, g: &[f32], x: &[f32], dx: &mut [f32]) {
    assert!(g.len() == x.len() && g.len() == dx.len(), "response norm backwards: {} and {} values", g.len(), x.len());
    let factor = 2.0 * f64::from(norm.alpha) * f64::from(norm.beta) / norm.size as f64;
    dx.par_chunks_mut(c * PIXELS).zip(g.par_chunks(c * PIXELS).zip(x.par_chunks(c * PIXELS))).for_each(|(dx, (g, x))| {
        let (mut power, mut term) = (vec![0.0; c], vec![0.0f32; c]);
        for ((dx, g), x) in dx.chunks_exact_mut(c).zip(g.chunks_exact(c)).zip(x.chunks_exact(c)) {
            for k in 0..c {
                let base = base(norm, x, k);
                power[k] = base.powf(-f64::from(norm.beta));
                term[k] = (f64::from(g[k]) * f64::from(x[k]) * power[k] / base) as f32;
            }
            for (k, dx) in dx.iter_mut().enumerate() {
                let sum: f64 = term[around(norm, k, c, true)].iter().map(|&t| f64::from(t)).sum();
                *dx = (f64::from(g[k]) * power[k] - factor * f64::from(x[k]) * sum) as f32;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_pytorch() {
        let norm = |size| ResponseNorm { size, alpha: 1.0, beta: 1.0, bias: 1.0 };
        assert_eq!(around(&norm(5), 3, 9, false), 1..6);
        assert_eq!(around(&norm(4), 3, 9, false), 1..5, "an even window reaches further back");
        assert_eq!(around(&norm(4), 3, 9, true), 2..6);
        assert_eq!(around(&norm(5), 0, 2, false), 0..2);
        let mut y = [0.0; 2];
        forward(&norm(2), 2, &[1.0, 3.0], &mut y);
        assert_eq!(y, [1.0 / 1.5, 3.0 / 6.0]);
    }
}
