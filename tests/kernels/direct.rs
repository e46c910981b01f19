//! Kernels on emulated cards outside of the tables: single launches, carried values, and the CPU engine as the judge.
//! Must not know what is computed.

use std::fmt::Debug;

use libtest_mimic::Trial;
use petard::cpu::Isa;
use petard::gpu::lower::{Launch, Operand};
use petard::gpu::{Arg, DevicePtr, Driver};
use petard::graph::{Graph, Value};
use petard::plan::Precision;

use crate::emulated::{Build, Emulated, Profile, Schedule};
use crate::support::engine::on_a_card;
use crate::support::engine::{Emulation, Engine, How};
use crate::support::naive::Values;

/// An emulated card and how its kernels are compiled.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    pub profile: Profile,
    pub build: Build,
}

/// Trials of `body` by build, each on every card.
pub fn on_cards(name: &str, body: impl Fn(Card) -> Result<(), String> + Clone + Send + 'static) -> Vec<Trial> {
    let one = |build: Build| {
        let (body, how) = (body.clone(), if build == Build::Fast { "fast" } else { "check" });
        on_a_card(format!("{name}::emulated-{how}"), move || {
            [Profile::Toy, Profile::Hopper]
                .into_iter()
                .try_for_each(|profile| body(Card { profile, build }).map_err(|e| format!("{profile:?}: {e}")))
        })
    };
    [Build::Fast, Build::Check].map(one).into()
}

const CPU: fn(usize) -> How = |batch| How { batch, isa: Isa::Scalar, threads: 1, exact: true };

fn emulation(batch: usize, card: Card) -> Emulation {
    let Card { profile, build } = card;
    Emulation { batch, profile, build, schedule: Schedule { seed: 3, lazy: true }, precision: Precision::F32 }
}

/// The outputs on a card.
pub fn run(graph: &Graph, outputs: &[Value], batch: usize, given: &Values, card: Card) -> Result<Vec<Vec<f32>>, String> {
    Engine::emulated(graph, outputs, emulation(batch, card))?.run(given)
}

/// The outputs on a card are those of the CPU: NaN at the same places, all else to a relative `apart` (of 1 at least);
/// 0 means equal numbers.
pub fn against_cpu(g: &Graph, outputs: &[Value], batch: usize, given: &Values, card: Card, apart: f32) -> Result<(), String> {
    let want = Engine::new(g, outputs, CPU(batch))?.run(given)?;
    alike(&run(g, outputs, batch, given, card)?, &want, apart)
}

/// As [`against_cpu`] for the states of `carries` after each of `turns` runs.
pub fn carried_as_on_cpu(
    g: &Graph,
    carries: &[(Value, Value)],
    batch: usize,
    turns: usize,
    given: &Values,
    card: Card,
    apart: f32,
) -> Result<(), String> {
    let mut cpu = Engine::carrying(g, carries, CPU(batch))?;
    let mut gpu = Engine::emulated_carrying(g, carries, emulation(batch, card))?;
    let none = Values::new();
    for turn in 0..turns {
        let given = if turn == 0 { given } else { &none };
        alike(&gpu.run(given)?, &cpu.run(given)?, apart).map_err(|e| format!("run {turn}: {e}"))?;
    }
    Ok(())
}

fn alike(got: &[Vec<f32>], want: &[Vec<f32>], apart: f32) -> Result<(), String> {
    for (output, (got, want)) in got.iter().zip(want).enumerate() {
        let same = |(g, w): (&f32, &f32)| g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= apart * w.abs().max(1.0);
        if let Some(i) = got.iter().zip(want).position(|pair| !same(pair)) {
            return Err(format!("output {output}, element {i}: got {:e}, the CPU {:e}", got[i], want[i]));
        }
        assert_eq!(got.len(), want.len(), "output {output}");
    }
    Ok(())
}

/// Buffers on a card, for launches without a plan.
pub struct Direct {
    driver: Emulated,
    buffers: Vec<(DevicePtr, usize)>,
}

impl Direct {
    pub fn new(card: Card) -> Self {
        Direct { driver: Emulated::new(card.profile, card.build, Schedule { seed: 1, lazy: true }), buffers: Vec::new() }
    }
    /// A buffer with these numbers.
    pub fn place<T: bytemuck::NoUninit + Debug>(&mut self, data: &[T]) -> Result<Operand, String> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let ptr = self.driver.alloc(bytes.len() as u64).map_err(|e| e.to_string())?;
        self.driver.upload(ptr, bytes).map_err(|e| e.to_string())?;
        self.buffers.push((ptr, bytes.len()));
        Ok(Operand::At { buffer: self.buffers.len() - 1, offset: 0, bytes: bytes.len() as u64 })
    }
    pub fn run(&self, launch: &Launch) -> Result<(), String> {
        let arg = |operand: &Operand| match *operand {
            Operand::At { buffer, offset, .. } => Arg::Ptr(self.buffers[buffer].0.offset(offset)),
            Operand::Null => Arg::Null,
            Operand::I32(v) => Arg::I32(v),
            Operand::I64(v) => Arg::I64(v),
            Operand::F32(v) => Arg::F32(v),
        };
        let args: Vec<Arg> = launch.args.iter().map(arg).collect();
        let function = self.driver.load(std::slice::from_ref(&launch.spec)).map_err(|e| e.to_string())?[0];
        self.driver.launch(function, launch.dims, &args).map_err(|e| e.to_string())
    }
    /// The floats of a whole buffer.
    pub fn floats(&self, place: Operand) -> Result<Vec<f32>, String> {
        let Operand::At { buffer, .. } = place else { panic!("{place:?} is no buffer") };
        let (ptr, bytes) = self.buffers[buffer];
        let mut out = vec![0f32; bytes / 4];
        self.driver.download(ptr, bytemuck::cast_slice_mut(&mut out)).map_err(|e| e.to_string())?;
        Ok(out)
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.buffers.iter().for_each(|b| self.driver.free(b.0));
    }
}
