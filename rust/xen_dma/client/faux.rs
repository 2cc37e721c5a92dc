// SPDX-License-Identifier: GPL-2.0

//! Devices without hardware.
//!
//! The kernel crate has them too, but gives them another type with each release.
//!
//! C: [`include/linux/device/faux.h`](srctree/include/linux/device/faux.h).

use crate::bindings;
use core::ptr::{
    null,
    null_mut,
    NonNull, //
};
use kernel::{
    device::Device,
    prelude::*, //
};

/// A device on the faux bus, bound to the bus's own driver, which does nothing.
///
/// # Invariants
///
/// A registered device, which ends with the value.
pub struct FauxDevice(NonNull<bindings::faux_device>);

// SAFETY: A device may be used and ended on any processor.
unsafe impl Send for FauxDevice {}
// SAFETY: As above.
unsafe impl Sync for FauxDevice {}

impl FauxDevice {
    /// Registers a device.  [`ENODEV`] if C does not say why it could not.  May sleep.  C:
    /// `faux_device_create()`.
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: C copies the name; the device has no parent and no operations of its own.
        let device =
            unsafe { bindings::faux_device_create(name.as_char_ptr(), null_mut(), null()) };
        // INVARIANT: Just registered.
        NonNull::new(device).map(Self).ok_or(ENODEV)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        // SAFETY: By the type invariant a live device.
        let device = unsafe { &raw mut (*self.0.as_ptr()).dev };
        // SAFETY: As above, for as long as `self`.
        unsafe { Device::from_raw(device) }
    }
}

impl Drop for FauxDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; nobody uses it any more.
        unsafe { bindings::faux_device_destroy(self.0.as_ptr()) };
    }
}
