//! Batch norm with running and with batch statistics, and the sums over channels that its gradients are made of.
//! Must not know how they are computed.

use petard::graph::Op;

use crate::cards::Site;

/// `norm.train` and `n64.32x32.c64`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let name = match site.op() {
        Op::BatchNorm { .. } => "norm.eval",
        Op::BatchNormGrad { .. } => "norm.eval-grad",
        Op::BatchStats => "norm.stats",
        Op::BatchNormTrain { .. } => "norm.train",
        Op::BatchNormTrainGradParams { .. } => "norm.train-grad-params",
        Op::BatchNormTrainGrad { .. } => "norm.train-grad",
        Op::SumChannels => "norm.sum-channels",
        _ => return None,
    };
    Some((name, site.text(site.input(0))))
}
