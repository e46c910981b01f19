//! Whole plans on emulated cards against the CPU executor: forward and gradient, an attack, a training step.
//! Must not know single kernels; those are judged one by one in `kernels`.

mod minimum;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use libtest_mimic::Trial;
use petard::attack::Pgd;
use petard::cpu::{CpuExecutor, Options};
use petard::gpu::lower::lower;
use petard::gpu::{DeviceProps, Driver, GpuExecutor};
use petard::graph::{Graph, Loss, Op, Value, vjp};
use petard::nn::{self, ModelCard};
use petard::plan::{Executor, Precision, Segment, compile, compile_for};
use petard::session::image_input;
use petard::tensor::{DType, HostData, Shape};
use petard::threat::{Norm, ThreatModel};
use petard::train::{self, BatchNorm, Crafting, Criterion, Form, Recipe};
use petard::{Dataset, Device, DeviceOptions, Given, Hooks, Model, Outcome, attack, data};

use crate::emulated::{Build, Emulated, Profile, Schedule};
use crate::support::Rng;
use crate::support::engine::{on_a_card, on_the_card};

/// Two blocks, eight channels, small images.
const TINY: &str = r#"
    arch = "resnet"
    input = [3, 8, 8]
    classes = 10
    mean = [0.5, 0.4, 0.45]
    std = [0.25, 0.2, 0.3]
    blocks = [1, 1]
    widths = [8, 8]
    block = "basic"
    stem = "cifar"
    shortcut = "conv"
    names = "torchvision"
"#;

/// What is compared of a small network beside its gradient in f32.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Also {
    /// Nothing: so deep, with the weights of chance, that bits lost on the way flip ReLUs, and batch norms over a few values
    /// magnify what the order of a sum costs.
    Nothing,
    /// The gradient in bf16.
    Half,
    /// That, and a training step in f32.
    HalfAndStep,
    /// A training step in f32.
    Step,
}

/// A small network of each family that has ops or wiring of its own: name, card without `classes`, batch.
#[rustfmt::skip] // one network a line reads as the table it is
const FAMILIES: [(&str, &str, usize, Also); 11] = [
    ("resnext", "arch = 'resnet'\ninput = [3, 8, 8]\nblocks = [1, 1]\nwidths = [8, 8]\nblock = 'bottleneck'\nstem = 'pointwise'\nwiden = 2\ngroups = 4", 3, Also::HalfAndStep),
    ("resnet_v2", "arch = 'preact_resnet'\ninput = [3, 16, 16]\nblocks = [1, 1]\nwidths = [8, 8]\nblock = 'bottleneck'\nvariant = 'timm'", 3, Also::HalfAndStep),
    ("densenet", "arch = 'densenet'\ninput = [3, 8, 8]\nblocks = [2, 2]\ngrowth = 5\nnames = 'kuangliu'", 3, Also::HalfAndStep),
    ("densenet_large", "arch = 'densenet'\ninput = [3, 16, 16]\nblocks = [2, 1]\ngrowth = 8", 3, Also::Half),
    ("googlenet", "arch = 'googlenet'\ninput = [3, 8, 8]\nmultiplier = 0.01\nnames = 'kuangliu'", 2, Also::Nothing),
    ("googlenet_large", "arch = 'googlenet'\ninput = [3, 32, 32]\nmultiplier = 0.01\nchannels = 'bgr'", 1, Also::Nothing),
    ("mobilenet_v1", "arch = 'mobilenet_v1'\ninput = [3, 16, 16]\nmultiplier = 0.02", 2, Also::Half),
    ("mobilenet_v2", "arch = 'mobilenet_v2'\ninput = [3, 8, 8]\nmultiplier = 0.01\nnames = 'kuangliu'", 2, Also::Nothing),
    ("nasnet", "arch = 'nasnet'\ninput = [3, 14, 13]\nblocks = [1, 1]\nwidth = 8\nstem_width = 8", 2, Also::Half),
    ("all_cnn", "arch = 'all_cnn'\ninput = [3, 12, 9]\nmultiplier = 0.1", 3, Also::Step),
    ("inception_v3", "arch = 'inception_v3'\ninput = [3, 75, 75]\nmultiplier = 0.01", 1, Also::Nothing),
];

fn family(card: &str) -> ModelCard {
    ModelCard::parse(&format!("classes = 10\nmean = [0.5, 0.4, 0.45]\n{card}"), "family", Path::new(""))
        .expect("the card is right")
}

