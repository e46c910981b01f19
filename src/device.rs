//! Where plans run. Opening a device settles what it is and how many threads it has; binding gives an executor.
//! Must not know attacks or networks.

use std::sync::Arc;

use crate::cpu::{CpuExecutor, Isa, Options};
use crate::error::{Error, Result};
use crate::plan::{Executor, Plan};

/// An opened device.
#[derive(Clone, Debug)]
pub struct Device {
    options: Options,
}

/// What to use of a device.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Worker threads of the CPU; 0 = one for each core.
    pub threads: usize,
    /// Instruction set of the CPU's inner loops; `None` = the widest it has.
    pub isa: Option<Isa>,
}

impl Device {
    /// Opens `auto`, `cpu` or `cuda:N`. `auto` takes the CPU: this version has no CUDA executor.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is none of these, [`Error::Device`] for a device that cannot be had.
    pub fn open(name: &str, options: &DeviceOptions) -> Result<Self> {
        match name {
            "auto" | "cpu" => {}
            _ if name == "cuda" || name.starts_with("cuda:") => {
                return Err(Error::device(format!("`{name}` cannot be used: this version runs on the CPU only"))
                    .with_hint("use `--device cpu` or leave `--device` out"));
            }
            _ => {
                return Err(Error::usage(format!("`{name}` is no device")).with_hint("devices are `auto` and `cpu`"));
            }
        }
        let isa = options.isa.unwrap_or_else(Isa::detect);
        if !Isa::available().contains(&isa) {
            return Err(Error::device(format!("this processor has no {}", isa_name(isa)))
                .with_hint(format!("it has {}", isa_name(Isa::detect()))));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if options.threads == 0 { cores } else { options.threads };
        Ok(Device { options: Options { isa, threads, exact: false } })
    }

    /// An executor for `plan`. `exact` keeps to direct kernels, whatever is faster.
    ///
    /// # Errors
    /// [`Error::Device`] where memory or threads cannot be had.
    pub fn bind(&self, plan: Plan, exact: bool) -> Result<Box<dyn Executor>> {
        let options = Options { exact, ..self.options };
        Ok(Box::new(CpuExecutor::new(Arc::new(plan), options)?))
    }

    /// What the device is, for a report: `cpu avx512, 2 threads`.
    pub fn describe(&self) -> String {
        let n = self.options.threads;
        format!("cpu {}, {n} thread{}", isa_name(self.options.isa), if n == 1 { "" } else { "s" })
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.options.threads
    }
}

/// Name of an instruction set, as reports print it.
pub fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Avx512 => "avx512",
        Isa::Avx2 => "avx2",
        Isa::Scalar => "scalar",
    }
}
