//! Winograd convolution, 3 by 3 with stride 1: tiles of results from fewer products than a direct sum takes.
//! Must not know directions: the caller flips kernels and says where a tile's source begins.
//! Lavin and Gray 2016, <https://arxiv.org/abs/1509.09308>

mod gradient;
mod product;
mod transform;

use std::ops::Range;

use rayon::prelude::*;

use super::direct::{Panel, Size, divide};
use super::taps::Frame;
use crate::cpu::epilogue::{self, Epi};
use crate::cpu::simd::{Aligned, Isa, Simd, Work};
pub(super) use gradient::{Layer, Scratch as GradientScratch, weight_gradient};
use product::{Product, ROWS};
use transform::{Four, Lift, OfSource, Transform, Two};

/// Results of a tile: F(2x2, 3x3) takes 2.25 times fewer products than a direct sum, F(4x4, 3x3) 4 times, and loses
/// about one more decimal digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    F2,
    F4,
}

/// Most lanes of a panel: 4 vectors of 16.
const WIDEST: usize = 64;
/// Floats that set one plane of a buffer off from the next, so that the planes of one tile do not share a cache set.
const SKEW: usize = 16;
/// Tiles of a unit of work: enough to use each weight often, few enough that 64 channels of them fit a second-level cache.
const UNIT_TILES: usize = 3 * ROWS;

/// Weights of one direction, transformed: `[panel][plane][c][vectors * lanes]`, a plane for each place of a tile.
pub(super) struct Winograd {
    tile: Tile,
    c: usize,
    k: usize,
    /// Result pixel (0, 0) reads source pixels from minus this on.
    origin: [usize; 2],
    panels: Vec<Panel>,
    weights: Aligned,
}

/// Buffers that a thread keeps from unit to unit.
#[derive(Default)]
pub(super) struct Scratch {
    planes: Aligned,
    tiles: Vec<Corner>,
}

/// The first result pixel of a tile.
#[derive(Clone, Copy)]
struct Corner {
    image: usize,
    y: usize,
    x: usize,
}

/// The arrays of one unit of work.
pub(super) struct Arrays<'a, 'e> {
    pub(super) source: &'a [f32],
    /// At least as many as the source has channels.
    pub(super) zeros: &'a [f32],
    pub(super) result: &'a mut [f32],
    pub(super) epilogue: &'a mut [Epi<'e>],
}

impl Tile {
    /// Results along one side.
    pub(super) fn side(self) -> usize {
        match self {
            Tile::F2 => 2,
            Tile::F4 => 4,
        }
    }
    /// Products for one tile and pair of channels.
    pub(super) fn planes(self) -> usize {
        (self.side() + 2) * (self.side() + 2)
    }
}

impl Winograd {
    /// Room for the weights of `c` source and `k` result channels.
    pub(super) fn new(isa: Isa, tile: Tile, (c, k): (usize, usize), origin: [usize; 2]) -> Self {
        let size = Size { groups: 1, c, k, taps: tile.planes() };
        let panels = divide(size, isa.lanes(), isa.widest_tile());
        let weights = Aligned::zeros(k.div_ceil(isa.lanes()) * isa.lanes() * c * tile.planes());
        Winograd { tile, c, k, origin, panels, weights }
    }

