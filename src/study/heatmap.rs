//! Fourier heat map: how often a model errs when one wave is added to every image, for each wave.
//! Must not know how it is drawn. Yin and others 2019.

use std::f64::consts::TAU;

use super::{Samples, Stop, check};
use crate::device::Device;
use crate::error::Result;
use crate::rng::{Purpose, Stream};
use crate::session::{Classifier, Model, argmax};
use crate::spectrum::Rings;

/// Share of errors by frequency.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// `[H, W]`, shifted: the mean at (H/2, W/2).
    pub error: Vec<f64>,
    /// Without noise.
    pub clean: f64,
    /// The same by ring.
    pub by_ring: Vec<f64>,
}

/// A wave of L2 length 1 of frequency (u, v): the real image whose spectrum is that frequency and its mirror alone.
pub fn wave(height: usize, width: usize, u: usize, v: usize) -> Vec<f32> {
    let turn = |i: usize| {
        let (y, x) = (i / width, i % width);
        // Whole turns are taken off before the division, so that the angle is exact.
        let part = (u * y % height) as f64 / height as f64 + (v * x % width) as f64 / width as f64;
        (TAU * part).cos()
    };
    let values: Vec<f64> = (0..height * width).map(turn).collect();
    let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    values.iter().map(|v| (v / length) as f32).collect()
}

/// Adds `length` times each wave, with a random sign for each image and channel, clips to [0,1], and counts errors. `done` is
/// called with the share of frequencies done.
///
/// # Errors
/// What computing can fail with, and [`crate::Error::Interrupted`].
pub fn run(
    (device, model): (&Device, &Model),
    samples: &Samples,
    length: f32,
    seed: u64,
    batch: usize,
    stop: Stop,
    mut done: impl FnMut(usize, usize),
) -> Result<HeatMap> {
    let [_, h, w] = samples.shape;
    let rings = Rings::new(h, w);
    let mut classifier = Classifier::new(device, model, batch.min(samples.len()))?;
    let clean = errors(&mut classifier, samples, &samples.pixels)?;
    let mut error = vec![0.0; h * w];
    let mut by_ring = vec![0.0; rings.count()];
    let half = rings.half();
    let mut noisy = samples.pixels.clone();
    for at in 0..h * half {
        check(stop)?;
        let (u, v) = (at / half, at % half);
        // Of two rows that mirror each other in a column that is its own mirror one is enough.
        let mirror = ((h - u) % h, (w - v) % w);
        if mirror.1 == v && mirror.0 < u {
            continue;
        }
        add(samples, &wave(h, w, u, v), length, seed, at as u32, &mut noisy);
        let share = errors(&mut classifier, samples, &noisy)?;
        for (u, v) in [(u, v), mirror] {
            error[(u + h / 2) % h * w + (v + w / 2) % w] = share;
        }
        done(at + 1, h * half);
    }
    for u in 0..h {
        for v in 0..w {
            by_ring[rings.ring(u, v)] += error[(u + h / 2) % h * w + (v + w / 2) % w];
        }
    }
    by_ring.iter_mut().zip(rings.sizes()).for_each(|(sum, size)| *sum /= size as f64);
    Ok(HeatMap { error, clean, by_ring })
}

/// `noisy = clip(image +- length * wave)`, a sign for each image and channel.
fn add(samples: &Samples, wave: &[f32], length: f32, seed: u64, frequency: u32, noisy: &mut [f32]) {
    let planes = samples.pixels.chunks_exact(wave.len()).zip(noisy.chunks_exact_mut(wave.len()));
    for (plane, (from, to)) in planes.enumerate() {
        let stream = Stream { seed, index: plane as u32, step: frequency, purpose: Purpose::Start, restart: 0 };
        let by = if stream.bits(0) & 1 == 0 { length } else { -length };
        to.iter_mut().zip(from).zip(wave).for_each(|((to, from), w)| *to = (from + by * w).clamp(0.0, 1.0));
    }
}

/// Share of the images that are not seen as their class.
fn errors(classifier: &mut Classifier, samples: &Samples, pixels: &[f32]) -> Result<f64> {
    let views: Vec<&[f32]> = pixels.chunks_exact(samples.shape.iter().product()).collect();
    let classes = classifier.classes();
    let logits = classifier.logits(&views)?;
    let wrong = logits.chunks_exact(classes).zip(&samples.label).filter(|(z, label)| argmax(z) != usize::try_from(**label).ok());
    Ok(wrong.count() as f64 / samples.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spectrum::{Runner, Task};
    use crate::{Device, DeviceOptions};

    #[test]
    fn a_wave_is_one_frequency() {
        let (h, w) = (8, 10);
        let device = Device::open("cpu", &DeviceOptions::default()).expect("the CPU");
        let mut runner = Runner::new(&device, [1, h, w], &Task::Spectrum, 1).expect("a plan");
        for (u, v) in [(0, 0), (3, 2), (4, 0), (4, 5), (7, 1)] {
            let wave = wave(h, w, u, v);
            assert!((wave.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
            let spectrum = runner.run(&wave).expect("a spectrum");
            for (i, z) in spectrum.chunks_exact(2).enumerate() {
                let (p, q) = (i / 6, i % 6);
                let mine = (p, q) == (u, v) || ((h - p) % h, (w - q) % w) == (u, v);
                assert_eq!(z[0].hypot(z[1]) > 1e-4, mine, "({u}, {v}) at ({p}, {q}): {z:?}");
            }
        }
    }
}
