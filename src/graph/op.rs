//! Every operation of the engine, forward and gradient alike, and the shape each one gives.
//! Knows no memory, no device and no network.

#![allow(missing_docs)] // a variant's own text names its fields

use super::apgd::ApgdRule;
use super::hop;
use super::nearest::Nearest;
use super::plane::Plane;
use crate::tensor::DType;
use crate::threat::Norm;

/// Geometry of a convolution. Weights are `[K, C/groups, R, S]`, activations NHWC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Input channels.
    pub c: usize,
    /// Output channels.
    pub k: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zero rows above and below, zero columns left and right.
    pub pad: [usize; 2],
    /// Distance between taps.
    pub dilation: [usize; 2],
    /// Groups: C and K are both multiples of it.
    pub groups: usize,
}

impl Conv {
    /// A square kernel without dilation or groups.
    pub fn square(c: usize, k: usize, kernel: usize, stride: usize, pad: usize) -> Self {
        Conv { c, k, kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups: 1 }
    }
    /// Output height and width for an input of `h` by `w`. Panics where the kernel does not fit.
    pub fn out_hw(&self, h: usize, w: usize) -> (usize, usize) {
        let one = |size: usize, d: usize| {
            let span = self.dilation[d] * (self.kernel[d] - 1) + 1;
            let padded = size + 2 * self.pad[d];
            assert!(padded >= span, "a kernel spanning {span} does not fit into {padded} pixels");
            (padded - span) / self.stride[d] + 1
        };
        (one(h, 0), one(w, 1))
    }
    /// Multiply-adds for one image whose output is `p` by `q`.
    pub fn macs(&self, p: usize, q: usize) -> usize {
        p * q * self.k * (self.c / self.groups) * self.kernel[0] * self.kernel[1]
    }
    /// Asserts that the numbers make a convolution.
    pub fn check(&self) {
        assert!(self.c > 0 && self.k > 0 && self.groups > 0, "empty convolution {self:?}");
        assert!(
            self.c.is_multiple_of(self.groups) && self.k.is_multiple_of(self.groups),
            "groups do not divide channels: {self:?}"
        );
        assert!(self.kernel.iter().chain(&self.stride).chain(&self.dilation).all(|&v| v > 0), "zero in {self:?}");
    }
}

/// Geometry of a pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Padding on each side: minus infinity for a maximum, zero for an average. At most half the window.
    pub pad: [usize; 2],
    /// Rounds the output size up instead of down; a window that would start in the padding behind is dropped.
    pub ceil: bool,
    /// For averages: whether padded places count in the divisor.
    pub count_pad: bool,
}

impl Pool {
    /// A square window, sizes rounded down, padding counted.
    pub fn square(kernel: usize, stride: usize, pad: usize) -> Self {
        Pool { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], ceil: false, count_pad: true }
    }
    /// Output height and width for an input of `h` by `w` (PyTorch's rule). Panics where the window does not fit.
    pub fn out_hw(&self, h: usize, w: usize) -> (usize, usize) {
        let one = |size: usize, d: usize| {
            let (k, s, p) = (self.kernel[d], self.stride[d], self.pad[d]);
            assert!(size + 2 * p >= k, "a window of {k} does not fit into {} pixels", size + 2 * p);
            let span = size + 2 * p - k;
            let mut out = if self.ceil { span.div_ceil(s) } else { span / s } + 1;
            if self.ceil && (out - 1) * s >= size + p {
                out -= 1;
            }
            out
        };
        (one(h, 0), one(w, 1))
    }
    /// Asserts that the numbers make a window; window positions must fit a byte.
    pub fn check(&self) {
        assert!(self.kernel.iter().chain(&self.stride).all(|&v| v > 0), "zero in {self:?}");
        assert!(self.kernel[0] * self.kernel[1] <= 256, "window of {:?} has more than 256 places", self.kernel);
        assert!((0..2).all(|d| 2 * self.pad[d] <= self.kernel[d]), "padding above half the window: {self:?}");
    }
}

