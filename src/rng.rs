//! Random numbers that belong to an image, not to a batch: equal seeds give equal bits on every device.
//! Knows no batch, no device and no network.
//! Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

use crate::threat::Norm;

/// What a number is drawn for. Streams of different purposes never share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Purpose {
    /// The direction of a random start.
    Start = 1,
    /// The length of a random start.
    StartRadius = 2,
    /// A random class, such as a target.
    Class = 3,
    /// Dropout masks; the site of the mask takes the place of the restart.
    Dropout = 4,
    /// The order of an epoch and the images that are held out.
    Shuffle = 5,
    /// Crops and flips.
    Augment = 6,
    /// Initial weights; the position of the tensor takes the place of the image.
    Init = 7,
    /// The direction in which a restart of FAB begins.
    FabStart = 10,
    /// Where Square starts, and its proposals; the step is the number of the query.
    Square = 11,
    /// Noise and directions of HopSkipJump, in the order of memory; the step is the number of the query.
    HopSkipJump = 12,
    /// What an attack on a transformed image draws: noise around it, sizes and places of its copies.
    Transfer = 8,
    /// A direction for an attack whose gradient is zero.
    Direction = 13,
    /// How images of a training batch are mixed.
    Mix = 14,
}

/// The numbers of one image for one purpose: element `i` is a pure function of these fields and `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the image in its split, not in its batch.
    pub index: u32,
    /// Step of the attack or of the training run.
    pub step: u32,
    /// What the numbers are for.
    pub purpose: Purpose,
    /// Restart of the attack.
    pub restart: u16,
}

impl Stream {
    /// 32 random bits.
    pub fn bits(&self, element: u32) -> u32 {
        self.block(element / 4)[element as usize % 4]
    }
    /// Uniform in [0,1): a multiple of 2^-24.
    pub fn uniform(&self, element: u32) -> f32 {
        unit(self.bits(element))
    }
    /// Elements 0, 1, .. of [`Stream::uniform`].
    pub fn fill_uniform(&self, out: &mut [f32]) {
        self.fill(out, |words| words.map(unit));
    }
    /// Standard normal, |value| < 5.8. Box-Muller on words (0, 1) and (2, 3) of a block; within 1e-6 of the f64 formula.
    pub fn normal(&self, element: u32) -> f32 {
        normals(self.block(element / 4))[element as usize % 4]
    }
    /// Elements 0, 1, .. of [`Stream::normal`].
    pub fn fill_normal(&self, out: &mut [f32]) {
        self.fill(out, normals);
    }

    fn fill(&self, out: &mut [f32], values: impl Fn([u32; 4]) -> [f32; 4]) {
        assert!(u32::try_from(out.len()).is_ok(), "{} elements do not fit the counter", out.len());
        for (i, four) in out.chunks_mut(4).enumerate() {
            four.copy_from_slice(&values(self.block(i as u32))[..four.len()]);
        }
    }
    fn block(&self, block: u32) -> [u32; 4] {
        let place = (self.purpose as u32) << 16 | u32::from(self.restart);
        philox([block, self.index, self.step, place], [self.seed as u32, (self.seed >> 32) as u32])
    }
    fn with(&self, purpose: Purpose) -> Stream {
        Stream { purpose, ..*self }
    }
}

/// The two words of a seed, lower first, and a step of 0: how ops read them.
pub fn words(seed: u64) -> [i32; 3] {
    [seed as i32, (seed >> 32) as i32, 0]
}