    /// Packs `kernel(c, k)`, `[r][s]`, `c` the source's channel. Rounds once, after the transform.
    pub(super) fn fill(&mut self, isa: Isa, kernel: impl Fn(usize, usize) -> [f64; 9] + Copy + Sync) {
        let Winograd { tile, c, k, ref panels, ref mut weights, .. } = *self;
        let ends = panels.iter().skip(1).map(|p| p.at).chain([weights.floats().len()]);
        let mut rest = weights.floats_mut();
        let parts = panels.iter().zip(ends).map(|(panel, end)| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(end - panel.at);
            rest = tail;
            (panel, part)
        });
        parts.collect::<Vec<_>>().into_par_iter().for_each(|(panel, out)| {
            let width = panel.vectors * isa.lanes();
            let valid = width.min(k - panel.channel);
            isa.dispatch(Pack { tile, c, width, valid, out, kernel: |c: usize, k: usize| kernel(c, panel.channel + k) });
        });
    }

    pub(super) fn bytes(&self) -> usize {
        self.weights.floats().len() * 4
    }

    /// Runs of result rows, counted over `n` images of `hw` results, that end where tiles end. For about `workers` workers.
    /// Chosen for speed alone: no bit depends on it.
    pub(super) fn units(&self, n: usize, hw: [usize; 2], workers: usize) -> Vec<Range<usize>> {
        let side = self.tile.side();
        let [down, across] = hw.map(|size| size.div_ceil(side));
        let share = (n * down * across).div_ceil(workers);
        let rows = (UNIT_TILES.min(share) / across).max(1);
        let start = |tile_row: usize| tile_row / down * hw[0] + (tile_row % down * side).min(hw[0]);
        let edges = |first: usize| start(first)..start((first + rows).min(n * down));
        (0..n * down).step_by(rows).map(edges).collect()
    }

    /// The result rows `rows`, one of [`Winograd::units`].
    #[inline(always)]
    pub(super) fn run<S: Simd>(&self, s: S, frame: &Frame, rows: Range<usize>, arrays: Arrays, scratch: &mut Scratch) {
        match self.tile {
            Tile::F2 => self.run_tiles::<S, 2, 4, Two>(s, frame, rows, arrays, scratch),
            Tile::F4 => self.run_tiles::<S, 4, 6, Four>(s, frame, rows, arrays, scratch),
        }
    }

    #[inline(always)]
    fn run_tiles<S: Simd, const M: usize, const A: usize, T: Transform<M, A>>(
        &self,
        s: S,
        frame: &Frame,
        rows: Range<usize>,
        arrays: Arrays,
        scratch: &mut Scratch,
    ) {
        let Scratch { planes, tiles } = scratch;
        let Arrays { source, zeros, result, epilogue } = arrays;
        assert!(zeros.len() >= self.c && frame.channels == self.c, "{} zeros for {} channels", zeros.len(), self.c);
        let images = rows.end.div_ceil(frame.result_hw[0]);
        let len = images * frame.source_hw.iter().product::<usize>() * self.c;
        assert!(source.len() >= len, "{} floats for {images} images of {frame:?}", source.len());
        list_tiles(tiles, M, frame.result_hw, rows.clone());
        // Products of plane i take the place of the sources of plane i - 1, which are used up: half the memory to keep near.
        let row = self.c.max(self.k).next_multiple_of(S::W);
        let step = row * tiles.len().next_multiple_of(ROWS) + SKEW;
        planes.grow((A * A + 1) * step);
        let floats = planes.floats_mut();
        let place = Place { hw: frame.source_hw, channels: self.c, origin: self.origin };
        for (i, tile) in tiles.iter().enumerate() {
            let pixels = pixels::<A>(&place, *tile, source, zeros);
            let out = &mut floats[step + i * row..];
            // SAFETY: each pixel is one of zeros or of an image, which the assertions above found in their arrays.
            unsafe { lift::<S, A, A, OfSource<M, T>>(s, self.c, &pixels, out, step) };
        }
        self.multiply(s, tiles.len(), floats, (row, step));
        let mut sums = [[[0.0; WIDEST]; M]; M];
        for (i, tile) in tiles.iter().enumerate() {
            let first = (tile.image * frame.result_hw[0] + tile.y - rows.start) * frame.result_hw[1] + tile.x;
            let inside = [frame.result_hw[0] - tile.y, frame.result_hw[1] - tile.x].map(|left| left.min(M));
            let to = Target { first, line: frame.result_hw[1], inside, channels: self.k };
            transform_result::<S, M, A, T>(s, (&floats[i * row..], step), &to, &mut sums, result, epilogue);
        }
    }

    /// All planes' products: plane by plane, so that the sources stay near while the panels of weights pass by.
    /// Plane i of the sources is plane i + 1 of `floats`, plane i of the products its plane i.
    #[inline(always)]
    fn multiply<S: Simd>(&self, s: S, rows: usize, floats: &mut [f32], (row, step): (usize, usize)) {
        let planes = self.tile.planes();
        let weights = self.weights.floats();
        let at = |plane: usize, panel: &Panel| panel.at + plane * self.c * panel.vectors * S::W;
        for plane in 0..planes {
            let (products, sources) = floats[plane * step..].split_at_mut(step);
            for (i, panel) in self.panels.iter().enumerate() {
                let next = match self.panels.get(i + 1) {
                    Some(next) => at(plane, next),
                    None => at((plane + 1) % planes, &self.panels[0]),
                };
                Product {
                    rows,
                    c: self.c,
                    vectors: panel.vectors,
                    source: sources,
                    weights: &weights[at(plane, panel)..],
                    next: weights[next..].as_ptr(),
                    out: &mut products[panel.channel..],
                    step: row,
                }
                .run(s);
            }
        }
    }
}

