//! Where each value lies: lasting values first, then, for each segment, slots shared by values whose lives do not overlap.
//! Must not know what a step computes.

use std::collections::{BTreeMap, BTreeSet};

use super::fuse::data_inputs;
use super::storage::half_values;
use super::{ALIGN, Constant, Head, Plan, Precision, Program, Segment, Slot, Step};
use crate::graph::{Graph, Op, Plane, Value};

/// Gives every value of every segment its slot.
pub(super) fn place(
    graph: &Graph,
    segments: &[Segment],
    lists: Vec<Vec<Step>>,
    mut constants: Vec<Constant>,
    batch: usize,
    precision: Precision,
) -> Plan {
    let lasting = lasting(graph, segments);
    let mut half = precision.half().map_or_else(BTreeSet::new, |_| half_values(graph, &lasting));
    // What becomes a state is as wide as the state.
    segments.iter().flat_map(|s| &s.carries).for_each(|(_, next)| _ = half.remove(next));
    let stored = |v: Value| precision.half().filter(|_| half.contains(&v)).unwrap_or(graph.node(v).dtype);
    let bytes = |v: Value| graph.shape(v).bytes(stored(v), batch);
    let mut end = 0;
    let mut take = |bytes: usize| {
        let slot = Slot { offset: end, bytes };
        end += bytes.next_multiple_of(ALIGN);
        slot
    };
    let mut persistent = BTreeMap::new();
    for v in lasting {
        persistent.insert(v, take(bytes(v)));
    }
    for c in &mut constants {
        c.slot = take(graph.shape(c.gamma).elems() * 2 * size_of::<f32>());
    }
    let persistent_bytes = end;
    let mut arena_bytes = end;
    let mut programs = Vec::new();
    for (segment, mut steps) in segments.iter().zip(lists) {
        let mut slots = persistent.clone();
        for &(state, next) in &segment.carries {
            // What is carried into two states lies in the first of them.
            if can_replace(&steps, state, next) && !slots.contains_key(&next) {
                slots.insert(next, slots[&state]);
            } else {
                steps.push(Step {
                    head: Head::Copy,
                    inputs: vec![next],
                    prologue: None,
                    epilogue: Vec::new(),
                    output: state,
                    side: None,
                    label: graph.node(state).label.clone(),
                });
            }
        }
        arena_bytes = arena_bytes.max(transient(&steps, persistent_bytes, bytes, &mut slots));
        programs.push(Program { name: segment.name.clone(), steps, slots });
    }
    Plan { graph: graph.clone(), batch, precision, half, programs, constants, persistent, persistent_bytes, arena_bytes }
}

/// Values that outlive a run: inputs, parameters and outputs.
fn lasting(graph: &Graph, segments: &[Segment]) -> BTreeSet<Value> {
    let leaves = graph.values().filter(|&v| matches!(graph.node(v).op, Op::Input { .. } | Op::Param { .. }));
    leaves.chain(segments.iter().flat_map(|s| s.outputs.iter().copied())).collect()
}

/// Whether `next` may be written straight into the place of `state`: nobody reads the old state afterwards, and the step
/// that writes it either does not read it or can work in place.
fn can_replace(steps: &[Step], state: Value, next: Value) -> bool {
    let Some(at) = steps.iter().position(|s| s.output == next) else { return false };
    let later = steps[at + 1..].iter().any(|s| s.reads().contains(&state));
    let own = &steps[at];
    let reads: Vec<usize> = own.reads().iter().enumerate().filter(|(_, v)| **v == state).map(|(i, _)| i).collect();
    let in_place = match &own.head {
        Head::Op(op) => in_place_input(op),
        Head::Chain | Head::Copy => None,
    };
    !later && reads.iter().all(|&i| Some(i) == in_place)
}

/// The input that an op may overwrite with its output.
pub(crate) fn in_place_input(op: &Op) -> Option<usize> {
    match op {
        Op::PgdStep { .. } | Op::RunningUpdate { .. } | Op::SgdVelocity | Op::SgdStep { .. } | Op::Ema => Some(0),
        Op::ApgdState(_) | Op::ApgdMove { .. } => Some(0),
        Op::SelectRows => Some(2),
        Op::Hyperplane(Plane::FabStep { .. } | Plane::DeepFoolStep { .. } | Plane::Back { .. }) => Some(0),
        Op::SquareStep { .. } | Op::HopGather | Op::HopQuery { .. } => Some(0),
        Op::Tick { .. } | Op::Accumulate { .. } | Op::Momentum | Op::Moment { .. } | Op::AdamStep { .. } => Some(0),
        Op::Nearest(nearest) => nearest.in_place(),
        _ => None,
    }
}

/// Places the values that live only inside this run; returns the end of the highest slot.
fn transient(steps: &[Step], base: usize, bytes: impl Fn(Value) -> usize, slots: &mut BTreeMap<Value, Slot>) -> usize {
    let mut last: BTreeMap<Value, usize> = BTreeMap::new();
    for (i, step) in steps.iter().enumerate() {
        let op_reads = match &step.head {
            Head::Op(op) => data_inputs(op, &step.inputs),
            Head::Chain | Head::Copy => step.inputs.clone(),
        };
        let fused = step.reads().split_off(step.inputs.len());
        for v in op_reads.into_iter().chain(fused).chain(step.writes()) {
            last.insert(v, i);
        }
    }
    let mut free: BTreeMap<usize, usize> = BTreeMap::new(); // offset -> bytes, neighbours joined
    let mut end = base;
    let mut live: Vec<(usize, Value)> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        for v in step.writes() {
            if slots.contains_key(&v) {
                continue;
            }
            let size = bytes(v).next_multiple_of(ALIGN);
            let fit = free.iter().filter(|(_, b)| **b >= size).min_by_key(|(_, b)| **b).map(|(o, b)| (*o, *b));
            let offset = if let Some((offset, room)) = fit {
                free.remove(&offset);
                if room > size {
                    free.insert(offset + size, room - size);
                }
                offset
            } else {
                let tail = free.last_key_value().map(|(o, b)| (*o, *b)).filter(|(o, b)| o + b == end);
                let offset = tail.map_or(end, |(o, _)| o);
                free.remove(&offset);
                end = offset + size;
                offset
            };
            slots.insert(v, Slot { offset, bytes: bytes(v) });
            live.push((last[&v], v));
        }
        live.retain(|&(until, v)| {
            if until <= i {
                let slot = slots[&v];
                release(&mut free, slot.offset, slot.bytes.next_multiple_of(ALIGN));
            }
            until > i
        });
    }
    end
}

fn release(free: &mut BTreeMap<usize, usize>, mut offset: usize, mut bytes: usize) {
    if let Some((&o, &b)) = free.range(..offset).next_back()
        && o + b == offset
    {
        free.remove(&o);
        (offset, bytes) = (o, bytes + b);
    }
    if let Some(b) = free.remove(&(offset + bytes)) {
        bytes += b;
    }
    free.insert(offset, bytes);
}
