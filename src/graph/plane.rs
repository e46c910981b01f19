//! The parts of attacks that take the boundary of a class for a hyperplane.
//! Knows no memory, no device and no network.

#![allow(missing_docs)] // a variant's own text names its fields

use crate::threat::Norm;

/// A part of an attack that takes the boundary to another class for a hyperplane: where `f + <w, v - x> = 0`, with `f [N]` the
/// logit of the other class less that of the label at `x`, and `w` its gradient. Lengths are in units of [0,1] pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plane {
    /// `(z, label)` -> `[N]` i32: the class with the highest logit but for `place` others, the label left out. Of equals the
    /// lowest class comes first, a NaN before all.
    Rival { place: usize },
    /// `(f, w)` -> `[N]`: `|f| / (|w| + 1e-12)` in the dual norm, infinite where `w` is zero: how far the hyperplane is.
    Distance { norm: Norm },
    /// `(x0, index, restart, length, seed)` -> the images at `length [N]` from `x0` in a random direction, clipped to [0,1]:
    /// see [`crate::rng::start_at`]. The other inputs are those of [`super::Op::Start`].
    Start { norm: Norm },
    /// `(x, x0, w, f)` -> `clip((1 - a) (x + eta d1) + a (x0 + eta d2))`: `d1` and `d2` are the shortest steps of `x` and `x0`
    /// to the hyperplane within the box, `a = min(|d1| / (|d1| + |d2|), alpha_max)`, both lengths at least 1e-8. A point that
    /// cannot reach it goes to the nearest corner. `x` may be replaced in place.
    FabStep { norm: Norm, eta: f32, alpha_max: f32 },
    /// `(x, w, f, stop)` -> `clip(x + (1 + overshoot) (|f| + push) / |w| * d)`, `d` the step of length 1 that goes up `w` and
    /// `|w|` in the dual norm; `x` where `stop [N]` is not 0 or `w` is zero. L2 and L-inf. `x` may be replaced in place.
    DeepFoolStep { norm: Norm, overshoot: f32, push: f32 },
    /// `(flag, x, x0, best)` -> `[N]`: the distance of `x` from `x0` where `flag != 0` and it is below `best`, else `best`.
    Nearer { norm: Norm },
    /// `(x, x0, flag)` -> `x0 + beta (x - x0)` where `flag != 0`, else `x`, which may be replaced in place.
    Back { beta: f32 },
}
