//! A plan turned into launches for one device: which kernel, specialised how, on which bytes. Pure: nothing is allocated,
//! compiled or started here, so launch geometry is tested without a device.
//! Must not know drivers.

use std::collections::HashMap;

use super::driver::{DeviceProps, Dims};
use super::spec::KernelSpec;
use super::{
    apgd, climb, conv, dropout, fft, gemm, head, hop, hyperplane, layout, loss, lrn, minimum, momentum, norm, objective, optim,
    perturb, pgd, pointwise, pool, rows, search, square,
};
use crate::graph::{Graph, Nearest, Op, Value};
use crate::plan::{Fused, Head, Plan, Program, Slot, Step};
use crate::tensor::DType;

/// Where the arena is among the buffers of a lowered plan.
pub const ARENA: usize = 0;
/// Where scratch memory is: it means nothing between steps.
pub const SCRATCH: usize = 1;

/// One kernel argument before addresses are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    /// Bytes of a buffer.
    At {
        /// Index of the buffer.
        buffer: usize,
        /// First byte.
        offset: u64,
        /// Bytes that the kernel may touch.
        bytes: u64,
    },
    /// A pointer that is never read.
    Null,
    /// `int`.
    I32(i32),
    /// `long long`.
    I64(i64),
    /// `float`.
    F32(f32),
}

/// What a launch has to do at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written, each once.
    pub bytes: u64,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Which kernel.
    pub spec: KernelSpec,
    /// Its geometry.
    pub dims: Dims,
    /// Its arguments in order.
    pub args: Vec<Operand>,
    /// What it has to do.
    pub work: Work,
    /// Layer, for people.
    pub label: String,
}

/// Device memory beside the arena.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Size.
    pub bytes: u64,
    /// What it holds from the start; nothing for scratch and packed weights.
    pub contents: Option<Vec<u8>>,
}

/// All launches of a plan by segment (`pack` first) and the memory they need.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Arena, scratch, then tables and packed weights.
    pub buffers: Vec<Buffer>,
    /// `(segment, launches)`.
    pub programs: Vec<(String, Vec<Launch>)>,
}

/// The launches of `plan` on a device like `props`.
pub fn lower(plan: &Plan, props: &DeviceProps) -> Lowered {
    let buffer = |bytes| Buffer { bytes, contents: None };
    let mut cx = Lower {
        plan,
        props,
        program: None,
        buffers: vec![buffer(plan.arena_bytes() as u64), buffer(0)],
        scratch: 0,
        launches: Vec::new(),
        pack: Vec::new(),
        packed: HashMap::new(),
        tables: HashMap::new(),
        label: String::new(),
    };
    norm::fold(&mut cx);
    cx.pack = std::mem::take(&mut cx.launches);
    let mut programs = vec![("pack".to_string(), Vec::new())];
    for program in plan.programs() {
        cx.program = Some(program);
        for steps in optim::group(&program.steps) {
            cx.scratch = 0;
            cx.label.clone_from(&steps[0].label);
            match steps {
                [step] => cx.step(step),
                updates => optim::lower(&mut cx, updates),
            }
        }
        programs.push((program.name.clone(), std::mem::take(&mut cx.launches)));
    }
    programs[0].1 = cx.pack;
    Lowered { buffers: cx.buffers, programs }
}

/// Packed weights: which, for what purpose, with which folded scale.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PackKey {
    pub weight: Value,
    /// Name of the layout and whatever else tells two layouts of one weight apart.
    pub layout: String,
    /// Constant whose scale is folded in.
    pub scale: Option<usize>,
}

/// The launches of a plan in the making.
pub(super) struct Lower<'a> {
    pub plan: &'a Plan,
    pub props: &'a DeviceProps,
    program: Option<&'a Program>,
    buffers: Vec<Buffer>,
    /// Scratch bytes that the current step has taken.
    scratch: u64,
    launches: Vec<Launch>,
    pack: Vec<Launch>,
    packed: HashMap<PackKey, Operand>,
    tables: HashMap<Vec<u8>, Operand>,
    label: String,
}

