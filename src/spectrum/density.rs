//! How the energy of a set of images is spread over frequencies, and where its head ends and its tail begins.
//! Must not know how spectra are computed.

use super::{Band, Rings};

/// What counts as energy of a frequency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Energy {
    /// `|F|^2`.
    #[default]
    Power,
    /// `|F|`.
    Amplitude,
}

/// Which plane of an image is transformed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channels {
    /// Luminance, .299 R + .587 G + .114 B, where there are three channels; else their mean.
    #[default]
    Grey,
    /// Every channel by itself, their energies added.
    Each,
}

/// Along which radius energy accumulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Radius {
    /// Frequency by frequency in the order of their exact distance.
    #[default]
    Exact,
    /// Whole rings.
    Ring,
}

/// What the density is of. The default is the one that comes nearest to the published radius: power without the mean, each
/// image's energy scaled to 1, exact distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Power or amplitude.
    pub energy: Energy,
    /// Luminance or all channels.
    pub channels: Channels,
    /// Whether the mean of an image counts.
    pub with_mean: bool,
    /// Whether every image weighs the same, whatever its energy.
    pub per_image: bool,
    /// How radii are counted.
    pub radius: Radius,
}

impl Default for Definition {
    fn default() -> Self {
        Definition { energy: Energy::Power, channels: Channels::Grey, with_mean: false, per_image: true, radius: Radius::Exact }
    }
}

/// The energy of a set, frequency by frequency.
#[derive(Clone, Debug)]
pub struct Density {
    definition: Definition,
    rings: Rings,
    images: usize,
    /// Images without any energy, which count for nothing.
    flat: usize,
    /// Energy of the half spectrum `[H, W/2+1]`, copies included.
    energy: Vec<f64>,
}

impl Density {
    /// Of no images yet.
    pub fn new(rings: Rings, definition: Definition) -> Self {
        Density { definition, rings, images: 0, flat: 0, energy: vec![0.0; rings.height * rings.half()] }
    }
    /// The plane or planes of an NCHW image that are to be transformed, for [`Density::add`].
    pub fn planes(definition: Definition, [c, h, w]: [usize; 3], image: &[f32]) -> Vec<f32> {
        assert_eq!(image.len(), c * h * w, "an image of {c}x{h}x{w}");
        if definition.channels == Channels::Each || c == 1 {
            return image.to_vec();
        }
        let weight = |k: usize| if c == 3 { [0.299, 0.587, 0.114][k] } else { 1.0 / c as f32 };
        (0..h * w).map(|p| (0..c).map(|k| weight(k) * image[k * h * w + p]).sum()).collect()
    }

    /// Adds an image: the half spectra `[planes, H, W/2+1, 2]` of its planes.
    pub fn add(&mut self, spectra: &[f32]) {
        let count = self.energy.len();
        assert!(spectra.len().is_multiple_of(2 * count), "{} values in half spectra of {count}", spectra.len());
        let mut own = vec![0.0; count];
        for plane in spectra.chunks_exact(2 * count) {
            for (i, z) in plane.chunks_exact(2).enumerate() {
                let squared = f64::from(z[0]).powi(2) + f64::from(z[1]).powi(2);
                let size = if self.definition.energy == Energy::Power { squared } else { squared.sqrt() };
                own[i] += size * self.rings.copies(i % self.rings.half()) as f64;
            }
        }
        if !self.definition.with_mean {
            own[0] = 0.0;
        }
        let total: f64 = own.iter().sum();
        self.images += 1;
        if total <= 0.0 {
            self.flat += 1;
            return;
        }
        let by = if self.definition.per_image { 1.0 / total } else { 1.0 };
        self.energy.iter_mut().zip(own).for_each(|(sum, e)| *sum += by * e);
    }

