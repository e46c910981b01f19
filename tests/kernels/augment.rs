//! Crops and flips on the device, from resident bytes.

use libtest_mimic::Trial;
use petard::gpu::augment::{Crops, crop_flip};
use petard::rng::{Purpose, Stream};
use petard::tensor::{chw_to_hwc, hwc_to_chw};
use petard::train::{Augment, Draw};

use super::direct::{Card, Direct, on_cards};
use crate::support::Rng;
use crate::support::close::same_bits;

pub fn trials() -> Vec<Trial> {
    on_cards("augment::crop_flip", |card| {
        for (hwc, pad, flip) in [([5, 6, 2], 2, true), ([32, 32, 3], 4, true), ([7, 3, 1], 0, true), ([4, 9, 3], 1, false)] {
            for planar in [false, true] {
                crops(hwc, Augment { pad, flip, cutout: 0 }, planar, card)
                    .map_err(|e| format!("{hwc:?}, pad {pad}, planar {planar}: {e}"))?;
            }
        }
        Ok(())
    })
}

/// The pixels of the host's augmentation, for images in any order.
fn crops(hwc: [usize; 3], augment: Augment, planar: bool, card: Card) -> Result<(), String> {
    let ([h, w, c], held, order) = (hwc, 4, [2, 0, 3, 2, 1, 0, 2, 3]);
    let (elems, n, mut rng) = (h * w * c, order.len(), Rng::new(6));
    let set: Vec<u8> = (0..held * elems).map(|_| rng.below(256) as u8).collect();
    let (mut want, mut places) = (vec![0f32; n * elems], [vec![], vec![], vec![]]);
    for (row, &image) in order.iter().enumerate() {
        let draw = Draw { seed: 11, index: image as u32, epoch: row as u32 };
        let stream = Stream { seed: 11, index: image as u32, step: row as u32, purpose: Purpose::Augment, restart: 0 };
        let below = |element: u32, n: usize| ((u64::from(stream.bits(element)) * n as u64) >> 32) as i32;
        places[0].push(below(0, 2 * augment.pad + 1));
        places[1].push(below(1, 2 * augment.pad + 1));
        places[2].push(i32::from(augment.flip && below(2, 2) == 1));
        let bytes = &set[image * elems..][..elems];
        let mut chw = bytes.to_vec();
        if !planar {
            hwc_to_chw(bytes, (h, w, c), &mut chw);
        }
        let from: Vec<f32> = chw.iter().map(|&b| f32::from(b) / 255.0).collect();
        let mut to = vec![0.0; elems];
        augment.apply(draw, [c, h, w], &from, &mut to);
        chw_to_hwc(&to, (h, w, c), &mut want[row * elems..][..elems]);
    }
    let mut direct = Direct::new(card);
    let (set, y) = (direct.place(&set)?, direct.place(&vec![f32::NAN; n * elems])?);
    let image = direct.place(&order.map(|i| i as i32))?;
    let [top, left, mirrored] = &places;
    let (top, left, mirrored) = (direct.place(top)?, direct.place(left)?, direct.place(mirrored)?);
    direct.run(&crop_flip(&Crops { n, hwc, pad: augment.pad, planar, set, image, top, left, mirrored, y }))?;
    same_bits(&direct.floats(y)?, &want, &[n, h, w, c])
}