/// A random start in the ball of radius `eps` around `x0`, clipped to [0,1]; `x0` and `out` are one image in CHW order.
///
/// L-inf: `x0 + U(-eps, eps)` each (also the start of FGSM-RS). L2: a Gaussian direction times `U(0,1) * eps`,
/// torchattacks' rule, which favours the centre over a volume-uniform draw. L1: uniform in the volume of the ball.
/// Numbers come from purposes `Start` and `StartRadius` of `stream`, whatever its own purpose.
pub fn start(norm: Norm, eps: f32, stream: &Stream, x0: &[f32], out: &mut [f32]) {
    assert_eq!(x0.len(), out.len(), "start: image and result differ in length");
    let stream = stream.with(Purpose::Start);
    match norm {
        Norm::Linf => {
            stream.fill_uniform(out);
            out.iter_mut().for_each(|v| *v = eps * (2.0 * *v - 1.0));
        }
        Norm::L2 => {
            stream.fill_normal(out);
            let length = out.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            let radius = f64::from(eps) * f64::from(stream.with(Purpose::StartRadius).uniform(0));
            scale(out, if length > 0.0 { radius / length } else { 0.0 });
        }
        Norm::L1 => {
            // The first d of d + 1 exponentials, divided by the sum of all, fill a simplex evenly; signs make it the ball.
            let draw = |words: [u32; 4]| words.map(|w| if w & 1 == 0 { -ln(above_zero(w)) } else { ln(above_zero(w)) });
            stream.fill(out, draw);
            let extra = -ln(above_zero(stream.bits(out.len() as u32)));
            let total = out.iter().map(|&v| f64::from(v.abs())).sum::<f64>() + f64::from(extra);
            scale(out, if total > 0.0 { f64::from(eps) / total } else { 0.0 });
        }
    }
    add_clipped(x0, out);
}

/// The start of R+FGSM (Tramer et al. 2018): `x0 + a * sign(N(0,1))`, clipped to [0,1]; one image in CHW order.
pub fn start_sign(a: f32, stream: &Stream, x0: &[f32], out: &mut [f32]) {
    assert_eq!(x0.len(), out.len(), "start: image and result differ in length");
    stream.with(Purpose::Start).fill_normal(out);
    out.iter_mut().for_each(|v| *v = if *v == 0.0 { 0.0 } else { a.copysign(*v) });
    add_clipped(x0, out);
}

/// `x0` moved by `length` in a random direction, clipped to [0,1]; one image in CHW order. L-inf: `U(-1,1)` each, divided by
/// the largest; L2 and L1: Gaussian, divided by its norm (the restarts of FAB, Croce and Hein 2020). Purpose `FabStart`.
pub fn start_at(norm: Norm, length: f32, stream: &Stream, x0: &[f32], out: &mut [f32]) {
    assert_eq!(x0.len(), out.len(), "start: image and result differ in length");
    // In whole multiples of 2^-40: a sum that has the same bits in every order. Terms are below 34.
    assert!(x0.len() < 1 << 18, "{} elements overflow the sum", x0.len());
    let whole = |term: f64| (term * 2f64.powi(40)) as u64;
    let total =
        |out: &[f32], term: fn(f64) -> f64| out.iter().map(|&v| whole(term(f64::from(v)))).sum::<u64>() as f64 * 2f64.powi(-40);
    let stream = stream.with(Purpose::FabStart);
    let size = match norm {
        Norm::Linf => {
            stream.fill_uniform(out);
            out.iter_mut().for_each(|v| *v = 2.0 * *v - 1.0);
            out.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max)
        }
        Norm::L2 => {
            stream.fill_normal(out);
            total(out, |v| v * v).sqrt()
        }
        Norm::L1 => {
            stream.fill_normal(out);
            total(out, f64::abs)
        }
    };
    scale(out, if size > 0.0 { f64::from(length) / size } else { 0.0 });
    add_clipped(x0, out);
}

