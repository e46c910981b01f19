//! APGD: the official code's results on two CIFAR-10 checkpoints, what must hold for any model and seed, and whole runs on
//! an emulated card.

use std::path::Path;
use std::sync::Arc;

use libtest_mimic::Trial;
use petard::attack::auto::{Version, ensemble};
use petard::attack::{self, Apgd, AttackLoss, Keep};
use petard::data::Options;
use petard::graph::apgd::at;
use petard::graph::{ApgdRule, Graph, Loss, Op, vjp};
use petard::plan::{Executor, Precision, Segment, compile};
use petard::tensor::{DType, Shape};
use petard::{Attack, Dataset, Device, DeviceOptions, Given, Hooks, Job, Model, Norm, Outcome, ThreatModel, cpu};
use serde_json::Value;

use super::{NORMS, best_gain, data, golden, run_with_images, same_bits, small};
use crate::emulated::{Build, Emulated, Profile, Schedule};
use crate::support::engine::on_a_card;
use crate::support::{LONG, Rng, cifar10, full, ignored, shared, trial};

/// An attack of the reference with its defaults.
type Make = fn(ThreatModel) -> Apgd;

/// Entries of the references: name, norm, radius, attack.
const GOLDEN: [(&str, Norm, f64, Make); 5] = [
    ("apgd_ce_linf_eps8", Norm::Linf, 8.0 / 255.0, Apgd::new),
    ("apgd_dlr_linf_eps8", Norm::Linf, 8.0 / 255.0, Apgd::dlr),
    ("apgd_t_linf_eps8", Norm::Linf, 8.0 / 255.0, Apgd::targeted),
    ("apgd_ce_l2_eps0.5", Norm::L2, 0.5, Apgd::new),
    ("apgd_ce_linf_eps1", Norm::Linf, 1.0 / 255.0, Apgd::new),
];

/// Entries that say most for their time; `PETARD_FULL=1` asks for all.
const QUICK: [(&str, &str); 2] = [("resnet8-cifar10", "apgd_ce_linf_eps8"), ("resnet20-cifar10", "apgd_ce_linf_eps1")];

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("attacks::apgd.stays_inside", stays_inside),
        trial("attacks::apgd.company_changes_nothing", company_changes_nothing),
        trial("attacks::apgd.first_success_is_as_strong", first_success_is_as_strong),
        trial("attacks::apgd.targets_and_restarts_only_break_more", more_runs),
        trial("attacks::apgd.larger_balls_end_in_the_right_one", larger_balls),
        trial("attacks::apgd.linear_model", linear_model),
        trial("attacks::apgd.few_classes", few_classes),
        trial("attacks::apgd.refusals", refusals),
        trial("attacks::auto.takes_what_is_left", takes_what_is_left),
    ];
    for (file, card, stem) in golden::CHECKPOINTS {
        for (entry, norm, eps, make) in GOLDEN {
            let name = format!("attacks::apgd.golden.{card}.{entry}");
            let Some((folder, images)) = shared().map(|s| s.join("golden")).zip(cifar10()) else {
                all.push(ignored(name, "needs golden data and CIFAR-10"));
                continue;
            };
            if !full() && !QUICK.contains(&(card, entry)) {
                all.push(ignored(name, LONG));
                continue;
            }
            let reference: Value = golden::read_json(&folder.join(format!("{stem}.json")));
            let Some(want) = reference["attacks"].get(entry).cloned() else { continue };
            let attack = make(ThreatModel::new(norm, eps));
            all.push(trial(name, move || agrees(&folder.join(file), card, &images, &want, &attack)));
        }
    }
    for norm in NORMS {
        let targeted = norm == Norm::Linf;
        all.push(on_a_card(format!("attacks::apgd.run.{norm}.f32"), move || on_card(norm, Precision::F32, targeted)));
    }
    all.push(on_a_card("attacks::apgd.run.linf.bf16".into(), || on_card(Norm::Linf, Precision::Bf16, false)));
    all
}

