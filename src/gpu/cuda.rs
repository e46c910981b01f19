//! The driver of an NVIDIA card: memory, kernels, launches and recorded graphs through the CUDA driver API.
//! Knows nothing above `driver.rs`; compiling is `nvrtc`'s business and keeping is `cache`'s.
//! <https://docs.nvidia.com/cuda/cuda-driver-api/>
#![allow(unsafe_code)]

mod cards;
mod handles;
mod staging;

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use cudarc::driver::sys;

use super::cache::{Cache, Key, Recipe};
use super::driver::{Arg, DeviceProps, DevicePtr, Dims, Driver, Event, Function, Replay};
use super::nvrtc::Nvrtc;
use super::spec::KernelSpec;
use crate::error::{Error, Result};
pub use cards::{Cards, look};
use handles::{Capture, Context, Entry, Failure, Graph, Mark, Module, Stream, check};
use staging::{Down, Up};

/// Shared memory that a block may have without asking for more.
const SHARED_DEFAULT: u32 = 48 << 10;
/// The oldest card that has every instruction used in the kernels, times ten.
const OLDEST_ARCH: u32 = 80;

/// One card, with everything that was loaded onto it.
pub struct Cuda {
    // Dropped in this order: the context last, with `drop` having made it current.
    tables: Mutex<Tables>,
    up: Mutex<Option<Up>>,
    down: Mutex<Option<Down>>,
    /// All work is done here, in order.
    stream: Stream,
    /// Recorded only, never run: work that other threads ask for meanwhile stays out of the recording.
    recorder: Stream,
    recording: Mutex<Option<Recording>>,
    /// Held while recording.
    turn: Mutex<()>,
    /// What the card did last, and the error after which it does nothing more.
    health: Mutex<Health>,
    props: DeviceProps,
    /// Whether memory is taken and given back in the order of the stream.
    pooled: bool,
    nvrtc: Nvrtc,
    recipe: Recipe,
    cache: Cache,
    context: Context,
}

#[derive(Default)]
struct Tables {
    /// What was recorded, and of which kernels it consists.
    graphs: HashMap<u32, (Graph, Vec<Function>)>,
    marks: HashMap<u32, Mark>,
    kernels: Vec<Kernel>,
    known: HashMap<KernelSpec, Function>,
    modules: HashMap<Key, Module>,
    /// Number of the next graph or mark.
    next: u32,
}

struct Kernel {
    function: Entry,
    spec: KernelSpec,
    /// Static shared memory of a block.
    shared: u32,
    /// Dynamic shared memory that a launch may ask for as things are.
    granted: u32,
}

struct Recording {
    thread: ThreadId,
    functions: Vec<Function>,
}

#[derive(Default)]
struct Health {
    last: Last,
    dead: Option<String>,
}

#[derive(Clone, Copy, Default)]
enum Last {
    #[default]
    Nothing,
    Launch(Function),
    Replay(Replay),
}

