//! The attack's own ops: the projected step in each norm, and the look at the gradient.
//! Must not know how they are computed.

use petard::graph::apgd::at;
use petard::graph::{ApgdRule, Op};
use petard::threat::Norm;

use crate::cards::Site;
use crate::meter::Draw;

/// `pgd.linf` and `n64.32x32.c3`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let name = match site.op() {
        Op::PgdStep { norm: Norm::Linf } => "pgd.linf",
        Op::PgdStep { norm: Norm::L2 } => "pgd.l2",
        Op::PgdStep { norm: Norm::L1 } => "pgd.l1",
        Op::ApgdMove { norm: Norm::Linf } => "apgd.linf",
        Op::ApgdMove { norm: Norm::L2 } => "apgd.l2",
        Op::ApgdMove { norm: Norm::L1 } => "apgd.l1",
        Op::GradStatus => "pgd.grad-status",
        _ => return None,
    };
    Some((name, site.text(site.input(0))))
}

/// Input `i` of a move of APGD, `count` numbers: images in [0,1], a gradient, a state of so many numbers an image.
pub fn apgd(norm: Norm, i: usize, count: usize, draw: &mut Draw) -> Vec<f32> {
    let mut row = [0.0; ApgdRule::STATE];
    (row[at::RADIUS], row[at::STEP], row[at::MOMENTUM], row[at::TOP]) =
        (norm.default_eps() as f32, norm.default_alpha() as f32, 0.25, 0.2);
    match i {
        2 => (0..count).map(|_| draw.centred()).collect(),
        3 => row.repeat(count / row.len()),
        _ => (0..count).map(|_| draw.unit()).collect(),
    }
}

/// One number of input `i` of a step in `norm`: images in [0,1], a gradient, step size and radius.
pub fn number(norm: Norm, i: usize, draw: &mut Draw) -> f32 {
    match i {
        0 | 1 => draw.unit(),
        2 => draw.centred(),
        3 => norm.default_alpha() as f32,
        _ => norm.default_eps() as f32,
    }
}
