//! Spectra of adversarial perturbations: what an attack adds, frequency by frequency, beside the images themselves.
//! Must not know which attack it was.

use crate::device::Device;
use crate::error::Result;
use crate::spectrum::{Rings, Runner, Task};

/// Sums over image pairs.
pub struct Spectra {
    runner: Runner,
    rings: Rings,
    elems: usize,
    pairs: usize,
    changed: usize,
    /// Amplitude of the perturbation by frequency of the half spectrum, mean over channels, summed over pairs.
    amplitude: Vec<f64>,
    /// Power of perturbation and of image by ring, without the mean.
    power: [Vec<f64>; 2],
}

impl Spectra {
    /// For pairs of images of `[C, H, W]`.
    ///
    /// # Errors
    /// What compiling and binding can fail with.
    pub fn new(device: &Device, shape: [usize; 3]) -> Result<Self> {
        let [c, h, w] = shape;
        let rings = Rings::new(h, w);
        let runner = Runner::new(device, shape, &Task::Spectrum, 1)?;
        let power = [vec![0.0; rings.count()], vec![0.0; rings.count()]];
        Ok(Spectra { runner, rings, elems: c * h * w, pairs: 0, changed: 0, amplitude: vec![0.0; h * rings.half()], power })
    }
    /// Adds a clean image and what an attack made of it, NCHW.
    ///
    /// # Errors
    /// What computing can fail with.
    pub fn add(&mut self, clean: &[f32], adversarial: &[f32]) -> Result<()> {
        assert!(clean.len() == self.elems && adversarial.len() == self.elems, "a pair of images of {} values", self.elems);
        self.pairs += 1;
        let apart: Vec<f32> = adversarial.iter().zip(clean).map(|(a, x)| a - x).collect();
        if apart.iter().all(|d| *d == 0.0) {
            return Ok(());
        }
        self.changed += 1;
        let channels = self.elems / (self.rings.height * self.rings.width);
        for (which, image) in [&apart[..], clean].into_iter().enumerate() {
            let spectrum = self.runner.run(image)?;
            for (i, z) in spectrum.chunks_exact(2).enumerate() {
                let at = i % self.amplitude.len();
                let (u, v) = (at / self.rings.half(), at % self.rings.half());
                let squared = f64::from(z[0]).powi(2) + f64::from(z[1]).powi(2);
                if which == 0 {
                    self.amplitude[at] += squared.sqrt() / channels as f64;
                }
                if at > 0 {
                    self.power[which][self.rings.ring(u, v)] += squared * self.rings.copies(v) as f64;
                }
            }
        }
        Ok(())
    }
    /// Pairs added, and how many of them differ.
    pub fn pairs(&self) -> (usize, usize) {
        (self.pairs, self.changed)
    }
    /// Mean amplitude of the perturbations, `[H, W]`, shifted: the mean at (H/2, W/2).
    pub fn amplitude(&self) -> Vec<f64> {
        let Rings { height: h, width: w } = self.rings;
        let half = self.rings.half();
        let at = |i: usize| {
            let (u, v) = ((i / w + h - h / 2) % h, (i % w + w - w / 2) % w);
            let (u, v) = if v < half { (u, v) } else { ((h - u) % h, w - v) };
            self.amplitude[u * half + v] / self.changed.max(1) as f64
        };
        (0..h * w).map(at).collect()
    }
    /// Share of the energy by ring, of the perturbations and of the images they were added to.
    pub fn shares(&self) -> [Vec<f64>; 2] {
        self.power.each_ref().map(|power| {
            let total: f64 = power.iter().sum();
            power.iter().map(|p| if total > 0.0 { p / total } else { 0.0 }).collect()
        })
    }
    /// Distance to the mean, averaged over the energy: (of perturbations, of images).
    pub fn centres(&self) -> [f64; 2] {
        self.shares().map(|shares| shares.iter().enumerate().map(|(r, s)| (r as f64 + 0.5) * s).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::heatmap::wave;
    use crate::{Device, DeviceOptions};

    #[test]
    fn a_wave_is_found_where_it_is() {
        let device = Device::open("cpu", &DeviceOptions::default()).expect("the CPU");
        let mut spectra = Spectra::new(&device, [1, 16, 16]).expect("a plan");
        let clean = wave(16, 16, 0, 1);
        let attacked: Vec<f32> = clean.iter().zip(wave(16, 16, 5, 3)).map(|(x, d)| x + 0.1 * d).collect();
        spectra.add(&clean, &attacked).expect("a pair");
        spectra.add(&clean, &clean).expect("a pair");
        assert_eq!(spectra.pairs(), (2, 1));
        let [perturbation, image] = spectra.shares();
        assert!(perturbation[5] > 0.999 && image[1] > 0.999, "{perturbation:?} {image:?}");
        let amplitude = spectra.amplitude();
        let largest = (0..256).max_by(|&a, &b| amplitude[a].total_cmp(&amplitude[b])).expect("a maximum");
        assert!([(8 + 5) * 16 + 8 + 3, (8 - 5) * 16 + 8 - 3].contains(&largest), "{largest}");
    }
}
