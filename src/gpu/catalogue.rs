//! What the kernel files offer: their entries, and the constants that each file is made for. Read from the texts.
//! Must not know compilers or devices.

use std::collections::BTreeSet;
use std::fmt;

use super::source::{FILES, File, Source};
use super::spec::KernelSpec;
use crate::error::{Error, Result};

/// What begins the definition of an entry.
const ENTRY: &str = "extern \"C\" __global__";

/// Every entry: `(stem of its file, name)`, by file.
pub fn entries() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(|f| f.path.strip_suffix(".cu").map(|stem| (stem, f))).flat_map(|(stem, file)| {
        let names = file.text.split(ENTRY).skip(1);
        names.filter_map(|text| text.split_once("void ")?.1.split_once('(')).map(move |(name, _)| (stem, name.trim()))
    })
}

/// A kernel by its name and constants as [`KernelSpec`] prints them: `pgd_linf`, `P_THREADS=256`, `P_VEC=4`.
///
/// # Errors
/// [`Error::Usage`] for a kernel or constant that does not exist, and for a constant that is missing, given twice or no number.
pub fn spec_of<'a>(entry: &str, words: impl IntoIterator<Item = &'a str>) -> Result<KernelSpec> {
    let (stem, entry) = entries().find(|(_, name)| *name == entry).ok_or_else(|| {
        let names: Vec<&str> = entries().map(|(_, name)| name).collect();
        Error::usage(format!("there is no kernel `{entry}`")).with_hint(format!("kernels are `{}`", names.join("`, `")))
    })?;
    let all = Constants::of(stem);
    let known = || format!("the constants of `kernels/{stem}.cu`: {all}");
    let mut spec = KernelSpec::new(stem, entry);
    for word in words {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("`{word}` is no constant")).with_hint("constants are written `P_NAME=VALUE`"))?;
        let value: i64 = value.parse().map_err(|_| {
            Error::usage(format!("`{value}` in `{word}` is no whole number"))
                .with_hint("a kernel takes a float by the number of its bits: 1.0 is 1065353216")
        })?;
        let name = all
            .names()
            .find(|known| *known == name)
            .ok_or_else(|| Error::usage(format!("`{entry}` has no constant `{name}`")).with_hint(known()))?;
        if spec.constants.contains_key(name) {
            return Err(Error::usage(format!("`{name}` is given twice")));
        }
        spec = spec.with(name, value);
    }
    let missing: Vec<&str> = all.needed.iter().copied().filter(|name| !spec.constants.contains_key(name)).collect();
    if missing.is_empty() {
        return Ok(spec);
    }
    Err(Error::usage(format!("`{entry}` needs `{}`", missing.join("`, `"))).with_hint(known()))
}

/// The constants that a file and what it includes read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constants {
    /// Without one of these it does not compile.
    pub needed: BTreeSet<&'static str>,
    /// These have a default.
    pub optional: BTreeSet<&'static str>,
}

impl Constants {
    /// Those of `kernels/<stem>.cu`.
    pub fn of(stem: &str) -> Self {
        let mut all = Constants::default();
        Source::of(stem).texts().for_each(|file| all.read(file));
        let Constants { needed, optional } = &mut all;
        needed.retain(|name| !optional.contains(name));
        all
    }

    /// All of them.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.needed.iter().chain(&self.optional).copied()
    }

    fn read(&mut self, file: &File) {
        for line in file.text.lines() {
            let code = line.split("//").next().unwrap_or_default();
            let words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("P_"));
            // What is asked for by `#ifdef`, `#ifndef` or `defined` may be missing.
            let asked = ["#if", "#elif"].iter().any(|start| code.trim_start().starts_with(start));
            if asked { self.optional.extend(words) } else { self.needed.extend(words) }
        }
    }
}

impl fmt::Display for Constants {
    /// In alphabetical order, optional ones in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optional = self.optional.iter().map(|name| format!("[{name}]"));
        let names: Vec<String> = self.needed.iter().map(ToString::to_string).chain(optional).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(" "))
    }
}
