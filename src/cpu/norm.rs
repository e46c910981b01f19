//! Batch normalisation: folding, statistics, training, and every gradient of it.
//! Must not know layers or momentum schedules. Sums over a batch are f64, in one order for any number of threads.
//! Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>.

use rayon::prelude::*;

use super::simd::{Isa, Simd, Work};

/// Pixels that one thread takes at a time; part of the order of summation, so it depends on nothing.
const PIXELS: usize = 256;

/// Batch norm with running statistics as `y = x * scale + bias`, computed in f64. All slices are `[C]`.
pub(crate) fn fold(eps: f32, gamma: &[f32], beta: &[f32], mean: &[f32], var: &[f32], scale: &mut [f32], bias: &mut [f32]) {
    let c = gamma.len();
    assert_eq!([beta.len(), mean.len(), var.len()], [c; 3], "batch norm of {c} channels");
    assert_eq!([scale.len(), bias.len()], [c; 2], "batch norm of {c} channels, folded");
    for i in 0..c {
        let factor = f64::from(gamma[i]) * inv_std(eps, var[i]);
        scale[i] = factor as f32;
        bias[i] = (f64::from(beta[i]) - f64::from(mean[i]) * factor) as f32;
    }
}

/// `gamma / sqrt(var + eps)`: what the gradient is multiplied with under running statistics.
pub(crate) fn batch_norm_grad_scale(eps: f32, gamma: &[f32], var: &[f32], out: &mut [f32]) {
    assert!(gamma.len() == var.len() && out.len() == var.len(), "batch norm of {} channels", var.len());
    for ((out, &gamma), &var) in out.iter_mut().zip(gamma).zip(var) {
        *out = (f64::from(gamma) * inv_std(eps, var)) as f32;
    }
}

/// `[2, C]`: `d(beta) = sum g` and `d(gamma) = sum g * (x - mean) / sqrt(var + eps)`. `g` and `x` are `[.., C]`.
#[expect(clippy::too_many_arguments, reason = "the inputs of the op, in its order")]
pub(crate) fn grad_params(isa: Isa, eps: f32, c: usize, g: &[f32], x: &[f32], mean: &[f32], var: &[f32], out: &mut [f32]) {
    assert!(
        g.len() == x.len() && mean.len() == c && var.len() == c && out.len() == 2 * c,
        "batch norm of {c} channels backwards"
    );
    let sums = over_pixels(isa, c, [g, x], Products { mean });
    for i in 0..c {
        out[i] = sums[i] as f32;
        out[c + i] = (sums[c + i] * inv_std(eps, var[i])) as f32;
    }
}

/// `[2, C]`: mean and biased variance of each of `c` channels of `x [.., C]`.
pub(crate) fn stats(isa: Isa, c: usize, x: &[f32], out: &mut [f32]) {
    assert!(!x.is_empty() && out.len() == 2 * c, "statistics of {} values in {c} channels", x.len());
    // Deviations from the first pixel: a large mean then costs no digits.
    let origin = &x[..c];
    let sums = over_pixels(isa, c, [x], Moments { origin });
    let count = (x.len() / c) as f64;
    for i in 0..c {
        let shift = sums[i] / count;
        out[i] = (f64::from(origin[i]) + shift) as f32;
        // Rounding can leave a hair below zero; a NaN must stay.
        let var = sums[c + i] / count - shift * shift;
        out[c + i] = if var < 0.0 { 0.0 } else { var as f32 };
    }
}

/// Batch norm with the batch's own statistics: `(x - mean) * gamma / sqrt(var + eps) + beta`.
#[expect(clippy::too_many_arguments, reason = "the inputs of the op, in its order")]
pub(crate) fn train(isa: Isa, eps: f32, c: usize, x: &[f32], stats: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32]) {
    assert!(x.len() == y.len() && stats.len() == 2 * c && gamma.len() == c && beta.len() == c, "batch norm of {c} channels");
    let (mean, var) = stats.split_at(c);
    let mut scale = vec![0.0; c];
    batch_norm_grad_scale(eps, gamma, var, &mut scale);
    let parts = y.par_chunks_mut(c * PIXELS).zip(x.par_chunks(c * PIXELS));
    parts.for_each(|(y, x)| isa.dispatch(Normalise { x, mean, scale: &scale, beta, y }));
}

