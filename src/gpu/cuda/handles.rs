//! What the CUDA driver hands out, each owned by one value and given back when that is dropped, and its failures.
//! Every call here needs the context to be current on the calling thread; `Cuda` sees to that.

use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::null_mut;

use cudarc::driver::sys;

/// Result of a call of the driver.
pub(super) type Done<T> = std::result::Result<T, Failure>;

/// A call that failed. The code is compared as a number only: a newer driver has codes that the bindings do not name.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    call: &'static str,
    code: sys::CUresult,
}

/// Turns the code of a call into a result.
pub(super) fn check(call: &'static str, code: sys::CUresult) -> Done<()> {
    if code as u32 == 0 { Ok(()) } else { Err(Failure { call, code }) }
}

impl Failure {
    fn number(self) -> u32 {
        self.code as u32
    }
    pub fn out_of_memory(self) -> bool {
        self.number() == 2
    }
    pub fn no_device(self) -> bool {
        self.number() == 100
    }
    /// Whether the context is lost: faults of memory, traps, time-outs, broken links.
    pub fn is_final(self) -> bool {
        matches!(self.number(), 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999)
    }
    /// What somebody can do about it.
    pub fn way_out(self) -> &'static str {
        match self.number() {
            34 => "the library found is a stub for linking: install the NVIDIA driver, or take the stub out of LD_LIBRARY_PATH",
            200 | 209 | 218 | 222 => {
                "the driver may be older than the compiler: update it, or name an older NVRTC by PETARD_NVRTC"
            }
            803 | 804 => "the driver was updated while in use, or does not fit its library: restart the machine",
            _ => "`nvidia-smi` shows the state of the cards; `--device cpu` does without",
        }
    }
}

impl fmt::Display for Failure {
    /// `CUDA_ERROR_ILLEGAL_ADDRESS in cuStreamSynchronize: an illegal memory access was encountered`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [std::ptr::null(); 2];
        // SAFETY: places for two strings, which live as long as the library; an unknown code leaves null.
        let _ = unsafe { (sys::cuGetErrorName(self.code, &mut text[0]), sys::cuGetErrorString(self.code, &mut text[1])) };
        let [name, meaning] = text.map(|t| {
            // SAFETY: a string of the driver's that ends with a zero byte.
            (!t.is_null()).then(|| unsafe { CStr::from_ptr(t) }.to_string_lossy())
        });
        match name {
            Some(name) => write!(f, "{name} in {}", self.call)?,
            None => write!(f, "error {} in {}", self.number(), self.call)?,
        }
        meaning.map_or(Ok(()), |meaning| write!(f, ": {meaning}"))
    }
}

/// A number that the driver knows about a card; below zero it means nothing.
pub(super) fn attribute(card: sys::CUdevice, what: sys::CUdevice_attribute_enum) -> Done<u32> {
    let mut value = 0;
    // SAFETY: a place for one number.
    check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, what, card) })?;
    Ok(u32::try_from(value).unwrap_or(0))
}

pub(super) fn card_name(card: sys::CUdevice) -> Done<String> {
    let mut name = [0; 256];
    // SAFETY: a place for as many bytes as the call is told; the driver ends them with a zero byte.
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, card) })?;
    let bytes: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Free and total bytes of the card of the current context.
pub(super) fn memory() -> Done<(u64, u64)> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: two places for two sizes.
    check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
    Ok((free as u64, total as u64))
}

/// A handle of the driver's. It belongs to no thread: the driver may be called from any, and from several at once.
struct Handle<T>(*mut T);

// SAFETY: CUDA driver handles are names, never dereferenced here, and the driver API is thread-safe.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}

/// The primary context of a card, which all libraries of a process share.
pub(super) struct Context {
    card: sys::CUdevice,
    handle: Handle<sys::CUctx_st>,
}

impl Context {
    /// Card `index`, made current on this thread.
    pub fn primary(index: c_int) -> Done<Self> {
        let (mut card, mut handle) = (0, null_mut());
        // SAFETY: a place for one handle.
        check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut card, index) })?;
        // SAFETY: a place for one handle.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut handle, card) })?;
        let context = Context { card, handle: Handle(handle) };
        context.enter()?;
        Ok(context)
    }
    /// Makes it current on this thread.
    pub fn enter(&self) -> Done<()> {
        // SAFETY: retained until `self` is dropped.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.handle.0) })
    }
    /// Whether memory can be taken and given back in the order of a stream.
    pub fn pools(&self) -> Done<bool> {
        let what = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
        Ok(attribute(self.card, what)? != 0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `primary`.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.card) };
    }
}

