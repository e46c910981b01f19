//! Compiled kernels kept in a folder, by a hash of everything they are made of. What a device has loaded it keeps itself.
//! Must not know who compiles.
//!
//! An entry is a folder named by its key: `kernel.cu`, `kernel.cubin`, `log.txt`, and `key.txt`, which says in words what
//! the key is made of and ends with sums over the other files. Entries are written beside and renamed, so that processes may
//! share the folder; a damaged one is compiled again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{env, fs, io, thread};

use sha2::{Digest, Sha256};

use super::image::Image;
use super::spec::KernelSpec;
use crate::error::{Error, Result};

/// Compilers recurse deeply over templates.
const STACK_BYTES: usize = 16 << 20;

/// What decides a compilation beside the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Name and version.
    pub compiler: String,
    /// Its options, the architecture among them, without definitions.
    pub options: Vec<String>,
}

impl Recipe {
    /// The architecture that is compiled for.
    pub fn target(&self) -> &str {
        self.options.iter().find_map(|o| o.strip_prefix("--gpu-architecture=")).unwrap_or("no architecture")
    }
}

/// What compiles one kernel file.
pub type Compile<'a> = &'a (dyn Fn(&KernelSpec) -> Result<Image> + Sync);

/// Identity of an image: equal keys are equal code. Entries of one file with the same constants share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    hash: String,
    /// What was hashed, in words.
    text: String,
}

impl Key {
    /// The key of a kernel compiled by `recipe`.
    pub fn of(spec: &KernelSpec, recipe: &Recipe) -> Self {
        let mut text = format!("compiler {}\n", recipe.compiler);
        let mut line = |words: std::fmt::Arguments| writeln!(text, "{words}").expect("a String takes any text");
        recipe.options.iter().for_each(|o| line(format_args!("option {o}")));
        spec.definitions().for_each(|(name, value)| line(format_args!("define {name}={value}")));
        spec.source().texts().for_each(|f| line(format_args!("file {} {}", f.path, sum(f.text.as_bytes()))));
        Key { hash: sum(text.as_bytes())[..32].into(), text }
    }
    /// Name of the entry.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// A folder of compiled kernels.
#[derive(Debug)]
pub struct Cache {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Nothing is kept where there is none.
    folder: Option<PathBuf>,
    warnings: Vec<String>,
    /// Whether damage was told.
    damage: bool,
}

/// How an image was come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The image.
    pub image: Image,
    /// Whether it was there before.
    pub found: bool,
}

