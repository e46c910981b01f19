//! Runs a plan on a driver: memory is taken and kernels are loaded once, each segment is recorded at its first run and
//! replayed from then on. Must not know which driver, nor what a kernel does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Arg, DevicePtr, Driver, Function, Replay};
use super::lower::{ARENA, Launch, Lowered, Operand, lower};
use super::spec::KernelSpec;
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::plan::{Executor, Plan, Slot};

/// The executor of one plan on one device.
pub struct GpuExecutor {
    plan: Arc<Plan>,
    driver: Arc<dyn Driver>,
    memory: Vec<Memory>,
    segments: HashMap<String, Segment>,
    packed_bytes: usize,
    /// Rows written by the host since the last run, by value.
    written: HashMap<Value, Mirror>,
    /// Values read since the last run.
    seen: Mutex<HashMap<Value, Vec<u8>>>,
}

/// Device memory that goes back when it is no longer needed.
struct Memory {
    driver: Arc<dyn Driver>,
    ptr: DevicePtr,
    bytes: u64,
}

/// One recorded segment.
struct Segment {
    launches: Vec<(Function, Launch)>,
    replay: Option<Replay>,
}

/// The host's copy of a value that is being written row by row; only `dirty` bytes are newer than the device's.
struct Mirror {
    bytes: Vec<u8>,
    dirty: Vec<Range<usize>>,
}

impl Memory {
    fn new(driver: &Arc<dyn Driver>, bytes: u64) -> Result<Self> {
        // A buffer of nothing still has an address of its own.
        let ptr = driver.alloc(bytes.max(1))?;
        Ok(Memory { driver: Arc::clone(driver), ptr, bytes })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.driver.free(self.ptr);
    }
}

impl GpuExecutor {
    /// Takes memory and loads every kernel of the plan. Parameters and inputs are all zero until written.
    ///
    /// # Errors
    /// [`Error::Device`] where memory or a kernel cannot be had.
    pub fn new(driver: Arc<dyn Driver>, plan: Arc<Plan>) -> Result<Self> {
        let Lowered { buffers, programs } = lower(&plan, driver.props());
        let mut memory = Vec::with_capacity(buffers.len());
        for buffer in &buffers {
            let held = Memory::new(&driver, buffer.bytes)?;
            if let Some(contents) = &buffer.contents {
                driver.upload(held.ptr, contents)?;
            }
            memory.push(held);
        }
        driver.upload(memory[ARENA].ptr, &vec![0; plan.persistent_bytes()])?;
        let functions = load(driver.as_ref(), &programs)?;
        let segments = programs.into_iter().map(|(name, launches)| {
            let launches = launches.into_iter().map(|l| (functions[&l.spec], l)).collect();
            (name, Segment { launches, replay: None })
        });
        let segments: HashMap<String, Segment> = segments.collect();
        check(segments.values(), &memory);
        let packed_bytes = buffers[ARENA + 1..].iter().map(|b| b.bytes as usize).sum();
        let (written, seen) = (HashMap::new(), Mutex::new(HashMap::new()));
        Ok(GpuExecutor { plan, driver, memory, segments, packed_bytes, written, seen })
    }

    /// Sends what the host has written, in as few copies as it has gaps.
    fn flush(&mut self) -> Result<()> {
        for (value, mirror) in &mut self.written {
            mirror.dirty.sort_by_key(|r| r.start);
            let offset = self.plan.slot(*value).expect("only lasting values are written").offset as u64;
            let mut dirty = mirror.dirty.drain(..);
            let mut run = dirty.next();
            while let Some(range) = run {
                let mut end = range.end;
                run = None;
                for next in dirty.by_ref() {
                    if next.start > end {
                        run = Some(next);
                        break;
                    }
                    end = end.max(next.end);
                }
                let at = self.memory[ARENA].ptr.offset(offset + range.start as u64);
                self.driver.upload(at, &mirror.bytes[range.start..end])?;
            }
        }
        Ok(())
    }

