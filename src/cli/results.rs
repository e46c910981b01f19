//! A job run with everything that a user may want of it: a bar, a journal, saved images, a report, JSON, an expectation.
//! Must not know how attacks work.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::output::{self, Json};
use super::progress;
use super::run_args::{Material, RunArgs};
use super::stop::Stop;
use super::value::share;
use crate::attack::{self, Hooks, Job, Progress, Returned, quantised};
use crate::data::save;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::outcome::{Outcome, Rounded};
use crate::report::Facts;
use crate::session::{Classifier, Model, argmax};
use crate::threat::{Goal, ThreatModel};

/// Where results go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = RESULTS)]
pub struct ResultArgs {
    /// Save the returned images: a .safetensors or .npz file, or a folder of parts
    #[arg(long, value_name = "DIR|FILE")]
    save: Option<PathBuf>,
    /// Save the returned images as NNNNNN.png, rounded to 256 levels inside the radius and judged once more
    #[arg(long, value_name = "DIR")]
    save_png: Option<PathBuf>,
    /// JSON to a file; bare: JSON on stdout and the report on stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
    /// Exit with 1 where robust accuracy is below ACC, a share such as 0.45 or 45%
    #[arg(long, value_name = "ACC", allow_hyphen_values = true)]
    expect_robust: Option<String>,
}

/// Heading of what a run leaves.
pub const RESULTS: &str = "Results";

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
    pub material: &'a Material,
    pub split: &'static str,
    pub offset: usize,
    pub job: &'a Job,
}

impl Scene<'_> {
    /// Runs the job, with the journal that was asked for.
    ///
    /// # Errors
    /// As [`attack::run`] and [`attack::Journal::open`].
    pub fn execute(&self, args: &RunArgs, stop: &Stop, results: &mut Results) -> Result<Outcome> {
        let mut journal = args.journal(&self.what())?;
        let bar = progress::bar(self.material.data.len());
        let shown = bar.clone();
        let hooks = Hooks {
            progress: Some(Box::new(move |p: Progress| {
                shown.set_position(p.done as u64);
                shown.set_message(format!(", {} image-steps", p.image_steps));
            })),
            returned: results.looks().then(|| Box::new(|r: &Returned| results.take(r)) as attack::ReturnedHook),
            journal: journal.as_mut(),
            stop: Some(Box::new(|| stop.asked())),
        };
        let outcome = attack::run(self.device, self.model, &self.material.data, self.job, &self.material.given(), hooks);
        bar.finish_and_clear();
        outcome
    }

    /// Everything on which results depend, for a journal.
    fn what(&self) -> Value {
        let job = self.job;
        json!({
            "schema": "petard.journal/1",
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.model.card.name,
            "weights": self.model.weights.sha256,
            "sources": job.sources.iter().map(|m| json!([m.card.name, m.weights.sha256])).collect::<Vec<_>>(),
            "data": self.material.data.spec(),
            "split": self.split,
            "offset": self.offset,
            "images": self.material.part.whole,
            "attacks": job.attacks.iter().map(|a| a.parameters()).collect::<Vec<_>>(),
            "seed": job.seed,
            "exact": job.exact,
            "device": self.device.describe(),
            "precision": self.device.precision().name(),
        })
    }

    /// What a report says of the run; `batch` as it was in the end.
    pub fn facts(&self, args: &ResultArgs, batch: usize, repeat: String) -> Facts {
        Facts {
            model: self.model.card.name.clone(),
            input: self.model.input(),
            data: self.material.data.spec().into(),
            split: self.split,
            offset: self.offset,
            device: self.device.describe(),
            precision: if self.job.exact { "f32" } else { self.device.precision().name() },
            batch,
            exact: self.job.exact,
            seed: self.job.seed,
            shard: self.material.part.shard.map(|s| [s.part, s.of]),
            radii: Vec::new(),
            sources: self.job.sources.iter().map(|m| m.card.name.clone()).collect(),
            saved: args.save.as_ref().map(|path| path.to_string_lossy().into_owned()),
            repeat,
        }
    }
}

/// Where everything that a run gives is written.
pub struct Results {
    json: Json,
    set: Option<save::Writer>,
    pictures: Option<Pictures>,
    shape: [usize; 3],
}

/// Images as picture files, judged as they are there.
struct Pictures {
    dir: PathBuf,
    goal: Goal,
    classifier: Classifier,
    rounded: Rounded,
}

