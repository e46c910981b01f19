//! The threat model: which images an attacker may use, and the f64 measure that judges every claimed success.
//! Knows no network and no device.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A distance between images, over all values of an image in [0,1] units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Largest absolute difference.
    Linf,
    /// Euclidean distance.
    L2,
    /// Sum of absolute differences.
    L1,
}

impl Norm {
    /// `linf`, `l2`, `l1`.
    pub fn name(self) -> &'static str {
        match self {
            Norm::Linf => "linf",
            Norm::L2 => "l2",
            Norm::L1 => "l1",
        }
    }
    /// The radius that the literature uses on CIFAR-10: 8/255, 0.5, 12.
    pub fn default_eps(self) -> f64 {
        match self {
            Norm::Linf => 8.0 / 255.0,
            Norm::L2 => 0.5,
            Norm::L1 => 12.0,
        }
    }
    /// A step size that fits [`Norm::default_eps`]: 2/255, 0.1, 1.
    pub fn default_alpha(self) -> f64 {
        match self {
            Norm::Linf => 2.0 / 255.0,
            Norm::L2 => 0.1,
            Norm::L1 => 1.0,
        }
    }
}

impl fmt::Display for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The images that an attacker may use: those within `eps` of the original whose values all lie in [0,1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreatModel {
    /// The distance.
    pub norm: Norm,
    /// The radius in units of [0,1] pixels.
    pub eps: f64,
}

impl ThreatModel {
    /// Panics where `eps` is negative or not finite.
    pub fn new(norm: Norm, eps: f64) -> Self {
        assert!(eps >= 0.0 && eps.is_finite(), "radius {eps}");
        ThreatModel { norm, eps }
    }
    /// The L-inf ball. Panics as [`ThreatModel::new`].
    pub fn linf(eps: f64) -> Self {
        ThreatModel::new(Norm::Linf, eps)
    }
    /// The L2 ball. Panics as [`ThreatModel::new`].
    pub fn l2(eps: f64) -> Self {
        ThreatModel::new(Norm::L2, eps)
    }
    /// The L1 ball. Panics as [`ThreatModel::new`].
    pub fn l1(eps: f64) -> Self {
        ThreatModel::new(Norm::L1, eps)
    }
    /// Distance of `x` from `x0` under this norm; see [`distance`].
    pub fn distance(&self, x0: &[f32], x: &[f32]) -> f64 {
        distance(self.norm, x0, x)
    }
    /// How much further than `eps` an honest point can lie because `x0 + d` was rounded to f32, for images of `elems`
    /// values: 2^-24 a value, summed as the norm sums. Independent of the arithmetic that made `d`.
    pub fn tolerance(&self, elems: usize) -> f64 {
        let ulp = 2f64.powi(-24);
        match self.norm {
            Norm::Linf => ulp,
            Norm::L2 => ulp * (elems as f64).sqrt(),
            Norm::L1 => ulp * elems as f64,
        }
    }
    /// Whether `x` may be used against `x0`: within `eps` plus [`ThreatModel::tolerance`], every value in [0,1]. NaN fails.
    pub fn contains(&self, x0: &[f32], x: &[f32]) -> bool {
        x.iter().all(|v| (0.0..=1.0).contains(v)) && self.distance(x0, x) <= self.eps + self.tolerance(x.len())
    }
    /// Moves `x` to the closest point of ball and box together around `x0` (values in [0,1]): computed in f64, rounded to
    /// f32 once. A NaN stays NaN; in L2 and L1 it spreads to the whole image, since no length is known.
    pub fn project(&self, x0: &[f32], x: &mut [f32]) {
        assert_eq!(x0.len(), x.len(), "project: images differ in length");
        // Far beyond any image; it keeps infinities out of the sums.
        let difference = |(&v, &o): (&f32, &f32)| (f64::from(v) - f64::from(o)).clamp(-1e30, 1e30);
        let mut delta: Vec<f64> = x.iter().zip(x0).map(difference).collect();
        match self.norm {
            Norm::Linf => delta.iter_mut().for_each(|d| *d = d.clamp(-self.eps, self.eps)),
            Norm::L2 => project_l2(self.eps, x0, &mut delta),
            Norm::L1 => project_l1(self.eps, x0, &mut delta),
        }
        for ((v, &o), d) in x.iter_mut().zip(x0).zip(delta) {
            *v = (f64::from(o) + d).clamp(0.0, 1.0) as f32;
        }
    }
}

/// A distance by which attacks that look for the nearest adversarial image measure what they found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// How many values differ.
    L0,
    /// One of the norms.
    Norm(Norm),
}

