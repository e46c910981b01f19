//! Convolutions: weights packed once for a direction, then run on batches of any size.
//! Must not know graphs, training or where the arrays live.

mod columns;
mod depthwise;
mod direct;
mod grad_weight;
mod taps;

use rayon::prelude::*;

use super::epilogue::{self, Epi};
use super::simd::{Aligned, Isa, Simd, Work};
use crate::graph::Conv;
use columns::Columns;
use depthwise::Depthwise;
use direct::{Panels, Scratch, Size};
pub(crate) use grad_weight::{grad_weight, matrix_grad_weight};
use taps::{Frame, Geometry, Table};

/// Pixels of one phase in a unit of work: enough to use a block of weights many times, few enough for the caches.
const UNIT_PIXELS: usize = 96;
/// The same for [`Columns`], whose units compute the source rows at their edges twice.
const COLUMN_UNIT_PIXELS: usize = 1024;

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
}

impl ConvPanels {
    /// Packs `w [K, C/groups, R, S]` for `x [N, H, W, C]` -> `[N, P, Q, K]`; `scale [K]` multiplies the result.
    pub(crate) fn forward(isa: Isa, conv: &Conv, w: &[f32], scale: Option<&[f32]>) -> Self {
        Self::pack(isa, conv, false, w, scale)
    }

    /// Packs `w [K, C/groups, R, S]` for `g [N, P, Q, K]` -> `[N, H, W, C]`; `scale [K]` multiplies the incoming gradient.
    pub(crate) fn grad_input(isa: Isa, conv: &Conv, w: &[f32], scale: Option<&[f32]>) -> Self {
        Self::pack(isa, conv, true, w, scale)
    }

    fn pack(isa: Isa, conv: &Conv, backward: bool, w: &[f32], scale: Option<&[f32]>) -> Self {
        conv.check();
        let (c, k) = (conv.c / conv.groups, conv.k / conv.groups);
        let [height, width] = conv.kernel;
        assert_eq!(w.len(), conv.k * c * height * width, "weights of {conv:?}");
        if let Some(scale) = scale {
            assert_eq!(scale.len(), conv.k, "scale of {conv:?}");
        }
        let geometry = if backward { Geometry::grad_input(conv) } else { Geometry::forward(conv) };
        // c counts inside the group, k over all.
        let weight = |k: usize, c_in: usize, [r, s]: [usize; 2]| {
            w[((k * c + c_in) * height + r) * width + s] * scale.map_or(1.0, |scale| scale[k])
        };
        let algorithm = if c == 1 && k == 1 && conv.groups > 1 {
            let pack = |taps: &[taps::Tap]| Depthwise::pack(conv.groups, taps.len(), |t, k| weight(k, 0, taps[t].kernel));
            Algorithm::Depthwise(geometry.phases.iter().map(|phase| pack(&phase.taps)).collect())
        } else if backward && Columns::pays(conv) {
            Algorithm::Columns(Columns::pack(isa, conv, weight))
        } else {
            let (source, result) = if backward { (k, c) } else { (c, k) };
            let pack = |taps: &[taps::Tap]| {
                let size = Size { groups: conv.groups, c: source, k: result, taps: taps.len() };
                Panels::pack(isa, size, |group, t, from, to| {
                    let (k_in, c_in) = if backward { (from, to) } else { (to, from) };
                    weight(group * k + k_in, c_in, taps[t].kernel)
                })
            };
            Algorithm::Direct(geometry.phases.iter().map(|phase| pack(&phase.taps)).collect())
        };
        let zeros = Aligned::zeros(match &algorithm {
            Algorithm::Columns(columns) => conv.k.max(columns.width()),
            _ => conv.k.max(conv.c),
        });
        ConvPanels { isa, conv: *conv, backward, geometry, algorithm, zeros }
    }

    /// Memory that the packed weights take.
    pub(crate) fn bytes(&self) -> usize {
        match &self.algorithm {
            Algorithm::Direct(phases) => phases.iter().map(Panels::bytes).sum(),
            Algorithm::Depthwise(phases) => phases.iter().map(Depthwise::bytes).sum(),
            Algorithm::Columns(columns) => columns.bytes(),
        }
    }

    /// `n` images; `hw` is the size of the convolution's input in both directions. `dst` is overwritten.
    pub(crate) fn run(&self, n: usize, hw: [usize; 2], src: &[f32], dst: &mut [f32], epilogue: &mut [Epi]) {
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

        let rows = self.unit_rows(n * height, width);
        let units = (n * height).div_ceil(rows);
        let lists = epilogue::split(epilogue, channels, rows * width, units);
        dst.par_chunks_mut(rows * width * channels).zip(lists).enumerate().for_each_init(
            Buffers::default,
            |buffers, (i, (dst, mut epilogue))| {
                let rows = i * rows..(n * height).min((i + 1) * rows);
                self.isa.dispatch(Unit { layer: self, frame, rows, src, dst, epilogue: &mut epilogue, buffers });
            },
        );
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

/// What a thread keeps from unit to unit.
#[derive(Default)]
struct Buffers {
    table: Table,
    scratch: Scratch,
    columns: Vec<f32>,
}

/// A run of result rows, counted over the whole batch.
struct Unit<'a, 'e> {
    layer: &'a ConvPanels,
    frame: Frame,
    rows: std::ops::Range<usize>,
    src: &'a [f32],
    dst: &'a mut [f32],
    epilogue: &'a mut [Epi<'e>],
    buffers: &'a mut Buffers,
}

impl Work for Unit<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Unit { layer, frame, rows, src, dst, epilogue, buffers: Buffers { table, scratch, columns: sums } } = self;
        let (geometry, zeros) = (&layer.geometry, layer.zeros.floats());
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
                Algorithm::Columns(_) => unreachable!("handled above"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