    /// Images added.
    pub fn images(&self) -> usize {
        self.images
    }
    /// Images that are one colour all over.
    pub fn flat(&self) -> usize {
        self.flat
    }
    /// Share of the energy in each ring.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.rings.count()];
        self.each(|ring, _, energy| shares[ring] += energy);
        let total: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|s| *s /= total);
        shares
    }
    /// Mean energy of a frequency in each ring, the whole being 1.
    pub fn means(&self) -> Vec<f64> {
        self.shares().iter().zip(self.rings.sizes()).map(|(s, n)| s / n as f64).collect()
    }

    /// The smallest radius within which at least `share` of the energy lies: the head; the rest is the tail. 0 for a set without
    /// energy.
    pub fn radius(&self, share: f64) -> f64 {
        let mut list: Vec<(f64, f64)> = Vec::new();
        self.each(|ring, distance, energy| {
            list.push((if self.definition.radius == Radius::Exact { distance } else { ring as f64 }, energy));
        });
        list.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total: f64 = list.iter().map(|l| l.1).sum();
        let mut sum = 0.0;
        for (i, (radius, energy)) in list.iter().enumerate() {
            sum += energy;
            let last_of_its_radius = list.get(i + 1).is_none_or(|next| next.0 > *radius);
            if last_of_its_radius && sum >= share * total {
                return *radius;
            }
        }
        list.last().map_or(0.0, |l| l.0)
    }

    /// The head's band up to [`Density::radius`]: with rings, the whole last ring belongs to it.
    pub fn head(&self, share: f64) -> Band {
        let radius = self.radius(share);
        match self.definition.radius {
            Radius::Exact => Band::Low(radius),
            // Ring r ends just before r + 1.
            Radius::Ring => Band::Low((radius + 1.0).next_down()),
        }
    }

    fn each(&self, mut f: impl FnMut(usize, f64, f64)) {
        let half = self.rings.half();
        for (i, &energy) in self.energy.iter().enumerate() {
            let (u, v) = (i / half, i % half);
            f(self.rings.ring(u, v), self.rings.distance(u, v), energy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A half spectrum of 8x8 with one coefficient at (u, v).
    fn one(u: usize, v: usize, amplitude: f32) -> Vec<f32> {
        let mut z = vec![0.0; 8 * 5 * 2];
        z[2 * (u * 5 + v)] = amplitude;
        z
    }

    #[test]
    fn shares_and_radius() {
        let mut density = Density::new(Rings::new(8, 8), Definition::default());
        let sum = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<f32>>();
        // 2 * 9 of power at distance 1, 2 * 1 at sqrt(5) (both have copies), 100 in the mean, which does not count.
        density.add(&sum(sum(one(0, 1, 3.0), one(2, 1, 1.0)), one(0, 0, 10.0)));
        let shares = density.shares();
        assert!((shares[1] - 0.9).abs() < 1e-12 && (shares[2] - 0.1).abs() < 1e-12, "{shares:?}");
        assert_eq!(density.radius(0.8), 1.0);
        assert_eq!(density.radius(0.9 + 1e-9), 5f64.sqrt());
        assert!(density.head(0.95).passes(5f64.sqrt()) && !density.head(0.95).passes(2.3));
    }

    #[test]
    fn definitions_differ_where_they_should() {
        let of = |definition| {
            let mut density = Density::new(Rings::new(8, 8), definition);
            density.add(&one(0, 1, 3.0));
            density.add(&one(3, 4, 1.0)); // no copy
            density.add(&[0.0; 80]);
            (density.shares()[1], density.radius(0.8), density.flat())
        };
        let base = Definition::default();
        assert_eq!(of(base), (0.5, 5.0, 1));
        let (share, radius, _) = of(Definition { per_image: false, ..base });
        assert!((share - 18.0 / 19.0).abs() < 1e-12 && radius == 1.0);
        let (share, ..) = of(Definition { per_image: false, energy: Energy::Amplitude, ..base });
        assert!((share - 6.0 / 7.0).abs() < 1e-12);
        assert_eq!(of(Definition { radius: Radius::Ring, ..base }).1, 5.0);
    }
}
