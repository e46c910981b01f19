//! Training: steps, evaluation after each epoch, checkpoints, and going on after an interruption to the same bits.
//! Must not know the command line or where reports go.

mod augment;
mod checkpoint;
mod classes;
mod config;
mod engine;
mod evaluate;
mod feed;
mod form;
mod learn;
mod log;
mod longtail;
mod margins;
mod mix;
mod recipe;
mod schedule;
mod step;
mod tricks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use augment::{Augment, Draw};
pub use checkpoint::Best;
pub use classes::{ClassTable, MultiMargin, class_balanced};
pub use config::Config;
pub use engine::{Engine, Images, Seen, step_graph};
pub use evaluate::Score;
pub use form::{Criterion, Form, Hyper};
pub use learn::Times;
pub use log::Row;
pub use longtail::{LongTail, Margins, Sampler};
pub use recipe::{Ascent, AvMix, BatchNorm, Crafting, Defaults, Method, Mma, Outer, Pairing, Recipe, Start};
pub use schedule::{Moment, Schedule};
pub use tricks::{Awp, Extra, Guard, Tricks};

use crate::data::Dataset;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::Weights;
use crate::tensor::{HostData, HostTensor};
use checkpoint::{Folder, GOOD, LAST, Position, Saved};
use evaluate::{ByClass, Probe, correct, evaluate};
use feed::{Feed, Pool, Request, readers};
use learn::{Place, learn, spent};
use margins::Margins as Radii;
use tricks::{FALL, GUARD_STEPS};

/// A run: what is trained, on what, and where it is kept.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// All that decides the result.
    pub config: &'a Config,
    /// Images to learn from; some of them are held out.
    pub train: &'a Dataset,
    /// More images to learn from, where the configuration has some.
    pub extra: Option<&'a Dataset>,
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
    while run.at.epoch < run.config.epochs && !run.at.ended {
        run.epoch()?;
    }
    let best = run.at.best.expect("every epoch leaves a best one");
    Ok(Finished { best, card: run.folder.file("card.toml") })
}

