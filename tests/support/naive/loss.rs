//! Losses of one image and their gradients, each written down from its formula.
//! Among equals a maximum is at the lowest class, while DLR, which sorts upwards and stably, ranks the higher class above;
//! the hinge passes its gradient where both sides are equal. All as in PyTorch.

use petard::graph::Loss;

use super::Arg;

/// Applies `f(logits, label, target)` to each image.
pub fn each_image(args: &[Arg], f: impl Fn(&[f64], usize, usize) -> Vec<f64>) -> Vec<f64> {
    let class = |arg: usize, n: usize| args.get(arg).map_or(0, |a| a.data[n] as usize);
    args[0].images().enumerate().flat_map(|(n, z)| f(z, class(1, n), class(2, n))).collect()
}

/// Classes by falling logit, of equals the higher class first.
fn ranked(z: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|&a, &b| z[b].partial_cmp(&z[a]).expect("logits are numbers").then(b.cmp(&a)));
    order
}

/// The best class other than `class`, of equals the lower one.
fn best_other(z: &[f64], class: usize) -> usize {
    let mut others = (0..z.len()).filter(|&k| k != class);
    let first = others.next().expect("two classes or more");
    others.fold(first, |best, k| if z[k] > z[best] { k } else { best })
}

/// The class that DLR holds against `class`: the highest of its ranking, or the second where `class` is the highest.
fn rival(rank: &[usize], class: usize) -> usize {
    if rank[0] == class { rank[1] } else { rank[0] }
}

fn log_sum_exp(z: &[f64]) -> f64 {
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + z.iter().map(|v| (v - top).exp()).sum::<f64>().ln()
}

pub fn value(loss: Loss, z: &[f64], y: usize, t: usize) -> f64 {
    match loss {
        Loss::CrossEntropy { smoothing } => {
            let target = soft_target(z.len(), y, smoothing);
            log_sum_exp(z) - z.iter().zip(target).map(|(z, p)| z * p).sum::<f64>()
        }
        Loss::Margin => z[best_other(z, y)] - z[y],
        Loss::Hinge { kappa } => (z[y] - z[best_other(z, y)]).max(-f64::from(kappa)),
        Loss::Dlr => {
            let rank = ranked(z);
            -(z[y] - z[rival(&rank, y)]) / (z[rank[0]] - z[rank[2]] + 1e-12)
        }
        Loss::TargetedCrossEntropy => -(log_sum_exp(z) - z[t]),
        Loss::TargetedMargin => z[t] - z[best_other(z, t)],
        Loss::TargetedDifference => z[t] - z[y],
        Loss::TargetedDlr => {
            let rank = ranked(z);
            -(z[y] - z[t]) / (z[rank[0]] - (z[rank[2]] + z[rank[3]]) / 2.0 + 1e-12)
        }
        Loss::Logit => -z[y],
        Loss::TargetedLogit => z[t],
    }
}

pub fn gradient(loss: Loss, z: &[f64], y: usize, t: usize) -> Vec<f64> {
    let softmax: Vec<f64> = z.iter().map(|v| (v - log_sum_exp(z)).exp()).collect();
    match loss {
        Loss::CrossEntropy { smoothing } => softmax.iter().zip(soft_target(z.len(), y, smoothing)).map(|(s, p)| s - p).collect(),
        Loss::Margin => sum(z.len(), &[(best_other(z, y), 1.0), (y, -1.0)]),
        Loss::Hinge { kappa } => {
            let rival = best_other(z, y);
            let slope = if z[y] - z[rival] >= -f64::from(kappa) { 1.0 } else { 0.0 };
            sum(z.len(), &[(y, slope), (rival, -slope)])
        }
        Loss::Dlr => {
            let rank = ranked(z);
            let rival = rival(&rank, y);
            let (over, under) = (z[y] - z[rival], z[rank[0]] - z[rank[2]] + 1e-12);
            let through = over / (under * under);
            sum(z.len(), &[(y, -1.0 / under), (rival, 1.0 / under), (rank[0], through), (rank[2], -through)])
        }
        Loss::TargetedCrossEntropy => softmax.iter().enumerate().map(|(k, s)| f64::from(k == t) - s).collect(),
        Loss::TargetedMargin => sum(z.len(), &[(t, 1.0), (best_other(z, t), -1.0)]),
        Loss::TargetedDifference => sum(z.len(), &[(t, 1.0), (y, -1.0)]),
        Loss::TargetedDlr => {
            let rank = ranked(z);
            let (over, under) = (z[y] - z[t], z[rank[0]] - (z[rank[2]] + z[rank[3]]) / 2.0 + 1e-12);
            let through = over / (under * under);
            let half = -through / 2.0;
            sum(z.len(), &[(y, -1.0 / under), (t, 1.0 / under), (rank[0], through), (rank[2], half), (rank[3], half)])
        }
        Loss::Logit => sum(z.len(), &[(y, -1.0)]),
        Loss::TargetedLogit => sum(z.len(), &[(t, 1.0)]),
    }
}

/// `(1 - s) * onehot + s / K`.
fn soft_target(classes: usize, y: usize, smoothing: f32) -> Vec<f64> {
    let s = f64::from(smoothing);
    (0..classes).map(|k| s / classes as f64 + if k == y { 1.0 - s } else { 0.0 }).collect()
}

/// A gradient from its parts; a class named twice gets the sum.
fn sum(classes: usize, parts: &[(usize, f64)]) -> Vec<f64> {
    let mut g = vec![0.0; classes];
    for &(class, part) in parts {
        g[class] += part;
    }
    g
}
