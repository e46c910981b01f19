//! The options of attacks, and what they settle to: defaults filled in, what makes no sense refused.
//! Must not know models, images or devices; which attack takes which option stands in [`super::attacks`].

use std::sync::Arc;

use clap::builder::{BoolishValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};

use super::attacks::{Entry, entries};
use super::value::{self, Blur, Preset, count, positive};
use crate::attack::{Attack, AttackLoss, Keep, Rule, Target};
use crate::error::{Error, Result};
use crate::report::radius_text;
use crate::threat::{Distance, Norm, ThreatModel};

/// Heading of these options in the help.
pub const HEADING: &str = "Attack (lengths in units of [0,1] pixels; fractions such as 8/255 are fine)";

/// Which attack. Lengths are in units of [0,1] pixels. What is `None` was not typed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub struct AttackArgs {
    /// Attack; `petard attack --list` says what each does and which options it takes
    #[arg(long, value_name = "NAME", default_value = "pgd", ignore_case = true, hide_possible_values = true,
          value_parser = PossibleValuesParser::new(possible()).map(|name| find(&name)))]
    attack: &'static Entry,
    /// How the change of an image is measured [default: linf; deepfool l2]
    /// How the change of an image is measured; l0 with fmn alone [default: linf]
    #[arg(long, value_enum, ignore_case = true, alias = "ord")]
    norm: Option<Distance>,
    /// Radius: how far an image may be changed [default: linf 8/255, l2 0.5, l1 12]
    #[arg(long, value_name = "LENGTH", alias = "epsilon", allow_hyphen_values = true)]
    eps: Option<String>,
    /// Step size [default: linf 2/255, l2 0.1, l1 1; fgsm-rs 1.25 eps]
    #[arg(long, value_name = "LENGTH", aliases = ["eps-iter", "eps-step", "step-size", "pgd-alpha"], allow_hyphen_values = true)]
    alpha: Option<String>,
    /// Steps [default: 20; attacks with a momentum and tpgd 10; ifgsm-search and deepfool 50; apgd, fab and fab-t 100;
    /// hop-skip-jump 64 rounds]
    #[arg(long, value_name = "N", value_parser = count, aliases = ["nb-iter", "n-iter", "attack-iters", "num-steps", "max-iter"])]
    pub steps: Option<usize>,
    /// Independent runs; an image leaves after the first that breaks it [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536),
          aliases = ["n-restarts", "num-restarts", "random-restarts"])]
    pub restarts: Option<u32>,
    /// Start at random inside the radius [default: pgd true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(),
          alias = "rand-init")]
    pub random_start: Option<bool>,
    /// Loss that is climbed [default: ce]
    #[arg(long, value_enum, ignore_case = true)]
    pub loss: Option<AttackLoss>,
    /// Class to aim at: none (away from the label), next, least-likely, random, or the number of a class [default: none]
    #[arg(long, value_name = "CLASS", value_parser = value::target)]
    pub target: Option<Target>,
    /// Share of steps that must have raised the loss, or APGD halves its step [default: 0.75]
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true)]
    rho: Option<String>,
    /// Attack towards so many classes, one after the other, those that are nearest by their logits [default: 9]
    #[arg(long, value_name = "N", value_parser = count, alias = "n-target-classes")]
    pub targets: Option<usize>,
    /// In L1, start in balls of three and two times the radius, for 30 % of the steps each [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(),
          alias = "use-largereps")]
    pub larger_eps: Option<bool>,
    /// Which iterate is returned [default: last; apgd last-success]
    /// Share of the momentum that the next step keeps [default: 1; di-fgsm and ti-fgsm 0, by the official preset 1]
    #[arg(long, value_name = "X", value_parser = value::number, allow_hyphen_values = true)]
    pub decay: Option<f64>,
    /// Copies x, x/2, x/4, .. whose mean gradient is followed [default: si-ni-fgsm 5, else 1]
    #[arg(long, value_name = "N", value_parser = count, alias = "m")]
    pub copies: Option<usize>,
    /// Probability of a random resize before the network [default: di-fgsm 0.5, ti-fgsm 0.5, else 0]
    #[arg(long, value_name = "P", value_parser = value::number, aliases = ["diversity-prob", "diversity-probability"],
          allow_hyphen_values = true)]
    pub probability: Option<f64>,
    /// Smallest (below 1) or largest (above 1) side of a resized image, in sides [default: 0.9; official 1.1]
    #[arg(long, value_name = "X", value_parser = value::number, alias = "resize-rate", allow_hyphen_values = true)]
    pub resize: Option<f64>,
    /// Blur of the gradient, 15 by 15: none, gaussian, uniform or linear [default: ti-fgsm gaussian, else none]
    #[arg(long, value_name = "NAME", value_parser = value::blur, aliases = ["kernel-name", "kerneltype"])]
    pub kernel: Option<Blur>,
    /// Neighbours whose gradients tune the next step [default: vmi-fgsm and vni-fgsm 5, official 20; else 0]
    #[arg(long, value_name = "N", aliases = ["n-samples", "num-neighbor"])]
    pub samples: Option<usize>,
    /// Difference of logits beyond which nothing is gained, and which cw and ead must reach [default: cw-linf 50; cw and ead
    /// 0]
    #[arg(long, value_name = "X", value_parser = value::number, alias = "confidence", allow_hyphen_values = true)]
    pub kappa: Option<f64>,
    /// Rounds of a search: radii of ifgsm-search, constants of cw and ead, where 1 searches nothing [default: 9]
    #[arg(long, value_name = "N", value_parser = count, alias = "binary-search-steps")]
    pub search_steps: Option<usize>,
    /// Random draws of the input that each gradient is the mean of [default: 1]
    #[arg(long, value_name = "N", value_parser = count, alias = "eot-iter")]
    pub eot: Option<usize>,
    /// Whose defaults are taken where libraries and papers differ [default: attacks with a momentum torchattacks, cw and ead
    /// official]
    #[arg(long, value_enum, ignore_case = true)]
    pub preset: Option<Preset>,
    /// Which iterate is returned [default: last]
    #[arg(long = "return", value_enum, ignore_case = true)]
    pub keep: Option<Keep>,
    /// How far past the boundary a step of FAB goes, 1 being onto it [default: 1.05]
    #[arg(long, value_name = "FACTOR", value_parser = value::ratio, allow_hyphen_values = true)]
    pub eta: Option<f64>,
    /// What is left of the change after FAB's step back [default: 0.9]; how far away the neighbours of vmi-fgsm and vni-fgsm
    /// lie, in radii [default: 1.5]; weight of L1 in ead, and how far values are shrunk [default: 0.001]
    #[arg(long, value_name = "FACTOR", value_parser = value::ratio, allow_hyphen_values = true)]
    pub beta: Option<f64>,
    /// Largest weight of the original image in a step of FAB [default: 0.1]
    #[arg(long, value_name = "SHARE", value_parser = value::ratio, allow_hyphen_values = true)]
    pub alpha_max: Option<f64>,
    /// Classes with the highest logits whose boundaries a step compares, up to 64 [default: 20]
    #[arg(long, value_name = "N", value_parser = count)]
    pub candidates: Option<usize>,
    /// Look for the nearest adversarial image, whatever its distance [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub nearest: Option<bool>,
    /// How far past the boundary a step of DeepFool goes, as a part of the step [default: 0.02]
    #[arg(long, value_name = "SHARE", value_parser = value::ratio, allow_hyphen_values = true)]
    pub overshoot: Option<f64>,
    /// What DeepFool adds to the difference of logits, so that it does not end on the boundary [default: 1e-4]
    #[arg(long, value_name = "LOGIT", value_parser = value::ratio, allow_hyphen_values = true)]
    pub push: Option<f64>,
    /// Queries of an image at most [default: square 5000, hop-skip-jump as its steps take]
    #[arg(long, value_name = "N", value_parser = count, alias = "n-queries")]
    pub queries: Option<usize>,
    /// Share of the image that the first windows cover [default: square 0.8]
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true)]
    pub p_init: Option<String>,
    /// Scale the schedule of windows, made for 10000 queries, to the queries [default: square false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(),
          alias = "resc-schedule")]
    pub rescale_schedule: Option<bool>,
    /// Learning rate, or the length of the first step [default: cw and ead 0.01, ddn and fmn 1]
    #[arg(long, value_name = "RATE", value_parser = positive, alias = "learning-rate")]
    pub lr: Option<f64>,
    /// First constant before the loss [default: cw and ead 0.001]
    #[arg(long, value_name = "C", value_parser = positive, alias = "c")]
    pub initial_const: Option<f64>,
    /// End a round of the search where it gains too little [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub abort_early: Option<bool>,
    /// What images are multiplied by before the inverse of tanh, at most 1: at 1 black and white stay [default: cw 0.999999]
    #[arg(long, value_name = "SHARE", value_parser = positive)]
    pub shrink: Option<f64>,
    /// Which success is kept: the nearest by the elastic net or in L1 [default: en]
    #[arg(long, value_enum, ignore_case = true)]
    pub rule: Option<Rule>,
    /// How fast a radius changes, as a share of it [default: ddn and fmn 0.05]
    #[arg(long, value_name = "SHARE", value_parser = positive)]
    pub gamma: Option<f64>,
    /// Radii at which robust accuracy is reported, from one run [default: where 10, 25, 50, 75 and 90 % of those broken are]
    #[arg(long, value_name = "LENGTH,..", value_delimiter = ',', value_parser = positive)]
    pub radii: Option<Vec<f64>>,
}

