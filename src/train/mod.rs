//! Training: steps, evaluation after each epoch, checkpoints, and going on after an interruption to the same bits.
//! Must not know the command line or where reports go.

mod augment;
mod checkpoint;
mod config;
mod engine;
mod evaluate;
mod feed;
mod log;
mod recipe;
mod schedule;

use std::path::{Path, PathBuf};
use std::time::Instant;

pub use augment::{Augment, Draw};
pub use checkpoint::Best;
pub use config::Config;
pub use engine::{Engine, Form, Hyper, Images, Seen, step_graph};
pub use evaluate::Score;
pub use log::Row;
pub use recipe::{BatchNorm, Crafting, Recipe};
pub use schedule::{Moment, Schedule};

use crate::data::Dataset;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::Weights;
use checkpoint::{Folder, Position, Saved};
use evaluate::{Probe, evaluate};
use feed::{Feed, Loaded, Pool, Request, readers};

/// A run: what is trained, on what, and where it is kept.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// All that decides the result.
    pub config: &'a Config,
    /// Images to learn from; some of them are held out.
    pub train: &'a Dataset,
    /// The test split, where the best checkpoint is chosen on it.
    pub test: Option<&'a Dataset>,
    /// Weights to start from; `None` draws them by the seed.
    pub weights: Option<Weights>,
    /// Folder of the run.
    pub out: &'a Path,
    /// Whether to go on with the run in the folder; where there is none it starts.
    pub resume: bool,
}

/// How far a run is, after each step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Epoch from 1, of how many.
    pub epoch: usize,
    /// See `epoch`.
    pub epochs: usize,
    /// Steps made in this epoch, of how many.
    pub step: usize,
    /// See `step`.
    pub steps: usize,
    /// Mean loss of the epoch so far.
    pub loss: f64,
}

/// What a caller wants to hear of a run. All are optional.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Called after each step.
    pub progress: Option<Box<dyn FnMut(Progress) + 'a>>,
    /// Called after each epoch.
    pub epoch: Option<EpochHook<'a>>,
    /// Asked between steps; `true` saves the state and ends the run with [`Error::Interrupted`].
    pub stop: Option<Stop<'a>>,
}

/// Says whether the run should end.
pub type Stop<'a> = Box<dyn Fn() -> bool + 'a>;
/// Receives finished epochs.
pub type EpochHook<'a> = Box<dyn FnMut(&Row) + 'a>;

/// What a finished run leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The best epoch.
    pub best: Best,
    /// A card that names the best weights.
    pub card: PathBuf,
}

/// Trains to the end, or goes on to it.
///
/// The result depends on the configuration, the images and the initial weights alone: not on threads, and not on how
/// often the run was interrupted.
///
/// # Errors
/// [`Error::Usage`] where values or folder do not fit, [`Error::Input`] where the images do not, [`Error::Model`] where
/// training diverged (the last good state stays), [`Error::Interrupted`] where the stop hook said so, and what reading,
/// writing and computing can fail with.
pub fn run(device: &Device, job: Job, hooks: Hooks) -> Result<Finished> {
    job.config.check()?;
    assert_eq!(job.config.images, job.train.len(), "the configuration is of another set");
    assert_eq!(job.config.initial.is_some(), job.weights.is_some(), "the configuration has other initial weights");
    let mut run = Run::open(device, job, hooks)?;
    while run.at.epoch < run.config.epochs {
        run.epoch()?;
    }
    let best = run.at.best.expect("every epoch leaves a best one");
    Ok(Finished { best, card: run.folder.file("card.toml") })
}

struct Run<'a, 'h> {
    config: &'a Config,
    engine: Engine,
    /// For the last batch of an epoch, where it is not full.
    tail: Option<Engine>,
    feed: Feed,
    /// What the best checkpoint is chosen on.
    judge: Option<Pool>,
    folder: Folder,
    at: Position,
    hooks: Hooks<'h>,
}

