//! The comparer: element by element and as a whole, so that neither one wrong corner nor a drift of everything passes.
//! Must not know what it compares.

use std::fmt::Write;

use libtest_mimic::Trial;

use super::{Rng, trial};

/// Unit roundoff of f32: half the distance from 1 to the next number.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Half of the smallest f32 above zero: what one rounding below the normal numbers can cost.
const HALF_SMALLEST: f64 = f32::MIN_POSITIVE as f64 * U;

/// How far two results may be apart: each element by `abs + rel * scale`, the whole by `l2` times the norm of the scale
/// (plus `abs` in every element).
#[derive(Clone, Copy, Debug)]
pub struct Tol {
    pub abs: f64,
    pub rel: f64,
    pub l2: f64,
}

impl Tol {
    /// Equal as numbers: +0 and -0 are the same.
    pub const EXACT: Tol = Tol { abs: 0.0, rel: 0.0, l2: 0.0 };

    /// For element-wise chains of `roundings` f32 operations. Below the normal numbers each rounding costs up to half the
    /// smallest number, which later factors of the chain (below 8 in all tests) may enlarge.
    pub fn roundings(roundings: usize) -> Self {
        let n = roundings as f64;
        Tol { abs: 8.0 * n * HALF_SMALLEST, rel: n * U, l2: n * U }
    }
    /// For sums of `terms` products against a scale of the sum of their magnitudes. Roundings of random data grow as
    /// the root of their number (Higham and Mary 2019): 8 standard deviations for each element, 1 for all together.
    pub fn random_sum(terms: usize) -> Self {
        let n = terms as f64 + 4.0;
        Tol { abs: n * HALF_SMALLEST, rel: n.min(8.0 * n.sqrt()) * U, l2: n.sqrt() * U }
    }
    /// For sums of `terms` products of structured data, whose roundings may all go one way: the classical bound.
    pub fn worst_sum(terms: usize) -> Self {
        let n = terms as f64 + 4.0;
        Tol { abs: n * HALF_SMALLEST, rel: n * U, l2: n * U }
    }
    /// The same, `factor` times as wide: the caller says what costs the extra roundings.
    pub fn times(self, factor: f64) -> Self {
        Tol { abs: self.abs * factor, rel: self.rel * factor, l2: self.l2 * factor }
    }
}

/// Compares with a scale of `|want|`. `dims` names the coordinates of the worst element.
pub fn close(got: &[f32], want: &[f64], dims: &[usize], tol: Tol) -> Result<(), String> {
    let scale: Vec<f64> = want.iter().map(|w| w.abs()).collect();
    close_to_scale(got, want, &scale, dims, tol)
}

/// Compares where the size of the inputs, not that of the result, sets the error: sums in which much cancels.
/// Any NaN fails, also where both sides have it.
pub fn close_to_scale(got: &[f32], want: &[f64], scale: &[f64], dims: &[usize], tol: Tol) -> Result<(), String> {
    let count: usize = dims.iter().product();
    if got.len() != count || want.len() != count || scale.len() != count {
        return Err(format!(
            "shape: {dims:?} has {count} elements, got {}, want {}, scale {}",
            got.len(),
            want.len(),
            scale.len()
        ));
    }
    let (mut bad, mut worst, mut excess) = (0, 0, 0.0);
    let (mut error2, mut scale2) = (0.0, 0.0);
    for i in 0..count {
        let g = f64::from(got[i]);
        let bound = tol.abs + tol.rel * scale[i];
        let error = if g == want[i] { 0.0 } else { (g - want[i]).abs() };
        // Accepted only where this holds: a NaN or an infinity anywhere makes it false.
        let fine = error == 0.0 || (error <= bound && bound.is_finite());
        if !fine {
            bad += 1;
            let by = if (error / bound).is_nan() { f64::INFINITY } else { error / bound };
            if by > excess {
                (worst, excess) = (i, by);
            }
        }
        error2 += error * error;
        scale2 += if scale[i].is_finite() { scale[i] * scale[i] } else { 0.0 };
    }
    let (error, whole) = (error2.sqrt(), tol.l2 * scale2.sqrt() + tol.abs * (count as f64).sqrt());
    let whole_fine = error <= whole; // false where the error is NaN
    if bad == 0 && whole_fine {
        return Ok(());
    }
    let mut text = format!("{bad} of {count} elements are off ({tol:?})");
    if bad > 0 {
        let (g, w) = (got[worst], want[worst]);
        let at = coordinates(worst, dims);
        let _ = write!(
            text,
            "\n  worst at {at:?} of {dims:?}: got {g:e}, want {w:e}, {} ulps, {excess:.3} times the bound",
            ulps(g, w)
        );
    }
    if !whole_fine {
        let _ = write!(text, "\n  L2 error {error:e} is above {whole:e} (norm of the scale {:e})", scale2.sqrt());
    }
    Err(text)
}

