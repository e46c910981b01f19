//! What attacks with a momentum keep between networks: where the next gradient is taken, sums of gradients, the momentum.
//! Must not know networks or losses; images are independent.
//! Dong et al. 2018, <https://arxiv.org/abs/1710.06081>; Lin et al. 2020, <https://arxiv.org/abs/1908.06281>; Wang and He 2021,
//! <https://arxiv.org/abs/2103.15571>; Dong et al. 2019, <https://arxiv.org/abs/1904.02884>.

use rayon::prelude::*;

use super::rows::row_len;
use crate::rng::{Purpose, Stream};
use crate::tensor::{chw_to_hwc, hwc_to_chw};
use crate::threat::sum;

/// Which random numbers each image draws in this turn.
#[derive(Clone, Copy)]
pub(crate) struct Draws<'a> {
    /// Index of the image in its split.
    pub index: &'a [i32],
    /// Number of the restart, below 2^16.
    pub restart: &'a [i32],
    /// Turns made and the factor of a copy, by image.
    pub state: &'a [f32],
    /// Lower and upper word of the seed; the third word is not read.
    pub seed: &'a [i32],
}

impl Draws<'_> {
    /// The numbers of image `n`.
    pub(crate) fn stream(&self, n: usize) -> Stream {
        let seed = u64::from(self.seed[0] as u32) | u64::from(self.seed[1] as u32) << 32;
        let restart = u16::try_from(self.restart[n]).expect("restarts are checked to fit 16 bits");
        Stream { seed, index: self.index[n] as u32, step: self.state[2 * n] as u32, purpose: Purpose::Transfer, restart }
    }
}

/// One turn more, and the factor of the copy that follows among `copies`.
pub(crate) fn tick(copies: usize, state: &mut [f32]) {
    let last = 0.5f32.powi(copies as i32 - 1);
    for row in state.chunks_exact_mut(2) {
        row[0] += 1.0;
        row[1] = if row[1] > last { 0.5 * row[1] } else { 1.0 };
    }
}

/// `(x + reach * m) * factor`.
pub(crate) fn ahead(x: &[f32], m: &[f32], reach: &[f32], state: &[f32], out: &mut [f32]) {
    assert!(x.len() == m.len() && x.len() == out.len(), "ahead: x {}, m {} into {}", x.len(), m.len(), out.len());
    let len = row_len(reach.len(), x.len());
    let images = x.par_chunks(len).zip(m.par_chunks(len)).zip(reach.par_iter().zip(state.par_chunks(2)));
    out.par_chunks_mut(len).zip(images).for_each(|(out, ((x, m), (&reach, state)))| {
        for ((out, &x), &m) in out.iter_mut().zip(x).zip(m) {
            *out = (x + reach * m) * state[1];
        }
    });
}

/// `(x + U(-length, length)) * factor` for images of `hwc`.
pub(crate) fn jitter(hwc: [usize; 3], x: &[f32], length: &[f32], draws: Draws, out: &mut [f32]) {
    let len = hwc.iter().product();
    let images = x.par_chunks(len).zip(out.par_chunks_mut(len)).enumerate();
    images.for_each(|(n, (x, out))| {
        let (mut chw, mut drawn) = (vec![0.0; len], vec![0.0; len]);
        hwc_to_chw(x, hwc.into(), &mut chw);
        draws.stream(n).fill_uniform(&mut drawn);
        for (drawn, &x) in drawn.iter_mut().zip(&chw) {
            *drawn = (x + length[n] * (2.0 * *drawn - 1.0)) * draws.state[2 * n + 1];
        }
        chw_to_hwc(&drawn, hwc.into(), out);
    });
}

/// `total += share * factor * g`.
pub(crate) fn accumulate(share: f32, total: &mut [f32], g: &[f32], state: &[f32]) {
    assert_eq!(total.len(), g.len(), "accumulate: sum and gradient differ in length");
    let len = row_len(state.len() / 2, g.len());
    total.par_chunks_mut(len).zip(g.par_chunks(len)).zip(state.par_chunks(2)).for_each(|((total, g), state)| {
        let weight = share * state[1];
        total.iter_mut().zip(g).for_each(|(total, &g)| *total += weight * g);
    });
}

/// `m <- decay * m + g / max(mean |g|, 1e-12)` for each of `n` images; the mean in f64. A NaN in `g` makes the image NaN.
pub(crate) fn momentum(n: usize, m: &mut [f32], g: &[f32], decay: &[f32]) {
    assert!(m.len() == g.len() && decay.len() == n, "momentum: m {}, g {}, {} decays", m.len(), g.len(), decay.len());
    let len = row_len(n, g.len());
    m.par_chunks_mut(len).zip(g.par_chunks(len)).zip(decay).for_each(|((m, g), &decay)| {
        let mean = (sum(len, |i| f64::from(g[i].abs())) / len as f64) as f32;
        // Not f32::max, which would drop a NaN.
        let size = if mean < 1e-12 { 1e-12 } else { mean };
        m.iter_mut().zip(g).for_each(|(m, &g)| *m = decay * *m + g / size);
    });
}

/// Each channel of images of `hwc` convolved with `taps` along rows, then along columns; zeros outside.
pub(crate) fn blur([h, w, c]: [usize; 3], g: &[f32], taps: &[f32], out: &mut [f32]) {
    let (len, reach) = (h * w * c, taps.len() / 2);
    out.par_chunks_mut(len).zip(g.par_chunks(len)).for_each(|(out, g)| {
        let mut rows = vec![0.0f32; len];
        // The taps of place `i` of `size` that lie inside, each with the place that it meets.
        let inside = |i: usize, size: usize| {
            taps.iter()
                .enumerate()
                .filter_map(move |(t, &tap)| (i + t).checked_sub(reach).filter(|&at| at < size).map(|at| (at, tap)))
        };
        for (i, row) in rows.iter_mut().enumerate() {
            let (pixel, channel) = (i / c, i % c);
            *row = inside(pixel % w, w).fold(0.0, |sum, (at, tap)| sum + tap * g[(pixel / w * w + at) * c + channel]);
        }
        for (i, out) in out.iter_mut().enumerate() {
            let (pixel, channel) = (i / c, i % c);
            *out = inside(pixel / w, h).fold(0.0, |sum, (at, tap)| sum + tap * rows[(at * w + pixel % w) * c + channel]);
        }
    });
}
