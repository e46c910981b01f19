//! The options of an attack, and what they settle to: defaults filled in, what makes no sense refused.
//! Must not know models, images or devices.

use clap::ValueEnum;
use clap::builder::BoolishValueParser;

use super::value::{self, count};
use crate::attack::{AttackLoss, Keep, Pgd, Start, Target};
use crate::error::{Error, Result};
use crate::report::radius_text;
use crate::threat::{Norm, ThreatModel};

/// The attacks by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// steps of `alpha` from a random start, each projected back
    Pgd,
    /// one step of the whole radius from the clean image
    Fgsm,
    /// half the radius along random signs, then a step of the other half
    #[value(alias = "rfgsm", alias = "r_fgsm")]
    RFgsm,
    /// one step of `alpha` from a random start
    #[value(alias = "ffgsm", alias = "fgsm_rs")]
    FgsmRs,
    /// PGD from the clean image
    #[value(alias = "i-fgsm", alias = "ifgsm", alias = "i_fgsm")]
    Bim,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Pgd => "pgd",
            Kind::Fgsm => "fgsm",
            Kind::RFgsm => "r-fgsm",
            Kind::FgsmRs => "fgsm-rs",
            Kind::Bim => "bim",
        }
    }
    fn iterates(self) -> bool {
        matches!(self, Kind::Pgd | Kind::Bim)
    }
    fn starts_at_random(self) -> bool {
        matches!(self, Kind::Pgd | Kind::RFgsm | Kind::FgsmRs)
    }
    /// Whether the step size may be chosen.
    fn has_alpha(self) -> bool {
        self.iterates() || self == Kind::FgsmRs
    }
}

/// Heading of these options in the help.
pub const HEADING: &str = "Attack (lengths in units of [0,1] pixels; fractions such as 8/255 are fine)";

/// Which attack. Lengths are in units of [0,1] pixels.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub struct AttackArgs {
    /// Attack
    #[arg(long, value_enum, default_value = "pgd", ignore_case = true)]
    attack: Kind,
    /// How the change of an image is measured
    #[arg(long, value_enum, default_value = "linf", ignore_case = true, alias = "ord")]
    norm: Norm,
    /// Radius: how far an image may be changed [default: linf 8/255, l2 0.5, l1 12]
    #[arg(long, value_name = "LENGTH", alias = "epsilon", allow_hyphen_values = true)]
    eps: Option<String>,
    /// Step size (pgd, bim, fgsm-rs) [default: linf 2/255, l2 0.1, l1 1; fgsm-rs 1.25 eps]
    #[arg(long, value_name = "LENGTH", aliases = ["eps-iter", "eps-step", "step-size", "pgd-alpha"], allow_hyphen_values = true)]
    alpha: Option<String>,
    /// Gradient steps (pgd, bim) [default: 20]
    #[arg(long, value_name = "N", value_parser = count, aliases = ["nb-iter", "n-iter", "attack-iters", "num-steps", "max-iter"])]
    steps: Option<usize>,
    /// Independent runs; an image leaves after the first that breaks it (pgd, r-fgsm, fgsm-rs) [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536),
          aliases = ["n-restarts", "num-restarts", "random-restarts"])]
    restarts: Option<u32>,
    /// Start at random inside the radius (pgd) [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(),
          alias = "rand-init")]
    random_start: Option<bool>,
    /// Loss that is climbed
    #[arg(long, value_enum, default_value = "ce", ignore_case = true)]
    loss: AttackLoss,
    /// Class to aim at: none (away from the label), next, least-likely, random, or the number of a class
    #[arg(long, value_name = "CLASS", default_value = "none", value_parser = value::target)]
    target: Target,
    /// Which iterate is returned
    #[arg(long = "return", value_enum, default_value = "last", ignore_case = true)]
    keep: Keep,
}

