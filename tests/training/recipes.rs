//! Every recipe: a few steps that resume to the same bits, what is particular to it, and what the command line makes of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use petard::nn::{ModelCard, Weights};
use petard::train::{
    self, Awp, Config, Crafting, Engine, Extra, Form, Guard, Hooks, Hyper, Images, Job, LongTail, Margins, Recipe, Row, Sampler,
    Schedule, Tricks,
};

use petard::data::Split;
use petard::{Error, ThreatModel};

use super::f64s;
use super::runs::{CARD, config, device, files, folder, go, images, resumes, same};
use crate::support::close::U;
use crate::support::trial;

pub fn trials() -> Vec<Trial> {
    let mut out: Vec<Trial> = Recipe::ALL
        .into_iter()
        .map(|recipe| trial(format!("training::recipe.{}", recipe.name()), move || resumes(&short(recipe))))
        .collect();
    out.extend([
        trial("training::recipe.awp", || {
            resumes(&Config { epochs: 2, ..with(Recipe::Trades, Tricks { awp: Some(AWP), ..Tricks::default() }) })
        }),
        trial("training::recipe.mixup", || resumes(&mixed())),
        trial("training::recipe.he", || HE.into_iter().try_for_each(|recipe| resumes(&on_a_sphere(recipe)))),
        trial("training::sphere", angles_alone_decide),
        trial("training::longtail.margins", || resumes(&rare(Margins::Ldam { max: 0.5, scale: 1.0 }, Sampler::ClassAware))),
        trial("training::longtail.robal", || resumes(&robal())),
        trial("training::longtail.classes", classes_add_up),
        trial("training::longtail.stages", the_second_stage_moves_the_classifier_alone),
        trial("training::recipe.patience", patience_ends_a_run),
        trial("training::awp.weights", weights_are_perturbed_and_come_back),
        trial("training::free.delta", perturbations_stay_in_the_ball_and_last),
        trial("training::guard", guards_see_overfitting),
        trial("training::extra", extra_images_fill_their_share),
        trial("training::weights_kept", weights_of_epochs_are_kept),
        trial("training::clash", what_a_recipe_would_not_notice_is_refused),
        trial("training::print", recipes_print_in_full),
    ]);
    out
}

const AWP: Awp = Awp { gamma: 0.01, warmup: 1 };

/// Six steps: five full batches and one of four images.
fn short(recipe: Recipe) -> Config {
    let mut config = Config { batch: 16, val: 16, smoothing: 0.0, ..config(recipe, 1) };
    config.crafting = config.crafting.map(|c| Crafting { steps: c.steps.min(2), ..c });
    config.ema = (recipe == Recipe::Trades).then_some(0.9);
    config.method.replays = config.method.replays.min(2);
    if let Some(m) = &mut config.method.mma {
        m.bisections = 3;
    }
    config
}

fn with(recipe: Recipe, tricks: Tricks) -> Config {
    Config { tricks, ..short(recipe) }
}

fn mixed() -> Config {
    let extra = Extra { data: "synthetic:9".into(), images: 40, fraction: 0.4 };
    let tricks = Tricks { mixup: Some(1.0), eps_warmup: 1, margin: 0.3, extra: Some(extra), ..Tricks::default() };
    Config { smoothing: 0.1, ..with(Recipe::PgdAt, tricks) }
}

const HE: [Recipe; 5] = [Recipe::PgdAt, Recipe::Alp, Recipe::Trades, Recipe::Free, Recipe::FgsmRs];

/// Hypersphere embedding: scale 15, margin 0.2.
fn on_a_sphere(recipe: Recipe) -> Config {
    let text = format!("{CARD}sphere = {{ scale = 15.0, gamma = 0.03125 }}\n");
    let card = ModelCard::parse(&text, "tiny", Path::new("")).expect("a good card");
    let config = with(recipe, Tricks { margin: 3.0, ..Tricks::default() });
    Config { card, card_text: text, epochs: 1, ema: Some(0.9), ..config }
}

