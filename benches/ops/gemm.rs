//! Linear layers: forward, gradient of the input, gradient of the weights.
//! Must not know how they are computed.

use petard::graph::Op;

use crate::cards::Site;

/// `gemm.linear` and `n64.c512.k10`: images, inputs and outputs of the layer.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let last = |i: usize| site.input(i).dims[site.input(i).dims.len() - 1];
    let (name, c, k) = match site.op() {
        Op::Linear => ("gemm.linear", last(0), site.input(1).dims[0]),
        Op::LinearGradInput => ("gemm.dgrad", last(1), last(0)),
        Op::LinearGradWeight => ("gemm.wgrad", last(0), last(1)),
        _ => return None,
    };
    Some((name, format!("n{}.c{c}.k{k}", site.batch)))
}
