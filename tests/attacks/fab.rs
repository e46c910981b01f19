//! FAB, FAB-T and DeepFool: closed forms on a linear model, what must hold for any model, stored results of the official code
//! and of torchattacks, and the whole attacks on an emulated card.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use libtest_mimic::Trial;
use petard::attack::{self, Attack, DeepFool, Fab};
use petard::data::Options;
use petard::graph::{Graph, Op};
use petard::nn::{self, ModelCard, Weights};
use petard::plan::{Precision, compile};
use petard::session::image_input;
use petard::tensor::HostTensor;
use petard::{Dataset, Device, DeviceOptions, Given, Hooks, Job, Model, Norm, Outcome, ThreatModel};
use serde_json::Value;

use super::{NORMS, data, device, model, same_bits, small, write_images};
use crate::emulated::{Build, Emulated, Profile, Schedule};
use crate::support::engine::on_a_card;
use crate::support::{LONG, Rng, cifar10, full, ignored, shared, trial};

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("attacks::fab.linear_model", linear_model),
        trial("attacks::fab.stays_inside", stays_inside),
        trial("attacks::fab.batch_size_changes_nothing", batch_size_changes_nothing),
        trial("attacks::fab.position_changes_nothing", position_changes_nothing),
        trial("attacks::fab.more_steps_never_help_the_model", more_steps_never_help_the_model),
        trial("attacks::fab.restarts_and_targets_only_add", restarts_and_targets_only_add),
        trial("attacks::fab.no_target_left", no_target_left),
        trial("attacks::fab.no_large_buffer", no_large_buffer),
        trial("attacks::fab.refusals", refusals),
        on_a_card("attacks::fab.emulated.f32".into(), || on_an_emulated_card(Precision::F32)),
        on_a_card("attacks::fab.emulated.bf16".into(), || on_an_emulated_card(Precision::Bf16)),
    ];
    for (file, card, stem) in super::golden::CHECKPOINTS {
        for (entry, parity) in [("fab_t_linf_eps8", fab_t_agrees as Parity), ("deepfool", deepfool_agrees)] {
            let name = format!("attacks::golden.{card}.{entry}");
            all.push(match shared().map(|s| s.join("golden")).zip(cifar10()) {
                Some(_) if !full() && card == "resnet20-cifar10" => ignored(name, LONG),
                Some((golden, images)) => {
                    trial(name, move || parity(&Reference::open(&golden, file, card, stem, entry), &images))
                }
                None => ignored(name, "needs golden data and CIFAR-10"),
            });
        }
    }
    all
}

fn attacked(on: &Device, model: &Model, set: &Dataset, attack: impl Attack + 'static, batch: usize) -> (Outcome, Vec<f32>) {
    let mut images = Vec::new();
    let take = |r: &attack::Returned| {
        images.extend_from_slice(r.adversarial);
        Ok(())
    };
    let hooks = Hooks { returned: Some(Box::new(take)), ..Hooks::default() };
    let job = Job { seed: 5, exact: true, ..Job::new(attack, batch) };
    let outcome = attack::run(on, model, set, &job, &Given::default(), hooks).expect("the attack runs");
    (outcome, images)
}

fn clean(set: &Dataset) -> Vec<f32> {
    let batch = set.read(0..set.len()).expect("images");
    let mut x = vec![0.0; set.len() * 3072];
    x.chunks_mut(3072).enumerate().for_each(|(i, x)| batch.pixels_f32(i, x));
    x
}

const LINEAR: &str = "arch = \"vgg\"\ninput = [3, 32, 32]\nclasses = 5\nlayers = [3]\nhead = \"linear\"\n";

