//! Options of the attacks that see outputs alone: Square the logits, HopSkipJump the class.
//! Must not know how they work.

use std::sync::Arc;

use super::super::attack_args::AttackArgs;
use super::super::value;
use super::Entry;
use crate::attack::{Attack, HopSkipJump, Square, Target};
use crate::error::{Error, Result};
use crate::threat::Norm;

const RANDOM: (&str, &str) = ("random-start", "its start is always random");

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "square",
        aliases: &["square-attack"],
        about: "random search over windows of the image; sees logits, no gradient",
        paper: "Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049",
        uses: &["norm", "eps", "queries", "p-init", "rescale-schedule", "restarts", "loss", "target"],
        unused: &[
            ("steps", "it is bounded by `--queries`"),
            ("alpha", "a proposal goes all the way to the radius"),
            ("return", "it returns the first image that reaches the goal"),
            ("start", "it has a start of its own"),
            RANDOM,
        ],
        build: square,
    },
    Entry {
        name: "hop-skip-jump",
        aliases: &["hsj", "hopskipjump", "hop_skip_jump"],
        about: "the nearest adversarial image from classes alone: along the boundary, round by round",
        paper: "Chen et al. 2020, https://arxiv.org/abs/1904.02144",
        uses: &["norm", "steps", "queries", "target", "start"],
        unused: &[
            ("eps", "it looks for the nearest adversarial image, at whatever distance"),
            ("alpha", "its steps follow from the distance"),
            ("loss", "it sees classes, no loss"),
            ("restarts", "the nearest image of one run is returned"),
            ("return", "it returns the nearest image"),
            ("random-start", "it starts from a file (`--start`) or from noise"),
        ],
        build: hop_skip_jump,
    },
];

fn square(args: &AttackArgs, _given_starts: bool) -> Result<Arc<dyn Attack>> {
    let threat = args.threat()?;
    let plain = if args.target() == Target::None { Square::new(threat) } else { Square::targeted(threat, args.target()) };
    let p_init = args.p_init.as_deref().map(|text| value::radius("--p-init", Norm::L2, text)).transpose()?;
    Ok(Arc::new(Square {
        queries: args.queries.unwrap_or(plain.queries),
        p_init: p_init.unwrap_or(plain.p_init),
        restarts: args.restarts.map_or(plain.restarts, |n| n as usize),
        rescale_schedule: args.rescale_schedule.unwrap_or(plain.rescale_schedule),
        loss: args.loss.unwrap_or(plain.loss),
        ..plain
    }))
}

fn hop_skip_jump(args: &AttackArgs, given_starts: bool) -> Result<Arc<dyn Attack>> {
    let target = args.target();
    if target != Target::None && !given_starts {
        return Err(Error::usage(format!(
            "`--attack hop-skip-jump --target {target}` needs images of the target class to start from"
        ))
        .with_hint("give them with `--start FILE`, or leave `--target` out: away from the label it starts from noise"));
    }
    let plain = HopSkipJump::new(args.norm_or(Norm::L2));
    Ok(Arc::new(HopSkipJump { steps: args.steps.unwrap_or(plain.steps), queries: args.queries, target, ..plain }))
}
