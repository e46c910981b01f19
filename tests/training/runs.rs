//! Whole runs on a network of a few hundred weights: what a run promises of its bits, its files and its refusals.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use libtest_mimic::Trial;
use petard::data::{self, Dataset, Split};
use petard::nn::{ModelCard, Weights};
use petard::plan::{Head, compile};
use petard::train::{
    self, Augment, BatchNorm, Config, Engine, Finished, Form, Hooks, Hyper, Images, Job, LongTail, Recipe, Row, Schedule, Tricks,
};
use petard::{Device, DeviceOptions, Error, Model, ThreatModel};

use super::f64s;
use crate::support::close::U;
use crate::support::trial;

/// Two stages, batch norms and a projection: every kind of state that a run has to carry.
pub const CARD: &str = "arch = 'resnet'\ninput = [3, 32, 32]\nclasses = 10\nblocks = [1, 1]\nwidths = [4, 8]\n";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("training::resume.standard", || resumes(&standard(3))),
        trial("training::resume.pgd_at_ema", || resumes(&robust(3))),
        trial("training::resume.dropout", || resumes(&dropped(1))),
        trial("training::resume.after_the_end", resuming_a_finished_run_changes_nothing),
        trial("training::resume.killed", killed_runs_lose_nothing),
        trial("training::seeds", seeds_decide),
        trial("training::threads", threads_change_nothing),
        trial("training::loss_falls", loss_falls_and_the_card_works),
        trial("training::fgsm_rs", fgsm_rs_runs_and_is_named),
        trial("training::refusals", refusals),
        trial("training::divergence", divergence_keeps_the_last_good_state),
        trial("training::chosen_on_test", test_split_only_when_asked),
        trial("training::last_batch", last_batches),
        trial("training::averages", averages_follow_every_parameter),
        trial("training::in_place", updates_copy_nothing),
        trial("training::dropout_seed", masks_follow_the_seed),
    ]
}

pub fn config(recipe: Recipe, epochs: usize) -> Config {
    let threat = ThreatModel::linf(8.0 / 255.0);
    Config {
        card: ModelCard::parse(CARD, "tiny", Path::new("")).expect("a good card"),
        card_text: CARD.into(),
        recipe,
        crafting: recipe.crafting(threat),
        method: recipe.method(threat),
        tricks: Tricks::default(),
        tail: LongTail::default(),
        epochs,
        batch: 32,
        lr_max: 0.1,
        schedule: Schedule::OneCycle,
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
        smoothing: 0.1,
        ema: None,
        augment: Augment { pad: 4, flip: true, cutout: 0 },
        val: 25,
        choose_on_test: false,
        probe_steps: 2,
        drop_last: false,
        data: "synthetic".into(),
        images: 100,
        initial: None,
        precision: petard::plan::Precision::F32,
        seed: 1,
    }
}

fn standard(epochs: usize) -> Config {
    config(Recipe::Standard, epochs)
}

fn robust(epochs: usize) -> Config {
    let mut config = config(Recipe::PgdAt, epochs);
    config.ema = Some(0.9);
    config.crafting = config.crafting.map(|c| train::Crafting { steps: 2, ..c });
    config
}

/// Masks are drawn by image and step, not by how often the program was started.
fn dropped(epochs: usize) -> Config {
    let text = "arch = 'wide_resnet'\ninput = [3, 32, 32]\nclasses = 10\ndepth = 10\nwiden = 1\ndropout = 0.3\n";
    let card = ModelCard::parse(text, "dropped", Path::new("")).expect("a good card");
    Config { card, card_text: text.into(), batch: 16, ..standard(epochs) }
}

/// 100 images: 75 to train on, two full batches and one of 11.
pub fn images(split: Split, limit: usize) -> Dataset {
    let options = data::Options { split, limit: Some(limit), ..Default::default() };
    Dataset::open("synthetic", &options).expect("the synthetic set is always there")
}

pub fn device(threads: usize) -> Device {
    Device::open("cpu", &DeviceOptions { threads, ..Default::default() }).expect("every machine has a CPU")
}

pub fn go(config: &Config, out: &Path, resume: bool, hooks: Hooks) -> petard::Result<Finished> {
    let train = images(Split::Train, 100);
    let extra = config.tricks.extra.as_ref().map(|extra| {
        let options = data::Options { split: Split::Train, limit: Some(extra.images), ..Default::default() };
        Dataset::open(&extra.data, &options).expect("the synthetic set is always there")
    });
    train::run(&device(2), Job { config, train: &train, extra: extra.as_ref(), test: None, weights: None, out, resume }, hooks)
}

