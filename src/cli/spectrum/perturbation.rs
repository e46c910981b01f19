//! `petard spectrum perturbation`: what an attack adds, frequency by frequency.
//! Must not know how attacks work.

use std::process::ExitCode;

use serde_json::json;

use super::findings::{Findings, ResultArgs};
use super::setting::numbered;
use crate::attack::{self, Given, Hooks, Job, Returned};
use crate::cli::attack_args::AttackArgs;
use crate::cli::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use crate::cli::stop::Stop;
use crate::cli::value::quoted;
use crate::data::{self, Dataset};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::report::{HeatMap, Plot, Table};
use crate::study::perturbation::Spectra;

/// Spectrum of adversarial perturbations: of a saved set beside its clean one, or of an attack that is run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard spectrum perturbation --data cifar10:DIR --adversarial file:adv.npz
  petard spectrum perturbation --model CARD --weights FILE --data cifar10:DIR --limit 500 --steps 20 --html adv.html")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// A saved set: each image belongs to the clean image of the same index in the split
    #[arg(long, value_name = "SPEC", help_heading = "Images")]
    adversarial: Option<String>,
    #[command(flatten)]
    attack: AttackArgs,
    /// Seed of the attack
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = crate::cli::attack_args::HEADING)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    results: ResultArgs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    args.device.only_f32("spectrum perturbation")?;
    let sinks = args.results.prepare()?;
    let device = args.device.open()?;
    let mut words = vec!["petard".to_string(), "spectrum".into(), "perturbation".into()];
    let mut facts = Vec::new();
    let (spectra, data) = match &args.adversarial {
        Some(spec) => {
            let data = args.data.open_any()?;
            words.extend(args.data.words());
            words.extend(["--adversarial".into(), quoted(spec)]);
            facts.push(("adversarial".to_string(), spec.clone()));
            (saved(&device, &data, spec)?, data)
        }
        None => {
            let model = args.model.load(&args.data)?;
            let data = args.data.open(&model.card)?;
            let attack = args.attack.resolve(false)?;
            let batch = args.device.batch(device.card().is_some(), model.input());
            words.extend(args.model.words(&args.data));
            words.extend(args.data.words());
            words.extend(args.attack.words(attack.as_ref()));
            words.extend(["--seed".into(), args.seed.to_string()]);
            words.extend(args.device.words(batch));
            facts.push(("model".to_string(), model.card.name.clone()));
            let mut spectra = Spectra::new(&device, data.shape())?;
            let job = Job { attacks: vec![attack], sources: Vec::new(), batch, seed: args.seed, exact: false };
            let mut pairs = Pairs::new(&data);
            let hooks = Hooks {
                returned: Some(Box::new(|r: &Returned| pairs.add(&mut spectra, r.adversarial))),
                stop: Some(Box::new(|| stop.asked())),
                ..Hooks::default()
            };
            let outcome = attack::run(&device, &model, &data, &job, &Given::default(), hooks)?;
            let accuracy =
                format!("{:.2} % clean, {:.2} % robust", 100.0 * outcome.clean_accuracy(), 100.0 * outcome.robust_accuracy());
            facts.push(("accuracy".to_string(), accuracy));
            (spectra, data)
        }
    };
    warn_of(&device);
    facts.push(("device".into(), device.describe()));
    let mut findings = findings(&spectra, data.shape());
    findings.title = format!("spectrum of perturbations of {} images of {} ({})", data.len(), data.spec(), args.data.split());
    findings.facts = facts;
    findings.repeat = words.join(" ");
    findings.write(&sinks)?;
    Ok(ExitCode::SUCCESS)
}

/// The clean images, taken in order beside those that come back from an attack.
struct Pairs<'a> {
    data: &'a Dataset,
    next: usize,
    clean: Vec<f32>,
}

impl<'a> Pairs<'a> {
    fn new(data: &'a Dataset) -> Self {
        Pairs { data, next: 0, clean: vec![0.0; data.shape().iter().product()] }
    }
    fn add(&mut self, spectra: &mut Spectra, adversarial: &[f32]) -> Result<()> {
        let count = adversarial.len() / self.clean.len();
        let batch = self.data.read(self.next..self.next + count)?;
        self.next += count;
        for (i, attacked) in adversarial.chunks_exact(self.clean.len()).enumerate() {
            batch.pixels_f32(i, &mut self.clean);
            spectra.add(&self.clean, attacked)?;
        }
        Ok(())
    }
}

/// Pairs of a saved set and the clean images at the positions that it names.
fn saved(device: &Device, data: &Dataset, spec: &str) -> Result<Spectra> {
    let options = data::Options { shape: Some(data.shape()), ..data::Options::default() };
    let attacked = Dataset::open(spec, &options)?;
    let mut spectra = Spectra::new(device, data.shape())?;
    let clean = data.read(0..data.len())?;
    let place: std::collections::HashMap<u32, usize> = clean.index.iter().enumerate().map(|(i, &index)| (index, i)).collect();
    let mut pair = [vec![0.0; data.shape().iter().product()], vec![0.0; data.shape().iter().product()]];
    for chunk in attacked.chunks(1024) {
        let chunk = chunk?;
        for (i, index) in chunk.index.iter().enumerate() {
            let at = *place.get(index).ok_or_else(|| {
                Error::input(format!("image {index} of `{spec}` is not among the clean images"))
                    .with_hint("give the clean set that was attacked, with its split, and no `--limit` below that of the attack")
            })?;
            clean.pixels_f32(at, &mut pair[0]);
            chunk.pixels_f32(i, &mut pair[1]);
            spectra.add(&pair[0], &pair[1])?;
        }
    }
    Ok(spectra)
}

fn findings(spectra: &Spectra, [_, h, w]: [usize; 3]) -> Findings {
    let ([perturbation, image], (pairs, changed)) = (spectra.shares(), spectra.pairs());
    let mut table = Table::new("", &["ring", "share of the perturbations", "share of the images"]);
    for (ring, (p, x)) in perturbation.iter().zip(&image).enumerate() {
        table.row([ring.to_string(), format!("{p:.6}"), format!("{x:.6}")]);
    }
    let amplitude = spectra.amplitude();
    let logs: Vec<f64> = amplitude.iter().map(|a| a.log10()).collect();
    let ends = |n: usize| [-((n / 2) as f64), (n - n / 2) as f64 - 1.0];
    let map = HeatMap::new("Mean amplitude of the perturbations", w, &logs)
        .axes("horizontal frequency", "vertical frequency", "log10")
        .extent(ends(w), ends(h));
    let plot = Plot::new("Energy by ring, without the mean")
        .axes("ring", "share")
        .log(false, true)
        .line("perturbations", &numbered(&perturbation))
        .line("images", &numbered(&image));
    let [centre, clean] = spectra.centres();
    Findings {
        schema: "petard.perturbation/1",
        title: String::new(),
        facts: Vec::new(),
        numbers: vec![
            ("changed", "pairs", format!("{pairs}, {changed} of them differ"), json!([pairs, changed])),
            ("centre", "mean radius", format!("{centre:.2} of perturbations, {clean:.2} of images"), json!([centre, clean])),
            (
                "amplitude",
                "frequencies",
                format!("{h} by {w}, the mean in the middle"),
                json!(amplitude.chunks(w).collect::<Vec<_>>()),
            ),
        ],
        tables: vec![table],
        figures: vec![map.svg(), plot.svg()],
        repeat: String::new(),
    }
}
