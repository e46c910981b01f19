//! What goes wrong around kernels and cards: damaged and unwritable caches, compilers that are missing, broken or too new,
//! machines without a driver. Needs neither a card nor, for most of it, a compiler.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use libtest_mimic::Trial;
use petard::gpu::KernelSpec;
use petard::gpu::cache::{Cache, Key, Recipe};
use petard::gpu::catalogue::{Constants, entries, spec_of};
use petard::gpu::cuda::look;
use petard::gpu::image::Image;
use petard::gpu::nvrtc::{Nvrtc, Search, Version};
use petard::gpu::source::FILES;
use petard::plan::Precision;
use petard::{Device, DeviceOptions, Error};

use crate::resources::{NO_NVRTC, nvrtc};
use crate::support::{ignored, trial};

/// A test that is given the compiler.
type Body = fn(&'static Nvrtc);

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("gpu::cache.keeps_and_finds", keeps),
        trial("gpu::cache.damage_is_healed_and_said_once", damage),
        trial("gpu::cache.unwritable_folder_is_said_once", unwritable),
        trial("gpu::cache.shared_by_many", shared),
        trial("gpu::cache.errors_are_not_kept", || {
            let folder = tempfile::tempdir().expect("a folder");
            let cache = at(folder.path());
            assert!(cache.images(&specs(3), &recipe("sm_80"), &|spec| Err(Error::device(spec.to_string()))).is_err());
            assert_eq!(left(folder.path()), Vec::<String>::new());
        }),
        trial("gpu::cache.key_holds_all_that_decides", key),
        trial("gpu::catalogue.every_entry_is_found", catalogue),
        trial("gpu::nvrtc.missing", missing),
        trial("gpu::nvrtc.broken", broken),
        trial("gpu::device.names_and_precisions", devices),
        trial("gpu::error.out_of_memory_is_told_apart", || {
            assert!(Error::out_of_memory("full").with_hint("less").is_out_of_memory());
            assert!(!Error::device("gone").is_out_of_memory() && !Error::plan("wrong").is_out_of_memory());
        }),
    ];
    let compiled: [(&str, Body); 3] = [("same_code", same_code), ("too_new", too_new), ("in_folders", in_folders)];
    trials.extend(compiled.map(|(name, body)| {
        let name = format!("gpu::nvrtc.{name}");
        match nvrtc() {
            Ok(found) => trial(name, move || body(found)),
            Err(_) => ignored(name, NO_NVRTC),
        }
    }));
    trials.push(match look() {
        Ok(None) => trial("gpu::device.no_driver", no_driver),
        _ => ignored("gpu::device.no_driver", "there is an NVIDIA driver"),
    });
    trials
}

fn at(folder: &Path) -> Cache {
    Cache::new(Some(folder.to_path_buf()))
}

fn recipe(target: &str) -> Recipe {
    Recipe { compiler: "nvrtc 1.0".into(), options: vec![format!("--gpu-architecture={target}")] }
}

fn specs(count: i64) -> Vec<KernelSpec> {
    (1..=count).map(|elems| KernelSpec::new("pgd", "pgd_linf").with("P_THREADS", 16 << elems).with("P_VEC", 1)).collect()
}

/// What a compiler that is no compiler makes of a kernel.
fn image(spec: &KernelSpec) -> Image {
    Image { cubin: format!("code of {spec}\0\u{1}").repeat(100).into_bytes(), log: format!("log of {spec}\n") }
}

/// Names in a folder.
fn left(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().map(|found| found.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = entries.map(Iterator::collect).unwrap_or_default();
    names.sort();
    names
}

fn keeps() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("new/kernels");
    let compiled = AtomicUsize::new(0);
    let count = |spec: &KernelSpec| {
        compiled.fetch_add(1, Ordering::Relaxed);
        Ok(image(spec))
    };
    let wanted: Vec<KernelSpec> = specs(5).into_iter().chain(specs(5)).collect();
    for round in 0..2 {
        let cache = at(&place);
        let got = cache.images(&wanted, &recipe("sm_80"), &count).expect("images");
        assert_eq!(got, wanted.iter().map(image).collect::<Vec<_>>(), "in the order of the specs");
        assert_eq!((compiled.load(Ordering::Relaxed), cache.take_warnings()), (5, vec![]), "round {round}");
    }
    assert_eq!(left(&place).len(), 5);
    let entry = at(&place).entry(&Key::of(&wanted[0], &recipe("sm_80"))).expect("entries are kept");
    assert_eq!(left(&entry), ["kernel.cu", "kernel.cubin", "key.txt", "log.txt"]);
    assert!(
        fs::read_to_string(entry.join("kernel.cu"))
            .expect("a text")
            .starts_with("#define P_THREADS 32\n#define P_VEC 1\n// pgd.cu")
    );
    assert_eq!(at(&place).entry(&Key::of(&wanted[0], &recipe("sm_90a"))).map(|p| p.exists()), Some(false));
}

