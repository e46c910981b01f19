//! Derivatives: the nodes that `vjp` appends, evaluated by the oracle, against finite differences of the oracle's forward.
//! Must not run the engine.

mod objectives;

use libtest_mimic::Trial;
use petard::graph::{Conv, Graph, Loss, Op, Pool, Role, Value, vjp};
use petard::tensor::{DType, Shape};

use crate::support::naive::{Values, eval};
use crate::support::{Rng, trial};

pub fn trials() -> Vec<Trial> {
    let smooth = CASES.iter().map(|&(name, build)| trial(format!("gradients::{name}"), move || check(name, build)));
    let losses = LOSSES.iter().map(|&(name, loss)| trial(format!("gradients::loss.{name}"), move || check_loss(name, loss)));
    smooth.chain(losses).chain(objectives::trials()).chain(corners()).chain(structure()).collect()
}

const BATCH: usize = 3;

/// A network from its input `x`; the output may have any shape.
type Build = fn(&mut Graph) -> Value;

const CASES: &[(&str, Build)] = &[
    ("conv.square", |g| conv(g, [5, 5], Conv::square(3, 4, 3, 1, 1))),
    ("conv.stride", |g| conv(g, [7, 6], Conv::square(3, 4, 3, 2, 1))),
    ("conv.pointwise_stride", |g| conv(g, [5, 6], Conv::square(3, 2, 1, 2, 0))),
    ("conv.wide_pad", |g| conv(g, [3, 4], Conv::square(2, 3, 3, 1, 3))),
    ("conv.groups", |g| conv(g, [4, 5], Conv { groups: 2, ..Conv::square(4, 6, 3, 1, 1) })),
    ("conv.depthwise", |g| conv(g, [5, 4], Conv { groups: 3, ..Conv::square(3, 6, 3, 2, 1) })),
    ("conv.dilation", |g| conv(g, [7, 8], Conv { dilation: [2, 3], ..Conv::square(2, 3, 3, 1, 2) })),
    ("conv.oblong", |g| conv(g, [6, 9], Conv { kernel: [1, 7], stride: [2, 1], pad: [0, 3], ..Conv::square(2, 3, 1, 1, 0) })),
    ("conv.bias", |g| {
        let x = image(g, [4, 4, 2]);
        g.conv2d("conv", x, Conv::square(2, 3, 3, 1, 1), true)
    }),
    ("linear.bias", |g| {
        let x = g.input("x", Shape::per_image(&[7]), DType::F32);
        g.linear("fc", x, 5, true)
    }),
    ("normalise", |g| {
        let x = image(g, [3, 4, 3]);
        g.normalise(x, &[0.4, 0.5, 0.6], &[0.2, 0.3, 0.25])
    }),
    ("batch_norm.eval", |g| {
        let x = image(g, [3, 2, 4]);
        g.batch_norm("bn", x, 1e-5, false)
    }),
    ("batch_norm.train", |g| {
        let x = image(g, [3, 2, 4]);
        g.batch_norm("bn", x, 1e-5, true)
    }),
    ("batch_norm.train_large_eps", |g| {
        let x = image(g, [1, 2, 3]);
        g.batch_norm("bn", x, 0.5, true)
    }),
    ("batch_norm.train_rows", |g| {
        let x = g.input("x", Shape::per_image(&[5]), DType::F32);
        g.batch_norm("bn", x, 1e-3, true)
    }),
    ("relu", |g| {
        let x = image(g, [4, 3, 2]);
        g.relu(x)
    }),
    ("relu6", |g| {
        let x = image(g, [4, 3, 2]);
        g.relu6(x)
    }),
    ("max_pool.plain", |g| pool(g, [6, 4], Pool::square(2, 2, 0), true)),
    ("max_pool.overlap", |g| pool(g, [7, 5], Pool::square(3, 2, 1), true)),
    ("max_pool.ceil", |g| pool(g, [6, 7], Pool { ceil: true, ..Pool::square(3, 2, 0) }, true)),
    ("max_pool.ceil_pad", |g| pool(g, [5, 6], Pool { ceil: true, ..Pool::square(3, 2, 1) }, true)),
    ("avg_pool.plain", |g| pool(g, [6, 4], Pool::square(2, 2, 0), false)),
    ("avg_pool.pad_counted", |g| pool(g, [5, 6], Pool::square(3, 2, 1), false)),
    ("avg_pool.pad_not_counted", |g| pool(g, [5, 6], Pool { count_pad: false, ..Pool::square(3, 2, 1) }, false)),
    ("avg_pool.ceil_pad_counted", |g| pool(g, [6, 7], Pool { ceil: true, ..Pool::square(3, 2, 1) }, false)),
    ("avg_pool.ceil_not_counted", |g| pool(g, [6, 7], Pool { ceil: true, count_pad: false, ..Pool::square(3, 2, 1) }, false)),
    ("avg_pool.same_size", |g| pool(g, [4, 5], Pool::square(3, 1, 1), false)),
    ("global_avg_pool", |g| {
        let x = image(g, [3, 5, 2]);
        g.global_avg_pool(x)
    }),
    ("concat", |g| {
        let x = image(g, [3, 2, 2]);
        let y = g.conv2d("conv", x, Conv::square(2, 3, 3, 1, 1), false);
        g.concat(&[x, y])
    }),
    ("concat.one_value_twice", |g| {
        let x = image(g, [2, 2, 3]);
        let y = g.relu(x);
        g.concat(&[y, x, y])
    }),
    ("slice_channels", |g| {
        let x = image(g, [2, 3, 5]);
        g.push(Op::SliceChannels { start: 1, len: 3 }, &[x])
    }),
    ("subsample_pad", |g| {
        let x = image(g, [5, 4, 2]);
        g.push(Op::SubsamplePad { stride: 2, before: 1, after: 3 }, &[x])
    }),
    ("window.pad", |g| {
        let x = image(g, [3, 2, 2]);
        g.window(x, [-1, -2], [5, 5], 0.5)
    }),
    ("window.shift", |g| {
        let x = image(g, [4, 3, 2]);
        g.window(x, [1, 1], [4, 3], 0.0)
    }),
    ("response_norm.odd", |g| {
        let x = image(g, [2, 2, 6]);
        g.local_response_norm(x, 3, 0.7, 0.75, 1.3)
    }),
    ("response_norm.even", |g| {
        let x = image(g, [2, 1, 5]);
        g.local_response_norm(x, 4, 0.7, 1.5, 0.9)
    }),
    ("flatten", |g| {
        let x = image(g, [3, 2, 4]);
        let flat = g.flatten(x);
        g.linear("fc", flat, 3, false)
    }),
    ("unflatten", |g| {
        let x = g.input("x", Shape::per_image(&[24]), DType::F32);
        let y = g.push(Op::Unflatten { hwc: [2, 3, 4] }, &[x]);
        g.conv2d("conv", y, Conv::square(4, 2, 3, 1, 1), false)
    }),
    ("scale", |g| {
        let x = image(g, [2, 2, 2]);
        g.push(Op::Scale { factor: -1.7 }, &[x])
    }),
    ("dropout", |g| {
        let x = image(g, [3, 2, 3]);
        let mask = g.input("mask", Shape::per_image(&[3, 2, 3]), DType::Bits);
        g.push(Op::Dropout { p: 0.3 }, &[x, mask])
    }),
    ("gate", |g| {
        let x = image(g, [3, 2, 3]);
        let mask = g.input("mask", Shape::per_image(&[3, 2, 3]), DType::Bits);
        g.push(Op::Gate, &[x, mask])
    }),
    ("rfft2", |g| alone(g, &[5, 4, 2], Op::Rfft2 { dual: false })),
    ("rfft2.dual", |g| alone(g, &[4, 5, 2], Op::Rfft2 { dual: true })),
    ("irfft2", |g| alone(g, &[2, 5, 3, 2], Op::Irfft2 { width: 4, dual: false })),
    ("irfft2.dual", |g| alone(g, &[2, 4, 3, 2], Op::Irfft2 { width: 5, dual: true })),
    ("spectrum_filter", |g| {
        let x = image(g, [5, 4, 2]);
        let weight = g.param("weight", &[5, 3], Role::Statistic);
        g.push(Op::SpectrumFilter, &[x, weight])
    }),
    ("unit_rows", |g| alone(g, &[7], Op::UnitRows { gamma: 0.0 })),
    ("unit_rows.gamma", |g| alone(g, &[5], Op::UnitRows { gamma: 0.25 })),
    ("row_scales", |g| cosine(g, 0.0)),
    ("row_scales.gamma", |g| cosine(g, 1.0 / 32.0)),
    ("scale_rows", |g| {
        let x = g.input("x", Shape::per_image(&[4]), DType::F32);
        let label = g.input("label", Shape::per_image(&[]), DType::I32);
        let r = g.push(Op::Fooled { hit: false }, &[x, label]);
        g.push(Op::ScaleRows, &[x, r])
    }),
    ("class_margins", |g| {
        let z = g.input("x", Shape::per_image(&[4]), DType::F32);
        let label = g.input("label", Shape::per_image(&[]), DType::I32);
        let table = g.param("table", &[3, 4], Role::Statistic);
        g.push(Op::ClassMargins, &[z, label, table])
    }),
    ("add.one_value_twice", |g| {
        let x = image(g, [2, 2, 3]);
        g.add(x, x)
    }),
    ("one_weight_twice", |g| {
        let x = image(g, [4, 4, 3]);
        let y = g.conv2d("conv", x, Conv::square(3, 3, 3, 1, 1), false);
        g.conv2d("conv", y, Conv::square(3, 3, 3, 1, 1), false)
    }),
    ("net.residual", |g| residual(g, false)),
    ("net.residual_train", |g| residual(g, true)),
    ("net.preact", |g| preact(g, false)),
    ("net.preact_train", |g| preact(g, true)),
];

