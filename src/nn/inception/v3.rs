//! Inception v3 under torchvision's names: 7x7 kernels as 1x7 and 7x1, 3x3 as 1x3 beside 3x1.
//! Must not know weights.
//! Szegedy et al. 2015, <https://arxiv.org/abs/1512.00567>.

use super::{Branches, HALVE, Layer, Net, average, conv, rect, unit, valid};
use crate::graph::Value;
use crate::nn::layers::Layers;

pub(super) fn build(net: &Branches, l: &mut Layers, image: Value, head: (usize, f32)) -> Net {
    let stem = [
        Layer::Unit(valid("Conv2d_1a_3x3", 32, 3, 2)),
        Layer::Unit(valid("Conv2d_2a_3x3", 32, 3, 1)),
        conv("Conv2d_2b_3x3", 64, 3),
        Layer::Max(HALVE),
        conv("Conv2d_3b_1x1", 80, 1),
        Layer::Unit(valid("Conv2d_4a_3x3", 192, 3, 1)),
        Layer::Max(HALVE),
    ];
    let mut x = net.chain(l, "", image, &stem);
    for (name, pool) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        x = fives(net, l, name, x, pool);
    }
    let double = [conv("branch3x3dbl_1", 64, 1), conv("branch3x3dbl_2", 96, 3), Layer::Unit(valid("branch3x3dbl_3", 96, 3, 2))];
    let single = [Layer::Unit(valid("branch3x3", 384, 3, 2))];
    x = net.block(l, "Mixed_6a", x, &[&single, &double, &[Layer::Max(HALVE)]]);
    for (name, inner) in [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)] {
        x = sevens(net, l, name, x, inner);
    }
    let three = [conv("branch3x3_1", 192, 1), Layer::Unit(valid("branch3x3_2", 320, 3, 2))];
    let seven = [
        conv("branch7x7x3_1", 192, 1),
        Layer::Unit(rect("branch7x7x3_2", 192, [1, 7])),
        Layer::Unit(rect("branch7x7x3_3", 192, [7, 1])),
        Layer::Unit(valid("branch7x7x3_4", 192, 3, 2)),
    ];
    x = net.block(l, "Mixed_7a", x, &[&three, &seven, &[Layer::Max(HALVE)]]);
    for name in ["Mixed_7b", "Mixed_7c"] {
        x = forks(net, l, name, x);
    }
    net.head(l, "fc", x, head)
}

fn fives(net: &Branches, l: &mut Layers, name: &str, x: Value, pool: usize) -> Value {
    let branches: [&[Layer]; 4] = [
        &[conv("branch1x1", 64, 1)],
        &[conv("branch5x5_1", 48, 1), conv("branch5x5_2", 64, 5)],
        &[conv("branch3x3dbl_1", 64, 1), conv("branch3x3dbl_2", 96, 3), conv("branch3x3dbl_3", 96, 3)],
        &[average(true), conv("branch_pool", pool, 1)],
    ];
    net.block(l, name, x, &branches)
}

fn sevens(net: &Branches, l: &mut Layers, name: &str, x: Value, inner: usize) -> Value {
    let flat = |name, out| Layer::Unit(rect(name, out, [1, 7]));
    let tall = |name, out| Layer::Unit(rect(name, out, [7, 1]));
    let double = [
        conv("branch7x7dbl_1", inner, 1),
        tall("branch7x7dbl_2", inner),
        flat("branch7x7dbl_3", inner),
        tall("branch7x7dbl_4", inner),
        flat("branch7x7dbl_5", 192),
    ];
    let single = [conv("branch7x7_1", inner, 1), flat("branch7x7_2", inner), tall("branch7x7_3", 192)];
    let pooled = [average(true), conv("branch_pool", 192, 1)];
    net.block(l, name, x, &[&[conv("branch1x1", 192, 1)], &single, &double, &pooled])
}

fn forks(net: &Branches, l: &mut Layers, name: &str, x: Value) -> Value {
    let single = Layer::Both(rect("branch3x3_2a", 384, [1, 3]), rect("branch3x3_2b", 384, [3, 1]));
    let double = Layer::Both(rect("branch3x3dbl_3a", 384, [1, 3]), rect("branch3x3dbl_3b", 384, [3, 1]));
    let branches: [&[Layer]; 4] = [
        &[conv("branch1x1", 320, 1)],
        &[conv("branch3x3_1", 384, 1), single],
        &[conv("branch3x3dbl_1", 448, 1), Layer::Unit(unit("branch3x3dbl_2", 384, 3)), double],
        &[average(true), conv("branch_pool", 192, 1)],
    ];
    net.block(l, name, x, &branches)
}
