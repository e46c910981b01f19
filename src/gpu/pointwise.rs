//! Lowers element-wise operations: chains of fused ones, scaling, casts, copies, normalisation.
//! Must not know which value they follow.

use super::lower::{Lower, Operand, Work, code, split_epilogue};
use super::spec::KernelSpec;
use super::tile::linear;
use crate::graph::{Op, Value};
use crate::plan::{Fused, Step};
use crate::tensor::DType;

/// Elements that one thread takes.
const VEC: usize = 8;
/// Bytes that one thread copies.
const COPY: usize = 16;

/// `y = list(x)`, in as many launches as the list needs.
pub(super) fn chain(cx: &mut Lower, x: Value, y: Value, fused: &[Fused]) {
    let (mine, rest) = split_epilogue(fused);
    launch(cx, x, Some(y), mine);
    follow(cx, y, rest);
}

/// Further element-wise operations on a value that a kernel has just stored.
pub(super) fn follow(cx: &mut Lower, y: Value, fused: &[Fused]) {
    if !fused.is_empty() {
        chain(cx, y, y, fused);
    }
}

/// One launch of a chain; without `y` only its masks are kept.
fn launch(cx: &mut Lower, x: Value, y: Option<Value>, fused: &[Fused]) {
    let (len, epilogue) = (cx.len(x), cx.epilogue(fused));
    // Where no operation knows channels, all shapes share one kernel.
    let flat = fused.iter().all(|f| matches!(f, Fused::Add(_) | Fused::Relu { .. }));
    let c = match (flat, len.is_multiple_of(VEC)) {
        (true, true) => VEC,
        (true, false) => 1,
        _ => cx.channels(x),
    };
    let to = y.unwrap_or(x);
    let spec = KernelSpec::new("pointwise", "pointwise_chain")
        .with("P_C", c as i64)
        .with("P_X", code(cx.stored(x)))
        .with("P_Y", code(cx.stored(to)))
        .with("P_STORE", i64::from(y.is_some()));
    let bytes = cx.bytes(x) + y.map_or(0, |y| cx.bytes(y)) + epilogue.bytes;
    let mut args = vec![cx.at(x), cx.at(to)];
    args.extend(epilogue.args());
    args.push(Operand::I64((len / c) as i64));
    cx.emit(epilogue.constants(spec), linear(len / c * c.div_ceil(VEC)), args, Work { flops: 0, bytes });
}

/// A kernel that takes elements as they come: what chains are specialised by is neutral.
fn flat(entry: &'static str, from: DType, to: DType) -> KernelSpec {
    let spec = KernelSpec::new("pointwise", entry).with("P_X", code(from)).with("P_Y", code(to)).with("P_C", 1);
    ["P_EPI", "P_CAP", "P_HALF", "P_STORE"].into_iter().fold(spec, |spec, name| spec.with(name, 0))
}

/// A copy of `x` in another storage.
pub(super) fn cast(cx: &mut Lower, x: Value, copy: Operand, want: DType) {
    let (from, place) = (cx.stored(x), cx.at(x));
    scaled(cx, (place, from), (copy, want), cx.len(x), 1.0);
}

/// `y = x * factor`.
pub(super) fn scale(cx: &mut Lower, x: Value, y: Value, factor: f32) {
    let (from, to) = ((cx.at(x), cx.stored(x)), (cx.at(y), cx.stored(y)));
    scaled(cx, from, to, cx.len(x), factor);
}

fn scaled(cx: &mut Lower, (x, from): (Operand, DType), (y, to): (Operand, DType), elems: usize, factor: f32) {
    let bytes = [from, to].iter().map(|s| if *s == DType::F32 { 4 } else { 2 }).sum::<usize>() * elems;
    let args = vec![x, y, Operand::I64(elems as i64), Operand::F32(factor)];
    cx.emit(flat("pointwise_scale", from, to), linear(elems.div_ceil(VEC)), args, Work { flops: 0, bytes: bytes as u64 });
}

/// What lies in the place of `x` into the place of `y`.
pub(super) fn copy(cx: &mut Lower, x: Value, y: Value) {
    if cx.stored(x) == cx.stored(y) {
        bytes(cx, cx.at(x), cx.at(y), cx.bytes(x));
    } else {
        scale(cx, x, y, 1.0);
    }
}

/// `count` bytes from one place to another.
pub(super) fn bytes(cx: &mut Lower, from: Operand, to: Operand, count: u64) {
    let args = vec![from, to, Operand::I64(count as i64)];
    let dims = linear((count as usize).div_ceil(COPY));
    cx.emit(flat("pointwise_copy", DType::F32, DType::F32), dims, args, Work { flops: 0, bytes: 2 * count });
}

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let (x, y) = (step.inputs[0], step.output);
    match op {
        Op::Add => chain(cx, x, y, &[Fused::Add(step.inputs[1])]),
        Op::Scale { factor } => scale(cx, x, y, *factor),
        Op::ReluMask { cap } => launch(cx, x, None, &[Fused::MaskOut { mask: y, cap: *cap }]),
        Op::Normalise { mean, std } => normalise(cx, x, y, mean, std),
        Op::NormaliseGrad { std } => normalise(cx, x, y, &vec![0.0; std.len()], std),
        other => unreachable!("{other:?} is not element-wise"),
    }
}

fn normalise(cx: &mut Lower, x: Value, y: Value, mean: &[f32], std: &[f32]) {
    let numbers: Vec<u8> = mean.iter().chain(std).flat_map(|v| v.to_le_bytes()).collect();
    let table = cx.table(&numbers);
    let (elems, channels) = (cx.len(x), std.len());
    let args = vec![cx.at(x), cx.at(y), table, Operand::I64(elems as i64), Operand::I32(super::tile::int(channels))];
    let work = Work { flops: 0, bytes: cx.bytes(x) + cx.bytes(y) };
    let spec = flat("pointwise_normalise", cx.stored(x), cx.stored(y));
    cx.emit(spec, linear(elems.div_ceil(VEC)), args, work);
}
