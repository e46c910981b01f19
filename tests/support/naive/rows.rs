//! Ops on whole images: verdicts, choices and the step of an attack.
//! Must not know networks.

use petard::threat::Norm;

use super::Arg;

/// 1 where the winner is not at the label, with `hit` 1 where it is; any NaN means that nobody has won.
pub fn fooled(z: &Arg, class: &Arg, hit: bool) -> Vec<f64> {
    let judge = |(n, z): (usize, &[f64])| {
        let mut winner = 0;
        for k in 1..z.len() {
            if z[k] > z[winner] {
                winner = k;
            }
        }
        let right = !z.iter().any(|v| v.is_nan()) && winner as f64 == class.data[n];
        f64::from(right == hit)
    };
    z.images().enumerate().map(judge).collect()
}

pub fn select(flag: &Arg, a: &Arg, b: &Arg) -> Vec<f64> {
    let rows = a.images().zip(b.images()).zip(flag.data);
    rows.flat_map(|((a, b), &flag)| if flag != 0.0 { a.to_vec() } else { b.to_vec() }).collect()
}

pub fn grad_status(g: &Arg) -> Vec<f64> {
    let status = |g: &[f64]| {
        if g.iter().any(|v| !v.is_finite()) {
            2.0
        } else if g.iter().all(|&v| v == 0.0) {
            1.0
        } else {
            0.0
        }
    };
    g.images().map(status).collect()
}

/// `(x, x0, g, alpha, eps)`.
pub fn pgd_step(args: &[Arg], norm: Norm) -> Vec<f64> {
    let rows = args[0].images().zip(args[1].images()).zip(args[2].images()).enumerate();
    rows.flat_map(|(n, ((x, x0), g))| step(norm, x, x0, g, args[3].data[n], args[4].data[n])).collect()
}

/// One step up `g`, back to the ball of radius `eps` around `x0`, then into [0,1].
fn step(norm: Norm, x: &[f64], x0: &[f64], g: &[f64], alpha: f64, eps: f64) -> Vec<f64> {
    let way = match norm {
        Norm::Linf => g.iter().map(|&v| if v == 0.0 { 0.0 } else { v.signum() }).collect(),
        Norm::L2 => {
            let length = g.iter().map(|v| v * v).sum::<f64>().sqrt();
            g.iter().map(|v| v / (length + 1e-10)).collect()
        }
        Norm::L1 => steepest(x, g),
    };
    let delta: Vec<f64> = (0..x.len()).map(|i| x[i] + alpha * way[i] - x0[i]).collect();
    let delta = match norm {
        Norm::Linf => delta.iter().map(|d| d.clamp(-eps, eps)).collect(),
        Norm::L2 => {
            let length = delta.iter().map(|d| d * d).sum::<f64>().sqrt();
            delta.iter().map(|d| if length > eps { d * eps / length } else { *d }).collect()
        }
        Norm::L1 => project_l1(x0, &delta, eps),
    };
    (0..x.len()).map(|i| (x0[i] + delta[i]).clamp(0.0, 1.0)).collect()
}

/// A step of L1 length 1 on the twentieth (rounded up) of the values with the largest `|g|` that the box lets move; of
/// equals the first. Tramer and Boneh 2019.
fn steepest(x: &[f64], g: &[f64]) -> Vec<f64> {
    let mut free: Vec<usize> = (0..g.len()).filter(|&i| (g[i] > 0.0 && x[i] < 1.0) || (g[i] < 0.0 && x[i] > 0.0)).collect();
    free.sort_by(|&a, &b| g[b].abs().total_cmp(&g[a].abs())); // stable: the first of equals stays first
    free.truncate(g.len().div_ceil(20));
    let mut way = vec![0.0; g.len()];
    for &i in &free {
        way[i] = g[i].signum() / free.len() as f64;
    }
    way
}

/// The closest point of L1 ball and box together: `|d| - lambda` between 0 and the way to the box, with the smallest
/// `lambda` that fits the ball, found by halving. Croce and Hein 2021.
pub fn project_l1(x0: &[f64], delta: &[f64], eps: f64) -> Vec<f64> {
    let room = |i: usize| if delta[i] > 0.0 { 1.0 - x0[i] } else { x0[i] };
    let shrunk = |i: usize, lambda: f64| (delta[i].abs() - lambda).max(0.0).min(room(i));
    let length = |lambda: f64| (0..delta.len()).map(|i| shrunk(i, lambda)).sum::<f64>();
    let (mut low, mut high) = (0.0, delta.iter().fold(0.0, |m: f64, d| m.max(d.abs())));
    if length(0.0) <= eps {
        high = 0.0;
    }
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if length(middle) > eps { low = middle } else { high = middle }
    }
    (0..delta.len()).map(|i| shrunk(i, high) * delta[i].signum()).collect()
}