/// Three seeds; each within two images of the official code. Where it returns a point is compared for one of them.
fn agrees(weights: &Path, card: &str, images: &Path, want: &Value, attack: &Apgd) {
    let device = Device::open("cpu", &DeviceOptions::default()).expect("the CPU is there");
    let model = Model::load(card, Some(weights)).expect("the checkpoint loads");
    let n = want["images"].as_u64().expect("a number of images") as usize;
    let options = Options { limit: Some(n), ..Default::default() };
    let set = Dataset::open(&format!("cifar10:{}", images.display()), &options).expect("CIFAR-10 opens");
    let robust = want["robust_accuracy"].as_f64().expect("a share") * n as f64;
    // `PETARD_FULL=1` asks for three seeds.
    let seeds = if full() { 3 } else { 1 };
    for seed in 0..seeds {
        let whole = seed == 0 && attack.targets.is_none();
        let keep = if whole { Keep::LastSuccess } else { Keep::FirstSuccess };
        let job = Job { seed, ..Job::new(Apgd { keep, ..attack.clone() }, 64) };
        let got = attack::run(&device, &model, &set, &job, &Given::default(), Hooks::default()).expect("the attack runs");
        assert_eq!(got.clean_correct, want["clean_correct"].as_u64().expect("a count") as usize, "clean accuracy");
        assert!((got.robust as f64 - robust).abs() <= 2.0, "seed {seed}: {} robust, the official code has {robust}", got.robust);
        assert_eq!(got.non_finite, 0);
        if whole {
            let p = &got.per_image;
            let mut l2: Vec<f64> = (0..n).filter(|&i| p.success[i]).map(|i| p.l2[i]).collect();
            l2.sort_by(f64::total_cmp);
            let (ours, theirs) = (l2[l2.len() / 2], want["l2"]["median"].as_f64().expect("a median"));
            assert!((ours / theirs - 1.0).abs() < 0.03, "median L2 of broken images {ours}, the official code has {theirs}");
        }
    }
}

fn apgd(norm: Norm, steps: usize) -> Apgd {
    Apgd { steps, ..Apgd::new(small(norm)) }
}

fn job(attack: Apgd) -> Job {
    Job { seed: 5, ..Job::new(attack, 16) }
}

fn pixels(set: &Dataset) -> Vec<f32> {
    let one = |i: usize| {
        let mut x = vec![0.0; 3072];
        set.read(i..i + 1).expect("images").pixels_f32(0, &mut x);
        x
    };
    (0..set.len()).flat_map(one).collect()
}

fn stays_inside() {
    let set = data(24, 0);
    let clean = pixels(&set);
    for norm in NORMS {
        for keep in [Keep::LastSuccess, Keep::FirstSuccess, Keep::BestLoss] {
            let (outcome, images) = run_with_images(&job(Apgd { keep, ..apgd(norm, 12) }), &set, 2);
            let threat = small(norm);
            for (x0, x) in clean.chunks(3072).zip(images.chunks(3072)) {
                assert!(threat.contains(x0, x), "{norm} {keep}: {}", threat.distance(x0, x));
            }
            let (robust, right) = (outcome.robust, outcome.clean_correct);
            assert!(robust > 0 && robust < right, "{norm} {keep}: {robust} of {right} stand, nothing to see");
            assert!(!outcome.doubts.iter().any(|d| d.code == "outside-threat-model"), "{:?}", outcome.doubts);
            if keep == Keep::LastSuccess {
                assert_eq!(outcome.cost.backwards, 13 * right as u64, "a look at the start and one after each step");
            }
        }
    }
}

/// Batches of 16 and of 9, and an image at another place in other company: the same bits.
fn company_changes_nothing() {
    let set = data(24, 0);
    for norm in NORMS {
        for keep in [Keep::LastSuccess, Keep::FirstSuccess] {
            let attack = Apgd { keep, ..apgd(norm, 9) };
            let whole = run_with_images(&job(attack.clone()), &set, 2);
            let nines = run_with_images(&Job { batch: 9, ..job(attack.clone()) }, &set, 1);
            assert!(same_bits(&whole.1, &nines.1), "{norm} {keep}: batches of 9");
            assert_eq!(whole.0.per_image, nines.0.per_image, "{norm} {keep}");
            let part = run_with_images(&job(attack), &data(10, 7), 2);
            assert!(same_bits(&whole.1[7 * 3072..17 * 3072], &part.1), "{norm} {keep}: other company");
        }
    }
}

fn first_success_is_as_strong() {
    let set = data(24, 0);
    for norm in NORMS {
        let of = |keep| run_with_images(&job(Apgd { keep, ..apgd(norm, 15) }), &set, 2).0;
        let (first, last, best) = (of(Keep::FirstSuccess), of(Keep::LastSuccess), of(Keep::BestLoss));
        assert_eq!(first.per_image.robust, last.per_image.robust, "{norm}");
        assert!(first.cost.backwards < last.cost.backwards && best.robust >= last.robust, "{norm}");
    }
}

fn more_runs() {
    let set = data(24, 0);
    let robust = |attack: Apgd| run_with_images(&job(attack), &set, 2).0.robust;
    for norm in NORMS {
        let once = robust(apgd(norm, 6));
        assert!(robust(Apgd { restarts: 4, ..apgd(norm, 6) }) <= once, "{norm}: restarts");
        let targeted = |targets, loss| Apgd { targets: Some(targets), loss, ..apgd(norm, 6) };
        for loss in [AttackLoss::Dlr, AttackLoss::CrossEntropy, AttackLoss::Margin] {
            let (one, all) = (robust(targeted(1, loss)), robust(targeted(9, loss)));
            assert!(all <= one && all < 24, "{norm} {}: {all} of {one} stand", loss.name());
            // There are nine other classes: a tenth changes nothing.
            assert_eq!(robust(targeted(12, loss)), all);
        }
    }
}

