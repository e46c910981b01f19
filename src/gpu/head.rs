//! Lowers what classifiers on a sphere are made of: unit rows, scales and margins by class, weights by image.
//! Must not know networks.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::Op;
use crate::plan::Step;
use crate::tensor::DType;

/// Threads of every block, as in `kernels/head.cu`.
const THREADS: usize = 256;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let inputs: Vec<Operand> = step
        .inputs
        .iter()
        .map(|&v| if cx.graph().node(v).dtype == DType::F32 { cx.in_storage(v, DType::F32) } else { cx.at(v) })
        .collect();
    // The array whose rows or elements are taken; what it is scaled by may come after it.
    let array = match op {
        Op::RowScalesGrad { .. } => step.inputs[1],
        _ => step.inputs[0],
    };
    let (elems, len) = (cx.len(array), if *op == Op::ScaleRows { cx.graph().shape(array).elems() } else { cx.channels(array) });
    let int = |v: usize| Operand::I32(i32::try_from(v).expect("a row has fewer than 2^31 elements"));
    let (entry, blocks, last) = match *op {
        Op::UnitRows { gamma } => ("head_unit", elems / len, [Operand::F32(gamma), int(len)]),
        Op::UnitRowsGrad { gamma } => ("head_unit_grad", elems / len, [Operand::F32(gamma), int(len)]),
        Op::RowScales { gamma } => ("head_scales", elems / len, [Operand::F32(gamma), int(len)]),
        Op::RowScalesGrad { gamma } => ("head_scales_grad", elems / len, [Operand::F32(gamma), int(len)]),
        Op::ScaleChannels => ("head_channels", elems.div_ceil(THREADS), [int(len), Operand::I64(elems as i64)]),
        Op::ScaleRows => ("head_rows", elems.div_ceil(THREADS), [int(len), Operand::I64(elems as i64)]),
        Op::ClassMargins => ("head_margins", elems.div_ceil(THREADS), [int(len), Operand::I64(elems as i64)]),
        Op::ProductChannels => ("head_product", len, [int(len), Operand::I64((elems / len) as i64)]),
        ref other => unreachable!("{other:?} belongs to no head"),
    };
    let mut args = inputs;
    args.push(cx.at(step.output));
    args.extend(last);
    let dims = Dims::linear(u32::try_from(blocks).expect("fewer than 2^32 blocks"), THREADS as u32);
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    cx.emit(KernelSpec::new("head", entry), dims, args, Work { flops: 0, bytes });
}
