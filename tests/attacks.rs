//! Attacks: stored PyTorch results, and what must hold for any model and seed.

mod apgd;
mod black_box;
mod climb;
mod fab;
mod golden;
mod journal;
mod losses;
mod minimum;
mod transfer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use libtest_mimic::Trial;
use petard::attack::{self, AttackLoss, Keep, Start};
use petard::data::Options;
use petard::graph::{Graph, Loss, Op, vjp};
use petard::nn::{self, ModelCard, Weights};
use petard::plan::{Executor, Segment, compile};
use petard::session::image_input;
use petard::tensor::{DType, HostTensor, Shape};
use petard::{
    Classifier, Dataset, Device, DeviceOptions, Error, Given, Hooks, Job, Model, Norm, Outcome, Pgd, Target, ThreatModel, cpu,
};

use crate::support::{Rng, trial};

const CARD: &str = r#"
arch = "resnet"
input = [3, 32, 32]
classes = 10
blocks = [1, 1]
widths = [8, 16]
block = "basic"
stem = "cifar"
shortcut = "conv"
names = "torchvision"
"#;

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("attacks::stays_inside", stays_inside),
        trial("attacks::batch_size_changes_nothing", batch_size_changes_nothing),
        trial("attacks::threads_change_nothing", threads_change_nothing),
        trial("attacks::position_changes_nothing", position_changes_nothing),
        trial("attacks::more_steps_never_help_the_model", more_steps_never_help_the_model),
        trial("attacks::first_success_finds_whatever_last_finds", first_success_finds_whatever_last_finds),
        trial("attacks::restarts_only_break_more", restarts_only_break_more),
        trial("attacks::seeds_differ", seeds_differ),
        trial("attacks::targets", targets),
        trial("attacks::given_starts", given_starts),
        trial("attacks::linear_model", linear_model),
        trial("attacks::interruption", interruption),
        trial("attacks::refusals", refusals),
        trial("attacks::doubts", doubts),
        trial("attacks::no_weight_gradient", no_weight_gradient),
    ];
    all.extend(apgd::trials());
    all.extend(fab::trials());
    all.extend(golden::trials());
    all.extend(journal::trials());
    all.extend(black_box::trials());
    all.extend(losses::trials());
    all.extend(transfer::trials());
    all.extend(climb::trials());
    all.extend(minimum::trials());
    all
}

/// A small network with seeded weights. Its biases level the classes over the images of [`data`], so that each image has
/// neighbours of other classes.
fn model() -> Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(levelled).clone()
}

fn levelled() -> Model {
    let mut model = seeded();
    let mut net = Classifier::new(&device(1), &model, 64).expect("the network binds");
    let pixels = pixels(64);
    let views: Vec<&[f32]> = pixels.chunks(3072).collect();
    let logits = net.logits(&views).expect("logits");
    let mean = |c: usize| logits.iter().skip(c).step_by(10).sum::<f32>() / 64.0;
    let bias: Vec<f32> = (0..10).map(|c| -mean(c)).collect();
    model.weights.tensors.insert("fc.bias".into(), HostTensor::f32(&[10], bias));
    model
}

fn seeded() -> Model {
    let card = ModelCard::parse(CARD, "tiny", Path::new("")).expect("the card is right");
    let mut graph = Graph::new();
    let x = image_input(&mut graph, "x", &card);
    nn::build(&card, &mut graph, x, false);
    let mut rng = Rng::new(7);
    let mut tensors = BTreeMap::new();
    for (name, &value) in graph.params() {
        let dims = &graph.shape(value).dims;
        let fan_in: usize = dims.iter().skip(1).product();
        let n: usize = dims.iter().product();
        let values: Vec<f32> = match name.rsplit('.').next() {
            Some("running_var") => (0..n).map(|_| 0.5 + rng.unit() as f32).collect(),
            _ if dims.len() > 1 => rng.normals(n).iter().map(|v| (v * (3.0 / fan_in as f64).sqrt()) as f32).collect(),
            Some("weight") => (0..n).map(|_| 0.8 + 0.4 * rng.unit() as f32).collect(),
            _ if name == "fc.bias" => vec![0.0; n],
            _ => rng.normals(n).iter().map(|v| 0.1 * *v as f32).collect(),
        };
        tensors.insert(name.clone(), HostTensor::f32(dims, values));
    }
    let weights = Weights::from_tensors(tensors, &graph).expect("the weights fit");
    Model { card, weights }
}

