//! Seeded numbers for tests. Must stay apart from the engine's own generator, which it helps to judge.

use libtest_mimic::Trial;

use super::trial;

/// SplitMix64: the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator; different seeds give unrelated streams.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }
    /// A generator whose seed is a text, such as the name of a case.
    pub fn named(name: &str) -> Self {
        Rng(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
    /// Standard normal (Box and Muller), rounded to f32 so that an f32 engine can be given the very same value.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        f64::from((radius * (std::f64::consts::TAU * self.unit()).cos()) as f32)
    }
    /// `n` standard normals.
    pub fn normals(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.normal()).collect()
    }
    /// `0..n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

pub fn trials() -> Vec<Trial> {
    vec![
        trial("support::rng.moments", || {
            let all = Rng::new(1).normals(100_000);
            let mean = all.iter().sum::<f64>() / 1e5;
            let var = all.iter().map(|v| v * v).sum::<f64>() / 1e5;
            assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.02, "mean {mean}, variance {var}");
        }),
        trial("support::rng.seeds_differ", || {
            assert_ne!(Rng::new(1).bits(), Rng::new(2).bits());
            assert_ne!(Rng::named("a").bits(), Rng::named("b").bits());
        }),
        trial("support::rng.permutation", || {
            let mut order = Rng::new(3).permutation(17);
            assert_ne!(order, (0..17).collect::<Vec<_>>());
            order.sort_unstable();
            assert_eq!(order, (0..17).collect::<Vec<_>>());
        }),
    ]
}
