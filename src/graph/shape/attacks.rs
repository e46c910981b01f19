//! Shapes of what attacks compute beside networks.
//! Knows nothing but ops and shapes; a misfit is a programmer's error and panics with the numbers.

use super::super::apgd::ApgdRule;
use super::super::hop;
use super::super::op::Op;
use super::super::plane::Plane;
use crate::tensor::{DType, Shape};
use crate::threat::Norm;

/// As [`super::infer`].
pub(super) fn infer(op: &Op, inputs: &[(&Shape, DType)]) -> (Shape, DType) {
    let count = |n: usize| assert_eq!(inputs.len(), n, "{op:?} takes {n} inputs");
    let at = |i: usize| inputs[i].0;
    let same = |a: usize, b: usize| assert_eq!(at(a), at(b), "{op:?}: inputs {a} and {b} differ in shape");
    let f32s = |list: &[usize]| {
        for &i in list {
            assert_eq!(inputs[i].1, DType::F32, "{op:?}: input {i} is not f32");
        }
    };
    let last = |i: usize| *at(i).dims.last().expect("a value with channels");
    let rows = || Shape::per_image(&[]);
    let is_rows = |i: usize| assert_eq!(*at(i), rows(), "{op:?}: input {i} is not one value an image");
    let shape = match op {
        Op::Hyperplane(plane) => return hyperplane(*plane, inputs),
        Op::ApgdState(rule) => {
            rule.check();
            let l1 = rule.norm == Norm::L1;
            count(if l1 { 7 } else { 4 });
            f32s(&[0, 1, 2, 3]);
            assert_eq!(*at(0), Shape::per_image(&[ApgdRule::STATE]), "{op:?}: the state");
            [1, 2, 3].into_iter().for_each(is_rows);
            if l1 {
                same(4, 5);
                same(4, 6);
            }
            at(0).clone()
        }
        Op::ApgdMove { norm } => {
            count(if *norm == Norm::L1 { 4 } else { 5 });
            same(0, 1);
            same(0, 2);
            assert_eq!(*at(3), Shape::per_image(&[ApgdRule::STATE]), "{op:?}: the state");
            if *norm != Norm::L1 {
                same(0, 4);
            }
            at(0).clone()
        }
        Op::SquareStart { norm } => {
            count(5 + usize::from(*norm != Norm::Linf));
            at(0).hwc();
            [1, 2, 3].into_iter().for_each(is_rows);
            assert_eq!(*at(4), Shape::fixed(&[3]), "{op:?}: the seed is two words and a step");
            at(0).clone()
        }
        Op::SquareControl => {
            count(3);
            assert_eq!(*at(0), Shape::per_image(&[4]), "{op:?}: the state");
            [1, 2].into_iter().for_each(is_rows);
            at(0).clone()
        }
        Op::SquareStep { norm } => {
            count(9 + usize::from(*norm != Norm::Linf));
            at(0).hwc();
            [1, 2].into_iter().for_each(|i| same(0, i));
            assert_eq!(*at(3), Shape::per_image(&[4]), "{op:?}: the state");
            [4, 5, 6].into_iter().for_each(is_rows);
            assert_eq!(*at(7), Shape::fixed(&[3]), "{op:?}: the seed is two words and a step");
            assert!(!at(8).batched && at(8).dims.len() == 2 && last(8) == 2, "{op:?}: the schedule is {}", at(8));
            if *norm != Norm::Linf {
                assert!(!at(9).batched && at(9).dims[0] == at(8).dims[0] + 1, "{op:?}: patterns {} for {}", at(9), at(8));
            }
            at(0).clone()
        }
        Op::HopDistance { .. } => {
            count(2);
            same(0, 1);
            assert!(at(0).batched, "{op:?} on {}", at(0));
            rows()
        }
        Op::HopControl(_) => {
            count(3);
            assert_eq!(*at(0), Shape::per_image(&[hop::LEN]), "{op:?}: the state");
            [1, 2].into_iter().for_each(is_rows);
            at(0).clone()
        }
        Op::HopGather => {
            count(4);
            same(1, 2);
            assert_eq!(*at(0), Shape::per_image(&[2, at(1).elems()]), "{op:?}: the sums");
            assert_eq!(*at(3), Shape::per_image(&[hop::LEN]), "{op:?}: the state");
            at(0).clone()
        }
        Op::HopQuery { .. } => {
            count(8);
            [1, 2, 3].into_iter().for_each(|i| same(0, i));
            assert_eq!(*at(4), Shape::per_image(&[2, at(0).elems()]), "{op:?}: the sums");
            assert_eq!(*at(5), Shape::per_image(&[hop::LEN]), "{op:?}: the state");
            is_rows(6);
            assert_eq!(*at(7), Shape::fixed(&[3]), "{op:?}: the seed is two words and a step");
            at(0).clone()
        }
        Op::Tick { .. } => {
            count(1);
            assert_eq!(*at(0), Shape::per_image(&[2]), "{op:?}: the state is not two numbers an image");
            at(0).clone()
        }
        Op::Ahead => {
            count(4);
            same(0, 1);
            is_rows(2);
            assert_eq!(*at(3), Shape::per_image(&[2]), "{op:?}: the state is not two numbers an image");
            at(0).clone()
        }
        Op::Jitter | Op::Diversify(_) | Op::DiversifyGrad(_) => {
            let state = inputs.len() - 2;
            count(if matches!(op, Op::Jitter) { 6 } else { 5 });
            at(0).hwc();
            (1..state).for_each(is_rows);
            assert!(*at(state) == Shape::per_image(&[2]) && *at(state + 1) == Shape::fixed(&[3]), "{op:?}: state and seed");
            let whole = [1, 2, state + 1].into_iter().all(|i| inputs[i].1 == DType::I32);
            assert!(whole, "{op:?}: index, restart and seed are i32");
            at(0).clone()
        }
        Op::Accumulate { .. } => {
            count(3);
            same(0, 1);
            assert_eq!(*at(2), Shape::per_image(&[2]), "{op:?}: the state is not two numbers an image");
            at(0).clone()
        }
        Op::Blur => {
            count(2);
            at(0).hwc();
            let taps = at(1).elems();
            assert!(!at(1).batched && taps % 2 == 1 && taps <= 31, "{op:?}: {taps} taps");
            at(0).clone()
        }
        Op::Momentum => {
            count(3);
            same(0, 1);
            is_rows(2);
            at(0).clone()
        }
        Op::Kl | Op::KlGrad => {
            count(2);
            same(0, 1);
            assert!(at(0).batched && at(0).dims.len() == 1, "{op:?} on {}", at(0));
            if *op == Op::KlGrad { at(0).clone() } else { rows() }
        }
        Op::Moment { .. } => {
            count(2);
            same(0, 1);
            at(0).clone()
        }
        Op::AdamStep { .. } => {
            count(7);
            [1, 2, 3].into_iter().for_each(|i| same(0, i));
            [4, 5].into_iter().for_each(is_rows);
            assert_eq!(*at(6), Shape::per_image(&[2]), "{op:?}: the state is not two numbers an image");
            at(0).clone()
        }
        Op::Shake => {
            count(5);
            at(0).hwc();
            [1, 2, 3].into_iter().for_each(is_rows);
            let whole = [1, 2, 4].into_iter().all(|i| inputs[i].1 == DType::I32);
            assert!(whole && *at(4) == Shape::fixed(&[3]), "{op:?}: index, restart and seed are i32");
            at(0).clone()
        }
        Op::Nearest(nearest) => return nearest.infer(inputs),
        other => unreachable!("{other:?} is no op of an attack"),
    };
    (shape, DType::F32)
}

