//! Spectra of images: 2-D real transforms, filters, sums over rings, and balanced spectrum sampling (BaSS).
//! Must not know what a spectrum is taken for. Mixed radices by `rustfft`, any size, f32; images are spread over threads.

use std::sync::Arc;

use rayon::prelude::*;
use realfft::num_complex::Complex32;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftPlanner};

use crate::graph::Rings;

/// Transforms of images of one size, with the memory they work in. A clone shares the plans alone.
///
/// Half spectra lie by columns here, `[W/2+1][H]`: what the transform along columns reads is contiguous.
#[derive(Clone)]
pub(crate) struct Fft2 {
    rings: Rings,
    row: Arc<dyn RealToComplex<f32>>,
    row_back: Arc<dyn ComplexToReal<f32>>,
    column: Arc<dyn Fft<f32>>,
    column_back: Arc<dyn Fft<f32>>,
    /// Ring of each coefficient of a half spectrum.
    ring: Arc<[u16]>,
    sizes: Arc<[usize]>,
    /// One image, its spectrum, half a row of it, and what the transforms ask for.
    plane: Vec<f32>,
    spectrum: Vec<Complex32>,
    line: Vec<Complex32>,
    scratch: Vec<Complex32>,
}

impl Fft2 {
    /// Plans the transforms of `height` by `width` pixels.
    pub fn new(height: usize, width: usize) -> Self {
        let rings = Rings::new(height, width);
        let (mut real, mut complex) = (RealFftPlanner::<f32>::new(), FftPlanner::<f32>::new());
        let (row, row_back) = (real.plan_fft_forward(width), real.plan_fft_inverse(width));
        let (column, column_back) = (complex.plan_fft_forward(height), complex.plan_fft_inverse(height));
        let needs = [row.get_scratch_len(), row_back.get_scratch_len()];
        let needs = needs.into_iter().chain([column.get_inplace_scratch_len(), column_back.get_inplace_scratch_len()]);
        let scratch = vec![Complex32::default(); needs.max().unwrap_or(0)];
        let at = |i: usize| u16::try_from(rings.ring(i % height, i / height)).expect("images have fewer than 2^16 rings");
        Fft2 {
            rings,
            row,
            row_back,
            column,
            column_back,
            ring: (0..rings.half() * height).map(at).collect(),
            sizes: rings.sizes().into(),
            plane: vec![0.0; height * width],
            spectrum: vec![Complex32::default(); rings.half() * height],
            line: vec![Complex32::default(); rings.half()],
            scratch,
        }
    }

    /// The pixels, row by row: written before [`Fft2::forward`], which spoils them, read after [`Fft2::inverse`].
    pub fn plane(&mut self) -> &mut [f32] {
        &mut self.plane
    }

    /// Pixels to half spectrum.
    pub fn forward(&mut self) {
        let Rings { height, width } = self.rings;
        for (u, row) in self.plane.chunks_exact_mut(width).enumerate() {
            let done = self.row.process_with_scratch(row, &mut self.line, &mut self.scratch);
            done.expect("row, line and scratch have the planned lengths");
            self.line.iter().enumerate().for_each(|(v, &z)| self.spectrum[v * height + u] = z);
        }
        self.column.process_with_scratch(&mut self.spectrum, &mut self.scratch);
    }

    /// Half spectrum to pixels times H*W; the spectrum is spoilt.
    pub fn inverse(&mut self) {
        let Rings { height, width } = self.rings;
        self.column_back.process_with_scratch(&mut self.spectrum, &mut self.scratch);
        let half = self.rings.half();
        for (u, row) in self.plane.chunks_exact_mut(width).enumerate() {
            self.line.iter_mut().enumerate().for_each(|(v, z)| *z = self.spectrum[v * height + u]);
            // Of a real row these are real; the transform refuses anything else.
            self.line[0].im = 0.0;
            if width.is_multiple_of(2) {
                self.line[half - 1].im = 0.0;
            }
            let done = self.row_back.process_with_scratch(&mut self.line, row, &mut self.scratch);
            done.expect("line, row and scratch have the planned lengths");
        }
    }

