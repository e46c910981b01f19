//! What casts doubt on a robust accuracy: collected while a run goes on, said in plain words at its end.
//! Must not know how attacks work, only what they returned.
//! The list follows the flags of AutoAttack (Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>).

use super::{Found, Job};
use crate::outcome::{Doubt, Member};

/// Counts over a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    standing: usize,
    zero_gradient: usize,
    bad_gradient: usize,
    not_above_start: usize,
    outside: usize,
    rows: usize,
    like_probabilities: usize,
    nan_logits: usize,
    differing_runs: usize,
}

impl Tally {
    /// Looks at clean logits.
    pub(super) fn look_at(&mut self, logits: &[f32], classes: usize) {
        for z in logits.chunks_exact(classes) {
            self.rows += 1;
            let sum: f32 = z.iter().sum();
            let inside = z.iter().all(|v| (0.0..=1.0).contains(v));
            self.like_probabilities += usize::from(inside && (sum - 1.0).abs() < 1e-5);
            self.nan_logits += usize::from(z.iter().any(|v| !v.is_finite()));
        }
    }

    /// Compares two runs on the same images, bit for bit.
    pub(super) fn compare_runs(&mut self, a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len(), "two runs on the same images");
        self.differing_runs += a.iter().zip(b).filter(|(x, y)| x.to_bits() != y.to_bits()).count();
    }

    /// Looks at what one restart returned for one image.
    pub(super) fn judge(&mut self, found: &Found, inside: bool, reached: bool) {
        self.outside += usize::from(!inside);
        self.bad_gradient += usize::from(found.status == 2);
        if !reached {
            self.standing += 1;
            // A confident success has no gradient left; only an image that still stands is suspicious without one.
            self.zero_gradient += usize::from(found.status == 1);
            let flat = found.climbed.is_some_and(|(first, last)| last <= first || last.is_nan());
            self.not_above_start += usize::from(flat);
        }
    }

    /// The doubts of a finished run.
    pub(super) fn doubts(&self, job: &Job, labelled: bool) -> Vec<Doubt> {
        let mut out = Vec::new();
        let mut say = |code, message: String| out.push(Doubt { code, message });
        if !labelled {
            say(
                "labels-predicted",
                "the images have no labels: the model's own predictions are the labels, so clean accuracy says nothing".into(),
            );
        }
        if self.nan_logits > 0 {
            say("nan-logits", format!("{} clean images give NaN or infinite logits; they count as wrong", self.nan_logits));
        }
        if self.rows > 0 && self.like_probabilities == self.rows {
            say(
                "probabilities",
                "the outputs look like probabilities, not logits: a softmax inside the model hides its gradient".into(),
            );
        }
        if self.differing_runs > 0 {
            say("nondeterministic", format!("{} logits differ between two runs on the same images", self.differing_runs));
        }
        if self.zero_gradient > 0 {
            let (n, s) = (self.zero_gradient, self.standing);
            say(
                "zero-gradient",
                format!(
                    "{n} of {s} unbroken images met a gradient of exactly zero: a sign of masked gradients; try `--loss dlr` or `--loss margin`"
                ),
            );
        }
        if self.bad_gradient > 0 {
            say("nan-gradient", format!("{} images met a gradient with NaN or infinity", self.bad_gradient));
        }
        if self.not_above_start > 0 {
            let (n, s) = (self.not_above_start, self.standing);
            say(
                "loss-not-above-start",
                format!("on {n} of {s} unbroken images the loss ended no higher than it started: the step may be too large"),
            );
        }
        if self.outside > 0 {
            say(
                "outside-threat-model",
                format!("{} returned points lay outside the threat model and were not counted", self.outside),
            );
        }
        if job.batch < 8 {
            say("small-batch", "below a batch of 8 results may differ in the last bits from those of larger batches".into());
        }
        out
    }
}

/// Attacks without gradients that broke what those with gradients had left.
pub(super) fn black_box(members: &[Member], images: usize) -> Vec<Doubt> {
    let mut out = Vec::new();
    let blind = |m: &Member| m.cost.backwards == 0 && m.cost.forwards > 0;
    for (i, m) in members.iter().enumerate().filter(|(_, m)| blind(m) && m.broken > 0) {
        if !members[..i].iter().any(|before| before.cost.backwards > 0) {
            continue;
        }
        let points = 100.0 * m.broken as f64 / images.max(1) as f64;
        let message = format!("`{}` broke {} images ({points:.2} points) that attacks by gradient had left", m.name, m.broken);
        // AutoAttack's own bound.
        let (code, more) = if points > 0.2 {
            ("black-box-lowers", "gradients may be masked: give it more queries and restarts, or adapt the attack to the model")
        } else {
            ("black-box-beats-white-box", "a few such images are usual")
        };
        out.push(Doubt { code, message: format!("{message}; {more}") });
    }
    out
}

/// The device had no room for batches of the size asked for.
pub(super) fn halved(asked: usize, used: usize) -> Doubt {
    let message = format!("out of memory with batches of {asked}: went on with {used}");
    Doubt { code: "batch-halved", message }
}