/// Every file that must not differ: all but the log, which holds times.
pub fn files(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(out).expect("the folder of a run").map(|e| e.expect("an entry").path());
    let name = |p: &Path| p.file_name().expect("a name").to_string_lossy().into_owned();
    entries.filter(|p| name(p) != "log.csv").map(|p| (name(&p), fs::read(&p).expect("a file"))).collect()
}

pub fn same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    a.iter().for_each(|(name, bytes)| assert!(*bytes == b[name], "{name} differs"));
}

/// Stopped again and again, inside epochs, between them and during evaluation: the same bytes.
pub fn resumes(config: &Config) -> petard::Result<()> {
    let (whole, broken) = (folder(), folder());
    let finished = go(config, whole.path(), false, Hooks::default())?;
    let mut stops = 0;
    let resumed = loop {
        // Asked for the n-th time; a step or a batch of the evaluation asks once, a step of its attack too.
        let left = Cell::new(4);
        let stop = || left.replace(left.get() - 1) == 0;
        match go(config, broken.path(), true, Hooks { stop: Some(Box::new(stop)), ..Hooks::default() }) {
            Err(Error::Interrupted { .. }) => stops += 1,
            other => break other?,
        }
        assert!(stops < 50, "the run does not get on");
    };
    assert!(stops >= 1, "no interruption");
    same(whole.path(), broken.path());
    assert_eq!(finished.best, resumed.best);
    let epochs = |out: &Path| -> Vec<String> {
        let log = fs::read_to_string(out.join("log.csv")).expect("the log");
        // Times come last.
        log.lines().map(|l| l.split(',').take(12).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(epochs(whole.path()), epochs(broken.path()));
    assert_eq!(epochs(whole.path()).len(), config.epochs + 1, "a header and a line an epoch");
    Ok(())
}

fn resuming_a_finished_run_changes_nothing() -> petard::Result<()> {
    let (out, copy) = (folder(), folder());
    go(&standard(1), out.path(), false, Hooks::default())?;
    for (name, bytes) in files(out.path()) {
        fs::write(copy.path().join(name), bytes).expect("a copy");
    }
    go(&standard(1), out.path(), true, Hooks::default())?;
    same(out.path(), copy.path());
    Ok(())
}

/// The program, killed at any moment without a chance to save, and started again: the same bytes.
fn killed_runs_lose_nothing() {
    let at = folder();
    fs::write(at.path().join("tiny.toml"), CARD).expect("a card");
    let start = |out: &str| {
        let line = "train --model tiny.toml --limit 100 --val 20 --batch-size 32 --epochs 4 --recipe fgsm-rs --val-steps 2 \
                    --ema 0.9 --threads 1 --resume --out";
        let mut command = Command::new(env!("CARGO_BIN_EXE_petard"));
        command.args(line.split_whitespace()).arg(out).current_dir(at.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    };
    let began = Instant::now();
    assert!(start("whole").wait().expect("it ends").success());
    let whole = began.elapsed();
    let mut kills = 0;
    for part in 1.. {
        let mut child = start("killed");
        std::thread::sleep(whole * part / 8);
        if let Some(status) = child.try_wait().expect("a child of ours") {
            assert!(status.success(), "a resumed run fails");
            break;
        }
        child.kill().expect("a child of ours");
        child.wait().expect("it ends");
        kills += 1;
    }
    assert!(kills >= 2, "only {kills} kills");
    same(&at.path().join("whole"), &at.path().join("killed"));
}

fn seeds_decide() -> petard::Result<()> {
    let runs = [1, 1, 2].map(|seed| (folder(), Config { seed, ..standard(1) }));
    for (out, config) in &runs {
        go(config, out.path(), false, Hooks::default())?;
    }
    let [a, b, c] = runs.each_ref().map(|(out, _)| files(out.path()));
    assert!(a == b && a["last.safetensors"] != c["last.safetensors"]);
    Ok(())
}

fn threads_change_nothing() -> petard::Result<()> {
    let (train, config) = (images(Split::Train, 100), robust(1));
    let outs = [1, 2, 3].map(|threads| (threads, folder()));
    for (threads, out) in &outs {
        let job = Job { config: &config, train: &train, extra: None, test: None, weights: None, out: out.path(), resume: false };
        train::run(&device(*threads), job, Hooks::default())?;
    }
    same(outs[0].1.path(), outs[1].1.path());
    same(outs[0].1.path(), outs[2].1.path());
    Ok(())
}

fn loss_falls_and_the_card_works() -> petard::Result<()> {
    let (out, mut losses) = (folder(), Vec::new());
    let config = Config { smoothing: 0.0, augment: Augment { pad: 0, flip: false, cutout: 0 }, lr_max: 0.2, ..standard(12) };
    let hooks = Hooks { epoch: Some(Box::new(|row: &Row| losses.push(row.loss))), ..Hooks::default() };
    let finished = go(&config, out.path(), false, hooks)?;
    assert!(losses[11] < 0.9 * losses[0], "{losses:?}");
    let model = Model::load(finished.card.to_str().expect("a UTF-8 path"), None)?;
    assert_eq!(model.card.name, "tiny");
    let best = fs::read_to_string(out.path().join("log.csv")).expect("the log");
    assert!(best.lines().nth(finished.best.epoch).is_some_and(|l| l.split(',').nth(9) == Some("1")), "{best}");
    Ok(())
}

fn fgsm_rs_runs_and_is_named() -> petard::Result<()> {
    for batch_norm in [BatchNorm::Eval, BatchNorm::Train] {
        let (out, mut config) = (folder(), config(Recipe::FgsmRs, 1));
        config.crafting = config.crafting.map(|c| train::Crafting { batch_norm, ..c });
        let mut score = None;
        let hooks = Hooks { epoch: Some(Box::new(|row: &Row| score = row.score)), ..Hooks::default() };
        go(&config, out.path(), false, hooks)?;
        let score = score.expect("an evaluation each epoch");
        assert!(score.images == 25 && score.robust.is_some_and(|r| r <= score.clean), "{score:?}");
        let log = fs::read_to_string(out.path().join("log.csv")).expect("the log");
        assert_eq!(log.lines().nth(1).and_then(|l| l.split(',').nth(8)), Some(batch_norm.name()));
        assert!(config.describe().contains(&format!("batch norm in {} mode", batch_norm.name())));
    }
    Ok(())
}

fn refusals() -> petard::Result<()> {
    let out = folder();
    go(&standard(1), out.path(), false, Hooks::default())?;
    let refused = |config: &Config, resume: bool| {
        go(config, out.path(), resume, Hooks::default()).expect_err("must be refused").to_string()
    };
    assert!(refused(&standard(1), false).ends_with("holds a run already"));
    let other = Config { lr_max: 0.2, ..standard(1) };
    assert!(refused(&other, true).ends_with("has lr_max 0.1, now it is 0.2"), "{}", refused(&other, true));
    let card_text = CARD.replace("8]", "9]");
    assert!(refused(&Config { card_text, ..standard(1) }, true).contains("another card of the name `tiny`"));
    fs::write(out.path().join("last.state.safetensors"), b"nonsense").expect("a file");
    assert!(refused(&standard(1), true).ends_with("is not the state of a training run"));
    for (config, words) in [
        (Config { lr_max: 0.0, ..standard(1) }, "learning rate is 0"),
        (Config { lr_max: f64::NAN, ..standard(1) }, "learning rate is NaN"),
        (Config { momentum: 1.0, ..standard(1) }, "`momentum` is 1"),
        (Config { weight_decay: -1.0, ..standard(1) }, "weight decay is -1"),
        (Config { epochs: 0, ..standard(1) }, "at least 1 epoch"),
        (Config { batch: 1, ..standard(1) }, "batches of at least 2"),
        (Config { val: 99, ..standard(1) }, "leave no batch"),
        (Config { choose_on_test: true, ..standard(1) }, "no test split"),
    ] {
        let text = go(&config, folder().path(), false, Hooks::default()).expect_err(words).to_string();
        assert!(text.contains(words), "{text}");
    }
    Ok(())
}

fn divergence_keeps_the_last_good_state() -> petard::Result<()> {
    let out = folder();
    let wild = Config { lr_max: 1e20, schedule: Schedule::Constant, ..standard(2) };
    let error = go(&wild, out.path(), false, Hooks::default()).expect_err("nothing learns at this rate");
    assert!(error.to_string().contains("training diverged: the loss of step"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("--lr-max")));
    assert!(!out.path().join("last.safetensors").exists(), "a state that is not good was saved");
    Ok(())
}

fn test_split_only_when_asked() -> petard::Result<()> {
    let (out, config) = (folder(), Config { choose_on_test: true, ..standard(1) });
    let (train, test) = (images(Split::Train, 100), images(Split::Test, 20));
    let job =
        Job { config: &config, train: &train, extra: None, test: Some(&test), weights: None, out: out.path(), resume: false };
    let finished = train::run(&device(2), job, Hooks::default())?;
    assert_eq!(finished.best.score.map(|s| s.images), Some(20));
    let log = fs::read_to_string(out.path().join("log.csv")).expect("the log");
    assert_eq!(log.lines().nth(1).and_then(|l| l.split(',').nth(4)), Some("test"));
    let none = folder();
    let finished = go(&Config { val: 0, ..standard(1) }, none.path(), false, Hooks::default())?;
    assert_eq!(finished.best.score, None, "without held-out images the best is the last");
    let files = files(none.path());
    assert!(files["best.safetensors"] == files["last.safetensors"]);
    Ok(())
}

/// Steps of an epoch over 100 images, and that one image left over is left out.
fn last_batches() -> petard::Result<()> {
    for (val, batch, drop_last, want) in
        [(25, 32, false, 3), (25, 32, true, 2), (36, 32, false, 2), (35, 32, false, 2), (25, 200, false, 1)]
    {
        let config = Config { val, batch, drop_last, ..standard(1) };
        let mut steps = 0;
        let hooks = Hooks { progress: Some(Box::new(|p: train::Progress| steps = p.steps.max(p.step))), ..Hooks::default() };
        go(&config, folder().path(), false, hooks)?;
        assert_eq!(steps, want, "{val} held out, batches of {batch}");
    }
    Ok(())
}

/// The average after each step is that of all parameters after it, running statistics included.
fn averages_follow_every_parameter() -> petard::Result<()> {
    let card = ModelCard::parse(CARD, "tiny", Path::new("")).expect("a good card");
    let form = Form { nesterov: true, averaged: true, batch: 16, ..Form::default() };
    let mut engine = Engine::new(&device(2), &card, Weights::initial(&card, 3), form)?;
    let batch = images(Split::Train, 16).read(0..16)?;
    let mut pixels = vec![0.0; 16 * 3072];
    pixels.chunks_mut(3072).enumerate().for_each(|(i, out)| batch.pixels_f32(i, out));
    let label = batch.labels.expect("labels");
    let mut want: BTreeMap<String, Vec<f64>> = engine.parameters()?.iter().map(|(n, t)| (n.clone(), f64s(t))).collect();
    for step in 0..3 {
        engine.load(Images { pixels: &pixels, label: &label, index: &batch.index })?;
        engine.step(Hyper { lr: 0.1, momentum: 0.9, weight_decay: 5e-4, ema: 0.75 }, step)?;
        for (name, tensor) in engine.parameters()? {
            let average = want.get_mut(&name).expect("the same names");
            average.iter_mut().zip(f64s(&tensor)).for_each(|(a, v)| *a = 0.75 * *a + 0.25 * v);
        }
    }
    let got = engine.averages()?;
    assert_eq!(got.len(), want.len());
    for (name, want) in want {
        // Three roundings a step, of numbers up to a few units.
        let far = f64s(&got[&name]).iter().zip(&want).fold(0f64, |m, (g, w)| m.max((g - w).abs() / (1.0 + w.abs())));
        assert!(far < 9.0 * U, "{name} is off by {far:.1e}");
    }
    Ok(())
}

/// Weights, velocities, statistics, averages and images are all updated where they lie.
fn updates_copy_nothing() -> petard::Result<()> {
    let config = robust(1);
    let form = Form { crafting: config.crafting, nesterov: true, averaged: true, batch: 16, ..Form::default() };
    let (graph, segments) = train::step_graph(&config.card, &form);
    let plan = compile(&graph, &segments, form.batch)?;
    for program in plan.programs() {
        let copies: Vec<&str> = program.steps.iter().filter(|s| s.head == Head::Copy).map(|s| s.label.as_str()).collect();
        assert_eq!(copies, [""; 0], "`{}` copies", program.name);
    }
    Ok(())
}

/// The seed of a run draws its masks, and nothing but training sees it.
fn masks_follow_the_seed() -> petard::Result<()> {
    let card = dropped(1).card;
    let batch = images(Split::Train, 16).read(0..16)?;
    let mut pixels = vec![0.0; 16 * 3072];
    pixels.chunks_mut(3072).enumerate().for_each(|(i, out)| batch.pixels_f32(i, out));
    let label = batch.labels.expect("labels");
    let seen = |seed| -> petard::Result<(f64, Vec<f32>)> {
        let form = Form { nesterov: true, batch: 16, seed, ..Form::default() };
        let mut engine = Engine::new(&device(2), &card, Weights::initial(&card, 3), form)?;
        engine.load(Images { pixels: &pixels, label: &label, index: &batch.index })?;
        let logits = engine.logits()?;
        Ok((engine.step(Hyper { lr: 0.1, momentum: 0.9, weight_decay: 0.0, ema: 0.0 }, 0)?.loss, logits))
    };
    let (one, again, other) = (seen(1)?, seen(1)?, seen(2)?);
    assert!(one == again, "one seed, two results");
    assert!(one.0 != other.0, "two seeds, one loss: {}", one.0);
    assert!(one.1 == other.1, "evaluation depends on the seed");
    Ok(())
}

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
