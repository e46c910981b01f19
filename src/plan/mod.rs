//! A graph made ready to run: steps in order, each value at a fixed place in one arena. Plain data from pure functions.
//! Must not know any network, and no device: what a step costs or how it is computed is the executor's business.

mod arena;
mod fuse;
mod show;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Value};
use crate::tensor::DType;

pub use storage::Precision;

/// What one named part of a plan must compute.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Name, by which it is run: `infer`, `attack`, `step`. `pack` is taken: it prepares the parameters.
    pub name: String,
    /// Values that can be read after a run.
    pub outputs: Vec<Value>,
    /// `(state, next)`: after a run the input or parameter `state` holds what `next` was.
    pub carries: Vec<(Value, Value)>,
}

/// A place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First byte, a multiple of [`ALIGN`].
    pub offset: usize,
    /// Bytes in use.
    pub bytes: usize,
}

/// Alignment of every slot, in bytes.
pub const ALIGN: usize = 256;

/// A per-channel constant that the `pack` segment derives from parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Scale of an eval-mode batch norm; the parameter values are `(gamma, var)`.
    pub gamma: Value,
    /// See `gamma`.
    pub var: Value,
    /// `(beta, mean)` where the bias is needed too.
    pub shift: Option<(Value, Value)>,
    /// Bias of the layer before, which the batch norm's own bias absorbs.
    pub bias: Option<Value>,
    /// Batch norm's epsilon.
    pub eps: f32,
    /// `[2, C]` f32: scale, then bias.
    pub slot: Slot,
    /// Layer, for people.
    pub label: String,
}

/// An element-wise operation that rides on the step before it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fused {
    /// Times the scale row of a constant.
    Scale(usize),
    /// Plus the bias row of a constant.
    Shift(usize),
    /// Plus a parameter, one value a channel.
    Bias(Value),
    /// Plus another value.
    Add(Value),
    /// ReLU, capped or not.
    Relu {
        /// Upper bound.
        cap: Option<f32>,
    },
    /// Stores the bits of `0 < v (< cap)` as this value.
    MaskOut {
        /// The mask, a value of bits.
        mask: Value,
        /// Upper bound, exclusive.
        cap: Option<f32>,
    },
    /// Zero where the bit of this mask is clear.
    Gate(Value),
}

/// What a step computes before its fused operations.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// One op of the graph.
    Op(Op),
    /// Nothing: the first value read goes straight into the fused operations.
    Chain,
    /// A copy, where a carry could not be written in place.
    Copy,
}

/// One launch: a head, what rides on it, and the values it reads and writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is computed.
    pub head: Head,
    /// The head's inputs, in the order of its op.
    pub inputs: Vec<Value>,
    /// Constant whose scale multiplies the channels of the first input (a batch norm's gradient, absorbed).
    pub prologue: Option<usize>,
    /// Fused operations in order.
    pub epilogue: Vec<Fused>,
    /// The value the step leaves.
    pub output: Value,
    /// A second output: a max-pool's winners.
    pub side: Option<Value>,
    /// Layer, for people.
    pub label: String,
}

impl Step {
    /// Values read: inputs, then operands of fused operations.
    pub fn reads(&self) -> Vec<Value> {
        let mut out = self.inputs.clone();
        for f in &self.epilogue {
            match f {
                Fused::Bias(v) | Fused::Add(v) | Fused::Gate(v) => out.push(*v),
                Fused::Scale(_) | Fused::Shift(_) | Fused::Relu { .. } | Fused::MaskOut { .. } => {}
            }
        }
        out
    }
    /// Values written: the output, the side output, masks.
    pub fn writes(&self) -> Vec<Value> {
        let masks = self.epilogue.iter().filter_map(|f| match f {
            Fused::MaskOut { mask, .. } => Some(*mask),
            _ => None,
        });
        std::iter::once(self.output).chain(self.side).chain(masks).collect()
    }
    /// Constants read.
    pub fn constants(&self) -> impl Iterator<Item = usize> + '_ {
        let fused = self.epilogue.iter().filter_map(|f| match f {
            Fused::Scale(c) | Fused::Shift(c) => Some(*c),
            _ => None,
        });
        self.prologue.into_iter().chain(fused)
    }
}

