//! Weight gradients by tiles: the transposes of the transforms around a product of sources and gradients, tile by tile.
//! Must not know graphs, nor which layers this pays for.
//! The adjoint of Lavin and Gray's formula: `dw = Gt [sum over tiles of (Bt x B) * (A g At)] G`.

use std::ops::Range;

use rayon::prelude::*;

use super::transform::{Four, OfGradient, OfSource, Transform, Two};
use super::{Corner, LANES, Place, SKEW, Tile, lift, list_tiles, pixels};
use crate::cpu::conv::Workspace;
use crate::cpu::conv::direct::{Size, divide};
use crate::cpu::simd::{Aligned, Isa, Simd, Work};
use crate::graph::Conv;

/// Channels on either side of a task's share.
const BLOCK: usize = 128;
/// Tiles that are transformed before their products are summed.
const TILES: usize = 128;
/// Shares of the tiles that are summed apart, at most: they give work to threads where there are few channels.
const PARTS: usize = 8;
/// Rows of sums are a multiple of those of every register tile.
const ROWS: usize = 24;

/// A convolution and what its weight gradient is made of.
#[derive(Clone, Copy)]
pub(in crate::cpu::conv) struct Layer<'a> {
    pub(in crate::cpu::conv) conv: &'a Conv,
    pub(in crate::cpu::conv) n: usize,
    /// Size of an image of `x`.
    pub(in crate::cpu::conv) hw: [usize; 2],
    pub(in crate::cpu::conv) x: &'a [f32],
    pub(in crate::cpu::conv) g: &'a [f32],
}

/// Buffers that a thread keeps from task to task.
#[derive(Default)]
pub(in crate::cpu::conv) struct Scratch {
    sources: Aligned,
    gradients: Aligned,
}

/// `dw [K, C, 3, 3]`, overwritten. Every sum is formed in an order that depends on the layer and the batch alone.
pub(in crate::cpu::conv) fn weight_gradient(isa: Isa, tile: Tile, work: &Workspace, layer: Layer, dw: &mut [f32]) {
    let (c, k) = (layer.conv.c, layer.conv.k);
    let out_hw = <[usize; 2]>::from(layer.conv.out_hw(layer.hw[0], layer.hw[1]));
    assert_eq!(layer.x.len(), layer.n * layer.hw[0] * layer.hw[1] * c, "input of {:?}", layer.conv);
    assert_eq!(layer.g.len(), layer.n * out_hw[0] * out_hw[1] * k, "output gradient of {:?}", layer.conv);
    assert_eq!(dw.len(), k * c * 9, "weight gradient of {:?}", layer.conv);
    let (mut tiles, zeros) = (Vec::new(), vec![0.0; c.max(k)]);
    list_tiles(&mut tiles, tile.side(), out_hw, 0..layer.n * out_hw[0]);
    let share = |from: usize, all: usize| from..all.min(from + BLOCK);
    let blocks: Vec<Block> = (0..k)
        .step_by(BLOCK)
        .flat_map(|to| (0..c).step_by(BLOCK).map(move |from| (from, to)))
        .map(|(from, to)| Block { layer, out_hw, tile, isa, zeros: &zeros, c: share(from, c), k: share(to, k) })
        .collect();
    let grads: Vec<Vec<f32>> = blocks.par_iter().map(|block| block.gradient(work, &tiles)).collect();
    dw.par_chunks_mut(c * 9).enumerate().for_each(|(to, dw)| {
        for (block, grad) in blocks.iter().zip(&grads).filter(|(block, _)| block.k.contains(&to)) {
            let row = block.c.len() * 9;
            dw[block.c.start * 9..][..row].copy_from_slice(&grad[(to - block.k.start) * row..][..row]);
        }
    });
}

/// The gradient of the kernels between some channels.
struct Block<'a> {
    layer: Layer<'a>,
    out_hw: [usize; 2],
    tile: Tile,
    isa: Isa,
    /// A pixel of them, on either side.
    zeros: &'a [f32],
    c: Range<usize>,
    k: Range<usize>,
}

