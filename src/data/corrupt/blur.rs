//! Blurs: out of focus, through glass, in motion, while zooming.
//! Must not know severities.

use super::plane::{Outside, Picture, correlate, sample};
use crate::rng::Stream;

/// A lens out of focus: a disc of `radius`, its edge softened by `soft`.
pub fn defocus(picture: &mut Picture, radius: f32, soft: f32) {
    let reach = (radius + 4.0 * soft).ceil() as i64;
    let side = (2 * reach + 1) as usize;
    let mut disc: Vec<f32> = (0..side * side)
        .map(|i| {
            let (y, x) = ((i / side) as f32 - reach as f32, (i % side) as f32 - reach as f32);
            f32::from(u8::from(y * y + x * x <= radius * radius))
        })
        .collect();
    super::plane::gaussian(&mut disc, side, side, soft);
    let sum: f32 = disc.iter().sum();
    disc.iter_mut().for_each(|v| *v /= sum);
    let (height, width) = (picture.height, picture.width);
    picture.each_plane(|plane| correlate(plane, height, width, &disc, side));
}

/// Rough glass: blurred, pixels swapped with others up to `far` away, `times` over, blurred again.
pub fn glass(picture: &mut Picture, sigma: f32, far: usize, times: usize, stream: &Stream) {
    picture.gaussian(sigma);
    let (height, width, size) = (picture.height, picture.width, picture.size());
    let mut drawn = 0;
    let mut draw = || {
        drawn += 1;
        ((u64::from(stream.bits(drawn)) * (2 * far as u64 + 1)) >> 32) as i64 - far as i64
    };
    for _ in 0..times {
        for y in (far..height.saturating_sub(far)).rev() {
            for x in (far..width.saturating_sub(far)).rev() {
                let (dy, dx) = (draw(), draw());
                let other = ((y as i64 + dy) as usize) * width + (x as i64 + dx) as usize;
                (0..picture.channels).for_each(|c| picture.data.swap(c * size + y * width + x, c * size + other));
            }
        }
    }
    picture.gaussian(sigma);
}

/// A moving camera: a half bell of deviation `sigma` over `radius` pixels along `angle` degrees.
pub fn motion(picture: &mut Picture, radius: f32, sigma: f32, angle: f32) {
    let (sin, cos) = angle.to_radians().sin_cos();
    let steps = 2 * radius.round() as usize + 1;
    let weights: Vec<f32> = (0..steps).map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let (height, width) = (picture.height, picture.width);
    picture.each_plane(|plane| {
        let old = plane.to_vec();
        for (i, v) in plane.iter_mut().enumerate() {
            let (y, x) = ((i / width) as f32, (i % width) as f32);
            let at = |k: usize| sample(&old, height, width, y + k as f32 * sin, x + k as f32 * cos, Outside::Edge);
            *v = weights.iter().enumerate().map(|(k, weight)| weight * at(k)).sum::<f32>() / sum;
        }
    });
}

/// The mean of the picture and of itself enlarged by 1, 1 + `step`, .. below `last`.
pub fn zoom(picture: &mut Picture, last: f32, step: f32) {
    let whole = picture.clone();
    let (height, width) = (picture.height as f32, picture.width as f32);
    let count = ((last - 1.0) / step).round() as usize;
    for k in 0..count {
        let factor = 1.0 + k as f32 * step;
        let mut larger = whole.clone();
        let from = |i: usize, size: f32| (i as f32 + 0.5 - size / 2.0) / factor + size / 2.0 - 0.5;
        larger.warp(|y, x| (from(y, height), from(x, width)), Outside::Edge);
        picture.data.iter_mut().zip(&larger.data).for_each(|(v, z)| *v += z);
    }
    picture.data.iter_mut().for_each(|v| *v /= count as f32 + 1.0);
}
