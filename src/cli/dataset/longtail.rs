//! `petard dataset longtail`: a set with fewer and fewer images of each class.
//! Must not know networks.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::json;

use super::super::output;
use super::super::value::{count, quoted};
use crate::data::longtail::{self, Profile};
use crate::data::{self, Dataset, Split, save};
use crate::error::{Error, Result};

/// Keep fewer and fewer images of each class, as in long-tailed CIFAR
#[derive(Debug, clap::Args)]
#[command(after_help = "\
exp keeps int(N/C * RATIO^(i/(C-1))) images of class i, step all of the first half of the classes and int(N/C * RATIO) of
each of the others, where N/C is what a class has on average. The test split stays as it is.

Examples:
  petard dataset longtail --data cifar10:DIR --ratio 0.02 --out cifar10-lt.safetensors
  petard train --model wrn-34-10-cifar10 --data file:cifar10-lt.safetensors --recipe pgd-at")]
pub struct Args {
    /// cifar10:DIR, cifar100:DIR, images:DIR, file:PATH or synthetic[:SEED]; the training split is used
    #[arg(long, value_name = "SPEC")]
    data: String,
    /// Images of the split that are looked at
    #[arg(long, value_name = "N", value_parser = count)]
    limit: Option<usize>,
    /// How the numbers fall
    #[arg(long, value_name = "SHAPE", value_enum, default_value = "exp")]
    profile: Profile,
    /// Share of its images that the rarest class keeps, in (0,1]
    #[arg(long, value_name = "RATIO")]
    ratio: f64,
    /// Seed of the choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where the set goes: FILE.safetensors, FILE.npz or a folder
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

impl Args {
    pub fn run(&self) -> Result<ExitCode> {
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return Err(Error::usage(format!("`--ratio {}` must be above 0 and at most 1", self.ratio)));
        }
        let set = Dataset::open(&self.data, &data::Options { split: Split::Train, limit: self.limit, ..Default::default() })?;
        let labels = set.labels().ok_or_else(|| Error::input(format!("`{}` has no labels", self.data)))?;
        let classes = labels.iter().max().map_or(0, |&l| l as usize + 1);
        if classes < 2 {
            return Err(Error::input(format!("`{}` has one class: there is no tail to cut", self.data)));
        }
        let counts = self.profile.counts(labels.len() / classes, classes, self.ratio);
        let rows = longtail::select(labels, &counts, self.seed)?;
        write(&self.out, &set, &rows, self)?;
        let listed: Vec<String> = counts.iter().map(ToString::to_string).collect();
        output::stdout(&format!("{} images of {} classes: {}\n", rows.len(), classes, listed.join(" ")))?;
        output::stderr(&format!("train on it: petard train --data {}\n", quoted(&format!("file:{}", self.out.display()))))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Images a writer is given at a time.
const ROWS: usize = 256;

fn write(out: &Path, set: &Dataset, rows: &[usize], args: &Args) -> Result<()> {
    let mut file = save::Writer::create_values(out, set.shape())?;
    file.note("made_from", json!(set.spec()));
    file.note("long_tail", json!({ "profile": args.profile.name(), "ratio": args.ratio, "seed": args.seed }));
    let size: usize = set.shape().iter().product();
    for group in rows.chunks(ROWS) {
        let (mut pixels, mut label, mut index) = (vec![0.0; group.len() * size], Vec::new(), Vec::new());
        for (out, &row) in pixels.chunks_exact_mut(size).zip(group) {
            let batch = set.read(row..row + 1)?;
            batch.pixels_f32(0, out);
            label.extend(batch.labels.iter().flatten().map(|&l| i64::from(l)));
            index.push(i64::from(batch.index[0]));
        }
        file.append_values(&pixels, &label, &index)?;
    }
    file.finish()
}

impl ValueEnum for Profile {
    fn value_variants<'a>() -> &'a [Self] {
        &[Profile::Exponential, Profile::Step]
    }
    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()))
    }
}
