//! Moving elements without computing: joins, slices, shortcuts, and the two orders of a feature map.
//! Must not know what the elements mean.

use rayon::prelude::*;

use super::rows::row_len;
use crate::tensor::{chw_to_hwc, hwc_to_chw};

/// Pixels that one thread takes at a time.
const PIXELS: usize = 256;

/// Joins `inputs`, each with its channel count, along the last dimension.
pub(crate) fn concat(inputs: &[(&[f32], usize)], y: &mut [f32]) {
    let total: usize = inputs.iter().map(|&(_, c)| c).sum();
    let pixels = row_len(total, y.len());
    for &(x, c) in inputs {
        assert_eq!(x.len(), pixels * c, "concat: an input is not {pixels} pixels of {c} channels");
    }
    y.par_chunks_mut(total * PIXELS).enumerate().for_each(|(part, y)| {
        for (i, mut y) in y.chunks_exact_mut(total).enumerate() {
            for &(x, c) in inputs {
                let (head, rest) = y.split_at_mut(c);
                head.copy_from_slice(&x[(part * PIXELS + i) * c..][..c]);
                y = rest;
            }
        }
    });
}

/// `len` of the `c` channels of `x` from `start` on.
pub(crate) fn slice_channels(c: usize, start: usize, len: usize, x: &[f32], y: &mut [f32]) {
    assert!(start + len <= c, "channels {start}..{} of {c}", start + len);
    assert_eq!(x.len() / c, y.len() / len, "slice: different numbers of pixels");
    y.par_chunks_mut(len * PIXELS).zip(x.par_chunks(c * PIXELS)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(len).zip(x.chunks_exact(c)) {
            y.copy_from_slice(&x[start..start + len]);
        }
    });
}

/// Zeros in `total` channels, with the `c` channels of `g` from `start` on: the adjoint of [`slice_channels`].
pub(crate) fn pad_channels(c: usize, start: usize, total: usize, g: &[f32], y: &mut [f32]) {
    assert!(start + c <= total, "channels {start}..{} of {total}", start + c);
    assert_eq!(g.len() / c, y.len() / total, "pad: different numbers of pixels");
    y.par_chunks_mut(total * PIXELS).zip(g.par_chunks(c * PIXELS)).for_each(|(y, g)| {
        for (y, g) in y.chunks_exact_mut(total).zip(g.chunks_exact(c)) {
            y.fill(0.0);
            y[start..start + c].copy_from_slice(g);
        }
    });
}

/// A parameter-free shortcut: every `stride`-th pixel, with zero channels in front and behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortcut {
    pub stride: usize,
    /// Zero channels in front.
    pub before: usize,
    /// Zero channels behind.
    pub after: usize,
}

impl Shortcut {
    /// Output height, width and channels for an input of `hwc`.
    fn out(self, hwc: [usize; 3]) -> [usize; 3] {
        [hwc[0].div_ceil(self.stride), hwc[1].div_ceil(self.stride), self.before + hwc[2] + self.after]
    }
}

/// `x [N, hwc]` through the shortcut.
pub(crate) fn subsample_pad(by: Shortcut, n: usize, hwc: [usize; 3], x: &[f32], y: &mut [f32]) {
    let ([h, w, c], [p, q, k]) = (hwc, by.out(hwc));
    assert!(x.len() == n * h * w * c && y.len() == n * p * q * k, "{by:?} of {n} x {hwc:?}");
    y.par_chunks_mut(p * q * k).zip(x.par_chunks(h * w * c)).for_each(|(y, x)| {
        for (i, y) in y.chunks_exact_mut(k).enumerate() {
            let from = (i / q * by.stride * w + i % q * by.stride) * c;
            y.fill(0.0);
            y[by.before..by.before + c].copy_from_slice(&x[from..from + c]);
        }
    });
}

/// The adjoint of [`subsample_pad`]; `hwc` is its input's.
pub(crate) fn subsample_pad_grad(by: Shortcut, n: usize, hwc: [usize; 3], g: &[f32], dx: &mut [f32]) {
    let ([h, w, c], [p, q, k]) = (hwc, by.out(hwc));
    assert!(dx.len() == n * h * w * c && g.len() == n * p * q * k, "{by:?} backwards to {n} x {hwc:?}");
    dx.par_chunks_mut(h * w * c).zip(g.par_chunks(p * q * k)).for_each(|(dx, g)| {
        dx.fill(0.0);
        for (i, g) in g.chunks_exact(k).enumerate() {
            let to = (i / q * by.stride * w + i % q * by.stride) * c;
            dx[to..to + c].copy_from_slice(&g[by.before..by.before + c]);
        }
    });
}

/// `hw` pixels of each of `n` images `x` of `hwc`, the first of them at `from`, `fill` where the image has none.
pub(crate) fn window(n: usize, hwc: [usize; 3], from: [isize; 2], hw: [usize; 2], fill: f32, x: &[f32], y: &mut [f32]) {
    let ([h, w, c], [p, q]) = (hwc, hw);
    assert!(x.len() == n * h * w * c && y.len() == n * p * q * c, "{p}x{q} of {n} x {hwc:?} from {from:?}");
    // Columns of the result that the image has.
    let first = from[1].min(0).unsigned_abs().min(q);
    let end = (w as isize - from[1]).clamp(first as isize, q as isize) as usize;
    y.par_chunks_mut(q * c).enumerate().for_each(|(row, y)| {
        let Some(i) = (row % p).checked_add_signed(from[0]).filter(|&i| i < h) else { return y.fill(fill) };
        let (left, rest) = y.split_at_mut(first * c);
        let (middle, right) = rest.split_at_mut((end - first) * c);
        left.fill(fill);
        right.fill(fill);
        if !middle.is_empty() {
            let column = first.checked_add_signed(from[1]).expect("the first column lies on the image");
            middle.copy_from_slice(&x[((row / p * h + i) * w + column) * c..][..middle.len()]);
        }
    });
}

