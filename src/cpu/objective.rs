//! Losses that train: on the logits of two forms of an image, on soft targets, focal. Computed in f64, stored as f32.
//! Must not know networks or attacks: each row stands alone.
//! TRADES: Zhang et al. 2019, <https://arxiv.org/abs/1901.08573>; MART: Wang et al. 2020; logit pairing: Kannan et al. 2018,
//! <https://arxiv.org/abs/1803.06373>; focal: Lin et al. 2017, <https://arxiv.org/abs/1708.02002>; MMA: Ding et al. 2020,
//! <https://arxiv.org/abs/1812.02637>.

use rayon::prelude::*;

use super::rows::row_len;
use crate::graph::Objective;

/// What is added to a probability before its logarithm in MART, and to the complements of probabilities.
const TINY: f64 = 1e-12;
/// MART's stand-ins for 1 in `1 - p_k` and `1 - p_y`.
const ONE_BOOSTED: f64 = 1.0001;
const ONE_WEIGHT: f64 = 1.000_000_1;

/// The inputs of an objective: `z` and `w` are `[N, classes]` (`w` is `z` again where one row is read), `label` is `[N]`.
pub(crate) struct Rows<'a> {
    pub of: Objective,
    pub classes: usize,
    pub z: &'a [f32],
    pub w: &'a [f32],
    pub label: Option<&'a [i32]>,
}

/// The objective of each image.
pub(crate) fn value(rows: &Rows, out: &mut [f32]) {
    assert_eq!(row_len(out.len(), rows.z.len()), rows.classes, "{} logits for {} images", rows.z.len(), out.len());
    out.par_iter_mut().enumerate().with_min_len(64).for_each(|(n, out)| *out = rows.at(n).value() as f32);
}

/// The gradient of each image's own objective with respect to its row of `z` (`by` 0) or of `w` (`by` 1).
pub(crate) fn grad(rows: &Rows, by: usize, out: &mut [f32]) {
    assert!(out.len() == rows.z.len() && by < 2, "one gradient a logit");
    out.par_chunks_mut(rows.classes).enumerate().with_min_len(64).for_each(|(n, out)| {
        let row = rows.at(n);
        let grad = if by == 0 { row.first() } else { row.second() };
        out.iter_mut().zip(grad).for_each(|(out, grad)| *out = grad as f32);
    });
}

impl Rows<'_> {
    fn at(&self, n: usize) -> Row {
        let row = |all: &[f32]| all[n * self.classes..][..self.classes].iter().map(|&v| f64::from(v)).collect();
        let y = self.label.map_or(0, |l| {
            assert!((0..self.classes as i64).contains(&i64::from(l[n])), "class {} of {}", l[n], self.classes);
            l[n] as usize
        });
        Row { of: self.of, z: row(self.z), w: row(self.w), y }
    }
}

/// One image in f64.
struct Row {
    of: Objective,
    z: Vec<f64>,
    w: Vec<f64>,
    y: usize,
}

/// Logarithms of probabilities, and the probabilities.
struct Softmax {
    log: Vec<f64>,
    p: Vec<f64>,
}

impl Softmax {
    fn of(z: &[f64]) -> Self {
        let all = log_sum_exp(z, None);
        let log: Vec<f64> = z.iter().map(|v| v - all).collect();
        Softmax { p: log.iter().map(|v| v.exp()).collect(), log }
    }
    /// The most probable class other than `y`, of equals the lowest.
    fn rival(&self, y: usize) -> usize {
        let others = (0..self.p.len()).filter(|&c| c != y);
        others.reduce(|best, c| if self.p[c] > self.p[best] { c } else { best }).expect("two classes or more")
    }
}

/// The logarithm of the sum of `exp(z)` over all classes but `skip`; NaN where one of them is.
fn log_sum_exp(z: &[f64], skip: Option<usize>) -> f64 {
    let kept = || z.iter().enumerate().filter(|&(c, _)| Some(c) != skip).map(|(_, &v)| v);
    let top = kept().fold(f64::NEG_INFINITY, |top, v| if v > top || v.is_nan() { v } else { top });
    top + kept().map(|v| (v - top).exp()).sum::<f64>().ln()
}

impl Row {
    fn value(&self) -> f64 {
        let Row { z, w, y, .. } = self;
        match self.of {
            Objective::Kl => {
                let (p, q) = (Softmax::of(z), Softmax::of(w));
                (0..z.len()).map(|c| p.p[c] * (p.log[c] - q.log[c])).sum()
            }
            Objective::Mart { weight } => {
                let (p, q) = (Softmax::of(z), Softmax::of(w));
                let boosted = -q.log[*y] - (ONE_BOOSTED - q.p[q.rival(*y)] + TINY).ln();
                boosted + f64::from(weight) * (ONE_WEIGHT - p.p[*y]) * mart_kl(&p, &q)
            }
            Objective::Squared => z.iter().zip(w).map(|(a, b)| (a - b) * (a - b)).sum(),
            Objective::Soft => {
                let all = log_sum_exp(z, None);
                // A class without weight has no say, even at minus infinity.
                z.iter().zip(w).filter(|&(_, &q)| q != 0.0).map(|(z, q)| q * (all - z)).sum()
            }
            Objective::Focal { gamma } => {
                let (log, rest) = self.at_label();
                -rest.powf(f64::from(gamma)) * log
            }
            Objective::SigmoidFocal { gamma } => {
                let each = |(c, &v): (usize, &f64)| {
                    let t = if c == *y { v } else { -v };
                    sigmoid(-t).powf(f64::from(gamma)) * softplus(-t)
                };
                z.iter().enumerate().map(each).sum()
            }
            Objective::SoftMargin => log_sum_exp(z, Some(*y)) - z[*y],
        }
    }

