//! The JSON objects `petard.attack/1` and `petard.infer/1`. Names, order and meaning of the keys are a contract.
//! Must not know the text report.

use serde_json::{Map, Value, json};

use super::curve::{DISTANCES, curve, spread};
use super::{Facts, Inference};
use crate::outcome::Outcome;
use crate::threat::Goal;

/// The object of an attack. Keys after `per_image` may grow in number; those before it never change.
pub fn attack_json(facts: &Facts, outcome: &Outcome) -> String {
    let targeted = outcome.targeted.map(|(hit, tried)| share(hit, tried));
    let mut report = json!({
        "schema": "petard.attack/1",
        "model": facts.model,
        "data": facts.data,
        "images": outcome.images,
        "clean_accuracy": outcome.clean_accuracy(),
        "robust_accuracy": outcome.robust_accuracy(),
        "attack": outcome.parameters,
        "device": facts.device,
        "precision": facts.precision,
        "seed": facts.seed,
        "seconds": outcome.seconds,
        "image_steps_per_second": outcome.image_steps_per_second(),
        "max_distance": outcome.max_distance,
        "doubts": outcome.doubts,
        "per_image": outcome.per_image,
        "targeted_success": targeted,
        "confirmed": outcome.confirmed.map(|(stood, made)| json!({"stood": stood, "claimed": made})),
        "labelled": outcome.labelled,
        "non_finite": outcome.non_finite,
        "tolerance": outcome.goal.threat().map(|threat| threat.tolerance(facts.input.iter().product())),
        "split": facts.split,
        "offset": facts.offset,
        "batch_size": facts.batch,
        "exact": facts.exact,
        "command": facts.repeat,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let Value::Object(keys) = &mut report else { unreachable!("written as an object") };
    let Value::Object(more) = further(facts, outcome) else { unreachable!("written as an object") };
    keys.extend(more);
    // Where a run used one card and no shard these say nothing.
    keys.retain(|key, value| !(value.is_null() && matches!(key.as_str(), "shard" | "saved" | "rounded" | "targeted")));
    object(report)
}

/// What came later to the contract.
fn further(facts: &Facts, outcome: &Outcome) -> Value {
    let nearest = matches!(outcome.goal, Goal::Nearest(_));
    json!({
        "forwards": outcome.cost.forwards,
        "backwards": outcome.cost.backwards,
        "members": outcome.members,
        "shard": facts.shard.map(|[part, of]| json!({"part": part, "of": of})),
        "goal": outcome.goal,
        "input": facts.input,
        "saved": facts.saved,
        "extremes": outcome.extremes,
        "resumed": outcome.resumed,
        "rounded": outcome.rounded,
        "curve": nearest.then(|| curve_json(facts, outcome)),
        "distances": nearest.then(|| distances_json(outcome)),
        "radii": facts.radii,
        "sources": facts.sources,
        "attack_seconds": outcome.attack_seconds,
        "targeted": outcome.targeted.map(|(hit, tried)| json!({"hit": hit, "tried": tried})),
    })
}

/// Radius and robust accuracy, point by point.
fn curve_json(facts: &Facts, outcome: &Outcome) -> Value {
    let point = |p: super::curve::Point| json!({"radius": p.radius, "robust": p.robust, "robust_accuracy": share(p.robust, outcome.images)});
    curve(outcome, &facts.radii).into_iter().map(point).collect()
}

/// How far the broken images are in every distance; null where none is broken.
fn distances_json(outcome: &Outcome) -> Value {
    let one = |s: super::curve::Spread| json!({"median": s.median, "mean": s.mean, "largest": s.largest});
    let keys = DISTANCES.map(|d| (d.name().to_string(), json!(spread(outcome, d).map(one))));
    Value::Object(keys.into_iter().collect())
}

/// The object of an inference; `clean_accuracy` is null without labels.
pub fn infer_json(facts: &Facts, inference: &Inference) -> String {
    object(json!({
        "schema": "petard.infer/1",
        "model": facts.model,
        "data": facts.data,
        "images": inference.images(),
        "clean_accuracy": inference.clean_accuracy(),
        "device": facts.device,
        "precision": facts.precision,
        "seconds": inference.seconds,
        "images_per_second": inference.images_per_second(),
        "per_image": {
            "index": inference.index,
            "label": inference.label,
            "prediction": inference.prediction,
        },
        "labelled": inference.labelled,
        "non_finite": inference.non_finite,
        "split": facts.split,
        "offset": facts.offset,
        "batch_size": facts.batch,
        "command": facts.repeat,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// One key a line, so that people and `diff` can read it; the lists of `per_image` keep a line each as well.
pub(super) fn object(value: Value) -> String {
    let Value::Object(keys) = value else { unreachable!("reports are objects") };
    lines(&keys, 1) + "\n"
}

fn lines(keys: &Map<String, Value>, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let line = |(key, value): (&String, &Value)| {
        let text = match value {
            Value::Object(inner) if key == "per_image" => lines(inner, depth + 1),
            other => other.to_string(),
        };
        format!("{indent}{}: {text}", Value::from(key.as_str()))
    };
    let body: Vec<String> = keys.iter().map(line).collect();
    format!("{{\n{}\n{}}}", body.join(",\n"), "  ".repeat(depth - 1))
}
