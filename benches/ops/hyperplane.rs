//! Steps along class boundaries: FAB's in each norm, DeepFool's, and how far a boundary is.
//! Must not know how they are computed.

use petard::graph::{Op, Plane};
use petard::threat::Norm;

use crate::cards::Site;
use crate::meter::Draw;

/// `hyperplane.fab-linf` and `n64.32x32.c3`.
pub fn describe(site: &Site) -> Option<(&'static str, String)> {
    let Op::Hyperplane(plane) = site.op() else { return None };
    let (name, image) = match plane {
        Plane::FabStep { norm: Norm::Linf, .. } => ("hyperplane.fab-linf", 0),
        Plane::FabStep { norm: Norm::L2, .. } => ("hyperplane.fab-l2", 0),
        Plane::FabStep { norm: Norm::L1, .. } => ("hyperplane.fab-l1", 0),
        Plane::DeepFoolStep { .. } => ("hyperplane.deepfool", 0),
        Plane::Distance { .. } => ("hyperplane.distance", 1),
        _ => return None,
    };
    Some((name, site.text(site.input(image))))
}

/// One number of input `i`: images in [0,1], a gradient, a difference of logits; no image has stopped.
pub fn number(plane: Plane, i: usize, draw: &mut Draw) -> f32 {
    match (plane, i) {
        (Plane::FabStep { .. }, 0 | 1) | (Plane::DeepFoolStep { .. }, 0) => draw.unit(),
        (Plane::DeepFoolStep { .. }, 3) => 0.0,
        _ => draw.centred(),
    }
}
