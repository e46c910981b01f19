//! Attacks with a momentum and relatives of PGD from the command line: names, presets, the command that repeats, sources.
//! Must not know how they work.

use libtest_mimic::Trial;
use serde_json::Value;

use super::fixture::Fixture;
use super::parse;
use crate::support::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("cli::transfer.repeat_gives_the_same_numbers", repeat),
        trial("cli::transfer.presets", presets),
        trial("cli::transfer.sources", sources),
    ]
}

const RUN: &str = "attack --model tiny.toml --limit 8";

fn json(f: &Fixture, line: &str) -> Value {
    parse(&f.ok(&format!("{line} --json")).stdout)
}

/// Every name and every switch; the command of a report gives its numbers again.
fn repeat() {
    let f = Fixture::new();
    for line in [
        "--attack mifgsm --steps 2 --decay 0.9 --random-start true --restarts 2",
        "--attack ni-fgsm --steps 2",
        "--attack si-ni-fgsm --steps 2 --copies 3",
        "--attack di-fgsm --steps 2 --probability 4/5 --eot 2",
        "--attack ti-fgsm --steps 2 --kernel linear --loss dlr",
        "--attack vmi-fgsm --steps 2 --samples 2 --beta 0.5 --target next",
        "--attack vni-fgsm --steps 2 --samples 1 --kernel uniform --resize 1.2 --probability 1",
        "--attack adam-pgd --steps 2 --loss logit",
        "--attack kl-pgd --steps 2 --norm l2",
        "--attack cw-linf --steps 2 --kappa 5",
        "--attack ifgsm-search --steps 2 --search-steps 3 --eps 0.1",
    ] {
        let first = json(&f, &format!("{RUN} {line}"));
        let command = first["command"].as_str().expect("a text").strip_prefix("petard ").expect("the name first");
        let second = json(&f, command);
        assert_eq!((&first["per_image"], &first["attack"]), (&second["per_image"], &second["attack"]), "{command}");
        assert_eq!(first["command"], second["command"]);
    }
}

fn presets() {
    let f = Fixture::new();
    let settled = |line: &str| json(&f, &format!("{RUN} --limit 1 --steps 1 {line}").replace("--limit 8 ", ""))["attack"].clone();
    let near = |v: &Value, want: f64| assert!((v.as_f64().expect("a number") - want).abs() < 1e-12, "{v} is not {want}");
    let (library, paper) = (settled("--attack vmi-fgsm"), settled("--attack vmi-fgsm --preset official"));
    near(&library["eps"], 8.0 / 255.0);
    near(&library["alpha"], 2.0 / 255.0);
    near(&paper["eps"], 16.0 / 255.0);
    near(&paper["alpha"], 1.6 / 255.0);
    assert_eq!((&library["samples"], &paper["samples"]), (&Value::from(5), &Value::from(20)));
    let (library, paper) = (settled("--attack di-fgsm"), settled("--attack di-fgsm --preset official --eps 4/255"));
    near(&library["decay"], 0.0);
    near(&paper["decay"], 1.0);
    near(&paper["alpha"], 0.4 / 255.0);
    near(&paper["resize"], 1.1);
    let blurred = settled("--attack ti-fgsm --preset official");
    assert_eq!(blurred["kernel"], "gaussian");
    near(&blurred["probability"], 0.0);
}

/// The model as its own source gives its own numbers; a source is named in report and JSON and in the command.
fn sources() {
    let f = Fixture::new();
    let line = format!("{RUN} --attack mi-fgsm --steps 2");
    let (alone, same) = (json(&f, &line), json(&f, &format!("{line} --source tiny.toml")));
    assert_eq!(alone["per_image"], same["per_image"]);
    assert_eq!((alone["sources"].as_array().map(Vec::len), &same["sources"][0]), (Some(0), &Value::from("tiny")));
    let two = f.ok(&format!("{line} --source tiny.toml --source tiny.toml=tiny.safetensors"));
    assert!(two.stdout.lines().any(|l| l.starts_with("sources ") && l.ends_with("tiny, tiny")), "{}", two.stdout);
    assert!(two.stdout.contains("--source tiny.toml --source tiny.toml=tiny.safetensors"), "{}", two.stdout);
}
