//! Lowers dropout: which elements stay, and dropping the others. Must not know where in a network it stands.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work, code};
use super::spec::KernelSpec;
use crate::graph::{Op, Value};
use crate::plan::Step;

/// Threads of a block, as in `kernels/dropout.cu`.
const THREADS: usize = 256;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    match op {
        Op::DropoutMask { p, site, seed } => mask(cx, step, *p, *site, *seed),
        Op::Dropout { p } => apply(cx, step, *p),
        other => unreachable!("{other:?} is no dropout"),
    }
}

fn mask(cx: &mut Lower, step: &Step, p: f32, site: u16, seed: u64) {
    let [_, index, number] = step.inputs[..] else { unreachable!("a mask has three inputs") };
    let channels = cx.channels(step.output);
    let pixels = cx.graph().shape(step.output).elems() / channels;
    let parts = (pixels * channels.div_ceil(16)).div_ceil(THREADS);
    let args = vec![
        cx.at(index),
        cx.at(number),
        cx.at(step.output),
        Operand::F32(p),
        Operand::I64(seed as i64),
        Operand::I32(i32::from(site)),
        Operand::I32(pixels as i32),
        Operand::I32(parts as i32),
    ];
    let dims = Dims::linear(u32::try_from(cx.n() * parts).expect("fewer than 2^32 blocks"), THREADS as u32);
    let work = Work { flops: 0, bytes: cx.bytes(step.output) };
    cx.emit(spec("dropout_mask", channels, [0, 0]), dims, args, work);
}

fn apply(cx: &mut Lower, step: &Step, p: f32) {
    let (x, bits, y): (Value, Value, Value) = (step.inputs[0], step.inputs[1], step.output);
    let channels = cx.channels(x);
    let pixels = cx.len(x) / channels;
    let threads = pixels * channels.div_ceil(8);
    let args = vec![cx.at(x), cx.at(bits), cx.at(y), Operand::F32(1.0 - p), Operand::I64(pixels as i64)];
    let dims = Dims::linear(u32::try_from(threads.div_ceil(THREADS)).expect("fewer than 2^40 elements"), THREADS as u32);
    let work = Work { flops: 0, bytes: cx.bytes(x) + cx.bytes(bits) + cx.bytes(y) };
    cx.emit(spec("dropout_apply", channels, [code(cx.stored(x)), code(cx.stored(y))]), dims, args, work);
}

fn spec(entry: &'static str, channels: usize, [x, y]: [i64; 2]) -> KernelSpec {
    KernelSpec::new("dropout", entry).with("P_C", channels as i64).with("P_X", x).with("P_Y", y)
}
