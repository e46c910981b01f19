//! Options of the relatives of PGD that climb something else, or otherwise.
//! Must not know how they work.

use std::sync::Arc;

use super::super::attack_args::AttackArgs;
use super::Entry;
use crate::attack::{Attack, AttackLoss, Climb, From, Objective, RadiusSearch};
use crate::error::{Error, Result};
use crate::threat::Norm;

const LAST: (&str, &str) = ("return", "it returns the last iterate");
const OWN_START: (&str, &str) = ("start", "it has a start of its own");
const NO_AIM: (&str, &str) = ("target", "it climbs away from where it is, towards no class");

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "adam-pgd",
        aliases: &["adam_pgd"],
        about: "Adam's steps up the plain gradient, each projected back",
        paper: "Kingma and Ba 2015, https://arxiv.org/abs/1412.6980",
        uses: &["norm", "eps", "alpha", "steps", "restarts", "random-start", "loss", "target"],
        unused: &[LAST, OWN_START],
        build: |args, _| {
            let (threat, alpha, steps) = common(args, 20)?;
            let climb = Climb::adam(threat, alpha, steps);
            let objective = Objective::Loss(args.loss.unwrap_or(AttackLoss::CrossEntropy));
            settle(args, Climb { objective, target: args.target(), ..climb })
        },
    },
    Entry {
        name: "tpgd",
        aliases: &["kl-pgd", "kl_pgd"],
        about: "PGD away from the clean prediction; labels have no say",
        paper: "Zhang et al. 2019, https://arxiv.org/abs/1901.08573",
        uses: &["norm", "eps", "alpha", "steps", "restarts"],
        unused: &[
            LAST,
            OWN_START,
            NO_AIM,
            ("loss", "it climbs the divergence from the clean prediction"),
            ("random-start", "it always starts at random beside the image"),
        ],
        build: |args, _| {
            let (threat, alpha, steps) = common(args, 10)?;
            settle(args, Climb::tpgd(threat, alpha, steps))
        },
    },
    Entry {
        name: "cw-linf",
        aliases: &["cw_linf", "cwlinf"],
        about: "PGD on the margin to the best other class, capped at `kappa`",
        paper: "Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644",
        uses: &["norm", "eps", "alpha", "steps", "restarts", "random-start", "kappa"],
        unused: &[LAST, OWN_START, NO_AIM, ("loss", "it climbs the margin")],
        build: |args, _| {
            let (threat, alpha, steps) = common(args, 20)?;
            settle(args, Climb::cw(threat, alpha, steps, args.kappa.unwrap_or(50.0)))
        },
    },
    Entry {
        name: "ifgsm-search",
        aliases: &["ifgsm_search", "i-fgsm-search"],
        about: "bim at radii that are bisected from `eps` on, for the smallest that works",
        paper: "Su et al. 2018, https://arxiv.org/abs/1808.01688",
        uses: &["norm", "eps", "search-steps", "steps", "loss", "target"],
        unused: &[
            OWN_START,
            ("alpha", "its step is the radius over the number of steps"),
            ("return", "it returns the nearest image that it finds"),
        ],
        build: |args, _| {
            if args.norm() != Norm::Linf {
                return Err(Error::usage(format!("`--attack ifgsm-search` measures by `linf`, not by `{}`", args.norm())));
            }
            let base = RadiusSearch::new();
            Ok(Arc::new(RadiusSearch {
                eps: args.threat_or(base.eps)?.eps,
                attempts: args.search_steps.unwrap_or(base.attempts),
                steps: args.steps.unwrap_or(base.steps),
                loss: args.loss.unwrap_or(base.loss),
                target: args.target(),
            }))
        },
    },
];

/// Threat model, step size, and steps of which `steps` are the default.
fn common(args: &AttackArgs, steps: usize) -> Result<(crate::threat::ThreatModel, f64, usize)> {
    let threat = args.threat()?;
    Ok((threat, args.alpha()?.unwrap_or_else(|| threat.norm.default_alpha()), args.steps.unwrap_or(steps)))
}

/// Start and restarts as they were typed.
fn settle(args: &AttackArgs, mut climb: Climb) -> Result<Arc<dyn Attack>> {
    climb.restarts = args.restarts.map_or(1, |n| n as usize);
    if args.random_start == Some(false) {
        if climb.restarts > 1 {
            return Err(Error::usage(format!(
                "`--restarts {}` with `--random-start false` repeats the same run",
                climb.restarts
            ))
            .with_hint("leave one of them out"));
        }
        climb.start = From::Clean;
    }
    Ok(Arc::new(climb))
}
