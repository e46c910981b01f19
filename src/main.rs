//! The command line: parse, run, exit code.
//! Must not know what a command does.

use std::process::ExitCode;

use clap::Parser;
use petard::cli::{Cli, fail};

fn main() -> ExitCode {
    // Help and version end here with 0, arguments that do not parse with 2.
    let cli = Cli::parse();
    cli.run().unwrap_or_else(|error| fail(&error))
}
