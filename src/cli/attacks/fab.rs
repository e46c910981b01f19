//! Options of the attacks that walk along class boundaries: FAB, FAB-T and DeepFool.
//! Must not know how they work.

use std::sync::Arc;

use super::super::attack_args::AttackArgs;
use super::Entry;
use crate::attack::{Attack, DeepFool, Fab};
use crate::error::{Error, Result};
use crate::threat::Norm;

const NO_RADIUS: (&str, &str) = ("eps", "it looks for the nearest adversarial image, whatever its distance");
const ONE_WAY: (&str, &str) = ("restarts", "nothing in it is random, so every run would be the same");
const AIMS: (&str, &str) = ("candidates", "it aims at one class after the other; `--targets` says at how many");
const AT_ALL: (&str, &str) = ("targets", "it goes to whichever boundary is nearest");

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "fab",
        aliases: &[],
        about: "projections on the nearest class boundary, biased towards the original; all classes at every step",
        paper: "Croce and Hein 2020, https://arxiv.org/abs/1907.02044",
        uses: &["norm", "eps", "steps", "restarts", "eta", "beta", "alpha-max", "candidates", "nearest"],
        unused: &[AT_ALL],
        build: |args, _| fab(args, Fab::new(args.threat()?)),
    },
    Entry {
        name: "fab-t",
        aliases: &["fabt", "fab_t"],
        about: "the same towards one class after the other, those with the highest clean logits first",
        paper: "Croce and Hein 2020, https://arxiv.org/abs/2003.01690",
        uses: &["norm", "eps", "steps", "restarts", "eta", "beta", "alpha-max", "targets", "nearest"],
        unused: &[AIMS],
        build: |args, _| fab(args, Fab::targeted(args.threat()?)),
    },
    Entry {
        name: "deepfool",
        aliases: &["deep-fool", "deep_fool"],
        about: "steps to the nearest class boundary, as if it were flat, until the class changes; l2 and linf",
        paper: "Moosavi-Dezfooli et al. 2016, https://arxiv.org/abs/1511.04599",
        uses: &["norm", "steps", "overshoot", "push", "candidates"],
        unused: &[NO_RADIUS, ONE_WAY, AT_ALL],
        build: |args, _| deepfool(args),
    },
];

fn fab(args: &AttackArgs, own: Fab) -> Result<Arc<dyn Attack>> {
    let fab = Fab {
        nearest: args.nearest.unwrap_or(own.nearest),
        steps: args.steps.unwrap_or(own.steps),
        eta: args.eta.unwrap_or(own.eta),
        beta: args.beta.unwrap_or(own.beta),
        alpha_max: args.alpha_max.unwrap_or(own.alpha_max),
        targets: own.targets.map(|n| args.targets.unwrap_or(n)),
        candidates: args.candidates.unwrap_or(own.candidates),
        restarts: args.restarts.map_or(own.restarts, |n| n as usize),
        ..own
    };
    Ok(Arc::new(fab))
}

fn deepfool(args: &AttackArgs) -> Result<Arc<dyn Attack>> {
    let norm = args.norm_or(Norm::L2);
    if norm == Norm::L1 {
        return Err(Error::usage("`--norm l1` is not used by `--attack deepfool`: it is defined for `l2` and `linf`")
            .with_hint("`--attack fab --nearest --norm l1` looks for the nearest image in l1"));
    }
    let own = DeepFool::new(norm);
    let deepfool = DeepFool {
        norm,
        steps: args.steps.unwrap_or(own.steps),
        overshoot: args.overshoot.unwrap_or(own.overshoot),
        push: args.push.unwrap_or(own.push),
        candidates: args.candidates.unwrap_or(own.candidates),
    };
    Ok(Arc::new(deepfool))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        attack: AttackArgs,
    }

    fn typed(line: &str) -> AttackArgs {
        Line::try_parse_from(std::iter::once("petard").chain(line.split_whitespace())).expect(line).attack
    }

    /// Every option changes a parameter, and what is printed as a command settles to the same attack.
    #[test]
    fn options_arrive_and_repeat() {
        for (name, options) in [
            ("fab", "--norm l2;--eps 0.25;--steps 7;--restarts 3;--eta 1.2;--beta 0.8;--alpha-max 0.3;--candidates 4;--nearest"),
            ("fab-t", "--norm l1;--eps 0.9;--steps 7;--restarts 3;--eta 1.2;--beta 0.8;--alpha-max 0.3;--targets 4;--nearest"),
            ("deepfool", "--norm linf;--steps 7;--overshoot 0.1;--push 0;--candidates 3"),
        ] {
            let plain = typed(&format!("--attack {name}")).resolve(false).expect(name).parameters();
            for option in options.split(';') {
                let args = typed(&format!("--attack {name} {option}"));
                let attack = args.resolve(false).expect(option);
                assert_ne!(attack.parameters(), plain, "{name} {option}");
                let words = args.words(attack.as_ref()).join(" ");
                assert_eq!(typed(&words).resolve(false).expect(&words).parameters(), attack.parameters(), "{words}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, part) in [
            ("--attack deepfool --eps 0.1", "whatever its distance"),
            ("--attack deepfool --norm l1", "`--norm l1`"),
            ("--attack fab --targets 3", "`--targets`"),
            ("--attack fab-t --candidates 3", "`--candidates`"),
        ] {
            let error = typed(line).resolve(false).expect_err(line).to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
        let check = |line: &str| typed(line).resolve(false).expect(line).check(1000).map_err(|e| e.to_string());
        for line in
            ["--attack fab --beta 1", "--attack fab --eta 0", "--attack fab-t --alpha-max 2", "--attack deepfool --push -1"]
        {
            assert!(check(line).is_err(), "{line}");
        }
        assert!(check("--attack fab --candidates 100").expect_err("too many").contains("at most 64"));
        check("--attack fab").expect("the default");
    }
}
