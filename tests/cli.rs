//! The built program from outside: exit codes, help and error texts, the JSON contract, saved sets, signals.
//! Must not look inside the library, except to make a tiny model and to read back what was written.

mod bad_input;
mod dataset;
mod eval;
pub mod fixture;
mod kernel;
mod memory;
mod nearest;
mod scale;
mod transfer;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use libtest_mimic::Trial;
use petard::data::{Dataset, Options};
use serde_json::Value;

use crate::support::{Snapshot, cifar10, ignored, shared, trial};
use fixture::{ATTACK, Fixture, TINY};

/// Keys of `petard.attack/1` in order; others may follow.
const ATTACK_KEYS: &str = "schema model data images clean_accuracy robust_accuracy attack device precision seed seconds \
    image_steps_per_second max_distance doubts per_image";
/// Keys of `petard.infer/1` in order; others may follow.
const INFER_KEYS: &str = "schema model data images clean_accuracy device precision seconds images_per_second per_image";

pub fn trials() -> Vec<Trial> {
    let help = [
        "",
        "attack",
        "eval",
        "infer",
        "train",
        "merge",
        "corruptions",
        "dataset",
        "dataset bass",
        "dataset corrupt",
        "dataset longtail",
        "spectrum",
        "spectrum psd",
        "spectrum bands",
        "spectrum sensitivity",
        "spectrum heatmap",
        "spectrum perturbation",
        "spectrum landscape",
        "plan",
        "models",
        "devices",
        "kernel",
        "completions",
    ];
    let help = help.into_iter().map(|command| {
        let name = if command.is_empty() { "petard" } else { command };
        trial(format!("cli::help.{name}"), move || help_text(command, name))
    });
    let own = vec![
        trial("cli::attack.json_is_the_contract", attack_json),
        trial("cli::attack.report_and_json_go_where_asked", places),
        trial("cli::attack.repeat_gives_the_same_numbers", repeat),
        trial("cli::attack.targets_have_a_line", targeted),
        trial("cli::attack.expect_robust", expect_robust),
        trial("cli::attack.saved_sets_read_back", saved_sets),
        trial("cli::attack.pictures", pictures),
        trial("cli::attack.starts_from_a_file", starts),
        trial("cli::attack.unlabelled_images_are_said", unlabelled),
        trial("cli::infer.json_and_logits", infer),
        trial("cli::plan.needs_no_weights", plan),
        trial("cli::models.lists_and_prints", models),
        trial("cli::devices.names_the_cpu", devices),
        trial("cli::completions.every_shell", completions),
        trial("cli::stdout.closed_early_is_no_error", closed_pipe),
        trial("cli::version", || assert!(Fixture::new().run("--version").stdout.starts_with("petard 0."))),
        golden(),
    ];
    let others = [
        bad_input::trials(),
        dataset::trials(),
        eval::trials(),
        kernel::trials(),
        nearest::trials(),
        scale::trials(),
        transfer::trials(),
    ]
    .into_iter()
    .flatten()
    .chain([memory::trial_of_peak()]);
    help.chain(own).chain(readme()).chain(others).collect()
}

fn help_text(command: &str, name: &str) -> Result<(), String> {
    let got = Fixture::new().run(&format!("{command} --help"));
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
    Snapshot::new(&format!("cli/help/{}", name.replace(' ', "-"))).check(&got.stdout)
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The first keys of an object are these.
fn begins_with(object: &Value, keys: &str) {
    let found: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    let wanted: Vec<&str> = keys.split_whitespace().collect();
    assert_eq!(found[..wanted.len().min(found.len())], wanted);
}

fn list<'a>(object: &'a Value, key: &str) -> &'a Vec<Value> {
    object["per_image"][key].as_array().unwrap_or_else(|| panic!("`{key}` is no list"))
}