fn larger_balls() {
    let set = data(16, 0);
    let clean = pixels(&set);
    let attack = Apgd { larger_eps: true, ..apgd(Norm::L1, 20) };
    let (outcome, images) = run_with_images(&job(attack), &set, 2);
    let threat = small(Norm::L1);
    assert!(clean.chunks(3072).zip(images.chunks(3072)).all(|(x0, x)| threat.contains(x0, x)), "outside of the last ball");
    assert_eq!(outcome.cost.backwards, 23 * outcome.clean_correct as u64, "three phases look at three starts");
    assert!(outcome.robust < outcome.clean_correct);
}

/// Within ball and box the best point of a linear loss is known: APGD must come near it.
fn linear_model() {
    let (n, d, classes, steps) = (9, 12, 2, 100);
    let mut rng = Rng::new(11);
    let w: Vec<f32> = rng.normals(classes * d).iter().map(|v| *v as f32).collect();
    // In L2 the step scales into the ball and then clips, which is the closest point only away from the box.
    let origin: Vec<f32> = (0..n * d).map(|_| 0.35 + 0.3 * rng.unit() as f32).collect();
    let labels: Vec<i32> = (0..n).map(|i| (i % classes) as i32).collect();
    for (norm, radius) in NORMS.into_iter().zip([0.1f32, 0.3, 0.8]) {
        let mut g = Graph::new();
        let rows = Shape::per_image(&[]);
        let image = |g: &mut Graph, name: &str| g.input(name, Shape::per_image(&[d]), DType::F32);
        let [x, x0, old, best, best_grad] = ["x", "x0", "old", "best", "best-grad"].map(|name| image(&mut g, name));
        let label = g.input("label", rows.clone(), DType::I32);
        let eps = g.input("eps", rows, DType::F32);
        let state = g.input("state", Shape::per_image(&[ApgdRule::STATE]), DType::F32);
        let logits = g.linear("fc", x, classes, false);
        let kind = Loss::CrossEntropy { smoothing: 0.0 };
        let loss = g.push(Op::Loss(kind), &[logits, label]);
        let cotangent = g.push(Op::LossGrad(kind), &[logits, label]);
        let fooled = g.push(Op::Fooled { hit: false }, &[logits, label]);
        let grad = vjp(&mut g, logits, cotangent, &[x])[0].expect("logits depend on x");
        let rule = ApgdRule { norm, steps, rho: 0.75, larger: false };
        let mut seen = vec![state, loss, fooled, eps];
        seen.extend((norm == Norm::L1).then_some([x, best, x0]).into_iter().flatten());
        let next_state = g.push(Op::ApgdState(rule), &seen);
        let [better, back] = [at::BETTER, at::BACK].map(|index| g.push(Op::Column { index }, &[next_state]));
        let next_best = g.push(Op::SelectRows, &[better, x, best]);
        let next_grad = g.push(Op::SelectRows, &[better, grad, best_grad]);
        let from = g.push(Op::SelectRows, &[back, next_best, x]);
        let lead = g.push(Op::SelectRows, &[back, next_grad, grad]);
        let moved: Vec<_> = [from, x0, lead, next_state].into_iter().chain((norm != Norm::L1).then_some(old)).collect();
        let next = g.push(Op::ApgdMove { norm }, &moved);
        let carries = vec![(best, next_best), (best_grad, next_grad), (state, next_state), (x, next), (old, from)];
        let plan = compile(&g, &[Segment { name: "attack".into(), outputs: vec![], carries }], n).expect("a plan");
        let mut cpu = cpu::CpuExecutor::new(plan.into(), cpu::Options { threads: 1, ..Default::default() }).expect("an executor");
        cpu.write_f32(g.params()["fc.weight"], 0, &w).expect("weights");
        cpu.run("pack").expect("pack");
        for (value, data) in [(x, &origin), (x0, &origin), (eps, &vec![radius; n]), (state, &rule.fresh(radius).repeat(n))] {
            cpu.write_f32(value, 0, data).expect("inputs");
        }
        cpu.write_i32(label, 0, &labels).expect("labels");
        (0..rule.turns()).for_each(|_| cpu.run("attack").expect("a turn"));
        let found = cpu.read_f32(best, 0, n).expect("the result");
        for i in 0..n {
            let (y, x0) = (labels[i] as usize, &origin[i * d..][..d]);
            let slope: Vec<f64> = (0..d).map(|k| f64::from(w[(1 - y) * d + k] - w[y * d + k])).collect();
            let got: f64 = (0..d).map(|k| f64::from(found[i * d + k] - x0[k]) * slope[k]).sum();
            let most = best_gain(norm, f64::from(radius), x0, &slope);
            // The step in L1 is never shorter than a tenth of the radius: that much may lie on the second best value.
            let share = if norm == Norm::L1 { 0.9 } else { 0.98 };
            assert!(got <= most * (1.0 + 1e-5) && got > share * most, "{norm}: image {i} gains {got}, the most is {most}");
        }
    }
}

