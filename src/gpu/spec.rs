//! A kernel as a value: which entry of which file, compiled for which constants. Equal specs are one cubin.
//! Must not know devices or compilers.

use std::collections::BTreeMap;
use std::fmt;

use super::source::{FILES, Source};

/// Which kernel, specialised how.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelSpec {
    /// File in `kernels/` without `.cu`.
    pub file: &'static str,
    /// `extern "C"` entry of that file.
    pub entry: &'static str,
    /// `P_NAME` and its value, as the compiler gets them.
    pub constants: BTreeMap<&'static str, i64>,
}

impl KernelSpec {
    /// An entry without constants. Panics where there is no such file: specs are written beside their kernels.
    pub fn new(file: &'static str, entry: &'static str) -> Self {
        assert!(FILES.iter().any(|f| f.path.strip_suffix(".cu") == Some(file)), "no kernel file `{file}.cu`");
        KernelSpec { file, entry, constants: BTreeMap::new() }
    }
    /// The same with a constant; the name begins with `P_`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl TryInto<i64>) -> Self {
        assert!(name.starts_with("P_"), "constant `{name}` lacks its prefix");
        let value = value.try_into().ok().unwrap_or_else(|| panic!("constant `{name}` of `{}` exceeds 63 bits", self.entry));
        assert!(self.constants.insert(name, value).is_none(), "constant `{name}` of `{}` is given twice", self.entry);
        self
    }
    /// The same with the bits of a float; the kernel reads them with `float_of`.
    #[must_use]
    pub fn with_f32(self, name: &'static str, value: f32) -> Self {
        self.with(name, value.to_bits())
    }
    /// The definitions that go before the kernel's text: `(name, value)`.
    pub fn definitions(&self) -> impl Iterator<Item = (&'static str, i64)> + '_ {
        self.constants.iter().map(|(&name, &value)| (name, value))
    }
    /// The kernel's text with everything it includes.
    pub fn source(&self) -> Source {
        Source::of(self.file)
    }
}

impl fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry)?;
        self.constants.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}
