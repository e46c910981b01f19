//! Everything that decides the result of a training run, checked, printed, and compared on resume.
//! Must not know files, threads or devices: no result depends on them.

use serde_json::{Map, Value as Json, json};

use super::augment::Augment;
use super::recipe::{Crafting, Recipe};
use super::schedule::Schedule;
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
            put("attack_batch_norm", json!(c.batch_norm.name()));
            put("probe_steps", json!(self.probe_steps));
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
        put("val", json!(self.val));
        put("choose_on", json!(self.chosen_on()));
        put("precision", json!(self.precision.name()));
        put("seed", json!(self.seed));
        p
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
