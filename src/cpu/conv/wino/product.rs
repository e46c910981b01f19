//! The products of Winograd: for each place of a tile a plain matrix product, in tiles of registers.
//! Must not know transforms or images.

use crate::cpu::simd::{Simd, prefetch};

/// A multiple of the rows of every register tile: buffers have whole tiles of rows.
pub(super) const ROWS: usize = 24;

/// `out[row][vectors * W] = source[row][c] * weights[c][vectors * W]`.
pub(super) struct Product<'a> {
    /// Rows that matter; those up to the next multiple of [`ROWS`] may be read and written too.
    pub(super) rows: usize,
    pub(super) c: usize,
    pub(super) vectors: usize,
    pub(super) source: &'a [f32],
    pub(super) weights: &'a [f32],
    /// What the next product reads: fetched while this one runs.
    pub(super) next: *const f32,
    pub(super) out: &'a mut [f32],
    /// Floats from one row to the next, in both.
    pub(super) step: usize,
}

impl Product<'_> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, s: S) {
        // As many rows as the registers allow, 24 accumulators of 32 or 12 of 16; for one vector as many as keep the
        // multipliers busy, since each row takes a register for its address too.
        match (S::WIDEST_TILE, self.vectors) {
            (4, 4) => self.tiles::<S, 6, 4>(s),
            (4, 3) => self.tiles::<S, 8, 3>(s),
            (4, 2) => self.tiles::<S, 12, 2>(s),
            (4, 1) => self.tiles::<S, 8, 1>(s),
            (2, 2) => self.tiles::<S, 6, 2>(s),
            (2, 1) => self.tiles::<S, 8, 1>(s),
            (1, 1) => self.tiles::<S, 4, 1>(s),
            other => unreachable!("no tile for {other:?}"),
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const V: usize>(self, s: S) {
        const { assert!(ROWS.is_multiple_of(R)) };
        let Product { rows, c, source, weights, out, step, mut next, .. } = self;
        let last = rows.next_multiple_of(R).max(1) - 1;
        assert!(source.len() >= last * step + c, "{} floats for {rows} rows of {c}", source.len());
        assert!(out.len() >= last * step + V * S::W, "{} floats for {rows} rows of results", out.len());
        assert!(weights.len() >= c * V * S::W, "{} weights for {c} channels", weights.len());
        // The tiles share the next weights between them.
        let fetch = (V * S::W).div_ceil(rows.div_ceil(R).max(1));
        for row in (0..rows).step_by(R) {
            // SAFETY: the assertions above cover R rows from each multiple of R below `rows`.
            unsafe {
                let (source, out) = (source.as_ptr().add(row * step), out.as_mut_ptr().add(row * step));
                tile::<S, R, V>(s, c, (source, out, step), weights.as_ptr(), (next, fetch));
            }
            next = next.wrapping_add(fetch * c);
        }
    }
}

/// One register tile, summed over `c` in order.
///
/// # Safety
/// `R` rows of `source` are good for reads of `c` floats, `weights` for `c * V * W`; `R` rows of `out` for writes of
/// `V * W`.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    s: S,
    c: usize,
    (source, out, step): (*const f32, *mut f32, usize),
    mut weights: *const f32,
    (mut next, fetch): (*const f32, usize),
) {
    // A local copy: through a reference the accumulators would live in memory.
    let mut acc = [[s.splat(0.0); V]; R];
    let mut rows = [source; R];
    for (r, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller vouches for R rows.
        *row = unsafe { source.add(r * step) };
    }
    for i in 0..c {
        prefetch(next);
        next = next.wrapping_add(fetch);
        let mut w = [s.splat(0.0); V];
        for (v, w) in w.iter_mut().enumerate() {
            // SAFETY: the caller vouches for one row of weights for each of the c.
            *w = unsafe { s.load(weights.add(v * S::W)) };
        }
        for r in 0..R {
            // SAFETY: i is below c.
            let x = s.splat(unsafe { *rows[r].add(i) });
            for v in 0..V {
                acc[r][v] = s.fma(x, w[v], acc[r][v]);
            }
        }
        // SAFETY: at most one past the last row.
        weights = unsafe { weights.add(V * S::W) };
    }
    for (r, row) in acc.iter().enumerate() {
        for (v, &acc) in row.iter().enumerate() {
            // SAFETY: inside the rows of results.
            unsafe { s.store(out.add(r * step + v * S::W), acc) };
        }
    }
}
