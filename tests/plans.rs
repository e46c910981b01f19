//! Plans: replayed over a model of the memory in which each byte remembers whose it is.
//! Must not know how places are chosen, nor run anything.

use std::ops::Range;

use libtest_mimic::Trial;
use petard::graph::{Graph, Loss, Op, Value, vjp};
use petard::plan::{ALIGN, Head, Plan, Program, Segment, Slot, Step, compile};
use petard::tensor::{DType, Shape};
use petard::threat::Norm;

use crate::gradients;
use crate::support::{Snapshot, trial};

pub fn trials() -> Vec<Trial> {
    let nets: [(&str, Make); 5] = [
        ("infer", |b| infer(gradients::residual, b)),
        ("infer_preact", |b| infer(gradients::preact, b)),
        ("attack", |b| attack(gradients::residual, b)),
        ("attack_preact", |b| attack(gradients::preact, b)),
        ("train", train),
    ];
    let mut trials = Vec::new();
    for (name, make) in nets {
        for batch in [1, 3, 8] {
            trials.push(trial(format!("plans::memory.{name}.n{batch}"), move || memory(&make(batch))));
        }
    }
    trials.push(trial("plans::attack_has_no_weight_gradient", || {
        for plan in [attack(gradients::residual, 4), attack(gradients::preact, 4)] {
            let program = plan.program("attack").expect("the plan has this segment");
            let step = program.steps.iter().find(|s| matches!(&s.head, Head::Op(op) if gradients::is_parameter_gradient(op)));
            assert!(step.is_none(), "{step:?}");
        }
    }));
    trials.push(trial("plans::same_graph_same_text", || {
        assert_eq!(attack(gradients::residual, 4).to_string(), attack(gradients::residual, 4).to_string());
    }));
    trials.push(trial("plans::snapshot.tiny_residual_attack", || {
        Snapshot::new("plan-tiny-residual-attack").check(&format!("{}\n", attack(gradients::residual, 8)))
    }));
    trials.extend(refusals());
    trials
}

/// A plan for a batch size.
type Make = fn(usize) -> Plan;
type Build = fn(&mut Graph, bool) -> Value;

fn segment(name: &str, outputs: Vec<Value>, carries: Vec<(Value, Value)>) -> Segment {
    Segment { name: name.into(), outputs, carries }
}

fn infer(net: Build, batch: usize) -> Plan {
    let mut g = Graph::new();
    let z = net(&mut g, false);
    compile(&g, &[segment("infer", vec![z], vec![])], batch).expect("the net can be planned")
}

/// Inference, and one iteration of PGD closed on itself.
fn attack(net: Build, batch: usize) -> Plan {
    let mut g = Graph::new();
    let z = net(&mut g, false);
    let x = g.input_named("x").expect("the net has an image");
    let shape = g.shape(x).clone();
    let row = Shape::per_image(&[]);
    let label = g.input("label", row.clone(), DType::I32);
    let cotangent = g.push(Op::LossGrad(Loss::CrossEntropy { smoothing: 0.0 }), &[z, label]);
    let grad = vjp(&mut g, z, cotangent, &[x])[0].expect("logits depend on the image");
    let [x0, alpha, eps] = [("x0", shape), ("alpha", row.clone()), ("eps", row)].map(|(n, s)| g.input(n, s, DType::F32));
    let next = g.push(Op::PgdStep { norm: Norm::Linf }, &[x, x0, grad, alpha, eps]);
    let status = g.push(Op::GradStatus, &[grad]);
    let segments = [segment("infer", vec![z], vec![]), segment("attack", vec![status], vec![(x, next)])];
    compile(&g, &segments, batch).expect("the attack can be planned")
}