/// Neither the length of a row of the classifier nor its bias moves an answer, and none is above the scale.
fn angles_alone_decide() -> petard::Result<()> {
    let card = on_a_sphere(Recipe::Standard).card;
    let logits = |gamma: bool, change: fn(&str, &mut f32)| -> petard::Result<Vec<f32>> {
        let mut card = card.clone();
        card.sphere = card.sphere.map(|s| petard::nn::Sphere { gamma: if gamma { s.gamma } else { 0.0 }, ..s });
        let mut weights = Weights::initial(&card, 3);
        for (name, tensor) in &mut weights.tensors {
            let petard::tensor::HostData::F32(data) = &mut tensor.data else { unreachable!("weights are f32") };
            data.iter_mut().for_each(|v| change(name, v));
        }
        let batch = images(Split::Train, 16).read(0..16)?;
        let mut pixels = vec![0.0; 16 * 3072];
        pixels.chunks_mut(3072).enumerate().for_each(|(i, out)| batch.pixels_f32(i, out));
        let mut engine = Engine::new(&device(1), &card, weights, Form { batch: 16, ..Form::default() })?;
        engine.load(Images { pixels: &pixels, label: &[0; 16], index: &batch.index })?;
        engine.logits()
    };
    let plain = logits(false, |_, _| {})?;
    assert!(plain.iter().all(|z| z.abs() <= 15.0 * (1.0 + 1e-6)) && plain.iter().any(|z| z.abs() > 1.0), "{plain:?}");
    let turned = logits(false, |name, v| match name {
        "fc.weight" => *v *= 4.0,
        "fc.bias" => *v += 7.0,
        _ => {}
    })?;
    assert_eq!(turned, plain, "a power of two changes no bit");
    let with_gamma = logits(true, |_, _| {})?;
    assert!(with_gamma.iter().zip(&plain).all(|(a, b)| a.abs() <= b.abs()) && with_gamma != plain, "gamma shortens");
    Ok(())
}

/// Class-balanced weights and margins from the second epoch on, classes drawn alike.
fn rare(margins: Margins, sampler: Sampler) -> Config {
    let focal = Some(train::Criterion::SigmoidFocal { gamma: 2.0 });
    let tail = LongTail { focal, margins, balanced: Some(0.99), defer: 1, sampler, ..LongTail::default() };
    Config { tail, epochs: 2, ..short(Recipe::PgdAt) }
}

/// RoBal: margins and biases by class on cosines of scale 1, and a divergence beside the attacked loss.
fn robal() -> Config {
    let multi = Margins::Multi(train::MultiMargin { s: 10.0, m0: 0.1, tau_b: 1.5, tau_m: 0.3 });
    let text = format!("{CARD}sphere = {{ scale = 1.0, gamma = 0.03125 }}\n");
    let mut config = Config { tail: LongTail { margins: multi, ..LongTail::default() }, ..short(Recipe::Alp) };
    config.method.outer = train::Outer { kl: 6.0, ..train::Outer::PLAIN };
    Config { card: ModelCard::parse(&text, "tiny", Path::new("")).expect("a good card"), card_text: text, ..config }
}

/// The best epoch class by class adds up to the line of the log.
fn classes_add_up() -> petard::Result<()> {
    let out = folder();
    let finished = go(&short(Recipe::FgsmRs), out.path(), false, Hooks::default())?;
    let text = fs::read_to_string(out.path().join("classes.csv")).expect("a file");
    let rows: Vec<Vec<usize>> =
        text.lines().skip(1).map(|l| l.split(',').map(|v| v.parse().expect("a number")).collect()).collect();
    let sum = |column: usize| rows.iter().map(|r| r[column]).sum::<usize>();
    let score = finished.best.score.expect("images are held out");
    assert_eq!((rows.len(), sum(1), sum(2), sum(3)), (10, 84, 16, score.clean), "{text}");
    assert_eq!(Some(sum(4)), score.robust);
    Ok(())
}

