// SPDX-License-Identifier: GPL-2.0

//! What happens on the PCI bus: the moments at which a device's operations may change.
//!
//! C: `bus_register_notifier()` in
//! [`include/linux/device/bus.h`](srctree/include/linux/device/bus.h).

use crate::{
    bindings,
    device::Quiet, //
};
use core::pin::Pin;
use kernel::{
    device::Device,
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// Told what happens to the devices of a bus.  Called under the device's lock; may sleep.
pub trait BusEvents: Send + Sync {
    /// A driver's probe comes next.  C: `BUS_NOTIFY_BIND_DRIVER`.
    fn binding(&self, quiet: &Quiet<'_>);

    /// A driver and everything it held are gone.  C: `BUS_NOTIFY_UNBOUND_DRIVER`.
    fn unbound(&self, quiet: &Quiet<'_>);

    /// A probe failed; what the driver core holds for the driver goes next, under the same lock.
    /// C: `BUS_NOTIFY_DRIVER_NOT_BOUND`.
    fn not_bound(this: &Arc<Self>, dev: &Device);

    /// The device is gone from the bus.  C: `BUS_NOTIFY_REMOVED_DEVICE`.
    fn removed(&self, dev: &Device);
}

/// Watches the PCI bus; stops on drop.
#[pin_data(PinnedDrop)]
pub struct PciWatch<T: BusEvents> {
    // Unregistered (in `drop`) before `handler` is dropped.
    #[pin]
    block: Opaque<bindings::notifier_block>,
    handler: Arc<T>,
}

// SAFETY: The block is used by C alone, between registration and its end.
unsafe impl<T: BusEvents> Send for PciWatch<T> {}
// SAFETY: `T` is `Sync`, and the block is not reachable.
unsafe impl<T: BusEvents> Sync for PciWatch<T> {}

impl<T: BusEvents> PciWatch<T> {
    /// Starts to watch.  May sleep.
    pub fn new(handler: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            handler,
            block <- Opaque::try_ffi_init(|slot: *mut bindings::notifier_block| {
                // SAFETY: Memory for the block, as yet unused.
                unsafe {
                    slot.write(bindings::notifier_block {
                        notifier_call: Some(Self::notified),
                        ..Default::default()
                    })
                };
                // SAFETY: A registered bus, and a block that is pinned until `drop` unregisters it.
                // The handler was initialised before the block.
                to_result(unsafe {
                    bindings::bus_register_notifier(&raw const bindings::pci_bus_type, slot)
                })
            }),
        })
    }

    /// The handler.
    pub fn handler(&self) -> &T {
        &self.handler
    }

    /// # Safety
    ///
    /// Called by the notifier chain of a bus, with a block embedded in a live `Self`.
    unsafe extern "C" fn notified(
        block: *mut bindings::notifier_block,
        event: c_ulong,
        dev: *mut c_void,
    ) -> c_int {
        // SAFETY: `Opaque` is transparent, so the block's address is the field's.
        let watch = unsafe { &*kernel::container_of!(Opaque::cast_from(block), Self, block) };
        // SAFETY: The bus holds a reference on the device for the call.
        let dev = unsafe { Device::from_raw(dev.cast()) };
        // SAFETY: Used below for the two notifications that the contract names.
        let quiet = || unsafe { Quiet::from_notification(dev) };
        match u32::try_from(event) {
            Ok(bindings::bus_notifier_event_BUS_NOTIFY_BIND_DRIVER) => {
                watch.handler.binding(&quiet());
            }
            Ok(bindings::bus_notifier_event_BUS_NOTIFY_UNBOUND_DRIVER) => {
                watch.handler.unbound(&quiet());
            }
            Ok(bindings::bus_notifier_event_BUS_NOTIFY_DRIVER_NOT_BOUND) => {
                T::not_bound(&watch.handler, dev);
            }
            Ok(bindings::bus_notifier_event_BUS_NOTIFY_REMOVED_DEVICE) => {
                watch.handler.removed(dev);
            }
            _ => {}
        }
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: BusEvents> PinnedDrop for PciWatch<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered at creation; after this returns no notification runs.
        unsafe {
            bindings::bus_unregister_notifier(&raw const bindings::pci_bus_type, self.block.get())
        };
    }
}