    /// The whole of a value as it stands: what the device has, and what the host has written since.
    fn fetch(&self, value: Value, slot: Slot) -> Result<Vec<u8>> {
        let mut bytes = vec![0; slot.bytes];
        self.driver.download(self.memory[ARENA].ptr.offset(slot.offset as u64), &mut bytes)?;
        if let Some(mirror) = self.written.get(&value) {
            mirror.dirty.iter().for_each(|r| bytes[r.clone()].copy_from_slice(&mirror.bytes[r.clone()]));
        }
        Ok(bytes)
    }

    fn record(&self, segment: &Segment) -> Result<Replay> {
        self.driver.capture(&mut || segment.launches.iter().try_for_each(|(f, l)| self.launch(*f, l)))
    }

    fn launch(&self, function: Function, launch: &Launch) -> Result<()> {
        let args: Vec<Arg> = launch.args.iter().map(|&a| self.arg(a)).collect();
        self.driver.launch(function, launch.dims, &args)
    }

    fn arg(&self, operand: Operand) -> Arg {
        match operand {
            Operand::At { buffer, offset, .. } => Arg::Ptr(self.memory[buffer].ptr.offset(offset)),
            Operand::Null => Arg::Null,
            Operand::I32(v) => Arg::I32(v),
            Operand::I64(v) => Arg::I64(v),
            Operand::F32(v) => Arg::F32(v),
        }
    }
}

/// Loads the kernels of all segments at once, so that they can be compiled side by side.
fn load(driver: &dyn Driver, programs: &[(String, Vec<Launch>)]) -> Result<HashMap<KernelSpec, Function>> {
    let mut specs: Vec<KernelSpec> = programs.iter().flat_map(|(_, l)| l.iter().map(|l| l.spec.clone())).collect();
    specs.sort();
    specs.dedup();
    let functions = driver.load(&specs)?;
    assert_eq!(functions.len(), specs.len(), "the driver loaded another number of kernels");
    Ok(specs.into_iter().zip(functions).collect())
}

/// Every argument lies inside its buffer: checked once here, so a launch checks nothing.
fn check<'a>(segments: impl Iterator<Item = &'a Segment>, memory: &[Memory]) {
    for (_, launch) in segments.flat_map(|s| &s.launches) {
        for operand in &launch.args {
            if let Operand::At { buffer, offset, bytes } = *operand {
                let room = memory[buffer].bytes;
                assert!(offset + bytes <= room, "`{}`: {operand:?} in a buffer of {room} bytes", launch.spec);
            }
        }
    }
}

impl Executor for GpuExecutor {
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn write(&mut self, value: Value, first_row: usize, bytes: &[u8]) -> Result<()> {
        let (slot, range) = self.plan.transfer(value, first_row, bytes.len())?;
        let mirror = self.written.entry(value).or_insert_with(|| Mirror { bytes: vec![0; slot.bytes], dirty: Vec::new() });
        mirror.bytes[range.clone()].copy_from_slice(bytes);
        mirror.dirty.push(range);
        self.seen.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&value);
        Ok(())
    }
    fn read(&self, value: Value, first_row: usize, out: &mut [u8]) -> Result<()> {
        let (slot, range) = self.plan.transfer(value, first_row, out.len())?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match seen.entry(value) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => place.insert(self.fetch(value, slot)?),
        };
        out.copy_from_slice(&bytes[range]);
        Ok(())
    }
    fn run(&mut self, segment: &str) -> Result<()> {
        self.flush()?;
        self.seen.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        let found = self.segments.get(segment).ok_or_else(|| Error::plan(format!("the plan has no segment `{segment}`")))?;
        if found.launches.is_empty() {
            return Ok(());
        }
        let replay = match found.replay {
            Some(replay) => replay,
            None => self.record(found)?,
        };
        self.driver.replay(replay)?;
        self.segments.get_mut(segment).expect("it was just found").replay = Some(replay);
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        self.driver.sync()
    }
    fn packed_bytes(&self) -> usize {
        self.packed_bytes
    }
}

impl Drop for GpuExecutor {
    fn drop(&mut self) {
        self.segments.values().filter_map(|s| s.replay).for_each(|r| self.driver.release(r));
    }
}