/// A thread that panicked while it held a lock left whole tables behind: each change is one insertion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cuda {
    /// Card `index` of `cards`, which [`look`] saw.
    ///
    /// # Errors
    /// [`Error::Device`] where there is no such card, or it is too old, or `nvrtc` does not know it, or it refuses.
    pub fn open(index: usize, cards: &Cards, nvrtc: Nvrtc, cache: Cache) -> Result<Self> {
        let count = cards.cards.len();
        let props = cards.cards.get(index).cloned().ok_or_else(|| {
            Error::device(format!("there is no card `cuda:{index}`: {count} found, counted from 0"))
                .with_hint("`petard devices` lists them; CUDA_VISIBLE_DEVICES hides some")
        })?;
        if props.arch < OLDEST_ARCH {
            let [have, need] = [props.arch, OLDEST_ARCH].map(|a| format!("{}.{}", a / 10, a % 10));
            let what = format!("`cuda:{index}`, {}, has compute capability {have}, {need} is needed", props.name);
            return Err(Error::device(what).with_hint("use `--device cpu`"));
        }
        let recipe = nvrtc.recipe(&nvrtc.target(props.arch)?)?;
        let refused = |f: Failure| {
            let error = if f.out_of_memory() { Error::out_of_memory } else { Error::device };
            error(format!("`cuda:{index}`, {}, cannot be opened: {f}", props.name)).with_hint(f.way_out())
        };
        let context = Context::primary(index as c_int).map_err(refused)?;
        let pooled = context.pools().map_err(refused)?;
        let (stream, recorder) = (Stream::new().map_err(refused)?, Stream::new().map_err(refused)?);
        Ok(Cuda {
            tables: Mutex::default(),
            up: Mutex::default(),
            down: Mutex::default(),
            stream,
            recorder,
            recording: Mutex::default(),
            turn: Mutex::default(),
            health: Mutex::default(),
            props,
            pooled,
            nvrtc,
            recipe,
            cache,
            context,
        })
    }

    /// The compiler in use.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// Makes this thread one that may call the card. Every call from outside begins here.
    fn enter(&self, what: &str) -> Result<()> {
        if let Some(text) = &lock(&self.health).dead {
            return Err(dead(text));
        }
        self.context.enter().map_err(|f| self.error(what, f))
    }
    /// The same for what cannot be recorded.
    fn enter_now(&self, what: &str) -> Result<()> {
        let recording = lock(&self.recording).as_ref().is_some_and(|r| r.thread == thread::current().id());
        assert!(!recording, "{what}: only launches can be recorded");
        self.enter(what)
    }

    /// A failure in words. One that the card does not survive is kept, and tells what the card was doing.
    fn error(&self, what: &str, failure: Failure) -> Error {
        if failure.out_of_memory() {
            let left = handles::memory().map(|(free, total)| format!(": {} of {} MiB are free", free >> 20, total >> 20));
            let left = left.unwrap_or_default();
            return Error::out_of_memory(format!("{}: out of memory, cannot {what}{left}", self.props.name))
                .with_hint("use a smaller `--batch-size`, or end other programs on the card (`nvidia-smi` lists them)");
        }
        if !failure.is_final() {
            return Error::device(format!("{}: cannot {what}: {failure}", self.props.name)).with_hint(failure.way_out());
        }
        let mut health = lock(&self.health);
        let text = health
            .dead
            .take()
            .unwrap_or_else(|| format!("{} failed while waiting for {}: {failure}", self.props.name, self.doing(health.last)));
        dead(health.dead.insert(text))
    }

    fn doing(&self, last: Last) -> String {
        let tables = lock(&self.tables);
        let name = |f: &Function| tables.kernels[f.0 as usize].spec.to_string();
        match last {
            Last::Nothing => "its first work".into(),
            Last::Launch(function) => format!("`{}`", name(&function)),
            Last::Replay(replay) => match tables.graphs.get(&replay.0).map(|g| g.1.as_slice()) {
                Some([]) | None => "a recorded list".into(),
                Some([one]) => format!("`{}`", name(one)),
                Some([first, .., last]) => format!("recorded launches, `{}` to `{}`", name(first), name(last)),
            },
        }
    }

    /// Loads images into tables; the second half of `load`.
    fn enrol(&self, specs: &[KernelSpec], images: &[super::image::Image]) -> Result<()> {
        let mut tables = lock(&self.tables);
        for (spec, image) in specs.iter().zip(images) {
            // Another thread may have loaded it meanwhile.
            if tables.known.contains_key(spec) {
                continue;
            }
            let key = Key::of(spec, &self.recipe);
            let failed = |f: Failure| {
                let error = if f.out_of_memory() { Error::out_of_memory } else { Error::device };
                error(format!("{}: cannot load `{spec}`: {f}", self.props.name)).with_hint(f.way_out())
            };
            if !tables.modules.contains_key(&key) {
                tables.modules.insert(key.clone(), Module::load(&image.cubin).map_err(failed)?);
            }
            let entry = CString::new(spec.entry).expect("names have no zero bytes");
            let function = tables.modules[&key].entry(&entry).map_err(failed)?;
            let shared = function.static_shared().map_err(failed)?;
            let granted = SHARED_DEFAULT.saturating_sub(shared);
            let id = Function(u32::try_from(tables.kernels.len()).expect("fewer than 2^32 kernels"));
            tables.kernels.push(Kernel { function, spec: spec.clone(), shared, granted });
            tables.known.insert(spec.clone(), id);
        }
        Ok(())
    }

    /// The kernel, allowed to have the dynamic shared memory that a launch asks for.
    fn grant(&self, function: Function, dims: Dims) -> Result<Entry> {
        let mut tables = lock(&self.tables);
        let kernel = &mut tables.kernels[function.0 as usize];
        let most = self.props.shared_bytes.saturating_sub(kernel.shared);
        assert!(dims.shared <= most, "`{}`: {} bytes of dynamic shared memory, {most} at most", kernel.spec, dims.shared);
        if dims.shared > kernel.granted {
            let spec = &kernel.spec;
            kernel.function.allow_shared(dims.shared).map_err(|f| {
                Error::device(format!("{}: cannot give `{spec}` {} bytes of shared memory: {f}", self.props.name, dims.shared))
            })?;
            kernel.granted = dims.shared;
        }
        Ok(kernel.function)
    }
}

