//! What several attacks leave to choose: the loss that is climbed, and which iterate is returned.
//! Must not know any attack.

use std::fmt;

use crate::graph::Loss;

/// The loss an attack climbs, before it is known whether it is targeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackLoss {
    /// Cross-entropy.
    CrossEntropy,
    /// Difference between the best other logit and the label's.
    Margin,
    /// Difference of logits ratio.
    Dlr,
    /// The logit itself: that of the label falls, or that of the target rises.
    Logit,
}

impl AttackLoss {
    /// `ce`, `margin`, `dlr`, `logit`.
    pub fn name(self) -> &'static str {
        match self {
            AttackLoss::CrossEntropy => "ce",
            AttackLoss::Margin => "margin",
            AttackLoss::Dlr => "dlr",
            AttackLoss::Logit => "logit",
        }
    }
    /// The loss on logits. With fewer classes than DLR needs (3, towards a target 4) the margin takes its place.
    pub(super) fn on_logits(self, targeted: bool, classes: usize) -> Loss {
        match (self, targeted) {
            (AttackLoss::CrossEntropy, false) => Loss::CrossEntropy { smoothing: 0.0 },
            (AttackLoss::CrossEntropy, true) => Loss::TargetedCrossEntropy,
            (AttackLoss::Margin, false) => Loss::Margin,
            (AttackLoss::Margin, true) => Loss::TargetedMargin,
            (AttackLoss::Dlr, false) if classes >= 3 => Loss::Dlr,
            (AttackLoss::Dlr, false) => Loss::Margin,
            (AttackLoss::Dlr, true) if classes >= 4 => Loss::TargetedDlr,
            (AttackLoss::Dlr, true) => Loss::TargetedDifference,
            (AttackLoss::Logit, false) => Loss::Logit,
            (AttackLoss::Logit, true) => Loss::TargetedLogit,
        }
    }
}

/// Which iterate is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last one.
    Last,
    /// The one with the highest loss, the start included.
    BestLoss,
    /// The first that reaches the goal, at which the image leaves; else the last.
    FirstSuccess,
    /// The last that reaches the goal; else the last.
    LastSuccess,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keep::Last => "last",
            Keep::BestLoss => "best-loss",
            Keep::FirstSuccess => "first-success",
            Keep::LastSuccess => "last-success",
        })
    }
}
