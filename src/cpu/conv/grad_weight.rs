//! Weight gradients: patches times output gradients, summed over the batch in a fixed order.
//! Must not know packed weights, vectors or threads beyond handing out tasks.

use rayon::prelude::*;

use crate::graph::Conv;

/// Pixels gathered for one matrix product.
const PIXELS: usize = 512;
/// Columns (source channels of some taps) and rows (result channels) of one task's share of the gradient.
const COLUMNS: usize = 256;
const ROWS: usize = 256;

/// `x [N, H, W, C]`, `g [N, P, Q, K]` -> `dw [K, C/groups, R, S]`, overwritten.
///
/// A task owns a block of the gradient and goes through the batch in order, so the bits do not depend on threads.
pub(super) fn grad_weight(conv: &Conv, n: usize, hw: [usize; 2], x: &[f32], g: &[f32], dw: &mut [f32]) {
    conv.check();
    let (p, q) = conv.out_hw(hw[0], hw[1]);
    let (c, k) = (conv.c / conv.groups, conv.k / conv.groups);
    let taps = conv.kernel[0] * conv.kernel[1];
    assert_eq!(x.len(), n * hw[0] * hw[1] * conv.c, "input of {conv:?}");
    assert_eq!(g.len(), n * p * q * conv.k, "output gradient of {conv:?}");
    assert_eq!(dw.len(), conv.k * c * taps, "weight gradient of {conv:?}");
    if c == 1 && k == 1 {
        return depthwise(conv, n, (hw, [p, q]), x, g, dw);
    }

    let columns = taps * c;
    let mut tasks = Vec::new();
    for group in 0..conv.groups {
        for column in (0..columns).step_by(COLUMNS) {
            for row in (0..k).step_by(ROWS) {
                let (columns, rows) = (column..columns.min(column + COLUMNS), row..k.min(row + ROWS));
                tasks.push(Block { group, columns, rows });
            }
        }
    }
    let sums: Vec<Vec<f32>> = tasks.par_iter().map(|block| block.sum(conv, n, (hw, [p, q]), x, g)).collect();
    dw.par_chunks_mut(columns).enumerate().for_each(|(out, dw)| {
        let (group, row) = (out / k, out % k);
        for (block, sums) in tasks.iter().zip(&sums).filter(|(block, _)| block.group == group && block.rows.contains(&row)) {
            let width = block.columns.len();
            let (mut tap, mut channel) = (block.columns.start / c, block.columns.start % c);
            for &sum in &sums[(row - block.rows.start) * width..][..width] {
                dw[channel * taps + tap] = sum;
                channel += 1;
                if channel == c {
                    (tap, channel) = (tap + 1, 0);
                }
            }
        }
    });
}

/// `x [N, in]`, `g [N, out]` -> `dw [out, in]`, overwritten.
pub(crate) fn matrix_grad_weight((n, n_in, n_out): (usize, usize, usize), x: &[f32], g: &[f32], dw: &mut [f32]) {
    assert!(x.len() == n * n_in && g.len() == n * n_out, "{n} rows of {n_in} and {n_out} values");
    assert_eq!(dw.len(), n_out * n_in, "weight gradient of {n_out} by {n_in}");
    dw.par_chunks_mut(ROWS * n_in).enumerate().for_each(|(i, dw)| {
        let rows = dw.len() / n_in;
        let g = Matrix { data: &g[(i * ROWS).min(g.len())..], stride: n_out };
        multiply(n, (g, rows), (Matrix { data: x, stride: n_in }, n_in), dw, 0.0);
    });
}

/// A share of the gradient of one group: result channels by source columns, a column being (tap, channel).
struct Block {
    group: usize,
    columns: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
}

impl Block {
    /// The share, `[rows][columns]`.
    fn sum(&self, conv: &Conv, n: usize, (hw, out_hw): ([usize; 2], [usize; 2]), x: &[f32], g: &[f32]) -> Vec<f32> {
        let k = conv.k / conv.groups;
        let [p, q] = out_hw;
        let width = self.columns.len();
        let mut sums = vec![0.0; self.rows.len() * width];
        let mut patches = vec![0.0; PIXELS * width];
        let total = n * p * q;
        for first in (0..total).step_by(PIXELS) {
            let count = PIXELS.min(total - first);
            self.gather(conv, (hw, out_hw), x, first, &mut patches[..count * width]);
            let g = Matrix { data: &g[first * conv.k + self.group * k + self.rows.start..], stride: conv.k };
            let patches = Matrix { data: &patches, stride: width };
            multiply(count, (g, self.rows.len()), (patches, width), &mut sums, 1.0);
        }
        sums
    }