/// Local response normalisation across channels, as PyTorch defines it. Krizhevsky et al. 2012.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResponseNorm {
    /// Channels that are summed: from `size / 2` before to `(size - 1) / 2` after, as far as there are any.
    pub size: usize,
    /// Factor on the mean square.
    pub alpha: f32,
    /// Exponent, positive.
    pub beta: f32,
    /// Added to the mean square, positive.
    pub bias: f32,
}

impl ResponseNorm {
    /// Asserts that every power is of a positive number.
    pub fn check(&self) {
        assert!(self.size > 0 && self.alpha >= 0.0 && self.beta > 0.0 && self.bias > 0.0, "response norm {self:?}");
    }
}

/// A per-image loss on logits `z` with label `y` (or target `t`); attacks maximise it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// `logsumexp(z) - z_y`, with label smoothing `s`: soft target `(1-s)*onehot + s/K`.
    CrossEntropy { smoothing: f32 },
    /// `max_{i != y} z_i - z_y`, the margin to the best other class.
    Margin,
    /// Carlini and Wagner's hinge `max(z_y - max_{i != y} z_i, -kappa)`, which attacks minimise.
    Hinge { kappa: f32 },
    /// `-(z_y - max_{i != y} z_i) / (z_(1) - z_(3) + 1e-12)`, three classes or more.
    Dlr,
    /// `-(logsumexp(z) - z_t)`: cross-entropy towards a target.
    TargetedCrossEntropy,
    /// `z_t - max_{i != t} z_i`: margin towards a target.
    TargetedMargin,
    /// `z_t - z_y`: the margin between target and label alone.
    TargetedDifference,
    /// `-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)`, four classes or more.
    TargetedDlr,
    /// `-z_y`.
    Logit,
    /// `z_t`.
    TargetedLogit,
}

impl Loss {
    /// Whether the loss reads a target beside the label.
    pub fn targeted(self) -> bool {
        matches!(
            self,
            Loss::TargetedCrossEntropy
                | Loss::TargetedMargin
                | Loss::TargetedDifference
                | Loss::TargetedDlr
                | Loss::TargetedLogit
        )
    }
}

/// A per-image loss that trains, beyond [`Loss`]: on the logits `z` and `w` of two forms of an image, on soft targets `q`,
/// or on logits and label alone. `p(z)` is their softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// `(z, w)`: `KL(p(z) || p(w))`, as in TRADES.
    Kl,
    /// `(z, w, label)`: boosted cross-entropy of `w`, plus `weight * (1.0000001 - p_y(z))` times the KL of MART.
    Mart { weight: f32 },
    /// `(z, w)`: `|z - w|^2`, summed over classes, as in adversarial logit pairing.
    Squared,
    /// `(z, q)`: cross-entropy with a target distribution, `sum_c q_c (logsumexp(z) - z_c)`.
    Soft,
    /// `(z, label)`: `-(1 - p_y)^gamma log p_y`.
    Focal { gamma: f32 },
    /// `(z, label)`: `-sum_c (1 - s_c)^gamma log s_c` with `s_c = sigmoid(z_c)` at the label, `sigmoid(-z_c)` elsewhere.
    /// With a gamma of 0 it is the binary cross-entropy.
    SigmoidFocal { gamma: f32 },
    /// `(z, label)`: `logsumexp_{c != y} z_c - z_y`, the soft margin of MMA.
    SoftMargin,
}

impl Objective {
    /// Whether a second row of floats is read: other logits, or soft targets.
    pub fn reads_pair(self) -> bool {
        matches!(self, Objective::Kl | Objective::Mart { .. } | Objective::Squared | Objective::Soft)
    }
    /// Whether the label is read, as the last input.
    pub fn reads_label(self) -> bool {
        !matches!(self, Objective::Kl | Objective::Squared | Objective::Soft)
    }
    /// Whether there is a gradient to the second row too.
    pub fn moves_pair(self) -> bool {
        matches!(self, Objective::Kl | Objective::Mart { .. } | Objective::Squared)
    }
}

/// How an attack starts at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartKind {
    /// Anywhere in the ball of a norm: see [`crate::rng::start`].
    Ball(Norm),
    /// A step along random signs: see [`crate::rng::start_sign`].
    Sign,
    /// On the surface of the ball of a norm; in L1 noise that a move of length 0 has yet to project: see
    /// [`crate::rng::start_boundary`].
    Boundary(Norm),
    /// A little noise, not clipped: see [`crate::rng::start_normal`].
    Normal,
}