/// Names of attacks, with their other names.
fn possible() -> Vec<PossibleValue> {
    entries().map(|e| PossibleValue::new(e.name).aliases(e.aliases.iter().copied())).collect()
}

fn find(name: &str) -> &'static Entry {
    let is = |other: &str| other.eq_ignore_ascii_case(name);
    entries().find(|e| is(e.name) || e.aliases.iter().any(|a| is(a))).expect("clap has checked the name")
}

impl AttackArgs {
    /// The attack with every parameter settled. `given_starts`: the first start comes from a file.
    ///
    /// # Errors
    /// [`Error::Usage`] for a length that is none, and for an option that the attack does not use.
    pub fn resolve(&self, given_starts: bool) -> Result<Arc<dyn Attack>> {
        for option in self.typed() {
            self.attack.refuse(option)?;
        }
        if given_starts {
            self.attack.refuse("start")?;
        }
        if self.norm == Some(Distance::L0) && self.attack.name != "fmn" {
            return Err(Error::usage(format!("`--norm l0` is not used by `--attack {}`", self.attack.name))
                .with_hint("`--attack fmn` is the attack that counts the values it changes"));
        }
        (self.attack.build)(self, given_starts)
    }

    /// Name of the attack.
    pub fn name(&self) -> &'static str {
        self.attack.name
    }

    /// The options that were typed.
    fn typed(&self) -> Vec<&'static str> {
        let all = [
            ("norm", self.norm.is_some()),
            ("eps", self.eps.is_some()),
            ("alpha", self.alpha.is_some()),
            ("steps", self.steps.is_some()),
            ("restarts", self.restarts.is_some()),
            ("random-start", self.random_start.is_some()),
            ("loss", self.loss.is_some()),
            ("target", self.target.is_some()),
            ("return", self.keep.is_some()),
            ("eta", self.eta.is_some()),
            ("beta", self.beta.is_some()),
            ("alpha-max", self.alpha_max.is_some()),
            ("targets", self.targets.is_some()),
            ("candidates", self.candidates.is_some()),
            ("nearest", self.nearest.is_some()),
            ("overshoot", self.overshoot.is_some()),
            ("push", self.push.is_some()),
            ("rho", self.rho.is_some()),
            ("larger-eps", self.larger_eps.is_some()),
            ("queries", self.queries.is_some()),
            ("p-init", self.p_init.is_some()),
            ("rescale-schedule", self.rescale_schedule.is_some()),
            ("decay", self.decay.is_some()),
            ("copies", self.copies.is_some()),
            ("probability", self.probability.is_some()),
            ("resize", self.resize.is_some()),
            ("kernel", self.kernel.is_some()),
            ("samples", self.samples.is_some()),
            ("kappa", self.kappa.is_some()),
            ("search-steps", self.search_steps.is_some()),
            ("eot", self.eot.is_some()),
            ("preset", self.preset.is_some()),
            ("lr", self.lr.is_some()),
            ("initial-const", self.initial_const.is_some()),
            ("abort-early", self.abort_early.is_some()),
            ("shrink", self.shrink.is_some()),
            ("rule", self.rule.is_some()),
            ("gamma", self.gamma.is_some()),
            ("radii", self.radii.is_some()),
        ];
        all.into_iter().filter(|(_, typed)| *typed).map(|(option, _)| option).collect()
    }

    /// The norm, L-inf where none was typed. Only attacks that ask for [`AttackArgs::distance`] are given L0.
    pub fn norm(&self) -> Norm {
        match self.norm {
            Some(Distance::Norm(norm)) => norm,
            Some(Distance::L0) | None => Norm::Linf,
        }
    }

    /// The distance, L-inf where none was typed.
    pub fn distance(&self) -> Distance {
        self.norm.unwrap_or(Distance::Norm(Norm::Linf))
    }

    /// A radius in `norm`, where one was typed.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is none.
    pub fn eps_in(&self, norm: Norm) -> Result<Option<f64>> {
        self.eps.as_deref().map(|text| value::radius("--eps", norm, text)).transpose()
    }

    /// The norm, `default` where none was typed.
    pub fn norm_or(&self, default: Norm) -> Norm {
        if self.norm.is_some() { self.norm() } else { default }
    }

    /// Norm and radius, the radius of the norm where none was typed.
    ///
    /// # Errors
    /// [`Error::Usage`] where the radius is none.
    pub fn threat(&self) -> Result<ThreatModel> {
        let norm = self.norm();
        let eps = self.eps.as_deref().map(|text| value::radius("--eps", norm, text)).transpose()?;
        Ok(ThreatModel::new(norm, eps.unwrap_or_else(|| norm.default_eps())))
    }

    /// Norm and radius, with `eps` as the radius where none was typed.
    ///
    /// # Errors
    /// [`Error::Usage`] where the radius is none.
    pub fn threat_or(&self, eps: f64) -> Result<ThreatModel> {
        let typed = self.threat()?;
        Ok(if self.eps.is_some() { typed } else { ThreatModel { eps, ..typed } })
    }

    /// The step size, where one was typed.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is none.
    pub fn alpha(&self) -> Result<Option<f64>> {
        self.alpha.as_deref().map(|text| value::radius("--alpha", self.norm(), text)).transpose()
    }

    /// The share of rising steps, where one was typed.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is none.
    pub fn rho(&self) -> Result<Option<f64>> {
        self.rho.as_deref().map(|text| value::radius("--rho", Norm::Linf, text)).transpose()
    }

    /// The aim, away from the label where none was typed.
    pub fn target(&self) -> Target {
        self.target.unwrap_or(Target::None)
    }

    /// The settled options as they would be typed: what an attack prints as a parameter under the name of an option.
    pub fn words(&self, attack: &dyn Attack) -> Vec<String> {
        let mut words = vec!["--attack".to_string(), self.attack.name.into()];
        if let Some(radii) = &self.radii {
            words.extend(["--radii".into(), radii.iter().map(f64::to_string).collect::<Vec<_>>().join(",")]);
        }
        for (key, value) in attack.parameters() {
            let option = key.replace('_', "-");
            if !self.attack.uses.contains(&option.as_str()) {
                continue;
            }
            let text = match &value {
                serde_json::Value::Number(n) if n.is_f64() => {
                    radius_text(self.norm(), n.as_f64().expect("a number that is a float"))
                }
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            words.extend([format!("--{option}"), text]);
        }
        words
    }
}

