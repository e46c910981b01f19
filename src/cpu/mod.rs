//! The native CPU backend: an executor of plans and its kernels, one file a stem.
//! Must not know graph building, files or attacks.

mod apgd;
mod arena;
mod climb;
#[allow(unsafe_code)] // inner loops over raw rows of pixels
mod conv;
mod diverse;
mod dropout;
#[allow(unsafe_code)] // vector loads and stores
mod epilogue;
mod executor;
pub(crate) mod fft;
mod gemm;
mod head;
mod hop;
mod hyperplane;
mod layout;
mod loss;
mod lrn;
mod minimum;
mod momentum;
mod norm;
mod objective;
mod optim;
mod perturb;
mod pgd;
mod pointwise;
mod pool;
mod rows;
mod search;
#[allow(unsafe_code)] // vector intrinsics
mod simd;
mod square;
#[cfg(test)]
mod testing;

pub(crate) use epilogue::Epi;
pub use executor::{CpuExecutor, Options};
pub use simd::Isa;
