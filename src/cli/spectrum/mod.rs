//! `petard spectrum`: what image sets and models do along frequencies, a file for each question.
//! Must not know how spectra are computed.

mod bands;
pub mod findings;
mod heatmap;
mod landscape;
mod perturbation;
mod psd;
mod sensitivity;
mod setting;

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::Result;

/// Study spectra: of images, and of what models make of frequencies
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    study: Study,
}

#[derive(Debug, Subcommand)]
enum Study {
    Psd(psd::Args),
    Bands(bands::Args),
    Sensitivity(sensitivity::Args),
    Heatmap(heatmap::Args),
    Perturbation(Box<perturbation::Args>),
    Landscape(landscape::Args),
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.study {
        Study::Psd(args) => psd::run(args),
        Study::Bands(args) => bands::run(args),
        Study::Sensitivity(args) => sensitivity::run(args),
        Study::Heatmap(args) => heatmap::run(args),
        Study::Perturbation(args) => perturbation::run(args),
        Study::Landscape(args) => landscape::run(args),
    }
}
