//! `petard attack`: attack a model on a set of images and judge the result.
//! Must not know how attacks work.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::attack_args::{AttackArgs, HEADING};
use super::attacks;
use super::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use super::output;
use super::progress;
use super::results::Results;
use super::run_args::{Material, RunArgs};
use super::stop::Stop;
use crate::attack::{self, Hooks, Job, Journal, Progress, Returned};
use crate::device::Device;
use crate::error::Result;
use crate::outcome::Outcome;
use crate::report::Facts;
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
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = HEADING)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Keep to direct kernels in the attack too (the verdict always does)
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// What was typed, settled: nothing below refers to the command line.
struct Settings {
    device: Device,
    model: Model,
    material: Material,
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
    let attack = Value::Object(settings.job.attacks[0].parameters());
    let what = args.what(&settings);
    let journal = args.run.journal(&what)?;
    let notes = [
        ("model", json!(settings.model.card.name)),
        ("data", json!(settings.material.data.spec())),
        ("split", json!(args.data.split())),
        ("attack", attack),
        ("seed", json!(settings.job.seed)),
    ];
    let job = &settings.job;
    let mut results = Results::prepare(&args.run, &settings.device, &settings.model, job.goal(), job.batch, &notes)?;
    let mut outcome = settings.execute(&stop, &mut results, journal)?;
    warn_of(&settings.device);
    if let Some(start) = &args.run.start {
        outcome.parameters.insert("start".into(), json!(start.to_string_lossy()));
    }
    let facts = Facts { batch: outcome.batch, ..args.facts(&settings) };
    results.finish(&facts, &mut outcome)?;
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
        let attack = self.attack.resolve(self.run.start.is_some())?;
        let expected = self.run.expected()?;
        if self.exact {
            self.device.only_f32("attack --exact")?;
        }
        let device = self.device.open()?;
        attack.check(self.model.find(&self.data)?.classes)?;
        let model = self.model.load(&self.data)?;
        let material = self.run.material(&self.data, &model, self.attack.norm())?;
        let batch = self.device.batch(device.card().is_some(), model.input());
        let job = Job { attacks: vec![attack], sources: Vec::new(), batch, seed: self.seed, exact: self.exact };
        Ok(Settings { device, model, material, job, expected })
    }

    fn facts(&self, settings: &Settings) -> Facts {
        Facts {
            model: settings.model.card.name.clone(),
            input: settings.model.input(),
            data: settings.material.data.spec().into(),
            split: self.data.split(),
            offset: self.data.offset(),
            device: settings.device.describe(),
            precision: if settings.job.exact { "f32" } else { settings.device.precision().name() },
            batch: settings.job.batch,
            exact: settings.job.exact,
            seed: settings.job.seed,
            shard: settings.material.part.shard.map(|s| [s.part, s.of]),
            saved: self.run.save.as_ref().map(|path| path.to_string_lossy().into_owned()),
            repeat: self.repeat(settings),
        }
    }

    /// Everything on which results depend, for a journal.
    fn what(&self, settings: &Settings) -> Value {
        let job = &settings.job;
        json!({
            "schema": "petard.journal/1",
            "version": env!("CARGO_PKG_VERSION"),
            "model": settings.model.card.name,
            "weights": settings.model.weights.sha256,
            "data": settings.material.data.spec(),
            "split": self.data.split(),
            "offset": self.data.offset(),
            "images": settings.material.part.whole,
            "attacks": job.attacks.iter().map(|a| a.parameters()).collect::<Vec<_>>(),
            "seed": job.seed,
            "exact": job.exact,
            "device": settings.device.describe(),
            "precision": settings.device.precision().name(),
        })
    }

    /// The command that gives the same numbers, with every default written out.
    fn repeat(&self, settings: &Settings) -> String {
        let mut words = vec!["petard".to_string(), "attack".into()];
        words.extend(self.model.words(&self.data));
        words.extend(self.data.words());
        words.extend(self.attack.words(settings.job.attacks[0].as_ref()));
        words.extend(self.run.words());
        words.extend(["--seed".into(), self.seed.to_string()]);
        words.extend(self.device.words(settings.job.batch));
        words.extend(self.exact.then(|| "--exact".into()));
        words.join(" ")
    }
}

impl Settings {
    fn execute(&self, stop: &Stop, results: &mut Results, mut journal: Option<Journal>) -> Result<Outcome> {
        let bar = progress::bar(self.material.data.len());
        let shown = bar.clone();
        let hooks = Hooks {
            progress: Some(Box::new(move |p: Progress| {
                shown.set_position(p.done as u64);
                shown.set_message(format!(", {} image-steps", p.image_steps));
            })),
            returned: results.saves().then(|| Box::new(|r: &Returned| results.take(r)) as attack::ReturnedHook),
            journal: journal.as_mut(),
            stop: Some(Box::new(|| stop.asked())),
        };
        let outcome = attack::run(&self.device, &self.model, &self.material.data, &self.job, &self.material.given(), hooks);
        bar.finish_and_clear();
        outcome
    }
}
