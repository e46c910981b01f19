//! The keys of a card as they stand in the file, and the checks that several networks share.
//! Must not know graphs; what a key means to a network is said in that network's file.

use std::fmt::Display;
use std::path::PathBuf;

use serde::Deserialize;

use super::resnet::{Block, Names, Shortcut, Stem};
use super::sphere::Sphere;
use super::vgg::{Head, Layer};

/// Most channels of a layer and most classes: far above every network, and small enough that no product overflows.
pub(super) const MOST_CHANNELS: usize = 1 << 20;

/// A value of a card that cannot be: which key, what it says, why not, and the way out.
pub(super) struct Bad {
    pub key: &'static str,
    /// `None` where the key is missing.
    pub value: Option<String>,
    pub why: String,
    pub fix: Option<String>,
}

/// A checked value, or what is wrong with its key.
pub(super) type Checked<T> = Result<T, Bad>;

impl Bad {
    pub fn new(key: &'static str, value: impl Display, why: impl Into<String>) -> Self {
        Bad { key, value: Some(value.to_string()), why: why.into(), fix: None }
    }
    /// A key that has no default; `example` is a line to paste.
    pub fn missing(key: &'static str, example: &str) -> Self {
        Bad { key, value: None, why: "is missing".into(), fix: Some(format!("add a line such as `{example}`")) }
    }
    pub fn fix(mut self, text: impl Into<String>) -> Self {
        self.fix = Some(text.into());
        self
    }
}

/// Families of networks as cards name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Family {
    Resnet,
    PreactResnet,
    WideResnet,
    Vgg,
    Alexnet,
    AllCnn,
    Densenet,
    Googlenet,
    BnInception,
    InceptionV3,
    InceptionV4,
    InceptionResnetV2,
    MobilenetV1,
    MobilenetV2,
    Nasnet,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Resnet => "resnet",
            Family::PreactResnet => "preact_resnet",
            Family::WideResnet => "wide_resnet",
            Family::Vgg => "vgg",
            Family::Alexnet => "alexnet",
            Family::AllCnn => "all_cnn",
            Family::Densenet => "densenet",
            Family::Googlenet => "googlenet",
            Family::BnInception => "bn_inception",
            Family::InceptionV3 => "inception_v3",
            Family::InceptionV4 => "inception_v4",
            Family::InceptionResnetV2 => "inception_resnet_v2",
            Family::MobilenetV1 => "mobilenet_v1",
            Family::MobilenetV2 => "mobilenet_v2",
            Family::Nasnet => "nasnet",
        }
    }
}

/// Every key of a card. Those of the network are taken out by the network that they belong to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub name: Option<String>,
    pub arch: Family,
    pub input: [usize; 3],
    pub classes: usize,
    pub mean: Option<Vec<f32>>,
    pub std: Option<Vec<f32>>,
    pub labels: Option<Vec<String>>,
    pub weights: Option<PathBuf>,
    pub sha256: Option<String>,
    pub clean_accuracy: Option<f64>,
    pub command: Option<String>,

    pub blocks: Option<Vec<usize>>,
    pub widths: Option<Vec<usize>>,
    pub block: Option<Block>,
    pub stem: Option<Stem>,
    pub shortcut: Option<Shortcut>,
    pub names: Option<Names>,
    pub variant: Option<Variant>,
    pub depth: Option<usize>,
    pub widen: Option<usize>,
    pub layers: Option<Vec<LayerKey>>,
    pub batch_norm: Option<bool>,
    pub head: Option<Head>,
    pub dropout: Option<f32>,
    pub channels: Option<Channels>,
    pub groups: Option<usize>,
    pub growth: Option<usize>,
    pub multiplier: Option<f64>,
    pub width: Option<usize>,
    pub stem_width: Option<usize>,
    pub sphere: Option<Sphere>,
}

/// What the key `variant` may say; each family takes some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Variant {
    Kuangliu,
    Fast,
    Timm,
    Torchvision,
    Original,
}

/// The order in which a network reads the channels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Channels {
    Rgb,
    Bgr,
}

/// An entry of `layers` as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number of channels or \"M\"")]
pub(super) enum LayerKey {
    Channels(usize),
    Mark(String),
}