/// The start of APGD (Croce and Hein 2020); `x0` and `out` are one image in CHW order.
///
/// L-inf: uniform noise, stretched until the largest is `eps`; L2: a Gaussian direction of length `eps`; both clipped to
/// [0,1]. L1: `x0` plus Gaussian noise of deviation 1, neither clipped nor brought into a ball.
/// Numbers come from purpose `Start` of `stream`, whatever its own purpose.
pub fn start_boundary(norm: Norm, eps: f32, stream: &Stream, x0: &[f32], out: &mut [f32]) {
    assert_eq!(x0.len(), out.len(), "start: image and result differ in length");
    let stream = stream.with(Purpose::Start);
    match norm {
        Norm::Linf => {
            stream.fill_uniform(out);
            out.iter_mut().for_each(|v| *v = 2.0 * *v - 1.0);
            let largest = out.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            out.iter_mut().for_each(|v| *v = if largest > 0.0 { eps * (*v / largest) } else { 0.0 });
        }
        Norm::L2 => {
            stream.fill_normal(out);
            let length = out.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            scale(out, if length > 0.0 { f64::from(eps) / length } else { 0.0 });
        }
        Norm::L1 => {
            stream.fill_normal(out);
            return out.iter_mut().zip(x0).for_each(|(d, &x)| *d += x);
        }
    }
    add_clipped(x0, out);
}

/// The start of TRADES and MART (Zhang et al. 2019): `x0 + sigma * N(0,1)`, not clipped; one image in CHW order.
pub fn start_normal(sigma: f32, stream: &Stream, x0: &[f32], out: &mut [f32]) {
    assert_eq!(x0.len(), out.len(), "start: image and result differ in length");
    stream.with(Purpose::Start).fill_normal(out);
    out.iter_mut().zip(x0).for_each(|(v, &x)| *v = x + sigma * *v);
}

/// A class below `classes` other than `not`, each equally likely. Purpose `Class` of `stream`, element 0.
pub fn random_class(stream: &Stream, classes: usize, not: usize) -> usize {
    assert!(classes >= 2, "no other class among {classes}");
    assert!(not < classes, "label {not} of {classes} classes");
    let word = stream.with(Purpose::Class).bits(0);
    let pick = (u64::from(word) * (classes as u64 - 1)) >> 32;
    pick as usize + usize::from(pick as usize >= not)
}

fn scale(values: &mut [f32], factor: f64) {
    values.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
}

fn add_clipped(x0: &[f32], delta: &mut [f32]) {
    for (d, &x) in delta.iter_mut().zip(x0) {
        *d = (x + *d).clamp(0.0, 1.0);
    }
}

/// Ten rounds of Philox.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let wide = |factor: u32, v: u32| {
        let product = u64::from(factor) * u64::from(v);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = wide(0xd251_1f53, counter[0]);
        let (high1, low1) = wide(0xcd9e_8d57, counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

const STEP: f32 = 1.0 / 16_777_216.0;

/// [0,1).
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * STEP
}

/// (0,1], so that its logarithm is finite.
fn above_zero(word: u32) -> f32 {
    ((word >> 8) + 1) as f32 * STEP
}

fn normals(words: [u32; 4]) -> [f32; 4] {
    let pair = |a: u32, b: u32| {
        let radius = (-2.0 * ln(above_zero(a))).sqrt();
        let (sin, cos) = sincos_turns(unit(b));
        (radius * cos, radius * sin)
    };
    let ((a, b), (c, d)) = (pair(words[0], words[1]), pair(words[2], words[3]));
    [a, b, c, d]
}

/// Natural logarithm of a normal f32 above zero, relative error below 2^-23; fused multiply-adds only, so that every
/// device gives these bits. `ln(2^e * m)` with m in [0.7, 1.42) and `ln(m) = 2 artanh((m - 1) / (m + 1))`.
fn ln(v: f32) -> f32 {
    // ln 2 in two parts; `e` times the first is exact.
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    // 0x3f33_3333 is 0.7.
    let shifted = v.to_bits().wrapping_sub(0x3f33_3333) as i32;
    let e = (shifted >> 23) as f32;
    let m = f32::from_bits((shifted & 0x7f_ffff) as u32 + 0x3f33_3333);
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let s2 = s * s;
    let tail = s2.mul_add(s2.mul_add(s2.mul_add(2.0 / 9.0, 2.0 / 7.0), 2.0 / 5.0), 2.0 / 3.0);
    // 2s = f - s*f, which keeps f exact.
    let correction = s.mul_add(s2.mul_add(tail, -f), e * LN2_LOW);
    e.mul_add(LN2_HIGH, f + correction)
}

