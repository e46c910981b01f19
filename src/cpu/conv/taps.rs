//! Which source pixel meets which kernel tap: forward convolutions and input gradients in one form.
//! Must not know channels' values, weights or vectors.

use std::ops::Range;

use crate::graph::Conv;

/// Entries that a kernel may read behind the last pixel of a [`Table`] row.
pub(super) const SLACK: usize = 16;

/// Kernel element `[r, s]`, which meets the source pixel `offset` away from a pixel's base.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    pub(super) kernel: [usize; 2],
    offset: [isize; 2],
}

/// Result pixels `origin + i * step` share one list of taps; pixel i's base in the source is `i * source_step`.
#[derive(Debug)]
pub(super) struct Phase {
    origin: [usize; 2],
    pub(super) taps: Vec<Tap>,
}

/// The phases of one direction of a convolution.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) step: [usize; 2],
    source_step: [usize; 2],
    pub(super) phases: Vec<Phase>,
}

impl Geometry {
    /// One phase: every output pixel meets every tap.
    pub(super) fn forward(conv: &Conv) -> Self {
        let taps = kernel_elements(conv)
            .map(|kernel| Tap { kernel, offset: [0, 1].map(|d| (kernel[d] * conv.dilation[d]) as isize - conv.pad[d] as isize) });
        let phases = vec![Phase { origin: [0, 0], taps: taps.collect() }];
        Geometry { step: [1, 1], source_step: conv.stride, phases }
    }

    /// Input pixel y gets a gradient from output pixel i where `y = i * stride + r * dilation - pad`: one phase for each
    /// remainder of y by the stride, with the taps r that make the division exact. A phase may have none.
    pub(super) fn grad_input(conv: &Conv) -> Self {
        let [sy, sx] = conv.stride;
        let origins = (0..sy).flat_map(|y| (0..sx).map(move |x| [y, x]));
        let phases = origins.map(|origin| {
            let taps = kernel_elements(conv).filter_map(|kernel| {
                let away = [0, 1].map(|d| (origin[d] + conv.pad[d]) as isize - (kernel[d] * conv.dilation[d]) as isize);
                let exact = (0..2).all(|d| away[d] % conv.stride[d] as isize == 0);
                exact.then(|| Tap { kernel, offset: [0, 1].map(|d| away[d] / conv.stride[d] as isize) })
            });
            Phase { origin, taps: taps.collect() }
        });
        Geometry { step: conv.stride, source_step: [1, 1], phases: phases.collect() }
    }

    /// Source rows, counted over the batch, that the result rows `rows` read between them.
    pub(super) fn source_rows(&self, frame: &Frame, rows: &Range<usize>) -> Range<usize> {
        let ([source_height, _], [height, _]) = (frame.source_hw, frame.result_hw);
        let offsets = |phase: &Phase| phase.taps.iter().map(|tap| tap.offset[0]).collect::<Vec<_>>();
        let offsets: Vec<isize> = self.phases.iter().flat_map(offsets).collect();
        // The base of the one phase that a row belongs to; its own offsets are among all.
        let base = |row: usize| (row % height / self.step[0] * self.source_step[0]) as isize;
        let low = base(rows.start) + offsets.iter().min().unwrap_or(&0);
        let high = base(rows.end - 1) + offsets.iter().max().unwrap_or(&0) + 1;
        let clamp = |row: isize| row.clamp(0, source_height as isize) as usize;
        (rows.start / height) * source_height + clamp(low)..((rows.end - 1) / height) * source_height + clamp(high)
    }
}

fn kernel_elements(conv: &Conv) -> impl Iterator<Item = [usize; 2]> + use<> {
    let [height, width] = conv.kernel;
    (0..height).flat_map(move |r| (0..width).map(move |s| [r, s]))
}

/// Sizes of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) source_hw: [usize; 2],
    pub(super) result_hw: [usize; 2],
    /// Channels of a source pixel.
    pub(super) channels: usize,
    /// The source row, counted over the batch, that the source array starts with.
    pub(super) first_source_row: usize,
}

