//! Losses on logits, their gradients, and whether an image fools the network. Computed in f64, stored as f32.
//! Must not know attacks or batches: each row stands alone.
//! Margin: Carlini and Wagner 2017. DLR: Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>.
//!
//! Where two logits are equal the gradient goes where PyTorch sends it: for a maximum to the lowest class; inside DLR,
//! which sorts, a higher class ranks above an equal lower one (an ascending, stable sort). The hinge passes its gradient at
//! equality. A NaN logit makes the value NaN.

use rayon::prelude::*;

use super::rows::row_len;
use crate::graph::Loss;

/// The loss of each image: `z` is `[N, classes]`, `label`, `target` and `out` are `[N]`.
pub(crate) fn loss(kind: Loss, classes: usize, z: &[f32], label: &[i32], target: Option<&[i32]>, out: &mut [f32]) {
    let rows = Rows::new(kind, classes, z, label, target);
    assert_eq!(out.len(), label.len(), "one loss an image");
    out.par_iter_mut().enumerate().with_min_len(64).for_each(|(n, out)| {
        let (z, y, t) = rows.at(n);
        *out = value(kind, z, y, t) as f32;
    });
}

/// The gradient of each image's own loss with respect to its logits; `out` is `[N, classes]`.
pub(crate) fn loss_grad(kind: Loss, classes: usize, z: &[f32], label: &[i32], target: Option<&[i32]>, out: &mut [f32]) {
    let rows = Rows::new(kind, classes, z, label, target);
    assert_eq!(out.len(), z.len(), "one gradient a logit");
    out.par_chunks_mut(classes).enumerate().with_min_len(64).for_each(|(n, out)| {
        let (z, y, t) = rows.at(n);
        let mut grad = vec![0f64; classes];
        gradient(kind, z, y, t, &mut grad);
        out.iter_mut().zip(grad).for_each(|(out, grad)| *out = grad as f32);
    });
}

/// `hit` false: 1 where the highest logit is not at the label. `hit` true: 1 where it is at the label, here a target. Else 0.
/// Of equal logits the lowest class is the highest; a row with a NaN points nowhere.
pub(crate) fn fooled(hit: bool, classes: usize, z: &[f32], label: &[i32], out: &mut [f32]) {
    assert!(z.len() == classes * label.len() && out.len() == label.len(), "{} logits for {} labels", z.len(), label.len());
    for ((z, &label), out) in z.chunks_exact(classes).zip(label).zip(out) {
        let at_label = best_except(z, None) == class(label, classes) && !z.iter().any(|v| v.is_nan());
        *out = if at_label == hit { 1.0 } else { 0.0 };
    }
}

/// The inputs of a loss, checked.
struct Rows<'a> {
    classes: usize,
    z: &'a [f32],
    label: &'a [i32],
    /// The labels again where the loss has no target.
    target: &'a [i32],
}

impl<'a> Rows<'a> {
    fn new(kind: Loss, classes: usize, z: &'a [f32], label: &'a [i32], target: Option<&'a [i32]>) -> Self {
        let least = match kind {
            Loss::CrossEntropy { .. } | Loss::TargetedCrossEntropy | Loss::Logit | Loss::TargetedLogit => 1,
            Loss::Margin | Loss::Hinge { .. } | Loss::TargetedMargin | Loss::TargetedDifference => 2,
            Loss::Dlr => 3,
            Loss::TargetedDlr => 4,
        };
        assert!(classes >= least, "{kind:?} needs {least} classes, the network has {classes}");
        assert_eq!(row_len(label.len(), z.len()), classes, "{} logits for {} labels", z.len(), label.len());
        assert_eq!(kind.targeted(), target.is_some(), "{kind:?}: target");
        let target = target.unwrap_or(label);
        assert_eq!(target.len(), label.len(), "one target an image");
        Rows { classes, z, label, target }
    }
    /// Logits, label and target of image `n`.
    fn at(&self, n: usize) -> (&'a [f32], usize, usize) {
        let z = &self.z[n * self.classes..][..self.classes];
        (z, class(self.label[n], self.classes), class(self.target[n], self.classes))
    }
}

