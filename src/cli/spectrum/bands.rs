//! `petard spectrum bands`: images split into head and tail of their spectrum, and what a model sees in each.
//! Must not know how filters work.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::findings::{Findings, ResultArgs};
use super::psd::{DefinitionArgs, density};
use crate::cli::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use crate::cli::output;
use crate::cli::stop::Stop;
use crate::cli::value::quoted;
use crate::data::{Dataset, save};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::report::{Plot, Table};
use crate::session::{Classifier, argmax};
use crate::spectrum::{Band, Rings, Runner, Task};

/// Split images into low and high frequencies, and classify what is left of them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard spectrum bands --model CARD --weights FILE --data cifar10:DIR --html bands.html
  petard spectrum bands --model CARD --weights FILE --data cifar10:DIR --cut 12
  petard spectrum bands --data cifar10:DIR --save-low low --save-high high      # the split sets alone, without a model")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Radius that ends the low band [default: that of the head, see `petard spectrum psd`]
    #[arg(long, value_name = "RADIUS", help_heading = "Density")]
    cut: Option<f64>,
    #[command(flatten)]
    definition: DefinitionArgs,
    /// Radii at which accuracy on low and high bands is measured [default: every second ring]
    #[arg(long, value_name = "RADIUS,..", value_delimiter = ',', help_heading = "Density")]
    radii: Vec<f64>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Save the low-pass images: a .safetensors or .npz file, or a folder of parts; needs no model
    #[arg(long, value_name = "DIR|FILE", help_heading = "Results")]
    save_low: Option<PathBuf>,
    /// Save the high-pass images, clipped to [0,1] after adding 0.5
    #[arg(long, value_name = "DIR|FILE", help_heading = "Results")]
    save_high: Option<PathBuf>,
    #[command(flatten)]
    results: ResultArgs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    args.device.only_f32("spectrum bands")?;
    let saves = [("--save-low", &args.save_low), ("--save-high", &args.save_high)];
    saves.iter().filter_map(|(o, p)| p.as_ref().map(|p| (o, p))).try_for_each(|(o, p)| output::not_there(o, p))?;
    let share = args.definition.share()?;
    let sinks = args.results.prepare()?;
    let device = args.device.open()?;
    let only_split = saves.iter().any(|s| s.1.is_some()) && !args.model.named();
    let model = (!only_split).then(|| args.model.load(&args.data)).transpose()?;
    let data = model.as_ref().map_or_else(|| args.data.open_any(), |m| args.data.open(&m.card))?;
    let batch = args.device.batch(device.card().is_some(), data.shape());
    let low = match args.cut {
        Some(radius) if radius >= 0.0 => Band::Low(radius),
        Some(radius) => return Err(Error::usage(format!("`--cut {radius}` is not a radius")).with_hint("give 0 or more")),
        None => density(&device, &data, args.definition.definition(), batch, &stop)?.head(share),
    };
    let Band::Low(cut) = low else { unreachable!("a head is a low band") };
    for (path, band) in [(&args.save_low, low), (&args.save_high, Band::High(cut))] {
        if let Some(path) = path {
            split(&device, &data, band, batch, path, &stop)?;
        }
    }
    let [_, h, w] = data.shape();
    let rings = Rings::new(h, w);
    let mut radii =
        if args.radii.is_empty() { (0..rings.count()).step_by(2).map(|r| r as f64).collect() } else { args.radii.clone() };
    radii.push(cut);
    radii.sort_by(f64::total_cmp);
    radii.dedup();
    let mut rows = Vec::new();
    if let Some(model) = &model {
        let mut classifier = Classifier::new(&device, model, batch.min(data.len()))?;
        for &radius in &radii {
            let low = accuracy(&device, &mut classifier, &data, Band::Low(radius), batch, &stop)?;
            let high = accuracy(&device, &mut classifier, &data, Band::High(radius), batch, &stop)?;
            rows.push((radius, low, high));
        }
    }
    warn_of(&device);
    let mut words = vec!["petard".to_string(), "spectrum".into(), "bands".into()];
    if model.is_some() {
        words.extend(args.model.words(&args.data));
    }
    words.extend(args.data.words());
    words.extend([
        "--cut".into(),
        cut.to_string(),
        "--radii".into(),
        radii.iter().map(f64::to_string).collect::<Vec<_>>().join(","),
    ]);
    for (option, path) in saves {
        words.extend(path.iter().flat_map(|p| [option.to_string(), quoted(&p.to_string_lossy())]));
    }
    words.extend(args.device.words(batch));
    let mut findings = findings(&rows, cut);
    findings.title = format!("low and high frequencies of {} images of {} ({})", data.len(), data.spec(), args.data.split());
    findings.facts = vec![("device".into(), device.describe())];
    if let Some(model) = &model {
        findings.facts.insert(0, ("model".into(), model.card.name.clone()));
    }
    findings.repeat = words.join(" ");
    findings.write(&sinks)?;
    Ok(ExitCode::SUCCESS)
}

