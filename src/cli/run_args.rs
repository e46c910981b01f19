//! Options of every run of attacks beside the attacks: what comes with the images, which part of them, the journal.
//! Must not know attacks.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::attack_args::HEADING;
use super::options::DataArgs;
use super::results::RESULTS;
use super::value::{self, Shard, quoted};
use crate::attack::{Given, Journal};
use crate::data::{self, Dataset};
use crate::error::{Error, Result};
use crate::nn::ModelCard;
use crate::session::Model;
use crate::threat::Norm;

/// What comes with the images, which part of them, and the journal.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Take the starting images from a set of arrays, one for each image in the same order (first restart)
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub start: Option<PathBuf>,
    /// Take a radius of its own for each image from a text file, one a line in the order of the images
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    eps_file: Option<PathBuf>,
    /// Take the class to aim at from a text file, one a line in the order of the images (with `--target given`)
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    targets_file: Option<PathBuf>,
    /// Attack the I-th of N parts of the images, I from 0 to N - 1: one process each, on several cards or machines;
    /// `petard merge` joins their results
    #[arg(long, value_name = "I/N", value_parser = value::shard, help_heading = "Images")]
    shard: Option<Shard>,
    /// Keep what is found after every round in this folder, so that `--resume` goes on after an interruption
    #[arg(long, value_name = "DIR", help_heading = RESULTS)]
    journal: Option<PathBuf>,
    /// Go on with the run that `--journal` holds, or begin where it holds none
    #[arg(long, requires = "journal", help_heading = RESULTS)]
    resume: bool,
}

/// The images of a run: those of its shard, with what comes with them.
#[derive(Debug)]
pub struct Material {
    /// The images.
    pub data: Dataset,
    /// Which of the images that were asked for.
    pub part: Part,
    starts: Option<Dataset>,
    radii: Option<Vec<f64>>,
    targets: Option<Vec<i32>>,
}

/// The images of a shard within all that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which shard; `None` where there is one part.
    pub shard: Option<Shard>,
    /// Images that were asked for, of all shards.
    pub whole: usize,
}

impl Material {
    /// What comes with the images, as a run takes it.
    pub fn given(&self) -> Given<'_> {
        Given { starts: self.starts.as_ref(), radii: self.radii.as_deref(), targets: self.targets.as_deref() }
    }
}

impl RunArgs {
    /// Opens the images and what comes with them, and keeps those of the shard.
    ///
    /// # Errors
    /// Where one of them is missing or broken, not what the model takes, or not as many as the images; and where there are
    /// more shards than images.
    pub fn material(&self, images: &DataArgs, model: &Model, norm: Norm) -> Result<Material> {
        let all = images.open(&model.card)?;
        let whole = all.len();
        let range = self.shard.map_or(0..whole, |s| s.range(whole));
        if let (Some(shard), true) = (self.shard, range.is_empty()) {
            return Err(Error::usage(format!("`--shard {shard}` of {whole} images is empty")).with_hint("use fewer shards"));
        }
        let starts = self.start.as_deref().map(|path| open_starts(path, &model.card)).transpose()?;
        if let Some(starts) = &starts {
            as_many(starts.len(), whole, "starting images")?;
        }
        let starts = starts.map(|set| set.part(range.clone()));
        let radius = |text: &str| value::radius("--eps-file", norm, text);
        let radii = self.eps_file.as_deref().map(|path| lines(path, whole, "radii", radius)).transpose()?;
        let class = |text: &str| text.parse::<i32>().map_err(|_| Error::input(format!("`{text}` is no class")));
        let targets = self.targets_file.as_deref().map(|path| lines(path, whole, "classes", class)).transpose()?;
        Ok(Material {
            data: all.part(range.clone()),
            part: Part { shard: self.shard, whole },
            starts,
            radii: radii.map(|r| r[range.clone()].to_vec()),
            targets: targets.map(|t| t[range].to_vec()),
        })
    }

    /// The journal, where one was asked for. `what` says everything on which results depend.
    ///
    /// # Errors
    /// As for [`Journal::open`].
    pub fn journal(&self, what: &Value) -> Result<Option<Journal>> {
        let mut what = what.clone();
        what["given"] = json!([&self.start, &self.eps_file, &self.targets_file]);
        what["shard"] = json!(self.shard.map(|s| s.to_string()));
        self.journal.as_deref().map(|dir| Journal::open(dir, &what, self.resume)).transpose()
    }

    /// The options on which results depend, as they would be typed.
    pub fn words(&self) -> Vec<String> {
        let files = [("--start", &self.start), ("--eps-file", &self.eps_file), ("--targets-file", &self.targets_file)];
        let given =
            files.into_iter().filter_map(|(option, path)| Some([option.into(), quoted(&path.as_ref()?.to_string_lossy())]));
        let mut words: Vec<String> = given.flatten().collect();
        if let Some(shard) = self.shard {
            words.extend(["--shard".into(), shard.to_string()]);
        }
        words
    }
}

fn open_starts(path: &Path, card: &ModelCard) -> Result<Dataset> {
    let options = data::Options { shape: Some(card.input), ..data::Options::default() };
    Dataset::open(&format!("file:{}", path.display()), &options)
}

fn as_many(found: usize, images: usize, what: &str) -> Result<()> {
    if found == images {
        return Ok(());
    }
    Err(Error::input(format!("{found} {what} for {images} images"))
        .with_hint("give one for each image, in the same order; `--limit` and `--offset` apply to the images"))
}

/// One value a line; empty lines and what follows a `#` are left out.
fn lines<T>(path: &Path, images: usize, what: &str, read: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let mut out = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        out.push(read(line).map_err(|e| Error::input(format!("`{}`, line {}: {e}", path.display(), number + 1)))?);
    }
    as_many(out.len(), images, what)?;
    Ok(out)
}