/// `logits = W (x - 1/2)`: the convolution copies and adds 1, so that no ReLU is in the way. With the rows of `W`.
fn linear() -> (Model, Vec<Vec<f64>>) {
    let card = ModelCard::parse(LINEAR, "linear", Path::new("")).expect("the card is right");
    let mut graph = Graph::new();
    let x = image_input(&mut graph, "x", &card);
    nn::build(&card, &mut graph, x, false);
    let w: Vec<f32> = Rng::new(21).normals(5 * 3072).iter().map(|v| *v as f32).collect();
    let copy: Vec<f32> = (0..81).map(|i| f32::from(u8::from(i / 27 == i % 27 / 9 && i % 9 == 4))).collect();
    let rows: Vec<Vec<f64>> = w.chunks(3072).map(|r| r.iter().map(|&v| f64::from(v)).collect()).collect();
    let level = rows.iter().map(|r| (-1.5 * r.iter().sum::<f64>()) as f32).collect();
    let tensors = BTreeMap::from([
        ("features.0.weight".to_string(), HostTensor::f32(&[3, 3, 3, 3], copy)),
        ("features.0.bias".to_string(), HostTensor::f32(&[3], vec![1.0; 3])),
        ("classifier.weight".to_string(), HostTensor::f32(&[5, 3072], w)),
        ("classifier.bias".to_string(), HostTensor::f32(&[5], level)),
    ]);
    let weights = Weights::from_tensors(tensors, &graph).expect("the weights fit");
    (Model { card, weights }, rows)
}

/// The boundaries are hyperplanes, and the box is far away: the distance is that of the nearest, in closed form.
fn linear_model() {
    let (model, rows) = linear();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("images.safetensors");
    let mut rng = Rng::new(22);
    write_images(&path, &(0..24 * 3072).map(|_| (0.49 + 0.02 * rng.unit()) as f32).collect::<Vec<f32>>(), 24);
    let set = Dataset::open(&format!("file:{}", path.display()), &Options::default()).expect("the set opens");
    let pixels = clean(&set);
    for norm in NORMS {
        let attacks: Vec<(Arc<dyn Attack>, [f64; 2])> = vec![
            // Back and forth over the boundary, a step goes 5 % of the rest of the way past it: about half a percent.
            (Arc::new(Fab { steps: 10, ..Fab::nearest(norm) }), [1.0, 1.01]),
            (Arc::new(Fab { steps: 12, eta: 1.001, ..Fab::nearest(norm) }), [1.0, 1.001]),
            (Arc::new(Fab { steps: 10, nearest: true, targets: Some(9), ..Fab::nearest(norm) }), [1.0, 1.01]),
            (Arc::new(Fab { steps: 10, restarts: 2, ..Fab::nearest(norm) }), [1.0, 1.01]),
        ];
        let fools = [DeepFool::torchattacks(), DeepFool { overshoot: 0.1, ..DeepFool::torchattacks() }];
        let fools = fools.into_iter().filter(|_| norm != Norm::L1).map(|fool| {
            let factor = 1.0 + fool.overshoot;
            (Arc::new(DeepFool { norm, ..fool }) as Arc<dyn Attack>, [factor, factor])
        });
        for (attack, [least, most]) in attacks.into_iter().chain(fools) {
            let job = Job { attacks: vec![Arc::clone(&attack)], exact: true, ..Job::new(DeepFool::new(norm), 9) };
            let outcome = attack::run(&device(2), &model, &set, &job, &Given::default(), Hooks::default()).expect("it runs");
            let mut judged = 0;
            for i in 0..24 {
                let (x, y) = (&pixels[i * 3072..][..3072], outcome.per_image.label[i] as usize);
                let want =
                    (0..5).filter(|&k| k != y).map(|k| closed_form(norm, &rows[k], &rows[y], x)).fold(f64::INFINITY, f64::min);
                let p = &outcome.per_image;
                let got = [p.linf[i], p.l2[i], p.l1[i]][norm as usize];
                let gap = want * [2700.0, 75.0, 4.5][norm as usize];
                if gap < 0.3 {
                    continue; // what a step goes too far would drown in the rounding of logits
                }
                judged += 1;
                // 3072 additions at sums of about 80, each off by 2^-18 at most and 0.6 of that as a rule: 1e-4 a logit.
                let noise = 2e-4 / gap;
                // A pixel is rounded to f32, which the largest change shows.
                let ulp = 2f64.powi(-24);
                let (low, high) = (want * least * (1.0 - noise) - ulp, want * most * (1.0 + noise) + ulp);
                assert!(p.success[i] && (low..=high).contains(&got), "{attack:?}: image {i} at {got}, the boundary at {want}");
            }
            assert!(judged >= 3, "only {judged} images are far enough from a boundary");
        }
    }
}