impl Results {
    /// Finds every conflict before the attack starts. `attack`: what a saved set says of it.
    ///
    /// # Errors
    /// [`Error::Usage`] where two results have one name or images cannot be pictures; [`Error::Io`] where nothing can be
    /// written later.
    pub fn prepare(args: &ResultArgs, scene: &Scene, attack: Value) -> Result<Self> {
        let (model, job) = (scene.model, scene.job);
        let shape = model.input();
        let json = Json::prepare(args.json.as_ref())?;
        if let (Json::File(a), Some(b)) = (&json, &args.save)
            && a == b
        {
            return Err(Error::usage(format!("`--json` and `--save` both name `{}`", b.display())));
        }
        let pictures = args.save_png.as_deref().map(|dir| Pictures::prepare(dir, scene)).transpose()?;
        let mut set = None;
        if let Some(path) = &args.save {
            output::not_there("--save", path)?;
            let mut writer = save::Writer::create(path, shape)?;
            writer.note("model", json!(model.card.name));
            writer.note("data", json!(scene.material.data.spec()));
            writer.note("split", json!(scene.split));
            writer.note("attack", attack);
            writer.note("seed", json!(job.seed));
            set = Some(writer);
        }
        Ok(Results { json, set, pictures, shape })
    }

    /// What became of the images as picture files, where such are written.
    pub fn rounded(&self) -> Option<Rounded> {
        self.pictures.as_ref().map(|p| p.rounded)
    }

    /// Whether returned images are wanted.
    fn looks(&self) -> bool {
        self.set.is_some() || self.pictures.is_some()
    }

    /// Takes returned images.
    fn take(&mut self, returned: &Returned) -> Result<()> {
        let wide = |narrow: &[i32]| -> Vec<i64> { narrow.iter().map(|&v| v.into()).collect() };
        let index: Vec<i64> = returned.index.iter().map(|&v| v.into()).collect();
        if let Some(set) = &mut self.set {
            set.append(&save::Attacked {
                adversarial: returned.adversarial,
                label: &wide(returned.label),
                prediction: &wide(returned.prediction),
                index: &index,
            })?;
        }
        match &mut self.pictures {
            Some(pictures) => pictures.take(returned, self.shape),
            None => Ok(()),
        }
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

impl Pictures {
    fn prepare(dir: &Path, scene: &Scene) -> Result<Self> {
        let channels = scene.model.input()[0];
        if channels != 1 && channels != 3 {
            return Err(Error::usage(format!("`--save-png` takes images of 1 or 3 channels, not {channels}"))
                .with_hint("use `--save FILE.safetensors`"));
        }
        output::picture_folder("--save-png", dir)?;
        let classifier = Classifier::new(scene.device, scene.model, scene.job.batch)?;
        Ok(Pictures { dir: dir.to_path_buf(), goal: scene.job.goal(), classifier, rounded: Rounded::default() })
    }

    fn take(&mut self, returned: &Returned, shape: [usize; 3]) -> Result<()> {
        let elems: usize = shape.iter().product();
        let images = returned.adversarial.chunks_exact(elems).zip(returned.clean.chunks_exact(elems));
        let goals: Vec<Goal> = returned.eps.iter().map(|&eps| self.goal_of(eps)).collect();
        let rounded: Vec<Vec<f32>> = images.zip(&goals).map(|((x, x0), &goal)| quantised(goal, x0, x)).collect();
        let views: Vec<&[f32]> = rounded.iter().map(Vec::as_slice).collect();
        let logits = self.classifier.logits(&views)?;
        let clean = returned.clean.chunks_exact(elems);
        for (i, ((x, x0), z)) in rounded.iter().zip(clean).zip(logits.chunks_exact(self.classifier.classes())).enumerate() {
            let class = argmax(z).map_or(-1, |c| c as i32);
            self.rounded.right += usize::from(class == returned.label[i] && class >= 0);
            self.rounded.outside += usize::from(!goals[i].allows(x0, x));
            self.rounded.undone += usize::from(class == returned.label[i] && returned.prediction[i] != class);
            save::save_png(&self.dir, returned.index[i] as usize, shape, x)?;
        }
        self.rounded.images += rounded.len();
        Ok(())
    }

    fn goal_of(&self, eps: f64) -> Goal {
        match self.goal {
            Goal::Within(threat) => Goal::Within(ThreatModel { eps, ..threat }),
            nearest => nearest,
        }
    }
}
