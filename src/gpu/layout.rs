//! Lowers what only moves elements: joins, slices, shortcuts, and the two orders of a feature map.
//! Must not know what the elements mean.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work, code};
use super::pointwise;
use super::spec::KernelSpec;
use super::tile::{THREADS, group, int, linear};
use crate::graph::{Op, Value};
use crate::plan::Step;

/// Side of a square that one block transposes, as in `kernels/layout.cu`.
const SIDE: usize = 32;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let (x, y) = (step.inputs[0], step.output);
    match op {
        Op::Row { index } => {
            let bytes = cx.bytes(y);
            let from = part(cx.at(x), *index as u64 * bytes, bytes);
            pointwise::bytes(cx, from, cx.at(y), bytes);
        }
        Op::Concat => {
            let mut first = 0;
            for &x in &step.inputs {
                gather(cx, x, y, &Gather { first, channels: cx.channels(x), ..Gather::all(cx, y) });
                first += cx.channels(x);
            }
        }
        Op::SliceChannels { start, .. } => gather(cx, x, y, &Gather { shift: -signed(*start), ..Gather::all(cx, y) }),
        Op::PadChannels { start, .. } => gather(cx, x, y, &Gather { shift: signed(*start), ..Gather::all(cx, y) }),
        Op::SubsamplePad { stride, before, .. } => {
            gather(cx, x, y, &Gather { shift: signed(*before), stride: *stride, ..Gather::all(cx, y) });
        }
        Op::SubsamplePadGrad { stride, before, .. } => {
            gather(cx, x, y, &Gather { shift: -signed(*before), stride: *stride, up: true, ..Gather::all(cx, y) });
        }
        Op::Window { from, fill, .. } => window(cx, x, y, *from, *fill),
        Op::Flatten => {
            let [h, w, c] = cx.hwc(x);
            transpose(cx, x, y, [h * w, c]);
        }
        Op::Unflatten { hwc: [h, w, c] } => transpose(cx, x, y, [*c, h * w]),
        other => unreachable!("{other:?} moves nothing"),
    }
}

/// Which channels of the result come from where: see `layout_gather`.
struct Gather {
    /// Channels of the result that are written, from `first` on.
    first: usize,
    channels: usize,
    /// Channel of the result, counted from `first`, at which the source begins.
    shift: i32,
    stride: usize,
    up: bool,
}

impl Gather {
    fn all(cx: &Lower, y: Value) -> Self {
        Gather { first: 0, channels: cx.channels(y), shift: 0, stride: 1, up: false }
    }
}

fn signed(channels: usize) -> i32 {
    int(channels)
}

fn part(whole: Operand, skip: u64, bytes: u64) -> Operand {
    match whole {
        Operand::At { buffer, offset, .. } => Operand::At { buffer, offset: offset + skip, bytes },
        other => unreachable!("a value lies at {other:?}"),
    }
}

/// Height, width and channels; what is no image is one row of pixels.
fn size(cx: &Lower, v: Value) -> [usize; 3] {
    let shape = cx.graph().shape(v);
    if shape.dims.len() == 3 { cx.hwc(v) } else { [1, 1, cx.channels(v)] }
}

fn gather(cx: &mut Lower, x: Value, y: Value, by: &Gather) {
    let ([source_h, source_w, source_c], [h, w, pitch]) = (size(cx, x), size(cx, y));
    let v = group(&[pitch, by.first, by.channels, by.shift.unsigned_abs() as usize, source_c]);
    let total = cx.len(y) / pitch * by.channels / v;
    let width = cx.bytes(y) / cx.len(y) as u64;
    let skip = by.first as u64 * width;
    let to = part(cx.at(y), skip, cx.bytes(y) - skip);
    let spec = KernelSpec::new("layout", "layout_gather")
        .with("P_V", v as i64)
        .with("P_X", code(cx.stored(x)))
        .with("P_Y", code(cx.stored(y)))
        .with("P_UP", i64::from(by.up));
    let mut args = vec![cx.at(x), to];
    args.extend([total, by.channels / v, h, w].map(|size| Operand::I32(int(size))));
    args.push(Operand::I64(pitch as i64));
    args.extend([source_h, source_w, source_c].map(|size| Operand::I32(int(size))));
    args.extend([Operand::I32(by.shift), Operand::I32(int(by.stride))]);
    let written = total as u64 * v as u64 * width;
    cx.emit(spec, linear(total), args, Work { flops: 0, bytes: written + cx.bytes(x).min(written) });
}

/// The pixels of `x` from `from` on, `fill` beside it.
fn window(cx: &mut Lower, x: Value, y: Value, from: [isize; 2], fill: f32) {
    let ([source_h, source_w, c], [h, w, _]) = (cx.hwc(x), cx.hwc(y));
    let v = group(&[c]);
    let total = cx.len(y) / v;
    let spec = KernelSpec::new("layout", "layout_window")
        .with("P_V", v as i64)
        .with("P_X", code(cx.stored(x)))
        .with("P_Y", code(cx.stored(y)))
        .with("P_UP", 0);
    let mut args = vec![cx.at(x), cx.at(y)];
    args.extend([total, c / v, h, w, source_h, source_w].map(|size| Operand::I32(int(size))));
    args.extend(from.map(|f| Operand::I32(i32::try_from(f).expect("images are smaller than 2^31 pixels"))));
    args.push(Operand::F32(fill));
    cx.emit(spec, linear(total), args, Work { flops: 0, bytes: cx.bytes(x).min(cx.bytes(y)) + cx.bytes(y) });
}

/// Each image from `[rows, cols]` to `[cols, rows]`.
fn transpose(cx: &mut Lower, x: Value, y: Value, [rows, cols]: [usize; 2]) {
    if rows == 1 || cols == 1 {
        return pointwise::scale(cx, x, y, 1.0);
    }
    let down = int(cx.n() * rows.div_ceil(SIDE)) as u32;
    let dims = Dims { grid: [down, cols.div_ceil(SIDE) as u32, 1], block: THREADS as u32, shared: 0 };
    let spec = KernelSpec::new("layout", "layout_transpose")
        .with("P_V", 1)
        .with("P_X", code(cx.stored(x)))
        .with("P_Y", code(cx.stored(y)))
        .with("P_UP", 0);
    let args = vec![cx.at(x), cx.at(y), Operand::I32(int(rows)), Operand::I32(int(cols))];
    let work = Work { flops: 0, bytes: cx.bytes(x) + cx.bytes(y) };
    cx.emit(spec, dims, args, work);
}
