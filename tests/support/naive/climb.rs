//! Losses against given logits, and Adam.
//! Must not know networks.

use super::Arg;

fn log_softmax(z: &[f64]) -> Vec<f64> {
    let top = z.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let all = top + z.iter().map(|v| (v - top).exp()).sum::<f64>().ln();
    z.iter().map(|v| v - all).collect()
}

/// `(z, clean)`.
pub fn kl(z: &Arg, clean: &Arg) -> Vec<f64> {
    let one = |(z, clean): (&[f64], &[f64])| {
        let (q, p) = (log_softmax(z), log_softmax(clean));
        // The limit of p log p is 0.
        p.iter().zip(&q).map(|(p, q)| if p.exp() == 0.0 { 0.0 } else { p.exp() * (p - q) }).sum()
    };
    z.images().zip(clean.images()).map(one).collect()
}

pub fn kl_grad(z: &Arg, clean: &Arg) -> Vec<f64> {
    let one = |(z, clean): (&[f64], &[f64])| -> Vec<f64> {
        log_softmax(z).iter().zip(log_softmax(clean)).map(|(q, p)| q.exp() - p.exp()).collect()
    };
    z.images().zip(clean.images()).flat_map(one).collect()
}

pub fn moment(m: &Arg, g: &Arg, square: bool, keep: f32) -> Vec<f64> {
    let keep = f64::from(keep);
    m.zip(g, |m, g| keep * m + (1.0 - keep) * if square { g * g } else { g })
}

/// `(x, x0, m, v, alpha, eps, state)`.
pub fn adam(args: &[Arg], keep: [f32; 2]) -> Vec<f64> {
    let len = args[0].shape.elems();
    let at = |i: usize| {
        let (n, read) = (i / len, |arg: usize| args[arg].data[i]);
        let t = args[6].data[2 * n] as i32 + 1;
        let corrected = |value: f64, keep: f32| value / (1.0 - f64::from(keep).powi(t));
        let way = corrected(read(2), keep[0]) / (corrected(read(3), keep[1]).sqrt() + 1e-8);
        let (alpha, eps) = (args[4].data[n], args[5].data[n]);
        (read(1) + (read(0) + alpha * way - read(1)).clamp(-eps, eps)).clamp(0.0, 1.0)
    };
    (0..args[0].data.len()).map(at).collect()
}