fn attack_json() {
    let f = Fixture::new();
    let json = parse(&f.ok(&format!("{TINY} --limit 12 --offset 3 --eps 4/255 --steps 3 --json")).stdout);
    begins_with(&json, ATTACK_KEYS);
    assert_eq!(json["schema"], "petard.attack/1");
    let attack: Vec<String> = json["attack"].as_object().expect("an object").keys().cloned().collect();
    assert_eq!(attack.join(" "), "name norm eps alpha steps restarts random_start loss target return");
    assert_eq!((json["attack"]["eps"].as_f64(), json["attack"]["steps"].as_u64()), (Some(4.0 / 255.0), Some(3)));
    assert_eq!(json["attack"]["alpha"].as_f64(), Some(2.0 / 255.0), "defaults are never scaled");
    let lists = json["per_image"].as_object().expect("an object");
    let names: Vec<&str> = lists.keys().map(String::as_str).collect();
    let known = "index label clean_prediction prediction robust linf l2 l1 success l0 forwards backwards by target met";
    assert_eq!(names.join(" "), known);
    assert!(names.iter().all(|n| list(&json, n).len() == 12), "one entry an image");
    assert_eq!(list(&json, "index")[0], 3, "positions in the split");
    let robust = list(&json, "robust").iter().filter(|r| r.as_bool() == Some(true)).count();
    assert_eq!(json["robust_accuracy"].as_f64(), Some(robust as f64 / 12.0));
    let furthest = list(&json, "linf").iter().filter_map(Value::as_f64).fold(0.0, f64::max);
    assert_eq!(json["max_distance"].as_f64(), Some(furthest));
    assert!(furthest <= 4.0 / 255.0 + json["tolerance"].as_f64().expect("a number"));
    for doubt in json["doubts"].as_array().expect("a list") {
        assert!(doubt["code"].is_string() && doubt["message"].is_string() && doubt.as_object().map(|d| d.len()) == Some(2));
    }
}

/// Bare `--json`: JSON on stdout, report on stderr. With a file: report on stdout. The file may follow at once or after `=`.
fn places() {
    let f = Fixture::new();
    let report = |text: &str| text.starts_with("tiny   12 images of synthetic (test)\nattack    pgd: norm linf, eps 8/255");
    let plain = f.ok(ATTACK);
    assert!(report(&plain.stdout) && plain.stderr.is_empty(), "{}{}", plain.stdout, plain.stderr);
    let bare = f.ok(&format!("{ATTACK} --json --seed 0"));
    assert!(report(&bare.stderr) && bare.stdout.starts_with("{\n  \"schema\""));
    for option in ["--json a.json", "--json=a.json"] {
        fs::write(f.path("a.json"), "an older report").expect("a file");
        let filed = f.ok(&format!("{ATTACK} {option}"));
        assert!(report(&filed.stdout) && filed.stderr.is_empty());
        begins_with(&parse(&fs::read_to_string(f.path("a.json")).expect("a file")), ATTACK_KEYS);
    }
    f.left(&["a.json"]);
}

fn repeat() {
    let f = Fixture::new();
    for more in
        ["--seed 5 --restarts 2 --steps 3", "--attack fgsm-rs --eps 0.1", "--norm l2 --target next --return best-loss --steps 2"]
    {
        let first = parse(&f.ok(&format!("{TINY} --limit 12 {more} --json")).stdout);
        let command = first["command"].as_str().expect("a text").strip_prefix("petard ").expect("the name first").to_string();
        let second = parse(&f.ok(&format!("{command} --json")).stdout);
        assert_eq!((&first["per_image"], &first["attack"]), (&second["per_image"], &second["attack"]), "{command}");
        assert_eq!(first["command"], second["command"]);
    }
    // Without a seed the seed is 0; another seed starts elsewhere.
    let returned = |more: &str| parse(&f.ok(&format!("{ATTACK} {more} --json")).stdout)["per_image"]["l2"].clone();
    assert_eq!(returned(""), returned("--seed 0 --batch-size 9 --threads 1"));
    assert_ne!(returned(""), returned("--seed 1"));
}

