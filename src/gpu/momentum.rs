//! Lowers what attacks with a momentum keep, and the transformations of their images. Must not know networks or losses.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::Op;
use crate::plan::Step;
use crate::tensor::DType;

/// Threads of a block that takes a part of an image, as in `kernels/momentum.cu` and `kernels/diverse.cu`.
const FLAT: usize = 256;
/// Elements of an image from which on a block that owns one is as large as can be.
const LARGE: usize = 4096;
/// Elements that a thread takes where rows of whole vectors allow it.
const VEC: usize = 4;
/// Pixels along the side of a tile of the blur.
const TILE: usize = 16;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let (n, elems) = (cx.n(), cx.graph().shape(step.output).elems());
    let mut args = vec![cx.at(step.output)];
    for &v in &step.inputs {
        args.push(if cx.graph().node(v).dtype == DType::F32 { cx.in_storage(v, DType::F32) } else { cx.at(v) });
    }
    let (spec, dims) = match op {
        Op::Tick { copies } => {
            args.extend([*copies, n].map(int));
            (spec("momentum_tick", elems), Dims::linear(n.div_ceil(FLAT) as u32, FLAT as u32))
        }
        Op::Ahead => flat(spec("momentum_ahead", elems), &mut args, n, elems),
        Op::Accumulate { share } => {
            args.push(Operand::F32(*share));
            flat(spec("momentum_accumulate", elems), &mut args, n, elems)
        }
        Op::Jitter => {
            let [h, w, c] = cx.hwc(step.output);
            let parts = elems.div_ceil(FLAT * 4);
            args.extend([h * w, c, parts].map(int));
            (spec("momentum_jitter", elems), blocks(n * parts))
        }
        Op::Momentum => {
            args.push(int(elems));
            (spec("momentum_step", elems), Dims::linear(n as u32, threads(elems) as u32))
        }
        Op::Diversify(diversity) | Op::DiversifyGrad(diversity) => {
            let [h, w, c] = cx.hwc(step.output);
            let parts = elems.div_ceil(FLAT);
            args.push(Operand::F32(diversity.probability));
            for size in [h, w] {
                args.push(int(size));
                args.extend(diversity.sides(size).map(int));
            }
            args.extend([c, parts].map(int));
            let entry = if matches!(op, Op::Diversify(_)) { "diverse_resize" } else { "diverse_resize_grad" };
            (KernelSpec::new("diverse", entry), blocks(n * parts))
        }
        Op::Blur => {
            let [h, w, c] = cx.hwc(step.output);
            let taps = cx.graph().shape(step.inputs[1]).elems();
            let tiles = [h, w].map(|size| size.div_ceil(TILE));
            args.extend([taps, h, w, c, tiles[0], tiles[1]].map(int));
            (KernelSpec::new("diverse", "diverse_blur"), blocks(n * c * tiles[0] * tiles[1]))
        }
        other => unreachable!("{other:?} is no op of this stem"),
    };
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    cx.emit(spec, dims, args, Work { flops: 0, bytes });
}

fn spec(entry: &'static str, elems: usize) -> KernelSpec {
    KernelSpec::new("momentum", entry).with("P_VEC", vector(elems) as i64).with("P_THREADS", threads(elems) as i64)
}

/// Blocks that each take a part of an image.
fn flat(spec: KernelSpec, args: &mut Vec<Operand>, n: usize, elems: usize) -> (KernelSpec, Dims) {
    let parts = elems.div_ceil(FLAT * vector(elems));
    args.extend([elems, parts].map(int));
    (spec, blocks(n * parts))
}

fn vector(elems: usize) -> usize {
    if elems.is_multiple_of(VEC) { VEC } else { 1 }
}

/// Threads of a block that owns an image.
fn threads(elems: usize) -> usize {
    if elems < LARGE { FLAT } else { 1024 }
}

fn blocks(count: usize) -> Dims {
    Dims::linear(u32::try_from(count).expect("fewer than 2^32 blocks"), FLAT as u32)
}

fn int(v: usize) -> Operand {
    Operand::I32(i32::try_from(v).expect("an image has fewer than 2^31 elements"))
}
