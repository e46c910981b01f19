//! What can be typed as a value: radii with fractions, shares with a percent sign, names with their other names.
//! Must not know which command takes them.

use std::fmt;
use std::ops::Range;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::attack::{AttackLoss, Keep, Kernel, Rule, Target};
use crate::data::Split;
use crate::error::{Error, Result};
use crate::threat::{Distance, Norm};

/// A length above 0 in units of [0,1] pixels: a decimal such as `0.031` or a fraction such as `8/255`, read in f64.
///
/// # Errors
/// [`Error::Usage`] naming `option` and the text.
pub fn radius(option: &str, norm: Norm, text: &str) -> Result<f64> {
    let wrong = |what: &str| Error::usage(format!("`{option} {text}` {what}"));
    let number = |part: &str| part.trim().parse::<f64>().ok();
    let value = match text.split_once('/') {
        None => number(text),
        Some((_, below)) if number(below) == Some(0.0) => return Err(wrong("divides by zero")),
        Some((above, below)) => number(above).zip(number(below)).map(|(a, b)| a / b),
    };
    let Some(value) = value else {
        return Err(wrong("is not a number").with_hint("write a decimal such as `0.031` or a fraction such as `8/255`"));
    };
    if !value.is_finite() {
        return Err(wrong("is not a finite number"));
    }
    if value <= 0.0 {
        return Err(wrong("is not above 0").with_hint("radii and steps are lengths, such as `8/255`"));
    }
    if norm == Norm::Linf && value > 1.0 {
        let error = wrong("is longer than the whole way from black to white: pixels lie in [0,1]");
        let whole = text.trim().parse::<u8>().is_ok();
        let fraction = if whole { format!("{}/255", text.trim()) } else { "8/255".into() };
        return Err(error.with_hint(format!("scripts that count in 8-bit steps mean `{option} {fraction}`")));
    }
    Ok(value)
}

/// A share of images in [0,1]: `0.45` or `45%`.
///
/// # Errors
/// [`Error::Usage`] naming `option` and the text.
pub fn share(option: &str, text: &str) -> Result<f64> {
    let wrong = |what: &str| Error::usage(format!("`{option} {text}` {what}"));
    let (number, unit) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text.trim(), 1.0),
    };
    let Ok(value) = number.parse::<f64>() else {
        return Err(wrong("is not a number").with_hint("write a share such as `0.45` or `45%`"));
    };
    if (0.0..=unit).contains(&value) {
        return Ok(value / unit);
    }
    let error = wrong("is not a share between 0 and 1");
    let percent = (1.0..=100.0).contains(&value);
    Err(if percent { error.with_hint(format!("with a percent sign it would be one: `{option} {number}%`")) } else { error })
}

/// One of several equal parts of a set, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which, from 0.
    pub part: usize,
    /// Of how many.
    pub of: usize,
}