/// Every file of an entry cut short, changed or gone: compiled again, once told, whole afterwards.
fn damage() {
    let spoil: [fn(&Path); 4] = [
        |file| fs::remove_file(file).expect("it is there"),
        |file| fs::write(file, &fs::read(file).expect("bytes")[..10]).expect("it is ours"),
        |file| {
            let mut bytes = fs::read(file).expect("bytes");
            *bytes.last_mut().expect("some bytes") ^= 1;
            fs::write(file, bytes).expect("it is ours");
        },
        |file| fs::write(file, [0xff; 40]).expect("it is ours"),
    ];
    for (how, spoil) in spoil.into_iter().enumerate() {
        for name in ["kernel.cubin", "key.txt", "log.txt"] {
            let folder = tempfile::tempdir().expect("a folder");
            let (two, recipe) = (specs(2), recipe("sm_80"));
            at(folder.path()).images(&two, &recipe, &|s| Ok(image(s))).expect("images");
            let cache = at(folder.path());
            for spec in &two {
                spoil(&cache.entry(&Key::of(spec, &recipe)).expect("entries are kept").join(name));
            }
            for spec in &two {
                let again = cache.image(spec, &recipe, &|s| Ok(image(s))).expect("an image");
                assert_eq!((again.image, again.found), (image(spec), false), "{name}, damage {how}");
            }
            let warnings = cache.take_warnings();
            assert!(warnings.len() == 1 && warnings[0].contains("is damaged"), "{name}, damage {how}: {warnings:?}");
            assert_eq!(left(folder.path()).len(), 2, "nothing is left of the damaged entries");
            let whole = at(folder.path());
            assert!(two.iter().all(|s| whole.image(s, &recipe, &|s| Ok(image(s))).is_ok_and(|kept| kept.found)));
            assert_eq!(whole.take_warnings(), Vec::<String>::new());
        }
    }
}

/// A folder below a file can be made by nobody, not even by root.
fn unwritable() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "").expect("a file");
    let cache = at(&folder.path().join("file/kernels"));
    let three = specs(3);
    let got = cache.images(&three, &recipe("sm_80"), &|s| Ok(image(s))).expect("images all the same");
    assert_eq!(got, three.iter().map(image).collect::<Vec<_>>());
    let warnings = cache.take_warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("file/kernels`: not a directory: each run compiles them again"),
        "{warnings:?}"
    );
    assert_eq!(cache.entry(&Key::of(&three[0], &recipe("sm_80"))), None, "nothing more is tried");
    cache.images(&three, &recipe("sm_80"), &|s| Ok(image(s))).expect("images");
    assert_eq!(cache.take_warnings(), Vec::<String>::new());
}

/// Caches that do not know of each other, as processes have them, on a folder that is empty, then damaged.
fn shared() {
    let folder = tempfile::tempdir().expect("a folder");
    let (specs, recipe) = (specs(6), recipe("sm_80"));
    for round in 0..8 {
        let start = Barrier::new(6);
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let cache = at(folder.path());
                    start.wait();
                    for spec in &specs {
                        let kept = cache.image(spec, &recipe, &|s| Ok(image(s))).expect("an image");
                        assert_eq!(kept.image, image(spec), "never half an entry");
                    }
                    assert!(cache.take_warnings().iter().all(|w| w.contains("is damaged")), "round {round}");
                });
            }
        });
        assert_eq!(left(folder.path()).len(), specs.len(), "round {round}");
        let entry = |spec| at(folder.path()).entry(&Key::of(spec, &recipe)).expect("entries are kept");
        fs::write(entry(&specs[round % 6]).join("kernel.cubin"), "cut").expect("it is ours");
    }
}

