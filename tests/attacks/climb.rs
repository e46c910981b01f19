//! The relatives of PGD: Adam, the divergence from the clean prediction, the capped margin, the search for a radius.

use std::sync::Arc;

use libtest_mimic::Trial;
use petard::attack::{self, Attack, AttackLoss, Climb, From, Keep, Objective, RadiusSearch, Start, Stepping};
use petard::data::Options;
use petard::plan::Precision;
use petard::{Dataset, Device, Error, Given, Hooks, Job, Model, Norm, Outcome, Pgd, Target, ThreatModel};

use super::{data, device, run_with_images, small};
use crate::emulated::{Build, Emulated, Profile, Schedule};
use crate::support::engine::on_a_card;
use crate::support::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("attacks::climb.stays_inside", stays_inside),
        trial("attacks::climb.batch_size_changes_nothing", batch_size_changes_nothing),
        trial("attacks::climb.seeds_and_restarts", seeds_and_restarts),
        trial("attacks::climb.margin_without_cap_is_pgd", margin_without_cap_is_pgd),
        trial("attacks::climb.a_cap_of_nothing_stays", a_cap_of_nothing_stays),
        trial("attacks::climb.divergence_knows_no_labels", divergence_knows_no_labels),
        trial("attacks::climb.refusals", refusals),
        trial("attacks::search.finds_the_smallest_radius", finds_the_smallest_radius),
        trial("attacks::search.one_attempt_is_bim", one_attempt_is_bim),
        trial("attacks::search.batch_size_changes_nothing", search_in_batches),
        trial("attacks::search.targets", search_targets),
        on_a_card("attacks::climb.card.f32".into(), || whole_runs(Precision::F32)),
        on_a_card("attacks::climb.card.bf16".into(), || whole_runs(Precision::Bf16)),
    ]
}

const EPS: f64 = 0.6 / 255.0;

fn all() -> Vec<Climb> {
    let threat = ThreatModel::linf(EPS);
    vec![
        Climb::adam(threat, EPS / 4.0, 5),
        Climb::tpgd(threat, EPS / 4.0, 5),
        Climb::cw(threat, EPS / 4.0, 5, 50.0),
        Climb::tpgd(small(Norm::L2), 0.02, 5),
        Climb::cw(small(Norm::L1), 0.25, 5, 50.0),
    ]
}

fn job(attack: impl Attack + 'static, batch: usize) -> Job {
    Job { seed: 5, ..Job::new(attack, batch) }
}

fn stays_inside() {
    let set = data(24, 0);
    for climb in all() {
        let (outcome, _) = run_with_images(&job(climb.clone(), 16), &set, 2);
        let far = outcome.doubts.iter().any(|d| d.code == "outside-threat-model");
        assert!(!far && outcome.non_finite == 0, "{climb:?}: {:?}", outcome.doubts);
        assert!(outcome.robust < outcome.clean_correct && outcome.robust > 0, "{climb:?}: {} stand", outcome.robust);
        assert!(outcome.per_image.backwards.iter().all(|&b| b == 5), "{climb:?}");
    }
}

fn batch_size_changes_nothing() {
    for climb in all() {
        let (sixteen, a) = run_with_images(&job(climb.clone(), 16), &data(20, 0), 2);
        let (nine, b) = run_with_images(&job(climb.clone(), 9), &data(20, 0), 1);
        assert!(sixteen.per_image == nine.per_image && a == b, "{climb:?}: batches of 9 give other images");
        let (_, later) = run_with_images(&job(climb.clone(), 16), &data(12, 8), 2);
        assert!(a[8 * 3072..] == later[..], "{climb:?}: images 8 to 19 alone are others");
    }
}

fn seeds_and_restarts() {
    let set = data(16, 0);
    for climb in all() {
        let run = |climb: Climb, seed| run_with_images(&Job { seed, ..job(climb, 16) }, &set, 2);
        assert!(run(climb.clone(), 5).1 != run(climb.clone(), 6).1, "{climb:?}: another seed");
        let clean = Climb { start: From::Clean, ..climb.clone() };
        // At the clean image the divergence is flat: its gradient is zero to rounding.
        if climb.objective != Objective::Divergence {
            assert!(run(clean.clone(), 5).1 == run(clean, 6).1, "{climb:?}: another seed without anything random");
        }
        let (one, three) = (run(climb.clone(), 5).0.robust, run(Climb { restarts: 3, ..climb.clone() }, 5).0.robust);
        assert!(three <= one, "{climb:?}: {one} and {three} stand");
    }
}

