//! The search over the constant before a loss (C&W, EAD): each image's next state, and the steps in tanh space and of FISTA.
//! Must not know networks; images are independent.
//! Carlini and Wagner 2017, <https://arxiv.org/abs/1608.04644>; Chen et al. 2018, <https://arxiv.org/abs/1709.04114>.

use rayon::prelude::*;

use super::rows::row_len;
use crate::graph::Search;
use crate::graph::nearest::Objective;
use crate::graph::nearest::column::*;
use crate::threat::sum;

/// Decay of Adam's two moments.
const DECAY: [f64; 2] = [0.9, 0.999];
/// What keeps Adam from dividing by zero.
const TINY: f32 = 1e-8;

/// What the control of an attack looks at, beside the state.
pub(crate) struct Sight<'a> {
    /// Iterates.
    pub x: &'a [f32],
    /// Originals.
    pub x0: &'a [f32],
    /// One margin an image.
    pub margin: &'a [f32],
    /// Logits.
    pub z: &'a [f32],
}

/// A margin, and whether it is believed to reach the goal.
pub(super) fn verdict(state: &[f32], kappa: f32, margin: f32, z: &[f32]) -> bool {
    let (low, high) = z.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    f64::from(margin) > f64::from(kappa) + f64::from(state[SLACK]) * (f64::from(high) - f64::from(low))
}

/// Counts a turn and keeps the nearest; whether the goal is reached. `false` for an image that is through.
pub(super) fn look(state: &mut [f32], won: bool, margin: f32, distance: f64) {
    state[TURNS] += 1.0;
    state[MARGIN] = state[MARGIN].max(margin);
    if won && (distance as f32) < state[BEST] {
        state[BETTER] = 1.0;
        state[BEST] = distance as f32;
    }
}

/// The next state of every image, in place.
pub(crate) fn search(search: &Search, sight: Sight, state: &mut [f32]) {
    let (len, classes) = (row_len(sight.margin.len(), sight.x.len()), row_len(sight.margin.len(), sight.z.len()));
    let images = sight.x.par_chunks(len).zip(sight.x0.par_chunks(len)).zip(sight.z.par_chunks(classes));
    state.par_chunks_mut(COUNT).zip(images).zip(sight.margin).for_each(|((state, ((x, x0), z)), &margin)| {
        (state[BETTER], state[RESTART]) = (0.0, 0.0);
        if state[ALIVE] != 0.0 {
            let (objective, distance) = lengths(search.objective, x, x0);
            let won = verdict(state, search.kappa, margin, z);
            look(state, won, margin, distance);
            advance(search, state, won, margin, objective);
        }
    });
}

/// What is minimised beside the loss, and what "nearer" means.
fn lengths(objective: Objective, x: &[f32], x0: &[f32]) -> (f64, f64) {
    let d = |i: usize| f64::from(x[i]) - f64::from(x0[i]);
    let square = sum(x.len(), |i| d(i) * d(i));
    match objective {
        Objective::Squared { shrink } => {
            (sum(x.len(), |i| (f64::from(x[i]) - f64::from(base(shrink, x0[i]))).powi(2)), square.sqrt())
        }
        Objective::L1 { beta } | Objective::ElasticNet { beta } => {
            let l1 = sum(x.len(), |i| d(i).abs());
            let both = square + f64::from(beta) * l1;
            (both, if matches!(objective, Objective::L1 { .. }) { l1 } else { both })
        }
    }
}

/// The image that the start in tanh space stands for.
fn base(shrink: f32, x0: f32) -> f32 {
    (shrink * (2.0 * x0 - 1.0) + 1.0) * 0.5
}

/// A step more, or the end of a round and the next constant.
fn advance(search: &Search, state: &mut [f32], won: bool, margin: f32, objective: f64) {
    if won {
        state[REACHED] = 1.0;
    }
    let step = state[STEP] as usize;
    let shortfall = (-f64::from(margin)).max(-f64::from(search.kappa));
    let loss = objective + f64::from(state[CONSTANT]) * if margin.is_nan() { f64::NAN } else { shortfall };
    let mut over = step + 1 >= search.steps;
    if search.abort && step.is_multiple_of((search.steps / 10).max(1)) {
        // Written so that a NaN ends the round.
        let falls = loss <= 0.9999 * f64::from(state[BEFORE]);
        over |= !falls;
        state[BEFORE] = loss as f32;
    }
    state[STEP] += 1.0;
    if over {
        next_round(search, state);
    }
    let made = f64::from(state[STEP]);
    match search.objective {
        Objective::Squared { .. } => {
            let t = made.max(1.0);
            state[RATE] = (f64::from(search.rate) / (1.0 - DECAY[0].powf(t))) as f32;
            state[SCALE] = (1.0 / (1.0 - DECAY[1].powf(t))) as f32;
        }
        _ => state[RATE] = (f64::from(search.rate) * (1.0 - made / search.steps as f64).sqrt()) as f32,
    }
}

fn next_round(search: &Search, state: &mut [f32]) {
    let constant = state[CONSTANT];
    if state[REACHED] != 0.0 {
        state[HIGH] = state[HIGH].min(constant);
    } else {
        state[LOW] = state[LOW].max(constant);
    }
    let round = state[ROUND] as usize + 1;
    let known = state[HIGH].is_finite();
    state[CONSTANT] = match known {
        true if search.rounds >= 10 && round + 1 == search.rounds => state[HIGH],
        true => (state[LOW] + state[HIGH]) * 0.5,
        false => constant * 10.0,
    };
    (state[ROUND], state[STEP], state[REACHED], state[BEFORE]) = (round as f32, 0.0, 0.0, f32::INFINITY);
    (state[RESTART], state[ALIVE]) = (1.0, if round < search.rounds { 1.0 } else { 0.0 });
}

