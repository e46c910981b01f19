//! Everything that decides the result of a training run, checked, printed, and compared on resume.
//! Must not know files, threads or devices: no result depends on them.

use serde_json::{Map, Value as Json, json};

use super::augment::Augment;
use super::form::{Criterion, Form};
use super::longtail::{LongTail, Sampler};
use super::recipe::{BatchNorm, Crafting, Method, Recipe};
use super::schedule::Schedule;
use super::tricks::Tricks;
use crate::error::{Error, Result};
use crate::nn::ModelCard;
use crate::plan::Precision;

/// A training run, settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The network.
    pub card: ModelCard,
    /// The card as it was written; the trained card repeats it.
    pub card_text: String,
    /// What the network is trained on.
    pub recipe: Recipe,
    /// The recipe's attack; `None` for the standard recipe.
    pub crafting: Option<Crafting>,
    /// What the recipe minimises, on which images.
    pub method: Method,
    /// What is put on top of it.
    pub tricks: Tricks,
    /// For long tails.
    pub tail: LongTail,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images in a batch.
    pub batch: usize,
    /// Largest learning rate.
    pub lr_max: f64,
    /// How the learning rate moves.
    pub schedule: Schedule,
    /// SGD's momentum, in [0,1).
    pub momentum: f64,
    /// Whether it is Nesterov's.
    pub nesterov: bool,
    /// Added times the weight to each gradient, batch norms and biases too.
    pub weight_decay: f64,
    /// Label smoothing, in [0,1).
    pub smoothing: f64,
    /// Decay of the moving average of all parameters, in (0,1); `None` keeps no average.
    pub ema: Option<f64>,
    /// Crops and flips.
    pub augment: Augment,
    /// Images held out of the training split, drawn by the seed.
    pub val: usize,
    /// Whether the best checkpoint is chosen on the test split, which makes its accuracy there too good.
    pub choose_on_test: bool,
    /// Steps of the PGD that robust recipes are evaluated with after each epoch.
    pub probe_steps: usize,
    /// Leaves out the last batch of an epoch where it is not full. A single image left over is always left out.
    pub drop_last: bool,
    /// The set as it was asked for, for the record.
    pub data: String,
    /// Images of its training split that are used, held out or not.
    pub images: usize,
    /// SHA-256 of the weights training starts from; `None` where the seed draws them.
    pub initial: Option<String>,
    /// How convolutions and linear layers are computed.
    pub precision: Precision,
    /// Seed of initial weights, order, crops, starts and the images held out.
    pub seed: u64,
}

