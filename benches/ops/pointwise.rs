//! Element-wise ops where they stand alone; in networks most of them ride on a convolution.
//! Must not know how they are computed.

use petard::graph::Op;

use crate::cards::Site;

/// `pointwise.relu` (with its mask) and `n64.32x32.c64`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let name = match site.op() {
        Op::Normalise { .. } => "pointwise.normalise",
        Op::NormaliseGrad { .. } => "pointwise.normalise-grad",
        Op::AddBias => "pointwise.add-bias",
        Op::Relu { .. } => "pointwise.relu",
        Op::Gate => "pointwise.gate",
        Op::Add => "pointwise.add",
        Op::Scale { .. } => "pointwise.scale",
        _ => return None,
    };
    site.input(0).batched.then(|| (name, site.text(site.input(0))))
}
