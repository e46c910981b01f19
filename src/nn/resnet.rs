//! Residual networks: ResNet-18..152 for 224 pixels, ResNet-20..110 and ResNet-18..50 for CIFAR, wide and grouped bottlenecks.
//! Must not know weights.
//! He et al. 2015, <https://arxiv.org/abs/1512.03385>; stride on the 3x3 of a bottleneck, as every public checkpoint has it.

use serde::Deserialize;

use super::Net;
use super::keys::{Bad, Checked, Keys};
use super::layers::{ConvSize, Layers};
use crate::graph::{Op, Pool, Value};

/// Stages of residual blocks between a stem and a pooled linear head.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNet {
    /// Blocks of each stage; every stage but the first starts with stride 2.
    pub blocks: Vec<usize>,
    /// Channels of each stage, before a bottleneck's factor of 4; the stem has those of the first.
    pub widths: Vec<usize>,
    /// Kind of block.
    pub block: Block,
    /// What comes before the first stage.
    pub stem: Stem,
    /// What joins input and output of a block that changes the shape.
    pub shortcut: Shortcut,
    /// Whose names the parameters have.
    pub names: Names,
    /// Factor on the inner width of bottlenecks (2 for `wide_resnet50_2`).
    pub widen: usize,
    /// Groups of the 3x3 convolution of bottlenecks. Xie et al. 2016, <https://arxiv.org/abs/1611.05431>.
    pub groups: usize,
}

/// Kind of residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1 with four times the channels at the end.
    Bottleneck,
}

impl Block {
    /// Output channels per unit of width.
    pub(super) fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
    /// The convolutions of one block; `inner` is a bottleneck's width in the middle.
    pub(super) fn convs(self, width: usize, inner: usize, stride: usize) -> Vec<ConvSize> {
        let out = width * self.expansion();
        let size = |out, kernel, stride| ConvSize { out, kernel, stride };
        match self {
            Block::Basic => vec![size(out, 3, stride), size(out, 3, 1)],
            Block::Bottleneck => vec![size(inner, 1, 1), size(inner, 3, stride), size(out, 1, 1)],
        }
    }
}

/// What comes before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 3x3, stride 1.
    Cifar,
    /// 7x7, stride 2, then a 3x3 max-pool with stride 2.
    Imagenet,
    /// 1x1, stride 1, as in kuangliu's ResNeXt.
    Pointwise,
}

/// Shortcut of a block that changes the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shortcut {
    /// 1x1 convolution and batch norm.
    Conv,
    /// Every second pixel; no stage may change the channels.
    Identity,
    /// Every second pixel, new channels zero, half of them in front and half behind.
    Pad,
}

/// Whose parameter names a network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Names {
    /// `downsample.0`, `downsample.1`, `fc`.
    Torchvision,
    /// `shortcut.0`, `shortcut.1`, `linear`.
    Kuangliu,
    /// Those of timm, for networks that torchvision does not have.
    Timm,
}

impl ResNet {
    pub(super) fn from_keys(keys: &mut Keys) -> Checked<Self> {
        let (blocks, widths) = keys.stages()?;
        let net = ResNet {
            blocks,
            widths,
            block: keys.block.take().unwrap_or(Block::Basic),
            stem: keys.stem.take().unwrap_or(Stem::Cifar),
            shortcut: keys.shortcut.take().unwrap_or(Shortcut::Conv),
            names: keys.names(&[Names::Torchvision, Names::Kuangliu])?,
            widen: keys.widen()?.unwrap_or(1),
            groups: keys.groups.take().unwrap_or(1),
        };
        if net.widen > 1 && net.block == Block::Basic {
            return Err(Bad::new("widen", net.widen, "only bottlenecks have an inner width").fix("set `block = \"bottleneck\"`"));
        }
        if net.groups > 1 && net.block == Block::Basic {
            return Err(Bad::new("groups", net.groups, "only bottlenecks have groups").fix("set `block = \"bottleneck\"`"));
        }
        if net.groups == 0 || net.widths.iter().any(|w| !(w * net.widen).is_multiple_of(net.groups)) {
            let why = format!("must divide the inner widths, `widths` times {}", net.widen);
            return Err(Bad::new("groups", net.groups, why).fix("write `groups = 32` and `widen = 2` for ResNeXt-50"));
        }
        net.check_shortcut()?;
        Ok(net)
    }

    /// Shortcuts without parameters can keep or add channels, never drop them.
    fn check_shortcut(&self) -> Checked<()> {
        let mut c = self.widths[0];
        for out in self.widths.iter().map(|w| w * self.block.expansion()) {
            let (fits, name) = match self.shortcut {
                Shortcut::Conv => (true, "conv"),
                Shortcut::Identity => (c == out, "identity"),
                Shortcut::Pad => (c <= out, "pad"),
            };
            if !fits {
                let why = format!("this shortcut cannot go from {c} to {out} channels");
                return Err(Bad::new("shortcut", format!("{name:?}"), why).fix("use `shortcut = \"conv\"`, or other `widths`"));
            }
            c = out;
        }
        Ok(())
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let mut x = self.stem(l, image);
        for (stage, (&blocks, &width)) in self.blocks.iter().zip(&self.widths).enumerate() {
            for index in 0..blocks {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                x = self.residual(l, &format!("layer{}.{index}", stage + 1), x, (width, stride));
            }
        }
        l.pooled_head(if self.names == Names::Torchvision { "fc" } else { "linear" }, x, classes)
    }

    fn stem(&self, l: &mut Layers, image: Value) -> Value {
        let (kernel, stride) = match self.stem {
            Stem::Cifar => (3, 1),
            Stem::Imagenet => (7, 2),
            Stem::Pointwise => (1, 1),
        };
        let x = l.conv("conv1", image, ConvSize { out: self.widths[0], kernel, stride });
        let x = l.bn_relu("bn1", x);
        if self.stem == Stem::Imagenet { l.graph.max_pool(x, Pool::square(3, 2, 1)) } else { x }
    }

    fn residual(&self, l: &mut Layers, name: &str, x: Value, (width, stride): (usize, usize)) -> Value {
        let out = width * self.block.expansion();
        let convs = self.block.convs(width, width * self.widen, stride);
        let mut y = x;
        for (i, &size) in convs.iter().enumerate() {
            let groups = if size.kernel == 3 { self.groups } else { 1 };
            y = l.conv_groups(&format!("{name}.conv{}", i + 1), y, size, groups);
            y = l.bn(&format!("{name}.bn{}", i + 1), y);
            if i + 1 < convs.len() {
                y = l.graph.relu(y);
            }
        }
        let side = self.side(l, name, x, ConvSize { out, kernel: 1, stride });
        let sum = l.graph.add(y, side);
        l.graph.relu(sum)
    }

    /// The other way around a block.
    fn side(&self, l: &mut Layers, name: &str, x: Value, size: ConvSize) -> Value {
        let c = l.channels(x);
        if size.stride == 1 && c == size.out {
            return x;
        }
        match self.shortcut {
            Shortcut::Conv => {
                let key = if self.names == Names::Torchvision { "downsample" } else { "shortcut" };
                let y = l.conv(&format!("{name}.{key}.0"), x, size);
                l.bn(&format!("{name}.{key}.1"), y)
            }
            Shortcut::Identity | Shortcut::Pad => {
                let before = (size.out - c) / 2;
                let after = size.out - c - before;
                l.graph.set_scope(&format!("{name}.shortcut"));
                l.graph.push(Op::SubsamplePad { stride: size.stride, before, after }, &[x])
            }
        }
    }
}