fn class(label: i32, classes: usize) -> usize {
    assert!((0..classes as i64).contains(&i64::from(label)), "class {label} of {classes}");
    label as usize
}

fn value(kind: Loss, z: &[f32], y: usize, t: usize) -> f64 {
    let at = |i: usize| f64::from(z[i]);
    match kind {
        Loss::CrossEntropy { smoothing } => cross_entropy(f64::from(smoothing), z, y),
        Loss::Margin => at(best_except(z, Some(y))) - at(y) + poison(z),
        Loss::Hinge { kappa } => {
            let margin = at(y) - at(best_except(z, Some(y))) + poison(z);
            // Not f64::max, which would drop a NaN.
            if margin < -f64::from(kappa) { -f64::from(kappa) } else { margin }
        }
        Loss::Dlr => ratio(z, &dlr(z, y)).0,
        Loss::TargetedCrossEntropy => -cross_entropy(0.0, z, t),
        Loss::TargetedMargin => at(t) - at(best_except(z, Some(t))) + poison(z),
        Loss::TargetedDifference => at(t) - at(y),
        Loss::TargetedDlr => ratio(z, &targeted_dlr(z, y, t)).0,
        Loss::Logit => -at(y),
        Loss::TargetedLogit => at(t),
    }
}

/// Adds the gradient to `out`, which is zero.
fn gradient(kind: Loss, z: &[f32], y: usize, t: usize, out: &mut [f64]) {
    match kind {
        Loss::CrossEntropy { smoothing } => cross_entropy_grad(f64::from(smoothing), 1.0, z, y, out),
        Loss::TargetedCrossEntropy => cross_entropy_grad(0.0, -1.0, z, t, out),
        Loss::Margin => {
            out[best_except(z, Some(y))] += 1.0;
            out[y] -= 1.0;
        }
        Loss::Hinge { kappa } => {
            let other = best_except(z, Some(y));
            if f64::from(z[y]) - f64::from(z[other]) >= -f64::from(kappa) {
                out[y] += 1.0;
                out[other] -= 1.0;
            }
        }
        Loss::TargetedMargin => {
            out[t] += 1.0;
            out[best_except(z, Some(t))] -= 1.0;
        }
        Loss::TargetedDifference => {
            out[t] += 1.0;
            out[y] -= 1.0;
        }
        Loss::Dlr => ratio_grad(z, &dlr(z, y), out),
        Loss::TargetedDlr => ratio_grad(z, &targeted_dlr(z, y, t), out),
        Loss::Logit => out[y] -= 1.0,
        Loss::TargetedLogit => out[t] += 1.0,
    }
}

/// `logsumexp(z) - (1 - s) z_y - s mean(z)`.
fn cross_entropy(smoothing: f64, z: &[f32], y: usize) -> f64 {
    let (highest, total) = exp_sum(z);
    let below = |i: usize| f64::from(z[i]) - highest;
    // A class at minus infinity has no say without smoothing.
    let others = if smoothing == 0.0 { 0.0 } else { smoothing * (0..z.len()).map(below).sum::<f64>() / z.len() as f64 };
    total.ln() - (1.0 - smoothing) * below(y) - others
}

fn cross_entropy_grad(smoothing: f64, sign: f64, z: &[f32], y: usize, out: &mut [f64]) {
    let (highest, total) = exp_sum(z);
    let even = smoothing / z.len() as f64;
    for (i, (out, &z)) in out.iter_mut().zip(z).enumerate() {
        let wanted = even + if i == y { 1.0 - smoothing } else { 0.0 };
        *out += sign * ((f64::from(z) - highest).exp() / total - wanted);
    }
}

