//! What becomes of a proposal or a query, in f64. Random numbers are not defined here.

use petard::graph::hop;
use petard::threat::Norm;

use super::Arg;

/// Rows of (queries made, best loss, broken, better).
pub fn square_control(args: &[Arg]) -> Vec<f64> {
    let (loss, fooled) = (args[1].data, args[2].data);
    let mut out = Vec::new();
    for (n, s) in args[0].images().enumerate() {
        let alive = s[2] == 0.0;
        let broken = fooled[n] != 0.0;
        let better = s[0] == 0.0 || broken || loss[n] > s[1];
        out.extend(match alive {
            false => [s[0], s[1], s[2], 0.0],
            true => [s[0] + 1.0, if better { loss[n] } else { s[1] }, f64::from(broken), f64::from(better)],
        });
    }
    out
}

pub fn distance(norm: Norm, a: &Arg, b: &Arg) -> Vec<f64> {
    let one = |(a, b): (&[f64], &[f64])| {
        let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        match norm {
            Norm::Linf => gaps.fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most }),
            Norm::L2 => gaps.map(|d| d * d).sum::<f64>().sqrt(),
            Norm::L1 => gaps.sum(),
        }
    };
    a.images().zip(b.images()).map(one).collect()
}

/// Sums of `q - x`: with the sign of the verdict, then without; a size of 2 starts anew.
pub fn gather(args: &[Arg]) -> Vec<f64> {
    let mut out = args[0].data.to_vec();
    for (n, (q, x)) in args[1].images().zip(args[2].images()).enumerate() {
        let code = args[3].data[n * hop::LEN + hop::SIGN];
        let len = q.len();
        let sums = &mut out[2 * n * len..2 * (n + 1) * len];
        if code.abs() == 2.0 {
            sums.fill(0.0);
        }
        for (e, moved) in q.iter().zip(x).map(|(q, x)| q - x).enumerate().filter(|_| code != 0.0) {
            sums[e] += code.signum() * moved;
            sums[len + e] += moved;
        }
    }
    out
}
