//! Lowers the losses that train on two forms of an image, on soft targets, or focal. Must not know recipes.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::{Objective, Op};
use crate::plan::Step;
use crate::tensor::DType;

/// Most classes that a warp takes by itself; more are a block's.
const WARP_CLASSES: usize = 1024;
/// Threads of a block at least, as in `kernels/objective.cu`.
const THREADS: usize = 128;
/// Threads of a block that has an image for itself.
const LARGE: usize = 256;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let (of, by) = match *op {
        Op::Objective(of) => (of, None),
        Op::ObjectiveGrad { of, by } => (of, Some(by)),
        ref other => unreachable!("{other:?} is no objective"),
    };
    let (z, pair) = (step.inputs[0], usize::from(of.reads_pair()));
    let classes = cx.graph().shape(z).elems();
    assert!(classes >= 2, "{of:?} needs 2 classes, the network has {classes}");
    let team = if classes <= WARP_CLASSES { 32 } else { LARGE };
    let (first, second) = (cx.in_storage(z, DType::F32), cx.in_storage(step.inputs[pair], DType::F32));
    let (kind, amount) = numbered(of);
    // An objective without a label still reads one, whose value has no say.
    let label = if of.reads_label() { cx.at(step.inputs[1 + pair]) } else { cx.table(&vec![0; 4 * cx.n()]) };
    let mut args = vec![first, second, label, cx.at(step.output), Operand::I32(kind), Operand::F32(amount)];
    args.extend(by.map(|by| Operand::I32(by as i32)));
    args.extend([classes, cx.n()].map(|v| Operand::I32(v as i32)));
    let images = THREADS.max(team) / team;
    let dims = Dims::linear(cx.n().div_ceil(images) as u32, (images * team) as u32);
    let work = Work { flops: 0, bytes: (1 + pair as u64) * cx.bytes(z) + cx.bytes(step.output) };
    let entry = if by.is_some() { "objective_grad" } else { "objective_value" };
    cx.emit(KernelSpec::new("objective", entry).with("P_TEAM", team as i64), dims, args, work);
}

/// The kernel's number of an objective, and its weight or gamma.
fn numbered(of: Objective) -> (i32, f32) {
    match of {
        Objective::Kl => (0, 0.0),
        Objective::Mart { weight } => (1, weight),
        Objective::Squared => (2, 0.0),
        Objective::Soft => (3, 0.0),
        Objective::Focal { gamma } => (4, gamma),
        Objective::SigmoidFocal { gamma } => (5, gamma),
        Objective::SoftMargin => (6, 0.0),
    }
}
