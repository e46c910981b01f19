//! Options of APGD.
//! Must not know how it works.

use std::sync::Arc;

use super::super::attack_args::AttackArgs;
use super::Entry;
use crate::attack::{Apgd, Attack, Keep};
use crate::error::{Error, Result};
use crate::threat::Norm;

const PAPER: &str = "Croce and Hein 2020, https://arxiv.org/abs/2003.01690; in L1: 2021, https://arxiv.org/abs/2103.01208";
const OWN_STEP: (&str, &str) = ("alpha", "it sets its own step size");
const OWN_START: (&str, &str) = ("start", "it starts on the surface of the ball");
const RANDOM: (&str, &str) = ("random-start", "it always starts at random, on the surface of the ball");
const NO_TARGET: (&str, &str) = ("target", "any wrong class is a success; `--attack apgd-t` aims at one class after the other");

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "apgd-ce",
        aliases: &["apgd"],
        about: "PGD with momentum that sets its own step, on the cross-entropy; the first attack of AutoAttack",
        paper: PAPER,
        uses: &["norm", "eps", "steps", "restarts", "rho", "larger-eps", "return"],
        unused: &[OWN_STEP, OWN_START, RANDOM, NO_TARGET, ("loss", "its name says which; `apgd-dlr` climbs another")],
        build: |args, _| build(args, Apgd::new(args.threat()?)),
    },
    Entry {
        name: "apgd-dlr",
        aliases: &[],
        about: "the same on the difference of logits ratio, or with --loss on another",
        paper: PAPER,
        uses: &["norm", "eps", "steps", "restarts", "rho", "larger-eps", "loss", "return"],
        unused: &[OWN_STEP, OWN_START, RANDOM, NO_TARGET],
        build: |args, _| build(args, Apgd::dlr(args.threat()?)),
    },
    Entry {
        name: "apgd-t",
        aliases: &["apgdt"],
        about: "the same towards one class after the other, the nearest first; any wrong class is a success",
        paper: PAPER,
        uses: &["norm", "eps", "steps", "restarts", "rho", "larger-eps", "loss", "targets", "return"],
        unused: &[OWN_STEP, OWN_START, RANDOM, ("target", "it takes one class after the other: `--targets` says how many")],
        build: |args, _| build(args, Apgd::targeted(args.threat()?)),
    },
];

fn build(args: &AttackArgs, defaults: Apgd) -> Result<Arc<dyn Attack>> {
    let norm = defaults.threat.norm;
    if norm == Norm::L1 && args.rho()?.is_some() {
        return Err(Error::usage("`--rho` is not used in `l1`, where the number of changed values decides")
            .with_hint("leave `--rho` out"));
    }
    if norm != Norm::L1 && args.larger_eps == Some(true) {
        return Err(
            Error::usage(format!("`--larger-eps` is for `--norm l1`, not for `{norm}`")).with_hint("leave `--larger-eps` out")
        );
    }
    if args.keep == Some(Keep::Last) {
        return Err(Error::usage(format!(
            "`--return last` is not used by `--attack {}`: its last iterate is seldom its best",
            args.name()
        ))
        .with_hint("choose `last-success`, `first-success` or `best-loss`"));
    }
    Ok(Arc::new(Apgd {
        steps: args.steps.unwrap_or(defaults.steps),
        restarts: args.restarts.map_or(defaults.restarts, |n| n as usize),
        rho: args.rho()?.unwrap_or(defaults.rho),
        loss: args.loss.unwrap_or(defaults.loss),
        targets: defaults.targets.map(|nine| args.targets.unwrap_or(nine)),
        keep: args.keep.unwrap_or(defaults.keep),
        larger_eps: args.larger_eps.unwrap_or(false),
        ..defaults
    }))
}
