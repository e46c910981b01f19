//! A driver that runs the kernels' own text on the CPU: compiled by a C++ compiler, a CUDA thread is a fiber.
//! Knows `gpu::{driver, spec}` only.

mod compile;
mod conform;
mod runtime;
mod self_test;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use petard::gpu::{Arg, DeviceProps, DevicePtr, Dims, Driver, Event, Function, KernelSpec, Replay};
use petard::{Error, Result};

pub use compile::{Build, Fault, missing};
use compile::{Unit, modules};
use runtime::{CHECKED, LAZY, Launch, Memory, Module, SHUFFLED};
pub use self_test::trials;

/// A card that the emulator plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Two multiprocessors, little shared memory, compute capability 8.0.
    Toy,
    /// An H200.
    Hopper,
}

/// In which order things happen that CUDA leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// 0 = in order; otherwise lanes, warps and wake-ups are shuffled.
    pub seed: u64,
    /// Asynchronous copies happen as late as they may, else at once. The check build always does the former.
    pub lazy: bool,
}

impl Schedule {
    pub const IN_ORDER: Schedule = Schedule { seed: 0, lazy: false };
}

struct Kernel {
    /// What the user calls it: a spec, or a kernel of the emulator's own tests.
    label: String,
    module: Arc<Module>,
}

type Recorded = (Function, Dims, Vec<Arg>);

/// An emulated device. Launches happen at once, so there is never anything to wait for.
pub struct Emulated {
    props: DeviceProps,
    build: Build,
    schedule: Schedule,
    fault: Option<&'static Fault>,
    memory: Memory,
    kernels: Mutex<Vec<Kernel>>,
    recording: Mutex<Option<Vec<Recorded>>>,
    replays: Mutex<HashMap<u32, Vec<Recorded>>>,
    marks: Mutex<u32>,
}

/// Nothing panics while it holds one of the locks.
const UNBROKEN: &str = "no holder of this lock panics";

impl Emulated {
    /// Panics where [`missing`] says why there can be none.
    pub fn new(profile: Profile, build: Build, schedule: Schedule) -> Self {
        let props = match profile {
            Profile::Toy => DeviceProps {
                name: "emulated toy".into(),
                arch: 80,
                sms: 2,
                shared_bytes: 48 << 10,
                l2_bytes: 1 << 20,
                memory_bytes: 1 << 30,
            },
            Profile::Hopper => DeviceProps {
                name: "emulated H200".into(),
                arch: 90,
                sms: 132,
                shared_bytes: 227 << 10,
                l2_bytes: 60 << 20,
                memory_bytes: 141 << 30,
            },
        };
        let memory = Memory::new(props.memory_bytes, build == Build::Check).unwrap_or_else(|e| panic!("emulator: {e}"));
        Emulated {
            props,
            build,
            schedule,
            fault: crate::mutants::planted(),
            memory,
            kernels: Mutex::default(),
            recording: Mutex::default(),
            replays: Mutex::default(),
            marks: Mutex::default(),
        }
    }

    /// The same card with less memory.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        let memory = Memory::new(bytes, self.build == Build::Check).unwrap_or_else(|e| panic!("emulator: {e}"));
        Emulated { props: DeviceProps { memory_bytes: bytes, ..self.props }, memory, ..self }
    }

    /// Makes `bytes` at `ptr` what they were before anybody wrote them: NaN, and reported when read by a check build.
    pub fn forget(&self, ptr: DevicePtr, bytes: u64) {
        self.memory.forget(ptr.raw(), bytes);
    }

    /// A kernel of `tests/emulated/kernels`, with its macros.
    pub fn load_own(&self, file: &str, entry: &str, macros: &[(&str, i64)]) -> Result<Function> {
        let unit = Unit::own(file, entry, macros).map_err(Error::device)?;
        let module = compile::module(&unit, self.build).map_err(|e| Error::device(format!("{entry}: {e}")))?;
        let mut kernels = self.kernels.lock().expect(UNBROKEN);
        kernels.push(Kernel { label: entry.into(), module });
        Ok(Function(kernels.len() as u32 - 1))
    }

    fn start(&self, (function, dims, args): &Recorded) -> Result<()> {
        let (label, module) = {
            let kernels = self.kernels.lock().expect(UNBROKEN);
            let kernel = &kernels[function.0 as usize];
            (kernel.label.clone(), Arc::clone(&kernel.module))
        };
        if dims.shared > self.props.shared_bytes {
            let (asked, there) = (dims.shared, self.props.shared_bytes);
            return Err(Error::device(format!("{label}: {asked} bytes of shared memory, the {} has {there}", self.props.name)));
        }
        let word = |a: &Arg| match *a {
            Arg::Ptr(p) => p.raw(),
            Arg::Null => 0,
            Arg::I32(v) => u64::from(v as u32),
            Arg::I64(v) => v as u64,
            Arg::F32(v) => u64::from(v.to_bits()),
        };
        let mut flags = if self.build == Build::Check { CHECKED } else { 0 };
        flags |= if self.schedule.seed != 0 { SHUFFLED } else { 0 };
        flags |= if self.schedule.lazy { LAZY } else { 0 };
        let mut words: Vec<u64> = args.iter().map(word).collect();
        let mut launch = Launch {
            grid: dims.grid,
            threads: dims.block,
            dynamic_bytes: dims.shared,
            flags,
            seed: self.schedule.seed,
            args: &mut words,
        };
        module.launch(&mut launch).map_err(|e| Error::device(format!("{label}: {}", compile::with_lines(&e))))?;
        match self.memory.damage() {
            None => Ok(()),
            Some((bytes, at)) => {
                let place = if at < 0 { format!("{} before", -at) } else { format!("{at} behind") };
                Err(Error::device(format!("{label}: OUT OF BOUNDS: a write {place} an allocation of {bytes} bytes")))
            }
        }
    }
}