/// A named list of steps with its own use of the transient part of the arena.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name of the segment.
    pub name: String,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Where each value of this segment lies.
    slots: BTreeMap<Value, Slot>,
}

impl Program {
    /// Where `value` lies while this segment runs.
    pub fn slot(&self, value: Value) -> Option<Slot> {
        self.slots.get(&value).copied()
    }
}

/// Everything an executor needs: steps, places, and the graph they came from.
#[derive(Clone, Debug)]
pub struct Plan {
    graph: Graph,
    batch: usize,
    precision: Precision,
    half: BTreeSet<Value>,
    programs: Vec<Program>,
    constants: Vec<Constant>,
    persistent: BTreeMap<Value, Slot>,
    persistent_bytes: usize,
    arena_bytes: usize,
}

/// Plans `segments` of `graph` for batches of exactly `batch` images, everything stored in 32 bits.
///
/// # Errors
/// [`Error::Plan`] where a segment has no outputs or carries, two have one name, a carry's types differ, or the batch
/// is empty.
pub fn compile(graph: &Graph, segments: &[Segment], batch: usize) -> Result<Plan> {
    compile_for(graph, segments, batch, Precision::F32)
}

/// The same for a device that computes in `precision`: what flows inside a network may lie in 16 bits.
///
/// # Errors
/// As for [`compile`].
pub fn compile_for(graph: &Graph, segments: &[Segment], batch: usize, precision: Precision) -> Result<Plan> {
    check(graph, segments, batch)?;
    let mut constants = Vec::new();
    let mut lists = Vec::new();
    for segment in segments {
        lists.push(fuse::steps(graph, segment, &mut constants)?);
    }
    Ok(arena::place(graph, segments, lists, constants, batch, precision))
}

fn check(graph: &Graph, segments: &[Segment], batch: usize) -> Result<()> {
    if batch == 0 || segments.is_empty() {
        return Err(Error::plan("a plan needs a batch of at least 1 and one segment"));
    }
    for (i, segment) in segments.iter().enumerate() {
        let name = &segment.name;
        if name == "pack" || segments[..i].iter().any(|s| s.name == *name) {
            return Err(Error::plan(format!("segment name `{name}` is taken")));
        }
        if segment.outputs.is_empty() && segment.carries.is_empty() {
            return Err(Error::plan(format!("segment `{name}` computes nothing")));
        }
        for &(state, next) in &segment.carries {
            let (a, b) = (graph.node(state), graph.node(next));
            if !matches!(a.op, Op::Input { .. } | Op::Param { .. }) || matches!(b.op, Op::Input { .. } | Op::Param { .. }) {
                return Err(Error::plan(format!(
                    "segment `{name}`: a carry leads from a computed value to an input or parameter"
                )));
            }
            if segment.outputs.contains(&next) {
                return Err(Error::plan(format!("segment `{name}`: read `{}` instead of the value carried into it", a.label)));
            }
            if (&a.shape, a.dtype) != (&b.shape, b.dtype) {
                return Err(Error::plan(format!("segment `{name}`: carry `{}` is {} but becomes {}", a.label, a.shape, b.shape)));
            }
        }
    }
    Ok(())
}

