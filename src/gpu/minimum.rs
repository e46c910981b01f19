//! Lowers the steps of DDN and FMN. Must not know networks or losses.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::{Follow, Nearest};
use crate::plan::Step;
use crate::tensor::DType;
use crate::threat::{Distance, Norm};

/// Elements of an image from which on the block that owns it is as large as can be.
const LARGE: usize = 4096;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: Nearest) {
    let image = step.inputs[1];
    let [h, w, c] = cx.hwc(image);
    let threads = if h * w * c < LARGE { 256 } else { 1024 };
    let whole = |v: usize| Operand::I32(i32::try_from(v).expect("an image has fewer than 2^31 elements"));
    let mut args = vec![cx.at(step.output)];
    for &v in &step.inputs {
        let floats = cx.graph().node(v).dtype == DType::F32;
        let operand = if floats { cx.in_storage(v, DType::F32) } else { cx.at(v) };
        args.push(operand);
    }
    let (entry, follow) = match op {
        Nearest::Follow(f) => {
            let classes = cx.graph().shape(step.inputs[5]).elems();
            args.extend([Operand::F32(f.rate), Operand::F32(f.gamma), whole(f.steps), whole(h * w * c), whole(classes)]);
            ("minimum_next", f)
        }
        Nearest::FollowStep(f) => {
            args.extend([whole(h * w), whole(c)]);
            ("minimum_step", f)
        }
        other => unreachable!("{other:?} is of another stem"),
    };
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    let spec = KernelSpec::new("minimum", entry).with("P_KIND", kind(&follow)).with("P_THREADS", threads as i64);
    cx.emit(spec, Dims::linear(cx.n() as u32, threads as u32), args, Work { flops: 0, bytes });
}

/// The kernel's number of an attack.
fn kind(follow: &Follow) -> i64 {
    match follow.distance {
        _ if follow.decoupled => 0,
        Distance::Norm(Norm::Linf) => 1,
        Distance::Norm(Norm::L2) => 2,
        Distance::Norm(Norm::L1) => 3,
        Distance::L0 => 4,
    }
}