fn the_second_stage_moves_the_classifier_alone() -> petard::Result<()> {
    let (mut engine, ..) = loaded(Form { classifier_only: true, ..Form::default() })?;
    let before = engine.parameters()?;
    engine.step(PLAIN, 0)?;
    let moved: Vec<String> = engine.parameters()?.into_iter().filter(|(n, t)| *t != before[n]).map(|(n, _)| n).collect();
    let (own, rest): (Vec<&str>, Vec<&str>) = moved.iter().map(String::as_str).partition(|n| n.starts_with("fc."));
    assert_eq!(own, ["fc.bias", "fc.weight"]);
    assert!(rest.iter().all(|n| n.contains("running")) && !rest.is_empty(), "{rest:?}");
    Ok(())
}

fn patience_ends_a_run() -> petard::Result<()> {
    let mut epochs = 0;
    let flat = Config { epochs: 9, lr_max: 1e-9, schedule: Schedule::Constant, ..short(Recipe::FgsmRs) };
    let config = Config { tricks: Tricks { patience: Some(2), ..Tricks::default() }, ..flat };
    let hooks = Hooks { epoch: Some(Box::new(|row: &Row| epochs = row.epoch)), ..Hooks::default() };
    let out = folder();
    let finished = go(&config, out.path(), false, hooks)?;
    assert_eq!((finished.best.epoch, epochs), (1, 3), "nothing changes, so the first epoch stays the best");
    let again = go(&config, out.path(), true, Hooks::default())?;
    assert_eq!(again.best, finished.best, "a run that has ended does not go on");
    Ok(())
}

/// Sixteen images.
struct Held {
    pixels: Vec<f32>,
    label: Vec<i32>,
    index: Vec<u32>,
}

impl Held {
    fn images(&self) -> Images<'_> {
        Images { pixels: &self.pixels, label: &self.label, index: &self.index }
    }
}

/// An engine with a batch of images, and these.
fn loaded(form: Form) -> petard::Result<(Engine, Held)> {
    let card = ModelCard::parse(CARD, "tiny", Path::new("")).expect("a good card");
    let batch = images(Split::Train, 16).read(0..16)?;
    let mut pixels = vec![0.0; 16 * 3072];
    pixels.chunks_mut(3072).enumerate().for_each(|(i, out)| batch.pixels_f32(i, out));
    let label = batch.labels.expect("labels");
    let mut engine = Engine::new(&device(2), &card, Weights::initial(&card, 3), Form { batch: 16, ..form })?;
    let held = Held { pixels, label, index: batch.index };
    engine.load(held.images())?;
    Ok((engine, held))
}

const PLAIN: Hyper = Hyper { lr: 0.1, momentum: 0.0, weight_decay: 0.0, ema: 0.0 };

/// Matrices move by gamma of their length, all else stays; after a step of length 0 everything is where it was.
fn weights_are_perturbed_and_come_back() -> petard::Result<()> {
    let (mut engine, ..) = loaded(Form { perturbed: true, ..Form::default() })?;
    let before = engine.parameters()?;
    engine.perturb(0.01, 0)?;
    let moved = engine.parameters()?;
    for (name, tensor) in &before {
        let (from, to) = (f64s(tensor), f64s(&moved[name]));
        let length = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let way = length(&from.iter().zip(&to).map(|(a, b)| a - b).collect::<Vec<_>>());
        let want = if tensor.dims.len() > 1 { 0.01 * length(&from) } else { 0.0 };
        // Each element is rounded once where it is added.
        assert!((way - want).abs() <= 2.0 * U * length(&from), "{name} moved by {way}, not {want}");
    }
    engine.step(Hyper { lr: 0.0, ..PLAIN }, 0)?;
    for (name, tensor) in engine.parameters()?.iter().filter(|(name, _)| !name.contains("running")) {
        let far = f64s(tensor).iter().zip(f64s(&before[name])).fold(0f64, |m, (a, b)| m.max((a - b).abs() / (1.0 + b.abs())));
        assert!(far <= 2.0 * U, "{name} is off by {far:.1e}");
    }
    let (mut plain, ..) = loaded(Form::default())?;
    let (mut fresh, ..) = loaded(Form { perturbed: true, ..Form::default() })?;
    fresh.perturb(0.01, 0)?;
    assert!(fresh.step(PLAIN, 0)?.loss > plain.step(PLAIN, 0)?.loss, "the step must see the loss that the perturbation raised");
    Ok(())
}

