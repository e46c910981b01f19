//! The class boundary near an image, to first order: the difference of two logits and its gradient. The parts that FAB and
//! DeepFool share. Must not know what is done with it.

use crate::graph::{Graph, Loss, Op, Plane, Value, vjp};
use crate::threat::Norm;

/// The most candidates of one step: each is a backward pass in the same graph.
pub(super) const MOST_CANDIDATES: usize = 64;
/// Candidates where nobody says otherwise: all other classes of a network with up to 21.
pub(super) const CANDIDATES: usize = 20;

/// A boundary at `x`.
pub(super) struct Boundary {
    /// Logit of the other class less that of the label, `[N]`.
    pub f: Value,
    /// Its gradient to the image.
    pub w: Value,
}

/// The boundary to the class `other [N]`; `x` is the image that the logits come from.
pub(super) fn towards(g: &mut Graph, logits: Value, label: Value, other: Value, x: Value) -> Boundary {
    let f = g.push(Op::Loss(Loss::TargetedDifference), &[logits, label, other]);
    let cotangent = g.push(Op::LossGrad(Loss::TargetedDifference), &[logits, label, other]);
    let w = vjp(g, logits, cotangent, &[x])[0].expect("logits depend on the image");
    Boundary { f, w }
}

/// The nearest boundary in `norm` among those to the `candidates` classes with the highest logits. One backward pass a
/// candidate, of whose gradients two are in memory at a time.
pub(super) fn nearest(g: &mut Graph, logits: Value, label: Value, x: Value, norm: Norm, candidates: usize) -> Boundary {
    let mut best: Option<(Value, Boundary)> = None;
    for place in 0..candidates {
        let rival = g.push(Op::Hyperplane(Plane::Rival { place }), &[logits, label]);
        let next = towards(g, logits, label, rival, x);
        let far = g.push(Op::Hyperplane(Plane::Distance { norm }), &[next.f, next.w]);
        best = Some(match best {
            None => (far, next),
            Some((before, old)) => {
                let nearer = g.push(Op::Greater, &[before, far]);
                let mut pick = |a, b| g.push(Op::SelectRows, &[nearer, a, b]);
                (pick(far, before), Boundary { f: pick(next.f, old.f), w: pick(next.w, old.w) })
            }
        });
    }
    best.expect("at least one candidate").1
}
