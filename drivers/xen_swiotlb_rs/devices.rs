// SPDX-License-Identifier: GPL-2.0

//! The devices that are served.
//!
//! A device is attached when a driver is about to probe it, and detached when the driver and
//! all it held are gone: at both moments its lock is held and no DMA runs.  So a device with
//! a driver is never touched, a device without one uses nothing of ours, and the module can
//! go exactly when no served device has a driver.  Numbers outlive a detach, until the device
//! itself is gone.

use crate::{
    backend::{
        Backend,
        Shared, //
    },
    counters::Wrong,
    policy::Policy, //
};
use kernel::{
    dev_info,
    dev_warn,
    device::Device,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    ThisModule, //
};
use xen_dma::{
    attach::Attachment,
    bus::BusEvents,
    device::{
        self,
        for_each_pci,
        Quiet, //
    },
};

/// A device that is or was served.
pub(crate) type Served = Arc<Attachment<Backend>>;

/// All devices that are or were served.
#[pin_data]
pub(crate) struct Devices {
    #[pin]
    known: Mutex<KVec<Served>>,
    pub(crate) shared: Arc<Shared>,
    module: &'static ThisModule,
}

impl Devices {
    pub(crate) fn new(shared: Arc<Shared>, module: &'static ThisModule) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                known <- new_mutex!(KVec::new(), "Devices::known"),
                shared,
                module,
            }),
            GFP_KERNEL,
        )
    }

    /// Says which devices have a driver already, and so keep what they have until they are bound
    /// again.
    pub(crate) fn list_left_alone(&self) {
        for_each_pci(|dev| {
            if self.left_alone(dev) {
                dev_info!(
                    dev,
                    "xen_swiotlb_rs: has a driver and is left alone; unbind and bind it to switch\n"
                );
            }
        });
    }

    /// Whether a device has a driver that does not use our table, though policy wants it to.
    pub(crate) fn left_alone(&self, dev: &Device) -> bool {
        device::has_driver(dev)
            && !self.find(dev).is_some_and(|served| served.in_use())
            && Policy::wants(dev, self.module)
    }

    fn find(&self, dev: &Device) -> Option<Served> {
        let known = self.known.lock();
        let served = known
            .iter()
            .find(|served| core::ptr::eq(served.device(), dev))
            .cloned();
        served
    }

    fn find_or_add(&self, dev: &Device) -> Result<Served> {
        if let Some(served) = self.find(dev) {
            return Ok(served);
        }
        let backend = Backend::new(self.shared.clone())?;
        let served = Arc::new(Attachment::new(dev, backend, self.module)?, GFP_KERNEL)?;
        self.known.lock().push(served.clone(), GFP_KERNEL)?;
        Ok(served)
    }

    /// Calls `visit` for each device in turn.
    pub(crate) fn for_each<E>(
        &self,
        mut visit: impl FnMut(&Served) -> Result<(), E>,
    ) -> Result<(), E> {
        self.known.lock().iter().try_for_each(&mut visit)
    }
}

impl BusEvents for Devices {
    fn binding(&self, quiet: &Quiet<'_>) {
        let dev = quiet.device();
        if !Policy::wants(dev, self.module) {
            if let Some(served) = self.find(dev) {
                let _ = served.detach(quiet);
            }
            return;
        }
        match self.find_or_add(dev).and_then(|served| served.attach(quiet)) {
            Ok(()) => {}
            Err(error) => dev_warn!(
                dev,
                "xen_swiotlb_rs: not attached ({error:?}); the kernel's own DMA operations serve it\n"
            ),
        }
    }

    fn unbound(&self, quiet: &Quiet<'_>) {
        let Some(served) = self.find(quiet.device()) else {
            return;
        };
        let left = served.provider().counters.outstanding();
        if left > 0 && served.in_use() {
            // The device may still write there.  It keeps our table, and with it the module.
            served
                .provider()
                .misuse(quiet.device(), "unbind", 0, Wrong::Leak);
            dev_warn!(
                quiet.device(),
                "xen_swiotlb_rs: its driver is gone but left {left} mappings; kept, the module stays loaded\n"
            );
        } else {
            let _ = served.detach(quiet);
        }
        served.provider().forget_driver();
    }

    fn removed(&self, dev: &Device) {
        let mut known = self.known.lock();
        if let Some(index) = known
            .iter()
            .position(|served| core::ptr::eq(served.device(), dev))
        {
            let gone = known.remove(index);
            drop(known);
            drop(gone);
        }
    }
}
