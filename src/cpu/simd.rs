//! Vectors of 16 or 8 floats behind one trait, and the choice between them at run time.
//! Must not know what is computed with them.

use bytemuck::{Pod, Zeroable};

/// Instruction set that the inner loops use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// 16 lanes.
    Avx512,
    /// 8 lanes with fused multiply-add.
    Avx2,
    /// Plain Rust.
    Scalar,
}

impl Isa {
    /// The widest set that this processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            if wide && is_x86_feature_detected!("avx512dq") {
                return Isa::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Isa::Avx2;
            }
        }
        Isa::Scalar
    }

    /// Sets that this processor can run, widest first.
    pub fn available() -> Vec<Isa> {
        let best = Isa::detect();
        [Isa::Avx512, Isa::Avx2, Isa::Scalar].into_iter().skip_while(|&i| i != best).collect()
    }

    /// Lanes of one vector.
    pub(super) fn lanes(self) -> usize {
        if self == Isa::Avx512 { 16 } else { 8 }
    }

    /// Vectors that a row of an accumulator tile may have: [`Simd::WIDEST_TILE`].
    pub(super) fn widest_tile(self) -> usize {
        match self {
            Isa::Avx512 => 4,
            Isa::Avx2 => 2,
            Isa::Scalar => 1,
        }
    }

    /// Runs `work`, compiled for this set. Panics where the processor lacks it.
    pub(super) fn dispatch<W: Work>(self, work: W) {
        assert!(self == Isa::Scalar || Isa::available().contains(&self), "this processor has no {self:?}");
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the assertion above found the features.
            Isa::Avx512 => unsafe { x86::with_avx512(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the assertion above found the features.
            Isa::Avx2 => unsafe { x86::with_avx2(work) },
            _ => work.run(Scalar),
        }
    }
}

/// A computation written once for every vector type. `run` must be `inline(always)`, and so must all it calls with
/// vectors: only inlined code inherits the instruction set.
pub(super) trait Work {
    fn run<S: Simd>(self, s: S);
}

/// A vector type. A value of the implementor is the proof that the processor has the instructions.
pub(super) trait Simd: Copy {
    /// Lanes: 16 or 8.
    const W: usize;
    /// Vectors that a row of an accumulator tile may have.
    const WIDEST_TILE: usize;
    type V: Copy;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`, so a NaN in `b` stays.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`, so a NaN in `b` stays.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Bit i is set where `a[i] > b[i]`; never for NaN.
    fn greater(self, a: Self::V, b: Self::V) -> u16;
    /// Lane i of `v` where bit i is set, 0 elsewhere.
    fn gate(self, v: Self::V, bits: u16) -> Self::V;