impl AttackArgs {
    /// The attack with every parameter settled. `given_starts`: the first start comes from a file.
    ///
    /// # Errors
    /// [`Error::Usage`] for a length that is none, and for an option that the attack does not use.
    pub fn resolve(&self, given_starts: bool) -> Result<Pgd> {
        self.refuse_unused(given_starts)?;
        let eps = match &self.eps {
            Some(text) => value::radius("--eps", self.norm, text)?,
            None => self.norm.default_eps(),
        };
        let threat = ThreatModel::new(self.norm, eps);
        let alpha = self.alpha.as_deref().map(|text| value::radius("--alpha", self.norm, text)).transpose()?;
        let steps = self.steps.unwrap_or(20);
        let step = alpha.unwrap_or_else(|| self.norm.default_alpha());
        let mut pgd = match self.attack {
            Kind::Pgd => Pgd::new(threat, step, steps),
            Kind::Bim => Pgd::bim(threat, step, steps),
            Kind::Fgsm => Pgd::fgsm(threat),
            Kind::RFgsm => Pgd::r_fgsm(threat),
            Kind::FgsmRs => Pgd { alpha: alpha.unwrap_or(1.25 * eps), ..Pgd::fgsm_rs(threat) },
        };
        pgd.restarts = self.restarts.map_or(1, |n| n as usize);
        // One start from a file leaves nothing to be drawn.
        if self.random_start == Some(false) || (given_starts && pgd.restarts == 1) {
            pgd.start = Start::Clean;
        }
        Ok(Pgd { loss: self.loss, target: self.target, keep: self.keep, ..pgd })
    }

    fn refuse_unused(&self, given_starts: bool) -> Result<()> {
        let (kind, name) = (self.attack, self.attack.name());
        let unused = |option: &str, why: &str| {
            let error = Error::usage(format!("`{option}` is not used by `--attack {name}`: {why}"));
            Err(error.with_hint(format!("leave `{option}` out, or use `--attack pgd`")))
        };
        if self.alpha.is_some() && !kind.has_alpha() {
            let part = if kind == Kind::RFgsm { "half the radius" } else { "the whole radius" };
            return unused("--alpha", &format!("its step is {part}"));
        }
        if self.steps.is_some() && !kind.iterates() {
            return unused("--steps", "it makes one step");
        }
        if self.restarts.is_some() && !kind.starts_at_random() {
            return unused("--restarts", "it starts at the clean image, so every run would be the same");
        }
        if given_starts && kind != Kind::Pgd {
            return unused("--start", "it has a start of its own");
        }
        match self.random_start {
            Some(true) if !kind.starts_at_random() => return unused("--random-start true", "it starts at the clean image"),
            Some(false) if kind.starts_at_random() && kind != Kind::Pgd => {
                return unused("--random-start false", "its start is always random");
            }
            _ => {}
        }
        if self.norm != Norm::Linf && matches!(kind, Kind::RFgsm | Kind::FgsmRs) {
            return unused(&format!("--norm {}", self.norm), "it is defined for `linf` only");
        }
        self.refuse_useless_restarts(given_starts)
    }

    /// Restarts without anything random, and random starts that a file takes the place of.
    fn refuse_useless_restarts(&self, given_starts: bool) -> Result<()> {
        let restarts = self.restarts.unwrap_or(1);
        if restarts > 1 + u32::from(given_starts) && self.random_start == Some(false) {
            return Err(Error::usage(format!("`--restarts {restarts}` with `--random-start false` repeats the same run"))
                .with_hint("leave one of them out"));
        }
        if given_starts && restarts == 1 && self.random_start == Some(true) {
            return Err(Error::usage("`--random-start true` is not used: the only start comes from the file of `--start`")
                .with_hint("leave it out, or add `--restarts 2`: every start after the first is then random"));
        }
        Ok(())
    }

    /// The settled options as they would be typed.
    pub fn words(&self, pgd: &Pgd, given_starts: bool) -> Vec<String> {
        let kind = self.attack;
        let radius = |r| radius_text(self.norm, r);
        let mut words: Vec<(&str, String)> =
            vec![("--attack", kind.name().into()), ("--norm", self.norm.to_string()), ("--eps", radius(pgd.threat.eps))];
        if kind.has_alpha() {
            words.push(("--alpha", radius(pgd.alpha)));
        }
        if kind.iterates() {
            words.push(("--steps", pgd.steps.to_string()));
        }
        if kind.starts_at_random() {
            words.push(("--restarts", pgd.restarts.to_string()));
        }
        if kind == Kind::Pgd && !(given_starts && pgd.restarts == 1) {
            words.push(("--random-start", (pgd.start != Start::Clean).to_string()));
        }
        words.push(("--loss", pgd.loss.name().into()));
        words.push(("--target", pgd.target.to_string()));
        words.push(("--return", pgd.keep.to_string()));
        words.into_iter().flat_map(|(option, value)| [option.to_string(), value]).collect()
    }
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
    fn settled(line: &str) -> Pgd {
        typed(line).resolve(false).expect(line)
    }
    fn refused(line: &str, given_starts: bool) -> String {
        typed(line).resolve(given_starts).expect_err(line).to_string()
    }

