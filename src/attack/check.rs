//! What casts doubt on a robust accuracy: noted for each image while a run goes on, said in plain words at its end.
//! Must not know how attacks work, only what they returned.
//! The list follows the flags of AutoAttack (Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>).

use super::Found;
use crate::outcome::{Doubt, Member, Met, PerImage};

/// Looks at the logits of a clean image: bits of [`Met`].
pub(super) fn of_logits(z: &[f32]) -> u16 {
    let sum: f32 = z.iter().sum();
    let like = z.iter().all(|v| (0.0..=1.0).contains(v)) && (sum - 1.0).abs() < 1e-5;
    let nan = z.iter().any(|v| !v.is_finite());
    (if like { Met::LikeProbabilities as u16 } else { 0 }) | (if nan { Met::NanLogits as u16 } else { 0 })
}

/// Looks at what one restart returned for one image: bits of [`Met`].
pub(super) fn of_found(found: &Found, inside: bool, reached: bool) -> u16 {
    let mut met = 0;
    let mut note = |is: bool, what: Met| met |= if is { what as u16 } else { 0 };
    note(!inside, Met::Outside);
    note(found.status == 2, Met::BadGradient);
    // A confident success has no gradient left; only an image that still stands is suspicious without one.
    note(!reached && found.status == 1, Met::ZeroGradient);
    let flat = found.climbed.is_some_and(|(first, last)| last <= first || last.is_nan());
    note(!reached && flat, Met::NotAboveStart);
    met
}

/// Doubts that follow from the lists of a result; the others belong to how the run was made.
pub const COUNTED: [&str; 10] = [
    "labels-predicted",
    "nan-logits",
    "probabilities",
    "nondeterministic",
    "zero-gradient",
    "nan-gradient",
    "loss-not-above-start",
    "outside-threat-model",
    "black-box-lowers",
    "black-box-beats-white-box",
];

/// The doubts that follow from what the images of a run met.
pub fn doubts(p: &PerImage, labelled: bool) -> Vec<Doubt> {
    let images = 0..p.index.len();
    let count = |what: Met| images.clone().filter(|&i| p.met(i, what)).count();
    let stands = |i: &usize| p.right(*i) && !p.success[*i] && p.target[*i] != Some(p.label[*i]);
    let standing = images.clone().filter(stands).count();
    let still = |what: Met| images.clone().filter(stands).filter(|&i| p.met(i, what)).count();
    let mut out = Vec::new();
    let mut say = |n: usize, code, message: String| {
        if n > 0 {
            out.push(Doubt::new(code, message));
        }
    };
    say(
        usize::from(!labelled),
        "labels-predicted",
        "the images have no labels: the model's own predictions are the labels, so clean accuracy says nothing".into(),
    );
    let n = count(Met::NanLogits);
    say(n, "nan-logits", format!("{n} clean images give NaN or infinite logits; they count as wrong"));
    say(
        usize::from(!images.is_empty() && count(Met::LikeProbabilities) == images.len()),
        "probabilities",
        "the outputs look like probabilities, not logits: a softmax inside the model hides its gradient".into(),
    );
    let n = count(Met::Differs);
    say(n, "nondeterministic", format!("the logits of {n} images differ between two runs on the same images"));
    let n = still(Met::ZeroGradient);
    say(
        n,
        "zero-gradient",
        format!(
            "{n} of {standing} unbroken images met a gradient of exactly zero: a sign of masked gradients; try `--loss dlr` or `--loss margin`"
        ),
    );
    let n = count(Met::BadGradient);
    say(n, "nan-gradient", format!("{n} images met a gradient with NaN or infinity"));
    let n = still(Met::NotAboveStart);
    say(
        n,
        "loss-not-above-start",
        format!("on {n} of {standing} unbroken images the loss ended no higher than it started: the step may be too large"),
    );
    let n = count(Met::Outside);
    say(n, "outside-threat-model", format!("on {n} images a returned point lay outside the threat model and was not counted"));
    out
}

/// Attacks without gradients that broke what those with gradients had left.
pub fn black_box(members: &[Member], images: usize) -> Vec<Doubt> {
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
        out.push(Doubt::new(code, format!("{message}; {more}")));
    }
    out
}

/// Few images in a batch change how some layers compute.
pub(super) fn small(batch: usize) -> Option<Doubt> {
    let message = "below a batch of 8 results may differ in the last bits from those of larger batches";
    (batch < 8).then(|| Doubt::new("small-batch", message))
}

/// The device had no room for batches of the size asked for.
pub(super) fn halved(asked: usize, used: usize) -> Doubt {
    let message = format!("out of memory with batches of {asked}: went on with {used}");
    Doubt::new("batch-halved", message)
}