/// Forward and gradient of every family on an emulated card, a training step of those that are trained.
fn families() -> impl Iterator<Item = Trial> {
    let fast = |precision| How { profile: Profile::Hopper, build: Build::Fast, precision };
    let check = How { profile: Profile::Toy, build: Build::Check, precision: Precision::F32 };
    FAMILIES.into_iter().flat_map(move |(name, text, batch, also)| {
        let mut jobs: Vec<(&str, Make, How)> = vec![("gradient", gradient, fast(Precision::F32))];
        if name != "inception_v3" {
            jobs.push(("gradient", gradient, check));
        }
        if matches!(also, Also::Half | Also::HalfAndStep) {
            jobs.push(("gradient", gradient, fast(Precision::Bf16)));
        }
        if matches!(also, Also::Step | Also::HalfAndStep) {
            jobs.push(("train", training, fast(Precision::F32)));
        }
        jobs.into_iter().map(move |(what, make, how)| {
            let How { profile, build, precision } = how;
            let trial = format!("engines::family.{name}.{what}.{precision}.{profile:?}.{build:?}").to_lowercase();
            on_a_card(trial, move || compare(&make(&family(text), batch), how))
        })
    })
}

/// A plan with everything that is written into it and read from it.
struct Job {
    graph: Graph,
    segments: Vec<Segment>,
    batch: usize,
    given: BTreeMap<Value, Vec<u8>>,
    /// Segments in the order in which they are run, `pack` first.
    runs: Vec<&'static str>,
    /// What is compared, with a name.
    read: Vec<(String, Value)>,
}

pub fn trials() -> Vec<Trial> {
    let mut out = Vec::new();
    for (net, batch) in [("tiny", 5), ("tiny-resnet", 4), ("resnet8-cifar10", 2)] {
        for precision in Precision::ALL {
            for (profile, build) in [(Profile::Hopper, Build::Fast), (Profile::Toy, Build::Fast), (Profile::Toy, Build::Check)] {
                if net != "tiny" && (profile == Profile::Toy || !matches!(precision, Precision::F32 | Precision::Bf16)) {
                    continue;
                }
                let how = How { profile, build, precision };
                let jobs: [(&str, Make); 4] =
                    [("gradient", gradient), ("attack", attack), ("train", training), ("adversarial", adversarial)];
                for (what, make) in jobs {
                    // Where steps build on each other, what fewer bits cost grows with each; the network with the weights of
                    // chance has no smooth gradient to begin with.
                    if precision != Precision::F32 && (what == "adversarial" || net == "resnet8-cifar10") {
                        continue;
                    }
                    let name = format!("engines::{what}.{net}.{precision}.{profile:?}.{build:?}").to_lowercase();
                    out.push(on_a_card(name, move || compare(&make(&card(net), batch), how)));
                }
            }
        }
    }
    for recipe in Recipe::ALL {
        for (build, perturbed) in [(Build::Fast, false), (Build::Check, true)] {
            let how = How { profile: Profile::Toy, build, precision: Precision::F32 };
            let name = format!("engines::recipe.{}.{build:?}", recipe.name()).to_lowercase();
            out.push(on_a_card(name, move || compare(&trained(&card("tiny"), recipe, perturbed), how)));
        }
    }
    for (net, batch) in [("tiny", 5), ("tiny-resnet", 64)] {
        for precision in Precision::ALL {
            let jobs: [(&str, Make); 3] = [("gradient", gradient), ("attack", attack), ("train", training)];
            for (what, make) in jobs {
                out.push(on_the_card(format!("engines::{what}.{net}.{precision}::cuda"), move |card| {
                    compare_on(&make(&self::card(net), batch), card, precision)
                }));
            }
        }
    }
    out.extend(families());
    out.extend([
        on_a_card("engines::run.f32".into(), || whole_run(Precision::F32)),
        on_a_card("engines::run.bf16".into(), || whole_run(Precision::Bf16)),
        on_a_card("engines::run.without_room".into(), without_room),
    ]);
    out.extend(minimum::trials());
    out
}

/// `attack::run` on the network that the binary carries.
fn attacked(device: &Device, attack: Pgd, images: usize, batch: usize) -> Result<Outcome, String> {
    let model = Model::load("tiny-resnet", None).expect("an embedded model");
    let limit = data::Options { limit: Some(images), ..data::Options::default() };
    let set = Dataset::open("synthetic", &limit).expect("images are painted");
    let job = petard::Job { seed: 3, ..petard::Job::new(attack, batch) };
    attack::run(device, &model, &set, &job, &Given::default(), Hooks::default()).map_err(|e| e.to_string())
}