/// The images that tiles read.
struct Place {
    hw: [usize; 2],
    channels: usize,
    /// A tile at (0, 0) reads from minus this on.
    origin: [usize; 2],
}

/// Where the pixels of a tile start; those outside of the image are zeros.
#[inline(always)]
fn pixels<const I: usize>(place: &Place, tile: Corner, source: &[f32], zeros: &[f32]) -> [[*const f32; I]; I] {
    let [height, width] = place.hw;
    // A place before the image wraps around to far behind it.
    let (top, left) = (tile.y.wrapping_sub(place.origin[0]), tile.x.wrapping_sub(place.origin[1]));
    let mut pixels = [[zeros.as_ptr(); I]; I];
    for (i, line) in pixels.iter_mut().enumerate() {
        let y = top.wrapping_add(i);
        if y < height {
            let row = source.as_ptr().wrapping_add((tile.image * height + y) * width * place.channels);
            for (j, pixel) in line.iter_mut().enumerate() {
                let x = left.wrapping_add(j);
                let at = row.wrapping_add(x.wrapping_mul(place.channels));
                *pixel = if x < width { at } else { *pixel };
            }
        }
    }
    pixels
}

/// Fills `tiles` with those of the result rows `rows`, which hold whole rows of tiles.
fn list_tiles(tiles: &mut Vec<Corner>, side: usize, [height, width]: [usize; 2], rows: Range<usize>) {
    tiles.clear();
    let mut row = rows.start;
    while row < rows.end {
        let (image, y) = (row / height, row % height);
        assert!(y.is_multiple_of(side), "row {row} is inside of a tile of {side}");
        tiles.extend((0..width).step_by(side).map(|x| Corner { image, y, x }));
        row += side.min(height - y);
    }
}

/// The transformed kernels of one panel, `out` as `[plane][c][width]`; lanes from `valid` on are zero.
struct Pack<'a, K> {
    tile: Tile,
    c: usize,
    width: usize,
    valid: usize,
    out: &'a mut [f32],
    kernel: K,
}

/// Lanes that are transformed at a time.
const LANES: usize = 8;

impl<K: Fn(usize, usize) -> [f64; 9]> Work for Pack<'_, K> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.tile {
            Tile::F2 => self.planes::<2, 4, Two>(),
            Tile::F4 => self.planes::<4, 6, Four>(),
        }
    }
}

impl<K: Fn(usize, usize) -> [f64; 9]> Pack<'_, K> {
    #[inline(always)]
    fn planes<const M: usize, const A: usize, T: Transform<M, A>>(self) {
        let Pack { c: channels, width, valid, out, kernel, .. } = self;
        for c in 0..channels {
            // All planes of a channel here first: in `out` they often share a set of the cache, which holds fewer.
            let mut planes = [[[0.0; WIDEST]; A]; A];
            for first in (0..valid).step_by(LANES) {
                let mut taps = [[0.0; LANES]; 9];
                for k in first..valid.min(first + LANES) {
                    for (tap, value) in taps.iter_mut().zip(kernel(c, k)) {
                        tap[k - first] = value;
                    }
                }
                for (line, g) in planes.iter_mut().zip(&T::G) {
                    let half = [0, 1, 2].map(|s| combine(g, &taps[s], &taps[3 + s], &taps[6 + s]));
                    for (plane, g) in line.iter_mut().zip(&T::G) {
                        let whole = combine(g, &half[0], &half[1], &half[2]);
                        for (to, from) in plane[first..first + LANES].iter_mut().zip(whole) {
                            *to = from as f32;
                        }
                    }
                }
            }
            for (plane, values) in planes.as_flattened().iter().enumerate() {
                out[(plane * channels + c) * width..][..width].copy_from_slice(&values[..width]);
            }
        }
    }
}

#[inline(always)]
fn combine(g: &[f64; 3], a: &[f64; LANES], b: &[f64; LANES], c: &[f64; LANES]) -> [f64; LANES] {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = g[0] * a[i] + g[1] * b[i] + g[2] * c[i];
    }
    out
}

