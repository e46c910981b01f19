//! Crops and flips of training images, each drawn by (seed, image, epoch) and so the same in every batch and on resume.
//! Must not know batches or networks.

use crate::rng::{Purpose, Stream};

/// How training images are varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augment {
    /// Black pixels put around the image before it is cropped to its size at a random place; 0 = no crop.
    pub pad: usize,
    /// Whether half of the images are mirrored left to right.
    pub flip: bool,
    /// Side of a black square somewhere in the image, part of it beyond the edge where it comes so; 0 = none.
    /// DeVries and Taylor 2017, <https://arxiv.org/abs/1708.04552>.
    pub cutout: usize,
}

/// Which image in which epoch of which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Seed of the run.
    pub seed: u64,
    /// Position of the image in its split.
    pub index: u32,
    /// Epoch from 0.
    pub epoch: u32,
}

impl Augment {
    /// Writes the variation of `from` into `to`; both are `[C, H, W]` of `shape`.
    pub fn apply(self, draw: Draw, shape: [usize; 3], from: &[f32], to: &mut [f32]) {
        let [c, h, w] = shape;
        assert!(from.len() == c * h * w && to.len() == from.len(), "{} values are no image of {c}x{h}x{w}", from.len());
        let stream = Stream { seed: draw.seed, index: draw.index, step: draw.epoch, purpose: Purpose::Augment, restart: 0 };
        let [top, left] = [0, 1].map(|i| below(stream.bits(i), 2 * self.pad + 1));
        let mirrored = self.flip && below(stream.bits(2), 2) == 1;
        for (row, line) in to.chunks_exact_mut(w).enumerate() {
            let (plane, y) = (row / h, row % h + top);
            let source = (self.pad..self.pad + h).contains(&y).then(|| &from[(plane * h + y - self.pad) * w..][..w]);
            for (x, value) in line.iter_mut().enumerate() {
                let x = if mirrored { w - 1 - x } else { x } + left;
                let inside = (self.pad..self.pad + w).contains(&x);
                *value = source.filter(|_| inside).map_or(0.0, |line| line[x - self.pad]);
            }
        }
        if self.cutout > 0 {
            let [middle_y, middle_x] = [(3, h), (4, w)].map(|(i, side)| below(stream.bits(i), side));
            let span = |middle: usize, side: usize| {
                let end = middle + self.cutout - self.cutout / 2;
                end.saturating_sub(self.cutout)..end.min(side)
            };
            for row in (0..c).flat_map(|plane| span(middle_y, h).map(move |y| plane * h + y)) {
                to[row * w..][span(middle_x, w)].fill(0.0);
            }
        }
    }
}

/// An integer below `n`, from 32 random bits.
pub(super) fn below(bits: u32, n: usize) -> usize {
    ((u64::from(bits) * n as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SHAPE: [usize; 3] = [2, 5, 6];

    /// Every pixel its own number above 0.
    fn image() -> Vec<f32> {
        (1..=60).map(|v| v as f32).collect()
    }

    fn varied(augment: Augment, draw: Draw) -> Vec<f32> {
        let mut out = vec![f32::NAN; 60];
        augment.apply(draw, SHAPE, &image(), &mut out);
        out
    }

    /// The image shifted by whole pixels over black, mirrored or not: the plain definition.
    fn moved(down: isize, right: isize, mirrored: bool) -> Vec<f32> {
        let [c, h, w] = SHAPE;
        let at = |i: usize| {
            let (plane, y, x) = (i / (h * w), (i / w % h) as isize - down, i % w);
            let x = (if mirrored { w - 1 - x } else { x }) as isize - right;
            let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
            if inside { image()[plane * h * w + y as usize * w + x as usize] } else { 0.0 }
        };
        (0..c * h * w).map(at).collect()
    }

    #[test]
    fn every_crop_and_flip_occurs_and_nothing_else() {
        let wanted: BTreeSet<Vec<u32>> = (-2..=2)
            .flat_map(|d| (-2..=2).flat_map(move |r| [moved(d, r, false), moved(d, r, true)]))
            .map(|v| v.iter().map(|p| p.to_bits()).collect())
            .collect();
        let augment = Augment { pad: 2, flip: true, cutout: 0 };
        let seen: BTreeSet<Vec<u32>> = (0..2000)
            .map(|i| varied(augment, Draw { seed: 1, index: i % 500, epoch: i / 500 }).iter().map(|p| p.to_bits()).collect())
            .collect();
        assert_eq!(seen, wanted);
    }

    #[test]
    fn nothing_asked_nothing_changed() {
        let none = Augment { pad: 0, flip: false, cutout: 0 };
        assert!((0..50).all(|index| varied(none, Draw { seed: 3, index, epoch: 0 }) == image()));
    }

    #[test]
    fn a_square_is_cut_out_whole_inside_and_in_part_at_the_edge() {
        let cut = Augment { pad: 0, flip: false, cutout: 3 };
        let mut sizes = BTreeSet::new();
        for index in 0..400 {
            let out = varied(cut, Draw { seed: 2, index, epoch: 0 });
            let gone: Vec<usize> = (0..30).filter(|&i| out[i] == 0.0).collect();
            assert!((0..60).all(|i| if gone.contains(&(i % 30)) { out[i] == 0.0 } else { out[i] == image()[i] }), "both planes");
            let side = |of: fn(usize) -> usize| gone.iter().map(|&i| of(i)).collect::<BTreeSet<_>>().len();
            let (rows, cols) = (side(|i| i / 6), side(|i| i % 6));
            assert_eq!(gone.len(), rows * cols, "a rectangle");
            sizes.insert((rows, cols));
        }
        assert_eq!(sizes, [(2, 2), (2, 3), (3, 2), (3, 3)].into());
    }

    #[test]
    fn half_are_mirrored() {
        let flip = Augment { pad: 0, flip: true, cutout: 0 };
        let count = (0..2000).filter(|&index| varied(flip, Draw { seed: 5, index, epoch: 2 }) != image()).count();
        assert!((900..1100).contains(&count), "{count} of 2000 mirrored");
    }
}
