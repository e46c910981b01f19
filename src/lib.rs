//! Petard breaks image classifiers fast, and hardens them.

pub mod attack;
pub mod cli;
pub mod cpu;
pub mod data;
pub mod device;
pub mod error;
pub mod graph;
pub mod nn;
pub mod outcome;
pub mod plan;
pub mod report;
pub mod rng;
pub mod session;
pub mod tensor;
pub mod threat;
