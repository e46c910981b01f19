//! One run of attacks on a data set: clean pass, attacks on what is still right, check in f64, doubts.
//! Must not know how an attack works.

use std::sync::Arc;
use std::time::Instant;

use super::job::check_job;
use super::{Attack, Bound, Candidate, Case, Found, Given, Hooks, Job, Place, Progress, Returned, Target, check};
use crate::data::{Batch, Dataset};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::outcome::{Cost, Member, Met, Outcome, PerImage};
use crate::session::{Classifier, Model, argmax};
use crate::threat::{Goal, Norm, ThreatModel, changed, distance};

/// Attacks `data` and judges the result.
///
/// Images the model gets wrong leave at once. The others go through the attacks one after the other, each `restarts` times;
/// those whose returned point is allowed (measured in f64) and changes the class on direct f32 kernels leave between
/// restarts, unless the nearest such point is wanted.
///
/// # Errors
/// [`Error::Usage`] where attack and model do not fit, [`Error::Input`] where images do not fit the model,
/// [`Error::Interrupted`] where the stop hook said so, and what reading and computing can fail with.
pub fn run(device: &Device, model: &Model, data: &Dataset, job: &Job, given: &Given, hooks: Hooks) -> Result<Outcome> {
    check_job(model, data, job, given)?;
    let elems: usize = model.input().iter().product();
    let batch = job.batch.min(data.len().max(1));
    let seats = job.attacks.iter().map(|_| None).collect();
    let classifier = None;
    let outcome = empty_outcome(data, job);
    let mut run = Run { device, model, classifier, seats, batch, job, given, hooks, total: data.len(), outcome, steps: 0 };
    run.bind(0, batch)?;
    // A journal has a line after each round of a window: smaller ones lose less.
    let rows = match run.hooks.journal {
        Some(_) => (4 * run.batch).min(window_rows(run.batch, elems)),
        None => window_rows(run.batch, elems),
    };
    let mut start_chunks = given.starts.map(|s| s.chunks(rows));
    for chunk in data.chunks(rows) {
        let begin = match &mut start_chunks {
            Some(it) => Some(it.next().expect("as many starting images as images")?),
            None => None,
        };
        run.window(&chunk?, begin.as_ref())?;
    }
    if run.batch < batch {
        run.outcome.batch = run.batch;
        run.outcome.doubts.push(check::halved(batch, run.batch));
    }
    for attack in &job.attacks {
        run.outcome.doubts.extend(attack.doubts(model.card.classes, given.starts.is_some()));
    }
    run.outcome.doubts.extend(check::small(job.batch));
    run.outcome.doubts.extend(check::doubts(&run.outcome.per_image, data.labelled()));
    run.outcome.doubts.extend(check::black_box(&run.outcome.members, run.outcome.images));
    run.outcome.count_standing();
    Ok(run.outcome)
}

/// Images held at once: whole batches, about 4,096 of them or a quarter of a gigabyte.
fn window_rows(batch: usize, elems: usize) -> usize {
    let fit = (1usize << 28) / (elems * size_of::<f32>());
    (fit.min(4096) / batch).max(1) * batch
}

/// Rows for `standing` images: whole batches while there are many, then even ones, so that few seats stay empty. From 8 up,
/// where results do not depend on it, unless less was asked for.
fn balanced(standing: usize, batch: usize) -> usize {
    if batch <= 8 || standing >= 4 * batch {
        return batch;
    }
    let turns = standing.div_ceil(batch);
    standing.div_ceil(turns).next_multiple_of(8).min(batch)
}

