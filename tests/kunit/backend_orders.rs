// SPDX-License-Identifier: GPL-2.0

//! Orders: what the bus tells of a device, in every order, the ones that never come included.
//!
//! The driver core promises an order, and other notifiers, failing probes and drivers that leave
//! mappings behind bend it.  Whatever comes, the books tell the truth, a device that is
//! gone keeps nothing of ours, and its neighbour does not notice.

use super::*;
use crate::devices::{
    Devices,
    Served, //
};
use client::below;
use xen_dma::bus::BusEvents;

/// What may happen to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    /// A driver is about to probe it.
    Binding,
    /// Its driver is gone, or the probe failed.
    Unbound,
    /// It is gone from the bus.
    Removed,
    /// Its driver maps something, if the device is ours.
    Map,
    /// Its driver ends the last mapping that it made, if the device is ours and knows of it.
    Unmap,
}

const ALL: [Happening; 5] = [
    Happening::Binding,
    Happening::Unbound,
    Happening::Removed,
    Happening::Map,
    Happening::Unmap,
];

/// How much happens to it, one after the other.
const LENGTH: usize = 5;

/// Bytes of a mapping: a slot, so that it must be a new one each time.
const SIZE: usize = 2048;

/// A device, and what must be true of it.
struct Subject {
    device: TestDevice,
    buffer: Buffer,
    known: bool,
    attached: bool,
    /// Where the mappings are that the device's books know of.
    held: KVec<Machine>,
    /// Mappings that were left behind, and how often that was counted.
    left: u64,
}

impl Subject {
    fn new(name: &'static CStr) -> Result<Self> {
        let device = TestDevice::new(name)?;
        device.set_boundary(MASK_32);
        Ok(Self {
            device,
            buffer: Buffer::new(0)?,
            known: false,
            attached: false,
            held: KVec::new(),
            left: 0,
        })
    }

    fn dev(&self) -> &Device {
        self.device.device()
    }

    /// Makes it happen: to the model, too.  Returns how many slots nobody will ever free.
    fn undergo(&mut self, devices: &Devices, what: Happening) -> Result<u64> {
        let (dir, attrs) = (Direction::BIDIRECTIONAL, Attrs::NONE);
        match what {
            Happening::Binding => {
                devices.binding(&Quiet::lock(self.dev())?);
                (self.known, self.attached) = (true, true);
                client::set_masks(self.dev(), MASK_32)?;
            }
            Happening::Unbound => {
                devices.unbound(&Quiet::lock(self.dev())?);
                let kept = self.attached && !self.held.is_empty();
                self.left += u64::from(kept);
                self.attached = kept;
            }
            Happening::Removed => {
                devices.removed(self.dev());
                (self.known, self.attached, self.left) = (false, false, 0);
                let orphans = self.held.len() as u64;
                self.held.clear();
                return Ok(orphans);
            }
            Happening::Map if self.attached => {
                let at = below::map(self.dev(), self.buffer.phys(), SIZE, dir, attrs)?;
                self.held.push(at, GFP_KERNEL)?;
            }
            Happening::Unmap if self.attached => {
                if let Some(at) = self.held.pop() {
                    below::unmap(self.dev(), at, SIZE, dir, attrs)?;
                }
            }
            Happening::Map | Happening::Unmap => {}
        }
        Ok(0)
    }

    /// Are the books right?
    fn judge(&self, devices: &Devices) -> Result {
        check!(client::has_own_ops(self.dev()) == self.attached);
        let mut served: Option<Served> = None;
        devices.for_each(|one| {
            if core::ptr::eq(one.device(), self.dev()) {
                served = Some(one.clone());
            }
            Ok::<(), Error>(())
        })?;
        check!(served.is_some() == self.known);
        let Some(served) = served else {
            return Ok(());
        };
        check!(served.in_use() == self.attached);
        let counters = &served.provider().counters;
        let (held, left) = (self.held.len() as u64, self.left);
        check!(counters.outstanding() == held, "{held}");
        check!(counters.get(Event::Misuse(Wrong::Leak)) == left, "{left}");
        check!(counters.misuse() == left, "{left}");
        Ok(())
    }
}

#[kunit_tests(xen_dma_orders)]
mod tests {
    use super::*;

    /// All that happens in one order; returns how many slots it has used up.
    fn run(devices: &Devices, subjects: &mut [Subject; 2], order: usize) -> Result<u64> {
        let mut used_up = 0;
        let mut rest = order;
        // The neighbour lives its own life meanwhile.
        let neighbour: [_; LENGTH] = [
            Happening::Binding,
            Happening::Map,
            Happening::Unmap,
            Happening::Unbound,
            Happening::Binding,
        ];
        for (number, other) in neighbour.into_iter().enumerate() {
            let what = ALL[rest % ALL.len()];
            rest /= ALL.len();
            used_up += subjects[0].undergo(devices, what)?;
            used_up += subjects[1].undergo(devices, other)?;
            for subject in subjects.iter() {
                subject
                    .judge(devices)
                    .inspect_err(|_| pr_err!("order {order}, after {number}, {what:?}\n"))?;
            }
        }
        for subject in subjects {
            used_up += subject.undergo(devices, Happening::Removed)?;
            subject.judge(devices)?;
        }
        Ok(used_up)
    }

    #[test]
    fn whatever_the_bus_tells_the_books_are_right() -> Result {
        let Some(p2m) = LinearP2m::get() else {
            return Ok(());
        };
        let mut subjects = [
            Subject::new(c"xen-dma-orders")?,
            Subject::new(c"xen-dma-orders-other")?,
        ];
        let orders = ALL.len().pow(LENGTH as u32);
        let mut next = 0;
        while next < orders {
            let shared = Shared::new(Aperture::new(2, Care::NONE)?, p2m, true, Bounds::FIXED)?;
            let devices = Devices::new(shared.clone(), client::built_in())?;
            let mut used_up = 0;
            // What a device leaves behind as it goes is lost to the aperture.
            while next < orders && used_up < 512 {
                used_up += run(&devices, &mut subjects, next)?;
                let used = shared.aperture.usage().0;
                check!(used == used_up * SLOT_SIZE, "order {next}: {used}");
                next += 1;
            }
            shared.hold_breath();
        }
        pr_info!("tally: bus-sequences={orders}\n");
        Ok(())
    }
}
