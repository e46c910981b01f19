//! The Inception family: blocks of parallel branches whose results are joined along channels.
//! Must not know weights.
//! Szegedy et al. 2014 to 2016, <https://arxiv.org/abs/1409.4842>, <https://arxiv.org/abs/1512.00567>, <https://arxiv.org/abs/1602.07261>.

mod bn;
mod resnet;
mod v1;
mod v3;
mod v4;

use super::Net;
use super::keys::{Bad, Checked, Keys};
use super::layers::Layers;
use crate::graph::{Conv, Pool, Value};

/// A network of the family; the tables of channels are the published ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Inception {
    /// Which of them.
    pub version: InceptionVersion,
    /// Factor on all channels, rounded to multiples of 8; 1 is the published network.
    pub multiplier: f64,
    /// Probability of dropping a feature before the last layer, in training.
    pub dropout: f32,
}

/// The networks of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InceptionVersion {
    /// GoogLeNet with batch norms, names of torchvision.
    V1,
    /// GoogLeNet for CIFAR (3x3 stem), names of kuangliu/pytorch-cifar.
    V1Cifar,
    /// BN-Inception, also called v2, names of Cadene's collection. Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>.
    Bn,
    /// Factorised kernels, names of torchvision.
    V3,
    /// Deeper, with branches in its stem, names of timm.
    V4,
    /// Residual blocks whose branches are scaled down before they are added, names of timm.
    ResNetV2,
}

impl InceptionVersion {
    pub(super) fn name(self) -> &'static str {
        match self {
            InceptionVersion::V1 | InceptionVersion::V1Cifar => "googlenet",
            InceptionVersion::Bn => "bn_inception",
            InceptionVersion::V3 => "inception_v3",
            InceptionVersion::V4 => "inception_v4",
            InceptionVersion::ResNetV2 => "inception_resnet_v2",
        }
    }
}

impl Inception {
    pub(super) fn from_keys(keys: &mut Keys, version: InceptionVersion, [c, h, w]: [usize; 3]) -> Checked<Self> {
        let input = || format!("[{c}, {h}, {w}]");
        let least = match version {
            InceptionVersion::V1Cifar => 8,
            InceptionVersion::V1 | InceptionVersion::Bn => 32,
            InceptionVersion::V3 | InceptionVersion::V4 | InceptionVersion::ResNetV2 => 75,
        };
        if h.min(w) < least {
            let why = format!("this network halves images too often for less than {least} pixels a side");
            return Err(Bad::new("input", input(), why).fix(format!("use images of at least {least}x{least}")));
        }
        if version == InceptionVersion::Bn && !(h.is_multiple_of(32) && w.is_multiple_of(32)) {
            let why = "the branches of this network agree only where both sides are multiples of 32";
            return Err(Bad::new("input", input(), why).fix("use `input = [3, 224, 224]`"));
        }
        let dropout = match version {
            InceptionVersion::V1 | InceptionVersion::Bn | InceptionVersion::V4 | InceptionVersion::ResNetV2 => 0.2,
            InceptionVersion::V3 => 0.5,
            InceptionVersion::V1Cifar => 0.0,
        };
        Ok(Inception { version, multiplier: keys.multiplier()?, dropout: keys.dropout()?.unwrap_or(dropout) })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let net = |eps, style| Branches { eps, style, multiplier: self.multiplier };
        let head = (classes, self.dropout);
        match self.version {
            InceptionVersion::V1 => v1::build(&net(1e-3, Style::Nested), l, image, head),
            InceptionVersion::V1Cifar => v1::build_cifar(&net(1e-5, Style::Counted), l, image, head),
            InceptionVersion::Bn => bn::build(&net(1e-5, Style::Flat), l, image, head),
            InceptionVersion::V3 => v3::build(&net(1e-3, Style::Nested), l, image, head),
            InceptionVersion::V4 => v4::build(&net(1e-3, Style::Nested), l, image, head),
            InceptionVersion::ResNetV2 => resnet::build(&net(1e-3, Style::Nested), l, image, head),
        }
    }
}

/// How a convolution and its batch norm are named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `NAME.conv`, `NAME.bn`.
    Nested,
    /// `NAME` with a bias, `NAME_bn`; blocks and layers are joined by an underscore.
    Flat,
    /// `PATH.N` with a bias, `PATH.N+1`.
    Counted,
}

/// What all blocks of one network share.
struct Branches {
    eps: f32,
    style: Style,
    multiplier: f64,
}

/// One layer of a branch.
#[derive(Clone, Copy)]
enum Layer {
    /// Convolution, batch norm and ReLU.
    Unit(Unit),
    /// Two layers side by side on one source, joined.
    Both(Unit, Unit),
    Max(Pool),
    Avg(Pool),
}

