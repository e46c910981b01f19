//! What an attack that looks for the nearest adversarial image says of all radii at once.
//! Must not know how a report looks.

use crate::outcome::Outcome;
use crate::threat::{Distance, Norm};

/// Every distance that is reported, the goal's among them.
pub(super) const DISTANCES: [Distance; 4] =
    [Distance::Norm(Norm::Linf), Distance::Norm(Norm::L2), Distance::Norm(Norm::L1), Distance::L0];

/// Shares of the broken images at whose distances the curve is drawn where no radii were asked for.
const SHARES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];

/// A point of the curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Radius, in the goal's distance.
    pub radius: f64,
    /// Images right and not broken within it.
    pub robust: usize,
}

/// Middle, mean and largest of some distances.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub median: f64,
    pub mean: f64,
    pub largest: f64,
}

/// Distances of the broken images in rising order.
fn broken(outcome: &Outcome, distance: Distance) -> Vec<f64> {
    let p = &outcome.per_image;
    let measured: Vec<f64> = match distance {
        Distance::L0 => p.l0.iter().map(|&v| v as f64).collect(),
        Distance::Norm(Norm::Linf) => p.linf.clone(),
        Distance::Norm(Norm::L2) => p.l2.clone(),
        Distance::Norm(Norm::L1) => p.l1.clone(),
    };
    let mut found: Vec<f64> = measured.into_iter().zip(&p.success).filter(|(_, success)| **success).map(|(d, _)| d).collect();
    found.sort_by(f64::total_cmp);
    found
}

/// How far the broken images are; nothing where none is broken.
pub(super) fn spread(outcome: &Outcome, distance: Distance) -> Option<Spread> {
    let found = broken(outcome, distance);
    let n = found.len();
    let largest = *found.last()?;
    Some(Spread { median: 0.5 * (found[(n - 1) / 2] + found[n / 2]), mean: found.iter().sum::<f64>() / n as f64, largest })
}

/// Robust accuracy at `radii`, or where shares of the broken images are. A targeted attack breaks what ends at its target.
pub(super) fn curve(outcome: &Outcome, radii: &[f64]) -> Vec<Point> {
    let found = broken(outcome, outcome.goal.distance());
    let at = |share: f64| found[((share * found.len() as f64).ceil() as usize).clamp(1, found.len()) - 1];
    let radii = match radii {
        [] if found.is_empty() => Vec::new(),
        [] => SHARES.map(at).to_vec(),
        asked => asked.to_vec(),
    };
    let point = |radius: f64| Point { radius, robust: outcome.clean_correct - found.iter().filter(|d| **d <= radius).count() };
    radii.into_iter().map(point).collect()
}