fn emulated(precision: Precision, bytes: u64) -> Device {
    let card = Emulated::new(Profile::Hopper, Build::Fast, Schedule::IN_ORDER).with_memory(bytes);
    Device::on("emulated", Arc::new(card), precision)
}

/// A run in which rows leave early and are refilled: the card's verdicts are the CPU's, but for an image on the edge.
fn whole_run(precision: Precision) -> Result<(), String> {
    let pgd = Pgd { keep: attack::Keep::FirstSuccess, ..Pgd::new(ThreatModel::linf(16.0 / 255.0), 4.0 / 255.0, 4) };
    let cpu = attacked(&Device::open("cpu", &DeviceOptions::default()).expect("a CPU"), pgd.clone(), 20, 8)?;
    let card = attacked(&emulated(precision, 1 << 30), pgd, 20, 8)?;
    let differ = card.per_image.robust.iter().zip(&cpu.per_image.robust).filter(|(a, b)| a != b).count();
    assert!(
        cpu.robust < cpu.clean_correct && cpu.robust > 0,
        "{} of {} stand: nothing to compare",
        cpu.robust,
        cpu.clean_correct
    );
    assert_eq!((card.clean_correct, card.non_finite), (cpu.clean_correct, 0));
    assert!(differ <= usize::from(precision != Precision::F32), "{differ} verdicts differ");
    match (precision.half(), card.confirmed) {
        (None, None) => Ok(()),
        (Some(_), Some((stood, made))) if stood == card.clean_correct - card.robust && stood <= made => Ok(()),
        (_, other) => Err(format!("confirmed {other:?} with {} robust of {}", card.robust, card.clean_correct)),
    }
}

/// Memory for batches of 8 but not of 16: the run goes on with 8, says so, and finds what it finds with room.
fn without_room() -> Result<(), String> {
    let pgd = Pgd::new(ThreatModel::linf(8.0 / 255.0), 4.0 / 255.0, 2);
    let model = Model::load("tiny-resnet", None).expect("an embedded model");
    let (graph, values) = pgd.step_graph(&model.card, false);
    let mut bare = Graph::new();
    let x = image_input(&mut bare, "x", &model.card);
    let logits = nn::build(&model.card, &mut bare, x, false).logits;
    let infer = vec![Segment { name: "infer".into(), outputs: vec![logits], carries: vec![] }];
    let props = DeviceProps::of("h200").expect("a known card");
    // Attack and classifier are on the card at once.
    let need = |batch| -> u64 {
        let plans = [compile(&graph, &values.segments(), batch), compile(&bare, &infer, batch)];
        plans.iter().flat_map(|plan| lower(plan.as_ref().expect("a plan"), &props).buffers).map(|b| b.bytes).sum()
    };
    let room = need(8).midpoint(need(16));
    let small = attacked(&emulated(Precision::F32, room), pgd.clone(), 20, 16)?;
    let large = attacked(&emulated(Precision::F32, 1 << 30), pgd, 20, 8)?;
    assert_eq!((small.batch, large.batch), (8, 8));
    let said = |o: &Outcome| o.doubts.iter().any(|d| d.code == "batch-halved");
    assert!(said(&small) && !said(&large), "{:?}", small.doubts);
    assert_eq!(small.per_image, large.per_image);
    Ok(())
}

type Make = fn(&ModelCard, usize) -> Job;

#[derive(Clone, Copy)]
struct How {
    profile: Profile,
    build: Build,
    precision: Precision,
}

fn card(net: &str) -> ModelCard {
    match net {
        "tiny" => ModelCard::parse(TINY, "tiny", Path::new("")).expect("the card is right"),
        name => ModelCard::find(name).expect("an embedded card"),
    }
}

/// Logits, losses and the gradient to the image.
fn gradient(card: &ModelCard, batch: usize) -> Job {
    let mut g = Graph::new();
    let x = image_input(&mut g, "x", card);
    let label = g.input("label", Shape::per_image(&[]), DType::I32);
    let logits = nn::build(card, &mut g, x, false).logits;
    let kind = Loss::CrossEntropy { smoothing: 0.0 };
    let loss = g.push(Op::Loss(kind), &[logits, label]);
    let cotangent = g.push(Op::LossGrad(kind), &[logits, label]);
    let grad = vjp(&mut g, logits, cotangent, &[x])[0].expect("logits depend on the image");
    let segments = vec![Segment { name: "infer".into(), outputs: vec![logits, loss, grad], carries: vec![] }];
    let read = [("logits", logits), ("loss", loss), ("gradient", grad)].map(|(n, v)| (n.to_string(), v)).to_vec();
    Job { given: leaves(card, &g, batch), graph: g, segments, batch, runs: vec!["infer"], read }
}

