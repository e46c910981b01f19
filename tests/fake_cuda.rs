//! The CUDA driver's user against a driver without a card, which keeps the rules and does everything as late as it may
//! (`fake_cuda/libcuda.cpp`): copies, order, recording, faults, and that everything is given back. Proves nothing about cards.
//! A process has one driver library, so each trial runs again in a process of its own, as `fake_cuda::inner::..`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::{fs, thread};

use libtest_mimic::Trial;
use petard::gpu::cache::Cache;
use petard::gpu::cuda::{Cuda, look};
use petard::gpu::nvrtc::Nvrtc;
use petard::gpu::{Arg, DevicePtr, Dims, Driver, Function, KernelSpec};
use petard::{Error, Result};

use crate::resources::{NO_NVRTC, kept, nvrtc};
use crate::support::{ignored, root, trial};

/// Set in the process that has the library.
const INNER: &str = "PETARD_FAKE_CUDA";

type Body = fn(Cuda);

/// Name, body, and what the library is told beside.
const INSIDE: &[(&str, Body, &str)] = &[
    ("copies", copies, ""),
    ("copies_without_pools", copies, "FAKE_CUDA_NO_POOLS"),
    ("recording", recording, ""),
    ("recording_that_fails", recording_that_fails, ""),
    ("out_of_memory", out_of_memory, ""),
    ("out_of_memory_without_pools", out_of_memory, "FAKE_CUDA_NO_POOLS"),
    ("fault_of_a_launch", |cuda| fault(&cuda, false), ""),
    ("fault_of_a_recording", |cuda| fault(&cuda, true), ""),
    ("kernels_and_shared_memory", kernels, ""),
    ("times", times, ""),
];

pub fn trials() -> Vec<Trial> {
    if std::env::var_os(INNER).is_some() {
        return INSIDE.iter().map(|(name, body, _)| trial(format!("fake_cuda::inner::{name}"), || body(open()))).collect();
    }
    let own = [trial("fake_cuda::devices", devices), trial("fake_cuda::broken_driver", broken)];
    let inside = INSIDE.iter().map(|&(name, _, setting)| {
        let full = format!("fake_cuda::{name}");
        match nvrtc() {
            Ok(found) => trial(full, move || again(name, setting, found)),
            Err(_) => ignored(full, NO_NVRTC),
        }
    });
    own.into_iter().chain(inside).collect()
}

/// The folder of the library, built when it is first asked for.
fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let (folder, cxx) = (root().join("target/fake_cuda"), std::env::var("CXX").unwrap_or_else(|_| "g++".into()));
        fs::create_dir_all(&folder).expect("a folder in target");
        let part = folder.join(format!("{}.part", std::process::id()));
        let mut compiler = Command::new(cxx);
        compiler.args(["-std=c++17", "-O1", "-shared", "-fPIC", "-o"]).arg(&part).arg(root().join("tests/fake_cuda/libcuda.cpp"));
        assert!(compiler.status().expect("a compiler").success(), "the library does not compile");
        fs::rename(part, folder.join("libcuda.so")).expect("a file of ours");
        folder
    };
    BUILT.get_or_init(build).clone()
}

/// This trial in a process that has the library; the library ends it where something was not given back.
fn again(name: &str, setting: &str, nvrtc: &Nvrtc) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", &format!("fake_cuda::inner::{name}")]).env(INNER, "1").env("LD_LIBRARY_PATH", library());
    command.env("PETARD_NVRTC", nvrtc.path()).env_remove("CUDA_VISIBLE_DEVICES");
    if !setting.is_empty() {
        command.env(setting, "1");
    }
    let Output { status, stdout, stderr } = command.output().expect("this program starts");
    let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success() && out.contains("1 passed"), "{status}\n{out}\n{err}");
}

