//! What `petard train` can be told. Must not know what it means: see `train_settings`.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::BoolishValueParser;

use super::options::precisions;
use super::value::count;
use crate::plan::Precision;
use crate::threat::Norm;
use crate::train::{Ascent, BatchNorm, Guard, Pairing, Recipe, Sampler};

/// Train a network, robustly or not
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without any option a small network learns the synthetic images within a minute.

Defaults of the recipes (`--recipe NAME --print` shows all of them; attack in brackets: steps, batch norm meanwhile):
  standard  30 epochs, one-cycle to 0.2
  pgd-at    200 epochs, 0.1 and a tenth of it at 50 % and 75 %  [10 of 2/255, train]
  fgsm-rs   15 epochs, cyclic to 0.2  [one of 1.25 eps, train]
  trades    76 epochs, 0.1, a tenth at 75, weight decay 2e-4, beta 6  [10 of 7/31 eps up the KL from noise 0.001, eval]
  mart      120 epochs, 0.01, a tenth at 75, 90, 100, weight decay 3.5e-3, beta 5  [10 of 7/31 eps from noise 0.001, eval]
  alp       200 epochs as pgd-at, half clean, half attacked, pairing 0.5  [10 of 2/255, eval]
  free      10 epochs of 8 replays, cyclic to 0.04  [eps in each replay, the step itself]
  avmixup   200 epochs, 0.1, a tenth at 100 and 150, weight decay 2e-4  [10 of 2/255, eval]
  mma       128 epochs, 0.3 and 0.3 of it at 51, 77, 103, weight decay 2e-4  [10 of a quarter of each image's own radius, eval]
All: batches of 128, momentum 0.9, weight decay 5e-4 unless said, crops of 4 pixels, flips. With other epochs the falls of the
rate move in proportion. Clean and attacked images go through the network apart, each with its own batch statistics.

Examples:
  petard train
  petard train --model preactresnet18-cifar10 --data cifar10:DIR --recipe fgsm-rs --guard stop --out runs/fgsm-rs
  petard train --model resnet18-cifar10 --data cifar10:DIR --recipe pgd-at --epochs 30 --lr-schedule one-cycle
  petard train --model wrn-34-10-cifar10 --data cifar10:DIR --recipe trades --awp 0.005 --awp-warmup 10 --ema 0.995
  petard train --model wrn-34-10-cifar10 --data cifar10:DIR --recipe trades --he 15 --margin 0.2
  petard train --model resnet18-cifar10 --data cifar10:DIR --out runs/a --resume
RoBal (Wu et al. 2021) on a long tail; tau-b 1.2 and tau-m 0 favour clean images, 1.5 and 0.3 robust ones:
  petard train --model wrn-34-10-cifar10 --data file:cifar10-lt.safetensors --recipe trades --clean-loss 0 --attacked-loss 1 \\
    --beta 6 --passes 2 --attack-loss ce --attack-noise 0 --steps 5 --he 1 --he-gamma 0.03125 --class-margins multi")]
pub struct Args {
    /// Name of an embedded card (see `petard models`), or a card of your own ending in `.toml`
    #[arg(long, value_name = "CARD|FILE.toml", alias = "arch", help_heading = "Model")]
    pub(super) model: Option<String>,
    /// Answer by angles, times this scale (hypersphere embedding): unit features, unit rows of the classifier, no bias
    #[arg(long, value_name = "SCALE", help_heading = "Model")]
    pub(super) he: Option<f32>,
    /// With `--he`: which lengths are taken away
    #[arg(long, value_name = "WHICH", value_enum, default_value = "both", requires = "he", help_heading = "Model")]
    pub(super) he_of: Unit,
    /// With `--he`: added to the lengths of the classifier's rows, such as 0.03125
    #[arg(long, value_name = "X", default_value_t = 0.0, requires = "he", help_heading = "Model")]
    pub(super) he_gamma: f32,
    /// Weights to start from [default: drawn by the seed]
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(super) weights: Option<PathBuf>,

    /// cifar10:DIR, cifar100:DIR, images:DIR, file:PATH or synthetic[:SEED]; the training split is used
    #[arg(long, value_name = "SPEC", default_value = "synthetic", alias = "dataset", help_heading = IMAGES)]
    pub(super) data: String,
    /// Use at most N images of the training split [default: all]
    #[arg(long, value_name = "N", value_parser = count, help_heading = IMAGES)]
    pub(super) limit: Option<usize>,
    /// Hold N images out of the training split to choose the best checkpoint [default: a tenth, at most 1000]
    #[arg(long, value_name = "N", help_heading = IMAGES)]
    pub(super) val: Option<usize>,
    /// Choose the best checkpoint on the held-out images or, which flatters it, on the test split
    #[arg(long, value_name = "SPLIT", value_enum, default_value = "val", help_heading = IMAGES)]
    pub(super) choose_on: ChooseOn,
    /// Black pixels around an image before a random crop; 0 crops nothing
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = IMAGES)]
    pub(super) pad_crop: usize,
    /// Mirror half of the images
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, value_parser = BoolishValueParser::new(), help_heading = IMAGES)]
    pub(super) flip: bool,

    /// Black square of N pixels a side somewhere in each image
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = IMAGES)]
    pub(super) cutout: usize,
    /// Mix images and labels in pairs, by shares from Beta(A, A)
    #[arg(long, value_name = "A", help_heading = IMAGES)]
    pub(super) mixup: Option<f64>,
    /// More images to learn from, such as generated ones: their share of each batch is `--extra-fraction`
    #[arg(long, value_name = "SPEC", help_heading = IMAGES)]
    pub(super) extra: Option<String>,
    /// Share of a batch that comes from `--extra`
    #[arg(long, value_name = "X", default_value_t = 0.7, requires = "extra", help_heading = IMAGES)]
    pub(super) extra_fraction: f64,

    /// What the network is trained on
    #[arg(long, value_enum, default_value = "standard", ignore_case = true, help_heading = TRAINING)]
    pub(super) recipe: Recipe,
    /// Print every value of the run, and do not train
    #[arg(long)]
    pub(super) print: bool,
    /// Passes over the training images [default: by the recipe, see below]
    #[arg(long, value_name = "N", value_parser = count, help_heading = TRAINING)]
    pub(super) epochs: Option<usize>,
    /// Images in a batch
    #[arg(long, value_name = "N", value_parser = count, default_value_t = 128, aliases = ["bs", "batch"], help_heading = TRAINING)]
    pub(super) batch_size: usize,
    /// Largest learning rate [default: by the recipe, see below]
    #[arg(long, value_name = "X", alias = "lr", help_heading = TRAINING)]
    pub(super) lr_max: Option<f64>,
    /// How the learning rate moves [default: by the recipe, see below]
    #[arg(long, value_name = "S", value_enum, ignore_case = true, help_heading = TRAINING)]
    pub(super) lr_schedule: Option<Shape>,
    /// Epochs from which the rate falls to a tenth (step) [default: at 50 % and 75 %]
    #[arg(long, value_name = "N,N", value_delimiter = ',', help_heading = TRAINING)]
    pub(super) milestones: Option<Vec<usize>>,
    /// SGD's momentum
    #[arg(long, value_name = "X", default_value_t = 0.9, help_heading = TRAINING)]
    pub(super) momentum: f64,
    /// Use Nesterov's momentum
    #[arg(long, help_heading = TRAINING)]
    pub(super) nesterov: bool,
    /// Weight decay, on every parameter [default: by the recipe, see below]
    #[arg(long, value_name = "X", alias = "wd", help_heading = TRAINING)]
    pub(super) weight_decay: Option<f64>,
    /// Label smoothing, in [0,1)
    #[arg(long, value_name = "X", default_value_t = 0.0, help_heading = TRAINING)]
    pub(super) label_smoothing: f64,
    /// Keep a moving average of all parameters with this decay, such as 0.999, and choose by it
    #[arg(long, value_name = "DECAY", alias = "tau", help_heading = TRAINING)]
    pub(super) ema: Option<f64>,
    /// Move each weight this share of its length up the loss before a step, and back (AWP; 0.01, for trades 0.005)
    #[arg(long, value_name = "GAMMA", help_heading = TRAINING)]
    pub(super) awp: Option<f64>,
    /// Epochs before `--awp` begins
    #[arg(long, value_name = "N", default_value_t = 0, requires = "awp", help_heading = TRAINING)]
    pub(super) awp_warmup: usize,
    /// Make the label's logit smaller by this in the training loss; for a cosine head by its scale times this
    #[arg(long, value_name = "M", default_value_t = 0.0, help_heading = TRAINING)]
    pub(super) margin: f64,
    /// End the run after N epochs without a better score
    #[arg(long, value_name = "N", value_parser = count, help_heading = TRAINING)]
    pub(super) patience: Option<usize>,
    /// Keep the weights of every N-th epoch
    #[arg(long, value_name = "N", value_parser = count, help_heading = TRAINING)]
    pub(super) save_every: Option<usize>,
    /// Leave out the last batch of an epoch where it is not full
    #[arg(long, help_heading = TRAINING)]
    pub(super) drop_last: bool,
    /// Seed of weights, order, crops, starts and the images held out
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = TRAINING)]
    pub(super) seed: u64,

    /// How the change of an image is measured
    #[arg(long, value_enum, default_value = "linf", ignore_case = true, help_heading = ATTACK)]
    pub(super) norm: Norm,
    /// Radius [default: linf 8/255, l2 0.5, l1 12]
    #[arg(long, value_name = "LENGTH", alias = "epsilon", allow_hyphen_values = true, help_heading = ATTACK)]
    pub(super) eps: Option<String>,
    /// Step size [default: by the recipe]
    #[arg(long, value_name = "LENGTH", alias = "pgd-alpha", allow_hyphen_values = true, help_heading = ATTACK)]
    pub(super) alpha: Option<String>,
    /// Steps of the attack [default: 10; fgsm-rs has one, free none]
    #[arg(long, value_name = "N", value_parser = count, alias = "attack-iters", help_heading = ATTACK)]
    pub(super) steps: Option<usize>,
    /// Batch norms during the attack: running statistics; those of the batch; those of the batch, running ones kept as they are
    /// [default: by the recipe, see below]
    #[arg(long, value_name = "MODE", value_enum, help_heading = ATTACK)]
    pub(super) attack_bn: Option<BatchNorm>,
    /// What the attack climbs [default: by the recipe]
    #[arg(long, value_name = "LOSS", value_enum, help_heading = ATTACK)]
    pub(super) attack_loss: Option<Ascent>,
    /// Start from the image and normal noise of this deviation; 0 starts anywhere in the ball [default: by the recipe]
    #[arg(long, value_name = "X", help_heading = ATTACK)]
    pub(super) attack_noise: Option<f64>,
    /// Let the radius and the steps of the attack grow over the first N epochs
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = ATTACK)]
    pub(super) eps_warmup: usize,
    /// When PGD-5 on a training batch falls by more than 20 points in an epoch: end with the state before it, or go on from there
    /// with steps half as long
    #[arg(long, value_name = "WHAT", value_enum, default_value = "off", help_heading = ATTACK)]
    pub(super) guard: Guard,
    /// Steps of the PGD of each epoch's evaluation
    #[arg(long, value_name = "N", value_parser = count, default_value_t = 10, help_heading = ATTACK)]
    pub(super) val_steps: usize,

    /// Weight of the divergence (trades: 6, mart: 5)
    #[arg(long, value_name = "X", help_heading = RECIPES)]
    pub(super) beta: Option<f64>,
    /// How often running statistics see a batch: clean, attacked, and clean again with 3 (trades: 3, as its code does)
    #[arg(long, value_name = "2|3", value_parser = clap::value_parser!(u8).range(2..=3), help_heading = RECIPES)]
    pub(super) passes: Option<u8>,
    /// Weight of the squared difference of logits (alp: 0.5)
    #[arg(long, value_name = "X", help_heading = RECIPES)]
    pub(super) pairing: Option<f64>,
    /// Whether that is a mean over all entries, or over images of the sum over classes (alp: entries)
    #[arg(long, value_name = "HOW", value_enum, help_heading = RECIPES)]
    pub(super) pair_over: Option<Pairing>,
    /// Share of the clean loss (trades: 1, alp: 0.5, mma: 1/3)
    #[arg(long, value_name = "X", help_heading = RECIPES)]
    pub(super) clean_loss: Option<f64>,
    /// Share of the attacked loss (trades: 0, alp: 0.5)
    #[arg(long, value_name = "X", help_heading = RECIPES)]
    pub(super) attacked_loss: Option<f64>,
    /// Times each batch is used (free: 8)
    #[arg(long, value_name = "N", value_parser = count, help_heading = RECIPES)]
    pub(super) replays: Option<usize>,
    /// How far beyond the attacked image the other end lies (avmixup: 2)
    #[arg(long, value_name = "X", help_heading = RECIPES)]
    pub(super) stretch: Option<f64>,
    /// Share of the label in the target of the other end (avmixup: 0.1)
    #[arg(long, value_name = "X", help_heading = RECIPES)]
    pub(super) end_label: Option<f64>,
    /// Largest distance at which an image still counts (mma: four times the radius)
    #[arg(long, value_name = "LENGTH", help_heading = RECIPES)]
    pub(super) hinge: Option<String>,
    /// Radius that an image starts with (mma: 0.005)
    #[arg(long, value_name = "LENGTH", help_heading = RECIPES)]
    pub(super) least_radius: Option<String>,
    /// Halvings of the way to the boundary (mma: 10)
    #[arg(long, value_name = "N", value_parser = count, help_heading = RECIPES)]
    pub(super) bisections: Option<usize>,

    /// Loss of an image: focal on the softmax, focal on each class by itself, binary cross-entropy
    #[arg(long, value_name = "LOSS", value_enum, default_value = "ce", help_heading = TAIL)]
    pub(super) loss: LossKind,
    /// Power of the focal losses [default: 2]
    #[arg(long, value_name = "X", help_heading = TAIL)]
    pub(super) focal_gamma: Option<f32>,
    /// What classes give to the logits in the loss: margins of LDAM, logit adjustment, temperatures, RoBal's margins and biases
    #[arg(long, value_name = "KIND", value_enum, default_value = "none", help_heading = TAIL)]
    pub(super) class_margins: MarginKind,
    /// Strength of logit adjustment [default: 1] and of temperatures [default: 0.3]
    #[arg(long, value_name = "X", help_heading = TAIL)]
    pub(super) class_tau: Option<f64>,
    /// LDAM's largest margin [default: 0.5]
    #[arg(long, value_name = "X", help_heading = TAIL)]
    pub(super) ldam_max: Option<f64>,
    /// Scale of the logits in LDAM [default: 1] and RoBal [default: 10]
    #[arg(long, value_name = "X", help_heading = TAIL)]
    pub(super) loss_scale: Option<f64>,
    /// RoBal's margin of all classes, as a cosine [default: 0.1]
    #[arg(long, value_name = "X", help_heading = TAIL)]
    pub(super) m0: Option<f64>,
    /// RoBal's strength of biases [default: 1.5]
    #[arg(long, value_name = "X", help_heading = TAIL)]
    pub(super) tau_b: Option<f64>,
    /// RoBal's strength of margins by class [default: 0.3]
    #[arg(long, value_name = "X", help_heading = TAIL)]
    pub(super) tau_m: Option<f64>,
    /// Weigh classes by (1-BETA)/(1-BETA^n), such as 0.9999
    #[arg(long, value_name = "BETA", help_heading = TAIL)]
    pub(super) class_balanced: Option<f64>,
    /// Epochs before margins and weights by class begin
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = TAIL)]
    pub(super) defer: usize,
    /// How often classes are drawn
    #[arg(long, value_name = "HOW", value_enum, default_value = "random", help_heading = TAIL)]
    pub(super) sampler: Sampler,
    /// Train the last linear layer alone, as the second stage after `--weights`
    #[arg(long, help_heading = TAIL)]
    pub(super) only_classifier: bool,

    /// Folder of the run: checkpoints, state, log
    #[arg(long, value_name = "DIR", default_value = "petard-train", alias = "fname")]
    pub(super) out: PathBuf,
    /// Go on with the run in the folder, to the result of an uninterrupted one
    #[arg(long)]
    pub(super) resume: bool,
    /// auto, cpu, cuda (the first card) or cuda:N; `petard devices` lists them
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Device")]
    pub(super) device: String,
    /// Arithmetic of convolutions and linear layers; the CPU computes in f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = precisions(), help_heading = "Device")]
    pub(super) precision: Precision,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Device")]
    pub(super) threads: Option<usize>,
}

const IMAGES: &str = "Images";
const TRAINING: &str = "Training";
const RECIPES: &str = "Of single recipes";
const TAIL: &str = "Long tails";
const ATTACK: &str = "Attack of robust recipes (lengths in units of [0,1] pixels; fractions such as 8/255 are fine)";

/// Where the best checkpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ChooseOn {
    Val,
    Test,
}

/// Schedules by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shape {
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
pub(super) const DEMO: Demo = Demo { model: super::options::DEMO_MODEL, images: 8000, epochs: 12 };

pub(super) struct Demo {
    pub model: &'static str,
    pub images: usize,
    pub epochs: usize,
}

/// Which lengths a sphere takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Unit {
    Both,
    Features,
    Weights,
}

/// Losses of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LossKind {
    Ce,
    Focal,
    SigmoidFocal,
    Bce,
}

/// What classes give to the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum MarginKind {
    None,
    Ldam,
    LogitAdjust,
    Temperatures,
    Multi,
}