fn perturbations_stay_in_the_ball_and_last() -> petard::Result<()> {
    let (threat, eps) = (ThreatModel::linf(8.0 / 255.0), 8.0 / 255.0);
    let crafting = Recipe::Free.crafting(threat);
    let (mut engine, held) = loaded(Form { crafting, replay: true, ..Form::default() })?;
    let delta = |engine: &mut Engine| -> petard::Result<Vec<f64>> { Ok(f64s(&engine.state()?["delta"])) };
    assert!(delta(&mut engine)?.iter().all(|d| *d == 0.0));
    let first = engine.step(Hyper { lr: 0.0, ..PLAIN }, 0)?.loss;
    let after = delta(&mut engine)?;
    assert!(after.iter().all(|d| d.abs() <= eps + U) && after.iter().any(|d| d.abs() > 0.9 * eps), "one step of eps");
    engine.load(held.images())?;
    assert_eq!(delta(&mut engine)?, after, "the next batch starts from what the last has left");
    assert!(engine.step(Hyper { lr: 0.0, ..PLAIN }, 0)?.loss > first, "the second replay sees attacked images");
    Ok(())
}

/// A rate that throws the network about: with some seed an epoch loses more than 20 points, and that one is taken back.
fn guards_see_overfitting() -> petard::Result<()> {
    let wild = |guard, seed| {
        let base = Config { epochs: 14, lr_max: 0.5, val: 0, augment: PLAIN_IMAGES, seed, ..short(Recipe::FgsmRs) };
        let crafting = base.crafting.map(|c| Crafting { threat: ThreatModel::linf(1e-4), alpha: 1e-4, ..c });
        Config { schedule: Schedule::Cyclic, crafting, tricks: Tricks { guard, ..Tricks::default() }, ..base }
    };
    for seed in 1..8 {
        let (out, mut rows) = (folder(), Vec::new());
        let hooks =
            Hooks { epoch: Some(Box::new(|row: &Row| rows.push(row.guarded.expect("a guard looks")))), ..Hooks::default() };
        let finished = go(&wild(Guard::Stop, seed), out.path(), false, hooks)?;
        let Some(fall) = rows.windows(2).position(|w| w[0].0 - w[1].0 > 0.2) else { continue };
        assert!(rows[fall + 1].1 && rows.len() == fall + 2 && rows[..=fall].iter().all(|r| !r.1), "{rows:?}");
        assert_eq!(finished.best.epoch, fall + 1, "the state before the fall is kept");
        let kept = files(out.path());
        assert!(kept["last.safetensors"] == kept["best.safetensors"]);
        return resumes(&wild(Guard::Rollback, seed));
    }
    panic!("no seed falls, so the test shows nothing")
}

const PLAIN_IMAGES: train::Augment = train::Augment { pad: 0, flip: false, cutout: 0 };

fn extra_images_fill_their_share() -> petard::Result<()> {
    let (config, out) = (mixed(), folder());
    let mut steps = 0;
    let hooks = Hooks { progress: Some(Box::new(|p: train::Progress| steps = p.steps)), ..Hooks::default() };
    go(&config, out.path(), false, hooks)?;
    // Every batch is full: of 84 images, 16 at a time.
    assert_eq!(steps, 5);
    let (train, none) = (images(Split::Train, 100), folder());
    let job = Job { config: &config, train: &train, extra: None, test: None, weights: None, out: none.path(), resume: false };
    let run = std::panic::catch_unwind(|| train::run(&device(1), job, Hooks::default()).map(drop));
    assert!(run.is_err(), "extra images that are not handed in are a fault of the caller");
    Ok(())
}

fn weights_of_epochs_are_kept() -> petard::Result<()> {
    let out = folder();
    let kept = Tricks { save_every: Some(2), ..Tricks::default() };
    go(&Config { epochs: 2, ..with(Recipe::Standard, kept) }, out.path(), false, Hooks::default())?;
    let names: Vec<String> = files(out.path()).into_keys().filter(|n| n.starts_with("epoch-")).collect();
    assert_eq!(names, ["epoch-2.safetensors"]);
    Ok(())
}

