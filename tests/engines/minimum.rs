//! Whole attacks for the nearest adversarial image on an emulated card against the CPU.

use std::sync::Arc;

use libtest_mimic::Trial;
use petard::attack::{self, Attack, Cw, Ddn, Ead, Fmn};
use petard::plan::Precision;
use petard::threat::{Distance, Norm};
use petard::{Dataset, Device, DeviceOptions, Given, Hooks, Job, Model, Outcome, data};

use super::emulated;
use crate::support::engine::on_a_card;

pub fn trials() -> Vec<Trial> {
    let one =
        |name: &str, make: fn() -> Arc<dyn Attack>| on_a_card(format!("engines::minimum.{name}"), move || as_on_the_cpu(&make()));
    let mut all = vec![
        one("cw", || Arc::new(Cw { steps: 6, search_steps: 2, lr: 0.08, initial_const: 20.0, ..Cw::new() })),
        one("ead", || Arc::new(Ead { steps: 4, search_steps: 2, lr: 0.08, initial_const: 20.0, ..Ead::new() })),
        one("ddn", || Arc::new(Ddn { steps: 8, ..Ddn::new() })),
        one("fmn_linf", || Arc::new(Fmn { steps: 6, ..Fmn::new(Distance::Norm(Norm::Linf)) })),
        one("fmn_l1", || Arc::new(Fmn { steps: 6, ..Fmn::new(Distance::Norm(Norm::L1)) })),
        one("fmn_l0", || Arc::new(Fmn { steps: 14, gamma: 0.9, lr: 10.0, ..Fmn::new(Distance::L0) })),
    ];
    all.push(on_a_card("engines::minimum.bf16".to_string(), bf16));
    all
}

fn attacked(device: &Device, attack: &Arc<dyn Attack>) -> Result<Outcome, String> {
    let model = Model::load("tiny-resnet", None).expect("an embedded model");
    let limit = data::Options { limit: Some(10), ..data::Options::default() };
    let set = Dataset::open("synthetic", &limit).expect("images are painted");
    // More images than seats: rows are refilled.
    let job = Job { attacks: vec![Arc::clone(attack)], seed: 3, ..Job::new(Ddn::new(), 8) };
    attack::run(device, &model, &set, &job, &Given::default(), Hooks::default()).map_err(|e| e.to_string())
}

fn cpu() -> Device {
    Device::open("cpu", &DeviceOptions::default()).expect("a CPU")
}

/// The same images broken at the same distances, but for one whose margin lies within rounding.
fn as_on_the_cpu(attack: &Arc<dyn Attack>) -> Result<(), String> {
    let (want, got) = (attacked(&cpu(), attack)?, attacked(&emulated(Precision::F32, 1 << 30), attack)?);
    let (w, g) = (&want.per_image, &got.per_image);
    assert!(w.success.iter().filter(|s| **s).count() >= 3, "few broken, nothing to compare: {:?}", w.success);
    let apart = |i: &usize| w.success[*i] != g.success[*i] || (w.l2[*i] - g.l2[*i]).abs() > 1e-3 * (1e-3 + w.l2[*i]);
    let differ: Vec<usize> = (0..10).filter(apart).collect();
    assert!(differ.len() <= 1, "images {differ:?}: {:?} on the CPU, {:?} on the card", w.l2, g.l2);
    assert_eq!((got.non_finite, got.cost), (0, want.cost));
    Ok(())
}

/// In 16 bits a success that only just is one is not believed: what is claimed stands.
fn bf16() -> Result<(), String> {
    let attack: Arc<dyn Attack> = Arc::new(Fmn { steps: 12, ..Fmn::new(Distance::Norm(Norm::L2)) });
    let got = attacked(&emulated(Precision::Bf16, 1 << 30), &attack)?;
    let (stood, made) = got.confirmed.expect("16-bit claims are counted");
    assert!(made >= 5 && stood + 1 >= made, "{stood} of {made} stood");
    Ok(())
}
