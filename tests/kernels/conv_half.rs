//! Convolutions and linear layers on tensor cores: operands rounded to the precision's type, sums in f32, against f64 sums
//! of the same rounded operands. Must not know tiles: sizes stand around them.

use half::{bf16, f16};
use libtest_mimic::Trial;
use petard::graph::{Conv, Graph, Op, Role, Value};
use petard::plan::Precision;
use petard::tensor::{DType, Shape};

use super::SCHEDULES;
use crate::emulated::{Build, Profile, Schedule};
use crate::support::Rng;
use crate::support::close::{Tol, close_to_scale, same_bits};
use crate::support::engine::on_a_card;
use crate::support::engine::{Emulation, Engine};
use crate::support::naive::{Values, eval};

/// Image height and width, the convolution, and the batch.
type Row = ([usize; 2], Conv, usize);

const fn square(c: usize, k: usize, kernel: usize, stride: usize, pad: usize) -> Conv {
    Conv { c, k, kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups: 1 }
}

const ROWS: &[Row] = &[
    ([8, 8], square(8, 16, 3, 1, 1), 3),
    ([9, 9], square(16, 24, 3, 1, 1), 8),
    ([7, 7], square(24, 32, 3, 2, 1), 8),
    ([8, 8], square(32, 64, 3, 2, 1), 1),
    ([5, 6], square(64, 64, 3, 1, 1), 3),
    ([6, 6], square(64, 128, 1, 2, 0), 3),
    ([5, 5], square(72, 72, 1, 1, 0), 8),
    ([4, 4], square(128, 72, 3, 1, 1), 1),
    ([9, 9], square(16, 8, 5, 1, 2), 3),
    ([11, 11], square(24, 16, 7, 2, 3), 1),
    ([7, 9], square(8, 8, 3, 1, 0), 8),
    ([9, 8], Conv { dilation: [2, 1], stride: [1, 3], ..square(16, 16, 3, 1, 2) }, 3),
    ([20, 20], square(32, 64, 1, 1, 0), 3),
    ([16, 16], square(64, 64, 1, 1, 0), 4),
    ([12, 11], square(64, 128, 3, 1, 1), 3),
    ([12, 12], square(3, 16, 3, 1, 1), 3),
    ([15, 15], square(3, 64, 7, 2, 3), 1),
    ([9, 7], square(1, 24, 5, 1, 2), 8),
];

/// Inputs and outputs of a linear layer, and the batch.
const LINEAR: &[(usize, usize, usize)] = &[(64, 10, 3), (128, 104, 8), (512, 10, 3), (72, 64, 1)];

/// An output with the sum that its errors come from and the number of its terms.
struct Output {
    value: Value,
    sum: Value,
    terms: usize,
    /// The sum is rounded to the precision's type before it is read.
    rounded: bool,
}

/// One graph and the leaves that the engine rounds before it multiplies.
struct Case {
    name: String,
    graph: Graph,
    outputs: Vec<Output>,
    rounded: Vec<Value>,
    batch: usize,
    precision: Precision,
}

pub fn trials() -> Vec<Trial> {
    let mut cases = Vec::new();
    for (i, row) in ROWS.iter().enumerate() {
        for precision in [Precision::Bf16, Precision::F16, Precision::Tf32] {
            if precision == Precision::Bf16 || i % 3 == usize::from(precision == Precision::Tf32) {
                cases.push(convolution(row, precision, i));
            }
        }
    }
    for (i, &row) in LINEAR.iter().enumerate() {
        cases.push(linear(row, [Precision::Bf16, Precision::F16, Precision::Tf32][i % 3]));
    }
    let both = |case: Case| {
        let case = std::sync::Arc::new(case);
        [(Build::Fast, "fast"), (Build::Check, "check")].map(|(build, name)| {
            let case = case.clone();
            on_a_card(format!("{}::emulated-{name}", case.name), move || case.run(build))
        })
    };
    cases.into_iter().flat_map(both).collect()
}

/// A graph in the making: inputs and outputs last, so only a copy of them can lie in 16 bits.
struct Builder {
    case: Case,
}

