//! Reports: what was asked, what came out, what casts doubt on it; as text for people and JSON for programs.
//! Must not know devices or the command line: every fact is handed in.

mod curve;
mod eval;
mod json;
pub mod page;
pub mod plot;
pub mod table;
mod text;

pub use page::Page;
pub use plot::{HeatMap, Plot};
pub use table::Table;

pub use eval::{eval_json, eval_text, robustbench_json};
pub use json::{attack_json, infer_json};
pub use text::{attack_text, bytes_text, infer_text, radius_text};

/// What a run was asked, beside the parameters of an attack.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Name of the model's card.
    pub model: String,
    /// `[C, H, W]` of an image.
    pub input: [usize; 3],
    /// Where the images came from, as it was typed.
    pub data: String,
    /// Part of the set.
    pub split: &'static str,
    /// Images skipped at its beginning.
    pub offset: usize,
    /// What computed.
    pub device: String,
    /// In which arithmetic.
    pub precision: &'static str,
    /// Images in a batch.
    pub batch: usize,
    /// Whether only direct kernels were used.
    pub exact: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Which part of the images, and of how many, where several processes share them.
    pub shard: Option<[usize; 2]>,
    /// Where the returned images were saved, as it was typed.
    pub saved: Option<String>,
    /// Radii at which robust accuracy is wanted of an attack that looks for the nearest image; none: where the broken are.
    pub radii: Vec<f64>,
    /// The command that gives the same numbers.
    pub repeat: String,
    /// Names of the models whose gradients were followed in place of the model's own.
    pub sources: Vec<String>,
}

/// What a model says of images without an attack.
#[derive(Clone, Debug, Default)]
pub struct Inference {
    /// Whether labels came with the images; without them the model's own predictions are the labels.
    pub labelled: bool,
    /// Images whose class is their label.
    pub correct: usize,
    /// Images with a NaN or infinite logit.
    pub non_finite: usize,
    /// Seconds without loading and compiling.
    pub seconds: f64,
    /// Position of each image in its split.
    pub index: Vec<u32>,
    /// The label given, or the prediction where there is none.
    pub label: Vec<i32>,
    /// The model's class; -1 where a logit was NaN.
    pub prediction: Vec<i32>,
}

impl Inference {
    /// Images looked at.
    pub fn images(&self) -> usize {
        self.index.len()
    }
    /// Share of images classified right; `None` without labels.
    pub fn clean_accuracy(&self) -> Option<f64> {
        self.labelled.then(|| self.correct as f64 / self.images().max(1) as f64)
    }
    /// Images a second.
    pub fn images_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.images() as f64 / self.seconds } else { 0.0 }
    }
}
