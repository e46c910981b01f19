//! `petard dataset`: image sets made from image sets, a file for each way.
//! Must not know how images are changed.

mod bass;
mod corrupt;
mod longtail;

use std::process::ExitCode;

use clap::Subcommand;

use crate::data::{Batch, Images};
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
    Corrupt(corrupt::Args),
    Longtail(longtail::Args),
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.make {
        Make::Bass(args) => bass::run(args),
        Make::Corrupt(args) => corrupt::run(args),
        Make::Longtail(args) => args.run(),
    }
}

/// The pixels as bytes; floats are rounded.
fn bytes_of(chunk: &Batch) -> Vec<u8> {
    match &chunk.images {
        Images::U8(bytes) => bytes.clone(),
        Images::F32(values) => values.iter().map(|v| (v * 255.0).round_ties_even() as u8).collect(),
    }
}