/// Sine and cosine of `turns` full turns, `turns` in [0,1); within 1e-7. The reduction to an eighth of a turn is exact.
fn sincos_turns(turns: f32) -> (f32, f32) {
    // Taylor coefficients of sin and cos of (pi/2) r, |r| <= 1/2, from r^1 and r^2 on.
    const SIN: [f32; 5] = [std::f32::consts::FRAC_PI_2, -0.645_964_1, 0.079_692_63, -0.004_681_754, 0.000_160_441_2];
    const COS: [f32; 5] = [-1.233_700_6, 0.253_669_5, -0.020_863_48, 0.000_919_260_3, -0.000_025_202_04];
    let quarters = 4.0 * turns;
    let quadrant = (quarters + 0.5).floor();
    let r = quarters - quadrant;
    let r2 = r * r;
    let poly = |c: &[f32; 5]| r2.mul_add(r2.mul_add(r2.mul_add(r2.mul_add(c[4], c[3]), c[2]), c[1]), c[0]);
    let (sin, cos) = (r * poly(&SIN), r2.mul_add(poly(&COS), 1.0));
    match quadrant as u32 % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threat::ThreatModel;

    fn stream(index: u32) -> Stream {
        Stream { seed: 20_101_101, index, step: 3, purpose: Purpose::Start, restart: 1 }
    }

    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn counter_holds_every_field() {
        let s = Stream { seed: 5 << 32 | 7, index: 11, step: 13, purpose: Purpose::Dropout, restart: 17 };
        assert_eq!(s.bits(6), philox([1, 11, 13, 4 << 16 | 17], [7, 5])[2]);
    }

    #[test]
    fn ln_is_close_to_f64() {
        let mut worst = 0f64;
        for i in (1..=1 << 24).step_by(37).chain((1 << 24) - 5000..=1 << 24) {
            let v = i as f32 * STEP;
            let (got, want) = (f64::from(ln(v)), f64::from(v).ln());
            worst = worst.max((got - want).abs() / want.abs().max(1e-30));
        }
        assert_eq!(ln(1.0), 0.0);
        assert!(worst < 2f64.powi(-23), "relative error {worst:e}");
    }

    #[test]
    fn sincos_is_close_to_f64() {
        let mut worst = 0f64;
        for i in (0..1 << 24).step_by(41) {
            let u = i as f32 * STEP;
            let (s, c) = sincos_turns(u);
            let (ws, wc) = (f64::from(u) * std::f64::consts::TAU).sin_cos();
            worst = worst.max((f64::from(s) - ws).abs()).max((f64::from(c) - wc).abs());
        }
        assert!(worst < 1.2e-7, "error {worst:e}");
        assert_eq!((sincos_turns(0.0), sincos_turns(0.25)), ((0.0, 1.0), (1.0, -0.0)));
    }

    #[test]
    fn normals_follow_box_muller_and_have_unit_moments() {
        let (mut sum, mut square, mut fourth, mut worst) = (0.0, 0.0, 0.0, 0f64);
        let count = 1 << 18;
        let mut values = vec![0.0; count];
        let s = stream(0);
        s.fill_normal(&mut values);
        for (i, &v) in values.iter().enumerate() {
            let v = f64::from(v);
            (sum, square, fourth) = (sum + v, square + v * v, fourth + v.powi(4));
            let words = s.block(i as u32 / 4);
            let (a, b) = if i % 4 < 2 { (words[0], words[1]) } else { (words[2], words[3]) };
            let radius = (-2.0 * (f64::from((a >> 8) + 1) / 16_777_216.0).ln()).sqrt();
            let angle = std::f64::consts::TAU * f64::from(b >> 8) / 16_777_216.0;
            let want = radius * if i % 2 == 0 { angle.cos() } else { angle.sin() };
            worst = worst.max((v - want).abs());
        }
        let n = count as f64;
        assert!(worst < 1e-6, "error {worst:e}");
        // Five standard errors of the mean, of the variance (2/n) and of the fourth moment (96/n).
        assert!((sum / n).abs() < 5.0 / n.sqrt(), "mean {}", sum / n);
        assert!((square / n - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "variance {}", square / n);
        assert!((fourth / n - 3.0).abs() < 5.0 * (96.0 / n).sqrt(), "fourth moment {}", fourth / n);
        assert!(normals([0, 0, !0, !0]).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn filling_equals_asking_one_by_one() {
        let (mut u, mut z) = (vec![0.0; 11], vec![0.0; 11]);
        stream(9).fill_uniform(&mut u);
        stream(9).fill_normal(&mut z);
        for i in 0..11 {
            assert_eq!(u[i], stream(9).uniform(i as u32));
            assert_eq!(z[i], stream(9).normal(i as u32));
            assert!((0.0..1.0).contains(&u[i]));
        }
    }

    #[test]
    fn starts_lie_inside_the_threat_model() {
        for (norm, eps) in [(Norm::Linf, 8.0 / 255.0), (Norm::L2, 0.5), (Norm::L1, 12.0), (Norm::L1, 0.3)] {
            let threat = ThreatModel::new(norm, eps);
            let mut distances = vec![];
            for index in 0..200 {
                let mut x0 = vec![0.0; 300];
                Stream { seed: 1, ..stream(index) }.fill_uniform(&mut x0);
                let mut x = vec![f32::NAN; 300];
                start(norm, eps as f32, &stream(index), &x0, &mut x);
                assert!(threat.contains(&x0, &x), "{norm} {eps}: {}", threat.distance(&x0, &x));
                distances.push(threat.distance(&x0, &x));
            }
            assert!(distances.iter().any(|&d| d > eps * 0.5), "{norm}: starts stay near the centre");
        }
    }

    #[test]
    fn starts_have_the_documented_radii() {
        // An image at 0.5 far from the box, so that clipping does not disturb.
        let x0 = vec![0.5; 8];
        let draw = |norm: Norm| -> f64 {
            let threat = ThreatModel::new(norm, 0.25);
            let mean = |i| {
                let mut x = vec![0.0; 8];
                start(norm, 0.25, &stream(i), &x0, &mut x);
                threat.distance(&x0, &x) / 0.25
            };
            (0..4000).map(mean).sum::<f64>() / 4000.0
        };
        // Largest of 8 uniforms: 8/9. L2 radius uniform: 1/2. Volume-uniform in 8 dimensions: 8/9.
        for (norm, want) in [(Norm::Linf, 8.0 / 9.0), (Norm::L2, 0.5), (Norm::L1, 8.0 / 9.0)] {
            let got = draw(norm);
            assert!((got - want).abs() < 0.02, "{norm}: mean radius {got}, expected {want}");
        }
    }

    #[test]
    fn sign_starts_have_both_signs_and_one_length() {
        let x0 = vec![0.5; 1000];
        let mut x = vec![0.0; 1000];
        start_sign(0.125, &stream(4), &x0, &mut x);
        let up = x.iter().filter(|&&v| v == 0.625).count();
        assert_eq!(up + x.iter().filter(|&&v| v == 0.375).count(), 1000);
        assert!((400..600).contains(&up), "{up} of 1000 up");
    }

    #[test]
    fn random_classes_skip_the_label_and_reach_all_others() {
        let mut seen = [0; 5];
        (0..1000).for_each(|i| seen[random_class(&stream(i), 5, 2)] += 1);
        assert_eq!(seen[2], 0);
        assert!([0, 1, 3, 4].iter().all(|&c| (180..320).contains(&seen[c])), "{seen:?}");
        assert!((0..50).all(|i| random_class(&stream(i), 2, 0) == 1));
    }
}
