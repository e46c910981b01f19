//! `petard train`: train a network on clean or attacked images, and go on where it was interrupted.
//! Must not know how a step is made, nor what was typed: see `train_args`.

use std::cell::RefCell;
use std::process::ExitCode;

pub use super::train_args::Args;

use super::options::warn_of;
use super::output;
use super::progress;
use super::stop::Stop;
use super::train_settings::Settings;
use super::value::quoted;
use crate::error::Result;
use crate::train::{self, Hooks, Job, Progress, Row};

pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::listen()?;
    let settings = args.resolve()?;
    if args.print {
        return settings.print();
    }
    output::stderr(&settings.announce())?;
    let bar = progress::bar(settings.train.len());
    // The hooks cannot fail; what stdout refused is said at the end.
    let refused = RefCell::new(Ok(()));
    let print = |text: String| {
        if let Err(e) = bar.suspend(|| output::stdout(&text)) {
            *refused.borrow_mut() = Err(e);
        }
    };
    let mut lines = 0;
    let batch = settings.config.batch as u64;
    let hooks = Hooks {
        progress: Some(Box::new(|p: Progress| {
            bar.set_length(p.steps as u64 * batch);
            bar.set_position(p.step as u64 * batch);
            bar.set_message(format!(", epoch {}/{}, loss {:.4}", p.epoch, p.epochs, p.loss));
        })),
        epoch: Some(Box::new(|row: &Row| {
            bar.reset();
            let header = if lines == 0 { Row::header(&settings.config) + "\n" } else { String::new() };
            print(format!("{header}{}\n", row.line()));
            lines += 1;
        })),
        stop: Some(Box::new(|| stop.asked())),
    };
    let Settings { device, config, train, extra, test, weights } = &settings;
    let (extra, test, weights) = (extra.as_ref(), test.as_ref(), weights.clone());
    let job = Job { config, train, extra, test, weights, out: &args.out, resume: args.resume };
    let finished = train::run(device, job, hooks);
    bar.finish_and_clear();
    warn_of(device);
    let finished = finished.map_err(|e| args.way_on(e))?;
    refused.into_inner()?;
    let card = quoted(&finished.card.to_string_lossy());
    let chosen = match config.chosen_on() {
        "none" => "no images were held out, so the best is the last".to_string(),
        on => format!("chosen on {}", if on == "val" { "held-out training images" } else { "the test split" }),
    };
    output::stdout(&format!("best epoch {} ({chosen})\n", finished.best.epoch))?;
    output::stderr(&format!("attack it: petard attack --model {card} --data {}\n", quoted(&args.data)))?;
    Ok(ExitCode::SUCCESS)
}

impl Settings {
    /// Every value that decides the result, one a line.
    fn print(&self) -> Result<ExitCode> {
        let line = |(key, value): (&String, &serde_json::Value)| match (key.as_str(), value.as_str()) {
            // The card's text is the card's business.
            ("card", _) => String::new(),
            (key, Some(text)) => format!("{key:<20} {text}\n"),
            (key, None) => format!("{key:<20} {value}\n"),
        };
        output::stdout(&self.config.parameters().iter().map(line).collect::<String>())?;
        Ok(ExitCode::SUCCESS)
    }

    /// What is trained how, before the first line of the table.
    fn announce(&self) -> String {
        let c = &self.config;
        let mut text = format!(
            "{} on {} images of {}, {}, {}\n{}\n",
            c.card.name,
            c.images,
            c.data,
            self.device.describe(),
            c.precision,
            c.describe()
        );
        let schedule = c.schedule.name();
        text += &format!("{} epochs, batches of {}, {schedule} to {}, momentum {}", c.epochs, c.batch, c.lr_max, c.momentum);
        text += &format!("{}, weight decay {}, seed {}\n", if c.nesterov { " (Nesterov)" } else { "" }, c.weight_decay, c.seed);
        text += &match c.chosen_on() {
            "val" => format!("{} training images are held out to choose the best checkpoint\n", c.val),
            "test" => "warning: the best checkpoint is chosen on the test split: its accuracy there is too good\n".into(),
            _ => "no images are held out: the best checkpoint is the last\n".into(),
        };
        text
    }
}