fn closed_form(norm: Norm, to: &[f64], from: &[f64], x: &[f32]) -> f64 {
    let w: Vec<f64> = to.iter().zip(from).map(|(a, b)| a - b).collect();
    let f: f64 = w.iter().zip(x).map(|(w, &x)| w * (f64::from(x) - 0.5)).sum();
    let dual = match norm {
        Norm::Linf => w.iter().map(|w| w.abs()).sum(),
        Norm::L2 => w.iter().map(|w| w * w).sum::<f64>().sqrt(),
        Norm::L1 => w.iter().fold(0.0, |m: f64, w| m.max(w.abs())),
    };
    f.abs() / dual
}

fn stays_inside() {
    let set = data(24, 0);
    let originals = clean(&set);
    for norm in NORMS {
        // What FAB finds is nearer than what PGD's test finds at these radii.
        let threat = ThreatModel::new(norm, 0.6 * small(norm).eps);
        for fab in [Fab::new(threat), Fab { targets: Some(3), ..Fab::targeted(threat) }] {
            let (outcome, images) = attacked(&device(2), &model(), &set, Fab { steps: 12, restarts: 2, ..fab }, 16);
            for (i, (x0, x)) in originals.chunks(3072).zip(images.chunks(3072)).enumerate() {
                assert!(threat.contains(x0, x), "{norm}: image {i} at {}", threat.distance(x0, x));
                assert!(!outcome.per_image.robust[i] || x0 == x, "{norm}: image {i} stands, and yet was changed");
            }
            let (robust, all) = (outcome.robust, outcome.clean_correct);
            assert!(robust > 0 && robust < all, "{norm}: {robust} of {all} stand, the test cannot tell attacks apart");
            assert!(!outcome.doubts.iter().any(|d| d.code == "outside-threat-model"), "{:?}", outcome.doubts);
        }
    }
}

fn batch_size_changes_nothing() {
    let set = data(37, 0);
    let both = |a: &dyn Fn(usize) -> (Outcome, Vec<f32>), what: &str| {
        let (one, two) = (a(16), a(9));
        assert_eq!(one.0.per_image, two.0.per_image, "{what}: batch 16 and 9");
        assert!(same_bits(&one.1, &two.1), "{what}: images of batch 16 and 9");
        assert!(one.0.robust < one.0.clean_correct, "{what}: nothing broke");
    };
    for norm in NORMS {
        let near = Fab { steps: 4, restarts: 2, candidates: 3, ..Fab::nearest(norm) };
        both(&|batch| attacked(&device(2), &model(), &set, near.clone(), batch), &format!("fab {norm}"));
        let aimed = Fab { steps: 4, targets: Some(2), ..Fab::targeted(small(norm)) };
        both(&|batch| attacked(&device(2), &model(), &set, aimed.clone(), batch), &format!("fab-t {norm}"));
        if norm != Norm::L1 {
            let fool = DeepFool { steps: 5, ..DeepFool::new(norm) };
            both(&|batch| attacked(&device(2), &model(), &set, fool.clone(), batch), &format!("deepfool {norm}"));
        }
    }
}

fn position_changes_nothing() {
    let fab = Fab { steps: 4, restarts: 2, candidates: 2, ..Fab::nearest(Norm::L2) };
    let all = attacked(&device(2), &model(), &data(24, 0), fab.clone(), 16).1;
    let part = attacked(&device(2), &model(), &data(11, 13), fab, 16).1;
    assert!(same_bits(&all[13 * 3072..], &part), "an image's result depends on where it stands");
    let fool = DeepFool::new(Norm::Linf);
    let all = attacked(&device(2), &model(), &data(24, 0), fool.clone(), 16).1;
    let part = attacked(&device(2), &model(), &data(11, 13), fool, 16).1;
    assert!(same_bits(&all[13 * 3072..], &part), "DeepFool: an image's result depends on where it stands");
}

