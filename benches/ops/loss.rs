//! Losses on logits, their gradients, and whether an image is fooled.
//! Must not know how they are computed.

use petard::graph::{Loss, Op};

use crate::cards::Site;

/// `loss.ce` and `n64.c10`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let name = match site.op() {
        Op::Loss(Loss::CrossEntropy { .. }) => "loss.ce",
        Op::LossGrad(Loss::CrossEntropy { .. }) => "loss.ce-grad",
        Op::Loss(Loss::Margin) => "loss.margin",
        Op::LossGrad(Loss::Margin) => "loss.margin-grad",
        Op::Loss(Loss::Dlr) => "loss.dlr",
        Op::LossGrad(Loss::Dlr) => "loss.dlr-grad",
        Op::Fooled { .. } => "loss.fooled",
        _ => return None,
    };
    Some((name, site.text(site.input(0))))
}
