//! `petard train`: train a network on clean or attacked images, and go on where it was interrupted.
//! Must not know how a step is made.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use clap::builder::{BoolishValueParser, PossibleValue};

use super::options::{open_device, precisions, warn_of};
use super::stop::Stop;
use super::value::{self, count, quoted};
use super::{output, progress};
use crate::data::{self, Dataset, Split};
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::nn::{ModelCard, Weights};
use crate::plan::Precision;
use crate::session::Model;
use crate::threat::{Norm, ThreatModel};
use crate::train::{self, Augment, BatchNorm, Config, Crafting, Hooks, Job, Progress, Recipe, Row, Schedule};

/// Train a network, robustly or not
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without any option a small network learns the synthetic images within a minute.

Defaults of the recipes:
  standard  30 epochs, one-cycle to 0.2
  pgd-at    200 epochs, 0.1 and a tenth of it at 50 % and 75 % (Rice et al. 2020); 10 steps of 2/255
  fgsm-rs   15 epochs, cyclic to 0.2 (Wong et al. 2020); one step of 1.25 eps
All: batches of 128, momentum 0.9, weight decay 5e-4, crops of 4 pixels, flips.

Examples:
  petard train
  petard train --model preactresnet18-cifar10 --data cifar10:DIR --recipe fgsm-rs --out runs/fgsm-rs
  petard train --model resnet18-cifar10 --data cifar10:DIR --recipe pgd-at --epochs 30 --lr-schedule one-cycle
  petard train --model resnet18-cifar10 --data cifar10:DIR --out runs/a --resume")]
pub struct Args {
    /// Name of an embedded card (see `petard models`), or a card of your own ending in `.toml`
    #[arg(long, value_name = "CARD|FILE.toml", alias = "arch", help_heading = "Model")]
    model: Option<String>,
    /// Weights to start from [default: drawn by the seed]
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    weights: Option<PathBuf>,

