//! What training on a long tail asks for: the loss of an image, what classes give to it, and how often they are drawn.
//! Must not know graphs or devices.
//! Resampling: Shen et al. 2016, <https://arxiv.org/abs/1512.05830>; deferral: Cao et al. 2019,
//! <https://arxiv.org/abs/1906.07413>; RoBal: Wu et al. 2021, <https://arxiv.org/abs/2104.02703>.

use serde_json::{Map, Value as Json, json};

use super::augment::below;
use super::classes::{ClassTable, MultiMargin, class_balanced};
use super::form::Criterion;
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};

/// For long tails; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LongTail {
    /// A loss other than the cross-entropy.
    pub focal: Option<Criterion>,
    /// What classes give to the logits that the loss sees.
    pub margins: Margins,
    /// Beta of class-balanced weights, in [0,1).
    pub balanced: Option<f64>,
    /// Epochs before margins and weights begin.
    pub defer: usize,
    /// How often classes are drawn.
    pub sampler: Sampler,
    /// Only the last linear layer learns; running statistics move as always.
    pub classifier_only: bool,
}

/// What classes give to the logits that the loss sees.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Margins {
    /// Nothing.
    #[default]
    None,
    /// Larger margins for rare classes.
    Ldam {
        /// The largest.
        max: f64,
        /// Scale of the logits.
        scale: f64,
    },
    /// Logits adjusted by how often a class occurs.
    Adjusted {
        /// Strength.
        tau: f64,
    },
    /// Temperatures by class.
    Temperatures {
        /// Strength.
        tau: f64,
    },
    /// RoBal's margins and biases.
    Multi(MultiMargin),
}

/// How often classes are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sampler {
    /// Every image once an epoch.
    #[default]
    Random,
    /// Every class as often as the others: an epoch has the largest class as often as there are classes.
    ClassAware,
    /// By turns one as in `Random` and one as in `ClassAware`; an epoch is as long as the former's.
    Mixed,
}

impl Sampler {
    /// `random`, `class-aware` or `mixed`.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Random => "random",
            Sampler::ClassAware => "class-aware",
            Sampler::Mixed => "mixed",
        }
    }

    /// Images in an epoch over classes of these sizes.
    pub(super) fn length(self, counts: &[usize]) -> usize {
        match self {
            Sampler::Random | Sampler::Mixed => counts.iter().sum(),
            Sampler::ClassAware => counts.iter().filter(|&&n| n > 0).count() * counts.iter().max().copied().unwrap_or(0),
        }
    }

    /// Positions in the order of an epoch, from a random order of all and the class of each.
    pub(super) fn order(self, random: Vec<usize>, labels: &[i32], classes: usize, seed: u64, epoch: u32) -> Vec<usize> {
        let length = |list: &[Vec<usize>]| self.length(&list.iter().map(Vec::len).collect::<Vec<_>>());
        if self == Sampler::Random {
            return random;
        }
        // A random order of all is one of each class too.
        let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); classes];
        random.iter().for_each(|&at| of_class[labels[at] as usize].push(at));
        of_class.retain(|list| !list.is_empty());
        let mut turns = Turns { seed, epoch, used: vec![0; of_class.len()], waiting: Vec::new(), round: 0 };
        let mut draw = || {
            let class = turns.next();
            let list = &of_class[class];
            turns.used[class] += 1;
            list[(turns.used[class] - 1) % list.len()]
        };
        match self {
            Sampler::ClassAware => (0..length(&of_class)).map(|_| draw()).collect(),
            _ => random.iter().enumerate().map(|(i, &at)| if i % 2 == 0 { at } else { draw() }).collect(),
        }
    }
}

/// Classes in rounds: each once a round, in a new random order.
struct Turns {
    seed: u64,
    epoch: u32,
    /// How often each class came.
    used: Vec<usize>,
    waiting: Vec<usize>,
    round: u32,
}

impl Turns {
    fn next(&mut self) -> usize {
        if self.waiting.is_empty() {
            let stream = Stream { seed: self.seed, index: self.round, step: self.epoch, purpose: Purpose::Shuffle, restart: 3 };
            self.waiting = (0..self.used.len()).collect();
            for i in (1..self.waiting.len()).rev() {
                self.waiting.swap(i, below(stream.bits(i as u32), i + 1));
            }
            self.round += 1;
        }
        self.waiting.pop().expect("there is a class")
    }
}

impl LongTail {
    /// Whether the loss sees other logits than the network's.
    pub(super) fn moves_logits(&self) -> bool {
        self.margins != Margins::None
    }

    /// What the loss sees of the logits in an epoch, and the weight of each class.
    pub(super) fn of_epoch(&self, epoch: usize, counts: &[usize]) -> (ClassTable, Vec<f64>) {
        let counts: Vec<f64> = counts.iter().map(|&n| n as f64).collect();
        let (plain, even) = (ClassTable::plain(counts.len()), vec![1.0; counts.len()]);
        if epoch < self.defer {
            return (plain, even);
        }
        let table = match self.margins {
            Margins::None => plain,
            Margins::Ldam { max, scale } => ClassTable::ldam(&counts, max, scale),
            Margins::Adjusted { tau } => ClassTable::adjusted(&counts, tau),
            Margins::Temperatures { tau } => ClassTable::temperatures(&counts, tau),
            Margins::Multi(by) => ClassTable::multi_margin(&counts, &by),
        };
        (table, self.balanced.map_or(even, |beta| class_balanced(&counts, beta)))
    }

