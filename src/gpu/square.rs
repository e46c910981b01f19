//! Lowers Square's ops: its start, its state, its proposals. Must not know networks or losses.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::Op;
use crate::plan::Step;
use crate::threat::Norm;

/// Threads of a block that takes rows of the state.
const FLAT: usize = 256;
/// Elements of an image from which on a block that owns one is as large as can be.
const LARGE: usize = 4096;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let n = cx.n();
    let mut args = vec![cx.at(step.output)];
    args.extend(step.inputs.iter().map(|&v| cx.at(v)));
    let mut sizes = Vec::new();
    let mut channels = 1;
    let mut elems = 1;
    let image = step.inputs[0];
    if !matches!(op, Op::SquareControl) {
        let [h, w, c] = cx.hwc(image);
        sizes.extend([h, w]);
        (channels, elems) = (c, h * w * c);
    }
    let owned = Dims::linear(n as u32, threads(elems) as u32);
    let rows = |i: usize, cx: &Lower| cx.graph().shape(step.inputs[i]).dims[0];
    // What of a pattern's table belongs to one window.
    let area = |i: usize, cx: &Lower| cx.graph().shape(step.inputs[i]).dims[1];
    let (entry, dims, bytes) = match op {
        Op::SquareControl => {
            sizes.push(n);
            ("square_control", Dims::linear(n.div_ceil(FLAT) as u32, FLAT as u32), 2 * cx.bytes(image))
        }
        Op::SquareStart { norm: Norm::Linf } => ("square_start_linf", owned, 2 * cx.bytes(image)),
        Op::SquareStart { norm } => {
            sizes.extend([rows(5, cx), area(5, cx)]);
            (if *norm == Norm::L1 { "square_start_l1" } else { "square_start_l2" }, owned, 2 * cx.bytes(image))
        }
        Op::SquareStep { norm: Norm::Linf } => {
            sizes.push(rows(8, cx));
            // Two windows; none is larger than the image.
            ("square_step_linf", owned, 4 * cx.bytes(image))
        }
        Op::SquareStep { norm } => {
            sizes.extend([rows(8, cx), area(9, cx)]);
            (if *norm == Norm::L1 { "square_step_l1" } else { "square_step_l2" }, owned, 3 * cx.bytes(image))
        }
        other => unreachable!("{other:?} is none of Square's"),
    };
    args.extend(sizes.into_iter().map(|v| Operand::I32(i32::try_from(v).expect("an image has fewer than 2^31 elements"))));
    let spec = KernelSpec::new("square", entry).with("P_C", channels as i64).with("P_THREADS", threads(elems) as i64);
    cx.emit(spec, dims, args, Work { flops: 0, bytes });
}

/// Threads of a block that owns an image.
fn threads(elems: usize) -> usize {
    if elems < LARGE { FLAT } else { 1024 }
}
