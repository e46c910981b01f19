//! Options of the attacks that look for the nearest adversarial image by gradients.
//! Must not know how they work.

use std::sync::Arc;

use super::super::attack_args::AttackArgs;
use super::super::value::Preset;
use super::Entry;
use crate::attack::{Attack, Cw, Ddn, Ead, Fmn};
use crate::error::{Error, Result};
use crate::threat::Norm;

const RADIUS: (&str, &str) = ("eps", "it looks for the nearest image, at whatever distance; `--radii` says which to report");
const L2: (&str, &str) = ("norm", "its distance is L2");
const OWN_START: (&str, &str) = ("start", "it starts at the clean image");
const NOT_RANDOM: (&str, &str) = ("restarts", "nothing in it is random, so every run would be the same");

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "cw",
        aliases: &["carlini", "cw-l2"],
        about: "the nearest image in L2: Adam in tanh space, a search for the smallest constant [presets: official, foolbox, torchattacks, su2018]",
        paper: "Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644",
        uses: &["steps", "lr", "search-steps", "initial-const", "kappa", "abort-early", "shrink", "target", "preset", "radii"],
        unused: &[RADIUS, L2, OWN_START, NOT_RANDOM],
        build: |args, _| cw(args),
    },
    Entry {
        name: "ead",
        aliases: &["elastic-net"],
        about: "the nearest image in L1 or by the elastic net: FISTA, the same search [presets: official, foolbox, torchattacks, su2018]",
        paper: "Chen et al. 2018, https://arxiv.org/abs/1709.04114",
        uses: &[
            "rule",
            "beta",
            "steps",
            "lr",
            "search-steps",
            "initial-const",
            "kappa",
            "abort-early",
            "target",
            "preset",
            "radii",
        ],
        unused: &[RADIUS, ("norm", "`--rule en` or `--rule l1` says what it keeps"), OWN_START, NOT_RANDOM],
        build: |args, _| ead(args),
    },
    Entry {
        name: "ddn",
        aliases: &[],
        about: "the nearest image in L2: steps on a sphere, first of radius `eps`, that grows and shrinks by `gamma`",
        paper: "Rony et al. 2019, https://arxiv.org/abs/1811.09600",
        uses: &["steps", "lr", "eps", "gamma", "target", "radii"],
        unused: &[L2, OWN_START, NOT_RANDOM],
        build: |args, _| ddn(args),
    },
    Entry {
        name: "fmn",
        aliases: &[],
        about: "the nearest image in L0, L1, L2 or L-inf: steps in a ball around the boundary",
        paper: "Pintor et al. 2021, https://arxiv.org/abs/2102.12827",
        uses: &["norm", "steps", "lr", "gamma", "target", "radii"],
        unused: &[RADIUS, OWN_START, NOT_RANDOM],
        build: |args, _| fmn(args),
    },
];

fn cw(args: &AttackArgs) -> Result<Arc<dyn Attack>> {
    let base = match args.preset.unwrap_or(Preset::Official) {
        Preset::Official | Preset::Foolbox => Cw::new(),
        Preset::Torchattacks => Cw::torchattacks(),
        Preset::Su2018 => Cw::su2018(),
    };
    Ok(Arc::new(Cw {
        steps: args.steps.unwrap_or(base.steps),
        lr: args.lr.unwrap_or(base.lr),
        search_steps: args.search_steps.unwrap_or(base.search_steps),
        initial_const: args.initial_const.unwrap_or(base.initial_const),
        kappa: args.kappa.unwrap_or(base.kappa),
        abort_early: args.abort_early.unwrap_or(base.abort_early),
        shrink: args.shrink.unwrap_or(base.shrink),
        target: args.target(),
    }))
}

fn ead(args: &AttackArgs) -> Result<Arc<dyn Attack>> {
    let base = match args.preset.unwrap_or(Preset::Official) {
        Preset::Official => Ead::new(),
        Preset::Foolbox => Ead::foolbox(),
        Preset::Torchattacks => Ead::torchattacks(),
        Preset::Su2018 => Ead::su2018(),
    };
    Ok(Arc::new(Ead {
        rule: args.rule.unwrap_or(base.rule),
        beta: args.beta.unwrap_or(base.beta),
        steps: args.steps.unwrap_or(base.steps),
        lr: args.lr.unwrap_or(base.lr),
        search_steps: args.search_steps.unwrap_or(base.search_steps),
        initial_const: args.initial_const.unwrap_or(base.initial_const),
        kappa: args.kappa.unwrap_or(base.kappa),
        abort_early: args.abort_early.unwrap_or(base.abort_early),
        target: args.target(),
    }))
}

fn ddn(args: &AttackArgs) -> Result<Arc<dyn Attack>> {
    let base = Ddn::new();
    Ok(Arc::new(Ddn {
        steps: args.steps.unwrap_or(base.steps),
        lr: args.lr.unwrap_or(base.lr),
        eps: args.eps_in(Norm::L2)?.unwrap_or(base.eps),
        gamma: gamma(args)?.unwrap_or(base.gamma),
        target: args.target(),
    }))
}

fn fmn(args: &AttackArgs) -> Result<Arc<dyn Attack>> {
    let base = Fmn::new(args.distance());
    Ok(Arc::new(Fmn {
        steps: args.steps.unwrap_or(base.steps),
        lr: args.lr.unwrap_or(base.lr),
        gamma: gamma(args)?.unwrap_or(base.gamma),
        target: args.target(),
        ..base
    }))
}

fn gamma(args: &AttackArgs) -> Result<Option<f64>> {
    match args.gamma {
        Some(gamma) if gamma >= 1.0 => Err(Error::usage(format!("`--gamma {gamma}` is not below 1"))
            .with_hint("the radius is multiplied by 1 - gamma and 1 + gamma: 0.05 is usual")),
        gamma => Ok(gamma),
    }
}
