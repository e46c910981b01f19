//! Runs a plan on the CPU: one step after the other, each parallel over images or pixel rows.
//! Must not know how plans are made, nor who asks for them.

mod attacks;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;

use super::arena::{Arena, Views};
use super::conv::{self, ConvPanels, Way, Workspace};
use super::gemm::{self, LinearPanels};
use super::{Epi, Isa, dropout, fft, head, layout, loss, lrn, norm, objective, optim, perturb, pgd, pointwise, pool, rows};
use crate::error::{Error, Result};
use crate::graph::{Conv, Graph, Op, Value};
use crate::plan::{Executor, Fused, Head, Plan, Program, Step};

/// How the CPU executor works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Instruction set of the inner loops.
    pub isa: Isa,
    /// Worker threads; 0 = one for each core.
    pub threads: usize,
    /// Only direct kernels: no algorithm that trades accuracy for speed.
    pub exact: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { isa: Isa::detect(), threads: 0, exact: false }
    }
}

/// Packed weights by weight value, direction and folded scale.
type PanelKey = (Value, bool, Option<usize>);

enum Panels {
    Conv(ConvPanels),
    Linear(LinearPanels),
}

/// The CPU executor of one plan.
pub struct CpuExecutor {
    plan: Arc<Plan>,
    options: Options,
    workers: rayon::ThreadPool,
    arena: Arena,
    panels: HashMap<PanelKey, Panels>,
    /// Panels older than the last `pack`; a segment packs those that it reads before it runs.
    stale: HashSet<PanelKey>,
    work: Workspace,
}

impl CpuExecutor {
    /// Allocates the arena and starts the workers. Parameters are all zero until written.
    ///
    /// # Errors
    /// [`Error::Device`] where memory or threads cannot be had.
    pub fn new(plan: Arc<Plan>, options: Options) -> Result<Self> {
        let workers = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
        let workers = workers.map_err(|e| Error::device(format!("cannot start {} worker threads: {e}", options.threads)))?;
        let arena = Arena::new(plan.arena_bytes())?;
        let work = Workspace::new(workers.current_num_threads());
        Ok(CpuExecutor { plan, options, workers, arena, panels: HashMap::new(), stale: HashSet::new(), work })
    }

    /// Folds batch norms, then packs every weight in the form its steps read: the first time at once, later when a segment
    /// needs it, since training changes all weights in each step but seldom runs all segments.
    fn pack(&mut self) {
        let plan = Arc::clone(&self.plan);
        for c in plan.constants() {
            let slot = |v: Value| plan.slot(v).expect("parameters have lasting places");
            let channels = c.slot.bytes / 8;
            let (gamma, var) = (self.arena.f32(slot(c.gamma)).to_vec(), self.arena.f32(slot(c.var)).to_vec());
            let mut both = vec![0.0f32; 2 * channels];
            let (scale, bias) = both.split_at_mut(channels);
            match c.shift {
                Some((beta, mean)) => {
                    let mut mean = self.arena.f32(slot(mean)).to_vec();
                    if let Some(before) = c.bias {
                        mean.iter_mut().zip(self.arena.f32(slot(before))).for_each(|(m, b)| *m -= b);
                    }
                    norm::fold(c.eps, &gamma, self.arena.f32(slot(beta)), &mean, &var, scale, bias);
                }
                None => norm::batch_norm_grad_scale(c.eps, &gamma, &var, scale),
            }
            self.arena.f32_mut(c.slot).copy_from_slice(&both);
        }
        self.stale = self.panels.keys().copied().collect();
        let CpuExecutor { workers, options, arena, panels, .. } = self;
        for step in plan.programs().iter().flat_map(|p| &p.steps) {
            let Some(key) = panel_key(step) else { continue };
            if panels.contains_key(&key) {
                continue;
            }
            let (weight, scale) = sources(&plan, arena, key);
            let packed = workers.install(|| pack_one(*options, &plan, step, weight, scale));
            panels.insert(key, packed);
        }
    }

