//! Times training steps as a run makes them: attack on the batch, gradients, update, packing; reading images is not timed.
//! With `--serve` it answers requests on its standard input, so that it can take turns with a peer.

mod meter;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use petard::nn::{ModelCard, Weights};
use petard::train::{BatchNorm, Engine, Form, Hyper, Images, Recipe};
use petard::{Device, Error, Result, ThreatModel};

use meter::{Draw, Spent, Watch};

const NETS: [&str; 2] = ["resnet18-cifar10", "resnet8-cifar10"];
const RECIPES: [&str; 4] = ["standard", "fgsm-rs", "pgd10.train", "pgd10.eval"];
const BATCH: usize = 64;
const EPS: f64 = 8.0 / 255.0;
/// As in the papers; the size of an update does not change what it costs.
const HYPER: Hyper = Hyper { lr: 0.01, momentum: 0.9, weight_decay: 5e-4, ema: 0.0 };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let device = meter::open();
    if arguments.iter().any(|a| a == "--serve") {
        return serve(&device);
    }
    println!("{}", meter::header());
    let filter = arguments.iter().find(|a| !a.starts_with('-'));
    for (recipe, net) in RECIPES.iter().flat_map(|recipe| NETS.map(|net| (*recipe, net))) {
        let id = format!("train.{recipe}/{}/n{BATCH}.{net}", meter::device());
        if filter.is_none_or(|f| id.contains(f)) {
            report(&device, &id, (net, recipe)).unwrap_or_else(|e| panic!("{id}: {e}"));
        }
    }
}

/// One line: images a second, through attack and update.
fn report(device: &Device, id: &str, (net, recipe): (&str, &str)) -> Result<()> {
    let mut run = Run::new(device, net, BATCH, recipe)?;
    run.steps(1)?;
    if !meter::measuring() {
        println!("{id}: runs");
        return Ok(());
    }
    // About a second of steps for each sample.
    let steps = (1.0 / run.steps(1)?.fair().as_secs_f64()).ceil() as usize;
    let one = |run: &mut Run| Ok((steps * BATCH) as f64 / run.steps(steps)?.fair().as_secs_f64());
    let mut rates: Vec<f64> = (0..5).map(|_| one(&mut run)).collect::<Result<_>>()?;
    rates.sort_by(f64::total_cmp);
    println!("{id:<48} {:>8.2} images/s ({:.2} to {:.2})", rates[2], rates[0], rates[4]);
    Ok(())
}

/// Answers each line `NET BATCH STEPS RECIPE` with a line of JSON: seconds for all steps together.
fn serve(device: &Device) {
    let mut runs = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a readable standard input");
        let answer = match answer(device, &mut runs, &line) {
            Ok(spent) => serde_json::json!({"wall": spent.wall.as_secs_f64(), "cpu": spent.cpu.as_secs_f64()}),
            Err(error) => serde_json::json!({"error": error.to_string()}),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("somebody reads the answers");
    }
}

fn answer(device: &Device, runs: &mut BTreeMap<String, Run>, line: &str) -> Result<Spent> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [net, batch, steps, recipe] = words[..] else {
        return Err(Error::usage(format!("`{line}` is not `NET BATCH STEPS RECIPE`")));
    };
    let (Ok(batch), Ok(steps)) = (batch.parse(), steps.parse()) else {
        return Err(Error::usage(format!("`{batch}` and `{steps}` must be numbers")));
    };
    let key = format!("{net} {batch} {recipe}");
    if !runs.contains_key(&key) {
        runs.insert(key.clone(), Run::new(device, net, batch, recipe)?);
    }
    runs.get_mut(&key).expect("just put there").steps(steps)
}

/// Training of one network on one batch, over and over.
struct Run {
    engine: Engine,
    form: Form,
    pixels: Vec<f32>,
    label: Vec<i32>,
    index: Vec<u32>,
    made: u32,
}

impl Run {
    fn new(device: &Device, net: &str, batch: usize, recipe: &str) -> Result<Self> {
        let form = form(recipe, batch)?;
        let card = ModelCard::find(net)?;
        let size: usize = card.input.iter().product();
        let draw = &mut Draw(1);
        let pixels: Vec<f32> = (0..batch * size).map(|_| draw.unit()).collect();
        let label = (0..batch).map(|_| draw.below(card.classes) as i32).collect();
        let engine = Engine::new(device, &card, Weights::initial(&card, 0), form)?;
        Ok(Run { engine, form, pixels, label, index: (0..batch as u32).collect(), made: 0 })
    }

    /// `steps` training steps, on the clock.
    fn steps(&mut self, steps: usize) -> Result<Spent> {
        let watch = Watch::start();
        for _ in 0..steps {
            self.step()?;
        }
        Ok(watch.stop())
    }

    fn step(&mut self) -> Result<()> {
        self.engine.load(Images { pixels: &self.pixels, label: &self.label, index: &self.index })?;
        if let Some(crafting) = self.form.crafting {
            self.engine.begin(0, self.made, 0)?;
            for _ in 0..crafting.steps {
                self.engine.craft(self.made)?;
            }
        }
        self.engine.step(HYPER, self.made)?;
        self.made += 1;
        Ok(())
    }
}

/// `standard`, `fgsm-rs`, or PGD with so many steps and batch norms in that mode during the attack: `pgd10.eval`.
fn form(recipe: &str, batch: usize) -> Result<Form> {
    let threat = ThreatModel::linf(EPS);
    let crafting = match recipe {
        "standard" => None,
        "fgsm-rs" => Recipe::FgsmRs.crafting(threat),
        _ => {
            let parts = recipe.strip_prefix("pgd").and_then(|rest| rest.split_once('.'));
            let batch_norm = match parts {
                Some((_, "eval")) => Some(BatchNorm::Eval),
                Some((_, "train")) => Some(BatchNorm::Train),
                _ => None,
            };
            let steps = parts.and_then(|(steps, _)| steps.parse().ok());
            let (Some(steps), Some(batch_norm)) = (steps, batch_norm) else {
                return Err(Error::usage(format!("`{recipe}` is none of {RECIPES:?}; the number of PGD's steps is free")));
            };
            Recipe::PgdAt.crafting(threat).map(|c| petard::train::Crafting { steps, batch_norm, ..c })
        }
    };
    Ok(Form { crafting, batch, ..Form::default() })
}