impl Entry {
    /// # Errors
    /// [`Error::Usage`] where the attack does not take `option`, saying why where the reason is not plain.
    fn refuse(&self, option: &str) -> Result<()> {
        if self.uses.contains(&option) {
            return Ok(());
        }
        let why = self.unused.iter().find(|(name, _)| *name == option).map(|(_, why)| format!(": {why}")).unwrap_or_default();
        let mut takers = entries().filter(|e| e.uses.contains(&option)).map(|e| format!("`--attack {}`", e.name));
        let taker = takers.next().map(|name| format!(", or use an attack that takes it, such as {name}")).unwrap_or_default();
        Err(Error::usage(format!("`--{option}` is not used by `--attack {}`{why}", self.name))
            .with_hint(format!("leave `--{option}` out{taker}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        attack: AttackArgs,
    }

    fn typed(line: &str) -> AttackArgs {
        Line::try_parse_from(std::iter::once("petard").chain(line.split_whitespace())).expect(line).attack
    }
    fn settled(line: &str) -> serde_json::Value {
        serde_json::Value::Object(typed(line).resolve(false).expect(line).parameters())
    }
    fn refused(line: &str, given_starts: bool) -> String {
        typed(line).resolve(given_starts).expect_err(line).to_string()
    }

    #[test]
    fn defaults_follow_the_norm_and_are_not_scaled() {
        let has = |line: &str, key: &str, want: serde_json::Value| assert_eq!(settled(line)[key], want, "{line}: {key}");
        has("", "eps", json!(8.0 / 255.0));
        has("", "alpha", json!(2.0 / 255.0));
        has("", "steps", json!(20));
        has("", "restarts", json!(1));
        has("", "random_start", json!(true));
        has("--norm L2", "eps", json!(0.5));
        has("--norm L2", "alpha", json!(0.1));
        has("--norm 1 --eps 3", "eps", json!(3.0));
        has("--norm 1 --eps 3", "alpha", json!(1.0));
        has("--attack ffgsm --eps 4/255", "alpha", json!(1.25 * (4.0 / 255.0)));
        has("--attack ffgsm --eps 4/255", "steps", json!(1));
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
            ("--attack pgd --norm l0", "--norm l0"),
            ("--attack pgd --radii 0.1", "--radii"),
            ("--attack cw --eps 0.1", "--eps"),
            ("--attack fmn --preset official", "--preset"),
            ("--attack fgsm --restarts 2", "--restarts"),
            ("--attack bim --restarts 2", "--restarts"),
            ("--attack bim --random-start true", "--random-start true"),
            ("--attack r-fgsm --alpha 0.1", "--alpha"),
            ("--attack fgsm-rs --steps 3", "--steps"),
            ("--attack fgsm-rs --random-start false", "--random-start false"),
            ("--attack r-fgsm --norm l2", "--norm l2"),
            ("--attack fgsm-rs --norm l1", "--norm l1"),
            ("--attack square --steps 3", "--steps"),
            ("--attack hop-skip-jump --eps 0.1", "--eps"),
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
        let random = |line: &str| typed(line).resolve(true).expect("pgd takes them").parameters()["random_start"] == true;
        assert!(!random("") && random("--restarts 2"));
        typed("--restarts 2 --random-start false").resolve(true).expect("a file, then the clean image");
        assert!(refused("--attack bim", true).contains("`--start`"));
        assert!(refused("--random-start true", true).contains("`--random-start true`"));
        assert!(refused("--restarts 3 --random-start false", true).contains("`--restarts 3`"));
        assert!(refused("--restarts 2 --random-start false", false).contains("`--restarts 2`"));
    }

    #[test]
    fn black_boxes() {
        assert_eq!(settled("--attack square")["loss"], json!("margin"));
        assert_eq!(settled("--attack square --target next")["loss"], json!("ce"));
        assert_eq!(settled("--attack hsj")["norm"], json!("l2"));
        assert!(refused("--attack hsj --target 3", false).contains("needs images of the target class"));
        typed("--attack hsj --target 3").resolve(true).expect("starts are given");
    }

    #[test]
    fn the_words_settle_to_the_same_attack() {
        for line in [
            "",
            "--attack fgsm --eps .1",
            "--attack r-fgsm --restarts 3",
            "--attack fgsm-rs --eps 3/255",
            "--attack bim --norm l2 --eps 0.7 --target 3 --return first-success",
            "--attack square --queries 77 --p-init 0.3 --rescale-schedule",
            "--attack square --norm l1 --target next --loss margin --restarts 2",
            "--attack hsj --norm linf --steps 7 --queries 900",
            "--attack hopskipjump",
            "--attack cw --preset torchattacks --kappa 1/2 --lr 0.1 --target 3",
            "--attack cw --preset su2018 --search-steps 1 --abort-early false --c 8/255",
            "--attack ead --preset foolbox --rule l1 --beta 0",
            "--attack ddn --eps 2 --gamma 0.1 --steps 7 --radii 0.1,1/4",
            "--attack fmn --norm l0",
            "--attack fmn --norm l1 --lr 2",
            "--norm l1 --random-start false --loss margin --target least-likely --return best-loss",
        ] {
            let args = typed(line);
            let words = args.words(args.resolve(false).expect(line).as_ref()).join(" ");
            assert_eq!(settled(&words), settled(line), "{line} -> {words}");
        }
    }
}
