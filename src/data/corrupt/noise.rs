//! Noise: Gaussian, of photons, and of dead pixels.
//! Must not know severities.

use super::plane::Picture;
use crate::rng::Stream;

/// Adds normal numbers of deviation `scale`.
pub fn gaussian(picture: &mut Picture, scale: f32, stream: &Stream) {
    let mut noise = vec![0.0; picture.data.len()];
    stream.fill_normal(&mut noise);
    picture.data.iter_mut().zip(noise).for_each(|(v, n)| *v += scale * n);
}

/// Counts photons: a Poisson number of mean `v * photons`, over `photons`.
pub fn shot(picture: &mut Picture, photons: f32, stream: &Stream) {
    for (i, v) in picture.data.iter_mut().enumerate() {
        *v = poisson(*v * photons, stream, i as u32) / photons;
    }
}

/// Turns a share of the values black or white.
pub fn impulse(picture: &mut Picture, share: f32, stream: &Stream) {
    for (i, v) in picture.data.iter_mut().enumerate() {
        let drawn = stream.uniform(i as u32);
        if drawn < share {
            *v = if drawn < 0.5 * share { 1.0 } else { 0.0 };
        }
    }
}

/// A Poisson number by inversion, walking from 0; in f64, where the first probability stays above zero for means to 700.
fn poisson(mean: f32, stream: &Stream, element: u32) -> f32 {
    let (mean, drawn) = (f64::from(mean), f64::from(stream.uniform(element)));
    let (mut count, mut share) = (0u32, (-mean).exp());
    let mut sum = share;
    // The walk ends far beyond any number that a draw of 24 bits can ask for.
    let last = (mean + 12.0 * mean.sqrt() + 20.0) as u32;
    while sum <= drawn && count < last {
        count += 1;
        share *= mean / f64::from(count);
        sum += share;
    }
    count as f32
}
