//! Every kernel of a list of plans through NVIDIA's own compiler: it compiles, nothing spills, no tensor-core instruction is
//! serialised, a launch fits a multiprocessor. Needs NVRTC, neither a card nor a driver. Must not run kernels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use libtest_mimic::Trial;
use petard::attack::{Apgd, Attack, Climb, Cw, Ddn, Ead, Fab, Fmn, Kernel, Momentum, Net, Stepping};
use petard::gpu::cache::{Cache, Recipe};
use petard::gpu::catalogue::spec_of;
use petard::gpu::image::{Image, Usage};
use petard::gpu::lower::{Launch, lower};
use petard::gpu::nvrtc::{Nvrtc, Search};
use petard::gpu::{DeviceProps, KernelSpec};
use petard::graph::{Graph, Op, Plane, Value};
use petard::nn::ModelCard;
use petard::plan::{Plan, Precision, Segment, compile_for};
use petard::tensor::{DType, Shape};
use petard::threat::{Distance, Norm, ThreatModel};
use petard::train::{self, Form, step_graph};
use petard::{Pgd, Result};

use crate::support::{LONG, Snapshot, full, ignored, root, trial};
use Precision::{Bf16, F32};

/// Plans whose kernels are compiled.
const PLANS: &[Row] = &[
    Row::new("pgd_linf.32x32", &[F32], |p| pgd(32, p)),
    Row::new("pgd_linf.224x224", &[F32], |p| pgd(224, p)),
    Row::new("fft.32x32", &[F32], |p| fft([32, 32], p)),
    Row::new("fft.224x224", &[F32], |p| fft([224, 224], p)),
    Row::new("fft.radices", &[F32], |p| fft([175, 245], p)),
    Row::new("fft.large_radices", &[F32], |p| fft([245, 343], p)),
    Row::new("fft.large", &[F32], |p| fft([512, 480], p)),
    Row::new("chain.c3", &[F32], |p| chain(3, p)),
    Row::new("fab.resnet8", &[F32, Bf16], |p| boundaries("resnet8-cifar10", p)),
    Row::new("fab.resnet50", &[F32], |p| boundaries("resnet50", p)).full(),
    Row::new("chain.c64", &[F32, Bf16], |p| chain(64, p)),
    Row::new("cw.resnet8", &[F32, Bf16], |p| nearest(&Cw::new(), p)),
    Row::new("ead.resnet8", &[F32], |p| nearest(&Ead::new(), p)),
    Row::new("ddn.resnet8", &[F32], |p| nearest(&Ddn::new(), p)),
    Row::new("fmn_linf.resnet8", &[F32], |p| nearest(&Fmn::new(Distance::Norm(Norm::Linf)), p)),
    Row::new("fmn_l2.resnet8", &[F32], |p| nearest(&Fmn::new(Distance::Norm(Norm::L2)), p)),
    Row::new("fmn_l1.resnet8", &[F32], |p| nearest(&Fmn::new(Distance::Norm(Norm::L1)), p)),
    Row::new("fmn_l0.resnet8", &[F32], |p| nearest(&Fmn::new(Distance::L0), p)),
    Row::new("attack.resnet8", &[F32, Bf16], |p| attack("resnet8-cifar10", p)),
    Row::new("attack.resnet18", &[F32, Bf16], |p| attack("resnet18-cifar10", p)),
    Row::new("attack.vgg16", &[F32, Bf16], |p| attack("vgg16-bn-cifar10", p)),
    Row::new("attack.resnet50", &[F32, Bf16], |p| attack("resnet50", p)),
    Row::new("apgd.linf", &[F32, Bf16], |p| apgd(Norm::Linf, p)),
    Row::new("apgd.l2", &[F32], |p| apgd(Norm::L2, p)),
    Row::new("apgd.l1", &[F32], |p| apgd(Norm::L1, p)),
    Row::new("transfer.resnet8", &[F32, Bf16], transfer),
    Row::new("climb.resnet8", &[F32, Bf16], climb),
    Row::new("square.linf", &[F32, Bf16], |p| sketched(&square(Norm::Linf), p)),
    Row::new("square.l2", &[F32], |p| sketched(&square(Norm::L2), p)),
    Row::new("square.l1", &[F32], |p| sketched(&square(Norm::L1), p)),
    Row::new("hop-skip-jump.l2", &[F32], |p| sketched(&petard::attack::HopSkipJump::new(Norm::L2), p)),
    Row::new("train.resnet8", &[F32, Bf16], |p| training("resnet8-cifar10", p)),
    Row::new("train.resnet18", &[F32, Bf16], |p| training("resnet18-cifar10", p)),
    Row::new("attack.alexnet", &[F32, Bf16], |p| attack("alexnet-original", p)),
    Row::new("attack.mobilenet", &[F32, Bf16], |p| attack("mobilenetv1_025", p)),
    Row::new("attack.densenet", &[F32, Bf16], |p| attack("densenet121", p)).full(),
    Row::new("attack.googlenet", &[F32, Bf16], |p| attack("googlenet", p)).full(),
    Row::new("attack.inception_v3", &[F32, Bf16], |p| attack("inception_v3", p)).full(),
    Row::new("attack.inception_resnet", &[F32, Bf16], |p| attack("inception_resnet_v2", p)).full(),
    Row::new("attack.nasnet", &[F32, Bf16], |p| attack("nasnetalarge", p)).full(),
    Row::new("attack.resnext50", &[F32, Bf16], |p| attack("resnext50_32x4d", p)).full(),
    Row::new("train.densenet", &[F32, Bf16], |p| training("densenet-cifar10", p)).full(),
    Row::new("train.mobilenet", &[F32, Bf16], |p| training("mobilenet_v2-cifar10", p)).full(),
    Row::new("train.trades.resnet8", &[F32, Bf16], trades),
    Row::new("attack.wrn34", &[F32, Bf16], |p| attack("wrn-34-10-cifar10", p)).full(),
    Row::new("train.vgg16", &[F32, Bf16], |p| training("vgg16-bn-cifar10", p)).full(),
    Row::new("train.resnet50", &[F32, Bf16], |p| training("resnet50", p)).full(),
];