/// Three steps from a random start, then a look at the last iterate.
fn attack(card: &ModelCard, batch: usize) -> Job {
    let pgd = Pgd { keep: petard::attack::Keep::BestLoss, ..Pgd::new(ThreatModel::new(Norm::L2, 0.5), 0.1, 3) };
    let (graph, values) = pgd.step_graph(card, true);
    let segments = values.segments();
    let mut read: Vec<(String, Value)> =
        ["x", "kept", "best", "worst"].map(|n| (n.to_string(), graph.input_named(n).expect("an input"))).to_vec();
    read.push(("loss".into(), segments[1].outputs[0]));
    let runs = vec!["begin", "attack", "attack", "attack", "judge"];
    Job { given: leaves(card, &graph, batch), graph, segments, batch, runs, read }
}

/// A step of SGD, and the network after it.
fn training(card: &ModelCard, batch: usize) -> Job {
    Job { runs: vec!["step", "pack", "infer"], ..adversarial(card, batch) }
}

/// Two steps of the attack, batch norms in train mode, then one of SGD, and the network after it.
fn adversarial(card: &ModelCard, batch: usize) -> Job {
    let threat = ThreatModel::linf(8.0 / 255.0);
    let crafting = Crafting::pgd(threat, 4.0 / 255.0, 2, BatchNorm::Train);
    // L2: no signs that a last bit may flip.
    let crafting = Crafting { threat: ThreatModel::new(Norm::L2, 0.5), alpha: 0.2, ..crafting };
    let form = Form {
        crafting: Some(crafting),
        criterion: Criterion::CrossEntropy { smoothing: 0.1 },
        nesterov: true,
        averaged: true,
        batch,
        ..Form::default()
    };
    let (graph, segments) = train::step_graph(card, &form);
    let mut read: Vec<(String, Value)> = graph.params().iter().map(|(n, &v)| (n.clone(), v)).collect();
    let logits = segments.iter().find(|s| s.name == "infer").expect("an evaluation").outputs[0];
    read.push(("logits".into(), logits));
    let runs = vec!["begin", "craft", "craft", "step", "pack", "infer"];
    Job { given: leaves(card, &graph, batch), graph, segments, batch, runs, read }
}

/// Two steps of a recipe's attack, where it has one outside of its step, weight perturbation, a step of SGD, and the network
/// after it. In L2: no signs that a last bit may flip.
fn trained(card: &ModelCard, recipe: Recipe, perturbed: bool) -> Job {
    let (threat, batch) = (ThreatModel::new(Norm::L2, 0.5), 4);
    let crafting = recipe.crafting(threat).map(|c| Crafting { alpha: 0.1, steps: c.steps.min(2), ..c });
    let method = recipe.method(threat);
    let form = Form {
        crafting,
        outer: method.outer,
        soft: method.avmix.is_some(),
        between: method.avmix.is_some(),
        weighted: method.mma.is_some(),
        margins: method.mma.is_some(),
        table: true,
        replay: recipe == Recipe::Free,
        perturbed,
        batch,
        ..Form::default()
    };
    let (graph, segments) = train::step_graph(card, &form);
    let mut runs = Vec::new();
    let has = |name: &str| segments.iter().any(|s| s.name == name);
    runs.extend(["anchor"].into_iter().filter(|s| has(s)));
    if crafting.is_some_and(|c| c.steps > 0) {
        runs.push(if has("noise") { "noise" } else { "begin" });
        runs.extend([if has("craft") { "craft" } else { "probe" }; 2]);
    }
    runs.extend(["keep", "along"].into_iter().filter(|s| has(s)));
    if perturbed {
        runs.extend(["perturb", "pack"]);
    }
    runs.extend(["step", "pack", "infer"]);
    let mut read: Vec<(String, Value)> = graph.params().iter().map(|(n, &v)| (n.clone(), v)).collect();
    read.extend(segments.iter().find(|s| s.name == "infer").map(|s| ("logits".to_string(), s.outputs[0])));
    read.extend(graph.input_named("delta").map(|v| ("delta".to_string(), v)));
    Job { given: leaves(card, &graph, batch), graph, segments, batch, runs, read }
}

