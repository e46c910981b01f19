//! What classifiers on a sphere are made of: rows of unit length, scales and margins by class, weights by image.
//! Must not know networks.
//! Pang et al. 2020, <https://arxiv.org/abs/2002.08619>; Wu et al. 2021, <https://arxiv.org/abs/2104.02703>.

use rayon::prelude::*;

use super::rows::row_len;

/// Each row of `len` over its length plus `gamma`; a row without length gives zeros.
pub(crate) fn unit_rows(gamma: f32, len: usize, x: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(len), "rows of {len} in {} values", x.len());
    out.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(out, x)| {
        let scale = inverse(length(x) + f64::from(gamma));
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = (f64::from(x) * scale) as f32);
    });
}

/// `s g - x (x . g) s^2 / |x|` with `s = 1 / (|x| + gamma)`; zeros for a row without length.
pub(crate) fn unit_rows_grad(gamma: f32, len: usize, g: &[f32], x: &[f32], out: &mut [f32]) {
    assert!(g.len() == x.len() && x.len() == out.len(), "gradients of {} values: {}", x.len(), g.len());
    out.par_chunks_mut(len).zip(g.par_chunks(len).zip(x.par_chunks(len))).for_each(|(out, (g, x))| {
        let length = length(x);
        let scale = inverse(length + f64::from(gamma));
        let along: f64 = g.iter().zip(x).map(|(&g, &x)| f64::from(g) * f64::from(x)).sum();
        let pull = along * scale * scale * inverse(length);
        for ((out, &g), &x) in out.iter_mut().zip(g).zip(x) {
            *out = if length == 0.0 { 0.0 } else { (f64::from(g) * scale - f64::from(x) * pull) as f32 };
        }
    });
}

/// `1 / (|w| + gamma)` for each row of `w`, of which there are as many as `out` holds; 0 for a row without length.
pub(crate) fn row_scales(gamma: f32, w: &[f32], out: &mut [f32]) {
    let len = row_len(out.len(), w.len());
    out.par_iter_mut().zip(w.par_chunks(len)).for_each(|(out, w)| *out = inverse(length(w) + f64::from(gamma)) as f32);
}

/// `-g s^2 w / |w|` with `s = 1 / (|w| + gamma)`, one `g` a row.
pub(crate) fn row_scales_grad(gamma: f32, g: &[f32], w: &[f32], out: &mut [f32]) {
    let len = row_len(g.len(), w.len());
    out.par_chunks_mut(len).zip(w.par_chunks(len)).zip(g).for_each(|((out, w), &g)| {
        let length = length(w);
        let scale = inverse(length + f64::from(gamma));
        let pull = -f64::from(g) * scale * scale * inverse(length);
        out.iter_mut().zip(w).for_each(|(out, &w)| *out = (f64::from(w) * pull) as f32);
    });
}

/// Times `r` along the last dimension.
pub(crate) fn scale_channels(x: &[f32], r: &[f32], out: &mut [f32]) {
    out.chunks_exact_mut(r.len()).zip(x.chunks_exact(r.len())).for_each(|(out, x)| {
        out.iter_mut().zip(x.iter().zip(r)).for_each(|(out, (x, r))| *out = x * r);
    });
}

/// The sum of `g * x` over everything but the last dimension, which `out` has.
pub(crate) fn product_channels(g: &[f32], x: &[f32], out: &mut [f32]) {
    let mut sums = vec![0f64; out.len()];
    for (g, x) in g.chunks_exact(out.len()).zip(x.chunks_exact(out.len())) {
        sums.iter_mut().zip(g.iter().zip(x)).for_each(|(sum, (&g, &x))| *sum += f64::from(g) * f64::from(x));
    }
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
}

/// Each image times its own `r`.
pub(crate) fn scale_rows(x: &[f32], r: &[f32], out: &mut [f32]) {
    let len = row_len(r.len(), x.len());
    out.chunks_exact_mut(len).zip(x.chunks_exact(len)).zip(r).for_each(|((out, x), r)| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x * r);
    });
}

/// `scale_c z_c + bias_c`, less `margin_c` at the label: in f64, rounded once. `table` holds scales, biases, margins.
pub(crate) fn class_margins(z: &[f32], label: &[i32], table: &[f32], out: &mut [f32]) {
    let classes = row_len(label.len(), z.len());
    assert_eq!(table.len(), 3 * classes, "a table for {classes} classes");
    let (scale, rest) = table.split_at(classes);
    let (bias, margin) = rest.split_at(classes);
    out.chunks_exact_mut(classes).zip(z.chunks_exact(classes)).zip(label).for_each(|((out, z), &label)| {
        for c in 0..classes {
            let less = if label as usize == c { f64::from(margin[c]) } else { 0.0 };
            out[c] = (f64::from(scale[c]) * f64::from(z[c]) + f64::from(bias[c]) - less) as f32;
        }
    });
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// `1 / v`, and 0 for 0.
fn inverse(v: f64) -> f64 {
    if v == 0.0 { 0.0 } else { 1.0 / v }
}