/// DLR needs three classes, towards a target four: below that the margin, and it is said.
fn few_classes() {
    let threat = ThreatModel::linf(0.1);
    let codes = |attack: Apgd, classes| attack.doubts(classes, false).iter().map(|d| d.code.clone()).collect::<Vec<_>>();
    assert_eq!(codes(Apgd::dlr(threat), 2), ["few-classes"]);
    assert_eq!(codes(Apgd::targeted(threat), 3), ["few-classes", "few-targets"]);
    assert_eq!(codes(Apgd::targeted(threat), 9), ["few-targets"]);
    assert!(codes(Apgd::dlr(threat), 3).is_empty() && codes(Apgd::targeted(threat), 10).is_empty());
}

fn refusals() {
    let good = || apgd(Norm::Linf, 3);
    for (attack, part) in [
        (Apgd { threat: ThreatModel::linf(0.0), ..good() }, "`eps` is 0"),
        (Apgd { threat: ThreatModel::linf(8.0), ..good() }, "images lie in [0,1]"),
        (Apgd { steps: 0, ..good() }, "`steps`"),
        (Apgd { rho: 1.5, ..good() }, "`rho` is 1.5"),
        (Apgd { targets: Some(9), restarts: 10_000, ..good() }, "90000 runs"),
        (Apgd { larger_eps: true, ..good() }, "`larger-eps`"),
        (Apgd { keep: Keep::Last, ..good() }, "last iterate"),
    ] {
        let error = attack.check(10).expect_err(part).to_string();
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

/// Each attack of an ensemble gets what the ones before left, and the worst case of an image is what counts.
fn takes_what_is_left() {
    let set = data(24, 0);
    let (attacks, _) = ensemble(small(Norm::Linf), Version::Standard, Keep::FirstSuccess);
    let outcome = super::run(&Job { attacks, ..job(apgd(Norm::Linf, 1)) }, &set);
    let members = &outcome.members;
    assert_eq!((members[0].name.as_str(), members[1].name.as_str()), ("apgd-ce", "apgd-t"));
    let mut left = outcome.clean_correct;
    for m in members {
        left -= m.broken;
        assert_eq!(m.standing, left, "{}", m.name);
    }
    assert_eq!(left, outcome.robust);
    assert!(members.iter().all(|m| m.cost.forwards > 0) && left > 0);
}

/// A whole run on an emulated card: its verdicts are the CPU's, but for an image on the edge.
fn on_card(norm: Norm, precision: Precision, targeted: bool) -> Result<(), String> {
    let eps = [8.0 / 255.0, 1.0, 20.0][norm as usize];
    let base = Apgd { steps: 8, keep: Keep::FirstSuccess, ..Apgd::new(ThreatModel::new(norm, eps)) };
    let attack = if targeted { Apgd { targets: Some(2), loss: AttackLoss::Dlr, ..base } } else { base };
    let of = |device: &Device| -> Result<Outcome, String> {
        let model = Model::load("tiny-resnet", None).expect("an embedded model");
        let set = Dataset::open("synthetic", &Options { limit: Some(14), ..Options::default() }).expect("images are painted");
        let job = Job { seed: 3, ..Job::new(attack.clone(), 8) };
        attack::run(device, &model, &set, &job, &Given::default(), Hooks::default()).map_err(|e| e.to_string())
    };
    let cpu = of(&Device::open("cpu", &DeviceOptions::default()).expect("a CPU"))?;
    let card = Emulated::new(Profile::Hopper, Build::Fast, Schedule::IN_ORDER).with_memory(1 << 30);
    let card = of(&Device::on("emulated", Arc::new(card), precision))?;
    let differ = card.per_image.robust.iter().zip(&cpu.per_image.robust).filter(|(a, b)| a != b).count();
    assert_eq!((card.clean_correct, card.non_finite), (cpu.clean_correct, 0));
    assert!(cpu.robust < cpu.clean_correct, "{norm}: nothing broke");
    assert!(differ <= usize::from(precision != Precision::F32), "{norm}: {differ} verdicts differ");
    Ok(())
}
