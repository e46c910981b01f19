//! `petard infer`: what a model says of a set of images.
//! Must not know attacks.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use super::output::{self, Json};
use super::progress;
use super::stop::Stop;
use crate::data::{Batch, Dataset, save};
use crate::error::{Error, Result};
use crate::report::{self, Facts, Inference};
use crate::session::{Classifier, argmax};

/// Classify images and report clean accuracy
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard infer --model resnet20-cifar10 --weights FILE.safetensors --data cifar10:DIR
  petard infer --model my.toml --data file:adv.safetensors --save logits.safetensors --json")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Save logits, label and index of every image
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Results")]
    save: Option<PathBuf>,
    /// JSON to a file; bare: JSON on stdout and the report on stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1, help_heading = "Results")]
    json: Option<Option<PathBuf>>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    args.device.only_f32("infer")?;
    let device = args.device.open()?;
    let model = args.model.load(&args.data)?;
    let data = args.data.open(&model.card)?;
    let batch = args.device.batch(device.card().is_some(), model.input());
    let json = Json::prepare(args.json.as_ref())?;
    let mut set = None;
    if let Some(path) = &args.save {
        output::not_there("--save", path)?;
        let mut writer = save::Writer::create_logits(path, model.card.classes)?;
        writer.note("model", json!(model.card.name));
        writer.note("data", json!(data.spec()));
        writer.note("split", json!(args.data.split()));
        set = Some(writer);
    }
    let mut classifier = Classifier::new(&device, &model, batch.min(data.len()))?;
    let inference = classify(&mut classifier, &data, batch, set.as_mut(), &stop)?;
    warn_of(&device);
    if let Some(set) = set {
        set.finish()?;
    }
    let mut words = vec!["petard".to_string(), "infer".into()];
    words.extend(args.model.words(&args.data));
    words.extend(args.data.words());
    words.extend(args.device.words(batch));
    let facts = Facts {
        model: model.card.name.clone(),
        input: model.input(),
        data: data.spec().into(),
        split: args.data.split(),
        offset: args.data.offset(),
        device: device.describe(),
        precision: "f32",
        batch,
        exact: true,
        seed: 0,
        shard: None,
        saved: None,
        radii: Vec::new(),
        repeat: words.join(" "),
        sources: Vec::new(),
    };
    json.write(&report::infer_text(&facts, &inference), || report::infer_json(&facts, &inference))?;
    Ok(ExitCode::SUCCESS)
}

/// Classifies all images, a batch at a time.
fn classify(
    classifier: &mut Classifier,
    data: &Dataset,
    batch: usize,
    mut set: Option<&mut save::Writer>,
    stop: &Stop,
) -> Result<Inference> {
    let bar = progress::bar(data.len());
    let mut inference = Inference { labelled: data.labelled(), ..Inference::default() };
    for chunk in data.chunks(batch) {
        if stop.asked() {
            bar.finish_and_clear();
            return Err(Error::Interrupted { message: format!("stopped after {} of {} images", inference.images(), data.len()) });
        }
        let chunk = chunk?;
        let images = pixels(&chunk);
        let views: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
        let begin = Instant::now();
        let logits = classifier.logits(&views)?;
        inference.seconds += begin.elapsed().as_secs_f64();
        let first = inference.images();
        take(&mut inference, &chunk, &logits, classifier.classes());
        if let Some(set) = &mut set {
            let wide = |narrow: &[i32]| -> Vec<i64> { narrow.iter().map(|&v| v.into()).collect() };
            let index: Vec<i64> = chunk.index.iter().map(|&v| v.into()).collect();
            set.append_logits(&save::Inferred { logits: &logits, label: &wide(&inference.label[first..]), index: &index })?;
        }
        bar.set_position(inference.images() as u64);
    }
    bar.finish_and_clear();
    Ok(inference)
}

fn pixels(chunk: &Batch) -> Vec<Vec<f32>> {
    let elems = chunk.shape.iter().product();
    let image = |i| {
        let mut x = vec![0.0; elems];
        chunk.pixels_f32(i, &mut x);
        x
    };
    (0..chunk.len()).map(image).collect()
}

fn take(inference: &mut Inference, chunk: &Batch, logits: &[f32], classes: usize) {
    for (i, z) in logits.chunks_exact(classes).enumerate() {
        let prediction = argmax(z).map_or(-1, |c| c as i32);
        let label = chunk.labels.as_ref().map_or(prediction, |l| l[i]);
        inference.index.push(chunk.index[i]);
        inference.label.push(label);
        inference.prediction.push(prediction);
        inference.correct += usize::from(prediction == label && label >= 0);
        inference.non_finite += usize::from(z.iter().any(|v| !v.is_finite()));
    }
}
