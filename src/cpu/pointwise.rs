//! Element-wise work that stands alone: an epilogue without a kernel before it, normalisation, scaling.
//! Must not know what made the values or who reads them.

use rayon::prelude::*;

use super::epilogue::{self, Epi, Place};
use super::simd::{Isa, Simd, Work};

/// Elements that one task handles: well above the cost of handing it out, well inside the second-level cache.
const RUN: usize = 16 * 1024;

/// Copies `src` to `dst`, pixels of `channels` channels, through the list.
pub(crate) fn chain(isa: Isa, channels: usize, src: &[f32], dst: &mut [f32], epilogue: &mut [Epi]) {
    assert!(channels > 0 && src.len().is_multiple_of(channels), "{} values in pixels of {channels}", src.len());
    assert_eq!(src.len(), dst.len(), "source and result differ in length");
    epilogue::check(epilogue, src.len() / channels, channels);
    // Where no operation knows channels, a run is one long pixel: few channels would leave vectors empty.
    let flat = epilogue.iter().all(|op| matches!(op, Epi::Add(_) | Epi::Relu { .. }));
    let (channels, pixels) = if flat { (RUN, 1) } else { (channels, (RUN / channels).max(1)) };
    let sizes: Vec<usize> = src.chunks(pixels * channels).map(<[f32]>::len).collect();
    let lists = epilogue::split(epilogue, channels, &sizes);
    let runs = src.par_chunks(pixels * channels).zip(dst.par_chunks_mut(pixels * channels)).zip(lists);
    runs.for_each(|((src, dst), mut epilogue)| {
        let channels = channels.min(src.len());
        isa.dispatch(Run { channels, src, dst, epilogue: &mut epilogue });
    });
}

struct Run<'a, 'e> {
    channels: usize,
    src: &'a [f32],
    dst: &'a mut [f32],
    epilogue: &'a mut [Epi<'e>],
}

impl Work for Run<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { channels, src, dst, epilogue } = self;
        for (pixel, (src, dst)) in src.chunks_exact(channels).zip(dst.chunks_exact_mut(channels)).enumerate() {
            epilogue::apply(s, epilogue, Place { pixel, channel: 0, channels }, src, dst);
        }
    }
}

/// `(x - mean) / std` per channel, in exactly these two roundings.
pub(crate) fn normalise(mean: &[f32], std: &[f32], src: &[f32], dst: &mut [f32]) {
    assert_eq!(mean.len(), std.len(), "means and deviations");
    let table: Vec<(f32, f32)> = mean.iter().copied().zip(std.iter().copied()).collect();
    per_channel(&table, src, dst, |x, (mean, std)| (x - mean) / std);
}

/// `g / std` per channel.
pub(crate) fn normalise_grad(std: &[f32], g: &[f32], dst: &mut [f32]) {
    per_channel(std, g, dst, |g, std| g / std);
}

/// `factor * src`.
pub(crate) fn scale(factor: f32, src: &[f32], dst: &mut [f32]) {
    per_channel(&[factor], src, dst, |x, factor| x * factor);
}

/// `f(x, constants of its channel)`.
fn per_channel<T: Copy + Sync>(constants: &[T], src: &[f32], dst: &mut [f32], f: impl Fn(f32, T) -> f32 + Sync) {
    assert!(!constants.is_empty() && src.len().is_multiple_of(constants.len()), "{} values", src.len());
    assert_eq!(src.len(), dst.len(), "source and result differ in length");
    // Repeated to whole vectors, so that the loop below needs no remainder by the number of channels.
    let pattern: Vec<T> = constants.iter().copied().cycle().take(constants.len() * 16).collect();
    let run = RUN.next_multiple_of(pattern.len());
    src.par_chunks(run).zip(dst.par_chunks_mut(run)).for_each(|(src, dst)| {
        for (src, dst) in src.chunks(pattern.len()).zip(dst.chunks_mut(pattern.len())) {
            for ((&x, out), &constants) in src.iter().zip(dst).zip(&pattern) {
                *out = f(x, constants);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{random, try_epilogues};

    #[test]
    fn chains_equal_plain_loops() {
        for (channels, pixels) in [(1, 100), (3, 7000), (10, 5), (16, 33), (24, 1), (33, 40), (64, 600), (100, 3)] {
            let src = random(5, channels * pixels);
            for isa in Isa::available() {
                try_epilogues(channels, &src, &format!("{isa:?} {channels} {pixels}"), |dst, epilogue| {
                    chain(isa, channels, &src, dst, epilogue);
                });
            }
        }
    }

    #[test]
    fn normalisation_rounds_exactly_as_written() {
        for (channels, pixels) in [(1, 5), (3, 20_000), (4, 7)] {
            let (src, mean) = (random(6, channels * pixels), random(7, channels));
            let std: Vec<f32> = random(8, channels).iter().map(|v| v.abs() + 0.1).collect();
            let (mut got, mut grad, mut scaled) = (src.clone(), src.clone(), src.clone());
            normalise(&mean, &std, &src, &mut got);
            normalise_grad(&std, &src, &mut grad);
            scale(0.3, &src, &mut scaled);
            for (i, &x) in src.iter().enumerate() {
                let c = i % channels;
                assert_eq!((got[i], grad[i], scaled[i]), ((x - mean[c]) / std[c], x / std[c], x * 0.3), "element {i}");
            }
        }
    }
}
