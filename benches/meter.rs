//! What all benches share: threads, clocks, seeded numbers and the line that says where a number was measured.
//! Must not know what is measured.

#![allow(dead_code)] // each bench uses its part

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use petard::cpu::Isa;
use petard::device::isa_name;
use petard::plan::Precision;
use petard::{Device, DeviceOptions};

/// Worker threads: `PETARD_THREADS`, else 1.
pub fn threads() -> usize {
    let text = std::env::var("PETARD_THREADS").unwrap_or_else(|_| "1".into());
    text.parse().ok().filter(|&n| n > 0).unwrap_or_else(|| panic!("PETARD_THREADS is `{text}`: give a number from 1"))
}

/// Instruction set: `PETARD_ISA` (`avx512`, `avx2`, `scalar`), else the widest there is.
pub fn isa() -> Isa {
    let Ok(text) = std::env::var("PETARD_ISA") else { return Isa::detect() };
    let known = Isa::available().into_iter().find(|&i| isa_name(i) == text);
    known.unwrap_or_else(|| panic!("PETARD_ISA is `{text}`: this processor has {:?}", Isa::available()))
}

/// The device: `PETARD_DEVICE` (`cpu`, `cuda:0`), else the CPU; on a card in `PETARD_PRECISION` (`f32`, `bf16`, ..).
pub fn open() -> Device {
    let precision = std::env::var("PETARD_PRECISION").unwrap_or_else(|_| "f32".into());
    let known = Precision::ALL.into_iter().find(|p| p.name() == precision);
    let precision = known.unwrap_or_else(|| panic!("PETARD_PRECISION is `{precision}`: give f32, tf32, bf16 or fp16"));
    let options = DeviceOptions { threads: threads(), isa: Some(isa()), precision };
    Device::open(&name(), &options).unwrap_or_else(|e| panic!("device: {e}"))
}

fn name() -> String {
    std::env::var("PETARD_DEVICE").unwrap_or_else(|_| "cpu".into())
}

/// The device as it stands in names of benches: `cpu-avx512`, `cuda:0-bf16`.
pub fn device() -> String {
    match name() {
        name if name.starts_with("cuda") => {
            format!("{name}-{}", std::env::var("PETARD_PRECISION").unwrap_or_else(|_| "f32".into()))
        }
        _ => format!("cpu-{}", isa_name(isa())),
    }
}

/// Whether cargo runs a bench, not a test that the bench still works.
pub fn measuring() -> bool {
    std::env::args().any(|a| a == "--bench")
}

/// Processor, load and threads, and which clock the numbers are from.
pub fn header() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown processor", |l| l.trim_start_matches([' ', '\t', ':']));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let (n, version) = (threads(), env!("CARGO_PKG_VERSION"));
    let clock = if !booked().is_empty() && n == 1 && !device().starts_with("cuda") { "CPU time" } else { "wall time" };
    format!("# petard {version}, {}, {n} thread(s), {clock}; {model}, load {}", device(), load.join(" "))
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub wall: Duration,
    /// Of all threads; the wall time where the system does not tell.
    pub cpu: Duration,
}

impl Spent {
    /// CPU time on one thread, which a busy machine does not spoil; wall time on more, where waiting counts.
    pub fn fair(&self) -> Duration {
        if threads() == 1 && !device().starts_with("cuda") { self.cpu } else { self.wall }
    }
}

/// A running clock.
pub struct Watch {
    cpu: Booked,
    wall: Instant,
}

impl Watch {
    pub fn start() -> Self {
        let cpu = booked();
        Watch { cpu, wall: Instant::now() }
    }
    pub fn stop(self) -> Spent {
        let wall = self.wall.elapsed();
        // Threads of an earlier run may still be ending: a thread counts by what it added.
        let added = |(thread, to): (&String, &u64)| to - self.cpu.get(thread).copied().unwrap_or(0).min(*to);
        let cpu = booked().iter().map(added).sum();
        Spent { wall, cpu: if cpu > 0 { Duration::from_nanos(cpu) } else { wall } }
    }
}

/// CPU time of each thread in nanoseconds, by the thread's number.
type Booked = BTreeMap<String, u64>;

/// What the system has booked for each thread; empty where it does not tell. It books a thread's time when the thread
/// stops running: a short sleep lets this one and the workers stop.
fn booked() -> Booked {
    std::thread::sleep(Duration::from_millis(1));
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Booked::new() };
    let one = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some((task.file_name().to_string_lossy().into_owned(), text.split(' ').next()?.parse().ok()?))
    };
    tasks.flatten().filter_map(one).collect()
}

/// Seeded numbers (SplitMix64).
pub struct Draw(pub u64);

impl Draw {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }
    /// Uniform with mean 0 and variance 1.
    pub fn centred(&mut self) -> f32 {
        (2.0 * self.unit() - 1.0) * 3f32.sqrt()
    }
    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
}
