//! From a model and images to a verdict on each image: clean pass, attack on what is still right, check in f64, doubts.
//! Must not know the command line or how a report looks.

mod check;
mod pgd;
mod target;

use std::time::Instant;

use serde_json::{Map, Value as Json};

pub use pgd::{AttackLoss, Keep, Pgd, Start};
pub use target::Target;

use crate::data::{Batch, Dataset};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::outcome::{Outcome, PerImage};
use crate::session::{Classifier, Model, argmax};
use crate::threat::{Norm, ThreatModel, distance};

/// One run: which attack, in which batches, from which seed.
#[derive(Clone, Debug)]
pub struct Job {
    /// The attack with all its parameters.
    pub attack: Pgd,
    /// Images in a batch. Results do not depend on it from 8 up.
    pub batch: usize,
    /// Seed of every random number; a number belongs to (seed, image, restart, step), never to a batch.
    pub seed: u64,
    /// Keep to direct kernels in the attack too.
    pub exact: bool,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Images whose fate is settled.
    pub done: usize,
    /// Images in all.
    pub total: usize,
    /// Of those done, images still right.
    pub robust: usize,
    /// Image-steps so far.
    pub image_steps: u64,
}

/// Returned images, in the order of the data.
pub struct Returned<'a> {
    /// NCHW values in [0,1], one image after the other.
    pub adversarial: &'a [f32],
    /// Position in the split.
    pub index: &'a [u32],
    /// The labels judged by.
    pub label: &'a [i32],
    /// The model's class for each; -1 where a logit was NaN.
    pub prediction: &'a [i32],
}

/// What a caller wants to hear of a run. All are optional.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Called now and then.
    pub progress: Option<Box<dyn FnMut(Progress) + 'a>>,
    /// Called with every returned image, in order. Its error ends the run.
    pub returned: Option<ReturnedHook<'a>>,
    /// Asked between steps; `true` ends the run with [`Error::Interrupted`].
    pub stop: Option<Box<dyn Fn() -> bool + 'a>>,
}

/// Receives returned images.
pub type ReturnedHook<'a> = Box<dyn FnMut(&Returned) -> Result<()> + 'a>;

/// One image under attack.
pub(crate) struct Case {
    pub index: u32,
    pub label: i32,
    pub clean: i32,
    pub target: Option<i32>,
    pub x0: Vec<f32>,
    /// Where the attack starts, if the caller gave it.
    pub start: Option<Vec<f32>>,
    /// What will be returned, with the model's class for it.
    pub best: Option<Candidate>,
    /// Whether the attack reached its goal.
    pub broken: bool,
}

/// A point an attack returned for one image.
pub(crate) struct Candidate {
    pub x: Vec<f32>,
    pub prediction: i32,
    pub loss: f32,
}

/// Attacks `data` and judges the result.
///
/// Images the model gets wrong leave at once. The others are attacked `restarts` times; those whose returned point lies in
/// the threat model (measured in f64) and changes the class on direct f32 kernels leave between restarts.
/// `starts` gives the starting images by position, in place of the attack's own start in the first restart.
///
/// # Errors
/// [`Error::Usage`] where attack and model do not fit, [`Error::Input`] where images do not fit the model,
/// [`Error::Interrupted`] where the stop hook said so, and what reading and computing can fail with.
pub fn run(device: &Device, model: &Model, data: &Dataset, job: &Job, starts: Option<&Dataset>, hooks: Hooks) -> Result<Outcome> {
    job.attack.check(model.card.classes)?;
    if job.batch == 0 {
        return Err(Error::usage("a batch needs at least one image"));
    }
    fits(model, data, "images")?;
    if let Some(s) = starts {
        fits(model, s, "starting images")?;
        if s.len() != data.len() {
            return Err(Error::input(format!("{} starting images for {} images", s.len(), data.len())).with_hint(
                "give one starting image for each image, in the same order; `--limit` and `--offset` apply to the images",
            ));
        }
    }
    let elems: usize = model.input().iter().product();
    let wanted = job.batch.min(data.len().max(1));
    let (classifier, bound, batch) = bind(device, model, job, wanted)?;
    let mut outcome = empty_outcome(data, job);
    if batch < wanted {
        outcome.batch = batch;
        outcome.doubts.push(check::halved(wanted, batch));
    }
    outcome.confirmed = bound.claims().then_some((0, 0));
    let mut run = Run { classifier, bound, job, hooks, total: data.len(), outcome, tally: check::Tally::default() };
    let rows = window_rows(batch, elems);
    let mut start_chunks = starts.map(|s| s.chunks(rows));
    for chunk in data.chunks(rows) {
        let begin = match &mut start_chunks {
            Some(it) => Some(it.next().expect("as many starting images as images")?),
            None => None,
        };
        run.window(&chunk?, begin.as_ref())?;
    }
    run.outcome.doubts.extend(run.tally.doubts(job, model.card.classes, data.labelled(), starts.is_some()));
    Ok(run.outcome)
}