impl Builder {
    fn new(name: String, batch: usize, precision: Precision) -> Self {
        let name = format!("conv_half::{}.{name}.n{batch}", precision.name());
        Builder { case: Case { name, graph: Graph::new(), outputs: vec![], rounded: vec![], batch, precision } }
    }
    /// An input that is stored as the precision has it.
    fn input(&mut self, name: &str, dims: &[usize]) -> Value {
        let leaf = self.case.graph.input(name, Shape::per_image(dims), DType::F32);
        self.case.rounded.push(leaf);
        self.copy(leaf)
    }
    fn weight(&mut self, dims: &[usize]) -> Value {
        let leaf = self.case.graph.param("w", dims, Role::Weight);
        self.case.rounded.push(leaf);
        leaf
    }
    /// What is added is stored like other activations, but in tf32 not rounded.
    fn other(&mut self, name: &str, dims: &[usize]) -> Value {
        let other = self.input(name, dims);
        if self.case.precision == Precision::Tf32 || dims.last() < Some(&8) {
            self.case.rounded.pop();
        }
        other
    }
    /// Values with few channels are images, which stay f32.
    fn copy(&mut self, v: Value) -> Value {
        let few = self.case.graph.shape(v).dims.last() < Some(&8);
        if few { v } else { self.case.graph.push(Op::Scale { factor: 1.0 }, &[v]) }
    }
    fn output(&mut self, v: Value, sum: Value, terms: usize, stored: bool) {
        let value = if stored { self.copy(v) } else { v };
        let rounded = value != v && self.case.precision != Precision::Tf32;
        self.case.outputs.push(Output { value, sum, terms, rounded });
    }
}

/// Forward with bias, batch norm or addition, ReLU and mask; input gradient behind a batch norm, or with addition and gate;
/// weight gradient.
fn convolution(row: &Row, precision: Precision, i: usize) -> Case {
    let ([h, w], conv, batch) = *row;
    let mut name = format!("{h}x{w}.c{}.k{}.r{}.s{}x{}", conv.c, conv.k, conv.kernel[0], conv.stride[0], conv.stride[1]);
    name += &format!(".p{}.d{}x{}", conv.pad[0], conv.dilation[0], conv.dilation[1]);
    let mut b = Builder::new(name, batch, precision);
    let (p, q) = conv.out_hw(h, w);
    let taps = conv.kernel[0] * conv.kernel[1];
    let x = b.input("x", &[h, w, conv.c]);
    let g = b.input("g", &[p, q, conv.k]);
    let weights = b.weight(&[conv.k, conv.c, conv.kernel[0], conv.kernel[1]]);
    let mut y = b.case.graph.push(Op::Conv2d(conv), &[x, weights]);
    if i.is_multiple_of(2) {
        let bias = b.case.graph.param("bias", &[conv.k], Role::Weight);
        y = b.case.graph.push(Op::AddBias, &[y, bias]);
    }
    if !i.is_multiple_of(3) {
        let other = b.other("other", &[p, q, conv.k]);
        y = b.case.graph.add(y, other);
    }
    let norm =
        i.is_multiple_of(3).then(|| ["gamma", "beta", "mean", "var"].map(|n| b.case.graph.param(n, &[conv.k], Role::Statistic)));
    if let Some([gamma, beta, mean, var]) = norm {
        y = b.case.graph.push(Op::BatchNorm { eps: 0.0 }, &[y, gamma, beta, mean, var]);
    }
    let (sum, cap) = (y, if i.is_multiple_of(5) { Some(6.0) } else { None });
    if !i.is_multiple_of(4) {
        y = b.case.graph.push(Op::Relu { cap }, &[y]);
        let mask = b.case.graph.push(Op::ReluMask { cap }, &[y]);
        b.case.outputs.push(Output { value: mask, sum, terms: conv.c * taps + 8, rounded: false });
    }
    b.output(y, sum, conv.c * taps + 8, true);
    let dy = norm.map_or(g, |[gamma, .., var]| b.case.graph.push(Op::BatchNormGrad { eps: 0.0 }, &[g, gamma, var]));
    let mut dx = b.case.graph.push(Op::Conv2dGradInput { conv, hw: [h, w] }, &[dy, weights]);
    if !i.is_multiple_of(3) {
        let other = b.other("below", &[h, w, conv.c]);
        let gate = b.case.graph.input("mask", Shape::per_image(&[h, w, conv.c]), DType::Bits);
        dx = b.case.graph.add(dx, other);
        dx = b.case.graph.push(Op::Gate, &[dx, gate]);
    }
    b.output(dx, dx, conv.k * taps + 8, true);
    if conv.c >= 8 {
        let dw = b.case.graph.push(Op::Conv2dGradWeight(conv), &[x, g]);
        b.output(dw, dw, batch * p * q, false);
    }
    b.case
}

