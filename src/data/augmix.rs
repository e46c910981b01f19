//! AugMix: an image mixed with chains of plain changes to itself.
//! Must not know training. Hendrycks and others 2020; the changes are those of 8-bit images, as PIL defines them.

use crate::rng::{Purpose, Stream};

/// How images are mixed. The default is what CIFAR is trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AugMix {
    /// Strength of each change, 0.1 to 10.
    pub severity: f32,
    /// Chains.
    pub width: usize,
    /// Changes in a chain; `None` draws 1, 2 or 3 for each.
    pub depth: Option<usize>,
}

impl Default for AugMix {
    fn default() -> Self {
        AugMix { severity: 3.0, width: 3, depth: None }
    }
}

/// Which image, in which epoch of which run, seen for which time: loss terms of one image have views of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Seed of the run.
    pub seed: u64,
    /// Position of the image in its split.
    pub index: u32,
    /// Epoch from 0.
    pub epoch: u32,
    /// Which of the image's views, from 0.
    pub view: u16,
}

/// Views begin here, so that their numbers are not those of crops and corruptions.
const FIRST_VIEW: u16 = 1024;

/// The plain changes. Corruptions that a test may use are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Change {
    AutoContrast,
    Equalize,
    Posterize,
    Rotate,
    Solarize,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

impl Change {
    /// All of them.
    pub const ALL: [Change; 9] = [
        Change::AutoContrast,
        Change::Equalize,
        Change::Posterize,
        Change::Rotate,
        Change::Solarize,
        Change::ShearX,
        Change::ShearY,
        Change::TranslateX,
        Change::TranslateY,
    ];

    /// Changes an image `[C, H, W]` of bytes. `level` is 0 to 10; `turned` takes the opposite direction where there is one.
    pub fn apply(self, image: &mut [u8], shape: [usize; 3], level: f32, turned: bool) {
        let [_, h, w] = shape;
        let part = |most: f32| level * most / 10.0;
        let sign = if turned { -1.0 } else { 1.0 };
        match self {
            Change::AutoContrast => each_table(image, h * w, auto_contrast),
            Change::Equalize => each_table(image, h * w, equalize),
            Change::Posterize => {
                let mask = !((1u16 << (8 - (4 - part(4.0) as u16).max(1))) - 1) as u8;
                image.iter_mut().for_each(|b| *b &= mask);
            }
            Change::Solarize => {
                let threshold = 256 - part(256.0) as u16;
                image.iter_mut().filter(|b| u16::from(**b) >= threshold).for_each(|b| *b = 255 - *b);
            }
            Change::Rotate => {
                let (sin, cos) = (sign * part(30.0).trunc()).to_radians().sin_cos();
                let (cx, cy) = (w as f32 / 2.0, h as f32 / 2.0);
                affine(image, shape, [cos, sin, cx - cos * cx - sin * cy, -sin, cos, cy + sin * cx - cos * cy]);
            }
            Change::ShearX => affine(image, shape, [1.0, sign * part(0.3), 0.0, 0.0, 1.0, 0.0]),
            Change::ShearY => affine(image, shape, [1.0, 0.0, 0.0, sign * part(0.3), 1.0, 0.0]),
            Change::TranslateX => affine(image, shape, [1.0, 0.0, sign * part(w as f32 / 3.0).trunc(), 0.0, 1.0, 0.0]),
            Change::TranslateY => affine(image, shape, [1.0, 0.0, 0.0, 0.0, 1.0, sign * part(h as f32 / 3.0).trunc()]),
        }
    }
}