/// Classifier and attack for batches of `batch` images, or of half as many until there is memory for them.
fn bind<'a>(device: &Device, model: &Model, job: &'a Job, mut batch: usize) -> Result<(Classifier, pgd::Bound<'a>, usize)> {
    loop {
        let classifier = Classifier::new(device, model, batch);
        match classifier.and_then(|c| Ok((c, job.attack.bind(device, model, batch, job)?))) {
            Ok((classifier, bound)) => return Ok((classifier, bound, batch)),
            Err(e) if e.is_out_of_memory() && batch > 1 => batch = batch.div_ceil(2),
            Err(e) => return Err(e),
        }
    }
}

fn fits(model: &Model, data: &Dataset, what: &str) -> Result<()> {
    if data.shape() != model.input() {
        let text = |s: [usize; 3]| format!("{}x{}x{}", s[0], s[1], s[2]);
        return Err(Error::input(format!(
            "{what} are {}, `{}` takes {}",
            text(data.shape()),
            model.card.name,
            text(model.input())
        )));
    }
    Ok(())
}

/// Images held at once: whole batches, about 4,096 of them or a quarter of a gigabyte.
fn window_rows(batch: usize, elems: usize) -> usize {
    let fit = (1usize << 28) / (elems * size_of::<f32>());
    (fit.min(4096) / batch).max(1) * batch
}

fn empty_outcome(data: &Dataset, job: &Job) -> Outcome {
    Outcome {
        attack: job.attack.name.to_string(),
        parameters: job.attack.parameters(),
        threat: job.attack.threat,
        images: data.len(),
        labelled: data.labelled(),
        clean_correct: 0,
        robust: 0,
        targeted: (job.attack.target != Target::None).then_some((0, 0)),
        confirmed: None,
        batch: job.batch,
        max_distance: 0.0,
        non_finite: 0,
        seconds: 0.0,
        attack_seconds: 0.0,
        image_steps: 0,
        doubts: Vec::new(),
        per_image: PerImage::default(),
    }
}

/// A run in progress.
struct Run<'a, 'h> {
    classifier: Classifier,
    bound: pgd::Bound<'a>,
    job: &'a Job,
    hooks: Hooks<'h>,
    total: usize,
    outcome: Outcome,
    tally: check::Tally,
}

impl Run<'_, '_> {
    /// Takes one window of images from clean to judged.
    fn window(&mut self, batch: &Batch, starts: Option<&Batch>) -> Result<()> {
        let begin = Instant::now();
        let mut cases = self.clean_pass(batch, starts)?;
        for restart in 0..self.job.attack.restarts {
            self.round(&mut cases, restart)?;
        }
        self.settle(&cases)?;
        self.outcome.seconds += begin.elapsed().as_secs_f64();
        Ok(())
    }

    /// Classifies the clean images; labels and targets follow.
    fn clean_pass(&mut self, batch: &Batch, starts: Option<&Batch>) -> Result<Vec<Case>> {
        let elems = batch.shape.iter().product();
        let pixels = |b: &Batch, i: usize| {
            let mut x = vec![0.0; elems];
            b.pixels_f32(i, &mut x);
            x
        };
        let images: Vec<Vec<f32>> = (0..batch.len()).map(|i| pixels(batch, i)).collect();
        let views: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
        let logits = self.classifier.logits(&views)?;
        self.tally.look_at(&logits, self.classifier.classes());
        if self.outcome.per_image.index.is_empty() {
            let again = self.classifier.logits(&views[..views.len().min(self.outcome.batch)])?;
            self.tally.compare_runs(&logits[..again.len()], &again);
        }
        let classes = self.classifier.classes();
        let mut cases = Vec::with_capacity(images.len());
        for (i, x0) in images.into_iter().enumerate() {
            let z = &logits[i * classes..][..classes];
            let clean = argmax(z).map_or(-1, |c| c as i32);
            let label = batch.labels.as_ref().map_or(clean, |l| l[i]);
            if !(-1..classes as i32).contains(&label) || (label < 0 && batch.labels.is_some()) {
                return Err(Error::input(format!("image {} has label {label}, the model has {classes} classes", batch.index[i]))
                    .with_hint("is this the data set the model was trained for?"));
            }
            let index = batch.index[i];
            let target = self.job.attack.target.choose(z, label, self.job.seed, index)?;
            let start = starts.map(|s| pixels(s, i));
            cases.push(Case { index, label, clean, target, x0, start, best: None, broken: false });
        }
        Ok(cases)
    }

