//! The engine as the tests see it: numbers in, numbers out. The only file of the tests that names the executor.
//! Must not know what is computed.

use std::sync::{Arc, OnceLock};

use petard::cpu::{CpuExecutor, Isa, Options};
use petard::gpu::cache::Cache;
use petard::gpu::cuda::{Cuda, look};
use petard::gpu::nvrtc::{Nvrtc, Search};
use petard::gpu::{Driver, GpuExecutor};
use petard::graph::{Graph, Op, Value};
use petard::plan::{Executor, Precision, Segment, compile, compile_for};
use petard::tensor::{DType, Shape, bits_bytes};

use super::naive::Values;
use super::{ignored, root, trial};
use crate::emulated::{self, Build, Emulated, Profile, Schedule};
use libtest_mimic::Trial;

/// A graph made ready to run.
pub struct Engine {
    executor: Box<dyn Executor>,
    graph: Graph,
    outputs: Vec<Value>,
    batch: usize,
}

/// How a graph is run.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub batch: usize,
    pub isa: Isa,
    pub threads: usize,
    pub exact: bool,
}

/// The same on an emulated card.
#[derive(Clone, Copy, Debug)]
pub struct Emulation {
    pub batch: usize,
    pub profile: Profile,
    pub build: Build,
    pub schedule: Schedule,
    pub precision: Precision,
}

/// The first card of this machine, opened once; else why it cannot be used, in a few words.
pub fn card() -> Result<Arc<dyn Driver>, String> {
    static CARD: OnceLock<Result<Arc<Cuda>, String>> = OnceLock::new();
    let open = || {
        let Some(cards) = look().map_err(|e| e.to_string())? else { return Err("no NVIDIA driver".into()) };
        let nvrtc = Nvrtc::find(&Search::from_env(), Some(cards.driver)).map_err(|e| e.to_string())?;
        let kept = Cache::new(Some(root().join("target/nvrtc/cards")));
        Cuda::open(0, &cards, nvrtc, kept).map(Arc::new).map_err(|e| e.to_string())
    };
    Ok(CARD.get_or_init(open).clone()?)
}

/// A trial on the card of this machine: ignored where there is none.
pub fn on_the_card(name: String, body: impl FnOnce(Arc<dyn Driver>) -> Result<(), String> + Send + 'static) -> Trial {
    match card() {
        Ok(card) => trial(name, move || body(card)),
        Err(reason) => ignored(name, &reason),
    }
}

/// A trial that needs an emulated card: ignored where there can be none.
pub fn on_a_card(name: String, body: impl FnOnce() -> Result<(), String> + Send + 'static) -> Trial {
    match emulated::missing() {
        Some(reason) => ignored(name, &reason),
        None => trial(name, body),
    }
}

/// Name of an instruction set in the names of trials.
pub fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Avx512 => "cpu-avx512",
        Isa::Avx2 => "cpu-avx2",
        Isa::Scalar => "cpu-scalar",
    }
}

impl Engine {
    /// Plans `outputs` of `graph`.
    pub fn new(graph: &Graph, outputs: &[Value], how: How) -> Result<Self, String> {
        let segment = Segment { name: "infer".into(), outputs: outputs.to_vec(), carries: vec![] };
        let plan = compile(graph, &[segment], how.batch).map_err(|e| format!("compile: {e}"))?;
        let options = Options { isa: how.isa, threads: how.threads, exact: how.exact };
        let executor = Box::new(CpuExecutor::new(Arc::new(plan), options).map_err(|e| format!("bind: {e}"))?);
        Ok(Engine { executor, graph: graph.clone(), outputs: outputs.to_vec(), batch: how.batch })
    }

    /// Plans `outputs` of `graph` for an emulated card.
    pub fn emulated(graph: &Graph, outputs: &[Value], how: Emulation) -> Result<Self, String> {
        Engine::on(Arc::new(Emulated::new(how.profile, how.build, how.schedule)), graph, outputs, how.batch, how.precision)
    }

    /// Plans `outputs` of `graph` for a card, emulated or not.
    pub fn on(
        driver: Arc<dyn Driver>,
        graph: &Graph,
        outputs: &[Value],
        batch: usize,
        precision: Precision,
    ) -> Result<Self, String> {
        let segment = Segment { name: "infer".into(), outputs: outputs.to_vec(), carries: vec![] };
        let plan = compile_for(graph, &[segment], batch, precision).map_err(|e| format!("compile: {e}"))?;
        let executor = Box::new(GpuExecutor::new(driver, Arc::new(plan)).map_err(|e| format!("bind: {e}"))?);
        Ok(Engine { executor, graph: graph.clone(), outputs: outputs.to_vec(), batch })
    }

