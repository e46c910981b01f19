//! The fused step of an attack.

use petard::graph::{Graph, Op};
use petard::tensor::{DType, Shape};
use petard::threat::Norm;

use super::{Bound, Case, NUMBERS};

pub fn cases() -> Vec<Case> {
    let sizes = [[1, 1, 1], [3, 5, 3], [8, 8, 3], [7, 9, 5], [32, 32, 3]];
    let norms = [Norm::Linf, Norm::L2, Norm::L1];
    norms.into_iter().flat_map(|norm| sizes.map(|size| step(norm, size))).collect()
}

fn step(norm: Norm, hwc: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let image = Shape::per_image(&hwc);
    let [x, x0, dx] = ["x01", "y01", "g"].map(|name| g.input(name, image.clone(), DType::F32));
    let [alpha, eps] = ["alpha", "eps"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
    let next = g.push(Op::PgdStep { norm }, &[x, x0, dx, alpha, eps]);
    let [h, w, c] = hwc;
    // A few operations on numbers below 1.2, in f32 for L-inf.
    let case = Case::new(format!("pgd::{norm}.{h}x{w}.c{c}"), format!("({norm:?}, {hwc:?})"), g, next, Bound::Roundings(4));
    Case { scale: |probe| vec![1.2; probe.want.len()], fills: NUMBERS, ..case }
}
