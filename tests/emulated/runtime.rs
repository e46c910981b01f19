//! The emulator's runtime and compiled kernels as safe calls; addresses are numbers, as they are to a device.
//! The only file of the tests with unsafe code. Must not know what a kernel does.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_long, c_void};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use super::compile;

/// `emu::Launch` of the shim.
#[repr(C)]
struct RawLaunch {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_bytes: u32,
    flags: u32,
    seed: u64,
    args: *mut *mut c_void,
    error: [u8; 1024],
}

/// `emu::Flags` of the shim.
pub const LAZY: u32 = 1;
pub const SHUFFLED: u32 = 2;
pub const CHECKED: u32 = 4;

/// What a launch is made of.
pub struct Launch<'a> {
    pub grid: [u32; 3],
    pub threads: u32,
    pub dynamic_bytes: u32,
    pub flags: u32,
    pub seed: u64,
    /// Each argument in the low bytes of a word.
    pub args: &'a mut [u64],
}

/// The loaded runtime.
struct Runtime {
    alloc: unsafe extern "C" fn(usize, i32) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    mark: unsafe extern "C" fn(*mut c_void, usize, i32),
    damage: unsafe extern "C" fn(*const c_void) -> c_long,
    _lib: Library,
}

fn runtime() -> Result<&'static Runtime, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let path = compile::runtime()?;
        let text = |e: libloading::Error| format!("{}: {e}", path.display());
        // SAFETY: our own object, made from the shim whose signatures these are; it is never unloaded.
        unsafe {
            let lib = Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL).map_err(text)?;
            Ok(Runtime {
                alloc: *lib.get(b"emu_alloc").map_err(text)?,
                free: *lib.get(b"emu_free").map_err(text)?,
                mark: *lib.get(b"emu_mark").map_err(text)?,
                damage: *lib.get(b"emu_damage").map_err(text)?,
                _lib: lib,
            })
        }
    });
    made.as_ref().map_err(Clone::clone)
}

/// The allocations of one device, each between pages out of reach. Contents are NaN until written.
pub struct Memory {
    runtime: &'static Runtime,
    /// Sizes by address.
    held: Mutex<BTreeMap<u64, u64>>,
    checked: bool,
    room: u64,
}

impl Memory {
    /// No more than `room` bytes; with `checked` accesses of kernels that are built for it are looked at.
    pub fn new(room: u64, checked: bool) -> Result<Self, String> {
        Ok(Memory { runtime: runtime()?, held: Mutex::default(), checked, room })
    }
    /// `None` where there is not enough.
    pub fn alloc(&self, bytes: u64) -> Option<u64> {
        let mut held = self.held.lock().expect("maps do not panic");
        if held.values().sum::<u64>().checked_add(bytes)? > self.room {
            return None;
        }
        // SAFETY: takes any size and returns null where it cannot be had.
        let at = unsafe { (self.runtime.alloc)(bytes as usize, self.checked.into()) } as u64;
        (at != 0).then(|| {
            held.insert(at, bytes);
            at
        })
    }
    pub fn free(&self, at: u64) {
        assert!(self.held.lock().expect("maps do not panic").remove(&at).is_some(), "{at:#x} was not allocated here");
        // SAFETY: it was allocated and is freed once: just now it has left the map.
        unsafe { (self.runtime.free)(at as *mut c_void) };
    }
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.inside(at, bytes.len() as u64);
        // SAFETY: the range lies inside one allocation; kernels run only inside of `Module::launch`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len());
            (self.runtime.mark)(at as *mut c_void, bytes.len(), 1);
        }
    }
    pub fn read(&self, at: u64, bytes: &mut [u8]) {
        self.inside(at, bytes.len() as u64);
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(at as *const u8, bytes.as_mut_ptr(), bytes.len()) };
    }
    /// Makes a range what it was before anybody wrote it.
    pub fn forget(&self, at: u64, bytes: u64) {
        self.inside(at, bytes);
        // SAFETY: as in `write`.
        unsafe { (self.runtime.mark)(at as *mut c_void, bytes as usize, 0) };
    }
    /// Whether somebody has written beside an allocation: its size and how far outside.
    pub fn damage(&self) -> Option<(u64, i64)> {
        let held = self.held.lock().expect("maps do not panic");
        // SAFETY: every address in the map is that of an allocation.
        held.iter().map(|(&at, &bytes)| (bytes, unsafe { (self.runtime.damage)(at as *const c_void) })).find(|d| d.1 != 0)
    }
    fn inside(&self, at: u64, bytes: u64) {
        let held = self.held.lock().expect("maps do not panic");
        let found = held.range(..=at).next_back().is_some_and(|(start, size)| at + bytes <= start + size);
        assert!(found, "{bytes} bytes at {at:#x} are not inside one allocation");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let held = std::mem::take(&mut *self.held.lock().expect("maps do not panic"));
        // SAFETY: each was allocated and has not been freed.
        held.keys().for_each(|&at| unsafe { (self.runtime.free)(at as *mut c_void) });
    }
}

/// A loaded kernel. One launch of it runs at a time, since what blocks share is the module's own memory.
pub struct Module {
    run: unsafe extern "C" fn(*mut RawLaunch) -> i32,
    turn: Mutex<()>,
    _lib: Library,
}

impl Module {
    /// The kernel `entry` of a shared object that `compile` has made.
    pub fn open(path: &Path, entry: &str) -> Result<Self, String> {
        runtime()?;
        let text = |e: libloading::Error| format!("{}: {e}", path.display());
        // SAFETY: the object is our own and whole; its initialisers do nothing, and it stays loaded as long as `run` exists.
        let (run, lib) = unsafe {
            let lib = Library::open(Some(path), RTLD_NOW | RTLD_LOCAL).map_err(text)?;
            (*lib.get(format!("emu_run_{entry}").as_bytes()).map_err(text)?, lib)
        };
        Ok(Module { run, turn: Mutex::default(), _lib: lib })
    }
    /// Runs it to its end. What the kernel does wrong with the memory of the emulated device comes back as an error.
    pub fn launch(&self, launch: &mut Launch) -> Result<(), String> {
        let mut pointers: Vec<*mut c_void> = launch.args.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        let mut raw = RawLaunch {
            grid: launch.grid,
            block: [launch.threads, 1, 1],
            dynamic_bytes: launch.dynamic_bytes,
            flags: launch.flags,
            seed: launch.seed,
            args: pointers.as_mut_ptr(),
            error: [0; 1024],
        };
        let turn = self.turn.lock().expect("nothing in here panics");
        // SAFETY: `raw` mirrors the shim's struct and outlives the call; nobody else runs this module.
        let failed = unsafe { (self.run)(&mut raw) } != 0;
        drop(turn);
        let text = CStr::from_bytes_until_nul(&raw.error).map(|t| t.to_string_lossy().into_owned());
        if failed { Err(text.unwrap_or_default()) } else { Ok(()) }
    }
}