/// `atanh(shrink * (2 x - 1))`; infinite at black and white pixels where `shrink` is 1.
fn unsquashed(shrink: f32, x: f32) -> f32 {
    let t = f64::from(shrink) * (2.0 * f64::from(x) - 1.0);
    (0.5 * (2.0 * t / (1.0 - t)).ln_1p()) as f32
}

/// Three planes of an image each: the variable at the start, and moments of zero.
fn restart(shrink: f32, adam: &mut [f32], x0: &[f32]) {
    let (w, moments) = adam.split_at_mut(x0.len());
    w.iter_mut().zip(x0).for_each(|(w, &x)| *w = unsquashed(shrink, x));
    moments.fill(0.0);
}

/// Puts the rows with a flag at their start.
pub(crate) fn tanh_start(shrink: f32, flag: &[f32], adam: &mut [f32], x0: &[f32]) {
    let len = row_len(flag.len(), x0.len());
    let rows = adam.par_chunks_mut(3 * len).zip(x0.par_chunks(len)).zip(flag);
    rows.filter(|(_, flag)| **flag != 0.0).for_each(|((adam, x0), _)| restart(shrink, adam, x0));
}

/// The images that the variables stand for, `len` values each.
pub(crate) fn tanh_image(len: usize, adam: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(len).zip(adam.par_chunks(3 * len)).for_each(|(out, adam)| {
        out.iter_mut().zip(adam).for_each(|(out, w)| *out = (w.tanh() + 1.0) * 0.5);
    });
}

/// What a step is made of.
pub(crate) struct Slope<'a> {
    pub x: &'a [f32],
    pub x0: &'a [f32],
    pub g: &'a [f32],
    pub margin: &'a [f32],
    pub state: &'a [f32],
    pub kappa: f32,
}

impl Slope<'_> {
    /// The constant where the hinge has a slope, else 0.
    fn pull(&self, n: usize) -> f32 {
        if self.margin[n] > self.kappa { 0.0 } else { self.state[n * COUNT + CONSTANT] }
    }
}

/// `2 (x - base) - pull * g`; a gradient that has no say must not bring a NaN.
fn downhill(x: f32, base: f32, pull: f32, g: f32) -> f32 {
    let way = 2.0 * (x - base);
    if pull == 0.0 { way } else { way - pull * g }
}

/// A step of Adam in tanh space, or back to the start where a round has ended.
pub(crate) fn tanh_step(shrink: f32, s: Slope, adam: &mut [f32]) {
    let len = row_len(s.margin.len(), s.x.len());
    adam.par_chunks_mut(3 * len).enumerate().for_each(|(n, adam)| {
        let state = &s.state[n * COUNT..][..COUNT];
        let row = n * len..(n + 1) * len;
        let (x, x0, g) = (&s.x[row.clone()], &s.x0[row.clone()], &s.g[row]);
        if state[RESTART] != 0.0 {
            return restart(shrink, adam, x0);
        }
        if state[ALIVE] == 0.0 {
            return;
        }
        let pull = s.pull(n);
        let (w, moments) = adam.split_at_mut(len);
        let (first, second) = moments.split_at_mut(len);
        for i in 0..len {
            let slope = downhill(x[i], base(shrink, x0[i]), pull, g[i]) * (2.0 * x[i] * (1.0 - x[i]));
            first[i] = DECAY[0] as f32 * first[i] + (1.0 - DECAY[0]) as f32 * slope;
            second[i] = DECAY[1] as f32 * second[i] + (1.0 - DECAY[1]) as f32 * (slope * slope);
            w[i] -= state[RATE] * first[i] / ((second[i] * state[SCALE]).sqrt() + TINY);
        }
    });
}

/// A step of FISTA down from `y` (in `s.x`), shrunk by `beta` towards the original and clipped to the box; the original for
/// an image that is through.
pub(crate) fn shrink(beta: f32, s: Slope, out: &mut [f32]) {
    let len = row_len(s.margin.len(), s.x.len());
    out.par_chunks_mut(len).enumerate().for_each(|(n, out)| {
        let state = &s.state[n * COUNT..][..COUNT];
        let row = n * len..(n + 1) * len;
        let (y, x0, g) = (&s.x[row.clone()], &s.x0[row.clone()], &s.g[row]);
        if state[ALIVE] == 0.0 {
            return out.copy_from_slice(x0);
        }
        let pull = s.pull(n);
        for i in 0..len {
            let to = y[i] - state[RATE] * downhill(y[i], x0[i], pull, g[i]);
            let d = to - x0[i];
            out[i] = if d > beta {
                (to - beta).min(1.0)
            } else if d < -beta {
                (to + beta).max(0.0)
            } else if d.is_nan() {
                d
            } else {
                x0[i]
            };
        }
    });
}

/// Where FISTA looks next.
pub(crate) fn momentum(next: &[f32], x: &[f32], x0: &[f32], state: &[f32], out: &mut [f32]) {
    let len = row_len(state.len() / COUNT, x.len());
    out.par_chunks_mut(len).enumerate().for_each(|(n, out)| {
        let state = &state[n * COUNT..][..COUNT];
        let row = n * len..(n + 1) * len;
        let (next, x, x0) = (&next[row.clone()], &x[row.clone()], &x0[row]);
        if state[RESTART] != 0.0 || state[ALIVE] == 0.0 {
            return out.copy_from_slice(x0);
        }
        let far = (state[STEP] - 1.0) / (state[STEP] + 2.0);
        for i in 0..len {
            out[i] = next[i] + far * (next[i] - x[i]);
        }
    });
}
