//! The one test binary: every module hands in a list of named trials, made at run time so that a missing device or
//! data set shows as ignored with its reason. Knows no test.

mod attacks;
mod cli;
mod data;
mod emulated;
mod engines;
mod fake_cuda;
mod gpu_errors;
mod gradients;
mod kernels;
mod models;
mod mutants;
mod plans;
mod resources;
mod spectrum;
mod support;
mod tidy;
mod torch;
mod training;

use libtest_mimic::{Arguments, Trial};

/// Every group of tests: its `mod` line above, its list here.
const GROUPS: &[fn() -> Vec<Trial>] = &[
    attacks::trials,
    cli::trials,
    data::trials,
    emulated::trials,
    engines::trials,
    fake_cuda::trials,
    gpu_errors::trials,
    gradients::trials,
    kernels::trials,
    models::trials,
    mutants::trials,
    plans::trials,
    resources::trials,
    spectrum::trials,
    support::trials,
    tidy::trials,
    training::trials,
    torch::trials,
];

fn main() {
    let trials: Vec<Trial> = GROUPS.iter().flat_map(|group| group()).collect();
    let mut names: Vec<&str> = trials.iter().map(Trial::name).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(twice.is_none(), "two trials have one name: {twice:?}");
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
