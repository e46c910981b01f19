//! One value an image: comparisons, choices between rows, and the state of a gradient.
//! Must not know attacks, nor how long a batch is elsewhere: rows are independent.

use rayon::prelude::*;

/// 1 where `a > b`, else 0.
pub(crate) fn greater(a: &[f32], b: &[f32], out: &mut [f32]) {
    zip_rows(a, b, out, |a, b| if a > b { 1.0 } else { 0.0 });
}

/// The larger of the two; a NaN loses to a number.
pub(crate) fn max_rows(a: &[f32], b: &[f32], out: &mut [f32]) {
    zip_rows(a, b, out, f32::max);
}

/// Row of `a` where `flag != 0`, else of `b`. `flag` is `[N]`, the others `[N, ..]`.
pub(crate) fn select_rows(flag: &[f32], a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == out.len(), "select between {}, {} into {}", a.len(), b.len(), out.len());
    let len = row_len(flag.len(), out.len());
    out.par_chunks_mut(len).zip(a.par_chunks(len).zip(b.par_chunks(len))).zip(flag).for_each(|((out, (a, b)), &flag)| {
        out.copy_from_slice(if flag != 0.0 { a } else { b });
    });
}

/// [`select_rows`] with the result in `b`.
pub(crate) fn select_rows_in_place(flag: &[f32], a: &[f32], b: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "select between rows of different length");
    let len = row_len(flag.len(), b.len());
    b.par_chunks_mut(len).zip(a.par_chunks(len)).zip(flag).for_each(|((b, a), &flag)| {
        if flag != 0.0 {
            b.copy_from_slice(a);
        }
    });
}

/// Entry `index` of each row of `state`; one row for each entry of `out`.
pub(crate) fn column(index: usize, state: &[f32], out: &mut [f32]) {
    let len = row_len(out.len(), state.len());
    for (out, row) in out.iter_mut().zip(state.chunks_exact(len)) {
        *out = row[index];
    }
}

/// For each of `n` rows of `g`: 0 = ordinary, 1 = every element zero, 2 = some element NaN or infinite.
pub(crate) fn grad_status(n: usize, g: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), n, "one status an image");
    g.par_chunks(row_len(n, g.len())).zip(out).for_each(|(g, out)| {
        // Without early exit the loop runs in lanes.
        let (mut finite, mut zero) = (true, true);
        for v in g {
            finite &= v.is_finite();
            zero &= *v == 0.0;
        }
        *out = if !finite {
            2.0
        } else if zero {
            1.0
        } else {
            0.0
        };
    });
}

/// Elements of a row where `n` rows hold `len` elements.
pub(crate) fn row_len(n: usize, len: usize) -> usize {
    assert!(n > 0 && len > 0 && len.is_multiple_of(n), "{len} elements are not {n} rows");
    len / n
}

fn zip_rows(a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    assert!(a.len() == b.len() && a.len() == out.len(), "rows: {}, {} into {}", a.len(), b.len(), out.len());
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = f(a, b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f32 = f32::NAN;

    #[test]
    fn comparisons_and_nan() {
        let (a, b) = ([1.0, 2.0, 2.0, NAN, 1.0, NAN], [2.0, 1.0, 2.0, 1.0, NAN, NAN]);
        let mut out = [9.0; 6];
        greater(&a, &b, &mut out);
        assert_eq!(out, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        max_rows(&a, &b, &mut out);
        assert_eq!(out[..5], [2.0, 2.0, 2.0, 1.0, 1.0]);
        assert!(out[5].is_nan());
    }

    #[test]
    fn selects_whole_rows() {
        let (flag, a, b) = ([1.0, 0.0, -0.0, 0.5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [0.0f32; 8]);
        let mut out = [9.0; 8];
        select_rows(&flag, &a, &b, &mut out);
        assert_eq!(out, [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 7.0, 8.0]);
        let mut b = b;
        select_rows_in_place(&flag, &a, &mut b);
        assert_eq!(b, out);
    }

    #[test]
    fn gradient_states() {
        let tiny = f32::from_bits(1);
        let g = [0.0, -0.0, 0.0, tiny, 1.0, NAN, 0.0, f32::INFINITY];
        let mut out = [9.0; 4];
        grad_status(4, &g, &mut out);
        assert_eq!(out, [1.0, 0.0, 2.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "7 elements are not 2 rows")]
    fn ragged_rows_are_refused() {
        grad_status(2, &[0.0; 7], &mut [0.0; 2]);
    }
}
