//! Spectra of image sets: densities, power laws, bands, and balanced spectrum sampling (BaSS), on the CPU or a card.
//! Must not know models or attacks. The long tail of frequencies and BaSS: Zhang and others, 2021.
//!
//! One convention everywhere, that of [`crate::graph::Rings`]: the mean of a shifted spectrum lies at (H/2, W/2), rounded down;
//! ring r holds what lies r to r + 1 away from it.

mod bands;
mod bass;
mod density;
mod law;
mod runner;

pub use crate::cpu::fft::bass_weights;
pub use crate::graph::Rings;
pub use bands::Band;
pub use bass::{bass, bass_bytes, bass_with_probability};
pub use density::{Channels, Definition, Density, Energy, Radius};
pub use law::{Law, band_entropy, fit};
pub use runner::{Runner, Task};
