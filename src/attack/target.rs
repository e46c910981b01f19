//! Which class a targeted attack aims at.
//! Must not know how an attack works.

use std::fmt;

use crate::error::{Error, Result};
use crate::rng::{self, Purpose, Stream};

/// The aim of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any class but the label.
    None,
    /// The class after the label, the first after the last.
    Next,
    /// The class with the lowest logit on the clean image (of equals the lowest class).
    LeastLikely,
    /// A class other than the label, drawn for each image.
    Random,
    /// One class for all; images of that class are left alone.
    Class(u32),
    /// A class that the caller gives for each image.
    Given,
}

impl Target {
    /// The class aimed at for an image with clean logits `z` and this label; `None` for an untargeted attack, for classes that the caller gives, and where a
    /// label is missing because the clean logits hold a NaN.
    ///
    /// # Errors
    /// [`Error::Usage`] where the class does not exist.
    pub fn choose(self, z: &[f32], label: i32, seed: u64, index: u32) -> Result<Option<i32>> {
        if label < 0 {
            return Ok(None);
        }
        let classes = z.len() as i32;
        Ok(match self {
            Target::None | Target::Given => None,
            Target::Next => Some((label + 1) % classes),
            Target::LeastLikely => {
                let low = (0..z.len()).fold(0, |best, i| if z[i] < z[best] { i } else { best });
                Some(low as i32)
            }
            Target::Random => {
                let stream = Stream { seed, index, step: 0, purpose: Purpose::Class, restart: 0 };
                Some(rng::random_class(&stream, z.len(), label as usize) as i32)
            }
            Target::Class(c) if (c as i32) < classes => Some(c as i32),
            Target::Class(c) => {
                return Err(Error::usage(format!("target class {c} of a model with classes 0 to {}", classes - 1)));
            }
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::None => f.write_str("none"),
            Target::Next => f.write_str("next"),
            Target::LeastLikely => f.write_str("least-likely"),
            Target::Random => f.write_str("random"),
            Target::Class(c) => write!(f, "{c}"),
            Target::Given => f.write_str("given"),
        }
    }
}
