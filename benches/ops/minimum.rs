//! The steps of DDN and FMN. Must not know how they are computed.

use petard::graph::{Follow, Nearest, Op};
use petard::threat::{Distance, Norm};

use crate::cards::Site;

/// `minimum.next.l2` or `minimum.step.l2`, and `n64.32x32.c3`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let named = |follow: &Follow, names: [&'static str; 4]| match follow.distance {
        Distance::L0 => names[0],
        Distance::Norm(Norm::L1) => names[1],
        Distance::Norm(Norm::L2) => names[2],
        Distance::Norm(Norm::Linf) => names[3],
    };
    let next = ["minimum.next.l0", "minimum.next.l1", "minimum.next.l2", "minimum.next.linf"];
    let step = ["minimum.step.l0", "minimum.step.l1", "minimum.step.l2", "minimum.step.linf"];
    match site.op() {
        Op::Nearest(Nearest::Follow(f)) => Some((named(f, next), site.text(site.input(1)))),
        Op::Nearest(Nearest::FollowStep(f)) => Some((named(f, step), site.text(site.input(0)))),
        _ => None,
    }
}