    /// The gradient to `z`.
    fn first(&self) -> Vec<f64> {
        let Row { z, w, y, .. } = self;
        let at_label = |c: usize| f64::from(u8::from(c == *y));
        match self.of {
            Objective::Kl => {
                let (p, q, kl) = (Softmax::of(z), Softmax::of(w), self.value());
                (0..z.len()).map(|c| p.p[c] * (p.log[c] - q.log[c] - kl)).collect()
            }
            Objective::Mart { weight } => {
                let (p, q) = (Softmax::of(z), Softmax::of(w));
                let (kl, factor) = (mart_kl(&p, &q), ONE_WEIGHT - p.p[*y]);
                let through_kl = |c: usize| p.p[c] * (p.log[c] - (q.p[c] + TINY).ln() - kl);
                let through_factor = |c: usize| -p.p[*y] * (at_label(c) - p.p[c]);
                (0..z.len()).map(|c| f64::from(weight) * (factor * through_kl(c) + kl * through_factor(c))).collect()
            }
            Objective::Squared => z.iter().zip(w).map(|(a, b)| 2.0 * (a - b)).collect(),
            Objective::Soft => {
                let (p, total) = (Softmax::of(z), w.iter().sum::<f64>());
                p.p.iter().zip(w).map(|(p, q)| p * total - q).collect()
            }
            Objective::Focal { gamma } => {
                let (p, gamma) = (Softmax::of(z), f64::from(gamma));
                let (log, rest) = self.at_label();
                let through = if rest == 0.0 { 0.0 } else { gamma * p.p[*y] * rest.powf(gamma - 1.0) * log };
                let slope = through - rest.powf(gamma);
                (0..z.len()).map(|c| slope * (at_label(c) - p.p[c])).collect()
            }
            Objective::SigmoidFocal { gamma } => {
                let gamma = f64::from(gamma);
                let each = |(c, &v): (usize, &f64)| {
                    let (t, sign) = if c == *y { (v, 1.0) } else { (-v, -1.0) };
                    let miss = sigmoid(-t);
                    sign * (-gamma * miss.powf(gamma) * sigmoid(t) * softplus(-t) - miss.powf(gamma + 1.0))
                };
                z.iter().enumerate().map(each).collect()
            }
            Objective::SoftMargin => {
                let others = log_sum_exp(z, Some(*y));
                (0..z.len()).map(|c| if c == *y { -1.0 } else { (z[c] - others).exp() }).collect()
            }
        }
    }

    /// The gradient to `w`.
    fn second(&self) -> Vec<f64> {
        let Row { z, w, y, .. } = self;
        let (p, q) = (Softmax::of(z), Softmax::of(w));
        match self.of {
            Objective::Kl => q.p.iter().zip(&p.p).map(|(q, p)| q - p).collect(),
            Objective::Mart { weight } => {
                let (rival, factor) = (q.rival(*y), f64::from(weight) * (ONE_WEIGHT - p.p[*y]));
                let boost = q.p[rival] / (ONE_BOOSTED - q.p[rival] + TINY);
                let ratio = |c: usize| p.p[c] * q.p[c] / (q.p[c] + TINY);
                let total: f64 = (0..z.len()).map(ratio).sum();
                let is = |c: usize, k: usize| f64::from(u8::from(c == k));
                let each = |c| q.p[c] - is(c, *y) + boost * (is(c, rival) - q.p[c]) + factor * (q.p[c] * total - ratio(c));
                (0..z.len()).map(each).collect()
            }
            Objective::Squared => z.iter().zip(w).map(|(a, b)| -2.0 * (a - b)).collect(),
            other => unreachable!("{other:?} has no gradient to a second row"),
        }
    }

    /// The logarithm of the label's probability, and what the others have together.
    fn at_label(&self) -> (f64, f64) {
        let p = Softmax::of(&self.z);
        (p.log[self.y], p.p.iter().enumerate().filter(|&(c, _)| c != self.y).map(|(_, p)| p).sum())
    }
}

/// `sum_c p_c (log p_c - log(q_c + 1e-12))`.
fn mart_kl(p: &Softmax, q: &Softmax) -> f64 {
    (0..p.p.len()).map(|c| p.p[c] * (p.log[c] - (q.p[c] + TINY).ln())).sum()
}

fn sigmoid(t: f64) -> f64 {
    1.0 / (1.0 + (-t).exp())
}

/// `log(1 + exp(t))`; a NaN stays one.
fn softplus(t: f64) -> f64 {
    let above = if t < 0.0 { 0.0 } else { t };
    above + (-t.abs()).exp().ln_1p()
}
