//! NVIDIA's run-time compiler: found on this machine, loaded, and asked for cubins. Needs neither a card nor a driver.
//! Must not know what a kernel does, nor where results are kept.
//! <https://docs.nvidia.com/cuda/nvrtc/>
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::env;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libloading::Library;

use super::cache::Recipe;
use super::image::Image;
use super::spec::KernelSpec;
use crate::error::{Error, Result};

/// What brings the newest compiler.
const INSTALL: &str = "pip install nvidia-cuda-nvrtc";
/// Where wheels hold the library, relative to `site-packages`: CUDA 13 and later, CUDA 12.
const WHEELS: [&str; 2] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];

/// The compiler, loaded.
pub struct Nvrtc {
    api: Api,
    version: Version,
    /// As it was found; a bare name where the system's loader knew the place.
    path: PathBuf,
    /// Compute capabilities times ten that it compiles for, ascending.
    archs: Vec<u32>,
    // Never unloaded: the library keeps thread-local state that outlives its last call.
    _libraries: ManuallyDrop<Vec<Library>>,
}

/// Of a compiler, or the newest CUDA that a driver speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 13 of 13.0.
    pub major: u32,
    /// 0 of 13.0.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Where to look for the compiler.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// `PETARD_NVRTC`: a library, or a folder that holds one; nothing else is tried then.
    pub named: Option<PathBuf>,
    /// Whether the names that the system's loader knows are tried.
    pub system: bool,
    /// Folders that hold libraries, in order.
    pub folders: Vec<PathBuf>,
    /// Whether `python3` is asked for its packages when all else fails.
    pub python: bool,
}

impl Search {
    /// What the environment says: `PETARD_NVRTC`, else the system's loader, CUDA toolkits, `VIRTUAL_ENV` and `python3`.
    pub fn from_env() -> Self {
        let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let mut toolkits = entries(Path::new("/usr/local"), "cuda");
        // The plain link first, then the newest.
        toolkits.sort_by_key(|p| std::cmp::Reverse((p.ends_with("cuda"), p.clone())));
        toolkits.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set));
        let mut folders: Vec<PathBuf> = toolkits.iter().map(|t| t.join("lib64")).collect();
        folders.extend(set("VIRTUAL_ENV").iter().flat_map(|v| environment(v)));
        Search { named: set("PETARD_NVRTC"), system: true, folders, python: true }
    }

    /// Every place in order, each made only when those before it did not do.
    fn candidates(&self) -> Box<dyn Iterator<Item = PathBuf> + '_> {
        if let Some(named) = &self.named {
            return Box::new(inside(named).into_iter());
        }
        let names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"].into_iter().filter(|_| self.system).map(PathBuf::from);
        let folders = self.folders.iter().flat_map(|f| libraries(f));
        let python = std::iter::once(self.python).filter(|&ask| ask).flat_map(|_| python_folders());
        Box::new(names.chain(folders).chain(python.flat_map(|f| libraries(&f))))
    }
}

/// The libraries that a path means: itself, or those in it, in a toolkit, in an environment, or among packages.
fn inside(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_path_buf()];
    }
    let mut folders = vec![path.to_path_buf(), path.join("lib64"), path.join("lib")];
    folders.extend(packages(path));
    folders.extend(environment(path));
    folders.iter().flat_map(|f| libraries(f)).collect()
}

/// The folders of libraries in an environment of Python.
fn environment(path: &Path) -> Vec<PathBuf> {
    entries(&path.join("lib"), "python3").iter().flat_map(|p| packages(&p.join("site-packages"))).collect()
}

/// The folders of libraries among installed packages.
fn packages(path: &Path) -> Vec<PathBuf> {
    WHEELS.iter().map(|w| path.join(w)).collect()
}

/// `libnvrtc.so.*` in a folder, the newest first.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let mut found = entries(folder, "libnvrtc.so");
    found.sort_by_key(|p| std::cmp::Reverse(p.clone()));
    found
}

/// What lies in a folder under names that begin with `start`, sorted; nothing where it cannot be read.
fn entries(folder: &Path, start: &str) -> Vec<PathBuf> {
    let found = folder.read_dir().into_iter().flatten().flatten();
    let found: BTreeSet<PathBuf> =
        found.filter(|e| e.file_name().to_string_lossy().starts_with(start)).map(|e| e.path()).collect();
    found.into_iter().collect()
}

