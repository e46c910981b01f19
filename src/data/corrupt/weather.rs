//! Weather: snow, frost, fog, bright light.
//! Must not know severities, except that snow has seven numbers for each.

use super::blur;
use super::plane::{Outside, Picture, plasma};
use crate::rng::Stream;

/// Mean and deviation of the flakes, their size, below which a flake is none, length and spread of their fall, and how much of
/// the picture's own light stays.
const SNOW: [[f32; 7]; 5] = [
    [0.1, 0.2, 1.0, 0.6, 8.0, 3.0, 0.95],
    [0.1, 0.2, 1.0, 0.5, 10.0, 4.0, 0.9],
    [0.15, 0.3, 1.75, 0.55, 10.0, 4.0, 0.9],
    [0.25, 0.3, 2.25, 0.6, 12.0, 6.0, 0.85],
    [0.3, 0.3, 1.25, 0.65, 14.0, 12.0, 0.8],
];

/// Flakes that fall at an angle, over a picture that turns pale.
pub fn snow(picture: &mut Picture, level: usize, grown: f32, stream: &Stream) {
    let [mean, spread, size, least, length, sigma, stays] = SNOW[level];
    let (height, width) = (picture.height, picture.width);
    let mut noise = vec![0.0; height * width];
    stream.fill_normal(&mut noise);
    noise.iter_mut().for_each(|v| *v = mean + spread * *v);
    let mut flakes = Picture { channels: 1, height, width, data: noise };
    let from = |i: usize, n: usize| (i as f32 + 0.5 - n as f32 / 2.0) / size + n as f32 / 2.0 - 0.5;
    flakes.warp(|y, x| (from(y, height), from(x, width)), Outside::Mirror);
    flakes.data.iter_mut().for_each(|v| *v = if *v < least { 0.0 } else { v.min(1.0) });
    // -135 to -45 degrees: downwards.
    let angle = -135.0 + 90.0 * stream.uniform(u32::MAX);
    blur::motion(&mut flakes, length * grown / 2.0, sigma * grown, angle);
    let grey: Vec<f32> = (0..height * width).map(|p| luminance(picture, p)).collect();
    let pixels = picture.size();
    for (i, v) in picture.data.iter_mut().enumerate() {
        let p = i % pixels;
        // As much again lies upside down.
        let white = flakes.data[p] + flakes.data[pixels - 1 - p];
        *v = stays * *v + (1.0 - stays) * v.max(grey[p] * 1.5 + 0.5) + white;
    }
}

/// Grows crystals over the picture: `image` of it and `frost` of them. Ridges of a plasma at two scales, bright towards blue.
pub fn frost(picture: &mut Picture, image: f32, frost: f32, stream: &Stream) {
    let (height, width, pixels) = (picture.height, picture.width, picture.size());
    let coarse = plasma(height, width, 1.8, stream);
    let fine = plasma(height, width, 1.3, &Stream { step: 2, ..*stream });
    let ridge = |v: f32| 1.0 - (2.0 * v - 1.0).abs();
    for (i, v) in picture.data.iter_mut().enumerate() {
        let p = i % pixels;
        let crystal = (0.55 * ridge(coarse[p]).powi(2) + 0.6 * ridge(fine[p]).powi(3)).min(1.0);
        let tint = if i / pixels + 1 == picture.channels { 1.0 } else { 0.88 };
        *v = image * *v + frost * crystal * tint;
    }
}

/// Mixes a cloud in, and keeps the brightest value where it was.
pub fn fog(picture: &mut Picture, amount: f32, decay: f32, stream: &Stream) {
    let cloud = plasma(picture.height, picture.width, decay, stream);
    let most = picture.data.iter().fold(0.0f32, |m, v| m.max(*v));
    let pixels = picture.size();
    for (i, v) in picture.data.iter_mut().enumerate() {
        *v = (*v + amount * cloud[i % pixels]) * most / (most + amount);
    }
}

/// Raises the value of HSV: every channel by the factor that the largest grows by.
pub fn brightness(picture: &mut Picture, more: f32) {
    let pixels = picture.size();
    for p in 0..pixels {
        let value = (0..picture.channels).map(|c| picture.data[c * pixels + p]).fold(0.0f32, f32::max);
        let to = (value + more).min(1.0);
        for c in 0..picture.channels {
            let v = &mut picture.data[c * pixels + p];
            *v = if value > 0.0 { *v * to / value } else { to };
        }
    }
}

/// Luminance of three channels, else their mean.
fn luminance(picture: &Picture, p: usize) -> f32 {
    let weight = |c: usize| if picture.channels == 3 { [0.299, 0.587, 0.114][c] } else { 1.0 / picture.channels as f32 };
    (0..picture.channels).map(|c| weight(c) * picture.data[c * picture.size() + p]).sum()
}
