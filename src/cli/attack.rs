//! `petard attack`: attack a model on a set of images and judge the result.
//! Must not know how attacks work.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::attack_args::{AttackArgs, HEADING};
use super::attacks;
use super::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use super::output::{self, Json};
use super::progress;
use super::stop::Stop;
use super::value::{quoted, share};
use crate::attack::{self, Given, Hooks, Job, Progress, Returned};
use crate::data::{self, Dataset, save};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::report::{self, Facts};
use crate::session::Model;

/// Attack a model and report clean and robust accuracy
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Options also answer to the names of other toolkits: --epsilon, --eps-iter, --eps-step,
--step-size, --nb-iter, --n-iter, --num-steps, --max-iter, --rand-init, --n-restarts, --bs.

Examples:
  petard attack --model resnet20-cifar10 --weights FILE.safetensors --data cifar10:DIR
  petard attack --model my.toml --data images:DIR --norm l2 --eps 0.5 --steps 50 --loss dlr
  petard attack --model my.toml --data file:batch.npz --attack fgsm --save adv.npz --json
  petard attack --model my.toml --data cifar10:DIR --limit 1000 --expect-robust 45%

Exit code: 0, or 1 where `--expect-robust` was missed, or 2 for an error.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// List every attack with the options it takes, and leave
    #[arg(long, help_heading = HEADING)]
    list: bool,
    #[command(flatten)]
    attack: AttackArgs,
    /// Take the starting images from a set of arrays, one for each image in the same order (pgd, first restart)
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    start: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = HEADING)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Keep to direct kernels in the attack too (the verdict always does)
    #[arg(long)]
    exact: bool,
    /// Save the returned images: a .safetensors or .npz file, or a folder of parts
    #[arg(long, value_name = "DIR|FILE", help_heading = RESULTS)]
    save: Option<PathBuf>,
    /// Save the returned images as NNNNNN.png, rounded to 256 levels (which may undo an attack)
    #[arg(long, value_name = "DIR", help_heading = RESULTS)]
    save_png: Option<PathBuf>,
    /// JSON to a file; bare: JSON on stdout and the report on stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1, help_heading = RESULTS)]
    json: Option<Option<PathBuf>>,
    /// Exit with 1 where robust accuracy is below ACC, a share such as 0.45 or 45%
    #[arg(long, value_name = "ACC", allow_hyphen_values = true, help_heading = RESULTS)]
    expect_robust: Option<String>,
}

const RESULTS: &str = "Results";

