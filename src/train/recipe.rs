//! What a network is trained on: clean images, or images attacked on the way, with the published defaults.
//! Must not know how a step is computed.
//! Madry et al. 2018, <https://arxiv.org/abs/1706.06083>; Wong et al. 2020, <https://arxiv.org/abs/2001.03994>;
//! Rice et al. 2020, <https://arxiv.org/abs/2002.11569>.

use crate::threat::{Norm, ThreatModel};

/// A way of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// On the images as they are.
    Standard,
    /// On images attacked by PGD (Madry et al.).
    PgdAt,
    /// On images attacked by one long step from a random start (Wong et al.).
    FgsmRs,
}

/// Mode of batch norms while training images are attacked. The training step itself always uses the batch's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNorm {
    /// Running statistics, untouched: the attack meets the network as it would be deployed.
    Eval,
    /// The batch's statistics; every step of the attack moves the running statistics, as in the code of Rice et al.
    Train,
}

/// How training images are attacked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crafting {
    /// Norm and radius.
    pub threat: ThreatModel,
    /// Length of a step.
    pub alpha: f64,
    /// Steps, from a random start in the ball.
    pub steps: usize,
    /// Mode of batch norms meanwhile.
    pub batch_norm: BatchNorm,
}

impl Recipe {
    /// `standard`, `pgd-at`, `fgsm-rs`.
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Standard => "standard",
            Recipe::PgdAt => "pgd-at",
            Recipe::FgsmRs => "fgsm-rs",
        }
    }

    /// The attack of the recipe within `threat`, batch norms in train mode.
    ///
    /// PGD takes ten steps: in L-inf of a quarter of the radius (2/255 for 8/255), in L2 of 15/128 of it (15/255 for
    /// 128/255), both as Rice et al. do; in L1 of a quarter, for want of a source. FGSM-RS takes one step of 1.25 times
    /// the radius (10/255), as Wong et al. do.
    pub fn crafting(self, threat: ThreatModel) -> Option<Crafting> {
        let batch_norm = BatchNorm::Train;
        let share = if threat.norm == Norm::L2 { 15.0 / 128.0 } else { 0.25 };
        match self {
            Recipe::Standard => None,
            Recipe::PgdAt => Some(Crafting { threat, alpha: share * threat.eps, steps: 10, batch_norm }),
            Recipe::FgsmRs => Some(Crafting { threat, alpha: 1.25 * threat.eps, steps: 1, batch_norm }),
        }
    }
}

impl BatchNorm {
    /// `eval` or `train`.
    pub fn name(self) -> &'static str {
        match self {
            BatchNorm::Eval => "eval",
            BatchNorm::Train => "train",
        }
    }
}