/// Numbers for every leaf; the images are painted, and a card that has weights gets them.
fn leaves(card: &ModelCard, graph: &Graph, batch: usize) -> BTreeMap<Value, Vec<u8>> {
    let mut rng = Rng::new(11);
    let (pixels, labels) = images(card, batch);
    let model = card.weights.is_some().then(|| Model::load(&card.name, None).expect("an embedded model"));
    let mut given = BTreeMap::new();
    for v in graph.values() {
        let node = graph.node(v);
        let n = node.shape.len(batch);
        let floats = |data: Vec<f64>| data.iter().flat_map(|&d| (d as f32).to_le_bytes()).collect::<Vec<u8>>();
        let integers = |data: Vec<i32>| data.iter().flat_map(|d| d.to_le_bytes()).collect::<Vec<u8>>();
        let bytes = match &node.op {
            Op::Param { name, .. } => match model.as_ref().map(|m| &m.weights.tensors[name].data) {
                Some(HostData::F32(data)) => floats(data.iter().map(|&v| f64::from(v)).collect()),
                _ => floats(parameter(name, &node.shape.dims, &mut rng)),
            },
            Op::Input { name, dtype: DType::I32 } => integers(match name.as_str() {
                "label" => labels.clone(),
                "index" => (0..n).map(|i| 7 * i as i32 + 3).collect(),
                _ => vec![0; n],
            }),
            Op::Input { name, .. } => floats(match name.as_str() {
                "x" | "x0" => pixels.clone(),
                "alpha" => vec![0.1; n],
                "eps" | "length" => vec![0.5; n],
                "fresh" => vec![1.0; n],
                "best" => vec![f64::NEG_INFINITY; n],
                "hyper" => vec![0.05, 0.9, 5e-4],
                "decay" => vec![0.9],
                "gamma" => vec![0.01],
                "sigma" => vec![0.001; n],
                "share" | "clean.weight" | "attacked.weight" => vec![0.75; n],
                "targets" => vec![1.0 / node.shape.elems() as f64; n],
                // Scales, biases, margins.
                "table" => (0..n).map(|i| [2.0, 0.1, 0.3][i / (n / 3)]).collect(),
                _ => vec![0.0; n],
            }),
            _ => continue,
        };
        given.insert(v, bytes);
    }
    given
}

/// Synthetic images, every so many pixels of them, NHWC in [0,1]; and their labels.
fn images(card: &ModelCard, batch: usize) -> (Vec<f64>, Vec<i32>) {
    let set = Dataset::open("synthetic", &data::Options::default()).expect("images are painted");
    let set = set.read(0..batch).expect("images are painted");
    let [c, h, w] = card.input;
    let mut pixels = Vec::new();
    for i in 0..batch {
        let mut chw = vec![0.0; set.shape.iter().product()];
        set.pixels_f32(i, &mut chw);
        let [_, rows, cols] = set.shape;
        let at = |y: usize, x: usize, k: usize| f64::from(chw[(k * rows + y * rows / h) * cols + x * cols / w]);
        pixels.extend((0..h * w * c).map(|e| at(e / (w * c), e / c % w, e % c)));
    }
    (pixels, set.labels.expect("painted images have labels"))
}

fn parameter(name: &str, dims: &[usize], rng: &mut Rng) -> Vec<f64> {
    let n = dims.iter().product();
    let spread = (2.0 / dims[1..].iter().product::<usize>() as f64).sqrt();
    match (dims.len(), name.rsplit('.').next()) {
        (1, Some("running_var")) => (0..n).map(|_| 0.5 + rng.unit()).collect(),
        (1, Some("weight")) => (0..n).map(|_| 0.5 + rng.unit()).collect(),
        (1, _) => rng.normals(n).iter().map(|v| 0.1 * v).collect(),
        _ => rng.normals(n).iter().map(|v| spread * v).collect(),
    }
}

fn run(job: &Job, executor: &mut dyn Executor) -> Result<Vec<Vec<f32>>, String> {
    let text = |e: petard::Error| e.to_string();
    for (&v, bytes) in &job.given {
        executor.write(v, 0, bytes).map_err(text)?;
    }
    executor.run("pack").map_err(text)?;
    for segment in &job.runs {
        executor.run(segment).map_err(|e| format!("{segment}: {e}"))?;
    }
    let rows = |v: Value| if job.graph.shape(v).batched { job.batch } else { 1 };
    job.read.iter().map(|&(_, v)| executor.read_f32(v, 0, rows(v)).map_err(text)).collect()
}

