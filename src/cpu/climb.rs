//! Losses against given logits, the moments and the step of Adam, and starts close to the image.
//! Must not know networks or schedules; images are independent.
//! Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>; Zhang et al. 2019, <https://arxiv.org/abs/1901.08573>.

use rayon::prelude::*;

use super::pgd::Place;
use super::rows::row_len;
use crate::rng::{Purpose, Stream};
use crate::tensor::{chw_to_hwc, hwc_to_chw};

/// The highest logit of a row, and the sum of `exp(z - top)`, in f64.
struct Softmax<'a> {
    z: &'a [f32],
    top: f64,
    total: f64,
}

impl<'a> Softmax<'a> {
    fn new(z: &'a [f32]) -> Self {
        let top = z.iter().fold(f64::NEG_INFINITY, |top, &v| if top < f64::from(v) || v.is_nan() { f64::from(v) } else { top });
        Softmax { z, top, total: z.iter().map(|&v| (f64::from(v) - top).exp()).sum() }
    }
    fn share(&self, i: usize) -> f64 {
        (f64::from(self.z[i]) - self.top).exp() / self.total
    }
    fn log_share(&self, i: usize) -> f64 {
        f64::from(self.z[i]) - self.top - self.total.ln()
    }
}

/// `sum p (log p - log q)` for each row, `p` the softmax of `clean`, `q` that of `z`.
pub(crate) fn kl(z: &[f32], clean: &[f32], out: &mut [f32]) {
    let classes = row_len(out.len(), z.len());
    for ((z, clean), out) in z.chunks_exact(classes).zip(clean.chunks_exact(classes)).zip(out) {
        let (q, p) = (Softmax::new(z), Softmax::new(clean));
        // A class that cannot be says nothing.
        let term = |i: usize| if p.share(i) == 0.0 { 0.0 } else { p.share(i) * (p.log_share(i) - q.log_share(i)) };
        *out = (0..classes).map(term).sum::<f64>() as f32;
    }
}

/// Its gradient to `z`: `q - p`.
pub(crate) fn kl_grad(classes: usize, z: &[f32], clean: &[f32], out: &mut [f32]) {
    for ((z, clean), out) in z.chunks_exact(classes).zip(clean.chunks_exact(classes)).zip(out.chunks_exact_mut(classes)) {
        let (q, p) = (Softmax::new(z), Softmax::new(clean));
        out.iter_mut().enumerate().for_each(|(i, out)| *out = (q.share(i) - p.share(i)) as f32);
    }
}

/// `m <- keep * m + (1 - keep) * g`, with `square` of `g * g`.
pub(crate) fn moment(square: bool, keep: f32, m: &mut [f32], g: &[f32]) {
    assert_eq!(m.len(), g.len(), "moment and gradient differ in length");
    m.par_iter_mut().zip(g).with_min_len(1 << 14).for_each(|(m, &g)| {
        let next = if square { g * g } else { g };
        *m = keep * *m + (1.0 - keep) * next;
    });
}

/// What one step of Adam reads beside the image.
pub(crate) struct Adam<'a> {
    /// Clean images.
    pub x0: &'a [f32],
    /// First moments, not corrected.
    pub m: &'a [f32],
    /// Second moments, not corrected.
    pub v: &'a [f32],
    /// Step sizes.
    pub alpha: &'a [f32],
    /// Radii.
    pub eps: &'a [f32],
    /// Turns made and a number that is not read, by image.
    pub state: &'a [f32],
    /// What the moments keep.
    pub keep: [f32; 2],
}

/// One step of Adam up the gradient, projected on the L-inf ball and the box.
pub(crate) fn adam(x: &mut [f32], adam: &Adam) {
    let len = row_len(adam.alpha.len(), x.len());
    x.par_chunks_mut(len).enumerate().for_each(|(n, x)| {
        let turn = adam.state[2 * n] as i32 + 1;
        let [first, second] = adam.keep.map(|keep| (1.0 - power(f64::from(keep), turn)) as f32);
        let (alpha, eps) = (adam.alpha[n], adam.eps[n]);
        for (i, x) in x.iter_mut().enumerate() {
            let at = n * len + i;
            let way = adam.m[at] / first / ((adam.v[at] / second).sqrt() + 1e-8);
            *x = (adam.x0[at] + (*x + alpha * way - adam.x0[at]).clamp(-eps, eps)).clamp(0.0, 1.0);
        }
    });
}

/// `base^exponent` by squaring: one order for every device.
fn power(mut base: f64, mut exponent: i32) -> f64 {
    let mut out = 1.0;
    while exponent > 0 {
        if exponent % 2 == 1 {
            out *= base;
        }
        base *= base;
        exponent /= 2;
    }
    out
}

/// `clip(x0 + length * N(0,1))` for images of `hwc`.
pub(crate) fn shake(hwc: [usize; 3], x0: &[f32], place: &Place, out: &mut [f32]) {
    let seed = u64::from(place.seed[0] as u32) | u64::from(place.seed[1] as u32) << 32;
    let len = hwc.iter().product();
    x0.par_chunks(len).zip(out.par_chunks_mut(len)).enumerate().for_each(|(n, (x0, out))| {
        let restart = u16::try_from(place.restart[n]).expect("restarts are checked to fit 16 bits");
        let stream = Stream { seed, index: place.index[n] as u32, step: place.seed[2] as u32, purpose: Purpose::Start, restart };
        let (mut chw, mut drawn) = (vec![0.0; len], vec![0.0; len]);
        hwc_to_chw(x0, hwc.into(), &mut chw);
        stream.fill_normal(&mut drawn);
        drawn.iter_mut().zip(&chw).for_each(|(v, &x0)| *v = (x0 + place.length[n] * *v).clamp(0.0, 1.0));
        chw_to_hwc(&drawn, hwc.into(), out);
    });
}
