//! Direct convolution: tiles of pixels times vectors of output channels, held in registers over taps and channels.
//! Must not know strides, padding or directions: a table of addresses says what each tap reads.

use super::taps::{SLACK, Table};
use crate::cpu::epilogue::{self, Epi, Place};
use crate::cpu::simd::{Aligned, Isa, Simd};

/// Floats of a weight panel that all tiles of a unit pass over before the next follow: they stay in a near cache.
const BLOCK: usize = 12 * 1024;

/// The weights of one phase and direction as a matrix for each tap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) groups: usize,
    /// Source channels of one group.
    pub(super) c: usize,
    /// Result channels of one group.
    pub(super) k: usize,
    pub(super) taps: usize,
}

/// Weights of one phase: `[group][panel][tap][c][vectors * lanes]`, the last panel padded with zeros.
pub(super) struct Panels {
    size: Size,
    panels: Vec<Panel>,
    /// Floats of one group.
    group_len: usize,
    weights: Aligned,
}

/// A few vectors of result channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    /// First channel in the group.
    pub(super) channel: usize,
    pub(super) vectors: usize,
    /// First weight in the group.
    pub(super) at: usize,
}

/// Buffers that a thread keeps from unit to unit.
#[derive(Default)]
pub(super) struct Scratch {
    tile: Aligned,
    /// Whole pixels of all groups, where there are several.
    joined: Vec<f32>,
}

impl Panels {
    /// Room for weights of this size.
    pub(super) fn new(isa: Isa, size: Size) -> Self {
        let lanes = isa.lanes();
        let panels = divide(size, lanes, isa.widest_tile());
        let group_len = size.k.div_ceil(lanes) * lanes * size.taps * size.c;
        Panels { size, panels, group_len, weights: Aligned::zeros(group_len * size.groups) }
    }