    /// One restart over everything still standing.
    fn round(&mut self, cases: &mut [Case], restart: usize) -> Result<()> {
        let standing: Vec<usize> = (0..cases.len()).filter(|&i| attackable(&cases[i])).collect();
        let total = self.total;
        let settled = self.outcome.per_image.index.len() + cases.len() - standing.len();
        let robust = self.outcome.robust;
        let steps_before = self.outcome.image_steps;
        let began = Instant::now();
        let found = {
            let refs: Vec<&Case> = standing.iter().map(|&i| &cases[i]).collect();
            let Hooks { progress, stop, .. } = &mut self.hooks;
            let mut tell = |done: usize, image_steps: u64| {
                if stop.as_ref().is_some_and(|s| s()) {
                    return Err(interrupted(settled, total));
                }
                if let Some(p) = progress {
                    p(Progress { done: settled + done, total, robust, image_steps: steps_before + image_steps });
                }
                Ok(())
            };
            self.bound.attack(&refs, restart, &mut tell)?
        };
        self.outcome.attack_seconds += began.elapsed().as_secs_f64();
        self.outcome.image_steps += found.iter().map(|f| f.steps as u64).sum::<u64>();
        let points: Vec<&[f32]> = found.iter().map(|f| f.x.as_slice()).collect();
        let logits = self.classifier.logits(&points)?;
        let classes = self.classifier.classes();
        for (k, (found, &i)) in found.into_iter().zip(&standing).enumerate() {
            let prediction = argmax(&logits[k * classes..][..classes]).map_or(-1, |c| c as i32);
            self.judge(&mut cases[i], found, prediction);
        }
        Ok(())
    }

    /// Keeps a point if it counts: inside the threat model, and the goal reached or the loss higher than before.
    fn judge(&mut self, case: &mut Case, found: pgd::Found, prediction: i32) {
        let inside = self.job.attack.threat.contains(&case.x0, &found.x);
        let reached = inside && goal_reached(case, prediction);
        self.tally.judge(&found, inside, reached);
        if let (Some((stood, made)), Some(true)) = (&mut self.outcome.confirmed, found.claimed) {
            *made += 1;
            *stood += usize::from(reached);
        }
        case.broken |= reached;
        let better = case.best.as_ref().is_none_or(|b| found.loss > b.loss || b.loss.is_nan());
        if inside && (reached || better) {
            case.best = Some(Candidate { x: found.x, prediction, loss: found.loss });
        }
    }

    /// Writes the fates down and hands the images on.
    fn settle(&mut self, cases: &[Case]) -> Result<()> {
        let mut images = Vec::new();
        let begin = self.outcome.per_image.index.len();
        let norm = self.job.attack.threat.norm;
        for case in cases {
            let x = case.best.as_ref().map_or(&case.x0, |b| &b.x);
            let prediction = case.best.as_ref().map_or(case.clean, |b| b.prediction);
            let [linf, l2, l1] = [Norm::Linf, Norm::L2, Norm::L1].map(|n| distance(n, &case.x0, x));
            let out = &mut self.outcome;
            let correct = case.clean == case.label && case.label >= 0;
            let robust = correct && prediction == case.label;
            out.clean_correct += usize::from(correct);
            out.robust += usize::from(robust);
            if let (Some((hit, tried)), true) = (&mut out.targeted, correct && case.target.is_some_and(|t| t != case.label)) {
                *hit += usize::from(case.broken);
                *tried += 1;
            }
            out.max_distance = out.max_distance.max([linf, l2, l1][norm as usize]);
            out.non_finite += usize::from(x.iter().any(|v| !v.is_finite()));
            let p = &mut out.per_image;
            p.index.push(case.index);
            p.label.push(case.label);
            p.clean_prediction.push(case.clean);
            p.prediction.push(prediction);
            p.robust.push(robust);
            p.linf.push(linf);
            p.l2.push(l2);
            p.l1.push(l1);
            if self.hooks.returned.is_some() {
                images.extend_from_slice(x);
            }
        }
        let p = &self.outcome.per_image;
        if let Some(returned) = &mut self.hooks.returned {
            let (index, label, prediction) = (&p.index[begin..], &p.label[begin..], &p.prediction[begin..]);
            returned(&Returned { adversarial: &images, index, label, prediction })?;
        }
        if let Some(progress) = &mut self.hooks.progress {
            let (done, robust) = (p.index.len(), self.outcome.robust);
            progress(Progress { done, total: self.total, robust, image_steps: self.outcome.image_steps });
        }
        Ok(())
    }
}

fn attackable(case: &Case) -> bool {
    case.clean == case.label && case.label >= 0 && !case.broken && case.target != Some(case.label)
}

/// Untargeted: the class is no longer the label. Targeted: it is the target.
fn goal_reached(case: &Case, prediction: i32) -> bool {
    match case.target {
        Some(t) => prediction == t,
        None => prediction != case.label,
    }
}

fn interrupted(done: usize, total: usize) -> Error {
    Error::Interrupted { message: format!("stopped after {done} of {total} images") }
}

/// Parameters of an attack in the order they are printed.
pub type Parameters = Map<String, Json>;

/// The threat model of a job, for callers that only have the job.
impl Job {
    /// What the attacker is allowed.
    pub fn threat(&self) -> ThreatModel {
        self.attack.threat
    }
}
