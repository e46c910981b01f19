//! A picture as planes of floats in [0,1], and what corruptions share: reading between pixels, Gaussian blur, plasma.
//! Must not know corruptions.

use crate::rng::Stream;

/// Planes `[C, H, W]`.
#[derive(Clone, Debug)]
pub struct Picture {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub data: Vec<f32>,
}

impl Picture {
    /// From bytes `[C, H, W]`.
    pub fn of(bytes: &[u8], [channels, height, width]: [usize; 3]) -> Self {
        assert_eq!(bytes.len(), channels * height * width, "bytes of a picture");
        Picture { channels, height, width, data: bytes.iter().map(|&b| f32::from(b) / 255.0).collect() }
    }
    /// Clipped and rounded into bytes.
    pub fn put(&self, bytes: &mut [u8]) {
        bytes.iter_mut().zip(&self.data).for_each(|(b, v)| *b = (v.clamp(0.0, 1.0) * 255.0).round() as u8);
    }
    /// Pixels of a plane.
    pub fn size(&self) -> usize {
        self.height * self.width
    }
    /// Every plane through `f(plane)`, which writes its result in place.
    pub fn each_plane(&mut self, mut f: impl FnMut(&mut [f32])) {
        let size = self.size();
        self.data.chunks_exact_mut(size).for_each(&mut f);
    }
    /// Every pixel read from `(y, x)` as `from` says, between pixels by bilinear interpolation.
    pub fn warp(&mut self, from: impl Fn(usize, usize) -> (f32, f32), outside: Outside) {
        let (height, width) = (self.height, self.width);
        self.each_plane(|plane| {
            let old = plane.to_vec();
            for (i, v) in plane.iter_mut().enumerate() {
                let (y, x) = from(i / width, i % width);
                *v = sample(&old, height, width, y, x, outside);
            }
        });
    }
    /// Gaussian blur of every plane; edges are repeated.
    pub fn gaussian(&mut self, sigma: f32) {
        let (height, width) = (self.height, self.width);
        self.each_plane(|plane| gaussian(plane, height, width, sigma));
    }
}

/// What lies beyond the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// The nearest pixel.
    Edge,
    /// The picture mirrored at its edge pixels.
    Mirror,
}

/// Index `i`, which may lie outside of `0..n`.
pub fn inside(i: i64, n: usize, outside: Outside) -> usize {
    let n = n as i64;
    let at = match outside {
        Outside::Edge => i.clamp(0, n - 1),
        Outside::Mirror if n == 1 => 0,
        Outside::Mirror => {
            let turn = i.rem_euclid(2 * n - 2);
            turn.min(2 * n - 2 - turn)
        }
    };
    at as usize
}

/// The value at `(y, x)`.
pub fn sample(plane: &[f32], height: usize, width: usize, y: f32, x: f32, outside: Outside) -> f32 {
    let (top, left) = (y.floor(), x.floor());
    let (dy, dx) = (y - top, x - left);
    let at = |y: i64, x: i64| plane[inside(y, height, outside) * width + inside(x, width, outside)];
    let (top, left) = (top as i64, left as i64);
    let upper = at(top, left) * (1.0 - dx) + at(top, left + 1) * dx;
    let lower = at(top + 1, left) * (1.0 - dx) + at(top + 1, left + 1) * dx;
    upper * (1.0 - dy) + lower * dy
}

/// A Gaussian of total 1, cut at four standard deviations.
fn bell(sigma: f32) -> Vec<f32> {
    let reach = (4.0 * sigma + 0.5) as i64;
    let raw: Vec<f32> = (-reach..=reach).map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp()).collect();
    let sum: f32 = raw.iter().sum();
    raw.iter().map(|v| v / sum).collect()
}

/// Gaussian blur of a plane; edges are repeated. Nothing for a sigma of 0.
pub fn gaussian(plane: &mut [f32], height: usize, width: usize, sigma: f32) {
    if sigma <= 0.0 {
        return;
    }
    let bell = bell(sigma);
    let reach = bell.len() as i64 / 2;
    for vertical in [false, true] {
        let old = plane.to_vec();
        for (i, v) in plane.iter_mut().enumerate() {
            let (y, x) = ((i / width) as i64, (i % width) as i64);
            *v = bell
                .iter()
                .enumerate()
                .map(|(k, weight)| {
                    let off = k as i64 - reach;
                    let (y, x) = if vertical { (y + off, x) } else { (y, x + off) };
                    weight * old[inside(y, height, Outside::Edge) * width + inside(x, width, Outside::Edge)]
                })
                .sum();
        }
    }
}

/// A correlation with a kernel of odd sides; edges are mirrored.
pub fn correlate(plane: &mut [f32], height: usize, width: usize, kernel: &[f32], side: usize) {
    assert!(side % 2 == 1 && kernel.len() == side * side, "a kernel of {} values and side {side}", kernel.len());
    let (old, reach) = (plane.to_vec(), side as i64 / 2);
    for (i, v) in plane.iter_mut().enumerate() {
        let (y, x) = ((i / width) as i64, (i % width) as i64);
        *v = kernel
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight != 0.0)
            .map(|(k, weight)| {
                let (dy, dx) = ((k / side) as i64 - reach, (k % side) as i64 - reach);
                weight * old[inside(y + dy, height, Outside::Mirror) * width + inside(x + dx, width, Outside::Mirror)]
            })
            .sum();
    }
}

/// A cloud by midpoint displacement on a torus, 0 to 1, of the wanted size; larger `decay` makes it smoother.
pub fn plasma(height: usize, width: usize, decay: f32, stream: &Stream) -> Vec<f32> {
    let side = height.max(width).next_power_of_two();
    let mut map = vec![0.0f32; side * side];
    let (mut step, mut rough, mut drawn) = (side, 1.0f32, 0u32);
    while step > 1 {
        let half = step / 2;
        let mut wobble = |mean: f32| {
            drawn += 1;
            mean + rough * (2.0 * stream.uniform(drawn) - 1.0)
        };
        let at = |map: &[f32], y: usize, x: usize| map[y % side * side + x % side];
        for y in (0..side).step_by(step) {
            for x in (0..side).step_by(step) {
                let corners = at(&map, y, x) + at(&map, y + step, x) + at(&map, y, x + step) + at(&map, y + step, x + step);
                map[(y + half) * side + x + half] = wobble(corners / 4.0);
            }
        }
        for y in (0..side).step_by(half) {
            for x in ((y / half + 1) % 2 * half..side).step_by(step) {
                let near =
                    at(&map, y + side - half, x) + at(&map, y + half, x) + at(&map, y, x + side - half) + at(&map, y, x + half);
                map[y * side + x] = wobble(near / 4.0);
            }
        }
        step = half;
        rough /= decay;
    }
    let (low, high) = map.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let spread = (high - low).max(f32::MIN_POSITIVE);
    (0..height * width).map(|i| (map[i / width * side + i % width] - low) / spread).collect()
}