/// As [`close_to_scale`], for inputs with NaN or infinities in them: those must stand in the same places on both sides.
pub fn close_or_same_nan(got: &[f32], want: &[f64], scale: &[f64], dims: &[usize], tol: Tol) -> Result<(), String> {
    let kind = |v: f64| (v.is_nan(), v.is_infinite(), v.is_infinite() && v > 0.0);
    if got.len() == want.len()
        && scale.len() == want.len()
        && let Some(i) = (0..got.len()).find(|&i| kind(f64::from(got[i])) != kind(want[i]))
    {
        return Err(format!("at {:?} of {dims:?}: got {:e}, want {:e}", coordinates(i, dims), got[i], want[i]));
    }
    let finite: Vec<bool> = want.iter().map(|w| w.is_finite()).collect();
    let got: Vec<f32> = got.iter().enumerate().map(|(i, &g)| if finite.get(i) == Some(&false) { 0.0 } else { g }).collect();
    let zero = |v: &[f64]| -> Vec<f64> { v.iter().enumerate().map(|(i, &w)| if finite[i] { w } else { 0.0 }).collect() };
    close_to_scale(&got, &zero(want), &zero(&scale[..scale.len().min(finite.len())]), dims, tol)
}

/// Bit for bit: also tells +0 from -0 and one NaN from another.
pub fn same_bits(got: &[f32], want: &[f32], dims: &[usize]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("shape: got {} elements, want {}", got.len(), want.len()));
    }
    let off: Vec<usize> = (0..got.len()).filter(|&i| got[i].to_bits() != want[i].to_bits()).collect();
    let Some(&first) = off.first() else { return Ok(()) };
    let (g, w) = (got[first], want[first]);
    Err(format!(
        "{} of {} elements differ in their bits\n  first at {:?} of {dims:?}: got {g:e} ({:#010x}), want {w:e} ({:#010x})",
        off.len(),
        got.len(),
        coordinates(first, dims),
        g.to_bits(),
        w.to_bits()
    ))
}

fn coordinates(mut index: usize, dims: &[usize]) -> Vec<usize> {
    let mut at = vec![0; dims.len()];
    for d in (0..dims.len()).rev() {
        at[d] = index % dims[d];
        index /= dims[d];
    }
    at
}

/// How many f32 numbers lie between the two.
fn ulps(got: f32, want: f64) -> u64 {
    let line = |v: f32| {
        let bits = i64::from(v.to_bits() & 0x7fff_ffff);
        if v.is_sign_negative() { -bits } else { bits }
    };
    line(got).abs_diff(line(want as f32))
}

const DIMS: [usize; 4] = [2, 24, 24, 3];
const TOL: Tol = Tol { abs: 1e-9, rel: 1e-5, l2: 1e-5 };

/// A pair that agrees, to be broken.
fn pair() -> (Vec<f32>, Vec<f64>) {
    let want = Rng::new(7).normals(DIMS.iter().product());
    (want.iter().map(|&w| w as f32).collect(), want)
}

/// A trial in which the comparer must refuse the pair that `spoil` has changed, saying `words`.
fn must_fail(name: &str, words: &'static str, spoil: fn(&mut Vec<f32>, &mut Vec<f64>)) -> Trial {
    trial(format!("support::close.refuses_{name}"), move || {
        let (mut got, mut want) = pair();
        close(&got, &want, &DIMS, TOL).expect("the pair agrees before it is spoiled");
        spoil(&mut got, &mut want);
        let error = close(&got, &want, &DIMS, TOL).expect_err("the spoiled pair must be refused");
        assert!(error.contains(words), "{error}");
    })
}

