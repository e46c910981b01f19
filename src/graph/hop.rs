//! The state that HopSkipJump keeps for each image between its queries: what its entries mean, and the numbers of its rules.
//! Knows no image and no device: engines that step the state agree on these names.
//! Chen et al. 2020, <https://arxiv.org/abs/1904.02144>.

use crate::threat::Norm;

/// Entries of the state of an image.
pub const LEN: usize = 16;

/// What the query that waits for its verdict is for: one of the constants below.
pub const PHASE: usize = 0;
/// Queries made.
pub const QUERIES: usize = 1;
/// The round, from 1; 0 before the first estimate.
pub const ROUND: usize = 2;
/// Lower end of the bisection: not adversarial.
pub const LOW: usize = 3;
/// Upper end of the bisection: adversarial.
pub const HIGH: usize = 4;
/// Number of the query within its phase, from 1.
pub const COUNT: usize = 5;
/// Adversarial answers in this estimate.
pub const PLUS: usize = 6;
/// Queries of this estimate in all.
pub const SAMPLES: usize = 7;
/// Distance of the point on the boundary.
pub const DISTANCE: usize = 8;
/// Distance of the nearest adversarial image so far; infinite before there is one.
pub const BEST: usize = 9;
/// The number that the query is made with: share or radius of a bisection, share of noise, radius of an estimate, step.
pub const LENGTH: usize = 10;
/// 1 where the last query is the point on the boundary now.
pub const TAKE_X: usize = 11;
/// 1 where the last query is the far end of the bisection now.
pub const TAKE_FAR: usize = 12;
/// 1 where the last query is the nearest adversarial image now.
pub const BETTER: usize = 13;
/// The sign with which the last query enters the sums; 0 where it does not, 2 in size where it is the first.
pub const SIGN: usize = 14;

/// The query is the start that the caller gave.
pub const GIVEN: f32 = 0.0;
/// Uniform noise, until some is adversarial.
pub const NOISE: f32 = 1.0;
/// From the original to adversarial noise in equal steps, until one is adversarial.
pub const BLEND: f32 = 2.0;
/// Between the original and the far end.
pub const BISECT: f32 = 3.0;
/// Around the point on the boundary, for the direction.
pub const ESTIMATE: f32 = 4.0;
/// Along the direction, ever shorter until adversarial.
pub const STEP: f32 = 5.0;
/// Through; the query is not looked at.
pub const DONE: f32 = 6.0;

/// Noise images tried at most.
pub const NOISES: f32 = 1000.0;
/// Equal steps from the original to noise.
pub const BLENDS: f32 = 50.0;
/// Halvings of a step at most: after these it would not move a pixel.
pub const HALVINGS: f32 = 40.0;

/// What the steps of a state depend on; the same for all images of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// L2 or L-inf.
    pub norm: Norm,
    /// Values of an image.
    pub elems: usize,
    /// Rounds after which an image is through.
    pub rounds: usize,
    /// Queries after which it is.
    pub queries: usize,
}

impl Rules {
    /// Halvings of a bisection: to a share of `d^-1.5` of its length in L2, of `d^-2` in L-inf.
    pub fn halvings(&self) -> usize {
        let power = if self.norm == Norm::Linf { 2.0 } else { 1.5 };
        ((self.elems as f64).log2() * power).ceil().max(1.0) as usize
    }
    /// What a distance is multiplied by for the radius of an estimate, a length in L2. L2: `1 / d`. L-inf: `1 / sqrt(d)`, the same
    /// share of the length that an image has which is that far off everywhere.
    pub fn radius(&self) -> f32 {
        let d = self.elems as f64;
        (if self.norm == Norm::Linf { 1.0 / d.sqrt() } else { 1.0 / d }) as f32
    }
    /// Queries of the estimate of a round: `100 * sqrt(round)` rounded down, 10,000 at most.
    pub fn samples(round: f32) -> f32 {
        (100.0 * f64::from(round).sqrt()).floor().min(10_000.0) as f32
    }
}
