//! Transforms of images, filters and sums over rings.
//! Must not know how they are computed.

use petard::graph::Op;

use crate::cards::Site;

/// `fft.forward` and `n64.32x32.c3`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let name = match site.op() {
        Op::Rfft2 { .. } => "fft.forward",
        Op::Irfft2 { .. } => "fft.inverse",
        Op::SpectrumFilter => "fft.filter",
        Op::RingSums { .. } => "fft.rings",
        _ => return None,
    };
    let shape = if matches!(site.op(), Op::Irfft2 { .. }) { site.graph.shape(site.value) } else { site.input(0) };
    Some((name, site.text(shape)))
}
