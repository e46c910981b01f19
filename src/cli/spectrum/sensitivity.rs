//! `petard spectrum sensitivity`: how strongly a model's loss reacts to each frequency, by rank.
//! Must not know how gradients are computed.

use std::process::ExitCode;

use serde_json::json;

use super::findings::{Findings, ResultArgs};
use super::setting::{SettingArgs, numbered};
use crate::error::Result;
use crate::report::{Plot, Table};
use crate::study::sensitivity::{Sensitivity, kernel_density, run as study};

/// Spectrum of the loss's gradient: magnitude by rank, and at which radius each rank lies
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  petard spectrum sensitivity --model CARD --weights FILE --data cifar10:DIR --limit 1000 --html sensitivity.html")]
pub struct Args {
    #[command(flatten)]
    setting: SettingArgs,
    #[command(flatten)]
    results: ResultArgs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let sinks = args.results.prepare()?;
    let setting = args.setting.open("spectrum sensitivity")?;
    let found = study(&setting.device, &setting.model, &setting.samples, setting.batch, &|| setting.stop.asked())?;
    let mut findings = findings(&found);
    findings.title = format!("sensitivity to frequencies on {}", setting.images);
    findings.facts = setting.facts();
    findings.repeat = args.setting.repeat("sensitivity", Vec::new(), &setting);
    findings.write(&sinks)?;
    Ok(ExitCode::SUCCESS)
}

fn findings(found: &Sensitivity) -> Findings {
    let mut table = Table::new("", &["rank", "magnitude", "mean radius", "median radius"]);
    let last = found.by_ring.len() as f64;
    let points: Vec<f64> = (0..=200).map(|i| last * f64::from(i) / 200.0).collect();
    let mut density = Plot::new("Where the ranks lie").axes("distance from the mean", "density over images");
    for (radii, &rank) in found.radii.iter().zip(&found.ranks) {
        let mut sorted = radii.clone();
        sorted.sort_by(f64::total_cmp);
        let mean = radii.iter().sum::<f64>() / radii.len().max(1) as f64;
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
        table.row([(rank + 1).to_string(), format!("{:.4e}", found.by_rank[rank]), format!("{mean:.3}"), format!("{median:.3}")]);
        let curve: Vec<(f64, f64)> = points.iter().copied().zip(kernel_density(radii, &points)).collect();
        density = density.line(&format!("rank {}", rank + 1), &curve);
    }
    let mut rings = Table::new("mean magnitude by ring", &["ring", "magnitude"]);
    found.by_ring.iter().enumerate().for_each(|(r, m)| rings.row([r.to_string(), format!("{m:.4e}")]));
    let by_rank: Vec<(f64, f64)> = found.by_rank.iter().enumerate().map(|(i, &v)| (i as f64 + 1.0, v)).collect();
    let ranked = Plot::new("Magnitude by rank").axes("rank", "sum over images").log(false, true).line("gradient", &by_rank);
    let by_ring = Plot::new("Magnitude by ring")
        .axes("ring", "mean of a frequency")
        .log(false, true)
        .line("gradient", &numbered(&found.by_ring));
    let top = found.radii[0].iter().sum::<f64>() / found.radii[0].len().max(1) as f64;
    Findings {
        schema: "petard.sensitivity/1",
        title: String::new(),
        facts: Vec::new(),
        numbers: vec![
            ("top_radius", "strongest frequency", format!("lies {top:.2} from the mean, on average"), json!(top)),
            (
                "without_gradient",
                "without gradient",
                format!("{} images, which do not count", found.without),
                json!(found.without),
            ),
        ],
        tables: vec![table, rings],
        figures: vec![ranked.svg(), density.svg(), by_ring.svg()],
        repeat: String::new(),
    }
}
