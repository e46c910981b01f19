//! `petard dataset`: image sets made from image sets, a file for each way.
//! Must not know how images are changed.

mod bass;

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::Result;

/// Make an image set from another one
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    make: Make,
}

#[derive(Debug, Subcommand)]
enum Make {
    Bass(bass::Args),
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.make {
        Make::Bass(args) => bass::run(args),
    }
}
