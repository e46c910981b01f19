//! Densely connected networks: every layer reads all before it; 224-pixel and CIFAR forms.
//! Must not know weights.
//! Huang et al. 2016, <https://arxiv.org/abs/1608.06993>.

use super::keys::{Bad, Checked, Keys, MOST_CHANNELS};
use super::layers::{ConvSize, Layers};
use super::{Names, Net};
use crate::graph::{Pool, Value};

/// Dense blocks with half-width transitions between them.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseNet {
    /// Layers of each dense block.
    pub blocks: Vec<usize>,
    /// Channels that each layer adds.
    pub growth: usize,
    /// Torchvision's names and 7x7 stem for large images, or kuangliu's and a 3x3 stem for CIFAR.
    pub names: Names,
}

impl DenseNet {
    pub(super) fn from_keys(keys: &mut Keys, [c, h, w]: [usize; 3]) -> Checked<Self> {
        let blocks = keys.blocks()?;
        let growth = keys.growth.take().ok_or_else(|| Bad::missing("growth", "growth = 32"))?;
        if !(1..=MOST_CHANNELS / 1024).contains(&growth) || blocks.iter().sum::<usize>() * growth > MOST_CHANNELS / 16 {
            let why = format!("layers must add 1 to {} channels, {} in all", MOST_CHANNELS / 1024, MOST_CHANNELS / 16);
            return Err(Bad::new("growth", growth, why));
        }
        let names = keys.names(&[Names::Torchvision, Names::Kuangliu])?;
        let halvings = blocks.len() - 1 + if names == Names::Torchvision { 2 } else { 0 };
        if h.min(w) >> halvings == 0 {
            let why = format!("{halvings} halvings leave nothing of the image");
            return Err(Bad::new("input", format!("[{c}, {h}, {w}]"), why).fix("use fewer `blocks`, or larger images"));
        }
        Ok(DenseNet { blocks, growth, names })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let large = self.names == Names::Torchvision;
        let mut x = self.stem(l, image);
        for (index, &layers) in self.blocks.iter().enumerate() {
            for layer in 0..layers {
                let name = if large {
                    format!("features.denseblock{}.denselayer{}.", index + 1, layer + 1)
                } else {
                    format!("dense{}.{layer}.", index + 1)
                };
                x = self.layer(l, &name, x);
            }
            if index + 1 < self.blocks.len() {
                let name = if large { format!("features.transition{}.", index + 1) } else { format!("trans{}.", index + 1) };
                let active = l.bn_relu(&format!("{name}{}", if large { "norm" } else { "bn" }), x);
                let size = ConvSize { out: l.channels(x) / 2, kernel: 1, stride: 1 };
                let y = l.conv(&format!("{name}conv"), active, size);
                x = l.graph.avg_pool(y, Pool::square(2, 2, 0));
            }
        }
        let x = l.bn_relu(if large { "features.norm5" } else { "bn" }, x);
        l.pooled_head(if large { "classifier" } else { "linear" }, x, classes)
    }

    /// Twice the growth.
    fn stem(&self, l: &mut Layers, image: Value) -> Value {
        let size = |kernel, stride| ConvSize { out: 2 * self.growth, kernel, stride };
        if self.names == Names::Kuangliu {
            return l.conv("conv1", image, size(3, 1));
        }
        let x = l.conv("features.conv0", image, size(7, 2));
        let x = l.bn_relu("features.norm0", x);
        l.graph.max_pool(x, Pool::square(3, 2, 1))
    }

    /// 1x1 to four times the growth, 3x3 to the growth, each after batch norm and ReLU; joined to its source: behind it in
    /// torchvision's code, in front of it in kuangliu's.
    fn layer(&self, l: &mut Layers, name: &str, x: Value) -> Value {
        let norm = if self.names == Names::Torchvision { "norm" } else { "bn" };
        let active = l.bn_relu(&format!("{name}{norm}1"), x);
        let y = l.conv(&format!("{name}conv1"), active, ConvSize { out: 4 * self.growth, kernel: 1, stride: 1 });
        let active = l.bn_relu(&format!("{name}{norm}2"), y);
        let y = l.conv(&format!("{name}conv2"), active, ConvSize { out: self.growth, kernel: 3, stride: 1 });
        l.graph.concat(&if self.names == Names::Torchvision { [x, y] } else { [y, x] })
    }
}
