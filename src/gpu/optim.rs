//! Lowers the update of parameters: as few launches as their order allows, each over a table of chunks of many parameters.
//! Must not know schedules.

use super::driver::Dims;
use super::lower::{ARENA, Lower, Operand, Work};
use super::spec::KernelSpec;
use crate::graph::{Op, Value};
use crate::plan::{Head, Step};

/// Elements of a chunk, which one block takes; a multiple of a vector.
const CHUNK: usize = 4096;
/// Threads of a block, as in `kernels/optim.cu`.
const THREADS: u32 = 256;

/// The steps of a program in their order, neighbouring updates taken together.
pub(super) fn group(steps: &[Step]) -> impl Iterator<Item = &[Step]> {
    let update = |s: &Step| matches!(&s.head, Head::Op(Op::SgdVelocity | Op::SgdStep { .. } | Op::Ema));
    steps.chunk_by(move |a, b| update(a) && update(b))
}

/// Lowers a run of updates, as [`group`] gives it.
pub(super) fn lower(cx: &mut Lower, steps: &[Step]) {
    let mut updates: Vec<Update> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let next = Update::of(cx, step);
        let joined = i.checked_sub(1).and_then(|before| updates.last()?.join(&steps[before], step, &next));
        match joined {
            Some(both) => *updates.last_mut().expect("it was joined") = both,
            None => updates.push(next),
        }
    }
    for wave in waves(&updates) {
        let table: Vec<u8> = wave.iter().flat_map(|u| u.chunks()).flatten().flat_map(i64::to_le_bytes).collect();
        let blocks = wave.iter().map(|u| u.elems.div_ceil(CHUNK)).sum::<usize>();
        let bytes = wave.iter().flat_map(|u| u.reads().into_iter().chain(u.writes())).map(|p| p.bytes).sum();
        let arena = Operand::At { buffer: ARENA, offset: 0, bytes: cx.plan.arena_bytes() as u64 };
        let args = vec![arena, cx.table(&table)];
        let dims = Dims::linear(u32::try_from(blocks).expect("fewer than 2^44 parameters"), THREADS);
        cx.emit(KernelSpec::new("optim", "optim_update"), dims, args, Work { flops: 0, bytes });
    }
}

/// Bytes of the arena.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    offset: u64,
    bytes: u64,
}

impl Place {
    fn meets(self, other: Place) -> bool {
        self.offset < other.offset + other.bytes && other.offset < self.offset + self.bytes
    }
}

/// What an update computes; the numbers are those of `kernels/optim.cu`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Velocity = 0,
    Step = 1,
    StepNesterov = 2,
    Sgd = 3,
    SgdNesterov = 4,
    Average = 5,
}

/// One update of one parameter: velocity (or average), gradient and weight before, velocity and weight after.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Update {
    kind: Kind,
    elems: usize,
    hyper: Place,
    v: Place,
    g: Place,
    w: Place,
    next_v: Place,
    next_w: Place,
}

impl Update {
    fn of(cx: &Lower, step: &Step) -> Self {
        let at = |v: Value| match cx.at(v) {
            Operand::At { buffer: ARENA, offset, bytes } => Place { offset, bytes },
            other => unreachable!("{other:?} is no place in the arena"),
        };
        let (elems, out) = (cx.len(step.output), at(step.output));
        let inputs: Vec<Place> = step.inputs.iter().map(|&v| at(v)).collect();
        let nesterov = matches!(&step.head, Head::Op(Op::SgdStep { nesterov: true }));
        match (&step.head, &inputs[..]) {
            (Head::Op(Op::SgdVelocity), &[v, g, w, hyper]) => {
                Update { kind: Kind::Velocity, elems, hyper, v, g, w, next_v: out, next_w: w }
            }
            (Head::Op(Op::SgdStep { .. }), &[w, g, v, hyper]) => {
                let kind = if nesterov { Kind::StepNesterov } else { Kind::Step };
                Update { kind, elems, hyper, v, g, w, next_v: v, next_w: out }
            }
            (Head::Op(Op::Ema), &[v, w, hyper]) => {
                Update { kind: Kind::Average, elems, hyper, v, g: w, w, next_v: out, next_w: w }
            }
            other => unreachable!("{other:?} is no update"),
        }
    }