impl Block<'_> {
    /// `[k][c][9]`.
    fn gradient(&self, work: &Workspace, tiles: &[Corner]) -> Vec<f32> {
        let part = tiles.len().div_ceil(PARTS).next_multiple_of(TILES).max(TILES);
        let sum = |tiles: &[Corner]| {
            let mut sums = vec![0.0; self.tile.planes() * self.plane()];
            work.lend(|buffers| {
                self.isa.dispatch(Sum { block: self, tiles, scratch: &mut buffers.gradients, sums: &mut sums });
            });
            sums
        };
        let mut parts = tiles.par_chunks(part).map(sum).collect::<Vec<_>>().into_iter();
        let Some(mut total) = parts.next() else { return vec![0.0; self.k.len() * self.c.len() * 9] };
        for part in parts {
            total.iter_mut().zip(part).for_each(|(total, v)| *total += v);
        }
        let mut out = vec![0.0; self.k.len() * self.c.len() * 9];
        self.isa.dispatch(Finish { block: self, sums: &total, out: &mut out });
        out
    }

    /// Floats of a row of sums, one a result channel.
    fn row(&self) -> usize {
        self.k.len().next_multiple_of(self.isa.lanes())
    }
    /// Floats of a plane of sums.
    fn plane(&self) -> usize {
        self.c.len().next_multiple_of(ROWS) * self.row() + SKEW
    }
}

/// The sums `[plane][c][k]` over some tiles, added to `sums`.
struct Sum<'a> {
    block: &'a Block<'a>,
    tiles: &'a [Corner],
    scratch: &'a mut Scratch,
    sums: &'a mut [f32],
}

impl Work for Sum<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.block.tile {
            Tile::F2 => self.tiles::<S, 2, 4, Two>(s),
            Tile::F4 => self.tiles::<S, 4, 6, Four>(s),
        }
    }
}

impl Sum<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const M: usize, const A: usize, T: Transform<M, A>>(self, s: S) {
        let Sum { block, tiles, scratch: Scratch { sources, gradients }, sums } = self;
        let Layer { conv, hw, x, g, .. } = block.layer;
        let (c, k) = (block.c.len(), block.k.len());
        // Register tiles read up to a multiple of ROWS channels; what they make of those behind the last is not used.
        let (c_row, k_row) = (c.next_multiple_of(ROWS).next_multiple_of(S::W), block.row());
        let (c_step, k_step) = (TILES * c_row + SKEW, TILES * k_row + SKEW);
        sources.grow(A * A * c_step);
        gradients.grow(A * A * k_step);
        let (sources, gradients) = (sources.floats_mut(), gradients.floats_mut());
        let panels = divide(Size { groups: 1, c, k, taps: 1 }, S::W, S::WIDEST_TILE);
        for tiles in tiles.chunks(TILES) {
            for (i, &tile) in tiles.iter().enumerate() {
                let source = Place { hw, channels: conv.c, origin: conv.pad };
                let source = pixels::<A>(&source, tile, x, block.zeros).map(|l| l.map(|p| p.wrapping_add(block.c.start)));
                let gradient = Place { hw: block.out_hw, channels: conv.k, origin: [0, 0] };
                let gradient = pixels::<M>(&gradient, tile, g, block.zeros).map(|l| l.map(|p| p.wrapping_add(block.k.start)));
                // SAFETY: each pixel is one of zeros or of an image, with all channels of the block; the lengths of `x` and
                // `g` were checked against the images that the tiles are of.
                unsafe {
                    lift::<S, A, A, OfSource<M, T>>(s, c, &source, &mut sources[i * c_row..], c_step);
                    lift::<S, M, A, OfGradient<M, T>>(s, k, &gradient, &mut gradients[i * k_row..], k_step);
                }
            }
            for (plane, sums) in sums.chunks_exact_mut(block.plane()).enumerate() {
                let x = Rows { data: &sources[plane * c_step..], step: c_row };
                for panel in &panels {
                    let g = Rows { data: &gradients[plane * k_step + panel.channel..], step: k_row };
                    let sums = &mut sums[panel.channel..];
                    add_panel(s, panel.vectors, (tiles.len(), c), x, g, (sums, k_row));
                }
            }
        }
    }
}

/// A row for each tile.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    step: usize,
}

