//! Attacks that look for the nearest adversarial image: distances, the curve of radii, the command that repeats them.

use libtest_mimic::Trial;
use serde_json::Value;

use super::fixture::{Fixture, TINY};
use super::{list, parse};
use crate::support::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("cli::attack.nearest.curve", curve),
        trial("cli::attack.nearest.repeat", repeat),
        trial("cli::attack.nearest.within_has_none", within),
    ]
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Every point of the curve is what the images say, at radii that were asked for or where the broken images are.
fn curve() {
    let f = Fixture::new();
    for (radii, points) in [("--radii 0.05,1/2,100", 3), ("", 5)] {
        let got = f.ok(&format!("{TINY} --limit 12 --attack fmn --norm l2 --steps 20 {radii} --json"));
        let json = parse(&got.stdout);
        let far: Vec<f64> = list(&json, "l2").iter().map(number).collect();
        let broken: Vec<bool> = list(&json, "success").iter().map(|s| s.as_bool().expect("a verdict")).collect();
        let right = number(&json["clean_accuracy"]) * 12.0;
        let curve = json["curve"].as_array().expect("a curve");
        assert_eq!(curve.len(), points, "{radii}");
        for point in curve {
            let radius = number(&point["radius"]);
            let within = far.iter().zip(&broken).filter(|(d, b)| **b && **d <= radius).count() as f64;
            assert!((number(&point["robust"]) - (right - within)).abs() < 1e-9, "{point}");
            assert!((number(&point["robust_accuracy"]) - (right - within) / 12.0).abs() < 1e-9, "{point}");
        }
        let accuracies: Vec<f64> = curve.iter().map(|p| number(&p["robust_accuracy"])).collect();
        assert!(accuracies.windows(2).all(|w| w[1] <= w[0]), "{accuracies:?}");
        let mut found: Vec<f64> = far.iter().zip(&broken).filter(|(_, b)| **b).map(|(d, _)| *d).collect();
        found.sort_by(f64::total_cmp);
        assert_eq!(number(&json["distances"]["l2"]["largest"]), found[found.len() - 1]);
        let lines = |start: &str| got.stderr.lines().filter(|l| l.starts_with(start)).count();
        assert_eq!((lines("within "), lines("l0 "), lines("linf ")), (points, 1, 1), "{}", got.stderr);
    }
}

fn repeat() {
    let f = Fixture::new();
    for more in [
        "--attack cw --preset torchattacks --steps 6 --kappa 0.1",
        "--attack ead --steps 5 --search-steps 2 --rule l1 --initial-const 1 --radii 1,2",
        "--attack ddn --steps 8 --eps 0.5 --target next",
        "--attack fmn --norm l0 --steps 8 --gamma 0.1",
    ] {
        let first = parse(&f.ok(&format!("{TINY} --limit 8 {more} --json")).stdout);
        let command = first["command"].as_str().expect("a text").strip_prefix("petard ").expect("the name first").to_string();
        let second = parse(&f.ok(&format!("{command} --json")).stdout);
        assert_eq!((&first["per_image"], &first["attack"]), (&second["per_image"], &second["attack"]), "{command}");
        assert_eq!((&first["command"], &first["curve"]), (&second["command"], &second["curve"]));
    }
}

fn within() {
    let json = parse(&Fixture::new().ok(&format!("{TINY} --limit 4 --steps 1 --json")).stdout);
    assert!(json["curve"].is_null() && json["distances"].is_null());
}
