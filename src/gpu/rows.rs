//! Lowers what is one value an image: comparisons, choices between rows, the state of a gradient.
//! Must not know attacks.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::Op;
use crate::plan::Step;
use crate::tensor::DType;

/// Threads of a block at most, as in `kernels/rows.cu`.
const THREADS: usize = 256;
/// Elements that one thread takes.
const VEC: usize = 4;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let n = cx.n();
    let inputs: Vec<Operand> = step.inputs.iter().map(|&v| cx.in_storage(v, DType::F32)).collect();
    let elems = cx.graph().shape(*step.inputs.last().expect("every op here reads something")).elems();
    let (entry, dims, sizes) = match op {
        Op::Greater | Op::MaxRows => {
            let entry = if *op == Op::Greater { "rows_greater" } else { "rows_max" };
            (entry, Dims::linear(n.div_ceil(THREADS) as u32, THREADS as u32), vec![n])
        }
        Op::SelectRows => {
            let block = elems.div_ceil(VEC).next_multiple_of(32).min(THREADS);
            let parts = elems.div_ceil(block * VEC);
            (
                "rows_select",
                Dims::linear(u32::try_from(n * parts).expect("fewer than 2^32 blocks"), block as u32),
                vec![elems, parts],
            )
        }
        Op::Column { index } => ("rows_column", Dims::linear(n.div_ceil(THREADS) as u32, THREADS as u32), vec![*index, elems, n]),
        Op::GradStatus => ("rows_grad_status", Dims::linear(n as u32, THREADS as u32), vec![elems]),
        other => unreachable!("{other:?} is no op on rows"),
    };
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    let mut args = inputs;
    args.push(cx.at(step.output));
    args.extend(sizes.into_iter().map(|v| Operand::I32(i32::try_from(v).expect("an image has fewer than 2^31 elements"))));
    cx.emit(KernelSpec::new("rows", entry), dims, args, Work { flops: 0, bytes });
}