    /// Velocity and step of one parameter in one pass, where `self` (of `before`) and `next` (of `after`) are these.
    fn join(&self, before: &Step, after: &Step, next: &Update) -> Option<Update> {
        let kind = match (self.kind, next.kind) {
            (Kind::Velocity, Kind::Step) => Kind::Sgd,
            (Kind::Velocity, Kind::StepNesterov) => Kind::SgdNesterov,
            _ => return None,
        };
        let [_, g, w, hyper] = before.inputs[..] else { unreachable!("a velocity has four inputs") };
        // A weight is written only after everything else of its element was read.
        let apart = [next.hyper, next.g, self.v, self.next_v].iter().all(|p| !p.meets(next.next_w));
        let in_place = next.next_w == next.w || !next.next_w.meets(next.w);
        (after.inputs == [w, g, before.output, hyper] && apart && in_place).then_some(Update {
            kind,
            next_w: next.next_w,
            ..*self
        })
    }

    fn reads(&self) -> Vec<Place> {
        match self.kind {
            Kind::Step => vec![self.hyper, self.v, self.w],
            Kind::Average => vec![self.hyper, self.v, self.w],
            Kind::Velocity | Kind::StepNesterov | Kind::Sgd | Kind::SgdNesterov => vec![self.hyper, self.v, self.g, self.w],
        }
    }
    fn writes(&self) -> Vec<Place> {
        match self.kind {
            Kind::Velocity | Kind::Average => vec![self.next_v],
            Kind::Step | Kind::StepNesterov => vec![self.next_w],
            Kind::Sgd | Kind::SgdNesterov => vec![self.next_v, self.next_w],
        }
    }
    /// Whether the two must keep their order.
    fn ordered(&self, other: &Update) -> bool {
        let touches = |a: &Update, b: &Update| {
            let all: Vec<Place> = b.reads().into_iter().chain(b.writes()).collect();
            a.writes().iter().any(|w| all.iter().any(|p| p.meets(*w)))
        };
        touches(self, other) || touches(other, self)
    }
    /// The rows of the kernel's table.
    fn chunks(&self) -> impl Iterator<Item = [i64; 8]> {
        let u = *self;
        (0..u.elems).step_by(CHUNK).map(move |first| {
            let at = |p: Place| (p.offset + 4 * first as u64) as i64;
            let length = CHUNK.min(u.elems - first) as i64;
            [u.kind as i64, length, u.hyper.offset as i64, at(u.v), at(u.g), at(u.w), at(u.next_v), at(u.next_w)]
        })
    }
}

/// Updates that may run side by side, wave after wave: each as early as what it must follow allows.
fn waves(updates: &[Update]) -> Vec<Vec<Update>> {
    let mut wave = vec![0; updates.len()];
    let mut out: Vec<Vec<Update>> = Vec::new();
    for (i, update) in updates.iter().enumerate() {
        let before = (0..i).filter(|&j| updates[j].ordered(update)).map(|j| wave[j] + 1);
        wave[i] = before.max().unwrap_or(0);
        out.resize(out.len().max(wave[i] + 1), Vec::new());
        out[wave[i]].push(*update);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slot: u64) -> Place {
        Place { offset: slot * 256, bytes: 100 }
    }

    /// In place, the values of parameter `i` in slots `10 i ..`.
    fn update(kind: Kind, i: u64) -> Update {
        let [v, g, w] = [0, 1, 2].map(|k| place(10 * i + k));
        Update { kind, elems: 25, hyper: place(0), v, g, w, next_v: v, next_w: w }
    }

    #[test]
    fn parameters_do_not_wait_for_each_other() {
        let average = |i: u64| Update { v: place(10 * i + 5), next_v: place(10 * i + 5), ..update(Kind::Average, i) };
        let list = [update(Kind::Sgd, 1), update(Kind::Sgd, 2), average(1), average(3), average(2)];
        let waves = waves(&list);
        assert_eq!(waves.len(), 2);
        assert_eq!(waves[0], [list[0], list[1], list[3]]);
        assert_eq!(waves[1], [list[2], list[4]]);
    }

    #[test]
    fn what_reads_a_place_goes_before_what_writes_it_later() {
        let (first, second) = (update(Kind::Velocity, 1), update(Kind::Step, 1));
        assert_eq!(waves(&[first, second]).len(), 2);
        let other = Update { next_v: first.g, ..update(Kind::Velocity, 2) };
        assert_eq!(waves(&[first, other]).len(), 2, "the second overwrites a gradient that the first reads");
    }

    #[test]
    fn chunks_cover_each_element_once() {
        let long = Update { elems: 2 * CHUNK + 7, ..update(Kind::Sgd, 1) };
        let rows: Vec<[i64; 8]> = long.chunks().collect();
        assert_eq!(rows.iter().map(|r| r[1]).collect::<Vec<_>>(), [4096, 4096, 7]);
        assert_eq!(rows[2][3], rows[0][3] + 2 * 4 * 4096);
        assert!(rows.iter().all(|r| r[2] == rows[0][2]), "hyperparameters do not move on");
    }
}
