//! The emulator on kernels of its own: known answers, planted faults to find, right kernels not to accuse.
//! Must not know the product's kernels.

use libtest_mimic::Trial;
use petard::gpu::{Arg, Dims, Driver, Function};

use super::conform::{Question, questions};
use super::{Build, Emulated, Profile, Schedule, Unit, compile, missing};
use crate::support::{ignored, trial};

const SCHEDULES: [Schedule; 4] =
    [Schedule::IN_ORDER, Schedule { seed: 1, lazy: true }, Schedule { seed: 2, lazy: false }, Schedule { seed: 3, lazy: true }];

/// A fault in `kernels/planted.cu`.
struct Planted {
    name: &'static str,
    /// What the report of the check build says, one of these by the order of events.
    says: &'static [&'static str],
    /// Whether the fast build shows it too: a failure, or another result than that of the right kernel.
    fast: bool,
}

const fn planted(name: &'static str, says: &'static [&'static str], fast: bool) -> Planted {
    Planted { name, says, fast }
}

/// A read beside a write, which comes before or after it.
const UNORDERED: &[&str] =
    &["RACE write, then read", "RACE read, then write", "UNINITIALISED: read of", "copy that is not waited"];

const PLANTED: &[Planted] = &[
    planted("no_barrier", UNORDERED, true),
    planted("no_barrier_before_refill", &["RACE read, then write", "RACE write, then read"], true),
    planted("no_syncwarp", UNORDERED, true),
    planted("barrier_in_branch", &["DEADLOCK"], true),
    planted("shuffle_in_branch", &["DEADLOCK"], true),
    planted("wait_for_too_few", &["asynchronous copy that is not waited for"], true),
    planted("wait_without_barrier", UNORDERED, true),
    planted("read_past_end", &["OUT OF BOUNDS: read of 4 bytes at offset 1024"], true),
    planted("read_before_start", &["OUT OF BOUNDS: read of 4 bytes at offset -4"], true),
    planted("write_past_end", &["OUT OF BOUNDS: write of 4 bytes at offset 1024"], true),
    planted("write_before_start", &["OUT OF BOUNDS: write of 4 bytes at offset -4"], true),
    planted("dynamic_overrun", &["OUT OF BOUNDS: write of 4 bytes at dynamic shared +4096"], false),
    planted("static_overrun", &["INDEX OUT OF BOUNDS (32)", "INDEX OUT OF BOUNDS (33)"], false),
    planted("local_overrun", &["INDEX OUT OF BOUNDS (4)"], false),
    planted("unwritten_shared", &["UNINITIALISED: read of static shared"], true),
    planted("unwritten_global", &["UNINITIALISED: read of global"], true),
    planted("two_blocks_one_word", &["RACE write, then write"], true),
    planted("read_of_other_block", &["of another block"], true),
    planted("two_lanes_one_word", &["RACE write, then write"], true),
    planted("two_lanes_one_half", &["RACE write, then write"], true),
    planted("misaligned_vector", &["MISALIGNED"], true),
    planted("shift_too_far", &["SHIFT OUT OF RANGE"], false),
    planted("division_by_zero", &["DIVISION"], false),
    planted("ldmatrix_misaligned", &["MISALIGNED ldmatrix"], true),
    planted("atomic_after_plain", &["RACE"], true),
];

/// Faults of which nothing but the result can tell.
const ONLY_RESULT: &[&str] = &["shuffle_from_absent"];

type Body = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// The emulator's own trials; ignored where there is no compiler.
pub fn trials() -> Vec<Trial> {
    let mut bodies: Vec<(String, Body)> = Vec::new();
    for (i, question) in questions().into_iter().enumerate() {
        bodies.push((format!("emulated::{}.{i}", question.entry.replace('_', ".")), Box::new(move || ask(&question))));
    }
    for fault in PLANTED {
        bodies.push((format!("emulated::planted.{}", fault.name), Box::new(|| find(fault))));
    }
    for name in ONLY_RESULT {
        bodies.push((format!("emulated::planted.{name}"), Box::new(|| changes_the_result(name))));
    }
    bodies.push(("emulated::planted.nothing".into(), Box::new(|| right_kernel("nothing").map(drop))));
    bodies.push(("emulated::forgotten_memory".into(), Box::new(forgotten)));
    bodies.push(("emulated::limits_of_a_card".into(), Box::new(limits)));
    bodies.push(("emulated::compile.damaged_file".into(), Box::new(damaged_file)));
    bodies.push(("emulated::compile.error".into(), Box::new(compile_error)));
    let make = |(name, body)| match missing() {
        Some(reason) => ignored(name, &reason),
        None => trial(name, body),
    };
    bodies.into_iter().map(make).collect()
}

fn text(e: petard::Error) -> String {
    e.to_string()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Runs `function(in, out, n)` and gives the words of `out`.
fn run(
    device: &Emulated,
    function: Function,
    dims: Dims,
    input: &[u32],
    before: Option<u32>,
    out: usize,
    n: i32,
) -> Result<Vec<u32>, String> {
    let (from, to) = (device.alloc(4 * input.len() as u64).map_err(text)?, device.alloc(4 * out as u64).map_err(text)?);
    device.upload(from, &bytes(input)).map_err(text)?;
    if let Some(word) = before {
        device.upload(to, &bytes(&vec![word; out])).map_err(text)?;
    }
    device.launch(function, dims, &[Arg::Ptr(from), Arg::Ptr(to), Arg::I32(n)]).map_err(text)?;
    let mut got = vec![0; 4 * out];
    device.download(to, &mut got).map_err(text)?;
    Ok(got.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect())
}

fn ask(question: &Question) -> Result<(), String> {
    let q = question;
    let dims = Dims { grid: [q.blocks, 1, 1], block: q.threads, shared: q.shared };
    for build in [Build::Fast, Build::Check] {
        for schedule in SCHEDULES {
            let device = Emulated::new(Profile::Hopper, build, schedule);
            let function = device.load_own("conform.cu", q.entry, &[]).map_err(text)?;
            let got = run(&device, function, dims, &q.input, q.before, q.answer.len(), q.n)?;
            if let Some(i) = got.iter().zip(&q.answer).position(|(got, want)| got != want) {
                return Err(format!("{build:?} {schedule:?}: word {i} is {:#x}, not {:#x}", got[i], q.answer[i]));
            }
        }
    }
    Ok(())
}

const WORDS: usize = 256;

/// One run of a kernel of `planted.cu`.
fn run_planted(name: &str, plant: i64, build: Build, schedule: Schedule) -> Result<Vec<u32>, String> {
    let device = Emulated::new(Profile::Hopper, build, schedule);
    let entry = format!("planted_{name}");
    let function = device.load_own("planted.cu", &entry, &[("P_PLANT", plant)]).map_err(text)?;
    let input: Vec<u32> = (0..WORDS).map(|i| (i as f32 + 0.5).to_bits()).collect();
    let dims = Dims { grid: [2, 1, 1], block: 128, shared: 4096 };
    run(&device, function, dims, &input, None, WORDS, WORDS as i32)
}

/// The kernel as it should be: no report, and one result whatever the order of events.
fn right_kernel(name: &str) -> Result<Vec<u32>, String> {
    let mut first = None;
    for build in [Build::Fast, Build::Check] {
        for schedule in SCHEDULES {
            let got = run_planted(name, 0, build, schedule).map_err(|e| format!("accused {build:?} {schedule:?}: {e}"))?;
            let first = first.get_or_insert_with(|| got.clone());
            if got != *first {
                return Err(format!("{build:?} {schedule:?}: another result of a right kernel"));
            }
        }
    }
    Ok(first.expect("there are schedules"))
}

fn find(fault: &Planted) -> Result<(), String> {
    let right = right_kernel(fault.name)?;
    for schedule in SCHEDULES {
        match run_planted(fault.name, 1, Build::Check, schedule) {
            Ok(_) => return Err(format!("{schedule:?}: not found by the check build")),
            Err(report) if !fault.says.iter().any(|says| report.contains(says)) => {
                return Err(format!("{schedule:?}: found as: {report}"));
            }
            Err(_) => {}
        }
    }
    let shows = |s| run_planted(fault.name, 1, Build::Fast, s).map_or(true, |got| got != right);
    if fault.fast && !SCHEDULES.into_iter().any(shows) {
        return Err("not found by the fast build under any schedule".into());
    }
    Ok(())
}

fn changes_the_result(name: &str) -> Result<(), String> {
    let right = right_kernel(name)?;
    let same = |s| run_planted(name, 1, Build::Fast, s).is_ok_and(|got| got == right);
    if SCHEDULES.into_iter().any(same) { Err("the result is right all the same".into()) } else { Ok(()) }
}

/// What a user makes undefined between runs reads as NaN, and a check build reports the read.
fn forgotten() -> Result<(), String> {
    let device = Emulated::new(Profile::Toy, Build::Check, Schedule::IN_ORDER);
    let function = device.load_own("planted.cu", "planted_nothing", &[("P_PLANT", 0)]).map_err(text)?;
    let (from, to) = (device.alloc(1024).map_err(text)?, device.alloc(1024).map_err(text)?);
    device.upload(from, &[0; 1024]).map_err(text)?;
    let launch = || device.launch(function, Dims::linear(2, 128), &[Arg::Ptr(from), Arg::Ptr(to), Arg::I32(256)]);
    launch().map_err(text)?;
    device.forget(from.offset(512), 4);
    let report = launch().map_err(text).expect_err("a read of what was forgotten");
    assert!(report.contains("UNINITIALISED: read of global") && report.contains("(+512 of 1024 bytes)"), "{report}");
    assert!(report.contains("block (1,0,0) thread (0,0,0)"), "{report}");
    Ok(())
}

/// More than a card has is refused as the card would do.
fn limits() -> Result<(), String> {
    let device = Emulated::new(Profile::Toy, Build::Fast, Schedule::IN_ORDER);
    assert!(device.alloc(2 << 30).is_err(), "2 GB on a card of 1 GB");
    let function = device.load_own("planted.cu", "planted_nothing", &[("P_PLANT", 0)]).map_err(text)?;
    let args = [Arg::Null, Arg::Null, Arg::I32(0)];
    let launch = |dims| device.launch(function, dims, &args).map_err(text).expect_err("no card does that");
    assert!(launch(Dims { grid: [1, 1, 1], block: 128, shared: 64 << 10 }).contains("shared memory"));
    assert!(launch(Dims::linear(1, 1025)).contains("no device runs"));
    assert!(launch(Dims::linear(0, 128)).contains("no device runs"));
    assert!(launch(Dims::linear(1, 128)).contains("INVALID ACCESS"), "a null pointer is read");
    Ok(())
}

/// Another process may have been stopped half-way, or a disk may have been full.
fn damaged_file() -> Result<(), String> {
    let unit = Unit::own("planted.cu", "planted_nothing", &[("P_PLANT", 0), ("P_PROCESS", i64::from(std::process::id()))])?;
    let path = compile::object(&unit, Build::Fast)?;
    let whole = std::fs::read(&path).map_err(|e| e.to_string())?;
    for damaged in [&whole[..whole.len() / 2], &[]] {
        std::fs::write(&path, damaged).map_err(|e| e.to_string())?;
        assert_eq!(compile::object(&unit, Build::Fast)?, path);
        assert_eq!(std::fs::read(&path).map_err(|e| e.to_string())?.len(), whole.len(), "made again");
    }
    std::fs::remove_file(&path).map_err(|e| e.to_string())
}

/// The compiler's words reach the user, with the line of the kernel.
fn compile_error() -> Result<(), String> {
    let device = Emulated::new(Profile::Toy, Build::Fast, Schedule::IN_ORDER);
    let report = device.load_own("planted.cu", "planted_nothing", &[]).map_err(text).expect_err("P_PLANT is missing");
    assert!(report.contains("planted.cu:") && report.contains("P_PLANT"), "{report}");
    Ok(())
}