fn margin_without_cap_is_pgd() {
    let set = data(16, 0);
    let threat = ThreatModel::linf(EPS);
    let cw = Climb::cw(threat, EPS / 4.0, 5, 1e6);
    let pgd = Pgd { loss: AttackLoss::Margin, ..Pgd::new(threat, EPS / 4.0, 5) };
    assert!(run_with_images(&job(cw, 16), &set, 2).1 == run_with_images(&job(pgd, 16), &set, 2).1);
}

/// With a cap of 0 an image moves only until its class changes.
fn a_cap_of_nothing_stays() {
    let set = data(16, 0);
    let (wide, alpha) = (ThreatModel::linf(8.0 / 255.0), 1.0 / 255.0);
    let run = |kappa| run_with_images(&job(Climb { start: From::Clean, ..Climb::cw(wide, alpha, 12, kappa) }, 16), &set, 2).0;
    let (none, much) = (run(0.0), run(50.0));
    assert_eq!((none.robust, much.robust), (0, 0));
    let mean = |o: &Outcome| o.per_image.l2.iter().sum::<f64>() / 16.0;
    assert!(mean(&none) < 0.6 * mean(&much), "{} and {}", mean(&none), mean(&much));
}

/// The divergence is climbed from the clean prediction; it is higher at the end than at the start.
fn divergence_knows_no_labels() {
    let (outcome, _) = run_with_images(&job(Climb::tpgd(ThreatModel::linf(EPS), EPS / 4.0, 8), 16), &data(16, 0), 2);
    assert!(
        !outcome.doubts.iter().any(|d| d.code == "loss-not-above-start" || d.code == "zero-gradient"),
        "{:?}",
        outcome.doubts
    );
    assert_eq!(outcome.per_image.forwards, vec![9; 16]);
}

fn refusals() {
    let (linf, l2) = (ThreatModel::linf(EPS), ThreatModel::l2(0.5));
    let wrong = |attack: &dyn Attack, word: &str| match attack.check(10) {
        Err(Error::Usage { message, .. }) => assert!(message.contains(word), "{message}"),
        other => panic!("{attack:?}: {other:?}"),
    };
    wrong(&Climb::adam(l2, 0.1, 5), "linf");
    wrong(&Climb::cw(linf, 0.1, 5, f64::NAN), "kappa");
    wrong(&Climb { target: Target::Next, ..Climb::tpgd(linf, 0.1, 5) }, "target");
    wrong(&Climb { steps: 0, ..Climb::adam(linf, 0.1, 5) }, "steps");
    wrong(&RadiusSearch { eps: 0.0, ..RadiusSearch::new() }, "eps");
    wrong(&RadiusSearch { attempts: 0, ..RadiusSearch::new() }, "search-steps");
    assert_eq!(Climb::adam(linf, 0.1, 5).stepping, Stepping::Adam);
}

fn search(attempts: usize, steps: usize) -> RadiusSearch {
    RadiusSearch { eps: 0.005, attempts, steps, loss: AttackLoss::CrossEntropy, ..RadiusSearch::new() }
}

/// Bisection ends at a radius that works while one a little smaller does not; never farther than with fewer attempts.
fn finds_the_smallest_radius() {
    let set = data(12, 0);
    let run = |attempts| run_with_images(&job(search(attempts, 6), 12), &set, 2).0;
    let (few, many) = (run(3), run(9));
    for (i, (&found, &before)) in many.per_image.linf.iter().zip(&few.per_image.linf).enumerate() {
        assert!(many.per_image.success[i] && found > 0.0, "image {i} stands");
        assert!(!few.per_image.success[i] || found <= before, "image {i}: {found} after {before}");
        // The same steps in a ball of four fifths of the radius fail: the search was not generous.
        let threat = ThreatModel::linf(0.8 * found);
        let bim = Pgd { keep: Keep::Last, ..Pgd::bim(threat, threat.eps / 6.0, 6) };
        let (alone, _) = run_with_images(&job(bim, 8), &data(1, i), 1);
        assert_eq!(alone.robust, 1, "image {i} breaks within {} too", threat.eps);
    }
    assert_eq!(many.per_image.backwards, vec![54; 12]);
}