fn dead(text: &str) -> Error {
    Error::device(text).with_hint(
        "start again: the card does nothing more for this process; \
         `compute-sanitizer petard ..` names the kernel and the line at fault",
    )
}

impl Driver for Cuda {
    fn props(&self) -> &DeviceProps {
        &self.props
    }

    fn alloc(&self, bytes: u64) -> Result<DevicePtr> {
        let what = format!("take {bytes} bytes");
        self.enter_now(&what)?;
        let take = || {
            let (mut ptr, size) = (0, bytes.max(1) as usize);
            let code = if self.pooled {
                // SAFETY: a place for one address; the stream lives as long as `self`.
                check("cuMemAllocAsync", unsafe { sys::cuMemAllocAsync(&mut ptr, size, self.stream.raw()) })
            } else {
                // SAFETY: a place for one address.
                check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&mut ptr, size) })
            };
            code.map(|()| ptr)
        };
        // What was given back but is still in use until the stream has passed can be had after waiting.
        let retry = |f: Failure| if f.out_of_memory() { self.stream.wait().and_then(|()| take()) } else { Err(f) };
        let ptr = take().or_else(retry).map_err(|f| self.error(&what, f))?;
        assert!(ptr % 256 == 0, "{ptr:#x} is not a multiple of 256");
        Ok(DevicePtr::from_raw(ptr))
    }

    fn free(&self, ptr: DevicePtr) {
        // A card that has failed gives everything back when the process ends.
        if self.enter_now("give memory back").is_err() {
            return;
        }
        let _ = if self.pooled {
            // SAFETY: `alloc` gave the address, and the trait's user names it no more; the stream orders it after all work.
            check("cuMemFreeAsync", unsafe { sys::cuMemFreeAsync(ptr.raw(), self.stream.raw()) })
        } else {
            // SAFETY: as above; all work is done.
            self.stream.wait().and_then(|()| check("cuMemFree", unsafe { sys::cuMemFree_v2(ptr.raw()) }))
        };
    }

    fn upload(&self, dst: DevicePtr, src: &[u8]) -> Result<()> {
        self.enter_now("upload")?;
        let failed = |f| self.error("copy to the card", f);
        let mut up = lock(&self.up);
        if up.is_none() {
            *up = Some(Up::new().map_err(failed)?);
        }
        up.as_mut().expect("it was just made").send(dst.raw(), src, &self.stream).map_err(failed)
    }

    fn download(&self, src: DevicePtr, dst: &mut [u8]) -> Result<()> {
        self.enter_now("download")?;
        let failed = |f| self.error("copy from the card", f);
        let mut down = lock(&self.down);
        if down.is_none() {
            *down = Some(Down::new().map_err(failed)?);
        }
        down.as_mut().expect("it was just made").fetch(src.raw(), dst, &self.stream).map_err(failed)
    }

    fn load(&self, specs: &[KernelSpec]) -> Result<Vec<Function>> {
        self.enter_now("load kernels")?;
        let new: Vec<KernelSpec> = {
            let tables = lock(&self.tables);
            specs.iter().filter(|s| !tables.known.contains_key(s)).cloned().collect()
        };
        let images = self.cache.images(&new, &self.recipe, &|spec| self.nvrtc.compile(spec, &self.recipe))?;
        self.enrol(&new, &images)?;
        let tables = lock(&self.tables);
        Ok(specs.iter().map(|spec| tables.known[spec]).collect())
    }

    fn launch(&self, function: Function, dims: Dims, args: &[Arg]) -> Result<()> {
        self.enter("launch a kernel")?;
        let kernel = self.grant(function, dims)?;
        let mut values: Vec<u64> = args.iter().map(word).collect();
        // Little-endian: the first bytes of a word are the number, whatever its size.
        let mut params: Vec<*mut c_void> = values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        let mut recording = lock(&self.recording);
        let here = recording.as_mut().filter(|r| r.thread == thread::current().id());
        let stream = if here.is_some() { self.recorder.raw() } else { self.stream.raw() };
        let [x, y, z] = dims.grid;
        // SAFETY: the stem that packed the arguments gives as many as the kernel has parameters, each in its type; whoever
        // made the pointers checked them against their buffers; the driver copies the values before it returns.
        let code = unsafe {
            let none = std::ptr::null_mut();
            sys::cuLaunchKernel(kernel.raw(), x, y, z, dims.block, 1, 1, dims.shared, stream, params.as_mut_ptr(), none)
        };
        match here {
            Some(recording) => recording.functions.push(function),
            None => lock(&self.health).last = Last::Launch(function),
        }
        drop(recording);
        check("cuLaunchKernel", code).map_err(|f| {
            let spec = lock(&self.tables).kernels[function.0 as usize].spec.to_string();
            self.error(&format!("launch `{spec}` with {dims:?}"), f)
        })
    }

    fn capture(&self, record: &mut dyn FnMut() -> Result<()>) -> Result<Replay> {
        let what = "record launches";
        self.enter_now(what)?;
        let _turn = lock(&self.turn);
        let failed = |f| self.error(what, f);
        let capture = Capture::begin(&self.recorder).map_err(failed)?;
        // Forgotten on every way out, a panic in `record` included.
        struct Forget<'a>(&'a Mutex<Option<Recording>>);
        impl Drop for Forget<'_> {
            fn drop(&mut self) {
                lock(self.0).take();
            }
        }
        *lock(&self.recording) = Some(Recording { thread: thread::current().id(), functions: Vec::new() });
        let forget = Forget(&self.recording);
        let done = record();
        let functions = lock(&self.recording).take().expect("it was put there").functions;
        drop(forget);
        let graph = capture.end();
        // What a launch said comes before what became of the recording for it.
        done?;
        let graph = graph.and_then(|g| g.prepare(&self.stream)).map_err(failed)?;
        let mut tables = lock(&self.tables);
        let id = tables.number();
        tables.graphs.insert(id, (graph, functions));
        Ok(Replay(id))
    }

    fn replay(&self, replay: Replay) -> Result<()> {
        self.enter_now("replay")?;
        let started = lock(&self.tables).graphs.get(&replay.0).expect("a list that was recorded").0.launch(&self.stream);
        lock(&self.health).last = Last::Replay(replay);
        started.map_err(|f| self.error("start recorded launches", f))
    }

    fn release(&self, replay: Replay) {
        let graph = lock(&self.tables).graphs.remove(&replay.0);
        // Destroying needs the context; where the card has failed the process gives it back.
        if self.enter("release recorded launches").is_err() {
            std::mem::forget(graph);
        }
    }

    fn take_warnings(&self) -> Vec<String> {
        self.cache.take_warnings()
    }

    fn sync(&self) -> Result<()> {
        self.enter_now("wait")?;
        self.stream.wait().map_err(|f| self.error("wait", f))
    }

    fn mark(&self) -> Result<Event> {
        self.enter_now("mark")?;
        let made = Mark::timed().and_then(|m| m.record(&self.stream).map(|()| m));
        let mark = made.map_err(|f| self.error("mark its work", f))?;
        let mut tables = lock(&self.tables);
        let id = tables.number();
        tables.marks.insert(id, mark);
        Ok(Event(id))
    }

    fn elapsed_ms(&self, from: Event, to: Event) -> Result<f32> {
        self.enter_now("measure")?;
        assert!(from != to, "two marks are needed");
        let [from, to] = [from, to].map(|e| lock(&self.tables).marks.remove(&e.0).expect("a mark that was made"));
        to.wait().and_then(|()| from.until(&to)).map_err(|f| self.error("measure time", f))
    }
}

impl Tables {
    fn number(&mut self) -> u32 {
        self.next = self.next.checked_add(1).expect("fewer than 2^32 graphs and marks");
        self.next
    }
}

/// An argument as the driver reads it.
fn word(arg: &Arg) -> u64 {
    match *arg {
        Arg::Ptr(p) => p.raw(),
        Arg::Null => 0,
        Arg::I32(v) => u64::from(v as u32),
        Arg::I64(v) => v as u64,
        Arg::F32(v) => u64::from(v.to_bits()),
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // The fields that follow need the context; their failures have nobody to go to.
        let _ = self.context.enter().and_then(|()| self.stream.wait());
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} with {:?}", self.props, self.nvrtc)
    }
}
