//! Convolutions: weights packed once for a direction, then run on batches of any size.
//! Must not know graphs, training or where the arrays live.

mod columns;
mod depthwise;
mod direct;
mod grad_weight;
mod taps;
mod wino;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::epilogue::{self, Epi};
use super::simd::{Aligned, Isa, Simd, Work};
use crate::graph::Conv;
use columns::Columns;
use depthwise::Depthwise;
use direct::{Panels, Scratch, Size};
pub(crate) use grad_weight::matrix_grad_weight;
use taps::{Frame, Geometry, Phase, Table};
pub(crate) use wino::Tile;
use wino::Winograd;

/// Pixels of one phase in a unit of work: enough to use a block of weights many times, few enough for the caches.
const UNIT_PIXELS: usize = 96;
/// The same for [`Columns`], whose units compute the source rows at their edges twice.
const COLUMN_UNIT_PIXELS: usize = 1024;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Every product of the definition.
    Direct,
    /// Fewer products, more roundings. Only where [`Way::winograd_fits`].
    Winograd(Tile),
}

impl Way {
    /// Whether Winograd's tiles compute such a convolution.
    pub(crate) fn winograd_fits(conv: &Conv) -> bool {
        let plain = conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.dilation == [1, 1] && conv.groups == 1;
        plain && conv.pad.iter().all(|&pad| pad <= 2)
    }

    /// The way with the fewest products for results of `hw`; of equals the more accurate. The batch counts only as below 8
    /// or not, so that bits do not depend on it.
    pub(crate) fn choose(conv: &Conv, hw: [usize; 2], batch: usize, exact: bool) -> Self {
        if exact || !Way::winograd_fits(conv) || conv.c.min(conv.k) < LEAST_CHANNELS {
            return Way::Direct;
        }
        let images = if batch < 8 { 1 } else { LEAST_TILES };
        let [height, width] = hw;
        let mut best = (9 * height * width, Way::Direct);
        for tile in [Tile::F2, Tile::F4] {
            let tiles = height.div_ceil(tile.side()) * width.div_ceil(tile.side());
            let products = tiles * tile.planes();
            if images * tiles >= LEAST_TILES && products < best.0 {
                best = (products, Way::Winograd(tile));
            }
        }
        best.1
    }
}

/// Channels on either side from which Winograd's transforms are repaid by its products (measured).
const LEAST_CHANNELS: usize = 8;
/// Tiles from which it pays to read transformed weights, 2 to 4 times as many as plain ones (measured): those of one
/// image where batches are small, else even one of each.
const LEAST_TILES: usize = 16;

/// The packed weights of one direction of one convolution.
///
/// Every element of a result is summed in an order that depends on the layer and the [`Isa`] alone, so its bits do not
/// depend on the batch, the place in it or the number of threads.
pub(crate) struct ConvPanels {
    isa: Isa,
    conv: Conv,
    backward: bool,
    geometry: Geometry,
    algorithm: Algorithm,
    /// A pixel of zeros, which taps outside of the source read.
    zeros: Aligned,
}

/// How the sums are formed, with the weights laid out for it.
enum Algorithm {
    /// One entry a phase.
    Direct(Vec<Panels>),
    /// One entry a phase.
    Depthwise(Vec<Depthwise>),
    Columns(Columns),
    Winograd(Winograd),
}

/// Buffers of the threads that run convolutions: kept, because fresh memory is slow to touch.
pub(crate) struct Workspace(Vec<Mutex<Buffers>>);

