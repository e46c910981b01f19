//! A job run with everything that a user may want of it: a bar, saved images, a report, JSON, an expectation.
//! Must not know how attacks work.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::output::{self, Json};
use super::progress;
use super::stop::Stop;
use super::value::share;
use crate::attack::{self, Given, Hooks, Job, Progress, Returned};
use crate::data::{Dataset, save};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::session::Model;

const RESULTS: &str = "Results";

/// Where results go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = RESULTS)]
pub struct ResultArgs {
    /// Save the returned images: a .safetensors or .npz file, or a folder of parts
    #[arg(long, value_name = "DIR|FILE")]
    save: Option<PathBuf>,
    /// Save the returned images as NNNNNN.png, rounded to 256 levels (which may undo an attack)
    #[arg(long, value_name = "DIR")]
    save_png: Option<PathBuf>,
    /// JSON to a file; bare: JSON on stdout and the report on stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
    /// Exit with 1 where robust accuracy is below ACC, a share such as 0.45 or 45%
    #[arg(long, value_name = "ACC", allow_hyphen_values = true)]
    expect_robust: Option<String>,
}

impl ResultArgs {
    /// The robust accuracy that is expected at least.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is no share.
    pub fn expected(&self) -> Result<Option<f64>> {
        self.expect_robust.as_deref().map(|text| share("--expect-robust", text)).transpose()
    }
}

/// 0, or 1 where less was robust than was expected, which is said.
///
/// # Errors
/// [`Error::Io`] where stderr cannot be written.
pub fn verdict(outcome: &Outcome, expected: Option<f64>) -> Result<ExitCode> {
    match expected {
        Some(least) if outcome.robust_accuracy() < least => {
            let (got, want) = (100.0 * outcome.robust_accuracy(), 100.0 * least);
            output::stderr(&format!("robust accuracy {got:.2} % is below the expected {want:.2} %\n"))?;
            Ok(ExitCode::from(1))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// What is attacked, where.
pub struct Scene<'a> {
    pub device: &'a Device,
    pub model: &'a Model,
    pub data: &'a Dataset,
    pub split: &'static str,
    pub job: &'a Job,
}

impl Scene<'_> {
    /// Runs the job.
    ///
    /// # Errors
    /// As [`attack::run`].
    pub fn execute(&self, given: &Given, stop: &Stop, results: &mut Results) -> Result<Outcome> {
        let bar = progress::bar(self.data.len());
        let shown = bar.clone();
        let hooks = Hooks {
            progress: Some(Box::new(move |p: Progress| {
                shown.set_position(p.done as u64);
                shown.set_message(format!(", {} image-steps", p.image_steps));
            })),
            returned: results.looks().then(|| {
                let shape = self.model.input();
                Box::new(move |r: &Returned| results.take(r, shape)) as attack::ReturnedHook
            }),
            stop: Some(Box::new(|| stop.asked())),
        };
        let outcome = attack::run(self.device, self.model, self.data, self.job, given, hooks);
        bar.finish_and_clear();
        outcome
    }
}

/// Where everything that a run gives is written.
pub struct Results {
    json: Json,
    set: Option<save::Writer>,
    pictures: Option<PathBuf>,
    /// Lowest and highest value of all returned images, where they are asked for.
    extremes: Option<(f32, f32)>,
}

impl Results {
    /// Finds every conflict before the attack starts. `attack`: what a saved set says of it. `extremes`: whether the
    /// lowest and highest value of the returned images are wanted.
    ///
    /// # Errors
    /// [`Error::Usage`] for names that do not go together, [`Error::Io`] where nothing can be written.
    pub fn prepare(args: &ResultArgs, scene: &Scene, attack: Value, extremes: bool) -> Result<Self> {
        let shape = scene.model.input();
        let json = Json::prepare(args.json.as_ref())?;
        if let (Json::File(a), Some(b)) = (&json, &args.save)
            && a == b
        {
            return Err(Error::usage(format!("`--json` and `--save` both name `{}`", b.display())));
        }
        if let Some(dir) = &args.save_png {
            if shape[0] != 1 && shape[0] != 3 {
                return Err(Error::usage(format!("`--save-png` takes images of 1 or 3 channels, not {}", shape[0]))
                    .with_hint("use `--save FILE.safetensors`"));
            }
            output::picture_folder("--save-png", dir)?;
        }
        let mut set = None;
        if let Some(path) = &args.save {
            output::not_there("--save", path)?;
            let mut writer = save::Writer::create(path, shape)?;
            writer.note("model", json!(scene.model.card.name));
            writer.note("data", json!(scene.data.spec()));
            writer.note("split", json!(scene.split));
            writer.note("attack", attack);
            writer.note("seed", json!(scene.job.seed));
            set = Some(writer);
        }
        let extremes = extremes.then_some((f32::INFINITY, f32::NEG_INFINITY));
        Ok(Results { json, set, pictures: args.save_png.clone(), extremes })
    }

    /// Lowest and highest value of the returned images, where they were asked for and there are any.
    pub fn extremes(&self) -> Option<(f32, f32)> {
        self.extremes.filter(|(low, high)| low <= high)
    }

    /// Whether returned images are wanted.
    fn looks(&self) -> bool {
        self.set.is_some() || self.pictures.is_some() || self.extremes.is_some()
    }

    /// Takes returned images.
    fn take(&mut self, returned: &Returned, shape: [usize; 3]) -> Result<()> {
        let wide = |narrow: &[i32]| -> Vec<i64> { narrow.iter().map(|&v| v.into()).collect() };
        let index: Vec<i64> = returned.index.iter().map(|&v| v.into()).collect();
        if let Some((low, high)) = &mut self.extremes {
            (*low, *high) = returned.adversarial.iter().fold((*low, *high), |(low, high), v| (low.min(*v), high.max(*v)));
        }
        if let Some(set) = &mut self.set {
            set.append(&save::Attacked {
                adversarial: returned.adversarial,
                label: &wide(returned.label),
                prediction: &wide(returned.prediction),
                index: &index,
            })?;
        }
        if let Some(dir) = &self.pictures {
            let elems = shape.iter().product();
            for (image, &index) in returned.adversarial.chunks_exact(elems).zip(returned.index) {
                save::save_png(dir, index as usize, shape, image)?;
            }
        }
        Ok(())
    }

    /// Files first: a report must not speak of images that could not be saved.
    ///
    /// # Errors
    /// [`Error::Io`] where something cannot be written.
    pub fn finish(self, report: &str, json: impl FnOnce() -> String) -> Result<()> {
        if let Some(set) = self.set {
            set.finish()?;
        }
        self.json.write(report, json)
    }
}
