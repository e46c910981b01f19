//! Dropout: which elements stay, and dropping the others.
//! Must not know batches: an element's fate depends on its image, step and site alone.

use rayon::prelude::*;

use super::rows::row_len;
use crate::rng::{Purpose, Stream};
use crate::tensor::bits_bytes;

/// One dropout layer in a training run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// Probability of dropping an element, in [0,1).
    pub p: f32,
    /// Tells layers of one network apart.
    pub site: u16,
    /// Seed of the run.
    pub seed: u64,
}

/// Keep-bits: element `i` (in memory order) of the image with number `index[row]` stays where its uniform number is at least `p`.
///
/// `elems` values an image, of which `channels` a pixel; bit `i % 8` of byte `i / 8` of a pixel is channel `i`, and
/// pixels are padded with zero bits to 16-bit words.
pub(crate) fn mask(site: Site, elems: usize, channels: usize, index: &[i32], step: i32, bits: &mut [u8]) {
    assert!((0.0..1.0).contains(&site.p), "dropout with p = {}", site.p);
    let bytes = bits_bytes(channels);
    let row = row_len(channels, elems) * bytes;
    assert_eq!(bits.len(), index.len() * row, "dropout mask of {} images", index.len());
    bits.par_chunks_mut(row).zip(index).for_each(|(bits, &index)| {
        let (seed, purpose, restart) = (site.seed, Purpose::Dropout, site.site);
        let mut uniform = vec![0.0; elems];
        Stream { seed, index: index as u32, step: step as u32, purpose, restart }.fill_uniform(&mut uniform);
        bits.fill(0);
        for (bits, uniform) in bits.chunks_exact_mut(bytes).zip(uniform.chunks_exact(channels)) {
            for (byte, uniform) in bits.iter_mut().zip(uniform.chunks(8)) {
                *byte = uniform.iter().enumerate().fold(0, |byte, (i, &u)| byte | u8::from(u >= site.p) << i);
            }
        }
    });
}

/// `x / (1 - p)` where the bit is set, else 0.
pub(crate) fn apply(p: f32, channels: usize, x: &[f32], bits: &[u8], y: &mut [f32]) {
    assert!(x.len() == y.len(), "dropout of {} values into {}", x.len(), y.len());
    let bytes = bits_bytes(channels);
    assert_eq!(bits.len(), row_len(channels, x.len()) * bytes, "dropout mask for {} values", x.len());
    let keep = 1.0 - p;
    let pixels = 256;
    let parts = x.par_chunks(channels * pixels).zip(bits.par_chunks(bytes * pixels));
    y.par_chunks_mut(channels * pixels).zip(parts).for_each(|(y, (x, bits))| {
        for ((y, x), bits) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).zip(bits.chunks_exact(bytes)) {
            let (whole, tail) = y.as_chunks_mut::<8>();
            let (whole_x, tail_x) = x.as_chunks::<8>();
            // All ones or all zeros over the quotient: a choice would be a branch for each element.
            let kept =
                |byte: u8, i: usize, x: f32| f32::from_bits((x / keep).to_bits() & 0u32.wrapping_sub(u32::from(byte >> i & 1)));
            for ((y, x), &byte) in whole.iter_mut().zip(whole_x).zip(bits) {
                *y = std::array::from_fn(|i| kept(byte, i, x[i]));
            }
            for (i, (y, &x)) in tail.iter_mut().zip(tail_x).enumerate() {
                *y = kept(bits[whole_x.len()], i, x);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = Site { p: 0.3, site: 2, seed: 5 };

    fn masks(site: Site, index: &[i32], step: i32) -> Vec<u8> {
        let mut bits = vec![0xaa; index.len() * 40 * 4];
        mask(site, 40 * 21, 21, index, step, &mut bits);
        bits
    }

    #[test]
    fn a_mask_follows_its_image() {
        let both = masks(SITE, &[7, 9], 1);
        assert_eq!(both[160..], masks(SITE, &[9], 1));
        assert_ne!(both[..160], both[160..]);
        assert_ne!(both, masks(SITE, &[7, 9], 2));
        assert_ne!(both, masks(Site { site: 3, ..SITE }, &[7, 9], 1));
        assert_ne!(both, masks(Site { seed: 6, ..SITE }, &[7, 9], 1));
        assert!(both.chunks(4).all(|pixel| pixel[2] >> 5 == 0 && pixel[3] == 0), "padding is not zero");
    }

    #[test]
    fn keeps_the_wanted_share_scaled_up() {
        let index: Vec<i32> = (0..20).collect();
        let bits = masks(SITE, &index, 0);
        let x = vec![0.7f32; 20 * 40 * 21];
        let mut y = vec![f32::NAN; x.len()];
        apply(0.3, 21, &x, &bits, &mut y);
        let kept = y.iter().filter(|&&v| v != 0.0).count();
        assert!(y.iter().all(|&v| v == 0.0 || v == 0.7 / (1.0 - 0.3)));
        let (n, share) = (x.len() as f64, kept as f64 / x.len() as f64);
        assert!((share - 0.7).abs() < 5.0 * (0.21 / n).sqrt(), "kept {share}");
        for (i, &v) in y.iter().enumerate() {
            let (pixel, c) = (i / 21, i % 21);
            let stream = Stream { seed: 5, index: (i / 840) as u32, step: 0, purpose: Purpose::Dropout, restart: 2 };
            assert_eq!(v != 0.0, stream.uniform((i % 840) as u32) >= 0.3);
            assert_eq!(v != 0.0, bits[pixel * 4 + c / 8] >> (c % 8) & 1 == 1);
        }
    }

    #[test]
    fn dropped_nan_is_gone() {
        let mut y = [1.0; 2];
        apply(0.5, 2, &[f32::NAN, f32::NAN], &[2, 0], &mut y);
        assert!(y[0] == 0.0 && y[1].is_nan());
    }
}
