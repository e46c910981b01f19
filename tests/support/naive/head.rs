//! Rows of unit length, scales and margins by class, weights by image; the change of weights that perturbs them.
//! Must not know networks.

use super::Arg;

fn length(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// 0 for a row without length.
fn scale(x: &[f64], gamma: f32) -> f64 {
    let below = length(x) + f64::from(gamma);
    if below == 0.0 { 0.0 } else { 1.0 / below }
}

pub fn unit_rows(x: &Arg, gamma: f32) -> Vec<f64> {
    x.data.chunks(x.channels()).flat_map(|row| row.iter().map(move |v| v * scale(row, gamma))).collect()
}

/// The Jacobian, entry by entry: `d y_i / d x_j = [i = j] s - x_i x_j s^2 / |x|`.
pub fn unit_rows_grad(g: &Arg, x: &Arg, gamma: f32) -> Vec<f64> {
    let rows = g.data.chunks(x.channels()).zip(x.data.chunks(x.channels()));
    let each = |(g, x): (&[f64], &[f64])| -> Vec<f64> {
        let (s, l) = (scale(x, gamma), length(x));
        if l == 0.0 {
            return vec![0.0; x.len()];
        }
        let entry = |i: usize, j: usize| if i == j { s } else { 0.0 } - x[i] * x[j] * s * s / l;
        (0..x.len()).map(|j| (0..x.len()).map(|i| g[i] * entry(i, j)).sum()).collect()
    };
    rows.flat_map(each).collect()
}

pub fn row_scales(w: &Arg, gamma: f32) -> Vec<f64> {
    w.data.chunks(w.channels()).map(|row| scale(row, gamma)).collect()
}

pub fn row_scales_grad(g: &Arg, w: &Arg, gamma: f32) -> Vec<f64> {
    let each = |(row, g): (&[f64], &f64)| -> Vec<f64> {
        let (s, l) = (scale(row, gamma), length(row));
        row.iter().map(|v| if l == 0.0 { 0.0 } else { -g * s * s * v / l }).collect()
    };
    w.data.chunks(w.channels()).zip(g.data).flat_map(each).collect()
}

pub fn product_channels(g: &Arg, x: &Arg) -> Vec<f64> {
    let c = x.channels();
    (0..c).map(|k| (k..x.data.len()).step_by(c).map(|i| g.data[i] * x.data[i]).sum()).collect()
}

pub fn scale_rows(x: &Arg, r: &Arg) -> Vec<f64> {
    x.images().zip(r.data).flat_map(|(row, r)| row.iter().map(move |v| v * r)).collect()
}

/// `(z, label, table)`.
pub fn class_margins(args: &[Arg]) -> Vec<f64> {
    let (k, table) = (args[0].channels(), args[2].data);
    let margin = |n: usize, c: usize| if args[1].data[n] as usize == c { table[2 * k + c] } else { 0.0 };
    let each = |(i, z): (usize, &f64)| table[i % k] * z + table[k + i % k] - margin(i / k, i % k);
    args[0].data.iter().enumerate().map(each).collect()
}

/// `(w, g, gamma)`.
pub fn perturbation(args: &[Arg]) -> Vec<f64> {
    let factor = args[2].data[0] * length(args[0].data) / (length(args[1].data) + 1e-20);
    args[1].map(|g| factor * g)
}

/// `(x0, x, share)`.
pub fn between(args: &[Arg]) -> Vec<f64> {
    let size = args[0].shape.elems();
    let share = |i: usize| args[2].data[i / size];
    let at = |(i, (x0, x)): (usize, (&f64, &f64))| (x0 + share(i) * (x - x0)).clamp(0.0, 1.0);
    args[0].data.iter().zip(args[1].data).enumerate().map(at).collect()
}
