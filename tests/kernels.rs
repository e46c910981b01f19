//! Every op on every instruction set of this processor against its f64 definition, from tables of cases.
//! Must not know how an op is computed; how exactly it must come out follows from the number of its roundings.

mod apgd;
mod augment;
mod climb;
mod conv;
mod conv_half;
mod direct;
mod dropout;
mod fft;
mod gemm;
mod halves;
mod head;
mod hop;
mod hyperplane;
mod layout;
mod loss;
mod lrn;
mod minimum;
mod momentum;
mod norm;
mod objective;
mod optim;
mod perturb;
mod pgd;
mod pointwise;
mod pool;
mod rows;
mod search;
mod square;

use std::sync::Arc;

use libtest_mimic::Trial;
use petard::cpu::Isa;
use petard::gpu::Driver;
use petard::graph::{Graph, Op, Value};
use petard::plan::Precision;
use petard::tensor::DType;

use crate::emulated::{Build, Profile, Schedule};
use crate::support::close::{Tol, close_or_same_nan, close_to_scale, same_bits};
use crate::support::engine::{Emulation, Engine, How, isa_name, on_a_card, on_the_card};
use crate::support::naive::{Values, eval};
use crate::support::{Rng, trial};

/// One graph with everything needed to judge it.
#[derive(Clone)]
pub struct Case {
    /// `stem::what.sizes`, a filter on the command line.
    pub name: String,
    /// The row of the table, as it can be pasted back.
    pub literal: String,
    pub graph: Graph,
    pub outputs: Vec<Value>,
    pub bound: Bound,
    /// What the errors of an output are measured against.
    pub scale: fn(&Probe) -> Vec<f64>,
    pub fills: &'static [Fill],
    /// Only direct kernels.
    pub exact: bool,
}

/// How many roundings lie between the inputs and a result.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// None: the elements only move or are compared.
    Exact,
    /// A chain of so many.
    Roundings(usize),
    /// A sum of so many terms in any order.
    Sum(usize),
    /// A sum by an algorithm that multiplies the roundings of the direct one (Winograd): by `random` where they may be
    /// taken as independent, by `worst` where all may go one way.
    FastSum { terms: usize, random: f64, worst: f64 },
}

/// What the leaves of a graph are filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    Normal,
    /// One number everywhere.
    Equal,
    /// Halves from -1 to 1: many exact ties and zeros.
    Ties,
    /// +0 and -0.
    Zeros,
    /// Data of about 1e-40; parameters stay normal.
    Subnormal,
    /// Data of about 1e17; parameters stay normal.
    Huge,
    /// One NaN in the first leaf.
    OneNan,
}

pub const ALL: &[Fill] = &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros, Fill::Subnormal, Fill::Huge, Fill::OneNan];
/// Where the meaning of a NaN is not written down.
pub const NUMBERS: &[Fill] = &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros, Fill::Subnormal, Fill::Huge];

/// A case with its data, for the scale of the errors.
pub struct Probe<'a> {
    pub graph: &'a Graph,
    pub batch: usize,
    pub given: &'a Values,
    pub output: Value,
    pub want: &'a [f64],
}