/// The layer with f32 results, as for logits, and its gradients where rows are whole vectors.
fn linear((from, to, batch): (usize, usize, usize), precision: Precision) -> Case {
    let mut b = Builder::new(format!("linear.in{from}.out{to}"), batch, precision);
    let x = b.input("x", &[from]);
    let g = b.input("g", &[to]);
    let weights = b.weight(&[to, from]);
    let bias = b.case.graph.param("bias", &[to], Role::Weight);
    let y = b.case.graph.push(Op::Linear, &[x, weights]);
    let y = b.case.graph.push(Op::AddBias, &[y, bias]);
    b.output(y, y, from + 1, false);
    if to.is_multiple_of(8) {
        let dx = b.case.graph.push(Op::LinearGradInput, &[g, weights]);
        b.output(dx, dx, to, true);
        let dw = b.case.graph.push(Op::LinearGradWeight, &[x, g]);
        b.output(dw, dw, batch, false);
    }
    b.case
}

impl Case {
    /// Both cards; the same bits under every schedule, and for each image in a larger batch.
    fn run(&self, build: Build) -> Result<(), String> {
        let given = self.leaves();
        for profile in [Profile::Toy, Profile::Hopper] {
            let mut first: Option<Vec<Vec<f32>>> = None;
            for schedule in SCHEDULES {
                let say = |e: String| format!("{profile:?} {schedule:?}: {e}");
                let got = self.engine(self.batch, profile, build, schedule)?.run(&given).map_err(say)?;
                match &first {
                    Some(first) => self.same(&got, first).map_err(say)?,
                    None => self.judge(&given, &got).map_err(say)?,
                }
                first.get_or_insert(got);
            }
            if build == Build::Fast {
                let order: Vec<usize> = (0..self.batch + 2).map(|n| (n + 1) % self.batch).collect();
                let larger = self.engine(order.len(), profile, build, Schedule::IN_ORDER)?.run(&self.pick(&given, &order))?;
                let first = first.expect("there are schedules");
                for (i, output) in self.outputs.iter().enumerate().filter(|(_, o)| self.graph.shape(o.value).batched) {
                    let elems = self.graph.shape(output.value).elems();
                    let want = rows(&first[i], elems, &order);
                    same_bits(&larger[i], &want, &[order.len(), elems]).map_err(|e| format!("{profile:?} larger batch: {e}"))?;
                }
            }
        }
        Ok(())
    }

    fn engine(&self, batch: usize, profile: Profile, build: Build, schedule: Schedule) -> Result<Engine, String> {
        let outputs: Vec<Value> = self.outputs.iter().map(|o| o.value).collect();
        Engine::emulated(&self.graph, &outputs, Emulation { batch, profile, build, schedule, precision: self.precision })
    }

    fn leaves(&self) -> Values {
        let mut rng = Rng::named(&self.name);
        let leaf = |v: &Value| matches!(self.graph.node(*v).op, Op::Input { .. } | Op::Param { .. });
        let fill = |v: Value| {
            let n = self.graph.shape(v).len(self.batch);
            let data = match (self.graph.node(v).label.as_str(), self.graph.node(v).dtype) {
                (_, DType::Bits) => (0..n).map(|_| rng.below(2) as f64).collect(),
                // Folded into weights before these are rounded: powers of two are not seen by the rounding.
                ("gamma", _) => (0..n).map(|_| [0.5, 1.0, -1.0, 2.0][rng.below(4)]).collect(),
                ("var", _) => vec![1.0; n],
                _ => rng.normals(n),
            };
            (v, data)
        };
        self.graph.values().filter(leaf).map(fill).collect()
    }