/// AugMix of one image `[C, H, W]` in [0,1]: `(1 - m) image + m sum w_i chain_i(image)`, m uniform, w uniform on the simplex
/// (Beta(1, 1), Dirichlet(1)). Chains start from the image rounded to bytes; the mix is not rounded. Panics for no chains.
pub fn augmix(image: &[f32], shape: [usize; 3], how: AugMix, view: View) -> Vec<f32> {
    assert_eq!(image.len(), shape.iter().product::<usize>(), "an image of {shape:?}");
    assert!(how.width > 0 && how.depth != Some(0) && how.severity >= 0.1, "{how:?}");
    let restart = FIRST_VIEW + view.view;
    let stream = Stream { seed: view.seed, index: view.index, step: view.epoch, purpose: Purpose::Augment, restart };
    let mut drawn = 0;
    let mut draw = || {
        drawn += 1;
        stream.uniform(drawn)
    };
    let below = |u: f32, n: usize| ((u * n as f32) as usize).min(n - 1);
    let exponential: Vec<f32> = (0..how.width).map(|_| -(1.0 - draw()).max(f32::MIN_POSITIVE).ln()).collect();
    let total: f32 = exponential.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    let share = draw();
    let bytes: Vec<u8> = image.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    let mut mix = vec![0.0; image.len()];
    for weight in exponential {
        let mut chain = bytes.clone();
        let depth = how.depth.unwrap_or_else(|| 1 + below(draw(), 3));
        for _ in 0..depth {
            let change = Change::ALL[below(draw(), Change::ALL.len())];
            let level = 0.1 + draw() * (how.severity - 0.1);
            change.apply(&mut chain, shape, level, draw() < 0.5);
        }
        mix.iter_mut().zip(&chain).for_each(|(m, b)| *m += weight / total * f32::from(*b) / 255.0);
    }
    image.iter().zip(mix).map(|(x, m)| (1.0 - share) * x + share * m).collect()
}

/// Every plane through a table made from its histogram.
fn each_table(image: &mut [u8], plane: usize, table: fn(&[usize; 256]) -> Option<[u8; 256]>) {
    for plane in image.chunks_exact_mut(plane) {
        let mut histogram = [0; 256];
        plane.iter().for_each(|b| histogram[usize::from(*b)] += 1);
        if let Some(table) = table(&histogram) {
            plane.iter_mut().for_each(|b| *b = table[usize::from(*b)]);
        }
    }
}

/// Darkest to 0, brightest to 255.
fn auto_contrast(histogram: &[usize; 256]) -> Option<[u8; 256]> {
    let low = histogram.iter().position(|n| *n > 0)?;
    let high = histogram.iter().rposition(|n| *n > 0).filter(|high| *high > low)?;
    let scale = 255.0 / (high - low) as f64;
    // `as` cuts off and clips.
    Some(std::array::from_fn(|i| (i as f64 * scale - low as f64 * scale) as u8))
}

/// As many pixels in each part of the range.
fn equalize(histogram: &[usize; 256]) -> Option<[u8; 256]> {
    let last = *histogram.iter().rfind(|n| **n > 0)?;
    let step = (histogram.iter().sum::<usize>() - last) / 255;
    if step == 0 {
        return None;
    }
    let mut sum = step / 2;
    Some(std::array::from_fn(|i| {
        let value = (sum / step).min(255) as u8;
        sum += histogram[i];
        value
    }))
}

