//! Kernels and the runtime below them as shared objects, by a C++ compiler, kept by a hash of everything they are made of.
//! Must not know what a kernel does.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};

use petard::gpu::KernelSpec;
use petard::gpu::source::{FILES, File};
use sha2::{Digest, Sha256};

use super::runtime::Module;
use crate::support::root;

/// How a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Build {
    /// For results.
    Fast,
    /// Every access is looked at: races, bounds, alignment, reads of what was never written.
    Check,
}

/// No contraction: where the fused rounding is meant the kernels say `fmaf`. No unique symbols: what blocks share must
/// stay the module's own, also where a template holds it.
const KERNEL: &[&str] = &[
    "-std=c++17",
    "-fPIC",
    "-march=x86-64-v3",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-asynchronous-unwind-tables",
    "-ffp-contract=off",
    "-w",
    "-DPETARD_EMULATED=1",
];
const FAST: &[&str] = &["-O2"];
const CHECK: &[&str] = &[
    "-O1",
    "-g1",
    "-gdwarf-4",
    "-fsanitize=thread",
    "-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero",
    "-fno-sanitize-recover=all",
    "--param",
    "tsan-instrument-func-entry-exit=0",
];
const RUNTIME: &[&str] = &["-std=c++17", "-fPIC", "-shared", "-march=x86-64-v3", "-fno-rtti", "-O2", "-g1", "-w"];
fn flags(build: Build) -> &'static [&'static str] {
    match build {
        Build::Fast => FAST,
        Build::Check => CHECK,
    }
}

/// Headers of the shim that come before a kernel's text; a change of any other file of the shim compiles no kernel again.
const SHIM: &[&str] = &["cuda.hpp", "math.hpp", "ptx.hpp", "runtime.hpp"];

/// Bytes of the digest that stands behind each finished file: a file that was cut off or damaged is made again.
const SEAL: usize = 32;

/// The C++ compiler and the linker of this machine.
struct Tools {
    cxx: String,
    version: String,
    /// `ld` itself, which starts five times faster than the compiler does to call it.
    ld: bool,
}

fn tools() -> Result<&'static Tools, String> {
    static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
    let found = TOOLS.get_or_init(|| {
        let cxx = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
        let version = Command::new(&cxx).arg("--version").output().map_err(|_| format!("no {cxx}"))?;
        let ld = Command::new("ld").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        Ok(Tools { version: String::from_utf8_lossy(&version.stdout).into_owned(), cxx, ld })
    });
    found.as_ref().map_err(Clone::clone)
}

/// Why no kernel can be emulated on this machine, in a few words; `None` where it can.
pub fn missing() -> Option<String> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        let wide = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if wide { tools().err() } else { Some("no avx2".into()) }
    }
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    Some("emulator needs linux on x86-64".into())
}

fn folder() -> PathBuf {
    root().join("target/emulated")
}

