//! Pooling and its gradients.
//! Must not know how they are computed.

use petard::graph::{Op, Pool};

use crate::cards::Site;
use crate::meter::Draw;

/// `pool.max` and `n64.32x32.c64.r2.s2`: the larger side, window and stride.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let window = |p: &Pool| format!(".r{}.s{}", p.kernel[0], p.stride[0]);
    let large = site.graph.shape(site.value);
    let small = || site.text(site.input(0));
    Some(match site.op() {
        Op::MaxPool(p) => ("pool.max", small() + &window(p)),
        Op::AvgPool(p) => ("pool.avg", small() + &window(p)),
        Op::GlobalAvgPool => ("pool.global", small()),
        Op::MaxPoolGrad { pool, .. } => ("pool.max-grad", site.text(large) + &window(pool)),
        Op::AvgPoolGrad { pool, .. } => ("pool.avg-grad", site.text(large) + &window(pool)),
        Op::GlobalAvgPoolGrad { .. } => ("pool.global-grad", site.text(large)),
        _ => return None,
    })
}

/// Winners for `images` of `[p, q, channels]` windows over an input of `hw`: any place of the window inside the input.
pub fn winners(pool: &Pool, hw: [usize; 2], [p, q, channels]: [usize; 3], images: usize, draw: &mut Draw) -> Vec<f32> {
    let inside = |d: usize, window: usize, place: usize| {
        (window * pool.stride[d] + place).checked_sub(pool.pad[d]).is_some_and(|at| at < hw[d])
    };
    let mut out = Vec::with_capacity(images * p * q * channels);
    for _ in 0..images {
        for (oy, ox) in (0..p * q).map(|i| (i / q, i % q)) {
            let places = 0..pool.kernel[0] * pool.kernel[1];
            let (rows, k) = (pool.kernel[1], |i: usize| i as f32);
            let valid: Vec<f32> = places.filter(|i| inside(0, oy, i / rows) && inside(1, ox, i % rows)).map(k).collect();
            out.extend((0..channels).map(|_| valid[draw.below(valid.len())]));
        }
    }
    out
}