/// The highest logit, and the sum of `exp(z - highest)`.
fn exp_sum(z: &[f32]) -> (f64, f64) {
    let highest = f64::from(z[best_except(z, None)]);
    (highest, z.iter().map(|&v| (f64::from(v) - highest).exp()).sum())
}

/// `-(z_a - z_b) / (z_top - (z_low[0] + z_low[1]) / 2 + 1e-12)`, given by classes.
struct Ratio {
    a: usize,
    b: usize,
    top: usize,
    low: [usize; 2],
}

fn dlr(z: &[f32], y: usize) -> Ratio {
    let [first, second, third, _] = ranked(z);
    Ratio { a: y, b: if first == y { second } else { first }, top: first, low: [third; 2] }
}

fn targeted_dlr(z: &[f32], y: usize, t: usize) -> Ratio {
    let [first, _, third, fourth] = ranked(z);
    Ratio { a: y, b: t, top: first, low: [third, fourth] }
}

/// Value, and the denominator.
fn ratio(z: &[f32], r: &Ratio) -> (f64, f64) {
    let at = |i: usize| f64::from(z[i]);
    let below = at(r.top) - 0.5 * (at(r.low[0]) + at(r.low[1])) + 1e-12;
    (-(at(r.a) - at(r.b)) / below + poison(z), below)
}

fn ratio_grad(z: &[f32], r: &Ratio, out: &mut [f64]) {
    let (value, below) = ratio(z, r);
    out[r.a] -= 1.0 / below;
    out[r.b] += 1.0 / below;
    out[r.top] -= value / below;
    r.low.iter().for_each(|&low| out[low] += 0.5 * value / below);
}

/// The four highest classes, highest first; of equals the higher class, a NaN above all. With three classes the last is void.
fn ranked(z: &[f32]) -> [usize; 4] {
    let above = |a: usize, b: usize| z[a] >= z[b] || z[a].is_nan();
    let mut top = [usize::MAX; 4];
    for class in 0..z.len() {
        let place = top.iter().position(|&held| held == usize::MAX || above(class, held));
        if let Some(place) = place {
            top[place..].rotate_right(1);
            top[place] = class;
        }
    }
    top
}

/// The highest class other than `skip`: of equals the lowest class; a NaN is above all.
fn best_except(z: &[f32], skip: Option<usize>) -> usize {
    let mut best = usize::from(skip == Some(0));
    for i in (0..z.len()).filter(|&i| Some(i) != skip) {
        if z[i] > z[best] || z[i].is_nan() && !z[best].is_nan() {
            best = i;
        }
    }
    best
}