/// The folders of libraries among the packages of the `python3` on the path.
fn python_folders() -> Vec<PathBuf> {
    let ask = "import site; print(*site.getsitepackages(), site.getusersitepackages(), sep='\\n')";
    let answer = Command::new("python3").args(["-c", ask]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = answer.map(|a| String::from_utf8_lossy(&a.stdout).into_owned()).unwrap_or_default();
    text.lines().flat_map(|line| packages(Path::new(line))).collect()
}

/// Whether a path names a file rather than something for the system's loader to look for.
fn is_file_name(path: &Path) -> bool {
    path.components().count() > 1
}

impl Nvrtc {
    /// The first compiler whose cubins a driver takes that speaks `driver`; the first at all without a driver.
    ///
    /// # Errors
    /// [`Error::Device`] where there is none, or none that old.
    pub fn find(search: &Search, driver: Option<Version>) -> Result<Self> {
        let (mut newer, mut broken) = (None, None);
        for path in search.candidates() {
            match Nvrtc::open(&path) {
                Ok(found) if driver.is_none_or(|d| found.version.major <= d.major) => return Ok(found),
                Ok(found) => newer = newer.or(Some(found)),
                // Names that the loader does not know are not there; a file that is there says what is wrong with it.
                Err(error) if search.named.is_some() || is_file_name(&path) => broken = broken.or(Some(error)),
                Err(_) => {}
            }
        }
        if let (Some(newer), Some(driver)) = (newer, driver) {
            let (version, path) = (newer.version, newer.path.display());
            return Err(Error::device(format!(
                "NVRTC {version} (`{path}`) is newer than the NVIDIA driver, which knows CUDA {driver}"
            ))
            .with_hint(format!(
                "install an older one, `pip install nvidia-cuda-nvrtc-cu{}`, or update the driver",
                driver.major
            )));
        }
        Err(broken.unwrap_or_else(|| match &search.named {
            Some(named) => Error::device(format!("no libnvrtc in `{}`, which PETARD_NVRTC names", named.display()))
                .with_hint("name the library or the folder that holds it, or leave PETARD_NVRTC out"),
            None => Error::device("there is no NVRTC, the compiler of the kernels, on this machine").with_hint(format!(
                "install it with `{}`, or name the library: `PETARD_NVRTC=FILE`",
                match driver {
                    Some(d) if d.major < 13 => format!("{INSTALL}-cu{}", d.major),
                    _ => INSTALL.into(),
                }
            )),
        }))
    }

    /// Loads one library.
    ///
    /// # Errors
    /// [`Error::Device`] where it cannot be loaded or is no NVRTC.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e: libloading::Error| {
            Error::device(format!("cannot load `{}`: {e}", path.display())).with_hint(format!("is it whole? `{INSTALL}`"))
        };
        // Wheels of CUDA 13 do not say where the second library is: once loaded it is found by its own name.
        let beside = path.parent().filter(|_| is_file_name(path)).map(|f| entries(f, "libnvrtc-builtins.so"));
        // SAFETY: initialisers of NVIDIA's library run here; it is loaded by the user's choice, as by any linked program.
        let builtins = beside.into_iter().flatten().filter_map(|p| unsafe { Library::new(p) }.ok());
        let mut libraries: Vec<Library> = builtins.collect();
        // SAFETY: as above.
        let library = unsafe { Library::new(path) }.map_err(failed)?;
        let api = Api::of(&library).map_err(failed)?;
        libraries.push(library);
        let (version, archs) = (api.version(), api.archs());
        let _libraries = ManuallyDrop::new(libraries);
        Ok(Nvrtc { api, version, path: path.to_path_buf(), archs, _libraries })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }
    /// The library.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a card of compute capability `arch` / 10 is compiled for: `sm_90a`. Code for an older card of the same
    /// generation does where this compiler does not know the card.
    ///
    /// # Errors
    /// [`Error::Device`] where it knows no such generation.
    pub fn target(&self, arch: u32) -> Result<String> {
        let near = |known: &&u32| **known / 10 == arch / 10 && **known <= arch;
        self.archs.iter().rev().find(near).map(|&a| target_name(a)).ok_or_else(|| self.unknown(&target_name(arch)))
    }

    /// How kernels are compiled for `target`, such as `sm_80` or `sm_90a`.
    ///
    /// # Errors
    /// [`Error::Device`] where this compiler does not know it.
    pub fn recipe(&self, target: &str) -> Result<Recipe> {
        let digits = target.strip_prefix("sm_").unwrap_or_default().trim_end_matches(['a', 'f']);
        if !digits.parse().is_ok_and(|arch: u32| self.archs.contains(&arch)) {
            return Err(self.unknown(target));
        }
        // The option makes generic lambdas device functions; the compiler of CUDA 13.0 refuses them without it.
        let options = ["-std=c++17", "-lineinfo", "--ptxas-options=-v", "--device-as-default-execution-space"].map(String::from);
        let options = std::iter::once(format!("--gpu-architecture={target}")).chain(options).collect();
        Ok(Recipe { compiler: format!("nvrtc {}", self.version), options })
    }

    fn unknown(&self, target: &str) -> Error {
        let names: Vec<String> = self.archs.iter().map(|&a| target_name(a)).collect();
        Error::device(format!("NVRTC {} (`{}`) does not know `{target}`", self.version, self.path.display()))
            .with_hint(format!("it knows {}; newer cards need a newer one: `{INSTALL}`", names.join(", ")))
    }

    /// Compiles the file of a kernel. May be called from several threads at once.
    ///
    /// # Errors
    /// [`Error::Device`] with the compiler's log.
    pub fn compile(&self, spec: &KernelSpec, recipe: &Recipe) -> Result<Image> {
        let source = spec.source();
        let text = |s: &str| CString::new(s).expect("kernels and options are text without zero bytes");
        let options: Vec<CString> = recipe.options.iter().map(|o| text(o)).collect();
        let defined = spec.definitions().map(|(name, value)| text(&format!("-D{name}={value}")));
        let options: Vec<CString> = options.into_iter().chain(defined).collect();
        let headers: Vec<(CString, CString)> = source.headers.iter().map(|h| (text(h.text), text(h.path))).collect();
        let target = recipe.target();
        let failed = |what: String| Error::device(format!("`{spec}` cannot be compiled for {target}: {what}"));
        let program = self
            .api
            .program(&text(source.main.text), &text(source.main.path), &headers)
            .map_err(|code| failed(self.says(code)))?;
        let done = program.compile(&options);
        let log = program.log();
        done.map_err(|code| failed(format!("{}\n{}", self.says(code), log.trim_end())))?;
        let cubin = program.cubin().map_err(|code| failed(self.says(code)))?;
        // A target without code of its own, such as `compute_90`, gives no cubin.
        if cubin.is_empty() {
            return Err(failed("the compiler gave no code".into()));
        }
        Ok(Image { cubin, log })
    }

    fn says(&self, code: c_int) -> String {
        // SAFETY: any number may be asked for; the answer is a string that lives as long as the library.
        let text = unsafe { CStr::from_ptr((self.api.error_string)(code)) };
        text.to_string_lossy().into_owned()
    }
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVRTC {} (`{}`)", self.version, self.path.display())
    }
}