/// `sums[c][vectors * W] += sum over rows of x[row][c] * g[row][vectors * W]`.
#[inline(always)]
fn add_panel<S: Simd>(s: S, vectors: usize, size: (usize, usize), x: Rows, g: Rows, sums: (&mut [f32], usize)) {
    // As many rows as the registers allow: 24 accumulators of 32, 12 of 16.
    match (S::WIDEST_TILE, vectors) {
        (4, 4) => add_tiles::<S, 6, 4>(s, size, x, g, sums),
        (4, 3) => add_tiles::<S, 8, 3>(s, size, x, g, sums),
        (4, 2) => add_tiles::<S, 12, 2>(s, size, x, g, sums),
        (4, 1) => add_tiles::<S, 12, 1>(s, size, x, g, sums),
        (2, 2) => add_tiles::<S, 6, 2>(s, size, x, g, sums),
        (2, 1) => add_tiles::<S, 8, 1>(s, size, x, g, sums),
        (1, 1) => add_tiles::<S, 4, 1>(s, size, x, g, sums),
        other => unreachable!("no tile for {other:?}"),
    }
}

#[inline(always)]
fn add_tiles<S: Simd, const R: usize, const V: usize>(
    s: S,
    (rows, c): (usize, usize),
    x: Rows,
    g: Rows,
    (sums, row): (&mut [f32], usize),
) {
    const { assert!(ROWS.is_multiple_of(R)) };
    let last = c.next_multiple_of(R) - 1;
    assert!(rows > 0 && x.data.len() > (rows - 1) * x.step + last, "{rows} rows of {c} sources");
    assert!(g.data.len() >= (rows - 1) * g.step + V * S::W, "{rows} rows of {V} vectors of gradients");
    assert!(sums.len() >= last * row + V * S::W, "{c} rows of {V} vectors of sums");
    for channel in (0..c).step_by(R) {
        // A local copy: through a reference the accumulators would live in memory.
        let mut acc = [[s.splat(0.0); V]; R];
        for i in 0..rows {
            let mut w = [s.splat(0.0); V];
            for (v, w) in w.iter_mut().enumerate() {
                // SAFETY: the assertions above cover V vectors of each row.
                *w = unsafe { s.load(g.data.as_ptr().add(i * g.step + v * S::W)) };
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the assertions above cover R channels from each multiple of R below `c`.
                let x = s.splat(unsafe { *x.data.as_ptr().add(i * x.step + channel + r) });
                for v in 0..V {
                    acc[v] = s.fma(x, w[v], acc[v]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                // SAFETY: the assertions above cover R rows from each multiple of R below `c`.
                unsafe {
                    let to = sums.as_mut_ptr().add((channel + r) * row + v * S::W);
                    s.store(to, s.add(s.load(to), acc));
                }
            }
        }
    }
}

/// The sums of all tiles back to kernels, `[k][c][9]`; rounds once.
struct Finish<'a> {
    block: &'a Block<'a>,
    sums: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Finish<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.block.tile {
            Tile::F2 => self.kernels::<2, 4, Two>(),
            Tile::F4 => self.kernels::<4, 6, Four>(),
        }
    }
}

impl Finish<'_> {
    #[inline(always)]
    fn kernels<const M: usize, const A: usize, T: Transform<M, A>>(self) {
        let Finish { block, sums, out } = self;
        let (c, k, row, plane) = (block.c.len(), block.k.len(), block.row(), block.plane());
        for (from, first) in (0..c).flat_map(|from| (0..k).step_by(LANES).map(move |first| (from, first))) {
            let mut half = [[[0.0; LANES]; A]; 3];
            for i in 0..A {
                for j in 0..A {
                    let sums = &sums[(i * A + j) * plane + from * row + first..][..LANES];
                    for (r, half) in half.iter_mut().enumerate() {
                        for (half, &sum) in half[j].iter_mut().zip(sums) {
                            *half += T::G[i][r] * f64::from(sum);
                        }
                    }
                }
            }
            let mut whole = [[0.0; LANES]; 9];
            for (tap, whole) in whole.iter_mut().enumerate() {
                for j in 0..A {
                    for (whole, half) in whole.iter_mut().zip(&half[tap / 3][j]) {
                        *whole += T::G[j][tap % 3] * half;
                    }
                }
            }
            for to in first..k.min(first + LANES) {
                let kernel = &mut out[(to * c + from) * 9..][..9];
                kernel.iter_mut().zip(&whole).for_each(|(kernel, whole)| *kernel = whole[to - first] as f32);
            }
        }
    }
}