/// Tables of cases, one a stem.
const TABLES: &[fn() -> Vec<Case>] = &[
    climb::cases,
    conv::cases,
    dropout::cases,
    fft::cases,
    gemm::cases,
    head::cases,
    hop::cases,
    hyperplane::cases,
    layout::cases,
    loss::cases,
    lrn::cases,
    minimum::cases,
    momentum::cases,
    norm::cases,
    objective::cases,
    optim::cases,
    perturb::cases,
    pgd::cases,
    pointwise::cases,
    pool::cases,
    rows::cases,
    search::cases,
];
/// What no table of cases can say.
const ALONE: &[fn() -> Vec<Trial>] = &[
    apgd::trials,
    augment::trials,
    climb::trials,
    conv_half::trials,
    dropout::trials,
    fft::trials,
    halves::trials,
    hop::trials,
    hyperplane::trials,
    loss::trials,
    minimum::trials,
    momentum::trials,
    objective::trials,
    optim::trials,
    pgd::trials,
    rows::trials,
    search::trials,
    square::trials,
];

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = ALONE.iter().flat_map(|list| list()).collect();
    for case in TABLES.iter().flat_map(|cases| cases()) {
        for isa in Isa::available() {
            let case = case.clone();
            trials.push(trial(format!("{}::{}", case.name, isa_name(isa)), move || {
                check(&case, isa).map_err(|e| format!("{e}\n  case: {}", case.literal))
            }));
        }
        let on = case.clone();
        trials.push(on_the_card(format!("{}::cuda", case.name), move |card| {
            on_card(&on, &card).map_err(|e| format!("{e}\n  case: {}", on.literal))
        }));
        for build in [Build::Fast, Build::Check] {
            let case = case.clone();
            let name = format!("{}::emulated-{}", case.name, if build == Build::Fast { "fast" } else { "check" });
            trials.push(on_a_card(name, move || emulated(&case, build).map_err(|e| format!("{e}\n  case: {}", case.literal))));
        }
    }
    trials
}

/// Every fill against the definition, then the same bits again, in other places of the batch and in another batch.
fn on_card(case: &Case, card: &Arc<dyn Driver>) -> Result<(), String> {
    let bind = |batch| Engine::on(Arc::clone(card), &case.graph, &case.outputs, batch, Precision::F32);
    let mut engine = bind(3)?;
    for &fill in case.fills {
        let given = leaves(case, 3, fill);
        let got = engine.run(&given).map_err(|e| format!("{fill:?}: {e}"))?;
        judge(case, 3, fill, &given, &got).map_err(|e| format!("{fill:?}: {e}"))?;
    }
    let given = leaves(case, 3, Fill::Normal);
    let first = engine.run(&given)?;
    same(case, &engine.run(&given)?, &first).map_err(|e| format!("second run: {e}"))?;
    if case.rows_alone() {
        let order = [2, 0, 1, 1, 2];
        let larger = bind(5)?.run(&pick(case, &given, &order))?;
        same(case, &larger, &pick_outputs(case, &first, &order)).map_err(|e| format!("batch of 5: {e}"))?;
    }
    Ok(())
}

/// Orders of events under which a kernel must give the same bits.
const SCHEDULES: [Schedule; 3] = [Schedule::IN_ORDER, Schedule { seed: 1, lazy: true }, Schedule { seed: 2, lazy: false }];

/// The kernels themselves, on both emulated cards. The fast build: every fill against the definition, then the same bits
/// under every schedule, in other places of the batch and in another batch. The check build looks at every access.
fn emulated(case: &Case, build: Build) -> Result<(), String> {
    for profile in [Profile::Toy, Profile::Hopper] {
        let how = Emulation { batch: 3, profile, build, schedule: Schedule::IN_ORDER, precision: Precision::F32 };
        let given = leaves(case, how.batch, Fill::Normal);
        let mut first: Option<Vec<Vec<f32>>> = None;
        for schedule in SCHEDULES {
            let mut engine = Engine::emulated(&case.graph, &case.outputs, Emulation { schedule, ..how })?;
            let got = engine.run(&given).map_err(|e| format!("{profile:?} {schedule:?}: {e}"))?;
            judge(case, how.batch, Fill::Normal, &given, &got).map_err(|e| format!("{profile:?} {schedule:?}: {e}"))?;
            if let Some(first) = &first {
                same(case, &got, first).map_err(|e| format!("{profile:?} {schedule:?} against another order: {e}"))?;
            }
            first.get_or_insert(got);
        }
        if build == Build::Check {
            continue;
        }
        let mut engine = Engine::emulated(&case.graph, &case.outputs, how)?;
        for &fill in case.fills {
            let given = leaves(case, how.batch, fill);
            let got = engine.run(&given).map_err(|e| format!("{profile:?} {fill:?}: {e}"))?;
            judge(case, how.batch, fill, &given, &got).map_err(|e| format!("{profile:?} {fill:?}: {e}"))?;
        }
        let first = first.expect("there are schedules");
        same(case, &engine.run(&given)?, &first).map_err(|e| format!("{profile:?} second run: {e}"))?;
        if case.rows_alone() {
            let order = [2, 0, 1, 1, 2];
            let mut larger = Engine::emulated(&case.graph, &case.outputs, Emulation { batch: 5, ..how })?;
            let larger = larger.run(&pick(case, &given, &order))?;
            same(case, &larger, &pick_outputs(case, &first, &order)).map_err(|e| format!("{profile:?} batch of 5: {e}"))?;
        }
    }
    Ok(())
}