    /// Amplitudes (or powers) summed over each ring of the whole spectrum.
    pub fn ring_sums(&self, power: bool) -> Vec<f64> {
        let mut sums = vec![0.0f64; self.sizes.len()];
        let height = self.rings.height;
        for (v, (column, rings)) in self.spectrum.chunks_exact(height).zip(self.ring.chunks_exact(height)).enumerate() {
            let copies = self.rings.copies(v) as f32;
            for (z, &ring) in column.iter().zip(rings) {
                let squared = z.re * z.re + z.im * z.im;
                let size = if power { squared } else { squared.sqrt() };
                sums[usize::from(ring)] += f64::from(copies * size);
            }
        }
        sums
    }

    /// Multiplies every coefficient by the weight of its ring.
    fn scale_rings(&mut self, weights: &[f32]) {
        self.spectrum.iter_mut().zip(&*self.ring).for_each(|(z, &ring)| *z *= weights[usize::from(ring)]);
    }

    /// BaSS of the plane, pixels 0 to 255: the reweighted plane, not yet clipped. `false` where the plane has to stay as it is,
    /// which it then no longer is.
    pub fn bass(&mut self) -> bool {
        self.forward();
        let Some(weights) = bass_weights(&self.ring_sums(false), &self.sizes) else { return false };
        // The division of the inverse is among the weights.
        let share = 1.0 / (self.rings.height * self.rings.width) as f32;
        self.scale_rings(&weights.iter().map(|w| w * share).collect::<Vec<f32>>());
        self.inverse();
        true
    }
}

/// The weight of each ring: `p_new / p_old`, with `p_old` the share of a ring among the mean amplitudes and `p_new` that among
/// their logarithms; 1 for the first and the last ring. `None` where a logarithm would be below 0, as on a constant channel.
pub fn bass_weights(sums: &[f64], sizes: &[usize]) -> Option<Vec<f32>> {
    assert_eq!(sums.len(), sizes.len(), "sums and sizes of rings");
    let inner = 1..sums.len().saturating_sub(1).max(1);
    let means: Vec<f64> = inner.clone().map(|k| sums[k] / sizes[k] as f64).collect();
    // Not `mean < 1`: a NaN leaves the channel alone as well.
    if !means.iter().all(|&mean| mean >= 1.0) {
        return None;
    }
    let (all, all_logs): (f64, f64) = (means.iter().sum(), means.iter().map(|mean| mean.ln()).sum());
    if all_logs <= 0.0 || !all.is_finite() {
        return None;
    }
    let mut weights = vec![1.0; sums.len()];
    for (k, mean) in inner.zip(means) {
        weights[k] = ((mean.ln() / all_logs) / (mean / all)) as f32;
    }
    Some(weights)
}

/// Runs `body` on every channel of every NHWC image: the plan, the channel, the image, and its `each` output values.
fn channels(
    hwc: [usize; 3],
    x: &[f32],
    out: &mut [f32],
    each: usize,
    body: impl Fn(&mut Fft2, usize, &[f32], &mut [f32]) + Sync,
) {
    let [h, w, c] = hwc;
    assert!(x.len().is_multiple_of(h * w * c), "{} values in images of {h}x{w}x{c}", x.len());
    assert_eq!(out.len() / each, x.len() / (h * w * c), "as many results as images");
    let fft = Fft2::new(h, w);
    x.par_chunks_exact(h * w * c)
        .zip(out.par_chunks_exact_mut(each))
        .for_each_init(|| fft.clone(), |fft, (image, out)| (0..c).for_each(|channel| body(fft, channel, image, out)));
}

