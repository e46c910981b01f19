//! The report for people: a headline, then one labelled line for each thing, doubts after the numbers they qualify.
//! Must not know JSON keys of the contract, colours or terminals.

use serde_json::Value;

use super::curve::{DISTANCES, Point, curve, spread};
use super::{Facts, Inference};
use crate::outcome::Outcome;
use crate::threat::{Distance, Goal, Norm};

/// The report of an attack.
pub fn attack_text(facts: &Facts, outcome: &Outcome) -> String {
    let mut lines = vec![headline(facts, outcome.images), line("attack", &parameters(outcome))];
    if !facts.sources.is_empty() {
        lines.push(line("sources", &facts.sources.join(", ")));
    }
    let unlabelled = if outcome.labelled { "" } else { "no labels: judged by the model's own predictions" };
    lines.push(line("clean", &columns(&accuracy(outcome.clean_correct, outcome.images), unlabelled)));
    lines.push(line("robust", &columns(&accuracy(outcome.robust, outcome.images), &distance(facts, outcome))));
    if let Some((hit, tried)) = outcome.targeted {
        lines.push(line("target", &columns(&accuracy(hit, tried), &format!("of {tried} attacked images ended at their target"))));
    }
    if let Some((stood, made)) = outcome.confirmed {
        lines.push(line("confirmed", &columns(&format!("{stood} of {made} in f32"), &format!("{} did not stand", made - stood))));
    }
    if let Some(r) = &outcome.rounded {
        let rest = format!("as pictures of 256 levels; {} attacks undone, {} outside", r.undone, r.outside);
        lines.push(line("rounded", &columns(&accuracy(r.right, r.images), &rest)));
    }
    if matches!(outcome.goal, Goal::Nearest(_)) {
        lines.extend(distances(facts, outcome));
    }
    let (forwards, backwards) = (outcome.cost.forwards, outcome.cost.backwards);
    lines.push(line("spent", &format!("{forwards} forward passes, {backwards} input gradients")));
    let speed = format!("{:.0} image-steps/s, {}", outcome.image_steps_per_second(), seconds(outcome.seconds));
    lines.push(device(facts, &speed));
    lines.extend(shard_and_journal(facts, outcome));
    lines.push(doubts(outcome));
    lines.push(line("seed", &facts.seed.to_string()));
    lines.push(line("repeat", &facts.repeat));
    lines.join("\n") + "\n"
}

/// The report of an inference.
pub fn infer_text(facts: &Facts, inference: &Inference) -> String {
    let clean = if inference.labelled {
        columns(&accuracy(inference.correct, inference.images()), &format!("{} NaN", inference.non_finite))
    } else {
        format!("unknown: no labels came with the images, {} NaN", inference.non_finite)
    };
    let speed = format!("{:.0} images/s, {}", inference.images_per_second(), seconds(inference.seconds));
    let lines =
        [headline(facts, inference.images()), line("clean", &clean), device(facts, &speed), line("repeat", &facts.repeat)];
    lines.join("\n") + "\n"
}

/// A radius as people write it: 8-bit steps as a fraction in L-inf where that is exact, else the shortest decimal. Either
/// reads back as the same number.
pub fn radius_text(norm: Norm, radius: f64) -> String {
    let steps = (radius * 255.0).round();
    let exact = norm == Norm::Linf && (1.0..255.0).contains(&steps) && steps / 255.0 == radius;
    if exact { format!("{steps}/255") } else { format!("{radius}") }
}