    #[test]
    fn defaults_follow_the_norm_and_are_not_scaled() {
        let linf = settled("");
        assert_eq!((linf.threat.eps, linf.alpha, linf.steps, linf.restarts), (8.0 / 255.0, 2.0 / 255.0, 20, 1));
        assert_eq!(linf.start, Start::Random);
        let l2 = settled("--norm L2");
        assert_eq!((l2.threat.eps, l2.alpha), (0.5, 0.1));
        let l1 = settled("--norm 1 --eps 3");
        assert_eq!((l1.threat.eps, l1.alpha), (3.0, 1.0));
        let rs = settled("--attack ffgsm --eps 4/255");
        assert_eq!((rs.alpha, rs.steps), (1.25 * (4.0 / 255.0), 1));
    }

    #[test]
    fn other_names_mean_the_same() {
        let own = settled("--eps 0.1 --alpha 0.01 --steps 7 --restarts 3 --random-start true --norm linf --attack pgd");
        for line in [
            "--epsilon .1 --eps-iter .01 --nb-iter 7 --n-restarts 3 --rand-init --norm Linf",
            "--epsilon 0.1 --step-size 0.01 --n-iter 7 --num-restarts 3 --rand-init 1 --norm inf",
            "--eps 1e-1 --pgd-alpha 1e-2 --attack-iters 7 --restarts 3 --attack PGD",
            "--eps 1/10 --alpha 1/100 --num-steps 7 --restarts 3",
            "--eps 1/10 --alpha 1/100 --max-iter 7 --restarts 3",
        ] {
            assert_eq!(settled(line), own, "{line}");
        }
        assert_eq!(settled("--attack i-fgsm"), settled("--attack bim"));
        assert_eq!(settled("--attack rfgsm"), settled("--attack r-fgsm"));
    }

    #[test]
    fn unused_options_are_refused_naming_both() {
        for (line, option) in [
            ("--attack fgsm --steps 1", "--steps"),
            ("--attack fgsm --alpha 0.1", "--alpha"),
            ("--attack fgsm --restarts 2", "--restarts"),
            ("--attack bim --restarts 2", "--restarts"),
            ("--attack bim --random-start true", "--random-start true"),
            ("--attack r-fgsm --alpha 0.1", "--alpha"),
            ("--attack fgsm-rs --steps 3", "--steps"),
            ("--attack fgsm-rs --random-start false", "--random-start false"),
            ("--attack r-fgsm --norm l2", "--norm l2"),
            ("--attack fgsm-rs --norm l1", "--norm l1"),
        ] {
            let said = refused(line, false);
            let attack = line.split_whitespace().nth(1).expect("a name");
            assert!(said.contains(&format!("`{option}`")) && said.contains(&format!("`--attack {attack}`")), "{said}");
        }
        settled("--attack fgsm --target none --loss dlr --random-start false");
        settled("--attack bim --random-start false");
    }

    #[test]
    fn starts_from_a_file() {
        assert_eq!(typed("").resolve(true).expect("pgd takes them").start, Start::Clean);
        assert_eq!(typed("--restarts 2").resolve(true).expect("pgd takes them").start, Start::Random);
        typed("--restarts 2 --random-start false").resolve(true).expect("a file, then the clean image");
        assert!(refused("--attack bim", true).contains("`--start`"));
        assert!(refused("--random-start true", true).contains("`--random-start true`"));
        assert!(refused("--restarts 3 --random-start false", true).contains("`--restarts 3`"));
        assert!(refused("--restarts 2 --random-start false", false).contains("`--restarts 2`"));
    }

    #[test]
    fn the_words_settle_to_the_same_attack() {
        for line in [
            "",
            "--attack fgsm --eps .1",
            "--attack r-fgsm --restarts 3",
            "--attack fgsm-rs --eps 3/255",
            "--attack bim --norm l2 --eps 0.7 --target 3 --return first-success",
            "--norm l1 --random-start false --loss margin --target least-likely --return best-loss",
        ] {
            let (args, pgd) = (typed(line), settled(line));
            let words = args.words(&pgd, false).join(" ");
            assert_eq!(settled(&words), pgd, "{line} -> {words}");
        }
    }
}