impl Driver for Emulated {
    fn props(&self) -> &DeviceProps {
        &self.props
    }
    fn alloc(&self, bytes: u64) -> Result<DevicePtr> {
        let room = || Error::out_of_memory(format!("{} has no {bytes} bytes left", self.props.name));
        self.memory.alloc(bytes).map(DevicePtr::from_raw).ok_or_else(room)
    }
    fn free(&self, ptr: DevicePtr) {
        self.memory.free(ptr.raw());
    }
    fn upload(&self, dst: DevicePtr, src: &[u8]) -> Result<()> {
        self.memory.write(dst.raw(), src);
        Ok(())
    }
    fn download(&self, src: DevicePtr, dst: &mut [u8]) -> Result<()> {
        self.memory.read(src.raw(), dst);
        Ok(())
    }
    fn load(&self, specs: &[KernelSpec]) -> Result<Vec<Function>> {
        let mut kernels = self.kernels.lock().expect(UNBROKEN);
        let find = |kernels: &[Kernel], spec: &KernelSpec| kernels.iter().position(|k| k.label == spec.to_string());
        let new: Vec<&KernelSpec> = specs.iter().filter(|s| find(&kernels, s).is_none()).collect();
        let unit = |s: &&KernelSpec| self.fault.iter().fold(Unit::of(s), |unit, fault| unit.with(fault));
        let units: Vec<Unit> = new.iter().map(unit).collect();
        for (spec, module) in new.iter().zip(modules(&units, self.build)) {
            let module = module.map_err(|e| Error::device(format!("{spec}: {e}")))?;
            kernels.push(Kernel { label: spec.to_string(), module });
        }
        Ok(specs.iter().map(|s| Function(find(&kernels, s).expect("it was just loaded") as u32)).collect())
    }
    fn launch(&self, function: Function, dims: Dims, args: &[Arg]) -> Result<()> {
        let one = (function, dims, args.to_vec());
        if let Some(list) = self.recording.lock().expect(UNBROKEN).as_mut() {
            list.push(one);
            return Ok(());
        }
        self.start(&one)
    }
    fn capture(&self, record: &mut dyn FnMut() -> Result<()>) -> Result<Replay> {
        *self.recording.lock().expect(UNBROKEN) = Some(Vec::new());
        let done = record();
        let list = self.recording.lock().expect(UNBROKEN).take().expect("it was put there");
        done?;
        let mut replays = self.replays.lock().expect(UNBROKEN);
        let id = (0..).find(|i| !replays.contains_key(i)).expect("fewer than 2^32 lists");
        replays.insert(id, list);
        Ok(Replay(id))
    }
    fn replay(&self, replay: Replay) -> Result<()> {
        let list = self.replays.lock().expect(UNBROKEN)[&replay.0].clone();
        list.iter().try_for_each(|one| self.start(one))
    }
    fn release(&self, replay: Replay) {
        self.replays.lock().expect(UNBROKEN).remove(&replay.0);
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn mark(&self) -> Result<Event> {
        let mut marks = self.marks.lock().expect(UNBROKEN);
        *marks += 1;
        Ok(Event(*marks))
    }
    fn elapsed_ms(&self, from: Event, to: Event) -> Result<f32> {
        Ok((to.0 - from.0) as f32)
    }
}
