//! Options of PGD and its one-step relatives.
//! Must not know how they work.

use std::sync::Arc;

use super::super::attack_args::AttackArgs;
use super::Entry;
use crate::attack::{Attack, AttackLoss, Keep, Pgd, Start};
use crate::error::{Error, Result};
use crate::threat::Norm;

const ONE_STEP: (&str, &str) = ("steps", "it makes one step");
const SAME_RUN: (&str, &str) = ("restarts", "it starts at the clean image, so every run would be the same");
const OWN_START: (&str, &str) = ("start", "it has a start of its own");

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "pgd",
        aliases: &[],
        about: "steps of `alpha` from a random start, each projected back",
        paper: "Madry et al. 2018, https://arxiv.org/abs/1706.06083",
        uses: &["norm", "eps", "alpha", "steps", "restarts", "random-start", "loss", "target", "return", "start"],
        unused: &[],
        build: |args, starts| build(args, starts, Kind::Pgd),
    },
    Entry {
        name: "fgsm",
        aliases: &[],
        about: "one step of the whole radius from the clean image",
        paper: "Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572",
        uses: &["norm", "eps", "random-start", "loss", "target", "return"],
        unused: &[ONE_STEP, SAME_RUN, OWN_START, ("alpha", "its step is the whole radius")],
        build: |args, starts| build(args, starts, Kind::Fgsm),
    },
    Entry {
        name: "r-fgsm",
        aliases: &["rfgsm", "r_fgsm"],
        about: "half the radius along random signs, then a step of the other half",
        paper: "Tramer et al. 2018, https://arxiv.org/abs/1705.07204",
        uses: &["norm", "eps", "restarts", "random-start", "loss", "target", "return"],
        unused: &[ONE_STEP, OWN_START, ("alpha", "its step is half the radius")],
        build: |args, starts| build(args, starts, Kind::RFgsm),
    },
    Entry {
        name: "fgsm-rs",
        aliases: &["ffgsm", "fgsm_rs"],
        about: "one step of `alpha` from a random start",
        paper: "Wong et al. 2020, https://arxiv.org/abs/2001.03994",
        uses: &["norm", "eps", "alpha", "restarts", "random-start", "loss", "target", "return"],
        unused: &[ONE_STEP, OWN_START],
        build: |args, starts| build(args, starts, Kind::FgsmRs),
    },
    Entry {
        name: "bim",
        aliases: &["i-fgsm", "ifgsm", "i_fgsm"],
        about: "PGD from the clean image",
        paper: "Kurakin et al. 2017, https://arxiv.org/abs/1607.02533",
        uses: &["norm", "eps", "alpha", "steps", "random-start", "loss", "target", "return"],
        unused: &[SAME_RUN, OWN_START],
        build: |args, starts| build(args, starts, Kind::Bim),
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pgd,
    Fgsm,
    RFgsm,
    FgsmRs,
    Bim,
}

fn build(args: &AttackArgs, given_starts: bool, kind: Kind) -> Result<Arc<dyn Attack>> {
    let name = args.name();
    let unused = |option: String, why: &str| {
        let hint = format!("leave `{option}` out, or use `--attack pgd`");
        Err(Error::usage(format!("`{option}` is not used by `--attack {name}`: {why}")).with_hint(hint))
    };
    match args.random_start {
        Some(true) if matches!(kind, Kind::Fgsm | Kind::Bim) => {
            return unused("--random-start true".into(), "it starts at the clean image");
        }
        Some(false) if matches!(kind, Kind::RFgsm | Kind::FgsmRs) => {
            return unused("--random-start false".into(), "its start is always random");
        }
        _ => {}
    }
    if args.norm() != Norm::Linf && matches!(kind, Kind::RFgsm | Kind::FgsmRs) {
        return unused(format!("--norm {}", args.norm()), "it is defined for `linf` only");
    }
    refuse_useless_restarts(args, given_starts)?;
    let threat = args.threat()?;
    let alpha = args.alpha()?;
    let step = alpha.unwrap_or_else(|| threat.norm.default_alpha());
    let steps = args.steps.unwrap_or(20);
    let mut pgd = match kind {
        Kind::Pgd => Pgd::new(threat, step, steps),
        Kind::Bim => Pgd::bim(threat, step, steps),
        Kind::Fgsm => Pgd::fgsm(threat),
        Kind::RFgsm => Pgd::r_fgsm(threat),
        Kind::FgsmRs => Pgd { alpha: alpha.unwrap_or(1.25 * threat.eps), ..Pgd::fgsm_rs(threat) },
    };
    pgd.restarts = args.restarts.map_or(1, |n| n as usize);
    // One start from a file leaves nothing to be drawn.
    if args.random_start == Some(false) || (given_starts && pgd.restarts == 1) {
        pgd.start = Start::Clean;
    }
    pgd.loss = args.loss.unwrap_or(AttackLoss::CrossEntropy);
    pgd.target = args.target();
    pgd.keep = args.keep.unwrap_or(Keep::Last);
    Ok(Arc::new(pgd))
}

/// Restarts without anything random, and random starts that a file takes the place of.
fn refuse_useless_restarts(args: &AttackArgs, given_starts: bool) -> Result<()> {
    let restarts = args.restarts.unwrap_or(1);
    if restarts > 1 + u32::from(given_starts) && args.random_start == Some(false) {
        return Err(Error::usage(format!("`--restarts {restarts}` with `--random-start false` repeats the same run"))
            .with_hint("leave one of them out"));
    }
    if given_starts && restarts == 1 && args.random_start == Some(true) {
        return Err(Error::usage("`--random-start true` is not used: the only start comes from the file of `--start`")
            .with_hint("leave it out, or add `--restarts 2`: every start after the first is then random"));
    }
    Ok(())
}