/// A random resize and a random frame of zeros (Xie et al. 2019, <https://arxiv.org/abs/1803.06978>): sides from
/// `floor(rate * S)` to `S - 1` in a frame of `S` where `rate < 1`; else sides from `S` to `floor(rate * S) - 1` in a frame of
/// `floor(rate * S)`, which is then resized to `S`. Bilinear as PyTorch's `interpolate` without aligned corners.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diversity {
    /// Probability that an image is resized at all.
    pub probability: f32,
    /// Smallest or largest side for a side of 1.
    pub rate: f64,
}

impl Diversity {
    /// Smallest side, number of sides to choose from, and the frame, for a side of `size` pixels.
    pub fn sides(&self, size: usize) -> [usize; 3] {
        let other = ((self.rate * size as f64).floor() as usize).max(1);
        let (low, frame) = (other.min(size), other.max(size));
        [low, (frame - low).max(1), frame]
    }
}

/// What a parameter is to training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Weights and biases: receive gradients.
    Weight,
    /// Running statistics: updated, never by gradient.
    Statistic,
}

/// One operation. `x`, `w`, `g`.. in the comments are the node's inputs in order; `g` is always the gradient of the
/// output. Every op has one output. Gradients of parameters are sums over the batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Written by the host: images, labels, step sizes.
    Input { name: String, dtype: DType },
    /// A named entry of the state dict.
    Param { name: String, role: Role },

    /// `(x - mean) / std` per channel.
    Normalise { mean: Vec<f32>, std: Vec<f32> },
    /// `g / std` per channel.
    NormaliseGrad { std: Vec<f32> },

    /// `(x, w)` -> `[N, P, Q, K]`.
    Conv2d(Conv),
    /// `(g, w)` -> `[N, H, W, C]` of the given height and width.
    Conv2dGradInput { conv: Conv, hw: [usize; 2] },
    /// `(x, g)` -> `[K, C/groups, R, S]`.
    Conv2dGradWeight(Conv),
    /// `(x, w)`: `x [N, in]`, `w [out, in]` -> `[N, out]`.
    Linear,
    /// `(g, w)` -> `[N, in]`.
    LinearGradInput,
    /// `(x, g)` -> `[out, in]`.
    LinearGradWeight,
    /// `(x, b)`: adds `b [C]` to the last dimension.
    AddBias,
    /// `g` -> `[C]`: sum over everything but the last dimension.
    SumChannels,

    /// `(x, gamma, beta, mean, var)`: `(x - mean) / sqrt(var + eps) * gamma + beta`, running statistics.
    BatchNorm { eps: f32 },
    /// `(g, gamma, var)`: `g * gamma / sqrt(var + eps)`.
    BatchNormGrad { eps: f32 },
    /// `(g, x, mean, var)` -> `[2, C]`: rows d(beta) and d(gamma) with running statistics.
    BatchNormGradParams { eps: f32 },
    /// `x` -> `[2, C]`: rows mean and biased variance over N, H, W.
    BatchStats,
    /// `(x, stats, gamma, beta)`: batch norm with the batch's own statistics.
    BatchNormTrain { eps: f32 },
    /// `(g, x, stats)` -> `[2, C]`: rows d(beta) = sum g and d(gamma) = sum g * xhat.
    BatchNormTrainGradParams { eps: f32 },
    /// `(g, x, stats, gamma, sums)`: gradient through the statistics; `sums` from `BatchNormTrainGradParams`.
    BatchNormTrainGrad { eps: f32 },
    /// `(running, stats, x)`: `(1 - momentum) * running + momentum * row` of `stats`; the variance row is made
    /// unbiased by M / (M - 1), M = N*H*W of `x` (read for its shape only).
    RunningUpdate { momentum: f32, row: usize },
    /// Row `index` of `[R, C]` -> `[C]`.
    Row { index: usize },

    /// `max(x, 0)`, with `cap` also `min(.., cap)`. NaN stays NaN.
    Relu { cap: Option<f32> },
    /// `y` -> bits `0 < y (< cap)`, where `y` is a ReLU's output.
    ReluMask { cap: Option<f32> },
    /// `(g, mask)`: g where the bit is set, 0 elsewhere.
    Gate,

    /// Maximum of each window; NaN wins.
    MaxPool(Pool),
    /// `x` -> position of the winner in its window (row-major; the first of equals; a NaN wins).
    MaxPoolIndex(Pool),
    /// `(g, index)` -> `[N, H, W, C]`.
    MaxPoolGrad { pool: Pool, hw: [usize; 2] },
    /// Average of each window.
    AvgPool(Pool),
    /// `g` -> `[N, H, W, C]`.
    AvgPoolGrad { pool: Pool, hw: [usize; 2] },
    /// `[N, H, W, C]` -> `[N, C]`: mean over H and W.
    GlobalAvgPool,
    /// `g [N, C]` -> `[N, H, W, C]`.
    GlobalAvgPoolGrad { hw: [usize; 2] },

    /// `x` -> `x / (bias + alpha / size * sum x^2) ^ beta` over neighbouring channels.
    ResponseNorm(ResponseNorm),
    /// `(g, x)`: the gradient of `ResponseNorm`.
    ResponseNormGrad(ResponseNorm),

    /// `(a, b)`: sum of two values of one shape.
    Add,
    /// Joins along the last dimension.
    Concat,
    /// `len` channels from `start`.
    SliceChannels { start: usize, len: usize },
    /// `g`: the adjoint of `SliceChannels`: zeros with `g` at `start`.
    PadChannels { start: usize, total: usize },
    /// Every `stride`-th pixel, channels padded with `before` zeros in front and `after` behind (parameter-free shortcut).
    SubsamplePad { stride: usize, before: usize, after: usize },
    /// `g` -> `[N, H, W, C]`: the adjoint of `SubsamplePad`.
    SubsamplePadGrad { stride: usize, before: usize, after: usize, hw: [usize; 2] },
    /// `hw` pixels of each image, the first at `from` (row and column, which may be negative), `fill` where there are none.
    /// Its adjoint is the window that goes back, filled with zeros.
    Window { from: [isize; 2], hw: [usize; 2], fill: f32 },
    /// `[N, H, W, C]` -> `[N, C*H*W]` in the order of PyTorch's flatten (C outermost).
    Flatten,
    /// `[N, C*H*W]` -> `[N, H, W, C]`.
    Unflatten { hwc: [usize; 3] },
    /// `x * factor`.
    Scale { factor: f32 },

    /// `(like, index, step)` -> keep-bits with probability `1 - p`: Philox by (element, image index, step, site).
    DropoutMask { p: f32, site: u16, seed: u64 },
    /// `(x, mask)`: `x / (1 - p)` where the bit is set, else 0. Its gradient is the same op.
    Dropout { p: f32 },

    /// Each row (the last dimension) over its length plus `gamma`; a row without length gives zeros.
    UnitRows { gamma: f32 },
    /// `(g, x)`: the gradient of `UnitRows`.
    UnitRowsGrad { gamma: f32 },
    /// `w [K, D]` -> `[K]`: `1 / (|w_k| + gamma)`; 0 for a row without length.
    RowScales { gamma: f32 },
    /// `(g, w)`: the gradient of `RowScales`.
    RowScalesGrad { gamma: f32 },
    /// `(x, r)`: times `r [C]` along the last dimension.
    ScaleChannels,
    /// `(g, x)` -> `[C]`: sum of `g * x` over everything but the last dimension.
    ProductChannels,
    /// `(x, r)`: each image times its own `r [N]`.
    ScaleRows,
    /// `(z, label, table)`: `scale_c z_c + bias_c`, less `margin_c` at the label; `table [3, K]` holds these three rows.
    ClassMargins,

    /// `(z, label)` or `(z, label, target)` -> `[N]`.
    Loss(Loss),
    /// The gradient of each image's own loss with respect to its logits -> `[N, K]`.
    LossGrad(Loss),

    /// The inputs of the objective -> `[N]`.
    Objective(Objective),
    /// The gradient of each image's own objective with respect to the first row (`by` 0) or the second -> `[N, K]`.
    ObjectiveGrad { of: Objective, by: usize },

    /// `(z, label)` -> `[N]`: 1 where the highest logit is not at the label (ties: the lowest class wins; NaN
    /// counts as wrong), else 0. `(z, target)` with `hit`: 1 where it is at the target.
    Fooled { hit: bool },
    /// `(a, b)` -> `[N]`: 1 where `a > b`, else 0.
    Greater,
    /// `(a, b)` -> `[N]`: the larger, NaN ignored.
    MaxRows,
    /// `(flag, a, b)`: row of `a` where `flag != 0`, else of `b`. `b` may be replaced in place.
    SelectRows,
    /// `[N, S]` -> `[N]`: entry `index` of each image's state.
    Column { index: usize },
    /// `g` -> `[N]`: 0 = ordinary, 1 = every element zero, 2 = some element NaN or infinite.
    GradStatus,
    /// `(x0, index, restart, length, seed)` -> images to start from, clipped to [0,1]: `index`, `restart` and `length` are
    /// `[N]`, `seed [3]` is its lower and upper word and a step. Philox by the element's place in the NCHW image, purpose
    /// `Start`.
    Start { kind: StartKind },
    /// `(x0, x, share)` -> `x0 + share * (x - x0)`, clipped to [0,1]; `share` is `[N]`.
    Between,
    /// `(x, x0, g, alpha, eps)` -> the next iterate; `alpha` and `eps` are `[N]`. `x` may be replaced in place.
    PgdStep { norm: Norm },
    /// A step of FAB or DeepFool, or a part of one.
    Hyperplane(Plane),
    /// `(state, loss, fooled, eps)`, in L1 also `(.., x, best, x0)` -> the next `[N, 20]` of [`super::apgd::at`]: what APGD
    /// makes of an image it has just looked at. `state` may be replaced in place.
    ApgdState(ApgdRule),
    /// `(x, x0, g, state)`, in L-inf and L2 also `(.., old)` with the images before `x` -> the next iterate. `x` may be
    /// replaced in place.
    ApgdMove { norm: Norm },

    /// `(x0, index, restart, eps, seed)`, in L2 and L1 also `patterns` -> where Square starts, clipped to [0,1]. L-inf:
    /// vertical stripes of `eps` up or down, one sign a column and channel. L2, L1: tiles that carry the last of `patterns`.
    SquareStart { norm: Norm },
    /// `(state, loss, fooled)` -> the next state `[N, 4]` of Square: queries made, the best loss, whether a query has broken
    /// the image, whether the last one is the best point now. A broken image stays as it is.
    SquareControl,
    /// `(x, best, x0, state, index, restart, eps, seed, schedule)`, in L2 and L1 also `patterns` -> the next proposal of
    /// Square: `best` with one window changed (L2, L1: two). `schedule [K, 2]` holds from which proposal on, counted from 0, a
    /// window has which side; `patterns [K + 1, S * S]` what a window of each side adds, then the tile of the start. `x`, which
    /// is the last proposal, may be replaced in place.
    SquareStep { norm: Norm },

    /// `(a, b)` -> `[N]`: the distance of two images, summed in f64.
    HopDistance { norm: Norm },
    /// `(state, hit, distance)` -> the next state of HopSkipJump, see [`hop`]: `hit` is the verdict on the last query,
    /// `distance` how far it is from the original.
    HopControl(hop::Rules),
    /// `(sums, q, x, state)` -> sums `[N, 2, H * W * C]` over the queries of an estimate: `q - x` with the sign of the verdict,
    /// and without. `sums` may be replaced in place.
    HopGather,
    /// `(q, x, far, x0, sums, state, index, seed)` -> the next query of HopSkipJump, as its state says. `q` may be replaced in
    /// place.
    HopQuery { norm: Norm },

    /// `state [N, 2]`: turns made, factor of a copy -> the next: factors are 1, 1/2, .. `2^(1 - copies)`, then 1 again. May be
    /// replaced in place.
    Tick { copies: usize },
    /// `(x, m, reach, state)` -> `(x + reach * m) * factor`, not clipped; `reach` is `[N]`.
    Ahead,
    /// `(x, index, restart, length, state, seed)` -> `(x + U(-length, length)) * factor`, not clipped. Philox by the element's
    /// place in the NCHW image, purpose `Transfer`, the turn in place of the step.
    Jitter,
    /// `(x, index, restart, state, seed)` -> each image resized into a frame by chance, drawn as in `Jitter`.
    Diversify(Diversity),
    /// `(g, index, restart, state, seed)`: the adjoint of `Diversify`.
    DiversifyGrad(Diversity),
    /// `(sum, g, state)` -> `sum + share * factor * g`. `sum` may be replaced in place.
    Accumulate { share: f32 },
    /// `(g, taps [T])` -> each channel blurred by the taps along rows and columns, zeros outside; T is odd, at most 31.
    Blur,
    /// `(m, g, decay)` -> `decay * m + g / max(mean |g|, 1e-12)`, the mean over an image; `decay` is `[N]`. `m` may be replaced in
    /// place.
    Momentum,

    /// `(z, clean)` -> `[N]`: `sum p (log p - log q)`, `p` the softmax of `clean`, which is constant, `q` that of `z`.
    Kl,
    /// `(z, clean)` -> `[N, K]`: the gradient of `Kl` with respect to `z`.
    KlGrad,
    /// `(m, g)` -> `keep * m + (1 - keep) * g`, with `square` of `g * g`. `m` may be replaced in place.
    Moment { square: bool, keep: f32 },
    /// `(x, x0, m, v, alpha, eps, state)` -> the next iterate of Adam up the gradient in the L-inf ball, its moments corrected for
    /// `turns + 1` steps and `keep`. `x` may be replaced in place.
    AdamStep { keep: [f32; 2] },
    /// `(x0, index, restart, length, seed)` -> `x0 + length * N(0,1)`, clipped to [0,1]; numbers as those of `Start`.
    Shake,
    /// The steps of attacks that look for the nearest adversarial image.
    Nearest(Nearest),

    /// `(v, g, w, hyper)` -> the next velocity `momentum * v + (g + weight_decay * w)`; `hyper [3]` is learning rate,
    /// momentum, weight decay. A velocity of zeros makes the first step PyTorch's `v = g`. `v` may be replaced in place.
    SgdVelocity,
    /// `(w, g, v, hyper)` with the next velocity -> `w - lr * v`; with Nesterov's momentum
    /// `w - lr * (g + weight_decay * w + momentum * v)`. `w` may be replaced in place.
    SgdStep { nesterov: bool },
    /// `(w, g, gamma)` -> `gamma * |w| / (|g| + 1e-20) * g` with the lengths of the whole arrays: the change of a weight in
    /// adversarial weight perturbation; `gamma` is a scalar.
    Perturbation,
    /// `(average, value, decay)` -> `decay * average + (1 - decay) * value`; `decay` is a scalar. `average` may be
    /// replaced in place.
    Ema,

    /// `[N, H, W, C]` -> `[N, C, H, W/2+1, 2]`: the half of each channel's spectrum that determines it, as (real, imaginary).
    /// With `dual` times 1 or 2 (the copies of a column in the whole spectrum) over H*W, which makes it the adjoint of
    /// `Irfft2`.
    Rfft2 { dual: bool },
    /// `[N, C, H, W/2+1, 2]` -> `[N, H, W, C]`, divided by H*W; imaginary parts that a real image cannot have are left out.
    /// With `dual` every coefficient counts once and nothing is divided: the adjoint of `Rfft2`.
    Irfft2 { width: usize, dual: bool },
    /// `(x, w)`: every frequency of `x [N, H, W, C]` times its weight in `w [H, W/2+1]`, and back. Of two columns of the half
    /// that are their own mirror image, the mean of a weight and its mirror's counts.
    SpectrumFilter,
    /// `[N, H, W, C]` -> `[N, C, R]`: sums of amplitude, or power, over the rings of each channel's whole spectrum
    /// ([`crate::graph::Rings`]).
    RingSums { power: bool },
    /// Balanced spectrum sampling of images in [0,1], rounded to bytes first: in each channel each ring but the first and the
    /// last is weighted by `p_new / p_old`, with `p_old` its share of the mean amplitudes and `p_new` that of their logarithms;
    /// the result is clipped and cut down to bytes, over 255. A channel where a mean amplitude is below 1 stays as it is.
    /// The derivative goes straight through.
    Bass,
}
