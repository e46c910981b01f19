//! The native CPU backend.
//! Must not know graph building, files or attacks.

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
}

/// One element-wise operation on a result before it is stored, in the order of the list.
///
/// `Scale` and `Bias` hold one value a channel (the last dimension); the others are shaped like the result. Masks
/// hold one bit an element, each pixel padded to whole 16-bit words ([`crate::tensor::bits_bytes`]).
pub(crate) enum Epi<'a> {
    Scale(&'a [f32]),
    Bias(&'a [f32]),
    Add(&'a [f32]),
    /// `max(v, 0)`, then `min(v, cap)`; NaN stays NaN.
    Relu {
        cap: Option<f32>,
    },
    /// Writes the bits `0 < v (< cap)`; the value goes on unchanged.
    MaskOut {
        bits: &'a mut [u8],
        cap: Option<f32>,
    },
    /// v where the bit is set, 0 elsewhere.
    Gate(&'a [u8]),
}
