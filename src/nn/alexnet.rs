//! AlexNet: torchvision's single tower, and the network of 2012 with groups and local response norms.
//! Must not know weights.
//! Krizhevsky et al. 2012, <https://papers.nips.cc/paper/4824>; Krizhevsky 2014, <https://arxiv.org/abs/1404.5997>.

use super::Net;
use super::keys::{Bad, Checked, Keys, Variant};
use super::layers::Layers;
use crate::graph::{Conv, Pool, Value};

/// Width of the two hidden layers.
const HIDDEN: usize = 4096;
/// Side of the last feature map.
const MAP: usize = 6;

/// Five convolutions and three linear layers, named by position as in a PyTorch `Sequential`.
#[derive(Clone, Debug, PartialEq)]
pub struct AlexNet {
    /// Which of the two.
    pub variant: AlexVariant,
    /// Probability of dropping an element before each hidden layer, in training.
    pub dropout: f32,
}

/// The two networks of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlexVariant {
    /// One tower, 64 channels first, no response norms; names of torchvision.
    Torchvision,
    /// 96 channels first, two groups in three of the convolutions, a response norm before the first two pools.
    Original,
}

const VARIANTS: [(Variant, AlexVariant); 2] =
    [(Variant::Torchvision, AlexVariant::Torchvision), (Variant::Original, AlexVariant::Original)];

/// Output channels, side of the kernel, stride, padding, groups, and whether a response norm and a pool follow.
struct Row(usize, usize, usize, usize, usize, bool, bool);

const TORCHVISION: [Row; 5] = [
    Row(64, 11, 4, 2, 1, false, true),
    Row(192, 5, 1, 2, 1, false, true),
    Row(384, 3, 1, 1, 1, false, false),
    Row(256, 3, 1, 1, 1, false, false),
    Row(256, 3, 1, 1, 1, false, true),
];
const ORIGINAL: [Row; 5] = [
    Row(96, 11, 4, 0, 1, true, true),
    Row(256, 5, 1, 2, 2, true, true),
    Row(384, 3, 1, 1, 1, false, false),
    Row(384, 3, 1, 1, 2, false, false),
    Row(256, 3, 1, 1, 2, false, true),
];

impl AlexNet {
    pub(super) fn from_keys(keys: &mut Keys, [c, h, w]: [usize; 3]) -> Checked<Self> {
        let variant = keys.variant(&VARIANTS)?;
        let net = AlexNet { variant, dropout: keys.dropout()?.unwrap_or(0.5) };
        if [h, w].iter().any(|&side| net.map(side) != Some(MAP)) {
            let fits = if variant == AlexVariant::Torchvision { 224 } else { 227 };
            let why = format!("the layers must leave a map of {MAP}x{MAP}");
            return Err(Bad::new("input", format!("[{c}, {h}, {w}]"), why).fix(format!("use `input = [3, {fits}, {fits}]`")));
        }
        Ok(net)
    }

    fn rows(&self) -> &'static [Row; 5] {
        if self.variant == AlexVariant::Torchvision { &TORCHVISION } else { &ORIGINAL }
    }

    /// Side of the last map for images of `side` pixels.
    fn map(&self, side: usize) -> Option<usize> {
        self.rows().iter().try_fold(side, |side, &Row(_, kernel, stride, pad, _, _, pooled)| {
            let out = (side + 2 * pad).checked_sub(kernel)? / stride + 1;
            if pooled { Some(out.checked_sub(3)? / 2 + 1) } else { Some(out) }
        })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let mut x = image;
        let mut position = 0;
        for &Row(out, kernel, stride, pad, groups, normed, pooled) in self.rows() {
            let conv = Conv { groups, ..Conv::square(l.channels(x), out, kernel, stride, pad) };
            x = l.graph.conv2d(&format!("features.{position}"), x, conv, true);
            x = l.graph.relu(x);
            if normed {
                x = l.graph.local_response_norm(x, 5, 1e-4, 0.75, 1.0);
            }
            if pooled {
                x = l.graph.max_pool(x, Pool::square(3, 2, 0));
            }
            position += 2 + usize::from(normed) + usize::from(pooled);
        }
        let mut features = l.graph.flatten(x);
        for name in ["classifier.1", "classifier.4"] {
            features = l.dropout(features, self.dropout);
            features = l.graph.linear(name, features, HIDDEN, true);
            features = l.graph.relu(features);
        }
        Net { logits: l.graph.linear("classifier.6", features, classes, true), features }
    }
}