impl Plan {
    /// The graph the plan was made from.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
    /// Images in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }
    /// What it was planned for.
    pub fn precision(&self) -> Precision {
        self.precision
    }
    /// The element type in which `value` lies in memory.
    pub fn stored(&self, value: Value) -> DType {
        match self.precision.half() {
            Some(half) if self.half.contains(&value) => half,
            _ => self.graph.node(value).dtype,
        }
    }
    /// The segments, without `pack`.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }
    /// The segment called `name`.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|p| p.name == name)
    }
    /// Constants that the `pack` segment makes.
    pub fn constants(&self) -> &[Constant] {
        &self.constants
    }
    /// Place of a value that outlives a run: inputs, parameters, outputs.
    pub fn slot(&self, value: Value) -> Option<Slot> {
        self.persistent.get(&value).copied()
    }
    /// The place of a value that outlives a run, and which of its bytes a transfer of rows from `first_row` on touches.
    ///
    /// # Errors
    /// [`Error::Plan`] where `value` has no lasting place or the bytes are not whole rows inside it.
    pub fn transfer(&self, value: Value, first_row: usize, bytes: usize) -> Result<(Slot, Range<usize>)> {
        let name = || &self.graph.node(value).label;
        let slot = self.slot(value).ok_or_else(|| Error::plan(format!("value of `{}` does not outlive a run", name())))?;
        let row = self.row_bytes(value);
        let start = first_row * row;
        if !bytes.is_multiple_of(row) || start + bytes > slot.bytes {
            let (name, from) = (name(), first_row);
            return Err(Error::plan(format!("{bytes} bytes from row {from} are not rows of `{name}` ({row} bytes each)")));
        }
        Ok((slot, start..start + bytes))
    }
    /// Bytes of the whole arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }
    /// Bytes at the start of the arena that keep their meaning between runs.
    pub fn persistent_bytes(&self) -> usize {
        self.persistent_bytes
    }
    /// Bytes of one row (one image) of `value`.
    pub fn row_bytes(&self, value: Value) -> usize {
        self.graph.node(value).shape.row_bytes(self.stored(value))
    }
    /// Rows of `value`: the batch, or 1 for what belongs to the whole batch.
    pub fn rows(&self, value: Value) -> usize {
        if self.graph.shape(value).batched { self.batch } else { 1 }
    }
}

/// Runs a plan on one device. Values are in the plan's own layout: NHWC, little-endian, rows = images.
pub trait Executor {
    /// The plan being run.
    fn plan(&self) -> &Plan;
    /// Writes whole rows of an input or parameter, from `first_row` on. Parameters take effect at the next `run("pack")`.
    ///
    /// # Errors
    /// [`Error::Plan`] where `value` has no lasting place or the bytes are not whole rows inside it.
    fn write(&mut self, value: Value, first_row: usize, bytes: &[u8]) -> Result<()>;
    /// Reads whole rows of an input, parameter or output.
    ///
    /// # Errors
    /// As for `write`.
    fn read(&self, value: Value, first_row: usize, out: &mut [u8]) -> Result<()>;
    /// Runs a segment; `pack` prepares what is derived from the parameters.
    ///
    /// # Errors
    /// [`Error::Plan`] where there is no such segment, [`Error::Device`] where the device fails.
    fn run(&mut self, segment: &str) -> Result<()>;
    /// Bytes that packed weights take beside the arena.
    fn packed_bytes(&self) -> usize;
    /// Waits until everything that was run is done.
    ///
    /// # Errors
    /// [`Error::Device`] where the device failed.
    fn sync(&mut self) -> Result<()>;

    /// `write` for floats.
    ///
    /// # Errors
    /// As for `write`.
    fn write_f32(&mut self, value: Value, first_row: usize, data: &[f32]) -> Result<()> {
        assert_eq!(self.plan().graph().node(value).dtype, DType::F32, "floats into a value of another type");
        self.write(value, first_row, bytemuck::cast_slice(data))
    }
    /// `write` for integers.
    ///
    /// # Errors
    /// As for `write`.
    fn write_i32(&mut self, value: Value, first_row: usize, data: &[i32]) -> Result<()> {
        assert_eq!(self.plan().graph().node(value).dtype, DType::I32, "integers into a value of another type");
        self.write(value, first_row, bytemuck::cast_slice(data))
    }
    /// `rows` rows of floats from `first_row` on.
    ///
    /// # Errors
    /// As for `read`.
    fn read_f32(&self, value: Value, first_row: usize, rows: usize) -> Result<Vec<f32>> {
        assert_eq!(self.plan().graph().node(value).dtype, DType::F32, "floats from a value of another type");
        let mut out = vec![0.0f32; rows * self.plan().graph().shape(value).elems()];
        self.read(value, first_row, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }
}
