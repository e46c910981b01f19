//! What a network is trained on and what a step minimises, with the published defaults of each recipe.
//! Must not know how a step is computed.
//! PGD: Madry et al. 2018, <https://arxiv.org/abs/1706.06083>, with the settings of Rice et al. 2020,
//! <https://arxiv.org/abs/2002.11569>; FGSM-RS: Wong et al. 2020, <https://arxiv.org/abs/2001.03994>; TRADES: Zhang et al. 2019,
//! <https://arxiv.org/abs/1901.08573>; MART: Wang et al. 2020, <https://openreview.net/forum?id=rklOg6EFwS>; ALP: Kannan et al.
//! 2018, <https://arxiv.org/abs/1803.06373>; Free: Shafahi et al. 2019, <https://arxiv.org/abs/1904.12843>; AVmixup: Lee et al.
//! 2020, <https://arxiv.org/abs/2003.02484>; MMA: Ding et al. 2020, <https://arxiv.org/abs/1812.02637>.

use serde_json::{Value as Json, json};

use super::schedule::Schedule;
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
    /// Cross-entropy of clean images, and how far an attack moves the answer (Zhang et al.).
    Trades,
    /// Boosted cross-entropy, and the same distance weighted by doubt (Wang et al.).
    Mart,
    /// Clean and attacked images with their logits pulled together (Kannan et al.).
    Alp,
    /// Each batch several times, one backward pass for weights and images alike (Shafahi et al.).
    Free,
    /// Between an image and a point beyond its attacked form, with labels to match (Lee et al.).
    AvMixup,
    /// Each image at its own distance from the boundary (Ding et al.).
    Mma,
}

/// Mode of batch norms while training images are attacked. The training step itself always uses the batch's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNorm {
    /// Running statistics, untouched: the attack meets the network as it would be deployed.
    Eval,
    /// The batch's statistics; every step of the attack moves the running statistics, as in the code of Rice et al.
    Train,
    /// The batch's statistics; the running ones stay as they are.
    Frozen,
}

/// What an attack climbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ascent {
    /// The cross-entropy.
    CrossEntropy,
    /// The divergence from the answer to the clean image.
    Kl,
    /// The best other class against the label, softly.
    SoftMargin,
}

/// Where an attack starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// Anywhere in the ball.
    Ball,
    /// The image and normal noise of this deviation.
    Noise(f64),
}

/// How training images are attacked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crafting {
    /// Norm and radius.
    pub threat: ThreatModel,
    /// Length of a step.
    pub alpha: f64,
    /// Steps.
    pub steps: usize,
    /// Mode of batch norms meanwhile.
    pub batch_norm: BatchNorm,
    /// What it climbs.
    pub ascent: Ascent,
    /// Where it starts.
    pub start: Start,
}

impl Crafting {
    /// PGD on the cross-entropy from a random start.
    pub fn pgd(threat: ThreatModel, alpha: f64, steps: usize, batch_norm: BatchNorm) -> Self {
        Crafting { threat, alpha, steps, batch_norm, ascent: Ascent::CrossEntropy, start: Start::Ball }
    }
}

/// What a training step minimises: a sum of these terms, 0 leaving one out. Clean and attacked images go through the network
/// apart, the clean ones first, each with its own batch statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outer {
    /// Share of the loss of clean images.
    pub clean: f64,
    /// Share of the loss of attacked images.
    pub attacked: f64,
    /// Weight of `KL(p(clean) || p(attacked))`.
    pub kl: f64,
    /// Weight of the squared difference of logits.
    pub squared: f64,
    /// How that is averaged.
    pub pairing: Pairing,
    /// MART's loss, with this weight of its divergence.
    pub mart: Option<f64>,
    /// Running statistics see the clean images again at the end, as in TRADES' code, which runs them twice.
    pub clean_twice: bool,
}

impl Outer {
    /// The loss of the images as they stand.
    pub const PLAIN: Outer =
        Outer { clean: 0.0, attacked: 1.0, kl: 0.0, squared: 0.0, pairing: Pairing::Rows, mart: None, clean_twice: false };

    /// Whether the clean images go through the network too.
    pub fn reads_clean(&self) -> bool {
        self.clean != 0.0 || self.kl != 0.0 || self.squared != 0.0 || self.mart.is_some()
    }
}

/// How logit pairing averages its squared difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Over images and classes, as in the papers' code.
    Entries,
    /// Over images, summed over classes.
    Rows,
}

/// Labels and reach of AVmixup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AvMix {
    /// How far beyond the attacked image the other end lies: 2 is twice its distance.
    pub stretch: f64,
    /// Share of the label in the target of a clean image, and in that of the other end; the rest is spread evenly.
    pub label: [f64; 2],
}

/// Numbers of MMA.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mma {
    /// Share of the clean loss in the whole.
    pub clean_share: f64,
    /// Largest distance at which an image still counts.
    pub hinge: f64,
    /// Radius that an image starts with and never falls below.
    pub least: f64,
    /// Radius that the search never leaves, as a multiple of `hinge`.
    pub most: f64,
    /// Halvings of the way to the boundary.
    pub bisections: usize,
}

