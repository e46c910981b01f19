//! `petard devices`: what this machine offers.
//! Must not know plans.

use std::process::ExitCode;

use super::output;
use crate::cpu::Isa;
use crate::device::isa_name;
use crate::error::Result;

/// List what this machine can compute on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard devices
  petard attack --device cpu --threads 4 ...")]
pub struct Args {}

pub fn run(_: &Args) -> Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let sets: Vec<&str> = Isa::available().into_iter().map(isa_name).collect();
    let s = if cores == 1 { "" } else { "s" };
    let cpu = format!("cpu       {}, {cores} core{s}, kernels for {}\n", processor(), sets.join(", "));
    output::stdout(&(cpu + "cuda      not in this version: everything runs on the CPU\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Name of the processor where the system tells it, else its family.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}
