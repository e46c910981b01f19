//! Adversarial images on the 256 levels of a picture file, rounded so that they stay allowed.
//! Must not know files.

use crate::threat::{Goal, Norm, ThreatModel};

/// `x` with every value on one of 256 levels (`k / 255`). Where a threat model is to be kept each value takes the nearest
/// level that keeps it: in L-inf the nearest inside the radius, in L2 and L1, where plain rounding leaves the ball, the
/// nearest towards the original. An original that lies between levels itself may leave no way to keep a small radius; see
/// [`Goal::allows`].
pub fn quantised(goal: Goal, x0: &[f32], x: &[f32]) -> Vec<f32> {
    assert_eq!(x0.len(), x.len(), "quantised: images differ in length");
    let nearest: Vec<f32> = x.iter().map(|&v| level((f64::from(v) * 255.0).round())).collect();
    let Goal::Within(threat) = goal else { return nearest };
    match threat.norm {
        Norm::Linf => x0.iter().zip(&nearest).map(|(&o, &v)| inside(threat.eps, o, v)).collect(),
        Norm::L2 | Norm::L1 if threat.contains(x0, &nearest) => nearest,
        Norm::L2 | Norm::L1 => towards(threat, x0, x, nearest),
    }
}

fn level(k: f64) -> f32 {
    (k.clamp(0.0, 255.0) / 255.0) as f32
}

/// The level nearest to `v` within `eps` of `o`; `v` itself where there is none.
fn inside(eps: f64, o: f32, v: f32) -> f32 {
    let threat = ThreatModel::linf(eps);
    let step = if v > o { -1.0 } else { 1.0 };
    let k = (f64::from(v) * 255.0).round();
    // Rounding moves by half a level at most, so one step back is enough where any level fits.
    [v, level(k + step)].into_iter().find(|&l| threat.contains(&[o], &[l])).unwrap_or(v)
}

/// Values rounded away from the original are rounded towards it, those that gain most first, until the ball is kept.
fn towards(threat: ThreatModel, x0: &[f32], x: &[f32], mut out: Vec<f32>) -> Vec<f32> {
    let back = |i: usize| {
        let (o, v) = (f64::from(x0[i]) * 255.0, f64::from(x[i]) * 255.0);
        level(if v > o { v.floor().max(o.round().min(v.ceil())) } else { v.ceil().min(o.round().max(v.floor())) })
    };
    let gain = |i: usize, out: &[f32]| f64::from((out[i] - x0[i]).abs()) - f64::from((back(i) - x0[i]).abs());
    let mut order: Vec<(f64, usize)> = (0..x.len()).map(|i| (gain(i, &out), i)).filter(|(g, _)| *g > 0.0).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let order: Vec<usize> = order.into_iter().map(|(_, i)| i).collect();
    // The length falls with every value that moves back: the fewest that do are found by halving.
    let (mut low, mut high) = (0, order.len());
    let with = |count: usize, from: &[f32]| {
        let mut all = from.to_vec();
        order[..count].iter().for_each(|&i| all[i] = back(i));
        all
    };
    while low < high {
        let middle = (low + high) / 2;
        if threat.contains(x0, &with(middle, &out)) { high = middle } else { low = middle + 1 }
    }
    out = with(high, &out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};
    use crate::threat::Distance;

    fn images(index: u32) -> (Vec<f32>, Vec<f32>) {
        let (mut a, mut b) = (vec![0f32; 300], vec![0f32; 300]);
        let stream = |restart| Stream { seed: 3, index, step: 0, purpose: Purpose::Start, restart };
        stream(0).fill_uniform(&mut a);
        stream(1).fill_uniform(&mut b);
        let x0: Vec<f32> = a.iter().map(|v| (v * 255.0).round() / 255.0).collect();
        let x = x0.iter().zip(&b).map(|(o, v)| (o + 0.2 * (v - 0.5)).clamp(0.0, 1.0)).collect();
        (x0, x)
    }

    #[test]
    fn rounded_images_stay_allowed_and_lie_on_levels() {
        for (norm, eps) in [(Norm::Linf, 8.0 / 255.0), (Norm::Linf, 0.031), (Norm::L2, 0.5), (Norm::L1, 6.0)] {
            let threat = ThreatModel::new(norm, eps);
            for index in 0..40 {
                let (x0, mut x) = images(index);
                threat.project(&x0, &mut x);
                let q = quantised(Goal::Within(threat), &x0, &x);
                assert!(threat.contains(&x0, &q), "{norm} {eps}: {}", threat.distance(&x0, &q) - eps);
                assert!(q.iter().all(|v| (v * 255.0 - (v * 255.0).round()).abs() < 1e-4), "{norm}: between levels");
                let moved = x.iter().zip(&q).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(moved < 1.0001 / 255.0, "{norm}: moved by {moved}");
            }
        }
    }

    #[test]
    fn without_a_ball_every_value_takes_the_nearest_level() {
        let q = quantised(Goal::Nearest(Distance::Norm(Norm::L2)), &[0.5; 3], &[0.501, 0.0019, 0.9981]);
        assert_eq!(q, [128.0 / 255.0, 0.0, 1.0]);
    }
}
