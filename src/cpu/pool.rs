//! Maximum and average pooling, forward and backward.
//! Must not know graphs; images are independent and every sum has one order.

use std::ops::Range;

use rayon::prelude::*;

use super::rows::row_len;
use crate::graph::Pool;

/// The places of one window that lie on the image.
struct Window {
    rows: Range<usize>,
    cols: Range<usize>,
    /// Row and column of the window's corner, padding included, shifted by the padding to stay positive.
    corner: [usize; 2],
    /// Places that count in an average.
    divisor: f32,
}

impl Window {
    /// The window of output place `at` on an image of `hw`.
    fn new(pool: &Pool, hw: [usize; 2], at: [usize; 2]) -> Self {
        let corner = [at[0] * pool.stride[0], at[1] * pool.stride[1]];
        let on_image = |d: usize| {
            let end = (corner[d] + pool.kernel[d]).saturating_sub(pool.pad[d]).min(hw[d]);
            corner[d].saturating_sub(pool.pad[d])..end
        };
        // PyTorch counts the padding on both sides, not what rounding up adds behind it.
        let counted = |d: usize| (corner[d] + pool.kernel[d]).min(hw[d] + 2 * pool.pad[d]) - corner[d];
        let (rows, cols) = (on_image(0), on_image(1));
        assert!(!rows.is_empty() && !cols.is_empty(), "{pool:?} has a window beside the image of {hw:?}");
        let divisor = if pool.count_pad { counted(0) * counted(1) } else { rows.len() * cols.len() };
        Window { rows, cols, corner, divisor: divisor as f32 }
    }
    /// Pixels on the image, row by row, each with its position in the window.
    fn pixels(&self, pool: &Pool, width: usize) -> impl DoubleEndedIterator<Item = (usize, u8)> {
        let (pad, across, corner) = (pool.pad, pool.kernel[1], self.corner);
        self.rows.clone().flat_map(move |i| {
            let from = (i + pad[0] - corner[0]) * across + pad[1];
            self.cols.clone().map(move |j| (i * width + j, (from + j - corner[1]) as u8))
        })
    }
}

/// Maximum of each window into `y`, and where asked for the winner's position in its window (row-major): the first of
/// equals; a NaN wins over numbers. `x` is `n` images of `hwc`.
pub(crate) fn max_pool(pool: &Pool, n: usize, hwc: [usize; 3], x: &[f32], y: &mut [f32], index: Option<&mut [u8]>) {
    let ([h, w, c], [p, q]) = (hwc, out_hw(pool, hwc));
    assert!(x.len() == n * h * w * c && y.len() == n * p * q * c, "max pool of {n} x {hwc:?} into {} values", y.len());
    let one = |row: usize, y: &mut [f32], index: Option<&mut [u8]>| {
        let x = &x[row / p * h * w * c..][..h * w * c];
        let windows = (0..q).map(|j| Window::new(pool, [h, w], [row % p, j]));
        match index {
            None => y.chunks_exact_mut(c).zip(windows).for_each(|(y, window)| largest(&window, pool, w, x, y)),
            Some(index) => {
                let mut places = vec![0; c];
                for ((y, index), window) in y.chunks_exact_mut(c).zip(index.chunks_exact_mut(c)).zip(windows) {
                    largest(&window, pool, w, x, y);
                    first_place(&window, pool, w, x, y, &mut places);
                    index.iter_mut().zip(&places).for_each(|(index, &place)| *index = place as u8);
                }
            }
        }
    };
    match index {
        Some(index) => {
            assert_eq!(index.len(), y.len(), "max pool: one position a value");
            y.par_chunks_mut(q * c).zip(index.par_chunks_mut(q * c)).enumerate().for_each(|(row, (y, i))| one(row, y, Some(i)));
        }
        None => y.par_chunks_mut(q * c).enumerate().for_each(|(row, y)| one(row, y, None)),
    }
}

/// The maximum of one window of an image, for each channel.
fn largest(window: &Window, pool: &Pool, width: usize, x: &[f32], best: &mut [f32]) {
    let c = best.len();
    for (i, (pixel, _)) in window.pixels(pool, width).enumerate() {
        let x = &x[pixel * c..][..c];
        if i == 0 {
            best.copy_from_slice(x);
            continue;
        }
        for (best, &x) in best.iter_mut().zip(x) {
            *best = if beats(x, *best) { x } else { *best };
        }
    }
}

