//! What the NVIDIA driver of this machine sees, asked without opening a card and without failing where there is no driver.
//! Must not know what cards are used for.

use std::ffi::c_int;

use cudarc::driver::sys;

use super::handles::{Done, Failure, attribute, card_name, check};
use crate::error::{Error, Result};
use crate::gpu::driver::DeviceProps;
use crate::gpu::nvrtc::Version;

/// The oldest driver that has every function used here.
const OLDEST: Version = Version { major: 12, minor: 0 };

/// The cards of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cards {
    /// The newest CUDA that the driver speaks.
    pub driver: Version,
    /// What they are, by index.
    pub cards: Vec<DeviceProps>,
}

/// What the NVIDIA driver sees; nothing where there is no such driver.
///
/// # Errors
/// [`Error::Device`] where the driver does not work.
pub fn look() -> Result<Option<Cards>> {
    // SAFETY: loads and unloads the driver's library, as every program that uses it does.
    if !unsafe { sys::is_culib_present() } {
        return Ok(None);
    }
    let broken = |f: Failure| Error::device(format!("the NVIDIA driver does not work: {f}")).with_hint(f.way_out());
    let mut number = 0;
    // SAFETY: a place for one number; allowed before initialisation.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut number) }).map_err(broken)?;
    let number = number.unsigned_abs();
    let driver = Version { major: number / 1000, minor: number % 1000 / 10 };
    // SAFETY: no pointers.
    match check("cuInit", unsafe { sys::cuInit(0) }) {
        Err(failure) if failure.no_device() => return Ok(Some(Cards { driver, cards: Vec::new() })),
        other => other.map_err(broken)?,
    }
    if driver < OLDEST {
        return Err(Error::device(format!("the NVIDIA driver knows CUDA {driver}, {OLDEST} is needed"))
            .with_hint("update the NVIDIA driver"));
    }
    let mut count = 0;
    // SAFETY: a place for one number.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) }).map_err(broken)?;
    let cards = (0..count).map(properties).collect::<Done<_>>().map_err(broken)?;
    Ok(Some(Cards { driver, cards }))
}

fn properties(index: c_int) -> Done<DeviceProps> {
    use sys::CUdevice_attribute_enum as A;
    let (mut card, mut bytes) = (0, 0);
    // SAFETY: a place for one handle; the index is below the count.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut card, index) })?;
    // SAFETY: a place for one size; the handle is the driver's.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut bytes, card) })?;
    let get = |what| attribute(card, what);
    Ok(DeviceProps {
        name: card_name(card)?,
        arch: 10 * get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? + get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        sms: get(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: get(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: get(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        memory_bytes: bytes as u64,
    })
}