/// Work in order.
pub(super) struct Stream(Handle<sys::CUstream_st>);

impl Stream {
    pub fn new() -> Done<Self> {
        let mut handle = null_mut();
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place for one handle.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut handle, flags) })?;
        Ok(Stream(Handle(handle)))
    }
    pub fn raw(&self) -> sys::CUstream {
        self.0.0
    }
    pub fn wait(&self) -> Done<()> {
        // SAFETY: alive until `self` is dropped.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw()) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made in `new`; the driver lets what is still running finish first.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.raw()) };
    }
}

/// A point in a stream.
pub(super) struct Mark(Handle<sys::CUevent_st>);

impl Mark {
    fn new(flags: sys::CUevent_flags_enum) -> Done<Self> {
        let mut handle = null_mut();
        // SAFETY: a place for one handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut handle, flags as u32) })?;
        Ok(Mark(Handle(handle)))
    }
    /// One that knows when it was passed.
    pub fn timed() -> Done<Self> {
        Mark::new(sys::CUevent_flags_enum::CU_EVENT_DEFAULT)
    }
    /// One that is only waited for, which costs less.
    pub fn untimed() -> Done<Self> {
        Mark::new(sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING)
    }
    /// Puts it behind all work of the stream so far.
    pub fn record(&self, stream: &Stream) -> Done<()> {
        // SAFETY: both are alive, of one context.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.0.0, stream.raw()) })
    }
    /// Waits until it is passed; one that was never recorded is passed.
    pub fn wait(&self) -> Done<()> {
        // SAFETY: alive until `self` is dropped.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.0.0) })
    }
    /// Milliseconds from here to `later`, both passed and timed.
    pub fn until(&self, later: &Mark) -> Done<f32> {
        let mut ms = 0.0;
        // SAFETY: a place for one number; both are alive.
        check("cuEventElapsedTime", unsafe { sys::cuEventElapsedTime(&mut ms, self.0.0, later.0.0) })?;
        Ok(ms)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: made in `new`; one that is still pending goes when it is passed.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0.0) };
    }
}

/// A cubin on the card.
pub(super) struct Module(Handle<sys::CUmod_st>);

impl Module {
    pub fn load(cubin: &[u8]) -> Done<Self> {
        let mut handle = null_mut();
        // SAFETY: a whole cubin, which names its own size; the driver copies what it needs.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut handle, cubin.as_ptr().cast()) })?;
        Ok(Module(Handle(handle)))
    }
    /// A kernel by name, valid as long as the module.
    pub fn entry(&self, name: &CStr) -> Done<Entry> {
        let mut handle = null_mut();
        // SAFETY: a place for one handle; a name that ends with a zero byte.
        check("cuModuleGetFunction", unsafe { sys::cuModuleGetFunction(&mut handle, self.0.0, name.as_ptr()) })?;
        Ok(Entry(Handle(handle)))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded in `load`; `Cuda` has waited for its kernels.
        let _ = unsafe { sys::cuModuleUnload(self.0.0) };
    }
}

/// A kernel of a loaded module.
#[derive(Clone, Copy)]
pub(super) struct Entry(Handle<sys::CUfunc_st>);

impl Entry {
    pub fn raw(self) -> sys::CUfunction {
        self.0.0
    }
    /// Bytes of static shared memory of a block. Asking also brings the code onto the card, if that was put off: inside a
    /// recording it would be too late.
    pub fn static_shared(self) -> Done<u32> {
        let mut bytes = 0;
        let what = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: a place for one number; `Cuda` keeps the module.
        check("cuFuncGetAttribute", unsafe { sys::cuFuncGetAttribute(&mut bytes, what, self.raw()) })?;
        Ok(u32::try_from(bytes).unwrap_or(0))
    }
    /// Lets a launch ask for this much dynamic shared memory.
    pub fn allow_shared(self, bytes: u32) -> Done<()> {
        let what = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: `Cuda` keeps the module.
        check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(self.raw(), what, bytes as c_int) })
    }
}

/// A recording under way; ends however it is left.
pub(super) struct Capture<'a>(&'a Stream);