    /// Packs what `program` reads and is not packed yet.
    fn refresh(&mut self, program: &Program) {
        let CpuExecutor { plan, workers, arena, panels, stale, .. } = self;
        let wanted: HashSet<PanelKey> = program.steps.iter().filter_map(panel_key).filter(|key| stale.remove(key)).collect();
        if wanted.is_empty() {
            return;
        }
        let old: Vec<_> = panels.iter_mut().filter(|(key, _)| wanted.contains(key)).collect();
        workers.install(|| {
            old.into_par_iter().for_each(|(key, panels)| {
                let (weight, scale) = sources(plan, arena, *key);
                match panels {
                    Panels::Conv(p) => p.refill(weight, scale),
                    Panels::Linear(p) => p.refill(weight),
                }
            });
        });
    }

    fn run_program(&mut self, program: &Program) {
        self.refresh(program);
        let CpuExecutor { plan, options, workers, arena, panels, work, .. } = self;
        if cfg!(debug_assertions) {
            arena.poison(plan.persistent_bytes());
        }
        workers.install(|| {
            for step in &program.steps {
                let mut views = Views::of(arena, plan, program, step);
                let cx = Context { plan, panels, work, isa: options.isa, exact: options.exact, n: plan.batch() };
                cx.run(step, &mut views);
            }
        });
    }
}

impl Executor for CpuExecutor {
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn write(&mut self, value: Value, first_row: usize, bytes: &[u8]) -> Result<()> {
        let (slot, rows) = self.plan.transfer(value, first_row, bytes.len())?;
        self.arena.bytes_mut(slot.offset + rows.start..slot.offset + rows.end).copy_from_slice(bytes);
        Ok(())
    }
    fn read(&self, value: Value, first_row: usize, out: &mut [u8]) -> Result<()> {
        let (slot, rows) = self.plan.transfer(value, first_row, out.len())?;
        out.copy_from_slice(self.arena.bytes(slot.offset + rows.start..slot.offset + rows.end));
        Ok(())
    }
    fn run(&mut self, segment: &str) -> Result<()> {
        if segment == "pack" {
            self.pack();
            return Ok(());
        }
        let plan = Arc::clone(&self.plan);
        let program = plan.program(segment).ok_or_else(|| Error::plan(format!("the plan has no segment `{segment}`")))?;
        self.run_program(program);
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
    fn packed_bytes(&self) -> usize {
        let bytes = |p: &Panels| match p {
            Panels::Conv(p) => p.bytes(),
            Panels::Linear(p) => p.bytes(),
        };
        self.panels.values().map(bytes).sum()
    }
}

/// Which packed weights a step reads. A scale right after a convolution, or right before its gradient, is folded in.
fn panel_key(step: &Step) -> Option<PanelKey> {
    let weight = step.packed_weight()?;
    let scale = match (&step.head, step.epilogue.first()) {
        (Head::Op(Op::Conv2d(_)), Some(Fused::Scale(c))) => Some(*c),
        (Head::Op(Op::Conv2dGradInput { .. }), _) => step.prologue,
        _ => None,
    };
    let backward = matches!(&step.head, Head::Op(Op::Conv2dGradInput { .. } | Op::LinearGradInput));
    Some((weight, backward, scale))
}

/// The weights of a panel, and the scale that is folded into them.
fn sources<'a>(plan: &Plan, arena: &'a Arena, (weight, _, scale): PanelKey) -> (&'a [f32], Option<&'a [f32]>) {
    let scale = scale.map(|c| {
        let both = arena.f32(plan.constants()[c].slot);
        &both[..both.len() / 2]
    });
    (arena.f32(plan.slot(weight).expect("weights have lasting places")), scale)
}