fn empty_outcome(data: &Dataset, job: &Job) -> Outcome {
    let attack = &job.attacks[0];
    let member = |a: &Arc<dyn Attack>| Member { name: a.name().into(), parameters: a.parameters(), ..Member::default() };
    Outcome {
        attack: attack.name().to_string(),
        parameters: attack.parameters(),
        goal: job.goal(),
        members: job.attacks.iter().map(member).collect(),
        images: data.len(),
        labelled: data.labelled(),
        clean_correct: 0,
        robust: 0,
        targeted: None,
        confirmed: None,
        batch: job.batch,
        max_distance: 0.0,
        extremes: None,
        non_finite: 0,
        resumed: 0,
        seconds: 0.0,
        attack_seconds: 0.0,
        image_steps: 0,
        cost: Cost::default(),
        rounded: None,
        doubts: Vec::new(),
        per_image: PerImage::default(),
    }
}

/// An attack bound for so many rows.
struct Seat {
    rows: usize,
    bound: Box<dyn Bound>,
}

/// A run in progress.
struct Run<'a, 'h> {
    device: &'a Device,
    model: &'a Model,
    classifier: Option<Classifier>,
    seats: Vec<Option<Seat>>,
    /// Rows of a batch at most: what was asked for, or what there was memory for.
    batch: usize,
    job: &'a Job,
    given: &'a Given<'a>,
    hooks: Hooks<'h>,
    total: usize,
    /// Input gradients so far, for the progress shown.
    steps: u64,
    outcome: Outcome,
}

