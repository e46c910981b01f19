//! `petard models`: the embedded cards.
//! Must not know weights beyond whether a file of them is there.

use std::process::ExitCode;

use super::output;
use crate::error::Result;
use crate::graph::{Graph, Op, Role};
use crate::nn::{ModelCard, build, multiply_adds};
use crate::session::image_input;

/// List the embedded models, or print the card of one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard models
  petard models resnet20-cifar10 > my.toml")]
pub struct Args {
    /// Card to print: an embedded name or a file ending in `.toml`
    #[arg(value_name = "CARD")]
    name: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.name {
        Some(name) => output::stdout(&ModelCard::text(name)?)?,
        None => output::stdout(&table(&ModelCard::all()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(cards: &[ModelCard]) -> String {
    let width = cards.iter().map(|c| c.name.len()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:<width$}  {:<21}{:<12}{:>7}  {:>11}  {:>8}  weights\n",
        "model", "arch", "input", "classes", "parameters", "Mmadds"
    );
    for card in cards {
        let [c, h, w] = card.input;
        let (name, arch, input) = (&card.name, card.arch.name(), format!("{c}x{h}x{w}"));
        let weights = if card.weights.as_ref().is_some_and(|p| p.is_file()) { "yes" } else { "-" };
        let (parameters, multiply_adds) = sizes(card);
        let millions = (multiply_adds as f64 / 1e6).round();
        text +=
            &format!("{name:<width$}  {arch:<21}{input:<12}{:>7}  {parameters:>11}  {millions:>8}  {weights}\n", card.classes);
    }
    text + "\nMmadds: millions of multiply-adds for an image, convolutions and linear layers\nweights: whether the card names a file that is there; else give one with `--weights FILE.safetensors`\n"
}

/// Trained values, as PyTorch counts them: without running statistics; and multiply-adds for an image.
fn sizes(card: &ModelCard) -> (usize, usize) {
    let mut graph = Graph::new();
    let x = image_input(&mut graph, "x", card);
    build(card, &mut graph, x, false);
    let trained = |op: &Op| matches!(op, Op::Param { role, .. } if *role != Role::Statistic);
    let parameters = graph.nodes().iter().filter(|n| trained(&n.op)).map(|n| n.shape.elems()).sum();
    (parameters, multiply_adds(&graph))
}
