//! NASNet-A: cells found by search, each of five sums of separable convolutions and pools; names of timm.
//! Must not know weights.
//! Zoph et al. 2017, <https://arxiv.org/abs/1707.07012>.

use super::Net;
use super::keys::{Bad, Checked, Keys, MOST_CHANNELS};
use super::layers::Layers;
use crate::graph::{Conv, Op, Pool, Value};

/// The constant of every batch norm.
const BN_EPS: f32 = 1e-3;

/// Two stem cells, then stages of normal cells with a reduction cell between stages.
#[derive(Clone, Debug, PartialEq)]
pub struct NasNet {
    /// Normal cells of each stage.
    pub blocks: Vec<usize>,
    /// Channels of each sum in the first stage; every stage doubles them, the stem cells have a quarter and a half.
    pub width: usize,
    /// Channels of the first convolution.
    pub stem: usize,
    /// Probability of dropping a feature before the last layer, in training.
    pub dropout: f32,
}

impl NasNet {
    pub(super) fn from_keys(keys: &mut Keys, [c, h, w]: [usize; 3]) -> Checked<Self> {
        let blocks = keys.blocks()?;
        let width = keys.width.take().ok_or_else(|| Bad::missing("width", "width = 168"))?;
        if !width.is_multiple_of(4) || !(4..=MOST_CHANNELS >> 12).contains(&width) {
            let why = format!("must be a multiple of 4 between 4 and {}", MOST_CHANNELS >> 12);
            return Err(Bad::new("width", width, why).fix("write `width = 168` for NASNet-A large"));
        }
        let stem = keys.stem_width.take().unwrap_or(32);
        if !(1..=MOST_CHANNELS / 16).contains(&stem) {
            return Err(Bad::new("stem_width", stem, format!("channels must be between 1 and {}", MOST_CHANNELS / 16)));
        }
        if h.min(w) < 3 {
            return Err(Bad::new("input", format!("[{c}, {h}, {w}]"), "the first kernel is 3x3 without padding"));
        }
        Ok(NasNet { blocks, width, stem, dropout: keys.dropout()?.unwrap_or(0.5) })
    }

    pub(super) fn build(&self, l: &mut Layers, image: Value, classes: usize) -> Net {
        let first = Conv::square(l.channels(image), self.stem, 3, 2, 0);
        let x = l.graph.conv2d("conv0.conv", image, first, false);
        let stem = l.bn_eps("conv0.bn", x, BN_EPS);
        let main = act_conv_bn(l, "cell_stem_0.conv_1x1", stem, self.width / 4);
        let mut previous = reduction(l, "cell_stem_0", main, stem);
        let main = act_conv_bn(l, "cell_stem_1.conv_1x1", previous, self.width / 2);
        let other = factorised(l, "cell_stem_1", stem, self.width / 2);
        let mut x = reduction(l, "cell_stem_1", main, other);
        let mut count = 0;
        for (stage, &cells) in self.blocks.iter().enumerate() {
            let width = self.width << stage;
            if stage > 0 {
                let name = format!("reduction_cell_{}", stage - 1);
                let other = act_conv_bn(l, &format!("{name}.conv_prev_1x1"), previous, width);
                let main = act_conv_bn(l, &format!("{name}.conv_1x1"), x, width);
                // The next cell reads `previous` too, not what the reduction has read.
                x = reduction(l, &name, main, other);
            }
            for index in 0..cells {
                let name = format!("cell_{count}");
                let left = if index == 0 {
                    // From before the reduction, so twice as large.
                    factorised(l, &name, previous, width)
                } else {
                    act_conv_bn(l, &format!("{name}.conv_prev_1x1"), previous, width)
                };
                let right = act_conv_bn(l, &format!("{name}.conv_1x1"), x, width);
                (previous, x) = (x, normal(l, &name, left, right));
                count += 1;
            }
        }
        l.graph.set_scope("head");
        let x = l.graph.relu(x);
        let features = l.graph.global_avg_pool(x);
        let features = l.dropout(features, self.dropout);
        Net { logits: l.graph.linear("last_linear", features, classes, true), features }
    }
}

fn act_conv_bn(l: &mut Layers, name: &str, x: Value, out: usize) -> Value {
    l.graph.set_scope(name);
    let x = l.graph.relu(x);
    let y = l.graph.conv2d(&format!("{name}.conv"), x, Conv::square(l.channels(x), out, 1, 1, 0), false);
    l.bn_eps(&format!("{name}.bn"), y, BN_EPS)
}

/// Half of the size: 1x1 convolutions with half of the channels each on every second pixel, and on those one further down
/// and to the right.
fn factorised(l: &mut Layers, name: &str, x: Value, out: usize) -> Value {
    l.graph.set_scope(name);
    let x = l.graph.relu(x);
    let (h, w, c) = l.graph.shape(x).hwc();
    let half = Conv::square(c, out / 2, 1, 2, 0);
    let straight = l.graph.conv2d(&format!("{name}.path_1.conv"), x, half, false);
    let moved = l.graph.window(x, [1, 1], [h, w], 0.0);
    let moved = l.graph.conv2d(&format!("{name}.path_2.conv"), moved, half, false);
    let both = l.graph.concat(&[straight, moved]);
    l.bn_eps(&format!("{name}.final_path_bn"), both, BN_EPS)
}

