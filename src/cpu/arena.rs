//! The one allocation that all values of a plan share, and the way a step borrows its parts of it without `unsafe`.
//! Must not know what a step computes.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::graph::Value;
use crate::plan::{ALIGN, Plan, Program, Slot, Step};

/// One aligned unit of memory.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(256))]
struct Line([f32; ALIGN / 4]);

/// Zeroed memory for a plan.
pub(super) struct Arena {
    lines: Box<[Line]>,
}

impl Arena {
    /// `bytes` of zeros.
    pub(super) fn new(bytes: usize) -> Result<Self> {
        let lines = bytemuck::allocation::try_zeroed_slice_box(bytes.div_ceil(ALIGN)).map_err(|()| {
            Error::out_of_memory(format!("cannot allocate {} MiB for the plan", bytes >> 20))
                .with_hint("use a smaller `--batch-size`")
        })?;
        Ok(Arena { lines })
    }
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[range]
    }
    pub(super) fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[range]
    }
    pub(super) fn f32(&self, slot: Slot) -> &[f32] {
        bytemuck::cast_slice(self.bytes(slot.offset..slot.offset + slot.bytes))
    }
    pub(super) fn f32_mut(&mut self, slot: Slot) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.bytes_mut(slot.offset..slot.offset + slot.bytes))
    }
    /// Fills everything from `start` on with NaN, so that a read before the write shows.
    pub(super) fn poison(&mut self, start: usize) {
        let end = self.lines.len() * ALIGN;
        bytemuck::cast_slice_mut::<u8, f32>(self.bytes_mut(start..end)).fill(f32::NAN);
    }
}

/// The parts of the arena that one step touches, each borrowed once.
pub(super) struct Views<'a> {
    plan: &'a Plan,
    program: &'a Program,
    parts: Vec<(usize, Option<&'a mut [u8]>)>,
}

impl<'a> Views<'a> {
    /// Borrows what `step` reads and writes. Panics where two of its values overlap without being the same place.
    pub(super) fn of(arena: &'a mut Arena, plan: &'a Plan, program: &'a Program, step: &Step) -> Self {
        let values = step.reads().into_iter().chain(step.writes());
        let mut slots: Vec<Slot> = values.filter_map(|v| program.slot(v)).collect();
        slots.extend(step.constants().map(|c| plan.constants()[c].slot));
        slots.sort_by_key(|s| s.offset);
        slots.dedup();
        let mut rest: &'a mut [u8] = arena.bytes_mut(0..plan.arena_bytes());
        let mut at = 0;
        let mut parts = Vec::with_capacity(slots.len());
        for slot in slots {
            assert!(slot.offset >= at, "two values of `{}` overlap at byte {}", step.label, slot.offset);
            let (part, tail) = rest.split_at_mut(slot.offset - at + slot.bytes);
            parts.push((slot.offset, Some(&mut part[slot.offset - at..])));
            rest = tail;
            at = slot.offset + slot.bytes;
        }
        Views { plan, program, parts }
    }

    fn offset(&self, value: Value) -> usize {
        self.program.slot(value).unwrap_or_else(|| panic!("value {value:?} has no place in `{}`", self.program.name)).offset
    }

    /// The bytes of a value to be written; nobody else can borrow them from here on.
    pub(super) fn take(&mut self, value: Value) -> &'a mut [u8] {
        let offset = self.offset(value);
        let part = self.parts.iter_mut().find(|p| p.0 == offset).and_then(|p| p.1.take());
        part.unwrap_or_else(|| panic!("value {value:?} is written twice in one step"))
    }
    /// The bytes of a value to be read.
    pub(super) fn bytes(&self, value: Value) -> &[u8] {
        self.at(self.offset(value))
    }
    /// The floats of a value to be read.
    pub(super) fn f32(&self, value: Value) -> &[f32] {
        bytemuck::cast_slice(self.bytes(value))
    }
    /// The integers of a value to be read.
    pub(super) fn i32(&self, value: Value) -> &[i32] {
        bytemuck::cast_slice(self.bytes(value))
    }
    /// Scale and bias of a constant.
    pub(super) fn constant(&self, index: usize) -> (&[f32], &[f32]) {
        let both: &[f32] = bytemuck::cast_slice(self.at(self.plan.constants()[index].slot.offset));
        both.split_at(both.len() / 2)
    }
    /// Whether two values share one place.
    pub(super) fn same_place(&self, a: Value, b: Value) -> bool {
        self.offset(a) == self.offset(b)
    }
    fn at(&self, offset: usize) -> &[u8] {
        let part = self.parts.iter().find(|p| p.0 == offset).and_then(|p| p.1.as_deref());
        part.expect("a step reads only what it borrowed and does not write")
    }
}
