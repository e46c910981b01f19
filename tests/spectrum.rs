//! Spectra of real images beside the figures that were published or measured elsewhere, and the commands around them.
//! Must not know how spectra are computed.

use std::fs;

use libtest_mimic::Trial;
use petard::data::corrupt::Corruption;
use petard::data::{Dataset, Images, Options};
use petard::spectrum::{Definition, Density, Rings, Runner, Task, bass_bytes, bass_weights, fit};
use petard::{Device, DeviceOptions};
use serde_json::Value;

use crate::cli::fixture::Fixture;
use crate::support::{cifar10, ignored, trial};

/// A check on real images.
type OnImages = fn(&Dataset);

pub fn trials() -> Vec<Trial> {
    let real: [(&str, OnImages); 2] = [("spectrum::cifar10.density", density), ("spectrum::cifar10.bass", bass)];
    let real = real.map(|(name, body)| match cifar10() {
        None => ignored(name, "no unpacked CIFAR-10"),
        Some(place) => trial(name, move || {
            let options = Options { limit: Some(1500), ..Options::default() };
            body(&Dataset::open(&format!("cifar10:{}", place.display()), &options).expect("the set"));
        }),
    });
    let own = [
        trial("spectrum::cli.bass_reads_back", bass_reads_back),
        trial("spectrum::cli.augment_keeps_the_images", augment),
        trial("spectrum::cli.psd_says_what_it_found", psd),
        trial("spectrum::cli.bands_of_a_model", bands),
        trial("spectrum::cli.sensitivity", sensitivity),
        trial("spectrum::cli.heatmap", heatmap),
        trial("spectrum::cli.perturbation", perturbation),
        trial("spectrum::cli.landscape", landscape),
        trial("spectrum::cli.corrupt_reads_back", corrupt_reads_back),
        trial("spectrum::cli.corruptions", corruptions),
    ];
    own.into_iter().chain(real).collect()
}

fn pixels(data: &Dataset) -> Vec<u8> {
    match data.read(0..data.len()).expect("images").images {
        Images::U8(bytes) => bytes,
        Images::F32(values) => values.iter().map(|v| (v * 255.0).round() as u8).collect(),
    }
}

fn near(what: &str, got: f64, want: f64, apart: f64) {
    println!("{what}: {got:.4}, listed {want}");
    assert!((got - want).abs() <= apart, "{what}: {got}, listed {want} +- {apart}");
}

/// Listed for 10,000 test images of a JPEG copy: radius 5.0; energy by ring .42 .19 .10 .07 .06 .035 .03 .023 .017 .014; slopes 2.77
/// (means) and 1.88 (sums). The exact pixels, all 10,000: 5.0; .425 .195 .103 .066 .057 .035 .029 .023 .016 .014; 2.71, 1.81.
fn density(data: &Dataset) {
    let device = Device::open("cpu", &DeviceOptions::default()).expect("the CPU");
    let definition = Definition::default();
    let mut density = Density::new(Rings::new(32, 32), definition);
    let mut runner = Runner::new(&device, [1, 32, 32], &Task::Spectrum, 64).expect("a plan");
    for image in pixels(data).chunks_exact(3072) {
        let floats: Vec<f32> = image.iter().map(|&b| f32::from(b) / 255.0).collect();
        density.add(&runner.run(&Density::planes(definition, [3, 32, 32], &floats)).expect("a spectrum"));
    }
    near("radius", density.radius(0.8), 5.0, 0.15);
    let shares = density.shares();
    for (ring, listed) in [0.42, 0.19, 0.10, 0.07, 0.06, 0.035, 0.03, 0.023, 0.017, 0.014].into_iter().enumerate() {
        near(&format!("ring {}", ring + 1), shares[ring + 1], listed, 0.01);
    }
    let points = |values: Vec<f64>| (1..=16).map(|r| (r as f64, values[r])).collect::<Vec<_>>();
    near("slope of means", fit(&points(density.means())).expect("a law").slope, 2.77, 0.12);
    near("slope of sums", fit(&points(shares)).expect("a law").slope, 1.88, 0.12);
}

