//! The steps of C&W and EAD. Must not know how they are computed.

use petard::graph::nearest::column;
use petard::graph::{Nearest, Op};

use crate::cards::Site;
use crate::meter::Draw;

/// `search.tanh-step` and `n64.32x32.c3`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let (name, image) = match site.op() {
        Op::Nearest(Nearest::Search(_)) => ("search.next", 1),
        Op::Nearest(Nearest::TanhStep { .. }) => ("search.tanh-step", 1),
        Op::Nearest(Nearest::Shrink { .. }) => ("search.shrink", 0),
        Op::Nearest(Nearest::Momentum) => ("search.momentum", 0),
        _ => return None,
    };
    Some((name, site.text(site.input(image))))
}

/// Whether the op replaces its first input, as it does in the attack.
pub fn in_place(op: &Op) -> bool {
    matches!(op, Op::Nearest(Nearest::Search(_) | Nearest::TanhStep { .. } | Nearest::Follow(_) | Nearest::FollowStep(_)))
}

/// Number `k` of an input of `len` values an image: pixels, slopes, or a state on its way.
pub fn number(op: &Nearest, len: usize, k: usize, draw: &mut Draw) -> f32 {
    let steps = matches!(op, Nearest::TanhStep { .. } | Nearest::Momentum);
    if steps && len == column::COUNT && k % len == column::RESTART { 0.0 } else { 0.25 + 0.5 * draw.unit() }
}
