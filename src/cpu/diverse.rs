//! Images resized into a frame of zeros by chance, and the exact adjoint for their gradients.
//! Must not know attacks; images are independent.
//! Xie et al. 2019, <https://arxiv.org/abs/1803.06978>.

use rayon::prelude::*;

use super::momentum::Draws;
use crate::graph::Diversity;

/// The element of the image's stream at which its four draws begin: no image is as large.
const FIRST: u32 = 0xffff_fff0;

/// One side of an image: pixels, pixels when resized, zeros before these, pixels of the frame.
#[derive(Clone, Copy)]
struct Side {
    size: usize,
    resized: usize,
    before: usize,
    frame: usize,
}

impl Side {
    fn draw(diversity: &Diversity, size: usize, resized: u32, before: u32) -> Self {
        let [low, choices, frame] = diversity.sides(size);
        let below = |bits: u32, n: usize| ((u64::from(bits) * n as u64) >> 32) as usize;
        let resized = low + below(resized, choices);
        Side { size, resized, before: below(before, (frame - resized).max(1)), frame }
    }
    /// The pixels of the image that pixel `i` of the result is made of, with their weights; at most four.
    fn parts(&self, i: usize) -> Vec<(usize, f32)> {
        let framed = linear(i, self.frame, self.size).into_iter().filter(|&(_, weight)| weight != 0.0);
        let mut parts = Vec::with_capacity(4);
        for (at, weight) in framed {
            let Some(inner) = at.checked_sub(self.before).filter(|&inner| inner < self.resized) else { continue };
            let sources = linear(inner, self.size, self.resized).into_iter().filter(|&(_, weight)| weight != 0.0);
            parts.extend(sources.map(|(source, share)| (source, weight * share)));
        }
        parts
    }
    fn table(&self) -> Vec<Vec<(usize, f32)>> {
        (0..self.size).map(|i| self.parts(i)).collect()
    }
    /// For each pixel of the image the pixels of the result that it is a part of.
    fn transposed(&self) -> Vec<Vec<(usize, f32)>> {
        let mut out = vec![Vec::new(); self.size];
        for (i, parts) in self.table().into_iter().enumerate() {
            parts.into_iter().for_each(|(at, weight)| out[at].push((i, weight)));
        }
        out
    }
}

/// The two pixels of `from` that lie around pixel `i` of `to`, with their weights.
fn linear(i: usize, from: usize, to: usize) -> [(usize, f32); 2] {
    let place = (from as f32 / to as f32 * (i as f32 + 0.5) - 0.5).max(0.0);
    let low = (place as usize).min(from - 1);
    let share = place - low as f32;
    [(low, 1.0 - share), ((low + 1).min(from - 1), share)]
}

/// [`Diversity`] on images of `hwc`, or its adjoint.
pub(crate) fn diversify(diversity: &Diversity, adjoint: bool, hwc: [usize; 3], x: &[f32], draws: Draws, out: &mut [f32]) {
    let [h, w, c] = hwc;
    let len = h * w * c;
    x.par_chunks(len).zip(out.par_chunks_mut(len)).enumerate().for_each(|(n, (x, out))| {
        let stream = draws.stream(n);
        if stream.uniform(FIRST) >= diversity.probability {
            return out.copy_from_slice(x);
        }
        let [resized, top, left] = [1, 2, 3].map(|i| stream.bits(FIRST + i));
        let (rows, columns) = (Side::draw(diversity, h, resized, top), Side::draw(diversity, w, resized, left));
        let [rows, columns] = [rows, columns].map(|side| if adjoint { side.transposed() } else { side.table() });
        for (i, out) in out.iter_mut().enumerate() {
            let (pixel, channel) = (i / c, i % c);
            let mut sum = 0.0f32;
            for &(row, a) in &rows[pixel / w] {
                for &(column, b) in &columns[pixel % w] {
                    sum += a * b * x[(row * w + column) * c + channel];
                }
            }
            *out = sum;
        }
    });
}