impl Shard {
    /// Its images among `images`: neighbours, and as many in every shard, give or take one.
    pub fn range(self, images: usize) -> Range<usize> {
        self.part * images / self.of..(self.part + 1) * images / self.of
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

/// `I/N` with I from 0 to N - 1.
///
/// # Errors
/// What may be written, for the argument parser to print.
pub fn shard(text: &str) -> std::result::Result<Shard, String> {
    let (part, of) = text.split_once('/').unwrap_or_default();
    match (part.trim().parse(), of.trim().parse()) {
        (Ok(part), Ok(of)) if part < of => Ok(Shard { part, of }),
        _ => Err("write `I/N` with I from 0 to N - 1, such as `0/4` for the first of four".into()),
    }
}

/// A plain number: a decimal or a fraction.
///
/// # Errors
/// What may be written, for the argument parser to print.
pub fn ratio(text: &str) -> std::result::Result<f64, String> {
    let number = |part: &str| part.trim().parse::<f64>().ok().filter(|v| v.is_finite());
    let value = match text.split_once('/') {
        None => number(text),
        Some((above, below)) => number(above).zip(number(below).filter(|&b| b != 0.0)).map(|(a, b)| a / b),
    };
    value.ok_or_else(|| "write a decimal such as `0.9` or a fraction such as `9/10`".into())
}

/// A number of 0 or more: a decimal such as `1.5` or a fraction such as `3/2`, read in f64.
///
/// # Errors
/// What may be written, for the argument parser to print.
pub fn number(text: &str) -> std::result::Result<f64, String> {
    let one = |part: &str| part.trim().parse::<f64>().ok();
    let value = match text.split_once('/') {
        None => one(text),
        Some((above, below)) => one(above).zip(one(below)).map(|(a, b)| a / b),
    };
    let fine = value.filter(|v| v.is_finite() && *v >= 0.0);
    fine.ok_or_else(|| "write a number of 0 or more, such as `1.5` or `3/2`".into())
}

/// The blur of a gradient, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blur(pub Option<Kernel>);

/// The blur of a gradient, or `none`.
///
/// # Errors
/// What may be written, for the argument parser to print.
pub fn blur(text: &str) -> std::result::Result<Blur, String> {
    let name = text.to_lowercase();
    let all = [Kernel::Gaussian, Kernel::Uniform, Kernel::Linear];
    match all.into_iter().find(|k| k.name() == name) {
        None if name != "none" => Err("write `none`, `gaussian`, `uniform` or `linear`".into()),
        found => Ok(Blur(found)),
    }
}

/// A number from 1 up.
///
/// # Errors
/// What may be written, for the argument parser to print.
pub fn count(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "write a whole number from 1 up".into())
}

/// A number above 0: a decimal or a fraction.
///
/// # Errors
/// What may be written, for the argument parser to print.
pub fn positive(text: &str) -> std::result::Result<f64, String> {
    number(text).ok().filter(|v| *v > 0.0).ok_or_else(|| "write a number above 0".into())
}

/// Whose defaults an attack takes, where libraries differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The authors'.
    Official,
    /// Foolbox.
    Foolbox,
    /// Torchattacks.
    Torchattacks,
    /// Su et al. 2018.
    Su2018,
}

/// The aim of an attack: `none`, `next`, `least-likely`, `random`, `given` or the number of a class.
///
/// # Errors
/// What may be written, for the argument parser to print.
pub fn target(text: &str) -> std::result::Result<Target, String> {
    match text.to_lowercase().replace('_', "-").as_str() {
        "none" => Ok(Target::None),
        "next" => Ok(Target::Next),
        "least-likely" => Ok(Target::LeastLikely),
        "random" => Ok(Target::Random),
        "given" => Ok(Target::Given),
        class => class.parse().map(Target::Class).map_err(|_| {
            "write `none`, `next`, `least-likely`, `random`, `given` (with `--targets-file`) or the number of a class".into()
        }),
    }
}

/// `text` as one word of a POSIX shell.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,+@%-".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

impl ValueEnum for Norm {
    fn value_variants<'a>() -> &'a [Self] {
        &[Norm::Linf, Norm::L2, Norm::L1]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Norm::Linf => PossibleValue::new("linf").help("largest change of a pixel").aliases(["inf", "l_inf", "l-inf"]),
            Norm::L2 => PossibleValue::new("l2").help("Euclidean length of the change").aliases(["2", "l_2"]),
            Norm::L1 => PossibleValue::new("l1").help("sum of all changes").aliases(["1", "l_1"]),
        })
    }
}

impl ValueEnum for Distance {
    fn value_variants<'a>() -> &'a [Self] {
        &[Distance::Norm(Norm::Linf), Distance::Norm(Norm::L2), Distance::Norm(Norm::L1), Distance::L0]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Distance::Norm(norm) => norm.to_possible_value(),
            Distance::L0 => Some(PossibleValue::new("l0").help("number of values that change").aliases(["0", "l_0"])),
        }
    }
}

impl ValueEnum for Rule {
    fn value_variants<'a>() -> &'a [Self] {
        &[Rule::En, Rule::L1]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        let value = PossibleValue::new(self.name());
        Some(match self {
            Rule::En => value.help("squared L2 plus `beta` times L1"),
            Rule::L1 => value.help("sum of all changes"),
        })
    }
}