/// Kernels whose resources are kept in `snapshots/resources.txt`, as `petard kernel` takes them.
const NAMED: &[&str] = &[
    "pgd_linf P_THREADS=256 P_VEC=4",
    "pgd_l2 P_THREADS=256 P_VEC=4",
    "pgd_l1 P_THREADS=256 P_VEC=4",
    "loss_grad P_TEAM=32",
    "norm_sums P_G=1 P_KIND=0 P_V=8 P_X=1 P_Y=1",
    "optim_update",
    "fft_bass P_H=32 P_SHARED=1 P_THREADS=64 P_W=32",
    "fft_filter P_H=224 P_SHARED=1 P_THREADS=512 P_W=224",
    "pointwise_chain P_C=64 P_CAP=0 P_EPI=0 P_HALF=0 P_STORE=1 P_X=0 P_Y=1",
    "pointwise_chain P_C=64 P_CAP=0 P_EPI=30498 P_HALF=1 P_STORE=1 P_X=1 P_Y=1",
];

/// The compiler that `snapshots/resources.txt` was written by; `run.sh` installs it.
const PINNED: &str = "13.0";

/// The cards: name, compute capability times ten, multiprocessors, KB of shared memory of a block, MB of cache, GB of memory;
/// whether only `PETARD_FULL=1` asks for it.
const CARDS: &[(&str, u32, u32, u32, u64, u64, bool)] = &[
    ("a100", 80, 108, 163, 40, 80, false),
    ("h200", 90, 132, 227, 60, 141, false),
    ("l40s", 89, 142, 99, 96, 48, true),
    ("b200", 100, 148, 227, 126, 180, true),
    ("rtx5090", 120, 170, 99, 96, 32, true),
];

