//! Balanced spectrum sampling of images, as a function for data sets and for training.
//! Must not know where images come from. The published order is BaSS first, then crops and flips: they do not commute.

use rayon::prelude::*;

use crate::cpu::fft::Fft2;
use crate::rng::{Purpose, Stream};

/// BaSS of images in place: `pixels` holds images `[N, C, H, W]` of 0 to 255. Channel by channel: the spectrum's rings, but the
/// first and the last, are weighted by the ratio of their share of log amplitude to their share of amplitude; the result is
/// clipped and cut down to whole numbers. A channel with a mean amplitude below 1 in some ring stays as it is. f32, on all
/// threads of the caller's pool. Panics where `pixels` is not whole images.
pub fn bass_bytes(pixels: &mut [u8], [c, h, w]: [usize; 3]) {
    assert!(pixels.len().is_multiple_of(c * h * w), "{} bytes in images of {c}x{h}x{w}", pixels.len());
    let fft = Fft2::new(h, w);
    // Some channels at a time: a task should outlast its handing out.
    let run = (16_384 / (h * w)).max(1) * h * w;
    pixels.par_chunks_mut(run).for_each_init(
        || fft.clone(),
        |fft, run| {
            for plane in run.chunks_exact_mut(h * w) {
                fft.plane().iter_mut().zip(&*plane).for_each(|(p, &b)| *p = f32::from(b));
                if fft.bass() {
                    // `as` clips to 0..255 and cuts off the fraction.
                    plane.iter_mut().zip(fft.plane()).for_each(|(b, p)| *b = *p as u8);
                }
            }
        },
    );
}

/// BaSS of one image `[C, H, W]` in [0,1], rounded to bytes first; the result lies on whole bytes over 255.
pub fn bass(image: &mut [f32], shape: [usize; 3]) {
    assert_eq!(image.len(), shape.iter().product::<usize>(), "an image of {shape:?}");
    let mut bytes: Vec<u8> = image.iter().map(|v| (v * 255.0).round_ties_even() as u8).collect();
    bass_bytes(&mut bytes, shape);
    image.iter_mut().zip(bytes).for_each(|(v, b)| *v = f32::from(b) / 255.0);
}

/// BaSS as augmentation (paradigm 1): applied with probability `p`, drawn by (seed, image, epoch), so the same in every batch
/// and on resume. Whether it was applied.
pub fn bass_with_probability(image: &mut [f32], shape: [usize; 3], p: f32, seed: u64, index: u32, epoch: u32) -> bool {
    assert!((0.0..=1.0).contains(&p), "a probability of {p}");
    // The numbers 0 to 2 of this stream are crops and flips.
    let stream = Stream { seed, index, step: epoch, purpose: Purpose::Augment, restart: 0 };
    let applied = stream.uniform(3) < p;
    if applied {
        bass(image, shape);
    }
    applied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(n: usize) -> Vec<u8> {
        (0..n).map(|i| (128.0 + 90.0 * (i as f32 * 0.05).sin() + ((i * 7919) % 31) as f32) as u8).collect()
    }

    #[test]
    fn images_of_a_batch_do_not_touch_each_other() {
        let one = image(3 * 32 * 32);
        let mut alone = one.clone();
        bass_bytes(&mut alone, [3, 32, 32]);
        assert_ne!(alone, one);
        let mut batch: Vec<u8> = [image(3072), vec![9; 3072], one].concat();
        bass_bytes(&mut batch, [3, 32, 32]);
        assert_eq!(batch[6144..], alone);
        assert!(batch[3072..6144].iter().all(|&b| b == 9), "a constant channel stays");
    }

    #[test]
    fn floats_and_bytes_agree() {
        let bytes = image(2 * 9 * 14);
        let mut floats: Vec<f32> = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
        let mut bytes = bytes;
        bass_bytes(&mut bytes, [2, 9, 14]);
        bass(&mut floats, [2, 9, 14]);
        assert!(floats.iter().zip(&bytes).all(|(f, &b)| *f == f32::from(b) / 255.0));
    }

    #[test]
    fn the_draw_is_a_share() {
        let mut applied = 0;
        for index in 0..400 {
            applied += usize::from(bass_with_probability(&mut [0.5; 64], [1, 8, 8], 0.5, 1, index, 2));
        }
        // Binomial: standard deviation 10.
        assert!((150..=250).contains(&applied), "{applied} of 400");
        assert!(bass_with_probability(&mut [0.5; 64], [1, 8, 8], 1.0, 1, 0, 0));
        assert!(!bass_with_probability(&mut [0.5; 64], [1, 8, 8], 0.0, 1, 0, 0));
    }
}
