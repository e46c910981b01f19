//! Losses that train against PyTorch in f64: values and every gradient, by their f64 definition and by the engine.
//! Must not run a training step.

use std::collections::BTreeMap;
use std::path::Path;

use libtest_mimic::Trial;
use petard::graph::{Graph, Loss, Objective, Op, Role, Value, vjp};
use petard::tensor::{DType, Shape};
use petard::train::ClassTable;
use safetensors::SafeTensors;

use crate::support::engine::{Engine, How};
use crate::support::naive::{Values, eval};
use crate::support::skip_unless_shared;

/// What PyTorch's f64 and ours may differ by, relative to the largest entry; and the engine's f32.
const EXACT: f64 = 1e-10;
const ENGINE: f64 = 1e-5;
const BATCH: usize = 16;
const CLASSES: usize = 10;

/// A per-image loss over leaves named as the tensors of the file.
struct Built {
    loss: Value,
    /// Leaf, gradient of the sum over images.
    grads: Vec<(&'static str, Value)>,
    /// Factor of the value and the gradients: the file has means over the batch.
    factor: f64,
}

type Build = fn(&mut Graph, &[f64]) -> Built;

const LOSSES: &[(&str, Build)] = &[
    ("ce", |g, _| labelled(g, "z_adv", Kind::Ce)),
    ("kl_nat_adv", |g, _| pair(g, Objective::Kl, 1.0)),
    ("trades_beta6", |g, _| total(g, [1.0, 0.0], Objective::Kl, 6.0)),
    ("mart_lambda5", |g, _| pair(g, Objective::Mart { weight: 5.0 }, 1.0)),
    ("alp_pair_mean_entries_w0.5", |g, _| pair(g, Objective::Squared, 0.5 / CLASSES as f64)),
    ("alp_pair_mean_rows_w0.5", |g, _| pair(g, Objective::Squared, 0.5)),
    ("alp_total_w0.5", |g, _| Built { factor: 0.1, ..total(g, [5.0, 5.0], Objective::Squared, 0.5) }),
    ("cosface_s15_m0.2", |g, _| table(g, "cosines", &ClassTable::sphere(CLASSES, 15.0, 0.2))),
    ("cosface_s15_m0.2_from_features", |g, _| from_features(g)),
    ("focal_softmax_gamma2", |g, _| labelled(g, "z_adv", Kind::Of(Objective::Focal { gamma: 2.0 }))),
    ("focal_sigmoid_gamma2", |g, _| labelled(g, "z_adv", Kind::Of(Objective::SigmoidFocal { gamma: 2.0 }))),
    ("cb_ce_beta0.9999", |g, _| weighted(g, Kind::Ce)),
    ("cb_focal_sigmoid_beta0.9999_gamma2", |g, _| weighted(g, Kind::Of(Objective::SigmoidFocal { gamma: 2.0 }))),
    ("logit_adjust_tau1", |g, counts| table(g, "z_adv", &ClassTable::adjusted(counts, 1.0))),
    ("ldam_max0.5_s30", |g, counts| table(g, "cosines", &ClassTable::ldam(counts, 0.5, 30.0))),
    ("ldam_max0.5_s1", |g, counts| table(g, "z_adv", &ClassTable::ldam(counts, 0.5, 1.0))),
];

#[derive(Clone, Copy)]
enum Kind {
    Ce,
    Of(Objective),
}

pub fn trials() -> Vec<Trial> {
    let one = |&(name, build): &(&'static str, Build)| {
        skip_unless_shared(format!("training::loss.{name}"), "golden/losses.safetensors", move |path| agrees(&path, name, build))
    };
    LOSSES.iter().map(one).collect()
}

fn logits(g: &mut Graph, name: &str) -> Value {
    g.input_named(name).unwrap_or_else(|| g.input(name, Shape::per_image(&[CLASSES]), DType::F32))
}

fn label(g: &mut Graph) -> Value {
    g.input_named("labels").unwrap_or_else(|| g.input("labels", Shape::per_image(&[]), DType::I32))
}

fn kind(g: &mut Graph, kind: Kind, z: Value) -> [Value; 2] {
    let inputs = [z, label(g)];
    let ce = Loss::CrossEntropy { smoothing: 0.0 };
    match kind {
        Kind::Ce => [Op::Loss(ce), Op::LossGrad(ce)].map(|op| g.push(op, &inputs)),
        Kind::Of(of) => [Op::Objective(of), Op::ObjectiveGrad { of, by: 0 }].map(|op| g.push(op, &inputs)),
    }
}

fn labelled(g: &mut Graph, name: &'static str, of: Kind) -> Built {
    let z = logits(g, name);
    let [loss, grad] = kind(g, of, z);
    Built { loss, grads: vec![(name, grad)], factor: 1.0 }
}

fn pair(g: &mut Graph, of: Objective, factor: f64) -> Built {
    let mut inputs = vec![logits(g, "z_nat"), logits(g, "z_adv")];
    if of.reads_label() {
        inputs.push(label(g));
    }
    let loss = g.push(Op::Objective(of), &inputs);
    let grads = ["z_nat", "z_adv"].into_iter().enumerate();
    let grads = grads.map(|(by, name)| (name, g.push(Op::ObjectiveGrad { of, by }, &inputs))).collect();
    Built { loss, grads, factor }
}

/// Shares of both cross-entropies, plus a weight times what couples them.
fn total(g: &mut Graph, shares: [f32; 2], of: Objective, weight: f32) -> Built {
    let scaled = |g: &mut Graph, v: Value, factor: f32| g.push(Op::Scale { factor }, &[v]);
    let Built { mut loss, mut grads, .. } = pair(g, of, 1.0);
    loss = scaled(g, loss, weight);
    for (share, (name, grad)) in shares.into_iter().zip(&mut grads) {
        *grad = scaled(g, *grad, weight);
        if share > 0.0 {
            let z = logits(g, name);
            let [ce, d] = kind(g, Kind::Ce, z).map(|v| scaled(g, v, share));
            (loss, *grad) = (g.add(loss, ce), g.add(*grad, d));
        }
    }
    Built { loss, grads, factor: 1.0 }
}

fn table(g: &mut Graph, name: &'static str, table: &ClassTable) -> Built {
    let z = logits(g, name);
    let t = g.input(&format!("table:{}", text(table)), Shape::fixed(&[3, CLASSES]), DType::F32);
    let label = label(g);
    let moved = g.push(Op::ClassMargins, &[z, label, t]);
    let [loss, d] = kind(g, Kind::Ce, moved);
    let grad = vjp(g, moved, d, &[z])[0].expect("logits decide");
    Built { loss, grads: vec![(name, grad)], factor: 1.0 }
}

fn from_features(g: &mut Graph) -> Built {
    let f = g.input("features", Shape::per_image(&[64]), DType::F32);
    let w = g.param("head_weight", &[CLASSES, 64], Role::Weight);
    let unit = g.push(Op::UnitRows { gamma: 0.0 }, &[f]);
    let z = g.push(Op::Linear, &[unit, w]);
    let scales = g.push(Op::RowScales { gamma: 0.0 }, &[w]);
    let cosines = g.push(Op::ScaleChannels, &[z, scales]);
    let t = g.input(&format!("table:{}", text(&ClassTable::sphere(CLASSES, 15.0, 0.2))), Shape::fixed(&[3, CLASSES]), DType::F32);
    let label = label(g);
    let moved = g.push(Op::ClassMargins, &[cosines, label, t]);
    let [loss, d] = kind(g, Kind::Ce, moved);
    let grads = vjp(g, moved, d, &[f, w]).into_iter().map(|v| v.expect("both decide"));
    Built { loss, grads: ["features", "head_weight"].into_iter().zip(grads).collect(), factor: 1.0 }
}

fn weighted(g: &mut Graph, of: Kind) -> Built {
    let z = logits(g, "z_adv");
    let weights = g.input("weights", Shape::per_image(&[]), DType::F32);
    let [loss, grad] = kind(g, of, z).map(|v| g.push(Op::ScaleRows, &[v, weights]));
    Built { loss, grads: vec![("z_adv", grad)], factor: 1.0 }
}

/// A table travels in the name of its leaf.
fn text(table: &ClassTable) -> String {
    table.rows().iter().map(|v| format!("{:016x}", v.to_bits())).collect()
}

fn agrees(path: &Path, name: &str, build: Build) {
    let bytes = std::fs::read(path).expect("a readable reference");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors reference");
    let tensors: BTreeMap<String, Vec<f64>> = file
        .tensors()
        .into_iter()
        .map(|(name, t)| {
            let words = t.data().as_chunks::<8>().0.iter();
            let whole = t.dtype() == safetensors::Dtype::I64;
            (name, words.map(|&b| if whole { i64::from_le_bytes(b) as f64 } else { f64::from_le_bytes(b) }).collect())
        })
        .collect();
    let mut g = Graph::new();
    let built = build(&mut g, &tensors["counts"]);
    let given: Values =
        g.values().filter(|&v| g.node(v).inputs.is_empty()).map(|v| (v, leaf(&g.node(v).label, &tensors))).collect();
    let outputs: Vec<Value> = std::iter::once(built.loss).chain(built.grads.iter().map(|&(_, v)| v)).collect();
    let exact = eval(&g, BATCH, &given, &outputs);
    let how = How { batch: BATCH, isa: petard::cpu::Isa::detect(), threads: 1, exact: true };
    let engine = Engine::new(&g, &outputs, how).and_then(|mut e| e.run(&given)).expect("the engine runs");
    let engine: Vec<Vec<f64>> = engine.into_iter().map(|v| v.into_iter().map(f64::from).collect()).collect();
    for (who, got, bound) in [("definition", exact, EXACT), ("engine", engine, ENGINE)] {
        let mean = got[0].iter().sum::<f64>() / BATCH as f64 * built.factor;
        near(&format!("{name}: value of the {who}"), &[mean], &tensors[&format!("{name}.value")], bound);
        for ((leaf, _), got) in built.grads.iter().zip(&got[1..]) {
            let got: Vec<f64> = got.iter().map(|v| v * built.factor / BATCH as f64).collect();
            near(&format!("{name}: d/d{leaf} of the {who}"), &got, &tensors[&format!("{name}.grad.{leaf}")], bound);
        }
    }
}

fn leaf(name: &str, tensors: &BTreeMap<String, Vec<f64>>) -> Vec<f64> {
    if let Some(rows) = name.strip_prefix("table:") {
        let bits = |i: usize| u64::from_str_radix(&rows[16 * i..16 * (i + 1)], 16).expect("a table in hexadecimal");
        return (0..rows.len() / 16).map(|i| f64::from_bits(bits(i))).collect();
    }
    match name {
        "weights" => {
            let each = petard::train::class_balanced(&tensors["counts"], 0.9999);
            tensors["labels"].iter().map(|&y| each[y as usize]).collect()
        }
        name => tensors[name].clone(),
    }
}

fn near(what: &str, got: &[f64], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= bound * size, "{what}: entry {i} is {got:e}, the reference {want:e}");
    }
}
