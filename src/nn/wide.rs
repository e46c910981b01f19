//! Wide residual networks for CIFAR under the names of the TRADES code.
//! Must not know weights.
//! Zagoruyko and Komodakis 2016, <https://arxiv.org/abs/1605.07146>.

use super::Net;
use super::keys::{Bad, Checked, Keys};
use super::layers::{ConvSize, Layers};
use crate::graph::Value;

/// Channels of the first convolution; stage i has `16 * widen * 2^i`.
const STEM: usize = 16;

/// Three stages of pre-activation blocks; the 1x1 shortcut reads the activated input and has no batch norm.
#[derive(Clone, Debug, PartialEq)]
pub struct WideResNet {
    /// Layers in all: `6 n + 4` for n blocks a stage.
    pub depth: usize,
    /// Factor on the channels 16, 32, 64.
    pub widen: usize,
    /// Probability of dropping an element between the convolutions of a block, in training.
    pub dropout: f32,
}

impl WideResNet {
    pub(super) fn from_keys(keys: &mut Keys) -> Checked<Self> {
        let depth = keys.depth.take().ok_or_else(|| Bad::missing("depth", "depth = 34"))?;
        let widen = keys.widen()?.ok_or_else(|| Bad::missing("widen", "widen = 10"))?;
        if !(10..=1000).contains(&depth) || !(depth - 4).is_multiple_of(6) {
            return Err(Bad::new("depth", depth, "must be 6 n + 4 with n blocks a stage").fix("use 16, 22, 28, 34 or 40"));
        }
        Ok(WideResNet { depth, widen, dropout: keys.dropout()?.unwrap_or(0.0) })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let mut x = l.conv("conv1", image, ConvSize { out: STEM, kernel: 3, stride: 1 });
        for stage in 0..3 {
            let out = (STEM * self.widen) << stage;
            for index in 0..(self.depth - 4) / 6 {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                x = self.residual(l, &format!("block{}.layer.{index}", stage + 1), x, (out, stride));
            }
        }
        let x = l.bn_relu("bn1", x);
        l.pooled_head("fc", x, classes)
    }

    fn residual(&self, l: &mut Layers, name: &str, x: Value, (out, stride): (usize, usize)) -> Value {
        let active = l.bn_relu(&format!("{name}.bn1"), x);
        let y = l.conv(&format!("{name}.conv1"), active, ConvSize { out, kernel: 3, stride });
        let y = l.bn_relu(&format!("{name}.bn2"), y);
        let y = l.dropout(y, self.dropout);
        let y = l.conv(&format!("{name}.conv2"), y, ConvSize { out, kernel: 3, stride: 1 });
        let side = if l.channels(x) == out {
            x
        } else {
            l.conv(&format!("{name}.convShortcut"), active, ConvSize { out, kernel: 1, stride })
        };
        l.graph.add(y, side)
    }
}
