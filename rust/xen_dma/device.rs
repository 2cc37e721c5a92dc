// SPDX-License-Identifier: GPL-2.0

//! What a DMA backend asks of, and may do to, a `struct device`.
//!
//! C: [`include/linux/device.h`](srctree/include/linux/device.h).

use crate::{
    bindings,
    pages::Node, //
};
use dma_core::{
    Limits,
    SegmentLimits, //
};
use kernel::{
    device::Device,
    fmt,
    page::PAGE_SIZE,
    prelude::*, //
};

/// The C object of a device.
#[inline]
pub(crate) fn raw(dev: &Device) -> *mut bindings::device {
    // CAST: `Device` is a transparent wrapper of `struct device`.
    core::ptr::from_ref(dev).cast_mut().cast()
}

/// What the device can address in streaming mappings: DMA mask, bus limit, segment boundary and
/// `min_align_mask`, as they are now.  Any context.
#[inline]
pub fn limits(dev: &Device) -> Limits {
    Fields::read(raw(dev), streaming_mask(raw(dev))).limits()
}

/// The highest machine address that the device uses, if no other limit matters to it for a buffer
/// within one page, which is so as a rule.  [`None`]: ask [`limits`].  Any context.
#[inline]
pub fn page_reach(dev: &Device) -> Option<u64> {
    let dev = raw(dev);
    // SAFETY: A live device; drivers set the fields before they map.
    let (mask, bus_limit, parameters) =
        unsafe { ((*dev).dma_mask, (*dev).bus_dma_limit, (*dev).dma_parms) };
    if mask.is_null() || parameters.is_null() || bus_limit != 0 {
        return None;
    }
    // SAFETY: Bus code sets the pointer once, to memory that lives as long as the device.
    let parameters = unsafe { &*parameters };
    if parameters.segment_boundary_mask < PAGE_SIZE - 1
        || parameters.min_align_mask as usize > PAGE_SIZE - 1
    {
        return None;
    }
    // SAFETY: The mask lives as long as the device.
    Some(unsafe { mask.read() })
}

/// One less than the window that a segment may not leave.  Any context.
/// C: `dma_get_seg_boundary()`.
#[inline]
pub fn segment_boundary(dev: &Device) -> u64 {
    Fields::read(raw(dev), 0).boundary
}

/// What the device takes as one segment of a list, under these limits.  Any context.
/// C: `dma_get_max_seg_size()`.
#[inline]
pub fn segment_limits(dev: &Device, limits: &Limits) -> SegmentLimits {
    const DEFAULT: u32 = 64 << 10;
    // SAFETY: A live device.
    let parameters = unsafe { (*raw(dev)).dma_parms };
    let most = if parameters.is_null() {
        0
    } else {
        // SAFETY: Bus code sets the pointer once, to memory that lives as long as the device.
        unsafe { (*parameters).max_segment_size }
    };
    SegmentLimits::new(limits, if most == 0 { DEFAULT } else { most })
}

/// The low address bits that a bounce must keep.  Any context.  C: `dma_get_min_align_mask()`.
#[inline]
pub fn min_align(dev: &Device) -> u64 {
    // SAFETY: A live device.
    let parameters = unsafe { (*raw(dev)).dma_parms };
    if parameters.is_null() {
        return 0;
    }
    // SAFETY: Bus code sets the pointer once, to memory that lives as long as the device.
    u64::from(unsafe { (*parameters).min_align_mask })
}

/// Whether a mask is narrower than both that the device has, for streaming and for coherent memory.
pub fn narrows(dev: &Device, mask: u64) -> bool {
    let dev = raw(dev);
    // SAFETY: A live device.
    let coherent = unsafe { (*dev).coherent_dma_mask };
    mask < streaming_mask(dev).min(coherent)
}

/// As [`limits`], under a mask that is not set yet.
pub fn limits_for(dev: &Device, mask: u64) -> Limits {
    Fields::read(raw(dev), mask).limits()
}

/// As [`limits`], under the mask for coherent memory.
pub fn coherent_limits(dev: &Device) -> Limits {
    let dev = raw(dev);
    // SAFETY: A live device.
    let mask = unsafe { (*dev).coherent_dma_mask };
    Fields::read(dev, mask).limits()
}

/// As [`coherent_limits`], only the reach; [`None`] if there is a bus that limits it, too.
#[inline]
pub fn coherent_reach(dev: &Device) -> Option<u64> {
    let dev = raw(dev);
    // SAFETY: A live device.
    let (mask, bus_limit) = unsafe { ((*dev).coherent_dma_mask, (*dev).bus_dma_limit) };
    (bus_limit == 0).then_some(mask)
}

/// The NUMA node that the device is near to.  Any context.  C: `dev_to_node()`.
pub fn node(dev: &Device) -> Node {
    // SAFETY: A live device.
    Node::from_raw(unsafe { bindings::dev_to_node(raw(dev)) })
}