impl Case {
    /// A case of one output, judged against its size in exact arithmetic of the magnitudes.
    pub fn new(name: String, literal: String, graph: Graph, output: Value, bound: Bound) -> Self {
        Case { name, literal, graph, outputs: vec![output], bound, scale: magnitude, fills: ALL, exact: true }
    }
    /// Whether each row of each output depends on the same row of the inputs alone; the gradient through the statistics
    /// of a batch also divides by the size of the batch.
    fn rows_alone(&self) -> bool {
        let counts = self.graph.nodes().iter().any(|n| matches!(n.op, Op::BatchNormTrainGrad { .. }));
        !counts && self.outputs.iter().all(|&v| self.graph.shape(v).batched)
    }
}

/// The result for the magnitudes of all leaves: what rounding errors of a sum are relative to. Leaves that are
/// subtracted carry a name that ends in `-`; `stats` holds a mean, which is subtracted, before a variance.
pub fn magnitude(probe: &Probe) -> Vec<f64> {
    let sizes = probe.given.iter().map(|(&v, data)| {
        let name = &probe.graph.node(v).label;
        let signed = |i: usize| name.ends_with('-') || (name == "stats" && i < data.len() / 2);
        (v, data.iter().enumerate().map(|(i, d)| if signed(i) { -d.abs() } else { d.abs() }).collect())
    });
    let sizes: Values = sizes.collect();
    let mut out = eval(probe.graph, probe.batch, &sizes, &[probe.output]).remove(0);
    out.iter_mut().for_each(|v| *v = v.abs());
    out
}

/// The size of the result itself.
pub fn result(probe: &Probe) -> Vec<f64> {
    probe.want.iter().map(|w| w.abs()).collect()
}

/// Forward against the definition for every fill and with a few and with many rows; then the same bits again, on
/// another number of threads, in another place of the batch and in another batch.
fn check(case: &Case, isa: Isa) -> Result<(), String> {
    let how = How { batch: 3, isa, threads: 1, exact: case.exact };
    let mut engine = Engine::new(&case.graph, &case.outputs, how)?;
    for &fill in case.fills {
        let given = leaves(case, how.batch, fill);
        let got = engine.run(&given)?;
        judge(case, how.batch, fill, &given, &got).map_err(|e| format!("{fill:?}, batch {}: {e}", how.batch))?;
    }
    let how = How { batch: 8, ..how };
    let given = leaves(case, how.batch, Fill::Normal);
    let mut engine = Engine::new(&case.graph, &case.outputs, how)?;
    let first = engine.run(&given)?;
    judge(case, how.batch, Fill::Normal, &given, &first).map_err(|e| format!("batch 8: {e}"))?;
    engine.run(&leaves(case, how.batch, Fill::Huge))?;
    same(case, &engine.run(&given)?, &first).map_err(|e| format!("second run: {e}"))?;
    let threads = Engine::new(&case.graph, &case.outputs, How { threads: 2, ..how })?.run(&given)?;
    same(case, &threads, &first).map_err(|e| format!("two threads: {e}"))?;
    if case.rows_alone() {
        let order = [7, 2, 5, 0, 3, 6, 1, 4];
        let moved = engine.run(&pick(case, &given, &order))?;
        let expected = pick_outputs(case, &first, &order);
        same(case, &moved, &expected).map_err(|e| format!("rows in another order: {e}"))?;
        let order = [0, 3, 1, 4, 7, 2, 5, 6, 0, 1, 2, 3, 7];
        let mut larger = Engine::new(&case.graph, &case.outputs, How { batch: 13, threads: 2, ..how })?;
        let larger = larger.run(&pick(case, &given, &order))?;
        let expected = pick_outputs(case, &first, &order);
        same(case, &larger, &expected).map_err(|e| format!("batch of 13: {e}"))?;
    }
    Ok(())
}

