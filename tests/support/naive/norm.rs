//! Batch norm with running statistics and with the batch's own. Channels are the last dimension of any shape.
//! Must not know where the statistics come from.

use petard::graph::ResponseNorm;

use super::Arg;

fn inv_std(var: f64, eps: f32) -> f64 {
    1.0 / (var + f64::from(eps)).sqrt()
}

/// `(x, gamma, beta, mean, var)`.
pub fn batch_norm(args: &[Arg], eps: f32) -> Vec<f64> {
    let [gamma, beta, mean, var] = [1, 2, 3, 4].map(|i| args[i].data);
    args[0].map_channels(|v, c| (v - mean[c]) * inv_std(var[c], eps) * gamma[c] + beta[c])
}

/// `(g, gamma, var)`.
pub fn grad(args: &[Arg], eps: f32) -> Vec<f64> {
    args[0].map_channels(|g, c| g * args[1].data[c] * inv_std(args[2].data[c], eps))
}

/// Rows sum g and sum g * xhat.
pub fn grad_params(g: &Arg, x: &Arg, mean: &[f64], var: &[f64], eps: f32) -> Vec<f64> {
    let channels = g.channels();
    let mut sums = vec![0.0; 2 * channels];
    for (i, (&g, &x)) in g.data.iter().zip(x.data).enumerate() {
        let c = i % channels;
        sums[c] += g;
        sums[channels + c] += g * (x - mean[c]) * inv_std(var[c], eps);
    }
    sums
}

/// Rows mean and biased variance.
pub fn stats(x: &Arg) -> Vec<f64> {
    let channels = x.channels();
    let count = (x.data.len() / channels) as f64;
    let mut rows = vec![0.0; 2 * channels];
    for (i, v) in x.data.iter().enumerate() {
        rows[i % channels] += v / count;
    }
    for (i, v) in x.data.iter().enumerate() {
        let c = i % channels;
        rows[channels + c] += (v - rows[c]) * (v - rows[c]) / count;
    }
    rows
}

/// `(x, stats, gamma, beta)`.
pub fn train(args: &[Arg], eps: f32) -> Vec<f64> {
    let (mean, var) = args[1].data.split_at(args[1].channels());
    args[0].map_channels(|v, c| (v - mean[c]) * inv_std(var[c], eps) * args[2].data[c] + args[3].data[c])
}

/// `(g, x, stats, gamma, sums)`: `gamma / std * (g - (sum g + xhat * sum g xhat) / count)`.
pub fn train_grad(args: &[Arg], eps: f32) -> Vec<f64> {
    let (g, x, gamma) = (args[0], args[1], args[3]);
    let channels = g.channels();
    let (mean, var) = args[2].data.split_at(channels);
    let (sum_g, sum_g_xhat) = args[4].data.split_at(channels);
    let count = (g.data.len() / channels) as f64;
    let at = |i: usize| {
        let c = i % channels;
        let xhat = (x.data[i] - mean[c]) * inv_std(var[c], eps);
        gamma.data[c] * inv_std(var[c], eps) * (g.data[i] - (sum_g[c] + xhat * sum_g_xhat[c]) / count)
    };
    (0..g.data.len()).map(at).collect()
}

/// `(running, stats, x)`.
pub fn running(args: &[Arg], momentum: f32, row: usize) -> Vec<f64> {
    let channels = args[0].channels();
    let count = (args[2].data.len() / channels) as f64;
    let unbias = if row == 1 { count / (count - 1.0) } else { 1.0 };
    let m = f64::from(momentum);
    (0..channels).map(|c| (1.0 - m) * args[0].data[c] + m * unbias * args[1].data[row * channels + c]).collect()
}

/// For channel `k` of `x`: what it is divided by before the exponent, and the channels that are summed for that.
fn response(norm: &ResponseNorm, pixel: &[f64], k: usize) -> (f64, Vec<usize>) {
    let (first, last) = (k as isize - (norm.size / 2) as isize, k + (norm.size - 1) / 2);
    let near: Vec<usize> = (0..pixel.len()).filter(|&i| i as isize >= first && i <= last).collect();
    let mean = near.iter().map(|&i| pixel[i].powi(2)).sum::<f64>() / norm.size as f64;
    (f64::from(norm.bias) + f64::from(norm.alpha) * mean, near)
}

pub fn response_norm(norm: &ResponseNorm, x: &Arg) -> Vec<f64> {
    let pixels = x.data.chunks_exact(x.channels());
    pixels.flat_map(|p| (0..p.len()).map(|k| p[k] / response(norm, p, k).0.powf(norm.beta.into())).collect::<Vec<_>>()).collect()
}

/// Column by column of each pixel's Jacobian.
pub fn response_norm_grad(norm: &ResponseNorm, g: &Arg, x: &Arg) -> Vec<f64> {
    let (alpha, beta) = (f64::from(norm.alpha) / norm.size as f64, f64::from(norm.beta));
    let mut out = Vec::new();
    for (g, x) in g.data.chunks_exact(x.channels()).zip(x.data.chunks_exact(x.channels())) {
        let mut dx = vec![0.0; x.len()];
        for k in 0..x.len() {
            let (base, near) = response(norm, x, k);
            dx[k] += g[k] * base.powf(-beta);
            for i in near {
                dx[i] -= g[k] * x[k] * beta * base.powf(-beta - 1.0) * 2.0 * alpha * x[i];
            }
        }
        out.extend(dx);
    }
    out
}
