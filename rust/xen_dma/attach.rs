// SPDX-License-Identifier: GPL-2.0

//! Attaching a table to a device, so that no device is ever left with a dangling one.
//!
//! A device's operations change only under a [`Quiet`] proof.  While a table is in use, its
//! [`Attachment`] holds a reference on the module whose code the table leads to, so the
//! module cannot go; and the memory of the table belongs to whoever keeps the attachment.
//! An attachment that is dropped in use puts the old operations back first.
//!
//! C: `set_dma_ops()` in [`include/linux/dma-map-ops.h`](srctree/include/linux/dma-map-ops.h).

use crate::{
    bindings,
    device::{
        raw,
        Quiet, //
    },
    fault,
    ops::Provider,
    table::Table,
};
use kernel::{
    device::Device,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        },
    },
    ThisModule, //
};

/// A device, and the table made for it.
///
/// # Invariants
///
/// `in_use` is true exactly while `dev->dma_ops` points into `table`; then `module` is pinned.
pub struct Attachment<P: Provider> {
    dev: ARef<Device>,
    table: KBox<Table<P>>,
    module: &'static ThisModule,
    previous: Atomic<usize>,
    in_use: Atomic<bool>,
}

impl<P: Provider> Attachment<P> {
    /// Makes the table for a device, without attaching it.  May sleep.
    pub fn new(dev: &Device, provider: P, module: &'static ThisModule) -> Result<Self> {
        fault::check(fault::Point::Memory)?;
        // INVARIANT: Not in use.
        Ok(Self {
            dev: dev.into(),
            table: KBox::new(Table::new(provider), GFP_KERNEL)?,
            module,
            previous: Atomic::new(0),
            in_use: Atomic::new(false),
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.dev
    }

    /// The provider.
    pub fn provider(&self) -> &P {
        self.table.provider()
    }

    /// Whether the device uses the table.
    pub fn in_use(&self) -> bool {
        self.in_use.load(Acquire)
    }

    /// Makes the device use the table.  Nothing happens if it does already.
    ///
    /// [`EINVAL`] if the proof speaks of another device, [`ENODEV`] if the module is going.
    pub fn attach(&self, quiet: &Quiet<'_>) -> Result {
        let dev = self.check(quiet)?;
        if self.in_use() {
            return Ok(());
        }
        // SAFETY: A loaded module, or null for code that is built in.
        if !unsafe { bindings::try_module_get(self.module.as_ptr()) } {
            return Err(ENODEV);
        }
        // SAFETY: A live device; under the proof nobody else touches the field.
        let slot = unsafe { &raw mut (*dev).dma_ops };
        // SAFETY: As above.
        let previous = unsafe { slot.read() };
        self.previous.store(previous as usize, Relaxed);
        // SAFETY: As above.  The table outlives its use: dropping `self` ends it first.
        unsafe { slot.write(self.table.ops().cast_mut().cast()) };
        // INVARIANT: Pinned and pointing since the lines above.
        self.in_use.xchg(true, Full);
        Ok(())
    }

    /// Puts the device's old operations back.  Nothing happens if they are.
    ///
    /// [`EINVAL`] if the proof speaks of another device.
    pub fn detach(&self, quiet: &Quiet<'_>) -> Result {
        self.check(quiet)?;
        self.put_back();
        Ok(())
    }

    fn check(&self, quiet: &Quiet<'_>) -> Result<*mut bindings::device> {
        let dev = raw(&self.dev);
        (dev == raw(quiet.device())).then_some(dev).ok_or(EINVAL)
    }

    fn put_back(&self) {
        // INVARIANT: Exactly one caller wins, and puts back.
        if !self.in_use.xchg(false, Full) {
            return;
        }
        // SAFETY: A device that we hold a reference on.
        let slot = unsafe { &raw mut (*raw(&self.dev)).dma_ops };
        // SAFETY: As above; ours until now.
        unsafe { slot.write(self.previous.load(Relaxed) as *mut _) };
        // What our table let the core skip, the old operations may need.
        // SAFETY: As above.
        unsafe { bindings::dma_reset_need_sync(raw(&self.dev)) };
        // SAFETY: The reference that `attach` took.
        unsafe { bindings::module_put(self.module.as_ptr()) };
    }
}

impl<P: Provider> Drop for Attachment<P> {
    fn drop(&mut self) {
        self.put_back();
    }
}
