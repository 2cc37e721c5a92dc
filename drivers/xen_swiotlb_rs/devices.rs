// SPDX-License-Identifier: GPL-2.0

//! The devices that are served.
//!
//! A device is attached when a driver is about to probe it, and detached when the driver and
//! all it held are gone: at both moments its lock is held and no DMA runs.  So a device with
//! a driver is never touched, a device without one uses nothing of ours, and the module can
//! go exactly when no served device has a driver.  Numbers outlive a detach, until the device
//! itself is gone.
//!
//! Of a probe that failed the driver core tells before it gives back what it manages for the driver,
//! coherent memory for one; a work item waits for the device's lock, and then detaches it.

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
    impl_has_work,
    new_mutex,
    new_work,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    workqueue::{
        self,
        Work,
        WorkItem, //
    },
    ThisModule, //
};
use xen_dma::{
    attach::Attachment,
    bus::BusEvents,
    deferred,
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
    #[pin]
    failures: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Devices { self.failures }
}

/// After a probe that failed.
impl WorkItem for Devices {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        while let Some(served) = this.take_failed() {
            // With a driver, the probe of that one has seen to it.
            if let Ok(quiet) = Quiet::lock(served.device()) {
                this.unbound(&quiet);
            }
        }
    }
}

impl Devices {
    pub(crate) fn new(shared: Arc<Shared>, module: &'static ThisModule) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                known <- new_mutex!(KVec::new(), "Devices::known"),
                shared,
                module,
                failures <- new_work!("Devices::failures"),
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

    /// Detaches a device that is to be served no more, unless that would let its mappings' memory go.
    fn dismiss(&self, served: &Served, quiet: &Quiet<'_>) {
        let left = served.provider().counters.outstanding();
        if left > 0 && served.in_use() {
            dev_warn!(
                quiet.device(),
                "xen_swiotlb_rs: not wanted any more, but its driver left {left} mappings; served on until it is removed from the bus\n"
            );
        } else {
            let _ = served.detach(quiet);
        }
    }

    /// A device whose probe failed and that was not yet seen to.
    fn take_failed(&self) -> Option<Served> {
        let known = self.known.lock();
        let mut failed = known
            .iter()
            .filter(|served| served.provider().take_failed());
        failed.next().cloned()
    }

    /// Waits until all devices whose probes failed are seen to.  May sleep.
    pub(crate) fn settle(&self) {
        deferred::finish(&self.failures);
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
                self.dismiss(&served, quiet);
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

    fn not_bound(this: &Arc<Self>, dev: &Device) {
        if let Some(served) = this.find(dev).filter(|served| served.in_use()) {
            served.provider().note_failed();
            // If it is on its way already, all the better.
            let _ = workqueue::system_long().enqueue(this.clone());
        }
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