/// What was typed, settled: nothing below refers to the command line.
struct Settings {
    device: Device,
    model: Model,
    data: Dataset,
    starts: Option<Dataset>,
    job: Job,
    expected: Option<f64>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        output::stdout(&attacks::list())?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = Stop::listen()?;
    let settings = args.resolve()?;
    let mut results = Results::prepare(args, &settings)?;
    let mut outcome = settings.execute(&stop, &mut results)?;
    warn_of(&settings.device);
    if let Some(start) = &args.start {
        outcome.parameters.insert("start".into(), json!(start.to_string_lossy()));
    }
    let facts = Facts { batch: outcome.batch, ..args.facts(&settings) };
    results.finish(&facts, &outcome)?;
    match settings.expected {
        Some(least) if outcome.robust_accuracy() < least => {
            let (got, want) = (100.0 * outcome.robust_accuracy(), 100.0 * least);
            output::stderr(&format!("robust accuracy {got:.2} % is below the expected {want:.2} %\n"))?;
            Ok(ExitCode::from(1))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

impl Args {
    /// Everything that can fail early fails here, the cheap checks first.
    fn resolve(&self) -> Result<Settings> {
        let attack = self.attack.resolve(self.start.is_some())?;
        let expected = self.expect_robust.as_deref().map(|text| share("--expect-robust", text)).transpose()?;
        if self.exact {
            self.device.only_f32("attack --exact")?;
        }
        let device = self.device.open()?;
        attack.check(self.model.find(&self.data)?.classes)?;
        let model = self.model.load(&self.data)?;
        let data = self.data.open(&model.card)?;
        let starts = self.start.as_deref().map(|path| open_starts(path, &model)).transpose()?;
        let batch = self.device.batch(device.card().is_some(), model.input());
        let job = Job { attacks: vec![attack], sources: Vec::new(), batch, seed: self.seed, exact: self.exact };
        Ok(Settings { device, model, data, starts, job, expected })
    }

    fn facts(&self, settings: &Settings) -> Facts {
        Facts {
            model: settings.model.card.name.clone(),
            input: settings.model.input(),
            data: settings.data.spec().into(),
            split: self.data.split(),
            offset: self.data.offset(),
            device: settings.device.describe(),
            precision: if settings.job.exact { "f32" } else { settings.device.precision().name() },
            batch: settings.job.batch,
            exact: settings.job.exact,
            seed: settings.job.seed,
            radii: self.attack.radii.clone().unwrap_or_default(),
            repeat: self.repeat(settings),
        }
    }

    /// The command that gives the same numbers, with every default written out.
    fn repeat(&self, settings: &Settings) -> String {
        let mut words = vec!["petard".to_string(), "attack".into()];
        words.extend(self.model.words(&self.data));
        words.extend(self.data.words());
        words.extend(self.attack.words(settings.job.attacks[0].as_ref()));
        if let Some(start) = &self.start {
            words.extend(["--start".into(), quoted(&start.to_string_lossy())]);
        }
        words.extend(["--seed".into(), self.seed.to_string()]);
        words.extend(self.device.words(settings.job.batch));
        words.extend(self.exact.then(|| "--exact".into()));
        words.join(" ")
    }
}

fn open_starts(path: &Path, model: &Model) -> Result<Dataset> {
    let options = data::Options { shape: Some(model.input()), ..data::Options::default() };
    Dataset::open(&format!("file:{}", path.display()), &options)
}

impl Settings {
    fn execute(&self, stop: &Stop, results: &mut Results) -> Result<Outcome> {
        let bar = progress::bar(self.data.len());
        let shown = bar.clone();
        let hooks = Hooks {
            progress: Some(Box::new(move |p: Progress| {
                shown.set_position(p.done as u64);
                shown.set_message(format!(", {} image-steps", p.image_steps));
            })),
            returned: results.saves().then(|| {
                let shape = self.model.input();
                Box::new(move |r: &Returned| results.take(r, shape)) as attack::ReturnedHook
            }),
            stop: Some(Box::new(|| stop.asked())),
        };
        let given = Given { starts: self.starts.as_ref(), ..Given::default() };
        let outcome = attack::run(&self.device, &self.model, &self.data, &self.job, &given, hooks);
        bar.finish_and_clear();
        outcome
    }
}

/// Where everything that a run gives is written.
struct Results {
    json: Json,
    set: Option<save::Writer>,
    pictures: Option<PathBuf>,
}

impl Results {
    /// Finds every conflict before the attack starts.
    fn prepare(args: &Args, settings: &Settings) -> Result<Self> {
        let shape = settings.model.input();
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
            writer.note("model", json!(settings.model.card.name));
            writer.note("data", json!(settings.data.spec()));
            writer.note("split", json!(args.data.split()));
            writer.note("attack", Value::Object(settings.job.attacks[0].parameters()));
            writer.note("seed", json!(settings.job.seed));
            set = Some(writer);
        }
        Ok(Results { json, set, pictures: args.save_png.clone() })
    }

    /// Whether returned images are wanted.
    fn saves(&self) -> bool {
        self.set.is_some() || self.pictures.is_some()
    }

    /// Takes returned images.
    fn take(&mut self, returned: &Returned, shape: [usize; 3]) -> Result<()> {
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
        if let Some(dir) = &self.pictures {
            let elems = shape.iter().product();
            for (image, &index) in returned.adversarial.chunks_exact(elems).zip(returned.index) {
                save::save_png(dir, index as usize, shape, image)?;
            }
        }
        Ok(())
    }

    /// Files first: a report must not speak of images that could not be saved.
    fn finish(self, facts: &Facts, outcome: &Outcome) -> Result<()> {
        if let Some(set) = self.set {
            set.finish()?;
        }
        self.json.write(&report::attack_text(facts, outcome), || report::attack_json(facts, outcome))
    }
}
