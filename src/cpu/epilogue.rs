//! What happens to a result before it is stored: the element-wise operations that follow a kernel.
//! Must not know which kernel made the result.

use super::simd::Simd;
use crate::tensor::bits_bytes;

/// One element-wise operation on a result before it is stored, in the order of the list.
///
/// `Scale` and `Bias` hold one value a channel (the last dimension); the others are shaped like the result. Masks
/// hold one bit an element, each pixel padded to whole 16-bit words ([`crate::tensor::bits_bytes`]).
pub(crate) enum Epi<'a> {
    Scale(&'a [f32]),
    Bias(&'a [f32]),
    Add(&'a [f32]),
    /// `max(v, 0)`, then `min(v, cap)`; NaN stays NaN.
    Relu {
        cap: Option<f32>,
    },
    /// Writes the bits `0 < v (< cap)`; the value goes on unchanged.
    MaskOut {
        bits: &'a mut [u8],
        cap: Option<f32>,
    },
    /// v where the bit is set, 0 elsewhere.
    Gate(&'a [u8]),
}

const FITS: &str = "`check` found room for every run";

/// Asserts that every operand fits a result of `pixels` pixels with `channels` channels.
pub(super) fn check(list: &[Epi], pixels: usize, channels: usize) {
    let mask = pixels * bits_bytes(channels);
    for op in list {
        let (got, want) = match op {
            Epi::Scale(v) | Epi::Bias(v) => (v.len(), channels),
            Epi::Add(v) => (v.len(), pixels * channels),
            Epi::MaskOut { bits, .. } => (bits.len(), mask),
            Epi::Gate(bits) => (bits.len(), mask),
            Epi::Relu { .. } => continue,
        };
        assert_eq!(got, want, "epilogue operand for {pixels} pixels of {channels} channels");
    }
}

/// The list cut into runs of so many elements each: whole pixels, where an operation knows pixels.
pub(super) fn split<'a>(list: &'a mut [Epi<'_>], channels: usize, runs: &[usize]) -> Vec<Vec<Epi<'a>>> {
    let mut out: Vec<Vec<Epi<'a>>> = runs.iter().map(|_| Vec::with_capacity(list.len())).collect();
    let bytes = |elements: usize| elements / channels * bits_bytes(channels);
    for op in list {
        match op {
            Epi::Scale(v) => out.iter_mut().for_each(|part| part.push(Epi::Scale(v))),
            Epi::Bias(v) => out.iter_mut().for_each(|part| part.push(Epi::Bias(v))),
            Epi::Relu { cap } => out.iter_mut().for_each(|part| part.push(Epi::Relu { cap: *cap })),
            Epi::Add(v) => {
                let mut rest = *v;
                for (part, &elements) in out.iter_mut().zip(runs) {
                    part.push(Epi::Add(rest.split_off(..elements).expect(FITS)));
                }
            }
            Epi::Gate(bits) => {
                let mut rest = *bits;
                for (part, &elements) in out.iter_mut().zip(runs) {
                    part.push(Epi::Gate(rest.split_off(..bytes(elements)).expect(FITS)));
                }
            }
            Epi::MaskOut { bits, cap } => {
                let mut rest = &mut **bits;
                for (part, &elements) in out.iter_mut().zip(runs) {
                    let bits = rest.split_off_mut(..bytes(elements)).expect(FITS);
                    part.push(Epi::MaskOut { bits, cap: *cap });
                }
            }
        }
    }
    out
}

/// Where a run of channels lies in the result.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) pixel: usize,
    /// First channel of the run, a multiple of the vector's lanes.
    pub(super) channel: usize,
    /// Channels of the whole pixel.
    pub(super) channels: usize,
}

/// Runs the list over one pixel's run of channels: `src` to `dst`, equally long. A run that is not a multiple of the
/// lanes must be the pixel's last.
#[inline(always)]
pub(super) fn apply<S: Simd>(s: S, list: &mut [Epi], place: Place, src: &[f32], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len(), "a run of channels and its place differ in length");
    let mut at = 0;
    // Several vectors together where there are: each operation is chosen once for all of them.
    while src.len() - at >= 4 * S::W {
        at += step::<S, 4>(s, list, place, 4 * S::W, (src, dst), at);
    }
    if src.len() - at >= 2 * S::W {
        at += step::<S, 2>(s, list, place, 2 * S::W, (src, dst), at);
    }
    while at < src.len() {
        at += step::<S, 1>(s, list, place, S::W.min(src.len() - at), (src, dst), at);
    }
}

/// `width` channels from `at` on; gives back `width`.
#[inline(always)]
fn step<S: Simd, const N: usize>(
    s: S,
    list: &mut [Epi],
    place: Place,
    width: usize,
    (src, dst): (&[f32], &mut [f32]),
    at: usize,
) -> usize {
    let (src, dst) = (&src[at..at + width], &mut dst[at..at + width]);
    let mut v = [s.splat(0.0); N];
    for i in 0..N {
        v[i] = s.take(&src[i * S::W..]);
    }
    let v = vectors(s, list, Place { channel: place.channel + at, ..place }, width, v);
    for i in 0..N {
        s.put(&mut dst[i * S::W..], v[i]);
    }
    width
}

/// Runs the list over the vectors that hold the next `width` channels; one alone may be partial, its other lanes 0.
#[inline(always)]
pub(super) fn vectors<S: Simd, const N: usize>(
    s: S,
    list: &mut [Epi],
    place: Place,
    width: usize,
    mut v: [S::V; N],
) -> [S::V; N] {
    let zero = s.splat(0.0);
    let Place { pixel, channel, channels } = place;
    let first = pixel * channels + channel;
    let byte = |i: usize| pixel * bits_bytes(channels) + channel / 8 + i * S::W / 8;
    for op in list.iter_mut() {
        // Plain loops and no closures over vectors: a closure that is not inlined loses the instruction set.
        match op {
            Epi::Scale(scale) => {
                let scale = &scale[channel..channel + width];
                for i in 0..N {
                    v[i] = s.mul(v[i], s.take(&scale[i * S::W..]));
                }
            }
            Epi::Bias(bias) => {
                let bias = &bias[channel..channel + width];
                for i in 0..N {
                    v[i] = s.add(v[i], s.take(&bias[i * S::W..]));
                }
            }
            Epi::Add(other) => {
                let other = &other[first..first + width];
                for i in 0..N {
                    v[i] = s.add(v[i], s.take(&other[i * S::W..]));
                }
            }
            Epi::Relu { cap } => {
                for v in &mut v {
                    *v = s.max(zero, *v);
                }
                if let Some(cap) = cap {
                    for v in &mut v {
                        *v = s.min(s.splat(*cap), *v);
                    }
                }
            }
            Epi::Gate(bits) => {
                for (i, v) in v.iter_mut().enumerate() {
                    *v = s.gate(*v, read_bits::<S>(bits, byte(i)));
                }
            }
            Epi::MaskOut { bits, cap } => {
                // No branch in the loop: with one it is not unrolled, and the vectors go through memory.
                let (limit, unlimited) = (s.splat(cap.unwrap_or(0.0)), if cap.is_none() { u16::MAX } else { 0 });
                for (i, &v) in v.iter().enumerate() {
                    let below = s.greater(limit, v) | unlimited;
                    write_bits::<S>(bits, byte(i), s.greater(v, zero) & below, channel + (i + 1) * S::W >= channels);
                }
            }
        }
    }
    v
}

#[inline(always)]
fn read_bits<S: Simd>(bits: &[u8], byte: usize) -> u16 {
    if S::W == 16 { u16::from_le_bytes([bits[byte], bits[byte + 1]]) } else { u16::from(bits[byte]) }
}

/// `last`: the pixel ends here, so what is left of its last 16-bit word is zeroed too.
#[inline(always)]
fn write_bits<S: Simd>(bits: &mut [u8], byte: usize, value: u16, last: bool) {
    let [low, high] = value.to_le_bytes();
    bits[byte] = low;
    if S::W == 16 {
        bits[byte + 1] = high;
    } else if last && byte.is_multiple_of(2) {
        bits[byte + 1] = 0;
    }
}
