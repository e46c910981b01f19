//! The change of a weight in adversarial weight perturbation: along its gradient, as long as a share of the weight.
//! Must not know which parameter an array is.
//! Wu et al. 2020, <https://arxiv.org/abs/2004.05884>.

use rayon::prelude::*;

/// Elements that are added up by themselves before all is added: the order does not depend on threads.
const CHUNK: usize = 1 << 14;

/// `gamma * |w| / (|g| + 1e-20) * g`, lengths in f64.
pub(crate) fn perturbation(w: &[f32], g: &[f32], gamma: &[f32], out: &mut [f32]) {
    assert!(gamma.len() == 1 && w.len() == g.len() && g.len() == out.len(), "{} weights, {} gradients", w.len(), g.len());
    let factor = f64::from(gamma[0]) * length(w) / (length(g) + 1e-20);
    out.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(out, g)| {
        out.iter_mut().zip(g).for_each(|(out, &g)| *out = (factor * f64::from(g)) as f32);
    });
}

fn length(x: &[f32]) -> f64 {
    let part = |x: &[f32]| x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    x.par_chunks(CHUNK).map(part).collect::<Vec<f64>>().iter().sum::<f64>().sqrt()
}
