//! Corruptions: drawn by image, growing with severity, and each doing what its name says.

use super::*;

const SHAPE: [usize; 3] = [3, 32, 32];

/// A smooth picture with an edge.
fn picture(index: usize) -> Vec<u8> {
    let at = |i: usize| {
        let (c, y, x) = (i / 1024, i / 32 % 32, i % 32);
        let smooth = 110.0 + 60.0 * ((y + index) as f32 * 0.31).sin() + 30.0 * (x as f32 * 0.2 + c as f32).cos();
        if x > 20 && y < 14 { 235 } else { smooth as u8 }
    };
    (0..3072).map(at).collect()
}

fn corrupted(kind: Corruption, severity: usize, seed: u64) -> Vec<u8> {
    let mut pixels = picture(0);
    corrupt(&mut pixels, SHAPE, &[7], kind, severity, seed);
    pixels
}

fn distance(a: &[u8], b: &[u8]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn names_and_groups() {
    assert_eq!(Corruption::of("glass_blur"), Some(GlassBlur));
    assert_eq!(Corruption::of("rain"), None);
    let counts = Group::ALL.map(|g| Corruption::ALL.iter().filter(|c| c.group() == g).count());
    assert_eq!(counts, [3, 4, 4, 4]);
    assert!(Corruption::ALL.iter().all(|c| Corruption::of(c.name()) == Some(*c)));
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    for kind in Corruption::ALL {
        let mut batch = [picture(3), picture(0), picture(5)].concat();
        corrupt(&mut batch, SHAPE, &[1, 7, 2], kind, 3, 9);
        assert_eq!(batch[3072..6144], corrupted(kind, 3, 9), "{}", kind.name());
    }
}

#[test]
fn the_worst_severity_is_worse_than_the_mildest() {
    for kind in Corruption::ALL {
        let far: Vec<f64> = (1..=5).map(|s| distance(&corrupted(kind, s, 1), &picture(0))).collect();
        assert!(far.iter().all(|d| *d > 0.0), "{}: {far:?}", kind.name());
        // The published elastic severities trade tilt for pushes: the first is a mere tilt, the strongest of them.
        assert!(kind == ElasticTransform || far[4] > 1.1 * far[0], "{}: {far:?}", kind.name());
    }
}

#[test]
fn what_is_random_follows_the_seed() {
    let fixed = [DefocusBlur, ZoomBlur, Brightness, Contrast, Pixelate, JpegCompression];
    for kind in Corruption::ALL {
        let same = corrupted(kind, 4, 1) == corrupted(kind, 4, 2);
        assert_eq!(same, fixed.contains(&kind), "{}", kind.name());
    }
}

#[test]
fn noise_has_its_strength() {
    let flat = vec![128u8; 3072 * 8];
    let noisy = |kind| {
        let mut pixels = flat.clone();
        corrupt(&mut pixels, SHAPE, &[0, 1, 2, 3, 4, 5, 6, 7], kind, 5, 3);
        pixels
    };
    let deviation = |pixels: &[u8]| {
        let mean = pixels.iter().map(|&b| f64::from(b)).sum::<f64>() / pixels.len() as f64;
        (pixels.iter().map(|&b| (f64::from(b) - mean).powi(2)).sum::<f64>() / pixels.len() as f64).sqrt() / 255.0
    };
    // 24,576 draws: the deviation of a deviation is half a percent of it.
    let gaussian = deviation(&noisy(GaussianNoise));
    assert!((gaussian - 0.10).abs() < 0.003, "{gaussian}");
    let shot = deviation(&noisy(ShotNoise));
    let want = (128.0f64 / 255.0 / 50.0).sqrt();
    assert!((shot / want - 1.0).abs() < 0.03, "{shot} {want}");
    let dead = noisy(ImpulseNoise).iter().filter(|b| **b != 128).count() as f64 / flat.len() as f64;
    assert!((dead - 0.07).abs() < 0.007, "{dead}");
}

#[test]
fn light_is_kept_or_raised() {
    let mean = |p: &[u8]| p.iter().map(|&b| f64::from(b)).sum::<f64>() / p.len() as f64;
    let before = mean(&picture(0));
    for kind in [DefocusBlur, Contrast, Pixelate, JpegCompression] {
        let after = mean(&corrupted(kind, 3, 0));
        assert!((after - before).abs() < 3.0, "{}: {before} {after}", kind.name());
    }
    for kind in [Brightness, Snow] {
        assert!(mean(&corrupted(kind, 3, 0)) > before, "{}", kind.name());
    }
    let mut flat = vec![100u8; 3072];
    for kind in [DefocusBlur, GlassBlur, MotionBlur, ZoomBlur, ElasticTransform, Pixelate, JpegCompression, Contrast] {
        corrupt(&mut flat, SHAPE, &[0], kind, 5, 0);
        assert!(flat.iter().all(|&b| b.abs_diff(100) <= 1), "{} of one colour", kind.name());
    }
}

#[test]
fn every_size_and_channel_count() {
    for shape in [[1, 8, 8], [3, 9, 14], [3, 70, 64]] {
        let elems = shape.iter().product::<usize>();
        for kind in Corruption::ALL {
            let mut pixels: Vec<u8> = (0..elems).map(|i| (i * 37 % 251) as u8).collect();
            corrupt(&mut pixels, shape, &[0], kind, 5, 0);
        }
    }
}
