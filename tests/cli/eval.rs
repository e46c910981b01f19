//! `petard eval` from outside: AutoAttack's lines, the JSON object, the record of a leaderboard, and what is refused.
//! Must not know how attacks work.

use std::fs;

use libtest_mimic::Trial;
use serde_json::Value;

use super::fixture::Fixture;
use super::parse;
use crate::support::trial;

const EVAL: &str = "eval --model tiny.toml --limit 12 --eps 1/255";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("cli::eval.lines_people_parse", lines),
        trial("cli::eval.json_and_repeat", json),
        trial("cli::eval.robustbench_record", record),
        trial("cli::eval.refusals", refusals),
    ]
}

fn lines() {
    let f = Fixture::new();
    let got = f.ok(&format!("{EVAL} --attacks apgd-ce,apgd-t --save adv.safetensors"));
    let has = |start: &str, end: &str| {
        let line = got.stdout.lines().find(|l| l.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no line begins with `{start}`:\n{}", got.stdout));
        assert!(line.ends_with(end), "{line}");
        line.to_string()
    };
    let percent = |line: &str| -> f64 {
        let number = line.split(' ').find_map(|w| w.strip_suffix('%')).expect("a share");
        assert_eq!(number.split_once('.').expect("two places").1.len(), 2, "{line}");
        number.parse().expect("a number")
    };
    let initial = percent(&has("initial accuracy: ", "%"));
    let after = percent(&has("robust accuracy after APGD-CE: ", " s)"));
    let last = percent(&has("robust accuracy: ", "%"));
    assert!(initial >= after && after >= last, "{}", got.stdout);
    let range = has("max Linf perturbation: 0.00392, nan in tensor: 0, max: ", "");
    assert!(range.contains(", min: 0."), "{range}");
    f.left(&["adv.safetensors"]);
}

fn json() {
    let f = Fixture::new();
    let first = parse(&f.ok(&format!("{EVAL} --attacks apgd-ce,apgd-t --seed 3 --json")).stdout);
    assert_eq!((&first["schema"], &first["attack"]["name"]), (&"petard.eval/1".into(), &"autoattack".into()));
    let members: Vec<&str> = first["members"].as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(members, ["apgd-ce", "apgd-t"]);
    assert_eq!(first["per_image"]["by"].as_array().map(Vec::len), Some(12));
    let command = first["command"].as_str().expect("a text").strip_prefix("petard ").expect("the name first").to_string();
    let second = parse(&f.ok(&format!("{command} --json")).stdout);
    assert_eq!((&first["per_image"], &first["attack"]), (&second["per_image"], &second["attack"]), "{command}");
    let rand = parse(&f.ok(&format!("{EVAL} --version rand --json")).stdout);
    let said = |object: &Value, code: &str| object["doubts"].as_array().expect("a list").iter().any(|d| d["code"] == code);
    assert!(said(&rand, "deterministic") && !said(&first, "deterministic"));
}

fn record() {
    let f = Fixture::new();
    f.ok(&format!("{EVAL} --robustbench record.json"));
    let record = parse(&fs::read_to_string(f.path("record.json")).expect("a file"));
    assert_eq!((&record["eps"], &record["dataset"]), (&"1/255".into(), &"synthetic".into()));
    for key in ["clean_acc", "autoattack_acc"] {
        let text = record[key].as_str().expect("percent as text");
        assert_eq!(text.split_once('.').expect("a point").1.len(), 2, "{key}: {text}");
    }
    for key in ["link", "name", "authors", "additional_data", "number_forward_passes", "venue", "architecture", "reported"] {
        assert!(!record[key].is_null(), "{key}");
    }
}

fn refusals() {
    let f = Fixture::new();
    for (more, part) in [
        ("--attacks fog", "`fog` is no attack of an ensemble"),
        ("--version custom", "needs at least one attack"),
        ("--version plus --attacks apgd-ce", "`--attacks` goes with `--version custom`"),
        ("--version rand --robustbench r.json", "a leaderboard means `--version standard`"),
        ("--return best-loss", "an ensemble returns successes"),
        ("--eot 20", "`--eot` goes with `--version rand`"),
        ("--version rand --eot 20", "networks here are not random"),
        ("--eps 8", "is longer than the whole way"),
    ] {
        let got = f.run(&format!("eval --model tiny.toml --limit 2 {more}"));
        assert!(got.code == 2 && got.stderr.contains(part) && got.stderr.contains("hint: "), "{more}: {}", got.stderr);
    }
    f.left(&[]);
}
