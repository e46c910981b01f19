//! The report of an ensemble, in the lines that people and programs know from AutoAttack, then what each attack did; and the
//! record of a leaderboard. Must not know how attacks work, nor a terminal.
//! Lines: Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>; record: Croce et al. 2021, <https://arxiv.org/abs/2010.09670>.

use serde_json::json;

use super::json::object;
use super::text::{device, doubts, headline, line, radius_text, seconds, shard_and_journal};
use super::{Facts, attack_json};
use crate::outcome::Outcome;
use crate::threat::{Norm, ThreatModel};

/// The report of an ensemble. Panics where it has no threat model.
pub fn eval_text(facts: &Facts, outcome: &Outcome) -> String {
    let threat = threat(outcome);
    let share = |n: usize| format!("{:.2}%", 100.0 * n as f64 / outcome.images.max(1) as f64);
    let mut lines = vec![headline(facts, outcome.images)];
    lines.push(format!("initial accuracy: {}", share(outcome.clean_correct)));
    let (mut total, mut standing) = (0.0, outcome.clean_correct);
    for member in &outcome.members {
        // Nobody was left for it.
        if standing == 0 {
            break;
        }
        (total, standing) = (total + member.seconds, member.standing);
        let name = member.name.to_uppercase();
        lines.push(format!("robust accuracy after {name}: {} (total time {total:.1} s)", share(standing)));
    }
    let norm = match threat.norm {
        Norm::Linf => "Linf",
        Norm::L2 => "L2",
        Norm::L1 => "L1",
    };
    let [low, high] = outcome.extremes.unwrap_or([0.0; 2]);
    let (far, odd) = (outcome.max_distance, outcome.non_finite);
    lines.push(format!("max {norm} perturbation: {far:.5}, nan in tensor: {odd}, max: {high:.5}, min: {low:.5}"));
    lines.push(format!("robust accuracy: {}\n", share(outcome.robust)));
    lines.push(format!("{:<10}{:>8}{:>8}{:>12}{:>12}{:>10}", "attack", "broke", "stand", "forwards", "gradients", "seconds"));
    for m in &outcome.members {
        let (f, b) = (m.cost.forwards, m.cost.backwards);
        lines.push(format!("{:<10}{:>8}{:>8}{f:>12}{b:>12}{:>10.1}", m.name, m.broken, m.standing, m.seconds));
    }
    if let Some((stood, made)) = outcome.confirmed {
        lines.push(line("confirmed", &format!("{stood} of {made} in f32")));
    }
    lines.push(device(facts, &seconds(outcome.seconds)));
    if let Some(more) = shard_and_journal(facts, outcome) {
        lines.push(more);
    }
    lines.push(doubts(outcome));
    lines.push(line("seed", &facts.seed.to_string()));
    lines.push(line("repeat", &facts.repeat));
    lines.join("\n") + "\n"
}

fn threat(outcome: &Outcome) -> ThreatModel {
    outcome.goal.threat().expect("an ensemble works within a threat model")
}

/// The object `petard.eval/1`: that of an attack, whose parameters are those of the ensemble.
pub fn eval_json(facts: &Facts, outcome: &Outcome) -> String {
    attack_json(facts, outcome).replacen("petard.attack/1", "petard.eval/1", 1)
}

/// A record as RobustBench keeps it, accuracies as percent in text. What only its author can know is empty.
/// Panics where the ensemble has no threat model.
pub fn robustbench_json(facts: &Facts, outcome: &Outcome) -> String {
    let threat = threat(outcome);
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let dataset = facts.data.split(':').next().unwrap_or_default();
    object(json!({
        "link": "",
        "name": facts.model,
        "authors": "",
        "additional_data": false,
        "number_forward_passes": "1",
        "dataset": dataset,
        "venue": "",
        "architecture": facts.model,
        "eps": radius_text(threat.norm, threat.eps),
        "clean_acc": percent(outcome.clean_accuracy()),
        "reported": "",
        "autoattack_acc": percent(outcome.robust_accuracy()),
    }))
}