/// `[2, C]`: `d(beta) = sum g` and `d(gamma) = sum g * xhat` of [`train`].
pub(crate) fn train_grad_params(isa: Isa, eps: f32, c: usize, g: &[f32], x: &[f32], stats: &[f32], out: &mut [f32]) {
    let (mean, var) = stats.split_at(c);
    grad_params(isa, eps, c, g, x, mean, var, out);
}

/// The gradient of [`train`] with respect to `x`, through the statistics too; `sums` from [`train_grad_params`].
#[expect(clippy::too_many_arguments, reason = "the inputs of the op, in its order")]
pub(crate) fn train_grad(
    isa: Isa,
    eps: f32,
    c: usize,
    g: &[f32],
    x: &[f32],
    stats: &[f32],
    gamma: &[f32],
    sums: &[f32],
    dx: &mut [f32],
) {
    assert!(x.len() == g.len() && dx.len() == g.len(), "batch norm backwards: {} values into {}", g.len(), dx.len());
    assert!(stats.len() == 2 * c && gamma.len() == c && sums.len() == 2 * c, "batch norm of {c} channels backwards");
    let (mean, var) = stats.split_at(c);
    let count = (x.len() / c) as f64;
    let (mut scale, mut mean_g, mut slope) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
    for i in 0..c {
        let inv = inv_std(eps, var[i]);
        scale[i] = (f64::from(gamma[i]) * inv) as f32;
        mean_g[i] = (f64::from(sums[i]) / count) as f32;
        slope[i] = (f64::from(sums[c + i]) * inv / count) as f32;
    }
    let parts = g.par_chunks(c * PIXELS).zip(x.par_chunks(c * PIXELS));
    dx.par_chunks_mut(c * PIXELS).zip(parts).for_each(|(dx, (g, x))| {
        isa.dispatch(Gradient { g, x, mean, scale: &scale, mean_g: &mean_g, slope: &slope, dx });
    });
}

/// `(1 - momentum) * running + momentum * row` of `stats`; row 1, the variance, is made unbiased by `count / (count - 1)`.
pub(crate) fn running_update(momentum: f32, row: usize, running: &[f32], stats: &[f32], count: usize, out: &mut [f32]) {
    let c = running.len();
    assert!(row < 2 && stats.len() == 2 * c && out.len() == c, "row {row} of statistics of {c} channels");
    assert!(row == 0 || count > 1, "one value a channel has no variance: batch norm cannot be trained on {count}");
    let unbiased = if row == 1 { count as f64 / (count as f64 - 1.0) } else { 1.0 };
    let momentum = f64::from(momentum);
    for ((out, &running), &new) in out.iter_mut().zip(running).zip(&stats[row * c..]) {
        *out = ((1.0 - momentum) * f64::from(running) + momentum * f64::from(new) * unbiased) as f32;
    }
}

/// `[C]`: sum of `g [.., C]` over everything but the channels.
pub(crate) fn sum_channels(isa: Isa, c: usize, g: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), c, "one sum a channel");
    let sums = over_pixels(isa, c, [g], Sums);
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
}

/// One part of [`train`].
struct Normalise<'a> {
    x: &'a [f32],
    mean: &'a [f32],
    scale: &'a [f32],
    beta: &'a [f32],
    y: &'a mut [f32],
}

impl Work for Normalise<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let c = self.mean.len();
        let (mean, scale, beta) = (self.mean, &self.scale[..c], &self.beta[..c]);
        for (y, x) in self.y.chunks_exact_mut(c).zip(self.x.chunks_exact(c)) {
            for i in 0..c {
                y[i] = (x[i] - mean[i]) * scale[i] + beta[i];
            }
        }
    }
}

/// One part of [`train_grad`].
struct Gradient<'a> {
    g: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
    scale: &'a [f32],
    mean_g: &'a [f32],
    slope: &'a [f32],
    dx: &'a mut [f32],
}