/// Where in its window each channel's maximum, already known, stands first. Places are as wide as the values, so that both
/// fit the same lanes; a loop that found maximum and place at once ran eight times slower.
fn first_place(window: &Window, pool: &Pool, width: usize, x: &[f32], best: &[f32], places: &mut [u32]) {
    let c = best.len();
    for (pixel, place) in window.pixels(pool, width).rev() {
        for ((held, &best), &x) in places.iter_mut().zip(best).zip(&x[pixel * c..][..c]) {
            *held = if (x == best) | (x.is_nan() & best.is_nan()) { u32::from(place) } else { *held };
        }
    }
}

/// Written without branches, for lanes.
fn beats(x: f32, best: f32) -> bool {
    (x > best) | (x.is_nan() & !best.is_nan())
}

/// The gradient of [`max_pool`]: each value of `g` goes to its winner. `hwc` is the pool's input's.
pub(crate) fn max_pool_grad(pool: &Pool, n: usize, hwc: [usize; 3], g: &[f32], index: &[u8], dx: &mut [f32]) {
    let ([h, w, c], [p, q]) = (hwc, out_hw(pool, hwc));
    assert!(g.len() == n * p * q * c && index.len() == g.len(), "max pool backwards from {} values", g.len());
    assert_eq!(dx.len(), n * h * w * c, "max pool backwards to {n} x {hwc:?}");
    let images = g.par_chunks(p * q * c).zip(index.par_chunks(p * q * c));
    dx.par_chunks_mut(h * w * c).zip(images).for_each(|(dx, (g, index))| {
        dx.fill(0.0);
        for (at, (g, index)) in g.chunks_exact(c).zip(index.chunks_exact(c)).enumerate() {
            for (pixel, place) in Window::new(pool, [h, w], [at / q, at % q]).pixels(pool, w) {
                // All places for all channels: more work than a scatter, but in lanes.
                for ((dx, &g), &index) in dx[pixel * c..][..c].iter_mut().zip(g).zip(index) {
                    *dx += if index == place { g } else { 0.0 };
                }
            }
        }
    });
}

/// Average of each window; the divisor follows PyTorch's rule for padding and for sizes rounded up.
pub(crate) fn avg_pool(pool: &Pool, n: usize, hwc: [usize; 3], x: &[f32], y: &mut [f32]) {
    let ([h, w, c], [p, q]) = (hwc, out_hw(pool, hwc));
    assert!(x.len() == n * h * w * c && y.len() == n * p * q * c, "average pool of {n} x {hwc:?} into {} values", y.len());
    y.par_chunks_mut(q * c).enumerate().for_each(|(row, y)| {
        let x = &x[row / p * h * w * c..][..h * w * c];
        for (j, y) in y.chunks_exact_mut(c).enumerate() {
            let window = Window::new(pool, [h, w], [row % p, j]);
            y.fill(0.0);
            for (pixel, _) in window.pixels(pool, w) {
                y.iter_mut().zip(&x[pixel * c..][..c]).for_each(|(y, x)| *y += x);
            }
            y.iter_mut().for_each(|y| *y /= window.divisor);
        }
    });
}

/// The gradient of [`avg_pool`]; `hwc` is the pool's input's.
pub(crate) fn avg_pool_grad(pool: &Pool, n: usize, hwc: [usize; 3], g: &[f32], dx: &mut [f32]) {
    let ([h, w, c], [p, q]) = (hwc, out_hw(pool, hwc));
    assert!(g.len() == n * p * q * c && dx.len() == n * h * w * c, "average pool backwards to {n} x {hwc:?}");
    dx.par_chunks_mut(h * w * c).zip(g.par_chunks(p * q * c)).for_each(|(dx, g)| {
        dx.fill(0.0);
        for (at, g) in g.chunks_exact(c).enumerate() {
            let window = Window::new(pool, [h, w], [at / q, at % q]);
            for (pixel, _) in window.pixels(pool, w) {
                dx[pixel * c..][..c].iter_mut().zip(g).for_each(|(dx, g)| *dx += g / window.divisor);
            }
        }
    });
}

