//! Input gradients with very few channels: one product for all taps, then sums of its columns.
//! Must not know strides or padding: a table of addresses says what each tap reads.

use std::ops::Range;

use super::direct::{Panels, Scratch, Size};
use super::taps::{Frame, Geometry, Phase, SLACK, Table};
use crate::cpu::epilogue::{self, Epi, Place};
use crate::cpu::simd::{Isa, Simd};
use crate::graph::Conv;

/// Channels of the result up to which vectors of them would be mostly empty.
const MOST_CHANNELS: usize = 4;

/// Weights as one matrix from the source's channels to `[tap][channel]`.
///
/// A direct product would fill 3 of 16 lanes for an RGB image; this one fills 27 of 32 for a kernel of 3 by 3.
pub(super) struct Columns {
    product: Panels,
    /// A convolution of one by one, stride 1, which the product is.
    pointwise: Geometry,
    channels: usize,
    kernel: [usize; 2],
}

impl Columns {
    /// Whether this is the better way to the input gradient of `conv`.
    pub(super) fn pays(conv: &Conv) -> bool {
        conv.groups == 1 && conv.c <= MOST_CHANNELS && conv.kernel[0] * conv.kernel[1] >= 4
    }

    /// Room for the weights of `conv`.
    pub(super) fn new(isa: Isa, conv: &Conv) -> Self {
        let (channels, kernel) = (conv.c, conv.kernel);
        let width = channels * kernel[0] * kernel[1];
        let product = Panels::new(isa, Size { groups: 1, c: conv.k, k: width, taps: 1 });
        let pointwise = Geometry::forward(&Conv::square(conv.k, width, 1, 1, 0));
        Columns { product, pointwise, channels, kernel }
    }

    /// Packs `weight(k, c, [r, s])`.
    pub(super) fn fill(&mut self, isa: Isa, weight: impl Fn(usize, usize, [usize; 2]) -> f32) {
        let Columns { ref mut product, channels, kernel, .. } = *self;
        product.fill(isa, |_, _, k, column| {
            let tap = column / channels;
            weight(k, column % channels, [tap / kernel[1], tap % kernel[1]])
        });
    }

    pub(super) fn bytes(&self) -> usize {
        self.product.bytes()
    }

    /// Columns of a source pixel.
    pub(super) fn width(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// The columns of the source rows `rows` into `out`, `[row][x][tap][channel]`.
    #[inline(always)]
    pub(super) fn multiply<S: Simd>(
        &self,
        s: S,
        table: &mut Table,
        (frame, rows): (&Frame, Range<usize>),
        (source, zeros): (&[f32], &[f32]),
        scratch: &mut Scratch,
        out: &mut Vec<f32>,
    ) {
        out.resize(rows.len() * frame.source_hw[1] * self.width(), 0.0);
        let frame = Frame { result_hw: frame.source_hw, ..*frame };
        table.fill((&self.pointwise, &self.pointwise.phases[0]), &frame, rows, source, zeros);
        self.product.run(s, table, out, &mut [], scratch);
    }

    /// The pixels of one phase: each the sum of its taps' columns, found by `table`, to `dst`.
    #[inline(always)]
    pub(super) fn gather<S: Simd>(&self, s: S, phase: &Phase, table: &Table, dst: &mut [f32], epilogue: &mut [Epi]) {
        const { assert!(MOST_CHANNELS < 8) };
        let (channels, count) = (self.channels, table.pixels.len());
        let taps = phase.taps.len();
        assert!(table.addresses().len() >= taps * table.stride && table.stride >= count + SLACK, "table of another phase");
        for (i, &pixel) in table.pixels.iter().enumerate() {
            let mut sum = s.splat(0.0);
            for (t, tap) in phase.taps.iter().enumerate() {
                let column = (tap.kernel[0] * self.kernel[1] + tap.kernel[1]) * channels;
                // SAFETY: each address of the table is good for the `width()` columns of a source pixel.
                let term = unsafe { s.load_part(table.addresses()[t * table.stride + i].add(column), channels) };
                sum = s.add(sum, term);
            }
            let [v] = epilogue::vectors(s, epilogue, Place { pixel, channel: 0, channels }, channels, [sum]);
            s.put(&mut dst[pixel * channels..][..channels], v);
        }
    }
}