impl Keys {
    /// The keys of networks, to name them when they belong to another family.
    pub fn left_over(&self) -> Option<&'static str> {
        let present = [
            ("blocks", self.blocks.is_some()),
            ("widths", self.widths.is_some()),
            ("block", self.block.is_some()),
            ("stem", self.stem.is_some()),
            ("shortcut", self.shortcut.is_some()),
            ("names", self.names.is_some()),
            ("variant", self.variant.is_some()),
            ("depth", self.depth.is_some()),
            ("widen", self.widen.is_some()),
            ("layers", self.layers.is_some()),
            ("batch_norm", self.batch_norm.is_some()),
            ("head", self.head.is_some()),
            ("dropout", self.dropout.is_some()),
            ("groups", self.groups.is_some()),
            ("growth", self.growth.is_some()),
            ("multiplier", self.multiplier.is_some()),
            ("width", self.width.is_some()),
            ("stem_width", self.stem_width.is_some()),
        ];
        present.into_iter().find(|&(_, there)| there).map(|(key, _)| key)
    }

    /// The entry of `takes` that `variant` says, the first where the card says nothing.
    pub fn variant<T: Copy>(&mut self, takes: &[(Variant, T)]) -> Checked<T> {
        let Some(variant) = self.variant.take() else { return Ok(takes[0].1) };
        let text = |v: Variant| format!("{v:?}").to_lowercase();
        takes.iter().find(|(v, _)| *v == variant).map(|&(_, t)| t).ok_or_else(|| {
            let names: Vec<String> = takes.iter().map(|&(v, _)| format!("\"{}\"", text(v))).collect();
            let why = format!("`arch = \"{}\"` has no such variant", self.arch.name());
            Bad::new("variant", format!("\"{}\"", text(variant)), why).fix(format!("choose from {}", names.join(", ")))
        })
    }

    /// The entry of `takes` that `names` says, the first where the card says nothing.
    pub fn names(&mut self, takes: &[Names]) -> Checked<Names> {
        let names = self.names.take().unwrap_or(takes[0]);
        if takes.contains(&names) {
            return Ok(names);
        }
        let text = |n: Names| format!("\"{}\"", format!("{n:?}").to_lowercase());
        let why = format!("nobody's `{}` has these names", self.arch.name());
        let list: Vec<String> = takes.iter().map(|&n| text(n)).collect();
        Err(Bad::new("names", text(names), why).fix(format!("choose from {}", list.join(", "))))
    }

    pub fn multiplier(&mut self) -> Checked<f64> {
        match self.multiplier.take() {
            Some(m) if !(0.01..=16.0).contains(&m) => Err(Bad::new("multiplier", m, "must be between 0.01 and 16")),
            other => Ok(other.unwrap_or(1.0)),
        }
    }

    /// Blocks or cells of each stage.
    pub fn blocks(&mut self) -> Checked<Vec<usize>> {
        let blocks = self.blocks.take().ok_or_else(|| Bad::missing("blocks", "blocks = [3, 3, 3]"))?;
        if !(1..=8).contains(&blocks.len()) || !blocks.iter().all(|b| (1..=1000).contains(b)) {
            let why = "must list 1 to 8 stages of 1 to 1000 blocks";
            return Err(Bad::new("blocks", format!("{blocks:?}"), why).fix("write `blocks = [3, 3, 3]` for ResNet-20"));
        }
        Ok(blocks)
    }

    /// `blocks` and `widths`, of one length.
    pub fn stages(&mut self) -> Checked<(Vec<usize>, Vec<usize>)> {
        let blocks = self.blocks()?;
        let widths = self.widths.take().ok_or_else(|| Bad::missing("widths", "widths = [16, 32, 64]"))?;
        if widths.len() != blocks.len() {
            let why = format!("must have one entry for each of the {} stages of `blocks`", blocks.len());
            return Err(Bad::new("widths", format!("{widths:?}"), why).fix("give `blocks` and `widths` the same length"));
        }
        channels("widths", &widths)?;
        Ok((blocks, widths))
    }

    pub fn widen(&mut self) -> Checked<Option<usize>> {
        match self.widen.take() {
            Some(k) if !(1..=256).contains(&k) => Err(Bad::new("widen", k, "must be between 1 and 256")),
            other => Ok(other),
        }
    }

    pub fn dropout(&mut self) -> Checked<Option<f32>> {
        match self.dropout.take() {
            Some(p) if !(0.0..1.0).contains(&p) => {
                Err(Bad::new("dropout", p, "must be a probability in [0,1)").fix("leave the key out, or write `dropout = 0.5`"))
            }
            other => Ok(other),
        }
    }

    pub fn layers(&mut self) -> Checked<Vec<Layer>> {
        const EXAMPLE: &str = "layers = [64, \"M\", 128, \"M\", 256, 256, \"M\"]";
        let keys = self.layers.take().ok_or_else(|| Bad::missing("layers", EXAMPLE))?;
        let layer = |key: &LayerKey| match key {
            LayerKey::Channels(k) => channels("layers", &[*k]).map(|()| Layer::Conv(*k)),
            LayerKey::Mark(mark) if mark == "M" => Ok(Layer::Pool),
            LayerKey::Mark(mark) => Err(Bad::new("layers", format!("[.. {mark:?} ..]"), "the only mark is \"M\", a max-pool")),
        };
        let layers = keys.iter().map(layer).collect::<Checked<Vec<_>>>()?;
        if !(1..=1000).contains(&layers.len()) || !layers.iter().any(|l| matches!(l, Layer::Conv(_))) {
            let why = "must hold 1 to 1000 entries and a convolution";
            return Err(Bad::new("layers", format!("[{} entries]", layers.len()), why).fix(format!("write `{EXAMPLE}`")));
        }
        Ok(layers)
    }
}

fn channels(key: &'static str, list: &[usize]) -> Checked<()> {
    match list.iter().find(|k| !(1..=MOST_CHANNELS / 16).contains(*k)) {
        Some(k) => Err(Bad::new(key, format!("[.. {k} ..]"), format!("channels must be between 1 and {}", MOST_CHANNELS / 16))),
        None => Ok(()),
    }
}