fn pack_one(options: Options, plan: &Plan, step: &Step, weight: &[f32], scale: Option<&[f32]>) -> Panels {
    let Head::Op(op) = &step.head else { unreachable!("only ops read packed weights") };
    let (isa, graph) = (options.isa, plan.graph());
    let way = |conv: &Conv| {
        let (height, width, _) = graph.shape(step.output).hwc();
        Way::choose(conv, [height, width], plan.batch(), options.exact)
    };
    match op {
        Op::Conv2d(conv) => Panels::Conv(ConvPanels::forward(isa, conv, way(conv), weight, scale)),
        Op::Conv2dGradInput { conv, .. } => Panels::Conv(ConvPanels::grad_input(isa, conv, way(conv), weight, scale)),
        Op::Linear | Op::LinearGradInput => {
            let dims = &graph.shape(step.inputs[1]).dims;
            let (n_out, n_in) = (dims[0], dims[1]);
            Panels::Linear(match op {
                Op::Linear => LinearPanels::forward(isa, n_out, n_in, weight),
                _ => LinearPanels::grad_input(isa, n_out, n_in, weight),
            })
        }
        other => unreachable!("{other:?} reads no packed weights"),
    }
}

/// What a step needs beside its own slices.
struct Context<'a> {
    plan: &'a Plan,
    panels: &'a HashMap<PanelKey, Panels>,
    work: &'a Workspace,
    isa: Isa,
    exact: bool,
    n: usize,
}

impl Context<'_> {
    fn run(&self, step: &Step, views: &mut Views) {
        let out = views.take(step.output);
        let side = step.side.map(|v| views.take(v));
        match &step.head {
            Head::Op(op) if step.packed_weight().is_some() => self.run_packed(step, op, views, f32s(out)),
            Head::Op(op) => run_op(self, step, op, views, out, side),
            Head::Chain => {
                let mut masks = masks(step, views);
                let mut epilogue = epilogue(&step.epilogue, views, &mut masks);
                pointwise::chain(self.isa, self.channels(step.output), views.f32(step.inputs[0]), f32s(out), &mut epilogue);
            }
            Head::Copy => out.copy_from_slice(views.bytes(step.inputs[0])),
        }
    }

    fn run_packed(&self, step: &Step, op: &Op, views: &mut Views, out: &mut [f32]) {
        let key = panel_key(step).expect("the step reads packed weights");
        let panels = self.panels.get(&key).expect("`pack` runs after each change of parameters");
        // A scale that was folded into the weights is not applied again.
        let folded = usize::from(matches!(op, Op::Conv2d(_)) && key.2.is_some());
        let mut masks = masks(step, views);
        let mut epilogue = epilogue(&step.epilogue[folded..], views, &mut masks);
        let x = views.f32(step.inputs[0]);
        match (panels, op) {
            (Panels::Conv(p), Op::Conv2d(_)) => {
                let (h, w, _) = self.graph().shape(step.inputs[0]).hwc();
                p.run(self.work, self.n, [h, w], x, out, &mut epilogue);
            }
            (Panels::Conv(p), Op::Conv2dGradInput { hw, .. }) => p.run(self.work, self.n, *hw, x, out, &mut epilogue),
            (Panels::Linear(p), _) => p.run(self.work, self.n, x, out, &mut epilogue),
            (Panels::Conv(_), other) => unreachable!("{other:?} with convolution weights"),
        }
    }

    fn graph(&self) -> &Graph {
        self.plan.graph()
    }
    fn channels(&self, v: Value) -> usize {
        self.graph().shape(v).dims.last().copied().unwrap_or(1)
    }
    fn hwc(&self, v: Value) -> [usize; 3] {
        self.graph().shape(v).hwc().into()
    }
}

/// The masks that a step writes, in the order of its fused operations.
fn masks<'a>(step: &Step, views: &mut Views<'a>) -> Vec<&'a mut [u8]> {
    let mask = |f: &Fused| match f {
        Fused::MaskOut { mask, .. } => Some(views.take(*mask)),
        _ => None,
    };
    step.epilogue.iter().filter_map(mask).collect()
}

