//! Lowers the search over the constant before a loss, and its steps. Must not know networks or losses.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::Nearest;
use crate::graph::nearest::Objective;
use crate::plan::Step;
use crate::tensor::DType;

/// Threads of a block that takes a part of an image, as in `kernels/search.cu`.
const FLAT: usize = 256;
/// Elements of an image from which on a block that owns one is as large as can be.
const LARGE: usize = 4096;
/// Elements that a thread takes where rows of whole vectors allow it.
const VEC: usize = 4;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: Nearest) {
    let (entry, image) = match op {
        Nearest::Search(_) => ("search_next", step.inputs[1]),
        Nearest::TanhStart { .. } => ("search_start", step.inputs[2]),
        Nearest::TanhImage => ("search_image", step.output),
        Nearest::TanhStep { .. } => ("search_step", step.inputs[1]),
        Nearest::Shrink { .. } => ("search_shrink", step.output),
        Nearest::Momentum => ("search_momentum", step.output),
        Nearest::Follow(_) | Nearest::FollowStep(_) => unreachable!("{op:?} is of another stem"),
    };
    let (n, elems) = (cx.n(), cx.graph().shape(image).elems());
    let mut args = vec![cx.at(step.output)];
    for &v in &step.inputs {
        let operand = cx.in_storage(v, DType::F32);
        args.push(operand);
    }
    args.extend(numbers(op));
    args.push(Operand::I32(i32::try_from(elems).expect("an image has fewer than 2^31 elements")));
    let vec = if elems.is_multiple_of(VEC) { VEC } else { 1 };
    let owned = matches!(op, Nearest::Search(_));
    let threads = if owned && elems >= LARGE { 1024 } else { FLAT };
    let dims = if owned {
        args.push(Operand::I32(cx.graph().shape(step.inputs[4]).elems() as i32));
        Dims::linear(n as u32, threads as u32)
    } else {
        let parts = elems.div_ceil(FLAT * vec);
        args.push(Operand::I32(parts as i32));
        Dims::linear(u32::try_from(n * parts).expect("fewer than 2^32 blocks"), FLAT as u32)
    };
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    let spec = KernelSpec::new("search", entry).with("P_VEC", vec as i64).with("P_THREADS", threads as i64);
    cx.emit(spec, dims, args, Work { flops: 0, bytes });
}

/// The numbers of an op, in the order of the kernel's arguments.
fn numbers(op: Nearest) -> Vec<Operand> {
    let (whole, real) = (|v: usize| Operand::I32(i32::try_from(v).expect("checked to be small")), Operand::F32);
    match op {
        Nearest::Search(s) => {
            let (kind, weight) = match s.objective {
                Objective::Squared { shrink } => (0, shrink),
                Objective::L1 { beta } => (1, beta),
                Objective::ElasticNet { beta } => (2, beta),
            };
            let abort = whole(usize::from(s.abort));
            vec![whole(kind), real(weight), whole(s.steps), whole(s.rounds), abort, real(s.kappa), real(s.rate)]
        }
        Nearest::TanhStart { shrink } => vec![real(shrink)],
        Nearest::TanhStep { shrink, kappa } => vec![real(shrink), real(kappa)],
        Nearest::Shrink { beta, kappa } => vec![real(beta), real(kappa)],
        _ => Vec::new(),
    }
}