/// `petard` with the library.
fn petard(line: &str, settings: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petard"));
    command.args(line.split(' ')).env("LD_LIBRARY_PATH", library()).envs(settings.iter().copied());
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// Cards are listed, one that is too old or not there is refused, and `auto` says why it takes the CPU.
fn devices() {
    let (code, text, _) = petard("devices", &[]);
    assert_eq!(code, Some(0));
    for part in ["\ncuda      driver for CUDA 13.0", "\ncuda:0    Fake 0, compute capability 8.0, 4 multiprocessors, 1024 MiB"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let nowhere = ("PETARD_NVRTC", "nowhere/libnvrtc.so");
    let (code, text, said) = petard("attack --limit 1 --steps 1", &[nowhere]);
    assert!(code == Some(0) && text.contains("\ndevice    cpu "), "{text}{said}");
    assert!(said.starts_with("note: CUDA is not used: cannot load `nowhere/libnvrtc.so`: "), "{said}");
    let (code, _, said) = petard("attack --limit 1 --steps 1 --precision bf16", &[nowhere]);
    assert!(code == Some(2) && said.contains("only in f32\n\nhint: CUDA is not used: cannot load `nowhere"), "{said}");
    let Ok(found) = nvrtc() else { return };
    let there = ("PETARD_NVRTC", found.path().to_str().expect("a UTF-8 path"));
    let (_, _, said) = petard("attack --device cuda:1", &[there]);
    assert!(said.starts_with("error: `cuda:1`, Fake 1, has compute capability 7.5, 8.0 is needed\n"), "{said}");
    let (_, _, said) = petard("attack --device cuda:2", &[there]);
    assert!(said.starts_with("error: there is no card `cuda:2`: 2 found, counted from 0\n"), "{said}");
}

fn broken() {
    let (code, text, _) = petard("devices", &[("FAKE_CUDA_INIT", "803")]);
    assert!(code == Some(0) && text.contains("the NVIDIA driver does not work: error 803 in cuInit\n          hint: "), "{text}");
    let (_, text, _) = petard("devices", &[("FAKE_CUDA_INIT", "100")]);
    assert!(text.contains("driver for CUDA 13.0, which sees no card"), "{text}");
    let (code, _, said) = petard("attack --limit 1 --steps 1", &[("FAKE_CUDA_INIT", "100")]);
    assert_eq!((code, said.as_str()), (Some(0), ""), "who has no card is told nothing");
}

fn open() -> Cuda {
    let cards = look().expect("the library works").expect("there is a library");
    let nvrtc = Nvrtc::open(nvrtc().expect("trials without it are ignored").path()).expect("it was loaded before");
    Cuda::open(0, &cards, nvrtc, Cache::new(Some(kept()))).expect("the card opens")
}

/// An `int` on the card and the kernel that adds to it.
fn counter(cuda: &Cuda) -> (DevicePtr, Function) {
    let at = cuda.alloc(4).expect("memory");
    cuda.upload(at, &0i32.to_ne_bytes()).expect("a copy");
    let spec = KernelSpec::new("pgd", "pgd_linf").with("P_THREADS", 64).with("P_VEC", 1);
    (at, cuda.load(&[spec]).expect("a kernel")[0])
}

fn add(cuda: &Cuda, (at, kernel): (DevicePtr, Function), n: i32) -> Result<()> {
    let mut args = [Arg::Null; 8];
    (args[0], args[6]) = (Arg::Ptr(at), Arg::I32(n));
    cuda.launch(kernel, Dims::linear(1, 32), &args)
}

fn value(cuda: &Cuda, at: DevicePtr) -> i32 {
    let mut bytes = [0; 4];
    cuda.download(at, &mut bytes).expect("a copy");
    i32::from_ne_bytes(bytes)
}

/// Sources change as soon as a call returns, while every copy is still waiting; sizes around the pieces of the ring.
fn copies(cuda: Cuda) {
    let sizes = [0, 1, 255, 256, 257, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (25 << 20) + 7];
    let pattern = |size: usize, seed: usize| (0..size).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed as u8).collect::<Vec<u8>>();
    let mut held = Vec::new();
    for (seed, &size) in sizes.iter().enumerate() {
        let ptr = cuda.alloc(size as u64).expect("memory");
        let mut source = pattern(size, seed);
        cuda.upload(ptr, &source).expect("a copy");
        source.fill(0xee);
        held.push(ptr);
    }
    let many = cuda.alloc(3000 * 40).expect("memory");
    for i in 0..3000u64 {
        cuda.upload(many.offset(40 * i), &[i as u8; 40]).expect("a copy");
    }
    for (seed, (&size, &ptr)) in sizes.iter().zip(&held).enumerate() {
        let mut got = vec![0; size];
        cuda.download(ptr, &mut got).expect("a copy");
        assert!(got == pattern(size, seed), "{size} bytes");
    }
    let mut got = vec![0; 3000 * 40];
    cuda.download(many, &mut got).expect("a copy");
    assert!(got.chunks(40).enumerate().all(|(i, row)| row.iter().all(|&b| b == i as u8)));
    held.into_iter().chain([many]).for_each(|ptr| cuda.free(ptr));
}

/// What is recorded does not run, runs at each replay, and leaves out what another thread asks for meanwhile.
fn recording(cuda: Cuda) {
    let it = counter(&cuda);
    let mut record = || {
        add(&cuda, it, 5)?;
        thread::scope(|scope| scope.spawn(|| add(&cuda, it, 100)).join().expect("no panic"))?;
        add(&cuda, it, 7)
    };
    let list = cuda.capture(&mut record).expect("a recording");
    assert_eq!(value(&cuda, it.0), 100);
    (0..3).for_each(|_| cuda.replay(list).expect("a start"));
    add(&cuda, it, 1).expect("a launch");
    assert_eq!(value(&cuda, it.0), 100 + 3 * 12 + 1, "in the order in which it was asked for");
    let empty = cuda.capture(&mut || Ok(())).expect("a recording of nothing");
    cuda.replay(empty).expect("a start");
    cuda.replay(list).expect("a start");
    cuda.release(list);
    cuda.release(empty);
    assert_eq!(value(&cuda, it.0), 149);
    cuda.free(it.0);
}

/// An error, a panic and a forbidden call end a recording; the next one is whole.
fn recording_that_fails(cuda: Cuda) {
    let it = counter(&cuda);
    let error = cuda.capture(&mut || add(&cuda, it, 5).and_then(|()| Err(Error::plan("stop")))).expect_err("it fails");
    assert_eq!(error.to_string(), "stop");
    let forbidden: [fn(&Cuda, DevicePtr); 5] = [
        |_, _| panic!("for another reason"),
        |cuda, at| cuda.upload(at, &[1]).expect("no copy"),
        |cuda, at| cuda.download(at, &mut [1]).expect("no copy"),
        |cuda, _| cuda.sync().expect("no waiting"),
        |cuda, _| cuda.alloc(1).map(drop).expect("no memory"),
    ];
    for call in forbidden {
        let record = || cuda.capture(&mut || add(&cuda, it, 5).map(|()| call(&cuda, it.0)));
        assert!(catch_unwind(AssertUnwindSafe(record)).is_err(), "a recording that would lack something");
    }
    let list = cuda.capture(&mut || add(&cuda, it, 2)).expect("a recording");
    cuda.replay(list).expect("a start");
    assert_eq!(value(&cuda, it.0), 2);
    cuda.free(it.0);
}

/// The fake card has 1 GiB.
fn out_of_memory(cuda: Cuda) {
    let error = cuda.alloc(2 << 30).expect_err("too much");
    assert!(error.is_out_of_memory() && error.hint().is_some_and(|h| h.contains("--batch-size")), "{error}");
    assert!(error.to_string().ends_with("cannot take 2147483648 bytes: 1024 of 1024 MiB are free"), "{error}");
    for _ in 0..3 {
        // What was given back counts at once, though the card may still be busy with it.
        let most = cuda.alloc(700 << 20).expect("memory");
        assert!(cuda.alloc(700 << 20).is_err_and(|e| e.is_out_of_memory()));
        cuda.free(most);
    }
}

/// A kernel that faults is named where it is waited for; everything afterwards gives the same answer, and nothing hangs.
fn fault(cuda: &Cuda, recorded: bool) {
    let it = counter(cuda);
    let name = if recorded {
        let list = cuda.capture(&mut || add(cuda, it, 1).and_then(|()| add(cuda, it, -1))).expect("a recording");
        cuda.replay(list).expect("it fails later");
        "recorded launches, `pgd_linf P_THREADS=64 P_VEC=1` to `pgd_linf P_THREADS=64 P_VEC=1`"
    } else {
        add(cuda, it, -1).expect("it fails later");
        "`pgd_linf P_THREADS=64 P_VEC=1`"
    };
    let error = cuda.sync().expect_err("it failed");
    let want = format!("Fake 0 failed while waiting for {name}: CUDA_ERROR_ILLEGAL_ADDRESS in cuStreamSynchronize: an illegal");
    assert!(error.to_string().starts_with(&want) && error.hint().is_some_and(|h| h.contains("compute-sanitizer")), "{error}");
    let later = [
        cuda.sync().expect_err("dead"),
        cuda.alloc(1).expect_err("dead"),
        add(cuda, it, 1).expect_err("dead"),
        cuda.upload(it.0, &[1]).expect_err("dead"),
        cuda.capture(&mut || Ok(())).expect_err("dead"),
    ];
    assert!(later.iter().all(|e| e.to_string() == error.to_string() && !e.is_out_of_memory()));
    cuda.free(it.0);
}

fn kernels(cuda: Cuda) {
    let spec = |elems: i64| KernelSpec::new("pgd", "pgd_linf").with("P_THREADS", 64 << (elems - 7)).with("P_VEC", 1);
    let first = cuda.load(&[spec(7), spec(8), spec(7)]).expect("kernels");
    assert!(first[0] == first[2] && first[0] != first[1], "equal specs are equal functions");
    assert_eq!(cuda.load(&[spec(8), spec(9), spec(7)]).expect("kernels")[0], first[1]);
    assert_eq!(cuda.take_warnings(), Vec::<String>::new());
    let it = counter(&cuda);
    let mut args = [Arg::Null; 8];
    (args[0], args[6]) = (Arg::Ptr(it.0), Arg::I32(1));
    // The fake kernel has 1 KB of static shared memory, of 100 KB in all.
    for shared in [0, 47 << 10, (47 << 10) + 1, 99 << 10, 60 << 10] {
        cuda.launch(it.1, Dims { shared, ..Dims::linear(1, 32) }, &args).unwrap_or_else(|e| panic!("{shared}: {e}"));
    }
    assert_eq!(value(&cuda, it.0), 5);
    let refused = cuda.launch(it.1, Dims::linear(0, 32), &args).expect_err("no blocks");
    assert!(refused.to_string().starts_with("Fake 0: cannot launch `pgd_linf P_THREADS=64 P_VEC=1` with "), "{refused}");
    cuda.sync().expect("one refusal is not the end");
    cuda.free(it.0);
}

fn times(cuda: Cuda) {
    let it = counter(&cuda);
    let from = cuda.mark().expect("a mark");
    (0..3).for_each(|_| add(&cuda, it, 1).expect("a launch"));
    let to = cuda.mark().expect("a mark");
    assert_eq!(cuda.elapsed_ms(from, to).expect("a time"), 3.0, "the fake clock counts what was asked for");
    let _forgotten = cuda.mark().expect("a mark that goes with the driver");
    cuda.free(it.0);
}
