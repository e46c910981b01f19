//! The command line: one file a command, each from what was typed to settled values to a report.
//! Must not know how anything is computed; nothing below refers to it.

mod attack;
mod attack_args;
mod attacks;
mod complete;
mod corruptions;
mod dataset;
mod devices;
mod eval;
mod infer;
mod kernel;
mod merge;
mod models;
mod options;
mod output;
mod plan;
mod progress;
mod results;
mod run_args;
mod spectrum;
mod stop;
mod train;
mod train_args;
mod train_settings;
mod value;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

/// Everything that can be typed.
#[derive(Debug, Parser)]
#[command(
    name = "petard",
    version,
    about = "Breaks image classifiers fast, and says how far the numbers can be trusted",
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = EXAMPLES
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  petard models
  petard plan --model resnet20-cifar10
  petard attack --model resnet20-cifar10 --weights FILE.safetensors --data cifar10:DIR --limit 256

Exit code: 0, or 1 where `--expect-robust` was missed, or 2 for an error.";

#[derive(Debug, Subcommand)]
enum Command {
    Attack(Box<attack::Args>),
    Eval(Box<eval::Args>),
    Infer(infer::Args),
    Train(Box<train::Args>),
    Merge(merge::Args),
    Corruptions(Box<corruptions::Args>),
    Dataset(Box<dataset::Args>),
    Spectrum(Box<spectrum::Args>),
    Plan(Box<plan::Args>),
    Models(models::Args),
    Devices(devices::Args),
    Kernel(kernel::Args),
    Completions(complete::Args),
}

impl Cli {
    /// Runs the command. The exit code is 1 where an expectation was missed.
    ///
    /// # Errors
    /// Whatever a user, a file or a device can make fail.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Attack(args) => attack::run(&args),
            Command::Eval(args) => eval::run(&args),
            Command::Infer(args) => infer::run(&args),
            Command::Train(args) => train::run(&args),
            Command::Merge(args) => merge::run(&args),
            Command::Corruptions(args) => corruptions::run(&args),
            Command::Dataset(args) => dataset::run(&args),
            Command::Spectrum(args) => spectrum::run(&args),
            Command::Plan(args) => plan::run(&args),
            Command::Models(args) => models::run(&args),
            Command::Devices(args) => devices::run(&args),
            Command::Kernel(args) => kernel::run(&args),
            Command::Completions(args) => complete::run(&args),
        }
    }
}

/// Says what went wrong on stderr; the exit code of every error is 2.
pub fn fail(error: &Error) -> ExitCode {
    let hint = error.hint().map(|hint| format!("\nhint: {hint}\n")).unwrap_or_default();
    // Where even stderr is closed the exit code alone must do.
    let _ = output::stderr(&format!("error: {error}\n{hint}"));
    ExitCode::from(2)
}