fn key() {
    let spec =
        || spec_of("pointwise_chain", "P_C=64 P_CAP=0 P_EPI=0 P_HALF=0 P_STORE=1 P_X=0 P_Y=1".split(' ')).expect("a kernel");
    let base = Key::of(&spec(), &recipe("sm_80"));
    assert_eq!(base, Key::of(&spec(), &recipe("sm_80")));
    let mut other = spec();
    other.constants.insert("P_C", 65);
    let newer = Recipe { compiler: "nvrtc 1.1".into(), ..recipe("sm_80") };
    let mut more = recipe("sm_80");
    more.options.push("-G".into());
    let keys = [
        base,
        Key::of(&other, &recipe("sm_80")),
        Key::of(&spec(), &recipe("sm_90a")),
        Key::of(&spec(), &newer),
        Key::of(&spec(), &more),
        Key::of(&specs(1)[0], &recipe("sm_80")),
    ];
    let mut hashes: Vec<&str> = keys.iter().map(Key::hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), keys.len(), "each difference gives another key");
}

fn catalogue() {
    let found: Vec<&str> = entries().map(|(_, name)| name).collect();
    let written: usize = FILES.iter().map(|f| f.text.matches("__global__").count()).sum();
    assert_eq!(found.len(), written, "{found:?}");
    for (stem, name) in entries() {
        let first = stem.split('_').next().unwrap_or_default();
        assert!(name.starts_with(&format!("{first}_")), "`{name}` of `{stem}.cu`");
    }
    assert_eq!(Constants::of("pgd").to_string(), "P_THREADS P_VEC");
    let spec = &specs(1)[0];
    let text = spec.to_string();
    let mut words = text.split(' ');
    assert_eq!(&spec_of(words.next().unwrap_or_default(), words).expect("it reads what it prints"), spec);
}

fn named(path: impl Into<PathBuf>) -> Search {
    Search { named: Some(path.into()), ..Search::default() }
}

/// The message and the hint of a search that finds nothing.
fn refused(search: &Search, driver: Option<Version>) -> (String, String) {
    let error = Nvrtc::find(search, driver).expect_err("there is nothing to find");
    assert!(matches!(error, Error::Device { .. }));
    (error.to_string(), error.hint().expect("a way out"))
}

fn missing() {
    let (message, hint) = refused(&Search::default(), None);
    assert_eq!(message, "there is no NVRTC, the compiler of the kernels, on this machine");
    assert!(hint.contains("`pip install nvidia-cuda-nvrtc`"), "{hint}");
    let (_, hint) = refused(&Search::default(), Some(Version { major: 12, minor: 4 }));
    assert!(hint.contains("`pip install nvidia-cuda-nvrtc-cu12`"), "what suits the driver: {hint}");
    let folder = tempfile::tempdir().expect("a folder");
    let (message, _) = refused(&named(folder.path()), None);
    assert!(message.starts_with("no libnvrtc in `"), "{message}");
    let (message, _) = refused(&named("nowhere/libnvrtc.so.13"), None);
    assert!(message.starts_with("cannot load `nowhere/libnvrtc.so.13`: "), "{message}");
    let folders = vec![folder.path().to_path_buf(), "nowhere".into()];
    assert!(refused(&Search { folders, ..Search::default() }, None).0.starts_with("there is no NVRTC"));
}

fn broken() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("libnvrtc.so.13");
    fs::write(&file, "no library").expect("a file");
    let inside = Search { folders: vec![folder.path().to_path_buf()], ..Search::default() };
    for search in [named(&file), named(folder.path()), inside] {
        let (message, hint) = refused(&search, None);
        assert!(message.starts_with(&format!("cannot load `{}`: ", file.display())), "{message}");
        assert!(hint.contains("is it whole?"), "{hint}");
    }
    // A library, but another one.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    if let Some(libc) = maps.split_whitespace().find(|word| word.contains("/libc.so") || word.contains("/libc-")) {
        let (message, _) = refused(&named(libc), None);
        assert!(message.contains("nvrtc"), "names the missing function: {message}");
    }
}