fn what_a_recipe_would_not_notice_is_refused() -> petard::Result<()> {
    let mixup = Tricks { mixup: Some(1.0), ..Tricks::default() };
    for (config, words) in [
        (with(Recipe::Mart, mixup.clone()), "takes no mixup"),
        (with(Recipe::AvMixup, mixup.clone()), "takes no mixup"),
        (with(Recipe::Mma, mixup), "takes no mixup"),
        (Config { smoothing: 0.1, ..short(Recipe::AvMixup) }, "takes no label smoothing"),
        (with(Recipe::Mma, Tricks { eps_warmup: 2, ..Tricks::default() }), "takes no a radius that grows"),
        (with(Recipe::Standard, Tricks { guard: Guard::Stop, ..Tricks::default() }), "need a recipe with an attack"),
        (with(Recipe::PgdAt, Tricks { awp: Some(Awp { gamma: 1.5, warmup: 0 }), ..Tricks::default() }), "by 1.5 of their length"),
        (with(Recipe::PgdAt, Tricks { mixup: Some(9.0), ..Tricks::default() }), "`mixup` is 9"),
        (with(Recipe::PgdAt, Tricks { margin: -1.0, ..Tricks::default() }), "margin is -1"),
    ] {
        match go(&config, folder().path(), false, Hooks::default()) {
            Err(Error::Usage { .. }) => {}
            other => panic!("{words}: {other:?}"),
        }
        let text = go(&config, folder().path(), false, Hooks::default()).expect_err(words).to_string();
        assert!(text.contains(words), "{text}");
    }
    Ok(())
}

/// `petard train --recipe NAME --print` names every value and trains nothing; an option of another recipe is refused.
fn recipes_print_in_full() {
    let at = folder();
    fs::write(at.path().join("tiny.toml"), CARD).expect("a card");
    let run = |words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_petard"));
        let out = command.args("train --model tiny.toml --limit 50".split(' ').chain(words.split(' '))).current_dir(at.path());
        let out = out.output().expect("the program starts");
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let values = |text: &str| -> BTreeMap<String, String> {
        text.lines().filter_map(|l| l.split_once(' ')).map(|(k, v)| (k.to_string(), v.trim().to_string())).collect()
    };
    for recipe in Recipe::ALL {
        let (ok, text, error) = run(&format!("--recipe {} --print", recipe.name()));
        assert!(ok, "{error}");
        let printed = values(&text);
        assert_eq!(printed["recipe"], recipe.name());
        assert!(["epochs", "lr_max", "weight_decay", "seed"].iter().all(|key| printed.contains_key(*key)), "{text}");
    }
    assert!(!at.path().join("petard-train").exists(), "printing leaves no folder");
    let printed = values(&run("--recipe trades --print --beta 5 --passes 2 --epochs 38 --attack-bn frozen --awp 0.005").1);
    let found =
        ["beta", "running_statistics", "milestones", "attack_batch_norm", "attack_loss", "awp"].map(|k| printed[k].as_str());
    assert_eq!(found, ["5.0", "clean attacked", "[37]", "frozen", "kl", "0.005"]);
    for (words, error) in [
        ("--recipe pgd-at --beta 2", "`--beta` is not used by `--recipe pgd-at`"),
        ("--recipe trades --replays 2", "`--replays` is not used by `--recipe trades`"),
        ("--recipe free --attack-bn eval", "attacks in the training step itself"),
        ("--recipe mma --alpha 0.1", "`--alpha` is not used by `--recipe mma`"),
        ("--recipe standard --attack-noise 0.1", "`--attack-noise` is not used by `--recipe standard`"),
    ] {
        let (ok, _, text) = run(words);
        assert!(!ok && text.contains(error), "{words}: {text}");
    }
    let (ok, _, error) =
        run("--recipe alp --epochs 1 --steps 2 --val 10 --val-steps 1 --batch-size 16 --pair-over rows --out alp");
    assert!(ok, "{error}");
    same(&at.path().join("alp"), &at.path().join("alp"));
}