/// 32-bit registers of a multiprocessor, on every card so far.
const REGISTERS: u32 = 1 << 16;

/// One plan in some precisions.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    precisions: &'static [Precision],
    make: fn(Precision) -> Result<Plan>,
    /// Only with `PETARD_FULL=1`.
    full: bool,
}

impl Row {
    const fn new(name: &'static str, precisions: &'static [Precision], make: fn(Precision) -> Result<Plan>) -> Self {
        Row { name, precisions, make, full: false }
    }
    const fn full(self) -> Self {
        Row { full: true, ..self }
    }
}

pub fn trials() -> Vec<Trial> {
    let plans = PLANS.iter().flat_map(|row| row.precisions.iter().map(move |&precision| (row, precision)));
    let plans = plans.map(|(row, precision)| {
        let name = format!("resources::{}.{precision}", row.name);
        let reason = match nvrtc() {
            Err(_) => Some(NO_NVRTC),
            Ok(_) if row.full && !full() => Some(LONG),
            Ok(_) => None,
        };
        match reason {
            Some(reason) => ignored(name, reason),
            None => trial(name, move || {
                let cards = CARDS.iter().filter(|card| !card.6 || full());
                cards.map(props).try_for_each(|props| fits(row, precision, &props).map_err(|e| format!("{}: {e}", props.name)))
            }),
        }
    });
    [table(), trial("resources::faults_are_seen", faults_are_seen)].into_iter().chain(plans).collect()
}

/// Why a trial is ignored where there is no compiler.
pub const NO_NVRTC: &str = "no NVRTC: `bash tests/run.sh` installs it";

/// NVRTC, where there is one: `PETARD_NVRTC`, else what `tests/run.sh` installs, else this machine's.
pub fn nvrtc() -> std::result::Result<&'static Nvrtc, &'static str> {
    static FOUND: OnceLock<std::result::Result<Nvrtc, String>> = OnceLock::new();
    let find = || {
        let search = Search { python: false, ..Search::from_env() };
        let wheel = Some(root().join("target/nvrtc-wheel")).filter(|p| p.is_dir());
        let search = Search { named: search.named.clone().or(wheel), ..search };
        Nvrtc::find(&search, None).map_err(|e| e.to_string())
    };
    FOUND.get_or_init(find).as_ref().map_err(String::as_str)
}

/// Compiled kernels of all tests.
pub fn kept() -> PathBuf {
    root().join("target/nvrtc")
}

fn images(specs: &[KernelSpec], target: &str) -> Result<Vec<Image>> {
    static CACHE: LazyLock<Cache> = LazyLock::new(|| Cache::new(Some(kept())));
    let nvrtc = nvrtc().expect("trials without a compiler are ignored");
    let recipe: Recipe = nvrtc.recipe(target)?;
    CACHE.images(specs, &recipe, &|spec| nvrtc.compile(spec, &recipe))
}

fn props(&(name, arch, sms, shared, l2, memory, _): &(&str, u32, u32, u32, u64, u64, bool)) -> DeviceProps {
    let (shared_bytes, l2_bytes, memory_bytes) = (shared << 10, l2 << 20, memory << 30);
    DeviceProps { name: name.into(), arch, sms, shared_bytes, l2_bytes, memory_bytes }
}

