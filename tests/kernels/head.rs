//! Rows of unit length, scales and margins by class, weights by image. Lengths and sums are f64, rounded once.

use petard::graph::{Graph, Op, Role, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case, NUMBERS, Probe, result};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for len in [1, 7, 64, 300] {
        for gamma in [0.0, 1.0 / 32.0] {
            let about = format!("{len}.g{}", if gamma > 0.0 { 32 } else { 0 });
            cases.push(case(format!("unit.{about}"), |g| {
                let x = batched(g, "x", len);
                g.push(Op::UnitRows { gamma }, &[x])
            }));
            cases.push(Case {
                scale: turned,
                ..case(format!("unit_grad.{about}"), |g| {
                    let inputs = [batched(g, "g", len), batched(g, "x", len)];
                    g.push(Op::UnitRowsGrad { gamma }, &inputs)
                })
            });
            for rows in [1, 10] {
                cases.push(case(format!("scales.{rows}x{about}"), |g| {
                    let w = g.param("w", &[rows, len], Role::Weight);
                    g.push(Op::RowScales { gamma }, &[w])
                }));
                cases.push(case(format!("scales_grad.{rows}x{about}"), |g| {
                    let s = g.input("s", Shape::fixed(&[rows]), DType::F32);
                    let w = g.param("w", &[rows, len], Role::Weight);
                    g.push(Op::RowScalesGrad { gamma }, &[s, w])
                }));
            }
        }
        cases.push(case(format!("channels.{len}"), |g| {
            let inputs = [batched(g, "x", len), g.input("r", Shape::fixed(&[len]), DType::F32)];
            g.push(Op::ScaleChannels, &inputs)
        }));
        cases.push(Case {
            scale: super::magnitude,
            ..case(format!("product.{len}"), |g| {
                let inputs = [batched(g, "g", len), batched(g, "x", len)];
                g.push(Op::ProductChannels, &inputs)
            })
        });
        cases.push(case(format!("rows.{len}"), |g| {
            let inputs = [batched(g, "x", len), g.input("r", Shape::per_image(&[]), DType::F32)];
            g.push(Op::ScaleRows, &inputs)
        }));
        if len > 1 {
            cases.push(Case {
                scale: terms,
                ..case(format!("margins.{len}"), |g| {
                    let z = batched(g, "z", len);
                    let inputs = [
                        z,
                        g.input("label", Shape::per_image(&[]), DType::I32),
                        g.input("t", Shape::fixed(&[3, len]), DType::F32),
                    ];
                    g.push(Op::ClassMargins, &inputs)
                })
            });
        }
    }
    cases
}

fn batched(g: &mut Graph, name: &str, len: usize) -> Value {
    g.input(name, Shape::per_image(&[len]), DType::F32)
}

fn case(name: String, build: impl FnOnce(&mut Graph) -> Value) -> Case {
    let mut g = Graph::new();
    let out = build(&mut g);
    let literal = name.clone();
    Case { scale: result, fills: NUMBERS, ..Case::new(format!("head::{name}"), literal, g, out, Bound::Roundings(2)) }
}

/// A gradient along its row cancels: the result, and what is lost of the longest gradient over the length, in f64.
fn turned(probe: &Probe) -> Vec<f64> {
    let leaf = |name: &str| &probe.given[&probe.graph.input_named(name).expect("a leaf of that name")];
    let len = probe.graph.shape(probe.output).elems();
    let length = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    let lost = |n: usize| {
        let at = n * len..(n + 1) * len;
        let below = length(&leaf("x")[at.clone()]);
        if below == 0.0 { 0.0 } else { 1e-7 * length(&leaf("g")[at]) / below }
    };
    probe.want.iter().enumerate().map(|(i, w)| w.abs() + lost(i / len)).collect()
}

/// The three terms of a shifted logit.
fn terms(probe: &Probe) -> Vec<f64> {
    let leaf = |name: &str| &probe.given[&probe.graph.input_named(name).expect("a leaf of that name")];
    let (z, t, k) = (leaf("z"), leaf("t"), probe.graph.shape(probe.output).elems());
    let size = |i: usize| (t[i % k] * z[i]).abs() + t[k + i % k].abs() + t[2 * k + i % k].abs();
    probe.want.iter().enumerate().map(|(i, w)| w.abs() + 1e-8 * size(i)).collect()
}