/// Against the definition. Masks are judged by the value that they mask as the engine has computed it.
fn judge(case: &Case, batch: usize, fill: Fill, given: &Values, got: &[Vec<f32>]) -> Result<(), String> {
    let mut known = given.clone();
    for (&v, got) in case.outputs.iter().zip(got) {
        let masked = |m: Value| matches!(case.graph.node(m).op, Op::ReluMask { .. }) && case.graph.node(m).inputs[0] == v;
        if case.outputs.iter().any(|&m| masked(m)) {
            known.insert(v, got.iter().map(|&g| f64::from(g)).collect());
        }
    }
    for (&output, got) in case.outputs.iter().zip(got) {
        let node = case.graph.node(output);
        let from = if node.dtype == DType::Bits { &known } else { given };
        let want = eval(&case.graph, batch, from, &[output]).remove(0);
        let mut dims = node.shape.dims.clone();
        if node.shape.batched {
            dims.insert(0, batch);
        }
        let probe = Probe { graph: &case.graph, batch, given, output, want: &want };
        let (tol, scale) = match node.dtype {
            DType::F32 => (tolerance(case.bound, fill), (case.scale)(&probe)),
            DType::Bf16 | DType::F16 => unreachable!("16-bit floats are storage, no node's type"),
            DType::I32 | DType::U8 | DType::Bits => (Tol::EXACT, result(&probe)),
        };
        let compare = if fill == Fill::OneNan { close_or_same_nan } else { close_to_scale };
        compare(got, &want, &scale, &dims, tol).map_err(|e| format!("{:?}: {e}", node.op))?;
    }
    Ok(())
}

fn tolerance(bound: Bound, fill: Fill) -> Tol {
    let sum = |terms| if fill == Fill::Normal { Tol::random_sum(terms) } else { Tol::worst_sum(terms) };
    match bound {
        Bound::Exact => Tol::EXACT,
        Bound::Roundings(n) => Tol::roundings(n),
        Bound::Sum(terms) => sum(terms),
        Bound::FastSum { terms, random, worst } => sum(terms).times(if fill == Fill::Normal { random } else { worst }),
    }
}

fn same(case: &Case, got: &[Vec<f32>], want: &[Vec<f32>]) -> Result<(), String> {
    for ((&v, got), want) in case.outputs.iter().zip(got).zip(want) {
        let shape = case.graph.shape(v);
        let mut dims = shape.dims.clone();
        if shape.batched {
            dims.insert(0, want.len() / shape.elems());
        }
        same_bits(got, want, &dims).map_err(|e| format!("{:?}: {e}", case.graph.node(v).op))?;
    }
    Ok(())
}

/// The rows of all leaves in another order.
fn pick(case: &Case, given: &Values, order: &[usize]) -> Values {
    let row = |v: Value, data: &[f64]| match case.graph.shape(v) {
        shape if shape.batched => order.iter().flat_map(|&n| data[n * shape.elems()..(n + 1) * shape.elems()].to_vec()).collect(),
        _ => data.to_vec(),
    };
    given.iter().map(|(&v, data)| (v, row(v, data))).collect()
}

fn pick_outputs(case: &Case, rows: &[Vec<f32>], order: &[usize]) -> Vec<Vec<f32>> {
    let pick = |(&v, data): (&Value, &Vec<f32>)| {
        let elems = case.graph.shape(v).elems();
        order.iter().flat_map(|&n| data[n * elems..(n + 1) * elems].to_vec()).collect()
    };
    case.outputs.iter().zip(rows).map(pick).collect()
}