/// Runs the job on the CPU and on an emulated card.
fn compare(job: &Job, how: How) -> Result<(), String> {
    compare_on(job, Arc::new(Emulated::new(how.profile, how.build, Schedule { seed: 1, lazy: true })), how.precision)
}

fn compare_on(job: &Job, driver: Arc<dyn Driver>, precision: Precision) -> Result<(), String> {
    let plan = compile(&job.graph, &job.segments, job.batch).map_err(|e| e.to_string())?;
    let mut cpu = CpuExecutor::new(Arc::new(plan), Options { exact: true, ..Options::default() }).map_err(|e| e.to_string())?;
    let want = run(job, &mut cpu)?;
    let plan = compile_for(&job.graph, &job.segments, job.batch, precision).map_err(|e| e.to_string())?;
    let mut card = GpuExecutor::new(driver, Arc::new(plan)).map_err(|e| e.to_string())?;
    let got = run(job, &mut card)?;
    let mut faults = Vec::new();
    let mut updates: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for (((name, v), got), want) in job.read.iter().zip(&got).zip(&want) {
        let before = job.given.get(v).map(|b| b.chunks_exact(4).map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect());
        let change = Change::new(got, want, before);
        if precision != Precision::F32 && job.runs.contains(&"step") {
            // Single tensors of a few values say little; logits after the step mix what it cost with what they cost.
            if name != "logits" {
                updates[0].extend(change.got);
                updates[1].extend(change.want);
            }
            continue;
        }
        faults.extend(change.judge(name, precision).err());
    }
    let [got, want] = updates;
    faults.extend(Change { got, want, rounding: 0.0 }.judge("the whole update", precision).err());
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// What a run has added to a value, on a card and on the CPU.
struct Change {
    got: Vec<f64>,
    want: Vec<f64>,
    /// How far both may be off because each has rounded what it adds up to.
    rounding: f64,
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

impl Change {
    /// `before`: what was there before the run.
    fn new(got: &[f32], want: &[f32], before: Option<Vec<f32>>) -> Self {
        let before: Vec<f64> = before.map_or_else(|| vec![0.0; want.len()], |b| b.iter().map(|&v| f64::from(v)).collect());
        let change = |data: &[f32]| -> Vec<f64> {
            let one = |(&v, b): (&f32, &f64)| if b.is_finite() { f64::from(v) - b } else { v.into() };
            data.iter().zip(&before).map(one).collect()
        };
        let (got, want) = (change(got), change(want));
        let kept: Vec<f64> = before.iter().copied().filter(|b| b.is_finite()).collect();
        Change { got, want, rounding: norm(&kept) / f64::from(1 << 23) }
    }

    /// What each precision may cost, as the length of the error over the length of the change; of gradients in less than
    /// f32 the direction counts.
    fn judge(&self, name: &str, precision: Precision) -> Result<(), String> {
        let error: Vec<f64> = self.got.iter().zip(&self.want).map(|(a, b)| a - b).collect();
        let gap = (norm(&error) - self.rounding).max(0.0);
        // A loss near zero is a small difference of logits: one unit an image is what they are worth.
        let losses = ["loss", "best"].contains(&name);
        let size = norm(&self.want).max(if losses { (self.want.len() as f64).sqrt() } else { 0.0 });
        if gap == 0.0 || size == 0.0 {
            return if gap == 0.0 { Ok(()) } else { Err(format!("{name}: {gap:.2e} where nothing should be")) };
        }
        let product: f64 = self.got.iter().zip(&self.want).map(|(a, b)| a * b).sum();
        let cosine = product / (norm(&self.got) * norm(&self.want)).max(f64::MIN_POSITIVE);
        let forward = losses || name == "logits";
        let good = match precision {
            Precision::F32 => gap <= 1e-5 * size,
            // Ten bits of mantissa: eight times finer than bf16.
            Precision::Tf32 | Precision::F16 if forward => gap <= 2.5e-3 * size,
            Precision::Tf32 | Precision::F16 => cosine >= 0.999,
            Precision::Bf16 if forward => gap <= 1e-2 * size,
            Precision::Bf16 => cosine >= 0.99,
        };
        let text = || format!("{name}: off by {:.2e} of {size:.3e}, cosine {cosine:.6}", gap / size);
        if good { Ok(()) } else { Err(text()) }
    }
}