impl ValueEnum for Preset {
    fn value_variants<'a>() -> &'a [Self] {
        &[Preset::Official, Preset::Foolbox, Preset::Torchattacks, Preset::Su2018]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Preset::Official => PossibleValue::new("official").help("the authors'"),
            Preset::Foolbox => PossibleValue::new("foolbox").help("foolbox 3.3"),
            Preset::Torchattacks => PossibleValue::new("torchattacks").help("torchattacks 3.5, without stops for a whole batch"),
            Preset::Su2018 => PossibleValue::new("su2018").help("Su et al. 2018, https://arxiv.org/abs/1808.01688"),
        })
    }
}

impl ValueEnum for AttackLoss {
    fn value_variants<'a>() -> &'a [Self] {
        &[AttackLoss::CrossEntropy, AttackLoss::Margin, AttackLoss::Dlr, AttackLoss::Logit]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        let value = PossibleValue::new(self.name());
        Some(match self {
            AttackLoss::CrossEntropy => value.help("cross-entropy").aliases(["xent", "cross-entropy"]),
            AttackLoss::Margin => value.help("best other logit minus the label's").alias("cw"),
            AttackLoss::Logit => value.help("the label's logit falls, or the target's rises").alias("zvalue"),
            AttackLoss::Dlr => value.help("margin divided by the gap between first and third logit"),
        })
    }
}

impl ValueEnum for Keep {
    fn value_variants<'a>() -> &'a [Self] {
        &[Keep::Last, Keep::BestLoss, Keep::FirstSuccess, Keep::LastSuccess]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Keep::Last => PossibleValue::new("last").help("the last iterate"),
            Keep::BestLoss => PossibleValue::new("best-loss").help("the one with the highest loss").alias("best_loss"),
            Keep::FirstSuccess => {
                PossibleValue::new("first-success").help("the first that succeeds; the image is done then").alias("first_success")
            }
            Keep::LastSuccess => {
                PossibleValue::new("last-success").help("the last that succeeds, else the last").alias("last_success")
            }
        })
    }
}

impl ValueEnum for Split {
    fn value_variants<'a>() -> &'a [Self] {
        &[Split::Test, Split::Train]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<f64>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn radii_are_read_in_f64() {
        let read = |text| radius("--eps", Norm::Linf, text).expect("a radius");
        assert_eq!(read("8/255"), 8.0 / 255.0);
        assert_eq!(read(" 8 / 255 "), 8.0 / 255.0);
        assert_eq!(read("0.5/255"), 0.5 / 255.0);
        assert_eq!((read(".031"), read("1e-3"), read("1")), (0.031, 0.001, 1.0));
        assert_eq!(radius("--eps", Norm::L1, "12").expect("L1 has room"), 12.0);
    }

    #[test]
    fn what_is_no_radius_is_refused() {
        for text in
            ["0", "-0.1", "-8/255", "0/255", "8/0", "0/0", "nan", "inf", "1/inf", "", "/", "8/", "/255", "8/2/5", "abc", "8"]
        {
            let said = message(radius("--eps", Norm::Linf, text));
            assert!(said.starts_with(&format!("`--eps {text}` ")), "{said}");
        }
        let hint = |text| radius("--eps", Norm::Linf, text).expect_err("refused").hint().unwrap_or_default();
        assert!(hint("8").contains("`--eps 8/255`") && hint("1.5").contains("`--eps 8/255`"), "{}", hint("8"));
    }

    #[test]
    fn shares_have_an_optional_percent_sign() {
        let read = |text| share("--expect-robust", text).expect("a share");
        assert_eq!(
            (read("0.45"), read("45%"), read("45 %"), read("0"), read("1"), read("100%")),
            (0.45, 0.45, 0.45, 0.0, 1.0, 1.0)
        );
        for text in ["45", "101%", "-1%", "nan", "x", "%", "1.01"] {
            assert!(message(share("--expect-robust", text)).starts_with(&format!("`--expect-robust {text}` ")));
        }
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("cifar10:a/b-c.d"), "cifar10:a/b-c.d");
        assert_eq!((quoted(""), quoted("a b"), quoted("it's")), ("''".into(), "'a b'".into(), r"'it'\''s'".into()));
    }
}
