//! The shape and element type that each op gives, in one match.
//! Knows nothing but ops and shapes; a misfit is a programmer's error and panics with the numbers.

mod attacks;

use super::op::Op;
use crate::tensor::{DType, Shape};

/// Shape and type of the output. Panics where the inputs do not fit the op.
pub(super) fn infer(op: &Op, inputs: &[(&Shape, DType)]) -> (Shape, DType) {
    let count = |n: usize| assert_eq!(inputs.len(), n, "{op:?} takes {n} inputs");
    let at = |i: usize| inputs[i].0;
    let same = |a: usize, b: usize| assert_eq!(at(a), at(b), "{op:?}: inputs {a} and {b} differ in shape");
    let f32s = |list: &[usize]| {
        for &i in list {
            assert_eq!(inputs[i].1, DType::F32, "{op:?}: input {i} is not f32");
        }
    };
    let vector = |i: usize, c: usize| assert_eq!(*at(i), Shape::fixed(&[c]), "{op:?}: input {i} is not a vector of {c}");
    let last = |i: usize| *at(i).dims.last().expect("a value with channels");
    let rows = || Shape::per_image(&[]);
    let is_rows = |i: usize| assert_eq!(*at(i), rows(), "{op:?}: input {i} is not one value an image");
    let shape = match op {
        Op::Input { .. } | Op::Param { .. } => unreachable!("leaves are appended with their shape"),
        Op::Normalise { mean, std } => {
            count(1);
            assert!(mean.len() == last(0) && std.len() == last(0), "{op:?} on {}", at(0));
            at(0).clone()
        }
        Op::NormaliseGrad { std } => {
            count(1);
            assert_eq!(std.len(), last(0), "{op:?} on {}", at(0));
            at(0).clone()
        }
        Op::Conv2d(conv) => {
            count(2);
            conv.check();
            let (h, w, c) = at(0).hwc();
            assert_eq!(c, conv.c, "{op:?} on {}", at(0));
            conv_weight(conv, at(1));
            let (p, q) = conv.out_hw(h, w);
            Shape::per_image(&[p, q, conv.k])
        }
        Op::Conv2dGradInput { conv, hw } => {
            count(2);
            let (p, q, k) = at(0).hwc();
            assert_eq!(
                (p, q, k),
                {
                    let (p, q) = conv.out_hw(hw[0], hw[1]);
                    (p, q, conv.k)
                },
                "{op:?} on {}",
                at(0)
            );
            conv_weight(conv, at(1));
            Shape::per_image(&[hw[0], hw[1], conv.c])
        }
        Op::Conv2dGradWeight(conv) => {
            count(2);
            let (h, w, c) = at(0).hwc();
            let (p, q) = conv.out_hw(h, w);
            assert!(c == conv.c && at(1).hwc() == (p, q, conv.k), "{op:?} on {} and {}", at(0), at(1));
            Shape::fixed(&[conv.k, conv.c / conv.groups, conv.kernel[0], conv.kernel[1]])
        }
        Op::Linear => {
            count(2);
            let (n_in, n_out) = (at(1).dims[1], at(1).dims[0]);
            assert_eq!(*at(0), Shape::per_image(&[n_in]), "linear {} on {}", at(1), at(0));
            Shape::per_image(&[n_out])
        }
        Op::LinearGradInput => {
            count(2);
            assert_eq!(*at(0), Shape::per_image(&[at(1).dims[0]]), "linear {} backwards on {}", at(1), at(0));
            Shape::per_image(&[at(1).dims[1]])
        }
        Op::LinearGradWeight => {
            count(2);
            assert!(at(0).batched && at(1).batched && at(0).dims.len() == 1 && at(1).dims.len() == 1, "{op:?}");
            Shape::fixed(&[last(1), last(0)])
        }
        Op::AddBias => {
            count(2);
            vector(1, last(0));
            at(0).clone()
        }
        Op::SumChannels => {
            count(1);
            Shape::fixed(&[last(0)])
        }
        Op::BatchNorm { .. } => {
            count(5);
            (1..5).for_each(|i| vector(i, last(0)));
            at(0).clone()
        }
        Op::BatchNormGrad { .. } => {
            count(3);
            (1..3).for_each(|i| vector(i, last(0)));
            at(0).clone()
        }
        Op::BatchNormGradParams { .. } => {
            count(4);
            same(0, 1);
            (2..4).for_each(|i| vector(i, last(0)));
            Shape::fixed(&[2, last(0)])
        }
        Op::BatchStats => {
            count(1);
            Shape::fixed(&[2, last(0)])
        }
        Op::BatchNormTrain { .. } => {
            count(4);
            assert_eq!(*at(1), Shape::fixed(&[2, last(0)]), "{op:?}: statistics");
            (2..4).for_each(|i| vector(i, last(0)));
            at(0).clone()
        }
        Op::BatchNormTrainGradParams { .. } => {
            count(3);
            same(0, 1);
            assert_eq!(*at(2), Shape::fixed(&[2, last(0)]), "{op:?}: statistics");
            Shape::fixed(&[2, last(0)])
        }
        Op::BatchNormTrainGrad { .. } => {
            count(5);
            same(0, 1);
            same(2, 4);
            vector(3, last(0));
            at(0).clone()
        }
        Op::RunningUpdate { row, .. } => {
            count(3);
            assert!(*row < 2 && *at(1) == Shape::fixed(&[2, last(0)]) && last(2) == last(0), "{op:?} on {}", at(1));
            at(0).clone()
        }
        Op::Row { index } => {
            count(1);
            assert!(!at(0).batched && *index < at(0).dims[0], "{op:?} of {}", at(0));
            Shape::fixed(&at(0).dims[1..])
        }
        Op::Relu { .. } | Op::Scale { .. } => {
            count(1);
            at(0).clone()
        }
        Op::ReluMask { .. } => {
            count(1);
            return (at(0).clone(), DType::Bits);
        }
        Op::Gate | Op::Dropout { .. } => {
            count(2);
            same(0, 1);
            assert_eq!(inputs[1].1, DType::Bits, "{op:?}: the mask is not bits");
            at(0).clone()
        }
        Op::MaxPool(pool) | Op::AvgPool(pool) | Op::MaxPoolIndex(pool) => {
            count(1);
            pool.check();
            let (h, w, c) = at(0).hwc();
            let (p, q) = pool.out_hw(h, w);
            let dtype = if matches!(op, Op::MaxPoolIndex(_)) { DType::U8 } else { DType::F32 };
            return (Shape::per_image(&[p, q, c]), dtype);
        }
        Op::MaxPoolGrad { pool, hw } => {
            count(2);
            same(0, 1);
            assert_eq!(inputs[1].1, DType::U8, "{op:?}: the index is not bytes");
            pool_grad(op, pool, hw, at(0))
        }
        Op::AvgPoolGrad { pool, hw } => {
            count(1);
            pool_grad(op, pool, hw, at(0))
        }
        Op::GlobalAvgPool => {
            count(1);
            Shape::per_image(&[at(0).hwc().2])
        }
        Op::GlobalAvgPoolGrad { hw } => {
            count(1);
            assert!(at(0).batched && at(0).dims.len() == 1, "{op:?} on {}", at(0));
            Shape::per_image(&[hw[0], hw[1], last(0)])
        }
        Op::Add => {
            count(2);
            same(0, 1);
            f32s(&[0, 1]);
            at(0).clone()
        }
        Op::Concat => {
            assert!(!inputs.is_empty(), "concat of nothing");
            let mut dims = at(0).dims.clone();
            let (channel, front) = dims.split_last_mut().expect("a value with channels");
            for (i, (s, _)) in inputs.iter().enumerate().skip(1) {
                assert!(s.batched == at(0).batched && s.dims[..s.dims.len() - 1] == *front, "concat of {} and {s}", at(0));
                *channel += last(i);
            }
            Shape { batched: at(0).batched, dims }
        }
        Op::SliceChannels { start, len } => {
            count(1);
            assert!(*len > 0 && start + len <= last(0), "{op:?} of {}", at(0));
            with_last(at(0), *len)
        }
        Op::PadChannels { start, total } => {
            count(1);
            assert!(start + last(0) <= *total, "{op:?} of {}", at(0));
            with_last(at(0), *total)
        }
        Op::SubsamplePad { stride, before, after } => {
            count(1);
            let (h, w, c) = at(0).hwc();
            Shape::per_image(&[h.div_ceil(*stride), w.div_ceil(*stride), before + c + after])
        }
        Op::SubsamplePadGrad { stride, before, after, hw } => {
            count(1);
            let (p, q, c) = at(0).hwc();
            assert!((p, q) == (hw[0].div_ceil(*stride), hw[1].div_ceil(*stride)) && c > before + after, "{op:?} on {}", at(0));
            Shape::per_image(&[hw[0], hw[1], c - before - after])
        }
        Op::Window { hw, .. } => {
            count(1);
            assert!(hw[0] > 0 && hw[1] > 0, "{op:?} of {}", at(0));
            Shape::per_image(&[hw[0], hw[1], at(0).hwc().2])
        }
        Op::ResponseNorm(norm) => {
            count(1);
            norm.check();
            Shape::per_image(&<[usize; 3]>::from(at(0).hwc()))
        }
        Op::ResponseNormGrad(norm) => {
            count(2);
            norm.check();
            same(0, 1);
            Shape::per_image(&<[usize; 3]>::from(at(0).hwc()))
        }
        Op::Flatten => {
            count(1);
            let (h, w, c) = at(0).hwc();
            Shape::per_image(&[h * w * c])
        }
        Op::Unflatten { hwc } => {
            count(1);
            assert_eq!(*at(0), Shape::per_image(&[hwc.iter().product()]), "{op:?} on {}", at(0));
            Shape::per_image(hwc)
        }
        Op::DropoutMask { p, .. } => {
            count(3);
            assert!((0.0..1.0).contains(p), "{op:?}: p outside [0,1)");
            assert!(*at(1) == rows() && inputs[1].1 == DType::I32 && inputs[2].1 == DType::I32, "{op:?}: index and step");
            return (at(0).clone(), DType::Bits);
        }
        Op::UnitRows { .. } => {
            count(1);
            f32s(&[0]);
            last(0);
            at(0).clone()
        }
        Op::UnitRowsGrad { .. } => {
            count(2);
            f32s(&[0, 1]);
            same(0, 1);
            at(0).clone()
        }
        Op::RowScales { .. } => {
            count(1);
            assert!(!at(0).batched && at(0).dims.len() == 2, "{op:?} of {}", at(0));
            Shape::fixed(&[at(0).dims[0]])
        }
        Op::RowScalesGrad { .. } => {
            count(2);
            vector(0, at(1).dims[0]);
            at(1).clone()
        }
        Op::ScaleChannels => {
            count(2);
            f32s(&[0, 1]);
            vector(1, last(0));
            at(0).clone()
        }
        Op::ProductChannels => {
            count(2);
            f32s(&[0, 1]);
            same(0, 1);
            Shape::fixed(&[last(0)])
        }
        Op::ScaleRows => {
            count(2);
            f32s(&[0, 1]);
            assert!(at(0).batched, "{op:?} on {}", at(0));
            is_rows(1);
            at(0).clone()
        }
        Op::ClassMargins => {
            count(3);
            assert!(at(0).batched && at(0).dims.len() == 1, "{op:?} on {}", at(0));
            is_rows(1);
            assert_eq!(inputs[1].1, DType::I32, "{op:?}: labels are not i32");
            assert_eq!(*at(2), Shape::fixed(&[3, last(0)]), "{op:?}: the table has three rows of classes");
            at(0).clone()
        }
        Op::Loss(loss) | Op::LossGrad(loss) => {
            count(if loss.targeted() { 3 } else { 2 });
            assert!(at(0).batched && at(0).dims.len() == 1, "{op:?} on {}", at(0));
            for (i, (_, dtype)) in inputs.iter().enumerate().skip(1) {
                is_rows(i);
                assert_eq!(*dtype, DType::I32, "{op:?}: labels are not i32");
            }
            if matches!(op, Op::Loss(_)) { rows() } else { at(0).clone() }
        }
        Op::Objective(of) | Op::ObjectiveGrad { of, .. } => {
            let (pair, label) = (usize::from(of.reads_pair()), usize::from(of.reads_label()));
            count(1 + pair + label);
            assert!(at(0).batched && at(0).dims.len() == 1, "{op:?} on {}", at(0));
            same(0, pair);
            if label == 1 {
                is_rows(1 + pair);
                assert_eq!(inputs[1 + pair].1, DType::I32, "{op:?}: labels are not i32");
            }
            match op {
                Op::ObjectiveGrad { by, .. } => {
                    assert!(*by == 0 || *by == 1 && of.moves_pair(), "{op:?}: no such gradient");
                    at(0).clone()
                }
                _ => rows(),
            }
        }
        Op::Fooled { .. } => {
            count(2);
            is_rows(1);
            assert_eq!(inputs[1].1, DType::I32, "{op:?}: labels are not i32");
            rows()
        }
        Op::Greater | Op::MaxRows => {
            count(2);
            is_rows(0);
            is_rows(1);
            rows()
        }
        Op::SelectRows => {
            count(3);
            is_rows(0);
            same(1, 2);
            at(1).clone()
        }
        Op::Column { index } => {
            count(1);
            f32s(&[0]);
            assert!(at(0).batched && at(0).dims.len() == 1 && *index < last(0), "{op:?} on {}", at(0));
            rows()
        }
        Op::GradStatus => {
            count(1);
            assert!(at(0).batched, "{op:?} on {}", at(0));
            rows()
        }
        Op::Start { .. } => {
            count(5);
            at(0).hwc();
            [1, 2, 3].into_iter().for_each(is_rows);
            assert_eq!(*at(4), Shape::fixed(&[3]), "{op:?}: the seed is two words and a step");
            let words = [1, 2, 4].into_iter().all(|i| inputs[i].1 == DType::I32);
            assert!(words && inputs[3].1 == DType::F32, "{op:?}: index, restart and seed are i32, the length is f32");
            at(0).clone()
        }
        Op::Between => {
            count(3);
            f32s(&[0, 1, 2]);
            same(0, 1);
            is_rows(2);
            at(0).clone()
        }
        Op::PgdStep { .. } => {
            count(5);
            same(0, 1);
            same(0, 2);
            is_rows(3);
            is_rows(4);
            at(0).clone()
        }
        Op::Hyperplane(_)
        | Op::ApgdState(_)
        | Op::ApgdMove { .. }
        | Op::SquareStart { .. }
        | Op::SquareControl
        | Op::SquareStep { .. }
        | Op::HopDistance { .. }
        | Op::HopControl(_)
        | Op::HopGather
        | Op::HopQuery { .. }
        | Op::Tick { .. }
        | Op::Ahead
        | Op::Jitter
        | Op::Diversify(_)
        | Op::DiversifyGrad(_)
        | Op::Accumulate { .. }
        | Op::Blur
        | Op::Momentum
        | Op::Kl
        | Op::KlGrad
        | Op::Moment { .. }
        | Op::AdamStep { .. }
        | Op::Shake
        | Op::Nearest(_) => return attacks::infer(op, inputs),
        Op::SgdVelocity | Op::SgdStep { .. } => {
            count(4);
            f32s(&[0, 1, 2, 3]);
            same(0, 1);
            same(0, 2);
            vector(3, 3);
            at(0).clone()
        }
        Op::Perturbation => {
            count(3);
            f32s(&[0, 1, 2]);
            same(0, 1);
            assert!(!at(0).batched && *at(2) == Shape::fixed(&[]), "{op:?}: of a parameter, by a scalar");
            at(0).clone()
        }
        Op::Ema => {
            count(3);
            f32s(&[0, 1, 2]);
            same(0, 1);
            assert_eq!(*at(2), Shape::fixed(&[]), "{op:?}: the decay is not a scalar");
            at(0).clone()
        }
        Op::Rfft2 { .. } | Op::Irfft2 { .. } | Op::SpectrumFilter | Op::RingSums { .. } | Op::Bass => {
            count(if *op == Op::SpectrumFilter { 2 } else { 1 });
            f32s(&(0..inputs.len()).collect::<Vec<_>>());
            spectral(op, at(0), inputs.get(1).map(|i| i.0))
        }
    };
    (shape, DType::F32)
}