impl Work for Gradient<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let c = self.mean.len();
        let (mean, scale, mean_g, slope) = (self.mean, &self.scale[..c], &self.mean_g[..c], &self.slope[..c]);
        for ((dx, g), x) in self.dx.chunks_exact_mut(c).zip(self.g.chunks_exact(c)).zip(self.x.chunks_exact(c)) {
            for i in 0..c {
                dx[i] = scale[i] * (g[i] - mean_g[i] - (x[i] - mean[i]) * slope[i]);
            }
        }
    }
}

/// What is summed over pixels: `N` sums a channel of `I` inputs.
trait Terms<const I: usize, const N: usize>: Copy + Sync {
    /// Adds those of one pixel; all slices have one length.
    fn add(self, sums: [&mut [f64]; N], pixel: [&[f32]; I]);
}

#[derive(Clone, Copy)]
struct Sums;
impl Terms<1, 1> for Sums {
    #[inline(always)]
    fn add(self, [sums]: [&mut [f64]; 1], [g]: [&[f32]; 1]) {
        for (sum, &g) in sums.iter_mut().zip(g) {
            *sum += f64::from(g);
        }
    }
}

/// Deviations and their squares.
#[derive(Clone, Copy)]
struct Moments<'a> {
    origin: &'a [f32],
}
impl Terms<1, 2> for Moments<'_> {
    #[inline(always)]
    fn add(self, [first, second]: [&mut [f64]; 2], [x]: [&[f32]; 1]) {
        for (((first, second), &x), &origin) in first.iter_mut().zip(second).zip(x).zip(self.origin) {
            let d = f64::from(x) - f64::from(origin);
            *first += d;
            *second += d * d;
        }
    }
}

/// Gradients, and they times deviations.
#[derive(Clone, Copy)]
struct Products<'a> {
    mean: &'a [f32],
}
impl Terms<2, 2> for Products<'_> {
    #[inline(always)]
    fn add(self, [beta, gamma]: [&mut [f64]; 2], [g, x]: [&[f32]; 2]) {
        for ((((beta, gamma), &g), &x), &mean) in beta.iter_mut().zip(gamma).zip(g).zip(x).zip(self.mean) {
            *beta += f64::from(g);
            *gamma += f64::from(g) * (f64::from(x) - f64::from(mean));
        }
    }
}

/// `[N, C]` sums over all pixels, each part of them on its own; parts are joined in order.
fn over_pixels<const I: usize, const N: usize>(isa: Isa, c: usize, inputs: [&[f32]; I], terms: impl Terms<I, N>) -> Vec<f64> {
    let len = inputs[0].len();
    assert!(c > 0 && len.is_multiple_of(c), "{len} values are not pixels of {c} channels");
    let part = |start: usize| {
        let mut sums = vec![0f64; N * c];
        let inputs = inputs.map(|x| &x[start..len.min(start + c * PIXELS)]);
        isa.dispatch(Part { c, inputs, terms, sums: &mut sums });
        sums
    };
    let parts: Vec<Vec<f64>> = (0..len.div_ceil(c * PIXELS)).into_par_iter().map(|i| part(i * c * PIXELS)).collect();
    parts.into_iter().fold(vec![0f64; N * c], |mut total, part| {
        total.iter_mut().zip(part).for_each(|(total, v)| *total += v);
        total
    })
}

/// One part of [`over_pixels`].
struct Part<'a, const I: usize, const N: usize, T> {
    c: usize,
    inputs: [&'a [f32]; I],
    terms: T,
    sums: &'a mut [f64],
}

impl<const I: usize, const N: usize, T: Terms<I, N>> Work for Part<'_, I, N, T> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Part { c, inputs, terms, sums } = self;
        let (mut rows, mut rest) = ([(); N].map(|()| &mut [][..]), sums);
        for row in &mut rows {
            (*row, rest) = std::mem::take(&mut rest).split_at_mut(c);
        }
        for at in (0..inputs[0].len()).step_by(c) {
            terms.add(rows.each_mut().map(|row| &mut **row), inputs.map(|x| &x[at..at + c]));
        }
    }
}

