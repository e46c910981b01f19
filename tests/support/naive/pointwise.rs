//! Element-wise ops and ops that only move elements.
//! Must not know arithmetic beyond a sum.

use super::Arg;

/// `max(v, 0)`, `min(.., cap)`; NaN stays.
pub fn relu(v: f64, cap: Option<f32>) -> f64 {
    let cap = cap.map_or(f64::INFINITY, f64::from);
    if v.is_nan() {
        v
    } else if v <= 0.0 {
        0.0
    } else if v >= cap {
        cap
    } else {
        v
    }
}

pub fn sum_channels(g: &Arg) -> Vec<f64> {
    let mut sums = vec![0.0; g.channels()];
    for (i, v) in g.data.iter().enumerate() {
        sums[i % g.channels()] += v;
    }
    sums
}

pub fn concat(args: &[Arg]) -> Vec<f64> {
    let pixels = args[0].data.len() / args[0].channels();
    let mut out = Vec::new();
    for pixel in 0..pixels {
        for part in args {
            let c = part.channels();
            out.extend_from_slice(&part.data[pixel * c..(pixel + 1) * c]);
        }
    }
    out
}

pub fn slice(x: &Arg, start: usize, len: usize) -> Vec<f64> {
    x.data.chunks_exact(x.channels()).flat_map(|pixel| pixel[start..start + len].to_vec()).collect()
}

pub fn pad(g: &Arg, start: usize, total: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for pixel in g.data.chunks_exact(g.channels()) {
        out.extend(vec![0.0; start]);
        out.extend_from_slice(pixel);
        out.extend(vec![0.0; total - start - pixel.len()]);
    }
    out
}

pub fn subsample(x: &Arg, stride: usize, before: usize, after: usize) -> Vec<f64> {
    let (h, w, c) = x.shape.hwc();
    let mut out = Vec::new();
    for n in 0..x.batch {
        for y in (0..h).step_by(stride) {
            for column in (0..w).step_by(stride) {
                let at = ((n * h + y) * w + column) * c;
                out.extend(vec![0.0; before]);
                out.extend_from_slice(&x.data[at..at + c]);
                out.extend(vec![0.0; after]);
            }
        }
    }
    out
}

pub fn subsample_grad(g: &Arg, stride: usize, [before, after]: [usize; 2], [h, w]: [usize; 2]) -> Vec<f64> {
    let (p, q, total) = g.shape.hwc();
    let c = total - before - after;
    let mut dx = vec![0.0; g.batch * h * w * c];
    for n in 0..g.batch {
        for y in 0..p {
            for x in 0..q {
                for ch in 0..c {
                    let from = ((n * p + y) * q + x) * total + before + ch;
                    dx[((n * h + y * stride) * w + x * stride) * c + ch] = g.data[from];
                }
            }
        }
    }
    dx
}

pub fn flatten(x: &Arg) -> Vec<f64> {
    let (h, w, c) = x.shape.hwc();
    let mut out = Vec::new();
    for image in x.images() {
        for ch in 0..c {
            out.extend((0..h * w).map(|pixel| image[pixel * c + ch]));
        }
    }
    out
}

pub fn unflatten(x: &Arg, [h, w, c]: [usize; 3]) -> Vec<f64> {
    let mut out = Vec::new();
    for image in x.images() {
        for pixel in 0..h * w {
            out.extend((0..c).map(|ch| image[ch * h * w + pixel]));
        }
    }
    out
}

pub fn window(x: &Arg, from: [isize; 2], hw: [usize; 2], fill: f32) -> Vec<f64> {
    let (h, w, c) = x.shape.hwc();
    let mut out = Vec::new();
    for image in x.images() {
        for (i, j) in (0..hw[0] * hw[1]).map(|at| ((at / hw[1]) as isize + from[0], (at % hw[1]) as isize + from[1])) {
            let inside = (0..h as isize).contains(&i) && (0..w as isize).contains(&j);
            out.extend((0..c).map(|ch| if inside { image[(i as usize * w + j as usize) * c + ch] } else { f64::from(fill) }));
        }
    }
    out
}