/// One op on one value of these dimensions.
fn alone(g: &mut Graph, dims: &[usize], op: Op) -> Value {
    let x = [g.input("x", Shape::per_image(dims), DType::F32)];
    g.push(op, &x)
}

const LOSSES: &[(&str, Loss)] = &[
    ("cross_entropy", Loss::CrossEntropy { smoothing: 0.0 }),
    ("cross_entropy_smoothed", Loss::CrossEntropy { smoothing: 0.1 }),
    ("margin", Loss::Margin),
    ("hinge", Loss::Hinge { kappa: 0.0 }),
    ("hinge_kappa", Loss::Hinge { kappa: 1.5 }),
    ("dlr", Loss::Dlr),
    ("targeted_cross_entropy", Loss::TargetedCrossEntropy),
    ("targeted_margin", Loss::TargetedMargin),
    ("targeted_difference", Loss::TargetedDifference),
    ("targeted_dlr", Loss::TargetedDlr),
];

fn image(g: &mut Graph, dims: [usize; 3]) -> Value {
    g.input("x", Shape::per_image(&dims), DType::F32)
}

fn conv(g: &mut Graph, [h, w]: [usize; 2], conv: Conv) -> Value {
    let x = image(g, [h, w, conv.c]);
    g.conv2d("conv", x, conv, false)
}