    /// Refuses what no class can have; `counts` are the images of each class.
    pub(super) fn check(&self, counts: &[usize]) -> Result<()> {
        if let Some(beta) = self.balanced.filter(|b| !(0.0..1.0).contains(b)) {
            return Err(Error::usage(format!("the beta of class-balanced weights is {beta}, it must be at least 0 and below 1")));
        }
        let numbers = match self.margins {
            Margins::None => vec![],
            Margins::Ldam { max, scale } => vec![max, scale],
            Margins::Adjusted { tau } | Margins::Temperatures { tau } => vec![tau],
            Margins::Multi(MultiMargin { s, m0, tau_b, tau_m }) => vec![s, m0, tau_b, tau_m],
        };
        if let Some(v) = numbers.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
            return Err(Error::usage(format!("{v} in {:?} must be at least 0", self.margins)));
        }
        let empty = counts.iter().position(|&n| n == 0);
        match empty.filter(|_| self.moves_logits() || self.balanced.is_some()) {
            Some(class) => {
                Err(Error::input(format!("class {class} has no image to train on, so nothing follows from how often it occurs"))
                    .with_hint("hold fewer images out with `--val N`, or leave margins and weights by class out"))
            }
            None => Ok(()),
        }
    }

    /// Those that are used, in the order they are printed.
    pub(super) fn parameters(&self, p: &mut Map<String, Json>) {
        let mut put = |key: &str, value: Json| drop(p.insert(key.into(), value));
        match self.focal {
            Some(Criterion::Focal { gamma }) => put("loss", json!(format!("focal {gamma}"))),
            Some(Criterion::SigmoidFocal { gamma: 0.0 }) => put("loss", json!("bce")),
            Some(Criterion::SigmoidFocal { gamma }) => put("loss", json!(format!("sigmoid-focal {gamma}"))),
            Some(Criterion::CrossEntropy { .. }) | None => {}
        }
        match self.margins {
            Margins::None => {}
            Margins::Ldam { max, scale } => put("class_margins", json!(format!("ldam, max {max}, scale {scale}"))),
            Margins::Adjusted { tau } => put("class_margins", json!(format!("logit-adjust, tau {tau}"))),
            Margins::Temperatures { tau } => put("class_margins", json!(format!("temperatures, tau {tau}"))),
            Margins::Multi(MultiMargin { s, m0, tau_b, tau_m }) => {
                put("class_margins", json!(format!("multi, s {s}, m0 {m0}, tau_b {tau_b}, tau_m {tau_m}")));
            }
        }
        if let Some(beta) = self.balanced {
            put("class_balanced", json!(beta));
        }
        if self.defer > 0 {
            put("defer", json!(self.defer));
        }
        if self.sampler != Sampler::Random {
            put("sampler", json!(self.sampler.name()));
        }
        if self.classifier_only {
            put("classifier_only", json!(true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve images of class 0, four of class 1, one of class 3.
    fn labels() -> Vec<i32> {
        (0..17)
            .map(|i| {
                if i < 12 {
                    0
                } else if i < 16 {
                    1
                } else {
                    3
                }
            })
            .collect()
    }

    fn drawn(sampler: Sampler, epoch: u32) -> Vec<usize> {
        sampler.order((0..17).rev().collect(), &labels(), 4, 7, epoch)
    }

    #[test]
    fn classes_come_as_often_as_each_other_and_their_images_too() {
        let order = drawn(Sampler::ClassAware, 0);
        assert_eq!(order.len(), Sampler::ClassAware.length(&[12, 4, 0, 1]));
        let times = |at: usize| order.iter().filter(|&&o| o == at).count();
        assert!((0..12).all(|at| times(at) == 1) && (12..16).all(|at| times(at) == 3) && times(16) == 12, "{order:?}");
        for round in order.chunks(3) {
            let mut classes: Vec<i32> = round.iter().map(|&at| labels()[at]).collect();
            classes.sort_unstable();
            assert_eq!(classes, [0, 1, 3]);
        }
        assert_eq!(order, drawn(Sampler::ClassAware, 0));
        assert_ne!(order, drawn(Sampler::ClassAware, 1));
    }

    #[test]
    fn mixed_orders_take_turns() {
        let (order, random) = (drawn(Sampler::Mixed, 0), drawn(Sampler::Random, 0));
        assert_eq!(order.len(), 17);
        assert!((0..17).step_by(2).all(|i| order[i] == random[i]));
        assert_ne!(order, random);
    }

    #[test]
    fn margins_and_weights_wait() {
        let tail = LongTail { margins: Margins::Adjusted { tau: 1.0 }, balanced: Some(0.9), defer: 3, ..LongTail::default() };
        assert_eq!(tail.of_epoch(2, &[10, 1]), (ClassTable::plain(2), vec![1.0; 2]));
        let (table, weights) = tail.of_epoch(3, &[10, 1]);
        assert!(table.bias[0] > table.bias[1] && weights[0] < weights[1]);
    }
}
