//! AutoAttack: which attacks a version is made of, in which order and with which budgets; each takes what the ones before left.
//! Must not know how any of them works.
//! Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>.

use std::fmt;
use std::sync::Arc;

use super::{Apgd, Attack, Fab, Keep, Square};
use crate::error::{Error, Result};
use crate::threat::{Norm, ThreatModel};

/// A list of attacks that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// APGD-CE, APGD-T, FAB-T and Square: what leaderboards mean.
    Standard,
    /// More of the same, with five restarts.
    Plus,
    /// For randomised networks: APGD on two losses.
    Rand,
    /// A list of one's own, with the settings of `standard`.
    Custom,
}

impl Version {
    /// `standard`, `plus`, `rand`, `custom`.
    pub fn name(self) -> &'static str {
        match self {
            Version::Standard => "standard",
            Version::Plus => "plus",
            Version::Rand => "rand",
            Version::Custom => "custom",
        }
    }

    /// The names of its attacks in their order; none for `custom`.
    pub fn attacks(self) -> &'static [&'static str] {
        match self {
            Version::Standard => &["apgd-ce", "apgd-t", "fab-t", "square"],
            Version::Plus => &["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"],
            Version::Rand => &["apgd-ce", "apgd-dlr"],
            Version::Custom => &[],
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an attack of an ensemble is built from.
#[derive(Clone, Copy, Debug)]
struct Setting {
    threat: ThreatModel,
    version: Version,
    keep: Keep,
}

impl Setting {
    fn l1(&self) -> bool {
        self.threat.norm == Norm::L1
    }
    /// In L1 `standard` makes more of each run, and more runs.
    fn apgd(&self, attack: Apgd) -> Apgd {
        let restarts = match self.version {
            Version::Plus => 5,
            Version::Standard | Version::Custom if self.l1() => 5,
            _ => 1,
        };
        let larger_eps = self.l1() && matches!(self.version, Version::Standard | Version::Custom);
        Apgd { restarts, larger_eps, keep: self.keep, ..attack }
    }
    fn apgd_t(&self) -> Apgd {
        let targets = if self.l1() && self.version != Version::Plus { 5 } else { 9 };
        Apgd { restarts: 1, targets: Some(targets), ..self.apgd(Apgd::targeted(self.threat)) }
    }
}

type Make = fn(&Setting) -> Arc<dyn Attack>;

/// Every attack that an ensemble may hold.
const MEMBERS: &[(&str, Make)] = &[
    ("apgd-ce", |s| Arc::new(s.apgd(Apgd::new(s.threat)))),
    ("apgd-dlr", |s| Arc::new(s.apgd(Apgd::dlr(s.threat)))),
    ("apgd-t", |s| Arc::new(s.apgd_t())),
    ("fab", |s| Arc::new(Fab { restarts: if s.version == Version::Plus { 5 } else { 1 }, ..Fab::new(s.threat) })),
    ("fab-t", |s| Arc::new(Fab::targeted(s.threat))),
    ("square", |s| Arc::new(Square::new(s.threat))),
];

/// The attacks of `version` within `threat`, and those of its names that are not among them.
///
/// With [`Keep::FirstSuccess`] an image leaves an attack at its first success, which changes the returned points but no
/// verdict; [`Keep::LastSuccess`] returns what the reference code does.
pub fn ensemble(threat: ThreatModel, version: Version, keep: Keep) -> (Vec<Arc<dyn Attack>>, Vec<&'static str>) {
    let setting = Setting { threat, version, keep };
    let names = version.attacks();
    let made = names.iter().filter_map(|name| member(name, &setting)).collect();
    (made, names.iter().copied().filter(|name| member(name, &setting).is_none()).collect())
}

/// The attacks of these names in this order, with the settings of `standard`.
///
/// # Errors
/// [`Error::Usage`] where there is no such attack, or none is named.
pub fn chosen(threat: ThreatModel, names: &[&str], keep: Keep) -> Result<Vec<Arc<dyn Attack>>> {
    let setting = Setting { threat, version: Version::Custom, keep };
    let known: Vec<&str> = MEMBERS.iter().map(|(name, _)| *name).collect();
    let one = |name: &&str| {
        member(name, &setting).ok_or_else(|| {
            Error::usage(format!("`{name}` is no attack of an ensemble")).with_hint(format!("there are `{}`", known.join("`, `")))
        })
    };
    if names.is_empty() {
        return Err(
            Error::usage("an ensemble needs at least one attack").with_hint(format!("there are `{}`", known.join("`, `")))
        );
    }
    names.iter().map(one).collect()
}

fn member(name: &str, setting: &Setting) -> Option<Arc<dyn Attack>> {
    MEMBERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, make)| make(setting))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of the reference code by version and norm: name, restarts, targets and larger radii.
    #[test]
    fn budgets_are_those_of_the_reference() {
        let of = |norm, version| -> Vec<(String, u64, Option<u64>, Option<bool>)> {
            let (attacks, _) = ensemble(ThreatModel::new(norm, 0.5), version, Keep::LastSuccess);
            let apgd = attacks.iter().filter(|a| a.name().starts_with("apgd"));
            let row = |a: &Arc<dyn Attack>| {
                let p = a.parameters();
                assert_eq!(p["steps"], 100);
                (
                    a.name().to_string(),
                    p["restarts"].as_u64().expect("a number"),
                    p.get("targets").and_then(|t| t.as_u64()),
                    p.get("larger_eps").and_then(|l| l.as_bool()),
                )
            };
            apgd.map(row).collect()
        };
        let row = |name: &str, restarts, targets, larger| (name.to_string(), restarts, targets, larger);
        for norm in [Norm::Linf, Norm::L2] {
            assert_eq!(of(norm, Version::Standard), [row("apgd-ce", 1, None, None), row("apgd-t", 1, Some(9), None)]);
        }
        let l1 = [row("apgd-ce", 5, None, Some(true)), row("apgd-t", 1, Some(5), Some(true))];
        assert_eq!(of(Norm::L1, Version::Standard), l1);
        let plus = [row("apgd-ce", 5, None, None), row("apgd-dlr", 5, None, None), row("apgd-t", 1, Some(9), None)];
        assert_eq!(of(Norm::Linf, Version::Plus), plus);
        assert_eq!(of(Norm::L2, Version::Rand), [row("apgd-ce", 1, None, None), row("apgd-dlr", 1, None, None)]);
    }

    #[test]
    fn unknown_names_are_refused() {
        let threat = ThreatModel::linf(0.1);
        let error = chosen(threat, &["apgd-t", "fog"], Keep::LastSuccess).expect_err("there is no such attack");
        assert!(error.to_string().contains("`fog`") && error.hint().unwrap_or_default().contains("`apgd-ce`"));
        assert!(chosen(threat, &[], Keep::LastSuccess).is_err());
        let attacks = chosen(threat, &["apgd-t", "APGD-CE"], Keep::LastSuccess).expect("both exist");
        assert_eq!(attacks.iter().map(|a| a.name()).collect::<Vec<_>>(), ["apgd-t", "apgd-ce"]);
    }
}