/// All weight gradients as outputs, running statistics as carries.
fn train(batch: usize) -> Plan {
    let mut g = Graph::new();
    let z = gradients::residual(&mut g, true);
    let label = g.input("label", Shape::per_image(&[]), DType::I32);
    let inputs = [z, label];
    let loss = g.push(Op::Loss(Loss::CrossEntropy { smoothing: 0.1 }), &inputs);
    let cotangent = g.push(Op::LossGrad(Loss::CrossEntropy { smoothing: 0.1 }), &inputs);
    let weights = gradients::differentiable_weights(&g);
    let mut outputs: Vec<Value> = vjp(&mut g, z, cotangent, &weights).into_iter().flatten().collect();
    assert_eq!(outputs.len(), weights.len(), "a gradient for each weight");
    outputs.push(loss);
    let carries = g.running_updates(0.1);
    compile(&g, &[segment("step", outputs, carries)], batch).expect("the step can be planned")
}

/// A value at its place.
type Held = (Value, Slot);

/// What one step touches.
struct Touch {
    reads: Vec<Held>,
    writes: Vec<Held>,
    /// May work in place: an output may lie exactly on an input.
    in_place: bool,
}

fn memory(plan: &Plan) -> Result<(), String> {
    let graph = plan.graph();
    let leaf = |v: &Value| matches!(graph.node(*v).op, Op::Input { .. } | Op::Param { .. });
    for program in plan.programs() {
        let place = |v: Value| -> Result<Held, String> {
            let slot = program.slot(v).or(plan.slot(v)).ok_or(format!("{:?} has no place", graph.node(v)))?;
            let node = graph.node(v);
            let bytes = node.shape.bytes(node.dtype, plan.batch());
            let fits = slot.bytes == bytes && slot.offset % ALIGN == 0 && slot.offset + bytes <= plan.arena_bytes();
            if fits { Ok((v, slot)) } else { Err(format!("{node:?} takes {bytes} bytes, has {slot:?}")) }
        };
        let places = |values: Vec<Value>| values.into_iter().map(place).collect::<Result<Vec<Held>, String>>();
        let start: Vec<Held> = graph.values().filter(leaf).filter_map(|v| Some((v, plan.slot(v)?))).collect();
        let touch = |step: &Step| -> Result<Touch, String> {
            Ok(Touch { reads: places(reads(step))?, writes: places(step.writes())?, in_place: works_in_place(step) })
        };
        let steps = program.steps.iter().map(touch).collect::<Result<Vec<Touch>, String>>()?;
        let constants: Vec<Range<usize>> = plan.constants().iter().map(|c| range(c.slot)).collect();
        replay(&start, &constants, &steps).map_err(|e| format!("{}: {e}\n{plan}", program.name))?;
        outputs_are_written(plan, program)?;
    }
    Ok(())
}

/// Values whose elements a step reads; a running update reads `x` for its shape alone.
fn reads(step: &Step) -> Vec<Value> {
    let mut reads = step.reads();
    if matches!(step.head, Head::Op(Op::RunningUpdate { .. })) {
        reads.remove(2);
    }
    reads
}

fn works_in_place(step: &Step) -> bool {
    match &step.head {
        Head::Op(op) => matches!(op, Op::PgdStep { .. } | Op::RunningUpdate { .. } | Op::SelectRows | Op::Hyperplane(_)),
        Head::Chain | Head::Copy => true,
    }
}

/// Every value with a lasting place is a leaf or written by some program.
fn outputs_are_written(plan: &Plan, program: &Program) -> Result<(), String> {
    let written: Vec<Value> = program.steps.iter().flat_map(Step::writes).collect();
    let twice = written.iter().enumerate().find(|(i, v)| written[..*i].contains(v));
    match twice {
        Some((_, v)) => Err(format!("{:?} is computed twice in {}", plan.graph().node(*v), program.name)),
        None => Ok(()),
    }
}