    /// cifar10:DIR, cifar100:DIR, images:DIR, file:PATH or synthetic[:SEED]; the training split is used
    #[arg(long, value_name = "SPEC", default_value = "synthetic", alias = "dataset", help_heading = IMAGES)]
    data: String,
    /// Use at most N images of the training split [default: all]
    #[arg(long, value_name = "N", value_parser = count, help_heading = IMAGES)]
    limit: Option<usize>,
    /// Hold N images out of the training split to choose the best checkpoint [default: a tenth, at most 1000]
    #[arg(long, value_name = "N", help_heading = IMAGES)]
    val: Option<usize>,
    /// Choose the best checkpoint on the held-out images or, which flatters it, on the test split
    #[arg(long, value_name = "SPLIT", value_enum, default_value = "val", help_heading = IMAGES)]
    choose_on: ChooseOn,
    /// Black pixels around an image before a random crop; 0 crops nothing
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = IMAGES)]
    pad_crop: usize,
    /// Mirror half of the images
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, value_parser = BoolishValueParser::new(), help_heading = IMAGES)]
    flip: bool,

    /// What the network is trained on
    #[arg(long, value_enum, default_value = "standard", ignore_case = true, help_heading = TRAINING)]
    recipe: Recipe,
    /// Passes over the training images [default: by the recipe, see below]
    #[arg(long, value_name = "N", value_parser = count, help_heading = TRAINING)]
    epochs: Option<usize>,
    /// Images in a batch
    #[arg(long, value_name = "N", value_parser = count, default_value_t = 128, aliases = ["bs", "batch"], help_heading = TRAINING)]
    batch_size: usize,
    /// Largest learning rate [default: by the recipe, see below]
    #[arg(long, value_name = "X", alias = "lr", help_heading = TRAINING)]
    lr_max: Option<f64>,
    /// How the learning rate moves [default: by the recipe, see below]
    #[arg(long, value_name = "S", value_enum, ignore_case = true, help_heading = TRAINING)]
    lr_schedule: Option<Shape>,
    /// Epochs from which the rate falls to a tenth (step) [default: at 50 % and 75 %]
    #[arg(long, value_name = "N,N", value_delimiter = ',', help_heading = TRAINING)]
    milestones: Option<Vec<usize>>,
    /// SGD's momentum
    #[arg(long, value_name = "X", default_value_t = 0.9, help_heading = TRAINING)]
    momentum: f64,
    /// Use Nesterov's momentum
    #[arg(long, help_heading = TRAINING)]
    nesterov: bool,
    /// Weight decay, on every parameter
    #[arg(long, value_name = "X", default_value_t = 5e-4, alias = "wd", help_heading = TRAINING)]
    weight_decay: f64,
    /// Label smoothing, in [0,1)
    #[arg(long, value_name = "X", default_value_t = 0.0, help_heading = TRAINING)]
    label_smoothing: f64,
    /// Keep a moving average of all parameters with this decay, such as 0.999, and choose by it
    #[arg(long, value_name = "DECAY", alias = "tau", help_heading = TRAINING)]
    ema: Option<f64>,
    /// Leave out the last batch of an epoch where it is not full
    #[arg(long, help_heading = TRAINING)]
    drop_last: bool,
    /// Seed of weights, order, crops, starts and the images held out
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = TRAINING)]
    seed: u64,

    /// How the change of an image is measured
    #[arg(long, value_enum, default_value = "linf", ignore_case = true, help_heading = ATTACK)]
    norm: Norm,
    /// Radius [default: linf 8/255, l2 0.5, l1 12]
    #[arg(long, value_name = "LENGTH", alias = "epsilon", allow_hyphen_values = true, help_heading = ATTACK)]
    eps: Option<String>,
    /// Step size [default: by the recipe]
    #[arg(long, value_name = "LENGTH", alias = "pgd-alpha", allow_hyphen_values = true, help_heading = ATTACK)]
    alpha: Option<String>,
    /// Steps of the attack (pgd-at) [default: 10]
    #[arg(long, value_name = "N", value_parser = count, alias = "attack-iters", help_heading = ATTACK)]
    steps: Option<usize>,
    /// Batch norms during the attack: statistics of the batch, or running ones
    #[arg(long, value_name = "MODE", value_enum, default_value = "train", help_heading = ATTACK)]
    attack_bn: BatchNorm,
    /// Steps of the PGD of each epoch's evaluation
    #[arg(long, value_name = "N", value_parser = count, default_value_t = 10, help_heading = ATTACK)]
    val_steps: usize,

    /// Folder of the run: checkpoints, state, log
    #[arg(long, value_name = "DIR", default_value = "petard-train", alias = "fname")]
    out: PathBuf,
    /// Go on with the run in the folder, to the result of an uninterrupted one
    #[arg(long)]
    resume: bool,
    /// auto, cpu, cuda (the first card) or cuda:N; `petard devices` lists them
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Device")]
    device: String,
    /// Arithmetic of convolutions and linear layers; the CPU computes in f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = precisions(), help_heading = "Device")]
    precision: Precision,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Device")]
    threads: Option<usize>,
}

const IMAGES: &str = "Images";
const TRAINING: &str = "Training";
const ATTACK: &str = "Attack of robust recipes (lengths in units of [0,1] pixels; fractions such as 8/255 are fine)";

/// Where the best checkpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ChooseOn {
    Val,
    Test,
}

/// Schedules by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// always the same
    #[value(alias = "flat")]
    Constant,
    /// a tenth from each milestone on
    #[value(alias = "piecewise", alias = "multistep")]
    Step,
    /// half a cosine to 0
    Cosine,
    /// linear warm-up over 30 %, then linear down
    #[value(alias = "onecycle")]
    OneCycle,
    /// linear up from 0 and down again
    Cyclic,
}

/// What `petard train` alone does: sizes that a laptop finishes within a minute.
const DEMO: Demo = Demo { model: super::options::DEMO_MODEL, images: 8000, epochs: 12 };

struct Demo {
    model: &'static str,
    images: usize,
    epochs: usize,
}

