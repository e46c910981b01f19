//! `petard spectrum landscape`: the loss around a model's weights, on low and on high frequencies.
//! Must not know how directions are drawn.

use std::process::ExitCode;

use serde_json::json;

use super::findings::{Findings, ResultArgs};
use super::setting::{Setting, SettingArgs};
use crate::cli::progress;
use crate::cli::value::count;
use crate::error::{Error, Result};
use crate::report::{HeatMap, Plot, Table};
use crate::spectrum::{Band, Rings, Runner, Task};
use crate::study::Samples;
use crate::study::landscape::{Landscape, run as study};

/// Loss landscape along two filter-normalised directions, on the images and on their low and high frequencies
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every point of the grid is a pass over all images, three times: limit them.

Example:
  petard spectrum landscape --model CARD --weights FILE --data cifar10:DIR --limit 500 --html landscape.html")]
pub struct Args {
    #[command(flatten)]
    setting: SettingArgs,
    /// Radius that ends the low band
    #[arg(long, value_name = "RADIUS", default_value_t = 12.0, help_heading = "Landscape")]
    cut: f64,
    /// Points of the grid along each direction
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = count, help_heading = "Landscape")]
    points: usize,
    /// Farthest step along a direction
    #[arg(long, value_name = "STEP", default_value_t = 2.0, help_heading = "Landscape")]
    extent: f64,
    /// Seed of the directions
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Landscape")]
    seed: u64,
    #[command(flatten)]
    results: ResultArgs,
}

const SETS: [&str; 3] = ["whole", "low", "high"];

pub fn run(args: &Args) -> Result<ExitCode> {
    if args.points < 2 {
        return Err(
            Error::usage("`--points 1` makes no grid").with_hint("give 2 or more; an odd number has the model in the middle")
        );
    }
    if !(args.extent > 0.0 && args.extent.is_finite() && args.cut >= 0.0) {
        return Err(Error::usage("`--extent` has to be above 0, and `--cut` 0 or more"));
    }
    let sinks = args.results.prepare()?;
    let setting = args.setting.open("spectrum landscape")?;
    let mut sets = vec![setting.samples.clone()];
    for band in [Band::Low(args.cut), Band::High(args.cut)] {
        sets.push(filtered(&setting, band)?);
    }
    let bar = progress::bar(args.points * args.points);
    let stop = || setting.stop.asked();
    let on = (&setting.device, &setting.model);
    let grid = (args.points, args.extent);
    let found = study(on, &sets, grid, args.seed, setting.batch, &stop, |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let mut findings = findings(&found);
    findings.title = format!("loss landscape on {}", setting.images);
    findings.facts = setting.facts();
    let own = [("--cut", args.cut.to_string()), ("--points", args.points.to_string()), ("--extent", args.extent.to_string())];
    let mut words: Vec<String> = own.into_iter().flat_map(|(name, value)| [name.to_string(), value]).collect();
    words.extend(["--seed".into(), args.seed.to_string()]);
    findings.repeat = args.setting.repeat("landscape", words, &setting);
    findings.write(&sinks)?;
    Ok(ExitCode::SUCCESS)
}

/// The images with one band alone. They are not clipped: what a filter gives is what the model is shown.
fn filtered(setting: &Setting, band: Band) -> Result<Samples> {
    let shape = setting.samples.shape;
    let weights = band.weights(Rings::new(shape[1], shape[2]));
    let mut runner = Runner::new(&setting.device, shape, &Task::Filter(weights), setting.batch.min(setting.samples.len()))?;
    Ok(Samples { pixels: runner.run(&setting.samples.pixels)?, ..setting.samples.clone() })
}

fn findings(found: &Landscape) -> Findings {
    let points = found.steps.len();
    let mut table = Table::new("", &["second", "first", "loss", "loss low", "loss high"]);
    for at in 0..points * points {
        let steps = [found.steps[at / points], found.steps[at % points]].map(|s| format!("{s:.4}"));
        table.row(steps.into_iter().chain(found.losses.iter().map(|l| format!("{:.5}", l[at]))));
    }
    let ends = [found.steps[0], found.steps[points - 1]];
    let map = |(name, losses): (&str, &Vec<f64>)| {
        let logs: Vec<f64> = losses.iter().map(|l| l.max(1e-12).log10()).collect();
        HeatMap::new(&format!("Loss, {name} spectrum"), points, &logs)
            .axes("first direction", "second direction", "log10")
            .extent(ends, ends)
            .svg()
    };
    let mut cut = Plot::new("Loss along the first direction").axes("step", "mean cross-entropy").log(false, true);
    for (name, losses) in SETS.into_iter().zip(&found.losses) {
        let middle = points / 2;
        let row: Vec<(f64, f64)> = found.steps.iter().copied().zip(losses[middle * points..].iter().copied()).collect();
        cut = cut.line(name, &row);
    }
    // Share of the grid where the loss is within 0.5 of its minimum: a wide basin has a large one.
    let flat = |losses: &Vec<f64>| {
        let low = losses.iter().copied().fold(f64::INFINITY, f64::min);
        losses.iter().filter(|l| **l <= low + 0.5).count() as f64 / losses.len() as f64
    };
    let shares: Vec<f64> = found.losses.iter().map(flat).collect();
    let text = SETS.iter().zip(&shares).map(|(n, s)| format!("{n} {:.1} %", 100.0 * s)).collect::<Vec<_>>().join(", ");
    let mut figures: Vec<String> = SETS.into_iter().zip(&found.losses).map(map).collect();
    figures.insert(0, cut.svg());
    Findings {
        schema: "petard.landscape/1",
        title: String::new(),
        facts: Vec::new(),
        numbers: vec![
            ("flat", "within 0.5 of the minimum", text, json!(shares)),
            ("steps", "grid", format!("{points} by {points}"), json!(found.steps)),
        ],
        tables: vec![table],
        figures,
        repeat: String::new(),
    }
}
