//! Mixed images and the target distributions of a batch: mixup, label smoothing, AVmixup's labels.
//! Must not know networks. Draws belong to (seed, epoch, batch) or (seed, epoch, image), and so are the same on resume.
//! Mixup: Zhang et al. 2018, <https://arxiv.org/abs/1710.09412>, one share a batch as in the code of Rice et al. 2020.

use super::augment::below;
use super::recipe::AvMix;
use crate::rng::{Purpose, Stream};

/// What the images of a batch were mixed with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Partners {
    /// Class of each partner.
    pub label: Vec<i32>,
    /// Share of the image itself; the partner has the rest.
    pub share: f32,
}

/// Which batch of which epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Draw {
    pub seed: u64,
    pub epoch: u32,
    pub batch: u32,
}

impl Draw {
    fn stream(self, restart: u16) -> Stream {
        Stream { seed: self.seed, index: self.batch, step: self.epoch, purpose: Purpose::Mix, restart }
    }
}

/// Mixes each image of `pixels` with another of the batch by one share from `Beta(a, a)`.
pub(super) fn mixup(a: f64, draw: Draw, pixels: &mut [f32], label: &[i32]) -> Partners {
    let (n, share) = (label.len(), beta(a, &draw.stream(1)) as f32);
    let stream = draw.stream(0);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(stream.bits(i as u32), i + 1));
    }
    let size = pixels.len() / n;
    let plain = pixels.to_vec();
    for (row, &other) in pixels.chunks_exact_mut(size).zip(&order) {
        row.iter_mut().zip(&plain[other * size..]).for_each(|(v, &o)| *v = share * *v + (1.0 - share) * o);
    }
    Partners { label: order.iter().map(|&i| label[i]).collect(), share }
}

/// A draw from `Beta(a, a)` by Jöhnk's rejection, which is quick enough for `a` up to 4.
fn beta(a: f64, stream: &Stream) -> f64 {
    let power = |element: u32| f64::from(stream.uniform(element)).powf(1.0 / a);
    for turn in (0..).step_by(2) {
        let (x, y) = (power(turn), power(turn + 1));
        if x + y > 0.0 && x + y <= 1.0 {
            return x / (x + y);
        }
    }
    unreachable!("a draw is accepted sooner or later")
}

/// The place of each image between itself (1) and the end beyond its attacked form (0), for AVmixup.
pub(super) fn places(seed: u64, epoch: u32, index: &[u32]) -> Vec<f32> {
    let at = |&index: &u32| Stream { seed, index, step: epoch, purpose: Purpose::Mix, restart: 2 }.uniform(0);
    index.iter().map(at).collect()
}

/// `[N, K]`: the label with the smoothing spread over all classes, mixed with that of the partner.
pub(super) fn smoothed(classes: usize, smoothing: f64, label: &[i32], partners: Option<&Partners>) -> Vec<f32> {
    let mut out = vec![(smoothing / classes as f64) as f32; label.len() * classes];
    let mut add = |row: usize, class: i32, share: f64| out[row * classes + class as usize] += (share * (1.0 - smoothing)) as f32;
    for (row, &y) in label.iter().enumerate() {
        let own = partners.map_or(1.0, |p| f64::from(p.share));
        add(row, y, own);
        if let Some(p) = partners {
            add(row, p.label[row], 1.0 - own);
        }
    }
    out
}

/// `[N, K]`: AVmixup's labels of images at `place`.
pub(super) fn av_targets(by: AvMix, classes: usize, label: &[i32], place: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(label.len() * classes);
    for (&y, &a) in label.iter().zip(place) {
        let on_label = f64::from(a) * by.label[0] + (1.0 - f64::from(a)) * by.label[1];
        let each = (1.0 - on_label) / (classes - 1) as f64;
        out.extend((0..classes).map(|c| if c == y as usize { on_label } else { each } as f32));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAW: Draw = Draw { seed: 3, epoch: 1, batch: 2 };

    #[test]
    fn shares_follow_their_distribution() {
        for (a, variance) in [(0.5, 0.125), (1.0, 1.0 / 12.0), (2.0, 0.05)] {
            let draws: Vec<f64> = (0..4000).map(|batch| beta(a, &Draw { batch, ..DRAW }.stream(1))).collect();
            let mean = draws.iter().sum::<f64>() / 4000.0;
            let spread = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 4000.0;
            assert!((mean - 0.5).abs() < 0.02 && (spread - variance).abs() < 0.008, "Beta({a}): mean {mean}, variance {spread}");
        }
    }

    #[test]
    fn pixels_and_labels_are_mixed_alike() {
        let label = [0, 1, 2, 0, 1];
        // One pixel a class: the mixed image is the mixed label.
        let mut pixels: Vec<f32> = label.iter().flat_map(|&y| (0..3).map(move |c| f32::from(u8::from(c == y)))).collect();
        let partners = mixup(1.0, DRAW, &mut pixels, &label);
        let targets = smoothed(3, 0.0, &label, Some(&partners));
        assert!(pixels.iter().zip(&targets).all(|(p, t)| (p - t).abs() < 1e-6), "{pixels:?} {targets:?}");
        let again = mixup(1.0, DRAW, &mut [0.0; 15], &label);
        assert_eq!(again, partners);
        assert_ne!(mixup(1.0, Draw { batch: 3, ..DRAW }, &mut [0.0; 15], &label), partners);
    }

    #[test]
    fn targets_are_distributions() {
        let label = [2, 0];
        let by = AvMix { stretch: 2.0, label: [1.0, 0.1] };
        for row in [smoothed(4, 0.2, &label, None), av_targets(by, 4, &label, &[1.0, 0.0])] {
            assert!(row.chunks(4).all(|r| (r.iter().sum::<f32>() - 1.0).abs() < 1e-6), "{row:?}");
        }
        assert_eq!(av_targets(by, 4, &label, &[1.0, 0.0])[..4], [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(av_targets(by, 4, &label, &[1.0, 0.0])[4..], [0.1, 0.3, 0.3, 0.3]);
        assert!((smoothed(4, 0.2, &label, None)[2] - 0.85).abs() < 1e-6);
    }
}
