//! Training: single steps against PyTorch, and whole runs against what they promise.

mod exact;
mod golden;
mod losses;
mod recipes;
mod runs;

use libtest_mimic::Trial;
use petard::tensor::{HostData, HostTensor};

pub fn trials() -> Vec<Trial> {
    golden::trials().into_iter().chain(losses::trials()).chain(recipes::trials()).chain(runs::trials()).collect()
}

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Value `i` in [-1,1) of the procedural tensor `name`.
fn uniform(name: &str) -> impl Fn(usize) -> f64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    move |i| (splitmix64(hash.wrapping_add(i as u64)) >> 40) as f64 / f64::from(1 << 23) - 1.0
}

fn f64s(tensor: &HostTensor) -> Vec<f64> {
    match &tensor.data {
        HostData::F32(data) => data.iter().map(|&v| f64::from(v)).collect(),
        other => panic!("{other:?} is not f32"),
    }
}
