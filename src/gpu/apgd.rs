//! Lowers APGD's turn of an image and its moves. Must not know networks or losses.

use super::driver::Dims;
use super::lower::{Lower, Operand, Work};
use super::pgd::{flat, owned, threads, vector};
use super::spec::KernelSpec;
use crate::graph::{ApgdRule, Op};
use crate::plan::Step;
use crate::tensor::DType;
use crate::threat::Norm;

/// Threads of a block without images, as in `kernels/apgd.cu`.
const FLAT: usize = 256;

pub(super) fn lower(cx: &mut Lower, step: &Step, op: &Op) {
    let inputs: Vec<Operand> = step.inputs.iter().map(|&v| cx.in_storage(v, DType::F32)).collect();
    let mut args = vec![cx.at(step.output)];
    args.extend(inputs);
    let bytes = step.inputs.iter().chain([&step.output]).map(|&v| cx.bytes(v)).sum();
    let (spec, dims) = match op {
        Op::ApgdState(rule) => state(cx, step, rule, &mut args),
        Op::ApgdMove { norm } => {
            let elems = cx.graph().shape(step.output).elems();
            args.push(count(elems));
            let (spec, dims) = match norm {
                Norm::Linf => {
                    let (dims, parts) = flat(cx.n(), elems, vector(elems));
                    args.push(parts);
                    (KernelSpec::new("apgd", "apgd_linf").with("P_L1", 0), dims)
                }
                Norm::L2 => (KernelSpec::new("apgd", "apgd_l2").with("P_L1", 0), owned(cx.n(), elems)),
                // Beside the other kernels that select and project.
                Norm::L1 => (KernelSpec::new("pgd", "pgd_l1_top"), owned(cx.n(), elems)),
            };
            (sized(spec, elems), dims)
        }
        other => unreachable!("{other:?} is no op of APGD"),
    };
    cx.emit(spec, dims, args, Work { flops: 0, bytes });
}

fn state(cx: &Lower, step: &Step, rule: &ApgdRule, args: &mut Vec<Operand>) -> (KernelSpec, Dims) {
    let n = cx.n();
    let (spec, dims) = if rule.norm == Norm::L1 {
        let elems = cx.graph().shape(step.inputs[4]).elems();
        args.push(count(elems));
        (sized(KernelSpec::new("apgd", "apgd_state_l1").with("P_L1", 1), elems), owned(n, elems))
    } else {
        args.push(count(n));
        let spec = sized(KernelSpec::new("apgd", "apgd_state").with("P_L1", 0), FLAT);
        (spec, Dims::linear(n.div_ceil(FLAT) as u32, FLAT as u32))
    };
    let phases = rule.phases();
    args.push(count(phases.len()));
    for i in 0..3 {
        // One that does not exist is never asked for.
        let p = phases.get(i).unwrap_or(&phases[0]);
        args.extend([p.steps, p.first, p.shrink, p.least].map(count));
    }
    args.extend([count(rule.larger.into()), Operand::F32(rule.rho)]);
    (spec, dims)
}

fn sized(spec: KernelSpec, elems: usize) -> KernelSpec {
    spec.with("P_VEC", vector(elems) as i64).with("P_THREADS", threads(elems) as i64)
}

fn count(n: usize) -> Operand {
    Operand::I32(i32::try_from(n).expect("an image has fewer than 2^31 elements"))
}
