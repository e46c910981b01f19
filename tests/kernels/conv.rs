//! Convolution: forward, both gradients, and the chains that ride on them. Sizes stand around the tiles of the fast loops.

use petard::graph::{Conv, Graph, Op, Role, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, Fill, NUMBERS};

/// Image height and width, and the convolution.
type Row = ([usize; 2], Conv);

const fn square(c: usize, k: usize, kernel: usize, stride: usize, pad: usize) -> Conv {
    Conv { c, k, kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], dilation: [1; 2], groups: 1 }
}

const ROWS: &[Row] = &[
    ([1, 1], square(1, 1, 1, 1, 0)),
    ([1, 1], square(3, 5, 3, 1, 1)),
    ([2, 2], square(4, 4, 3, 1, 1)),
    ([7, 7], square(3, 5, 3, 2, 1)),
    ([8, 8], square(3, 16, 3, 1, 1)),
    ([9, 5], square(16, 17, 3, 1, 1)),
    ([8, 8], square(15, 31, 3, 1, 1)),
    ([6, 7], square(17, 33, 3, 1, 1)),
    ([12, 12], square(32, 32, 3, 1, 1)),
    ([4, 4], square(64, 48, 3, 1, 1)),
    ([13, 11], square(8, 65, 3, 1, 1)),
    ([8, 8], square(16, 32, 3, 2, 1)),
    ([9, 9], square(16, 16, 3, 2, 1)),
    ([8, 8], square(16, 32, 1, 2, 0)),
    ([7, 7], square(33, 20, 1, 1, 0)),
    ([5, 5], square(64, 64, 1, 1, 0)),
    ([5, 5], square(6, 7, 3, 1, 0)),
    ([19, 17], square(8, 9, 3, 1, 1)),
    ([7, 10], square(16, 40, 3, 1, 0)),
    ([5, 6], square(24, 16, 3, 1, 2)),
    ([2, 2], square(40, 33, 3, 1, 1)),
    ([9, 6], Conv { pad: [0, 2], ..square(17, 8, 3, 1, 0) }),
    ([3, 14], Conv { pad: [2, 1], ..square(33, 64, 3, 1, 0) }),
    ([3, 3], square(2, 3, 3, 1, 3)),
    ([9, 9], square(3, 8, 5, 1, 2)),
    ([15, 15], square(3, 16, 7, 2, 3)),
    ([11, 11], square(3, 6, 4, 4, 1)),
    ([6, 6], square(5, 4, 2, 2, 0)),
    ([7, 9], Conv { kernel: [1, 7], pad: [0, 3], ..square(6, 8, 1, 1, 0) }),
    ([9, 7], Conv { kernel: [7, 1], pad: [3, 0], stride: [2, 1], ..square(6, 8, 1, 1, 0) }),
    ([9, 9], Conv { dilation: [2, 2], ..square(4, 6, 3, 1, 2) }),
    ([8, 11], Conv { dilation: [1, 3], stride: [2, 1], ..square(3, 5, 3, 1, 3) }),
    ([6, 6], Conv { groups: 2, ..square(8, 12, 3, 1, 1) }),
    ([7, 6], Conv { groups: 4, ..square(32, 16, 3, 2, 1) }),
    ([7, 7], Conv { groups: 3, ..square(3, 3, 3, 1, 1) }),
    ([8, 8], Conv { groups: 16, ..square(16, 16, 3, 1, 1) }),
    ([7, 9], Conv { groups: 33, ..square(33, 33, 3, 2, 1) }),
    ([9, 9], Conv { groups: 12, ..square(12, 12, 5, 1, 2) }),
    ([6, 6], Conv { groups: 6, ..square(6, 12, 3, 1, 1) }),
    ([7, 7], Conv { groups: 8, dilation: [2, 2], ..square(8, 8, 3, 1, 2) }),
    // Kernels of the Inception networks and of NASNet: one row or column, depthwise 5x5 and 7x7 with a stride.
    ([8, 8], Conv { kernel: [7, 1], pad: [3, 0], ..square(16, 24, 1, 1, 0) }),
    ([5, 6], Conv { kernel: [1, 3], pad: [0, 1], ..square(24, 16, 1, 1, 0) }),
    ([6, 5], Conv { kernel: [3, 1], pad: [1, 0], ..square(8, 33, 1, 1, 0) }),
    ([11, 10], Conv { groups: 10, ..square(10, 10, 5, 2, 2) }),
    ([11, 11], Conv { groups: 24, ..square(24, 24, 7, 2, 3) }),
    ([13, 12], Conv { groups: 8, ..square(8, 8, 7, 2, 0) }),
    ([8, 8], Conv { groups: 32, ..square(128, 128, 3, 2, 1) }),
    ([9, 9], square(3, 8, 11, 4, 2)),
    // Three images around the tiles of cards: 96 and 384 pixels are whole tiles, 126 and 129 are one less and one more.
    ([8, 4], square(20, 15, 1, 1, 0)),
    ([22, 1], square(5, 32, 1, 1, 0)),
    ([3, 14], square(12, 63, 3, 1, 1)),
    ([1, 43], square(8, 16, 1, 1, 0)),
    ([16, 8], square(4, 33, 1, 1, 0)),
    ([6, 7], Conv { groups: 2, ..square(128, 144, 1, 1, 0) }),
    ([5, 5], Conv { groups: 72, ..square(72, 72, 3, 1, 1) }),
    // Long sums.
    ([2, 2], square(512, 8, 3, 1, 1)),
    ([2, 2], square(8, 512, 3, 1, 1)),
];