impl Config {
    /// Refuses what cannot be trained.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the value and what it may be.
    pub fn check(&self) -> Result<()> {
        let share = |name: &str, v: f64| {
            let fits = (0.0..1.0).contains(&v);
            if fits { Ok(()) } else { Err(Error::usage(format!("`{name}` is {v}, it must be at least 0 and below 1"))) }
        };
        share("momentum", self.momentum)?;
        share("label smoothing", self.smoothing)?;
        share("ema", self.ema.unwrap_or(0.0))?;
        if !(self.lr_max.is_finite() && self.lr_max > 0.0) {
            return Err(Error::usage(format!("the learning rate is {}, it must be above 0", self.lr_max)));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::usage(format!("the weight decay is {}, it must be at least 0", self.weight_decay)));
        }
        if self.nesterov && self.momentum == 0.0 {
            return Err(Error::usage("Nesterov's momentum needs a momentum above 0"));
        }
        if self.epochs == 0 || self.batch < 2 {
            return Err(Error::usage("training takes at least 1 epoch and batches of at least 2 images"));
        }
        self.schedule.check()?;
        self.check_method()?;
        self.tricks.check(self.crafting.is_some())?;
        let left = self.images.saturating_sub(self.val);
        if left < 2 || self.drop_last && left < self.batch {
            return Err(Error::usage(format!(
                "{} images, {} of them held out, leave no batch to train on",
                self.images, self.val
            ))
            .with_hint("hold fewer images out with `--val N`, or use a smaller `--batch-size`"));
        }
        let [_, h, w] = self.card.input;
        if self.augment.pad >= h.min(w) {
            return Err(Error::usage(format!("crops with {} black pixels around images of {h}x{w}", self.augment.pad)));
        }
        Ok(())
    }

    /// Refuses numbers that are no weights, and tricks that the recipe would not notice.
    fn check_method(&self) -> Result<()> {
        let Method { outer, replays, avmix, mma } = self.method;
        let weights = [outer.clean, outer.attacked, outer.kl, outer.squared, outer.mart.unwrap_or(0.0)];
        if weights.iter().any(|w| !(w.is_finite() && *w >= 0.0)) || replays == 0 {
            return Err(Error::usage(format!("weights of a loss {weights:?} must be at least 0, a batch is used at least once")));
        }
        if let Some(by) = avmix.filter(|by| !(by.stretch > 0.0 && by.label.iter().all(|l| (0.0..=1.0).contains(l)))) {
            return Err(Error::usage(format!("{by:?}: the stretch must be above 0, shares of labels in [0,1]")));
        }
        if let Some(m) =
            mma.filter(|m| !(m.least > 0.0 && m.least <= m.hinge && m.most >= 1.0 && (0.0..1.0).contains(&m.clean_share)))
        {
            return Err(Error::usage(format!("{m:?}: the least radius must be above 0 and at most the hinge")));
        }
        let own_labels = avmix.is_some() || outer.mart.is_some();
        let (focal, weighted) = (self.tail.focal.is_some(), self.tail.balanced.is_some());
        let clash = [
            (focal && (own_labels || self.tricks.mixup.is_some()), "focal loss", "targets that are no labels"),
            (focal && self.smoothing > 0.0, "label smoothing", "a focal loss"),
            (weighted && (mma.is_some() || outer.mart.is_some()), "weights by class", "weights of its own"),
            (self.tail.moves_logits() && outer.mart.is_some(), "margins by class", "a loss of its own"),
            (self.tail.sampler != Sampler::Random && self.tricks.extra.is_some(), "extra images", "a sampler by class"),
            (own_labels && self.smoothing > 0.0, "label smoothing", "its own targets"),
            (own_labels && self.tricks.mixup.is_some(), "mixup", "its own targets"),
            (mma.is_some() && self.tricks.mixup.is_some(), "mixup", "margins by label"),
            (mma.is_some() && self.tricks.eps_warmup > 0, "a radius that grows", "a radius for each image"),
            (outer.mart.is_some() && self.tricks.margin > 0.0, "a margin", "a loss of its own"),
            (mma.is_some() && self.tricks.extra.is_some(), "extra images", "a radius for each image of the split"),
        ];
        match clash.into_iter().find(|c| c.0) {
            Some((_, what, why)) => Err(Error::usage(format!("`{}` takes no {what}: it has {why}", self.recipe.name()))),
            None => Ok(()),
        }
    }

    /// The step that this asks for, for batches of `batch`.
    pub(super) fn form(&self, batch: usize) -> Form {
        let mixed = self.tricks.mixup.is_some();
        Form {
            crafting: self.crafting,
            outer: self.method.outer,
            criterion: self.tail.focal.unwrap_or(Criterion::CrossEntropy { smoothing: self.smoothing as f32 }),
            soft: mixed || self.method.avmix.is_some(),
            mixed,
            weighted: self.method.mma.is_some() || self.tail.balanced.is_some(),
            table: self.tricks.margin > 0.0 || self.tail.moves_logits(),
            between: self.method.avmix.is_some(),
            margins: self.method.mma.is_some(),
            replay: self.recipe == Recipe::Free,
            perturbed: self.tricks.awp.is_some(),
            classifier_only: self.tail.classifier_only,
            nesterov: self.nesterov,
            averaged: self.ema.is_some(),
            batch,
            seed: self.seed,
        }
    }

    /// All values in the order they are printed.
    pub fn parameters(&self) -> Map<String, Json> {
        let mut p = Map::new();
        let mut put = |key: &str, value: Json| p.insert(key.to_string(), value);
        put("model", json!(self.card.name));
        put("card", json!(self.card_text));
        put("data", json!(self.data));
        put("images", json!(self.images));
        put("initial_weights", json!(self.initial));
        put("recipe", json!(self.recipe.name()));
        if let Some(c) = self.crafting {
            put("norm", json!(c.threat.norm.name()));
            put("eps", json!(c.threat.eps));
            put("alpha", json!(c.alpha));
            put("steps", json!(c.steps));
            put("attack_batch_norm", json!(self.attack_batch_norm()));
            put("attack_loss", json!(c.ascent.name()));
            put("attack_start", json!(c.start.describe()));
            put("probe_steps", json!(self.probe_steps));
        }
        for (key, value) in self.method.parameters() {
            put(key, value);
        }
        put("epochs", json!(self.epochs));
        put("batch_size", json!(self.batch));
        put("drop_last", json!(self.drop_last));
        put("lr_max", json!(self.lr_max));
        put("lr_schedule", json!(self.schedule.name()));
        if let Schedule::Step { milestones, factor } = &self.schedule {
            put("milestones", json!(milestones));
            put("lr_factor", json!(factor));
        }
        put("momentum", json!(self.momentum));
        put("nesterov", json!(self.nesterov));
        put("weight_decay", json!(self.weight_decay));
        put("label_smoothing", json!(self.smoothing));
        put("ema", json!(self.ema));
        put("pad_crop", json!(self.augment.pad));
        put("flip", json!(self.augment.flip));
        put("cutout", json!(self.augment.cutout));
        put("val", json!(self.val));
        put("choose_on", json!(self.chosen_on()));
        put("precision", json!(self.precision.name()));
        put("seed", json!(self.seed));
        self.tricks.parameters(&mut p);
        self.tail.parameters(&mut p);
        p
    }

    /// Mode of batch norms during the attack: Free's is the step itself.
    pub fn attack_batch_norm(&self) -> &'static str {
        if self.recipe == Recipe::Free { BatchNorm::Train.name() } else { self.crafting.map_or("", |c| c.batch_norm.name()) }
    }

    /// What the best checkpoint is chosen on: `val`, `test`, or `none` where the best is the last.
    pub fn chosen_on(&self) -> &'static str {
        match (self.choose_on_test, self.val) {
            (true, _) => "test",
            (false, 0) => "none",
            (false, _) => "val",
        }
    }

    /// The recipe in a line, for people: the attack with all its numbers and the mode of its batch norms.
    pub fn describe(&self) -> String {
        match self.crafting {
            None => "standard training".into(),
            Some(c) if self.recipe == Recipe::Free => format!(
                "free: {} eps {:.5}, {} replays of each batch, one step of {:.5} each, batch norm in train mode",
                c.threat.norm, c.threat.eps, self.method.replays, c.alpha
            ),
            Some(c) => format!(
                "{}: {} eps {:.5}, {} of {:.5}, batch norm in {} mode during the attack",
                self.recipe.name(),
                c.threat.norm,
                c.threat.eps,
                if c.steps == 1 { "one step".to_string() } else { format!("{} steps", c.steps) },
                c.alpha,
                c.batch_norm.name()
            ),
        }
    }
}