/// Instructions that exist on one card only are asked for by its own name.
fn target_name(arch: u32) -> String {
    if arch == 90 { "sm_90a".into() } else { format!("sm_{arch}") }
}

type Handle = *mut c_void;
type Strings = *const *const c_char;
/// Status codes stay numbers: a newer library knows codes that we do not.
type Status = c_int;
type GetSize = unsafe extern "C" fn(Handle, *mut usize) -> Status;
type GetBytes = unsafe extern "C" fn(Handle, *mut c_char) -> Status;

/// The functions of the library, as `nvrtc.h` declares them.
struct Api {
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    arch_count: unsafe extern "C" fn(*mut c_int) -> Status,
    archs: unsafe extern "C" fn(*mut c_int) -> Status,
    create: unsafe extern "C" fn(*mut Handle, *const c_char, *const c_char, c_int, Strings, Strings) -> Status,
    destroy: unsafe extern "C" fn(*mut Handle) -> Status,
    compile: unsafe extern "C" fn(Handle, c_int, Strings) -> Status,
    log: (GetSize, GetBytes),
    cubin: (GetSize, GetBytes),
}

impl Api {
    fn of(library: &Library) -> std::result::Result<Self, libloading::Error> {
        // SAFETY: each symbol is called with the type that `nvrtc.h` gives it in every version from 11.2 on; the library
        // is never unloaded while `Nvrtc` holds these pointers.
        unsafe {
            Ok(Api {
                error_string: *library.get(b"nvrtcGetErrorString\0")?,
                version: *library.get(b"nvrtcVersion\0")?,
                arch_count: *library.get(b"nvrtcGetNumSupportedArchs\0")?,
                archs: *library.get(b"nvrtcGetSupportedArchs\0")?,
                create: *library.get(b"nvrtcCreateProgram\0")?,
                destroy: *library.get(b"nvrtcDestroyProgram\0")?,
                compile: *library.get(b"nvrtcCompileProgram\0")?,
                log: (*library.get(b"nvrtcGetProgramLogSize\0")?, *library.get(b"nvrtcGetProgramLog\0")?),
                cubin: (*library.get(b"nvrtcGetCUBINSize\0")?, *library.get(b"nvrtcGetCUBIN\0")?),
            })
        }
    }