fn more_steps_never_help_the_model() {
    let set = data(24, 0);
    for norm in NORMS {
        let with = |steps| {
            let (outcome, _) = attacked(&device(2), &model(), &set, Fab { steps, ..Fab::nearest(norm) }, 24);
            let p = outcome.per_image;
            let far = [p.linf, p.l2, p.l1].into_iter().nth(norm as usize).expect("a distance");
            far.into_iter().zip(p.success).map(|(d, hit)| if hit { d } else { f64::INFINITY }).collect::<Vec<f64>>()
        };
        let far = [3, 6, 12].map(with);
        // Kept in f32 on the device.
        let closer = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| *b <= a * (1.0 + 1e-6));
        assert!(closer(&far[0], &far[1]) && closer(&far[1], &far[2]), "{norm}: {far:?}");
    }
}

fn restarts_and_targets_only_add() {
    let set = data(24, 0);
    let threat = ThreatModel::linf(0.3 / 255.0);
    let with = |targets, restarts| {
        let fab = Fab { steps: 6, targets: Some(targets), restarts, ..Fab::targeted(threat) };
        attacked(&device(2), &model(), &set, fab, 24).0
    };
    let (one, two, more) = (with(1, 1), with(2, 1), with(2, 2));
    let only_less = |a: &Outcome, b: &Outcome| b.per_image.robust.iter().zip(&a.per_image.robust).all(|(b, a)| !b || *a);
    assert!(only_less(&one, &two) && only_less(&two, &more), "an image broken once stands again");
    assert!(one.robust > 0, "nothing is left for a second target");
    // Broken images leave: 6 steps a run of those that still stand.
    let runs = |o: &Outcome, i: usize| (o.per_image.forwards[i], o.per_image.backwards[i]);
    assert!((0..24).all(|i| runs(&one, i) == (12, 6)), "{:?}", one.per_image.forwards);
    assert!((0..24).all(|i| runs(&two, i) == if one.per_image.robust[i] { (24, 12) } else { (12, 6) }));
}

/// More targets than classes: the same as all of them, at the same price, and the report says so.
fn no_target_left() {
    let (model, _) = linear();
    let set = data(8, 0);
    let with = |targets| {
        let fab = Fab { steps: 3, targets: Some(targets), ..Fab::targeted(ThreatModel::l2(1e-3)) };
        attacked(&device(1), &model, &set, fab, 8).0
    };
    let (all, more) = (with(4), with(9));
    assert_eq!(all.per_image, more.per_image);
    assert!(more.doubts.iter().any(|d| d.code == "few-classes") && !all.doubts.iter().any(|d| d.code == "few-classes"));
}

/// Candidates cost time, not memory: their gradients are never there at once.
fn no_large_buffer() {
    let bytes = |candidates| {
        let fab = Fab { candidates, ..Fab::new(ThreatModel::l2(0.5)) };
        let card = model().card;
        let (graph, segments) = fab.sketch(&attack::Net::of(&card, false));
        let count =
            graph.nodes().iter().filter(|n| matches!(n.op, Op::NormaliseGrad { .. } | Op::Conv2dGradInput { .. })).count();
        (compile(&graph, &segments, 8).expect("a plan").arena_bytes(), count)
    };
    // From three on: two gradients and the one in the making.
    let ((three, few), (nine, many)) = (bytes(3), bytes(9));
    assert!(many > 2 * few, "{few} and {many} gradients");
    assert!(nine < three + 8 * 3072 * 4 / 2, "{three} bytes for three candidates, {nine} for nine");
}

