//! The CUDA engine: a plan becomes launches (`lower`, one file a kernel stem), launches become a recorded list on a driver.
//! Must not know how plans are made, nor the CPU's executor.

pub mod augment;
pub mod cache;
pub mod catalogue;
pub mod cuda;
pub mod driver;
mod executor;
pub mod image;
pub mod lower;
pub mod nvrtc;
pub mod source;
pub mod spec;

mod conv;
mod conv_mma;
mod dropout;
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
mod show;
mod tile;

pub use driver::{Arg, DeviceProps, DevicePtr, Dims, Driver, Event, Function, Replay};
pub use executor::GpuExecutor;
pub use spec::KernelSpec;
