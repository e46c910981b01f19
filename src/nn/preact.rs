//! Pre-activation residual networks, ResNet v2: for CIFAR in the two public variants, for large images under timm's names.
//! Must not know weights.
//! He et al. 2016, <https://arxiv.org/abs/1603.05027>.

use super::Net;
use super::keys::{Checked, Keys, Variant};
use super::layers::{ConvSize, Layers};
use super::resnet::Block;
use crate::graph::{Pool, Value};

/// Stages of pre-activation blocks after a stem, then a pooled linear head.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreActVariant {
    /// The 1x1 shortcut reads the activated input; nothing stands between the last block and the pool.
    Kuangliu,
    /// The 1x1 shortcut reads the block's raw input; batch norm `bn` and ReLU before the pool.
    Fast,
    /// For large images: 7x7 stem and max-pool, the shortcut reads the activated input, batch norm `norm` and ReLU before
    /// the pool, a head stored as a 1x1 convolution; names of timm's `resnetv2`.
    Timm,
}

const VARIANTS: [(Variant, PreActVariant); 3] =
    [(Variant::Kuangliu, PreActVariant::Kuangliu), (Variant::Fast, PreActVariant::Fast), (Variant::Timm, PreActVariant::Timm)];

impl PreAct {
    pub(super) fn from_keys(keys: &mut Keys) -> Checked<Self> {
        let (blocks, widths) = keys.stages()?;
        let block = keys.block.take().unwrap_or(Block::Basic);
        Ok(PreAct { blocks, widths, block, variant: keys.variant(&VARIANTS)? })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let timm = self.variant == PreActVariant::Timm;
        let mut x = self.stem(l, image);
        for (stage, (&blocks, &width)) in self.blocks.iter().zip(&self.widths).enumerate() {
            for index in 0..blocks {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let name = if timm { format!("stages.{stage}.blocks.{index}") } else { format!("layer{}.{index}", stage + 1) };
                x = self.residual(l, &name, x, (width, stride));
            }
        }
        if timm {
            x = l.bn_relu("norm", x);
            return l.pooled_conv_head("head.fc", x, classes);
        }
        if self.variant == PreActVariant::Fast {
            x = l.bn_relu("bn", x);
        }
        l.pooled_head("linear", x, classes)
    }

    fn stem(&self, l: &mut Layers, image: Value) -> Value {
        if self.variant == PreActVariant::Timm {
            let x = l.conv("stem.conv", image, ConvSize { out: self.widths[0], kernel: 7, stride: 2 });
            return l.graph.max_pool(x, Pool::square(3, 2, 1));
        }
        l.conv("conv1", image, ConvSize { out: self.widths[0], kernel: 3, stride: 1 })
    }

    fn residual(&self, l: &mut Layers, name: &str, x: Value, (width, stride): (usize, usize)) -> Value {
        let out = width * self.block.expansion();
        let convs = self.block.convs(width, width, stride);
        let timm = self.variant == PreActVariant::Timm;
        let norm = if timm { "norm" } else { "bn" };
        let active = l.bn_relu(&format!("{name}.{norm}1"), x);
        let mut y = active;
        for (i, &size) in convs.iter().enumerate() {
            if i > 0 {
                y = l.bn_relu(&format!("{name}.{norm}{}", i + 1), y);
            }
            y = l.conv(&format!("{name}.conv{}", i + 1), y, size);
        }
        let side = if stride == 1 && l.channels(x) == out {
            x
        } else {
            let from = if self.variant == PreActVariant::Fast { x } else { active };
            let key = if timm { "downsample.conv" } else { "shortcut.0" };
            l.conv(&format!("{name}.{key}"), from, ConvSize { out, kernel: 1, stride })
        };
        l.graph.add(y, side)
    }
}