/// What was typed, settled: nothing below refers to the command line.
struct Settings {
    device: Device,
    config: Config,
    train: Dataset,
    test: Option<Dataset>,
    weights: Option<Weights>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    let settings = args.resolve()?;
    output::stderr(&settings.announce())?;
    let bar = progress::bar(settings.train.len());
    // The hooks cannot fail; what stdout refused is said at the end.
    let refused = RefCell::new(Ok(()));
    let print = |text: String| {
        if let Err(e) = bar.suspend(|| output::stdout(&text)) {
            *refused.borrow_mut() = Err(e);
        }
    };
    let mut lines = 0;
    let batch = settings.config.batch as u64;
    let hooks = Hooks {
        progress: Some(Box::new(|p: Progress| {
            bar.set_length(p.steps as u64 * batch);
            bar.set_position(p.step as u64 * batch);
            bar.set_message(format!(", epoch {}/{}, loss {:.4}", p.epoch, p.epochs, p.loss));
        })),
        epoch: Some(Box::new(|row: &Row| {
            bar.reset();
            let header = if lines == 0 { Row::header(&settings.config) + "\n" } else { String::new() };
            print(format!("{header}{}\n", row.line()));
            lines += 1;
        })),
        stop: Some(Box::new(|| stop.asked())),
    };
    let Settings { device, config, train, test, weights } = &settings;
    let job = Job { config, train, test: test.as_ref(), weights: weights.clone(), out: &args.out, resume: args.resume };
    let finished = train::run(device, job, hooks);
    bar.finish_and_clear();
    warn_of(device);
    let finished = finished.map_err(|e| args.way_on(e))?;
    refused.into_inner()?;
    let card = quoted(&finished.card.to_string_lossy());
    let chosen = match config.chosen_on() {
        "none" => "no images were held out, so the best is the last".to_string(),
        on => format!("chosen on {}", if on == "val" { "held-out training images" } else { "the test split" }),
    };
    output::stdout(&format!("best epoch {} ({chosen})\n", finished.best.epoch))?;
    output::stderr(&format!("attack it: petard attack --model {card} --data {}\n", quoted(&args.data)))?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Everything that can fail early fails here, the cheap checks first.
    fn resolve(&self) -> Result<Settings> {
        let crafting = self.crafting()?;
        let threads = self.threads.unwrap_or(0);
        let device =
            open_device(&self.device, &DeviceOptions { threads, precision: self.precision, ..DeviceOptions::default() })?;
        let demo = self.model.is_none() && self.data.split(':').next() == Some("synthetic");
        let name = match &self.model {
            Some(name) => name,
            None if demo => DEMO.model,
            None => {
                return Err(Error::usage("no model is named")
                    .with_hint("name a card, such as `--model resnet18-cifar10`; `petard models` lists them"));
            }
        };
        let (card, card_text) = (ModelCard::find(name)?, ModelCard::text(name)?);
        let limit = self.limit.or(demo.then_some(DEMO.images));
        let open = |split, limit| {
            let options =
                data::Options { split, shape: Some(card.input), classes: Some(card.classes), limit, ..Default::default() };
            Dataset::open(&self.data, &options)
        };
        let train = open(Split::Train, limit)?;
        let test = (self.choose_on == ChooseOn::Test).then(|| open(Split::Test, None)).transpose()?;
        let weights = self.weights.as_deref().map(|path| Model::load(name, Some(path)).map(|m| m.weights)).transpose()?;
        let epochs = self.epochs.unwrap_or(match self.recipe {
            _ if demo => DEMO.epochs,
            Recipe::Standard => 30,
            Recipe::PgdAt => 200,
            Recipe::FgsmRs => 15,
        });
        let config = Config {
            card,
            card_text,
            recipe: self.recipe,
            crafting,
            epochs,
            batch: self.batch_size,
            lr_max: self.lr_max.unwrap_or(if self.recipe == Recipe::PgdAt { 0.1 } else { 0.2 }),
            schedule: self.schedule(epochs)?,
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
            smoothing: self.label_smoothing,
            ema: self.ema,
            augment: Augment { pad: self.pad_crop, flip: self.flip },
            val: self.val.unwrap_or((train.len() / 10).min(1000)),
            choose_on_test: self.choose_on == ChooseOn::Test,
            probe_steps: self.val_steps,
            drop_last: self.drop_last,
            data: self.data.clone(),
            images: train.len(),
            initial: weights.as_ref().map(|w| w.sha256.clone()),
            precision: self.precision,
            seed: self.seed,
        };
        config.check()?;
        Ok(Settings { device, config, train, test, weights })
    }