    /// # Safety
    /// `W` floats can be read at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `W` floats can be written at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// The first `n < W` lanes, zeros behind.
    ///
    /// # Safety
    /// `n` floats can be read at `p`.
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n < W` lanes.
    ///
    /// # Safety
    /// `n` floats can be written at `p`.
    unsafe fn store_part(self, p: *mut f32, n: usize, v: Self::V);

    /// The first `W` floats of `src`; where it is shorter, zeros follow.
    #[inline(always)]
    fn take(self, src: &[f32]) -> Self::V {
        if src.len() >= Self::W {
            // SAFETY: the slice holds W floats.
            unsafe { self.load(src.as_ptr()) }
        } else {
            // SAFETY: the slice holds `src.len()` floats.
            unsafe { self.load_part(src.as_ptr(), src.len()) }
        }
    }

    /// Stores `v` into the first `W` floats of `dst`, or into all of it where it is shorter.
    #[inline(always)]
    fn put(self, dst: &mut [f32], v: Self::V) {
        if dst.len() >= Self::W {
            // SAFETY: the slice holds W floats.
            unsafe { self.store(dst.as_mut_ptr(), v) }
        } else {
            // SAFETY: the slice holds `dst.len()` floats.
            unsafe { self.store_part(dst.as_mut_ptr(), dst.len(), v) }
        }
    }
}

/// Asks for the cache line at `p`, which may be any address.
#[inline(always)]
pub(super) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64; a prefetch of a bad address does nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Eight lanes in plain Rust, for any processor.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Simd for Scalar {
    const W: usize = 8;
    const WIDEST_TILE: usize = 1;
    type V = [f32; 8];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn greater(self, a: [f32; 8], b: [f32; 8]) -> u16 {
        (0..8).fold(0, |bits, i| bits | (u16::from(a[i] > b[i]) << i))
    }
    #[inline(always)]
    fn gate(self, v: [f32; 8], bits: u16) -> [f32; 8] {
        std::array::from_fn(|i| if bits >> i & 1 == 1 { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 8] {
        // SAFETY: the caller vouches for 8 floats.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller vouches for 8 floats.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> [f32; 8] {
        // SAFETY: the caller vouches for n floats, and only those are read.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, n: usize, v: [f32; 8]) {
        for (i, &x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller vouches for n floats.
            unsafe { *p.add(i) = x };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Simd, Work};
    use std::arch::x86_64::*;

    /// Exists only where [`with_avx512`] made it.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());
    /// Exists only where [`with_avx2`] made it.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn with_avx512<W: Work>(work: W) {
        work.run(Avx512(()));
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn with_avx2<W: Work>(work: W) {
        work.run(Avx2(()));
    }

    /// Register-only intrinsics: safe wherever the proof value exists.
    macro_rules! ops {
        ($v:ty: $($name:ident($($arg:ident: $t:ty),*) -> $r:ty = $e:expr;)*) => {$(
            #[inline(always)]
            fn $name(self, $($arg: $t),*) -> $r {
                // SAFETY: `self` proves that the processor has the instruction, which touches no memory.
                unsafe { $e }
            }
        )*};
    }

    impl Simd for Avx512 {
        const W: usize = 16;
        const WIDEST_TILE: usize = 4;
        type V = __m512;

        ops! { __m512:
            splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
            mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
            greater(a: __m512, b: __m512) -> u16 = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b);
            gate(v: __m512, bits: u16) -> __m512 = _mm512_maskz_mov_ps(bits, v);
        }
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> __m512 {
            // SAFETY: `self` proves the instruction, the caller vouches for 16 floats.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, v: __m512) {
            // SAFETY: `self` proves the instruction, the caller vouches for 16 floats.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_part(self, p: *const f32, n: usize) -> __m512 {
            // SAFETY: `self` proves the instruction; lanes behind n, which the caller does not vouch for, are not touched.
            unsafe { _mm512_maskz_loadu_ps((1u32 << n).wrapping_sub(1) as u16, p) }
        }
        #[inline(always)]
        unsafe fn store_part(self, p: *mut f32, n: usize, v: __m512) {
            // SAFETY: `self` proves the instruction; lanes behind n, which the caller does not vouch for, are not touched.
            unsafe { _mm512_mask_storeu_ps(p, (1u32 << n).wrapping_sub(1) as u16, v) }
        }
    }

    impl Avx2 {
        /// All ones in the first `n` lanes.
        #[inline(always)]
        fn first(self, n: usize) -> __m256i {
            // SAFETY: `self` proves the instructions, which touch no memory.
            unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
        }
    }

    impl Simd for Avx2 {
        const W: usize = 8;
        const WIDEST_TILE: usize = 2;
        type V = __m256;

        ops! { __m256:
            splat(x: f32) -> __m256 = _mm256_set1_ps(x);
            add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
            sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
            mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
            min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
            greater(a: __m256, b: __m256) -> u16 = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) as u16;
            gate(v: __m256, bits: u16) -> __m256 = {
                let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(i32::from(bits)), lane), lane);
                _mm256_and_ps(v, _mm256_castsi256_ps(set))
            };
        }
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> __m256 {
            // SAFETY: `self` proves the instruction, the caller vouches for 8 floats.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, v: __m256) {
            // SAFETY: `self` proves the instruction, the caller vouches for 8 floats.
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_part(self, p: *const f32, n: usize) -> __m256 {
            // SAFETY: `self` proves the instruction; lanes behind n, which the caller does not vouch for, are not touched.
            unsafe { _mm256_maskload_ps(p, self.first(n)) }
        }
        #[inline(always)]
        unsafe fn store_part(self, p: *mut f32, n: usize, v: __m256) {
            // SAFETY: `self` proves the instruction; lanes behind n, which the caller does not vouch for, are not touched.
            unsafe { _mm256_maskstore_ps(p, self.first(n), v) }
        }
    }
}

/// One cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats that start on a cache line: a vector load that crosses lines costs two.
#[derive(Default)]
pub(super) struct Aligned(Vec<Line>);

impl Aligned {
    /// At least `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        Aligned(vec![Line::zeroed(); len.div_ceil(16)])
    }
    /// Grows to at least `len` floats; the contents are arbitrary but initialised.
    pub(super) fn grow(&mut self, len: usize) {
        if self.0.len() < len.div_ceil(16) {
            self.0.resize(len.div_ceil(16), Line::zeroed());
        }
    }
    pub(super) fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
