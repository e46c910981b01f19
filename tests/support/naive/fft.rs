//! Spectra by their definition, along rows and then along columns.
//! Must not know any fast transform.

use std::f64::consts::TAU;

use petard::graph::Rings;

use super::Arg;

/// Real and imaginary part.
type Z = [f64; 2];

/// `sum over x of z[x] e^(sign 2 pi i k x / n)` for every k.
fn line(z: &[Z], sign: f64) -> Vec<Z> {
    let n = z.len();
    let turn: Vec<(f64, f64)> = (0..n).map(|i| (sign * TAU * i as f64 / n as f64).sin_cos()).collect();
    let one = |k: usize| {
        z.iter().enumerate().fold([0.0; 2], |sum, (x, z)| {
            let (sin, cos) = turn[k * x % n];
            [sum[0] + z[0] * cos - z[1] * sin, sum[1] + z[0] * sin + z[1] * cos]
        })
    };
    (0..n).map(one).collect()
}

/// The whole transform of a plane of `h` rows.
fn transform(plane: &[Z], h: usize, sign: f64) -> Vec<Z> {
    let w = plane.len() / h;
    let rows: Vec<Z> = plane.chunks_exact(w).flat_map(|row| line(row, sign)).collect();
    let mut out = vec![[0.0; 2]; h * w];
    for v in 0..w {
        let column: Vec<Z> = (0..h).map(|u| rows[u * w + v]).collect();
        line(&column, sign).into_iter().enumerate().for_each(|(u, z)| out[u * w + v] = z);
    }
    out
}

/// Channel `c` of an image `[H, W, C]`.
fn channel(image: &[f64], c: usize, of: usize) -> Vec<Z> {
    image.iter().skip(c).step_by(of).map(|&v| [v, 0.0]).collect()
}

/// The result of `f` on every channel's spectrum, one after the other.
fn of_channels(x: &Arg, f: impl Fn(Vec<Z>, &[Z]) -> Vec<f64>) -> Vec<f64> {
    let (h, _, c) = x.shape.hwc();
    let one = |image: &[f64], k: usize| {
        let plane = channel(image, k, c);
        f(transform(&plane, h, -1.0), &plane)
    };
    x.images().flat_map(|image| (0..c).flat_map(|k| one(image, k)).collect::<Vec<_>>()).collect()
}

/// Channels one after the other to interleaved ones.
fn interleaved(planes: &[f64], [h, w, c]: [usize; 3]) -> Vec<f64> {
    let images = planes.chunks_exact(h * w * c);
    images.flat_map(|image| (0..h * w * c).map(|i| image[i % c * h * w + i / c]).collect::<Vec<_>>()).collect()
}

fn copies(v: usize, w: usize) -> f64 {
    if v == 0 || 2 * v == w { 1.0 } else { 2.0 }
}

pub fn rfft2(x: &Arg, dual: bool) -> Vec<f64> {
    let (h, w, _) = x.shape.hwc();
    of_channels(x, |z, _| {
        let half = (0..h).flat_map(|u| (0..=w / 2).map(move |v| (u, v)));
        let by = |v| if dual { copies(v, w) / (h * w) as f64 } else { 1.0 };
        half.flat_map(|(u, v)| z[u * w + v].map(|part| part * by(v))).collect()
    })
}

/// The real part of the sum over the half, every column as often as it stands in the whole.
pub fn irfft2(x: &Arg, w: usize, dual: bool) -> Vec<f64> {
    let [c, h, half, _] = x.shape.dims[..] else { panic!("{} is no half spectrum", x.shape) };
    let mut planes = Vec::new();
    for spectrum in x.data.chunks_exact(h * half * 2) {
        let mut whole = vec![[0.0; 2]; h * w];
        for (u, v) in (0..h).flat_map(|u| (0..half).map(move |v| (u, v))) {
            let by = if dual { 1.0 } else { copies(v, w) / (h * w) as f64 };
            let at = 2 * (u * half + v);
            whole[u * w + v] = [spectrum[at] * by, spectrum[at + 1] * by];
        }
        planes.extend(transform(&whole, h, 1.0).iter().map(|z| z[0]));
    }
    interleaved(&planes, [h, w, c])
}