/// `412 MiB`, `1.50 GiB`, `12 KiB`.
pub fn bytes_text(bytes: usize) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Where the numbers come from, if not from this one run alone.
pub(super) fn shard_and_journal(facts: &Facts, outcome: &Outcome) -> Option<String> {
    let resumed = format!("{} images known from the journal of an earlier run", outcome.resumed);
    let resumed = (outcome.resumed > 0).then(|| line("resumed", &resumed));
    let shard = facts.shard.map(|[part, of]| line("shard", &format!("{part} of {of}, from 0: `petard merge` joins them")));
    let lines: Vec<String> = resumed.into_iter().chain(shard).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The line of doubts, and one more for each further doubt.
pub(super) fn doubts(outcome: &Outcome) -> String {
    let doubts: Vec<String> = outcome.doubts.iter().map(|d| format!("{}: {}", d.code, d.message)).collect();
    line("doubts", &if doubts.is_empty() { "none".into() } else { doubts.join(&format!("\n{:10}", "")) })
}

pub(super) fn headline(facts: &Facts, images: usize) -> String {
    let from = if facts.offset > 0 { format!(" from {}", facts.offset) } else { String::new() };
    let s = if images == 1 { "" } else { "s" };
    format!("{}   {images} image{s} of {} ({}{from})", facts.model, facts.data, facts.split)
}

pub(super) fn line(label: &str, text: &str) -> String {
    format!("{label:<10}{text}")
}

/// Two columns, the second may be empty.
fn columns(left: &str, right: &str) -> String {
    format!("{left:<22}{right}").trim_end().to_string()
}

fn accuracy(part: usize, whole: usize) -> String {
    format!("{:6.2} %   ({part})", 100.0 * part as f64 / whole.max(1) as f64)
}

pub(super) fn seconds(s: f64) -> String {
    format!("{s:.2} s")
}

pub(super) fn device(facts: &Facts, speed: &str) -> String {
    let exact = if facts.exact { ", exact" } else { "" };
    line("device", &format!("{}, {}{exact}, batches of {}, {speed}", facts.device, facts.precision, facts.batch))
}

/// `largest distance 0.031373 <= 8/255 + 6.0e-8, 0 NaN`.
fn distance(facts: &Facts, outcome: &Outcome) -> String {
    let Some(threat) = outcome.goal.threat() else { return nearest(outcome) };
    let tolerance = threat.tolerance(facts.input.iter().product());
    let sign = if outcome.max_distance <= threat.eps + tolerance { "<=" } else { ">" };
    let (largest, eps) = (outcome.max_distance, threat.eps);
    format!("largest distance {largest:.6} {sign} {eps:.6} + {tolerance:.1e}, {} NaN", outcome.non_finite)
}

/// `120 of 128 images broken, largest l2 distance 0.600000, 0 NaN`.
fn nearest(outcome: &Outcome) -> String {
    let broken = outcome.per_image.success.iter().filter(|s| **s).count();
    let (name, largest, bad) = (outcome.goal.distance().name(), outcome.max_distance, outcome.non_finite);
    format!("{broken} of {} images broken, largest {name} distance {largest:.6}, {bad} NaN", outcome.clean_correct)
}

/// How far the broken images are, in every distance, and robust accuracy by radius.
fn distances(facts: &Facts, outcome: &Outcome) -> Vec<String> {
    let far = |distance: Distance| {
        let s = spread(outcome, distance)?;
        let text = format!("median {:.6}, mean {:.6}, largest {:.6}", s.median, s.mean, s.largest);
        Some(line(distance.name(), &format!("{text} of the broken images")))
    };
    let name = outcome.goal.distance().name();
    let point =
        |p: Point| line("within", &columns(&accuracy(p.robust, outcome.images), &format!("robust at {name} {:.6}", p.radius)));
    DISTANCES.into_iter().filter_map(far).chain(curve(outcome, &facts.radii).into_iter().map(point)).collect()
}

fn length_text(distance: Distance, length: f64) -> String {
    match distance {
        Distance::Norm(norm) => radius_text(norm, length),
        Distance::L0 => length.to_string(),
    }
}

/// Every parameter with its name, lengths as people write them.
fn parameters(outcome: &Outcome) -> String {
    let parameters = outcome.parameters.iter().filter(|(key, _)| *key != "name");
    let text = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::Number(n) if n.is_f64() => length_text(outcome.goal.distance(), n.as_f64().unwrap_or(f64::NAN)),
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        format!("{} {value}", key.replace('_', " "))
    };
    format!("{}: {}", outcome.attack, parameters.map(text).collect::<Vec<_>>().join(", "))
}
