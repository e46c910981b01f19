//! The stored results of torchattacks and of a PyTorch loop on two CIFAR-10 checkpoints.

use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use petard::attack::{self, Start};
use petard::data::Options;
use petard::{Classifier, Dataset, Device, Given, Hooks, Job, Model, Norm, Outcome, Pgd, ThreatModel};
use serde_json::Value;

use super::write_images;
use crate::models::uniform;
use crate::support::{cifar10, ignored, shared, trial};

/// Checkpoint file, card, and the stem of the references.
pub const CHECKPOINTS: [(&str, &str, &str); 2] = [
    ("resnet20-cifar10-std.safetensors", "resnet20-cifar10", "reference-attacks-resnet20-std"),
    ("resnet8-cifar10-at.safetensors", "resnet8-cifar10", "reference-attacks-resnet8-at"),
];

/// Entries that are deterministic: at most two of 256 images may differ.
const SAME: [&str; 14] = [
    "fgsm_eps8",
    "fgsm_eps4",
    "fgsm_eps2",
    "bim10_eps8",
    "bim20_eps8",
    "bim10_eps4",
    "bim10_eps2",
    "pgd10_eps8",
    "pgd20_eps8",
    "pgd50_eps8",
    "pgd10_eps4",
    "pgd20_eps2",
    "pgd10_eps2",
    "pgdl2_20_eps0.5_no_random_start",
];
/// Entries with the library's own random start: 1.5 points.
const RANDOM: [&str; 2] = ["pgd20_eps8_library", "pgdl2_20_eps0.5"];

pub fn trials() -> Vec<Trial> {
    let mut all = vec![match shared().map(|s| s.join("golden").join(CHECKPOINTS[0].0)).zip(cifar10()) {
        Some((weights, images)) => {
            trial("attacks::ten_lines", move || ten_lines(&weights, &format!("cifar10:{}", images.display())))
        }
        None => ignored("attacks::ten_lines", "needs golden data and CIFAR-10"),
    }];
    for (file, card, stem) in CHECKPOINTS {
        let entries = SAME.iter().map(|e| (*e, 2.0)).chain(RANDOM.iter().map(|e| (*e, 0.015 * 256.0)));
        let Some((golden, images)) = shared().map(|s| s.join("golden")).zip(cifar10()) else {
            all.extend(entries.map(|(e, _)| ignored(format!("attacks::golden.{card}.{e}"), "needs golden data and CIFAR-10")));
            continue;
        };
        let reference = read_json(&golden.join(format!("{stem}.json")));
        for (entry, images_off) in entries {
            if reference["attacks"].get(entry).is_none() {
                continue; // the second checkpoint has fewer entries
            }
            let (golden, images, reference) = (golden.clone(), images.clone(), reference.clone());
            let body = move || entry_agrees(&golden.join(file), card, &images, &reference["attacks"][entry], entry, images_off);
            all.push(trial(format!("attacks::golden.{card}.{entry}"), body));
        }
        all.push(trial(format!("attacks::golden.{card}.clean"), move || {
            clean_agrees(&golden.join(file), card, &images, &reference)
        }));
    }
    all
}

/// The example of the README, on the stored checkpoint.
fn ten_lines(weights: &Path, spec: &str) -> petard::Result<()> {
    let device = Device::open("auto", &Default::default())?;
    let model = Model::load("resnet20-cifar10", Some(weights))?;
    let images = Dataset::open(spec, &Options { limit: Some(256), ..Default::default() })?;
    let job = Job::new(Pgd::fgsm(ThreatModel::linf(8.0 / 255.0)), 64);
    let outcome = attack::run(&device, &model, &images, &job, &Given::default(), Hooks::default())?;
    assert_eq!(format!("{:.2}", 100.0 * outcome.clean_accuracy()), "85.16");
    assert!((9..=13).contains(&outcome.robust), "{} of 256 robust, PyTorch has 11", outcome.robust);
    Ok(())
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a readable reference")).expect("a reference in JSON")
}

fn entry_agrees(weights: &Path, card: &str, images: &Path, entry: &Value, name: &str, images_off: f64) {
    let attack = described(entry, name);
    let n = entry["images"].as_u64().expect("a number of images") as usize;
    let given = name.starts_with("pgd") && !name.contains("library") && !name.starts_with("pgdl2");
    let starts = given.then(|| noisy_starts(images, n, attack.threat.eps));
    let outcome = run(weights, card, images, n, attack, starts.as_ref().map(|s| &s.1));
    let clean = entry["clean_correct"].as_u64().expect("a count") as usize;
    assert_eq!(outcome.clean_correct, clean, "clean accuracy");
    let want = entry["robust_accuracy"].as_f64().expect("a share") * n as f64;
    let got = outcome.robust as f64;
    assert!((got - want).abs() <= images_off, "{got} images robust, the reference has {want}");
    assert_eq!(outcome.non_finite, 0);
    let median = |mut v: Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let p = &outcome.per_image;
    let broken: Vec<f64> = (0..n).filter(|&i| p.clean_prediction[i] == p.label[i] && !p.robust[i]).map(|i| p.l2[i]).collect();
    let l2 = entry["l2"]["median"].as_f64().expect("a median");
    let ours = median(broken);
    assert!((ours / l2 - 1.0).abs() < 0.02, "median L2 of the broken images {ours}, the reference has {l2}");
}