fn shim() -> PathBuf {
    root().join("tests/emulated/shim")
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut sha = Sha256::new();
    for p in parts {
        sha.update((p.len() as u64).to_le_bytes());
        sha.update(p.as_bytes());
    }
    sha.finalize().iter().take(12).fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// As many compilers at a time as there are processors, however many trials ask.
fn in_turn<T>(work: impl FnOnce() -> T) -> T {
    static RUNNING: Mutex<usize> = Mutex::new(0);
    static FREE: Condvar = Condvar::new();
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let mut running = FREE.wait_while(RUNNING.lock().expect("counting cannot panic"), |n| *n >= most).expect("as above");
    *running += 1;
    drop(running);
    let out = work();
    *RUNNING.lock().expect("counting cannot panic") -= 1;
    FREE.notify_one();
    out
}

fn call(program: &str, args: &[String]) -> Result<(), String> {
    let out = in_turn(|| Command::new(program).args(args).output()).map_err(|e| format!("cannot start `{program}`: {e}"))?;
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

/// The file `name`, made by `make` unless it is there and whole. Several processes may make it: the last one wins, all
/// are alike.
fn cached(name: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let out = folder().join(name);
    if fs::read(&out).is_ok_and(|bytes| is_sealed(&bytes)) {
        return Ok(out);
    }
    fs::create_dir_all(folder()).map_err(|e| format!("{}: {e}", folder().display()))?;
    let part = folder().join(format!("{name}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    make(&part)?;
    let sealed = fs::read(&part).and_then(|mut bytes| {
        bytes.extend(Sha256::digest(&bytes));
        fs::write(&part, bytes)?;
        fs::rename(&part, &out)
    });
    sealed.map_err(|e| format!("{}: {e}", part.display()))?;
    Ok(out)
}

fn is_sealed(bytes: &[u8]) -> bool {
    bytes.split_last_chunk::<SEAL>().is_some_and(|(body, seal)| Sha256::digest(body).as_slice() == seal)
}

/// The shared object of the runtime.
pub(super) fn runtime() -> Result<PathBuf, String> {
    let tools = tools()?;
    let files = fs::read_dir(shim()).map_err(|e| format!("{}: {e}", shim().display()))?;
    let mut paths: Vec<PathBuf> = files.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    let texts = paths.iter().map(|p| read(p)).collect::<Result<Vec<_>, _>>()?;
    let key = hash(texts.iter().map(String::as_str).chain(RUNTIME.iter().copied()).chain([tools.version.as_str()]));
    cached(&format!("runtime-{key}.so"), |out| {
        let sources = paths.iter().filter(|p| p.extension().is_some_and(|e| e == "cpp")).map(|p| p.display().to_string());
        let mut args: Vec<String> = RUNTIME.iter().map(ToString::to_string).chain(sources).collect();
        args.extend(["-o".into(), out.display().to_string(), "-ldl".into()]);
        call(&tools.cxx, &args)
    })
}

/// The one word of CUDA that no macro can shim: with `__shared__` as `static`, the declaration of the dynamic array says
/// `extern static`. The shim has already declared that array.
fn for_host(text: &str) -> String {
    text.replace("extern __shared__", "extern")
}

/// The kernels' texts as files, for the compiler.
fn texts() -> Result<&'static Path, String> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let out = folder().join(format!("kernels-{}", hash(FILES.iter().flat_map(|f| [f.path, f.text]))));
        let write = |f: &File| {
            let (path, part) = (out.join(f.path), out.join(format!("{}.{}", f.path, std::process::id())));
            let text = for_host(f.text);
            if fs::read_to_string(&path).is_ok_and(|there| there == text) {
                return Ok(());
            }
            fs::create_dir_all(out.join("lib"))?;
            fs::write(&part, text)?;
            fs::rename(&part, &path)
        };
        FILES.iter().try_for_each(write).map_err(|e| format!("{}: {e}", out.display()))?;
        Ok(out)
    });
    made.as_deref().map_err(Clone::clone)
}

/// What is to be compiled: a file, the texts that it is made of, its entry, and the macros before it.
pub(super) struct Unit {
    path: String,
    /// The kernel's, then those of what it may include.
    texts: Vec<String>,
    entry: String,
    macros: Vec<(String, String)>,
    /// A header that differs from the product's: its path and text.
    changed: Option<(&'static str, String)>,
}

/// A fault planted in a kernel's text or in a header.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Path inside `kernels/`.
    pub path: &'static str,
    /// Text that stands there once.
    pub find: &'static str,
    /// What takes its place.
    pub replace: &'static str,
}

impl Unit {
    /// A kernel of the product.
    pub fn of(spec: &KernelSpec) -> Self {
        Unit {
            path: format!("{}.cu", spec.file),
            texts: spec.source().texts().map(|f| f.text.to_string()).collect(),
            entry: spec.entry.into(),
            macros: spec.definitions().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
            changed: None,
        }
    }
    /// The same with a fault, where the kernel has the text that it changes.
    pub fn with(mut self, fault: &Fault) -> Self {
        let Some(at) = FILES.iter().find(|f| f.path == fault.path) else { panic!("no file `kernels/{}`", fault.path) };
        assert_eq!(at.text.matches(fault.find).count(), 1, "{}: `{}` must stand there once", fault.path, fault.find);
        if let Some(text) = self.texts.iter_mut().find(|t| *t == at.text) {
            *text = text.replace(fault.find, fault.replace);
            if fault.path != self.path {
                self.changed = Some((fault.path, text.clone()));
            }
        }
        self
    }
    /// A kernel of the emulator's own tests; it may include whatever the product's may.
    pub fn own(file: &str, entry: &str, macros: &[(&str, i64)]) -> Result<Self, String> {
        let mut texts = vec![read(&root().join("tests/emulated/kernels").join(file))?];
        texts.extend(FILES.iter().map(|f| f.text.to_string()));
        let macros = macros.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Ok(Unit { path: file.into(), texts, entry: entry.into(), macros, changed: None })
    }
}

/// Name of a unit's object without its ending, unique to everything that decides its contents.
fn name(unit: &Unit, build: Build) -> Result<String, String> {
    let tools = tools()?;
    let mut parts = shim_texts()?.iter().chain(&unit.texts).map(String::as_str).collect::<Vec<_>>();
    parts.extend(KERNEL.iter().chain(flags(build)));
    parts.extend(unit.macros.iter().flat_map(|(n, v)| [n.as_str(), v]));
    parts.extend([unit.path.as_str(), &unit.entry, &tools.version, if tools.ld { "ld" } else { "cxx" }]);
    Ok(format!("{}-{}", unit.entry, hash(parts)))
}

/// The shared object of a unit.
pub(super) fn object(unit: &Unit, build: Build) -> Result<PathBuf, String> {
    let tools = tools()?;
    cached(&format!("{}.so", name(unit, build)?), |out| compile(tools, unit, flags(build), out))
}

/// The module of a unit: one that is still in use, else from the cache, else compiled.
pub(super) fn module(unit: &Unit, build: Build) -> Result<Arc<Module>, String> {
    type Slots = Mutex<HashMap<String, Arc<Mutex<Weak<Module>>>>>;
    static LOADED: OnceLock<Slots> = OnceLock::new();
    let name = name(unit, build)?;
    let slot = Arc::clone(LOADED.get_or_init(Mutex::default).lock().expect("maps do not panic").entry(name).or_default());
    // Whoever else wants this module waits here until it is there.
    let mut slot = slot.lock().map_err(|_| format!("an earlier attempt to load {} panicked", unit.entry))?;
    if let Some(module) = slot.upgrade() {
        return Ok(module);
    }
    let module = Arc::new(Module::open(&object(unit, build)?, &unit.entry)?);
    *slot = Arc::downgrade(&module);
    Ok(module)
}

/// Loads many, compiling side by side.
pub(super) fn modules(units: &[Unit], build: Build) -> Vec<Result<Arc<Module>, String>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(units.len());
    let next = AtomicUsize::new(0);
    let made: Vec<OnceLock<Result<Arc<Module>, String>>> = units.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(unit), Some(made)) = (units.get(at), made.get(at)) else { break };
                    made.get_or_init(|| module(unit, build));
                }
            });
        }
    });
    made.into_iter().map(|m| m.into_inner().expect("every unit was taken")).collect()
}