fn refusals() {
    let set = data(4, 0);
    let refused = |attack: Arc<dyn Attack>, part: &str| {
        let job = Job { attacks: vec![attack], ..Job::new(DeepFool::new(Norm::L2), 4) };
        let error = attack::run(&device(1), &model(), &set, &job, &Given::default(), Hooks::default()).expect_err(part);
        assert!(error.to_string().contains(part), "`{error}` does not say `{part}`");
    };
    let fab = || Fab::new(ThreatModel::l2(0.5));
    refused(Arc::new(Fab { beta: 1.0, ..fab() }), "`beta` is 1");
    refused(Arc::new(Fab { eta: f64::NAN, ..fab() }), "`eta` is NaN");
    refused(Arc::new(Fab { alpha_max: -0.1, ..fab() }), "`alpha_max`");
    refused(Arc::new(Fab { steps: 0, ..fab() }), "`steps`");
    refused(Arc::new(Fab { targets: Some(0), ..fab() }), "`targets`");
    refused(Arc::new(Fab { restarts: 70_000, ..fab() }), "70000");
    refused(Arc::new(DeepFool::new(Norm::L1)), "l1");
    refused(Arc::new(DeepFool { push: -1.0, ..DeepFool::new(Norm::L2) }), "`push`");
}

/// Whole runs: the card finds what the CPU finds; in 16 bits its claims are confirmed in f32.
fn on_an_emulated_card(precision: Precision) -> Result<(), String> {
    let model = Model::load("tiny-resnet", None).expect("an embedded model");
    let options = Options { limit: Some(10), ..Options::default() };
    let set = Dataset::open("synthetic", &options).expect("images are painted");
    let emulated = Emulated::new(Profile::Hopper, Build::Fast, Schedule::IN_ORDER);
    let card = Device::on("emulated", Arc::new(emulated), precision);
    let cpu = Device::open("cpu", &DeviceOptions::default()).expect("a CPU");
    let attacks: [Arc<dyn Attack>; 3] = [
        Arc::new(Fab { steps: 3, targets: Some(1), restarts: 2, ..Fab::targeted(ThreatModel::linf(16.0 / 255.0)) }),
        Arc::new(Fab { steps: 3, candidates: 2, ..Fab::nearest(Norm::L2) }),
        Arc::new(DeepFool { steps: 4, candidates: 2, ..DeepFool::new(Norm::L2) }),
    ];
    for attack in attacks {
        let job = Job { attacks: vec![Arc::clone(&attack)], seed: 3, ..Job::new(DeepFool::new(Norm::L2), 8) };
        let on = |device: &Device| {
            attack::run(device, &model, &set, &job, &Given::default(), Hooks::default()).map_err(|e| e.to_string())
        };
        let (want, got) = (on(&cpu)?, on(&card)?);
        assert!(want.per_image.success.contains(&true), "{attack:?} breaks nothing on the CPU");
        let p = (&got.per_image, &want.per_image);
        let differ = p.0.success.iter().zip(&p.1.success).filter(|(a, b)| a != b).count();
        if precision == Precision::F32 {
            assert_eq!(differ, 0, "{attack:?}: verdicts differ");
            assert_eq!((&p.0.forwards, &p.0.backwards), (&p.1.forwards, &p.1.backwards), "{attack:?}");
            let far = |(a, b): (&f64, &f64)| (a - b).abs() > 1e-3 * b.max(1e-3);
            assert!(!p.0.l2.iter().zip(&p.1.l2).any(far), "{attack:?}: {:?} against {:?}", p.0.l2, p.1.l2);
        } else {
            let (stood, made) = got.confirmed.expect("claims were asked for");
            // The nearest point lies on the boundary, where 16 bits cannot tell the sides apart: what counts is that no claim
            // is a success unless it stood.
            let successes = p.0.success.iter().filter(|hit| **hit).count();
            assert!(
                stood > 0 && stood <= made && stood <= successes,
                "{attack:?}: {stood} of {made} claims, {successes} successes"
            );
        }
    }
    Ok(())
}

type Parity = fn(&Reference, &Path);

/// A stored attack on a checkpoint.
struct Reference {
    model: Model,
    entry: Value,
    /// L-inf, L2, L1 of every image.
    norms: Vec<[f64; 3]>,
}