fn pool(g: &mut Graph, [h, w]: [usize; 2], pool: Pool, max: bool) -> Value {
    let x = image(g, [h, w, 2]);
    if max { g.max_pool(x, pool) } else { g.avg_pool(x, pool) }
}

/// Cosines between features and the rows of a classifier.
fn cosine(g: &mut Graph, gamma: f32) -> Value {
    let x = g.input("x", Shape::per_image(&[6]), DType::F32);
    let unit = g.push(Op::UnitRows { gamma: 0.0 }, &[x]);
    let z = g.linear("fc", unit, 4, false);
    let scales = g.push(Op::RowScales { gamma }, &[g.params()["fc.weight"]]);
    g.push(Op::ScaleChannels, &[z, scales])
}

/// Normalise, stem, one block with a projection, one with a padded shortcut, head.
pub fn residual(g: &mut Graph, train: bool) -> Value {
    let x = image(g, [6, 6, 2]);
    let x = g.normalise(x, &[0.4, 0.5], &[0.3, 0.2]);
    let mut y = g.conv2d("stem", x, Conv::square(2, 3, 3, 1, 1), false);
    y = g.batch_norm("stem_bn", y, 1e-5, train);
    y = g.relu(y);
    let shortcut = g.conv2d("down", y, Conv::square(3, 4, 1, 2, 0), false);
    let shortcut = g.batch_norm("down_bn", shortcut, 1e-5, train);
    let mut z = g.conv2d("a", y, Conv::square(3, 4, 3, 2, 1), false);
    z = g.batch_norm("a_bn", z, 1e-5, train);
    z = g.relu(z);
    z = g.add(z, shortcut);
    z = g.relu(z);
    let padded = g.push(Op::SubsamplePad { stride: 2, before: 1, after: 1 }, &[z]);
    let z = g.conv2d("b", z, Conv::square(4, 6, 3, 2, 1), true);
    let z = g.add(padded, z);
    let z = g.global_avg_pool(z);
    g.linear("fc", z, 5, true)
}