/// Every kernel of the plan compiles for the card, and every launch fits it.
fn fits(row: &Row, precision: Precision, props: &DeviceProps) -> std::result::Result<(), String> {
    let plan = (row.make)(precision).map_err(|e| e.to_string())?;
    let launches: Vec<Launch> = lower(&plan, props).programs.into_iter().flat_map(|(_, launches)| launches).collect();
    let mut specs: Vec<KernelSpec> = launches.iter().map(|l| l.spec.clone()).collect();
    specs.sort();
    specs.dedup();
    assert!(!specs.is_empty(), "the plan has no kernels");
    let target = nvrtc()?.target(props.arch).map_err(|e| e.to_string())?;
    let images: BTreeMap<KernelSpec, Image> =
        specs.iter().cloned().zip(images(&specs, &target).map_err(|e| e.to_string())?).collect();
    let mut faults: Vec<String> = images.iter().flat_map(|(spec, image)| faults(spec, image)).collect();
    for launch in &launches {
        let Some(usage) = images[&launch.spec].usage(launch.spec.entry) else { continue };
        let (dims, shared) = (launch.dims, usage.shared + launch.dims.shared);
        if shared > props.shared_bytes {
            faults.push(format!("`{}`: {shared} bytes of shared memory, {} at most", launch.spec, props.shared_bytes));
        }
        // Registers are given out in groups of eight a thread.
        if usage.registers.next_multiple_of(8) * dims.block.next_multiple_of(32) > REGISTERS {
            faults.push(format!("`{}`: {} registers in {} threads", launch.spec, usage.registers, dims.block));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("{target}\n{}", faults.join("\n"))) }
}

/// What is wrong with a compiled kernel.
fn faults(spec: &KernelSpec, image: &Image) -> Vec<String> {
    let mut faults: Vec<String> = image.serialised().iter().map(|line| format!("`{spec}`: {line}")).collect();
    match image.usage(spec.entry) {
        None => faults.push(format!("`{spec}`: the log does not say what it takes")),
        Some(Usage { spill_stores: 0, spill_loads: 0, .. }) => {}
        Some(u) => faults.push(format!("`{spec}`: spills {} bytes, loads {}", u.spill_stores, u.spill_loads)),
    }
    faults
}

/// A check that cannot fail proves nothing.
fn faults_are_seen() {
    let spec = KernelSpec::new("pgd", "pgd_linf");
    let of = |lines: &str| {
        let log = format!("ptxas info : Compiling entry function 'pgd_linf' for 'sm_90a'\n{lines}");
        faults(&spec, &Image { cubin: vec![], log })
    };
    assert!(of("    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n").is_empty());
    assert_eq!(of("    8 bytes stack frame, 8 bytes spill stores, 0 bytes spill loads\n").len(), 1);
    assert_eq!(of("    8 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads\n").len(), 1);
    assert_eq!(of("ptxas info : (C7517) Potential Performance Loss: wgmma.wait was injected\n").len(), 1);
    assert_eq!(faults(&spec, &Image { cubin: vec![], log: String::new() }).len(), 1, "no account");
}

/// Registers and shared memory of the named kernels, for review when they change.
fn table() -> Trial {
    let name = "resources::table";
    match nvrtc() {
        Err(_) => ignored(name, NO_NVRTC),
        Ok(nvrtc) if nvrtc.version().to_string() != PINNED => ignored(name, "the table is NVRTC 13.0's"),
        Ok(_) => trial(name, || -> std::result::Result<(), String> {
            let mut text = format!("NVRTC {PINNED}: registers a thread, bytes of static shared memory a block, stack a thread\n");
            let spec = |line: &&str| {
                let mut words = line.split(' ');
                spec_of(words.next().unwrap_or_default(), words)
            };
            let specs = NAMED.iter().map(spec).collect::<Result<Vec<_>>>().map_err(|e| e.to_string())?;
            for target in ["sm_80", "sm_90a"] {
                for (spec, image) in specs.iter().zip(images(&specs, target).map_err(|e| e.to_string())?) {
                    let Usage { registers, shared, stack, .. } = image.usage(spec.entry).ok_or("no account in the log")?;
                    assert_eq!(faults(spec, &image), Vec::<String>::new());
                    text += &format!("{target:<7}{registers:>4}{shared:>7}{stack:>5}  {spec}\n");
                }
            }
            Snapshot::new("resources").check(&text)
        }),
    }
}

