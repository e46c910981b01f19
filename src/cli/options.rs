//! Options that several commands share: which model, which images, which device.
//! Must not know attacks.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::output;
use super::value::{count, quoted};
use crate::data::{self, Dataset, Split};
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::nn::ModelCard;
use crate::plan::Precision;
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
    /// Whether a model was named at all.
    pub fn named(&self) -> bool {
        self.card.model.is_some() || self.weights.is_some()
    }
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
        Dataset::open(&self.data, &self.options(card))
    }
    /// Opens the images as they are, for no model in particular.
    ///
    /// # Errors
    /// Where they are missing or broken.
    pub fn open_any(&self) -> Result<Dataset> {
        let options = data::Options { split: self.split, offset: self.offset, limit: self.limit, ..data::Options::default() };
        Dataset::open(&self.data, &options)
    }
    /// The spec, where it begins with one of `kinds` and a colon.
    pub fn spec_of(&self, kinds: &[&str]) -> Option<&str> {
        let kind = self.data.split(':').next().unwrap_or_default();
        kinds.contains(&kind).then_some(self.data.as_str())
    }
    /// What is asked of a set for a model.
    pub fn options(&self, card: &ModelCard) -> data::Options {
        data::Options {
            split: self.split,
            shape: Some(card.input),
            classes: Some(card.classes),
            offset: self.offset,
            limit: self.limit,
            ..data::Options::default()
        }
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

/// Opens a device; why `auto` left a card alone goes to stderr.
///
/// # Errors
/// Where there is none of that name, or it lacks the precision.
pub fn open_device(name: &str, options: &DeviceOptions) -> Result<Device> {
    let device = Device::open(name, options)?;
    if let Some(note) = device.note() {
        output::stderr(&format!("note: {note}\n"))?;
    }
    Ok(device)
}

/// Reads the name of a precision.
/// `--precision`.
pub fn precisions() -> impl TypedValueParser<Value = Precision> {
    let named = |name: String| Precision::ALL.into_iter().find(|p| p.name() == name).expect("the parser knows no others");
    PossibleValuesParser::new(Precision::ALL.map(Precision::name)).map(named)
}

/// Which device, and how much at once.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// auto, cpu, cuda (the first card) or cuda:N; `petard devices` lists them
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// Arithmetic of convolutions and linear layers; verdicts, and all work on the CPU, are f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = precisions())]
    precision: Precision,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// Images in a batch; from 8 up results do not depend on it [default: for images up to 64x64 64, on a card 512; else 16,
    /// on a card 64]
    #[arg(long, value_name = "N", value_parser = count, aliases = ["bs", "batch"])]
    batch_size: Option<usize>,
}

/// Says on stderr what went wrong with the device without failing anything.
pub fn warn_of(device: &Device) {
    device.take_warnings().iter().for_each(|w| eprintln!("warning: {w}"));
}

impl DeviceArgs {
    /// Opens the device.
    ///
    /// # Errors
    /// Where there is none of that name, or it lacks the precision.
    pub fn open(&self) -> Result<Device> {
        open_device(
            &self.device,
            &DeviceOptions { threads: self.threads.unwrap_or(0), precision: self.precision, ..DeviceOptions::default() },
        )
    }
    /// Refuses an arithmetic that a command does not use.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything but f32.
    pub fn only_f32(&self, command: &str) -> Result<()> {
        match self.precision {
            Precision::F32 => Ok(()),
            other => {
                Err(Error::usage(format!("`petard {command}` computes in f32, not in {other}"))
                    .with_hint("leave `--precision` out"))
            }
        }
    }
    /// What is asked for, whether or not there is a device that has it.
    pub fn precision(&self) -> Precision {
        self.precision
    }
    /// Images in a batch for a model that takes `input` `[C, H, W]`, on a card or not.
    pub fn batch(&self, on_card: bool, [_, h, w]: [usize; 3]) -> usize {
        let small = h <= 64 && w <= 64;
        self.batch_size.unwrap_or(match (on_card, small) {
            (false, true) => 64,
            (false, false) => 16,
            (true, true) => 512,
            (true, false) => 64,
        })
    }
    /// The options as they would be typed, without threads, on which no result depends; `batch` as it was in the end.
    pub fn words(&self, batch: usize) -> Vec<String> {
        let batch = batch.to_string();
        ["--batch-size", &batch, "--device", &self.device, "--precision", self.precision.name()].map(quoted).to_vec()
    }
}