impl Distance {
    /// `l0`, `linf`, `l2`, `l1`.
    pub fn name(self) -> &'static str {
        match self {
            Distance::L0 => "l0",
            Distance::Norm(norm) => norm.name(),
        }
    }
    /// The distance of `x` from `x0`; see [`distance`].
    pub fn between(self, x0: &[f32], x: &[f32]) -> f64 {
        match self {
            Distance::L0 => changed(x0, x) as f64,
            Distance::Norm(norm) => distance(norm, x0, x),
        }
    }
}

/// How many values of two images differ. A NaN differs from everything.
pub fn changed(x0: &[f32], x: &[f32]) -> usize {
    assert_eq!(x0.len(), x.len(), "changed: images differ in length");
    x0.iter().zip(x).filter(|(a, b)| a != b).count()
}

/// What an attack is after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Any adversarial image of a threat model.
    Within(ThreatModel),
    /// The adversarial image nearest to the original, at whatever distance.
    Nearest(Distance),
}

impl Goal {
    /// Whether `x` may be returned for `x0`: [`ThreatModel::contains`], or every value in [0,1].
    pub fn allows(&self, x0: &[f32], x: &[f32]) -> bool {
        match self {
            Goal::Within(threat) => threat.contains(x0, x),
            Goal::Nearest(_) => x.iter().all(|v| (0.0..=1.0).contains(v)),
        }
    }
    /// How the change of an image is measured.
    pub fn distance(&self) -> Distance {
        match self {
            Goal::Within(threat) => Distance::Norm(threat.norm),
            Goal::Nearest(distance) => *distance,
        }
    }
    /// The threat model, where there is one.
    pub fn threat(&self) -> Option<ThreatModel> {
        match self {
            Goal::Within(threat) => Some(*threat),
            Goal::Nearest(_) => None,
        }
    }
}

/// Distance of two images in f64, always summed in the same order. NaN where a value is NaN.
pub fn distance(norm: Norm, x0: &[f32], x: &[f32]) -> f64 {
    assert_eq!(x0.len(), x.len(), "distance: images differ in length");
    let difference = |i: usize| f64::from(x[i]) - f64::from(x0[i]);
    match norm {
        // Not f64::max, which would drop a NaN.
        Norm::Linf => (0..x.len()).map(|i| difference(i).abs()).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a }),
        Norm::L2 => sum(x.len(), |i| difference(i) * difference(i)).sqrt(),
        Norm::L1 => sum(x.len(), |i| difference(i).abs()),
    }
}

/// The closest point to `delta` in (L1 ball of radius `eps`) and (box `0 <= x0 + delta <= 1`), in place. `x0` in [0,1].
///
/// The solution is `sign(delta) * clamp(|delta| - lambda, 0, room)`, `room` being the way to the box, with the smallest
/// `lambda >= 0` that fits the ball (Croce and Hein 2021, <https://arxiv.org/abs/2103.01208>). The length falls piecewise
/// linearly with `lambda`: Newton's step is exact once it starts on the right piece, and a bracket keeps it from cycling.
pub(crate) fn project_l1(eps: f64, x0: &[f32], delta: &mut [f64]) {
    assert_eq!(x0.len(), delta.len(), "project: image and step differ in length");
    if delta.iter().any(|d| d.is_nan()) {
        return delta.fill(f64::NAN);
    }
    let n = delta.len();
    let shrunk = |i: usize, d: f64, lambda: f64| (d.abs() - lambda).max(0.0).min(room(d, x0[i]));
    let length = |lambda: f64| sum(n, |i| shrunk(i, delta[i], lambda));
    let moving = |i: usize, rest: f64| if rest > 0.0 && rest <= room(delta[i], x0[i]) { 1.0 } else { 0.0 };
    let (mut low, mut high) = (0.0, delta.iter().fold(0.0, |a: f64, d| a.max(d.abs())));
    let mut lambda = 0.0;
    let mut over = length(lambda) - eps;
    let mut turn = 0;
    while over != 0.0 && (over > 0.0 || lambda > 0.0) {
        let newton = lambda + over / sum(n, |i| moving(i, delta[i].abs() - lambda));
        if (newton - lambda).abs() <= lambda * 2.0 * f64::EPSILON {
            break;
        }
        // Every third step halves the bracket whatever Newton's does.
        turn += 1;
        let inside = newton > low && newton < high && turn % 3 != 0;
        let next = if inside { newton } else { low + 0.5 * (high - low) };
        if next <= low || next >= high {
            lambda = high;
            break;
        }
        lambda = next;
        over = length(lambda) - eps;
        if over > 0.0 { low = lambda } else { high = lambda }
    }
    for (i, d) in delta.iter_mut().enumerate() {
        *d = shrunk(i, *d, lambda).copysign(*d);
    }
}