fn inv_std(eps: f32, var: f32) -> f64 {
    1.0 / (f64::from(var) + f64::from(eps)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    const EPS: f32 = 1e-5;

    fn values(index: u32, len: usize, factor: f32, offset: f32) -> Vec<f32> {
        let mut out = vec![0.0; len];
        Stream { seed: 3, index, step: 0, purpose: Purpose::Start, restart: 0 }.fill_normal(&mut out);
        out.iter().map(|v| v * factor + offset).collect()
    }

    fn close(got: &[f32], want: impl Fn(usize) -> f64, relative: f64) {
        for (i, &v) in got.iter().enumerate() {
            let want = want(i);
            assert!((f64::from(v) - want).abs() <= relative * want.abs().max(1.0), "element {i}: {v}, expected {want}");
        }
    }

    /// f64 batch norm of one channel picked out of `x`, for statistics and gradients by hand.
    fn channel(x: &[f32], c: usize, i: usize) -> Vec<f64> {
        x[i..].iter().step_by(c).map(|&v| f64::from(v)).collect()
    }

    fn moments(x: &[f64]) -> (f64, f64) {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        (mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64)
    }

    #[test]
    fn statistics_survive_a_large_mean_and_do_not_depend_on_threads() {
        for (c, pixels) in [(1, 1), (3, 255), (3, 256), (5, 257), (17, 4000)] {
            let x = values(1, c * pixels, 0.01, 300.0);
            let mut out = vec![0.0; 2 * c];
            stats(Isa::detect(), c, &x, &mut out);
            close(&out[..c], |i| moments(&channel(&x, c, i)).0, 1e-7);
            for i in 0..c {
                let want = moments(&channel(&x, c, i)).1;
                assert!((f64::from(out[c + i]) - want).abs() <= 1e-7 * want, "variance {} not {want}", out[c + i]);
            }
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
            let mut again = vec![0.0; 2 * c];
            alone.install(|| stats(Isa::detect(), c, &x, &mut again));
            assert_eq!(out, again);
        }
    }

    #[test]
    fn nan_and_infinity_show_in_the_statistics() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut out = [0.0; 4];
            stats(Isa::detect(), 2, &[1.0, 2.0, bad, 4.0], &mut out);
            assert!(!out[0].is_finite() && out[2].is_nan() && out[1] == 3.0 && out[3] == 1.0);
        }
    }

    #[test]
    fn folded_norm_is_the_norm() {
        let c = 9;
        let (gamma, beta, mean) = (values(1, c, 1.0, 1.0), values(2, c, 1.0, 0.0), values(3, c, 2.0, 0.0));
        let var: Vec<f32> = values(4, c, 1.0, 0.0).iter().map(|v| v * v).collect();
        let (mut scale, mut bias, mut grad) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
        fold(EPS, &gamma, &beta, &mean, &var, &mut scale, &mut bias);
        batch_norm_grad_scale(EPS, &gamma, &var, &mut grad);
        assert_eq!(scale, grad);
        let std = |i: usize| (f64::from(var[i]) + f64::from(EPS)).sqrt();
        close(&scale, |i| f64::from(gamma[i]) / std(i), 6e-8);
        close(&bias, |i| f64::from(beta[i]) - f64::from(mean[i]) * f64::from(gamma[i]) / std(i), 6e-8);
    }

    /// Loss `sum g * train(x)`; its f64 differences against the kernels' gradients.
    #[test]
    fn training_gradients_are_finite_differences() {
        let (c, pixels) = (3, 11);
        let (x, g) = (values(1, c * pixels, 1.5, 0.7), values(2, c * pixels, 1.0, 0.2));
        let (gamma, beta) = (values(3, c, 1.0, 0.5), values(4, c, 1.0, 0.0));
        let (mut st, mut y) = (vec![0.0; 2 * c], vec![0.0; x.len()]);
        stats(Isa::detect(), c, &x, &mut st);
        train(Isa::detect(), EPS, c, &x, &st, &gamma, &beta, &mut y);
        let (mut sums, mut dx) = (vec![0.0; 2 * c], vec![f32::NAN; x.len()]);
        train_grad_params(Isa::detect(), EPS, c, &g, &x, &st, &mut sums);
        train_grad(Isa::detect(), EPS, c, &g, &x, &st, &gamma, &sums, &mut dx);
        for i in 0..c {
            let (xs, gs) = (channel(&x, c, i), channel(&g, c, i));
            let norm = |xs: &[f64], gamma: f64, beta: f64| -> Vec<f64> {
                let (mean, var) = moments(xs);
                xs.iter().map(|v| (v - mean) / (var + f64::from(EPS)).sqrt() * gamma + beta).collect()
            };
            let loss =
                |xs: &[f64], gamma: f64, beta: f64| -> f64 { norm(xs, gamma, beta).iter().zip(&gs).map(|(y, g)| y * g).sum() };
            let (ga, be) = (f64::from(gamma[i]), f64::from(beta[i]));
            for (p, want) in norm(&xs, ga, be).iter().enumerate() {
                assert!((f64::from(y[p * c + i]) - want).abs() < 1e-6, "output {p} of channel {i}");
            }
            let h = 1e-5;
            let slope = |f: &dyn Fn(f64) -> f64| (f(h) - f(-h)) / (2.0 * h);
            let tolerance = 1e-5;
            for p in 0..pixels {
                let want = slope(&|h| {
                    let mut moved = xs.clone();
                    moved[p] += h;
                    loss(&moved, ga, be)
                });
                let got = f64::from(dx[p * c + i]);
                assert!((got - want).abs() < tolerance, "dx of pixel {p}, channel {i}: {got}, expected {want}");
            }
            assert!((f64::from(sums[i]) - slope(&|h| loss(&xs, ga, be + h))).abs() < tolerance, "d(beta)");
            assert!((f64::from(sums[c + i]) - slope(&|h| loss(&xs, ga + h, be))).abs() < tolerance, "d(gamma)");
        }
    }

    #[test]
    fn parameter_gradients_with_running_statistics() {
        let (c, pixels) = (4, 600);
        let (x, g, mean) = (values(1, c * pixels, 1.0, 3.0), values(2, c * pixels, 1.0, 0.0), values(3, c, 1.0, 0.0));
        let var = [0.5, 2.0, 0.0, 1e-3];
        let mut out = vec![0.0; 2 * c];
        grad_params(Isa::detect(), EPS, c, &g, &x, &mean, &var, &mut out);
        let mut sums = vec![0.0; c];
        sum_channels(Isa::detect(), c, &g, &mut sums);
        assert_eq!(sums, out[..c]);
        close(&sums, |i| channel(&g, c, i).iter().sum(), 1e-7);
        let xhat = |i: usize, v: f64| (v - f64::from(mean[i])) / (f64::from(var[i]) + f64::from(EPS)).sqrt();
        close(&out[c..], |i| channel(&g, c, i).iter().zip(channel(&x, c, i)).map(|(g, v)| g * xhat(i, v)).sum(), 1e-7);
    }

    #[test]
    fn running_statistics_follow_pytorch() {
        // BatchNorm2d after one batch of 2, 4, 6, 8: mean 5, unbiased variance 20/3.
        let (mut st, mut out) = ([0.0; 2], [0.0; 1]);
        stats(Isa::detect(), 1, &[2.0, 4.0, 6.0, 8.0], &mut st);
        running_update(0.1, 0, &[0.0], &st, 4, &mut out);
        assert_eq!(out, [0.5]);
        running_update(0.1, 1, &[1.0], &st, 4, &mut out);
        // Half a unit in the last place, and 0.1 rounded to f32 times the change.
        assert!((f64::from(out[0]) - (0.9 + 2.0 / 3.0)).abs() < 7e-8, "{out:?}");
    }

    #[test]
    #[should_panic(expected = "cannot be trained on 1")]
    fn one_value_has_no_variance() {
        running_update(0.1, 1, &[1.0], &[0.0, 0.0], 1, &mut [0.0]);
    }
}