/// Takes a channel of an NHWC image into the plan.
fn take(fft: &mut Fft2, image: &[f32], channel: usize, channels: usize) {
    fft.plane.iter_mut().zip(image[channel..].iter().step_by(channels)).for_each(|(p, x)| *p = *x);
}

/// Puts the plan's plane, times `factor`, into a channel of an NHWC image.
fn put(fft: &Fft2, image: &mut [f32], channel: usize, channels: usize, factor: f32) {
    image[channel..].iter_mut().step_by(channels).zip(&fft.plane).for_each(|(y, p)| *y = p * factor);
}

/// What a coefficient of column `v` is multiplied by in the dual transforms: (of `rfft2`, of `irfft2` before the inverse).
fn dual_factors(rings: Rings, v: usize) -> (f32, f32) {
    let (pixels, copies) = ((rings.height * rings.width) as f32, rings.copies(v) as f32);
    (copies / pixels, 1.0 / copies)
}

/// `[N, H, W, C]` -> `[N, C, H, W/2+1, 2]`.
pub(crate) fn rfft2(hwc: [usize; 3], dual: bool, x: &[f32], out: &mut [f32]) {
    let rings = Rings::new(hwc[0], hwc[1]);
    let plane = hwc[0] * rings.half() * 2;
    channels(hwc, x, out, hwc[2] * plane, |fft, channel, image, out| {
        take(fft, image, channel, hwc[2]);
        fft.forward();
        let out = &mut out[channel * plane..(channel + 1) * plane];
        for (i, z) in out.chunks_exact_mut(2).enumerate() {
            let (u, v) = (i / rings.half(), i % rings.half());
            let by = if dual { dual_factors(rings, v).0 } else { 1.0 };
            let from = fft.spectrum[v * rings.height + u];
            (z[0], z[1]) = (from.re * by, from.im * by);
        }
    });
}

/// `[N, C, H, W/2+1, 2]` -> `[N, H, W, C]`.
pub(crate) fn irfft2(hwc: [usize; 3], dual: bool, x: &[f32], out: &mut [f32]) {
    let [h, w, c] = hwc;
    let rings = Rings::new(h, w);
    let plane = h * rings.half() * 2;
    assert_eq!(x.len() / (c * plane), out.len() / (h * w * c), "as many spectra as images");
    let fft = Fft2::new(h, w);
    let share = if dual { 1.0 } else { 1.0 / (h * w) as f32 };
    x.par_chunks_exact(c * plane).zip(out.par_chunks_exact_mut(h * w * c)).for_each_init(
        || fft.clone(),
        |fft, (spectra, image)| {
            for (channel, spectrum) in spectra.chunks_exact(plane).enumerate() {
                for (i, z) in spectrum.chunks_exact(2).enumerate() {
                    let (u, v) = (i / rings.half(), i % rings.half());
                    let by = if dual { dual_factors(rings, v).1 } else { 1.0 };
                    fft.spectrum[v * h + u] = Complex32::new(z[0] * by, z[1] * by);
                }
                fft.inverse();
                put(fft, image, channel, c, share);
            }
        },
    );
}

/// Every coefficient times its weight in `[H, W/2+1]`, and back.
pub(crate) fn filter(hwc: [usize; 3], x: &[f32], weight: &[f32], out: &mut [f32]) {
    let [h, w, c] = hwc;
    let half = Rings::new(h, w).half();
    assert_eq!(weight.len(), h * half, "weights of {h}x{w} pixels");
    let share = 1.0 / (h * w) as f32;
    // By columns, as the spectrum lies. A real image has no use for what is not its own mirror image in a column that is.
    let mirrored = |u: usize, v: usize| {
        let own = v == 0 || 2 * v == w;
        let other = if own { (h - u) % h } else { u };
        0.5 * (weight[u * half + v] + weight[other * half + v]) * share
    };
    let by: Vec<f32> = (0..half * h).map(|i| mirrored(i % h, i / h)).collect();
    channels(hwc, x, out, h * w * c, |fft, channel, image, out| {
        take(fft, image, channel, c);
        fft.forward();
        fft.spectrum.iter_mut().zip(&by).for_each(|(z, by)| *z *= *by);
        fft.inverse();
        put(fft, out, channel, c, 1.0);
    });
}

