//! The text form of a plan: what `petard plan` prints and what snapshots hold.
//! Must not know a device: executors add their own lines.

use std::fmt;

use super::{Fused, Head, Plan, Program, Step};
use crate::graph::{Op, Value};
use crate::tensor::DType;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan for batches of {}", self.batch)?;
        writeln!(f, "pack")?;
        for c in &self.constants {
            let rows = if c.shift.is_some() { "scale and bias" } else { "scale" };
            writeln!(f, "  fold {}: {rows} of {} channels @{}", c.label, self.graph.shape(c.gamma).elems(), c.slot.offset)?;
        }
        for program in &self.programs {
            writeln!(f, "{}", program.name)?;
            for step in &program.steps {
                writeln!(f, "  {}", self.line(program, step))?;
            }
            writeln!(f, "  {} steps, {:.3} GFLOP", program.steps.len(), self.flops(program) as f64 / 1e9)?;
        }
        write!(f, "arena {} bytes, of them {} lasting", self.arena_bytes, self.persistent_bytes)
    }
}

impl Plan {
    /// Floating-point operations of the convolutions and linear layers of a segment, for one batch.
    pub fn flops(&self, program: &Program) -> usize {
        program.steps.iter().map(|s| self.step_flops(s)).sum()
    }

    /// Floating-point operations of one step's head, for one batch; 0 for what only moves memory.
    pub fn step_flops(&self, step: &Step) -> usize {
        let hw = |v: Value| {
            let (h, w, _) = self.graph.shape(v).hwc();
            (h, w)
        };
        let macs = match &step.head {
            Head::Op(Op::Conv2d(conv) | Op::Conv2dGradWeight(conv)) => {
                let (h, w) = hw(step.inputs[0]);
                let (p, q) = conv.out_hw(h, w);
                conv.macs(p, q)
            }
            Head::Op(Op::Conv2dGradInput { conv, hw }) => {
                let (p, q) = conv.out_hw(hw[0], hw[1]);
                conv.macs(p, q)
            }
            Head::Op(Op::Linear | Op::LinearGradInput) => self.graph.shape(step.inputs[1]).elems(),
            Head::Op(Op::LinearGradWeight) => self.graph.shape(step.output).elems(),
            _ => 0,
        };
        2 * macs * self.batch
    }

    fn line(&self, program: &Program, step: &Step) -> String {
        let name = |v: Value| self.value_name(program, v);
        let head = match &step.head {
            Head::Op(op) => op_text(op),
            Head::Chain => "chain".into(),
            Head::Copy => "copy".into(),
        };
        let mut text = format!("{:<28} {head}", step.label);
        text += &format!(" ({})", step.inputs.iter().map(|&v| name(v)).collect::<Vec<_>>().join(", "));
        if let Some(c) = step.prologue {
            text += &format!(" after scale {}", self.constants[c].label);
        }
        for f in &step.epilogue {
            text += &match f {
                Fused::Scale(c) => format!(" *scale {}", self.constants[*c].label),
                Fused::Shift(c) => format!(" +bias {}", self.constants[*c].label),
                Fused::Bias(v) | Fused::Add(v) => format!(" +{}", name(*v)),
                Fused::Relu { cap: None } => " relu".to_string(),
                Fused::Relu { cap: Some(c) } => format!(" relu{c}"),
                Fused::MaskOut { mask, .. } => format!(" mask>{}", name(*mask)),
                Fused::Gate(v) => format!(" gate {}", name(*v)),
            };
        }
        if let Some(side) = step.side {
            text += &format!(" side>{}", name(side));
        }
        let shape = self.graph.shape(step.output);
        text + &format!(" -> {} {shape}", name(step.output))
    }

    fn value_name(&self, program: &Program, v: Value) -> String {
        let node = self.graph.node(v);
        let place = program.slot(v).map_or_else(|| "?".into(), |s| s.offset.to_string());
        match (&node.op, node.dtype) {
            (Op::Input { name, .. } | Op::Param { name, .. }, _) => name.clone(),
            (_, DType::Bits) => format!("bits@{place}"),
            _ => format!("%{}@{place}", v.index()),
        }
    }
}

/// An op in a few words.
fn op_text(op: &Op) -> String {
    match op {
        Op::Conv2d(c) => format!("conv {}x{} /{} {}->{} g{}", c.kernel[0], c.kernel[1], c.stride[0], c.c, c.k, c.groups),
        Op::Conv2dGradInput { conv: c, .. } => {
            format!("conv-grad-input {}x{} /{} {}<-{} g{}", c.kernel[0], c.kernel[1], c.stride[0], c.c, c.k, c.groups)
        }
        Op::Conv2dGradWeight(c) => format!("conv-grad-weight {}x{} /{} {}->{}", c.kernel[0], c.kernel[1], c.stride[0], c.c, c.k),
        other => {
            let text = format!("{other:?}");
            let end = text.find([' ', '(', '{']).unwrap_or(text.len());
            let detail = match other {
                Op::Loss(l) | Op::LossGrad(l) => format!(" {l:?}"),
                Op::Hyperplane(plane) => format!(" {plane:?}"),
                Op::PgdStep { norm } | Op::ApgdMove { norm } => format!(" {norm}"),
                Op::SquareStart { norm } | Op::SquareStep { norm } => format!(" {norm}"),
                Op::HopDistance { norm } | Op::HopQuery { norm } => format!(" {norm}"),
                Op::Nearest(nearest) => format!(" {}", nearest.name()),
                Op::Objective(of) | Op::ObjectiveGrad { of, .. } => format!(" {of:?}"),
                _ => String::new(),
            };
            kebab(&text[..end]) + &detail
        }
    }
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (i, ch) in name.chars().enumerate() {
        if ch.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(ch.to_ascii_lowercase());
    }
    out
}
