//! Where plans run. Opening a device settles what it is and how it computes; binding gives an executor.
//! Must not know attacks or networks.

use std::fmt;
use std::sync::Arc;

use crate::cpu::{CpuExecutor, Isa, Options};
use crate::error::{Error, Result};
use crate::gpu::cache::Cache;
use crate::gpu::cuda::{Cards, Cuda, look};
use crate::gpu::nvrtc::{Nvrtc, Search};
use crate::gpu::{DeviceProps, Driver, GpuExecutor};
use crate::plan::{Executor, Plan, Precision};

/// An opened device.
#[derive(Clone, Debug)]
pub struct Device {
    kind: Kind,
    precision: Precision,
    threads: usize,
    note: Option<String>,
}

#[derive(Clone)]
enum Kind {
    Cpu(Isa),
    /// A card by its name among devices.
    Card(String, Arc<dyn Driver>),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Cpu(isa) => write!(f, "{isa:?}"),
            Kind::Card(place, driver) => write!(f, "{place} {:?}", driver.props()),
        }
    }
}

/// What to use of a device.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Worker threads of the CPU; 0 = one for each core.
    pub threads: usize,
    /// Instruction set of the CPU's inner loops; `None` = the widest it has.
    pub isa: Option<Isa>,
    /// How convolutions and linear layers are computed; the CPU has f32 only.
    pub precision: Precision,
}

/// What a name asks for.
enum Asked {
    Auto,
    Cpu,
    Cuda(usize),
}

impl Asked {
    fn parse(name: &str) -> Result<Self> {
        let index = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
        match name {
            "auto" => Some(Asked::Auto),
            "cpu" => Some(Asked::Cpu),
            "cuda" => Some(Asked::Cuda(0)),
            _ => name.strip_prefix("cuda:").and_then(index).map(Asked::Cuda),
        }
        .ok_or_else(|| {
            Error::usage(format!("`{name}` is no device"))
                .with_hint("devices are `auto`, `cpu`, `cuda` and `cuda:N`; `petard devices` lists those of this machine")
        })
    }
}

impl Device {
    /// Opens `auto`, `cpu`, `cuda` (the first card) or `cuda:N`. `auto` takes the first card where kernels can be compiled
    /// for it, else the CPU; [`Device::note`] then says why a card that is there is not used.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is none of these or a precision that the device lacks, [`Error::Device`] for a
    /// device that cannot be had.
    pub fn open(name: &str, options: &DeviceOptions) -> Result<Self> {
        match Asked::parse(name)? {
            Asked::Cpu => Device::cpu(options, None),
            Asked::Cuda(index) => {
                let Some(cards) = look()? else {
                    return Err(Error::device(format!("`{name}` cannot be used: there is no NVIDIA driver on this machine"))
                        .with_hint("use `--device cpu`, or leave `--device` out"));
                };
                Device::cuda(index, &cards, options)
            }
            Asked::Auto => {
                let found = look().and_then(|found| match found {
                    Some(cards) if !cards.cards.is_empty() => Device::cuda(0, &cards, options).map(Some),
                    _ => Ok(None),
                });
                let why = match found {
                    Ok(Some(device)) => return Ok(device),
                    Ok(None) => None,
                    Err(error) => Some(error),
                };
                Device::cpu(options, why.as_ref())
            }
        }
    }

    /// The CPU; `instead` is why not a card.
    fn cpu(options: &DeviceOptions, instead: Option<&Error>) -> Result<Self> {
        let why = instead.map(|e| match e.hint() {
            Some(hint) => format!("CUDA is not used: {e}; {hint}"),
            None => format!("CUDA is not used: {e}"),
        });
        if options.precision != Precision::F32 {
            let message = format!("the CPU does not compute in {}, only in f32", options.precision);
            return Err(Error::usage(message).with_hint(why.unwrap_or_else(|| {
                "leave `--precision` out, or use an NVIDIA card; `petard devices` lists what this machine has".into()
            })));
        }
        let isa = options.isa.unwrap_or_else(Isa::detect);
        if !Isa::available().contains(&isa) {
            return Err(Error::device(format!("this processor has no {}", isa_name(isa)))
                .with_hint(format!("it has {}", isa_name(Isa::detect()))));
        }
        Ok(Device { kind: Kind::Cpu(isa), precision: Precision::F32, threads: threads(options), note: why })
    }

    fn cuda(index: usize, cards: &Cards, options: &DeviceOptions) -> Result<Self> {
        let nvrtc = Nvrtc::find(&Search::from_env(), Some(cards.driver))?;
        let driver = Arc::new(Cuda::open(index, cards, nvrtc, Cache::new(Cache::standard_folder()))?);
        Ok(Device { threads: threads(options), ..Device::on(&format!("cuda:{index}"), driver, options.precision) })
    }

    /// A card that the caller has opened, under the name by which reports call it.
    pub fn on(name: &str, driver: Arc<dyn Driver>, precision: Precision) -> Self {
        let threads = threads(&DeviceOptions::default());
        Device { kind: Kind::Card(name.into(), driver), precision, threads, note: None }
    }

    /// An executor for `plan`, which was compiled for [`Device::precision`], or for f32 where `exact` is asked for. On the
    /// CPU `exact` keeps to direct kernels, whatever is faster.
    ///
    /// # Errors
    /// [`Error::Device`] where memory, threads or kernels cannot be had.
    pub fn bind(&self, plan: Plan, exact: bool) -> Result<Box<dyn Executor>> {
        let (plan, precision) = (Arc::new(plan), self.precision);
        match &self.kind {
            Kind::Cpu(isa) => {
                assert_eq!(plan.precision(), Precision::F32, "the CPU computes in f32");
                let options = Options { isa: *isa, threads: self.threads, exact };
                Ok(Box::new(CpuExecutor::new(plan, options)?))
            }
            Kind::Card(_, driver) => {
                let asked = plan.precision();
                assert!(asked == Precision::F32 || (asked == precision && !exact), "{asked} on {precision}, exact {exact}");
                Ok(Box::new(GpuExecutor::new(Arc::clone(driver), plan)?))
            }
        }
    }

    /// How plans for this device compute, unless they are exact.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The card, where the device is one.
    pub fn card(&self) -> Option<&DeviceProps> {
        match &self.kind {
            Kind::Cpu(_) => None,
            Kind::Card(_, driver) => Some(driver.props()),
        }
    }

    /// What the device is, for a report: `cpu avx512, 2 threads` or `cuda:0 NVIDIA H200`.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Cpu(isa) => {
                let n = self.threads;
                format!("cpu {}, {n} thread{}", isa_name(*isa), if n == 1 { "" } else { "s" })
            }
            Kind::Card(name, driver) => format!("{name} {}", driver.props().name),
        }
    }

    /// Worker threads of the host.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Why `auto` did not take a card that is there, in one line.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// What went wrong since the last call without failing anything, such as a folder for kernels that cannot be written.
    pub fn take_warnings(&self) -> Vec<String> {
        match &self.kind {
            Kind::Cpu(_) => Vec::new(),
            Kind::Card(_, driver) => driver.take_warnings(),
        }
    }
}

/// Worker threads: as many as asked for, else one for each core.
fn threads(options: &DeviceOptions) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    if options.threads == 0 { cores() } else { options.threads }
}

/// Name of an instruction set, as reports print it.
pub fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Avx512 => "avx512",
        Isa::Avx2 => "avx2",
        Isa::Scalar => "scalar",
    }
}