fn epilogue<'a>(fused: &[Fused], views: &'a Views, masks: &'a mut [&mut [u8]]) -> Vec<Epi<'a>> {
    let mut masks = masks.iter_mut();
    let one = |f: &Fused| match f {
        Fused::Scale(c) => Epi::Scale(views.constant(*c).0),
        Fused::Shift(c) => Epi::Bias(views.constant(*c).1),
        Fused::Bias(v) => Epi::Bias(views.f32(*v)),
        Fused::Add(v) => Epi::Add(views.f32(*v)),
        Fused::Relu { cap } => Epi::Relu { cap: *cap },
        Fused::MaskOut { cap, .. } => Epi::MaskOut { bits: masks.next().expect("one mask for each mask output"), cap: *cap },
        Fused::Gate(v) => Epi::Gate(views.bytes(*v)),
    };
    fused.iter().map(one).collect()
}

/// Every op that reads no packed weights and is no chain, in one match.
fn run_op(cx: &Context, step: &Step, op: &Op, views: &mut Views, out: &mut [u8], side: Option<&mut [u8]>) {
    let (n, x) = (cx.n, &step.inputs);
    let f = |i: usize| views.f32(x[i]);
    let c = || cx.channels(x[0]);
    match op {
        Op::Normalise { mean, std } => pointwise::normalise(mean, std, f(0), f32s(out)),
        Op::NormaliseGrad { std } => pointwise::normalise_grad(std, f(0), f32s(out)),
        Op::Conv2dGradWeight(conv) => {
            let ([h, w, _], [p, q, _]) = (cx.hwc(x[0]), cx.hwc(x[1]));
            let way = Way::choose(conv, [p, q], n, cx.exact);
            conv::grad_weight((cx.isa, way, cx.work), conv, n, [h, w], f(0), f(1), f32s(out));
        }
        Op::LinearGradWeight => gemm::linear_grad_weight(n, c(), cx.channels(x[1]), f(0), f(1), f32s(out)),
        Op::SumChannels => norm::sum_channels(cx.isa, c(), f(0), f32s(out)),
        Op::BatchNormGradParams { eps } => norm::grad_params(cx.isa, *eps, c(), f(0), f(1), f(2), f(3), f32s(out)),
        Op::BatchStats => norm::stats(cx.isa, c(), f(0), f32s(out)),
        Op::BatchNormTrain { eps } => norm::train(cx.isa, *eps, c(), f(0), f(1), f(2), f(3), f32s(out)),
        Op::BatchNormTrainGradParams { eps } => norm::train_grad_params(cx.isa, *eps, c(), f(0), f(1), f(2), f32s(out)),
        Op::BatchNormTrainGrad { eps } => norm::train_grad(cx.isa, *eps, c(), f(0), f(1), f(2), f(3), f(4), f32s(out)),
        Op::RunningUpdate { momentum, row } => {
            let count = cx.graph().shape(x[2]).len(n) / cx.channels(x[2]);
            let old = if in_place(views, step, 0) { f32s_ref(out).to_vec() } else { f(0).to_vec() };
            norm::running_update(*momentum, *row, &old, f(1), count, f32s(out));
        }
        Op::Row { index } => layout::row(*index, f(0), f32s(out)),
        Op::ReluMask { cap } => {
            let mut scratch = vec![0.0; f(0).len()];
            pointwise::chain(cx.isa, c(), f(0), &mut scratch, &mut [Epi::MaskOut { bits: out, cap: *cap }]);
        }
        Op::MaxPool(p) => pool::max_pool(p, n, cx.hwc(x[0]), f(0), f32s(out), side),
        Op::MaxPoolIndex(p) => {
            let mut scratch = vec![0.0; out.len()];
            pool::max_pool(p, n, cx.hwc(x[0]), f(0), &mut scratch, Some(out));
        }
        Op::MaxPoolGrad { pool: p, .. } => pool::max_pool_grad(p, n, cx.hwc(step.output), f(0), views.bytes(x[1]), f32s(out)),
        Op::AvgPool(p) => pool::avg_pool(p, n, cx.hwc(x[0]), f(0), f32s(out)),
        Op::AvgPoolGrad { pool: p, .. } => pool::avg_pool_grad(p, n, cx.hwc(step.output), f(0), f32s(out)),
        Op::GlobalAvgPool => pool::global_avg_pool(n, cx.hwc(x[0]), f(0), f32s(out)),
        Op::GlobalAvgPoolGrad { .. } => pool::global_avg_pool_grad(n, cx.hwc(step.output), f(0), f32s(out)),
        Op::Add => pointwise::chain(cx.isa, c(), f(0), f32s(out), &mut [Epi::Add(f(1))]),
        Op::Scale { factor } => pointwise::scale(*factor, f(0), f32s(out)),
        Op::DropoutMask { p, site, seed } => {
            let (elems, step_no) = (cx.graph().shape(x[0]).elems(), views.i32(x[2])[0]);
            let site = dropout::Site { p: *p, site: *site, seed: *seed };
            dropout::mask(site, elems, c(), views.i32(x[1]), step_no, out);
        }
        Op::Dropout { p } => dropout::apply(*p, c(), f(0), views.bytes(x[1]), f32s(out)),
        _ => run_rows(cx, step, op, views, out),
    }
}

