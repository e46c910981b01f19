//! What may be put on top of any recipe, and when a run ends before its last epoch.
//! Must not know how a step is computed.
//! Weight perturbation: Wu et al. 2020, <https://arxiv.org/abs/2004.05884>; mixup: Zhang et al. 2018,
//! <https://arxiv.org/abs/1710.09412>; overfitting to one step: Wong et al. 2020, <https://arxiv.org/abs/2001.03994>.

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};

/// On top of a recipe; by default nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tricks {
    /// Adversarial weight perturbation.
    pub awp: Option<Awp>,
    /// Pairs of images and labels are mixed by shares drawn from `Beta(a, a)`, `a` in (0,4].
    pub mixup: Option<f64>,
    /// Epochs in which the radius of the attack grows linearly to its size; its steps with it.
    pub eps_warmup: usize,
    /// What happens when a network overfits to its one-step attack.
    pub guard: Guard,
    /// Epochs without a better score after which the run ends.
    pub patience: Option<usize>,
    /// Weights are kept every so many epochs.
    pub save_every: Option<usize>,
    /// Margin by which the label's logit is made smaller in the training loss, in units of the logits.
    pub margin: f64,
    /// Images from another set in each batch.
    pub extra: Option<Extra>,
}

/// Adversarial weight perturbation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Awp {
    /// Size of the change of a weight, as a share of its length.
    pub gamma: f64,
    /// Epochs before it begins.
    pub warmup: usize,
}

/// More images to learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Extra {
    /// The set as it was asked for.
    pub data: String,
    /// Images in it.
    pub images: usize,
    /// Share of a batch that comes from it, in (0,1).
    pub fraction: f64,
}

/// What happens when robust accuracy on a training batch falls by more than 20 points from one epoch to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Nobody looks.
    #[default]
    Off,
    /// The run ends with the state before that epoch.
    Stop,
    /// The run goes on from the state before that epoch with steps of the attack half as long.
    Rollback,
}

/// Fall of the accuracy, as a share, that a guard takes for overfitting.
pub(super) const FALL: f64 = 0.2;
/// Steps of the guard's PGD.
pub(super) const GUARD_STEPS: usize = 5;

impl Guard {
    /// `off`, `stop` or `rollback`.
    pub fn name(self) -> &'static str {
        match self {
            Guard::Off => "off",
            Guard::Stop => "stop",
            Guard::Rollback => "rollback",
        }
    }
}

impl Tricks {
    /// Refuses what cannot be done; `attacked` says whether the recipe has an attack.
    pub(super) fn check(&self, attacked: bool) -> Result<()> {
        if let Some(Awp { gamma, .. }) = self.awp.filter(|a| !(a.gamma > 0.0 && a.gamma < 1.0)) {
            return Err(Error::usage(format!(
                "weights are perturbed by {gamma} of their length, it must be above 0 and below 1"
            )));
        }
        if let Some(a) = self.mixup.filter(|a| !(*a > 0.0 && *a <= 4.0)) {
            return Err(Error::usage(format!("`mixup` is {a}, it must be above 0 and at most 4")));
        }
        if let Some(e) = self.extra.as_ref().filter(|e| !(e.fraction > 0.0 && e.fraction < 1.0)) {
            return Err(Error::usage(format!(
                "a share of {} of each batch is extra, it must be above 0 and below 1",
                e.fraction
            )));
        }
        if !(self.margin >= 0.0 && self.margin.is_finite()) {
            return Err(Error::usage(format!("the margin is {}, it must be at least 0", self.margin)));
        }
        if !attacked && (self.eps_warmup > 0 || self.guard != Guard::Off) {
            return Err(Error::usage("a radius that grows and a guard need a recipe with an attack")
                .with_hint("leave `--eps-warmup` and `--guard` out, or choose another `--recipe`"));
        }
        Ok(())
    }

    /// Those that are used, in the order they are printed.
    pub(super) fn parameters(&self, p: &mut Map<String, Json>) {
        if let Some(Awp { gamma, warmup }) = self.awp {
            p.insert("awp".into(), json!(gamma));
            p.insert("awp_warmup".into(), json!(warmup));
        }
        if let Some(a) = self.mixup {
            p.insert("mixup".into(), json!(a));
        }
        if self.eps_warmup > 0 {
            p.insert("eps_warmup".into(), json!(self.eps_warmup));
        }
        if self.guard != Guard::Off {
            p.insert("guard".into(), json!(self.guard.name()));
        }
        if let Some(n) = self.patience {
            p.insert("patience".into(), json!(n));
        }
        if let Some(n) = self.save_every {
            p.insert("save_every".into(), json!(n));
        }
        if self.margin > 0.0 {
            p.insert("margin".into(), json!(self.margin));
        }
        if let Some(e) = &self.extra {
            p.insert("extra".into(), json!(e.data));
            p.insert("extra_images".into(), json!(e.images));
            p.insert("extra_fraction".into(), json!(e.fraction));
        }
    }
}