/// Listed for 1,500 random test images of a JPEG copy: median weight .20 at ring 1, 1.0 at 5, 2.5 at 10, 5 at 15, 12 to 14 at 20 and
/// 21; about 5 % of the pixels clipped; mean L2 change 9.3, L-inf .6; half a step darker.
fn bass(data: &Dataset) {
    let before = pixels(data);
    let device = Device::open("cpu", &DeviceOptions::default()).expect("the CPU");
    let mut runner = Runner::new(&device, [3, 32, 32], &Task::RingSums { power: false }, 64).expect("a plan");
    let rings = Rings::new(32, 32);
    let floats: Vec<f32> = before.iter().map(|&b| f32::from(b)).collect();
    let sums = runner.run(&floats).expect("sums");
    let weights = sums
        .chunks_exact(rings.count())
        .filter_map(|sums| bass_weights(&sums.iter().map(|&s| f64::from(s)).collect::<Vec<_>>(), &rings.sizes()));
    let weights: Vec<Vec<f32>> = weights.collect();
    let median = |ring: usize| {
        let mut column: Vec<f32> = weights.iter().map(|w| w[ring]).collect();
        column.sort_by(f32::total_cmp);
        f64::from(column[column.len() / 2])
    };
    for (ring, listed) in [(1, 0.20), (5, 1.0), (10, 2.5), (15, 5.0)] {
        near(&format!("median weight of ring {ring}"), median(ring), listed, 0.1 * listed);
    }
    // The noise of JPEG lies here: the exact pixels have less, and so larger weights. By NumPy in f64: 15.1 and 18.0.
    near("median weight of ring 20", median(20), 15.1, 0.1);
    near("median weight of ring 21", median(21), 18.0, 0.1);
    let mut after = before.clone();
    bass_bytes(&mut after, [3, 32, 32]);
    let clipped = after.iter().filter(|b| **b == 0 || **b == 255).count() as f64 / after.len() as f64;
    near("share of clipped pixels", clipped, 0.05, 0.02);
    let change = |image: usize| -> Vec<f64> {
        let at = image * 3072..(image + 1) * 3072;
        before[at.clone()].iter().zip(&after[at]).map(|(&b, &a)| (f64::from(a) - f64::from(b)) / 255.0).collect()
    };
    let changes: Vec<Vec<f64>> = (0..data.len()).map(change).collect();
    let mean = |f: &dyn Fn(&[f64]) -> f64| changes.iter().map(|c| f(c)).sum::<f64>() / changes.len() as f64;
    near("mean L2 change", mean(&|c| c.iter().map(|d| d * d).sum::<f64>().sqrt()), 9.3, 0.8);
    near("mean L-inf change", mean(&|c| c.iter().fold(0.0, |m: f64, d| m.max(d.abs()))), 0.6, 0.06);
}

fn bass_reads_back() {
    let f = Fixture::new();
    for out in ["b", "b.safetensors", "b.npz"] {
        let ran = f.ok(&format!("dataset bass --data synthetic --limit 20 --out {out}"));
        assert!(ran.stdout.contains("20 balanced of 20 images"), "{}", ran.stdout);
        let open = |spec: String| Dataset::open(&spec, &Options { limit: Some(20), ..Options::default() }).expect("a set");
        let (from, made) = (open("synthetic".into()), open(format!("file:{}", f.path(out).display())));
        let mut want = pixels(&from);
        bass_bytes(&mut want, from.shape());
        assert_eq!((made.shape(), made.labels()), (from.shape(), from.labels()));
        assert_eq!(pixels(&made), want);
        assert!(matches!(made.read(0..1).expect("an image").images, Images::U8(_)), "a byte a pixel");
    }
    assert_eq!(f.run("dataset bass --data synthetic --limit 20 --out b").code, 2, "a set is not written over");
    f.left(&["b", "b.npz", "b.safetensors"]);
}

fn augment() {
    let f = Fixture::new();
    let line = "dataset bass --data synthetic --limit 64 --paradigm augment --probability 0.5 --seed 3 --out";
    f.ok(&format!("{line} a.safetensors"));
    f.ok(&format!("{line} again.safetensors"));
    assert_eq!(fs::read(f.path("a.safetensors")).expect("a"), fs::read(f.path("again.safetensors")).expect("b"), "the same draw");
    let set = Dataset::open(&format!("file:{}", f.path("a.safetensors").display()), &Options::default()).expect("a set");
    // Binomial: standard deviation 4.
    assert!((64 + 16..=64 + 48).contains(&set.len()), "{} images", set.len());
}