/// The attack that an entry's parameters describe.
fn described(entry: &Value, name: &str) -> Pgd {
    let p = &entry["parameters"];
    let number = |key: &str| match &p[key] {
        Value::String(s) => {
            let (a, b) = s.split_once('/').expect("a fraction");
            a.parse::<f64>().expect("a number") / b.parse::<f64>().expect("a number")
        }
        other => other.as_f64().expect("a number"),
    };
    if name.starts_with("fgsm") {
        return Pgd::fgsm(ThreatModel::linf(number("eps")));
    }
    let norm = if name.starts_with("pgdl2") { Norm::L2 } else { Norm::Linf };
    let threat = ThreatModel::new(norm, number("eps"));
    let steps = p["steps"].as_u64().expect("a number of steps") as usize;
    let random = name == "pgd20_eps8_library" || name == "pgdl2_20_eps0.5";
    Pgd { start: if random { Start::Random } else { Start::Clean }, ..Pgd::new(threat, number("alpha"), steps) }
}

fn run(weights: &Path, card: &str, images: &Path, n: usize, attack: Pgd, starts: Option<&Dataset>) -> Outcome {
    let device = Device::open("cpu", &Default::default()).expect("the CPU is there");
    let model = Model::load(card, Some(weights)).expect("the checkpoint loads");
    let job = Job::new(attack, 64);
    attack::run(&device, &model, &first_images(images, n), &job, &Given { starts, ..Given::default() }, Hooks::default())
        .expect("the attack runs")
}

pub fn first_images(images: &Path, n: usize) -> Dataset {
    let options = Options { limit: Some(n), ..Default::default() };
    Dataset::open(&format!("cifar10:{}", images.display()), &options).expect("CIFAR-10 opens")
}

/// The procedural noise of the references: `clamp(x + f32(u("pgd-noise", i) * eps), 0, 1)`.
fn noisy_starts(images: &Path, n: usize, eps: f64) -> (tempfile::TempDir, Dataset) {
    let set = first_images(images, n);
    let batch = set.read(0..n).expect("images");
    let mut starts = Vec::with_capacity(n * 3072);
    let uniform = uniform("pgd-noise");
    for i in 0..n {
        let mut x = vec![0.0f32; 3072];
        batch.pixels_f32(i, &mut x);
        let noise = |k: usize| (uniform(i * 3072 + k) * eps) as f32;
        starts.extend(x.iter().enumerate().map(|(k, v)| (v + noise(k)).clamp(0.0, 1.0)));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path: PathBuf = folder.path().join("starts.safetensors");
    write_images(&path, &starts, n);
    let set = Dataset::open(&format!("file:{}", path.display()), &Options::default()).expect("the starts open");
    (folder, set)
}

/// Predictions image by image, and logits of the first 32 against f64.
fn clean_agrees(weights: &Path, card: &str, images: &Path, reference: &Value) {
    let device = Device::open("cpu", &Default::default()).expect("the CPU is there");
    let model = Model::load(card, Some(weights)).expect("the checkpoint loads");
    let mut net = Classifier::new(&device, &model, 64).expect("the network binds");
    let set = first_images(images, 256);
    let batch = set.read(0..256).expect("images");
    let pixels: Vec<Vec<f32>> = (0..256)
        .map(|i| {
            let mut x = vec![0.0; 3072];
            batch.pixels_f32(i, &mut x);
            x
        })
        .collect();
    let views: Vec<&[f32]> = pixels.iter().map(Vec::as_slice).collect();
    let logits = net.logits(&views).expect("logits");
    let digits: String =
        logits.chunks(10).map(|z| petard::session::argmax(z).map_or('?', |c| (b'0' + c as u8) as char)).collect();
    assert_eq!(digits, reference["clean"]["predictions"].as_str().expect("predictions"), "predictions of the clean images");
    let stem = if card.starts_with("resnet20") { CHECKPOINTS[0].2 } else { CHECKPOINTS[1].2 };
    let bytes = std::fs::read(weights.with_file_name(format!("{stem}.safetensors"))).expect("a readable reference");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors reference");
    let want: Vec<f64> = file
        .tensor("clean.logits_f64")
        .expect("logits")
        .data()
        .chunks(8)
        .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
        .collect();
    let norm = want.iter().map(|v| v * v).sum::<f64>().sqrt();
    let off = want.iter().zip(&logits).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
    assert!(off <= 1e-5 * norm, "logits are off by {:e} of their norm", off / norm);
}
