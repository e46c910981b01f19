//! What attacks compute beside networks, each op sent to its stem.
//! Must not know attacks, only their ops.

use super::super::arena::Views;
use super::super::{apgd, climb, diverse, hop, hyperplane, minimum, momentum, pgd, search, square};
use super::{Context, f32s, in_place};
use crate::graph::{Nearest, Op, Plane};
use crate::plan::Step;
use crate::threat::Norm;

/// Runs an op of an attack.
pub(super) fn run(cx: &Context, step: &Step, op: &Op, views: &mut Views, out: &mut [u8]) {
    let (n, x) = (cx.n, &step.inputs);
    let f = |i: usize| views.f32(x[i]);
    match op {
        Op::Hyperplane(op) => plane(cx, step, *op, views, out),
        Op::ApgdState(rule) => {
            let out = f32s(out);
            if !in_place(views, step, 0) {
                out.copy_from_slice(f(0));
            }
            let images = (rule.norm == Norm::L1).then(|| [f(4), f(5), f(6)]);
            apgd::state(rule, out, &apgd::Seen { loss: f(1), fooled: f(2), eps: f(3), images });
        }
        Op::ApgdMove { norm } => {
            let out = f32s(out);
            if !in_place(views, step, 0) {
                out.copy_from_slice(f(0));
            }
            let old = (*norm != Norm::L1).then(|| f(4));
            apgd::step(*norm, n, out, &apgd::Move { x0: f(1), g: f(2), state: f(3), old });
        }
        Op::SquareStart { .. } | Op::SquareControl | Op::SquareStep { .. } => square::run(cx.graph(), step, op, views, f32s(out)),
        Op::HopDistance { .. } | Op::HopControl(_) | Op::HopGather | Op::HopQuery { .. } => {
            hop::run(step, op, n, views, f32s(out))
        }
        Op::Nearest(op) => nearest(cx, step, *op, views, f32s(out)),
        other => transformed(cx, step, other, views, out),
    }
}

/// Attacks on transformed images.
fn transformed(cx: &Context, step: &Step, op: &Op, views: &mut Views, out: &mut [u8]) {
    let (n, x, out) = (cx.n, &step.inputs, f32s(out));
    let updates = matches!(op, Op::Tick { .. } | Op::Accumulate { .. } | Op::Momentum | Op::Moment { .. } | Op::AdamStep { .. });
    if updates && !in_place(views, step, 0) {
        out.copy_from_slice(views.f32(x[0]));
    }
    let f = |i: usize| views.f32(x[i]);
    let draws = |state: usize| momentum::Draws {
        index: views.i32(x[1]),
        restart: views.i32(x[2]),
        state: f(state),
        seed: views.i32(x[state + 1]),
    };
    match op {
        Op::Tick { copies } => momentum::tick(*copies, out),
        Op::Ahead => momentum::ahead(f(0), f(1), f(2), f(3), out),
        Op::Jitter => momentum::jitter(cx.hwc(x[0]), f(0), f(3), draws(4), out),
        Op::Diversify(diversity) => diverse::diversify(diversity, false, cx.hwc(x[0]), f(0), draws(3), out),
        Op::DiversifyGrad(diversity) => diverse::diversify(diversity, true, cx.hwc(x[0]), f(0), draws(3), out),
        Op::Accumulate { share } => momentum::accumulate(*share, out, f(1), f(2)),
        Op::Blur => momentum::blur(cx.hwc(x[0]), f(0), f(1), out),
        Op::Momentum => momentum::momentum(n, out, f(1), f(2)),
        Op::Kl => climb::kl(f(0), f(1), out),
        Op::KlGrad => climb::kl_grad(cx.channels(x[0]), f(0), f(1), out),
        Op::Moment { square, keep } => climb::moment(*square, *keep, out, f(1)),
        Op::AdamStep { keep } => {
            let with = climb::Adam { x0: f(1), m: f(2), v: f(3), alpha: f(4), eps: f(5), state: f(6), keep: *keep };
            climb::adam(out, &with);
        }
        Op::Shake => {
            let place = pgd::Place { index: views.i32(x[1]), restart: views.i32(x[2]), length: f(3), seed: views.i32(x[4]) };
            climb::shake(cx.hwc(x[0]), f(0), &place, out);
        }
        other => unreachable!("{other:?} is a leaf, a chain or reads packed weights"),
    }
}