/// NaN where a logit is NaN, else 0: a loss that reads two logits must not hide a third.
fn poison(z: &[f32]) -> f64 {
    if z.iter().any(|v| v.is_nan()) { f64::NAN } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    const ALL: [Loss; 9] = [
        Loss::CrossEntropy { smoothing: 0.0 },
        Loss::CrossEntropy { smoothing: 0.1 },
        Loss::Margin,
        Loss::Hinge { kappa: 0.5 },
        Loss::Dlr,
        Loss::TargetedCrossEntropy,
        Loss::TargetedMargin,
        Loss::TargetedDifference,
        Loss::TargetedDlr,
    ];

    fn logits(n: usize, classes: usize) -> (Vec<f32>, Vec<i32>, Vec<i32>) {
        let mut z = vec![0.0; n * classes];
        Stream { seed: 9, index: classes as u32, step: 0, purpose: Purpose::Start, restart: 0 }.fill_normal(&mut z);
        z.iter_mut().for_each(|v| *v *= 3.0);
        let label = (0..n).map(|i| (i % classes) as i32).collect();
        (z, label, (0..n).map(|i| ((i + 1 + i % (classes - 1)) % classes) as i32).collect())
    }

    fn run(kind: Loss, classes: usize, z: &[f32], label: &[i32], target: &[i32]) -> (Vec<f32>, Vec<f32>) {
        let (mut value, mut grad) = (vec![9.0; label.len()], vec![9.0; z.len()]);
        let target = kind.targeted().then_some(target);
        loss(kind, classes, z, label, target, &mut value);
        loss_grad(kind, classes, z, label, target, &mut grad);
        (value, grad)
    }

    /// The formulas once more, on f64 logits and by full sorting, for values and finite differences.
    fn by_hand(kind: Loss, z: &[f64], y: usize, t: usize) -> f64 {
        let mut sorted = z.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let best_but = |skip: usize| (0..z.len()).filter(|&i| i != skip).map(|i| z[i]).fold(f64::NEG_INFINITY, f64::max);
        let lse = sorted[0] + z.iter().map(|v| (v - sorted[0]).exp()).sum::<f64>().ln();
        match kind {
            Loss::CrossEntropy { smoothing } => {
                let s = f64::from(smoothing);
                lse - (1.0 - s) * z[y] - s * z.iter().sum::<f64>() / z.len() as f64
            }
            Loss::Margin => best_but(y) - z[y],
            Loss::Hinge { kappa } => (z[y] - best_but(y)).max(-f64::from(kappa)),
            Loss::Dlr => -(z[y] - best_but(y)) / (sorted[0] - sorted[2] + 1e-12),
            Loss::TargetedCrossEntropy => z[t] - lse,
            Loss::TargetedMargin => z[t] - best_but(t),
            Loss::TargetedDifference => z[t] - z[y],
            Loss::TargetedDlr => -(z[y] - z[t]) / (sorted[0] - (sorted[2] + sorted[3]) / 2.0 + 1e-12),
            Loss::Logit => -z[y],
            Loss::TargetedLogit => z[t],
        }
    }

    #[test]
    fn values_and_gradients_match_the_formulas() {
        let n = 40;
        for (kind, classes) in ALL.into_iter().flat_map(|k| [4, 10, 100].map(|c| (k, c))) {
            let (z, label, target) = logits(n, classes);
            let (value, grad) = run(kind, classes, &z, &label, &target);
            for i in 0..n {
                let row: Vec<f64> = z[i * classes..][..classes].iter().map(|&v| f64::from(v)).collect();
                let (y, t) = (label[i] as usize, target[i] as usize);
                let want = by_hand(kind, &row, y, t);
                assert!(
                    (f64::from(value[i]) - want).abs() < 1e-6 * want.abs().max(1.0),
                    "{kind:?} {classes}: {} not {want}",
                    value[i]
                );
                for c in 0..classes {
                    let h = 1e-6;
                    let moved = |by: f64| {
                        let mut row = row.clone();
                        row[c] += by;
                        by_hand(kind, &row, y, t)
                    };
                    let (want, got) = ((moved(h) - moved(-h)) / (2.0 * h), f64::from(grad[i * classes + c]));
                    assert!((got - want).abs() < 1e-6 * want.abs().max(1.0), "{kind:?} {classes}, d/dz_{c}: {got} not {want}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_place() {
        let (z, label, target) = logits(200, 10);
        for kind in ALL {
            let (value, grad) = run(kind, 10, &z, &label, &target);
            let (one, one_grad) = run(kind, 10, &z[1230..1240], &label[123..124], &target[123..124]);
            assert_eq!((value[123], &grad[1230..1240]), (one[0], &one_grad[..]), "{kind:?}");
        }
    }

    #[test]
    fn huge_logits_and_offsets_stay_finite() {
        let (value, grad) = run(ALL[0], 3, &[1e30, 0.0, -1e30, 1e4, 1e4, 0.0], &[1, 0], &[]);
        assert_eq!((value[0], &grad[..3]), (1e30, &[1.0, -1.0, 0.0][..]));
        assert_eq!((value[1], &grad[3..]), (2f32.ln(), &[-0.5, 0.5, 0.0][..]));
        let (value, grad) = run(ALL[0], 3, &[1.0, f32::NEG_INFINITY, 1.0], &[0], &[]);
        assert_eq!((value[0], &grad[..]), (2f32.ln(), &[-0.5, 0.0, 0.5][..]));
        let (value, grad) = run(ALL[0], 1, &[7.0], &[0], &[]);
        assert_eq!((value[0], grad[0]), (0.0, 0.0));
    }

    #[test]
    fn ties_go_where_pytorch_sends_them() {
        let z = [2.0, 5.0, 5.0, 1.0, 5.0];
        let grad = |kind, y: i32, t: i32| run(kind, 5, &z, &[y], &[t]).1;
        assert_eq!(grad(Loss::Margin, 0, 0), [-1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(grad(Loss::Margin, 1, 0), [0.0, -1.0, 1.0, 0.0, 0.0]);
        assert_eq!(grad(Loss::TargetedMargin, 0, 3), [0.0, -1.0, 0.0, 1.0, 0.0]);
        assert_eq!(ranked(&z), [4, 2, 1, 0]);
        assert_eq!(ranked(&[1.0, f32::NAN, 3.0, 2.0]), [1, 2, 3, 0]);
        assert_eq!(ranked(&[1.0, 1.0, 0.0]), [1, 0, 2, usize::MAX]);
        // Label at the top of the sort: the next below is the other; else the top is.
        assert_eq!((dlr(&z, 4).b, dlr(&z, 1).b), (2, 4));
        let (value, grad) = run(Loss::Dlr, 3, &[1.0, 1.0, 1.0], &[0], &[]);
        assert!(value[0] == 0.0 && grad.iter().all(|g| g.is_finite()));
    }

    #[test]
    fn hinge_stops_below_minus_kappa_and_passes_at_it() {
        let z = [1.0, 3.0, 0.0, /*row*/ 1.0, 3.5, 0.0, /*row*/ 3.0, 1.0, 0.0];
        let (value, grad) = run(Loss::Hinge { kappa: 2.0 }, 3, &z, &[0, 0, 0], &[]);
        assert_eq!(value, [-2.0, -2.0, 2.0]);
        assert_eq!(grad, [1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0]);
    }

    #[test]
    fn nan_is_never_hidden() {
        for at in 0..5 {
            let mut z = [0.5, 3.0, 1.0, -2.0, 0.0];
            z[at] = f32::NAN;
            for kind in ALL.into_iter().filter(|&k| k != Loss::TargetedDifference || at < 2) {
                assert!(run(kind, 5, &z, &[0], &[1]).0[0].is_nan(), "{kind:?} with NaN at {at}");
            }
            let mut out = [9.0; 5];
            fooled(false, 5, &z.repeat(5), &[0, 1, 2, 3, 4], &mut out);
            assert_eq!(out, [1.0; 5]);
            fooled(true, 5, &z.repeat(5), &[0, 1, 2, 3, 4], &mut out);
            assert_eq!(out, [0.0; 5]);
        }
    }

    #[test]
    fn fooled_reads_the_lowest_of_the_highest() {
        let z = [1.0, 2.0, 2.0].repeat(3);
        let mut out = [9.0; 3];
        fooled(false, 3, &z, &[0, 1, 2], &mut out);
        assert_eq!(out, [1.0, 0.0, 1.0]);
        fooled(true, 3, &z, &[0, 1, 2], &mut out);
        assert_eq!(out, [0.0, 1.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "Margin needs 2 classes, the network has 1")]
    fn one_class_has_no_margin() {
        run(Loss::Margin, 1, &[1.0], &[0], &[]);
    }

    #[test]
    #[should_panic(expected = "Dlr needs 3 classes, the network has 2")]
    fn two_classes_have_no_dlr() {
        run(Loss::Dlr, 2, &[1.0, 2.0], &[0], &[]);
    }

    #[test]
    #[should_panic(expected = "class 3 of 3")]
    fn a_label_beyond_the_classes_is_refused() {
        run(Loss::Margin, 3, &[1.0, 2.0, 3.0], &[3], &[]);
    }
}