fn shim_texts() -> Result<&'static [String], String> {
    static TEXTS: OnceLock<Result<Vec<String>, String>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| SHIM.iter().map(|name| read(&shim().join(name))).collect());
    texts.as_deref().map_err(Clone::clone)
}

/// A report with lines of the source instead of `module.so+0x12`, where `addr2line` is there to find them.
pub(super) fn with_lines(report: &str) -> String {
    let line = |word: &str| -> Option<String> {
        let (file, offset) = word.split_once(".so+")?;
        let path = folder().join(format!("{file}.so"));
        let offset = offset.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        let out = Command::new("addr2line").arg("-e").arg(path).arg(offset).output().ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        let at = text.trim().rsplit('/').next().filter(|at| !at.starts_with('?'))?;
        Some(format!("{word} ({at})"))
    };
    report.split(' ').map(|word| line(word).unwrap_or_else(|| word.into())).collect::<Vec<_>>().join(" ")
}

/// A unit made an object and linked by itself, so that the sanitizers' hooks are the runtime's and not a library's.
fn compile(tools: &Tools, unit: &Unit, flags: &[&str], out: &Path) -> Result<(), String> {
    let (source, object) = (out.with_extension("cpp"), out.with_extension("o"));
    let mut text: String = unit.macros.iter().fold(String::new(), |mut s, (name, value)| {
        let _ = writeln!(s, "#define {name} {value}");
        s
    });
    let _ = writeln!(text, "#include \"cuda.hpp\"\n#include \"ptx.hpp\"\n#line 1 \"{}\"", unit.path);
    text += &for_host(&unit.texts[0]);
    let _ = writeln!(text, "EMU_EXPORT({e}, {e})", e = unit.entry);
    fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
    let mut args: Vec<String> = KERNEL.iter().chain(flags).map(ToString::to_string).collect();
    let faulty = out.with_extension("faulty");
    if let Some((path, text)) = &unit.changed {
        let place = faulty.join(path);
        let made = fs::create_dir_all(faulty.join("lib")).and_then(|()| fs::write(&place, for_host(text)));
        made.map_err(|e| format!("{}: {e}", place.display()))?;
        args.push(format!("-I{}", faulty.display()));
    }
    args.extend([format!("-I{}", shim().display()), format!("-I{}", texts()?.display()), "-c".into()]);
    args.extend([source.display().to_string(), "-o".into(), object.display().to_string()]);
    let mut link = vec!["-shared".to_string(), object.display().to_string(), "-o".into(), out.display().to_string()];
    let linker = if tools.ld { "ld" } else { &tools.cxx };
    if !tools.ld {
        link.extend(["-nostartfiles".into(), "-nostdlib".into()]);
    }
    let made = call(&tools.cxx, &args).and_then(|()| call(linker, &link));
    let _ = fs::remove_dir_all(faulty);
    // After a failure one of them may not be there.
    for done in [source, object] {
        let _ = fs::remove_file(done);
    }
    made
}