    /// Images in another order.
    fn pick(&self, given: &Values, order: &[usize]) -> Values {
        let one = |(&v, data): (&Value, &Vec<f64>)| match self.graph.shape(v) {
            shape if shape.batched => (v, rows(data, shape.elems(), order)),
            _ => (v, data.clone()),
        };
        given.iter().map(one).collect()
    }

    fn judge(&self, given: &Values, got: &[Vec<f32>]) -> Result<(), String> {
        let mut operands = given.clone();
        for v in &self.rounded {
            let data = operands.get_mut(v).expect("every leaf is given");
            data.iter_mut().for_each(|d| *d = rounded(*d, self.precision));
        }
        // Means are subtracted.
        let sign = |v: Value| if self.graph.node(v).label == "mean" { -1.0 } else { 1.0 };
        let sizes = operands.iter().map(|(&v, data)| (v, data.iter().map(|d| sign(v) * d.abs()).collect()));
        let sizes: Values = sizes.collect();
        for (output, got) in self.outputs.iter().zip(got) {
            let want = eval(&self.graph, self.batch, &operands, &[output.value, output.sum]);
            let size = eval(&self.graph, self.batch, &sizes, &[output.sum]).remove(0);
            let tol = Tol::random_sum(output.terms);
            // What the sum may be off by, and what storing it adds: half a unit in its last place.
            let bound = |i: usize| {
                let sum = tol.abs + tol.rel * size[i];
                sum + if output.rounded { half_unit(want[0][i].abs() + sum, self.precision) } else { 0.0 }
            };
            let what = |e: String| format!("{:?}: {e}", self.graph.node(output.value).op);
            if let Op::ReluMask { cap } = self.graph.node(output.value).op {
                self.judge_mask(got, &want, cap, bound).map_err(what)?;
                continue;
            }
            let bounds: Vec<f64> = (0..got.len()).map(bound).collect();
            close_to_scale(got, &want[0], &bounds, &[got.len()], Tol { abs: 0.0, rel: 1.0, l2: 1.0 }).map_err(what)?;
        }
        Ok(())
    }

    /// Bits may differ only where the sum lies as near to a bound as its own error.
    fn judge_mask(&self, got: &[f32], want: &[Vec<f64>], cap: Option<f32>, bound: impl Fn(usize) -> f64) -> Result<(), String> {
        let near = |i: usize| {
            let edges = [Some(0.0), cap].into_iter().flatten();
            edges.into_iter().any(|edge| (want[1][i] - f64::from(edge)).abs() <= bound(i))
        };
        let wrong = (0..got.len()).find(|&i| f64::from(got[i]) != want[0][i] && !near(i));
        wrong.map_or(Ok(()), |i| Err(format!("bit {i} of {} is {}, the sum is {}", got.len(), got[i], want[1][i])))
    }

    fn same(&self, got: &[Vec<f32>], want: &[Vec<f32>]) -> Result<(), String> {
        let mut both = got.iter().zip(want);
        both.try_for_each(|(got, want)| same_bits(got, want, &[want.len()])).map_err(|e| format!("against another order: {e}"))
    }
}

fn rows<T: Clone>(data: &[T], elems: usize, order: &[usize]) -> Vec<T> {
    order.iter().flat_map(|&n| data[n * elems..(n + 1) * elems].to_vec()).collect()
}

/// As the engine rounds an operand.
fn rounded(v: f64, precision: Precision) -> f64 {
    let v = v as f32;
    match precision {
        Precision::F32 => f64::from(v),
        // Thirteen bits fewer, ties away from zero.
        Precision::Tf32 => f64::from(f32::from_bits((v.to_bits() + 0x1000) & !0x1fff)),
        Precision::Bf16 => bf16::from_f32(v).to_f64(),
        Precision::F16 => f16::from_f32(v).to_f64(),
    }
}

/// Half the distance between the neighbours of `v` in the precision's storage.
fn half_unit(v: f64, precision: Precision) -> f64 {
    let (bits, least) = if precision == Precision::Bf16 { (8, -126) } else { (11, -14) };
    let exponent = if v > 0.0 { (v.log2().floor() as i32).max(least) } else { least };
    2f64.powi(exponent - bits)
}
