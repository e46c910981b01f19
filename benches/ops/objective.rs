//! Losses that train on two forms of an image or on soft targets. Must not know how they are computed.

use petard::graph::{Objective, Op};

use crate::cards::Site;

/// `objective.kl` and `n64.c10`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let name = match site.op() {
        Op::Objective(Objective::Kl) => "objective.kl",
        Op::ObjectiveGrad { of: Objective::Kl, .. } => "objective.kl-grad",
        Op::ObjectiveGrad { of: Objective::Mart { .. }, by: 1 } => "objective.mart-grad",
        _ => return None,
    };
    Some((name, site.text(site.input(0))))
}
