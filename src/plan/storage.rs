//! Which values of a plan lie in memory as 16-bit floats. Arithmetic is the executor's business; this is only about places.
//! Must not know any device.

use std::collections::BTreeSet;
use std::fmt;

use crate::graph::{Graph, Op, Value};
use crate::tensor::DType;

/// How a device computes convolutions and linear layers, and how it stores what flows between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    F32,
    /// 32-bit storage; tensor cores round operands to 10 bits of mantissa.
    Tf32,
    /// bfloat16 storage and operands, sums in f32.
    Bf16,
    /// IEEE half storage and operands, sums in f32; gradients below 6e-8 are lost.
    F16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16];

    /// `f32`, `tf32`, `bf16`, `fp16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "fp16",
        }
    }
    /// The 16-bit type of activations and their gradients, where there is one.
    pub fn half(self) -> Option<DType> {
        match self {
            Precision::F32 | Precision::Tf32 => None,
            Precision::Bf16 => Some(DType::Bf16),
            Precision::F16 => Some(DType::F16),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Fewest channels of a value that is worth storing in 16 bits: one 16-byte vector.
const CHANNELS: usize = 8;

/// The values that may lie in 16 bits: feature maps and features inside a network and their gradients.
///
/// Never what the host reads or writes, images and their gradients (fewer channels than a vector), logits and what a loss
/// makes of them, weights, their gradients and statistics: these decide results and are small.
pub(super) fn half_values(graph: &Graph, lasting: &BTreeSet<Value>) -> BTreeSet<Value> {
    let judged = judged(graph);
    let body = |v: &Value| {
        let node = graph.node(*v);
        let wide = node.shape.batched && matches!(node.shape.dims.len(), 1 | 3) && node.shape.dims.last() >= Some(&CHANNELS);
        node.dtype == DType::F32 && wide && in_network(&node.op) && !judged.contains(v) && !lasting.contains(v)
    };
    graph.values().filter(body).collect()
}

/// Logits, and everything between them and the values that they are computed from without a sum over features.
fn judged(graph: &Graph) -> BTreeSet<Value> {
    let mut out = BTreeSet::new();
    for v in graph.values().rev() {
        let node = graph.node(v);
        let passes = matches!(
            node.op,
            Op::AddBias | Op::Scale { .. } | Op::Add | Op::Flatten | Op::ScaleChannels | Op::ScaleRows | Op::ClassMargins
        ) && out.contains(&v);
        if matches!(node.op, Op::Loss(_) | Op::LossGrad(_) | Op::Fooled { .. } | Op::Kl | Op::KlGrad) || passes {
            out.insert(node.inputs[0]);
        }
        if let Op::Objective(of) | Op::ObjectiveGrad { of, .. } = node.op {
            out.extend(&node.inputs[..1 + usize::from(of.reads_pair())]);
        }
    }
    out
}

/// Whether `op` belongs to a network's body, forward or backward, rather than to an attack or an update.
fn in_network(op: &Op) -> bool {
    !matches!(
        op,
        Op::Input { .. }
            | Op::Param { .. }
            | Op::Loss(_)
            | Op::LossGrad(_)
            | Op::Objective(_)
            | Op::ObjectiveGrad { .. }
            | Op::Between
            | Op::UnitRows { .. }
            | Op::UnitRowsGrad { .. }
            | Op::ScaleChannels
            | Op::ScaleRows
            | Op::ClassMargins
            | Op::Perturbation
            | Op::Start { .. }
            | Op::PgdStep { .. }
            | Op::ApgdState(_)
            | Op::ApgdMove { .. }
            | Op::Nearest(_)
            | Op::SelectRows
            | Op::Hyperplane(_)
            | Op::SquareStart { .. }
            | Op::SquareControl
            | Op::SquareStep { .. }
            | Op::HopControl(_)
            | Op::HopGather
            | Op::HopQuery { .. }
            | Op::Tick { .. }
            | Op::Ahead
            | Op::Jitter
            | Op::Diversify(_)
            | Op::DiversifyGrad(_)
            | Op::Accumulate { .. }
            | Op::Blur
            | Op::Momentum
            | Op::Kl
            | Op::KlGrad
            | Op::Moment { .. }
            | Op::AdamStep { .. }
            | Op::Shake
            | Op::SgdVelocity
            | Op::SgdStep { .. }
            | Op::Ema
            | Op::Rfft2 { .. }
            | Op::Irfft2 { .. }
            | Op::SpectrumFilter
            | Op::RingSums { .. }
            | Op::Bass
    )
}
