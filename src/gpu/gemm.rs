//! Lowers linear layers, as convolutions of one pixel.
//! Must not know kernels.

use super::conv::{self, Gather};
use super::lower::Lower;
use crate::graph::{Conv, Op};
use crate::plan::Step;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let (n, inputs) = (cx.n(), &step.inputs);
    let layer = |n_in, n_out| Conv::square(n_in, n_out, 1, 1, 0);
    match op {
        Op::Linear => {
            let conv = layer(cx.channels(inputs[0]), cx.channels(step.output));
            conv::gather(cx, step, &Gather::forward(conv, n, [1, 1]));
        }
        Op::LinearGradInput => {
            let conv = layer(cx.channels(step.output), cx.channels(inputs[0]));
            conv::gather(cx, step, &Gather::grad_input(conv, n, [1, 1]));
        }
        Op::LinearGradWeight => {
            let conv = layer(cx.channels(inputs[0]), cx.channels(inputs[1]));
            conv::grad_weight(cx, step, &Gather::forward(conv, n, [1, 1]));
        }
        other => unreachable!("{other:?} is no linear layer"),
    }
}
