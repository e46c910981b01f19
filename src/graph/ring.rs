//! Which ring of a shifted spectrum a frequency belongs to: the one convention of every spectral operation.
//! Knows no transform. As in `numpy.fft.fftshift` the mean lies at (H/2, W/2), rounded down, also for odd sizes.

/// The rings of a spectrum of `height` by `width`: ring r holds what lies r to r + 1 away from the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rings {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Rings {
    /// Rings of images of this size. Panics for an empty one.
    pub fn new(height: usize, width: usize) -> Self {
        assert!(height > 0 && width > 0, "the spectrum of {height}x{width} pixels");
        Rings { height, width }
    }
    /// Columns of the half of the spectrum that determines a real image.
    pub fn half(&self) -> usize {
        self.width / 2 + 1
    }
    /// Squared distance to the mean of row `u` and column `v`, both counted as a transform orders them (the mean first).
    pub fn distance2(&self, u: usize, v: usize) -> usize {
        assert!(u < self.height && v < self.width, "frequency ({u}, {v}) of {}x{}", self.height, self.width);
        let away = |k: usize, n: usize| k.min(n - k);
        let (du, dv) = (away(u, self.height), away(v, self.width));
        du * du + dv * dv
    }
    /// Distance to the mean.
    pub fn distance(&self, u: usize, v: usize) -> f64 {
        (self.distance2(u, v) as f64).sqrt()
    }
    /// Ring of a frequency: its distance rounded down.
    pub fn ring(&self, u: usize, v: usize) -> usize {
        self.distance2(u, v).isqrt()
    }
    /// Number of rings; ring 0 is the mean alone.
    pub fn count(&self) -> usize {
        let (u, v) = (self.height / 2, self.width / 2);
        (u * u + v * v).isqrt() + 1
    }
    /// How many frequencies of the whole spectrum column `v` of the half stands for in each row: 1 for the columns that are
    /// their own mirror image, else 2.
    pub fn copies(&self, v: usize) -> usize {
        assert!(v < self.half(), "column {v} of {}", self.half());
        if v == 0 || 2 * v == self.width { 1 } else { 2 }
    }
    /// Frequencies in each ring of the whole spectrum.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.count()];
        for u in 0..self.height {
            for v in 0..self.half() {
                sizes[self.ring(u, v)] += self.copies(v);
            }
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Straight from the definition: the shifted index minus the centre.
    fn by_shifting(h: usize, w: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        for i in 0..h {
            for j in 0..w {
                let (dy, dx) = (i as f64 - (h / 2) as f64, j as f64 - (w / 2) as f64);
                let ring = dy.hypot(dx).floor() as usize;
                sizes.resize(sizes.len().max(ring + 1), 0);
                sizes[ring] += 1;
            }
        }
        sizes
    }

    #[test]
    fn rings_are_those_of_the_shifted_spectrum() {
        for (h, w) in [(32, 32), (8, 8), (5, 7), (7, 6), (224, 224), (1, 9), (33, 12), (512, 8)] {
            let rings = Rings::new(h, w);
            assert_eq!(rings.sizes(), by_shifting(h, w), "{h}x{w}");
            assert_eq!(rings.sizes().iter().sum::<usize>(), h * w);
        }
        assert_eq!(Rings::new(32, 32).count(), 23);
        assert_eq!(Rings::new(32, 32).sizes()[..3], [1, 8, 16]);
        assert_eq!(Rings::new(32, 32).sizes()[22], 1, "the last ring is one corner");
    }
}