    fn crafting(&self) -> Result<Option<Crafting>> {
        let eps = match &self.eps {
            Some(text) => value::radius("--eps", self.norm, text)?,
            None => self.norm.default_eps(),
        };
        let Some(default) = self.recipe.crafting(ThreatModel::new(self.norm, eps)) else {
            let given = [("--eps", self.eps.is_some()), ("--alpha", self.alpha.is_some()), ("--steps", self.steps.is_some())];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(Error::usage(format!("`{option}` is not used by `--recipe standard`"))
                    .with_hint(format!("leave `{option}` out, or use `--recipe pgd-at`"))),
                None => Ok(None),
            };
        };
        if self.recipe == Recipe::FgsmRs && (self.steps.is_some() || self.norm != Norm::Linf) {
            return Err(Error::usage("`--recipe fgsm-rs` makes one step in linf").with_hint("use `--recipe pgd-at`"));
        }
        let alpha = self.alpha.as_deref().map(|text| value::radius("--alpha", self.norm, text)).transpose()?;
        let (alpha, steps) = (alpha.unwrap_or(default.alpha), self.steps.unwrap_or(default.steps));
        Ok(Some(Crafting { alpha, steps, batch_norm: self.attack_bn, ..default }))
    }

    fn schedule(&self, epochs: usize) -> Result<Schedule> {
        let shape = self.lr_schedule.unwrap_or(match self.recipe {
            Recipe::Standard => Shape::OneCycle,
            Recipe::PgdAt => Shape::Step,
            Recipe::FgsmRs => Shape::Cyclic,
        });
        if let (Some(_), true) = (&self.milestones, shape != Shape::Step) {
            return Err(Error::usage("`--milestones` is used by `--lr-schedule step` only").with_hint("leave one of them out"));
        }
        Ok(match shape {
            Shape::Constant => Schedule::Constant,
            Shape::Step => match &self.milestones {
                Some(milestones) => Schedule::Step { milestones: milestones.clone(), factor: 0.1 },
                None => Schedule::step_at_half(epochs),
            },
            Shape::Cosine => Schedule::Cosine,
            Shape::OneCycle => Schedule::OneCycle,
            Shape::Cyclic => Schedule::Cyclic,
        })
    }

    /// An interrupted run can be gone on with.
    fn way_on(&self, error: Error) -> Error {
        match error {
            Error::Interrupted { message } => Error::Interrupted {
                message: format!("{message} in `{}`; go on with the same options and `--resume`", self.out.display()),
            },
            other => other,
        }
    }
}

impl Settings {
    /// What is trained how, before the first line of the table.
    fn announce(&self) -> String {
        let c = &self.config;
        let mut text = format!(
            "{} on {} images of {}, {}, {}\n{}\n",
            c.card.name,
            c.images,
            c.data,
            self.device.describe(),
            c.precision,
            c.describe()
        );
        let schedule = c.schedule.name();
        text += &format!("{} epochs, batches of {}, {schedule} to {}, momentum {}", c.epochs, c.batch, c.lr_max, c.momentum);
        text += &format!("{}, weight decay {}, seed {}\n", if c.nesterov { " (Nesterov)" } else { "" }, c.weight_decay, c.seed);
        text += &match c.chosen_on() {
            "val" => format!("{} training images are held out to choose the best checkpoint\n", c.val),
            "test" => "warning: the best checkpoint is chosen on the test split: its accuracy there is too good\n".into(),
            _ => "no images are held out: the best checkpoint is the last\n".into(),
        };
        text
    }
}

impl ValueEnum for Recipe {
    fn value_variants<'a>() -> &'a [Self] {
        &[Recipe::Standard, Recipe::PgdAt, Recipe::FgsmRs]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        let value = PossibleValue::new(self.name());
        Some(match self {
            Recipe::Standard => value.help("the images as they are"),
            Recipe::PgdAt => value.help("images attacked by PGD (Madry et al. 2018)").aliases(["pgd", "at", "pgd_at"]),
            Recipe::FgsmRs => value.help("images attacked by one step from a random start (Wong et al. 2020)").alias("fgsm_rs"),
        })
    }
}

impl ValueEnum for BatchNorm {
    fn value_variants<'a>() -> &'a [Self] {
        &[BatchNorm::Eval, BatchNorm::Train]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
