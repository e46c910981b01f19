//! Pooling windows: one list of places, walked for the maximum, the average and both gradients.
//! Must not know the fast ways to do it.

use petard::graph::Pool;

use super::Arg;

/// One place of a window that lies on the image.
struct Place {
    /// Index of the window in the output.
    output: usize,
    /// Index of the place in the input.
    input: usize,
    /// Position in the window, row-major.
    position: usize,
    /// What an average over this window divides by.
    divisor: usize,
}

/// Every place of every window in order of window, then position.
fn each_place(pool: &Pool, batch: usize, [h, w, c]: [usize; 3], mut f: impl FnMut(Place)) {
    let (p, q) = pool.out_hw(h, w);
    for n in 0..batch {
        for oy in 0..p {
            for ox in 0..q {
                let divisor = divisor(pool, [h, w], [oy, ox]);
                for ch in 0..c {
                    for r in 0..pool.kernel[0] {
                        for s in 0..pool.kernel[1] {
                            let y = (oy * pool.stride[0] + r).checked_sub(pool.pad[0]).filter(|&y| y < h);
                            let x = (ox * pool.stride[1] + s).checked_sub(pool.pad[1]).filter(|&x| x < w);
                            let (Some(y), Some(x)) = (y, x) else { continue };
                            f(Place {
                                output: ((n * p + oy) * q + ox) * c + ch,
                                input: ((n * h + y) * w + x) * c + ch,
                                position: r * pool.kernel[1] + s,
                                divisor,
                            });
                        }
                    }
                }
            }
        }
    }
}

/// PyTorch's rule: places on the image, with `count_pad` also those in the padding, never those behind it.
fn divisor(pool: &Pool, size: [usize; 2], window: [usize; 2]) -> usize {
    let along = |d: usize| {
        let first = window[d] * pool.stride[d];
        let places = first..first + pool.kernel[d];
        let (from, to) = if pool.count_pad { (0, size[d] + 2 * pool.pad[d]) } else { (pool.pad[d], size[d] + pool.pad[d]) };
        places.filter(|at| (from..to).contains(at)).count()
    };
    along(0) * along(1)
}

/// Value and position of the winner of each window: the first of equals, a NaN over all.
pub fn max(pool: &Pool, x: &Arg) -> Vec<(f64, usize)> {
    let (h, w, c) = x.shape.hwc();
    let (p, q) = pool.out_hw(h, w);
    let mut best: Vec<Option<(f64, usize)>> = vec![None; x.batch * p * q * c];
    each_place(pool, x.batch, [h, w, c], |place| {
        let v = x.data[place.input];
        let wins = best[place.output].is_none_or(|(b, _)| v > b || (v.is_nan() && !b.is_nan()));
        if wins {
            best[place.output] = Some((v, place.position));
        }
    });
    best.into_iter().map(|b| b.expect("every window touches the image")).collect()
}

pub fn max_grad(pool: &Pool, [h, w]: [usize; 2], g: &Arg, index: &Arg) -> Vec<f64> {
    let c = g.channels();
    let mut dx = vec![0.0; g.batch * h * w * c];
    each_place(pool, g.batch, [h, w, c], |place| {
        if index.data[place.output] == place.position as f64 {
            dx[place.input] += g.data[place.output];
        }
    });
    dx
}

pub fn avg(pool: &Pool, x: &Arg) -> Vec<f64> {
    let (h, w, c) = x.shape.hwc();
    let (p, q) = pool.out_hw(h, w);
    let mut y = vec![0.0; x.batch * p * q * c];
    each_place(pool, x.batch, [h, w, c], |place| y[place.output] += x.data[place.input] / place.divisor as f64);
    y
}

pub fn avg_grad(pool: &Pool, [h, w]: [usize; 2], g: &Arg) -> Vec<f64> {
    let c = g.channels();
    let mut dx = vec![0.0; g.batch * h * w * c];
    each_place(pool, g.batch, [h, w, c], |place| dx[place.input] += g.data[place.output] / place.divisor as f64);
    dx
}

pub fn global(x: &Arg) -> Vec<f64> {
    let (h, w, c) = x.shape.hwc();
    let mut y = vec![0.0; x.batch * c];
    for (i, v) in x.data.iter().enumerate() {
        y[i / (h * w * c) * c + i % c] += v / (h * w) as f64;
    }
    y
}

pub fn global_grad(g: &Arg, [h, w]: [usize; 2]) -> Vec<f64> {
    let c = g.channels();
    (0..g.batch * h * w * c).map(|i| g.data[i / (h * w * c) * c + i % c] / (h * w) as f64).collect()
}
