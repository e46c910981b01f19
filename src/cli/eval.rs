//! `petard eval`: an ensemble of attacks on a model, the worst case of each image, and the figure that leaderboards mean.
//! Must not know how attacks work.
//! Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::{Map, Value, json};

use super::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use super::output;
use super::results::{ResultArgs, Results, Scene, verdict};
use super::run_args::RunArgs;
use super::stop::Stop;
use super::value::{self, quoted};
use crate::attack::auto::{Version, chosen, ensemble};
use crate::attack::{Attack, Job, Keep};
use crate::error::{Error, Result};
use crate::outcome::Doubt;
use crate::report::{self, radius_text};
use crate::threat::{Norm, ThreatModel};

/// Evaluate a model with AutoAttack and report the worst case of each image
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard eval --model resnet18-cifar10 --weights FILE.safetensors --data cifar10:DIR --norm linf --eps 8/255
  petard eval --model my.toml --data cifar10:DIR --limit 1000 --norm l2 --json eval.json --robustbench record.json
  petard eval --model my.toml --data file:batch.npz --attacks apgd-ce,apgd-t

Exit code: 0, or 1 where `--expect-robust` was missed, or 2 for an error.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// How the change of an image is measured
    #[arg(long, value_enum, ignore_case = true, default_value = "linf", alias = "ord", help_heading = HEADING)]
    norm: Norm,
    /// Radius: how far an image may be changed [default: linf 8/255, l2 0.5, l1 12]
    #[arg(long, value_name = "LENGTH", alias = "epsilon", allow_hyphen_values = true, help_heading = HEADING)]
    eps: Option<String>,
    /// Which attacks [default: standard, or custom with --attacks]
    #[arg(long, value_enum, ignore_case = true, help_heading = HEADING)]
    version: Option<Version>,
    /// Attacks of a custom ensemble, in this order, such as `apgd-ce,apgd-t`
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = HEADING)]
    attacks: Vec<String>,
    /// Which success is returned: `first-success` lets an image leave at once, which changes no verdict [default:
    /// first-success, in 16 bits last-success]
    #[arg(long = "return", value_enum, ignore_case = true, help_heading = HEADING)]
    keep: Option<Keep>,
    /// Forward passes that a gradient is averaged over (rand) [default: 1: networks here are not random]
    #[arg(long, value_name = "N", value_parser = value::count, alias = "eot-iter", help_heading = HEADING)]
    eot: Option<usize>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = HEADING)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Keep to direct kernels in the attacks too (the verdict always does)
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    results: ResultArgs,
    /// A record as RobustBench keeps it, in JSON (version standard)
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    robustbench: Option<PathBuf>,
}

const HEADING: &str = "Ensemble (lengths in units of [0,1] pixels; fractions such as 8/255 are fine)";

impl ValueEnum for Version {
    fn value_variants<'a>() -> &'a [Self] {
        &[Version::Standard, Version::Plus, Version::Rand, Version::Custom]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        let names = self.attacks().join(", ");
        Some(PossibleValue::new(self.name()).help(if names.is_empty() { "those of --attacks".into() } else { names }))
    }
}

/// What was typed, settled.
struct Settings {
    threat: ThreatModel,
    version: Version,
    keep: Keep,
    attacks: Vec<Arc<dyn Attack>>,
    doubts: Vec<Doubt>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    let settings = args.settle()?;
    let expected = args.results.expected()?;
    if args.exact {
        args.device.only_f32("eval --exact")?;
    }
    if let Some(path) = &args.robustbench {
        output::writable(path)?;
    }
    let device = args.device.open()?;
    let classes = args.model.find(&args.data)?.classes;
    settings.attacks.iter().try_for_each(|attack| attack.check(classes))?;
    let model = args.model.load(&args.data)?;
    let material = args.run.material(&args.data, &model, settings.threat.norm)?;
    let batch = args.device.batch(device.card().is_some(), model.input());
    let job = Job { attacks: settings.attacks.clone(), sources: Vec::new(), batch, seed: args.seed, exact: args.exact };
    let (split, offset) = (args.data.split(), args.data.offset());
    let scene = Scene { device: &device, model: &model, material: &material, split, offset, job: &job };
    let mut results = Results::prepare(&args.results, &scene, Value::Object(settings.parameters()))?;
    let mut outcome = scene.execute(&args.run, &stop, &mut results)?;
    warn_of(&device);
    outcome.attack = "autoattack".into();
    outcome.parameters = settings.parameters();
    outcome.doubts.extend(settings.doubts.iter().cloned());
    outcome.rounded = results.rounded();
    let facts = scene.facts(&args.results, outcome.batch, args.repeat(&settings, batch));
    if let Some(path) = &args.robustbench {
        output::write_file(path, &report::robustbench_json(&facts, &outcome))?;
    }
    let text = report::eval_text(&facts, &outcome);
    results.finish(&text, || report::eval_json(&facts, &outcome))?;
    verdict(&outcome, expected)
}

