//! Lowers the parts of FAB and DeepFool. Must not know networks or losses.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::Plane;
use crate::plan::Step;
use crate::tensor::DType;
use crate::threat::Norm;

/// Threads of a block that takes a part of an image or some rows, as in `kernels/hyperplane.cu`.
const FLAT: usize = 256;
/// Elements of an image from which on a block that owns one is as large as can be.
const LARGE: usize = 4096;
/// Elements that a thread takes at once where rows of whole vectors allow it.
const VEC: usize = 4;

pub(super) fn lower(cx: &mut Lower, step: &Step, plane: Plane) {
    let inputs: Vec<Operand> =
        step.inputs.iter().map(|&v| if is_f32(cx, v) { cx.in_storage(v, DType::F32) } else { cx.at(v) }).collect();
    let (n, out) = (cx.n(), cx.at(step.output));
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    // Of the image, where there is one.
    let elems = step.inputs.iter().map(|&v| cx.graph().shape(v).elems()).max().expect("every op here reads something");
    let size = Operand::I32(i32::try_from(elems).expect("an image has fewer than 2^31 elements"));
    let made = |norm, entry| spec(entry, norm, elems);
    let owned = Dims::linear(n as u32, threads(elems) as u32);
    let (spec, dims, args) = match plane {
        Plane::Rival { place } => {
            let sizes = [place, elems, n].map(|v| Operand::I32(i32::try_from(v).expect("classes and images are few")));
            let spec = KernelSpec::new("hyperplane", "hyperplane_rival").with("P_NORM", 0).with("P_VEC", 1);
            let dims = Dims::linear(n.div_ceil(FLAT / 32) as u32, FLAT as u32);
            (spec.with("P_THREADS", FLAT as i64), dims, [inputs, vec![out], sizes.to_vec()].concat())
        }
        Plane::Distance { norm } => (made(norm, "hyperplane_distance"), owned, [inputs, vec![out, size]].concat()),
        Plane::Start { norm } => {
            let [h, w, c] = cx.hwc(step.output);
            assert!(h * w * c < 1 << 18, "{} elements overflow the sum", h * w * c);
            let sizes = vec![Operand::I32((h * w) as i32), Operand::I32(c as i32)];
            (made(norm, "hyperplane_start"), owned, [vec![out], inputs, sizes].concat())
        }
        Plane::FabStep { norm, eta, alpha_max } => {
            let numbers = vec![Operand::F32(eta), Operand::F32(alpha_max), size];
            (made(norm, "hyperplane_fab"), owned, [vec![out], inputs, numbers].concat())
        }
        Plane::DeepFoolStep { norm, overshoot, push } => {
            let numbers = vec![Operand::F32(overshoot), Operand::F32(push), size];
            (made(norm, "hyperplane_deepfool"), owned, [vec![out], inputs, numbers].concat())
        }
        Plane::Nearer { norm } => (made(norm, "hyperplane_nearer"), owned, [inputs, vec![out, size]].concat()),
        Plane::Back { beta } => {
            let parts = elems.div_ceil(FLAT * vector(elems));
            let dims = Dims::linear(u32::try_from(n * parts).expect("fewer than 2^32 blocks"), FLAT as u32);
            let numbers = vec![Operand::F32(beta), size, Operand::I32(parts as i32)];
            (made(Norm::Linf, "hyperplane_back"), dims, [vec![out], inputs, numbers].concat())
        }
    };
    cx.emit(spec, dims, args, Work { flops: 0, bytes });
}

fn is_f32(cx: &Lower, v: crate::graph::Value) -> bool {
    cx.graph().node(v).dtype == DType::F32
}

fn spec(entry: &'static str, norm: Norm, elems: usize) -> KernelSpec {
    let norm = match norm {
        Norm::Linf => 0,
        Norm::L2 => 1,
        Norm::L1 => 2,
    };
    let spec = KernelSpec::new("hyperplane", entry).with("P_NORM", norm).with("P_VEC", vector(elems) as i64);
    spec.with("P_THREADS", threads(elems) as i64)
}

fn vector(elems: usize) -> usize {
    if elems.is_multiple_of(VEC) { VEC } else { 1 }
}

/// Threads of a block that owns an image.
fn threads(elems: usize) -> usize {
    if elems < LARGE { FLAT } else { 1024 }
}