/// The step of an attack alone, in L-inf.
fn pgd(side: usize, precision: Precision) -> Result<Plan> {
    let mut g = Graph::new();
    let image = Shape::per_image(&[side, side, 3]);
    let [x, x0, dx] = ["x", "x0", "g"].map(|name| g.input(name, image.clone(), DType::F32));
    let [alpha, eps] = ["alpha", "eps"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
    let next = g.push(Op::PgdStep { norm: Norm::Linf }, &[x, x0, dx, alpha, eps]);
    planned(&g, next, precision)
}

/// Every spectral op on images of one size.
fn fft([h, w]: [usize; 2], precision: Precision) -> Result<Plan> {
    let mut g = Graph::new();
    let x = g.input("x", Shape::per_image(&[h, w, 3]), DType::F32);
    let weight = g.input("weight", Shape::fixed(&[h, w / 2 + 1]), DType::F32);
    let spectrum = g.push(Op::Rfft2 { dual: false }, &[x]);
    let back = g.push(Op::Irfft2 { width: w, dual: false }, &[spectrum]);
    let filtered = g.push(Op::SpectrumFilter, &[back, weight]);
    let balanced = g.push(Op::Bass, &[filtered]);
    let power = g.push(Op::RingSums { power: true }, &[balanced]);
    planned(&g, power, precision)
}

/// Element-wise operations on a value of `channels` channels, ReLUs with and without a cap.
fn chain(channels: usize, precision: Precision) -> Result<Plan> {
    let mut g = Graph::new();
    let [x, y] = ["x", "y"].map(|name| g.input(name, Shape::per_image(&[16, 16, channels]), DType::F32));
    let sum = g.push(Op::Add, &[x, y]);
    let relu = g.push(Op::Relu { cap: None }, &[sum]);
    let sum = g.push(Op::Add, &[relu, x]);
    let capped = g.push(Op::Relu { cap: Some(6.0) }, &[sum]);
    planned(&g, capped, precision)
}

fn planned(graph: &Graph, output: Value, precision: Precision) -> Result<Plan> {
    let segment = Segment { name: "infer".into(), outputs: vec![output], carries: Vec::new() };
    compile_for(graph, &[segment], 64, precision)
}

/// PGD on the network of a card, as `petard attack` plans it.
fn attack(card: &str, precision: Precision) -> Result<Plan> {
    let card = ModelCard::find(card)?;
    let pgd = Pgd::new(ThreatModel::linf(8.0 / 255.0), 2.0 / 255.0, 10);
    let (graph, values) = pgd.step_graph(&card, true);
    compile_for(&graph, &values.segments(), batch(&card), precision)
}

/// APGD on a small network, as `petard attack` plans it.
fn apgd(norm: Norm, precision: Precision) -> Result<Plan> {
    let card = ModelCard::find("resnet8-cifar10")?;
    let (graph, segments) = Apgd::new(ThreatModel::new(norm, 0.5)).sketch(&Net::of(&card, true));
    compile_for(&graph, &segments, batch(&card), precision)
}

/// FAB with restarts in every norm, and DeepFool, on the network of a card; of several plans the kernels of all.
fn boundaries(card: &str, precision: Precision) -> Result<Plan> {
    let card = ModelCard::find(card)?;
    let image = Shape::per_image(&[card.input[1], card.input[2], card.input[0]]);
    let fab = Fab { candidates: 2, restarts: 2, ..Fab::new(ThreatModel::linf(8.0 / 255.0)) };
    let (mut g, mut segments) = fab.sketch(&Net::of(&card, true));
    let [x, x0, w] = ["a", "b", "c"].map(|name| g.input(name, image.clone(), DType::F32));
    let [f, stop] = ["d", "e"].map(|name| g.input(name, Shape::per_image(&[]), DType::F32));
    let mut outputs = Vec::new();
    for norm in [Norm::L2, Norm::L1] {
        outputs.push(g.push(Op::Hyperplane(Plane::FabStep { norm, eta: 1.05, alpha_max: 0.1 }), &[x, x0, w, f]));
        outputs.push(g.push(Op::Hyperplane(Plane::Distance { norm }), &[f, w]));
        outputs.push(g.push(Op::Hyperplane(Plane::Nearer { norm }), &[stop, x, x0, f]));
    }
    for norm in [Norm::Linf, Norm::L2] {
        let fool = Plane::DeepFoolStep { norm, overshoot: 0.02, push: 1e-4 };
        outputs.push(g.push(Op::Hyperplane(fool), &[x, w, f, stop]));
    }
    segments.push(Segment { name: "others".into(), outputs, carries: Vec::new() });
    compile_for(&g, &segments, batch(&card), precision)
}

/// Every switch of the attacks with a momentum.
fn transfer(precision: Precision) -> Result<Plan> {
    let card = ModelCard::find("resnet8-cifar10")?;
    let base = Momentum::new(ThreatModel::linf(8.0 / 255.0), 2.0 / 255.0, 10);
    let kernel = Some(Kernel::Gaussian);
    let attack = Momentum { ahead: true, copies: 5, probability: 0.5, kernel, samples: 5, ..base };
    let (graph, segments) = attack.sketch(&Net::of(&card, false));
    compile_for(&graph, &segments, batch(&card), precision)
}

/// Adam up the divergence from the clean prediction, from beside the image.
fn climb(precision: Precision) -> Result<Plan> {
    let card = ModelCard::find("resnet8-cifar10")?;
    let climb = Climb::tpgd(ThreatModel::linf(8.0 / 255.0), 2.0 / 255.0, 10);
    let (graph, segments) = Climb { stepping: Stepping::Adam, ..climb }.sketch(&Net::of(&card, false));
    compile_for(&graph, &segments, batch(&card), precision)
}

/// An attack for the nearest image, as `petard attack` plans it.
fn nearest(attack: &dyn Attack, precision: Precision) -> Result<Plan> {
    let card = ModelCard::find("resnet8-cifar10")?;
    let (graph, segments) = attack.sketch(&Net::of(&card, true));
    compile_for(&graph, &segments, batch(&card), precision)
}

fn square(norm: Norm) -> petard::attack::Square {
    petard::attack::Square::new(ThreatModel::new(norm, 0.5))
}

/// An attack on a small network, as `petard attack` plans it.
fn sketched(attack: &dyn petard::Attack, precision: Precision) -> Result<Plan> {
    let card = ModelCard::find("resnet8-cifar10")?;
    let (graph, segments) = attack.sketch(&petard::attack::Net::of(&card, false));
    compile_for(&graph, &segments, batch(&card), precision)
}

/// A step of adversarial training, as `petard train` plans it.
fn training(card: &str, precision: Precision) -> Result<Plan> {
    let card = ModelCard::find(card)?;
    let batch = batch(&card);
    let crafting = train::Recipe::PgdAt.crafting(ThreatModel::linf(8.0 / 255.0));
    let form = Form { crafting, nesterov: true, averaged: true, batch, ..Form::default() };
    let (graph, segments) = step_graph(&card, &form);
    compile_for(&graph, &segments, batch, precision)
}

/// A step of TRADES with weight perturbation, margins by class and angles for logits.
fn trades(precision: Precision) -> Result<Plan> {
    let text = ModelCard::text("resnet8-cifar10")? + "\nsphere = { scale = 15.0, gamma = 0.03125 }\n";
    let card = ModelCard::parse(&text, "resnet8", Path::new(""))?;
    let (threat, batch) = (ThreatModel::linf(8.0 / 255.0), batch(&card));
    let (crafting, outer) = (train::Recipe::Trades.crafting(threat), train::Recipe::Trades.method(threat).outer);
    let form = Form { crafting, outer, perturbed: true, table: true, weighted: true, batch, ..Form::default() };
    let (graph, segments) = step_graph(&card, &form);
    compile_for(&graph, &segments, batch, precision)
}

fn batch(card: &ModelCard) -> usize {
    if card.input[1] <= 64 { 128 } else { 64 }
}
