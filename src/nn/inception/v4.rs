//! Inception v4 under timm's names: branches in the stem too, then four, seven and three blocks of one kind each.
//! Must not know weights.
//! Szegedy et al. 2016, <https://arxiv.org/abs/1602.07261>.

use super::{Branches, HALVE, Layer, Net, average, conv, rect, valid};
use crate::graph::Value;
use crate::nn::layers::Layers;

pub(super) fn build(net: &Branches, l: &mut Layers, image: Value, head: (usize, f32)) -> Net {
    let stem =
        [Layer::Unit(valid("features.0", 32, 3, 2)), Layer::Unit(valid("features.1", 32, 3, 1)), conv("features.2", 64, 3)];
    let mut x = net.chain(l, "", image, &stem);
    x = net.block(l, "features.3", x, &[&[Layer::Max(HALVE)], &[Layer::Unit(valid("conv", 96, 3, 2))]]);
    let short = [conv("branch0.0", 64, 1), Layer::Unit(valid("branch0.1", 96, 3, 1))];
    let long =
        [conv("branch1.0", 64, 1), flat("branch1.1", 64), tall("branch1.2", 64), Layer::Unit(valid("branch1.3", 96, 3, 1))];
    x = net.block(l, "features.4", x, &[&short, &long]);
    x = net.block(l, "features.5", x, &[&[Layer::Unit(valid("conv", 192, 3, 2))], &[Layer::Max(HALVE)]]);
    for index in 6..10 {
        x = threes(net, l, index, x);
    }
    let double = [conv("branch1.0", 192, 1), conv("branch1.1", 224, 3), Layer::Unit(valid("branch1.2", 256, 3, 2))];
    x = net.block(l, "features.10", x, &[&[Layer::Unit(valid("branch0", 384, 3, 2))], &double, &[Layer::Max(HALVE)]]);
    for index in 11..18 {
        x = sevens(net, l, index, x);
    }
    let three = [conv("branch0.0", 192, 1), Layer::Unit(valid("branch0.1", 192, 3, 2))];
    let seven =
        [conv("branch1.0", 256, 1), flat("branch1.1", 256), tall("branch1.2", 320), Layer::Unit(valid("branch1.3", 320, 3, 2))];
    x = net.block(l, "features.18", x, &[&three, &seven, &[Layer::Max(HALVE)]]);
    for index in 19..22 {
        x = forks(net, l, index, x);
    }
    net.head(l, "last_linear", x, head)
}

const fn flat(name: &'static str, out: usize) -> Layer {
    Layer::Unit(rect(name, out, [1, 7]))
}

const fn tall(name: &'static str, out: usize) -> Layer {
    Layer::Unit(rect(name, out, [7, 1]))
}

fn threes(net: &Branches, l: &mut Layers, index: usize, x: Value) -> Value {
    let branches: [&[Layer]; 4] = [
        &[conv("branch0", 96, 1)],
        &[conv("branch1.0", 64, 1), conv("branch1.1", 96, 3)],
        &[conv("branch2.0", 64, 1), conv("branch2.1", 96, 3), conv("branch2.2", 96, 3)],
        &[average(false), conv("branch3.1", 96, 1)],
    ];
    net.block(l, &format!("features.{index}"), x, &branches)
}

fn sevens(net: &Branches, l: &mut Layers, index: usize, x: Value) -> Value {
    let double = [
        conv("branch2.0", 192, 1),
        tall("branch2.1", 192),
        flat("branch2.2", 224),
        tall("branch2.3", 224),
        flat("branch2.4", 256),
    ];
    let branches: [&[Layer]; 4] = [
        &[conv("branch0", 384, 1)],
        &[conv("branch1.0", 192, 1), flat("branch1.1", 224), tall("branch1.2", 256)],
        &double,
        &[average(false), conv("branch3.1", 128, 1)],
    ];
    net.block(l, &format!("features.{index}"), x, &branches)
}

fn forks(net: &Branches, l: &mut Layers, index: usize, x: Value) -> Value {
    let single = Layer::Both(rect("branch1_1a", 256, [1, 3]), rect("branch1_1b", 256, [3, 1]));
    let double = [
        conv("branch2_0", 384, 1),
        Layer::Unit(rect("branch2_1", 448, [3, 1])),
        Layer::Unit(rect("branch2_2", 512, [1, 3])),
        Layer::Both(rect("branch2_3a", 256, [1, 3]), rect("branch2_3b", 256, [3, 1])),
    ];
    let branches: [&[Layer]; 4] =
        [&[conv("branch0", 256, 1)], &[conv("branch1_0", 384, 1), single], &double, &[average(false), conv("branch3.1", 256, 1)]];
    net.block(l, &format!("features.{index}"), x, &branches)
}
