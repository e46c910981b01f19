//! Lowers the fused step of an attack, and its random start. Must not know networks or losses.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::StartKind;
use crate::plan::Step;
use crate::tensor::DType;
use crate::threat::Norm;

/// Threads of a block that takes a part of an image, as in `kernels/pgd.cu`.
const FLAT: usize = 256;
/// Elements of an image from which on a block that owns one is as large as can be.
const LARGE: usize = 4096;
/// Elements that a thread takes where rows of whole vectors allow it.
const VEC: usize = 4;

/// The random start of an attack, with the bits of the host's generator.
pub(super) fn start(cx: &mut Lower, step: &Step, kind: StartKind) {
    let [h, w, c] = cx.hwc(step.output);
    let (n, elems) = (cx.n(), h * w * c);
    let mut args = vec![cx.at(step.output)];
    args.extend(step.inputs.iter().map(|&v| cx.at(v)));
    args.extend([h * w, c].map(|v| Operand::I32(i32::try_from(v).expect("an image has fewer than 2^31 elements"))));
    let (entry, dims) = match kind {
        StartKind::Ball(Norm::L2) => ("pgd_start_l2", owned(n, elems)),
        StartKind::Ball(Norm::L1) => ("pgd_start_l1", owned(n, elems)),
        StartKind::Boundary(Norm::Linf) => ("pgd_start_edge_linf", owned(n, elems)),
        StartKind::Boundary(Norm::L2) => ("pgd_start_edge_l2", owned(n, elems)),
        StartKind::Boundary(Norm::L1) => ("pgd_start_noise", owned(n, elems)),
        StartKind::Ball(Norm::Linf) | StartKind::Sign | StartKind::Normal => {
            let (dims, parts) = flat(n, elems, 4);
            args.push(parts);
            let entry = match kind {
                StartKind::Sign => "pgd_start_sign",
                StartKind::Normal => "pgd_start_normal",
                StartKind::Ball(_) | StartKind::Boundary(_) => "pgd_start_linf",
            };
            (entry, dims)
        }
    };
    cx.emit(spec(entry, elems), dims, args, Work { flops: 0, bytes: 2 * cx.bytes(step.output) });
}

/// A point on the line through two images.
pub(super) fn between(cx: &mut Lower, step: &Step) {
    let elems = cx.graph().shape(step.output).elems();
    let mut args = vec![cx.at(step.output)];
    args.extend(step.inputs.iter().map(|&v| cx.in_storage(v, DType::F32)).collect::<Vec<_>>());
    let (dims, parts) = flat(cx.n(), elems, vector(elems));
    args.extend([Operand::I32(i32::try_from(elems).expect("an image has fewer than 2^31 elements")), parts]);
    cx.emit(spec("pgd_between", elems), dims, args, Work { flops: 0, bytes: 3 * cx.bytes(step.output) });
}

pub(super) fn lower(cx: &mut Lower, step: &Step, norm: Norm) {
    let x = step.inputs[0];
    let elems = cx.graph().shape(x).elems();
    let inputs: Vec<Operand> = step.inputs.iter().map(|&v| cx.in_storage(v, DType::F32)).collect();
    let mut args = vec![cx.at(step.output)];
    args.extend(inputs);
    args.push(Operand::I32(i32::try_from(elems).expect("an image has fewer than 2^31 elements")));
    let (entry, dims) = match norm {
        Norm::Linf => {
            let (dims, parts) = flat(cx.n(), elems, vector(elems));
            args.push(parts);
            ("pgd_linf", dims)
        }
        Norm::L2 => ("pgd_l2", owned(cx.n(), elems)),
        Norm::L1 => ("pgd_l1", owned(cx.n(), elems)),
    };
    let work = Work { flops: 0, bytes: 4 * cx.bytes(step.output) };
    cx.emit(spec(entry, elems), dims, args, work);
}

fn spec(entry: &'static str, elems: usize) -> KernelSpec {
    KernelSpec::new("pgd", entry).with("P_VEC", vector(elems) as i64).with("P_THREADS", threads(elems) as i64)
}

pub(super) fn vector(elems: usize) -> usize {
    if elems.is_multiple_of(VEC) { VEC } else { 1 }
}

/// Threads of a block that owns an image.
pub(super) fn threads(elems: usize) -> usize {
    if elems < LARGE { FLAT } else { 1024 }
}

/// Blocks that each own an image.
pub(super) fn owned(n: usize, elems: usize) -> Dims {
    Dims::linear(n as u32, threads(elems) as u32)
}

/// Blocks that each take a part of an image, `each` elements a thread; and the number of parts.
pub(super) fn flat(n: usize, elems: usize, each: usize) -> (Dims, Operand) {
    let parts = elems.div_ceil(FLAT * each);
    let blocks = u32::try_from(n * parts).expect("fewer than 2^32 blocks");
    (Dims::linear(blocks, FLAT as u32), Operand::I32(parts as i32))
}
