//! Classifiers on a sphere: the last linear layer answers by angles, its bias without a say.
//! Must not know which network it ends.
//! Hypersphere embedding: Pang et al. 2020, <https://arxiv.org/abs/2002.08619>; scale-invariant classifiers: Wu et al. 2021,
//! <https://arxiv.org/abs/2104.02703>.

use serde::Deserialize;

use super::Net;
use super::keys::{Bad, Checked};
use crate::graph::{Graph, Op, Value};

/// The key `sphere` of a card: logits are `scale * <f, w> / (|f| (|w| + gamma))`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sphere {
    /// Times the cosines: above 0, 10 to 20 in the papers.
    pub scale: f32,
    /// Whether features have unit length.
    #[serde(default = "yes")]
    pub features: bool,
    /// Whether the rows of the classifier have unit length.
    #[serde(default = "yes")]
    pub weights: bool,
    /// Added to the lengths of these rows, at least 0.
    #[serde(default)]
    pub gamma: f32,
}

fn yes() -> bool {
    true
}

impl Sphere {
    pub(super) fn checked(self) -> Checked<Self> {
        if !(self.scale.is_finite() && self.scale > 0.0 && self.gamma.is_finite() && self.gamma >= 0.0) {
            let why = "the scale must be above 0, gamma at least 0";
            return Err(Bad::new("sphere", format!("{self:?}"), why).fix("write `sphere = { scale = 15 }`"));
        }
        Ok(self)
    }

    /// The network with its last layer on the sphere; the layer's own answer is left to nobody.
    pub(super) fn end(self, g: &mut Graph, net: Net) -> Net {
        let [features, w] = last_layer(g, net.logits);
        let x = if self.features { g.push(Op::UnitRows { gamma: 0.0 }, &[features]) } else { features };
        let mut z = g.push(Op::Linear, &[x, w]);
        if self.weights {
            let lengths = g.push(Op::RowScales { gamma: self.gamma }, &[w]);
            z = g.push(Op::ScaleChannels, &[z, lengths]);
        }
        Net { logits: g.push(Op::Scale { factor: self.scale }, &[z]), ..net }
    }
}

/// What the linear layer that gives `logits` reads: features and weights.
fn last_layer(g: &Graph, logits: Value) -> [Value; 2] {
    let node = g.node(logits);
    match node.op {
        Op::AddBias => last_layer(g, node.inputs[0]),
        Op::Linear => [node.inputs[0], node.inputs[1]],
        ref other => unreachable!("every network ends with a linear layer, not with {other:?}"),
    }
}
