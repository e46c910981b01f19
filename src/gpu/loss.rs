//! Lowers losses on logits, their gradients, and verdicts. Must not know attacks.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::{Loss, Op};
use crate::plan::Step;
use crate::tensor::DType;

/// Most classes that a warp takes by itself; more are a block's.
const WARP_CLASSES: usize = 1024;
/// Threads of a block at least, as in `kernels/loss.cu`.
const THREADS: usize = 128;
/// Threads of a block that has an image for itself.
const LARGE: usize = 256;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let (z, label) = (step.inputs[0], step.inputs[1]);
    let classes = cx.graph().shape(z).elems();
    let team = if classes <= WARP_CLASSES { 32 } else { LARGE };
    let logits = cx.in_storage(z, DType::F32);
    let sizes = [Operand::I32(classes as i32), Operand::I32(cx.n() as i32)];
    let (entry, mut args) = match op {
        Op::Loss(loss) | Op::LossGrad(loss) => {
            let (kind, amount, least) = numbered(*loss);
            assert!(classes >= least, "{loss:?} needs {least} classes, the network has {classes}");
            let target = step.inputs.get(2).copied().unwrap_or(label);
            let args = vec![logits, cx.at(label), cx.at(target), cx.at(step.output), Operand::I32(kind), Operand::F32(amount)];
            (if matches!(op, Op::Loss(_)) { "loss_value" } else { "loss_grad" }, args)
        }
        Op::Fooled { hit } => ("loss_fooled", vec![logits, cx.at(label), cx.at(step.output), Operand::I32(i32::from(*hit))]),
        other => unreachable!("{other:?} is no loss"),
    };
    args.extend(sizes);
    let images = THREADS.max(team) / team;
    let dims = Dims::linear(cx.n().div_ceil(images) as u32, (images * team) as u32);
    let work = Work { flops: 0, bytes: cx.bytes(z) + cx.bytes(step.output) };
    cx.emit(KernelSpec::new("loss", entry).with("P_TEAM", team as i64), dims, args, work);
}

/// The kernel's number of a loss, its smoothing or kappa, and how many classes it needs.
fn numbered(loss: Loss) -> (i32, f32, usize) {
    match loss {
        Loss::CrossEntropy { smoothing } => (0, smoothing, 1),
        Loss::Margin => (1, 0.0, 2),
        Loss::Hinge { kappa } => (2, kappa, 2),
        Loss::Dlr => (3, 0.0, 3),
        Loss::TargetedCrossEntropy => (4, 0.0, 1),
        Loss::TargetedMargin => (5, 0.0, 2),
        Loss::TargetedDifference => (6, 0.0, 2),
        Loss::TargetedDlr => (7, 0.0, 4),
        Loss::Logit => (8, 0.0, 1),
        Loss::TargetedLogit => (9, 0.0, 1),
    }
}
