//! Lowers batch normalisation: folding, sums over a batch, training and its gradients.
//! Must not know layers or momentum schedules.

use super::driver::Dims;
use super::lower::{ARENA, Lower, Operand, Work, code};
use super::spec::KernelSpec;
use super::tile::{Columns, THREADS, group, int, linear};
use crate::graph::{Op, Value};
use crate::plan::{Constant, Step};
use crate::tensor::DType;

/// Channels of a block that joins parts, as in `kernels/norm.cu`.
const FINISH_COLUMNS: usize = 8;
/// Pixels that one thread adds: at least enough loads at a time, at most what f32 sums without losing digits.
const SUM_ROWS: [usize; 2] = [4, 64];
/// Pixels that one thread maps.
const MAP_ROWS: [usize; 2] = [4, 16];

/// What is summed, as in `kernels/norm.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Grad,
    Stats,
}

/// What sums read, besides what every kind reads.
struct Sums {
    kind: Kind,
    g: Option<Value>,
    x: Option<Value>,
    mean: Operand,
    var: Operand,
    eps: f32,
}

/// Folds all eval-mode batch norms into their constants, in one launch. A list says where everything lies.
pub(super) fn fold(cx: &mut Lower) {
    let constants = cx.plan.constants();
    if constants.is_empty() {
        return;
    }
    let words: Vec<u8> = constants.iter().flat_map(|c| words(cx, c)).flat_map(i64::to_le_bytes).collect();
    let most = constants.iter().map(channels).max().expect("there is one");
    let bytes: usize = constants.iter().map(|c| 7 * 4 * channels(c)).sum();
    let list = cx.table(&words);
    let arena = Operand::At { buffer: ARENA, offset: 0, bytes: cx.plan.persistent_bytes() as u64 };
    let dims = Dims { grid: [most.div_ceil(THREADS) as u32, constants.len() as u32, 1], block: THREADS as u32, shared: 0 };
    let spec = storage(cx, spec("norm_fold", Kind::Sum, 1), [None; 3]);
    cx.emit(spec, dims, vec![arena, list], Work { flops: 0, bytes: bytes as u64 });
}

fn channels(c: &Constant) -> usize {
    c.slot.bytes / (2 * size_of::<f32>())
}

/// One entry of the list that `norm_fold` reads.
fn words(cx: &Lower, c: &Constant) -> [i64; 8] {
    let place = |v: Option<Value>| v.map_or(-1, |v| cx.plan.slot(v).expect("parameters have lasting places").offset as i64);
    let (beta, mean) = c.shift.unzip();
    let values = [Some(c.gamma), Some(c.var), beta, mean, c.bias].map(place);
    let [gamma, var, beta, mean, before] = values;
    [gamma, var, beta, mean, before, c.slot.offset as i64, channels(c) as i64, i64::from(c.eps.to_bits())]
}

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let x = &step.inputs;
    match op {
        Op::SumChannels => {
            let none = Operand::Null;
            sums(cx, step, &Sums { kind: Kind::Sum, g: Some(x[0]), x: None, mean: none, var: none, eps: 0.0 });
        }
        Op::BatchNormGradParams { eps } => {
            let (mean, var) = (cx.at(x[2]), cx.at(x[3]));
            sums(cx, step, &Sums { kind: Kind::Grad, g: Some(x[0]), x: Some(x[1]), mean, var, eps: *eps });
        }
        Op::BatchNormTrainGradParams { eps } => {
            let [mean, var] = [0, 1].map(|row| half(cx, x[2], row));
            sums(cx, step, &Sums { kind: Kind::Grad, g: Some(x[0]), x: Some(x[1]), mean, var, eps: *eps });
        }
        Op::BatchStats => {
            let none = Operand::Null;
            sums(cx, step, &Sums { kind: Kind::Stats, g: None, x: Some(x[0]), mean: none, var: none, eps: 0.0 });
        }
        Op::BatchNormTrain { eps } => {
            let args = vec![cx.at(x[0]), cx.at(x[1]), cx.at(x[2]), cx.at(x[3]), cx.at(step.output)];
            map(cx, "norm_train", [None, Some(x[0])], step.output, args, *eps);
        }
        Op::BatchNormTrainGrad { eps } => {
            let args = vec![cx.at(x[0]), cx.at(x[1]), cx.at(x[2]), cx.at(x[3]), cx.at(x[4]), cx.at(step.output)];
            map(cx, "norm_train_grad", [Some(x[0]), Some(x[1])], step.output, args, *eps);
        }
        Op::RunningUpdate { momentum, row } => update(cx, step, *momentum, *row),
        other => unreachable!("{other:?} is no batch norm"),
    }
}

