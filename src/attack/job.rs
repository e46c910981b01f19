//! What a run is asked: which attacks, on what, and who wants to hear of it; and what of that is refused.
//! Must not know how an attack works, nor how a run goes.

use std::sync::Arc;

use super::place::same_kind;
use super::{Attack, Journal, Target};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::session::Model;
use crate::threat::{Goal, ThreatModel};

/// One run: which attacks, in which batches, from which seed.
#[derive(Clone, Debug)]
pub struct Job {
    /// The attacks with all their parameters, at least one, in the order in which they are tried. Each takes the images that
    /// still stand; all are after the same goal.
    pub attacks: Vec<Arc<dyn Attack>>,
    /// Models whose gradients are followed in place of the attacked model's own: a transfer attack; of several, the mean of
    /// their logits.
    pub sources: Vec<Model>,
    /// Images in a batch. Results do not depend on it from 8 up.
    pub batch: usize,
    /// Seed of every random number; a number belongs to (seed, image, restart, step), never to a batch.
    pub seed: u64,
    /// Keep to direct kernels in the attack too.
    pub exact: bool,
}

impl Job {
    /// What its attacks are after: every attack of a job is after the same.
    pub fn goal(&self) -> Goal {
        self.attacks[0].goal()
    }
    /// The threat model, where the job has one.
    pub fn threat(&self) -> Option<ThreatModel> {
        self.goal().threat()
    }
    /// One attack with seed 0, on fast kernels, in batches of `batch`.
    pub fn new(attack: impl Attack + 'static, batch: usize) -> Self {
        Job { attacks: vec![Arc::new(attack)], sources: Vec::new(), batch, seed: 0, exact: false }
    }
}

/// What comes with the images, one entry for each in the order of the data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// Where the first restart starts, in place of the attack's own start.
    pub starts: Option<&'a Dataset>,
    /// Radii in place of the threat model's.
    pub radii: Option<&'a [f64]>,
    /// Classes to aim at, in place of the attack's own choice.
    pub targets: Option<&'a [i32]>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Images whose fate is settled.
    pub done: usize,
    /// Images in all.
    pub total: usize,
    /// Of those done, images still right.
    pub robust: usize,
    /// Image-steps so far.
    pub image_steps: u64,
}

/// Returned images, in the order of the data.
pub struct Returned<'a> {
    /// NCHW values in [0,1], one image after the other.
    pub adversarial: &'a [f32],
    /// The clean images in the same form.
    pub clean: &'a [f32],
    /// What each image may be changed by; infinite where the nearest point is wanted.
    pub eps: &'a [f64],
    /// Position in the split.
    pub index: &'a [u32],
    /// The labels judged by.
    pub label: &'a [i32],
    /// The model's class for each; -1 where a logit was NaN.
    pub prediction: &'a [i32],
}

/// What a caller wants to hear of a run. All are optional.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Called now and then.
    pub progress: Option<Box<dyn FnMut(Progress) + 'a>>,
    /// Called with every returned image, in order. Its error ends the run.
    pub returned: Option<ReturnedHook<'a>>,
    /// Keeps what is found from round to round, and gives it back to a run that goes on.
    pub journal: Option<&'a mut Journal>,
    /// Asked between steps; `true` ends the run with [`Error::Interrupted`].
    pub stop: Option<Box<dyn Fn() -> bool + 'a>>,
}

/// Receives returned images.
pub type ReturnedHook<'a> = Box<dyn FnMut(&Returned) -> Result<()> + 'a>;

/// Everything that can be refused before anything is computed.
pub(super) fn check_job(model: &Model, data: &Dataset, job: &Job, given: &Given) -> Result<()> {
    if job.attacks.is_empty() {
        return Err(Error::usage("a job needs at least one attack"));
    }
    for attack in &job.attacks {
        attack.check(model.card.classes)?;
        if attack.goal() != job.goal() {
            return Err(Error::usage(format!("`{}` and `{}` have different goals", job.attacks[0].name(), attack.name())));
        }
        if (attack.target() == Target::Given) != given.targets.is_some() {
            return Err(Error::usage(format!(
                "`{}`: classes to aim at go with the target `given`, one for each image",
                attack.name()
            )));
        }
        if given.starts.is_some() && !attack.takes_starts() {
            return Err(Error::usage(format!("`{}` has a start of its own, it takes no starting images", attack.name())));
        }
    }
    if job.batch == 0 {
        return Err(Error::usage("a batch needs at least one image"));
    }
    let all: Vec<&Model> = std::iter::once(model).chain(&job.sources).collect();
    same_kind(&all)?;
    fits(model, data, "images")?;
    if let Some(s) = given.starts {
        fits(model, s, "starting images")?;
        as_many(s.len(), data.len(), "starting images")?;
    }
    if let Some(radii) = given.radii {
        as_many(radii.len(), data.len(), "radii")?;
        if let Some((i, r)) = radii.iter().enumerate().find(|(_, r)| !(r.is_finite() && **r >= 0.0)) {
            return Err(Error::input(format!("the radius of image {i} is {r}, it must be 0 or more")));
        }
    }
    if let Some(targets) = given.targets {
        as_many(targets.len(), data.len(), "targets")?;
        if let Some((i, t)) = targets.iter().enumerate().find(|(_, t)| !(0..model.card.classes as i32).contains(t)) {
            return Err(Error::input(format!("the target of image {i} is {t}, the model has {} classes", model.card.classes)));
        }
    }
    Ok(())
}

fn as_many(found: usize, images: usize, what: &str) -> Result<()> {
    if found == images {
        return Ok(());
    }
    Err(Error::input(format!("{found} {what} for {images} images"))
        .with_hint("give one for each image, in the same order; `--limit` and `--offset` apply to the images"))
}

fn fits(model: &Model, data: &Dataset, what: &str) -> Result<()> {
    if data.shape() != model.input() {
        let text = |s: [usize; 3]| format!("{}x{}x{}", s[0], s[1], s[2]);
        return Err(Error::input(format!(
            "{what} are {}, `{}` takes {}",
            text(data.shape()),
            model.card.name,
            text(model.input())
        )));
    }
    Ok(())
}