/// What is minimised, on which images, how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Method {
    /// The terms of the loss.
    pub outer: Outer,
    /// Times each batch is used.
    pub replays: usize,
    /// For AVmixup.
    pub avmix: Option<AvMix>,
    /// For MMA.
    pub mma: Option<Mma>,
}

impl Method {
    /// The values that say something, in the order they are printed.
    pub fn parameters(&self) -> Vec<(&'static str, Json)> {
        let Outer { clean, attacked, kl, squared, pairing, mart, clean_twice } = self.outer;
        let mut out = Vec::new();
        if self.outer.reads_clean() {
            out.extend([("clean_loss", json!(clean)), ("attacked_loss", json!(attacked))]);
            out.push(("running_statistics", json!(if clean_twice { "clean attacked clean" } else { "clean attacked" })));
        }
        out.extend((kl > 0.0).then(|| ("beta", json!(kl))));
        out.extend(mart.map(|weight| ("beta", json!(weight))));
        if squared > 0.0 {
            out.extend([("pairing_weight", json!(squared)), ("pairing", json!(pairing.name()))]);
        }
        out.extend((self.replays > 1).then(|| ("replays", json!(self.replays))));
        if let Some(AvMix { stretch, label }) = self.avmix {
            out.extend([("stretch", json!(stretch)), ("labels", json!(label))]);
        }
        if let Some(m) = self.mma {
            out.extend([("clean_share", json!(m.clean_share)), ("hinge", json!(m.hinge)), ("least_radius", json!(m.least))]);
            out.extend([("most_radius", json!(m.most * m.hinge)), ("bisections", json!(m.bisections))]);
        }
        out
    }
}

/// Everything that a recipe settles, before it is overridden.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Passes over the images; for Free already divided by the replays.
    pub epochs: usize,
    /// Largest learning rate.
    pub lr_max: f64,
    /// How it moves.
    pub schedule: Schedule,
    /// Weight decay.
    pub weight_decay: f64,
    /// The attack within the threat model asked for.
    pub crafting: Option<Crafting>,
    /// What is minimised, on which images.
    pub method: Method,
}

impl Recipe {
    /// All of them.
    pub const ALL: [Recipe; 9] = [
        Recipe::Standard,
        Recipe::PgdAt,
        Recipe::FgsmRs,
        Recipe::Trades,
        Recipe::Mart,
        Recipe::Alp,
        Recipe::Free,
        Recipe::AvMixup,
        Recipe::Mma,
    ];

