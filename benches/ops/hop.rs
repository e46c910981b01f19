//! The ops of HopSkipJump that are defined without random numbers: distances and the sums of an estimate.
//! Must not know how they are computed.

use petard::graph::Op;

use crate::cards::Site;

/// `hop.distance` and `n64.32x32.c3`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    match site.op() {
        Op::HopDistance { .. } => Some(("hop.distance", site.text(site.input(0)))),
        Op::HopGather => Some(("hop.gather", site.text(site.input(1)))),
        _ => None,
    }
}