    /// Packs `weight(group, tap, c, k)`.
    pub(super) fn fill(&mut self, isa: Isa, weight: impl Fn(usize, usize, usize, usize) -> f32) {
        let Panels { size, ref panels, group_len, ref mut weights } = *self;
        let floats = weights.floats_mut();
        for (group, panel) in (0..size.groups).flat_map(|group| panels.iter().map(move |panel| (group, panel))) {
            let width = panel.vectors * isa.lanes();
            let valid = width.min(size.k - panel.channel);
            let rows = &mut floats[group * group_len + panel.at..][..size.taps * size.c * width];
            // Taps of one pair of channels stand together where they come from.
            for (c, tap) in (0..size.c).flat_map(|c| (0..size.taps).map(move |tap| (c, tap))) {
                for (j, out) in rows[(tap * size.c + c) * width..][..valid].iter_mut().enumerate() {
                    *out = weight(group, tap, c, panel.channel + j);
                }
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.weights.floats().len() * 4
    }

    /// All pixels of `table` from its addresses to `dst`, whose pixels have `groups * k` channels.
    #[inline(always)]
    pub(super) fn run<S: Simd>(&self, s: S, table: &Table, dst: &mut [f32], epilogue: &mut [Epi], scratch: &mut Scratch) {
        let (count, channels) = (table.pixels.len(), self.size.groups * self.size.k);
        scratch.tile.grow((count + SLACK) * S::WIDEST_TILE * S::W);
        if self.size.groups > 1 {
            scratch.joined.resize(count * channels, 0.0);
        }
        for group in 0..self.size.groups {
            for panel in &self.panels {
                let sums = scratch.tile.floats_mut();
                let weights = &self.weights.floats()[group * self.group_len + panel.at..];
                self.sum_panel(s, group, panel.vectors, table, weights, sums);
                let width = panel.vectors * S::W;
                let valid = width.min(self.size.k - panel.channel);
                let channel = group * self.size.k + panel.channel;
                for (i, (sums, &pixel)) in sums.chunks_exact(width).zip(&table.pixels).enumerate() {
                    if self.size.groups > 1 {
                        scratch.joined[i * channels + channel..][..valid].copy_from_slice(&sums[..valid]);
                    } else {
                        let out = &mut dst[pixel * channels + channel..][..valid];
                        epilogue::apply(s, epilogue, Place { pixel, channel, channels }, &sums[..valid], out);
                    }
                }
            }
        }
        if self.size.groups > 1 {
            for (row, &pixel) in scratch.joined.chunks_exact(channels).zip(&table.pixels) {
                let out = &mut dst[pixel * channels..][..channels];
                epilogue::apply(s, epilogue, Place { pixel, channel: 0, channels }, row, out);
            }
        }
    }

    #[inline(always)]
    fn sum_panel<S: Simd>(&self, s: S, group: usize, vectors: usize, table: &Table, weights: &[f32], sums: &mut [f32]) {
        // As many rows as the registers allow: 24 accumulators of 32, 12 of 16.
        match (S::WIDEST_TILE, vectors) {
            (4, 4) => self.sum_tiles::<S, 6, 4>(s, group, table, weights, sums),
            (4, 3) => self.sum_tiles::<S, 8, 3>(s, group, table, weights, sums),
            (4, 2) => self.sum_tiles::<S, 12, 2>(s, group, table, weights, sums),
            (4, 1) => self.sum_tiles::<S, 12, 1>(s, group, table, weights, sums),
            (2, 2) => self.sum_tiles::<S, 6, 2>(s, group, table, weights, sums),
            (2, 1) => self.sum_tiles::<S, 8, 1>(s, group, table, weights, sums),
            (1, 1) => self.sum_tiles::<S, 4, 1>(s, group, table, weights, sums),
            other => unreachable!("no tile for {other:?}"),
        }
    }

    /// The sums of one panel: `[pixel][VECTORS * lanes]`, zeros where there is no tap.
    #[inline(always)]
    fn sum_tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        s: S,
        group: usize,
        table: &Table,
        weights: &[f32],
        sums: &mut [f32],
    ) {
        const { assert!(ROWS <= SLACK) };
        let (count, width, Size { c, taps, .. }) = (table.pixels.len(), VECTORS * S::W, self.size);
        assert!(sums.len() >= (count + SLACK) * width, "{} sums for {count} pixels", sums.len());
        assert!(weights.len() >= taps * c * width, "{} weights for {taps} taps", weights.len());
        assert!(table.addresses().len() >= taps * table.stride && table.stride >= count + SLACK, "table of another phase");
        if taps == 0 {
            sums[..count * width].fill(0.0);
        }
        let (tap_step, c_step) = steps(taps, c, BLOCK / width);
        for tap in (0..taps).step_by(tap_step) {
            for from in (0..c).step_by(c_step) {
                let block = Block {
                    taps: tap_step.min(taps - tap),
                    stride: table.stride,
                    from: group * c + from,
                    channels: c_step.min(c - from),
                    first: tap == 0 && from == 0,
                };
                for pixel in (0..count).step_by(ROWS) {
                    let addresses = &table.addresses()[tap * table.stride + pixel..];
                    let weights = &weights[(tap * c + from) * width..];
                    let sums = &mut sums[pixel * width..];
                    // SAFETY: the assertions above cover the tile's rows, taps and channels; every address is good for
                    // all channels of the source, of which `groups * c` there are.
                    unsafe {
                        tile::<S, ROWS, VECTORS>(s, block, addresses.as_ptr(), weights.as_ptr(), sums.as_mut_ptr());
                    }
                }
            }
        }
    }
}

/// Taps and channels of equal blocks of at most about `rows` rows: several whole taps, or a part of one.
fn steps(taps: usize, c: usize, rows: usize) -> (usize, usize) {
    let blocks = (taps * c).div_ceil(rows).max(1);
    if c <= rows { (taps.div_ceil(blocks).max(1), c) } else { (1, c.div_ceil(c.div_ceil(rows))) }
}

/// `k` channels as vectors, in panels as equal as they can be.
pub(super) fn divide(size: Size, lanes: usize, widest: usize) -> Vec<Panel> {
    let vectors = size.k.div_ceil(lanes);
    let count = vectors.div_ceil(widest);
    let edge = |i: usize| vectors * i / count;
    (0..count)
        .map(|i| Panel { channel: edge(i) * lanes, vectors: edge(i + 1) - edge(i), at: edge(i) * lanes * size.taps * size.c })
        .collect()
}

/// The part of the reduction that one call of [`tile`] adds.
#[derive(Clone, Copy)]
struct Block {
    taps: usize,
    /// Addresses from tap to tap.
    stride: usize,
    /// First channel of the source pixel.
    from: usize,
    channels: usize,
    /// Whether the sums start at zero instead of what is stored.
    first: bool,
}

/// `sums[r][v] += sum over taps and channels of source[r] * weights[v]`, the block's sum in that order first.
///
/// # Safety
/// `addresses[t * stride + r]` for all taps and rows are good for reads of `from + channels` floats, `weights` of
/// `taps * channels * VECTORS * W`; `sums` is good for reads and writes of `ROWS * VECTORS * W`.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    block: Block,
    addresses: *const *const f32,
    mut weights: *const f32,
    sums: *mut f32,
) {
    // A local copy: through a reference the accumulators would live in memory.
    let mut acc = [[s.splat(0.0); VECTORS]; ROWS];
    let place = |r: usize, v: usize| (r * VECTORS + v) * S::W;
    for t in 0..block.taps {
        let mut rows = [std::ptr::null::<f32>(); ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the address and for `from` floats behind it.
            *row = unsafe { (*addresses.add(t * block.stride + r)).add(block.from) };
        }
        for c in 0..block.channels {
            let mut w = [s.splat(0.0); VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                // SAFETY: one row of weights for each tap and channel.
                *w = unsafe { s.load(weights.add(v * S::W)) };
            }
            for r in 0..ROWS {
                // SAFETY: `c` is one of the channels that the caller vouches for.
                let x = s.splat(unsafe { *rows[r].add(c) });
                for v in 0..VECTORS {
                    acc[r][v] = s.fma(x, w[v], acc[r][v]);
                }
            }
            // SAFETY: at most one past the last row.
            weights = unsafe { weights.add(VECTORS * S::W) };
        }
    }
    for (r, row) in acc.iter().enumerate() {
        for (v, &acc) in row.iter().enumerate() {
            // SAFETY: inside the tile of sums.
            let at = unsafe { sums.add(place(r, v)) };
            // Each block is summed from zero: rounding grows with the length of a block, not of the whole reduction.
            // SAFETY: as above.
            let acc = if block.first { acc } else { s.add(unsafe { s.load(at) }, acc) };
            // SAFETY: as above.
            unsafe { s.store(at, acc) };
        }
    }
}
