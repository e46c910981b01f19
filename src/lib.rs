//! Petard breaks image classifiers fast, and hardens them.

pub mod cpu;
pub mod data;
pub mod error;
pub mod graph;
pub mod nn;
pub mod plan;
pub mod rng;
pub mod tensor;
pub mod threat;
