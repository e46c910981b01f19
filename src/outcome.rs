//! What every attack returns: per image what became of it, the sums, and what casts doubt on them.
//! Must not know how an attack works, nor how a report looks.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::threat::Goal;

/// Something that makes a number less certain than it looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Stable name for programs, such as `zero-gradient`.
    pub code: Cow<'static, str>,
    /// A sentence for people.
    pub message: String,
}

impl Doubt {
    /// A doubt by its stable name, with a sentence for people.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Doubt { code: Cow::Borrowed(code), message: message.into() }
    }
}

/// Per-image results, one entry an image in the order of the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerImage {
    /// Position of the image in its split.
    pub index: Vec<u32>,
    /// The label given, or the model's own prediction where there is none.
    pub label: Vec<i32>,
    /// Class of the clean image; -1 where a logit was NaN.
    pub clean_prediction: Vec<i32>,
    /// Class of the returned image; -1 where a logit was NaN.
    pub prediction: Vec<i32>,
    /// Right before and after the attack.
    pub robust: Vec<bool>,
    /// Largest absolute difference between the returned and the clean image.
    pub linf: Vec<f64>,
    /// Euclidean distance between them.
    pub l2: Vec<f64>,
    /// Sum of absolute differences between them.
    pub l1: Vec<f64>,
    /// Whether an attack reached its goal: for a targeted one the target, else any other class.
    pub success: Vec<bool>,
    /// Values that differ between them.
    pub l0: Vec<usize>,
    /// Forward passes spent on the image: its queries.
    pub forwards: Vec<u64>,
    /// Input gradients spent on it.
    pub backwards: Vec<u64>,
    /// Which of the attacks tried reached the goal first; null where none did.
    pub by: Vec<Option<usize>>,
    /// The class aimed at; null for an untargeted attack.
    pub target: Vec<Option<i32>>,
    /// What was met on the way: the sum of the bits of [`Met`].
    pub met: Vec<u16>,
}

impl PerImage {
    /// Whether image `i` met `what`.
    pub fn met(&self, i: usize, what: Met) -> bool {
        self.met[i] & what as u16 != 0
    }
    /// Whether the model is right on clean image `i`.
    pub fn right(&self, i: usize) -> bool {
        self.label[i] >= 0 && self.clean_prediction[i] == self.label[i]
    }
}

/// What an image can meet that casts doubt on its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Met {
    /// An attack met a gradient of exactly zero while it had not reached its goal.
    ZeroGradient = 1,
    /// An attack met a gradient with NaN or infinity.
    BadGradient = 2,
    /// A loss ended no higher than it started, and the goal was not reached.
    NotAboveStart = 4,
    /// A point that an attack returned was not allowed.
    Outside = 8,
    /// Logits of the clean image with NaN or infinity.
    NanLogits = 16,
    /// Logits of the clean image that look like probabilities.
    LikeProbabilities = 32,
    /// Two runs on the clean image gave different logits.
    Differs = 64,
    /// A NaN or infinity in the image that is returned.
    NonFinite = 128,
}

/// Returned images on the 256 levels of picture files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rounded {
    /// Pictures written.
    pub images: usize,
    /// Those that the model classifies right.
    pub right: usize,
    /// Those whose attack was undone by rounding.
    pub undone: usize,
    /// Those that no rounding keeps in the threat model: their originals lie between levels.
    pub outside: usize,
}

/// What was spent on an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Forward passes.
    pub forwards: u64,
    /// Input gradients; each comes with a forward pass, which is counted there.
    pub backwards: u64,
}

impl Cost {
    /// So many gradients, each with its forward pass.
    pub fn steps(n: usize) -> Self {
        Cost { forwards: n as u64, backwards: n as u64 }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.forwards += other.forwards;
        self.backwards += other.backwards;
    }
}

/// What one of several attacks did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Name of the attack.
    pub name: String,
    /// All resolved parameters.
    pub parameters: Map<String, Value>,
    /// Images that it broke, out of those that stood before it.
    pub broken: usize,
    /// Images that stand after it.
    pub standing: usize,
    /// Seconds of its steps.
    pub seconds: f64,
    /// What it spent.
    pub cost: Cost,
}

/// What an attack run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name of the attack.
    pub attack: String,
    /// All resolved parameters, in the order they are printed.
    pub parameters: Map<String, Value>,
    /// What the attacker was after.
    pub goal: Goal,
    /// Each attack tried, in order.
    pub members: Vec<Member>,
    /// Images looked at.
    pub images: usize,
    /// Whether labels came with the data; without them the model's own predictions are the labels.
    pub labelled: bool,
    /// Images the model classifies right before the attack.
    pub clean_correct: usize,
    /// Images it classifies right before and after.
    pub robust: usize,
    /// For a targeted attack: images that ended at their target, out of those attacked.
    pub targeted: Option<(usize, usize)>,
    /// Where the attack computed in 16-bit floats: successes by its own verdict that the f32 network confirmed, out of all.
    pub confirmed: Option<(usize, usize)>,
    /// Images in a batch, in the end: a device without room for more halves them.
    pub batch: usize,
    /// Largest distance of a returned image, by the goal's measure.
    pub max_distance: f64,
    /// Lowest and highest value of all returned images.
    pub extremes: Option<[f32; 2]>,
    /// Returned images with a NaN or infinite value.
    pub non_finite: usize,
    /// Images whose fate, or part of it, comes from the journal of an earlier run.
    pub resumed: usize,
    /// Seconds for clean pass, attack and check, without loading and compiling.
    pub seconds: f64,
    /// Seconds of the attack's own steps.
    pub attack_seconds: f64,
    /// Forward and input gradient of one image, how many times.
    pub image_steps: u64,
    /// Forward passes and input gradients of the attacks, without clean pass and verdict.
    pub cost: Cost,
    /// What became of the images as picture files, where such were written.
    pub rounded: Option<Rounded>,
    /// What casts doubt on the numbers.
    pub doubts: Vec<Doubt>,
    /// Each image's fate.
    pub per_image: PerImage,
}

impl Outcome {
    /// Fills in what stands after each attack, once all images are written down.
    pub(crate) fn count_standing(&mut self) {
        let mut left = self.clean_correct;
        for member in &mut self.members {
            left -= member.broken;
            member.standing = left;
        }
    }
    /// Share of images right before the attack.
    pub fn clean_accuracy(&self) -> f64 {
        self.clean_correct as f64 / self.images.max(1) as f64
    }
    /// Share of images right before and after the attack.
    pub fn robust_accuracy(&self) -> f64 {
        self.robust as f64 / self.images.max(1) as f64
    }
    /// Image-steps a second while attacking; 0 where nothing was attacked.
    pub fn image_steps_per_second(&self) -> f64 {
        if self.attack_seconds > 0.0 { self.image_steps as f64 / self.attack_seconds } else { 0.0 }
    }
}
