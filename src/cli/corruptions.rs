//! `petard corruptions`: a model's accuracy under fifteen common corruptions at five severities.
//! Must not know how images are corrupted.

use std::process::ExitCode;

use serde_json::json;

use super::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use super::progress;
use super::spectrum::findings::{Findings, ResultArgs};
use super::stop::Stop;
use crate::data::corrupt::{Corruption, Group, SEVERITIES, corrupt};
use crate::data::{Dataset, Images};
use crate::error::{Error, Result};
use crate::report::{Plot, Table};
use crate::session::{Classifier, argmax};

/// Measure accuracy under common corruptions: by kind, severity and group, and the mean corruption error
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With `--data cifar10c:DIR` or `cifar100c:DIR` the published files in DIR are used, else the images of the set are
corrupted here, which gives similar images and not the same ones.

Examples:
  petard corruptions --model CARD --weights FILE --data cifar10c:DIR
  petard corruptions --model CARD --weights FILE --data cifar10:DIR --limit 1000 --html corruptions.html")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Seed of the corruptions
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    results: ResultArgs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    args.device.only_f32("corruptions")?;
    let sinks = args.results.prepare()?;
    let device = args.device.open()?;
    let model = args.model.load(&args.data)?;
    let files = args.data.spec_of(&["cifar10c", "cifar100c"]);
    let options = args.data.options(&model.card);
    let whole = files.is_none().then(|| args.data.open(&model.card)).transpose()?;
    let batch = args.device.batch(device.card().is_some(), model.input());
    let mut classifier = Classifier::new(&device, &model, batch)?;
    let clean = whole.as_ref().map(|data| accuracy(&mut classifier, data, |_, _| ())).transpose()?;
    let bar = progress::bar(Corruption::ALL.len() * SEVERITIES);
    let mut found = Vec::new();
    for kind in Corruption::ALL {
        let mut row = Vec::new();
        for severity in 1..=SEVERITIES {
            if stop.asked() {
                return Err(Error::Interrupted { message: format!("stopped before {} at severity {severity}", kind.name()) });
            }
            row.push(match (&whole, files) {
                (Some(data), _) => accuracy(&mut classifier, data, |bytes, index| {
                    corrupt(bytes, data.shape(), index, kind, severity, args.seed);
                })?,
                (None, Some(spec)) => {
                    let data = Dataset::open(&format!("{spec}/{}/{severity}", kind.name()), &options)?;
                    accuracy(&mut classifier, &data, |_, _| ())?
                }
                (None, None) => unreachable!("a set is opened where there are no files"),
            });
            bar.inc(1);
        }
        found.push(row);
    }
    bar.finish_and_clear();
    warn_of(&device);
    let mut words = vec!["petard".to_string(), "corruptions".into()];
    words.extend(args.model.words(&args.data));
    words.extend(args.data.words());
    words.extend(["--seed".into(), args.seed.to_string()]);
    words.extend(args.device.words(batch));
    let mut findings = findings(&found, clean);
    let made = if files.is_some() { "published files" } else { "made here" };
    findings.facts = vec![
        ("model".into(), model.card.name.clone()),
        ("data".into(), args.data.words()[1].clone()),
        ("corruptions".into(), made.into()),
        ("device".into(), device.describe()),
    ];
    findings.repeat = words.join(" ");
    findings.write(&sinks)?;
    Ok(ExitCode::SUCCESS)
}

/// Share of the images seen as their class after `change`, which gets bytes and positions.
fn accuracy(classifier: &mut Classifier, data: &Dataset, change: impl Fn(&mut [u8], &[u32])) -> Result<f64> {
    let elems: usize = data.shape().iter().product();
    let mut right = 0;
    for chunk in data.chunks(1024) {
        let chunk = chunk?;
        let labels = chunk
            .labels
            .as_ref()
            .ok_or_else(|| Error::input(format!("`{}` has no labels", data.spec())).with_hint("accuracy needs a labelled set"))?;
        let mut bytes = match &chunk.images {
            Images::U8(bytes) => bytes.clone(),
            Images::F32(values) => values.iter().map(|v| (v * 255.0).round_ties_even() as u8).collect(),
        };
        change(&mut bytes, &chunk.index);
        let pixels: Vec<f32> = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
        let views: Vec<&[f32]> = pixels.chunks_exact(elems).collect();
        let classes = classifier.classes();
        let seen = classifier.logits(&views)?;
        let hit = seen.chunks_exact(classes).zip(labels).filter(|(z, l)| argmax(z) == usize::try_from(**l).ok());
        right += hit.count();
    }
    Ok(right as f64 / data.len() as f64)
}

fn findings(found: &[Vec<f64>], clean: Option<f64>) -> Findings {
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let columns = ["corruption", "group", "1", "2", "3", "4", "5", "mean (%)"];
    let mut table = Table::new("accuracy (%) by severity", &columns);
    for (kind, row) in Corruption::ALL.into_iter().zip(found) {
        let cells = [kind.name().to_string(), kind.group().name().into()];
        table.row(cells.into_iter().chain(row.iter().map(|a| percent(*a))).chain([percent(mean(row))]));
    }
    let kinds: Vec<f64> = found.iter().map(|row| mean(row)).collect();
    let of = |group: Group| -> Vec<f64> {
        Corruption::ALL.into_iter().zip(&kinds).filter(|(kind, _)| kind.group() == group).map(|(_, a)| *a).collect()
    };
    let mut groups = Table::new("mean accuracy (%) by group", &["group", "mean (%)"]);
    Group::ALL.into_iter().for_each(|group| groups.row([group.name().to_string(), percent(mean(&of(group)))]));
    let error = 1.0 - mean(&kinds);
    let bars: Vec<f64> = kinds.iter().map(|a| 100.0 * a).collect();
    let short: Vec<String> = Corruption::ALL.map(|k| k.name().split('_').next().unwrap_or_default().to_string()).to_vec();
    let plot =
        Plot::new("Mean accuracy by corruption").axes("", "accuracy (%)").y_range(0.0, 100.0).categories(&short).bars("", &bars);
    let mut lines = Plot::new("Mean accuracy by severity").axes("severity", "accuracy (%)").y_range(0.0, 100.0);
    for group in Group::ALL {
        let rows: Vec<&Vec<f64>> =
            Corruption::ALL.into_iter().zip(found).filter(|(k, _)| k.group() == group).map(|(_, r)| r).collect();
        let at = |s: usize| 100.0 * rows.iter().map(|r| r[s]).sum::<f64>() / rows.len() as f64;
        lines = lines.line(group.name(), &(0..SEVERITIES).map(|s| (s as f64 + 1.0, at(s))).collect::<Vec<_>>());
    }
    let text = clean.map_or("not measured: the files hold corrupted images alone".into(), |a| format!("{} %", percent(a)));
    Findings {
        schema: "petard.corruptions/1",
        title: "accuracy under common corruptions".into(),
        facts: Vec::new(),
        numbers: vec![
            ("clean_accuracy", "clean", text, json!(clean)),
            (
                "mean_accuracy",
                "mean",
                format!("{} % over all corruptions and severities", percent(mean(&kinds))),
                json!(mean(&kinds)),
            ),
            ("mce", "mCE", format!("{} %, the mean error, not divided by another model's", percent(error)), json!(error)),
        ],
        tables: vec![table, groups],
        figures: vec![plot.svg(), lines.svg()],
        repeat: String::new(),
    }
}