fn psd() {
    let f = Fixture::new();
    let ran = f.ok("spectrum psd --data synthetic --limit 30 --json psd.json --csv psd.csv --html psd.html");
    let json: Value = serde_json::from_str(&fs::read_to_string(f.path("psd.json")).expect("json")).expect("an object");
    assert_eq!(json["schema"], "petard.psd/1");
    let shares: Vec<f64> =
        json["tables"][0]["columns"]["share of energy"].as_array().expect("a column").iter().filter_map(Value::as_f64).collect();
    assert!(shares.len() == 23 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-4, "{shares:?}");
    let radius = json["radius"].as_f64().expect("a radius");
    assert!(ran.stdout.contains(&format!("{radius:.3} holds")), "{}", ran.stdout);
    assert_eq!(fs::read_to_string(f.path("psd.csv")).expect("csv").lines().count(), 24);
    let page = fs::read_to_string(f.path("psd.html")).expect("html");
    assert_eq!(page.matches("<svg").count(), 3);
    let everything =
        f.ok("spectrum psd --data synthetic --limit 30 --energy amplitude --channels each --with-mean --by-energy --radius ring");
    assert!(everything.stdout.contains("amplitude of each channel, with the mean, energies added, radius ring"));
    assert_eq!(f.run("spectrum psd --data synthetic --limit 3 --csv x --html x").code, 2, "one file for two results");
    assert_eq!(f.run("spectrum psd --data synthetic --limit 3 --share 3").code, 2);
}

fn bands() {
    let f = Fixture::new();
    let words = "spectrum bands --model tiny.toml --data synthetic --limit 12 --cut 3 --radii 0,30";
    let json: Value = serde_json::from_str(&f.ok(&format!("{words} --json")).stdout).expect("an object");
    let column = |name: &str| json["tables"][0]["columns"][name].as_array().expect("a column").clone();
    assert_eq!(column("radius"), [0.0, 3.0, 30.0]);
    let whole: Value =
        serde_json::from_str(&f.ok("infer --model tiny.toml --data synthetic --limit 12 --json").stdout).expect("an object");
    let accuracy = whole["clean_accuracy"].as_f64().expect("a share");
    assert!(
        (column("accuracy low (%)")[2].as_f64().expect("a number") - 100.0 * accuracy).abs() < 0.01,
        "the widest band is everything"
    );
    f.ok("spectrum bands --data synthetic --limit 12 --cut 4 --save-low low --save-high high.npz");
    let set = |name: &str| {
        let spec = format!("file:{}", f.path(name).display());
        pixels(&Dataset::open(&spec, &Options::default()).expect("a set"))
    };
    let whole = pixels(&Dataset::open("synthetic", &Options { limit: Some(12), ..Options::default() }).expect("a set"));
    let both = set("low").into_iter().zip(set("high.npz")).zip(whole);
    let apart = both
        .filter(|((l, h), _)| *l > 0 && *l < 255 && *h > 0 && *h < 255)
        .map(|((l, h), x)| (f64::from(l) + f64::from(h) - 127.5 - f64::from(x)).abs());
    assert!(apart.fold(0.0, f64::max) <= 1.01, "low and high add up");
}

/// A command with its JSON, and a page that has so many plots.
fn study(f: &Fixture, line: &str, plots: usize) -> Value {
    let json = f.ok(&format!("{line} --html page.html --json")).stdout;
    let page = fs::read_to_string(f.path("page.html")).expect("a page");
    assert_eq!(page.matches("<svg").count(), plots, "{line}");
    assert!(!page.contains("NaN"), "{line}");
    serde_json::from_str(&json).expect("an object")
}

fn column(json: &Value, table: usize, name: &str) -> Vec<f64> {
    let column = json["tables"][table]["columns"][name].as_array().unwrap_or_else(|| panic!("no column `{name}` in {json}"));
    column.iter().map(|v| v.as_f64().unwrap_or_else(|| panic!("`{name}` has {v}"))).collect()
}

fn sensitivity() {
    let f = Fixture::new();
    let line = "spectrum sensitivity --model tiny.toml --data synthetic --limit 9 --batch-size";
    let json = study(&f, &format!("{line} 4"), 3);
    assert_eq!(column(&json, 0, "rank"), [1.0, 100.0, 200.0, 300.0, 400.0, 544.0]);
    let magnitude = column(&json, 0, "magnitude");
    assert!(magnitude.windows(2).all(|w| w[0] >= w[1]) && magnitude[0] > 0.0, "largest first: {magnitude:?}");
    assert_eq!(column(&json, 1, "ring").len(), 23);
    let other = study(&f, &format!("{line} 9"), 3);
    let apart = magnitude.iter().zip(column(&other, 0, "magnitude")).map(|(a, b)| (a / b - 1.0).abs());
    assert!(apart.fold(0.0, f64::max) < 1e-3, "another batch size");
}

fn heatmap() {
    let f = Fixture::new();
    let line = "spectrum heatmap --data synthetic --limit 3 --length";
    let json = study(&f, &format!("{line} 0.000001"), 2);
    let error = |json: &Value| -> Vec<Vec<f64>> { serde_json::from_value(json["error"].clone()).expect("rows") };
    let clean = json["clean_error"].as_f64().expect("a share");
    assert!(error(&json).iter().flatten().all(|e| *e == clean), "noise of no length changes nothing");
    let rows = error(&study(&f, &format!("{line} 40"), 2));
    assert_eq!((rows.len(), rows[0].len()), (32, 32));
    assert!(rows.iter().flatten().any(|e| *e > clean), "long noise changes something");
    for (u, v) in [(1, 0), (5, 9), (16, 3)] {
        assert_eq!(rows[16 - u % 16][16 - v], rows[(16 + u % 16) % 32][16 + v], "mirror images are one wave");
    }
}