    /// `standard`, `pgd-at`, `fgsm-rs`, `trades`, `mart`, `alp`, `free`, `avmixup`, `mma`.
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Standard => "standard",
            Recipe::PgdAt => "pgd-at",
            Recipe::FgsmRs => "fgsm-rs",
            Recipe::Trades => "trades",
            Recipe::Mart => "mart",
            Recipe::Alp => "alp",
            Recipe::Free => "free",
            Recipe::AvMixup => "avmixup",
            Recipe::Mma => "mma",
        }
    }

    /// What it is, with its paper.
    pub fn about(self) -> &'static str {
        match self {
            Recipe::Standard => "the images as they are",
            Recipe::PgdAt => "images attacked by PGD (Madry et al. 2018, arXiv 1706.06083; settings of Rice et al. 2020)",
            Recipe::FgsmRs => "images attacked by one step from a random start (Wong et al. 2020, arXiv 2001.03994)",
            Recipe::Trades => "clean loss and divergence under attack (Zhang et al. 2019, arXiv 1901.08573)",
            Recipe::Mart => "boosted loss and weighted divergence (Wang et al. 2020, ICLR, openreview rklOg6EFwS)",
            Recipe::Alp => "clean and attacked, logits paired (Kannan et al. 2018, arXiv 1803.06373)",
            Recipe::Free => "batches replayed, one backward pass for all (Shafahi et al. 2019, arXiv 1904.12843)",
            Recipe::AvMixup => "between an image and beyond its attacked form (Lee et al. 2020, arXiv 2003.02484)",
            Recipe::Mma => "each image at its own margin (Ding et al. 2020, arXiv 1812.02637)",
        }
    }

    /// The attack of the recipe within `threat`.
    ///
    /// PGD takes ten steps: in L-inf of a quarter of the radius (2/255 for 8/255), in L2 of 15/128 of it (15/255 for
    /// 128/255), both as Rice et al. do; in L1 of a quarter, for want of a source. FGSM-RS takes one step of 1.25 times
    /// the radius (10/255), as Wong et al. do. TRADES and MART start from a little noise, batch norms in eval mode; TRADES
    /// steps in L2 by twice the radius over the steps. The attack of Free is in the step itself.
    pub fn crafting(self, threat: ThreatModel) -> Option<Crafting> {
        let l2 = threat.norm == Norm::L2;
        let pgd = Crafting::pgd(threat, if l2 { 15.0 / 128.0 } else { 0.25 } * threat.eps, 10, BatchNorm::Train);
        let noisy = Crafting {
            alpha: if l2 { 2.0 * threat.eps / 10.0 } else { 7.0 / 31.0 * threat.eps },
            batch_norm: BatchNorm::Eval,
            start: Start::Noise(0.001),
            ..pgd
        };
        match self {
            Recipe::Standard => None,
            Recipe::PgdAt => Some(pgd),
            Recipe::FgsmRs => Some(Crafting { alpha: 1.25 * threat.eps, steps: 1, ..pgd }),
            Recipe::Trades => Some(Crafting { ascent: Ascent::Kl, ..noisy }),
            Recipe::Mart => Some(noisy),
            Recipe::Alp => Some(Crafting { batch_norm: BatchNorm::Eval, ..pgd }),
            Recipe::Free => Some(Crafting { alpha: threat.eps, steps: 0, ..pgd }),
            Recipe::AvMixup => Some(Crafting { batch_norm: BatchNorm::Eval, ..pgd }),
            Recipe::Mma => Some(Crafting { batch_norm: BatchNorm::Eval, ascent: Ascent::SoftMargin, ..pgd }),
        }
    }

    /// The settings of its paper, or of the code that came with it.
    pub fn defaults(self, threat: ThreatModel) -> Defaults {
        let step = |milestones: &[usize], factor| Schedule::Step { milestones: milestones.to_vec(), factor };
        let base = Defaults {
            epochs: 200,
            lr_max: 0.1,
            schedule: Schedule::step_at_half(200),
            weight_decay: 5e-4,
            crafting: self.crafting(threat),
            method: self.method(threat),
        };
        match self {
            Recipe::Standard => Defaults { epochs: 30, lr_max: 0.2, schedule: Schedule::OneCycle, ..base },
            Recipe::PgdAt | Recipe::Alp => base,
            Recipe::FgsmRs => Defaults { epochs: 15, lr_max: 0.2, schedule: Schedule::Cyclic, ..base },
            Recipe::Trades => Defaults { epochs: 76, schedule: step(&[75], 0.1), weight_decay: 2e-4, ..base },
            Recipe::Mart => {
                let schedule = step(&[75, 90, 100], 0.1);
                Defaults { epochs: 120, lr_max: 0.01, schedule, weight_decay: 3.5e-3, ..base }
            }
            Recipe::Free => Defaults { epochs: 10, lr_max: 0.04, schedule: Schedule::Cyclic, ..base },
            Recipe::AvMixup => Defaults { schedule: step(&[100, 150], 0.1), weight_decay: 2e-4, ..base },
            // 50,000 steps with batches of 128; the falls at 20, 30 and 40 thousand.
            Recipe::Mma => Defaults { epochs: 128, lr_max: 0.3, schedule: step(&[51, 77, 103], 0.3), weight_decay: 2e-4, ..base },
        }
    }

    /// What the recipe minimises. MMA's hinge is 32/255 for a radius of 8/255, and in proportion for others.
    pub fn method(self, threat: ThreatModel) -> Method {
        let base = Method { outer: Outer::PLAIN, replays: 1, avmix: None, mma: None };
        let outer = |outer| Method { outer, ..base };
        match self {
            Recipe::Standard | Recipe::PgdAt | Recipe::FgsmRs => base,
            Recipe::Trades => outer(Outer { clean: 1.0, attacked: 0.0, kl: 6.0, clean_twice: true, ..Outer::PLAIN }),
            Recipe::Mart => outer(Outer { attacked: 0.0, mart: Some(5.0), ..Outer::PLAIN }),
            Recipe::Alp => outer(Outer { clean: 0.5, attacked: 0.5, squared: 0.5, pairing: Pairing::Entries, ..Outer::PLAIN }),
            Recipe::Free => Method { replays: 8, ..base },
            Recipe::AvMixup => Method { avmix: Some(AvMix { stretch: 2.0, label: [1.0, 0.1] }), ..base },
            Recipe::Mma => {
                let mma = Mma { clean_share: 1.0 / 3.0, hinge: 4.0 * threat.eps, least: 0.005, most: 1.05, bisections: 10 };
                Method { mma: Some(mma), outer: Outer { clean: 1.0, ..Outer::PLAIN }, ..base }
            }
        }
    }
}

impl BatchNorm {
    /// `eval`, `train` or `frozen`.
    pub fn name(self) -> &'static str {
        match self {
            BatchNorm::Eval => "eval",
            BatchNorm::Train => "train",
            BatchNorm::Frozen => "frozen",
        }
    }
}

impl Pairing {
    /// `entries` or `rows`.
    pub fn name(self) -> &'static str {
        match self {
            Pairing::Entries => "entries",
            Pairing::Rows => "rows",
        }
    }
}

impl Ascent {
    /// `ce`, `kl` or `soft-margin`.
    pub fn name(self) -> &'static str {
        match self {
            Ascent::CrossEntropy => "ce",
            Ascent::Kl => "kl",
            Ascent::SoftMargin => "soft-margin",
        }
    }
}

impl Start {
    /// `ball`, or `noise` with its deviation.
    pub fn describe(self) -> String {
        match self {
            Start::Ball => "ball".into(),
            Start::Noise(sigma) => format!("noise {sigma}"),
        }
    }
}