fn targeted() {
    let f = Fixture::new();
    let got = f.ok(&format!("{ATTACK} --target least-likely --json"));
    let json = parse(&got.stdout);
    let line = got.stderr.lines().find(|l| l.starts_with("target ")).expect("a line of its own");
    assert!(line.contains("attacked images ended at their target"), "{line}");
    assert!(json["targeted_success"].is_f64());
    assert!(parse(&f.ok(&format!("{ATTACK} --json")).stdout)["targeted_success"].is_null());
}

fn expect_robust() {
    let f = Fixture::new();
    let robust = parse(&f.ok(&format!("{ATTACK} --eps 1e-6 --json")).stdout)["robust_accuracy"].as_f64().expect("a number");
    for (least, code) in [(robust, 0), (robust + 0.01, 1), (0.0, 0)] {
        assert_eq!(f.run(&format!("{ATTACK} --eps 1e-6 --expect-robust {least}")).code, code, "{robust} against {least}");
    }
    let missed = f.run(&format!("{ATTACK} --eps 1e-6 --expect-robust 100%"));
    assert_eq!(missed.code, i32::from(robust < 1.0));
    assert!(missed.stderr.ends_with("is below the expected 100.00 %\n"), "{}", missed.stderr);
    assert!(missed.stdout.contains("\nrobust "), "the report is there all the same");
}

fn saved_sets() {
    let f = Fixture::new();
    for path in ["adv.safetensors", "adv.npz", "adv"] {
        let attack = parse(&f.ok(&format!("{ATTACK} --offset 2 --save {path} --json")).stdout);
        let infer = parse(&f.ok(&format!("infer --model tiny.toml --data file:{path} --json")).stdout);
        assert_eq!(list(&attack, "prediction"), list(&infer, "prediction"), "{path}");
        assert_eq!((list(&attack, "label"), list(&attack, "index")), (list(&infer, "label"), list(&infer, "index")), "{path}");
        let set = Dataset::open(&format!("file:{}", f.path(path).display()), &Options::default()).expect("a set");
        assert_eq!((set.len(), set.shape(), set.labelled()), (12, [3, 32, 32], true));
    }
    f.left(&["adv", "adv.npz", "adv.safetensors"]);
    let bytes = fs::read(f.path("adv.safetensors")).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let kinds: BTreeMap<String, String> =
        tensors.tensors().into_iter().map(|(name, t)| (name, format!("{:?} {:?}", t.dtype(), t.shape()))).collect();
    let kind = |name: &str| kinds[name].as_str();
    assert_eq!(kind("adversarial"), "F32 [12, 3, 32, 32]");
    assert!(["label", "prediction", "index"].iter().all(|n| kind(n) == "I64 [12]") && kinds.len() == 4, "{kinds:?}");
    let mut parts: Vec<_> = fs::read_dir(f.path("adv")).expect("a folder").flatten().map(|e| e.file_name()).collect();
    parts.sort();
    assert_eq!(parts, ["manifest.json", "part-00000.safetensors"]);
}

fn pictures() {
    let f = Fixture::new();
    f.ok(&format!("{TINY} --limit 2 --offset 7 --steps 1 --save-png out/png"));
    let mut names: Vec<_> = fs::read_dir(f.path("out/png")).expect("a folder").flatten().map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["000007.png", "000008.png"], "named by position in the split");
}

fn starts() {
    let f = Fixture::new();
    f.ok(&format!("{ATTACK} --save near.safetensors"));
    let json = parse(&f.ok(&format!("{TINY} --limit 12 --start near.safetensors --steps 1 --json")).stdout);
    assert_eq!((&json["attack"]["start"], &json["attack"]["random_start"]), (&"near.safetensors".into(), &false.into()));
    let far = |json: &Value| list(json, "l2").iter().filter_map(Value::as_f64).sum::<f64>();
    let cold = parse(&f.ok(&format!("{TINY} --limit 12 --random-start false --steps 1 --json")).stdout);
    assert!(far(&json) > far(&cold), "one step from a far start ends further than one from the clean image");
}