/// The closest point to `delta` in (L2 ball of radius `eps`) and (box), in place. `x0` in [0,1].
///
/// The solution is `sign(delta) * min(t * |delta|, room)`. Its squared length is concave and piecewise linear in `t^2`, so
/// Newton's iteration from the plain rescaling climbs to the root without passing it: every iterate is in the ball.
fn project_l2(eps: f64, x0: &[f32], delta: &mut [f64]) {
    if delta.iter().any(|d| d.is_nan()) {
        return delta.fill(f64::NAN);
    }
    let n = delta.len();
    let limit = eps * eps;
    let moved = |i: usize, d: f64, t: f64| (t * d.abs()).min(room(d, x0[i]));
    let square = |t: f64| sum(n, |i| moved(i, delta[i], t).powi(2));
    let mut t = 1.0;
    if square(t) > limit {
        t = eps / sum(n, |i| delta[i] * delta[i]).sqrt();
        loop {
            let free = sum(n, |i| if t * delta[i].abs() < room(delta[i], x0[i]) { delta[i] * delta[i] } else { 0.0 });
            let next = (t * t + (limit - square(t)).max(0.0) / free).sqrt();
            if !next.is_finite() || next <= t * (1.0 + 4.0 * f64::EPSILON) {
                break;
            }
            t = next;
        }
    }
    for (i, d) in delta.iter_mut().enumerate() {
        *d = moved(i, *d, t).copysign(*d);
    }
}

/// The way from `o` to the box in the direction of `d`.
fn room(d: f64, o: f32) -> f64 {
    (if d > 0.0 { 1.0 - f64::from(o) } else { f64::from(o) }).max(0.0)
}

