//! Lowers maximum and average pooling and their gradients.
//! Must not know networks.

use super::lower::{Lower, Operand, Work, code};
use super::spec::KernelSpec;
use super::tile::{Columns, group, int, linear};
use crate::graph::{Op, Pool, Value};
use crate::plan::Step;
use crate::tensor::DType;

/// `P_WRITES`, as in `kernels/pool.cu`.
const VALUE: i64 = 1;
const INDEX: i64 = 2;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let (x, y) = (step.inputs[0], step.output);
    match op {
        Op::MaxPool(pool) => {
            let index = step.side.map(|side| cx.at(side));
            let args = vec![cx.at(x), cx.at(y), index.unwrap_or(Operand::Null)];
            let writes = if index.is_some() { VALUE | INDEX } else { VALUE };
            windows(cx, spec(cx, "pool_max", (x, y), writes), pool, (x, y), y, args);
        }
        Op::MaxPoolIndex(pool) => {
            let args = vec![cx.at(x), Operand::Null, cx.at(y)];
            windows(cx, spec(cx, "pool_max", (x, y), INDEX), pool, (x, y), y, args);
        }
        Op::MaxPoolGrad { pool, .. } => {
            let args = vec![cx.at(x), cx.at(step.inputs[1]), cx.at(y)];
            windows(cx, spec(cx, "pool_max_grad", (y, x), 0), pool, (y, x), y, args);
        }
        Op::AvgPool(pool) => {
            let args = vec![cx.at(x), cx.at(y)];
            windows(cx, spec(cx, "pool_avg", (x, y), 0), pool, (x, y), y, args);
        }
        Op::AvgPoolGrad { pool, .. } => {
            let args = vec![cx.at(x), cx.at(y)];
            windows(cx, spec(cx, "pool_avg_grad", (y, x), 0), pool, (y, x), y, args);
        }
        Op::GlobalAvgPool => global(cx, "pool_global", (x, y), vec![cx.at(x), cx.at(y)]),
        Op::GlobalAvgPoolGrad { .. } => global(cx, "pool_global_grad", (y, x), vec![cx.at(x), cx.at(y)]),
        other => unreachable!("{other:?} is no pooling"),
    }
}

/// A kernel between an image `x` and what has been pooled from it, `y`.
fn spec(cx: &Lower, entry: &'static str, (x, y): (Value, Value), writes: i64) -> KernelSpec {
    let code = |v: Value| if cx.stored(v) == DType::U8 { 0 } else { code(cx.stored(v)) };
    KernelSpec::new("pool", entry)
        .with("P_V", group(&[cx.channels(x)]) as i64)
        .with("P_X", code(x))
        .with("P_Y", code(y))
        .with("P_WRITES", writes)
}

/// One thread for each group of channels of a pixel of `result`; `args` are the kernel's pointers.
fn windows(
    cx: &mut Lower,
    spec: KernelSpec,
    pool: &Pool,
    (image, pooled): (Value, Value),
    result: Value,
    mut args: Vec<Operand>,
) {
    let ([h, w, c], [p, q, _]) = (cx.hwc(image), cx.hwc(pooled));
    let v = group(&[c]);
    let total = cx.len(result) / v;
    let ([kernel_h, kernel_w], [stride_h, stride_w], [pad_h, pad_w]) = (pool.kernel, pool.stride, pool.pad);
    let sizes = [total, c / v, h, w, p, q, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w];
    let bytes = args.iter().map(|a| if let Operand::At { bytes, .. } = a { *bytes } else { 0 }).sum();
    args.extend(sizes.map(|size| Operand::I32(int(size))));
    if spec.entry.starts_with("pool_avg") {
        args.push(Operand::I32(i32::from(pool.count_pad)));
    }
    cx.emit(spec, linear(total), args, Work { flops: 0, bytes });
}

/// One row of blocks an image.
fn global(cx: &mut Lower, entry: &'static str, (image, pooled): (Value, Value), mut args: Vec<Operand>) {
    let [h, w, c] = cx.hwc(image);
    let cols = Columns::new(c, group(&[c]));
    args.extend([h * w, c, cols.columns].map(|size| Operand::I32(int(size))));
    let work = Work { flops: 0, bytes: cx.bytes(image) + cx.bytes(pooled) };
    let (spec, dims) = (spec(cx, entry, (image, pooled), 0), cols.grid(cx.n()));
    cx.emit(spec, dims, args, work);
}