/// Five sums of `left` and `right`, joined behind `left`; keeps the size.
fn normal(l: &mut Layers, name: &str, left: Value, right: Value) -> Value {
    let part = |part: &str| format!("{name}.comb_iter_{part}");
    let out = l.channels(left);
    let a = separable(l, &part("0_left"), right, (out, 5, 1));
    let b = separable(l, &part("0_right"), left, (out, 3, 1));
    let zero = l.graph.add(a, b);
    let a = separable(l, &part("1_left"), left, (out, 5, 1));
    let b = separable(l, &part("1_right"), left, (out, 3, 1));
    let one = l.graph.add(a, b);
    let average = Pool { count_pad: false, ..Pool::square(3, 1, 1) };
    let a = l.graph.avg_pool(right, average);
    let two = l.graph.add(a, left);
    // The published cell adds the average of `left` to itself.
    let a = l.graph.avg_pool(left, average);
    let three = l.graph.push(Op::Scale { factor: 2.0 }, &[a]);
    let a = separable(l, &part("4_left"), right, (out, 3, 1));
    let four = l.graph.add(a, right);
    l.graph.set_scope(name);
    l.graph.concat(&[left, zero, one, two, three, four])
}

/// Five sums of `main` and `other`, of which four are joined; halves the size. The result has four times the channels of
/// `main`.
fn reduction(l: &mut Layers, name: &str, main: Value, other: Value) -> Value {
    let part = |part: &str| format!("{name}.comb_iter_{part}");
    let out = l.channels(main);
    let a = separable(l, &part("0_left"), main, (out, 5, 2));
    let b = separable(l, &part("0_right"), other, (out, 7, 2));
    let zero = l.graph.add(a, b);
    let (padded, pad) = same(l, main, (3, 2), f32::NEG_INFINITY);
    let largest = l.graph.max_pool(padded, Pool { pad, ..Pool::square(3, 2, 0) });
    let b = separable(l, &part("1_right"), other, (out, 7, 2));
    let one = l.graph.add(largest, b);
    // Padding counts here, but not in averages that keep the size.
    let (padded, pad) = same(l, main, (3, 2), 0.0);
    let a = l.graph.avg_pool(padded, Pool { pad, ..Pool::square(3, 2, 0) });
    let b = separable(l, &part("2_right"), other, (out, 5, 2));
    let two = l.graph.add(a, b);
    let a = l.graph.avg_pool(zero, Pool { count_pad: false, ..Pool::square(3, 1, 1) });
    let three = l.graph.add(a, one);
    let a = separable(l, &part("4_left"), zero, (out, 3, 1));
    let four = l.graph.add(a, largest);
    l.graph.set_scope(name);
    l.graph.concat(&[one, two, three, four])
}

/// Twice: ReLU, depthwise, pointwise, batch norm; the first of the two has the stride.
fn separable(l: &mut Layers, name: &str, x: Value, (out, kernel, stride): (usize, usize, usize)) -> Value {
    let mut x = x;
    for (index, stride) in [(1, stride), (2, 1)] {
        l.graph.set_scope(name);
        x = l.graph.relu(x);
        let c = l.channels(x);
        let (padded, pad) = same(l, x, (kernel, stride), 0.0);
        let deep = Conv { groups: c, pad, ..Conv::square(c, c, kernel, stride, 0) };
        x = l.graph.conv2d(&format!("{name}.separable_{index}.depthwise_conv2d"), padded, deep, false);
        let flat = Conv::square(c, out, 1, 1, 0);
        x = l.graph.conv2d(&format!("{name}.separable_{index}.pointwise_conv2d"), x, flat, false);
        x = l.bn_eps(&format!("{name}.bn_sep_{index}"), x, BN_EPS);
    }
    x
}

/// TensorFlow's `same` padding, with the odd row below and the odd column on the right: what is left for the kernel to pad,
/// after `x` itself has been padded where the two sides differ.
fn same(l: &mut Layers, x: Value, (kernel, stride): (usize, usize), fill: f32) -> (Value, [usize; 2]) {
    let (h, w, _) = l.graph.shape(x).hwc();
    let [down, right] = [h, w].map(|size| ((size.div_ceil(stride) - 1) * stride + kernel).saturating_sub(size));
    if down.is_multiple_of(2) && right.is_multiple_of(2) {
        return (x, [down / 2, right / 2]);
    }
    let from = [-((down / 2) as isize), -((right / 2) as isize)];
    (l.graph.window(x, from, [h + down, w + right], fill), [0, 0])
}