/// Batch norm and ReLU before each convolution; the activated value feeds both branches.
pub fn preact(g: &mut Graph, train: bool) -> Value {
    let x = image(g, [5, 6, 2]);
    let stem = g.conv2d("stem", x, Conv::square(2, 4, 3, 1, 1), false);
    let active = g.batch_norm("bn1", stem, 1e-5, train);
    let active = g.relu(active);
    let shortcut = g.conv2d("down", active, Conv::square(4, 4, 1, 1, 0), false);
    let y = g.conv2d("a", active, Conv::square(4, 4, 3, 1, 1), false);
    let y = g.batch_norm("bn2", y, 1e-5, train);
    let y = g.relu(y);
    let y = g.conv2d("b", y, Conv::square(4, 4, 3, 1, 1), false);
    let y = g.add(y, shortcut);
    let y = g.max_pool(y, Pool::square(2, 2, 0));
    let y = g.flatten(y);
    g.linear("fc", y, 3, true)
}

/// Values for every leaf: distinct, none within 0.01 of another nor of 0 or 6, where ReLUs have their kinks.
fn leaves(graph: &Graph, rng: &mut Rng) -> Values {
    let mut given = Values::new();
    for v in graph.values() {
        let node = graph.node(v);
        let len = node.shape.len(BATCH);
        let data = match &node.op {
            Op::Input { dtype: DType::Bits, .. } => (0..len).map(|_| rng.below(2) as f64).collect(),
            Op::Input { dtype: DType::I32, .. } => (0..len).map(|_| rng.below(4) as f64).collect(),
            Op::Param { role: Role::Statistic, name } if name.ends_with("var") => (0..len).map(|_| 0.5 + rng.unit()).collect(),
            Op::Param { .. } => rng.normals(len).iter().map(|w| w * 0.6).collect(),
            Op::Input { .. } => spaced(len, rng),
            _ => continue,
        };
        given.insert(v, data);
    }
    given
}

/// `n` distinct numbers about 0 in random order, some beyond 6 where there are enough.
fn spaced(n: usize, rng: &mut Rng) -> Vec<f64> {
    let step = if n >= 40 { 16.0 / n as f64 } else { 0.11 };
    rng.permutation(n).into_iter().map(|i| (i as f64 - n as f64 / 2.0 + 0.37) * step).collect()
}

/// Floats that gradients flow into: inputs but the cotangent, and weights.
fn differentiable(graph: &Graph) -> Vec<Value> {
    let is = |v: &Value| match &graph.node(*v).op {
        Op::Input { name, dtype } => *dtype == DType::F32 && name != "cotangent",
        Op::Param { role, .. } => *role == Role::Weight,
        _ => false,
    };
    graph.values().filter(is).collect()
}