impl<'a, 'h> Run<'a, 'h> {
    fn open(device: &Device, job: Job<'a>, hooks: Hooks<'h>) -> Result<Self> {
        let config = job.config;
        let readers = readers(device.threads())?;
        let [train, held] = Pool::split(job.train, config.val, config.seed, &readers);
        let judge = match (config.choose_on_test, job.test) {
            (true, Some(test)) => Some(Pool::whole(test, &readers)),
            (true, None) => return Err(Error::usage("there is no test split to choose the best checkpoint on")),
            (false, _) => Some(held).filter(|h| h.len() > 0),
        };
        let (folder, saved) = Folder::open(job.out, config, job.resume)?;
        let weights = job.weights.unwrap_or_else(|| Weights::initial(&config.card, config.seed));
        let form = |batch: usize| Form {
            crafting: config.crafting,
            smoothing: config.smoothing as f32,
            nesterov: config.nesterov,
            averaged: config.ema.is_some(),
            batch,
            seed: config.seed,
        };
        let batch = config.batch.min(train.len());
        let left = if config.drop_last { 0 } else { train.len() % batch };
        // Batch norm cannot be trained on one image.
        let tail = (left > 1).then(|| Engine::new(device, &config.card, weights.clone(), form(left))).transpose()?;
        let engine = Engine::new(device, &config.card, weights, form(batch))?;
        let mut run = Run { config, engine, tail, feed: Feed::new(train), judge, folder, at: Position::default(), hooks };
        if let Some(Saved { at, state }) = saved {
            run.engine.restore(&state)?;
            run.at = at;
        }
        Ok(run)
    }

    /// Steps of an epoch.
    fn steps(&self) -> usize {
        self.feed.pool.len() / self.engine.batch() + usize::from(self.tail.is_some())
    }

    /// Finishes the current epoch: the steps that are left, evaluation, checkpoints.
    fn epoch(&mut self) -> Result<()> {
        let began = Instant::now();
        let (epoch, steps) = (self.at.epoch, self.steps());
        let order = self.feed.pool.order(self.config.seed, epoch);
        if let Some(c) = self.config.crafting {
            self.engine.set_step_length(c.alpha)?;
        }
        while self.at.step < steps {
            self.listen()?;
            self.step(&order)?;
            if let Some(progress) = &mut self.hooks.progress {
                let loss = self.at.loss / self.at.seen as f64;
                progress(Progress { epoch: epoch + 1, epochs: self.config.epochs, step: self.at.step, steps, loss });
            }
        }
        let score = self.judge()?;
        let rank = |s: Option<Score>| s.map(|s| s.rank());
        let best = self.at.best.is_none_or(|b| score.is_none() || rank(score) > rank(b.score));
        let row = Row {
            epoch: epoch + 1,
            lr: self.lr(epoch * steps + steps - 1),
            loss: self.at.loss / self.at.seen as f64,
            accuracy: self.at.correct as f64 / self.at.seen as f64,
            score,
            best,
            seconds: began.elapsed().as_secs_f64(),
        };
        let best = if best { Some(Best { epoch: epoch + 1, score }) } else { self.at.best };
        self.at = Position { epoch: epoch + 1, best, ..Position::default() };
        self.save(&row)?;
        if let Some(hook) = &mut self.hooks.epoch {
            hook(&row);
        }
        Ok(())
    }

    /// The next step of the epoch: images, attack, update.
    fn step(&mut self, order: &[usize]) -> Result<()> {
        let (epoch, step, full) = (self.at.epoch, self.at.step, self.engine.batch());
        let global = epoch * self.steps() + step;
        let request = |step: usize| Request {
            positions: order[step * full..order.len().min((step + 1) * full)].to_vec(),
            augment: self.config.augment,
            seed: self.config.seed,
            epoch: epoch as u32,
        };
        let next = (step + 1 < self.steps()).then(|| request(step + 1));
        let (count, batch) = (request(step).positions.len(), self.feed.take(&request(step), next)?);
        let hyper = Hyper {
            lr: self.lr(global) as f32,
            momentum: self.config.momentum as f32,
            weight_decay: self.config.weight_decay as f32,
            ema: self.config.ema.unwrap_or(0.0) as f32,
        };
        let seen = if count == full {
            learn(&mut self.engine, self.config, &batch, epoch, global, hyper)?
        } else {
            let tail = self.tail.as_mut().expect("an epoch has a step for a short batch only where there is a plan for it");
            tail.restore(&self.engine.state()?)?;
            let seen = learn(tail, self.config, &batch, epoch, global, hyper)?;
            self.engine.restore(&tail.state()?)?;
            seen
        };
        if !seen.loss.is_finite() {
            return Err(self.diverged(seen.loss));
        }
        let Position { epoch, best, .. } = self.at;
        let (loss, count, correct) = (self.at.loss + seen.loss, self.at.seen + count, self.at.correct + seen.correct);
        self.at = Position { epoch, step: step + 1, loss, seen: count, correct, best };
        Ok(())
    }