/// The mask for streaming mappings.
#[inline]
fn streaming_mask(dev: *mut bindings::device) -> u64 {
    // SAFETY: A live device; drivers set the field before they map.
    let mask = unsafe { (*dev).dma_mask };
    if mask.is_null() {
        return 0;
    }
    // SAFETY: The mask lives as long as the device.
    unsafe { mask.read() }
}

/// What a device's fields say of its limits.
struct Fields {
    mask: u64,
    bus_limit: u64,
    boundary: u64,
    min_align: u64,
}

impl Fields {
    #[inline]
    fn read(dev: *mut bindings::device, mask: u64) -> Self {
        let mut fields = Self {
            mask,
            // SAFETY: A live device.
            bus_limit: unsafe { (*dev).bus_dma_limit },
            boundary: 0,
            min_align: 0,
        };
        // SAFETY: A live device.
        let parameters = unsafe { (*dev).dma_parms };
        if !parameters.is_null() {
            // SAFETY: Bus code sets the pointer once, to memory that lives as long as the device.
            let parameters = unsafe { &*parameters };
            fields.boundary = parameters.segment_boundary_mask as u64;
            fields.min_align = u64::from(parameters.min_align_mask);
        }
        // C: `dma_get_seg_boundary()` takes 0, and no parameters, for 4 GiB.
        if fields.boundary == 0 {
            fields.boundary = u64::from(u32::MAX);
        }
        fields
    }

    #[inline]
    fn limits(&self) -> Limits {
        Limits::new(self.mask, self.bus_limit, self.boundary, self.min_align)
    }
}

/// The PCI vendor and device number, if it is a PCI device.
pub fn pci_id(dev: &Device) -> Option<(u16, u16)> {
    let dev = raw(dev);
    // SAFETY: A live device.
    if !unsafe { bindings::dev_is_pci(dev) } {
        return None;
    }
    // SAFETY: A PCI device is embedded in a `struct pci_dev`.
    let pci = unsafe { &*kernel::container_of!(dev, bindings::pci_dev, dev) };
    Some((pci.vendor, pci.device))
}

/// Whether a driver is bound, as seen without the device's lock: a hint for reports.
pub fn has_driver(dev: &Device) -> bool {
    // SAFETY: A live device; only compared.
    !unsafe { (&raw const (*raw(dev)).driver).read_volatile() }.is_null()
}

/// Lets a PCI function be visited once each, in bus order.  May sleep.  C: `bus_for_each_dev()`.
pub fn for_each_pci<F: FnMut(&Device)>(mut visit: F) {
    /// # Safety
    ///
    /// Called by `bus_for_each_dev` below, with a live device.
    unsafe extern "C" fn step<F: FnMut(&Device)>(
        dev: *mut bindings::device,
        visit: *mut core::ffi::c_void,
    ) -> core::ffi::c_int {
        // SAFETY: The pointer passed below, borrowed by this call alone.
        let visit = unsafe { &mut *visit.cast::<F>() };
        // SAFETY: The bus holds a reference while it visits.
        visit(unsafe { Device::from_raw(dev) });
        0
    }
    // SAFETY: A registered bus, and a callback that fits its data; both outlive the call.
    unsafe {
        bindings::bus_for_each_dev(
            &raw const bindings::pci_bus_type,
            core::ptr::null_mut(),
            (&raw mut visit).cast(),
            Some(step::<F>),
        )
    };
}

/// Shows a device's name: `0000:00:04.0`.
pub struct Name<'a>(pub &'a Device);

impl core::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        fmt::Display::fmt(self.0.name(), f)
    }
}

/// Proof that a device's own code runs no DMA now and will not until the proof ends: its lock is
/// held, and either no driver is bound, or the bound one's probe has not begun.
///
/// Only under this proof may a device's operations change.
pub struct Quiet<'a> {
    dev: &'a Device,
    locked: bool,
}

impl<'a> Quiet<'a> {
    /// Locks the device; [`EBUSY`] if a driver is bound.  May sleep.
    pub fn lock(dev: &'a Device) -> Result<Self> {
        // SAFETY: A live device; sleeping is allowed by contract.
        unsafe { bindings::device_lock(raw(dev)) };
        let quiet = Self { dev, locked: true };
        if has_driver(dev) {
            return Err(EBUSY);
        }
        Ok(quiet)
    }

    /// The proof of a bus notification.
    ///
    /// # Safety
    ///
    /// Called from `BUS_NOTIFY_BIND_DRIVER` or `BUS_NOTIFY_UNBOUND_DRIVER`, which the driver core
    /// sends under the device's lock before the probe or after everything of the driver is gone.
    /// (`BUS_NOTIFY_DRIVER_NOT_BOUND` comes before that is gone.)
    pub(crate) unsafe fn from_notification(dev: &'a Device) -> Self {
        Self { dev, locked: false }
    }

    /// The device.
    pub fn device(&self) -> &'a Device {
        self.dev
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        if self.locked {
            // SAFETY: Locked by `lock`.
            unsafe { bindings::device_unlock(raw(self.dev)) };
        }
    }
}