/// Name of MMA's radii in the state.
const RADII: &str = "mma.radius";

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
    /// MMA's radii.
    margins: Option<Radii>,
    /// Training images of each class, images drawn in an epoch, and the weight of each class in this one.
    counts: Vec<usize>,
    length: usize,
    by_class: Vec<f64>,
    /// The last evaluation, class by class.
    seen: ByClass,
    times: Times,
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
        assert_eq!(config.tricks.extra.is_some(), job.extra.is_some(), "the configuration has other extra images");
        let batch = config.batch.min(train.len());
        let counts = crate::data::longtail::count(&train.labels()?, config.card.classes);
        config.tail.check(&counts)?;
        let length = config.tail.sampler.length(&counts);
        let left = if config.drop_last { 0 } else { length % batch };
        let bind =
            |weights: Weights, batch: usize| -> Result<Engine> { Engine::new(device, &config.card, weights, config.form(batch)) };
        // Batch norm cannot be trained on one image; extra images fill every batch.
        let tail = (left > 1 && job.extra.is_none()).then(|| bind(weights.clone(), left)).transpose()?;
        let engine = bind(weights, batch)?;
        let feed = Feed::new(train, job.extra.map(|extra| Pool::whole(extra, &readers)));
        let margins = config.method.mma.map(|mma| Radii::new(job.train.len(), mma));
        let (at, times) = (Position::default(), Times::default());
        let (by_class, seen) = (vec![1.0; config.card.classes], ByClass::default());
        let mut run =
            Run { config, engine, tail, feed, judge, folder, at, margins, counts, length, by_class, seen, times, hooks };
        if let Some(saved) = saved {
            run.restore(saved)?;
        }
        Ok(run)
    }

    /// Takes over a saved state.
    fn restore(&mut self, Saved { at, state }: Saved) -> Result<()> {
        self.engine.restore(&state)?;
        if let Some(margins) = &mut self.margins {
            match state.get(RADII).map(|t| &t.data) {
                Some(HostData::F32(data)) if data.len() == margins.radius.len() => margins.radius.clone_from(data),
                _ => return Err(Error::model(format!("the training state has no `{RADII}` of every image"))),
            }
        }
        self.at = at;
        Ok(())
    }

    /// Everything that the rest of the run depends on.
    fn state(&mut self) -> Result<BTreeMap<String, HostTensor>> {
        let mut state = self.engine.state()?;
        if let Some(Radii { radius }) = &self.margins {
            state.insert(RADII.into(), HostTensor::f32(&[radius.len()], radius.clone()));
        }
        Ok(state)
    }

    /// Batches of an epoch.
    fn steps(&self) -> usize {
        self.length / self.engine.batch() + usize::from(self.tail.is_some())
    }

    /// Finishes the current epoch: the steps that are left, evaluation, checkpoints.
    fn epoch(&mut self) -> Result<()> {
        let began = Instant::now();
        self.times = Times::default();
        let (epoch, steps) = (self.at.epoch, self.steps());
        let orders = [self.order(epoch)?, self.feed.extra_order(self.config.seed, epoch)];
        self.classes(epoch)?;
        while self.at.step < steps {
            self.listen()?;
            self.step(&orders)?;
            if let Some(progress) = &mut self.hooks.progress {
                let loss = self.at.loss / self.at.seen as f64;
                progress(Progress { epoch: epoch + 1, epochs: self.config.epochs, step: self.at.step, steps, loss });
            }
        }
        let looked = Instant::now();
        let guarded = self.guard(&orders)?;
        let overfitted = guarded.zip(self.at.guarded).is_some_and(|(now, before)| before - now > FALL);
        let score = if overfitted { None } else { self.judge()? };
        spent(&mut self.times.evaluation, looked);
        let rank = |s: Option<Score>| s.map(|s| s.rank());
        let best = !overfitted && self.at.best.is_none_or(|b| score.is_none() || rank(score) > rank(b.score));
        let row = Row {
            epoch: epoch + 1,
            lr: self.lr((epoch * steps + steps) * self.config.method.replays - 1),
            loss: self.at.loss / self.at.seen as f64,
            accuracy: self.at.correct as f64 / self.at.seen as f64,
            score,
            best,
            times: self.times,
            guarded: guarded.map(|g| (g, overfitted)),
            seconds: began.elapsed().as_secs_f64(),
        };
        if overfitted {
            self.go_back()?;
        } else {
            let best = if best { Some(Best { epoch: epoch + 1, score }) } else { self.at.best };
            let waited = best.map_or(0, |b| epoch + 1 - b.epoch);
            let ended = self.config.tricks.patience.is_some_and(|patience| waited >= patience);
            self.at = Position { epoch: epoch + 1, best, guarded, rollbacks: self.at.rollbacks, ended, ..Position::default() };
        }
        self.save(&row, overfitted)?;
        if let Some(hook) = &mut self.hooks.epoch {
            hook(&row);
        }
        Ok(())
    }

    /// Positions of the images of an epoch.
    fn order(&self, epoch: usize) -> Result<Vec<usize>> {
        let (pool, config) = (self.feed.pool(), self.config);
        let random = pool.order(config.seed, epoch);
        Ok(config.tail.sampler.order(random, &pool.labels()?, config.card.classes, config.seed, epoch as u32))
    }

    /// What classes give to the losses of an epoch.
    fn classes(&mut self, epoch: usize) -> Result<()> {
        let (mut table, weights) = self.config.tail.of_epoch(epoch, &self.counts);
        self.by_class = weights;
        table.margin.iter_mut().for_each(|m| *m += self.config.tricks.margin);
        let rows: Vec<f32> = table.rows().iter().map(|v| *v as f32).collect();
        if self.config.form(2).table {
            [Some(&mut self.engine), self.tail.as_mut()].into_iter().flatten().try_for_each(|engine| engine.set_table(&rows))?;
        }
        Ok(())
    }

    /// Share of the first batch of the epoch that stands up to PGD after it, where somebody wants to know.
    fn guard(&mut self, orders: &[Vec<usize>; 2]) -> Result<Option<f64>> {
        let Some(c) = self.config.crafting.filter(|_| self.config.tricks.guard != Guard::Off) else { return Ok(None) };
        let request = Request { mixup: None, ..self.request(orders, 0) };
        if request.count() < self.engine.batch() {
            return Ok(None);
        }
        let batch = self.feed.take(&request, None)?;
        self.engine.load(batch.images())?;
        self.engine.set_radius(c.threat.eps)?;
        self.engine.set_step_length(c.threat.eps / 4.0)?;
        self.engine.begin(self.config.seed, self.at.epoch as u32, 2)?;
        (0..GUARD_STEPS).try_for_each(|_| self.engine.probe())?;
        let right = correct(&mut self.engine, &batch.label)?;
        Ok(Some(right.iter().filter(|&&r| r).count() as f64 / right.len() as f64))
    }

    /// Takes the state before this epoch; the run ends there, or goes on with shorter steps of its attack.
    fn go_back(&mut self) -> Result<()> {
        let (next, rollbacks) = (self.at.epoch + 1, self.at.rollbacks + 1);
        let good = self.folder.read(GOOD)?;
        self.restore(good)?;
        (self.at.epoch, self.at.rollbacks) = (next, rollbacks);
        self.at.ended = self.config.tricks.guard == Guard::Stop;
        Ok(())
    }

    fn request(&self, [order, extra]: &[Vec<usize>; 2], step: usize) -> Request {
        let full = self.engine.batch();
        let fraction = self.config.tricks.extra.as_ref().map_or(0.0, |e| e.fraction);
        let more = (fraction * full as f64).round() as usize;
        let own = full - more;
        Request {
            positions: order[step * own..order.len().min((step + 1) * own)].to_vec(),
            // A set that is used up starts again.
            extra: (0..more).map(|i| extra[(step * more + i) % extra.len()]).collect(),
            augment: self.config.augment,
            mixup: self.config.tricks.mixup,
            seed: self.config.seed,
            epoch: self.at.epoch as u32,
            batch: step as u32,
        }
    }

    /// The next step of the epoch: images, attack, update.
    fn step(&mut self, orders: &[Vec<usize>; 2]) -> Result<()> {
        let (epoch, step, full) = (self.at.epoch, self.at.step, self.engine.batch());
        let per_epoch = self.steps();
        let next = (step + 1 < per_epoch).then(|| self.request(orders, step + 1));
        let waiting = Instant::now();
        let request = self.request(orders, step);
        let (count, batch) = (request.count(), self.feed.take(&request, next)?);
        spent(&mut self.times.data, waiting);
        let config = self.config;
        let lr = |step: usize| lr(config, per_epoch, step);
        let alpha_scale = 0.5f64.powi(self.at.rollbacks as i32);
        let at = Place { epoch, batch: epoch * per_epoch + step, per_epoch, alpha_scale, by_class: &self.by_class, lr: &lr };
        let (margins, times) = (self.margins.as_mut(), &mut self.times);
        let seen = if count == full {
            learn(&mut self.engine, config, &batch, &at, margins, times)?
        } else {
            let tail = self.tail.as_mut().expect("an epoch has a step for a short batch only where there is a plan for it");
            tail.restore(&self.engine.state()?)?;
            let seen = learn(tail, config, &batch, &at, margins, times)?;
            self.engine.restore(&tail.state()?)?;
            seen
        };
        if !seen.loss.is_finite() {
            return Err(self.diverged(seen.loss));
        }
        self.at.step = step + 1;
        self.at.loss += seen.loss;
        self.at.seen += count;
        self.at.correct += seen.correct;
        Ok(())
    }

    fn lr(&self, step: usize) -> f64 {
        lr(self.config, self.steps(), step)
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
        self.seen = ByClass::new(self.config.card.classes);
        let score = evaluate(&mut self.engine, &pool, probe, &mut self.seen, &mut tell);
        if !average.is_empty() {
            self.engine.set_parameters(&plain)?;
        }
        if let Err(Error::Interrupted { .. }) = score {
            self.save_here()?;
        }
        score.map(Some)
    }

    /// Saves a finished epoch. The state comes last: what is older than it is made again on resume.
    fn save(&mut self, row: &Row, overfitted: bool) -> Result<()> {
        let (weights, average) = (self.engine.parameters()?, self.engine.averages()?);
        if row.best {
            if row.score.is_some() {
                let text = self.seen.csv(&self.counts, self.config.crafting.is_some());
                self.folder.put("classes.csv", text.as_bytes())?;
            }
            self.folder.save_weights("best", &weights, &average)?;
        }
        self.folder.save_weights("last", &weights, &average)?;
        if self.config.tricks.save_every.is_some_and(|n| row.epoch.is_multiple_of(n)) {
            self.folder.keep(row.epoch, if average.is_empty() { &weights } else { &average })?;
        }
        self.folder.log(row)?;
        let state = self.state()?;
        if self.config.tricks.guard != Guard::Off && !overfitted {
            self.folder.save_state(GOOD, &self.at, &state)?;
        }
        self.folder.save_state(LAST, &self.at, &state)
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
        let state = self.state()?;
        self.folder.save_state(LAST, &self.at, &state)
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

/// The learning rate of a step of the run; a replay is a step.
fn lr(config: &Config, batches: usize, step: usize) -> f64 {
    let moment = Moment { step, per_epoch: batches * config.method.replays, epochs: config.epochs };
    config.schedule.lr(config.lr_max, moment)
}

fn asked(stop: Option<&Stop>) -> bool {
    stop.is_some_and(|stop| stop())
}

fn interrupted(epoch: usize) -> Error {
    Error::Interrupted { message: format!("stopped in epoch {}; everything up to here is saved", epoch + 1) }
}
