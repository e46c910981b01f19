//! Petard breaks image classifiers fast, and hardens them: adversarial attacks on whole data sets, judged in f64.
//!
//! # The house
//!
//! ```text
//!  a card, weights        images                 an attack
//!        |                   |                       |
//!   nn::build            data::Dataset          attack::Pgd::step_graph
//!        |                   |                       |
//!        +-------- graph::Graph, closed on itself ---+        what
//!                            |
//!                     plan::compile                           in which order, where in memory
//!                            |
//!              device::bind -> plan::Executor                 on which machine
//!                            |
//!            attack::run: clean pass, attack, check in f64
//!                            |
//!               outcome::Outcome -> report -> stdout
//! ```
//!
//! Layers, low to high. A module uses lower layers only; `tests/tidy.rs` keeps it so.
//!
//! | layer | module | holds |
//! |---|---|---|
//! | 0 | [`error`] | what can go wrong, and the way out |
//! | 0 | [`tensor`] | shapes, element types, host arrays, NCHW and NHWC |
//! | 0 | [`threat`] | norms, and the f64 measure that judges every success |
//! | 0 | [`rng`] | counter-based random numbers: a number belongs to an image, never to a batch |
//! | 1 | [`graph`] | values, the closed list of ops, shape rules, derivatives |
//! | 2 | [`nn`] | model cards, networks as builder calls, weights |
//! | 2 | [`plan`] | steps, fusion, the memory arena, the text form; the `Executor` trait |
//! | 3 | [`cpu`] | the CPU executor and its kernels, one file a stem |
//! | 3 | [`gpu`] | `lower`: plans as launches, one file a stem of `kernels/`; `executor`: memory, recording, replay; `driver`: what it asks of a card, `cuda` and the tests' emulator being two; `spec`, `source`, `catalogue`: kernels as values; `nvrtc`, `cache`, `image`: compiled |
//! | 4 | [`device`] | opening and binding |
//! | 4 | [`session`] | a model on a device |
//! | 4 | [`data`] | data sets in, adversarial sets out |
//! | 4 | [`outcome`] | what an attack found, and what casts doubt on it |
//! | 5 | [`attack`] | what an attack is (`Attack`, `Bound`), one file each, ensembles in `auto`; what all need: `place` (networks, device, batch), `rows` (the seats of a batch), `choices`, `target`; the run around them: `job`, `run`, `check`, `journal`, `quantise` |
//! | 4 | [`spectrum`] | densities of image sets, power laws, bands, balanced spectrum sampling; one spectral op on a device: `runner` |
//! | 5 | [`train`] | the loop; a step and its attack as one graph: `step`, bound: `engine`; what decides a result: `config`, `recipe`, `form`, `tricks`, `classes`, `schedule`, `augment`, `mix`; a batch: `learn`, `margins`; images in order: `feed`; `evaluate`, `checkpoint`, `log` |
//! | 7 | [`cli`] | a file a command: `attack`, `eval`, `merge`, `infer`, `train`, `dataset`, `corruptions`, `spectrum`, `plan`, `models`, `devices`, `kernel`, `complete`; what was typed: `options`, `run_args`, `attack_args` with the table of `attacks`, `train_args`, `train_settings`, `value`; where results go: `results`, `output`, `progress`; Ctrl-C: `stop` |
//! | 5 | [`study`] | what models do along frequencies: `sensitivity`, `heatmap`, `perturbation`, `landscape` |
//! | 6 | [`report`] | `plot`, `table` and `page` for studies; `text` for people and `json` for programs, over the same facts |
//!
//! # Invariants
//!
//! - *There is no eager tensor.* Everything that is computed was planned: a `Value`, a `Shape` and a place in the arena.
//! - *Graph and plan are plain data* made by pure functions; they are printed, compared and tested without a device.
//! - *One `Op` enum* holds forward and gradient ops alike; one `match` holds every derivative.
//! - *An attack never computes a weight gradient*: `vjp` appends only what leads to the image.
//! - *Normalisation lives in the model.* Images are [0,1] everywhere, so a radius means the same everywhere.
//! - *A success counts only* if the point lies in the threat model, measured in f64, and a second forward pass on direct f32
//!   kernels gives another class. The engine does not trust its own projection or its own fast path.
//! - *Same bits*: in an attack nothing is reduced across images, and random numbers are keyed by (seed, image, restart, step), so a result
//!   does not depend on batch size, threads or order.
//! - *A kernel is a value*: file, entry and constants. `gpu::lower` is pure, so launch geometry is tested without a card.
//! - *One seam below argument packing*: everything above `gpu::Driver` runs unchanged on a card and in the tests' emulator.
//! - *What varies lives in memory*: a recorded segment is replayed as it is; steps, radii, indices and seeds are device arrays.
//! - *`unsafe` exists only in the CPU's inner loops* (`cpu/simd.rs`, `cpu/epilogue.rs`, `cpu/conv`) *and where libraries of
//!   other people are called* (`gpu/cuda`, `gpu/nvrtc`).

#![deny(unsafe_code)]
#![doc = "\n# The README\n"]
#![doc = include_str!("../README.md")]

pub mod attack;
pub mod cli;
pub mod cpu;
pub mod data;
pub mod device;
pub mod error;

pub mod gpu;
pub mod graph;
pub mod nn;
pub mod outcome;
pub mod plan;
pub mod report;
pub mod rng;
pub mod session;
pub mod spectrum;
pub mod study;
pub mod tensor;
pub mod threat;
pub mod train;

pub use attack::{Attack, Given, Hooks, Job, Pgd, Target};
pub use data::Dataset;
pub use device::{Device, DeviceOptions};
pub use error::{Error, Result};
pub use nn::ModelCard;
pub use outcome::{Doubt, Outcome};
pub use session::{Classifier, Model};
pub use threat::{Norm, ThreatModel};
