//! MobileNet v1 and v2: a depthwise and a pointwise convolution in place of a full one; 224-pixel and CIFAR forms.
//! Must not know weights.
//! Howard et al. 2017, <https://arxiv.org/abs/1704.04861>; Sandler et al. 2018, <https://arxiv.org/abs/1801.04381>.

use super::inception::scaled;
use super::keys::{Checked, Keys};
use super::layers::{ConvSize, Layers};
use super::{Names, Net};
use crate::graph::{Conv, Value};

/// MobileNet v1.
#[derive(Clone, Debug, PartialEq)]
pub struct MobileNetV1 {
    /// Factor on all channels, rounded to multiples of 8.
    pub multiplier: f64,
    /// Timm's names, ReLU6 and a stem of stride 2, or kuangliu's names, ReLU and a stem of stride 1 for CIFAR.
    pub names: Names,
}

/// MobileNet v2: inverted residual blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct MobileNetV2 {
    /// Factor on all channels, rounded to multiples of 8.
    pub multiplier: f64,
    /// Torchvision's names for large images, or kuangliu's network for CIFAR: fewer strides, plain ReLU, projections.
    pub names: Names,
    /// Probability of dropping a feature before the last layer, in training.
    pub dropout: f32,
}

/// Channels and the first stride of each stage of v1, with its number of layers.
const V1: [(usize, usize, usize); 5] = [(64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6), (1024, 2, 2)];

/// Expansion, channels, blocks and first stride of each stage of v2.
const V2: [[usize; 4]; 7] =
    [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]];

fn depthwise(l: &mut Layers, name: &str, x: Value, stride: usize) -> Value {
    let c = l.channels(x);
    l.graph.conv2d(name, x, Conv { groups: c, ..Conv::square(c, c, 3, stride, 1) }, false)
}

fn pointwise(l: &mut Layers, name: &str, x: Value, out: usize) -> Value {
    l.conv(name, x, ConvSize { out, kernel: 1, stride: 1 })
}

impl MobileNetV1 {
    pub(super) fn from_keys(keys: &mut Keys) -> Checked<Self> {
        Ok(MobileNetV1 { multiplier: keys.multiplier()?, names: keys.names(&[Names::Timm, Names::Kuangliu])? })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let cifar = self.names == Names::Kuangliu;
        let active = |l: &mut Layers, name: &str, x| {
            let y = l.bn(name, x);
            if cifar { l.graph.relu(y) } else { l.graph.relu6(y) }
        };
        let (stem, stride) = if cifar { ("conv1", 1) } else { ("conv_stem", 2) };
        let mut x = l.conv(stem, image, ConvSize { out: scaled(32, self.multiplier), kernel: 3, stride });
        x = active(l, "bn1", x);
        let mut count = 0;
        for (stage, &(out, first, layers)) in V1.iter().enumerate() {
            for index in 0..layers {
                let stride = if index == 0 { first } else { 1 };
                let (name, dw, pw) = if cifar {
                    (format!("layers.{count}"), "conv1", "conv2")
                } else {
                    (format!("blocks.{stage}.{index}"), "conv_dw", "conv_pw")
                };
                x = depthwise(l, &format!("{name}.{dw}"), x, stride);
                x = active(l, &format!("{name}.bn1"), x);
                x = pointwise(l, &format!("{name}.{pw}"), x, scaled(out, self.multiplier));
                x = active(l, &format!("{name}.bn2"), x);
                count += 1;
            }
        }
        l.pooled_head(if cifar { "linear" } else { "classifier" }, x, classes)
    }
}

impl MobileNetV2 {
    pub(super) fn from_keys(keys: &mut Keys) -> Checked<Self> {
        let names = keys.names(&[Names::Torchvision, Names::Kuangliu])?;
        let dropout = keys.dropout()?.unwrap_or(if names == Names::Torchvision { 0.2 } else { 0.0 });
        Ok(MobileNetV2 { multiplier: keys.multiplier()?, names, dropout })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let cifar = self.names == Names::Kuangliu;
        let stem = ConvSize { out: scaled(32, self.multiplier), kernel: 3, stride: if cifar { 1 } else { 2 } };
        let mut x = l.conv(if cifar { "conv1" } else { "features.0.0" }, image, stem);
        x = self.active(l, if cifar { "bn1" } else { "features.0.1" }, x);
        let mut count = 0;
        for (stage, &[expansion, out, blocks, first]) in V2.iter().enumerate() {
            for index in 0..blocks {
                // Kuangliu's network leaves out the stride of the second stage.
                let stride = if index > 0 || (cifar && stage == 1) { 1 } else { first };
                let size = ConvSize { out: scaled(out, self.multiplier), kernel: expansion, stride };
                x = if cifar {
                    self.cifar_block(l, &format!("layers.{count}"), x, size)
                } else {
                    self.block(l, &format!("features.{}.conv", count + 1), x, size)
                };
                count += 1;
            }
        }
        // A narrower network keeps its features.
        let last = scaled(1280, self.multiplier.max(1.0));
        x = pointwise(l, if cifar { "conv2" } else { "features.18.0" }, x, last);
        x = self.active(l, if cifar { "bn2" } else { "features.18.1" }, x);
        let features = l.graph.global_avg_pool(x);
        let features = l.dropout(features, self.dropout);
        Net { logits: l.graph.linear(if cifar { "linear" } else { "classifier.1" }, features, classes, true), features }
    }

    fn active(&self, l: &mut Layers, name: &str, x: Value) -> Value {
        let y = l.bn(name, x);
        if self.names == Names::Kuangliu { l.graph.relu(y) } else { l.graph.relu6(y) }
    }

    /// Torchvision's block; `kernel` of the size is the expansion.
    fn block(&self, l: &mut Layers, name: &str, x: Value, size: ConvSize) -> Value {
        let (mut y, mut at) = (x, 0);
        if size.kernel > 1 {
            let out = l.channels(x) * size.kernel;
            y = pointwise(l, &format!("{name}.0.0"), y, out);
            y = self.active(l, &format!("{name}.0.1"), y);
            at = 1;
        }
        y = depthwise(l, &format!("{name}.{at}.0"), y, size.stride);
        y = self.active(l, &format!("{name}.{at}.1"), y);
        y = pointwise(l, &format!("{name}.{}", at + 1), y, size.out);
        y = l.bn(&format!("{name}.{}", at + 2), y);
        if size.stride == 1 && l.channels(x) == size.out { l.graph.add(y, x) } else { y }
    }

    /// Kuangliu's block, which expands by one too and projects where the channels change.
    fn cifar_block(&self, l: &mut Layers, name: &str, x: Value, size: ConvSize) -> Value {
        let inner = l.channels(x) * size.kernel;
        let mut y = pointwise(l, &format!("{name}.conv1"), x, inner);
        y = self.active(l, &format!("{name}.bn1"), y);
        y = depthwise(l, &format!("{name}.conv2"), y, size.stride);
        y = self.active(l, &format!("{name}.bn2"), y);
        y = pointwise(l, &format!("{name}.conv3"), y, size.out);
        y = l.bn(&format!("{name}.bn3"), y);
        if size.stride != 1 {
            return y;
        }
        let mut side = x;
        if l.channels(x) != size.out {
            side = pointwise(l, &format!("{name}.shortcut.0"), x, size.out);
            side = l.bn(&format!("{name}.shortcut.1"), side);
        }
        l.graph.add(y, side)
    }
}
