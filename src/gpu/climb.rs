//! Lowers losses against given logits, Adam, and starts close to the image. Must not know networks or attacks.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::Op;
use crate::plan::Step;
use crate::tensor::DType;

/// Threads of a block, as in `kernels/climb.cu`.
const FLAT: usize = 256;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let (n, elems) = (cx.n(), cx.graph().shape(step.inputs[0]).elems());
    let mut args = vec![cx.at(step.output)];
    for &v in &step.inputs {
        args.push(if cx.graph().node(v).dtype == DType::F32 { cx.in_storage(v, DType::F32) } else { cx.at(v) });
    }
    let int = |v: usize| Operand::I32(i32::try_from(v).expect("an image has fewer than 2^31 elements"));
    let (entry, blocks) = match op {
        Op::Kl | Op::KlGrad => {
            args.extend([elems, n].map(int));
            (if *op == Op::Kl { "climb_kl" } else { "climb_kl_grad" }, n.div_ceil(FLAT / 32))
        }
        Op::Moment { square, keep } => {
            let parts = elems.div_ceil(FLAT);
            args.extend([Operand::F32(*keep), Operand::I32(i32::from(*square)), int(elems), int(parts)]);
            ("climb_moment", n * parts)
        }
        Op::AdamStep { keep } => {
            let parts = elems.div_ceil(FLAT);
            args.extend([Operand::F32(keep[0]), Operand::F32(keep[1]), int(elems), int(parts)]);
            ("climb_adam", n * parts)
        }
        Op::Shake => {
            let [h, w, c] = cx.hwc(step.output);
            let parts = elems.div_ceil(FLAT * 4);
            args.extend([h * w, c, parts].map(int));
            ("climb_shake", n * parts)
        }
        other => unreachable!("{other:?} is no op of this stem"),
    };
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    let dims = Dims::linear(u32::try_from(blocks).expect("fewer than 2^32 blocks"), FLAT as u32);
    cx.emit(KernelSpec::new("climb", entry), dims, args, Work { flops: 0, bytes });
}