/// Images whose labels are the model's own predictions, so that every one of them is there to be attacked.
fn data(n: usize, offset: usize) -> Dataset {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("images.safetensors");
    write_images(&path, &pixels(64), 64);
    let options = Options { limit: Some(n), offset, ..Default::default() };
    let set = Dataset::open(&format!("file:{}", path.display()), &options).expect("the set opens");
    // The set may read the file later: the folder must outlive this function.
    std::mem::forget(folder);
    set
}

fn pixels(n: usize) -> Vec<f32> {
    let mut rng = Rng::new(3);
    (0..n * 3072).map(|_| rng.unit() as f32).collect()
}

/// Writes `n` images of 3x32x32 as a safetensors file without labels.
fn write_images(path: &Path, pixels: &[f32], n: usize) {
    let bytes: Vec<u8> = pixels.iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = format!(r#"{{"images":{{"dtype":"F32","shape":[{n},3,32,32],"data_offsets":[0,{}]}}}}"#, bytes.len());
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(bytes);
    std::fs::write(path, out).expect("the temporary file can be written");
}

fn device(threads: usize) -> Device {
    Device::open("cpu", &DeviceOptions { threads, ..Default::default() }).expect("the CPU is there")
}

fn job(attack: Pgd) -> Job {
    Job { seed: 5, ..Job::new(attack, 16) }
}

fn run(job: &Job, set: &Dataset) -> Outcome {
    attack::run(&device(2), &model(), set, job, &Given::default(), Hooks::default()).expect("the attack runs")
}

/// The outcome with the returned images.
fn run_with_images(job: &Job, set: &Dataset, threads: usize) -> (Outcome, Vec<f32>) {
    run_from(job, set, None, threads)
}

fn run_from(job: &Job, set: &Dataset, starts: Option<&Dataset>, threads: usize) -> (Outcome, Vec<f32>) {
    let mut images = Vec::new();
    let hooks = Hooks {
        returned: Some(Box::new(|r| {
            images.extend_from_slice(r.adversarial);
            Ok(())
        })),
        ..Default::default()
    };
    let outcome =
        attack::run(&device(threads), &model(), set, job, &Given { starts, ..Given::default() }, hooks).expect("the attack runs");
    (outcome, images)
}

/// Radii at which about half of the images break.
fn small(norm: Norm) -> ThreatModel {
    match norm {
        Norm::Linf => ThreatModel::linf(0.6 / 255.0),
        Norm::L2 => ThreatModel::l2(0.06),
        Norm::L1 => ThreatModel::l1(1.0),
    }
}

const NORMS: [Norm; 3] = [Norm::Linf, Norm::L2, Norm::L1];

fn pgd(norm: Norm, steps: usize) -> Pgd {
    let threat = small(norm);
    Pgd::new(threat, threat.eps / 4.0, steps)
}

fn stays_inside() {
    let set = data(24, 0);
    let clean: Vec<f32> = (0..24)
        .flat_map(|i| {
            let batch = set.read(i..i + 1).expect("images");
            let mut x = vec![0.0; 3072];
            batch.pixels_f32(0, &mut x);
            x
        })
        .collect();
    for norm in NORMS {
        for keep in [Keep::Last, Keep::BestLoss, Keep::FirstSuccess] {
            let (outcome, images) = run_with_images(&job(Pgd { keep, ..pgd(norm, 5) }), &set, 2);
            let threat = small(norm);
            for (i, (x0, x)) in clean.chunks(3072).zip(images.chunks(3072)).enumerate() {
                assert!(threat.contains(x0, x), "{norm} {keep}: image {i} at {}", threat.distance(x0, x));
                let p = &outcome.per_image;
                let reported = [p.linf[i], p.l2[i], p.l1[i]][norm as usize];
                assert!((reported - threat.distance(x0, x)).abs() < 1e-12, "{norm}: reported {reported}");
            }
            assert!(outcome.robust < outcome.clean_correct, "{norm} {keep}: nothing broke");
            assert!(outcome.robust > 0, "{norm} {keep}: everything broke, the test cannot tell attacks apart");
        }
    }
}

fn batch_size_changes_nothing() {
    let set = data(37, 0);
    for norm in NORMS {
        for keep in [Keep::Last, Keep::BestLoss, Keep::FirstSuccess] {
            let with = |batch| run_with_images(&Job { batch, ..job(Pgd { keep, restarts: 2, ..pgd(norm, 4) }) }, &set, 2);
            let (a, images_a) = with(8);
            for batch in [13, 37, 64] {
                let (b, images_b) = with(batch);
                assert_eq!(a.per_image, b.per_image, "{norm} {keep}: batch 8 and {batch}");
                assert!(same_bits(&images_a, &images_b), "{norm} {keep}: images of batch 8 and {batch}");
            }
        }
    }
}

fn threads_change_nothing() {
    let set = data(16, 0);
    let job = job(pgd(Norm::L2, 4));
    let (a, b) = (run_with_images(&job, &set, 1), run_with_images(&job, &set, 3));
    assert_eq!(a.0.per_image, b.0.per_image);
    assert!(same_bits(&a.1, &b.1));
}

fn position_changes_nothing() {
    let job = job(pgd(Norm::Linf, 4));
    let (_, all) = run_with_images(&job, &data(24, 0), 2);
    let (outcome, part) = run_with_images(&job, &data(11, 13), 2);
    assert_eq!(outcome.per_image.index, (13..24).collect::<Vec<u32>>());
    assert!(same_bits(&all[13 * 3072..], &part), "an image's result depends on where it stands");
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// With the best point kept, and a loss that is positive exactly where the class is wrong.
fn more_steps_never_help_the_model() {
    let set = data(32, 0);
    for norm in NORMS {
        let with = |steps| run(&job(Pgd { keep: Keep::BestLoss, loss: AttackLoss::Margin, ..pgd(norm, steps) }), &set).robust;
        let robust: Vec<usize> = [1, 2, 4, 8].into_iter().map(with).collect();
        assert!(robust.windows(2).all(|w| w[1] <= w[0]), "{norm}: {robust:?}");
    }
}

fn first_success_finds_whatever_last_finds() {
    let set = data(32, 0);
    for norm in NORMS {
        let last = run(&job(pgd(norm, 6)), &set).per_image.robust;
        let first = run(&job(Pgd { keep: Keep::FirstSuccess, ..pgd(norm, 6) }), &set).per_image.robust;
        assert!(first.iter().zip(&last).all(|(f, l)| !f || *l), "{norm}: {first:?} against {last:?}");
    }
}

fn restarts_only_break_more() {
    let set = data(32, 0);
    let with = |restarts| run(&job(Pgd { restarts, ..pgd(Norm::Linf, 2) }), &set);
    let (one, three) = (with(1), with(3));
    assert!(three.per_image.robust.iter().zip(&one.per_image.robust).all(|(t, o)| !t || *o), "an image broken once stands again");
    assert!(three.image_steps > one.image_steps && three.image_steps < 3 * one.image_steps, "broken images go on being attacked");
}

fn seeds_differ() {
    let set = data(8, 0);
    let with = |seed| run_with_images(&Job { seed, ..job(pgd(Norm::Linf, 1)) }, &set, 2).1;
    assert!(same_bits(&with(1), &with(1)));
    assert!(!same_bits(&with(1), &with(2)), "the seed has no effect");
}

fn targets() {
    let set = data(24, 0);
    let big = Pgd { threat: ThreatModel::linf(0.06), alpha: 0.01, steps: 15, ..pgd(Norm::Linf, 1) };
    for target in [Target::Next, Target::LeastLikely, Target::Random, Target::Class(3)] {
        for loss in [AttackLoss::CrossEntropy, AttackLoss::Margin, AttackLoss::Dlr] {
            let outcome = run(&job(Pgd { target, loss, ..big.clone() }), &set);
            let (hit, tried) = outcome.targeted.expect("a targeted attack counts hits");
            let p = &outcome.per_image;
            let of_class = p.label.iter().filter(|&&l| l == 3).count();
            assert_eq!(tried, if target == Target::Class(3) { 24 - of_class } else { 24 }, "{target}: images attacked");
            // Targeted DLR lifts the target above the label, not above every class: it breaks more than it hits.
            let reached = if loss == AttackLoss::Dlr { tried - p.robust.iter().filter(|r| **r).count().min(tried) } else { hit };
            assert!(reached * 2 > tried, "{target} with {}: {reached} of {tried}", loss.name());
            if target == Target::Class(3) {
                assert_eq!(hit, p.prediction.iter().filter(|&&c| c == 3).count() - of_class, "{target}: hits");
                assert!(
                    p.label.iter().zip(&p.linf).all(|(&l, &d)| l != 3 || d == 0.0),
                    "images of the target class were touched"
                );
            }
        }
    }
}

fn given_starts() {
    let set = data(8, 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("starts.safetensors");
    let threat = ThreatModel::linf(0.01);
    // A step of almost nothing leaves the start where it is: what comes back is what was given.
    let mut rng = Rng::new(9);
    let mut starts = Vec::new();
    for i in 0..8 {
        let batch = set.read(i..i + 1).expect("images");
        let mut x = vec![0.0f32; 3072];
        batch.pixels_f32(0, &mut x);
        starts.extend(x.iter().map(|v| (v + 0.009 * (rng.unit() as f32 - 0.5)).clamp(0.0, 1.0)));
    }
    write_images(&path, &starts, 8);
    let given = Dataset::open(&format!("file:{}", path.display()), &Options::default()).expect("the starts open");
    let tiny = job(Pgd::new(threat, 1e-9, 1));
    let (_, images) = run_from(&tiny, &set, Some(&given), 2);
    let far = images.iter().zip(&starts).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-6, "the attack did not start where it was told: {far}");
    let few = data(7, 0);
    let error =
        attack::run(&device(2), &model(), &few, &tiny, &Given { starts: Some(&given), ..Given::default() }, Hooks::default())
            .expect_err("8 starts for 7 images");
    assert!(error.to_string().contains("8 starting images for 7 images"), "{error}");
}

/// On a linear model the best point is known: PGD must reach it.
fn linear_model() {
    let (n, d, classes) = (9, 12, 2);
    let mut g = Graph::new();
    let rows = Shape::per_image(&[]);
    let x = g.input("x", Shape::per_image(&[d]), DType::F32);
    let x0 = g.input("x0", Shape::per_image(&[d]), DType::F32);
    let label = g.input("label", rows.clone(), DType::I32);
    let alpha = g.input("alpha", rows.clone(), DType::F32);
    let eps = g.input("eps", rows, DType::F32);
    let logits = g.linear("fc", x, classes, false);
    let cotangent = g.push(Op::LossGrad(Loss::CrossEntropy { smoothing: 0.0 }), &[logits, label]);
    let grad = vjp(&mut g, logits, cotangent, &[x])[0].expect("logits depend on x");
    let mut rng = Rng::new(11);
    let w: Vec<f32> = rng.normals(classes * d).iter().map(|v| *v as f32).collect();
    let anywhere: Vec<f32> = (0..n * d).map(|_| rng.unit() as f32).collect();
    let labels: Vec<i32> = (0..n).map(|i| (i % classes) as i32).collect();
    for norm in NORMS {
        // In L2 the step scales into the ball and then clips, which is the closest point only away from the box.
        let inner = |v: &f32| if norm == Norm::L2 { 0.35 + 0.3 * v } else { *v };
        let start: Vec<f32> = anywhere.iter().map(inner).collect();
        let mut graph = g.clone();
        let next = graph.push(Op::PgdStep { norm }, &[x, x0, grad, alpha, eps]);
        let segment = Segment { name: "attack".into(), outputs: vec![], carries: vec![(x, next)] };
        let plan = compile(&graph, &[segment], n).expect("a plan");
        let mut cpu = cpu::CpuExecutor::new(plan.into(), cpu::Options { threads: 1, ..Default::default() }).expect("an executor");
        cpu.write_f32(graph.params()["fc.weight"], 0, &w).expect("weights");
        cpu.run("pack").expect("pack");
        let (radius, step) = match norm {
            Norm::Linf => (0.1f32, 0.03f32),
            Norm::L2 => (0.3, 0.1),
            Norm::L1 => (0.8, 0.2),
        };
        for (value, data) in [(x, &start), (x0, &start), (alpha, &vec![step; n]), (eps, &vec![radius; n])] {
            cpu.write_f32(value, 0, data).expect("inputs");
        }
        cpu.write_i32(label, 0, &labels).expect("labels");
        for _ in 0..400 {
            cpu.run("attack").expect("a step");
        }
        let found = cpu.read_f32(x, 0, n).expect("the result");
        for i in 0..n {
            let y = labels[i] as usize;
            // The loss grows with z_other - z_y, so along this direction.
            let slope: Vec<f64> = (0..d).map(|k| f64::from(w[(1 - y) * d + k] - w[y * d + k])).collect();
            let gain =
                |x: &[f32]| -> f64 { x.iter().zip(&start[i * d..]).zip(&slope).map(|((a, b), s)| f64::from(a - b) * s).sum() };
            let best = best_gain(norm, f64::from(radius), &start[i * d..][..d], &slope);
            let got = gain(&found[i * d..][..d]);
            assert!(got <= best * (1.0 + 1e-5) && got > 0.98 * best, "{norm}: image {i} gains {got}, the most is {best}");
        }
    }
}

/// The largest rise of a linear function within ball and box: in L-inf value by value, in L1 greedily; in L2 along the
/// slope, for a ball that lies inside the box.
fn best_gain(norm: Norm, eps: f64, x0: &[f32], slope: &[f64]) -> f64 {
    let room = |k: usize| if slope[k] > 0.0 { 1.0 - f64::from(x0[k]) } else { f64::from(x0[k]) };
    match norm {
        Norm::Linf => (0..x0.len()).map(|k| room(k).min(eps) * slope[k].abs()).sum(),
        Norm::L1 => {
            let mut order: Vec<usize> = (0..x0.len()).collect();
            order.sort_by(|a, b| slope[*b].abs().total_cmp(&slope[*a].abs()));
            let mut left = eps;
            order
                .into_iter()
                .map(|k| {
                    let step = room(k).min(left);
                    left -= step;
                    step * slope[k].abs()
                })
                .sum()
        }
        Norm::L2 => eps * slope.iter().map(|s| s * s).sum::<f64>().sqrt(),
    }
}

fn interruption() {
    let set = data(24, 0);
    let calls = std::cell::Cell::new(0);
    let stop = || {
        calls.set(calls.get() + 1);
        calls.get() > 3
    };
    let hooks = Hooks { stop: Some(Box::new(stop)), ..Default::default() };
    let error =
        attack::run(&device(1), &model(), &set, &job(pgd(Norm::Linf, 50)), &Given::default(), hooks).expect_err("stopped");
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert_eq!(calls.get(), 4, "the attack went on after it was told to stop");
}

fn refusals() {
    let set = data(4, 0);
    let refused = |attack: Pgd, part: &str| {
        let error = attack::run(&device(1), &model(), &set, &job(attack), &Given::default(), Hooks::default()).expect_err(part);
        assert!(error.to_string().contains(part), "`{error}` does not say `{part}`");
    };
    let good = || pgd(Norm::Linf, 3);
    refused(Pgd { threat: ThreatModel::linf(0.0), ..good() }, "`eps` is 0");
    refused(Pgd { threat: ThreatModel::linf(8.0), ..good() }, "images lie in [0,1]");
    refused(Pgd { alpha: f64::NAN, ..good() }, "`alpha` is NaN");
    refused(Pgd { steps: 0, ..good() }, "`steps`");
    refused(Pgd { restarts: 70_000, ..good() }, "`restarts` is 70000");
    refused(Pgd { target: Target::Class(10), ..good() }, "target class 10");
    let none = Job { batch: 0, ..job(good()) };
    assert!(attack::run(&device(1), &model(), &set, &none, &Given::default(), Hooks::default()).is_err(), "a batch of nothing");
}

fn doubts() {
    let set = data(16, 0);
    let codes = |j: &Job| run(j, &set).doubts.iter().map(|d| d.code.to_string()).collect::<Vec<String>>();
    let plain = codes(&job(pgd(Norm::Linf, 8)));
    assert!(plain.contains(&"labels-predicted".into()), "{plain:?}");
    assert!(!plain.contains(&"zero-gradient".into()) && !plain.contains(&"cannot-reach-eps".into()), "{plain:?}");
    let short = codes(&job(Pgd { start: Start::Clean, ..pgd(Norm::Linf, 2) }));
    assert!(short.contains(&"cannot-reach-eps".into()), "{short:?}");
    let small = codes(&Job { batch: 4, ..job(pgd(Norm::Linf, 2)) });
    assert!(small.contains(&"small-batch".into()), "{small:?}");
    // Logits a thousand times as large saturate the softmax: its gradient is exactly zero.
    let mut loud = model();
    for name in ["fc.weight", "fc.bias"] {
        if let Some(petard::tensor::HostData::F32(v)) = loud.weights.tensors.get_mut(name).map(|t| &mut t.data) {
            v.iter_mut().for_each(|w| *w *= 1e4);
        }
    }
    let zero =
        attack::run(&device(1), &loud, &set, &job(pgd(Norm::Linf, 4)), &Given::default(), Hooks::default()).expect("it runs");
    assert!(zero.doubts.iter().any(|d| d.code == "zero-gradient"), "{:?}", zero.doubts);
}

fn no_weight_gradient() {
    let (graph, values) = pgd(Norm::Linf, 1).step_graph(&model().card, false);
    let plan = compile(&graph, &values.segments(), 8).expect("a plan");
    let text = plan.to_string();
    assert!(!text.contains("grad-weight") && !text.contains("sum-channels"), "{text}");
    assert!(text.contains("bits@") && text.contains("conv-grad-input"), "{text}");
}