impl Cache {
    /// A cache in `folder`, made when it is first needed; without one nothing is kept.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Cache { state: Mutex::new(State { folder, warnings: Vec::new(), damage: false }) }
    }

    /// Where kernels are kept: `PETARD_CACHE`, else `petard/kernels` in `XDG_CACHE_HOME` or `~/.cache`.
    pub fn standard_folder() -> Option<PathBuf> {
        let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let shared = || set("XDG_CACHE_HOME").filter(|p| p.is_absolute()).or_else(|| Some(env::home_dir()?.join(".cache")));
        set("PETARD_CACHE").or_else(|| shared().map(|p| p.join("petard/kernels")))
    }

    /// The folder of an entry, where entries are kept.
    pub fn entry(&self, key: &Key) -> Option<PathBuf> {
        self.state().folder.as_ref().map(|f| f.join(key.hash()))
    }

    /// What went wrong with the folder since the last call, for people. It never fails a compilation.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.state().warnings)
    }

    /// The image of one kernel.
    ///
    /// # Errors
    /// What `compile` fails with.
    pub fn image(&self, spec: &KernelSpec, recipe: &Recipe, compile: Compile) -> Result<Kept> {
        let key = Key::of(spec, recipe);
        let entry = self.entry(&key);
        if let Some(entry) = &entry {
            match read(entry, &key) {
                Ok(Some(image)) => return Ok(Kept { image, found: true }),
                Ok(None) => {}
                Err(why) => self.damaged(entry, &why),
            }
        }
        let image = compile(spec)?;
        if let Some(entry) = &entry {
            self.keep(entry, &key, spec, &image);
        }
        Ok(Kept { image, found: false })
    }

    /// The images of many kernels in their order, compiled side by side.
    ///
    /// # Errors
    /// The first that `compile` fails with.
    pub fn images(&self, specs: &[KernelSpec], recipe: &Recipe, compile: Compile) -> Result<Vec<Image>> {
        let mut jobs: BTreeMap<Key, usize> = BTreeMap::new();
        let keys: Vec<Key> = specs.iter().map(|spec| Key::of(spec, recipe)).collect();
        keys.iter().enumerate().for_each(|(i, key)| {
            jobs.entry(key.clone()).or_insert(i);
        });
        let jobs: Vec<(Key, usize)> = jobs.into_iter().collect();
        let next = AtomicUsize::new(0);
        let done: Mutex<BTreeMap<&Key, Result<Image>>> = Mutex::default();
        let work = || {
            while let Some((key, spec)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let image = self.image(&specs[*spec], recipe, compile).map(|kept| kept.image);
                done.lock().unwrap_or_else(PoisonError::into_inner).insert(key, image);
            }
        };
        thread::scope(|scope| -> io::Result<()> {
            let workers = thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
            for _ in 0..workers {
                thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?;
            }
            Ok(())
        })
        .map_err(|e| Error::device(format!("cannot start a thread to compile kernels: {e}")))?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut images: BTreeMap<&Key, Image> = BTreeMap::new();
        for (key, _) in &jobs {
            images.insert(key, done.remove(key).expect("every job was done")?);
        }
        Ok(keys.iter().map(|key| images[key].clone()).collect())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells damage once, and puts the entry out of the way.
    fn damaged(&self, entry: &Path, why: &str) {
        let mut state = self.state();
        if !state.damage {
            state.warnings.push(format!("`{}` in the kernel cache is damaged ({why}): compiled again", entry.display()));
        }
        state.damage = true;
        drop(state);
        // Renamed first: another process may be doing the same, and one of the two finds nothing left to do.
        if let Some(aside) = entry.parent().and_then(|f| tempfile::Builder::new().prefix(".damaged-").tempdir_in(f).ok()) {
            let _ = fs::rename(entry, aside.path().join("entry"));
        }
    }

    /// Writes an entry; where that fails once, nothing more is kept.
    fn keep(&self, entry: &Path, key: &Key, spec: &KernelSpec, image: &Image) {
        if let Err(error) = write(entry, key, spec, image) {
            let mut state = self.state();
            if let Some(folder) = state.folder.take() {
                let error = Error::io("keep compiled kernels in", folder, error);
                let warning = format!("{error}: each run compiles them again; PETARD_CACHE names another folder");
                state.warnings.push(warning);
            }
        }
    }
}

/// An entry: nothing where there is none, `Err` with the reason where it is not what was written.
fn read(entry: &Path, key: &Key) -> std::result::Result<Option<Image>, String> {
    let file = |name: &str| fs::read(entry.join(name)).map_err(|e| format!("{name}: {}", e.kind()));
    let stored = match fs::read(entry.join("key.txt")) {
        Err(_) if !entry.exists() => return Ok(None),
        other => other.map_err(|e| format!("key.txt: {}", e.kind()))?,
    };
    let image = Image {
        cubin: file("kernel.cubin")?,
        log: String::from_utf8(file("log.txt")?).map_err(|_| "log.txt: no text".to_string())?,
    };
    if stored == sealed(key, &image).as_bytes() { Ok(Some(image)) } else { Err("its sums differ".into()) }
}

/// Written beside and renamed; another process that was faster wrote the same.
fn write(entry: &Path, key: &Key, spec: &KernelSpec, image: &Image) -> io::Result<()> {
    let folder = entry.parent().expect("an entry lies in the folder of the cache");
    fs::create_dir_all(folder)?;
    let part = tempfile::Builder::new().prefix(".part-").tempdir_in(folder)?;
    let defines: String = spec.definitions().map(|(name, value)| format!("#define {name} {value}\n")).collect();
    fs::write(part.path().join("kernel.cu"), defines + spec.source().main.text)?;
    fs::write(part.path().join("kernel.cubin"), &image.cubin)?;
    fs::write(part.path().join("log.txt"), &image.log)?;
    fs::write(part.path().join("key.txt"), sealed(key, image))?;
    match fs::rename(part.path(), entry) {
        Err(_) if matches!(read(entry, key), Ok(Some(_))) => Ok(()),
        other => other,
    }
}

/// The key in words, and sums over what it stands for.
fn sealed(key: &Key, image: &Image) -> String {
    format!("{}cubin {} {}\nlog {}\n", key.text, image.cubin.len(), sum(&image.cubin), sum(image.log.as_bytes()))
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
