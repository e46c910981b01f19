//! Training sets with a long tail: fewer and fewer images of each class, by a profile.
//! Knows labels only; pixels stay where they are.
//! Cui et al. 2019, <https://arxiv.org/abs/1901.05555>; Wu et al. 2021, <https://arxiv.org/abs/2104.02703>.

use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};

/// How many images the classes keep, in the order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `int(N/C * r^(i / (C - 1)))`.
    Exponential,
    /// `N/C` in the first half of the classes, `int(N/C * r)` in the others.
    Step,
}

impl Profile {
    /// `exp` or `step`.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Exponential => "exp",
            Profile::Step => "step",
        }
    }

    /// Images of each of `classes` classes, where each has `most` to begin with and the last keeps a share of `ratio`.
    /// What is no whole number is cut off, not rounded.
    pub fn counts(self, most: usize, classes: usize, ratio: f64) -> Vec<usize> {
        assert!(classes >= 2 && ratio > 0.0 && ratio <= 1.0, "a tail of {ratio} over {classes} classes");
        let share = |i: usize| match self {
            Profile::Exponential => ratio.powf(i as f64 / (classes - 1) as f64),
            Profile::Step => {
                if i < classes / 2 {
                    1.0
                } else {
                    ratio
                }
            }
        };
        (0..classes).map(|i| (most as f64 * share(i)) as usize).collect()
    }
}

/// Positions of `counts[c]` images of each class `c`, drawn by `seed`, in the order of the set.
///
/// # Errors
/// [`Error::Input`] where a class has fewer images than it has to give.
pub fn select(labels: &[i32], counts: &[usize], seed: u64) -> Result<Vec<usize>> {
    let mut rows = Vec::new();
    for (class, &count) in counts.iter().enumerate() {
        let mut mine: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == class as i32).collect();
        if mine.len() < count {
            let found = mine.len();
            return Err(Error::input(format!("class {class} has {found} images, the profile keeps {count} of it"))
                .with_hint("long tails are cut from sets in which all classes have equally many images"));
        }
        let stream = Stream { seed, index: class as u32, step: 0, purpose: Purpose::Shuffle, restart: 9 };
        for i in (1..mine.len()).rev() {
            mine.swap(i, ((u64::from(stream.bits(i as u32)) * (i as u64 + 1)) >> 32) as usize);
        }
        rows.extend_from_slice(&mine[..count]);
    }
    rows.sort_unstable();
    Ok(rows)
}

/// How many images of each of `classes` classes there are.
pub fn count(labels: &[i32], classes: usize) -> Vec<usize> {
    let mut out = vec![0; classes];
    labels.iter().for_each(|&l| out[l as usize] += 1);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_give_the_published_counts() {
        let exp = |most, classes, ratio| Profile::Exponential.counts(most, classes, ratio);
        assert_eq!(exp(5000, 10, 0.02), [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]);
        let sums = [(0.1, 20431), (0.05, 17023), (0.02, 13996), (0.01, 12406)];
        assert!(sums.iter().all(|&(ratio, sum)| exp(5000, 10, ratio).iter().sum::<usize>() == sum));
        assert_eq!(exp(500, 100, 0.1).iter().sum::<usize>(), 19573);
        assert_eq!(Profile::Step.counts(5000, 10, 0.02), [[5000; 5], [100; 5]].concat());
        assert_eq!(Profile::Step.counts(50, 3, 0.1), [50, 5, 5], "an odd number of classes");
    }

    #[test]
    fn as_many_of_each_class_are_drawn_as_asked_for() {
        let labels: Vec<i32> = (0..60).map(|i| i % 3).collect();
        let rows = select(&labels, &[20, 7, 1], 4).expect("there are enough");
        assert_eq!(count(&rows.iter().map(|&r| labels[r]).collect::<Vec<_>>(), 3), [20, 7, 1]);
        assert!(rows.windows(2).all(|w| w[0] < w[1]));
        assert_ne!(rows, select(&labels, &[20, 7, 1], 5).expect("there are enough"), "the seed draws");
        let error = select(&labels, &[21, 7, 1], 4).expect_err("there are 20");
        assert_eq!(error.to_string(), "class 0 has 20 images, the profile keeps 21 of it");
    }
}
