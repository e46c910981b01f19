//! The transforms of F(2, 3) and F(4, 3) in one dimension; two dimensions are the same along rows, then columns.
//! Must not know tiles, channels or where anything lies.
//! Lavin and Gray 2016, <https://arxiv.org/abs/1509.09308>: `y = At [(G g) * (Bt d)]`.

use std::marker::PhantomData;

use crate::cpu::simd::Simd;

/// `M` results of a kernel of 3 from `A = M + 2` sources and as many products.
pub(super) trait Transform<const M: usize, const A: usize> {
    /// The kernel's.
    const G: [[f64; 3]; A];
    /// The source's, `Bt d`.
    fn source<S: Simd>(s: S, d: [S::V; A]) -> [S::V; A];
    /// The products' to results, `At m`.
    fn result<S: Simd>(s: S, m: [S::V; A]) -> [S::V; M];
    /// The results' gradient to that of the products, `A y`: the transpose of [`Transform::result`].
    fn gradient<S: Simd>(s: S, y: [S::V; M]) -> [S::V; A];
}

/// A transform from `I` pixels to the `A` places of a tile.
pub(super) trait Lift<const I: usize, const A: usize> {
    fn lift<S: Simd>(s: S, d: [S::V; I]) -> [S::V; A];
}

/// [`Transform::source`].
pub(super) struct OfSource<const M: usize, T>(PhantomData<T>);

impl<const M: usize, const A: usize, T: Transform<M, A>> Lift<A, A> for OfSource<M, T> {
    #[inline(always)]
    fn lift<S: Simd>(s: S, d: [S::V; A]) -> [S::V; A] {
        T::source(s, d)
    }
}

/// [`Transform::gradient`].
pub(super) struct OfGradient<const M: usize, T>(PhantomData<T>);

impl<const M: usize, const A: usize, T: Transform<M, A>> Lift<M, A> for OfGradient<M, T> {
    #[inline(always)]
    fn lift<S: Simd>(s: S, d: [S::V; M]) -> [S::V; A] {
        T::gradient(s, d)
    }
}

/// F(2, 3) on the points 0, 1, -1 and infinity.
pub(super) struct Two;

impl Transform<2, 4> for Two {
    const G: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

    #[inline(always)]
    fn source<S: Simd>(s: S, d: [S::V; 4]) -> [S::V; 4] {
        [s.sub(d[0], d[2]), s.add(d[1], d[2]), s.sub(d[2], d[1]), s.sub(d[3], d[1])]
    }
    #[inline(always)]
    fn result<S: Simd>(s: S, m: [S::V; 4]) -> [S::V; 2] {
        [s.add(s.add(m[0], m[1]), m[2]), s.add(s.sub(m[1], m[2]), m[3])]
    }
    #[inline(always)]
    fn gradient<S: Simd>(s: S, y: [S::V; 2]) -> [S::V; 4] {
        [y[0], s.add(y[0], y[1]), s.sub(y[0], y[1]), y[1]]
    }
}

/// F(4, 3) on the points 0, 1, -1, 2, -2 and infinity.
pub(super) struct Four;

impl Transform<4, 6> for Four {
    const G: [[f64; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];

    #[inline(always)]
    fn source<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
        let (minus_4, minus_5) = (s.splat(-4.0), s.splat(-5.0));
        let (even, odd) = (s.fma(d[2], minus_4, d[4]), s.fma(d[1], minus_4, d[3]));
        let (even_2, odd_2) = (s.sub(d[4], d[2]), s.sub(d[3], d[1]));
        [
            s.fma(d[0], s.splat(4.0), s.fma(d[2], minus_5, d[4])),
            s.add(even, odd),
            s.sub(even, odd),
            s.fma(odd_2, s.splat(2.0), even_2),
            s.fma(odd_2, s.splat(-2.0), even_2),
            s.fma(d[1], s.splat(4.0), s.fma(d[3], minus_5, d[5])),
        ]
    }
    #[inline(always)]
    fn result<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
        let (even, odd) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        let (even_2, odd_2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
        [
            s.add(s.add(m[0], even), even_2),
            s.fma(odd_2, s.splat(2.0), odd),
            s.fma(even_2, s.splat(4.0), even),
            s.add(s.fma(odd_2, s.splat(8.0), odd), m[5]),
        ]
    }
    #[inline(always)]
    fn gradient<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
        let (even, odd) = (s.add(y[0], y[2]), s.add(y[1], y[3]));
        let even_2 = s.fma(y[2], s.splat(4.0), y[0]);
        let odd_2 = s.fma(y[3], s.splat(8.0), s.add(y[1], y[1]));
        [y[0], s.add(even, odd), s.sub(even, odd), s.add(even_2, odd_2), s.sub(even_2, odd_2), y[3]]
    }
}