fn range(slot: Slot) -> Range<usize> {
    slot.offset..slot.offset + slot.bytes
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Runs the steps over a memory that knows only owners: every read must find its value whole, no write may hit an
/// operand of its own step, another output, or a constant.
fn replay(start: &[Held], constants: &[Range<usize>], steps: &[Touch]) -> Result<(), String> {
    let mut memory: Vec<Held> = Vec::new();
    for &(v, slot) in start {
        if let Some((other, _)) = memory.iter().find(|(_, s)| overlap(&range(*s), &range(slot))) {
            return Err(format!("{v:?} and {other:?} share lasting memory"));
        }
        memory.push((v, slot));
    }
    for (i, step) in steps.iter().enumerate() {
        if let Some((v, slot)) = step.reads.iter().find(|held| !memory.contains(held)) {
            return Err(format!("step {i} reads {v:?} at {slot:?}, which does not hold it"));
        }
        for (n, &(v, slot)) in step.writes.iter().enumerate() {
            let clash = |(_, other): &&Held| overlap(&range(*other), &range(slot));
            let operand = step.reads.iter().find(|held| clash(held) && !(step.in_place && held.1 == slot));
            if let Some((other, _)) = operand.or(step.writes[..n].iter().find(clash)) {
                return Err(format!("step {i} writes {v:?} over {other:?}, which it still needs"));
            }
            if constants.iter().any(|c| overlap(c, &range(slot))) {
                return Err(format!("step {i} writes {v:?} over a constant"));
            }
            memory.retain(|held| !clash(&held));
            memory.push((v, slot));
        }
    }
    Ok(())
}

/// The replay must refuse what a careless arena would do.
fn refusals() -> Vec<Trial> {
    let values = || {
        let mut g = Graph::new();
        let x = g.input("x", Shape::per_image(&[1]), DType::F32);
        let y = g.relu(x);
        [x, y, g.relu(y)]
    };
    let slot = |offset| Slot { offset, bytes: 256 };
    let step = |reads: &[Held], writes: &[Held]| Touch { reads: reads.to_vec(), writes: writes.to_vec(), in_place: false };
    vec![
        trial("plans::replay.accepts_reuse", move || {
            let [x, y, z] = values();
            let steps = [step(&[(x, slot(0))], &[(y, slot(256))]), step(&[(y, slot(256))], &[(z, slot(512))])];
            replay(&[(x, slot(0))], &[], &steps)
        }),
        trial("plans::replay.refuses_unwritten", move || {
            let [x, y, z] = values();
            let error = replay(&[(x, slot(0))], &[], &[step(&[(y, slot(256))], &[(z, slot(512))])]);
            assert!(error.is_err_and(|e| e.contains("does not hold it")));
        }),
        trial("plans::replay.refuses_overwritten", move || {
            let [x, y, z] = values();
            let lost = [
                step(&[(x, slot(0))], &[(y, slot(256))]),
                step(&[(x, slot(0))], &[(z, slot(384))]), // half over y
                step(&[(y, slot(256))], &[(z, slot(1024))]),
            ];
            assert!(replay(&[(x, slot(0))], &[], &lost).is_err_and(|e| e.contains("step 2")));
        }),
        trial("plans::replay.refuses_own_operand", move || {
            let [x, y, _] = values();
            let error = replay(&[(x, slot(0))], &[], &[step(&[(x, slot(0))], &[(y, slot(0))])]);
            assert!(error.is_err_and(|e| e.contains("still needs")));
        }),
        trial("plans::replay.refuses_constant_and_twins", move || {
            let [x, y, z] = values();
            let over = step(&[], &[(y, slot(256))]);
            assert!(replay(&[], std::slice::from_ref(&(300..310)), &[over]).is_err_and(|e| e.contains("constant")));
            let twins = step(&[], &[(y, slot(256)), (z, slot(300))]);
            assert!(replay(&[], &[], &[twins]).is_err());
            assert!(replay(&[(x, slot(0)), (y, slot(128))], &[], &[]).is_err_and(|e| e.contains("share")));
        }),
    ]
}