/// A convolution with its name inside the block.
#[derive(Clone, Copy)]
struct Unit {
    name: &'static str,
    out: usize,
    kernel: [usize; 2],
    stride: usize,
    pad: [usize; 2],
}

/// A square kernel of stride 1 that keeps the size of the map.
const fn unit(name: &'static str, out: usize, kernel: usize) -> Unit {
    rect(name, out, [kernel, kernel])
}

/// The same with a kernel of any shape.
const fn rect(name: &'static str, out: usize, kernel: [usize; 2]) -> Unit {
    Unit { name, out, kernel, stride: 1, pad: [kernel[0] / 2, kernel[1] / 2] }
}

/// A square kernel without padding.
const fn valid(name: &'static str, out: usize, kernel: usize, stride: usize) -> Unit {
    Unit { name, out, kernel: [kernel, kernel], stride, pad: [0, 0] }
}

const fn conv(name: &'static str, out: usize, kernel: usize) -> Layer {
    Layer::Unit(unit(name, out, kernel))
}

/// Average of 3x3, stride 1; `count` says whether padding counts.
const fn average(count: bool) -> Layer {
    Layer::Avg(Pool { kernel: [3, 3], stride: [1, 1], pad: [1, 1], ceil: false, count_pad: count })
}

/// Maximum of 3x3 without padding, stride 2.
const HALVE: Pool = Pool { kernel: [3, 3], stride: [2, 2], pad: [0, 0], ceil: false, count_pad: true };

impl Branches {
    /// Convolution, batch norm, ReLU.
    fn unit(&self, l: &mut Layers, name: &str, x: Value, unit: Unit) -> Value {
        let conv = Conv {
            kernel: unit.kernel,
            stride: [unit.stride; 2],
            pad: unit.pad,
            ..Conv::square(l.channels(x), scaled(unit.out, self.multiplier), 1, 1, 0)
        };
        let (of_conv, of_bn) = match self.style {
            Style::Nested => (format!("{name}.conv"), format!("{name}.bn")),
            Style::Flat => (name.to_string(), format!("{name}_bn")),
            Style::Counted => (name.to_string(), next(name)),
        };
        let y = l.graph.conv2d(&of_conv, x, conv, self.style != Style::Nested);
        let y = l.bn_eps(&of_bn, y, self.eps);
        l.graph.relu(y)
    }

    /// The name of a layer inside a block.
    fn name(&self, block: &str, layer: &str) -> String {
        match (block, self.style) {
            ("", _) => layer.to_string(),
            (_, Style::Flat) => format!("{block}_{layer}"),
            _ => format!("{block}.{layer}"),
        }
    }

    fn layer(&self, l: &mut Layers, block: &str, x: Value, layer: &Layer) -> Value {
        match *layer {
            Layer::Unit(unit) => self.unit(l, &self.name(block, unit.name), x, unit),
            Layer::Both(a, b) => {
                let both = [a, b].map(|u| self.unit(l, &self.name(block, u.name), x, u));
                l.graph.concat(&both)
            }
            Layer::Max(pool) => l.graph.max_pool(x, pool),
            Layer::Avg(pool) => l.graph.avg_pool(x, pool),
        }
    }

    /// Layers one after the other.
    fn chain(&self, l: &mut Layers, block: &str, x: Value, layers: &[Layer]) -> Value {
        layers.iter().fold(x, |x, layer| self.layer(l, block, x, layer))
    }

    /// Every branch on `x`, joined in order; an empty branch is `x` itself.
    fn block(&self, l: &mut Layers, name: &str, x: Value, branches: &[&[Layer]]) -> Value {
        let ends: Vec<Value> = branches.iter().map(|layers| self.chain(l, name, x, layers)).collect();
        l.graph.set_scope(name);
        l.graph.concat(&ends)
    }

    /// Global average, dropout, linear layer.
    fn head(&self, l: &mut Layers, name: &str, x: Value, (classes, dropout): (usize, f32)) -> Net {
        l.graph.set_scope("pool");
        let features = l.graph.global_avg_pool(x);
        let features = l.dropout(features, dropout);
        Net { logits: l.graph.linear(name, features, classes, true), features }
    }
}

/// `channels` times `multiplier`, to the nearest multiple of 8 and at least 8, but never below nine tenths of the product.
pub(super) fn scaled(channels: usize, multiplier: f64) -> usize {
    if multiplier == 1.0 {
        return channels;
    }
    let wanted = channels as f64 * multiplier;
    let near = ((wanted + 4.0) as usize / 8 * 8).max(8);
    if (near as f64) < 0.9 * wanted { near + 8 } else { near }
}

/// The layer after `PATH.N`.
fn next(name: &str) -> String {
    let (path, number) = name.rsplit_once('.').expect("counted layers end in a number");
    let number: usize = number.parse().expect("counted layers end in a number");
    format!("{path}.{}", number + 1)
}