    /// As [`Engine::new`], for graphs that carry values over: each `next` of `(state, next)` becomes the state, which is read.
    pub fn carrying(graph: &Graph, carries: &[(Value, Value)], how: How) -> Result<Self, String> {
        let plan = compile(graph, &[carrying(carries)], how.batch).map_err(|e| format!("compile: {e}"))?;
        let options = Options { isa: how.isa, threads: how.threads, exact: how.exact };
        let executor = Box::new(CpuExecutor::new(Arc::new(plan), options).map_err(|e| format!("bind: {e}"))?);
        let outputs = carries.iter().map(|c| c.0).collect();
        Ok(Engine { executor, graph: graph.clone(), outputs, batch: how.batch })
    }

    /// The same on an emulated card.
    pub fn emulated_carrying(graph: &Graph, carries: &[(Value, Value)], how: Emulation) -> Result<Self, String> {
        let plan = compile_for(graph, &[carrying(carries)], how.batch, how.precision).map_err(|e| format!("compile: {e}"))?;
        let driver = Arc::new(Emulated::new(how.profile, how.build, how.schedule));
        let executor = Box::new(GpuExecutor::new(driver, Arc::new(plan)).map_err(|e| format!("bind: {e}"))?);
        let outputs = carries.iter().map(|c| c.0).collect();
        Ok(Engine { executor, graph: graph.clone(), outputs, batch: how.batch })
    }

    /// Writes every given leaf, runs, and reads the outputs: floats as they are, integers, bytes and bits as numbers.
    pub fn run(&mut self, given: &Values) -> Result<Vec<Vec<f32>>, String> {
        for (&leaf, data) in given {
            let node = self.graph.node(leaf);
            if matches!(node.op, Op::Input { .. } | Op::Param { .. }) {
                let bytes = encode(data, &node.shape, node.dtype);
                self.executor.write(leaf, 0, &bytes).map_err(|e| format!("write `{}`: {e}", node.label))?;
            }
        }
        for segment in ["pack", "infer"] {
            self.executor.run(segment).map_err(|e| format!("run {segment}: {e}"))?;
        }
        self.outputs.iter().map(|&v| self.read(v)).collect()
    }

    fn read(&self, value: Value) -> Result<Vec<f32>, String> {
        let node = self.graph.node(value);
        let mut bytes = vec![0; node.shape.bytes(node.dtype, self.batch)];
        self.executor.read(value, 0, &mut bytes).map_err(|e| format!("read {:?}: {e}", node.op))?;
        Ok(decode(&bytes, &node.shape, node.dtype))
    }
}

fn carrying(carries: &[(Value, Value)]) -> Segment {
    Segment { name: "infer".into(), outputs: vec![], carries: carries.to_vec() }
}

const STORAGE: &str = "16-bit floats are storage, no node's type";

fn encode(data: &[f64], shape: &Shape, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => data.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
        DType::I32 => data.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
        DType::Bf16 | DType::F16 => unreachable!("{STORAGE}"),
        DType::U8 => data.iter().map(|&v| v as u8).collect(),
        DType::Bits => {
            let channels = shape.dims.last().copied().unwrap_or(1);
            let pixel = |bits: &[f64]| {
                let mut bytes = vec![0u8; bits_bytes(channels)];
                bits.iter().enumerate().filter(|(_, b)| **b != 0.0).for_each(|(i, _)| bytes[i / 8] |= 1 << (i % 8));
                bytes
            };
            data.chunks_exact(channels).flat_map(pixel).collect()
        }
    }
}

fn decode(bytes: &[u8], shape: &Shape, dtype: DType) -> Vec<f32> {
    let words = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
    match dtype {
        DType::F32 => words().map(f32::from_le_bytes).collect(),
        DType::I32 => words().map(|w| i32::from_le_bytes(w) as f32).collect(),
        DType::Bf16 | DType::F16 => unreachable!("{STORAGE}"),
        DType::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
        DType::Bits => {
            let channels = shape.dims.last().copied().unwrap_or(1);
            let bit = |pixel: &[u8], i: usize| f32::from(pixel[i / 8] >> (i % 8) & 1);
            bytes.chunks_exact(bits_bytes(channels)).flat_map(|p| (0..channels).map(move |i| bit(p, i))).collect()
        }
    }
}