impl Workspace {
    /// For a pool of so many threads; others may use it too, but wait for each other.
    pub(crate) fn new(threads: usize) -> Self {
        Workspace((0..threads.max(1)).map(|_| Mutex::default()).collect())
    }
    fn lend(&self, work: impl FnOnce(&mut Buffers)) {
        let own = rayon::current_thread_index().unwrap_or(0) % self.0.len();
        // What a panic left behind is good enough: buffers hold nothing from one use to the next.
        work(&mut self.0[own].lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ConvPanels {
    /// Packs `w [K, C/groups, R, S]` for `x [N, H, W, C]` -> `[N, P, Q, K]`; `scale [K]` multiplies the result.
    pub(crate) fn forward(isa: Isa, conv: &Conv, way: Way, w: &[f32], scale: Option<&[f32]>) -> Self {
        Self::pack(isa, conv, false, way, w, scale)
    }

    /// Packs `w [K, C/groups, R, S]` for `g [N, P, Q, K]` -> `[N, H, W, C]`; `scale [K]` multiplies the incoming gradient.
    pub(crate) fn grad_input(isa: Isa, conv: &Conv, way: Way, w: &[f32], scale: Option<&[f32]>) -> Self {
        Self::pack(isa, conv, true, way, w, scale)
    }

    fn pack(isa: Isa, conv: &Conv, backward: bool, way: Way, w: &[f32], scale: Option<&[f32]>) -> Self {
        conv.check();
        let geometry = if backward { Geometry::grad_input(conv) } else { Geometry::forward(conv) };
        let (c, k) = (conv.c / conv.groups, conv.k / conv.groups);
        let (source, result) = if backward { (k, c) } else { (c, k) };
        let algorithm = if let Way::Winograd(tile) = way {
            assert!(Way::winograd_fits(conv), "Winograd's tiles do not compute {conv:?}");
            // The gradient is a convolution with flipped kernels, padded by what is left of their reach.
            let origin = if backward { conv.pad.map(|pad| 2 - pad) } else { conv.pad };
            Algorithm::Winograd(Winograd::new(isa, tile, (source, result), origin))
        } else if c == 1 && k == 1 && conv.groups > 1 {
            let room = |phase: &Phase| Depthwise::new(conv.groups, phase.taps.len());
            Algorithm::Depthwise(geometry.phases.iter().map(room).collect())
        } else if backward && Columns::pays(conv) {
            Algorithm::Columns(Columns::new(isa, conv))
        } else {
            let size = |phase: &Phase| Size { groups: conv.groups, c: source, k: result, taps: phase.taps.len() };
            Algorithm::Direct(geometry.phases.iter().map(|phase| Panels::new(isa, size(phase))).collect())
        };
        let zeros = Aligned::zeros(match &algorithm {
            Algorithm::Columns(columns) => conv.k.max(columns.width()),
            _ => conv.k.max(conv.c),
        });
        let mut panels = ConvPanels { isa, conv: *conv, backward, geometry, algorithm, zeros };
        panels.refill(w, scale);
        panels
    }

    /// Packs other weights of the same shape into the same memory.
    pub(crate) fn refill(&mut self, w: &[f32], scale: Option<&[f32]>) {
        let ConvPanels { isa, ref conv, backward, ref geometry, ref mut algorithm, .. } = *self;
        let (c, k) = (conv.c / conv.groups, conv.k / conv.groups);
        let [height, width] = conv.kernel;
        assert_eq!(w.len(), conv.k * c * height * width, "weights of {conv:?}");
        if let Some(scale) = scale {
            assert_eq!(scale.len(), conv.k, "scale of {conv:?}");
        }
        // c counts inside the group, k over all.
        let weight = |k: usize, c_in: usize, [r, s]: [usize; 2]| {
            w[((k * c + c_in) * height + r) * width + s] * scale.map_or(1.0, |scale| scale[k])
        };
        match algorithm {
            Algorithm::Winograd(winograd) => winograd.fill(isa, |from, to| {
                let (k, c_in) = if backward { (from, to) } else { (to, from) };
                let (kernel, scale) = (&w[(k * c + c_in) * 9..][..9], scale.map_or(1.0, |scale| f64::from(scale[k])));
                std::array::from_fn(|tap| f64::from(kernel[if backward { 8 - tap } else { tap }]) * scale)
            }),
            Algorithm::Depthwise(phases) => {
                for (layer, phase) in phases.iter_mut().zip(&geometry.phases) {
                    layer.fill(|tap, k| weight(k, 0, phase.taps[tap].kernel));
                }
            }
            Algorithm::Columns(columns) => columns.fill(isa, weight),
            Algorithm::Direct(phases) => {
                for (panels, phase) in phases.iter_mut().zip(&geometry.phases) {
                    panels.fill(isa, |group, tap, from, to| {
                        let (k_in, c_in) = if backward { (from, to) } else { (to, from) };
                        weight(group * k + k_in, c_in, phase.taps[tap].kernel)
                    });
                }
            }
        }
    }

    /// Memory that the packed weights take.
    pub(crate) fn bytes(&self) -> usize {
        match &self.algorithm {
            Algorithm::Direct(phases) => phases.iter().map(Panels::bytes).sum(),
            Algorithm::Depthwise(phases) => phases.iter().map(Depthwise::bytes).sum(),
            Algorithm::Columns(columns) => columns.bytes(),
            Algorithm::Winograd(winograd) => winograd.bytes(),
        }
    }

    /// `n` images; `hw` is the size of the convolution's input in both directions. `dst` is overwritten.
    pub(crate) fn run(&self, work: &Workspace, n: usize, hw: [usize; 2], src: &[f32], dst: &mut [f32], epilogue: &mut [Epi]) {
        let out_hw = <[usize; 2]>::from(self.conv.out_hw(hw[0], hw[1]));
        let (c, k) = (self.conv.c, self.conv.k);
        let (frame, channels) = if self.backward {
            (Frame { source_hw: out_hw, result_hw: hw, channels: k, first_source_row: 0 }, c)
        } else {
            (Frame { source_hw: hw, result_hw: out_hw, channels: c, first_source_row: 0 }, k)
        };
        let [height, width] = frame.result_hw;
        assert_eq!(src.len(), n * frame.source_hw.iter().product::<usize>() * frame.channels, "source of {:?}", self.conv);
        assert_eq!(dst.len(), n * height * width * channels, "result of {:?}", self.conv);
        epilogue::check(epilogue, n * height * width, channels);

        let units = self.units(n, frame.result_hw);
        let sizes: Vec<usize> = units.iter().map(|rows| rows.len() * width * channels).collect();
        let lists = epilogue::split(epilogue, channels, &sizes);
        let mut rest = dst;
        let parts = sizes.iter().map(|&size| rest.split_off_mut(..size).expect("the units share out all rows"));
        let parts: Vec<&mut [f32]> = parts.collect();
        units.into_par_iter().zip(parts).zip(lists).for_each(|((rows, dst), mut epilogue)| {
            work.lend(|buffers| {
                self.isa.dispatch(Unit { layer: self, frame, rows, src, dst, epilogue: &mut epilogue, buffers });
            });
        });
    }

    /// Runs of result rows, counted over the batch, that one thread computes at a time.
    fn units(&self, n: usize, hw: [usize; 2]) -> Vec<Range<usize>> {
        if let Algorithm::Winograd(winograd) = &self.algorithm {
            return winograd.units(n, hw, rayon::current_num_threads());
        }
        let total = n * hw[0];
        let rows = self.unit_rows(total, hw[1]);
        (0..total).step_by(rows).map(|first| first..total.min(first + rows)).collect()
    }

    /// Result rows of a unit of work, of `total` rows `width` pixels wide. Chosen for speed alone: no bit depends on it.
    fn unit_rows(&self, total: usize, width: usize) -> usize {
        let phases: usize = self.geometry.step.iter().product();
        let pixels = total * width / phases;
        let share = pixels.div_ceil(2 * rayon::current_num_threads()).max(12);
        let rows = |pixels: usize| (pixels * phases).div_ceil(width).max(1);
        if matches!(self.algorithm, Algorithm::Columns(_)) {
            return rows(COLUMN_UNIT_PIXELS.min(share));
        }
        let least = rows(UNIT_PIXELS.min(share));
        // Of about the same size, the one that wastes least of its last tile of pixels.
        let waste = |rows: usize| {
            let pixels = (rows * width).div_ceil(phases);
            (pixels.next_multiple_of(TILE_PIXELS) - pixels) as f64 / pixels as f64
        };
        let best = |a: &usize, b: &usize| waste(*a).total_cmp(&waste(*b));
        (least..=least + least / 2).min_by(best).expect("the range holds `least`")
    }
}

/// Pixels of the widest accumulator tiles, or half of those of the others.
const TILE_PIXELS: usize = 6;

/// `x [N, H, W, C]`, `g [N, P, Q, K]` -> `dw [K, C/groups, R, S]`, overwritten; `hw` is the size of `x`. Bits do not depend
/// on the number of threads.
pub(crate) fn grad_weight(
    (isa, way, work): (Isa, Way, &Workspace),
    conv: &Conv,
    n: usize,
    hw: [usize; 2],
    x: &[f32],
    g: &[f32],
    dw: &mut [f32],
) {
    match way {
        Way::Direct => grad_weight::grad_weight(conv, n, hw, x, g, dw),
        Way::Winograd(tile) => {
            assert!(Way::winograd_fits(conv), "Winograd's tiles do not compute {conv:?}");
            wino::weight_gradient(isa, tile, work, wino::Layer { conv, n, hw, x, g }, dw);
        }
    }
}

/// What a thread keeps from unit to unit.
#[derive(Default)]
struct Buffers {
    table: Table,
    scratch: Scratch,
    columns: Vec<f32>,
    tiles: wino::Scratch,
    gradients: wino::GradientScratch,
}

/// A run of result rows, counted over the whole batch.
struct Unit<'a, 'e> {
    layer: &'a ConvPanels,
    frame: Frame,
    rows: Range<usize>,
    src: &'a [f32],
    dst: &'a mut [f32],
    epilogue: &'a mut [Epi<'e>],
    buffers: &'a mut Buffers,
}

impl Work for Unit<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Unit { layer, frame, rows, src, dst, epilogue, buffers } = self;
        let Buffers { table, scratch, columns: sums, tiles, .. } = buffers;
        let (geometry, zeros) = (&layer.geometry, layer.zeros.floats());
        if let Algorithm::Winograd(winograd) = &layer.algorithm {
            let arrays = wino::Arrays { source: src, zeros, result: dst, epilogue };
            winograd.run(s, &frame, rows, arrays, tiles);
            return;
        }
        if let Algorithm::Columns(columns) = &layer.algorithm {
            let source_rows = geometry.source_rows(&frame, &rows);
            columns.multiply(s, table, (&frame, source_rows.clone()), (src, zeros), scratch, sums);
            let frame = Frame { channels: columns.width(), first_source_row: source_rows.start, ..frame };
            for phase in &geometry.phases {
                table.fill((geometry, phase), &frame, rows.clone(), sums, zeros);
                columns.gather(s, phase, table, dst, epilogue);
            }
            return;
        }
        for (i, phase) in geometry.phases.iter().enumerate() {
            table.fill((geometry, phase), &frame, rows.clone(), src, zeros);
            match &layer.algorithm {
                Algorithm::Direct(phases) => phases[i].run(s, table, dst, epilogue, scratch),
                Algorithm::Depthwise(phases) => phases[i].run(s, table, dst, epilogue),
                Algorithm::Columns(_) | Algorithm::Winograd(_) => unreachable!("handled above"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
