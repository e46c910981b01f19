//! The CUDA engine: a plan becomes launches (`lower`, one file a kernel stem), launches become a recorded list on a driver.
//! Must not know how plans are made, nor the CPU's executor.

pub mod augment;
pub mod cache;
pub mod catalogue;
pub mod cuda;
pub mod driver;
mod executor;
pub mod fft;
pub mod image;
pub mod lower;
pub mod nvrtc;
pub mod source;
pub mod spec;

mod apgd;
mod climb;
mod conv;
mod conv_mma;
mod dropout;
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
mod show;
mod square;
mod tile;

pub use driver::{Arg, DeviceProps, DevicePtr, Dims, Driver, Event, Function, Replay};
pub use executor::GpuExecutor;
pub use spec::KernelSpec;
