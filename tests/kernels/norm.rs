//! Normalisation of pixels and batch norm: running statistics, the batch's own, and all gradients.

use petard::graph::{Graph, Op, Role, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, Fill, Probe};
use crate::support::naive::eval;

/// Height, width, channels.
const ROWS: &[[usize; 3]] = &[[1, 1, 1], [1, 1, 17], [3, 5, 1], [4, 4, 3], [5, 3, 16], [2, 7, 31], [8, 8, 64]];
/// More pixels than one block of a card takes, threads left over, more channels than a block is wide.
const LARGE: &[[usize; 3]] = &[[24, 24, 8], [40, 9, 24], [2, 2, 264]];
const EPS: f32 = 1e-5;
/// Squares of huge or tiny data leave the range of f32.
const MODEST: &[Fill] = &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros];

pub fn cases() -> Vec<Case> {
    let kinds = [normalise, normalise_grad, eval_mode, eval_grad, eval_grad_params, stats, train, train_grad_params, train_grad];
    let mut cases: Vec<Case> = ROWS.iter().flat_map(|&row| kinds.iter().map(move |kind| kind(row))).collect();
    cases.extend(ROWS.iter().flat_map(|&row| [running(row, 0), running(row, 1)]));
    let kinds = [eval_grad_params, stats, train, train_grad_params, train_grad];
    cases.extend(LARGE.iter().flat_map(|&row| kinds.iter().map(move |kind| kind(row))));
    cases.extend([stats_far([6, 6, 8]), eval_after_bias([4, 4, 3])]);
    cases
}

fn case(what: &str, row: [usize; 3], graph: Graph, output: Value, bound: Bound) -> Case {
    let [h, w, c] = row;
    Case::new(format!("norm::{what}.{h}x{w}.c{c}"), format!("{row:?}"), graph, output, bound)
}

/// An empty graph, and a way to name its images and per-channel parameters.
fn image(g: &mut Graph, name: &str, row: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&row), DType::F32)
}

fn vector(g: &mut Graph, name: &str, row: [usize; 3]) -> Value {
    g.param(name, &[row[2]], Role::Statistic)
}

fn pairs(g: &mut Graph, name: &str, row: [usize; 3]) -> Value {
    g.input(name, Shape::fixed(&[2, row[2]]), DType::F32)
}

fn mean_and_std(c: usize) -> (Vec<f32>, Vec<f32>) {
    ((0..c).map(|i| 0.4 + 0.01 * i as f32).collect(), (0..c).map(|i| 0.2 + 0.02 * i as f32).collect())
}

fn normalise(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x-", row);
    let (mean, std) = mean_and_std(row[2]);
    let y = g.push(Op::Normalise { mean, std }, &[x]);
    case("normalise", row, g, y, Bound::Roundings(4))
}

fn normalise_grad(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let dy = image(&mut g, "g", row);
    let dx = g.push(Op::NormaliseGrad { std: mean_and_std(row[2]).1 }, &[dy]);
    case("normalise_grad", row, g, dx, Bound::Roundings(3))
}

fn eval_mode(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let params = ["gamma", "beta", "mean-", "var"].map(|name| vector(&mut g, name, row));
    let y = g.push(Op::BatchNorm { eps: EPS }, &[x, params[0], params[1], params[2], params[3]]);
    case("eval", row, g, y, Bound::Roundings(6))
}

/// The bias of the layer before goes into the constant of the norm.
fn eval_after_bias(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let params = ["bias", "gamma", "beta", "mean-", "var"].map(|name| vector(&mut g, name, row));
    let shifted = g.push(Op::AddBias, &[x, params[0]]);
    let y = g.push(Op::BatchNorm { eps: EPS }, &[shifted, params[1], params[2], params[3], params[4]]);
    case("eval_after_bias", row, g, y, Bound::Roundings(7))
}

fn eval_grad(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let dy = image(&mut g, "g", row);
    let (gamma, var) = (vector(&mut g, "gamma", row), vector(&mut g, "var", row));
    let dx = g.push(Op::BatchNormGrad { eps: EPS }, &[dy, gamma, var]);
    case("eval_grad", row, g, dx, Bound::Roundings(4))
}

fn eval_grad_params(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let (dy, x) = (image(&mut g, "g", row), image(&mut g, "x", row));
    let (mean, var) = (vector(&mut g, "mean-", row), vector(&mut g, "var", row));
    let sums = g.push(Op::BatchNormGradParams { eps: EPS }, &[dy, x, mean, var]);
    Case { fills: MODEST, ..case("eval_grad_params", row, g, sums, Bound::Sum(8 * row[0] * row[1])) }
}

fn stats(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let rows = g.push(Op::BatchStats, &[x]);
    let scale = |probe: &Probe| {
        // The variance of data on one side of zero is not the size of what was summed: take the mean square.
        let of = |power: i32| {
            let moved = probe.given.iter().map(|(&v, data)| (v, data.iter().map(|d| d.abs().powi(power)).collect())).collect();
            eval(probe.graph, probe.batch, &moved, &[probe.output]).remove(0)
        };
        let (first, second, c) = (of(1), of(2), probe.want.len() / 2);
        [&first[..c], &second[..c]].concat()
    };
    Case { fills: MODEST, scale, ..case("stats", row, g, rows, Bound::Sum(8 * row[0] * row[1])) }
}

/// A mean of many deviations: the variance must keep its own digits.
fn stats_far(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "far", row);
    let rows = g.push(Op::BatchStats, &[x]);
    let case = case("stats_far", row, g, rows, Bound::Sum(8 * row[0] * row[1]));
    Case { fills: &[Fill::Normal], scale: super::result, ..case }
}

fn train(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let (x, stats) = (image(&mut g, "x", row), pairs(&mut g, "stats", row));
    let (gamma, beta) = (vector(&mut g, "gamma", row), vector(&mut g, "beta", row));
    let y = g.push(Op::BatchNormTrain { eps: EPS }, &[x, stats, gamma, beta]);
    case("train", row, g, y, Bound::Roundings(6))
}

fn train_grad_params(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let (dy, x) = (image(&mut g, "g", row), image(&mut g, "x", row));
    let stats = pairs(&mut g, "stats", row);
    let sums = g.push(Op::BatchNormTrainGradParams { eps: EPS }, &[dy, x, stats]);
    Case { fills: MODEST, ..case("train_grad_params", row, g, sums, Bound::Sum(8 * row[0] * row[1])) }
}

fn train_grad(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let (dy, x) = (image(&mut g, "g-", row), image(&mut g, "x", row));
    let (stats, gamma, sums) = (pairs(&mut g, "stats", row), vector(&mut g, "gamma", row), pairs(&mut g, "sums", row));
    let dx = g.push(Op::BatchNormTrainGrad { eps: EPS }, &[dy, x, stats, gamma, sums]);
    Case { fills: MODEST, ..case("train_grad", row, g, dx, Bound::Roundings(10)) }
}

fn running(row: [usize; 3], which: usize) -> Case {
    let mut g = Graph::new();
    let running = g.param("running", &[row[2]], Role::Statistic);
    let (stats, x) = (pairs(&mut g, "rows", row), image(&mut g, "x", row));
    let next = g.push(Op::RunningUpdate { momentum: 0.1, row: which }, &[running, stats, x]);
    case(["running_mean", "running_var"][which], row, g, next, Bound::Roundings(6))
}
