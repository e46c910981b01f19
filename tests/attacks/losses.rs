//! Values and gradients of the losses against PyTorch in f64.

use libtest_mimic::Trial;
use petard::cpu::{CpuExecutor, Options};
use petard::graph::{Graph, Loss, Op};
use petard::plan::{Executor, Segment, compile};
use petard::tensor::{DType, Shape};
use safetensors::SafeTensors;

use crate::support::skip_unless_shared;

const LOSSES: [(&str, Loss, f64); 6] = [
    ("ce", Loss::CrossEntropy { smoothing: 0.0 }, 1.0),
    ("ce_label_smoothing_0.1", Loss::CrossEntropy { smoothing: 0.1 }, 1.0),
    ("cw_margin_kappa0", Loss::Hinge { kappa: 0.0 }, 1.0),
    ("cw_margin_kappa5", Loss::Hinge { kappa: 5.0 }, 1.0),
    ("dlr", Loss::Dlr, 1.0),
    ("dlr_targeted", Loss::TargetedDlr, 1.0),
];

pub fn trials() -> Vec<Trial> {
    let one = |(name, loss, sign): (&'static str, Loss, f64)| {
        skip_unless_shared(format!("attacks::loss.{name}"), "golden/losses.safetensors", move |path| {
            agrees(&std::fs::read(path).expect("a readable reference"), name, loss, sign);
        })
    };
    LOSSES.into_iter().map(one).collect()
}

fn agrees(bytes: &[u8], name: &str, loss: Loss, sign: f64) {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors reference");
    let f64s = |key: &str| -> Vec<f64> {
        let tensor = file.tensor(key).unwrap_or_else(|e| panic!("{key}: {e}"));
        tensor.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes"))).collect()
    };
    let ints = |key: &str| -> Vec<i32> {
        let tensor = file.tensor(key).unwrap_or_else(|e| panic!("{key}: {e}"));
        tensor.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as i32).collect()
    };
    let z: Vec<f32> = f64s("z_adv").iter().map(|v| *v as f32).collect();
    let (labels, targets) = (ints("labels"), ints("targets"));
    let (n, k) = (labels.len(), z.len() / labels.len());

    let mut g = Graph::new();
    let rows = Shape::per_image(&[]);
    let zv = g.input("z", Shape::per_image(&[k]), DType::F32);
    let mut inputs = vec![zv, g.input("label", rows.clone(), DType::I32)];
    if loss.targeted() {
        inputs.push(g.input("target", rows, DType::I32));
    }
    let value = g.push(Op::Loss(loss), &inputs);
    let grad = g.push(Op::LossGrad(loss), &inputs);
    let segment = Segment { name: "loss".into(), outputs: vec![value, grad], carries: vec![] };
    let plan = compile(&g, &[segment], n).expect("a plan");
    let mut cpu = CpuExecutor::new(plan.into(), Options::default()).expect("an executor");
    cpu.write_f32(zv, 0, &z).expect("logits");
    cpu.write_i32(inputs[1], 0, &labels).expect("labels");
    if let Some(&t) = inputs.get(2) {
        cpu.write_i32(t, 0, &targets).expect("targets");
    }
    cpu.run("loss").expect("the losses");

    let got = cpu.read_f32(value, 0, n).expect("values");
    for (i, (a, b)) in got.iter().zip(f64s(&format!("{name}.per_sample"))).enumerate() {
        assert!((f64::from(*a) - sign * b).abs() <= 2e-6 * (1.0 + b.abs()), "{name}: image {i} has {a}, the reference {b}");
    }
    // The reference differentiates the mean over the batch, the engine each image's own loss.
    let grads = cpu.read_f32(grad, 0, n).expect("gradients");
    for (i, (a, b)) in grads.iter().zip(f64s(&format!("{name}.grad.z_adv"))).enumerate() {
        let want = sign * b * n as f64;
        assert!((f64::from(*a) - want).abs() <= 2e-6, "{name}: gradient {i} is {a}, the reference has {want}");
    }
}
