//! `petard devices`: what this machine offers, and what CUDA lacks.
//! Must not know plans.

use std::process::ExitCode;

use super::output;
use crate::cpu::Isa;
use crate::device::isa_name;
use crate::error::{Error, Result};
use crate::gpu::DeviceProps;
use crate::gpu::cache::Cache;
use crate::gpu::cuda::{Cards, look};
use crate::gpu::nvrtc::{Nvrtc, Search};

/// List what this machine can compute on, and what is missing for the rest
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard devices
  petard attack --device cpu --threads 4 ...
  petard attack --device cuda:0 ...

Environment:
  PETARD_NVRTC          NVIDIA's run-time compiler: the library, or a folder that holds it
  PETARD_CACHE          folder of compiled kernels
  CUDA_VISIBLE_DEVICES  which cards are seen")]
pub struct Args {}

pub fn run(_: &Args) -> Result<ExitCode> {
    let found = look();
    let driver = found.as_ref().ok().and_then(|f| f.as_ref()).map(|cards| cards.driver);
    let nvrtc = Nvrtc::find(&Search::from_env(), driver);
    let mut text = line("cpu", &cpu());
    text += &match &found {
        Ok(Some(cards)) => cuda(cards, nvrtc.as_ref().ok()),
        Ok(None) => line("cuda", "no NVIDIA driver on this machine: everything runs on the CPU"),
        Err(error) => line("cuda", &lacking(error)),
    };
    text += &line(
        "nvrtc",
        &match &nvrtc {
            Ok(nvrtc) => format!("{}, {}", nvrtc.version(), nvrtc.path().display()),
            Err(error) => lacking(error),
        },
    );
    text += &match Cache::standard_folder() {
        Some(folder) => line("kernels", &format!("kept in {}", folder.display())),
        None => line("kernels", "not kept: there is no home folder; PETARD_CACHE names one"),
    };
    output::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A name and what there is to say; further lines are indented below it.
fn line(name: &str, text: &str) -> String {
    format!("{name:<10}{}\n", text.replace('\n', "\n          "))
}

fn lacking(error: &Error) -> String {
    let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{error}{hint}")
}

fn cpu() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let sets: Vec<&str> = Isa::available().into_iter().map(isa_name).collect();
    let s = if cores == 1 { "" } else { "s" };
    format!("{}, {cores} core{s}, kernels for {}", processor(), sets.join(", "))
}

/// The driver, and each card with what its kernels are compiled for.
fn cuda(found: &Cards, nvrtc: Option<&Nvrtc>) -> String {
    let lacks = match (found.cards.is_empty(), nvrtc) {
        (true, _) => ", which sees no card",
        (false, None) => "; not used for want of NVRTC",
        (false, Some(_)) => "",
    };
    let mut text = line("cuda", &format!("driver for CUDA {}{lacks}", found.driver));
    for (index, card) in found.cards.iter().enumerate() {
        let target = nvrtc.map(|nvrtc| match nvrtc.target(card.arch) {
            Ok(target) => format!(", kernels for {target}"),
            Err(error) => format!("\n{}", lacking(&error)),
        });
        text += &line(&format!("cuda:{index}"), &(describe(card) + &target.unwrap_or_default()));
    }
    text
}

fn describe(card: &DeviceProps) -> String {
    let DeviceProps { name, arch, sms, memory_bytes, .. } = card;
    let (major, minor, memory) = (arch / 10, arch % 10, memory_bytes >> 20);
    format!("{name}, compute capability {major}.{minor}, {sms} multiprocessors, {memory} MiB")
}

/// Name of the processor where the system tells it, else its family.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}