fn unlabelled() {
    let f = Fixture::new();
    f.unlabelled("bare.safetensors");
    let got = f.ok("attack --model tiny.toml --data file:bare.safetensors --steps 2 --json");
    assert!(got.stderr.contains("no labels: judged by the model's own predictions"), "{}", got.stderr);
    let json = parse(&got.stdout);
    assert_eq!((&json["labelled"], json["clean_accuracy"].as_f64()), (&false.into(), Some(1.0)));
    assert_eq!(json["doubts"][0]["code"], "labels-predicted");
    let infer = f.ok("infer --model tiny.toml --data file:bare.safetensors --json");
    assert!(infer.stderr.contains("no labels came with the images"), "{}", infer.stderr);
    assert!(parse(&infer.stdout)["clean_accuracy"].is_null());
}

fn infer() {
    let f = Fixture::new();
    let got = f.ok("infer --model tiny.toml --limit 70 --offset 1 --save logits.safetensors --json");
    let json = parse(&got.stdout);
    begins_with(&json, INFER_KEYS);
    assert_eq!(json["schema"], "petard.infer/1");
    let lists: Vec<&str> = json["per_image"].as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(lists, ["index", "label", "prediction"]);
    let right = list(&json, "label").iter().zip(list(&json, "prediction")).filter(|(l, p)| l == p).count();
    assert_eq!(json["clean_accuracy"].as_f64(), Some(right as f64 / 70.0));
    let bytes = fs::read(f.path("logits.safetensors")).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let shape = |name| tensors.tensor(name).expect(name).shape().to_vec();
    assert_eq!((shape("logits"), shape("label"), shape("index")), (vec![70, 10], vec![70], vec![70]));
    let logits: Vec<f32> = bytemuck::pod_collect_to_vec(tensors.tensor("logits").expect("logits").data());
    for (z, p) in logits.chunks_exact(10).zip(list(&json, "prediction")) {
        assert_eq!(petard::session::argmax(z).map(|c| c as i64), p.as_i64());
    }
    f.left(&["logits.safetensors"]);
}

fn plan() {
    let f = Fixture::new();
    fs::remove_file(f.path("tiny.safetensors")).expect("the weights");
    let text = f.ok("plan --model tiny.toml --attack pgd --return first-success --batch-size 8").stdout;
    for part in [
        "plan for batches of 8\n",
        "\ninfer ",
        "\nattack ",
        "\njudge ",
        "pgd-step",
        "MFLOP an image",
        "\narena ",
        "\nparameters ",
        "\nmemory ",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert_eq!(text.matches("of packed weights on cpu").count(), 2);
    assert!(f.run("plan --model tiny.toml --attack fgsm --steps 2").stderr.contains("`--steps` is not used"));
}

fn models() {
    let f = Fixture::new();
    let table = f.ok("models").stdout;
    let row = table.lines().find(|l| l.starts_with("resnet20-cifar10 ")).expect("a row");
    let columns: Vec<&str> = row.split_whitespace().collect();
    // As golden/architectures.json counts a ResNet-20 with projections.
    assert_eq!(columns, ["resnet20-cifar10", "resnet", "3x32x32", "10", "272474", "41", "-"]);
    let card = fs::read_to_string(crate::support::root().join("models/resnet20-cifar10.toml")).expect("a card");
    assert_eq!(f.ok("models resnet20-cifar10").stdout, card);
    assert_eq!(f.ok("models tiny.toml").stdout, fixture::card(10));
}

fn devices() {
    let text = Fixture::new().ok("devices").stdout;
    let starts: Vec<&str> = text.lines().map(|l| l.split([' ', ':']).next().unwrap_or_default()).collect();
    assert_eq!(starts[..2], ["cpu", "cuda"], "{text}");
    assert!(starts.contains(&"nvrtc") && starts.contains(&"kernels"), "{text}");
}

fn completions() {
    let f = Fixture::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = f.ok(&format!("completions {shell}")).stdout;
        assert!(script.contains("expect-robust"), "{shell}: no options");
    }
}