fn hyperplane(plane: Plane, inputs: &[(&Shape, DType)]) -> (Shape, DType) {
    let (count, images, rows) = match plane {
        Plane::Rival { .. } => (2, 0..0, 1..2),
        Plane::Distance { .. } => (2, 1..2, 0..1),
        Plane::Start { .. } => (5, 0..1, 1..4),
        Plane::FabStep { .. } => (4, 0..3, 3..4),
        Plane::DeepFoolStep { .. } => (4, 0..2, 2..4),
        Plane::Nearer { .. } => (4, 1..3, 0..1),
        Plane::Back { .. } => (3, 0..2, 2..3),
    };
    assert_eq!(inputs.len(), count, "{plane:?} takes {count} inputs");
    let at = |i: usize| inputs[i].0;
    for i in images.clone() {
        assert!(at(i).batched && at(i) == at(images.start), "{plane:?}: input {i} is {}", at(i));
    }
    for i in rows {
        assert_eq!(*at(i), Shape::per_image(&[]), "{plane:?}: input {i} is not one value an image");
    }
    match plane {
        Plane::Rival { place } => {
            let classes = at(0).elems();
            assert!(at(0).batched && place + 1 < classes, "{plane:?} among {classes} classes");
            assert_eq!(inputs[1].1, DType::I32, "{plane:?}: labels are not i32");
            (Shape::per_image(&[]), DType::I32)
        }
        Plane::Distance { .. } => (at(0).clone(), DType::F32),
        Plane::Nearer { .. } => (at(3).clone(), DType::F32),
        Plane::Start { .. } => {
            assert_eq!(*at(4), Shape::fixed(&[3]), "{plane:?}: the seed is two words and a step");
            (at(0).clone(), DType::F32)
        }
        Plane::DeepFoolStep { norm, .. } => {
            assert!(norm != Norm::L1, "{plane:?}: L2 and L-inf only");
            (at(0).clone(), DType::F32)
        }
        Plane::FabStep { .. } | Plane::Back { .. } => (at(0).clone(), DType::F32),
    }
}
