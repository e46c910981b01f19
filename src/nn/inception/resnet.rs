//! Inception-ResNet v2 under timm's names: branches are joined, projected, scaled down and added to their source.
//! Must not know weights.
//! Szegedy et al. 2016, <https://arxiv.org/abs/1602.07261>.

use super::{Branches, HALVE, Layer, Net, average, conv, rect, valid};
use crate::graph::{Conv, Op, Value};
use crate::nn::layers::Layers;

pub(super) fn build(net: &Branches, l: &mut Layers, image: Value, head: (usize, f32)) -> Net {
    let stem = [
        Layer::Unit(valid("conv2d_1a", 32, 3, 2)),
        Layer::Unit(valid("conv2d_2a", 32, 3, 1)),
        conv("conv2d_2b", 64, 3),
        Layer::Max(HALVE),
        conv("conv2d_3b", 80, 1),
        Layer::Unit(valid("conv2d_4a", 192, 3, 1)),
        Layer::Max(HALVE),
    ];
    let mut x = net.chain(l, "", image, &stem);
    let branches: [&[Layer]; 4] = [
        &[conv("branch0", 96, 1)],
        &[conv("branch1.0", 48, 1), conv("branch1.1", 64, 5)],
        &[conv("branch2.0", 64, 1), conv("branch2.1", 96, 3), conv("branch2.2", 96, 3)],
        &[average(false), conv("branch3.1", 64, 1)],
    ];
    x = net.block(l, "mixed_5b", x, &branches);
    let threes: [&[Layer]; 3] = [
        &[conv("branch0", 32, 1)],
        &[conv("branch1.0", 32, 1), conv("branch1.1", 32, 3)],
        &[conv("branch2.0", 32, 1), conv("branch2.1", 48, 3), conv("branch2.2", 64, 3)],
    ];
    for index in 0..10 {
        x = residual(net, l, &format!("repeat.{index}"), x, &threes, (0.17, true));
    }
    let double = [conv("branch1.0", 256, 1), conv("branch1.1", 256, 3), Layer::Unit(valid("branch1.2", 384, 3, 2))];
    x = net.block(l, "mixed_6a", x, &[&[Layer::Unit(valid("branch0", 384, 3, 2))], &double, &[Layer::Max(HALVE)]]);
    for index in 0..20 {
        x = residual(net, l, &format!("repeat_1.{index}"), x, &factored(128, 160, 192, 7), (0.1, true));
    }
    let branches: [&[Layer]; 4] = [
        &[conv("branch0.0", 256, 1), Layer::Unit(valid("branch0.1", 384, 3, 2))],
        &[conv("branch1.0", 256, 1), Layer::Unit(valid("branch1.1", 288, 3, 2))],
        &[conv("branch2.0", 256, 1), conv("branch2.1", 288, 3), Layer::Unit(valid("branch2.2", 320, 3, 2))],
        &[Layer::Max(HALVE)],
    ];
    x = net.block(l, "mixed_7a", x, &branches);
    for index in 0..9 {
        x = residual(net, l, &format!("repeat_2.{index}"), x, &factored(192, 224, 256, 3), (0.2, true));
    }
    x = residual(net, l, "block8", x, &factored(192, 224, 256, 3), (1.0, false));
    x = net.chain(l, "", x, &[conv("conv2d_7b", 1536, 1)]);
    net.head(l, "classif", x, head)
}

/// 1x1 beside a kernel in two factors.
fn factored(first: usize, second: usize, third: usize, kernel: usize) -> [Vec<Layer>; 2] {
    let flat = Layer::Unit(rect("branch1.1", second, [1, kernel]));
    let tall = Layer::Unit(rect("branch1.2", third, [kernel, 1]));
    [vec![conv("branch0", 192, 1)], vec![conv("branch1.0", first, 1), flat, tall]]
}

/// `relu(x + factor * project(branches(x)))`; the last block has no ReLU.
fn residual(
    net: &Branches,
    l: &mut Layers,
    name: &str,
    x: Value,
    branches: &[impl AsRef<[Layer]>],
    (factor, relu): (f32, bool),
) -> Value {
    let branches: Vec<&[Layer]> = branches.iter().map(AsRef::as_ref).collect();
    let joined = net.block(l, name, x, &branches);
    let project = Conv::square(l.channels(joined), l.channels(x), 1, 1, 0);
    let mut y = l.graph.conv2d(&format!("{name}.conv2d"), joined, project, true);
    if factor != 1.0 {
        y = l.graph.push(Op::Scale { factor }, &[y]);
    }
    let sum = l.graph.add(y, x);
    if relu { l.graph.relu(sum) } else { sum }
}
