//! What an op has to do, and how near a time comes to what this machine can do at best.
//! Must not know ops.

use std::hint::black_box;
use std::time::Instant;

use crate::meter;

/// The least an op must do: operations, and bytes read and written once each. Typed, so that neither passes for the other.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub flops: f64,
    pub bytes: f64,
}

/// What the machine does at best in this run, for a case.
#[derive(Clone, Copy, Debug)]
pub struct Roof {
    pub flops_per_second: f64,
    pub bytes_per_second: f64,
}

impl Work {
    /// `201.3 GFLOP/s`, or `9.8 GB/s` for an op that only moves memory.
    pub fn rate(self, seconds: f64) -> String {
        if self.flops > 0.0 {
            format!("{:.1} GFLOP/s", self.flops / seconds / 1e9)
        } else {
            format!("{:.1} GB/s", self.bytes / seconds / 1e9)
        }
    }
    /// Share of the roof: the shortest time that arithmetic or memory allow, over the time taken; and which of them it is.
    pub fn share(self, seconds: f64, roof: Roof) -> String {
        let (compute, memory) = (self.flops / roof.flops_per_second, self.bytes / roof.bytes_per_second);
        let of = if compute >= memory { "the arithmetic roof" } else { "the memory roof" };
        format!("{:.0} % of {of}", 100.0 * compute.max(memory) / seconds)
    }
}

/// Bytes a second, read plus written, of copying until `bytes` have been read and written: as hot in the caches as an op
/// of that size that runs again and again, and by as many threads.
pub fn copy_bandwidth(bytes: usize) -> f64 {
    let floats = (bytes / 8).max(1);
    let passes = (1 << 26) / bytes.max(1) + 1;
    let (from, mut to) = (vec![1.0f32; floats], vec![0.0f32; floats]);
    let part = floats.div_ceil(meter::threads());
    let copy = |to: &mut [f32], from: &[f32]| {
        for _ in 0..passes {
            black_box(&mut *to).copy_from_slice(black_box(from));
        }
    };
    let mut once = || {
        let begin = Instant::now();
        if meter::threads() == 1 {
            copy(&mut to, &from);
        } else {
            std::thread::scope(|scope| {
                for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
                    scope.spawn(move || copy(to, from));
                }
            });
        }
        begin.elapsed().as_secs_f64()
    };
    once();
    let best = (0..5).map(|_| once()).fold(f64::INFINITY, f64::min);
    (8 * floats * passes) as f64 / best
}
