//! `petard attack`: attack a model on a set of images and judge the result.
//! Must not know how attacks work.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::attack_args::{AttackArgs, HEADING};
use super::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use super::results::{ResultArgs, Results, Scene, verdict};
use super::run_args::{Material, RunArgs};
use super::stop::Stop;
use super::value::quoted;
use super::{attacks, output};
use crate::attack::Job;
use crate::device::Device;
use crate::error::{Error, Result};
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
    /// Follow the gradients of this model in place of the attacked one's, which only judges; repeated, of the mean of their
    /// logits. Weights follow after `=` where the card names none
    #[arg(long, value_name = "CARD[=WEIGHTS]", help_heading = HEADING)]
    source: Vec<String>,
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
    #[command(flatten)]
    results: ResultArgs,
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
    let scene = settings.scene(&args.data);
    let described = Value::Object(settings.job.attacks[0].parameters());
    let mut results = Results::prepare(&args.results, &scene, described)?;
    let mut outcome = scene.execute(&args.run, &stop, &mut results)?;
    warn_of(&settings.device);
    if let Some(start) = &args.run.start {
        outcome.parameters.insert("start".into(), json!(start.to_string_lossy()));
    }
    outcome.rounded = results.rounded();
    let radii = args.attack.radii.clone().unwrap_or_default();
    let facts = Facts { radii, ..scene.facts(&args.results, outcome.batch, args.repeat(&settings)) };
    results.finish(&report::attack_text(&facts, &outcome), || report::attack_json(&facts, &outcome))?;
    verdict(&outcome, settings.expected)
}

impl Args {
    /// Everything that can fail early fails here, the cheap checks first.
    fn resolve(&self) -> Result<Settings> {
        let attack = self.attack.resolve(self.run.start.is_some())?;
        let expected = self.results.expected()?;
        if self.exact {
            self.device.only_f32("attack --exact")?;
        }
        let device = self.device.open()?;
        attack.check(self.model.find(&self.data)?.classes)?;
        let model = self.model.load(&self.data)?;
        let sources = self.sources(&model)?;
        let material = self.run.material(&self.data, &model, self.attack.norm())?;
        let batch = self.device.batch(device.card().is_some(), model.input());
        let job = Job { attacks: vec![attack], sources, batch, seed: self.seed, exact: self.exact };
        Ok(Settings { device, model, material, job, expected })
    }

    /// The models of `--source`.
    fn sources(&self, model: &Model) -> Result<Vec<Model>> {
        let load = |text: &String| -> Result<Model> {
            let (card, weights) =
                text.split_once('=').map_or((text.as_str(), None), |(card, path)| (card, Some(Path::new(path))));
            let source = Model::load(card, weights).map_err(|e| match (&e, weights) {
                (Error::Model { .. }, None) => e.with_hint(format!("name a file of weights: `--source {card}=FILE.safetensors`")),
                _ => e,
            })?;
            let (ours, theirs) = ((model.input(), model.card.classes), (source.input(), source.card.classes));
            if ours == theirs {
                return Ok(source);
            }
            let kind = |([c, h, w], classes): ([usize; 3], usize)| format!("{c}x{h}x{w} images and {classes} classes");
            let (ours, theirs) = (kind(ours), kind(theirs));
            Err(Error::usage(format!("`--source {text}` takes {theirs}, `{}` takes {ours}", model.card.name))
                .with_hint("a source must take the images of the attacked model, and know its classes"))
        };
        self.source.iter().map(load).collect()
    }

    /// The command that gives the same numbers, with every default written out.
    fn repeat(&self, settings: &Settings) -> String {
        let mut words = vec!["petard".to_string(), "attack".into()];
        words.extend(self.model.words(&self.data));
        words.extend(self.data.words());
        words.extend(self.attack.words(settings.job.attacks[0].as_ref()));
        words.extend(self.run.words());
        for source in &self.source {
            words.extend(["--source".into(), quoted(source)]);
        }
        words.extend(["--seed".into(), self.seed.to_string()]);
        words.extend(self.device.words(settings.job.batch));
        words.extend(self.exact.then(|| "--exact".into()));
        words.join(" ")
    }
}

impl Settings {
    fn scene(&self, data: &DataArgs) -> Scene<'_> {
        Scene {
            device: &self.device,
            model: &self.model,
            material: &self.material,
            split: data.split(),
            offset: data.offset(),
            job: &self.job,
        }
    }
}
