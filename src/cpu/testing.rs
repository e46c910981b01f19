//! What the tests of the kernels share: numbers, an oracle's tolerance, epilogues in plain loops.
//! Must not know any kernel.

use super::Epi;
use crate::tensor::bits_bytes;

/// Reproducible numbers in [-1, 1).
pub(super) fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Sums in f64 with what bounds the rounding error of the same sum in f32: the number and the sizes of its terms.
pub(super) struct Checked(Vec<(f64, f64, usize)>);

impl Checked {
    pub(super) fn zeros(len: usize) -> Self {
        Checked(vec![(0.0, 0.0, 0); len])
    }
    pub(super) fn add(&mut self, at: usize, term: f64) {
        let (sum, size, terms) = &mut self.0[at];
        *sum += term;
        *size += term.abs();
        *terms += 1;
    }
    /// A term is rounded at most once for each addition behind it, once as a product and once for a folded scale.
    fn first_wrong(&self, got: &[f32]) -> Option<String> {
        assert_eq!(got.len(), self.0.len(), "results");
        let unit = f64::from(f32::EPSILON) / 2.0;
        let wrong = |(&got, &(want, size, terms)): (&f32, &(f64, f64, usize))| {
            let bound = (terms + 2) as f64 * unit * size * 1.01;
            let right = (f64::from(got) - want).abs() <= bound; // false for NaN
            !right
        };
        let at = got.iter().zip(&self.0).position(wrong)?;
        Some(format!("element {at} is {}, want {:?}", got[at], self.0[at]))
    }
    pub(super) fn compare(&self, got: &[f32], what: &str) {
        if let Some(wrong) = self.first_wrong(got) {
            panic!("{what}: {wrong}");
        }
    }
}

#[test]
fn the_comparer_sees_errors() {
    let mut want = Checked::zeros(2);
    (0..100).for_each(|i| want.add(1, f64::from(i)));
    assert!(want.first_wrong(&[0.0, 4950.0]).is_none());
    for wrong in [[1e-30, 4950.0], [0.0, 4949.0], [0.0, 4950.1], [0.0, f32::NAN], [0.0, f32::INFINITY]] {
        assert!(want.first_wrong(&wrong).is_some(), "{wrong:?} passed");
    }
}

/// An epilogue in plain loops; masks are made into `masks`, one for each `MaskOut`.
fn reference(channels: usize, raw: &[f32], list: &[Step], masks: &mut Vec<Vec<u8>>) -> Vec<f32> {
    let mut values = raw.to_vec();
    let byte = |i: usize| i / channels * bits_bytes(channels) + i % channels / 8;
    for step in list {
        let mut mask = vec![0u8; raw.len() / channels * bits_bytes(channels)];
        for (i, v) in values.iter_mut().enumerate() {
            let bit = 1 << (i % channels % 8);
            match step {
                Step::Scale(s) => *v *= s[i % channels],
                Step::Bias(b) => *v += b[i % channels],
                Step::Add(a) => *v += a[i],
                Step::Relu(cap) => {
                    *v = if *v < 0.0 { 0.0 } else { *v };
                    *v = cap.map_or(*v, |cap| if *v > cap { cap } else { *v });
                }
                Step::MaskOut(cap) => {
                    if *v > 0.0 && cap.is_none_or(|cap| *v < cap) {
                        mask[byte(i)] |= bit;
                    }
                }
                Step::Gate(bits) => *v = if bits[byte(i)] & bit != 0 { *v } else { 0.0 },
            }
        }
        if let Step::MaskOut(_) = step {
            masks.push(mask);
        }
    }
    values
}

/// [`Epi`] with its operands owned.
enum Step {
    Scale(Vec<f32>),
    Bias(Vec<f32>),
    Add(Vec<f32>),
    Relu(Option<f32>),
    MaskOut(Option<f32>),
    Gate(Vec<u8>),
}

fn lists(channels: usize, len: usize) -> Vec<Vec<Step>> {
    let bias = || Step::Bias(random(11, channels));
    let scale = || Step::Scale(random(12, channels));
    let add = || {
        let mut values = random(13, len);
        for (i, v) in values.iter_mut().enumerate() {
            match i % 31 {
                3 => *v = f32::NAN,
                7 => *v = f32::INFINITY,
                11 => *v = f32::NEG_INFINITY,
                _ => {}
            }
        }
        Step::Add(values)
    };
    let bytes = len / channels * bits_bytes(channels);
    let gate = || Step::Gate(random(14, bytes).iter().map(|v| v.to_bits() as u8).collect());
    vec![
        vec![],
        vec![scale()],
        vec![bias()],
        vec![add()],
        vec![gate()],
        vec![Step::Relu(None)],
        vec![bias(), Step::MaskOut(None), Step::Relu(None)],
        vec![scale(), bias(), add(), Step::Relu(None), Step::MaskOut(None)],
        vec![bias(), add(), Step::MaskOut(Some(0.5)), Step::Relu(Some(0.5)), gate()],
        vec![gate(), scale(), add(), Step::MaskOut(None), bias(), Step::MaskOut(Some(0.25)), Step::Relu(Some(0.75))],
    ]
}

/// Runs several epilogues; results must equal plain loops over `raw` bit for bit.
pub(super) fn try_epilogues(channels: usize, raw: &[f32], what: &str, run: impl Fn(&mut [f32], &mut [Epi])) {
    for (number, list) in lists(channels, raw.len()).iter().enumerate() {
        let mut want_masks = Vec::new();
        let want = reference(channels, raw, list, &mut want_masks);
        // Set bits everywhere: padding must be written too.
        let mut masks: Vec<Vec<u8>> = want_masks.iter().map(|mask| vec![0xff; mask.len()]).collect();
        let mut free = masks.iter_mut();
        let mut epilogue: Vec<Epi> = list
            .iter()
            .map(|step| match step {
                Step::Scale(v) => Epi::Scale(v),
                Step::Bias(v) => Epi::Bias(v),
                Step::Add(v) => Epi::Add(v),
                Step::Relu(cap) => Epi::Relu { cap: *cap },
                Step::MaskOut(cap) => Epi::MaskOut { bits: free.next().expect("one buffer a mask"), cap: *cap },
                Step::Gate(bits) => Epi::Gate(bits),
            })
            .collect();
        let mut got = vec![f32::NAN; raw.len()];
        run(&mut got, &mut epilogue);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let same = got == want || (got.is_nan() && want.is_nan());
            assert!(same, "{what}, epilogue {number}: element {i} is {got}, want {want}");
        }
        assert_eq!(masks, want_masks, "{what}, epilogue {number}: masks");
    }
}
