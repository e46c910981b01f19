//! BN-Inception: GoogLeNet with batch norms and two 3x3 kernels in place of 5x5, under the names of Cadene's collection.
//! Must not know weights.
//! Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>.

use super::{Branches, HALVE, Layer, Net, Unit, average, conv, unit};
use crate::graph::{Pool, Value};
use crate::nn::layers::Layers;

/// Blocks by name: 1x1; 3x3 after 1x1; two 3x3 after 1x1; 1x1 after a pool. A first entry of 0 halves the map.
const BLOCKS: [(&str, [usize; 6]); 10] = [
    ("3a", [64, 64, 64, 64, 96, 32]),
    ("3b", [64, 64, 96, 64, 96, 64]),
    ("3c", [0, 128, 160, 64, 96, 0]),
    ("4a", [224, 64, 96, 96, 128, 128]),
    ("4b", [192, 96, 128, 96, 128, 128]),
    ("4c", [160, 128, 160, 128, 160, 128]),
    ("4d", [96, 128, 192, 160, 192, 128]),
    ("4e", [0, 128, 192, 192, 256, 0]),
    ("5a", [352, 192, 320, 160, 224, 128]),
    ("5b", [352, 192, 320, 192, 224, 128]),
];

const HALVE_UP: Layer = Layer::Max(Pool { ceil: true, ..HALVE });

pub(super) fn build(net: &Branches, l: &mut Layers, image: Value, head: (usize, f32)) -> Net {
    let first = Layer::Unit(Unit { stride: 2, ..unit("conv1_7x7_s2", 64, 7) });
    let stem = [first, HALVE_UP, conv("conv2_3x3_reduce", 64, 1), conv("conv2_3x3", 192, 3), HALVE_UP];
    let mut x = net.chain(l, "", image, &stem);
    for (name, c) in BLOCKS {
        let block = format!("inception_{name}");
        let halves = c[0] == 0;
        let last = |name, out| Layer::Unit(Unit { stride: if halves { 2 } else { 1 }, ..unit(name, out, 3) });
        let single = [conv("3x3_reduce", c[1], 1), last("3x3", c[2])];
        let double = [conv("double_3x3_reduce", c[3], 1), conv("double_3x3_1", c[4], 3), last("double_3x3_2", c[4])];
        if halves {
            x = net.block(l, &block, x, &[&single, &double, &[HALVE_UP]]);
            continue;
        }
        // The last block takes the maximum where the others take the average.
        let pool = if name == "5b" { Layer::Max(Pool::square(3, 1, 1)) } else { average(true) };
        x = net.block(l, &block, x, &[&[conv("1x1", c[0], 1)], &single, &double, &[pool, conv("pool_proj", c[5], 1)]]);
    }
    net.head(l, "last_linear", x, head)
}
