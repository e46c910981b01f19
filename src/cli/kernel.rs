//! `petard kernel`: one kernel compiled as a plan would have it, and what it takes of a card. Needs no card.
//! Must not know plans.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use super::output;
use crate::error::Result;
use crate::gpu::KernelSpec;
use crate::gpu::cache::{Cache, Kept, Key};
use crate::gpu::catalogue::{Constants, entries, spec_of};
use crate::gpu::cuda::look;
use crate::gpu::nvrtc::{Nvrtc, Search, Version};

/// Without a card kernels are compiled for the oldest that runs them.
const ARCH: u32 = 80;

/// Compile one kernel and print the registers and memory that it takes, or list all kernels
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard kernel
  petard kernel pgd_linf
  petard kernel pgd_linf P_THREADS=256 P_VEC=4 --arch sm_90a")]
pub struct Args {
    /// Name of a kernel, then its constants
    #[arg(value_names = ["KERNEL", "P_NAME=VALUE"], num_args = 0..)]
    spec: Vec<String>,
    /// Architecture, such as sm_80, sm_90a or sm_120 [default: that of the first card, else sm_80]
    #[arg(long, value_name = "SM")]
    arch: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let Some((entry, constants)) = args.spec.split_first() else {
        output::stdout(&list())?;
        return Ok(ExitCode::SUCCESS);
    };
    let spec = spec_of(entry, constants.iter().map(String::as_str))?;
    let cards = look().unwrap_or(None);
    let (driver, arch) = (cards.as_ref().map(|c| c.driver), cards.as_ref().and_then(|c| c.cards.first()).map(|c| c.arch));
    let nvrtc = compiler(driver)?;
    let target = match &args.arch {
        Some(name) => name.clone(),
        None => nvrtc.target(arch.unwrap_or(ARCH))?,
    };
    let recipe = nvrtc.recipe(&target)?;
    let cache = Cache::new(Cache::standard_folder());
    let start = Instant::now();
    let kept = cache.image(&spec, &recipe, &|spec| nvrtc.compile(spec, &recipe))?;
    let seconds = start.elapsed().as_secs_f64();
    let place = cache.entry(&Key::of(&spec, &recipe)).map(|folder| folder.join("kernel.cubin").display().to_string());
    let warnings: String = cache.take_warnings().iter().map(|w| format!("warning: {w}\n")).collect();
    output::stderr(&warnings)?;
    let how = if kept.found { "kept from an earlier run".to_string() } else { format!("compiled in {seconds:.2} s") };
    let place = format!("{}, {how}", place.unwrap_or_else(|| "not kept".into()));
    output::stdout(&describe(&spec, &format!("{target}, NVRTC {}", nvrtc.version()), &kept, &place))?;
    Ok(ExitCode::SUCCESS)
}

/// A compiler that suits the driver; where none does, any: nothing is loaded here.
fn compiler(driver: Option<Version>) -> Result<Nvrtc> {
    let search = Search::from_env();
    Nvrtc::find(&search, driver).or_else(|_| Nvrtc::find(&search, None))
}

/// All kernels by file, with the constants of the file.
fn list() -> String {
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (stem, entry) in entries() {
        files.entry(stem).or_default().push(entry);
    }
    let mut text = String::new();
    for (stem, entries) in files {
        text += &format!("{stem}.cu: {}\n", Constants::of(stem));
        text += &entries.iter().map(|entry| format!("  {entry}\n")).collect::<String>();
    }
    text
}

fn describe(spec: &KernelSpec, target: &str, kept: &Kept, place: &str) -> String {
    let image = &kept.image;
    let mut text = format!("{spec}\n{:<11}{target}\n", "target");
    if let Some(usage) = image.usage(spec.entry) {
        text += &format!("{:<11}{} a thread\n", "registers", usage.registers);
        text += &format!("{:<11}{} bytes a block, static\n", "shared", usage.shared);
        text += &format!("{:<11}{} bytes a thread\n", "stack", usage.stack);
        text += &format!("{:<11}{} bytes stored, {} bytes loaded\n", "spills", usage.spill_stores, usage.spill_loads);
    }
    text += &format!("{:<11}{} bytes, {place}\n", "cubin", image.cubin.len());
    text + &image.serialised().iter().map(|line| format!("{:<11}{line}\n", "warning")).collect::<String>()
}