fn findings(rows: &[(f64, f64, f64)], cut: f64) -> Findings {
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let mut table = Table::new("", &["radius", "accuracy low (%)", "accuracy high (%)"]);
    rows.iter().for_each(|&(r, low, high)| table.row([format!("{r:.3}"), percent(low), percent(high)]));
    let line = |f: fn(&(f64, f64, f64)) -> f64| rows.iter().map(|row| (row.0, 100.0 * f(row))).collect::<Vec<_>>();
    let plot = Plot::new("Accuracy on band-limited images")
        .axes("radius of the cut", "accuracy (%)")
        .y_range(0.0, 100.0)
        .line("low frequencies", &line(|r| r.1))
        .line("high frequencies", &line(|r| r.2))
        .mark(cut, "head | tail");
    let at = rows.iter().find(|r| r.0 == cut);
    let mut numbers = vec![("cut", "cut", format!("radius {cut:.3}"), json!(cut))];
    if let Some((_, low, high)) = at {
        numbers.push(("low", "low", format!("{} %", percent(*low)), json!(low)));
        numbers.push(("high", "high", format!("{} %", percent(*high)), json!(high)));
    }
    let drawn = !rows.is_empty();
    Findings {
        schema: "petard.bands/1",
        title: String::new(),
        facts: Vec::new(),
        numbers,
        tables: if drawn { vec![table] } else { Vec::new() },
        figures: if drawn { vec![plot.svg()] } else { Vec::new() },
        repeat: String::new(),
    }
}

/// Runs over a set: calls `take` with the filtered images of each chunk.
fn each_chunk(
    device: &Device,
    data: &Dataset,
    band: Band,
    batch: usize,
    stop: &Stop,
    mut take: impl FnMut(&crate::data::Batch, Vec<f32>) -> Result<()>,
) -> Result<()> {
    let [c, h, w] = data.shape();
    let weights = band.weights(Rings::new(h, w));
    let mut runner = Runner::new(device, [c, h, w], &Task::Filter(weights), batch.min(data.len()))?;
    for chunk in data.chunks(batch * 4) {
        if stop.asked() {
            return Err(Error::Interrupted { message: "stopped between two batches".into() });
        }
        let chunk = chunk?;
        let mut pixels = vec![0.0; chunk.len() * c * h * w];
        pixels.chunks_exact_mut(c * h * w).enumerate().for_each(|(i, image)| chunk.pixels_f32(i, image));
        take(&chunk, runner.run(&pixels)?)?;
    }
    Ok(())
}

/// Share of the images that are still seen as their class, or as what the model saw in the whole image where there is no label.
fn accuracy(device: &Device, classifier: &mut Classifier, data: &Dataset, band: Band, batch: usize, stop: &Stop) -> Result<f64> {
    let elems: usize = data.shape().iter().product();
    let (mut right, mut whole) = (0, vec![0.0; elems]);
    each_chunk(device, data, band, batch, stop, |chunk, filtered| {
        let views: Vec<&[f32]> = filtered.chunks_exact(elems).collect();
        let classes = classifier.classes();
        let seen: Vec<Option<usize>> = classifier.logits(&views)?.chunks_exact(classes).map(argmax).collect();
        for (i, seen) in seen.into_iter().enumerate() {
            let label = match &chunk.labels {
                Some(labels) => Some(labels[i] as usize),
                None => {
                    chunk.pixels_f32(i, &mut whole);
                    argmax(&classifier.logits(&[&whole])?)
                }
            };
            right += usize::from(seen.is_some() && seen == label);
        }
        Ok(())
    })?;
    Ok(right as f64 / data.len() as f64)
}

/// Writes one side of the split as a set. The high side has a mean of 0: it is moved to the middle of the range.
fn split(device: &Device, data: &Dataset, band: Band, batch: usize, path: &std::path::Path, stop: &Stop) -> Result<()> {
    let mut writer = save::Writer::create_images(path, data.shape(), data.labelled())?;
    writer.note("data", json!(data.spec()));
    writer.note("band", json!(format!("{band:?}")));
    let shift = if matches!(band, Band::Low(_)) { 0.0 } else { 0.5 };
    each_chunk(device, data, band, batch, stop, |chunk, filtered| {
        let bytes: Vec<u8> = filtered.iter().map(|v| ((v + shift) * 255.0).round().clamp(0.0, 255.0) as u8).collect();
        writer.append_images(&bytes, chunk.labels.as_deref(), &chunk.index)
    })?;
    writer.finish()
}