fn check(name: &str, build: Build) -> Result<(), String> {
    let mut graph = Graph::new();
    let y = build(&mut graph);
    let cotangent = graph.input("cotangent", graph.shape(y).clone(), DType::F32);
    let wrt = differentiable(&graph);
    let grads: Vec<Value> =
        vjp(&mut graph, y, cotangent, &wrt).into_iter().map(|g| g.expect("the output depends on every leaf")).collect();
    let given = leaves(&graph, &mut Rng::named(name));
    let exact = eval(&graph, BATCH, &given, &grads);
    let weights = given[&cotangent].clone();
    for (&leaf, exact) in wrt.iter().zip(&exact) {
        let objective = |given: &Values| dot(&eval(&graph, BATCH, given, &[y])[0], &weights);
        compare(&graph.node(leaf).label, exact, &numeric(&given, leaf, objective))?;
    }
    Ok(())
}

fn check_loss(name: &str, loss: Loss) -> Result<(), String> {
    let mut graph = Graph::new();
    let z = graph.input("z", Shape::per_image(&[6]), DType::F32);
    let row = |g: &mut Graph, name: &str| g.input(name, Shape::per_image(&[]), DType::I32);
    let mut inputs = vec![z, row(&mut graph, "label")];
    if loss.targeted() {
        inputs.push(row(&mut graph, "target"));
    }
    let value = graph.push(Op::Loss(loss), &inputs);
    let grad = graph.push(Op::LossGrad(loss), &inputs);
    let classes: Vec<(f64, f64)> = (0..6).flat_map(|y| (0..6).map(move |t| (f64::from(y), f64::from(t)))).collect();
    let mut rng = Rng::named(name);
    for (y, t) in classes.into_iter().filter(|(y, t)| y != t) {
        let mut given = Values::from([(z, spaced(BATCH * 6, &mut rng)), (inputs[1], vec![y; BATCH])]);
        if loss.targeted() {
            given.insert(inputs[2], vec![t; BATCH]);
        }
        let exact = eval(&graph, BATCH, &given, &[grad]).remove(0);
        let objective = |given: &Values| eval(&graph, BATCH, given, &[value])[0].iter().sum();
        compare(&format!("label {y}, target {t}"), &exact, &numeric(&given, z, objective))?;
    }
    Ok(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Differences of fourth order: their error is about `H^4` in truncation and `1e-16 / H` in rounding.
fn numeric(given: &Values, leaf: Value, objective: impl Fn(&Values) -> f64) -> Vec<f64> {
    const H: f64 = 1e-4;
    let at = |i: usize, step: f64| {
        let mut moved = given.clone();
        moved.get_mut(&leaf).expect("a leaf is given")[i] += step;
        objective(&moved)
    };
    let slope = |i| (8.0 * (at(i, H) - at(i, -H)) - (at(i, 2.0 * H) - at(i, -2.0 * H))) / (12.0 * H);
    (0..given[&leaf].len()).map(slope).collect()
}

fn compare(what: &str, exact: &[f64], numeric: &[f64]) -> Result<(), String> {
    let size = exact.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    let fits = |i: usize| (exact[i] - numeric[i]).abs() <= 1e-7 * size;
    match (0..exact.len()).find(|&i| !fits(i)) {
        None if exact.len() == numeric.len() => Ok(()),
        None => Err(format!("d({what}): {} values against {}", exact.len(), numeric.len())),
        Some(i) => Err(format!("d({what})[{i}]: vjp {:e}, finite difference {:e} (largest {size:e})", exact[i], numeric[i])),
    }
}

/// The gradient of `sum y` with respect to `x` at given values.
fn gradient_at(dims: &[usize], x: &[f64], build: fn(&mut Graph, Value) -> Value) -> Vec<f64> {
    let mut graph = Graph::new();
    let leaf = graph.input("x", Shape::per_image(dims), DType::F32);
    let y = build(&mut graph, leaf);
    let cotangent = graph.input("cotangent", graph.shape(y).clone(), DType::F32);
    let dx = vjp(&mut graph, y, cotangent, &[leaf])[0].expect("y depends on x");
    let given = Values::from([(leaf, x.to_vec()), (cotangent, vec![1.0; graph.shape(y).len(1)])]);
    eval(&graph, 1, &given, &[dx]).remove(0)
}

/// The gradient of a loss at the given logits, label 0, target 1.
fn loss_gradient_at(loss: Loss, z: &[f64]) -> Vec<f64> {
    let mut graph = Graph::new();
    let logits = graph.input("z", Shape::per_image(&[z.len()]), DType::F32);
    let label = graph.input("label", Shape::per_image(&[]), DType::I32);
    let grad = graph.push(Op::LossGrad(loss), &[logits, label]);
    eval(&graph, 1, &Values::from([(logits, z.to_vec()), (label, vec![0.0])]), &[grad]).remove(0)
}

/// Kinks and ties, where a derivative is a convention: PyTorch's.
fn corners() -> Vec<Trial> {
    vec![
        trial("gradients::corner.relu_at_zero_is_zero", || {
            assert_eq!(gradient_at(&[5], &[0.0, -0.0, 1e-300, -1.0, f64::NAN], |g, x| g.relu(x)), [0.0, 0.0, 1.0, 0.0, 0.0]);
        }),
        trial("gradients::corner.relu6_at_its_ends_is_zero", || {
            assert_eq!(gradient_at(&[5], &[0.0, 6.0, 5.999, 6.001, 3.0], |g, x| g.relu6(x)), [0.0, 0.0, 1.0, 0.0, 1.0]);
        }),
        trial("gradients::corner.max_pool_ties_go_to_the_first", || {
            let x = [2.0, 2.0, 2.0, 2.0];
            assert_eq!(gradient_at(&[2, 2, 1], &x, |g, x| g.max_pool(x, Pool::square(2, 2, 0))), [1.0, 0.0, 0.0, 0.0]);
        }),
        trial("gradients::corner.max_pool_overlap_adds_up", || {
            let x = [0.0, 9.0, 0.5, 0.0, 0.0, 0.0];
            let dx = gradient_at(&[2, 3, 1], &x, |g, x| g.max_pool(x, Pool { stride: [1, 1], ..Pool::square(2, 2, 0) }));
            assert_eq!(dx, [0.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
        }),
        trial("gradients::corner.max_pool_nan_wins", || {
            let x = [1.0, f64::NAN, 7.0, 3.0];
            assert_eq!(gradient_at(&[2, 2, 1], &x, |g, x| g.max_pool(x, Pool::square(2, 2, 0))), [0.0, 1.0, 0.0, 0.0]);
        }),
        trial("gradients::corner.max_pool_never_picks_padding", || {
            let dx = gradient_at(&[1, 1, 1], &[-5.0], |g, x| g.max_pool(x, Pool { stride: [2, 2], ..Pool::square(2, 2, 1) }));
            assert_eq!(dx, [1.0]);
        }),
        trial("gradients::corner.margin_tie_goes_to_the_lower_class", || {
            assert_eq!(loss_gradient_at(Loss::Margin, &[1.0, 3.0, 3.0]), [-1.0, 1.0, 0.0]);
        }),
        trial("gradients::corner.hinge_passes_at_kappa", || {
            assert_eq!(loss_gradient_at(Loss::Hinge { kappa: 2.0 }, &[1.0, 3.0, 0.0]), [1.0, -1.0, 0.0]);
            assert_eq!(loss_gradient_at(Loss::Hinge { kappa: 2.0 }, &[0.9, 3.0, 0.0]), [0.0; 3]);
        }),
        trial("gradients::corner.dlr_tie_goes_to_the_higher_class", || {
            // Of the two highest the third class is the rival and the top; the last class is third in the ranking.
            assert_eq!(
                loss_gradient_at(Loss::Dlr, &[1.0, 3.0, 3.0, 2.0]).iter().map(|g| g.round()).collect::<Vec<_>>(),
                [-1.0, 0.0, -1.0, 2.0]
            );
        }),
        trial("gradients::corner.check_can_fail", || {
            compare("x", &[1.0, 2.0], &[1.0, 2.001]).expect_err("a wrong derivative must be refused");
            compare("x", &[1.0, 2.0], &[1.0, f64::NAN]).expect_err("NaN must be refused");
            compare("x", &[1.0], &[1.0, 2.0]).expect_err("another length must be refused");
        }),
    ]
}

/// Nodes appended by `vjp` for the residual net and a cotangent of ones.
fn appended(wrt: fn(&Graph) -> Vec<Value>) -> (Graph, usize, Vec<Option<Value>>) {
    let mut graph = Graph::new();
    let y = residual(&mut graph, false);
    let cotangent = graph.input("cotangent", graph.shape(y).clone(), DType::F32);
    let before = graph.nodes().len();
    let wrt = wrt(&graph);
    let grads = vjp(&mut graph, y, cotangent, &wrt);
    (graph, before, grads)
}

/// Whether the op adds up the gradient of a parameter over a batch.
pub fn is_parameter_gradient(op: &Op) -> bool {
    let sums = matches!(op, Op::SumChannels | Op::BatchNormGradParams { .. } | Op::BatchNormTrainGradParams { .. });
    sums || matches!(op, Op::Conv2dGradWeight(_) | Op::LinearGradWeight)
}

/// Gradients exist for exactly what was asked.
fn structure() -> Vec<Trial> {
    vec![
        trial("gradients::exact.image_alone_makes_no_weight_gradient", || {
            let (graph, before, _) = appended(|g| vec![g.input_named("x").expect("the net has an image")]);
            let extra = graph.nodes()[before..].iter().find(|n| is_parameter_gradient(&n.op));
            assert!(extra.is_none(), "{extra:?}");
        }),
        trial("gradients::exact.head_alone_stays_in_the_head", || {
            let (graph, before, _) = appended(|g| vec![g.params()["fc.weight"]]);
            let ops: Vec<&Op> = graph.nodes()[before..].iter().map(|n| &n.op).collect();
            assert_eq!(ops, [&Op::LinearGradWeight]);
        }),
        trial("gradients::exact.weights_alone_stop_at_the_stem", || {
            let (graph, before, grads) = appended(differentiable_weights);
            assert!(grads.iter().all(Option::is_some), "{grads:?}");
            let to_image =
                |n: &petard::graph::Node| matches!(n.op, Op::NormaliseGrad { .. }) || n.shape == Shape::per_image(&[6, 6, 2]);
            let extra = graph.nodes()[before..].iter().find(|n| to_image(n));
            assert!(extra.is_none(), "{extra:?}");
        }),
        trial("gradients::exact.statistics_and_strangers_have_none", || {
            let mut graph = Graph::new();
            let y = residual(&mut graph, true);
            let stranger = graph.input("stranger", Shape::per_image(&[3]), DType::F32);
            let later = graph.relu(y);
            let cotangent = graph.input("cotangent", graph.shape(y).clone(), DType::F32);
            let mean = graph.params()["a_bn.running_mean"];
            assert_eq!(vjp(&mut graph, y, cotangent, &[stranger, mean, later]), [None; 3]);
        }),
        trial("gradients::exact.masks_and_indices_are_made_once", || {
            let mut graph = Graph::new();
            let y = preact(&mut graph, false);
            let image = graph.input_named("x").expect("the net has an image");
            for name in ["c0", "c1"] {
                let cotangent = graph.input(name, graph.shape(y).clone(), DType::F32);
                vjp(&mut graph, y, cotangent, &[image]);
            }
            let count = |f: fn(&Op) -> bool| graph.nodes().iter().filter(|n| f(&n.op)).count();
            assert_eq!(count(|op| matches!(op, Op::ReluMask { .. })), 2, "one mask for each of two ReLUs");
            assert_eq!(count(|op| matches!(op, Op::MaxPoolIndex(_))), 1);
        }),
    ]
}

/// Weights and biases: what training asks gradients for.
pub fn differentiable_weights(graph: &Graph) -> Vec<Value> {
    differentiable(graph).into_iter().filter(|&v| matches!(graph.node(v).op, Op::Param { .. })).collect()
}