/// `[N, H, W, C]` -> `[N, C, R]`.
pub(crate) fn ring_sums(hwc: [usize; 3], power: bool, x: &[f32], out: &mut [f32]) {
    let count = Rings::new(hwc[0], hwc[1]).count();
    channels(hwc, x, out, hwc[2] * count, |fft, channel, image, out| {
        take(fft, image, channel, hwc[2]);
        fft.forward();
        let sums = fft.ring_sums(power);
        out[channel * count..(channel + 1) * count].iter_mut().zip(sums).for_each(|(o, s)| *o = s as f32);
    });
}

/// BaSS of images in [0,1], which are rounded to bytes first.
pub(crate) fn bass(hwc: [usize; 3], x: &[f32], out: &mut [f32]) {
    let c = hwc[2];
    channels(hwc, x, out, hwc.iter().product(), |fft, channel, image, out| {
        take(fft, image, channel, c);
        fft.plane.iter_mut().for_each(|p| *p = (*p * 255.0).round_ties_even());
        if fft.bass() {
            fft.plane.iter_mut().for_each(|p| *p = p.clamp(0.0, 255.0).trunc() / 255.0);
            put(fft, out, channel, c, 1.0);
        } else {
            out[channel..].iter_mut().step_by(c).zip(image[channel..].iter().step_by(c)).for_each(|(y, x)| *y = *x);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parseval_and_back() {
        for (h, w) in [(32, 32), (8, 8), (7, 10), (9, 15), (224, 224), (49, 27), (11, 13)] {
            let mut fft = Fft2::new(h, w);
            let x: Vec<f32> = (0..h * w).map(|i| ((i * 7919 + 13) % 1009) as f32 / 1009.0).collect();
            fft.plane().copy_from_slice(&x);
            fft.forward();
            let energy: f64 = fft.ring_sums(true).iter().sum();
            let want: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() * (h * w) as f64;
            assert!((energy / want - 1.0).abs() < 1e-6, "{h}x{w}: {energy} {want}");
            fft.inverse();
            let off = fft.plane().iter().zip(&x).map(|(y, x)| (y / (h * w) as f32 - x).abs()).fold(0.0, f32::max);
            assert!(off < 1e-6, "{h}x{w}: {off}");
        }
    }

    #[test]
    fn weights_of_bass_are_shares_of_logarithms() {
        // Means e, e^2, e^3 in the middle: logs 1, 2, 3 of 6.
        let means: Vec<f64> = [9.0, 1.0, 2.0, 3.0, 0.1].iter().map(|l: &f64| l.exp()).collect();
        let sizes = [1, 8, 16, 20, 4];
        let sums: Vec<f64> = means.iter().zip(sizes).map(|(m, s)| m * s as f64).collect();
        let all: f64 = means[1..4].iter().sum();
        let weights = bass_weights(&sums, &sizes).expect("all means are above 1");
        assert_eq!((weights[0], weights[4]), (1.0, 1.0), "the first and the last ring stay");
        for k in 1..4 {
            let want = (k as f64 / 6.0) / (means[k] / all);
            assert!((f64::from(weights[k]) / want - 1.0).abs() < 1e-6, "{k}: {weights:?}");
        }
        assert_eq!(bass_weights(&[9.0, 0.9 * 8.0, 32.0, 40.0, 4.0], &sizes), None, "a mean below 1");
        assert_eq!(bass_weights(&[9.0, f64::NAN, 32.0, 40.0, 4.0], &sizes), None, "a NaN");
        assert_eq!(bass_weights(&[9.0], &[1]), None, "no inner ring");
    }
}