/// The parts of FAB and DeepFool.
fn plane(cx: &Context, step: &Step, plane: Plane, views: &mut Views, out: &mut [u8]) {
    let x = &step.inputs;
    let f = |i: usize| views.f32(x[i]);
    if matches!(plane, Plane::FabStep { .. } | Plane::DeepFoolStep { .. } | Plane::Back { .. }) && !in_place(views, step, 0) {
        f32s(out).copy_from_slice(f(0));
    }
    match plane {
        Plane::Rival { place } => {
            hyperplane::rival(place, cx.channels(x[0]), f(0), views.i32(x[1]), bytemuck::cast_slice_mut(out));
        }
        Plane::Distance { norm } => hyperplane::distance(norm, f(0), f(1), f32s(out)),
        Plane::Start { norm } => {
            let lasting = pgd::Place { index: views.i32(x[1]), restart: views.i32(x[2]), length: f(3), seed: views.i32(x[4]) };
            hyperplane::start(norm, cx.hwc(x[0]), f(0), lasting, f32s(out));
        }
        Plane::FabStep { norm, eta, alpha_max } => hyperplane::fab(norm, [eta, alpha_max], f32s(out), f(1), f(2), f(3)),
        Plane::DeepFoolStep { norm, overshoot, push } => {
            hyperplane::deepfool(norm, [overshoot, push], f32s(out), f(1), f(2), f(3));
        }
        Plane::Nearer { norm } => hyperplane::nearer(norm, f(0), f(1), f(2), f(3), f32s(out)),
        Plane::Back { beta } => hyperplane::back(beta, f32s(out), f(1), f(2)),
    }
}

/// Attacks that look for the nearest adversarial image.
fn nearest(cx: &Context, step: &Step, op: Nearest, views: &Views, out: &mut [f32]) {
    let x = &step.inputs;
    let f = |i: usize| views.f32(x[i]);
    if let Some(at) = op.in_place().filter(|&at| !in_place(views, step, at)) {
        out.copy_from_slice(f(at));
    }
    let slope = |first: usize, kappa: f32| {
        let [x, x0, g, margin, state] = [0, 1, 2, 3, 4].map(|i| f(first + i));
        search::Slope { x, x0, g, margin, state, kappa }
    };
    match op {
        Nearest::Search(s) => search::search(&s, search::Sight { x: f(1), x0: f(2), margin: f(3), z: f(4) }, out),
        Nearest::TanhStart { shrink } => search::tanh_start(shrink, f(0), out, f(2)),
        Nearest::TanhImage => search::tanh_image(cx.graph().shape(step.output).elems(), f(0), out),
        Nearest::TanhStep { shrink, kappa } => search::tanh_step(shrink, slope(1, kappa), out),
        Nearest::Shrink { beta, kappa } => search::shrink(beta, slope(0, kappa), out),
        Nearest::Momentum => search::momentum(f(0), f(1), f(2), f(3), out),
        Nearest::Follow(f0) => {
            minimum::follow(&f0, search::Sight { x: f(1), x0: f(2), margin: f(4), z: f(5) }, f(3), out);
        }
        Nearest::FollowStep(f0) => {
            let draw = minimum::Draw { index: views.i32(x[4]), seed: views.i32(x[5]) };
            minimum::step(&f0, cx.hwc(x[1]), out, f(1), f(2), f(3), draw);
        }
    }
}