/// The second half of the match: layout, losses, and the attacks' own ops.
fn run_rows(cx: &Context, step: &Step, op: &Op, views: &mut Views, out: &mut [u8]) {
    let (n, x) = (cx.n, &step.inputs);
    let f = |i: usize| views.f32(x[i]);
    let c = || cx.channels(x[0]);
    let target = |loss: &crate::graph::Loss| loss.targeted().then(|| views.i32(x[2]));
    match op {
        Op::Concat => {
            let parts: Vec<(&[f32], usize)> = x.iter().map(|&v| (views.f32(v), cx.channels(v))).collect();
            layout::concat(&parts, f32s(out));
        }
        Op::SliceChannels { start, len } => layout::slice_channels(c(), *start, *len, f(0), f32s(out)),
        Op::PadChannels { start, total } => layout::pad_channels(c(), *start, *total, f(0), f32s(out)),
        Op::SubsamplePad { stride, before, after } => layout::subsample_pad(
            layout::Shortcut { stride: *stride, before: *before, after: *after },
            n,
            cx.hwc(x[0]),
            f(0),
            f32s(out),
        ),
        Op::SubsamplePadGrad { stride, before, after, .. } => {
            let by = layout::Shortcut { stride: *stride, before: *before, after: *after };
            layout::subsample_pad_grad(by, n, cx.hwc(step.output), f(0), f32s(out));
        }
        Op::Window { from, hw, fill } => layout::window(n, cx.hwc(x[0]), *from, *hw, *fill, f(0), f32s(out)),
        Op::ResponseNorm(norm) => lrn::forward(norm, c(), f(0), f32s(out)),
        Op::ResponseNormGrad(norm) => lrn::grad(norm, c(), f(0), f(1), f32s(out)),
        Op::Flatten => layout::flatten(n, cx.hwc(x[0]), f(0), f32s(out)),
        Op::Unflatten { hwc } => layout::unflatten(n, *hwc, f(0), f32s(out)),
        Op::UnitRows { gamma } => head::unit_rows(*gamma, c(), f(0), f32s(out)),
        Op::UnitRowsGrad { gamma } => head::unit_rows_grad(*gamma, c(), f(0), f(1), f32s(out)),
        Op::RowScales { gamma } => head::row_scales(*gamma, f(0), f32s(out)),
        Op::RowScalesGrad { gamma } => head::row_scales_grad(*gamma, f(0), f(1), f32s(out)),
        Op::ScaleChannels => head::scale_channels(f(0), f(1), f32s(out)),
        Op::ProductChannels => head::product_channels(f(0), f(1), f32s(out)),
        Op::ScaleRows => head::scale_rows(f(0), f(1), f32s(out)),
        Op::ClassMargins => head::class_margins(f(0), views.i32(x[1]), f(2), f32s(out)),
        Op::Perturbation => perturb::perturbation(f(0), f(1), f(2), f32s(out)),
        Op::Loss(kind) => loss::loss(*kind, c(), f(0), views.i32(x[1]), target(kind), f32s(out)),
        Op::LossGrad(kind) => loss::loss_grad(*kind, c(), f(0), views.i32(x[1]), target(kind), f32s(out)),
        Op::Objective(of) | Op::ObjectiveGrad { of, .. } => {
            let pair = usize::from(of.reads_pair());
            let label = of.reads_label().then(|| views.i32(x[1 + pair]));
            let rows = objective::Rows { of: *of, classes: c(), z: f(0), w: f(pair), label };
            match op {
                Op::ObjectiveGrad { by, .. } => objective::grad(&rows, *by, f32s(out)),
                _ => objective::value(&rows, f32s(out)),
            }
        }
        Op::Fooled { hit } => loss::fooled(*hit, c(), f(0), views.i32(x[1]), f32s(out)),
        Op::Greater => rows::greater(f(0), f(1), f32s(out)),
        Op::MaxRows => rows::max_rows(f(0), f(1), f32s(out)),
        Op::SelectRows if in_place(views, step, 2) => rows::select_rows_in_place(f(0), f(1), f32s(out)),
        Op::SelectRows => rows::select_rows(f(0), f(1), f(2), f32s(out)),
        Op::Column { index } => rows::column(*index, f(0), f32s(out)),
        Op::GradStatus => rows::grad_status(n, f(0), f32s(out)),
        Op::Start { kind } => {
            let lasting = pgd::Place { index: views.i32(x[1]), restart: views.i32(x[2]), length: f(3), seed: views.i32(x[4]) };
            pgd::start(*kind, cx.hwc(x[0]), f(0), lasting, f32s(out));
        }
        Op::Between => pgd::between(f(0), f(1), f(2), f32s(out)),
        Op::PgdStep { norm } => {
            let out = f32s(out);
            if !in_place(views, step, 0) {
                out.copy_from_slice(f(0));
            }
            pgd::step(*norm, n, out, f(1), f(2), f(3), f(4));
        }
        Op::SgdVelocity | Op::SgdStep { .. } | Op::Ema => {
            let out = f32s(out);
            if !in_place(views, step, 0) {
                out.copy_from_slice(f(0));
            }
            match op {
                Op::SgdVelocity => optim::velocity(out, f(1), f(2), f(3)),
                Op::SgdStep { nesterov } => optim::step(*nesterov, out, f(1), f(2), f(3)),
                _ => optim::ema(out, f(1), f(2)),
            }
        }
        Op::Rfft2 { dual } => fft::rfft2(cx.hwc(x[0]), *dual, f(0), f32s(out)),
        Op::Irfft2 { dual, .. } => fft::irfft2(cx.hwc(step.output), *dual, f(0), f32s(out)),
        Op::SpectrumFilter => fft::filter(cx.hwc(x[0]), f(0), f(1), f32s(out)),
        Op::RingSums { power } => fft::ring_sums(cx.hwc(x[0]), *power, f(0), f32s(out)),
        Op::Bass => fft::bass(cx.hwc(x[0]), f(0), f32s(out)),
        other => attacks::run(cx, step, other, views, out),
    }
}

/// Whether the output lies where input `position` lies.
fn in_place(views: &Views, step: &Step, position: usize) -> bool {
    views.same_place(step.output, step.inputs[position])
}

fn f32s(bytes: &mut [u8]) -> &mut [f32] {
    bytemuck::cast_slice_mut(bytes)
}

fn f32s_ref(bytes: &[u8]) -> &[f32] {
    bytemuck::cast_slice(bytes)
}
