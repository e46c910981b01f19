//! Model cards: a few lines of TOML that say which network, how images are normalised and where weights lie.
//! Must not know graphs or tensors. The format is described in `models/README.md`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::embedded::{CARDS, FOLDER};
use super::keys::{Bad, Channels, Checked, Family, Keys, MOST_CHANNELS};
use super::{
    AlexNet, AllCnn, Arch, DenseNet, Inception, InceptionVersion, MobileNetV1, MobileNetV2, Names, NasNet, PreAct, ResNet,
    Sphere, Vgg, WideResNet,
};
use crate::error::{Error, Result};

/// A network, its normalisation and its default weights, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCard {
    /// Name for people: the key `name`, else the file's stem.
    pub name: String,
    /// The network.
    pub arch: Arch,
    /// Channels, height and width of an image.
    pub input: [usize; 3],
    /// Number of classes.
    pub classes: usize,
    /// Subtracted from each channel of an image in [0,1].
    pub mean: Vec<f32>,
    /// Then divided by, positive.
    pub std: Vec<f32>,
    /// Whether the network reads the channels of an image in reverse, blue first; `mean` and `std` are in the image's order.
    pub bgr: bool,
    /// Names of the classes; empty where the card gives none.
    pub labels: Vec<String>,
    /// Where the last layer answers by angles.
    pub sphere: Option<Sphere>,
    /// Default weights, resolved against the card's folder.
    pub weights: Option<PathBuf>,
    /// Digest that the weights file must have, 64 lower-case hexadecimal digits.
    pub sha256: Option<String>,
    /// Share of correct test images that the weights reach, in [0,1].
    pub clean_accuracy: Option<f64>,
    /// The command that measured `clean_accuracy`.
    pub command: Option<String>,
}

impl ModelCard {
    /// The embedded card of that name, or the card in a file (anything ending in `.toml` or holding a slash).
    ///
    /// # Errors
    /// [`Error::Model`] for an unknown name, with near ones, and for a card that is wrong; [`Error::Io`] for a file
    /// that cannot be read.
    pub fn find(name_or_path: &str) -> Result<ModelCard> {
        if is_path(name_or_path) {
            return ModelCard::read(Path::new(name_or_path));
        }
        match CARDS.iter().find(|(name, _)| *name == name_or_path) {
            Some((name, text)) => ModelCard::parse(text, name, Path::new(FOLDER)),
            None => Err(unknown(name_or_path)),
        }
    }

    /// The text of a card as it was written; `name_or_path` as for [`ModelCard::find`].
    ///
    /// # Errors
    /// [`Error::Model`] for an unknown name, [`Error::Io`] for a file that cannot be read.
    pub fn text(name_or_path: &str) -> Result<String> {
        if is_path(name_or_path) {
            return std::fs::read_to_string(name_or_path).map_err(|e| Error::io("read", name_or_path, e));
        }
        let card = CARDS.iter().find(|(name, _)| *name == name_or_path);
        card.map(|(_, text)| text.to_string()).ok_or_else(|| unknown(name_or_path))
    }

    /// All embedded cards in alphabetical order.
    pub fn all() -> Vec<ModelCard> {
        let parse =
            |(name, text): &(&str, &str)| ModelCard::parse(text, name, Path::new(FOLDER)).expect("shipped cards are tested");
        CARDS.iter().map(parse).collect()
    }

