//! Convolution and the linear layer: one list of products each, added up in three ways.
//! Must not know gradients other than as the same products with another target.

use petard::graph::Conv;

use super::Arg;

/// Every product of a convolution as indices (into the output, the input and the weights).
fn each_product(conv: &Conv, batch: usize, [h, w]: [usize; 2], mut f: impl FnMut(usize, usize, usize)) {
    let (p, q) = conv.out_hw(h, w);
    let (c_group, k_group) = (conv.c / conv.groups, conv.k / conv.groups);
    let [kh, kw] = conv.kernel;
    for n in 0..batch {
        for (oy, ox, k) in each3(p, q, conv.k) {
            let output = ((n * p + oy) * q + ox) * conv.k + k;
            for (r, s, c) in each3(kh, kw, c_group) {
                let y = (oy * conv.stride[0] + r * conv.dilation[0]).checked_sub(conv.pad[0]).filter(|&y| y < h);
                let x = (ox * conv.stride[1] + s * conv.dilation[1]).checked_sub(conv.pad[1]).filter(|&x| x < w);
                let (Some(y), Some(x)) = (y, x) else { continue };
                let channel = k / k_group * c_group + c;
                f(output, ((n * h + y) * w + x) * conv.c + channel, ((k * c_group + c) * kh + r) * kw + s);
            }
        }
    }
}

/// `0..a` times `0..b` times `0..c`.
fn each3(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

pub fn forward(conv: &Conv, x: &Arg, w: &Arg) -> Vec<f64> {
    let (h, width, _) = x.shape.hwc();
    let (p, q) = conv.out_hw(h, width);
    let mut out = vec![0.0; x.batch * p * q * conv.k];
    each_product(conv, x.batch, [h, width], |o, i, k| out[o] += x.data[i] * w.data[k]);
    out
}

pub fn grad_input(conv: &Conv, hw: [usize; 2], g: &Arg, w: &Arg) -> Vec<f64> {
    let mut dx = vec![0.0; g.batch * hw[0] * hw[1] * conv.c];
    each_product(conv, g.batch, hw, |o, i, k| dx[i] += g.data[o] * w.data[k]);
    dx
}

pub fn grad_weight(conv: &Conv, x: &Arg, g: &Arg) -> Vec<f64> {
    let (h, w, _) = x.shape.hwc();
    let mut dw = vec![0.0; conv.k * conv.c / conv.groups * conv.kernel[0] * conv.kernel[1]];
    each_product(conv, x.batch, [h, w], |o, i, k| dw[k] += x.data[i] * g.data[o]);
    dw
}

pub fn linear(x: &Arg, w: &Arg) -> Vec<f64> {
    let (n_out, n_in) = (w.shape.dims[0], w.shape.dims[1]);
    let mut y = vec![0.0; x.batch * n_out];
    for (n, o, i) in each3(x.batch, n_out, n_in) {
        y[n * n_out + o] += x.data[n * n_in + i] * w.data[o * n_in + i];
    }
    y
}

pub fn linear_grad_input(g: &Arg, w: &Arg) -> Vec<f64> {
    let (n_out, n_in) = (w.shape.dims[0], w.shape.dims[1]);
    let mut dx = vec![0.0; g.batch * n_in];
    for (n, o, i) in each3(g.batch, n_out, n_in) {
        dx[n * n_in + i] += g.data[n * n_out + o] * w.data[o * n_in + i];
    }
    dx
}

pub fn linear_grad_weight(x: &Arg, g: &Arg) -> Vec<f64> {
    let (n_out, n_in) = (g.channels(), x.channels());
    let mut dw = vec![0.0; n_out * n_in];
    for (n, o, i) in each3(x.batch, n_out, n_in) {
        dw[o * n_in + i] += x.data[n * n_in + i] * g.data[n * n_out + o];
    }
    dw
}