    /// The block's columns of the patches under the output pixels from `first` on.
    fn gather(&self, conv: &Conv, (hw, [p, q]): ([usize; 2], [usize; 2]), x: &[f32], first: usize, patches: &mut [f32]) {
        let c = conv.c / conv.groups;
        for (i, patch) in patches.chunks_exact_mut(self.columns.len()).enumerate() {
            let pixel = first + i;
            let (image, y, z) = (pixel / (p * q), pixel / q % p, pixel % q);
            let mut column = self.columns.start;
            let mut rest = patch;
            while !rest.is_empty() {
                let (tap, channel) = (column / c, column % c);
                let (run, behind) = rest.split_at_mut((c - channel).min(rest.len()));
                let at = [
                    (y * conv.stride[0] + tap / conv.kernel[1] * conv.dilation[0]).wrapping_sub(conv.pad[0]),
                    (z * conv.stride[1] + tap % conv.kernel[1] * conv.dilation[1]).wrapping_sub(conv.pad[1]),
                ];
                if at[0] < hw[0] && at[1] < hw[1] {
                    let from = ((image * hw[0] + at[0]) * hw[1] + at[1]) * conv.c + self.group * c + channel;
                    run.copy_from_slice(&x[from..from + run.len()]);
                } else {
                    run.fill(0.0);
                }
                column += run.len();
                rest = behind;
            }
        }
    }
}

/// Row-major values, `stride` from row to row.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    stride: usize,
}

/// `out = beta * out + a^T b` for `depth` rows of `a` (`m` wide) and `b` (`n` wide); `out` is `[m][n]`.
fn multiply(depth: usize, (a, m): (Matrix, usize), (b, n): (Matrix, usize), out: &mut [f32], beta: f32) {
    let fits = |matrix: Matrix, width: usize| {
        depth == 0 || (width <= matrix.stride && (depth - 1) * matrix.stride + width <= matrix.data.len())
    };
    assert!(fits(a, m) && fits(b, n) && out.len() == m * n, "product of {depth} rows into {m} by {n}");
    // SAFETY: the assertion covers everything that the strides reach, and `out` is borrowed alone.
    unsafe {
        matrixmultiply::sgemm(
            m,
            depth,
            n,
            1.0,
            a.data.as_ptr(),
            1,
            a.stride as isize,
            b.data.as_ptr(),
            b.stride as isize,
            1,
            beta,
            out.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}

/// One channel a group: a product of vectors for each tap and channel.
fn depthwise(conv: &Conv, n: usize, (hw, [p, q]): ([usize; 2], [usize; 2]), x: &[f32], g: &[f32], dw: &mut [f32]) {
    let (channels, taps) = (conv.k, conv.kernel[0] * conv.kernel[1]);
    let sum = |tap: usize| {
        let mut sums = vec![0.0; channels];
        for row in 0..n * p {
            let (image, y) = (row / p, row % p);
            let at = (y * conv.stride[0] + tap / conv.kernel[1] * conv.dilation[0]).wrapping_sub(conv.pad[0]);
            if at >= hw[0] {
                continue;
            }
            // A row's own sum first: fewer terms in a chain keep more digits.
            let mut line = vec![0.0f32; channels];
            for z in 0..q {
                let from = (z * conv.stride[1] + tap % conv.kernel[1] * conv.dilation[1]).wrapping_sub(conv.pad[1]);
                if from < hw[1] {
                    let x = &x[((image * hw[0] + at) * hw[1] + from) * channels..][..channels];
                    let g = &g[(row * q + z) * channels..][..channels];
                    line.iter_mut().zip(x.iter().zip(g)).for_each(|(sum, (x, g))| *sum += x * g);
                }
            }
            sums.iter_mut().zip(&line).for_each(|(sum, line)| *sum += line);
        }
        sums
    };
    let sums: Vec<Vec<f32>> = (0..taps).into_par_iter().map(sum).collect();
    for (i, dw) in dw.iter_mut().enumerate() {
        *dw = sums[i % taps][i / taps];
    }
}
