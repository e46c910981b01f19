//! GoogLeNet with batch norms: for 224 pixels under torchvision's names, for CIFAR under kuangliu's.
//! Must not know weights.
//! Szegedy et al. 2014, <https://arxiv.org/abs/1409.4842>; torchvision's third branch has a 3x3 kernel where the paper has 5x5.

use super::{Branches, Layer, Net, Unit, conv, unit};
use crate::graph::{Pool, Value};
use crate::nn::layers::Layers;

/// Blocks by name: 1x1; 3x3 after 1x1; the double or larger kernel after 1x1; 1x1 after a maximum. `None`: a max-pool.
const BLOCKS: [(&str, [usize; 6]); 9] = [
    ("3a", [64, 96, 128, 16, 32, 32]),
    ("3b", [128, 128, 192, 32, 96, 64]),
    ("4a", [192, 96, 208, 16, 48, 64]),
    ("4b", [160, 112, 224, 24, 64, 64]),
    ("4c", [128, 128, 256, 24, 64, 64]),
    ("4d", [112, 144, 288, 32, 64, 64]),
    ("4e", [256, 160, 320, 32, 128, 128]),
    ("5a", [256, 160, 320, 32, 128, 128]),
    ("5b", [384, 192, 384, 48, 128, 128]),
];

const fn pool(kernel: usize, stride: usize, pad: usize) -> Pool {
    Pool { kernel: [kernel, kernel], stride: [stride, stride], pad: [pad, pad], ceil: true, count_pad: true }
}

pub(super) fn build(net: &Branches, l: &mut Layers, image: Value, head: (usize, f32)) -> Net {
    let first = Unit { stride: 2, ..unit("conv1", 64, 7) };
    let halve = Layer::Max(pool(3, 2, 0));
    let mut x = net.chain(l, "", image, &[Layer::Unit(first), halve, conv("conv2", 64, 1), conv("conv3", 192, 3), halve]);
    for (name, c) in BLOCKS {
        x = match name {
            "4a" => l.graph.max_pool(x, pool(3, 2, 0)),
            "5a" => l.graph.max_pool(x, pool(2, 2, 0)),
            _ => x,
        };
        let branches: [&[Layer]; 4] = [
            &[conv("branch1", c[0], 1)],
            &[conv("branch2.0", c[1], 1), conv("branch2.1", c[2], 3)],
            &[conv("branch3.0", c[3], 1), conv("branch3.1", c[4], 3)],
            &[Layer::Max(pool(3, 1, 1)), conv("branch4.1", c[5], 1)],
        ];
        x = net.block(l, &format!("inception{name}"), x, &branches);
    }
    net.head(l, "fc", x, head)
}

pub(super) fn build_cifar(net: &Branches, l: &mut Layers, image: Value, head: (usize, f32)) -> Net {
    let mut x = net.chain(l, "", image, &[conv("pre_layers.0", 192, 3)]);
    for (name, c) in BLOCKS {
        if name == "4a" || name == "5a" {
            x = l.graph.max_pool(x, Pool::square(3, 2, 1));
        }
        let branches: [&[Layer]; 4] = [
            &[conv("b1.0", c[0], 1)],
            &[conv("b2.0", c[1], 1), conv("b2.3", c[2], 3)],
            &[conv("b3.0", c[3], 1), conv("b3.3", c[4], 3), conv("b3.6", c[4], 3)],
            &[Layer::Max(Pool::square(3, 1, 1)), conv("b4.1", c[5], 1)],
        ];
        let turned: String = name.chars().rev().collect();
        x = net.block(l, &turned, x, &branches);
    }
    net.head(l, "linear", x, head)
}