fn closed_pipe() {
    let mut child = Fixture::new().command("models").stdout(Stdio::piped()).spawn().expect("the program starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("an exit code").code(), Some(0));
}

/// The numbers that PyTorch gave: 218 of 256 right, 11 (4.30 %) after FGSM.
/// The first two commands of the README, run: what it prints there is what they print.
fn readme() -> Vec<Trial> {
    let weights = shared().map(|s| s.join("golden/resnet20-cifar10-std.safetensors")).filter(|p| p.exists());
    let real = match weights.zip(cifar10()) {
        Some((weights, cifar)) => trial("cli::readme.checkpoint", move || {
            readme_command(
                1,
                2,
                &[
                    ("resnet20.safetensors", weights.display().to_string()),
                    ("cifar10:data", format!("cifar10:{}", cifar.display())),
                ],
            );
        }),
        None => ignored("cli::readme.checkpoint", "no shared/golden or no unpacked CIFAR-10"),
    };
    vec![trial("cli::readme.first", || readme_command(0, 10, &[])), real]
}

/// `spare` images may fall on the other side: other instruction sets round in another order.
fn readme_command(which: usize, spare: i64, places: &[(&str, String)]) {
    let text = fs::read_to_string(crate::support::root().join("README.md")).expect("a README");
    let block = text.split("```console\n$ petard ").nth(which + 1).and_then(|t| t.split("```").next()).expect("a command");
    let (command, printed) = block.split_once('\n').expect("a command and its output");
    let place = |word: &str| places.iter().find(|p| p.0 == word).map_or_else(|| word.to_string(), |p| p.1.clone());
    let words: Vec<String> = command.split_whitespace().map(place).collect();
    let run = Fixture::new().words(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let line = |text: &str, start: &str| text.lines().find(|l| l.starts_with(start)).unwrap_or("").to_string();
    for label in ["attack ", "clean ", "doubts ", "seed "].into_iter().filter(|label| !line(printed, label).is_empty()) {
        assert_eq!(line(&run.stdout, label), line(printed, label), "the README shows another line");
    }
    let robust = |text: &str| -> i64 {
        let line = line(text, "robust ");
        line.split(['(', ')']).nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no count in `{line}`"))
    };
    assert!((robust(&run.stdout) - robust(printed)).abs() <= spare, "{}", run.stdout);
}

fn golden() -> Trial {
    let name = "cli::golden.resnet20_fgsm";
    let weights = shared().map(|s| s.join("golden/resnet20-cifar10-std.safetensors")).filter(|p| p.exists());
    let (Some(weights), Some(cifar)) = (weights, cifar10()) else {
        return ignored(name, "no shared/golden or no unpacked CIFAR-10");
    };
    trial(name, move || {
        let text = |p: &Path| p.display().to_string();
        let (weights, data) = (text(&weights), format!("cifar10:{}", text(&cifar)));
        let json = Fixture::new().words(&[
            "attack",
            "--model",
            "resnet20-cifar10",
            "--weights",
            &weights,
            "--data",
            &data,
            "--limit",
            "256",
            "--attack",
            "fgsm",
            "--json",
        ]);
        assert_eq!(json.code, 0, "{}", json.stderr);
        let json = parse(&json.stdout);
        let count = |key: &str| (json[key].as_f64().expect("a share") * 256.0).round() as i64;
        assert_eq!(count("clean_accuracy"), 218);
        assert!((count("robust_accuracy") - 11).abs() <= 2, "robust {} of 256, PyTorch 11", count("robust_accuracy"));
    })
}
