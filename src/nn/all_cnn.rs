//! All-CNN-C: convolutions alone, strided ones in place of pools.
//! Must not know weights.
//! Springenberg et al. 2014, <https://arxiv.org/abs/1412.6806>.

use super::Net;
use super::inception::scaled;
use super::keys::{Bad, Checked, Keys};
use super::layers::Layers;
use crate::graph::{Conv, Value};

/// Nine convolutions named `features.N` by position as in a PyTorch `Sequential`; the last is the head `classifier`.
#[derive(Clone, Debug, PartialEq)]
pub struct AllCnn {
    /// Factor on all channels, rounded to multiples of 8.
    pub multiplier: f64,
    /// Whether a batch norm follows each convolution.
    pub batch_norm: bool,
    /// Probability of dropping an element after each strided convolution, in training; of a pixel of the image 0.4 times
    /// as large.
    pub dropout: f32,
}

/// Output channels, kernel, stride, padding.
const LAYERS: [[usize; 4]; 8] =
    [[96, 3, 1, 1], [96, 3, 1, 1], [96, 3, 2, 1], [192, 3, 1, 1], [192, 3, 1, 1], [192, 3, 2, 1], [192, 3, 1, 0], [192, 1, 1, 0]];

impl AllCnn {
    pub(super) fn from_keys(keys: &mut Keys, [c, h, w]: [usize; 3]) -> Checked<Self> {
        if h.min(w) < 9 {
            let why = "two halvings and a kernel of 3x3 leave nothing of the image";
            return Err(Bad::new("input", format!("[{c}, {h}, {w}]"), why).fix("use images of at least 9x9"));
        }
        let (multiplier, batch_norm) = (keys.multiplier()?, keys.batch_norm.take().unwrap_or(false));
        Ok(AllCnn { multiplier, batch_norm, dropout: keys.dropout()?.unwrap_or(0.5) })
    }

    /// The 1x1 head is linear, so it is applied to the mean of the map in place of each pixel: the same logits.
    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let mut x = l.dropout(image, 0.4 * self.dropout);
        let mut position = 0;
        for [out, kernel, stride, pad] in LAYERS {
            let conv = Conv::square(l.channels(x), scaled(out, self.multiplier), kernel, stride, pad);
            x = l.graph.conv2d(&format!("features.{position}"), x, conv, true);
            if self.batch_norm {
                x = l.bn(&format!("features.{}", position + 1), x);
            }
            x = l.graph.relu(x);
            position += if self.batch_norm { 3 } else { 2 };
            if stride > 1 {
                x = l.dropout(x, self.dropout);
                position += 1;
            }
        }
        l.pooled_conv_head("classifier", x, classes)
    }
}