impl Run<'_, '_> {
    /// Classifier, and attack `member` for `rows` rows, or for half as many until there is memory for them.
    fn bind(&mut self, member: usize, mut rows: usize) -> Result<()> {
        rows = rows.min(self.batch);
        if self.classifier.is_some() && self.seats[member].as_ref().is_some_and(|seat| seat.rows == rows) {
            return Ok(());
        }
        self.seats[member] = None;
        loop {
            match self.try_bind(member, rows) {
                Ok(()) => return Ok(()),
                Err(e) if e.is_out_of_memory() && rows > 1 => {
                    rows = rows.div_ceil(2);
                    self.batch = rows;
                    self.classifier = None;
                    // What other attacks hold is room too.
                    self.seats.iter_mut().for_each(|seat| *seat = None);
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn try_bind(&mut self, member: usize, rows: usize) -> Result<()> {
        if self.classifier.is_none() {
            self.classifier = Some(Classifier::new(self.device, self.model, self.batch)?);
        }
        let job = self.job;
        let models = if job.sources.is_empty() { vec![self.model] } else { job.sources.iter().collect() };
        let place = Place { device: self.device, models, batch: rows, seed: job.seed, exact: job.exact };
        let bound = job.attacks[member].bind(&place)?;
        if bound.claims() {
            self.outcome.confirmed.get_or_insert((0, 0));
        }
        self.seats[member] = Some(Seat { rows, bound });
        Ok(())
    }

    fn classify(&mut self, images: &[&[f32]]) -> Result<Vec<f32>> {
        self.classifier.as_mut().expect("bound with the first attack").logits(images)
    }

    /// Takes one window of images from clean to judged.
    fn window(&mut self, batch: &Batch, starts: Option<&Batch>) -> Result<()> {
        let begin = Instant::now();
        let mut cases = self.clean_pass(batch, starts)?;
        self.restore(&mut cases)?;
        let rounds = |(m, a): (usize, &Arc<dyn Attack>)| (0..a.restarts()).map(move |restart| (m, restart));
        for (number, (member, restart)) in self.job.attacks.iter().enumerate().flat_map(rounds).enumerate() {
            self.round(&mut cases, number, member, restart)?;
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
        let logits = self.classify(&views)?;
        let classes = self.model.card.classes;
        let done = self.outcome.per_image.index.len();
        let twice = if done == 0 { self.classify(&views[..views.len().min(self.batch)])? } else { Vec::new() };
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
            let target = match self.given.targets {
                Some(targets) => Some(targets[done + i]),
                None => self.job.attacks[0].target().choose(z, label, self.job.seed, index)?,
            };
            let eps = match (self.given.radii, self.job.goal()) {
                (Some(radii), _) => radii[done + i],
                (None, Goal::Within(threat)) => threat.eps,
                (None, Goal::Nearest(_)) => f64::INFINITY,
            };
            let (start, logits) = (starts.map(|s| pixels(s, i)), z.to_vec());
            let mut met = check::of_logits(z);
            let again = twice.get(i * classes..(i + 1) * classes);
            if again.is_some_and(|again| again.iter().zip(z).any(|(a, b)| a.to_bits() != b.to_bits())) {
                met |= Met::Differs as u16;
            }
            let costs = vec![Cost::default(); self.job.attacks.len()];
            let fresh = Case {
                index,
                label,
                clean,
                target,
                eps,
                x0,
                logits,
                start,
                best: None,
                broken: false,
                by: None,
                costs,
                met,
                claims: [0; 2],
                rounds: 0,
            };
            cases.push(fresh);
        }
        Ok(cases)
    }

    /// Puts back what the journal knows.
    fn restore(&mut self, cases: &mut [Case]) -> Result<()> {
        if let Some(journal) = &mut self.hooks.journal {
            for case in cases {
                self.outcome.resumed += usize::from(journal.restore(case)?);
            }
        }
        Ok(())
    }

    /// One restart of one attack, the `number`-th round of all, over everything still standing.
    fn round(&mut self, cases: &mut [Case], number: usize, member: usize, restart: usize) -> Result<()> {
        let nearest = matches!(self.job.goal(), Goal::Nearest(_));
        let due = |c: &Case| attackable(c, nearest) && c.rounds <= number;
        let standing: Vec<usize> = (0..cases.len()).filter(|&i| due(&cases[i])).collect();
        if standing.is_empty() {
            return Ok(());
        }
        self.bind(member, balanced(standing.len(), self.batch))?;
        let total = self.total;
        let settled = self.outcome.per_image.index.len() + cases.len() - standing.len();
        let (robust, steps_before) = (self.outcome.robust, self.steps);
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
            let seat = self.seats[member].as_mut().expect("bound above");
            seat.bound.attack(&refs, restart, &mut tell)?
        };
        let seconds = began.elapsed().as_secs_f64();
        self.outcome.attack_seconds += seconds;
        self.outcome.members[member].seconds += seconds;
        let points: Vec<&[f32]> = found.iter().map(|f| f.x.as_slice()).collect();
        let logits = self.classify(&points)?;
        let classes = self.model.card.classes;
        for (k, (found, &i)) in found.into_iter().zip(&standing).enumerate() {
            let prediction = argmax(&logits[k * classes..][..classes]).map_or(-1, |c| c as i32);
            self.steps += found.cost.backwards;
            self.judge(&mut cases[i], found, prediction, member);
            cases[i].rounds = number + 1;
        }
        match &mut self.hooks.journal {
            Some(journal) => journal.append(standing.iter().map(|&i| &cases[i])),
            None => Ok(()),
        }
    }

    /// Keeps a point if it counts: allowed, and the goal reached or the loss higher than before; where the nearest point is
    /// wanted, the goal reached nearer than before.
    fn judge(&self, case: &mut Case, found: Found, prediction: i32, member: usize) {
        let goal = case_goal(self.job.goal(), case);
        let inside = goal.allows(&case.x0, &found.x);
        let reached = inside && goal_reached(case, prediction);
        case.met |= check::of_found(&found, inside, reached);
        case.costs[member] += found.cost;
        if found.claimed == Some(true) {
            case.claims[0] += 1;
            case.claims[1] += u32::from(reached);
        }
        if reached && !case.broken {
            (case.broken, case.by) = (true, Some(member));
        }
        let better = case.best.as_ref().is_none_or(|b| match goal {
            Goal::Within(_) => reached || found.loss > b.loss || b.loss.is_nan(),
            Goal::Nearest(d) => d.between(&case.x0, &found.x) < d.between(&case.x0, &b.x),
        });
        if inside && better && (reached || matches!(goal, Goal::Within(_))) {
            case.best = Some(Candidate { x: found.x, prediction, loss: found.loss });
        }
    }

    /// Writes the fates down and hands the images on.
    fn settle(&mut self, cases: &[Case]) -> Result<()> {
        let (mut images, mut clean, mut eps) = (Vec::new(), Vec::new(), Vec::new());
        let begin = self.outcome.per_image.index.len();
        let targeted = self.job.attacks[0].target() != Target::None;
        for case in cases {
            self.write_down(case, targeted);
            if self.hooks.returned.is_some() {
                images.extend_from_slice(case.returned());
                clean.extend_from_slice(&case.x0);
                eps.push(case.eps);
            }
        }
        let p = &self.outcome.per_image;
        if let Some(returned) = &mut self.hooks.returned {
            let (index, label, prediction) = (&p.index[begin..], &p.label[begin..], &p.prediction[begin..]);
            returned(&Returned { adversarial: &images, clean: &clean, eps: &eps, index, label, prediction })?;
        }
        if let Some(progress) = &mut self.hooks.progress {
            let (done, robust) = (p.index.len(), self.outcome.robust);
            progress(Progress { done, total: self.total, robust, image_steps: self.steps });
        }
        Ok(())
    }

    fn write_down(&mut self, case: &Case, targeted: bool) {
        let x = case.returned();
        let prediction = case.best.as_ref().map_or(case.clean, |b| b.prediction);
        let [linf, l2, l1] = [Norm::Linf, Norm::L2, Norm::L1].map(|n| distance(n, &case.x0, x));
        let correct = right(case);
        let robust = correct && prediction == case.label;
        let out = &mut self.outcome;
        out.clean_correct += usize::from(correct);
        out.robust += usize::from(robust);
        if targeted {
            let (hit, tried) = out.targeted.get_or_insert((0, 0));
            let aimed = correct && case.target.is_some_and(|t| t != case.label);
            *hit += usize::from(aimed && case.broken);
            *tried += usize::from(aimed);
        }
        out.max_distance = out.max_distance.max(out.goal.distance().between(&case.x0, x));
        let [low, high] = out.extremes.get_or_insert([f32::INFINITY, f32::NEG_INFINITY]);
        (*low, *high) = x.iter().fold((*low, *high), |(low, high), v| (low.min(*v), high.max(*v)));
        let bad = x.iter().any(|v| !v.is_finite());
        out.non_finite += usize::from(bad);
        let mut cost = Cost::default();
        for (member, &spent) in out.members.iter_mut().zip(&case.costs) {
            member.cost += spent;
            cost += spent;
        }
        out.cost += cost;
        out.image_steps += cost.backwards;
        if let Some(member) = case.by {
            out.members[member].broken += 1;
        }
        if let Some((stood, made)) = &mut out.confirmed {
            *made += case.claims[0] as usize;
            *stood += case.claims[1] as usize;
        }
        let p = &mut out.per_image;
        p.index.push(case.index);
        p.label.push(case.label);
        p.clean_prediction.push(case.clean);
        p.prediction.push(prediction);
        p.robust.push(robust);
        p.linf.push(linf);
        p.l2.push(l2);
        p.l1.push(l1);
        p.success.push(case.broken);
        p.l0.push(changed(&case.x0, x));
        p.forwards.push(cost.forwards);
        p.backwards.push(cost.backwards);
        p.by.push(case.by);
        p.target.push(case.target);
        p.met.push(case.met | if bad { Met::NonFinite as u16 } else { 0 });
    }
}

/// The goal for one image, which may have a radius of its own.
fn case_goal(goal: Goal, case: &Case) -> Goal {
    match goal {
        Goal::Within(threat) => Goal::Within(ThreatModel { eps: case.eps, ..threat }),
        nearest => nearest,
    }
}

/// Whether the model is right on the clean image.
fn right(case: &Case) -> bool {
    case.clean == case.label && case.label >= 0
}

fn attackable(case: &Case, nearest: bool) -> bool {
    right(case) && (nearest || !case.broken) && case.target != Some(case.label)
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
