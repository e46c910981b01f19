//! Ops of attacks that look for the nearest adversarial image: what each image knows, and the steps of C&W, EAD, DDN and FMN.
//! Knows no network and no device.
//! Carlini and Wagner 2017, <https://arxiv.org/abs/1608.04644>; Chen et al. 2018 (EAD), <https://arxiv.org/abs/1709.04114>;
//! Rony et al. 2019 (DDN), <https://arxiv.org/abs/1811.09600>; Pintor et al. 2021 (FMN), <https://arxiv.org/abs/2102.12827>.

use super::op::Op;
use crate::tensor::{DType, Shape};
use crate::threat::Distance;

/// What an image knows between turns: the columns of its state, f32. `TURNS` and `STEP` count up to 2^24.
pub mod column {
    /// 1 while its attack runs; then 0, and the image stays as it is.
    pub const ALIVE: usize = 0;
    /// 1 where the iterate just judged is the nearest so far.
    pub const BETTER: usize = 1;
    /// Distance of the nearest; infinite before there is one.
    pub const BEST: usize = 2;
    /// Turns made.
    pub const TURNS: usize = 3;
    /// Highest margin met.
    pub const MARGIN: usize = 4;
    /// How far above kappa a margin must lie to be believed, in units of the distance between highest and lowest logit.
    pub const SLACK: usize = 5;

    /// C&W, EAD: 1 where a round has just ended, and the iterate goes back to its start.
    pub const RESTART: usize = 6;
    /// The constant before the loss.
    pub const CONSTANT: usize = 7;
    /// Largest constant that failed.
    pub const LOW: usize = 8;
    /// Smallest constant that worked; infinite before there is one.
    pub const HIGH: usize = 9;
    /// Steps made in this round.
    pub const STEP: usize = 10;
    /// Rounds made.
    pub const ROUND: usize = 11;
    /// 1 where this round has met the goal.
    pub const REACHED: usize = 12;
    /// The objective when it was last looked at; infinite at the start of a round.
    pub const BEFORE: usize = 13;
    /// Step size of the next step; for Adam already divided by `1 - b1^t`.
    pub const RATE: usize = 14;
    /// Adam: `1 / (1 - b2^t)`.
    pub const SCALE: usize = 15;

    /// DDN, FMN: radius of the ball that the next step ends in.
    pub const RADIUS: usize = 6;
    /// Length of the next step.
    pub const ALPHA: usize = 7;

    /// How many there are.
    pub const COUNT: usize = 16;
}

/// What a search over the constant minimises beside the loss, and by what it calls an iterate nearer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// C&W: the squared distance from the image that `atanh(shrink * (2 x0 - 1))` stands for; the nearest in L2.
    Squared {
        /// Just below 1, so that black and white pixels can move; at 1 they stay.
        shrink: f32,
    },
    /// EAD: `L2^2 + beta * L1`; the nearest in L1.
    L1 {
        /// Weight of L1.
        beta: f32,
    },
    /// EAD: `L2^2 + beta * L1`; the nearest by the same.
    ElasticNet {
        /// Weight of L1.
        beta: f32,
    },
}

/// A search over the constant before the loss, one for each image: rounds of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// What is minimised.
    pub objective: Objective,
    /// Steps of a round at most.
    pub steps: usize,
    /// Rounds; a search of ten or more ends at the smallest constant that worked.
    pub rounds: usize,
    /// Ends a round where a tenth of the steps has not made the objective a ten-thousandth smaller.
    pub abort: bool,
    /// Margin that the goal takes.
    pub kappa: f32,
    /// Learning rate.
    pub rate: f32,
}

/// How DDN and FMN follow the boundary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Follow {
    /// Decoupled direction and norm: always on the sphere, in L2. Otherwise FMN in a ball of [`Follow::distance`].
    pub decoupled: bool,
    /// The distance made small.
    pub distance: Distance,
    /// Steps.
    pub steps: usize,
    /// Length of the first step; it falls to a hundredth along half a cosine.
    pub rate: f32,
    /// How fast the radius changes; in FMN it falls to 0.001 along half a cosine.
    pub gamma: f32,
}

