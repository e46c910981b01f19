//! The native CPU backend: an executor of plans and its kernels, one file a stem.
//! Must not know graph building, files or attacks.

mod arena;
#[allow(unsafe_code)] // inner loops over raw rows of pixels
mod conv;
mod dropout;
#[allow(unsafe_code)] // vector loads and stores
mod epilogue;
mod executor;
mod gemm;
mod head;
mod layout;
mod loss;
mod norm;
mod objective;
mod optim;
mod perturb;
mod pgd;
mod pointwise;
mod pool;
mod rows;
#[allow(unsafe_code)] // vector intrinsics
mod simd;
#[cfg(test)]
mod testing;

pub(crate) use epilogue::Epi;
pub use executor::{CpuExecutor, Options};
pub use simd::Isa;
