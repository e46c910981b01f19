//! The tables of other stems again, with feature maps that lie in memory as 16-bit floats: a scaling by one before each
//! image and after each result lets everything between them be stored so.
//! Must not know how an op is computed.

use libtest_mimic::Trial;
use petard::graph::{Graph, Op, Value};
use petard::plan::{Precision, Segment, compile_for};
use petard::tensor::DType;

use super::{Bound, Case, Fill, Probe, layout, leaves, lrn, norm, pointwise, pool, tolerance};
use crate::emulated::{Build, Profile, Schedule};
use crate::support::close::{Tol, close_or_same_nan, close_to_scale};
use crate::support::engine::on_a_card;
use crate::support::engine::{Emulation, Engine};
use crate::support::naive::{Values, eval};
use crate::support::trial;

/// Sizes out of the tables: whole vectors of channels, and a few channels more.
const WHOLE: &[&str] = &[".5x3.c16", ".8x8.c16", ".4x4.c16", ".7x7.c16", ".2x3.c16"];
const ODD: &[&str] = &[".2x7.c31", ".7x5.c17", ".3x5.c33", ".5x4.c17", ".5x5.c17"];
const BATCH: usize = 3;
/// Numbers of a size that IEEE half holds.
const FILLS: &[Fill] = &[Fill::Normal, Fill::Ties, Fill::Zeros, Fill::OneNan];

/// A 16-bit type.
#[derive(Clone, Copy)]
struct Half {
    precision: Precision,
    /// Bits of the mantissa, the leading one included.
    digits: i32,
    /// Exponent of the smallest normal number.
    lowest: i32,
}

const BF16: Half = Half { precision: Precision::Bf16, digits: 8, lowest: -126 };
const F16: Half = Half { precision: Precision::F16, digits: 11, lowest: -14 };

impl Half {
    /// Unit roundoff: half the distance from 1 to the next number.
    fn unit(self) -> f64 {
        (-self.digits as f64).exp2()
    }
    /// Half of the smallest number above zero.
    fn tiny(self) -> f64 {
        f64::from(self.lowest - self.digits).exp2()
    }
    /// The nearest number, ties to even.
    fn round(self, v: f64) -> f64 {
        let exponent = (v.to_bits() >> 52 & 0x7ff) as i32 - 1023;
        let step = f64::from(exponent.max(self.lowest) - self.digits + 1).exp2();
        (v / step).round_ties_even() * step
    }
}

pub fn trials() -> Vec<Trial> {
    let all: Vec<Case> =
        [layout::cases, lrn::cases, norm::cases, pointwise::cases, pool::cases].into_iter().flat_map(|f| f()).collect();
    let mut trials = vec![trial("kernels::half.rounds_to_even", rounds_to_even)];
    // Running statistics read an image for its shape alone.
    let wanted = |case: &&Case, sizes: &[&str]| sizes.iter().any(|s| case.name.contains(s)) && !case.name.contains("running");
    for (half, sizes) in [(BF16, WHOLE), (BF16, ODD), (F16, WHOLE)] {
        for case in all.iter().filter(|case| wanted(case, sizes)) {
            for (build, word) in [(Build::Fast, "fast"), (Build::Check, "check")] {
                let case = through_storage(case);
                let name = format!("{}::{}-emulated-{word}", case.name, half.precision);
                trials.push(on_a_card(name, move || check(&case, half, build)));
            }
        }
    }
    trials
}

