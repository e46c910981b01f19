//! Runs that are interrupted and go on, and runs of several attacks: the same bytes as in one go.
//! Must not know the format of a journal, but for where its lines end.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use libtest_mimic::Trial;
use petard::attack::{self, Journal};
use petard::{Error, Given, Hooks, Job, Norm, Outcome, Pgd};
use serde_json::json;

use super::{data, device, model, pgd};
use crate::support::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("attacks::journal.goes_on_to_the_same_bytes", goes_on),
        trial("attacks::journal.survives_a_cut_line", cut_line),
        trial("attacks::journal.refuses_another_run", another_run),
        trial("attacks::several.each_takes_what_stands", several),
    ]
}

/// Two attacks, the second with two restarts: four rounds a window with the first's one.
fn job() -> Job {
    let second = Pgd { restarts: 3, ..pgd(Norm::Linf, 6) };
    Job { attacks: vec![Arc::new(pgd(Norm::Linf, 2)), Arc::new(second)], seed: 5, ..Job::new(pgd(Norm::Linf, 1), 8) }
}

/// Runs until `stop_after` steps are made, or to the end.
fn run(dir: Option<&Path>, resume: bool, stop_after: usize) -> Result<(Outcome, Vec<f32>), Error> {
    let mut journal = dir.map(|d| Journal::open(d, &json!({"attack": "two", "seed": 5}), resume)).transpose()?;
    let mut images = Vec::new();
    let calls = Cell::new(0);
    let hooks = Hooks {
        returned: Some(Box::new(|r| {
            images.extend_from_slice(r.adversarial);
            Ok(())
        })),
        journal: journal.as_mut(),
        stop: Some(Box::new(|| {
            calls.set(calls.get() + 1);
            calls.get() > stop_after
        })),
        ..Default::default()
    };
    let outcome = attack::run(&device(2), &model(), &data(40, 0), &job(), &Given::default(), hooks)?;
    Ok((outcome, images))
}

fn same(a: &(Outcome, Vec<f32>), b: &(Outcome, Vec<f32>)) {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&a.1), bits(&b.1), "returned images");
    assert_eq!(a.0.per_image, b.0.per_image);
    assert_eq!((a.0.robust, a.0.cost, &a.0.doubts), (b.0.robust, b.0.cost, &b.0.doubts));
    let counts = |o: &Outcome| o.members.iter().map(|m| (m.broken, m.standing, m.cost)).collect::<Vec<_>>();
    assert_eq!(counts(&a.0), counts(&b.0));
}

fn goes_on() {
    let whole = run(None, false, usize::MAX).expect("it runs");
    assert!(whole.0.robust > 0 && whole.0.robust < whole.0.clean_correct, "the attacks tell nothing apart");
    for steps in [1, 9, 30, 61] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let stopped = run(Some(folder.path()), false, steps).expect_err("it is stopped");
        assert!(matches!(stopped, Error::Interrupted { .. }), "{stopped}");
        // Stopped once more on the way.
        let _ = run(Some(folder.path()), true, 7);
        let second = run(Some(folder.path()), true, usize::MAX).expect("it goes on");
        same(&whole, &second);
        assert!(steps < 30 || second.0.resumed > 0, "nothing was known after {steps} steps");
        let third = run(Some(folder.path()), true, usize::MAX).expect("there is nothing left to do");
        same(&whole, &third);
        assert_eq!(third.0.attack_seconds, 0.0, "a finished run attacks nothing");
    }
}

fn cut_line() {
    let whole = run(None, false, usize::MAX).expect("it runs");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _ = run(Some(folder.path()), false, 40);
    let path = folder.path().join("journal.jsonl");
    let bytes = std::fs::read(&path).expect("the journal");
    for cut in [1, 30, 200, bytes.len() - 5] {
        std::fs::write(&path, &bytes[..bytes.len() - cut]).expect("the journal");
        same(&whole, &run(Some(folder.path()), true, usize::MAX).expect("it goes on"));
    }
}

fn another_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _ = run(Some(folder.path()), false, 40);
    let again = run(Some(folder.path()), false, 1).expect_err("there is one already");
    assert!(again.to_string().contains("journal of an earlier run") && again.hint().is_some_and(|h| h.contains("--resume")));
    let other = Journal::open(folder.path(), &json!({"attack": "two", "seed": 6}), true).expect_err("another seed");
    assert!(other.to_string().contains("its seed is 5, not 6"), "{other}");
}

/// The attacks of a job one after the other are the job.
fn several() {
    let whole = run(None, false, usize::MAX).expect("it runs").0;
    let p = &whole.per_image;
    let broken_by = |member| p.by.iter().filter(|by| **by == Some(member)).count();
    assert!(broken_by(0) > 0 && broken_by(1) > 0, "one of the attacks breaks nothing");
    assert_eq!((whole.members[0].broken, whole.members[1].broken), (broken_by(0), broken_by(1)));
    assert_eq!(whole.members[1].standing, whole.robust);
    assert_eq!(whole.members[0].standing, whole.clean_correct - broken_by(0));
    let alone = Job { seed: 5, ..Job::new(pgd(Norm::Linf, 2), 8) };
    let first = attack::run(&device(2), &model(), &data(40, 0), &alone, &Given::default(), Hooks::default()).expect("it runs");
    assert_eq!(first.robust, whole.members[0].standing);
    for i in 0..40 {
        let second = if p.by[i] == Some(0) { 0 } else { p.backwards[i] - 2 };
        assert!(p.backwards[i] == 2 || second % 6 == 0, "image {i} spent {} gradients", p.backwards[i]);
    }
}
