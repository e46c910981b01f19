//! `petard dataset bass`: an image set with balanced spectra.
//! Must not know how spectra are balanced.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;

use crate::cli::options::{DataArgs, DeviceArgs, warn_of};
use crate::cli::stop::Stop;
use crate::cli::value::quoted;
use crate::cli::{output, progress};
use crate::data::{Batch, save};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};
use crate::spectrum::{Runner, Task, bass_bytes};

/// What becomes of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Paradigm {
    /// every image is replaced: run it on both splits
    Replace,
    /// every image is kept, and followed by its balanced version with probability `--probability`
    Augment,
}

/// Balance the spectra of all images (BaSS) and save the set as bytes; it is read back as file:OUT
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard dataset bass --data cifar10:DIR --split train --out cifar10-b-train
  petard dataset bass --data cifar10:DIR --split test --out cifar10-b-test
  petard dataset bass --data cifar10:DIR --split train --paradigm augment --probability 0.5 --out both.safetensors")]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Where the set goes: a .safetensors or .npz file, or a folder of parts
    #[arg(long, value_name = "DIR|FILE")]
    out: PathBuf,
    /// What becomes of the set
    #[arg(long, value_enum, default_value = "replace")]
    paradigm: Paradigm,
    /// Share of images that are followed by their balanced version (augment)
    #[arg(long, value_name = "P", default_value_t = 0.5)]
    probability: f32,
    /// Seed of the choice (augment)
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Something that balances a chunk of bytes.
enum Engine {
    Host(rayon::ThreadPool),
    Card(Box<Runner>),
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    args.device.only_f32("dataset bass")?;
    if !(0.0..=1.0).contains(&args.probability) {
        return Err(Error::usage(format!("`--probability {}` is not between 0 and 1", args.probability)));
    }
    output::not_there("--out", &args.out)?;
    let device = args.device.open()?;
    let data = args.data.open_any()?;
    let batch = args.device.batch(device.card().is_some(), data.shape());
    let mut engine = Engine::new(&device, data.shape(), batch)?;
    let mut writer = save::Writer::create_images(&args.out, data.shape(), data.labelled())?;
    let name = args.paradigm.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default();
    writer.note("data", json!(data.spec()));
    writer.note("split", json!(args.data.split()));
    writer.note("change", json!("bass"));
    writer.note("paradigm", json!(name));
    let (mut kept, mut made, mut same, mut seconds) = (0, 0, 0, 0.0);
    let bar = progress::bar(data.len());
    let elems: usize = data.shape().iter().product();
    for chunk in data.chunks(4096) {
        let chunk = chunk?;
        if stop.asked() {
            return Err(Error::Interrupted {
                message: format!("stopped after {kept} of {} images, nothing was written", data.len()),
            });
        }
        let before = super::bytes_of(&chunk);
        let begin = Instant::now();
        let after = engine.bass(before.clone(), data.shape())?;
        seconds += begin.elapsed().as_secs_f64();
        kept += chunk.len();
        same += before.chunks_exact(elems).zip(after.chunks_exact(elems)).filter(|(a, b)| a == b).count();
        if args.paradigm == Paradigm::Replace {
            writer.append_images(&after, chunk.labels.as_deref(), &chunk.index)?;
            made += chunk.len();
        } else {
            made += append_both(&mut writer, args, &chunk, [&before, &after])?;
        }
        bar.set_position(kept as u64);
    }
    bar.finish_and_clear();
    warn_of(&device);
    writer.finish()?;
    let mut words = vec!["petard".to_string(), "dataset".into(), "bass".into()];
    words.extend(args.data.words());
    words.extend(["--out".into(), quoted(&args.out.to_string_lossy()), "--paradigm".into(), name]);
    if args.paradigm == Paradigm::Augment {
        words.extend(["--probability".into(), args.probability.to_string(), "--seed".into(), args.seed.to_string()]);
    }
    words.extend(args.device.words(batch));
    output::stdout(&format!(
        "{}   {} balanced of {kept} images ({}), {same} of them stay as they are\n\
         device    {}, {:.0} images/s, {seconds:.2} s without reading and writing\n\
         read as   --data file:{}\n\
         repeat    {}\n",
        data.spec(),
        made,
        args.data.split(),
        device.describe(),
        kept as f64 / seconds.max(1e-9),
        args.out.display(),
        words.join(" ")
    ))?;
    Ok(ExitCode::SUCCESS)
}

impl Engine {
    fn new(device: &Device, shape: [usize; 3], batch: usize) -> Result<Self> {
        if device.card().is_some() {
            let runner = Runner::new(device, shape, &Task::Bass, batch)?;
            runner.note().iter().for_each(|note| eprintln!("note: {note}"));
            return Ok(Engine::Card(Box::new(runner)));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(device.threads()).build();
        pool.map(Engine::Host).map_err(|e| Error::device(format!("cannot start {} worker threads: {e}", device.threads())))
    }

    fn bass(&mut self, mut bytes: Vec<u8>, shape: [usize; 3]) -> Result<Vec<u8>> {
        match self {
            Engine::Host(pool) => pool.install(|| bass_bytes(&mut bytes, shape)),
            Engine::Card(runner) => {
                let pixels: Vec<f32> = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
                bytes = runner.run(&pixels)?.iter().map(|v| (v * 255.0).round() as u8).collect();
            }
        }
        Ok(bytes)
    }
}

/// Appends each image and, where it is drawn, its balanced version. The number of the latter.
fn append_both(writer: &mut save::Writer, args: &Args, chunk: &Batch, [before, after]: [&[u8]; 2]) -> Result<usize> {
    let elems: usize = chunk.shape.iter().product();
    let mut made = 0;
    for (i, index) in chunk.index.iter().enumerate() {
        let label = chunk.labels.as_ref().map(|l| &l[i..=i]);
        let stream = Stream { seed: args.seed, index: *index, step: 0, purpose: Purpose::Augment, restart: 0 };
        let drawn = stream.uniform(3) < args.probability;
        for pixels in [before].into_iter().chain(drawn.then_some(after)) {
            writer.append_images(&pixels[i * elems..(i + 1) * elems], label, &[*index])?;
        }
        made += usize::from(drawn);
    }
    Ok(made)
}