impl Reference {
    fn open(golden: &Path, file: &str, card: &str, stem: &str, entry: &str) -> Self {
        let model = Model::load(card, Some(&golden.join(file))).expect("the checkpoint loads");
        let json = std::fs::read(golden.join(format!("{stem}.json"))).expect("a readable reference");
        let json: Value = serde_json::from_slice(&json).expect("a reference in JSON");
        let bytes = std::fs::read(golden.join(format!("{stem}.safetensors"))).expect("a readable reference");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors reference");
        let norms = tensors.tensor(&format!("{entry}.norms")).expect("norms");
        let floats: Vec<f64> =
            norms.data().chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4 bytes")))).collect();
        let norms = floats.chunks(3).map(|r| [r[0], r[1], r[2]]).collect();
        Reference { model, entry: json["attacks"][entry].clone(), norms }
    }

    /// Whether image `i` was right before and after.
    fn robust(&self, i: usize) -> bool {
        self.entry["robust_bitmap"].as_str().expect("a bitmap").as_bytes()[i] == b'1'
    }

    /// Our run on the first `n` images; how many stand, there and here; our and their distances in the norm at `norm` where
    /// both have broken the image.
    fn compare(&self, images: &Path, n: usize, attack: impl Attack + 'static, norm: usize) -> (usize, Outcome, Vec<[f64; 2]>) {
        let options = Options { limit: Some(n), ..Options::default() };
        let set = Dataset::open(&format!("cifar10:{}", images.display()), &options).expect("CIFAR-10 opens");
        let outcome = attacked(&device(2), &self.model, &set, attack, 64).0;
        let p = &outcome.per_image;
        let both = (0..n).filter(|&i| p.success[i] && !self.robust(i));
        let pairs = both.map(|i| [[p.linf[i], p.l2[i], p.l1[i]][norm], self.norms[i][norm]]).collect();
        ((0..n).filter(|&i| self.robust(i)).count(), outcome, pairs)
    }
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// 32 images, or as many as `PETARD_GOLDEN` asks for, up to 256.
fn golden_images() -> usize {
    std::env::var("PETARD_GOLDEN").ok().and_then(|n| n.parse().ok()).unwrap_or(32)
}

fn fab_t_agrees(reference: &Reference, images: &Path) {
    let n = golden_images();
    let fab = Fab::targeted(ThreatModel::linf(8.0 / 255.0));
    let (theirs, outcome, pairs) = reference.compare(images, n, fab, 0);
    println!("fab-t: {} of {} stand, the official code has {theirs}", outcome.robust, outcome.clean_correct);
    assert!(outcome.robust.abs_diff(theirs) <= 2, "{} stand, the official code has {theirs}", outcome.robust);
    // Where the first target breaks an image both runs are the same up to rounding.
    let [ours, official] = [0, 1].map(|k| median(pairs.iter().map(|p| p[k]).collect()));
    println!("median of {} distances {ours:.6}, the official code has {official:.6}", pairs.len());
    assert!((ours / official - 1.0).abs() < 0.02, "median distance {ours}, the official code has {official}");
}

fn deepfool_agrees(reference: &Reference, images: &Path) {
    let n = 256;
    let (theirs, outcome, pairs) = reference.compare(images, n, DeepFool::torchattacks(), 1);
    println!("deepfool: {} of {} stand, torchattacks has {theirs}", outcome.robust, outcome.clean_correct);
    let [ours, official] = [0, 1].map(|k| pairs.iter().map(|p| p[k]).sum::<f64>() / pairs.len() as f64);
    println!("mean of {} distances {ours:.6}, torchattacks has {official:.6}", pairs.len());
    assert!((ours / official - 1.0).abs() < 0.01, "mean distance {ours}, torchattacks has {official}");
    assert!(outcome.robust.abs_diff(theirs) <= 2, "{} stand, torchattacks has {theirs}", outcome.robust);
    // With the original's push nothing ends on the boundary.
    let pushed = reference.compare(images, n, DeepFool::new(Norm::L2), 1).1;
    assert_eq!(pushed.robust, 0, "{} stand", pushed.robust);
}