    fn lr(&self, step: usize) -> f64 {
        let moment = Moment { step, per_epoch: self.steps(), epochs: self.config.epochs };
        self.config.schedule.lr(self.config.lr_max, moment)
    }

    /// Evaluates what would be deployed: the average where one is kept.
    fn judge(&mut self) -> Result<Option<Score>> {
        let Some(pool) = self.judge.clone() else { return Ok(None) };
        let probe = self.config.crafting.map(|c| Probe {
            threat: c.threat,
            alpha: c.threat.eps / 4.0,
            steps: self.config.probe_steps,
            seed: self.config.seed,
        });
        let plain = self.engine.parameters()?;
        let average = self.engine.averages()?;
        if !average.is_empty() {
            self.engine.set_parameters(&average)?;
        }
        let stop = self.hooks.stop.as_ref();
        let mut tell = || if asked(stop) { Err(interrupted(self.at.epoch)) } else { Ok(()) };
        let score = evaluate(&mut self.engine, &pool, probe, &mut tell);
        if !average.is_empty() {
            self.engine.set_parameters(&plain)?;
        }
        if let Err(Error::Interrupted { .. }) = score {
            self.save_here()?;
        }
        score.map(Some)
    }

    /// Saves a finished epoch. The state comes last: what is older than it is made again on resume.
    fn save(&mut self, row: &Row) -> Result<()> {
        let (weights, average) = (self.engine.parameters()?, self.engine.averages()?);
        if row.best {
            self.folder.save_weights("best", &weights, &average)?;
        }
        self.folder.save_weights("last", &weights, &average)?;
        self.folder.log(row)?;
        self.folder.save_state(&self.at, &self.engine.state()?)
    }

    /// Where the user wants the run to end: saves it and says so.
    fn listen(&mut self) -> Result<()> {
        if !asked(self.hooks.stop.as_ref()) {
            return Ok(());
        }
        self.save_here()?;
        Err(interrupted(self.at.epoch))
    }

    /// Saves the run in the middle of an epoch.
    fn save_here(&mut self) -> Result<()> {
        self.folder.save_weights("last", &self.engine.parameters()?, &self.engine.averages()?)?;
        self.folder.save_state(&self.at, &self.engine.state()?)
    }

    fn diverged(&self, loss: f64) -> Error {
        let (epoch, step) = (self.at.epoch + 1, self.at.step + 1);
        let kept = match self.at.epoch {
            0 => "nothing was saved yet".to_string(),
            n => format!("the last good state is that after epoch {n}, `{}`", self.folder.file("last.safetensors").display()),
        };
        Error::model(format!("training diverged: the loss of step {step} of epoch {epoch} is {loss}; {kept}"))
            .with_hint("start again with a smaller `--lr-max`, or with a schedule that warms up")
    }
}

/// Attacks the images where the recipe does, then makes one SGD step on them.
fn learn(engine: &mut Engine, config: &Config, batch: &Loaded, epoch: usize, global: usize, hyper: Hyper) -> Result<Seen> {
    engine.load(batch.images())?;
    let steps = config.crafting.map_or(0, |c| c.steps);
    // Dropout draws anew in every forward pass.
    let pass = |k: usize| (global * (steps + 1) + k) as u32;
    if let Some(c) = config.crafting {
        engine.begin(config.seed, epoch as u32, 0)?;
        for k in 0..c.steps {
            engine.craft(pass(k))?;
        }
    }
    engine.step(hyper, pass(steps))
}

fn asked(stop: Option<&Stop>) -> bool {
    stop.is_some_and(|stop| stop())
}

fn interrupted(epoch: usize) -> Error {
    Error::Interrupted { message: format!("stopped in epoch {}; everything up to here is saved", epoch + 1) }
}