/// Mean over height and width, `[N, H, W, C]` to `[N, C]`; summed in f64.
pub(crate) fn global_avg_pool(n: usize, [h, w, c]: [usize; 3], x: &[f32], y: &mut [f32]) {
    assert!(x.len() == n * h * w * c && y.len() == n * c, "mean over pixels of {n} x {h}x{w}x{c}");
    y.par_chunks_mut(c).zip(x.par_chunks(h * w * c)).for_each(|(y, x)| {
        let mut sum = vec![0f64; c];
        for x in x.chunks_exact(c) {
            sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        y.iter_mut().zip(sum).for_each(|(y, sum)| *y = (sum / (h * w) as f64) as f32);
    });
}

/// The gradient of [`global_avg_pool`].
pub(crate) fn global_avg_pool_grad(n: usize, [h, w, c]: [usize; 3], g: &[f32], dx: &mut [f32]) {
    assert!(g.len() == n * c && row_len(n, dx.len()) == h * w * c, "mean over pixels backwards to {n} x {h}x{w}x{c}");
    let pixels = (h * w) as f32;
    dx.par_chunks_mut(h * w * c).zip(g.par_chunks(c)).for_each(|(dx, g)| {
        let (first, rest) = dx.split_at_mut(c);
        first.iter_mut().zip(g).for_each(|(dx, g)| *dx = g / pixels);
        rest.chunks_exact_mut(c).for_each(|dx| dx.copy_from_slice(first));
    });
}

fn out_hw(pool: &Pool, [h, w, _]: [usize; 3]) -> [usize; 2] {
    pool.check();
    let (p, q) = pool.out_hw(h, w);
    [p, q]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    fn values(index: u32, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        Stream { seed: 1, index, step: 0, purpose: Purpose::Start, restart: 0 }.fill_normal(&mut out);
        out
    }

    /// Odd sizes, padding, rounding up, windows that overlap or leave gaps.
    fn pools() -> Vec<(Pool, [usize; 3])> {
        let wide = Pool { kernel: [2, 3], stride: [1, 2], pad: [1, 0], ceil: false, count_pad: true };
        let mut all = vec![(wide, [5, 8, 3]), (Pool::square(1, 2, 0), [5, 5, 2]), (Pool::square(16, 1, 0), [16, 16, 2])];
        for (kernel, stride, pad) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1), (3, 2, 0), (4, 3, 2)] {
            for (ceil, count_pad) in [(false, true), (true, true), (true, false), (false, false)] {
                let pool = Pool { ceil, count_pad, ..Pool::square(kernel, stride, pad) };
                all.extend([(pool, [7, 6, 5]), (pool, [4, 4, 17])]);
            }
        }
        all
    }

    /// Visits each output with the values it sees: (output index, [(input index, place)], divisor). A definition apart from
    /// `Window`: places are walked in the padded plane and tested one by one.
    fn by_hand(pool: &Pool, n: usize, [h, w, c]: [usize; 3], mut visit: impl FnMut(usize, &[(usize, u8)], f64)) {
        let (p, q) = pool.out_hw(h, w);
        for out in 0..n * p * q * c {
            let (image, oi, oj, ch) = (out / (p * q * c), out / (q * c) % p, out / c % q, out % c);
            let (mut seen, mut padded) = (vec![], 0);
            for place in 0..pool.kernel[0] * pool.kernel[1] {
                let i = (oi * pool.stride[0] + place / pool.kernel[1]) as isize - pool.pad[0] as isize;
                let j = (oj * pool.stride[1] + place % pool.kernel[1]) as isize - pool.pad[1] as isize;
                padded += usize::from(i < (h + pool.pad[0]) as isize && j < (w + pool.pad[1]) as isize);
                if (0..h as isize).contains(&i) && (0..w as isize).contains(&j) {
                    seen.push((((image * h + i as usize) * w + j as usize) * c + ch, place as u8));
                }
            }
            visit(out, &seen, if pool.count_pad { padded } else { seen.len() } as f64);
        }
    }

    #[test]
    fn max_pool_matches_its_definition() {
        for (pool, hwc) in pools() {
            let n = 2;
            let x: Vec<f32> = values(1, n * hwc.iter().product::<usize>()).iter().map(|v| (v * 2.0).round()).collect();
            let outs = n * out_hw(&pool, hwc).iter().product::<usize>() * hwc[2];
            let (mut y, mut alone, mut index) = (vec![0.0; outs], vec![0.0; outs], vec![255; outs]);
            max_pool(&pool, n, hwc, &x, &mut y, Some(&mut index));
            max_pool(&pool, n, hwc, &x, &mut alone, None);
            assert_eq!(y, alone);
            let g = values(2, outs);
            let (mut dx, mut want_dx) = (vec![f32::NAN; x.len()], vec![0f64; x.len()]);
            max_pool_grad(&pool, n, hwc, &g, &index, &mut dx);
            by_hand(&pool, n, hwc, |out, seen, _| {
                let mut best = seen[0];
                seen.iter().for_each(|&s| best = if x[s.0] > x[best.0] { s } else { best });
                assert_eq!((y[out], index[out]), (x[best.0], best.1), "{pool:?} {hwc:?} output {out}");
                want_dx[best.0] += f64::from(g[out]);
            });
            assert!(dx.iter().zip(&want_dx).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5), "{pool:?} backwards");
        }
    }

    #[test]
    fn avg_pool_matches_its_definition() {
        for (pool, hwc) in pools() {
            let n = 2;
            let x = values(3, n * hwc.iter().product::<usize>());
            let outs = n * out_hw(&pool, hwc).iter().product::<usize>() * hwc[2];
            let (mut y, g) = (vec![f32::NAN; outs], values(4, outs));
            avg_pool(&pool, n, hwc, &x, &mut y);
            let (mut dx, mut want_dx) = (vec![f32::NAN; x.len()], vec![0f64; x.len()]);
            avg_pool_grad(&pool, n, hwc, &g, &mut dx);
            by_hand(&pool, n, hwc, |out, seen, divisor| {
                let want = seen.iter().map(|s| f64::from(x[s.0])).sum::<f64>() / divisor;
                assert!((f64::from(y[out]) - want).abs() < 1e-5, "{pool:?} {hwc:?} output {out}: {} not {want}", y[out]);
                seen.iter().for_each(|s| want_dx[s.0] += f64::from(g[out]) / divisor);
            });
            assert!(dx.iter().zip(&want_dx).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5), "{pool:?} backwards");
        }
    }

    #[test]
    fn torch_divisors() {
        // F.avg_pool2d(ones(1,1,4,4), 3, 2, 1, ceil_mode=True): the last window of each row overhangs the padding.
        let pool = Pool { ceil: true, ..Pool::square(3, 2, 1) };
        let mut y = vec![0.0; 9];
        avg_pool(&pool, 1, [4, 4, 1], &[1.0; 16], &mut y);
        let (edge, corner) = (6.0 / 9.0, 4.0 / 9.0);
        assert_eq!(y, [corner, edge, 2.0 / 6.0, edge, 1.0, 3.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0, 1.0 / 4.0]);
    }

    #[test]
    fn first_of_equals_and_nan_win() {
        let nan = f32::NAN;
        let pool = Pool::square(2, 2, 0);
        let x = [[1.0, 5.0, 5.0, 5.0], [1.0, nan, 9.0, nan], [nan, 2.0, 3.0, 4.0], [f32::NEG_INFINITY; 4]].concat();
        let (mut y, mut index) = ([0.0; 4], [9; 4]);
        max_pool(&pool, 4, [2, 2, 1], &x, &mut y, Some(&mut index));
        assert_eq!(index, [1, 1, 0, 0]);
        assert!(y[0] == 5.0 && y[1].is_nan() && y[2].is_nan() && y[3] == f32::NEG_INFINITY);
    }

    #[test]
    fn global_mean_and_its_gradient() {
        let (n, hwc) = (3, [5, 4, 6]);
        let x = values(5, 360);
        let (mut y, mut dx) = (vec![0.0; 18], vec![f32::NAN; 360]);
        global_avg_pool(n, hwc, &x, &mut y);
        global_avg_pool_grad(n, hwc, &y, &mut dx);
        for (i, &y) in y.iter().enumerate() {
            let want = (0..20).map(|p| f64::from(x[i / 6 * 120 + p * 6 + i % 6])).sum::<f64>() / 20.0;
            assert!((f64::from(y) - want).abs() < 1e-7);
            assert!((0..20).all(|p| dx[i / 6 * 120 + p * 6 + i % 6] == y / 20.0));
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_place() {
        for (pool, hwc) in pools() {
            let len: usize = hwc.iter().product();
            let (x, out) = (values(6, 3 * len), out_hw(&pool, hwc).iter().product::<usize>() * hwc[2]);
            let run = |n: usize, x: &[f32]| {
                let (mut max, mut avg, mut index) = (vec![0.0; n * out], vec![0.0; n * out], vec![0; n * out]);
                max_pool(&pool, n, hwc, x, &mut max, Some(&mut index));
                avg_pool(&pool, n, hwc, x, &mut avg);
                (max, avg, index)
            };
            let (all, last) = (run(3, &x), run(1, &x[2 * len..]));
            assert_eq!((&all.0[2 * out..], &all.1[2 * out..], &all.2[2 * out..]), (&last.0[..], &last.1[..], &last.2[..]));
        }
    }
}