    fn version(&self) -> Version {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two places for two numbers.
        unsafe { (self.version)(&mut major, &mut minor) };
        Version { major: major.unsigned_abs(), minor: minor.unsigned_abs() }
    }

    fn archs(&self) -> Vec<u32> {
        let mut count = 0;
        // SAFETY: a place for one number.
        unsafe { (self.arch_count)(&mut count) };
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the library writes as many numbers as it has just said.
        unsafe { (self.archs)(archs.as_mut_ptr()) };
        let mut archs: Vec<u32> = archs.into_iter().map(c_int::unsigned_abs).collect();
        archs.sort_unstable();
        archs
    }

    fn program(&self, text: &CStr, name: &CStr, headers: &[(CString, CString)]) -> std::result::Result<Program<'_>, Status> {
        let (texts, names): (Vec<_>, Vec<_>) = headers.iter().map(|(t, n)| (t.as_ptr(), n.as_ptr())).unzip();
        let mut handle = std::ptr::null_mut();
        // SAFETY: as many texts and names as the count says; the library copies all strings before it returns.
        let code = unsafe {
            (self.create)(&mut handle, text.as_ptr(), name.as_ptr(), texts.len() as c_int, texts.as_ptr(), names.as_ptr())
        };
        if code == 0 { Ok(Program { api: self, handle }) } else { Err(code) }
    }
}

/// One compilation.
struct Program<'a> {
    api: &'a Api,
    handle: Handle,
}

impl Program<'_> {
    fn compile(&self, options: &[CString]) -> std::result::Result<(), Status> {
        let options: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: as many strings as the count says, alive during the call.
        let code = unsafe { (self.api.compile)(self.handle, options.len() as c_int, options.as_ptr()) };
        if code == 0 { Ok(()) } else { Err(code) }
    }
    fn log(&self) -> String {
        let bytes = self.bytes(self.api.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string()
    }
    fn cubin(&self) -> std::result::Result<Vec<u8>, Status> {
        self.bytes(self.api.cubin)
    }
    fn bytes(&self, (size, get): (GetSize, GetBytes)) -> std::result::Result<Vec<u8>, Status> {
        let mut count = 0;
        // SAFETY: a place for one number.
        let code = unsafe { size(self.handle, &mut count) };
        let mut bytes = vec![0u8; count];
        if code != 0 || count == 0 {
            return if code == 0 { Ok(bytes) } else { Err(code) };
        }
        // SAFETY: the library writes as many bytes as it has just said.
        let code = unsafe { get(self.handle, bytes.as_mut_ptr().cast()) };
        if code == 0 { Ok(bytes) } else { Err(code) }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `create`, destroyed once.
        unsafe { (self.api.destroy)(&mut self.handle) };
    }
}
