//! `petard plan`: the steps that an attack will run and the memory they take, before any weight is read.
//! Must not know how plans are made.

use std::process::ExitCode;

use super::attack_args::AttackArgs;
use super::options::{CardArgs, DeviceArgs};
use super::output;
use crate::attack::Net;
use crate::device::Device;
use crate::error::Result;
use crate::gpu::DeviceProps;
use crate::gpu::lower::lower;
use crate::graph::Graph;
use crate::nn::{ModelCard, build};
use crate::plan::{Plan, Precision, Segment, compile, compile_for};
use crate::report::bytes_text;
use crate::session::image_input;

/// Print the steps of an attack, their operations and their memory; needs no weights
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petard plan --model resnet20-cifar10
  petard plan --model my.toml --attack pgd --return first-success --batch-size 256")]
pub struct Args {
    #[command(flatten)]
    model: CardArgs,
    #[command(flatten)]
    attack: AttackArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Keep to direct kernels in the attack too
    #[arg(long)]
    exact: bool,
    /// Show the launches on a card that need not be there
    #[arg(long, value_name = "NAME", conflicts_with_all = ["device", "threads"], value_parser = clap::builder::PossibleValuesParser::new(DeviceProps::names()))]
    card: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let attack = args.attack.resolve(false)?;
    if args.exact {
        args.device.only_f32("plan --exact")?;
    }
    let on = match &args.card {
        Some(name) => On::Card(DeviceProps::of(name).expect("clap has checked the name"), args.device.precision()),
        None => On::of(args.device.open()?),
    };
    let precision = on.precision();
    let card = args.model.find()?;
    attack.check(card.classes)?;
    let batch = args.device.batch(matches!(on, On::Card(..)), card.input);
    let (graph, segments) = attack.sketch(&Net::of(&card, precision.half().is_some()));
    let parameters = 4 * graph.params().values().map(|&v| graph.shape(v).elems()).sum::<usize>();
    let (judge, judge_bytes) = on.describe(inference(&card, batch)?, true)?;
    let (steps, attack_bytes) = on.describe(compile_for(&graph, &segments, batch, precision)?, args.exact)?;
    let images = batch * card.input.iter().product::<usize>() * size_of::<f32>();
    let mut text = format!("{}: clean pass and verdict, on direct kernels\n\n{judge}", card.name);
    text += &format!("\n{}: {}, one step\n\n{steps}", card.name, attack.name());
    text += &format!(
        "\n{:<11}{} for a run: both plans with packed weights, the weights as read, a batch of images\n",
        "memory",
        bytes_text(judge_bytes + attack_bytes + parameters + images)
    );
    output::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What plans are made for.
enum On {
    Cpu(Device),
    /// A card, which need not be there: its launches follow from what it is.
    Card(DeviceProps, Precision),
}

impl On {
    fn of(device: Device) -> Self {
        match device.card() {
            Some(props) => On::Card(props.clone(), device.precision()),
            None => On::Cpu(device),
        }
    }
    fn precision(&self) -> Precision {
        match self {
            On::Cpu(device) => device.precision(),
            On::Card(_, precision) => *precision,
        }
    }

    /// The plan in words, then its costs; and the bytes it takes. Packing on the CPU needs the shapes of the weights only,
    /// so it is done for real.
    fn describe(&self, plan: Plan, exact: bool) -> Result<(String, usize)> {
        let graph = plan.graph();
        let parameters: usize = graph.params().values().map(|&v| graph.shape(v).elems()).sum();
        let mut text = format!("{plan}\n");
        for program in plan.programs() {
            let image = plan.flops(program) as f64 / 1e6 / plan.batch() as f64;
            text += &format!("{:<11}{image:.3} MFLOP an image\n", program.name);
        }
        let arena_bytes = plan.arena_bytes();
        let (arena, lasting) = (bytes_text(arena_bytes), bytes_text(plan.persistent_bytes()));
        text += &format!("{:<11}{arena}, of them {lasting} lasting\n", "arena");
        text += &format!("{:<11}{parameters} values, {}\n", "parameters", bytes_text(4 * parameters));
        match self {
            On::Cpu(device) => {
                let mut executor = device.bind(plan, exact)?;
                executor.run("pack")?;
                let packed = executor.packed_bytes();
                text += &format!("{:<11}{} of packed weights on {}\n", "packed", bytes_text(packed), device.describe());
                Ok((text, arena_bytes + packed))
            }
            On::Card(props, _) => {
                let lowered = lower(&plan, props);
                text += &format!("\nlaunches on {}, {}\n{lowered}\n", props.name, plan.precision());
                let bytes = lowered.buffers.iter().map(|b| b.bytes as usize).sum();
                Ok((text, bytes))
            }
        }
    }
}

/// The plan that classifies images.
fn inference(card: &ModelCard, batch: usize) -> Result<Plan> {
    let mut graph = Graph::new();
    let x = image_input(&mut graph, "x", card);
    let logits = build(card, &mut graph, x, false).logits;
    compile(&graph, &[Segment { name: "infer".into(), outputs: vec![logits], carries: Vec::new() }], batch)
}