/// The fused operations that one kernel applies before it stores: see `kernels/lib/epilogue.cuh`.
pub(super) struct Epilogue {
    list: i64,
    cap: f32,
    half: i64,
    operands: Vec<Operand>,
    /// Bytes that the operands hold.
    pub bytes: u64,
}

/// Operations one kernel can apply.
const EPILOGUE_MAX: usize = 8;

impl Epilogue {
    /// The constants `P_EPI`, `P_CAP` and `P_HALF`.
    pub fn constants(&self, spec: KernelSpec) -> KernelSpec {
        spec.with("P_EPI", self.list).with_f32("P_CAP", self.cap).with("P_HALF", self.half)
    }
    /// The kernel parameters `EPI_PARAMS`.
    pub fn args(&self) -> Vec<Operand> {
        let mut out = self.operands.clone();
        out.resize(EPILOGUE_MAX, Operand::Null);
        out
    }
}

/// The number of a storage type in kernel constants.
pub(super) fn code(stored: DType) -> i64 {
    match stored {
        DType::F32 => 0,
        DType::Bf16 => 1,
        DType::F16 => 2,
        other => unreachable!("{other:?} is not a float"),
    }
}

/// What a kernel applies itself, and what is left for further element-wise kernels.
pub(super) fn split_epilogue(fused: &[Fused]) -> (&[Fused], &[Fused]) {
    let cap = |f: &Fused| match f {
        Fused::Relu { cap } | Fused::MaskOut { cap, .. } => *cap,
        _ => None,
    };
    let first = fused.iter().find_map(cap);
    let other = fused.iter().position(|f| cap(f).is_some() && cap(f) != first).unwrap_or(fused.len());
    fused.split_at(other.min(EPILOGUE_MAX))
}