/// `term(0) + .. + term(n - 1)` in eight interleaved partial sums: one order for every machine, and wide enough for lanes.
pub(crate) fn sum(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut parts = [0f64; 8];
    let whole = n - n % 8;
    for i in (0..whole).step_by(8) {
        for (j, part) in parts.iter_mut().enumerate() {
            *part += term(i + j);
        }
    }
    (whole..n).for_each(|i| parts[i - whole] += term(i));
    let [a, b, c, d, e, f, g, h] = parts;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    /// An image, and a point around it with steps up to `reach`, some of them zero and some pixels on the box.
    fn case(index: u32, elems: usize, reach: f32) -> (Vec<f32>, Vec<f32>) {
        let stream = |restart| Stream { seed: 7, index, step: 0, purpose: Purpose::Start, restart };
        let (mut x0, mut x) = (vec![0.0; elems], vec![0.0; elems]);
        stream(0).fill_uniform(&mut x0);
        stream(1).fill_uniform(&mut x);
        for i in 0..elems {
            x0[i] = if i % 7 == 0 { x0[i].round() } else { x0[i] };
            x[i] = if i % 5 == 0 { x0[i] } else { x0[i] + reach * (2.0 * x[i] - 1.0) };
        }
        (x0, x)
    }

    fn deltas(x0: &[f32], x: &[f32]) -> Vec<f64> {
        x.iter().zip(x0).map(|(&v, &o)| f64::from(v) - f64::from(o)).collect()
    }

    /// Karush-Kuhn-Tucker: at the closest point p to u, `u - p` is a multiple of the ball's outward normal wherever the box
    /// is not in the way. L1: `|u| - p` is one lambda where 0 < p < room, at least lambda at the room, at most lambda at 0.
    #[test]
    fn l1_projection_is_the_closest_point() {
        for index in 0..300 {
            let (elems, reach) = ([1, 2, 9, 64, 301][index as usize % 5], [0.05, 0.4, 3.0, 900.0][index as usize % 4]);
            let (x0, x) = case(index, elems, reach);
            let u = deltas(&x0, &x);
            let eps = [0.0, 0.02, 0.7, 5.0][index as usize / 5 % 4];
            let mut p = u.clone();
            project_l1(eps, &x0, &mut p);
            let length: f64 = p.iter().map(|d| d.abs()).sum();
            assert!(length <= eps + 1e-12 * (1.0 + f64::from(reach)), "{index}: length {length} above {eps}");
            let (mut lower, mut upper) = (0f64, f64::INFINITY);
            for i in 0..elems {
                let (free, got) = (room(u[i], x0[i]), p[i].abs());
                assert!(p[i] * u[i] >= 0.0 && got <= free);
                // Bounds that this coordinate puts on lambda.
                let gap = u[i].abs() - got;
                if got > 0.0 {
                    upper = upper.min(gap.max(0.0))
                }
                if got < free {
                    lower = lower.max(gap)
                }
            }
            assert!(lower <= upper + 1e-12 * (1.0 + f64::from(reach)), "{index}: lambda in {lower}..{upper}");
            let slack = lower > 1e-9;
            assert!(
                !slack || (length - eps).abs() < 1e-11 * (1.0 + f64::from(reach)),
                "{index}: {length} below {eps} though shrunk"
            );
        }
    }

    #[test]
    fn l2_projection_is_the_closest_point() {
        for index in 0..200 {
            let (x0, x) = case(index, [3, 40, 301][index as usize % 3], [0.1, 0.8, 5.0][index as usize / 3 % 3]);
            let u = deltas(&x0, &x);
            let eps = [0.03, 0.5, 4.0][index as usize / 9 % 3];
            let mut p = u.clone();
            project_l2(eps, &x0, &mut p);
            let length = p.iter().map(|d| d * d).sum::<f64>().sqrt();
            assert!(length <= eps * (1.0 + 1e-14), "{index}: {length} above {eps}");
            let (mut low, mut high) = (0f64, 1f64);
            for i in (0..u.len()).filter(|&i| u[i] != 0.0) {
                let ratio = p[i] / u[i];
                if p[i].abs() < room(u[i], x0[i]) * (1.0 - 1e-12) {
                    (low, high) = (low.max(ratio), high.min(ratio));
                }
            }
            assert!(low <= high * (1.0 + 1e-12) || low == 0.0, "{index}: factors {high}..{low}");
            assert!(high > 1.0 - 1e-12 || (length - eps).abs() < 1e-12, "{index}: shrunk by {high} to {length} below {eps}");
        }
    }

    #[test]
    fn projected_points_are_contained() {
        for (norm, eps) in
            [(Norm::Linf, 8.0 / 255.0), (Norm::Linf, 1.0), (Norm::L2, 0.5), (Norm::L2, 7.0), (Norm::L1, 12.0), (Norm::L1, 0.1)]
        {
            let threat = ThreatModel::new(norm, eps);
            for index in 0..50 {
                for reach in [1e-3, 0.2, 4.0, f32::INFINITY] {
                    let (x0, mut x) = case(index, 192, reach.min(1e30));
                    threat.project(&x0, &mut x);
                    assert!(threat.contains(&x0, &x), "{norm} {eps} reach {reach}: {:e}", threat.distance(&x0, &x) - eps);
                    let before = x.clone();
                    threat.project(&x0, &mut x);
                    let moved = distance(Norm::Linf, &before, &x);
                    assert!(moved <= threat.tolerance(192), "{norm}: projecting twice moves by {moved:e}");
                }
            }
        }
    }

    #[test]
    fn contains_draws_the_line_where_it_says() {
        let x0 = [0.5f32; 4];
        let threat = ThreatModel::new(Norm::Linf, 0.25);
        assert!(threat.contains(&x0, &[0.75, 0.25, 0.5, 0.5]));
        assert!(threat.contains(&x0, &[0.75 + 5.9e-8, 0.5, 0.5, 0.5]));
        assert!(!threat.contains(&x0, &[0.75 + 1.2e-7, 0.5, 0.5, 0.5]));
        let l1 = ThreatModel::new(Norm::L1, 0.5);
        assert!(l1.contains(&x0, &[0.75, 0.25, 0.5, 0.5]) && !l1.contains(&x0, &[0.75, 0.25, 0.51, 0.5]));
        let l2 = ThreatModel::new(Norm::L2, 0.5);
        assert!(l2.contains(&x0, &[0.25, 0.75, 0.25, 0.75]) && !l2.contains(&x0, &[0.25, 0.75, 0.24, 0.75]));
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            let wide = ThreatModel::new(norm, 10.0);
            for bad in [f32::NAN, -1e-7, 1.000_000_1, f32::INFINITY] {
                assert!(!wide.contains(&x0, &[0.5, bad, 0.5, 0.5]), "{norm} accepts {bad}");
            }
            assert!(!wide.contains(&[f32::NAN, 0.0, 0.0, 0.0], &x0), "{norm}: distance from NaN");
            assert!(distance(norm, &x0, &[0.5, f32::NAN, 0.5, 0.9]).is_nan());
        }
    }

    #[test]
    fn nan_stays_nan() {
        for norm in [Norm::Linf, Norm::L2, Norm::L1] {
            let mut x = [0.4, f32::NAN, 0.6];
            ThreatModel::new(norm, 0.1).project(&[0.5; 3], &mut x);
            assert!(x[1].is_nan());
            assert_eq!(x[0].is_nan(), norm != Norm::Linf, "{norm}");
        }
    }
}