/// For each tap and pixel of one phase the source pixel's address, the zero row's where the tap falls outside.
#[derive(Default)]
pub(super) struct Table {
    /// Pixels, as positions in the run of result rows they were listed for.
    pub(super) pixels: Vec<usize>,
    addresses: Vec<*const f32>,
    /// For each row of pixels the first source row of its image and its base in the image.
    bases: Vec<(usize, isize)>,
    /// Addresses from one tap to the next.
    pub(super) stride: usize,
}

// SAFETY: only the kernels that `fill` has just listed addresses for read from them, while the arrays are borrowed.
unsafe impl Send for Table {}

impl Table {
    /// Lists the pixels of `phase` in the result rows `rows` (counted over the batch).
    ///
    /// `source` holds `frame.channels` floats for each pixel, `zeros` at least that many for one.
    #[inline(always)]
    pub(super) fn fill(
        &mut self,
        (geometry, phase): (&Geometry, &Phase),
        frame: &Frame,
        rows: Range<usize>,
        source: &[f32],
        zeros: &[f32],
    ) {
        assert!(zeros.len() >= frame.channels, "{} zeros for {} channels", zeros.len(), frame.channels);
        let ([height, width], [source_height, source_width]) = (frame.result_hw, frame.source_hw);
        let columns = width.saturating_sub(phase.origin[1]).div_ceil(geometry.step[1]);
        self.pixels.clear();
        self.bases.clear();
        for (i, row) in rows.enumerate() {
            let (image, y) = (row / height, row % height);
            if y >= phase.origin[0] && (y - phase.origin[0]).is_multiple_of(geometry.step[0]) {
                let start = i * width + phase.origin[1];
                self.pixels.extend((0..columns).map(|x| start + x * geometry.step[1]));
                let base = (y - phase.origin[0]) / geometry.step[0] * geometry.source_step[0];
                self.bases.push((image * source_height, base as isize));
            }
        }
        self.stride = self.pixels.len() + SLACK;
        if self.addresses.len() < self.stride * phase.taps.len() {
            self.addresses.resize(self.stride * phase.taps.len(), zeros.as_ptr());
        }
        let length = source_width * frame.channels;
        for (tap, addresses) in phase.taps.iter().zip(self.addresses.chunks_exact_mut(self.stride)) {
            let (own, slack) = addresses.split_at_mut(self.pixels.len());
            slack.fill(zeros.as_ptr());
            for (&(image, base), addresses) in self.bases.iter().zip(own.chunks_exact_mut(columns.max(1))) {
                let y = base + tap.offset[0];
                if y < 0 || y >= source_height as isize {
                    addresses.fill(zeros.as_ptr());
                    continue;
                }
                let line = &source[(image + y as usize - frame.first_source_row) * length..][..length];
                fill_row(addresses, line, zeros, frame.channels, (geometry.source_step[1], tap.offset[1]));
            }
        }
    }

    /// The addresses of tap 0; those of tap t stand `t * stride` further on, each row followed by [`SLACK`] zero rows.
    /// From each address `frame.channels` floats can be read while the source and the zeros live.
    pub(super) fn addresses(&self) -> &[*const f32] {
        &self.addresses
    }
}

/// One tap's addresses for one row of pixels: pixel i meets place `i * step + offset` of `line`.
#[inline(always)]
fn fill_row(addresses: &mut [*const f32], line: &[f32], zeros: &[f32], channels: usize, (step, offset): (usize, isize)) {
    let (columns, width) = (addresses.len(), (line.len() / channels) as isize);
    // Pixels begin..end fall inside: 0 <= i * step + offset < width.
    let begin = ((-offset).max(0) as usize).div_ceil(step).min(columns);
    let end = ((width - offset).max(0) as usize).div_ceil(step).min(columns).max(begin);
    addresses[..begin].fill(zeros.as_ptr());
    addresses[end..].fill(zeros.as_ptr());
    let first = line.as_ptr().wrapping_offset(((begin * step) as isize + offset) * channels as isize);
    for (i, address) in addresses[begin..end].iter_mut().enumerate() {
        // Inside the line: i is below end - begin.
        *address = first.wrapping_add(i * (step * channels));
    }
}