fn rounds_to_even() {
    for (half, given, want) in [
        (BF16, 1.0 + 1.0 / 256.0, 1.0),
        (BF16, 1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
        (F16, -(1.0 + 1.0 / 2048.0), -1.0),
        (F16, 1e-8, 0.0),
        (F16, 65504.0, 65504.0),
        (F16, 0.1, 0.0999755859375),
        (BF16, 0.1, 0.10009765625),
    ] {
        assert_eq!(half.round(given), want, "{given}");
    }
    assert!(BF16.round(f64::NAN).is_nan() && F16.round(f64::INFINITY).is_infinite());
}

/// Images and features: what may lie in 16 bits.
fn is_map(graph: &Graph, v: Value) -> bool {
    let node = graph.node(v);
    node.shape.batched && node.dtype == DType::F32 && matches!(node.shape.dims.len(), 1 | 3)
}

/// The same case between two scalings by one.
fn through_storage(case: &Case) -> Case {
    let mut graph = Graph::new();
    let mut moved: Vec<Value> = Vec::new();
    for v in case.graph.values() {
        let node = case.graph.node(v);
        let inputs: Vec<Value> = node.inputs.iter().map(|i| moved[i.index()]).collect();
        let new = match &node.op {
            Op::Input { name, dtype } => graph.input(name, node.shape.clone(), *dtype),
            Op::Param { name, role } => graph.param(name, &node.shape.dims, *role),
            op => graph.push(op.clone(), &inputs),
        };
        let enters = inputs.is_empty() && is_map(&case.graph, v);
        moved.push(if enters { graph.push(Op::Scale { factor: 1.0 }, &[new]) } else { new });
    }
    let leave = |&v: &Value| match moved[v.index()] {
        new if is_map(&case.graph, v) => graph.push(Op::Scale { factor: 1.0 }, &[new]),
        new => new,
    };
    let outputs = case.outputs.iter().map(leave).collect();
    Case { graph, outputs, ..case.clone() }
}

/// On both emulated cards, every fill against the definition on rounded inputs.
fn check(case: &Case, half: Half, build: Build) -> Result<(), String> {
    let roundings = stored_results(case, half)?;
    for profile in [Profile::Toy, Profile::Hopper] {
        let schedule = Schedule { seed: 1, lazy: true };
        let how = Emulation { batch: BATCH, profile, build, schedule, precision: half.precision };
        let mut engine = Engine::emulated(&case.graph, &case.outputs, how)?;
        let fills = if build == Build::Fast { FILLS } else { &FILLS[..1] };
        for &fill in fills.iter().filter(|f| case.fills.contains(f)) {
            let mut given = leaves(case, BATCH, fill);
            for (&v, data) in given.iter_mut().filter(|(v, _)| is_map(&case.graph, **v)) {
                data.iter_mut().for_each(|d| *d = half.round(*d));
                assert!(!case.outputs.contains(&v), "a leaf is read back");
            }
            let got = engine.run(&given).map_err(|e| format!("{profile:?} {fill:?}: {e}"))?;
            judge(case, half, roundings, fill, &given, &got).map_err(|e| format!("{profile:?} {fill:?}: {e}"))?;
        }
    }
    Ok(())
}

/// Results of the case's own ops that lie in memory in 16 bits, each rounded once. At least one value must lie so.
fn stored_results(case: &Case, half: Half) -> Result<usize, String> {
    let segment = Segment { name: "infer".into(), outputs: case.outputs.clone(), carries: vec![] };
    let plan = compile_for(&case.graph, &[segment], BATCH, half.precision).map_err(|e| e.to_string())?;
    let program = plan.program("infer").expect("it was planned");
    let stored = |v: &Value| program.slot(*v).is_some() && Some(plan.stored(*v)) == half.precision.half();
    let enters = |v: &Value| case.graph.node(*v).inputs.iter().all(|&i| matches!(case.graph.node(i).op, Op::Input { .. }));
    let (inputs, results): (Vec<Value>, Vec<Value>) =
        case.graph.values().filter(stored).partition(|v| enters(v) && case.graph.node(*v).op == Op::Scale { factor: 1.0 });
    assert!(!inputs.is_empty() || !results.is_empty(), "{}: nothing lies in 16 bits", case.name);
    Ok(results.len())
}

/// As for 32 bits, plus what rounding results to 16 bits costs: of the size of the result for the last, of the size of
/// what was summed for those before it.
fn judge(case: &Case, half: Half, roundings: usize, fill: Fill, given: &Values, got: &[Vec<f32>]) -> Result<(), String> {
    for (&output, got) in case.outputs.iter().zip(got) {
        let node = case.graph.node(output);
        let want = eval(&case.graph, BATCH, given, &[output]).remove(0);
        let mut dims = node.shape.dims.clone();
        if node.shape.batched {
            dims.insert(0, BATCH);
        }
        let probe = Probe { graph: &case.graph, batch: BATCH, given, output, want: &want };
        let exact = matches!(case.bound, Bound::Exact) || node.dtype != DType::F32;
        let (tol, scale) = if exact {
            (Tol::EXACT, want.iter().map(|w| w.abs()).collect::<Vec<f64>>())
        } else {
            let base = tolerance(case.bound, fill);
            let bound = |(&scale, want): (&f64, &f64)| {
                let (last, before) =
                    if roundings == 0 { (0.0, 0.0) } else { (half.unit(), (roundings - 1) as f64 * half.unit()) };
                let own = base.abs + base.rel * scale + roundings as f64 * half.tiny();
                own * (1.0 + last) + last * want.abs() + before * scale
            };
            (Tol { abs: 0.0, rel: 1.0, l2: 1.0 }, (case.scale)(&probe).iter().zip(&want).map(bound).collect())
        };
        let compare = if fill == Fill::OneNan { close_or_same_nan } else { close_to_scale };
        compare(got, &want, &scale, &dims, tol).map_err(|e| format!("{:?}: {e}", node.op))?;
    }
    Ok(())
}