/// How much more than direct sums Winograd's may err, for the largest tile F(4x4, 3x3), `y = At [(G w Gt) * (Bt x B)] A`.
/// In one dimension a rounding of product p, relative to its size, costs result i at most `|At[i][p]|` times that size.
///
/// Random data: the mean square of product p is `|G_p|^2 |Bt_p|^2` against 3 for a direct sum of three terms, so the
/// roundings grow by the root of `sum_p At[i][p]^2 |G_p|^2 |Bt_p|^2 / 3`, which is largest for i = 3: 94.3 / 3. In two
/// dimensions that holds for rows and columns: the root of 31.4 squared.
const WINOGRAD_RANDOM: f64 = 31.4;
/// Any data: the same with sums of magnitudes, `sum_p |At[i][p]| |G_p|_1 |Bt_p|_1 / 3` is at most 48 / 3, squared for two
/// dimensions, if all weights and sources are as large as the largest. Those of the structured fills are on average at
/// least 0.6 times as large.
const WINOGRAD_WORST: f64 = 16.0 * 16.0 / (0.6 * 0.6);
/// Roundings of the transforms of weights, sources and products, beside those of the sum.
const WINOGRAD_ROUNDINGS: usize = 16;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in ROWS {
        cases.extend([forward(row, true), grad_input(row, true), grad_weight(row)]);
        let ([_, _], conv) = row;
        let winograd = conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.dilation == [1, 1] && conv.groups == 1;
        if winograd {
            cases.extend([forward(row, false), grad_input(row, false)]);
        }
    }
    for (i, row) in ROWS.iter().enumerate().filter(|(i, _)| i % 3 == 0 || *i > 25) {
        cases.push(chain(row, i % 2 == 0));
        cases.push(backward_chain(row));
    }
    cases
}

fn case(what: &str, row: &Row, graph: Graph, output: Value, terms: usize) -> Case {
    let ([h, w], conv) = row;
    let [kh, kw] = conv.kernel;
    let mut name = format!("conv::{what}.{h}x{w}.c{}.k{}.r{kh}x{kw}.s{}x{}", conv.c, conv.k, conv.stride[0], conv.stride[1]);
    name += &format!(".p{}x{}", conv.pad[0], conv.pad[1]);
    if conv.dilation != [1, 1] {
        name += &format!(".d{}x{}", conv.dilation[0], conv.dilation[1]);
    }
    if conv.groups != 1 {
        name += &format!(".g{}", conv.groups);
    }
    Case::new(name, format!("{row:?}"), graph, output, Bound::Sum(terms))
}

/// For fast algorithms: wider bounds, and no NaN, which spreads over a tile.
fn fast(mut case: Case, exact: bool, terms: usize) -> Case {
    if !exact {
        case.bound = Bound::FastSum { terms: terms + WINOGRAD_ROUNDINGS, random: WINOGRAD_RANDOM, worst: WINOGRAD_WORST };
        // A tile mixes its elements: the bound must hold against the largest of them.
        case.scale = |probe| {
            let scale = super::magnitude(probe);
            vec![scale.iter().copied().fold(0.0, f64::max); scale.len()]
        };
        case.fills = &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros];
    }
    case.exact = exact;
    case
}

fn image(g: &mut Graph, name: &str, dims: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&dims), DType::F32)
}

fn weight(g: &mut Graph, conv: &Conv) -> Value {
    g.param("w", &[conv.k, conv.c / conv.groups, conv.kernel[0], conv.kernel[1]], Role::Weight)
}

fn forward(row: &Row, exact: bool) -> Case {
    let ([h, w], conv) = *row;
    let mut g = Graph::new();
    let x = image(&mut g, "x", [h, w, conv.c]);
    let weights = weight(&mut g, &conv);
    let y = g.push(Op::Conv2d(conv), &[x, weights]);
    let terms = conv.c / conv.groups * conv.kernel[0] * conv.kernel[1];
    fast(case(if exact { "fwd" } else { "fwd_fast" }, row, g, y, terms), exact, terms)
}

