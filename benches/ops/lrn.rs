//! Local response normalisation and its gradient.
//! Must not know how they are computed.

use petard::graph::Op;

use crate::cards::Site;

/// `lrn.forward` and `n64.55x55.c96.s5`: the values and the channels of a sum.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let (name, norm) = match site.op() {
        Op::ResponseNorm(norm) => ("lrn.forward", norm),
        Op::ResponseNormGrad(norm) => ("lrn.grad", norm),
        _ => return None,
    };
    Some((name, format!("{}.s{}", site.text(site.input(0)), norm.size)))
}
