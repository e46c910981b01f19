//! How strongly a model's loss reacts to each frequency of its images, by rank, and where the ranks lie.
//! Must not know how gradients are computed.

use std::f64::consts::PI;

use super::{Losses, Samples, Stop, check};
use crate::device::Device;
use crate::error::Result;
use crate::session::Model;
use crate::spectrum::{Rings, Runner, Task};

/// What was found over a set.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// Magnitude at each rank, largest first, summed over images.
    pub by_rank: Vec<f64>,
    /// For each rank asked for, the distance to the mean of the frequency at that rank, image by image.
    pub radii: Vec<Vec<f64>>,
    /// The ranks asked for, from 0.
    pub ranks: Vec<usize>,
    /// Mean magnitude of each ring of frequencies.
    pub by_ring: Vec<f64>,
    /// Images whose gradient is zero or not finite, which count for nothing.
    pub without: usize,
}

/// Ranks 1, 100, 200, 300, 400 and the last of the 544 frequencies of 32x32 pixels, in proportion for other sizes; from 0.
pub fn ranks(frequencies: usize) -> Vec<usize> {
    let mut ranks: Vec<usize> = [100, 200, 300, 400].map(|r| (r * frequencies / 544).max(1) - 1).to_vec();
    ranks.insert(0, 0);
    ranks.push(frequencies - 1);
    ranks
}

/// Gradient of the loss, mean over channels, amplitude of its half spectrum, ranked.
///
/// # Errors
/// What computing can fail with, and [`crate::Error::Interrupted`].
pub fn run(device: &Device, model: &Model, samples: &Samples, batch: usize, stop: Stop) -> Result<Sensitivity> {
    let [c, h, w] = samples.shape;
    let rings = Rings::new(h, w);
    let frequencies = h * rings.half();
    let ranks = ranks(frequencies);
    let mut losses = Losses::new(device, model, batch.min(samples.len()))?;
    let mut runner = Runner::new(device, [1, h, w], &Task::Spectrum, 1)?;
    let mut out = Sensitivity {
        by_rank: vec![0.0; frequencies],
        radii: vec![Vec::new(); ranks.len()],
        ranks,
        by_ring: vec![0.0; rings.count()],
        without: 0,
    };
    let mut planes = Vec::new();
    losses.gradients(samples, |g| {
        planes.push((0..h * w).map(|p| (0..c).map(|k| g[k * h * w + p]).sum::<f32>() / c as f32).collect::<Vec<f32>>());
    })?;
    for plane in planes {
        check(stop)?;
        let largest = plane.iter().fold(0.0f32, |m, v| if v.is_nan() { f32::NAN } else { m.max(v.abs()) });
        if !(largest > 0.0 && largest.is_finite()) {
            out.without += 1;
            continue;
        }
        let spectrum = runner.run(&plane)?;
        let mut list: Vec<(f64, usize)> =
            spectrum.chunks_exact(2).enumerate().map(|(i, z)| (f64::from(z[0]).hypot(f64::from(z[1])) + 1e-8, i)).collect();
        let place = |i: usize| (i / rings.half(), i % rings.half());
        for &(size, i) in &list {
            let (u, v) = place(i);
            out.by_ring[rings.ring(u, v)] += size * rings.copies(v) as f64;
        }
        // Stable: of equals the frequency that stands first stays first.
        list.sort_by(|a, b| b.0.total_cmp(&a.0));
        out.by_rank.iter_mut().zip(&list).for_each(|(sum, item)| *sum += item.0);
        for (radii, &rank) in out.radii.iter_mut().zip(&out.ranks) {
            let (u, v) = place(list[rank].1);
            radii.push(rings.distance(u, v));
        }
    }
    let counted = (samples.len() - out.without).max(1) as f64;
    out.by_ring.iter_mut().zip(rings.sizes()).for_each(|(sum, size)| *sum /= size as f64 * counted);
    Ok(out)
}

/// Gaussian kernel density of `values` at `points`; Scott's bandwidth, and no less than a tenth.
pub fn kernel_density(values: &[f64], points: &[f64]) -> Vec<f64> {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    let width = (spread * n.powf(-0.2)).max(0.1);
    let one = |x: &f64| values.iter().map(|v| (-0.5 * ((x - v) / width).powi(2)).exp()).sum::<f64>();
    points.iter().map(|x| one(x) / (n * width * (2.0 * PI).sqrt())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_cifar() {
        assert_eq!(ranks(544), [0, 99, 199, 299, 399, 543]);
        assert_eq!(ranks(40), [0, 6, 13, 21, 28, 39]);
    }

    #[test]
    fn a_density_holds_one() {
        let points: Vec<f64> = (0..9000).map(|i| f64::from(i) * 0.01 - 40.0).collect();
        for values in [vec![3.0], vec![1.0, 5.0, 5.5, 9.0], vec![2.0; 50]] {
            let area: f64 = kernel_density(&values, &points).iter().map(|d| d * 0.01).sum();
            assert!((area - 1.0).abs() < 1e-6, "{values:?}: {area}");
        }
    }
}