fn spectral(op: &Op, x: &Shape, weight: Option<&Shape>) -> Shape {
    if let Op::Irfft2 { width, .. } = *op {
        let [c, h, half, 2] = x.dims[..] else { panic!("{op:?} on {x}") };
        assert!(x.batched && half == width / 2 + 1, "{op:?} on {x}");
        return Shape::per_image(&[h, width, c]);
    }
    let (h, w, c) = x.hwc();
    let rings = super::Rings::new(h, w);
    match op {
        Op::Rfft2 { .. } => Shape::per_image(&[c, h, rings.half(), 2]),
        Op::RingSums { .. } => Shape::per_image(&[c, rings.count()]),
        Op::SpectrumFilter => {
            assert_eq!(weight, Some(&Shape::fixed(&[h, rings.half()])), "{op:?} on {x}: the weights");
            x.clone()
        }
        _ => x.clone(),
    }
}

fn conv_weight(conv: &super::Conv, w: &Shape) {
    let want = Shape::fixed(&[conv.k, conv.c / conv.groups, conv.kernel[0], conv.kernel[1]]);
    assert_eq!(*w, want, "weights of {conv:?}");
}

fn pool_grad(op: &Op, pool: &super::Pool, hw: &[usize; 2], g: &Shape) -> Shape {
    let (p, q, c) = g.hwc();
    assert_eq!((p, q), pool.out_hw(hw[0], hw[1]), "{op:?} on {g}");
    Shape::per_image(&[hw[0], hw[1], c])
}

fn with_last(shape: &Shape, channels: usize) -> Shape {
    let mut dims = shape.dims.clone();
    *dims.last_mut().expect("a value with channels") = channels;
    Shape { batched: shape.batched, dims }
}
