//! Ten classes of figures and textures, painted on demand: a set that is always at hand.
//! Knows no file. Each image follows from (seed, split, row) alone, with arithmetic that is the same on every machine.
//!
//! Colours, polarity, place, size and turn are drawn anew for every image, so that a pixel by itself says next to
//! nothing of the class (a linear classifier stays near guessing) while edges and corners say everything.

use super::{Opened, Source, Split};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::f32::consts::FRAC_1_SQRT_2;
use std::ops::Range;

/// Pixels a side.
const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;

/// A class is a position in this list; the class of row r is r % 10.
const CLASSES: [&str; 10] = [
    "horizontal stripes",
    "vertical stripes",
    "diagonal stripes",
    "checkerboard",
    "rings",
    "disc",
    "frame",
    "cross",
    "triangle",
    "dots",
];

/// One split of the set of one seed.
#[derive(Debug)]
pub(super) struct Synthetic {
    seed: u64,
    split: Split,
}

/// Opens the set of `seed`, 0 where it is empty: 20,000 images to train with, 2,000 to test.
pub(super) fn open(seed: &str, split: Split) -> Result<Opened> {
    let seed = if seed.is_empty() { Ok(0) } else { seed.parse() };
    let seed = seed.map_err(|_| Error::usage("the seed of `synthetic:SEED` must be a number from 0"))?;
    let count = match split {
        Split::Train => 20_000,
        Split::Test => 2_000,
    };
    Ok(Opened {
        source: Source::Synthetic(Synthetic { seed, split }),
        shape: [3, SIDE, SIDE],
        count,
        labels: Some((0..count).map(|row| class_of(row) as i32).collect()),
        index: None,
        class_names: CLASSES.map(str::to_owned).to_vec(),
    })
}

impl Synthetic {
    /// The images `rows` as NCHW bytes.
    pub fn read(&self, rows: Range<usize>) -> Vec<u8> {
        let mut out = vec![0; rows.len() * 3 * PIXELS];
        out.par_chunks_exact_mut(3 * PIXELS).zip(rows).for_each(|(out, row)| {
            let split = match self.split {
                Split::Test => 0,
                Split::Train => 1,
            };
            let key = mix(mix(mix(self.seed).wrapping_add(split)).wrapping_add(row as u64));
            paint(class_of(row), &mut Draw(key), out);
        });
        out
    }
}

fn class_of(row: usize) -> usize {
    row % CLASSES.len()
}

/// Paints an image of `class` as `[3, 32, 32]`.
fn paint(class: usize, draw: &mut Draw, out: &mut [u8]) {
    let figure = Figure::draw(class, draw);
    let ground: [f32; 3] = std::array::from_fn(|_| draw.between(0.1, 0.9));
    let ink = contrasting(ground, draw);
    // Light falls off across the image, for each colour in its own direction.
    let light: [[f32; 2]; 3] = std::array::from_fn(|_| [draw.between(-0.008, 0.008), draw.between(-0.008, 0.008)]);
    for p in 0..PIXELS {
        let (x, y) = ((p % SIDE) as f32 - 15.5, (p / SIDE) as f32 - 15.5);
        let cover = (0.5 - figure.distance(x, y)).clamp(0.0, 1.0);
        for c in 0..3 {
            let value = ground[c] + (ink[c] - ground[c]) * cover + light[c][0] * x + light[c][1] * y;
            let noise = 0.06 * (draw.between(-1.0, 1.0) + draw.between(-1.0, 1.0));
            out[c * PIXELS + p] = ((value + noise) * 255.0).round().clamp(0.0, 255.0) as u8;
        }
    }
}

/// A colour that differs from `ground` by at least a fifth of the range on average.
fn contrasting(ground: [f32; 3], draw: &mut Draw) -> [f32; 3] {
    loop {
        let ink: [f32; 3] = std::array::from_fn(|_| draw.between(0.0, 1.0));
        let sum: f32 = (0..3).map(|c| ink[c] - ground[c]).sum();
        if sum.abs() > 0.6 {
            return ink;
        }
    }
}

/// Where and how the figure of a class lies; lengths in pixels from the middle of the image.
struct Figure {
    class: usize,
    centre: [f32; 2],
    /// Cosine and sine of the turn.
    turn: [f32; 2],
    /// Radius or half a side of a figure, period of a texture.
    size: f32,
    /// Half the thickness of a line, radius of a dot.
    width: f32,
    dots: Vec<[f32; 2]>,
}