    /// The card in a file; `weights` is relative to the file's folder.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::Model`] where the card is wrong.
    pub fn read(path: &Path) -> Result<ModelCard> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        ModelCard::parse(&text, &stem, path.parent().unwrap_or(Path::new("")))
    }

    /// The card in `text`. `name` stands in messages and where the card has no `name`; `folder` is what `weights` is
    /// relative to.
    ///
    /// # Errors
    /// [`Error::Model`] naming card, key, value and the way out.
    pub fn parse(text: &str, name: &str, folder: &Path) -> Result<ModelCard> {
        let keys: Keys = toml::from_str(text).map_err(|e| syntax(text, name, &e))?;
        ModelCard::from_keys(keys, name, folder).map_err(|bad| {
            let what = match &bad.value {
                Some(value) => format!("`{} = {value}`: {}", bad.key, bad.why),
                None => format!("the key `{}` {}", bad.key, bad.why),
            };
            let error = Error::model(format!("card `{name}`: {what}"));
            error
                .with_hint(bad.fix.unwrap_or_else(|| format!("every key is described in `models/README.md` under `{}`", bad.key)))
        })
    }

    fn from_keys(mut keys: Keys, name: &str, folder: &Path) -> Checked<ModelCard> {
        let input = image(keys.input)?;
        if !(2..=MOST_CHANNELS).contains(&keys.classes) {
            return Err(Bad::new("classes", keys.classes, format!("must be between 2 and {MOST_CHANNELS}")));
        }
        let mean = per_channel("mean", keys.mean.take(), input[0], 0.0, f32::is_finite)?;
        let std = per_channel("std", keys.std.take(), input[0], 1.0, |s| s > 1e-6 && s.is_finite())?;
        let labels = keys.labels.take().unwrap_or_default();
        if !labels.is_empty() && labels.len() != keys.classes {
            let why = format!("must name each of the {} classes", keys.classes);
            return Err(
                Bad::new("labels", format!("[{} names]", labels.len()), why).fix("leave `labels` out, or complete the list")
            );
        }
        if let Some(share) = keys.clean_accuracy.filter(|a| !(0.0..=1.0).contains(a)) {
            return Err(Bad::new("clean_accuracy", share, "must be a share in [0,1]").fix("write 83.24 % as `0.8324`"));
        }
        let arch = match keys.arch {
            Family::Resnet => Arch::ResNet(ResNet::from_keys(&mut keys)?),
            Family::PreactResnet => Arch::PreAct(PreAct::from_keys(&mut keys)?),
            Family::WideResnet => Arch::Wide(WideResNet::from_keys(&mut keys)?),
            Family::Vgg => Arch::Vgg(Vgg::from_keys(&mut keys, input)?),
            Family::Alexnet => Arch::AlexNet(AlexNet::from_keys(&mut keys, input)?),
            Family::AllCnn => Arch::AllCnn(AllCnn::from_keys(&mut keys, input)?),
            Family::Densenet => Arch::DenseNet(DenseNet::from_keys(&mut keys, input)?),
            Family::Googlenet => {
                let cifar = keys.names(&[Names::Torchvision, Names::Kuangliu])? == Names::Kuangliu;
                let version = if cifar { InceptionVersion::V1Cifar } else { InceptionVersion::V1 };
                Arch::Inception(Inception::from_keys(&mut keys, version, input)?)
            }
            Family::BnInception => Arch::Inception(Inception::from_keys(&mut keys, InceptionVersion::Bn, input)?),
            Family::InceptionV3 => Arch::Inception(Inception::from_keys(&mut keys, InceptionVersion::V3, input)?),
            Family::InceptionV4 => Arch::Inception(Inception::from_keys(&mut keys, InceptionVersion::V4, input)?),
            Family::InceptionResnetV2 => Arch::Inception(Inception::from_keys(&mut keys, InceptionVersion::ResNetV2, input)?),
            Family::MobilenetV1 => Arch::MobileNetV1(MobileNetV1::from_keys(&mut keys)?),
            Family::MobilenetV2 => Arch::MobileNetV2(MobileNetV2::from_keys(&mut keys)?),
            Family::Nasnet => Arch::NasNet(NasNet::from_keys(&mut keys, input)?),
        };
        if let Some(key) = keys.left_over() {
            let why = format!("means nothing here: `arch = \"{}\"` has no such key", keys.arch.name());
            return Err(Bad { key, value: None, why, fix: Some(format!("remove `{key}`")) });
        }
        Ok(ModelCard {
            name: keys.name.unwrap_or_else(|| name.to_string()),
            arch,
            input,
            classes: keys.classes,
            mean,
            std,
            bgr: keys.channels == Some(Channels::Bgr),
            labels,
            sphere: keys.sphere.take().map(Sphere::checked).transpose()?,
            weights: keys.weights.map(|w| folder.join(w)),
            sha256: keys.sha256.map(digest).transpose()?,
            clean_accuracy: keys.clean_accuracy,
            command: keys.command,
        })
    }
}