impl<'a> Capture<'a> {
    /// Records what is asked of `stream` from now on. Relaxed: other threads, and libraries on this one, may go on.
    pub fn begin(stream: &'a Stream) -> Done<Self> {
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: a stream of our own, alive and idle.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(stream.raw(), mode) })?;
        Ok(Capture(stream))
    }
    /// What was recorded.
    pub fn end(self) -> Done<Recorded> {
        ManuallyDrop::new(self).take()
    }
    fn take(&self) -> Done<Recorded> {
        let mut handle = null_mut();
        // SAFETY: a place for one handle; the stream is recording.
        let code = unsafe { sys::cuStreamEndCapture(self.0.raw(), &mut handle) };
        // A recording that was spoilt gives null.
        let recorded = Recorded(handle);
        check("cuStreamEndCapture", code).map(|()| recorded)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let _ = self.take();
    }
}

/// Launches as the driver recorded them.
pub(super) struct Recorded(sys::CUgraph);

impl Recorded {
    /// Ready to be started, its parts on the card.
    pub fn prepare(self, stream: &Stream) -> Done<Graph> {
        let mut handle = null_mut();
        // SAFETY: a place for one handle; the recording is alive, and may go once this returns.
        check("cuGraphInstantiate", unsafe { sys::cuGraphInstantiateWithFlags(&mut handle, self.0, 0) })?;
        let graph = Graph(Handle(handle));
        // SAFETY: both are alive, of one context.
        check("cuGraphUpload", unsafe { sys::cuGraphUpload(graph.0.0, stream.raw()) })?;
        Ok(graph)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the driver gave it to us; executable graphs made of it do not need it.
            let _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}

/// Recorded launches that can be started again and again.
pub(super) struct Graph(Handle<sys::CUgraphExec_st>);

impl Graph {
    pub fn launch(&self, stream: &Stream) -> Done<()> {
        // SAFETY: both are alive, of one context; memory that its kernels touch is kept by whoever recorded them.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.0.0, stream.raw()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made in `prepare`; one that is still running goes when it is done.
        let _ = unsafe { sys::cuGraphExecDestroy(self.0.0) };
    }
}

/// Page-locked memory of the host, which the card copies without help of the processor.
pub(super) struct Pinned {
    handle: Handle<c_void>,
    bytes: usize,
}

impl Pinned {
    pub fn new(bytes: usize) -> Done<Self> {
        let mut handle = null_mut();
        // SAFETY: a place for one address.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut handle, bytes, 0) })?;
        // SAFETY: as many bytes as were given; written once, so that they may be read.
        unsafe { std::ptr::write_bytes(handle.cast::<u8>(), 0, bytes) };
        Ok(Pinned { handle: Handle(handle), bytes })
    }
    /// Copies `src` to `at` and from there to the card, in the order of `stream`.
    ///
    /// The caller writes to these bytes no more until `stream` has passed this point.
    pub fn send(&mut self, at: usize, src: &[u8], dst: u64, stream: &Stream) -> Done<()> {
        assert!(at + src.len() <= self.bytes, "{at} + {} of {} bytes", src.len(), self.bytes);
        // SAFETY: inside the memory, which nobody else borrows: `self` is borrowed for writing.
        let place = unsafe { std::slice::from_raw_parts_mut(self.handle.0.cast::<u8>().add(at), src.len()) };
        place.copy_from_slice(src);
        let from = place.as_ptr().cast();
        // SAFETY: the bytes stay as they are until the stream has passed (above), and alive: `Cuda` waits before it drops
        // them; `dst` has room, as whoever made the address checked.
        check("cuMemcpyHtoDAsync", unsafe { sys::cuMemcpyHtoDAsync_v2(dst, from, src.len(), stream.raw()) })
    }
    /// Asks for a copy of `bytes` from the card to the start of this memory, in the order of `stream`.
    pub fn fetch(&mut self, src: u64, bytes: usize, stream: &Stream) -> Done<()> {
        assert!(bytes <= self.bytes, "{bytes} of {} bytes", self.bytes);
        // SAFETY: inside the memory, which stays alive: `Cuda` waits before it drops it; `src` holds that much, as whoever
        // made the address checked.
        check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(self.handle.0, src, bytes, stream.raw()) })
    }
    /// The first `dst.len()` bytes; the caller has waited for the copy that fills them.
    pub fn read(&self, dst: &mut [u8]) {
        assert!(dst.len() <= self.bytes, "{} of {} bytes", dst.len(), self.bytes);
        // SAFETY: inside the memory; no copy is under way, as the caller waited.
        dst.copy_from_slice(unsafe { std::slice::from_raw_parts(self.handle.0.cast::<u8>(), dst.len()) });
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: given in `new`; `Cuda` has waited for every copy.
        let _ = unsafe { sys::cuMemFreeHost(self.handle.0) };
    }
}
