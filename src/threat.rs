//! The threat model: which images an attacker may use, and the f64 measure that judges every claimed success.
//! Knows no network and no device.

use std::fmt;

/// A distance between images, over all values of an image in [0,1] units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// Largest absolute difference.
    Linf,
    /// Euclidean distance.
    L2,
    /// Sum of absolute differences.
    L1,
}

impl Norm {
    /// `linf`, `l2`, `l1`.
    pub fn name(self) -> &'static str {
        match self {
            Norm::Linf => "linf",
            Norm::L2 => "l2",
            Norm::L1 => "l1",
        }
    }
}

impl fmt::Display for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