/// Whether this names a file rather than an embedded card.
fn is_path(name: &str) -> bool {
    name.ends_with(".toml") || name.contains(['/', '\\'])
}

fn image(input: [usize; 3]) -> Checked<[usize; 3]> {
    let [c, h, w] = input;
    if !(1..=1024).contains(&c) || !(1..=8192).contains(&h) || !(1..=8192).contains(&w) {
        let why = "must be [channels, height, width] with 1 to 1024 channels and 1 to 8192 pixels a side";
        return Err(Bad::new("input", format!("{input:?}"), why).fix("write `input = [3, 32, 32]` for CIFAR"));
    }
    Ok(input)
}

/// A list with one value a channel, `default` where the key is absent.
fn per_channel(key: &'static str, list: Option<Vec<f32>>, c: usize, default: f32, ok: fn(f32) -> bool) -> Checked<Vec<f32>> {
    let list = list.unwrap_or_else(|| vec![default; c]);
    if list.len() != c {
        let why = format!("must have one value for each of the {c} channels of `input`");
        return Err(Bad::new(key, format!("{list:?}"), why).fix(format!("give `{key}` {c} values, or leave it out")));
    }
    if !list.iter().all(|&v| ok(v)) {
        let why = if key == "std" { "every value must be positive" } else { "every value must be finite" };
        return Err(Bad::new(key, format!("{list:?}"), why).fix("values are in units of [0,1] pixels, such as 0.2471"));
    }
    Ok(list)
}

fn digest(text: String) -> Checked<String> {
    let text = text.to_lowercase();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(
            Bad::new("sha256", format!("{text:?}"), "must be 64 hexadecimal digits").fix("take the output of `sha256sum FILE`")
        );
    }
    Ok(text)
}

/// An error of the TOML reader, with the line it means.
fn syntax(text: &str, name: &str, error: &toml::de::Error) -> Error {
    let message = error.message().trim_end_matches('.').replace('\n', ", ");
    let place = match error.span() {
        Some(span) if !text.get(span.clone()).unwrap_or_default().trim().is_empty() => line_of(text, span),
        _ => String::new(),
    };
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
    let shown = if unknown.is_some() { message.split(", expected").next().unwrap_or(&message) } else { &message };
    let hint = match unknown.and_then(|key| nearest(key, known.iter().copied()).first().copied()) {
        Some(near) => format!("did you mean `{near}`? every key is described in `models/README.md`"),
        None => "every key is described in `models/README.md`".to_string(),
    };
    Error::model(format!("card `{name}`{place}: {shown}")).with_hint(hint)
}

fn line_of(text: &str, span: Range<usize>) -> String {
    let before = &text[..span.start];
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    let line: String = text[start..].lines().next().unwrap_or_default().chars().take(80).collect();
    format!(", line {}, `{}`", before.matches('\n').count() + 1, line.trim())
}

fn unknown(name: &str) -> Error {
    let near = nearest(name, CARDS.iter().map(|(n, _)| *n));
    let near: Vec<String> = near.iter().take(5).map(|n| format!("`{n}`")).collect();
    let own = "for a network of your own give the path of a card ending in `.toml`";
    let error = Error::model(format!("there is no model called `{name}`"));
    if near.is_empty() { error.with_hint(own) } else { error.with_hint(format!("did you mean {}? {own}", near.join(", "))) }
}

/// Names that look like `wanted`, the nearest first: few edits apart, or one the beginning of the other.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', '_'], "");
    let wanted = plain(wanted);
    let mut found: Vec<(usize, &str)> = Vec::new();
    for name in names {
        let other = plain(name);
        let edits = edits(&wanted, &other);
        let prefix = wanted.len() >= 3 && (other.starts_with(&wanted) || wanted.starts_with(&other));
        if prefix || edits * 3 <= wanted.len() {
            found.push((if prefix { edits.min(2) } else { edits }, name));
        }
    }
    found.sort();
    found.into_iter().map(|(_, name)| name).collect()
}

/// Levenshtein distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let replaced = corner + usize::from(ca != cb);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