/// `[N, H, W, C]` to `[N, C*H*W]` in the order of PyTorch's flatten.
pub(crate) fn flatten(n: usize, [h, w, c]: [usize; 3], x: &[f32], y: &mut [f32]) {
    assert!(x.len() == n * h * w * c && y.len() == x.len(), "flatten {} values as {n} x {h}x{w}x{c}", x.len());
    let len = h * w * c;
    y.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(y, x)| hwc_to_chw(x, (h, w, c), y));
}

/// The inverse of [`flatten`].
pub(crate) fn unflatten(n: usize, [h, w, c]: [usize; 3], x: &[f32], y: &mut [f32]) {
    assert!(x.len() == n * h * w * c && y.len() == x.len(), "unflatten {} values as {n} x {h}x{w}x{c}", x.len());
    let len = h * w * c;
    y.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(y, x)| chw_to_hwc(x, (h, w, c), y));
}

/// Row `index` of `x`, rows as long as `y`.
pub(crate) fn row(index: usize, x: &[f32], y: &mut [f32]) {
    let len = y.len();
    assert!((index + 1) * len <= x.len(), "row {index} of {} values, {len} a row", x.len());
    y.copy_from_slice(&x[index * len..][..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1, 2, 3, ..
    fn count(len: usize) -> Vec<f32> {
        (1..=len).map(|v| v as f32).collect()
    }

    #[test]
    fn concat_then_slice_gives_the_parts_back() {
        // More pixels than one thread takes at a time.
        let pixels = PIXELS + 3;
        let parts = [count(pixels * 2), count(pixels), count(pixels * 5)];
        let mut y = vec![f32::NAN; pixels * 8];
        concat(&[(&parts[0], 2), (&parts[1], 1), (&parts[2], 5)], &mut y);
        assert_eq!(y[8..16], [3.0, 4.0, 2.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
        for (part, (start, len)) in parts.iter().zip([(0, 2), (2, 1), (3, 5)]) {
            let mut back = vec![f32::NAN; pixels * len];
            slice_channels(8, start, len, &y, &mut back);
            assert_eq!(*part, back);
            let mut padded = vec![f32::NAN; y.len()];
            pad_channels(len, start, 8, part, &mut padded);
            for (i, v) in padded.iter().enumerate() {
                assert_eq!(*v, if (start..start + len).contains(&(i % 8)) { y[i] } else { 0.0 });
            }
        }
    }

    #[test]
    fn shortcut_takes_every_second_pixel() {
        let by = Shortcut { stride: 2, before: 1, after: 2 };
        let (n, hwc) = (2, [3, 3, 2]);
        let x = count(36);
        let mut y = vec![f32::NAN; 2 * 4 * 5];
        subsample_pad(by, n, hwc, &x, &mut y);
        assert_eq!(y[..10], [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 5.0, 6.0, 0.0, 0.0]);
        assert_eq!(y[10..15], [0.0, 13.0, 14.0, 0.0, 0.0]);
        assert_eq!(y[20..25], [0.0, 19.0, 20.0, 0.0, 0.0]);
        // <g, f(x)> = <f'(g), x>, in whole numbers.
        let g: Vec<f32> = count(y.len()).iter().map(|v| v * 3.0 % 7.0).collect();
        let mut dx = vec![f32::NAN; x.len()];
        subsample_pad_grad(by, n, hwc, &g, &mut dx);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        assert_eq!(dot(&g, &y), dot(&dx, &x));
    }

    #[test]
    fn flatten_puts_channels_outermost() {
        let (n, hwc) = (2, [2, 3, 4]);
        let x = count(48);
        let (mut y, mut back) = (vec![0.0; 48], vec![0.0; 48]);
        flatten(n, hwc, &x, &mut y);
        for (i, v) in y.iter().enumerate() {
            let (image, c, pixel) = (i / 24, i % 24 / 6, i % 6);
            assert_eq!(*v, x[image * 24 + pixel * 4 + c]);
        }
        unflatten(n, hwc, &y, &mut back);
        assert_eq!(back, x);
    }

    #[test]
    fn windows_pad_crop_and_shift() {
        let x = count(6);
        let run = |from, hw: [usize; 2]| {
            let mut y = vec![f32::NAN; hw[0] * hw[1]];
            window(1, [2, 3, 1], from, hw, 0.0, &x, &mut y);
            y
        };
        assert_eq!(run([-1, 0], [3, 4]), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 0.0]);
        assert_eq!(run([1, 1], [2, 3]), [5.0, 6.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(run([0, 2], [1, 1]), [3.0]);
        assert_eq!(run([0, -5], [1, 2]), [0.0, 0.0], "left of the image");
        assert_eq!(run([0, 7], [1, 2]), [0.0, 0.0], "right of it");
    }

    #[test]
    fn row_of_two() {
        let mut y = [0.0; 3];
        row(1, &count(6), &mut y);
        assert_eq!(y, [4.0, 5.0, 6.0]);
    }
}