pub fn filter(x: &Arg, weight: &[f64]) -> Vec<f64> {
    let (h, w, c) = x.shape.hwc();
    let planes = of_channels(x, |mut z, _| {
        for (u, v) in (0..h).flat_map(|u| (0..w).map(move |v| (u, v))) {
            // Columns beyond the half are mirror images of those in it.
            let at = |u: usize, v: usize| weight[u * (w / 2 + 1) + v];
            let mirror = (h - u) % h;
            let by = match v {
                v if v == 0 || 2 * v == w => (at(u, v) + at(mirror, v)) / 2.0,
                v if v <= w / 2 => at(u, v),
                v => at(mirror, w - v),
            };
            z[u * w + v] = z[u * w + v].map(|part| part * by);
        }
        transform(&z, h, 1.0).iter().map(|z| z[0] / (h * w) as f64).collect()
    });
    interleaved(&planes, [h, w, c])
}

/// Ring of the shifted spectrum that a frequency lies in.
fn ring(u: usize, v: usize, h: usize, w: usize) -> usize {
    let shifted = |k: usize, n: usize| ((k + n / 2) % n) as f64 - (n / 2) as f64;
    shifted(u, h).hypot(shifted(v, w)).floor() as usize
}

pub fn ring_sums(x: &Arg, power: bool) -> Vec<f64> {
    let (h, w, _) = x.shape.hwc();
    of_channels(x, |z, _| {
        let mut sums = vec![0.0; Rings::new(h, w).count()];
        for (i, z) in z.iter().enumerate() {
            let size = z[0].hypot(z[1]);
            sums[ring(i / w, i % w, h, w)] += if power { size * size } else { size };
        }
        sums
    })
}

/// BaSS by the published steps, without the last one: 0 to 255, clipped, but not cut down to whole numbers.
pub fn bass_uncut(x: &Arg) -> Vec<f64> {
    let (h, w, c) = x.shape.hwc();
    let bytes: Vec<f64> = x.data.iter().map(|v| (v * 255.0).round_ties_even()).collect();
    let planes = of_channels(&Arg { data: &bytes, ..*x }, |mut z, plane| {
        let last = Rings::new(h, w).count() - 1;
        let (mut sum, mut size) = (vec![0.0; last + 1], vec![0.0; last + 1]);
        for (i, z) in z.iter().enumerate() {
            let r = ring(i / w, i % w, h, w);
            sum[r] += (z[0] + 1e-8).hypot(z[1]);
            size[r] += 1.0;
        }
        let mean: Vec<f64> = sum.iter().zip(&size).map(|(s, n)| s / n).collect();
        let inner = 1..last.max(1);
        let logs: f64 = mean[inner.clone()].iter().map(|m| m.ln()).sum();
        let all: f64 = mean[inner.clone()].iter().sum();
        if !mean[inner.clone()].iter().all(|&m| m >= 1.0) || logs <= 0.0 {
            return plane.iter().map(|p| p[0]).collect();
        }
        for (i, z) in z.iter_mut().enumerate() {
            let r = ring(i / w, i % w, h, w);
            let by = if inner.contains(&r) { (mean[r].ln() / logs) / (mean[r] / all) } else { 1.0 };
            *z = z.map(|part| part * by);
        }
        transform(&z, h, 1.0).iter().map(|z| (z[0] / (h * w) as f64).clamp(0.0, 255.0)).collect()
    });
    interleaved(&planes, [h, w, c])
}

pub fn bass(x: &Arg) -> Vec<f64> {
    bass_uncut(x).iter().map(|v| v.floor() / 255.0).collect()
}
