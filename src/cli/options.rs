//! Options that several commands share: which model, which images, which device.
//! Must not know attacks.

use std::path::PathBuf;

use super::value::{count, quoted};
use crate::data::{self, Dataset, Split};
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::nn::ModelCard;
use crate::session::Model;

/// Which network.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct CardArgs {
    /// Name of an embedded card (see `petard models`), or a card of your own ending in `.toml` [default: tiny-resnet,
    /// for synthetic images]
    #[arg(long, value_name = "CARD|FILE.toml", alias = "arch")]
    model: Option<String>,
}

/// The network that the binary carries with its weights, for the images that it can make.
pub const DEMO_MODEL: &str = "tiny-resnet";

impl CardArgs {
    /// Name or path of the card; `demo` lets the small embedded network stand in where none is named.
    ///
    /// # Errors
    /// [`Error::Usage`] where none was given.
    fn name(&self, demo: bool) -> Result<&str> {
        self.model.as_deref().or(demo.then_some(DEMO_MODEL)).ok_or_else(|| {
            Error::usage("no model is named").with_hint(
                "name a card and its weights, such as `--model resnet20-cifar10 --weights FILE.safetensors`; \
                 `petard models` lists the cards, and `--model FILE.toml` takes one of your own",
            )
        })
    }
    /// The card alone.
    ///
    /// # Errors
    /// Where it is wrong.
    pub fn find(&self) -> Result<ModelCard> {
        ModelCard::find(self.name(true)?)
    }
}

/// Which model: a network with its weights.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    #[command(flatten)]
    card: CardArgs,
    /// Weights under PyTorch's names: safetensors, or a .pt or .pth state dict [default: those the card names]
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    weights: Option<PathBuf>,
    /// Which state dict of a .pt or .pth file that holds several, such as `ema` [default: the plain one]
    #[arg(long, value_name = "NAME", help_heading = "Model", requires = "weights")]
    weights_entry: Option<String>,
}

impl ModelArgs {
    /// Name or path of the card. The embedded network knows the synthetic images only.
    fn name(&self, data: &DataArgs) -> Result<&str> {
        self.card.name(self.weights.is_none() && data.synthetic())
    }
    /// The card alone.
    ///
    /// # Errors
    /// Where none is named or it is wrong.
    pub fn find(&self, data: &DataArgs) -> Result<ModelCard> {
        ModelCard::find(self.name(data)?)
    }
    /// Card and weights.
    ///
    /// # Errors
    /// Where either is missing or wrong, or they do not fit each other.
    pub fn load(&self, data: &DataArgs) -> Result<Model> {
        let model = Model::load_entry(self.name(data)?, self.weights.as_deref(), self.weights_entry.as_deref())?;
        if !model.weights.others.is_empty() && self.weights_entry.is_none() {
            let others = model.weights.others.join("`, `");
            eprintln!("note: the checkpoint holds other weights too: `{others}`; choose with `--weights-entry`");
        }
        Ok(model)
    }
    /// The options as they would be typed.
    pub fn words(&self, data: &DataArgs) -> Vec<String> {
        let mut words = Vec::new();
        if let Ok(model) = self.name(data) {
            words.extend(["--model".into(), quoted(model)]);
        }
        if let Some(weights) = &self.weights {
            words.extend(["--weights".into(), quoted(&weights.to_string_lossy())]);
        }
        if let Some(entry) = &self.weights_entry {
            words.extend(["--weights-entry".into(), quoted(entry)]);
        }
        words
    }
}

/// Which images.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Images")]
pub struct DataArgs {
    /// cifar10:DIR, cifar100:DIR, images:DIR (a folder for each class), file:PATH (.safetensors, .npz or a folder of
    /// them) or synthetic[:SEED]
    #[arg(long, value_name = "SPEC", default_value = "synthetic", alias = "dataset")]
    data: String,
    /// Part of a set that has two
    #[arg(long, value_enum, default_value = "test", ignore_case = true)]
    split: Split,
    /// Use at most N images [default: all]
    #[arg(long, value_name = "N", value_parser = count, aliases = ["n-ex", "num-images"])]
    limit: Option<usize>,
    /// Skip the first N images of the split
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: usize,
}

impl DataArgs {
    /// Opens the images for a model.
    ///
    /// # Errors
    /// Where they are missing, broken, or not what the model takes.
    pub fn open(&self, card: &ModelCard) -> Result<Dataset> {
        let options = data::Options {
            split: self.split,
            shape: Some(card.input),
            classes: Some(card.classes),
            offset: self.offset,
            limit: self.limit,
            ..data::Options::default()
        };
        Dataset::open(&self.data, &options)
    }
    /// Whether the images are the engine's own.
    fn synthetic(&self) -> bool {
        self.data.split(':').next() == Some("synthetic")
    }
    /// Name of the split.
    pub fn split(&self) -> &'static str {
        self.split.name()
    }
    /// Images skipped.
    pub fn offset(&self) -> usize {
        self.offset
    }
    /// The options as they would be typed.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["--data".into(), quoted(&self.data), "--split".into(), self.split.name().into()];
        if let Some(limit) = self.limit {
            words.extend(["--limit".into(), limit.to_string()]);
        }
        if self.offset > 0 {
            words.extend(["--offset".into(), self.offset.to_string()]);
        }
        words
    }
}

/// Which device, and how much at once.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// auto or cpu
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// Arithmetic: f32
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: String,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// Images in a batch; from 8 up results do not depend on it [default: 64 for images up to 64x64, else 16]
    #[arg(long, value_name = "N", value_parser = count, aliases = ["bs", "batch"])]
    batch_size: Option<usize>,
}

impl DeviceArgs {
    /// Opens the device.
    ///
    /// # Errors
    /// Where there is none of that name, or it lacks the precision.
    pub fn open(&self) -> Result<Device> {
        if self.precision != "f32" {
            return Err(Error::usage(format!(
                "`--precision {}` cannot be used: this version computes in f32 only",
                self.precision
            ))
            .with_hint("leave `--precision` out"));
        }
        Device::open(&self.device, &DeviceOptions { threads: self.threads.unwrap_or(0), isa: None })
    }
    /// Images in a batch for a model that takes `input` `[C, H, W]`.
    pub fn batch(&self, [_, h, w]: [usize; 3]) -> usize {
        self.batch_size.unwrap_or(if h <= 64 && w <= 64 { 64 } else { 16 })
    }
    /// The options as they would be typed, without threads, on which no result depends.
    pub fn words(&self, input: [usize; 3]) -> Vec<String> {
        let batch = self.batch(input).to_string();
        ["--batch-size", &batch, "--device", &self.device, "--precision", &self.precision].map(quoted).to_vec()
    }
}
