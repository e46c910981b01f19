//! What the engine asks of a device: memory, kernels, launches, replay. CUDA and the tests' emulator both stand behind it,
//! so that planning, packing, capture and replay are the same code on both.
//! Must not know what is computed.

use super::spec::KernelSpec;
use crate::error::Result;

/// What a device is and how much of everything it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceProps {
    /// For people: `NVIDIA H200`.
    pub name: String,
    /// Compute capability times ten: 80, 90, 120.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Shared memory that one block may ask for, in bytes, static and dynamic together.
    pub shared_bytes: u32,
    /// Second-level cache in bytes.
    pub l2_bytes: u64,
    /// Device memory in bytes.
    pub memory_bytes: u64,
}

/// Cards that plans can be made for without having one: name, compute capability times ten, multiprocessors, KB of shared
/// memory of a block, MB of cache, GB of memory.
const CARDS: [(&str, u32, u32, u32, u64, u64); 5] = [
    ("a100", 80, 108, 163, 40, 80),
    ("h200", 90, 132, 227, 60, 141),
    ("l40s", 89, 142, 99, 96, 48),
    ("b200", 100, 148, 227, 126, 180),
    ("rtx5090", 120, 170, 99, 96, 32),
];

impl DeviceProps {
    /// Names that [`DeviceProps::of`] knows.
    pub fn names() -> [&'static str; CARDS.len()] {
        CARDS.map(|card| card.0)
    }
    /// A card by its name, such as `h200`.
    pub fn of(name: &str) -> Option<Self> {
        let &(name, arch, sms, shared, l2, memory) = CARDS.iter().find(|card| card.0 == name)?;
        let (shared_bytes, l2_bytes, memory_bytes) = (shared << 10, l2 << 20, memory << 30);
        Some(DeviceProps { name: name.into(), arch, sms, shared_bytes, l2_bytes, memory_bytes })
    }
}

/// An address in device memory, made by [`Driver::alloc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevicePtr(u64);

impl DevicePtr {
    /// What a driver's allocator gave.
    pub fn from_raw(address: u64) -> Self {
        DevicePtr(address)
    }
    /// The address as the device sees it.
    pub fn raw(self) -> u64 {
        self.0
    }
    /// The address `bytes` further on; the caller stays inside the allocation.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        DevicePtr(self.0 + bytes)
    }
}

/// Geometry of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block, in x only.
    pub block: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared: u32,
}

impl Dims {
    /// `blocks` blocks of `block` threads in one dimension.
    pub fn linear(blocks: u32, block: u32) -> Self {
        Dims { grid: [blocks, 1, 1], block, shared: 0 }
    }
}

/// One kernel argument; its order and type are those of the kernel's parameter list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A pointer.
    Ptr(DevicePtr),
    /// A pointer that the kernel's constants say is never read.
    Null,
    /// `int`.
    I32(i32),
    /// `long long`.
    I64(i64),
    /// `float`.
    F32(f32),
}

/// A loaded kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Function(pub u32);

/// A recorded list of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replay(pub u32);

/// A point in the device's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event(pub u32);

/// One device. All work is done in the order in which it was asked for; only `download`, `sync` and `elapsed_ms` wait for it.
pub trait Driver: Send + Sync {
    /// What the device is.
    fn props(&self) -> &DeviceProps;

    /// Memory, at a multiple of 256 bytes, with undefined contents.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where there is not enough; `is_out_of_memory` of the error says so.
    fn alloc(&self, bytes: u64) -> Result<DevicePtr>;
    /// Gives memory back after all work asked for so far.
    fn free(&self, ptr: DevicePtr);
    /// Copies to the device; `src` may change as soon as the call returns.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the device fails.
    fn upload(&self, dst: DevicePtr, src: &[u8]) -> Result<()>;
    /// Copies from the device after all work asked for so far.
    ///
    /// # Errors
    /// As for `upload`; a kernel that failed earlier shows here.
    fn download(&self, src: DevicePtr, dst: &mut [u8]) -> Result<()>;

    /// Compiles or finds kernels, several at a time; equal specs give equal functions.
    ///
    /// # Errors
    /// [`crate::Error::Device`] with the compiler's log.
    fn load(&self, specs: &[KernelSpec]) -> Result<Vec<Function>>;
    /// Starts a kernel, or while capturing records it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the device refuses.
    fn launch(&self, function: Function, dims: Dims, args: &[Arg]) -> Result<()>;
    /// Records the launches that `record` makes instead of starting them. Nothing else may be asked of the device meanwhile.
    ///
    /// # Errors
    /// The error of `record`, or that of the device.
    fn capture(&self, record: &mut dyn FnMut() -> Result<()>) -> Result<Replay>;
    /// Starts a recorded list.
    ///
    /// # Errors
    /// As for `launch`.
    fn replay(&self, replay: Replay) -> Result<()>;
    /// Forgets a recorded list.
    fn release(&self, replay: Replay);

    /// What went wrong since the last call without failing anything, such as a cache that cannot be written.
    fn take_warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// Waits for everything.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where a kernel failed.
    fn sync(&self) -> Result<()>;
    /// Marks this point of the work.
    ///
    /// # Errors
    /// As for `launch`.
    fn mark(&self) -> Result<Event>;
    /// Milliseconds of device time between two marks, which are forgotten; waits for the later one.
    ///
    /// # Errors
    /// As for `sync`.
    fn elapsed_ms(&self, from: Event, to: Event) -> Result<f32>;
}