/// Every pixel from `(a x + b y + c, d x + e y + f)`, in coordinates where pixel i is centred at i + 0.5; black where that lies
/// outside, else bilinear with repeated edges.
fn affine(image: &mut [u8], [_, h, w]: [usize; 3], [a, b, c, d, e, f]: [f32; 6]) {
    for plane in image.chunks_exact_mut(h * w) {
        let old = plane.to_vec();
        for (i, value) in plane.iter_mut().enumerate() {
            let (x, y) = ((i % w) as f32 + 0.5, (i / w) as f32 + 0.5);
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            if !((0.0..w as f32).contains(&x) && (0.0..h as f32).contains(&y)) {
                *value = 0;
                continue;
            }
            let (left, top) = ((x - 0.5).floor(), (y - 0.5).floor());
            let (dx, dy) = (x - 0.5 - left, y - 0.5 - top);
            let at = |y: f32, x: f32| {
                f32::from(old[(y.clamp(0.0, h as f32 - 1.0) as usize) * w + x.clamp(0.0, w as f32 - 1.0) as usize])
            };
            let upper = at(top, left) * (1.0 - dx) + at(top, left + 1.0) * dx;
            let lower = at(top + 1.0, left) * (1.0 - dx) + at(top + 1.0, left + 1.0) * dx;
            *value = (upper * (1.0 - dy) + lower * dy + 0.5) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 3] = [1, 4, 4];

    fn changed(change: Change, image: &[u8], level: f32, turned: bool) -> Vec<u8> {
        let mut out = image.to_vec();
        change.apply(&mut out, SHAPE, level, turned);
        out
    }

    #[test]
    fn tables() {
        let ramp: Vec<u8> = (0..16).map(|i| 40 + 10 * i).collect();
        let stretched = changed(Change::AutoContrast, &ramp, 1.0, false);
        assert_eq!((stretched[0], stretched[15], stretched[5]), (0, 255, 85));
        assert_eq!(changed(Change::AutoContrast, &[9; 16], 1.0, false), [9; 16], "one colour stays");
        assert_eq!(changed(Change::Equalize, &ramp, 1.0, false), ramp, "fewer pixels than levels: PIL leaves it");
        assert_eq!(changed(Change::Posterize, &[0xff, 0x1f, 0x0f, 0x37].repeat(4), 3.0, false)[..4], [0xe0, 0x00, 0x00, 0x20]);
        assert_eq!(changed(Change::Posterize, &[0xff, 0x1f].repeat(8), 1.0, false)[..2], [0xf0, 0x10]);
        // Level 3: threshold 256 - 76.
        assert_eq!(changed(Change::Solarize, &[179, 180, 255, 0].repeat(4), 3.0, false)[..4], [179, 75, 0, 0]);
    }

    #[test]
    fn equalize_flattens() {
        let mut image: Vec<u8> = (0..4096).map(|i| 100 + (i % 64 * (i % 64) / 64) as u8).collect();
        Change::Equalize.apply(&mut image, [1, 64, 64], 1.0, false);
        let below = image.iter().filter(|b| **b < 128).count();
        assert!((1700..2400).contains(&below), "{below} of 4096 below the middle");
    }

    #[test]
    fn movements() {
        let image: Vec<u8> = (1..=16).collect();
        // 10 of 10 of a third of 4 pixels: one.
        assert_eq!(changed(Change::TranslateX, &image, 10.0, false)[..4], [2, 3, 4, 0]);
        assert_eq!(changed(Change::TranslateX, &image, 10.0, true)[..4], [0, 1, 2, 3]);
        assert_eq!(changed(Change::TranslateY, &image, 10.0, false)[12..], [0; 4]);
        assert_eq!(changed(Change::Rotate, &image, 0.1, false), image, "less than a degree is none");
        let mut quarter = image.clone();
        affine(&mut quarter, SHAPE, [0.0, 1.0, 0.0, -1.0, 0.0, 4.0]);
        assert_eq!(quarter[..4], [13, 9, 5, 1], "a quarter turn: the first column, upwards");
        assert_eq!(changed(Change::ShearX, &[7; 16], 0.1, false).iter().filter(|b| **b == 7).count(), 16);
    }

    #[test]
    fn a_mix_is_drawn_by_view() {
        let image: Vec<f32> = (0..3072).map(|i| (i * 31 % 255) as f32 / 255.0).collect();
        let shape = [3, 32, 32];
        let view = View { seed: 1, index: 5, epoch: 2, view: 0 };
        let of = |how, view| augmix(&image, shape, how, view);
        let first = of(AugMix::default(), view);
        assert_eq!(first, of(AugMix::default(), view));
        for other in [View { view: 1, ..view }, View { epoch: 3, ..view }, View { index: 6, ..view }, View { seed: 2, ..view }] {
            assert_ne!(first, of(AugMix::default(), other));
        }
        for how in [AugMix { severity: 10.0, ..AugMix::default() }, AugMix { width: 1, depth: Some(4), severity: 1.0 }] {
            let mix = of(how, view);
            assert_ne!(mix, first);
            assert!(mix.iter().all(|v| (0.0..=1.0 + 1e-6).contains(v)), "{how:?}");
        }
    }

    #[test]
    fn weights_make_a_mean() {
        // No change makes black brighter at this severity, and nothing else comes in.
        let black = augmix(&[0.0; 48], [3, 4, 4], AugMix::default(), View::default());
        assert!(black.iter().all(|v| *v == 0.0), "{black:?}");
    }
}