/// A kernel for groups of `v` channels, its inputs and results in 32 bits.
fn spec(entry: &'static str, kind: Kind, v: usize) -> KernelSpec {
    KernelSpec::new("norm", entry).with("P_V", v as i64).with("P_KIND", kind as i64)
}

fn storage(cx: &Lower, spec: KernelSpec, [g, x, y]: [Option<Value>; 3]) -> KernelSpec {
    let code = |v: Option<Value>| code(v.map_or(DType::F32, |v| cx.stored(v)));
    spec.with("P_G", code(g)).with("P_X", code(x)).with("P_Y", code(y))
}

/// Row `row` of a `[2, C]` value.
fn half(cx: &Lower, v: Value, row: u64) -> Operand {
    match cx.at(v) {
        Operand::At { buffer, offset, bytes } => Operand::At { buffer, offset: offset + row * bytes / 2, bytes: bytes / 2 },
        other => unreachable!("a value lies at {other:?}"),
    }
}

/// Sums over all pixels: parts by block, then their sum.
fn sums(cx: &mut Lower, step: &Step, s: &Sums) {
    let like = s.g.or(s.x).expect("something is summed");
    let c = cx.channels(like);
    let (v, pixels) = (group(&[c]), cx.len(like) / c);
    let cols = Columns::new(c, v);
    let (rows, blocks) = cols.runs(pixels, cx.props.sms as usize, SUM_ROWS);
    let results = if s.kind == Kind::Sum { 1 } else { 2 };
    let parts = cx.scratch((blocks * results * c * size_of::<f64>()) as u64);
    let at = |v: Option<Value>| v.map_or(Operand::Null, |v| cx.at(v));
    let (g, x, y) = (at(s.g), at(s.x), cx.at(step.output));
    let read: u64 = [s.g, s.x].into_iter().flatten().map(|v| cx.bytes(v)).sum();
    let size = |count: usize| Operand::I32(int(count));
    let args = vec![g, x, s.mean, parts, Operand::I64(pixels as i64), size(c), size(cols.columns), size(rows)];
    let first = storage(cx, spec("norm_sums", s.kind, v), [s.g, s.x, None]);
    cx.emit(first, cols.grid(blocks), args, Work { flops: 0, bytes: read });
    let args = vec![parts, x, s.var, y, Operand::I64(pixels as i64), size(c), size(blocks), Operand::F32(s.eps)];
    let second = storage(cx, spec("norm_finish", s.kind, 1), [None, s.x, None]);
    let dims = Dims::linear(c.div_ceil(FINISH_COLUMNS) as u32, THREADS as u32);
    cx.emit(second, dims, args, Work { flops: 0, bytes: ((2 * blocks + 1) * results * c * size_of::<f32>()) as u64 });
}

/// A result like the input, pixel by pixel; `args` are the kernel's pointers.
fn map(cx: &mut Lower, entry: &'static str, [g, x]: [Option<Value>; 2], y: Value, mut args: Vec<Operand>, eps: f32) {
    let c = cx.channels(y);
    let (v, pixels) = (group(&[c]), cx.len(y) / c);
    let cols = Columns::new(c, v);
    let (rows, blocks) = cols.runs(pixels, cx.props.sms as usize, MAP_ROWS);
    args.push(Operand::I64(pixels as i64));
    args.extend([c, cols.columns, rows].map(|count| Operand::I32(int(count))));
    args.push(Operand::F32(eps));
    let bytes = [g, x, Some(y)].into_iter().flatten().map(|v| cx.bytes(v)).sum();
    let spec = storage(cx, spec(entry, Kind::Sum, v), [g, x, Some(y)]);
    cx.emit(spec, cols.grid(blocks), args, Work { flops: 0, bytes });
}

fn update(cx: &mut Lower, step: &Step, momentum: f32, row: usize) {
    let [running, stats, x] = step.inputs[..] else { unreachable!("an update reads three values") };
    let c = cx.channels(running);
    let count = cx.len(x) / c;
    assert!(row == 0 || count > 1, "one value a channel has no variance: batch norm cannot be trained on {count}");
    let unbiased_over = if row == 1 { count as i64 } else { 0 };
    let args = vec![
        cx.at(running),
        half(cx, stats, row as u64),
        cx.at(step.output),
        Operand::I32(int(c)),
        Operand::F32(momentum),
        Operand::I64(unbiased_over),
    ];
    let spec = storage(cx, spec("norm_update", Kind::Sum, 1), [None; 3]);
    cx.emit(spec, linear(c), args, Work { flops: 0, bytes: 12 * c as u64 });
}