fn perturbation() {
    let f = Fixture::new();
    let attack = "--model tiny.toml --data synthetic --limit 6 --steps 3 --eps 8/255 --seed 5";
    let run = study(&f, &format!("spectrum perturbation {attack}"), 2);
    f.ok(&format!("attack {attack} --save adv.safetensors"));
    let saved = study(&f, "spectrum perturbation --data synthetic --limit 6 --adversarial file:adv.safetensors", 2);
    assert_eq!(run["amplitude"], saved["amplitude"], "the attack that was run and the one that was saved");
    let ring = column(&run, 0, "share of the perturbations");
    assert!((ring.iter().sum::<f64>() - 1.0).abs() < 1e-4 || ring.iter().sum::<f64>() == 0.0, "{ring:?}");
    let missing = f.run("spectrum perturbation --data synthetic --limit 2 --adversarial file:adv.safetensors");
    assert!(missing.code == 2 && missing.stderr.contains("is not among the clean images"), "{}", missing.stderr);
}

fn landscape() {
    let f = Fixture::new();
    let line = "spectrum landscape --data synthetic --limit 6 --points 3 --extent 1 --seed 2";
    let json = study(&f, line, 4);
    let loss = column(&json, 0, "loss");
    assert_eq!(loss.len(), 9);
    // The model in the middle: on its own images its loss is what it was trained to.
    assert!(loss.iter().enumerate().all(|(i, l)| i == 4 || *l > loss[4]), "the middle is the lowest: {loss:?}");
    assert_eq!(column(&study(&f, &format!("{line} --cut 99"), 4), 0, "loss low")[4], loss[4], "the widest band is everything");
    assert_eq!(f.run("spectrum landscape --data synthetic --points 1").code, 2);
}

fn corrupt_reads_back() {
    let f = Fixture::new();
    let open = |spec: String| Dataset::open(&spec, &Options { limit: Some(9), ..Options::default() }).expect("a set");
    f.ok("dataset corrupt --data synthetic --limit 9 --kind glass_blur --severity 4 --seed 3 --out g.npz");
    let (from, made) = (open("synthetic".into()), open(format!("file:{}", f.path("g.npz").display())));
    let mut want = pixels(&from);
    let index = from.read(0..9).expect("images").index;
    petard::data::corrupt::corrupt(&mut want, from.shape(), &index, Corruption::GlassBlur, 4, 3);
    assert_eq!((pixels(&made), made.labels()), (want, from.labels()));
    for wrong in ["--kind rain --out r", "--kind fog --severity 6 --out r", "--kind fog --out g.npz"] {
        assert_eq!(f.run(&format!("dataset corrupt --data synthetic --limit 9 {wrong}")).code, 2, "{wrong}");
    }
    f.left(&["g.npz"]);
}

/// The table, the group means and the error agree with each other, and a row with what `infer` says of the corrupted set.
fn corruptions() {
    let f = Fixture::new();
    let json = study(&f, "corruptions --data synthetic --limit 24 --seed 3", 2);
    let means = column(&json, 0, "mean (%)");
    assert_eq!(means.len(), 15);
    let mean = means.iter().sum::<f64>() / 15.0;
    assert!((json["mean_accuracy"].as_f64().expect("a share") * 100.0 - mean).abs() < 0.01);
    assert!((json["mce"].as_f64().expect("a share") * 100.0 + mean - 100.0).abs() < 0.01);
    let noise = column(&json, 1, "mean (%)")[0];
    assert!((noise - means[..3].iter().sum::<f64>() / 3.0).abs() < 0.01);
    f.ok("dataset corrupt --data synthetic --limit 24 --kind contrast --severity 5 --seed 3 --out c");
    let infer = f.ok("infer --model tiny-resnet --data file:c --json").stdout;
    let infer: Value = serde_json::from_str(&infer).expect("an object");
    assert!((infer["clean_accuracy"].as_f64().expect("a share") * 100.0 - column(&json, 0, "5")[11]).abs() < 0.01);
    let missing = f.run("corruptions --data cifar10c:nowhere --model tiny.toml");
    assert!(missing.code == 2 && missing.stderr.contains("gaussian_noise.npy"), "{}", missing.stderr);
}
