//! Lowers local response normalisation and its gradient, which is two kernels: the terms of its sums, then the sums.
//! Must not know networks.

use super::lower::{Lower, Operand, Work, code};
use super::spec::KernelSpec;
use super::tile::{int, linear};
use crate::graph::{Op, ResponseNorm, Value};
use crate::plan::Step;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op, norm: &ResponseNorm) {
    let y = step.output;
    match op {
        Op::ResponseNorm(_) => {
            let x = step.inputs[0];
            launch(cx, "lrn_forward", [x, y, x], norm, vec![cx.at(x), cx.at(y)]);
        }
        Op::ResponseNormGrad(_) => {
            let [g, x] = step.inputs[..] else { unreachable!("{op:?} has two inputs") };
            let terms = cx.scratch(cx.len(x) as u64 * 4);
            let sources = [cx.at(g), cx.at(x), terms];
            launch(cx, "lrn_terms", [x, g, y], norm, sources.to_vec());
            launch(cx, "lrn_grad", [x, g, y], norm, [&sources[..], &[cx.at(y)]].concat());
        }
        other => unreachable!("{other:?} is no response norm"),
    }
}

/// One thread a value; `args` are the kernel's pointers to source, result or its gradient, and the source's gradient.
fn launch(cx: &mut Lower, entry: &'static str, [x, y, dx]: [Value; 3], norm: &ResponseNorm, mut args: Vec<Operand>) {
    let total = cx.len(x);
    let bytes = args.iter().map(|a| if let Operand::At { bytes, .. } = a { *bytes } else { 0 }).sum();
    args.extend([total, cx.channels(x), norm.size].map(|size| Operand::I32(int(size))));
    args.extend([norm.alpha, norm.beta, norm.bias].map(Operand::F32));
    let spec = KernelSpec::new("lrn", entry);
    let spec = spec.with("P_X", code(cx.stored(x))).with("P_Y", code(cx.stored(y))).with("P_DX", code(cx.stored(dx)));
    cx.emit(spec, linear(total), args, Work { flops: 0, bytes });
}