/// One op. `state` is `[N, column::COUNT]`, `margin` is `[N]` and above 0 where the goal is reached, `z` are the logits, `g` is
/// the gradient of the margin (of DDN: of the cross-entropy) by the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nearest {
    /// `(state, x, x0, margin, z)` -> the next state. `state` may be replaced in place.
    Search(Search),
    /// `(flag, adam, x0)` -> where `flag != 0` the planes `atanh(shrink * (2 x0 - 1))`, 0, 0, else `adam`, which may be
    /// replaced in place. `adam` is `[N, 3, H, W, C]`: the variable and its two moments.
    TanhStart {
        /// See [`Objective::Squared`].
        shrink: f32,
    },
    /// `adam` -> the image `(tanh(w) + 1) / 2`, `[N, H, W, C]`.
    TanhImage,
    /// `(adam, x, x0, g, margin, state)` with the next state -> the planes after a step of Adam (0.9, 0.999, 1e-8) down the
    /// objective of C&W, or at the start. `adam` may be replaced in place.
    TanhStep {
        /// See [`Objective::Squared`].
        shrink: f32,
        /// See [`Search::kappa`].
        kappa: f32,
    },
    /// `(y, x0, g, margin, state)` -> the next iterate of EAD: a step down from `y`, shrunk by `beta` towards `x0` and clipped.
    Shrink {
        /// Weight of L1.
        beta: f32,
        /// See [`Search::kappa`].
        kappa: f32,
    },
    /// `(next, x, x0, state)` with the next state -> FISTA's point `next + k / (k + 3) * (next - x)`, or `x0` at the start.
    Momentum,
    /// `(state, x, x0, g, margin, z)` -> the next state. `state` may be replaced in place.
    Follow(Follow),
    /// `(x, x0, g, state, index, seed)` with the next state -> a step along `g`, back to the ball of the state's radius and the
    /// box. Along a random direction (Philox, purpose `Direction`) where `g` is zero. `x` may be replaced in place.
    FollowStep(Follow),
}

impl Nearest {
    /// What a plan calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Nearest::Search(_) => "search",
            Nearest::TanhStart { .. } => "tanh-start",
            Nearest::TanhImage => "tanh-image",
            Nearest::TanhStep { .. } => "tanh-step",
            Nearest::Shrink { .. } => "shrink",
            Nearest::Momentum => "momentum",
            Nearest::Follow(_) => "follow",
            Nearest::FollowStep(_) => "follow-step",
        }
    }

    /// The input that may be overwritten with the output.
    pub(crate) fn in_place(&self) -> Option<usize> {
        match self {
            Nearest::Search(_) | Nearest::TanhStep { .. } | Nearest::Follow(_) | Nearest::FollowStep(_) => Some(0),
            Nearest::TanhStart { .. } => Some(1),
            Nearest::TanhImage | Nearest::Shrink { .. } | Nearest::Momentum => None,
        }
    }

    /// Shape of the output. Panics where the inputs do not fit.
    pub(super) fn infer(self, inputs: &[(&Shape, DType)]) -> (Shape, DType) {
        let op = Op::Nearest(self);
        let count = |n: usize| assert_eq!(inputs.len(), n, "{op:?} takes {n} inputs");
        let at = |i: usize| inputs[i].0;
        let same =
            |list: &[usize]| list.windows(2).for_each(|w| assert_eq!(at(w[0]), at(w[1]), "{op:?}: images differ in shape"));
        let rows = |i: usize| assert_eq!(*at(i), Shape::per_image(&[]), "{op:?}: input {i} is not one value an image");
        let state = |i: usize| assert_eq!(*at(i), Shape::per_image(&[column::COUNT]), "{op:?}: input {i} is no state");
        let planes = |i: usize, image: usize| {
            let dims = [&[3], at(image).dims.as_slice()].concat();
            assert_eq!(*at(i), Shape::per_image(&dims), "{op:?}: input {i} is not three planes of {}", at(image));
        };
        let logits = |i: usize| assert!(at(i).batched && at(i).dims.len() == 1, "{op:?}: logits {}", at(i));
        match self {
            Nearest::Search(_) => {
                count(5);
                state(0);
                same(&[1, 2]);
                rows(3);
                logits(4);
            }
            Nearest::TanhStart { .. } => {
                count(3);
                rows(0);
                planes(1, 2);
            }
            Nearest::TanhImage => count(1),
            Nearest::TanhStep { .. } => {
                count(6);
                planes(0, 1);
                same(&[1, 2, 3]);
                rows(4);
                state(5);
            }
            Nearest::Shrink { .. } => {
                count(5);
                same(&[0, 1, 2]);
                rows(3);
                state(4);
            }
            Nearest::Momentum => {
                count(4);
                same(&[0, 1, 2]);
                state(3);
            }
            Nearest::Follow(_) => {
                count(6);
                state(0);
                same(&[1, 2, 3]);
                rows(4);
                logits(5);
            }
            Nearest::FollowStep(_) => {
                count(6);
                same(&[0, 1, 2]);
                state(3);
                rows(4);
            }
        }
        let shape = match self {
            Nearest::TanhStart { .. } => at(1).clone(),
            Nearest::TanhImage => {
                assert!(at(0).dims.len() == 4 && at(0).dims[0] == 3, "{op:?} on {}", at(0));
                Shape::per_image(&at(0).dims[1..])
            }
            _ => at(0).clone(),
        };
        (shape, DType::F32)
    }
}
