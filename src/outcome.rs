//! What every attack returns: per image what became of it, the sums, and what casts doubt on them.
//! Must not know how an attack works, nor how a report looks.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::threat::Goal;

/// Something that makes a number less certain than it looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// Stable name for programs, such as `zero-gradient`.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Per-image results, one entry an image in the order of the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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
}

/// What was spent on an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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
    /// Returned images with a NaN or infinite value.
    pub non_finite: usize,
    /// Seconds for clean pass, attack and check, without loading and compiling.
    pub seconds: f64,
    /// Seconds of the attack's own steps.
    pub attack_seconds: f64,
    /// Forward and input gradient of one image, how many times.
    pub image_steps: u64,
    /// Forward passes and input gradients of the attacks, without clean pass and verdict.
    pub cost: Cost,
    /// What casts doubt on the numbers.
    pub doubts: Vec<Doubt>,
    /// Each image's fate.
    pub per_image: PerImage,
}

impl Outcome {
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