impl Args {
    /// The ensemble, and what speaks against its figure from the start.
    fn settle(&self) -> Result<Settings> {
        let version = self.version.unwrap_or(if self.attacks.is_empty() { Version::Standard } else { Version::Custom });
        if version != Version::Custom && !self.attacks.is_empty() {
            return Err(Error::usage(format!("`--attacks` goes with `--version custom`, not with `{version}`"))
                .with_hint("leave one of them out"));
        }
        if self.robustbench.is_some() && version != Version::Standard {
            return Err(Error::usage(format!("a leaderboard means `--version standard`, not `{version}`"))
                .with_hint("leave `--robustbench` out, or use `--version standard`"));
        }
        if matches!(self.keep, Some(Keep::Last | Keep::BestLoss)) {
            return Err(Error::usage("an ensemble returns successes").with_hint("choose `first-success` or `last-success`"));
        }
        if self.eot.is_some() && version != Version::Rand {
            return Err(
                Error::usage(format!("`--eot` goes with `--version rand`, not with `{version}`")).with_hint("leave `--eot` out")
            );
        }
        if self.eot.is_some_and(|n| n > 1) {
            return Err(Error::usage("networks here are not random: every forward pass gives the same gradient")
                .with_hint("leave `--eot` out"));
        }
        let eps = self.eps.as_deref().map(|text| value::radius("--eps", self.norm, text)).transpose()?;
        let threat = ThreatModel::new(self.norm, eps.unwrap_or_else(|| self.norm.default_eps()));
        // Where the device's own word in 16 bits may not stand, what lies deepest is worth more than what comes first.
        let halves = self.device.precision().half().is_some();
        let keep = self.keep.unwrap_or(if halves { Keep::LastSuccess } else { Keep::FirstSuccess });
        let names: Vec<&str> = self.attacks.iter().map(|name| name.trim()).collect();
        let (attacks, missing) = if version == Version::Custom {
            (chosen(threat, &names, keep)?, Vec::new())
        } else {
            ensemble(threat, version, keep)
        };
        let mut doubts = Vec::new();
        if !missing.is_empty() {
            let message = format!(
                "`{version}` also has {}, which this build lacks: robust accuracy is an upper bound",
                missing.join(" and ")
            );
            doubts.push(Doubt::new("incomplete-ensemble", message));
        }
        if version == Version::Rand {
            let message = "the network is not random: averaging gradients over forward passes would change nothing, one was made";
            doubts.push(Doubt::new("deterministic", message));
        }
        Ok(Settings { threat, version, keep, attacks, doubts })
    }

    /// The command that gives the same numbers, with every default written out.
    fn repeat(&self, settings: &Settings, batch: usize) -> String {
        let mut words = vec!["petard".to_string(), "eval".into()];
        words.extend(self.model.words(&self.data));
        words.extend(self.data.words());
        let threat = settings.threat;
        words.extend(["--norm".into(), threat.norm.name().into(), "--eps".into(), radius_text(threat.norm, threat.eps)]);
        words.extend(["--version".into(), settings.version.name().into()]);
        if !self.attacks.is_empty() {
            words.extend(["--attacks".into(), quoted(&self.attacks.join(","))]);
        }
        words.extend(["--return".into(), settings.keep.to_string(), "--seed".into(), self.seed.to_string()]);
        words.extend(self.run.words());
        words.extend(self.device.words(batch));
        words.extend(self.exact.then(|| "--exact".into()));
        words.join(" ")
    }
}

impl Settings {
    fn parameters(&self) -> Map<String, Value> {
        let names: Vec<&str> = self.attacks.iter().map(|a| a.name()).collect();
        let pairs = [
            ("name", json!("autoattack")),
            ("version", json!(self.version.name())),
            ("norm", json!(self.threat.norm.name())),
            ("eps", json!(self.threat.eps)),
            ("attacks", json!(names)),
            ("return", json!(self.keep.to_string())),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}
