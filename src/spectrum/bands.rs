//! Bands of frequencies as weights of a filter: everything up to a radius, or everything beyond it.
//! Must not know images.

use super::Rings;

/// Which frequencies pass. The mean passes where its distance, 0, is within the radius: a high band has no mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Band {
    /// Those at most so far from the mean.
    Low(f64),
    /// Those farther.
    High(f64),
    /// Ring r alone.
    Ring(usize),
}

impl Band {
    /// Whether a frequency at `distance` from the mean passes.
    pub fn passes(self, distance: f64) -> bool {
        match self {
            Band::Low(radius) => distance <= radius,
            Band::High(radius) => distance > radius,
            Band::Ring(ring) => distance.floor() == ring as f64,
        }
    }
    /// Weights `[H, W/2+1]` of [`crate::graph::Op::SpectrumFilter`]: 1 for what passes, 0 for the rest.
    pub fn weights(self, rings: Rings) -> Vec<f32> {
        ring_weights(rings, |u, v| if self.passes(rings.distance(u, v)) { 1.0 } else { 0.0 })
    }
}

/// Weights `[H, W/2+1]` from a rule for rows and columns of the half spectrum.
pub(super) fn ring_weights(rings: Rings, weight: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let half = rings.half();
    (0..rings.height * half).map(|i| weight(i / half, i % half)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_and_high_are_complements() {
        for (h, w) in [(32, 32), (9, 14)] {
            let rings = Rings::new(h, w);
            for radius in [0.0, 1.0, 4.98, 12.0, 99.0] {
                let (low, high) = (Band::Low(radius).weights(rings), Band::High(radius).weights(rings));
                assert!(low.iter().zip(&high).all(|(l, h)| l + h == 1.0));
                assert_eq!((low[0], high[0]), (1.0, 0.0), "the mean is low");
            }
            let all = (0..rings.count()).map(|r| Band::Ring(r).weights(rings));
            let sum = all.reduce(|a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect()).expect("rings");
            assert!(sum.iter().all(|&s| s == 1.0), "every frequency lies in one ring");
        }
    }
}