/// Equal keys are equal code, also when several threads compile at once; the log tells times.
fn same_code(nvrtc: &'static Nvrtc) {
    let specs: Vec<KernelSpec> = specs(3);
    let recipe = nvrtc.recipe("sm_80").expect("every compiler knows it");
    let compile = |s: &KernelSpec| nvrtc.compile(s, &recipe);
    let [first, second] = [0, 1].map(|_| Cache::new(None).images(&specs, &recipe, &compile).expect("images"));
    assert!(first.iter().zip(&second).all(|(a, b)| a.cubin == b.cubin));
    assert!(first.iter().all(|i| i.cubin.starts_with(b"\x7fELF") && i.usage("pgd_linf").is_some_and(|u| u.registers > 0)));
}

fn too_new(nvrtc: &'static Nvrtc) {
    let (message, hint) = refused(&named(nvrtc.path()), Some(Version { major: 11, minor: 8 }));
    assert!(message.starts_with("NVRTC ") && message.ends_with("is newer than the NVIDIA driver, which knows CUDA 11.8"));
    assert!(hint.contains("`pip install nvidia-cuda-nvrtc-cu11`"), "{hint}");
    let same = Version { minor: 0, ..nvrtc.version() };
    assert!(Nvrtc::find(&named(nvrtc.path()), Some(same)).is_ok(), "within a major version any driver does");
    assert_eq!(nvrtc.target(90).expect("known"), "sm_90a");
    assert_eq!(nvrtc.target(86).expect("known"), "sm_86");
    for unknown in [52, 999] {
        let error = nvrtc.target(unknown).expect_err("no such card");
        assert!(error.hint().is_some_and(|h| h.contains("sm_80") && h.contains("pip install")), "{error}");
    }
    assert!(["sm_", "sm_80x", "80", "compute_80"].iter().all(|name| nvrtc.recipe(name).is_err()));
}

/// Found in a folder of libraries, in an environment of Python, and among packages.
fn in_folders(nvrtc: &'static Nvrtc) {
    let Some(real) = nvrtc.path().parent().filter(|p| p.is_dir()) else { return };
    for place in ["", "lib64", "nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "lib/python3.12/site-packages/nvidia/cu13/lib"] {
        let folder = tempfile::tempdir().expect("a folder");
        let lib = folder.path().join(place);
        fs::create_dir_all(&lib).expect("folders");
        for file in real.read_dir().expect("a folder").flatten().filter(|e| e.file_name().to_string_lossy().contains("nvrtc")) {
            #[cfg(unix)]
            std::os::unix::fs::symlink(file.path(), lib.join(file.file_name())).expect("a link");
        }
        let found = Nvrtc::find(&named(folder.path()), None).unwrap_or_else(|e| panic!("{place}: {e}"));
        assert_eq!((found.version(), found.path().parent()), (nvrtc.version(), Some(lib.as_path())), "{place}");
    }
}

fn devices() {
    for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda0", "CPU", ""] {
        let error = Device::open(name, &DeviceOptions::default()).expect_err("no such device");
        assert!(matches!(error, Error::Usage { .. }), "{name}: {error}");
    }
    let half = DeviceOptions { precision: Precision::Bf16, ..DeviceOptions::default() };
    let error = Device::open("cpu", &half).expect_err("the CPU has f32 only");
    assert_eq!(error.to_string(), "the CPU does not compute in bf16, only in f32");
    assert!(error.hint().is_some());
    let cpu = Device::open("cpu", &DeviceOptions::default()).expect("every machine has one");
    assert_eq!((cpu.precision(), cpu.note(), cpu.take_warnings()), (Precision::F32, None, vec![]));
}

/// Nobody is told about cards who has none, except on asking for one.
fn no_driver() {
    let auto = Device::open("auto", &DeviceOptions::default()).expect("the CPU");
    assert!(auto.describe().starts_with("cpu ") && auto.note().is_none());
    for name in ["cuda", "cuda:1"] {
        let error = Device::open(name, &DeviceOptions::default()).expect_err("there is no driver");
        assert_eq!(error.to_string(), format!("`{name}` cannot be used: there is no NVIDIA driver on this machine"));
        assert!(error.hint().is_some_and(|h| h.contains("--device cpu")));
    }
}
