//! The attacks of the command line: what each is called, which options it takes, how they settle to it. One file a family.
//! Must not know models, images or devices.

mod apgd;
mod black_box;
mod climb;
mod fab;
mod minimum;
mod pgd;
mod transfer;

use std::sync::Arc;

use super::attack_args::AttackArgs;
use crate::attack::Attack;
use crate::error::Result;

/// An attack as it can be asked for.
#[derive(Debug)]
pub struct Entry {
    /// What it is called.
    pub name: &'static str,
    /// What else it is called.
    pub aliases: &'static [&'static str],
    /// What it does, in a line without a full stop.
    pub about: &'static str,
    /// Authors, year, address.
    pub paper: &'static str,
    /// Options that it takes, without dashes; `start` is that of starting images from a file.
    pub uses: &'static [&'static str],
    /// Why it does not take some of the others, where people would expect it.
    pub unused: &'static [(&'static str, &'static str)],
    /// The attack with its parameters settled. Every option that was typed is among `uses`. The second argument: the first
    /// start comes from a file.
    pub build: fn(&AttackArgs, bool) -> Result<Arc<dyn Attack>>,
}

/// Every attack, families in a reader's order.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    [pgd::ENTRIES, fab::ENTRIES, apgd::ENTRIES, black_box::ENTRIES, climb::ENTRIES, transfer::ENTRIES, minimum::ENTRIES]
        .into_iter()
        .flatten()
}

/// The attacks in words.
pub fn list() -> String {
    let one = |e: &Entry| {
        let also = if e.aliases.is_empty() { String::new() } else { format!(" (also {})", e.aliases.join(", ")) };
        let options: Vec<String> = e.uses.iter().map(|option| format!("--{option}")).collect();
        format!("{}{also}\n    {}\n    {}\n    {}\n", e.name, e.about, e.paper, options.join(" "))
    };
    entries().map(one).collect::<Vec<_>>().join("\n")
}