/// L2 distance over the L2 norm of what is wanted.
pub fn relative(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "two lengths");
    let distance: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    (distance / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

pub fn trials() -> Vec<Trial> {
    vec![
        must_fail("got_perturbed", "1 of 3456", |got, _| got[5] *= 1.001),
        must_fail("want_perturbed", "1 of 3456", |_, want| want[5] *= 1.001),
        must_fail("wrong_corner", "[1, 23, 23, 2]", |got, _| *got.last_mut().expect("not empty") += 1.0),
        must_fail("zeroed_tile", "192 of 3456", |got, _| {
            for (h, w, c) in (8..16).flat_map(|h| (8..16).flat_map(move |w| (0..3).map(move |c| (h, w, c)))) {
                got[(h * 24 + w) * 3 + c] = 0.0;
            }
        }),
        must_fail("nan_in_got", "NaN", |got, _| got[9] = f32::NAN),
        must_fail("nan_in_want", "NaN", |_, want| want[9] = f64::NAN),
        must_fail("nan_in_both", "NaN", |got, want| (got[9], want[9]) = (f32::NAN, f64::NAN)),
        must_fail("infinite_want", "inf", |_, want| want[9] = f64::INFINITY),
        must_fail("infinite_got", "inf", |got, _| got[9] = f32::INFINITY),
        must_fail("shorter_got", "shape", |got, _| got.truncate(9)),
        must_fail("shorter_want", "shape", |_, want| want.truncate(9)),
        trial("support::close.refuses_drift", || {
            // Each element within its own bound, all of them off the same way.
            let (got, want) = pair();
            let tol = Tol { rel: 1e-3, ..TOL };
            let drifted: Vec<f32> = got.iter().map(|g| g * 1.0005).collect();
            let error = close(&drifted, &want, &DIMS, tol).expect_err("a drift must be refused");
            assert!(error.contains("0 of 3456") && error.contains("L2"), "{error}");
        }),
        trial("support::close.refuses_swapped_dims", || {
            let (got, want) = pair();
            close(&got, &want, &[2, 24, 24, 4], TOL).expect_err("a wrong shape must be refused");
        }),
        trial("support::close.signed_zero", || {
            close(&[0.0], &[-0.0], &[1], Tol::EXACT).expect("+0 and -0 are the same number");
            same_bits(&[0.0], &[-0.0], &[1]).expect_err("+0 and -0 are different bits");
        }),
        trial("support::close.equal_infinities", || {
            close(&[f32::INFINITY], &[f64::INFINITY], &[1], TOL).expect("equal");
            close(&[f32::INFINITY], &[f64::NEG_INFINITY], &[1], TOL).expect_err("opposite");
        }),
        trial("support::close.nan_by_place", || {
            let (nan, want) = ([f32::NAN, 1.0], [f64::NAN, 1.0]);
            close_or_same_nan(&nan, &want, &[1.0; 2], &[2], TOL).expect("same place");
            close_or_same_nan(&nan, &[1.0, f64::NAN], &[1.0; 2], &[2], TOL).expect_err("another place");
            close_or_same_nan(&[f32::NAN, 1.1], &want, &[1.0; 2], &[2], TOL).expect_err("the rest still counts");
            close_or_same_nan(&[f32::NAN], &want, &[1.0; 2], &[2], TOL).expect_err("wrong shape");
        }),
        trial("support::close.bits", || {
            let (got, _) = pair();
            same_bits(&got, &got, &DIMS).expect("equal");
            let mut other = got.clone();
            other[4] = f32::from_bits(other[4].to_bits() ^ 1);
            assert!(same_bits(&other, &got, &DIMS).is_err_and(|e| e.contains("[0, 0, 1, 1]")));
            same_bits(&got[1..], &got, &DIMS).expect_err("wrong shape");
        }),
        trial("support::close.ulps", || {
            assert_eq!(ulps(1.0, 1.0), 0);
            assert_eq!(ulps(f32::from_bits(1), 0.0), 1);
            assert_eq!(ulps(-f32::from_bits(1), f64::from(f32::from_bits(1))), 2);
        }),
    ]
}
