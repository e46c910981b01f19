//! A case bound to the CPU: filled, checked against its definition, and only then run against the clock.
//! Must not know which cases there are.

use petard::graph::{Op, Value};
use petard::plan::{Executor, Precision, Segment, compile_for};
use petard::tensor::{DType, bits_bytes};

use crate::cards::Case;
use crate::meter::{self, Draw, Watch};
use crate::work::Work;
use crate::{hyperplane, oracle, pgd, pool, search};

/// A case whose result was right.
pub struct Ready {
    executor: Box<dyn Executor>,
    pub work: Work,
    /// Seconds of one run, in each sample.
    samples: Vec<f64>,
}

impl Ready {
    /// Plans, fills, packs, runs once and checks. `exact` keeps to direct kernels.
    pub fn new(case: &Case, exact: bool) -> Result<Self, String> {
        // A PGD step replaces its image, as it does in the attack.
        let in_place = matches!(case.op(), Op::PgdStep { .. } | Op::ApgdMove { .. }) || search::in_place(case.op());
        let kept: Vec<Value> = [case.output].into_iter().chain(case.side).collect();
        let segment = if in_place {
            Segment { name: "infer".into(), outputs: vec![], carries: vec![(case.leaves[0], case.output)] }
        } else {
            Segment { name: "infer".into(), outputs: kept.clone(), carries: vec![] }
        };
        let text = |e: petard::Error| format!("{} {}: {e}", case.name, case.shape);
        let device = meter::open();
        let precision = if exact { Precision::F32 } else { device.precision() };
        let plan = compile_for(&case.graph, &[segment], case.batch, precision).map_err(text)?;
        let program = plan.program("infer").expect("the one segment");
        let work = Work { flops: plan.flops(program) as f64, bytes: case.bytes() as f64 };
        let mut executor = device.bind(plan, exact).map_err(text)?;
        let data = fill(case);
        for (&leaf, numbers) in case.leaves.iter().zip(&data) {
            let channels = case.graph.shape(leaf).dims.last().copied().unwrap_or(1);
            executor.write(leaf, 0, &encode(numbers, case.graph.node(leaf).dtype, channels)).map_err(text)?;
        }
        executor.run("pack").map_err(text)?;
        executor.run("infer").map_err(text)?;
        let got: Result<Vec<Vec<f32>>, petard::Error> =
            kept.iter().map(|&v| read(executor.as_ref(), if in_place { case.leaves[0] } else { v })).collect();
        oracle::check(case, &data, &got.map_err(text)?)?;
        Ok(Ready { executor, work, samples: Vec::new() })
    }

    /// Runs `times` times.
    pub fn time(&mut self, times: u64) -> std::time::Duration {
        let watch = Watch::start();
        for _ in 0..times {
            self.executor.run("infer").expect("it ran before");
        }
        self.executor.sync().expect("it ran before");
        let spent = watch.stop().fair();
        self.samples.push(spent.as_secs_f64() / times as f64);
        spent
    }

    /// Seconds of one run, the median of the last samples, of which there are `count`: those before warmed up.
    pub fn median(&self, count: usize) -> f64 {
        let mut last = self.samples[self.samples.len().saturating_sub(count)..].to_vec();
        last.sort_by(f64::total_cmp);
        last[last.len() / 2]
    }
}

/// Seeded numbers for every leaf: bits, winners and labels as numbers.
fn fill(case: &Case) -> Vec<Vec<f32>> {
    let draw = &mut Draw(1);
    let classes = case.graph.shape(case.leaves[0]).dims.last().copied().unwrap_or(1);
    let mut one = |(i, &leaf): (usize, &Value)| -> Vec<f32> {
        let node = case.graph.node(leaf);
        let count = node.shape.len(case.batch);
        let positive = oracle::positive(case, leaf);
        match (case.op(), node.dtype) {
            (Op::MaxPoolGrad { pool, hw }, DType::U8) => {
                let windows = [node.shape.dims[0], node.shape.dims[1], node.shape.dims[2]];
                pool::winners(pool, *hw, windows, case.batch, draw)
            }
            (Op::ApgdMove { norm }, _) => pgd::apgd(*norm, i, count, draw),
            (Op::Hyperplane(plane), DType::F32) => (0..count).map(|_| hyperplane::number(*plane, i, draw)).collect(),
            (Op::PgdStep { norm }, _) => (0..count).map(|_| pgd::number(*norm, i, draw)).collect(),
            (Op::Nearest(op), DType::F32) => (0..count).map(|k| search::number(op, count / case.batch, k, draw)).collect(),
            (_, DType::I32) => (0..count).map(|_| draw.below(classes) as f32).collect(),
            (_, DType::Bits) => (0..count).map(|_| draw.below(2) as f32).collect(),
            _ if positive => (0..count).map(|_| 0.5 + draw.unit()).collect(),
            _ => (0..count).map(|_| draw.centred()).collect(),
        }
    };
    case.leaves.iter().enumerate().map(&mut one).collect()
}

/// Numbers as the engine stores them.
fn encode(numbers: &[f32], dtype: DType, channels: usize) -> Vec<u8> {
    match dtype {
        DType::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I32 => numbers.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
        DType::Bf16 | DType::F16 => unreachable!("16-bit floats are storage, no node's type"),
        DType::U8 => numbers.iter().map(|&v| v as u8).collect(),
        DType::Bits => {
            let mut out = Vec::new();
            for pixel in numbers.chunks_exact(channels) {
                let at = out.len();
                out.resize(at + bits_bytes(channels), 0u8);
                pixel.iter().enumerate().filter(|(_, bit)| **bit != 0.0).for_each(|(c, _)| out[at + c / 8] |= 1 << (c % 8));
            }
            out
        }
    }
}

/// The numbers of a value.
fn read(executor: &dyn Executor, value: Value) -> petard::Result<Vec<f32>> {
    let (graph, batch) = (executor.plan().graph(), executor.plan().batch());
    let node = graph.node(value);
    let mut bytes = vec![0; node.shape.bytes(node.dtype, batch)];
    executor.read(value, 0, &mut bytes)?;
    let words = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
    Ok(match node.dtype {
        DType::F32 => words().map(f32::from_le_bytes).collect(),
        DType::I32 => words().map(|w| i32::from_le_bytes(w) as f32).collect(),
        DType::Bf16 | DType::F16 => unreachable!("16-bit floats are storage, no node's type"),
        DType::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
        DType::Bits => {
            let channels = node.shape.dims.last().copied().unwrap_or(1);
            let bit = |pixel: &[u8], c: usize| f32::from(pixel[c / 8] >> (c % 8) & 1);
            bytes.chunks_exact(bits_bytes(channels)).flat_map(|p| (0..channels).map(move |c| bit(p, c))).collect()
        }
    })
}
