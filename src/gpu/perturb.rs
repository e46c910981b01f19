//! Lowers the change of a weight in adversarial weight perturbation: lengths by chunks, then the change. Must not know recipes.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::plan::Step;

/// Elements of a chunk, which one block takes, and its threads, as in `kernels/perturb.cu`.
const CHUNK: usize = 4096;
const THREADS: u32 = 256;

pub(super) fn lower(cx: &mut Lower, step: &Step) {
    let &[w, g, gamma] = &step.inputs[..] else { unreachable!("a perturbation has three inputs") };
    let elems = cx.len(w);
    let chunks = elems.div_ceil(CHUNK);
    let part = cx.scratch(16 * chunks as u64);
    let (w, g, gamma, bytes) = (cx.at(w), cx.at(g), cx.at(gamma), cx.bytes(step.output));
    let dims = Dims::linear(u32::try_from(chunks).expect("fewer than 2^44 weights"), THREADS);
    let size = Operand::I64(elems as i64);
    cx.emit(KernelSpec::new("perturb", "perturb_squares"), dims, vec![w, g, part, size], Work { flops: 0, bytes: 2 * bytes });
    let args = vec![g, part, gamma, cx.at(step.output), size, Operand::I32(chunks as i32)];
    cx.emit(KernelSpec::new("perturb", "perturb_apply"), dims, args, Work { flops: 0, bytes: 2 * bytes });
}
