//! `petard spectrum psd`: the spectral density of a set, its power law, and the radius that its head ends at.
//! Must not know models.

use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::json;

use super::findings::{Findings, ResultArgs};
use crate::cli::options::{DataArgs, DeviceArgs, warn_of};
use crate::cli::progress;
use crate::cli::stop::Stop;
use crate::cli::value::share;
use crate::data::Dataset;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::report::{Plot, Table};
use crate::spectrum::{Channels, Definition, Density, Energy, Law, Radius, Rings, Runner, Task, band_entropy, fit};

/// Spectral density of a set: share of energy by ring, power law, band entropy, radius of the head
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard spectrum psd --data cifar10:DIR --html psd.html
  petard spectrum psd --data images:DIR --energy amplitude --share 90%")]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    definition: DefinitionArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    results: ResultArgs,
}

/// What counts as the energy of a set.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Density")]
pub struct DefinitionArgs {
    /// Energy of a frequency
    #[arg(long, value_enum, default_value = "power")]
    energy: Energy,
    /// Planes of an image that are transformed
    #[arg(long, value_enum, default_value = "grey")]
    channels: Channels,
    /// Count the mean of an image as well
    #[arg(long)]
    with_mean: bool,
    /// Add energies as they are; else every image weighs the same
    #[arg(long)]
    by_energy: bool,
    /// Radius along which energy accumulates
    #[arg(long, value_enum, default_value = "exact")]
    radius: Radius,
    /// Share of the energy that the head holds
    #[arg(long, value_name = "SHARE", default_value = "80%")]
    share: String,
}

impl DefinitionArgs {
    /// What was typed.
    pub fn definition(&self) -> Definition {
        Definition {
            energy: self.energy,
            channels: self.channels,
            with_mean: self.with_mean,
            per_image: !self.by_energy,
            radius: self.radius,
        }
    }
    /// The head's share of the energy.
    ///
    /// # Errors
    /// Where it is none.
    pub fn share(&self) -> Result<f64> {
        share("--share", &self.share)
    }
    /// In words, for a report.
    pub fn text(&self) -> String {
        format!(
            "{} of {}, {}, {}, radius {}",
            name(self.energy),
            if self.channels == Channels::Grey { "luminance" } else { "each channel" },
            if self.with_mean { "with the mean" } else { "without the mean" },
            if self.by_energy { "energies added" } else { "every image weighs the same" },
            name(self.radius)
        )
    }
    /// The options as they would be typed.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> =
            ["--energy", &name(self.energy), "--channels", &name(self.channels), "--radius", &name(self.radius)]
                .map(String::from)
                .to_vec();
        words.extend(["--share".into(), self.share.clone()]);
        words.extend(self.with_mean.then(|| "--with-mean".into()));
        words.extend(self.by_energy.then(|| "--by-energy".into()));
        words
    }
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default()
}

/// The density of a set.
///
/// # Errors
/// What reading and computing can fail with, and [`Error::Interrupted`].
pub fn density(device: &Device, data: &Dataset, definition: Definition, batch: usize, stop: &Stop) -> Result<Density> {
    let [c, h, w] = data.shape();
    let planes = if definition.channels == Channels::Each { c } else { 1 };
    let mut runner = Runner::new(device, [planes, h, w], &Task::Spectrum, batch.min(data.len()))?;
    runner.note().iter().for_each(|note| eprintln!("note: {note}"));
    let mut density = Density::new(Rings::new(h, w), definition);
    let bar = progress::bar(data.len());
    let mut pixels = vec![0.0; c * h * w];
    for chunk in data.chunks(batch * 4) {
        let chunk = chunk?;
        if stop.asked() {
            return Err(Error::Interrupted { message: format!("stopped after {} of {} images", density.images(), data.len()) });
        }
        let mut taken = Vec::with_capacity(chunk.len() * planes * h * w);
        for i in 0..chunk.len() {
            chunk.pixels_f32(i, &mut pixels);
            taken.extend(Density::planes(definition, [c, h, w], &pixels));
        }
        let each = runner.each();
        runner.run(&taken)?.chunks_exact(each).for_each(|spectrum| density.add(spectrum));
        bar.set_position(density.images() as u64);
    }
    bar.finish_and_clear();
    Ok(density)
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    args.device.only_f32("spectrum psd")?;
    let share = args.definition.share()?;
    let sinks = args.results.prepare()?;
    let device = args.device.open()?;
    let data = args.data.open_any()?;
    let [_, h, w] = data.shape();
    let batch = args.device.batch(device.card().is_some(), data.shape());
    let density = density(&device, &data, args.definition.definition(), batch, &stop)?;
    warn_of(&device);
    let mut words = vec!["petard".to_string(), "spectrum".into(), "psd".into()];
    words.extend(args.data.words());
    words.extend(args.definition.words());
    words.extend(args.device.words(batch));
    let mut findings = findings(&density, share, h.min(w) / 2);
    findings.title = format!("spectral density of {} images of {} ({})", data.len(), data.spec(), args.data.split());
    findings.facts = vec![("density".into(), args.definition.text()), ("device".into(), device.describe())];
    findings.repeat = words.join(" ");
    findings.write(&sinks)?;
    Ok(ExitCode::SUCCESS)
}