/// One attempt is BIM with steps of a share of the radius: the same images where they succeed.
fn one_attempt_is_bim() {
    let set = data(16, 0);
    let one = RadiusSearch { eps: EPS, ..search(1, 4) };
    let bim = Pgd { start: Start::Clean, ..Pgd::bim(ThreatModel::linf(EPS), EPS / 4.0, 4) };
    let ((a, ours), (b, theirs)) = (run_with_images(&job(one, 16), &set, 2), run_with_images(&job(bim, 16), &set, 2));
    assert_eq!(a.per_image.success, b.per_image.success);
    assert!(a.robust > 0 && a.robust < 16);
    for i in (0..16).filter(|&i| a.per_image.success[i]) {
        assert!(ours[i * 3072..][..3072] == theirs[i * 3072..][..3072], "image {i}");
    }
    for i in (0..16).filter(|&i| !a.per_image.success[i]) {
        assert_eq!(a.per_image.linf[i], 0.0, "a failure comes back clean");
    }
}

fn search_in_batches() {
    let (sixteen, a) = run_with_images(&job(search(4, 3), 16), &data(20, 0), 2);
    let (nine, b) = run_with_images(&job(search(4, 3), 9), &data(20, 0), 1);
    assert!(sixteen.per_image == nine.per_image && a == b);
}

fn search_targets() {
    for loss in [AttackLoss::CrossEntropy, AttackLoss::Logit] {
        let attack = RadiusSearch { loss, target: Target::LeastLikely, eps: 0.05, ..search(6, 6) };
        let (outcome, _) = run_with_images(&job(attack, 12), &data(12, 0), 2);
        let (hit, tried) = outcome.targeted.expect("a targeted attack");
        assert!(tried == 12 && hit > 6, "{loss:?}: {hit} of {tried} at their target");
    }
}

/// Whole attacks on an emulated card: the CPU's verdicts, but for an image on the edge.
fn whole_runs(precision: Precision) -> Result<(), String> {
    let model = Model::load("tiny-resnet", None).expect("an embedded model");
    let set = Dataset::open("synthetic", &Options { limit: Some(10), ..Options::default() }).expect("images are painted");
    let threat = ThreatModel::linf(24.0 / 255.0);
    let attacks: Vec<Arc<dyn Attack>> = vec![
        Arc::new(Climb::adam(threat, 8.0 / 255.0, 3)),
        Arc::new(Climb { start: From::Near { size: 0.05 }, ..Climb::tpgd(threat, 8.0 / 255.0, 3) }),
        Arc::new(Climb::cw(threat, 8.0 / 255.0, 3, 1.0)),
        Arc::new(RadiusSearch { eps: 0.05, ..search(2, 2) }),
    ];
    for attack in attacks {
        let on = |device: &Device| -> Result<Outcome, String> {
            let job = Job { attacks: vec![Arc::clone(&attack)], seed: 3, ..Job::new(search(1, 1), 8) };
            attack::run(device, &model, &set, &job, &Given::default(), Hooks::default()).map_err(|e| e.to_string())
        };
        let cpu = on(&device(2))?;
        let card = Emulated::new(Profile::Hopper, Build::Fast, Schedule::IN_ORDER).with_memory(1 << 30);
        let card = on(&Device::on("emulated", Arc::new(card), precision))?;
        let differ = card.per_image.robust.iter().zip(&cpu.per_image.robust).filter(|(a, b)| a != b).count();
        if card.clean_correct != cpu.clean_correct || card.non_finite != 0 || differ > 1 {
            return Err(format!("{attack:?}: {differ} verdicts differ"));
        }
    }
    Ok(())
}