fn grad_input(row: &Row, exact: bool) -> Case {
    let ([h, w], conv) = *row;
    let mut g = Graph::new();
    let (p, q) = conv.out_hw(h, w);
    let dy = image(&mut g, "g", [p, q, conv.k]);
    let weights = weight(&mut g, &conv);
    let dx = g.push(Op::Conv2dGradInput { conv, hw: [h, w] }, &[dy, weights]);
    let terms = conv.k / conv.groups * conv.kernel[0] * conv.kernel[1];
    fast(case(if exact { "grad_input" } else { "grad_input_fast" }, row, g, dx, terms), exact, terms)
}

fn grad_weight(row: &Row) -> Case {
    let ([h, w], conv) = *row;
    let mut g = Graph::new();
    let (p, q) = conv.out_hw(h, w);
    let x = image(&mut g, "x", [h, w, conv.c]);
    let dy = image(&mut g, "g", [p, q, conv.k]);
    let dw = g.push(Op::Conv2dGradWeight(conv), &[x, dy]);
    // Huge times huge leaves the range of f32, tiny times tiny falls below it.
    Case { fills: &[Fill::Normal, Fill::Equal, Fill::Ties, Fill::Zeros], ..case("grad_weight", row, g, dw, 8 * p * q) }
}

/// Convolution, batch norm, addition, ReLU and its mask: one fused step. `first_add` puts the addition before the norm.
fn chain(row: &Row, first_add: bool) -> Case {
    let ([h, w], conv) = *row;
    let mut g = Graph::new();
    let x = image(&mut g, "x", [h, w, conv.c]);
    let weights = weight(&mut g, &conv);
    let mut y = g.push(Op::Conv2d(conv), &[x, weights]);
    let (p, q) = conv.out_hw(h, w);
    let other = image(&mut g, "other", [p, q, conv.k]);
    let [gamma, beta, mean, var] = ["gamma", "beta", "mean-", "var"].map(|n| g.param(n, &[conv.k], Role::Statistic));
    if first_add {
        let bias = g.param("bias", &[conv.k], Role::Weight);
        y = g.push(Op::AddBias, &[y, bias]);
        y = g.add(y, other);
        y = g.push(Op::BatchNorm { eps: 1e-5 }, &[y, gamma, beta, mean, var]);
    } else {
        y = g.push(Op::BatchNorm { eps: 1e-5 }, &[y, gamma, beta, mean, var]);
        y = g.add(y, other);
    }
    let cap = if first_add { Some(6.0) } else { None };
    y = g.push(Op::Relu { cap }, &[y]);
    let mask = g.push(Op::ReluMask { cap }, &[y]);
    let terms = conv.c / conv.groups * conv.kernel[0] * conv.kernel[1] + 8;
    let mut case = case(if first_add { "chain_add_norm_relu6" } else { "chain_norm_add_relu" }, row, g, y, terms);
    case.outputs.push(mask);
    case.fills = NUMBERS;
    // The ReLU hides the size of what was summed: judge by the sum before it.
    case.scale = |probe| {
        let before = probe.graph.node(probe.output).inputs[0];
        super::magnitude(&super::Probe { output: before, ..*probe })
    };
    case
}

/// ReLU's gate and batch norm's gradient before the gradient of a convolution, an addition behind it.
fn backward_chain(row: &Row) -> Case {
    let ([h, w], conv) = *row;
    let mut g = Graph::new();
    let (p, q) = conv.out_hw(h, w);
    let dy = image(&mut g, "g", [p, q, conv.k]);
    let mask = g.input("mask", Shape::per_image(&[p, q, conv.k]), DType::Bits);
    let [gamma, var] = ["gamma", "var"].map(|n| g.param(n, &[conv.k], Role::Statistic));
    let dy = g.push(Op::Gate, &[dy, mask]);
    let dy = g.push(Op::BatchNormGrad { eps: 1e-5 }, &[dy, gamma, var]);
    let weights = weight(&mut g, &conv);
    let dx = g.push(Op::Conv2dGradInput { conv, hw: [h, w] }, &[dy, weights]);
    let other = image(&mut g, "other", [h, w, conv.c]);
    let below = g.input("below", Shape::per_image(&[h, w, conv.c]), DType::Bits);
    let dx = g.add(dx, other);
    let dx = g.push(Op::Gate, &[dx, below]);
    let terms = conv.k / conv.groups * conv.kernel[0] * conv.kernel[1] + 6;
    Case { fills: NUMBERS, ..case("chain_backward", row, g, dx, terms) }
}