impl Lower<'_> {
    pub fn graph(&self) -> &Graph {
        self.plan.graph()
    }
    /// Images in a batch.
    pub fn n(&self) -> usize {
        self.plan.batch()
    }
    /// Size of the last dimension, 1 for a scalar an image.
    pub fn channels(&self, v: Value) -> usize {
        self.graph().shape(v).dims.last().copied().unwrap_or(1)
    }
    pub fn hwc(&self, v: Value) -> [usize; 3] {
        self.graph().shape(v).hwc().into()
    }
    /// Elements of the whole batch.
    pub fn len(&self, v: Value) -> usize {
        self.graph().shape(v).len(self.n())
    }
    /// How `v` lies in memory.
    pub fn stored(&self, v: Value) -> DType {
        self.plan.stored(v)
    }
    /// The place of a value in the running segment, or its lasting place.
    pub fn at(&self, v: Value) -> Operand {
        let slot = self.program.map_or_else(|| self.plan.slot(v), |p| p.slot(v));
        arena(slot.unwrap_or_else(|| panic!("value {v:?} of `{}` has no place", self.label)))
    }
    /// Bytes of the whole value.
    pub fn bytes(&self, v: Value) -> u64 {
        self.graph().shape(v).bytes(self.stored(v), self.n()) as u64
    }
    /// Scale `[C]` and bias `[C]` of a constant.
    pub fn constant(&self, index: usize) -> (Operand, Operand) {
        let slot = self.plan.constants()[index].slot;
        let half = slot.bytes / 2;
        let bias = Slot { offset: slot.offset + half, bytes: half };
        (arena(Slot { bytes: half, ..slot }), arena(bias))
    }
    /// Memory that this step alone uses; every call gives other bytes.
    pub fn scratch(&mut self, bytes: u64) -> Operand {
        let offset = self.scratch;
        self.scratch = (offset + bytes).next_multiple_of(256);
        self.buffers[SCRATCH].bytes = self.buffers[SCRATCH].bytes.max(self.scratch);
        Operand::At { buffer: SCRATCH, offset, bytes }
    }
    /// Constant bytes on the device; equal ones lie there once.
    pub fn table(&mut self, bytes: &[u8]) -> Operand {
        if let Some(&operand) = self.tables.get(bytes) {
            return operand;
        }
        let operand = self.buffer(bytes.len() as u64, Some(bytes.to_vec()));
        self.tables.insert(bytes.to_vec(), operand);
        operand
    }
    /// Weights in the layout that `key` names, `bytes` long; `make` emits the launches that fill them, once.
    pub fn packed(&mut self, key: PackKey, bytes: u64, make: impl FnOnce(&mut Self, Operand)) -> Operand {
        if let Some(&operand) = self.packed.get(&key) {
            return operand;
        }
        let operand = self.buffer(bytes, None);
        let outer = std::mem::take(&mut self.launches);
        make(self, operand);
        let mine = std::mem::replace(&mut self.launches, outer);
        self.pack.extend(mine);
        self.packed.insert(key, operand);
        operand
    }
    /// Appends a launch.
    pub fn emit(&mut self, spec: KernelSpec, dims: Dims, args: Vec<Operand>, work: Work) {
        assert!(dims.grid.iter().all(|&g| g > 0) && dims.grid[1] < 65536 && dims.grid[2] < 65536, "{spec}: {dims:?}");
        assert!(dims.block > 0 && dims.block <= 1024, "{spec}: {dims:?}");
        assert!(dims.shared <= self.props.shared_bytes, "{spec}: {} bytes of shared memory", dims.shared);
        self.launches.push(Launch { spec, dims, args, work, label: self.label.clone() });
    }
    /// `v` in storage `want`: itself, or a cast copy in scratch memory.
    pub fn in_storage(&mut self, v: Value, want: DType) -> Operand {
        if self.stored(v) == want {
            return self.at(v);
        }
        let copy = self.scratch(self.graph().shape(v).bytes(want, self.n()) as u64);
        pointwise::cast(self, v, copy, want);
        copy
    }

    /// The kernel side of a list of fused operations; at most what [`split_epilogue`] lets through.
    pub fn epilogue(&self, fused: &[Fused]) -> Epilogue {
        assert!(fused.len() <= EPILOGUE_MAX, "{} fused operations", fused.len());
        let mut out = Epilogue { list: 0, cap: 0.0, half: 0, operands: Vec::new(), bytes: 0 };
        for (i, f) in fused.iter().enumerate() {
            let (op, operand) = match f {
                Fused::Scale(c) => (1, self.constant(*c).0),
                Fused::Shift(c) => (2, self.constant(*c).1),
                Fused::Bias(v) => (2, self.at(*v)),
                Fused::Add(v) if self.stored(*v) == DType::F32 => (3, self.at(*v)),
                Fused::Add(v) => {
                    out.half = code(self.stored(*v));
                    (4, self.at(*v))
                }
                Fused::Relu { cap } => (if cap.is_some() { 6 } else { 5 }, Operand::Null),
                Fused::MaskOut { mask, cap } => (if cap.is_some() { 8 } else { 7 }, self.at(*mask)),
                Fused::Gate(v) => (9, self.at(*v)),
            };
            if let Fused::Relu { cap: Some(cap) } | Fused::MaskOut { cap: Some(cap), .. } = f {
                out.cap = *cap;
            }
            if let Operand::At { bytes, .. } = operand {
                out.bytes += bytes;
            }
            out.list |= op << (4 * i);
            out.operands.push(operand);
        }
        out
    }

    fn buffer(&mut self, bytes: u64, contents: Option<Vec<u8>>) -> Operand {
        self.buffers.push(Buffer { bytes, contents });
        Operand::At { buffer: self.buffers.len() - 1, offset: 0, bytes }
    }

    fn step(&mut self, step: &Step) {
        match &step.head {
            Head::Chain => pointwise::chain(self, step.inputs[0], step.output, &step.epilogue),
            Head::Copy => pointwise::copy(self, step.inputs[0], step.output),
            Head::Op(op) => self.op(step, op),
        }
    }

    /// Every op, to the stem that computes it.
    fn op(&mut self, step: &Step, op: &Op) {
        match op {
            Op::Conv2d(_) | Op::Conv2dGradInput { .. } | Op::Conv2dGradWeight(_) => conv::lower(self, step, op),
            Op::Linear | Op::LinearGradInput | Op::LinearGradWeight => gemm::lower(self, step, op),
            Op::SumChannels
            | Op::BatchNormGradParams { .. }
            | Op::BatchStats
            | Op::BatchNormTrain { .. }
            | Op::BatchNormTrainGradParams { .. }
            | Op::BatchNormTrainGrad { .. }
            | Op::RunningUpdate { .. } => norm::lower(self, step, op),
            Op::Normalise { .. } | Op::NormaliseGrad { .. } | Op::ReluMask { .. } | Op::Add | Op::Scale { .. } => {
                pointwise::lower(self, step, op);
            }
            Op::MaxPool(_)
            | Op::MaxPoolIndex(_)
            | Op::MaxPoolGrad { .. }
            | Op::AvgPool(_)
            | Op::AvgPoolGrad { .. }
            | Op::GlobalAvgPool
            | Op::GlobalAvgPoolGrad { .. } => pool::lower(self, step, op),
            Op::Row { .. }
            | Op::Concat
            | Op::SliceChannels { .. }
            | Op::PadChannels { .. }
            | Op::SubsamplePad { .. }
            | Op::SubsamplePadGrad { .. }
            | Op::Window { .. }
            | Op::Flatten
            | Op::Unflatten { .. } => layout::lower(self, step, op),
            Op::ResponseNorm(norm) | Op::ResponseNormGrad(norm) => lrn::lower(self, step, op, norm),
            Op::DropoutMask { .. } | Op::Dropout { .. } => dropout::lower(self, step, op),
            Op::Loss(_) | Op::LossGrad(_) | Op::Fooled { .. } => loss::lower(self, step, op),
            Op::Greater | Op::MaxRows | Op::SelectRows | Op::Column { .. } | Op::GradStatus => rows::lower(self, step, op),
            Op::UnitRows { .. }
            | Op::UnitRowsGrad { .. }
            | Op::RowScales { .. }
            | Op::RowScalesGrad { .. }
            | Op::ScaleChannels
            | Op::ProductChannels
            | Op::ScaleRows
            | Op::ClassMargins => head::lower(self, step, op),
            Op::Perturbation => perturb::lower(self, step),
            Op::Objective(_) | Op::ObjectiveGrad { .. } => objective::lower(self, step, op),
            Op::Between => pgd::between(self, step),
            Op::Start { kind } => pgd::start(self, step, *kind),
            Op::PgdStep { norm } => pgd::lower(self, step, *norm),
            Op::Hyperplane(plane) => hyperplane::lower(self, step, *plane),
            Op::ApgdState(_) | Op::ApgdMove { .. } => apgd::lower(self, step, op),
            Op::SquareStart { .. } | Op::SquareControl | Op::SquareStep { .. } => square::lower(self, step, op),
            Op::HopDistance { .. } | Op::HopControl(_) | Op::HopGather | Op::HopQuery { .. } => hop::lower(self, step, op),
            Op::Tick { .. }
            | Op::Ahead
            | Op::Jitter
            | Op::Diversify(_)
            | Op::DiversifyGrad(_)
            | Op::Accumulate { .. }
            | Op::Blur
            | Op::Momentum => momentum::lower(self, step, op),
            Op::Kl | Op::KlGrad | Op::Moment { .. } | Op::AdamStep { .. } | Op::Shake => climb::lower(self, step, op),
            Op::Nearest(nearest @ (Nearest::Follow(_) | Nearest::FollowStep(_))) => minimum::lower(self, step, *nearest),
            Op::Nearest(nearest) => search::lower(self, step, *nearest),
            Op::SgdVelocity | Op::SgdStep { .. } | Op::Ema => optim::lower(self, std::slice::from_ref(step)),
            Op::Rfft2 { .. } | Op::Irfft2 { .. } | Op::SpectrumFilter | Op::RingSums { .. } | Op::Bass => {
                fft::lower(self, step, op);
            }
            Op::Input { .. }
            | Op::Param { .. }
            | Op::AddBias
            | Op::BatchNorm { .. }
            | Op::BatchNormGrad { .. }
            | Op::Relu { .. }
            | Op::Gate => {
                unreachable!("{op:?} is a leaf or part of a chain")
            }
        }
    }
}

fn arena(slot: Slot) -> Operand {
    Operand::At { buffer: ARENA, offset: slot.offset as u64, bytes: slot.bytes as u64 }
}
