//! What every attack returns: per image what became of it, the sums, and what casts doubt on them.
//! Must not know how an attack works, nor how a report looks.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::threat::ThreatModel;

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
}

/// What an attack run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name of the attack.
    pub attack: String,
    /// All resolved parameters, in the order they are printed.
    pub parameters: Map<String, Value>,
    /// What the attacker was allowed.
    pub threat: ThreatModel,
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
    /// Largest distance of a returned image in the threat model's norm.
    pub max_distance: f64,
    /// Returned images with a NaN or infinite value.
    pub non_finite: usize,
    /// Seconds for clean pass, attack and check, without loading and compiling.
    pub seconds: f64,
    /// Seconds of the attack's own steps.
    pub attack_seconds: f64,
    /// Forward and input gradient of one image, how many times.
    pub image_steps: u64,
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
