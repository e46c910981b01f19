//! What happens to one batch: targets, attack, weight perturbation, steps; and how long each took.
//! Must not know files, nor which batch comes next.

use std::time::Instant;

use super::config::Config;
use super::engine::{Engine, Seen};
use super::feed::Loaded;
use super::form::Hyper;
use super::margins::{Margins, Search};
use super::mix;
use crate::error::Result;

/// Seconds of an epoch by what they were spent on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Waiting for images.
    pub data: f64,
    /// Attacks on training images, and searches for margins.
    pub attack: f64,
    /// Updates, with their weight perturbations.
    pub step: f64,
    /// Evaluation and the guard's look.
    pub evaluation: f64,
}

/// Adds the time since `began` to `sum`.
pub(super) fn spent(sum: &mut f64, began: Instant) {
    *sum += began.elapsed().as_secs_f64();
}

/// Where in the run a batch stands.
pub(super) struct Place<'a> {
    /// Epoch from 0.
    pub epoch: usize,
    /// Batches before it in the run, and in an epoch.
    pub batch: usize,
    pub per_epoch: usize,
    /// Share of the recipe's step length that the attack takes.
    pub alpha_scale: f64,
    /// Weight of each class.
    pub by_class: &'a [f64],
    /// The learning rate of a step of the run.
    pub lr: &'a dyn Fn(usize) -> f64,
}

/// Attacks the images where the recipe does, then makes its steps on them. What the last step saw.
pub(super) fn learn(
    engine: &mut Engine,
    config: &Config,
    batch: &Loaded,
    at: &Place,
    margins: Option<&mut Margins>,
    times: &mut Times,
) -> Result<Seen> {
    let method = config.method;
    // Dropout draws anew in every forward pass; the last numbers belong to the answer to clean images and to the perturbation.
    let passes = config.crafting.map_or(0, |c| c.steps) + method.replays + 2;
    let pass = |k: usize| (at.batch * passes + k) as u32;
    engine.load(batch.images())?;
    targets(engine, config, batch, at.epoch)?;
    if config.tail.balanced.is_some() {
        let weights: Vec<f32> = batch.label.iter().map(|&y| at.by_class[y as usize] as f32).collect();
        engine.set_weights(&weights, &weights)?;
    }
    let began = Instant::now();
    attack(engine, config, batch, at, margins, &pass)?;
    engine.sync()?;
    spent(&mut times.attack, began);
    let began = Instant::now();
    let (mut seen, first) = (None, config.crafting.map_or(0, |c| c.steps));
    for replay in 0..method.replays {
        let hyper = Hyper {
            lr: (at.lr)(at.batch * method.replays + replay) as f32,
            momentum: config.momentum as f32,
            weight_decay: config.weight_decay as f32,
            ema: config.ema.unwrap_or(0.0) as f32,
        };
        if let Some(awp) = config.tricks.awp.filter(|awp| at.epoch >= awp.warmup) {
            engine.perturb(awp.gamma as f32, pass(passes - 1))?;
        }
        seen = Some(engine.step(hyper, pass(first + replay))?);
    }
    spent(&mut times.step, began);
    Ok(seen.expect("a batch is used at least once"))
}

/// Hands in target distributions where the form reads them, and the places between that they belong to.
fn targets(engine: &mut Engine, config: &Config, batch: &Loaded, epoch: usize) -> Result<()> {
    let classes = config.card.classes;
    if let Some(by) = config.method.avmix {
        let place = mix::places(config.seed, epoch as u32, &batch.index);
        engine.set_share(&place.iter().map(|a| ((1.0 - f64::from(*a)) * by.stretch) as f32).collect::<Vec<_>>())?;
        return engine.set_targets(&mix::av_targets(by, classes, &batch.label, &place));
    }
    if config.tricks.mixup.is_some() {
        return engine.set_targets(&mix::smoothed(classes, config.smoothing, &batch.label, batch.partners.as_ref()));
    }
    Ok(())
}

fn attack(
    engine: &mut Engine,
    config: &Config,
    batch: &Loaded,
    at: &Place,
    margins: Option<&mut Margins>,
    pass: &dyn Fn(usize) -> u32,
) -> Result<()> {
    let Some(c) = config.crafting else { return Ok(()) };
    let start = |engine: &mut Engine| engine.set_out(config.seed, at.epoch as u32, pass(c.steps + config.method.replays));
    if let (Some(mma), Some(margins)) = (config.method.mma, margins) {
        let search = Search { engine, crafting: c, mma, label: &batch.label, index: &batch.index };
        return margins.attack(search, start, pass);
    }
    let grown = match config.tricks.eps_warmup {
        0 => 1.0,
        epochs => ((at.batch + 1) as f64 / (epochs * at.per_epoch) as f64).min(1.0),
    };
    engine.set_radius(grown * c.threat.eps)?;
    engine.set_step_length(grown * at.alpha_scale * c.alpha)?;
    if c.steps > 0 {
        start(engine)?;
    }
    (0..c.steps).try_for_each(|k| engine.craft(pass(k)))
}
