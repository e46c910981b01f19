//! `petard dataset corrupt`: an image set with a common corruption.
//! Must not know how images are corrupted.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use crate::cli::options::DataArgs;
use crate::cli::stop::Stop;
use crate::cli::value::quoted;
use crate::cli::{output, progress};
use crate::data::corrupt::{Corruption, SEVERITIES, corrupt};
use crate::data::save;
use crate::error::{Error, Result};

/// Corrupt all images in one of fifteen common ways and save the set as bytes; it is read back as file:OUT
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard dataset corrupt --data cifar10:DIR --kind gaussian_noise --severity 3 --out noisy
  petard dataset corrupt --data images:DIR --kind fog --severity 5 --out foggy.safetensors")]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// What is done to the images
    #[arg(long, value_name = "NAME", value_parser = kinds())]
    kind: Corruption,
    /// How strongly, 1 to 5
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=SEVERITIES as i64))]
    severity: u8,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where the set goes: a .safetensors or .npz file, or a folder of parts
    #[arg(long, value_name = "DIR|FILE")]
    out: PathBuf,
}

/// `--kind`.
pub fn kinds() -> impl TypedValueParser<Value = Corruption> {
    PossibleValuesParser::new(Corruption::ALL.map(Corruption::name))
        .map(|name: String| Corruption::of(&name).expect("the parser knows no others"))
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    output::not_there("--out", &args.out)?;
    let data = args.data.open_any()?;
    let mut writer = save::Writer::create_images(&args.out, data.shape(), data.labelled())?;
    writer.note("data", json!(data.spec()));
    writer.note("split", json!(args.data.split()));
    writer.note("change", json!(args.kind.name()));
    writer.note("severity", json!(args.severity));
    writer.note("seed", json!(args.seed));
    let bar = progress::bar(data.len());
    let mut done = 0;
    for chunk in data.chunks(1024) {
        let chunk = chunk?;
        if stop.asked() {
            return Err(Error::Interrupted {
                message: format!("stopped after {done} of {} images, nothing was written", data.len()),
            });
        }
        let mut bytes = super::bytes_of(&chunk);
        corrupt(&mut bytes, data.shape(), &chunk.index, args.kind, args.severity.into(), args.seed);
        writer.append_images(&bytes, chunk.labels.as_deref(), &chunk.index)?;
        done += chunk.len();
        bar.set_position(done as u64);
    }
    bar.finish_and_clear();
    writer.finish()?;
    let mut words = vec!["petard".to_string(), "dataset".into(), "corrupt".into()];
    words.extend(args.data.words());
    words.extend(["--kind".into(), args.kind.name().into(), "--severity".into(), args.severity.to_string()]);
    words.extend(["--seed".into(), args.seed.to_string(), "--out".into(), quoted(&args.out.to_string_lossy())]);
    output::stdout(&format!(
        "{}   {done} images ({}), {} at severity {}\nread as   --data file:{}\nrepeat    {}\n",
        data.spec(),
        args.data.split(),
        args.kind.name(),
        args.severity,
        args.out.display(),
        words.join(" ")
    ))?;
    Ok(ExitCode::SUCCESS)
}
