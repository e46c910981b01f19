//! `petard completions`: a script that teaches a shell the options.
//! Must not know any option: they come from the same table as the help.

use std::process::ExitCode;

use clap::CommandFactory;

use super::{Cli, output};
use crate::error::Result;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard completions bash > ~/.local/share/bash-completion/completions/petard
  petard completions fish > ~/.config/fish/completions/petard.fish")]
pub struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "petard", &mut script);
    output::stdout(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