/// One tile's pixels, transformed, to row 0 of the planes of `out`; whole vectors, zeros behind channel `c`.
///
/// # Safety
/// Every pixel is good for reads of `c` floats.
#[inline(always)]
unsafe fn lift<S: Simd, const I: usize, const A: usize, L: Lift<I, A>>(
    s: S,
    c: usize,
    pixels: &[[*const f32; I]; I],
    out: &mut [f32],
    step: usize,
) {
    assert!(out.len() >= (A * A - 1) * step + c.next_multiple_of(S::W), "{} floats for a tile of {c} channels", out.len());
    let whole = c / S::W * S::W;
    // SAFETY: the assertion above covers every plane; the caller vouches for c floats of each pixel.
    unsafe {
        for channel in (0..whole).step_by(S::W) {
            lift_vector::<S, I, A, L>(s, S::W, channel, pixels, out.as_mut_ptr(), step);
        }
        if whole < c {
            lift_vector::<S, I, A, L>(s, c - whole, whole, pixels, out.as_mut_ptr(), step);
        }
    }
}

/// The vector of `width` channels from `channel` on.
///
/// # Safety
/// Every pixel is good for reads of those channels, `out` for writes of a vector of them in every plane.
#[inline(always)]
unsafe fn lift_vector<S: Simd, const I: usize, const A: usize, L: Lift<I, A>>(
    s: S,
    width: usize,
    channel: usize,
    pixels: &[[*const f32; I]; I],
    out: *mut f32,
    step: usize,
) {
    let mut columns = [[s.splat(0.0); A]; I];
    for (j, column) in columns.iter_mut().enumerate() {
        let mut d = [s.splat(0.0); I];
        for (d, line) in d.iter_mut().zip(pixels) {
            // SAFETY: the caller vouches for the channels.
            *d = unsafe {
                let p = line[j].add(channel);
                if width == S::W { s.load(p) } else { s.load_part(p, width) }
            };
        }
        *column = L::lift(s, d);
    }
    for i in 0..A {
        let mut d = [s.splat(0.0); I];
        for (d, column) in d.iter_mut().zip(&columns) {
            *d = column[i];
        }
        for (j, &v) in L::lift(s, d).iter().enumerate() {
            // SAFETY: the caller vouches for every plane.
            unsafe { s.store(out.add((i * A + j) * step + channel), v) };
        }
    }
}

/// Where the results of a tile go.
struct Target {
    /// First pixel.
    first: usize,
    /// Pixels from a line to the next.
    line: usize,
    /// Lines, and pixels of a line, that are in the image.
    inside: [usize; 2],
    channels: usize,
}

/// Row 0 of the planes of `products` to the tile's results, by way of `sums`; `epilogue` runs over those inside of the
/// image.
#[inline(always)]
fn transform_result<S: Simd, const M: usize, const A: usize, T: Transform<M, A>>(
    s: S,
    (products, step): (&[f32], usize),
    to: &Target,
    sums: &mut [[[f32; WIDEST]; M]; M],
    result: &mut [f32],
    epilogue: &mut [Epi],
) {
    let padded = to.channels.next_multiple_of(S::W);
    assert!(products.len() >= (A * A - 1) * step + padded, "{} floats for {} channels", products.len(), to.channels);
    // Four vectors of each pixel together: the epilogue chooses its operations once for them.
    for channel in (0..to.channels).step_by(4 * S::W) {
        let valid = (4 * S::W).min(to.channels - channel);
        for at in (0..valid).step_by(S::W) {
            let mut columns = [[s.splat(0.0); M]; A];
            for (j, column) in columns.iter_mut().enumerate() {
                let mut m = [s.splat(0.0); A];
                for (i, m) in m.iter_mut().enumerate() {
                    // SAFETY: the assertion above covers every plane's whole vectors.
                    *m = unsafe { s.load(products.as_ptr().add((i * A + j) * step + channel + at)) };
                }
                *column = T::result(s, m);
            }
            for (i, line) in sums.iter_mut().enumerate() {
                let mut m = [s.splat(0.0); A];
                for (m, column) in m.iter_mut().zip(&columns) {
                    *m = column[i];
                }
                let y = T::result(s, m);
                for (sums, &y) in line.iter_mut().zip(&y) {
                    s.put(&mut sums[at..at + S::W], y);
                }
            }
        }
        for (i, line) in sums.iter().enumerate().take(to.inside[0]) {
            for (j, sums) in line.iter().enumerate().take(to.inside[1]) {
                let pixel = to.first + i * to.line + j;
                let out = &mut result[pixel * to.channels + channel..][..valid];
                epilogue::apply(s, epilogue, epilogue::Place { pixel, channel, channels: to.channels }, &sums[..valid], out);
            }
        }
    }
}
