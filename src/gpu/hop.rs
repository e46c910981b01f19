//! Lowers HopSkipJump's ops: distances, its state, the sums of an estimate, the next query. Must not know networks.

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
    let int = |v: usize| Operand::I32(i32::try_from(v).expect("an image has fewer than 2^31 elements"));
    // The image whose blocks these are.
    let image = if *op == Op::HopGather { step.inputs[1] } else { step.inputs[0] };
    let elems = cx.graph().shape(image).elems();
    let threads = if elems < LARGE { FLAT } else { 1024 };
    let owned = Dims::linear(n as u32, threads as u32);
    let flag = |norm: Norm| int(usize::from(norm == Norm::Linf));
    let (entry, dims) = match op {
        Op::HopDistance { norm } => {
            let kind = [Norm::Linf, Norm::L2, Norm::L1].iter().position(|n| n == norm).expect("one of three");
            args.extend([int(kind), int(elems)]);
            ("hop_distance", owned)
        }
        Op::HopControl(rules) => {
            args.extend([flag(rules.norm), int(rules.halvings()), int(rules.rounds), int(rules.queries)]);
            args.extend([Operand::F32(rules.radius()), int(n)]);
            ("hop_control", Dims::linear(n.div_ceil(FLAT) as u32, FLAT as u32))
        }
        Op::HopGather => {
            args.push(int(elems));
            ("hop_gather", owned)
        }
        Op::HopQuery { norm } => {
            args.extend([flag(*norm), int(elems)]);
            ("hop_query", owned)
        }
        other => unreachable!("{other:?} is none of HopSkipJump's"),
    };
    // Most rows read two images and write one.
    let bytes = if matches!(op, Op::HopControl(_)) { 2 * cx.bytes(image) } else { 3 * cx.bytes(image) };
    let spec = KernelSpec::new("hop", entry).with("P_THREADS", threads as i64);
    cx.emit(spec, dims, args, Work { flops: 0, bytes });
}