/// Tables and plots; the law is fitted to rings 1 to `last`, which are whole circles.
fn findings(density: &Density, head: f64, last: usize) -> Findings {
    let (shares, means) = (density.shares(), density.means());
    let points = |values: &[f64]| -> Vec<(f64, f64)> { values.iter().enumerate().map(|(r, &v)| (r as f64, v)).collect() };
    let (by_mean, by_sum) = (fit(&points(&means)[1..=last]), fit(&points(&shares)[1..=last]));
    let entropy = band_entropy(&shares);
    let mut table = Table::new("", &["ring", "share of energy", "cumulated", "mean of a frequency", "entropy (nats)"]);
    let mut sum = 0.0;
    for (ring, share) in shares.iter().enumerate() {
        sum += share;
        table.row([
            ring.to_string(),
            format!("{share:.6}"),
            format!("{sum:.6}"),
            format!("{:.3e}", means[ring]),
            format!("{:.4}", entropy[ring]),
        ]);
    }
    let radius = density.radius(head);
    let total: f64 = entropy.iter().sum();
    let most = (shares.iter().filter(|s| **s > 0.0).count() as f64).ln();
    let slope = |law: Option<Law>| law.map_or("none".into(), |l| format!("{:.3} (R2 {:.4}, rings 1 to {last})", l.slope, l.r2));
    let slope_json = |law: Option<Law>| json!(law.map(|l| json!({"slope": l.slope, "scale": l.scale, "r2": l.r2})));
    let law_line = |law: Law| (1..=shares.len()).map(|r| (r as f64, law.scale * (r as f64).powf(-law.slope))).collect::<Vec<_>>();
    let mut density_plot =
        Plot::new("Mean energy of a frequency").axes("distance from the mean", "share of all energy").log(true, true);
    density_plot = density_plot.line("set", &points(&means));
    if let Some(law) = by_mean {
        density_plot = density_plot.line(&format!("r^-{:.2}", law.slope), &law_line(law));
    }
    let share_plot = Plot::new("Energy by ring")
        .axes("ring", "share of all energy")
        .line("share", &points(&shares))
        .mark(radius, &format!("{:.0} %", 100.0 * head));
    let entropy_plot = Plot::new("Entropy by ring").axes("ring", "nats").line("-p ln p", &points(&entropy));
    Findings {
        schema: "petard.psd/1",
        title: String::new(),
        facts: Vec::new(),
        numbers: vec![
            ("radius", "radius", format!("{radius:.3} holds {:.1} % of the energy", 100.0 * head), json!(radius)),
            ("law_of_means", "slope", slope(by_mean), slope_json(by_mean)),
            ("law_of_sums", "slope of ring sums", slope(by_sum), slope_json(by_sum)),
            ("entropy", "band entropy", format!("{total:.3} of {most:.3} nats"), json!(total)),
            ("images", "images", format!("{}, {} of them one colour", density.images(), density.flat()), json!(density.images())),
        ],
        tables: vec![table],
        figures: vec![density_plot.svg(), share_plot.svg(), entropy_plot.svg()],
        repeat: String::new(),
    }
}

impl ValueEnum for Energy {
    fn value_variants<'a>() -> &'a [Self] {
        &[Energy::Power, Energy::Amplitude]
    }
    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        use clap::builder::PossibleValue;
        Some(match self {
            Energy::Power => PossibleValue::new("power").help("square of the amplitude"),
            Energy::Amplitude => PossibleValue::new("amplitude"),
        })
    }
}

impl ValueEnum for Channels {
    fn value_variants<'a>() -> &'a [Self] {
        &[Channels::Grey, Channels::Each]
    }
    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        use clap::builder::PossibleValue;
        Some(match self {
            Channels::Grey => PossibleValue::new("grey").alias("gray").help("luminance of three channels, else their mean"),
            Channels::Each => PossibleValue::new("each").help("every channel, energies added"),
        })
    }
}

impl ValueEnum for Radius {
    fn value_variants<'a>() -> &'a [Self] {
        &[Radius::Exact, Radius::Ring]
    }
    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        use clap::builder::PossibleValue;
        Some(match self {
            Radius::Exact => PossibleValue::new("exact").help("frequency by frequency"),
            Radius::Ring => PossibleValue::new("ring").help("whole rings"),
        })
    }
}
