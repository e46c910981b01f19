//! Depthwise convolution: every channel has its own kernel, so vectors run along channels.
//! Must not know strides, padding or directions: a table of addresses says what each tap reads.

use super::taps::{SLACK, Table};
use crate::cpu::epilogue::{self, Epi, Place};
use crate::cpu::simd::{Aligned, Simd};

/// Pixels that share one load of the weights.
const ROWS: usize = 6;

/// Weights of one phase: `[tap][channels, padded to a vector]`.
pub(super) struct Depthwise {
    channels: usize,
    padded: usize,
    taps: usize,
    weights: Aligned,
}

impl Depthwise {
    /// Room for so many weights.
    pub(super) fn new(channels: usize, taps: usize) -> Self {
        let padded = channels.next_multiple_of(16);
        Depthwise { channels, padded, taps, weights: Aligned::zeros(taps * padded) }
    }

    /// Packs `weight(tap, channel)`.
    pub(super) fn fill(&mut self, weight: impl Fn(usize, usize) -> f32) {
        for (tap, row) in self.weights.floats_mut().chunks_exact_mut(self.padded).take(self.taps).enumerate() {
            for (channel, w) in row[..self.channels].iter_mut().enumerate() {
                *w = weight(tap, channel);
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.weights.floats().len() * 4
    }

    /// All pixels of `table` from its addresses to `dst`.
    #[inline(always)]
    pub(super) fn run<S: Simd>(&self, s: S, table: &Table, dst: &mut [f32], epilogue: &mut [Epi]) {
        let (count, channels, taps) = (table.pixels.len(), self.channels, self.taps);
        assert!(table.addresses().len() >= taps * table.stride && table.stride >= count + SLACK, "table of another phase");
        for first in (0..count).step_by(ROWS) {
            let pixels = &table.pixels[first..(first + ROWS).min(count)];
            let group = Group { addresses: &table.addresses()[first.min(taps * table.stride)..], stride: table.stride, pixels };
            let mut channel = 0;
            // SAFETY: the assertion covers all taps of ROWS <= SLACK pixels; every address is good for all channels.
            unsafe {
                while channels - channel >= 2 * S::W {
                    self.sum::<S, 2, true>(s, &group, channel, dst, epilogue);
                    channel += 2 * S::W;
                }
                while channels - channel >= S::W {
                    self.sum::<S, 1, true>(s, &group, channel, dst, epilogue);
                    channel += S::W;
                }
                if channel < channels {
                    self.sum::<S, 1, false>(s, &group, channel, dst, epilogue);
                }
            }
        }
    }

    /// `N` vectors of channels from `channel` on, for a group of pixels. `FULL`: the pixels have all their lanes.
    ///
    /// # Safety
    /// `addresses[t * stride + r]` for all taps and `ROWS` rows are good for reads of all channels.
    #[inline(always)]
    unsafe fn sum<S: Simd, const N: usize, const FULL: bool>(
        &self,
        s: S,
        group: &Group,
        channel: usize,
        dst: &mut [f32],
        epilogue: &mut [Epi],
    ) {
        let channels = self.channels;
        let width = if FULL { N * S::W } else { channels - channel };
        let mut acc = [[s.splat(0.0); N]; ROWS];
        for t in 0..self.taps {
            let weights = &self.weights.floats()[t * self.padded + channel..][..N * S::W];
            let mut w = [s.splat(0.0); N];
            for i in 0..N {
                w[i] = s.take(&weights[i * S::W..]);
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                for i in 0..N {
                    // SAFETY: the caller vouches for the address and its channels.
                    let x = unsafe {
                        let p = (*group.addresses.get_unchecked(t * group.stride + r)).add(channel + i * S::W);
                        if FULL { s.load(p) } else { s.load_part(p, width) }
                    };
                    acc[i] = s.fma(x, w[i], acc[i]);
                }
            }
        }
        for (&pixel, &sums) in group.pixels.iter().zip(&acc) {
            let v = epilogue::vectors(s, epilogue, Place { pixel, channel, channels }, width, sums);
            let out = &mut dst[pixel * channels + channel..][..width];
            for i in 0..N {
                s.put(&mut out[i * S::W..], v[i]);
            }
        }
    }
}

/// Up to `ROWS` pixels with the addresses that their taps read.
struct Group<'a> {
    addresses: &'a [*const f32],
    stride: usize,
    pixels: &'a [usize],
}
