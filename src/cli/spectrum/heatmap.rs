//! `petard spectrum heatmap`: errors under noise of one frequency, for each frequency.
//! Must not know how waves are made.

use std::process::ExitCode;

use serde_json::json;

use super::findings::{Findings, ResultArgs};
use super::setting::{SettingArgs, numbered};
use crate::cli::progress;
use crate::error::{Error, Result};
use crate::report::{HeatMap, Plot, Table};
use crate::study::heatmap::run as study;

/// Fourier heat map: share of errors when one wave is added to every image, for each wave
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every frequency is a pass over all images: limit them.

Example:
  petard spectrum heatmap --model CARD --weights FILE --data cifar10:DIR --limit 200 --html heatmap.html")]
pub struct Args {
    #[command(flatten)]
    setting: SettingArgs,
    /// Euclidean length of the wave added to each channel
    #[arg(long, value_name = "LENGTH", default_value_t = 4.0, help_heading = "Noise")]
    length: f32,
    /// Seed of the signs
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Noise")]
    seed: u64,
    #[command(flatten)]
    results: ResultArgs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if !(args.length > 0.0 && args.length.is_finite()) {
        return Err(Error::usage(format!("`--length {}` is not above 0", args.length)));
    }
    let sinks = args.results.prepare()?;
    let setting = args.setting.open("spectrum heatmap")?;
    let [_, h, w] = setting.samples.shape;
    let bar = progress::bar(h * (w / 2 + 1));
    let on = (&setting.device, &setting.model);
    let stop = || setting.stop.asked();
    let found =
        study(on, &setting.samples, args.length, args.seed, setting.batch, &stop, |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let mut table = Table::new("", &["ring", "mean error (%)"]);
    found.by_ring.iter().enumerate().for_each(|(r, e)| table.row([r.to_string(), format!("{:.3}", 100.0 * e)]));
    let percent: Vec<f64> = found.error.iter().map(|e| 100.0 * e).collect();
    let (low, high) = (-((h / 2) as f64), (h - h / 2) as f64 - 1.0);
    let (left, right) = (-((w / 2) as f64), (w - w / 2) as f64 - 1.0);
    let map = HeatMap::new("Errors by frequency of the noise", w, &percent)
        .axes("horizontal frequency", "vertical frequency", "error (%)")
        .extent([left, right], [low, high])
        .range(0.0, 100.0);
    let rings: Vec<f64> = found.by_ring.iter().map(|e| 100.0 * e).collect();
    let plot =
        Plot::new("Errors by ring").axes("ring", "mean error (%)").y_range(0.0, 100.0).line("with noise", &numbered(&rings));
    let mean = found.error.iter().sum::<f64>() / found.error.len() as f64;
    let findings = Findings {
        schema: "petard.heatmap/1",
        title: format!("Fourier heat map of {}", setting.images),
        facts: setting.facts(),
        numbers: vec![
            ("clean_error", "clean error", format!("{:.2} %", 100.0 * found.clean), json!(found.clean)),
            ("mean_error", "mean error", format!("{:.2} % over all frequencies", 100.0 * mean), json!(mean)),
            ("length", "length of the wave", args.length.to_string(), json!(args.length)),
            (
                "error",
                "frequencies",
                format!("{h} by {w}, the mean in the middle"),
                json!(found.error.chunks(w).collect::<Vec<_>>()),
            ),
        ],
        tables: vec![table],
        figures: vec![map.svg(), plot.svg()],
        repeat: args.setting.repeat(
            "heatmap",
            vec!["--length".into(), args.length.to_string(), "--seed".into(), args.seed.to_string()],
            &setting,
        ),
    };
    findings.write(&sinks)?;
    Ok(ExitCode::SUCCESS)
}
