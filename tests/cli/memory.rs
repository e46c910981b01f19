//! What the program takes of memory while it trains and attacks, against what its plans say it needs.
//! Must not know how a plan comes by its size.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use petard::graph::Graph;
use petard::plan::{Segment, compile};
use petard::session::image_input;
use petard::train::{Form, Recipe, step_graph};
use petard::{Device, DeviceOptions, ModelCard, Pgd, ThreatModel, nn};

use crate::support::{ignored, trial};

/// Of memory a run may take, as a share of what it needs: workspaces, gradients on their way, files being written.
const SHARE: f64 = 1.5;
/// Beside that: the program, its threads' stacks and what the allocator keeps.
const PROGRAM: usize = 32 << 20;
const MODEL: &str = "resnet18-cifar10";
const TRAINED: usize = 32;
const ATTACKED: usize = 64;

pub fn trial_of_peak() -> Trial {
    let name = "cli::memory.peak_is_near_what_the_plans_say";
    if cfg!(target_os = "linux") { trial(name, peaks) } else { ignored(name, "needs /proc") }
}

/// A network of 45 MB that knows nothing: trained for one step, then attacked for two.
fn peaks() -> petard::Result<()> {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let run = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_petard"));
        command.args(line.split_whitespace()).current_dir(folder.path());
        peak(&mut command)
    };
    let card = ModelCard::find(MODEL)?;
    let least = needs_of_training(&card)?;
    let options = format!("--limit {TRAINED} --batch-size {TRAINED} --val 0 --epochs 1 --threads 2");
    let most = run(&format!("train --model {MODEL} --data synthetic {options} --recipe pgd-at --steps 1 --out run"));
    judge("train", most, least);
    let least = needs_of_attack(&card)?;
    let options = format!("--limit {ATTACKED} --batch-size {ATTACKED} --steps 2 --threads 2");
    judge("attack", run(&format!("attack --model run/card.toml --data synthetic {options}")), least);
    Ok(())
}

fn judge(what: &str, most: usize, needed: usize) {
    let bound = (SHARE * needed as f64) as usize + PROGRAM;
    let mib = |bytes: usize| bytes >> 20;
    assert!(most < bound, "{what} took {} MiB, needs {}, may take {}", mib(most), mib(needed), mib(bound));
    assert!(most > needed / 2, "{what} took {} MiB of {}: was it measured?", mib(most), mib(needed));
}

/// The most memory that a program had at once, in bytes: asked for until it ends, as it only grows.
fn peak(command: &mut Command) -> usize {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<usize>().ok());
        most = most.max(kib.map_or(0, |kib| kib << 10));
        if let Some(code) = child.try_wait().expect("a child to wait for") {
            assert!(code.success(), "{command:?} ended with {code}");
            return most;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn needs_of_training(card: &ModelCard) -> petard::Result<usize> {
    let crafting = Recipe::PgdAt.crafting(ThreatModel::linf(8.0 / 255.0));
    let form = Form { crafting, batch: TRAINED, ..Form::default() };
    let (graph, segments) = step_graph(card, &form);
    Ok(bound(&graph, &segments, TRAINED, false)? + weights(&graph) + images(card, TRAINED))
}

fn needs_of_attack(card: &ModelCard) -> petard::Result<usize> {
    let (graph, values) = Pgd::new(ThreatModel::linf(8.0 / 255.0), 2.0 / 255.0, 2).step_graph(card, false);
    let attack = bound(&graph, &values.segments(), ATTACKED, false)?;
    let mut graph = Graph::new();
    let x = image_input(&mut graph, "x", card);
    let logits = nn::build(card, &mut graph, x, false).logits;
    let infer = Segment { name: "infer".into(), outputs: vec![logits], carries: Vec::new() };
    Ok(attack + bound(&graph, &[infer], ATTACKED, true)? + weights(&graph) + images(card, ATTACKED))
}

/// Arena and packed weights.
fn bound(graph: &Graph, segments: &[Segment], batch: usize, exact: bool) -> petard::Result<usize> {
    let plan = compile(graph, segments, batch)?;
    let arena = plan.arena_bytes();
    let mut executor = Device::open("cpu", &DeviceOptions { threads: 2, ..DeviceOptions::default() })?.bind(plan, exact)?;
    executor.run("pack")?;
    Ok(arena + executor.packed_bytes())
}

fn weights(graph: &Graph) -> usize {
    4 * graph.params().values().map(|&v| graph.shape(v).elems()).sum::<usize>()
}

fn images(card: &ModelCard, count: usize) -> usize {
    4 * count * card.input.iter().product::<usize>()
}
