//! VGG: 3x3 convolutions and max-pools in a row, with or without batch norm, for 224 pixels and for CIFAR.
//! Must not know weights.
//! Simonyan and Zisserman 2014, <https://arxiv.org/abs/1409.1556>.

use serde::Deserialize;

use super::Net;
use super::keys::{Bad, Checked, Keys};
use super::layers::Layers;
use crate::graph::{Conv, Pool, Value};

/// Width of the hidden layers of [`Head::Mlp3`].
const HIDDEN: usize = 4096;
/// Side of the feature map that [`Head::Mlp3`] takes.
const MAP: usize = 7;

/// A stack of convolutions, named `features.N` by position as in a PyTorch `Sequential`, and a head.
#[derive(Clone, Debug, PartialEq)]
pub struct Vgg {
    /// Convolutions (each with bias and ReLU) and max-pools in order.
    pub layers: Vec<Layer>,
    /// Whether a batch norm follows each convolution.
    pub batch_norm: bool,
    /// What follows the stack.
    pub head: Head,
    /// Probability of dropping an element after each hidden layer of `mlp3`, in training.
    pub dropout: f32,
}

/// One entry of a VGG's `layers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// 3x3 convolution with so many output channels.
    Conv(usize),
    /// 2x2 max-pool with stride 2, written `"M"`.
    Pool,
}

/// What follows the stack of convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// Flatten and one linear layer `classifier`.
    Linear,
    /// Flatten a 7x7 map, `classifier.0`, `.3` (4096 wide, ReLU, dropout) and `.6`.
    Mlp3,
}

impl Vgg {
    pub(super) fn from_keys(keys: &mut Keys, [c, h, w]: [usize; 3]) -> Checked<Self> {
        let layers = keys.layers()?;
        let head = keys.head.take().unwrap_or(Head::Linear);
        let dropout = if head == Head::Mlp3 { keys.dropout()?.unwrap_or(0.5) } else { 0.0 };
        let pools = layers.iter().filter(|&&l| l == Layer::Pool).count() as u32;
        let input = format!("[{c}, {h}, {w}]");
        let (p, q) = (h.checked_shr(pools).unwrap_or(0), w.checked_shr(pools).unwrap_or(0));
        if p == 0 || q == 0 {
            let why = format!("{pools} max-pools halve the image to nothing");
            return Err(Bad::new("input", input, why).fix("leave out an \"M\" in `layers`, or use larger images"));
        }
        if head == Head::Mlp3 && (p, q) != (MAP, MAP) {
            let why = format!("`head = \"mlp3\"` takes a {MAP}x{MAP} map, the layers leave {p}x{q}");
            return Err(Bad::new("input", input, why).fix("use 224x224 images with five \"M\", or `head = \"linear\"`"));
        }
        Ok(Vgg { layers, batch_norm: keys.batch_norm.take().unwrap_or(false), head, dropout })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let mut x = image;
        let mut position = 0;
        for layer in &self.layers {
            match *layer {
                Layer::Conv(out) => {
                    let conv = Conv::square(l.channels(x), out, 3, 1, 1);
                    x = l.graph.conv2d(&format!("features.{position}"), x, conv, true);
                    if self.batch_norm {
                        x = l.bn(&format!("features.{}", position + 1), x);
                    }
                    x = l.graph.relu(x);
                    position += if self.batch_norm { 3 } else { 2 };
                }
                Layer::Pool => {
                    x = l.graph.max_pool(x, Pool::square(2, 2, 0));
                    position += 1;
                }
            }
        }
        self.head(l, x, classes)
    }

    fn head(&self, l: &mut Layers, x: Value, classes: usize) -> Net {
        let mut features = l.graph.flatten(x);
        if self.head == Head::Linear {
            return Net { logits: l.graph.linear("classifier", features, classes, true), features };
        }
        for name in ["classifier.0", "classifier.3"] {
            features = l.graph.linear(name, features, HIDDEN, true);
            features = l.graph.relu(features);
            features = l.dropout(features, self.dropout);
        }
        Net { logits: l.graph.linear("classifier.6", features, classes, true), features }
    }
}
