//! Ops that only move values to other places.
//! Must not know how they are computed.

use petard::graph::Op;

use crate::cards::Site;

/// `layout.flatten` and `n64.7x7.c512`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let name = match site.op() {
        Op::Flatten => "layout.flatten",
        Op::Unflatten { .. } => "layout.unflatten",
        Op::Window { .. } => "layout.window",
        Op::Concat => "layout.concat",
        Op::SliceChannels { .. } => "layout.slice-channels",
        Op::PadChannels { .. } => "layout.pad-channels",
        Op::SubsamplePad { .. } => "layout.subsample",
        Op::SubsamplePadGrad { .. } => "layout.subsample-grad",
        _ => return None,
    };
    Some((name, site.text(site.input(0))))
}
