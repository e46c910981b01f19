//! Losses that train, by the chain rule through logarithms of probabilities: the engine has each gradient in closed form.
//! Must not know recipes.

use petard::graph::Objective;

use super::Arg;

/// One image: its rows, their logarithms of probabilities, its label.
pub struct Row<'a> {
    of: Objective,
    z: &'a [f64],
    w: &'a [f64],
    y: usize,
}

pub fn each_image(of: Objective, args: &[Arg], f: impl Fn(Row) -> Vec<f64>) -> Vec<f64> {
    let pair = usize::from(of.reads_pair());
    let w: Vec<&[f64]> = args[pair].images().collect();
    let label = |n: usize| if of.reads_label() { args[1 + pair].data[n] as usize } else { 0 };
    args[0].images().enumerate().flat_map(|(n, z)| f(Row { of, z, w: w[n], y: label(n) })).collect()
}

fn log_softmax(z: &[f64]) -> Vec<f64> {
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let all = top + z.iter().map(|v| (v - top).exp()).sum::<f64>().ln();
    z.iter().map(|v| v - all).collect()
}

/// From the gradient to logarithms of probabilities to that of the logits.
fn through(log: &[f64], d: &[f64]) -> Vec<f64> {
    let total: f64 = d.iter().sum();
    log.iter().zip(d).map(|(l, d)| d - l.exp() * total).collect()
}

fn log_sigmoid(t: f64) -> f64 {
    if t > 0.0 { -(-t).exp().ln_1p() } else { t - t.exp().ln_1p() }
}

/// `0^0 = 1`, and no slope where the base is gone.
fn slope(base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 || base == 0.0 { 0.0 } else { exponent * base.powf(exponent - 1.0) }
}

impl Row<'_> {
    pub fn value(&self) -> f64 {
        let (lp, lq, y) = (log_softmax(self.z), log_softmax(self.w), self.y);
        let classes = 0..lp.len();
        match self.of {
            Objective::Kl => classes.map(|c| lp[c].exp() * (lp[c] - lq[c])).sum(),
            Objective::Mart { weight } => {
                let wrong = lq.iter().enumerate().filter(|&(c, _)| c != y).map(|(_, l)| l.exp()).fold(0.0, f64::max);
                let kl: f64 = classes.map(|c| lp[c].exp() * (lp[c] - (lq[c].exp() + 1e-12).ln())).sum();
                -lq[y] - (1.0001 - wrong + 1e-12).ln() + f64::from(weight) * (1.000_000_1 - lp[y].exp()) * kl
            }
            Objective::Squared => classes.map(|c| (self.z[c] - self.w[c]).powi(2)).sum(),
            Objective::Soft => classes.map(|c| -self.w[c] * lp[c]).sum(),
            Objective::Focal { gamma } => -(1.0 - lp[y].exp()).powf(f64::from(gamma)) * lp[y],
            Objective::SigmoidFocal { gamma } => {
                let t = |c: usize| if c == y { self.z[c] } else { -self.z[c] };
                classes.map(|c| -log_sigmoid(-t(c)).exp().powf(f64::from(gamma)) * log_sigmoid(t(c))).sum()
            }
            Objective::SoftMargin => {
                let others: Vec<f64> = classes.filter(|&c| c != y).map(|c| self.z[c]).collect();
                others[0] - log_softmax(&others)[0] - self.z[y]
            }
        }
    }

    pub fn gradient(&self, by: usize) -> Vec<f64> {
        let (lp, lq, y) = (log_softmax(self.z), log_softmax(self.w), self.y);
        let classes = || 0..lp.len();
        let p = |c: usize| lp[c].exp();
        match (self.of, by) {
            (Objective::Kl, 0) => through(&lp, &classes().map(|c| p(c) * (lp[c] - lq[c] + 1.0)).collect::<Vec<_>>()),
            (Objective::Kl, _) => through(&lq, &classes().map(|c| -p(c)).collect::<Vec<_>>()),
            (Objective::Mart { weight }, by) => self.mart(f64::from(weight), by),
            (Objective::Squared, by) => {
                let sign = if by == 0 { 2.0 } else { -2.0 };
                classes().map(|c| sign * (self.z[c] - self.w[c])).collect()
            }
            (Objective::Soft, _) => through(&lp, &self.w.iter().map(|q| -q).collect::<Vec<_>>()),
            (Objective::Focal { gamma }, _) => {
                let (gamma, rest) = (f64::from(gamma), 1.0 - p(y));
                let mut d = vec![0.0; lp.len()];
                d[y] = slope(rest, gamma) * p(y) * lp[y] - rest.powf(gamma);
                through(&lp, &d)
            }
            (Objective::SigmoidFocal { gamma }, _) => {
                let each = |c: usize| {
                    let (t, sign) = if c == y { (self.z[c], 1.0) } else { (-self.z[c], -1.0) };
                    let (hit, miss, gamma) = (log_sigmoid(t).exp(), log_sigmoid(-t).exp(), f64::from(gamma));
                    sign * (slope(miss, gamma) * miss * hit * log_sigmoid(t) - miss.powf(gamma) * miss)
                };
                classes().map(each).collect()
            }
            (Objective::SoftMargin, _) => {
                let mut others: Vec<f64> = classes().filter(|&c| c != y).map(|c| self.z[c]).collect();
                others = log_softmax(&others).iter().map(|l| l.exp()).collect();
                others.insert(y, -1.0);
                others
            }
        }
    }

    fn mart(&self, weight: f64, by: usize) -> Vec<f64> {
        let (lp, lq, y) = (log_softmax(self.z), log_softmax(self.w), self.y);
        let (p, q) = (|c: usize| lp[c].exp(), |c: usize| lq[c].exp());
        let classes = 0..lp.len();
        let excess = |c: usize| lp[c] - (q(c) + 1e-12).ln();
        let kl: f64 = classes.clone().map(|c| p(c) * excess(c)).sum();
        let factor = weight * (1.000_000_1 - p(y));
        if by == 0 {
            let mut d: Vec<f64> = classes.map(|c| factor * p(c) * (excess(c) + 1.0)).collect();
            d[y] -= weight * kl * p(y);
            return through(&lp, &d);
        }
        let mut d: Vec<f64> = classes.clone().map(|c| -factor * p(c) * q(c) / (q(c) + 1e-12)).collect();
        d[y] -= 1.0;
        let first = usize::from(y == 0);
        let rival = classes.filter(|&c| c != y).fold(first, |best, c| if lq[c] > lq[best] { c } else { best });
        d[rival] += q(rival) / (1.0001 - q(rival) + 1e-12);
        through(&lq, &d)
    }
}
