//! What a training step computes, apart from the images, and what varies from step to step.
//! Must not know graphs or devices.

use super::recipe::{Crafting, Outer};

/// The loss of an image by its own logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Criterion {
    /// With label smoothing in [0,1).
    CrossEntropy {
        /// Share that is spread over all classes.
        smoothing: f32,
    },
    /// The cross-entropy less where it is small (Lin et al. 2017, on the softmax).
    Focal {
        /// Power of the doubt.
        gamma: f32,
    },
    /// The focal loss of each class by itself; a gamma of 0 is the binary cross-entropy.
    SigmoidFocal {
        /// Power of the doubt.
        gamma: f32,
    },
}

/// What a step computes, apart from the images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    /// How training images are attacked; `None` trains on the images as they are.
    pub crafting: Option<Crafting>,
    /// What is minimised.
    pub outer: Outer,
    /// The loss of an image by its own logits.
    pub criterion: Criterion,
    /// Whether the criterion reads target distributions, [`Engine::set_targets`], instead of labels.
    pub soft: bool,
    /// Whether the attack reads them too.
    pub mixed: bool,
    /// Whether losses of clean and attacked images are weighted: [`Engine::set_weights`].
    pub weighted: bool,
    /// Whether logits are scaled and shifted by class: [`Engine::set_table`].
    pub table: bool,
    /// Whether the step sees points between clean and attacked images: [`Engine::set_share`].
    pub between: bool,
    /// Whether points on the way to the end of an attack are looked at: [`Engine::along`].
    pub margins: bool,
    /// Whether the step itself moves a perturbation of the batch, as Free does.
    pub replay: bool,
    /// Whether weights are perturbed before a step: [`Engine::perturb`].
    pub perturbed: bool,
    /// Whether the last linear layer alone learns.
    pub classifier_only: bool,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Whether a moving average of all parameters is kept.
    pub averaged: bool,
    /// Images in a batch.
    pub batch: usize,
    /// Seed of dropout.
    pub seed: u64,
}

impl Default for Form {
    /// Plain steps of one image without an attack.
    fn default() -> Self {
        Form {
            crafting: None,
            outer: Outer::PLAIN,
            criterion: Criterion::CrossEntropy { smoothing: 0.0 },
            soft: false,
            mixed: false,
            weighted: false,
            table: false,
            between: false,
            margins: false,
            replay: false,
            perturbed: false,
            classifier_only: false,
            nesterov: false,
            averaged: false,
            batch: 1,
            seed: 0,
        }
    }
}

/// What varies from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Learning rate.
    pub lr: f32,
    /// Momentum.
    pub momentum: f32,
    /// Weight decay, on every weight and bias.
    pub weight_decay: f32,
    /// Decay of the moving average.
    pub ema: f32,
}
