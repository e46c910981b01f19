//! Pre-activation residual networks for CIFAR, in the two public variants.
//! Must not know weights.
//! He et al. 2016, <https://arxiv.org/abs/1603.05027>.

use serde::Deserialize;

use super::Net;
use super::keys::{Checked, Keys};
use super::layers::{ConvSize, Layers};
use super::resnet::Block;
use crate::graph::Value;

/// Stages of pre-activation blocks after a 3x3 convolution, then a pooled linear head.
#[derive(Clone, Debug, PartialEq)]
pub struct PreAct {
    /// Blocks of each stage; every stage but the first starts with stride 2.
    pub blocks: Vec<usize>,
    /// Channels of each stage, before a bottleneck's factor of 4.
    pub widths: Vec<usize>,
    /// Kind of block.
    pub block: Block,
    /// Which public code it follows.
    pub variant: PreActVariant,
}

/// The public variants of the pre-activation network differ in what the shortcut reads and in how the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreActVariant {
    /// The 1x1 shortcut reads the activated input; nothing stands between the last block and the pool.
    Kuangliu,
    /// The 1x1 shortcut reads the block's raw input; batch norm `bn` and ReLU before the pool.
    Fast,
}

impl PreAct {
    pub(super) fn from_keys(keys: &mut Keys) -> Checked<Self> {
        let (blocks, widths) = keys.stages()?;
        let block = keys.block.take().unwrap_or(Block::Basic);
        Ok(PreAct { blocks, widths, block, variant: keys.variant.take().unwrap_or(PreActVariant::Kuangliu) })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let mut x = l.conv("conv1", image, ConvSize { out: self.widths[0], kernel: 3, stride: 1 });
        for (stage, (&blocks, &width)) in self.blocks.iter().zip(&self.widths).enumerate() {
            for index in 0..blocks {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                x = self.residual(l, &format!("layer{}.{index}", stage + 1), x, (width, stride));
            }
        }
        if self.variant == PreActVariant::Fast {
            x = l.bn_relu("bn", x);
        }
        l.pooled_head("linear", x, classes)
    }

    fn residual(&self, l: &mut Layers, name: &str, x: Value, (width, stride): (usize, usize)) -> Value {
        let out = width * self.block.expansion();
        let convs = self.block.convs(width, width, stride);
        let active = l.bn_relu(&format!("{name}.bn1"), x);
        let mut y = active;
        for (i, &size) in convs.iter().enumerate() {
            if i > 0 {
                y = l.bn_relu(&format!("{name}.bn{}", i + 1), y);
            }
            y = l.conv(&format!("{name}.conv{}", i + 1), y, size);
        }
        let side = if stride == 1 && l.channels(x) == out {
            x
        } else {
            let from = if self.variant == PreActVariant::Fast { x } else { active };
            l.conv(&format!("{name}.shortcut.0"), from, ConvSize { out, kernel: 1, stride })
        };
        l.graph.add(y, side)
    }
}