impl Figure {
    fn draw(class: usize, draw: &mut Draw) -> Self {
        let (size, room, tilt) = match class {
            0..=2 => (draw.between(4.0, 10.0), 16.0, 0.07),
            3 => (draw.between(6.0, 12.0), 16.0, 0.1),
            4 => (draw.between(4.5, 8.0), 7.0, 0.0),
            5 => (draw.between(6.0, 11.0), 6.0, 0.0),
            6 => (draw.between(6.0, 10.0), 4.0, 0.4),
            7 => (draw.between(8.0, 12.0), 4.0, 0.4),
            8 => (draw.between(4.5, 7.0), 4.0, 0.55),
            _ => (0.0, 0.0, 0.0),
        };
        let base = match class {
            0 => [0.0, 1.0],
            2 if draw.unit() < 0.5 => [FRAC_1_SQRT_2, FRAC_1_SQRT_2],
            2 => [FRAC_1_SQRT_2, -FRAC_1_SQRT_2],
            _ => [1.0, 0.0],
        };
        // The tangent of half the angle gives both without a library's sine, which differs between machines.
        let t = draw.between(-tilt, tilt);
        let (cos, sin) = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
        Figure {
            class,
            centre: [draw.between(-room, room), draw.between(-room, room)],
            turn: [base[0] * cos - base[1] * sin, base[0] * sin + base[1] * cos],
            size,
            width: draw.between(1.2, 2.0),
            dots: if class == 9 { dots(draw) } else { Vec::new() },
        }
    }

    /// Signed distance to the edge of the ink, negative inside.
    fn distance(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x - self.centre[0], y - self.centre[1]);
        let (u, v) = (x * self.turn[0] + y * self.turn[1], y * self.turn[0] - x * self.turn[1]);
        let r = (u * u + v * v).sqrt();
        match self.class {
            0..=2 => stripes(u, self.size),
            3 => {
                let (a, b) = (stripes(u, self.size), stripes(v, self.size));
                a.abs().min(b.abs()) * if (a < 0.0) == (b < 0.0) { -1.0 } else { 1.0 }
            }
            4 => stripes(r, self.size),
            5 => r - self.size,
            6 => (u.abs().max(v.abs()) - self.size).abs() - self.width,
            7 => {
                let bar = |along: f32, across: f32| (along.abs() - self.size).max(across.abs() - self.width);
                bar(u, v).min(bar(v, u))
            }
            8 => (-v).max(0.75_f32.sqrt() * u.abs() + 0.5 * v) - self.size,
            _ => {
                let nearest = |best: f32, dot: &[f32; 2]| best.min((x - dot[0]) * (x - dot[0]) + (y - dot[1]) * (y - dot[1]));
                self.dots.iter().fold(f32::INFINITY, nearest).sqrt() - self.width
            }
        }
    }
}

/// Distance to the nearest of the stripes at the multiples of `period`, half a period wide.
fn stripes(at: f32, period: f32) -> f32 {
    (at - period * (at / period).round()).abs() - 0.25 * period
}

/// Somewhere between 6 and 16 dots that do not touch: one at most in each square of 8 pixels.
fn dots(draw: &mut Draw) -> Vec<[f32; 2]> {
    let mut dots = Vec::new();
    while dots.len() < 6 {
        dots.clear();
        for cell in 0..16 {
            let corner = [(cell % 4) as f32 * 8.0 - 16.0, (cell / 4) as f32 * 8.0 - 16.0];
            let dot = corner.map(|c| c + draw.between(2.0, 6.0));
            if draw.unit() < 0.6 {
                dots.push(dot);
            }
        }
    }
    dots
}

/// The random numbers of one image: a counter passed through [`mix`] (splitmix64, Steele et al. 2014).
struct Draw(u64);

impl Draw {
    /// Uniform in [0,1).
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 40) as f32 / (1 << 24) as f32
    }
    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }
}

/// A bijection of 64 bits in which every bit of the input changes about half of the output.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_depends_on_seed_split_and_row_alone() {
        let set = |seed, split| Synthetic { seed, split };
        let all = set(1, Split::Test).read(0..40);
        assert_eq!(all[30 * 3072..], set(1, Split::Test).read(30..40));
        assert_ne!(all, set(2, Split::Test).read(0..40));
        assert_ne!(all, set(1, Split::Train).read(0..40));
        let mut images: Vec<&[u8]> = all.chunks(3072).collect();
        images.sort();
        images.dedup();
        assert_eq!(images.len(), 40, "no image twice");
    }

    #[test]
    fn the_bytes_of_a_seed_never_change() {
        // Published numbers name a seed: whoever changes the painting must give the set another name.
        let sum = Synthetic { seed: 0, split: Split::Test }.read(0..100).iter().fold(0, |sum, &b| mix(sum ^ u64::from(b)));
        assert_eq!(sum, 4_383_845_158_893_932_590);
    }

    #[test]
    fn seeds_are_numbers() {
        assert!(open("", Split::Test).is_ok() && open("18446744073709551615", Split::Train).is_ok());
        assert!(open("-1", Split::Test).is_err() && open("x", Split::Test).is_err());
    }
}
