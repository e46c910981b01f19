//! The fifteen corruptions of common photographs at five severities, for images of any size.
//! Must not know sets, models or files. Hendrycks and Dietterich 2019: kinds, order and strengths (those for 32x32 pixels, grown
//! with the image). Random numbers, plasma, frost and lens are our own, so images are like the published ones and not the same.

mod blur;
mod digital;
mod noise;
mod plane;
mod weather;

use rayon::prelude::*;

use crate::rng::{Purpose, Stream};
use plane::Picture;

/// Groups of corruptions, in the order of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum Group {
    Noise,
    Blur,
    Weather,
    Digital,
}

impl Group {
    /// All of them.
    pub const ALL: [Group; 4] = [Group::Noise, Group::Blur, Group::Weather, Group::Digital];

    /// `noise`, `blur`, `weather` or `digital`.
    pub fn name(self) -> &'static str {
        ["noise", "blur", "weather", "digital"][self as usize]
    }
}

/// One kind of corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum Corruption {
    GaussianNoise,
    ShotNoise,
    ImpulseNoise,
    DefocusBlur,
    GlassBlur,
    MotionBlur,
    ZoomBlur,
    Snow,
    Frost,
    Fog,
    Brightness,
    Contrast,
    ElasticTransform,
    Pixelate,
    JpegCompression,
}

use Corruption::{
    Brightness, Contrast, DefocusBlur, ElasticTransform, Fog, Frost, GaussianNoise, GlassBlur, ImpulseNoise, JpegCompression,
    MotionBlur, Pixelate, ShotNoise, Snow, ZoomBlur,
};

impl Corruption {
    /// All of them, in the order of the published sets.
    pub const ALL: [Corruption; 15] = [
        GaussianNoise,
        ShotNoise,
        ImpulseNoise,
        DefocusBlur,
        GlassBlur,
        MotionBlur,
        ZoomBlur,
        Snow,
        Frost,
        Fog,
        Brightness,
        Contrast,
        ElasticTransform,
        Pixelate,
        JpegCompression,
    ];

    /// The name of its file in CIFAR-10-C, without `.npy`.
    pub fn name(self) -> &'static str {
        [
            "gaussian_noise",
            "shot_noise",
            "impulse_noise",
            "defocus_blur",
            "glass_blur",
            "motion_blur",
            "zoom_blur",
            "snow",
            "frost",
            "fog",
            "brightness",
            "contrast",
            "elastic_transform",
            "pixelate",
            "jpeg_compression",
        ][self as usize]
    }
    /// The corruption of that name.
    pub fn of(name: &str) -> Option<Self> {
        Corruption::ALL.into_iter().find(|c| c.name() == name)
    }
    /// Its group.
    pub fn group(self) -> Group {
        match self as usize {
            0..3 => Group::Noise,
            3..7 => Group::Blur,
            7..11 => Group::Weather,
            _ => Group::Digital,
        }
    }
}

/// Severities, from 1.
pub const SEVERITIES: usize = 5;

/// Corrupts images `[N, C, H, W]` of bytes in place; `index` are their positions in their split, by which and by `seed` random
/// numbers are drawn, so an image does not depend on its batch. Panics where the slices do not fit, or for a severity that is not
/// 1 to 5.
pub fn corrupt(pixels: &mut [u8], shape: [usize; 3], index: &[u32], kind: Corruption, severity: usize, seed: u64) {
    let elems: usize = shape.iter().product();
    assert_eq!(pixels.len(), elems * index.len(), "{} bytes in {} images of {shape:?}", pixels.len(), index.len());
    assert!((1..=SEVERITIES).contains(&severity), "severity {severity} is not 1 to {SEVERITIES}");
    pixels.par_chunks_exact_mut(elems).zip(index).for_each(|(bytes, &index)| {
        let restart = (kind as u16) * SEVERITIES as u16 + severity as u16;
        let stream = Stream { seed, index, step: 1, purpose: Purpose::Augment, restart };
        let mut picture = Picture::of(bytes, shape);
        apply(&mut picture, kind, severity - 1, &stream);
        picture.put(bytes);
    });
}

/// `level` is the severity from 0.
fn apply(picture: &mut Picture, kind: Corruption, level: usize, stream: &Stream) {
    // Lengths are those for 32 pixels.
    let grown = picture.height.min(picture.width) as f32 / 32.0;
    match kind {
        GaussianNoise => noise::gaussian(picture, [0.04, 0.06, 0.08, 0.09, 0.10][level], stream),
        ShotNoise => noise::shot(picture, [500.0, 250.0, 100.0, 75.0, 50.0][level], stream),
        ImpulseNoise => noise::impulse(picture, [0.01, 0.02, 0.03, 0.05, 0.07][level], stream),
        DefocusBlur => {
            let (radius, soft) = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)][level];
            blur::defocus(picture, radius * grown, soft * grown);
        }
        GlassBlur => {
            let (sigma, far, times) = [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)][level];
            blur::glass(picture, sigma * grown, (far as f32 * grown).round() as usize, times, stream);
        }
        MotionBlur => {
            let (radius, sigma) = [(6.0, 1.0), (6.0, 1.5), (6.0, 2.0), (8.0, 2.0), (9.0, 2.5)][level];
            let angle = 90.0 * stream.uniform(0) - 45.0;
            blur::motion(picture, radius * grown, sigma * grown, angle);
        }
        ZoomBlur => blur::zoom(picture, [1.06, 1.11, 1.16, 1.21, 1.26][level], 0.01),
        Snow => weather::snow(picture, level, grown, stream),
        Frost => {
            let (image, frost) = [(1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)][level];
            weather::frost(picture, image, frost, stream);
        }
        Fog => {
            let (amount, decay) = [(0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)][level];
            weather::fog(picture, amount, decay, stream);
        }
        Brightness => weather::brightness(picture, [0.05, 0.1, 0.15, 0.2, 0.3][level]),
        Contrast => digital::contrast(picture, [0.75, 0.5, 0.4, 0.3, 0.15][level]),
        ElasticTransform => {
            let (push, smooth, tilt) =
                [(0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)][level];
            digital::elastic(picture, [push, smooth, tilt].map(|v| v * 32.0 * grown), stream);
        }
        Pixelate => digital::pixelate(picture, [0.95, 0.9, 0.85, 0.75, 0.65][level]),
        JpegCompression => digital::jpeg(picture, [80, 65, 58, 50, 40][level]),
    }
}

#[cfg(test)]
mod tests;
