//! What a class gives to a loss: scales, biases and margins of its logits, and weights, from how often it occurs.
//! Must not know graphs or images.
//! LDAM: Cao et al. 2019, <https://arxiv.org/abs/1906.07413>; class-balanced: Cui et al. 2019,
//! <https://arxiv.org/abs/1901.05555>; logit adjustment: Menon et al. 2021, <https://arxiv.org/abs/2007.07314>; temperatures:
//! Ye et al. 2020, <https://arxiv.org/abs/2001.01385>; multiple margins: Wu et al. 2021, <https://arxiv.org/abs/2104.02703>.

/// `scale_c z_c + bias_c`, less `margin_c` at the label: the logits that a training loss sees.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassTable {
    /// One a class.
    pub scale: Vec<f64>,
    /// One a class.
    pub bias: Vec<f64>,
    /// One a class, in units of the scaled logits.
    pub margin: Vec<f64>,
}

impl ClassTable {
    /// Logits as they are.
    pub fn plain(classes: usize) -> Self {
        ClassTable { scale: vec![1.0; classes], bias: vec![0.0; classes], margin: vec![0.0; classes] }
    }

    /// `s (cos - m [c = y])`: hypersphere embedding, and uniform margins.
    pub fn sphere(classes: usize, s: f64, m: f64) -> Self {
        ClassTable { scale: vec![s; classes], margin: vec![s * m; classes], ..ClassTable::plain(classes) }
    }

    /// `s (z - d_y [c = y])` with `d_c = max * n_c^(-1/4) / max_k n_k^(-1/4)`: LDAM.
    pub fn ldam(counts: &[f64], max: f64, s: f64) -> Self {
        let raw: Vec<f64> = counts.iter().map(|n| n.powf(-0.25)).collect();
        let largest = raw.iter().copied().fold(0.0, f64::max);
        let margin = raw.iter().map(|r| s * max * r / largest).collect();
        ClassTable { scale: vec![s; counts.len()], margin, ..ClassTable::plain(counts.len()) }
    }

    /// `z + tau log(n_c / n)`: logit adjustment.
    pub fn adjusted(counts: &[f64], tau: f64) -> Self {
        ClassTable { bias: log_shares(counts).iter().map(|l| tau * l).collect(), ..ClassTable::plain(counts.len()) }
    }

    /// `z_c (n_c / n_max)^tau`: class-dependent temperatures.
    pub fn temperatures(counts: &[f64], tau: f64) -> Self {
        let most = counts.iter().copied().fold(0.0, f64::max);
        ClassTable { scale: counts.iter().map(|n| (n / most).powf(tau)).collect(), ..ClassTable::plain(counts.len()) }
    }

    /// RoBal's: `s (cos - m0 [c = y]) - tau_m log(n_y / n_min) [c = y] + tau_b log(n_c / n)`.
    pub fn multi_margin(counts: &[f64], by: &MultiMargin) -> Self {
        let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
        ClassTable {
            scale: vec![by.s; counts.len()],
            bias: log_shares(counts).iter().map(|l| by.tau_b * l).collect(),
            margin: counts.iter().map(|n| by.s * by.m0 + by.tau_m * (n / least).ln()).collect(),
        }
    }

    /// Scales, biases, margins, one after the other.
    pub fn rows(&self) -> Vec<f64> {
        [&self.scale[..], &self.bias, &self.margin].concat()
    }
}

/// Numbers of RoBal's margins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultiMargin {
    /// Scale of the cosines.
    pub s: f64,
    /// Margin of every class, as a cosine.
    pub m0: f64,
    /// Strength of the biases.
    pub tau_b: f64,
    /// Strength of the margins by class.
    pub tau_m: f64,
}

/// Weights `(1 - beta) / (1 - beta^n_c)` by class, scaled to add up to the number of classes.
pub fn class_balanced(counts: &[f64], beta: f64) -> Vec<f64> {
    let raw: Vec<f64> = counts.iter().map(|&n| (1.0 - beta) / (1.0 - beta.powf(n))).collect();
    let total: f64 = raw.iter().sum();
    raw.iter().map(|w| w * counts.len() as f64 / total).collect()
}

fn log_shares(counts: &[f64]) -> Vec<f64> {
    let total: f64 = counts.iter().sum();
    counts.iter().map(|n| (n / total).ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn robal_gives_the_head_the_larger_margin() {
        let table = ClassTable::multi_margin(&[100.0, 10.0], &MultiMargin { s: 10.0, m0: 0.1, tau_b: 1.5, tau_m: 0.3 });
        assert_eq!(table.scale, [10.0, 10.0]);
        assert!((table.margin[0] - (1.0 + 0.3 * 10f64.ln())).abs() < 1e-15 && (table.margin[1] - 1.0).abs() < 1e-15);
        assert!((table.bias[0] - table.bias[1] - 1.5 * 10f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn temperatures_divide_rare_classes_by_more_than_one() {
        // The loss sees smaller logits where a class is rare, so training makes them larger.
        let table = ClassTable::temperatures(&[1000.0, 10.0], 0.5);
        assert!(table.scale[0] == 1.0 && (table.scale[1] - 0.1).abs() < 1e-15);
    }
}