/// Numbers for every leaf, seeded by the case. Names say what a leaf may hold: see the match.
fn leaves(case: &Case, batch: usize, fill: Fill) -> Values {
    let mut rng = Rng::named(&format!("{}{fill:?}{batch}", case.name));
    let mut given = Values::new();
    let mut labels: Vec<f64> = Vec::new();
    for v in case.graph.values() {
        let node = case.graph.node(v);
        let (name, is_param) = match &node.op {
            Op::Input { name, .. } => (name.as_str(), false),
            Op::Param { name, .. } => (name.as_str(), true),
            _ => continue,
        };
        let n = node.shape.len(batch);
        let data: Vec<f64> = match (name, node.dtype) {
            (_, DType::Bits) => (0..n).map(|_| rng.below(2) as f64).collect(),
            ("index", DType::U8) => (0..n).map(|_| rng.below(node.shape.dims[0].min(4)) as f64).collect(),
            ("label", _) => {
                labels = (0..n).map(|_| rng.below(classes(&case.graph)) as f64).collect();
                labels.clone()
            }
            ("target", _) => {
                let k = classes(&case.graph);
                labels.iter().map(|y| ((*y as usize + 1 + rng.below(k - 1)) % k) as f64).collect()
            }
            ("adam", _) => (0..n).map(|_| f64::from(rng.unit() as f32)).collect(),
            ("state.search", _) => search::state(batch, &mut rng),
            ("state.follow", _) => minimum::state(batch, &mut rng),
            ("seed", _) => vec![7.0, 11.0, 0.0],
            ("flag", _) => (0..n).map(|_| rng.below(2) as f64).collect(),
            // Learning rate, momentum, weight decay; the decay of an average.
            ("hyper", _) => [0.1f32, 0.9, 5e-4].map(f64::from).to_vec(),
            ("decay", _) => vec![f64::from(0.999f32)],
            // How far weights are perturbed, not the scale of a batch norm.
            ("gamma", _) if node.shape.dims.is_empty() => vec![f64::from(0.01f32)],
            ("share", _) => (0..n).map(|_| f64::from((2.0 * rng.unit() - 0.5) as f32)).collect(),
            ("alpha" | "eps", _) => (0..n).map(|_| f64::from((0.01 + 0.1 * rng.unit()) as f32)).collect(),
            (name, _) if name.ends_with("var") => (0..n).map(|_| f64::from((0.5 + rng.unit()) as f32)).collect(),
            ("stats", _) => {
                let var = (0..n / 2).map(|_| f64::from((0.5 + rng.unit()) as f32)).collect();
                [rng.normals(n / 2), var].concat()
            }
            ("far", _) => rng.normals(n).iter().map(|v| f64::from((300.0 + 0.01 * v) as f32)).collect(),
            ("x01" | "y01" | "z01", _) => (0..n).map(|_| f64::from((0.5 + 0.5 * unit_fill(fill, &mut rng)) as f32)).collect(),
            _ if is_param && matches!(fill, Fill::Subnormal | Fill::Huge | Fill::OneNan) => rng.normals(n),
            _ => numbers(fill, n, given.is_empty(), &mut rng),
        };
        given.insert(v, data);
    }
    given
}

/// Classes of the logits called `z`.
fn classes(graph: &Graph) -> usize {
    graph.input_named("z").map_or(2, |z| graph.shape(z).elems())
}

fn numbers(fill: Fill, n: usize, first_leaf: bool, rng: &mut Rng) -> Vec<f64> {
    let mut data = match fill {
        Fill::Normal | Fill::OneNan => rng.normals(n),
        Fill::Equal => vec![f64::from(0.37f32); n],
        Fill::Ties => (0..n).map(|_| rng.below(5) as f64 * 0.5 - 1.0).collect(),
        Fill::Zeros => (0..n).map(|_| if rng.below(2) == 0 { 0.0 } else { -0.0 }).collect(),
        Fill::Subnormal => rng.normals(n).iter().map(|v| f64::from((v * 1e-40) as f32)).collect(),
        Fill::Huge => rng.normals(n).iter().map(|v| f64::from((v * 1e17) as f32)).collect(),
    };
    if fill == Fill::OneNan && first_leaf {
        data[rng.below(n)] = f64::NAN;
    }
    data
}

/// Pixels: -1 to 1 from the fill.
fn unit_fill(fill: Fill, rng: &mut Rng) -> f64 {
    match fill {
        Fill::Ties => rng.below(3) as f64 - 1.0,
        Fill::Equal => 0.2,
        _ => 2.0 * rng.unit() - 1.0,
    }
}
