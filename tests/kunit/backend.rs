// SPDX-License-Identifier: GPL-2.0

//! The driver's backend through the DMA API, with devices that have no hardware.
//!
//! Part of the driver's crate, whose aperture lets a test see and write what a device would:
//! the slots of a bounced mapping.  Callers' mistakes go to the provider directly, past
//! DMA_API_DEBUG, which would complain before it has to answer.
//!
//! Without a PV domain every test passes at once.

use crate::{
    aperture::{
        Aperture,
        Care, //
    },
    backend::{
        Backend,
        Shared, //
    },
    breath::Bounds,
    counters::{
        worth_a_line,
        Cause,
        Event,
        Wrong, //
    },
};
use check::check;
use core::ops::Deref;
use dma_core::{
    place,
    Bounces,
    Frame,
    Machine,
    P2m,
    Pfn,
    Phys,
    Placement,
    Reason,
    SLOT_SIZE, //
};
use kernel::{
    device::Device,
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};
use xen_dma::{
    attach::Attachment,
    client::{
        self,
        Buffer,
        List,
        TestDevice, //
    },
    device::{
        self,
        Quiet, //
    },
    irq_lock::new_irq_lock,
    ops::{
        Attrs,
        Direction,
        Provider, //
    },
    p2m::LinearP2m,
    region::{
        Region,
        Way, //
    },
    Context, //
};

#[path = "backend_breath.rs"]
mod breath;
#[path = "check.rs"]
mod check;
#[path = "backend_coherent.rs"]
mod coherent;
#[path = "backend_crowd.rs"]
mod crowd;
#[path = "backend_faults.rs"]
mod faults;
#[path = "backend_hostile.rs"]
mod hostile;
#[cfg(CONFIG_XEN_SWIOTLB_RS_LEDGER)]
#[path = "backend_ledger.rs"]
mod ledger;
#[path = "backend_limits.rs"]
mod limits;
#[path = "backend_lists.rs"]
mod lists;
#[path = "backend_masks.rs"]
mod masks;
#[path = "backend_orders.rs"]
mod orders;
#[path = "backend_refusals.rs"]
mod refusals;
#[path = "backend_secrets.rs"]
mod secrets;
#[path = "backend_streaming.rs"]
mod streaming;
#[path = "backend_syncs.rs"]
mod syncs;
#[path = "backend_world.rs"]
mod world;

/// Size of the aperture of a test, in MiB.
const APERTURE: u32 = 8;

const DIRECTIONS: [Direction; 3] = [
    Direction::BIDIRECTIONAL,
    Direction::TO_DEVICE,
    Direction::FROM_DEVICE,
];

const MASK_64: u64 = u64::MAX;
const MASK_32: u64 = u32::MAX as u64;
const MASK_28: u64 = (1 << 28) - 1;

/// Bytes around a mapping that nobody may touch.
const GUARD: usize = 32;

/// Up to this size mappings are looked at byte by byte.
const CLOSE_LOOK: usize = 8192;

/// Bytes at both ends of larger ones that are looked at one by one.
const CLOSE_EDGE: usize = 64;

/// A device that is served by a backend with an aperture of its own.
struct Bench {
    // Ends before the device that it serves.
    attachment: Attachment<Backend>,
    device: TestDevice,
    seat: Seat,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shared.hold_breath();
    }
}

impl Deref for Bench {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.seat
    }
}

/// What a thread needs to map for a device, and to look at what came of it.
#[derive(Clone)]
struct Seat {
    dev: ARef<Device>,
    shared: Arc<Shared>,
    p2m: LinearP2m,
    force: bool,
}

impl Bench {
    /// Sets a device up; [`None`] outside a PV domain.
    fn new(name: &'static CStr, mask: u64, force: bool) -> Result<Option<Self>> {
        Self::with(name, mask, force, APERTURE)
    }

    fn with(name: &'static CStr, mask: u64, force: bool, megabytes: u32) -> Result<Option<Self>> {
        Self::bounded(name, mask, force, megabytes, Bounds::FIXED)
    }

    /// Makes everything bounce, through an aperture that grows and shrinks.
    fn breathing(
        name: &'static CStr,
        mask: u64,
        megabytes: u32,
        bounds: Bounds,
    ) -> Result<Option<Self>> {
        Self::bounded(name, mask, true, megabytes, bounds)
    }

    fn bounded(
        name: &'static CStr,
        mask: u64,
        force: bool,
        megabytes: u32,
        bounds: Bounds,
    ) -> Result<Option<Self>> {
        Self::careful(name, mask, force, (megabytes, bounds), Care::NONE)
    }

    fn careful(
        name: &'static CStr,
        mask: u64,
        force: bool,
        (megabytes, bounds): (u32, Bounds),
        care: Care,
    ) -> Result<Option<Self>> {
        let Some(p2m) = LinearP2m::get() else {
            return Ok(None);
        };
        let aperture = Aperture::new(megabytes, care)?;
        let shared = Shared::new(aperture, p2m, force, bounds)?;
        Self::beside(name, mask, force, shared).map(Some)
    }

    /// Sets up another device that shares an aperture.
    fn beside(name: &'static CStr, mask: u64, force: bool, shared: Arc<Shared>) -> Result<Self> {
        let p2m = LinearP2m::get().ok_or(ENODEV)?;
        let device = TestDevice::new(name)?;
        // As PCI sets it: without it no mapping would go the short way.
        device.set_boundary(MASK_32);
        let backend = Backend::new(shared.clone())?;
        let attachment = Attachment::new(device.device(), backend, client::built_in())?;
        attachment.attach(&Quiet::lock(device.device())?)?;
        client::set_masks(device.device(), mask)?;
        let dev = device.device().into();
        Ok(Self {
            attachment,
            device,
            seat: Seat {
                dev,
                shared,
                p2m,
                force,
            },
        })
    }

    fn backend(&self) -> &Backend {
        self.attachment.provider()
    }

    fn count(&self, event: Event) -> u64 {
        self.backend().counters.get(event)
    }

    fn wrongs(&self, wrong: Wrong) -> u64 {
        self.count(Event::Misuse(wrong))
    }

    /// Nothing may be left at the end of a test.
    fn done(&self) -> Result {
        self.shared.coherent.finish();
        let (outstanding, misuse) = (
            self.backend().counters.outstanding(),
            self.backend().counters.misuse(),
        );
        check!(outstanding == 0, "{outstanding}");
        check!(misuse == 0, "{misuse}");
        self.empty()
    }

    /// As [`Self::done`], after wrong calls.
    fn empty(&self) -> Result {
        self.shared.coherent.finish();
        check!(
            self.in_use() == 0,
            "{} bytes of the aperture",
            self.in_use()
        );
        check!(self.shared.coherent.usage() == (0, 0));
        check!(self
            .shared
            .aperture
            .each()
            .all(|extent| extent.slots.used() == 0 && extent.ledger.is_clear()));
        self.books()
    }

    /// The ledger has never found anything wrong.
    fn books(&self) -> Result {
        let extents = self.shared.aperture.each();
        let faults: u32 = extents.map(|extent| extent.ledger.faults()).sum();
        check!(faults == 0, "{faults}");
        Ok(())
    }
}

impl Seat {
    fn dev(&self) -> &Device {
        &self.dev
    }

    fn in_use(&self) -> u64 {
        self.shared.aperture.usage().0
    }

    /// What the backend has to do with a buffer.
    fn expected(&self, phys: Phys, size: usize) -> Placement {
        place(
            &self.p2m,
            phys,
            size,
            &device::limits(self.dev()),
            Bounces {
                forced: self.force,
                ..Bounces::AS_NEEDED
            },
        )
    }

    /// Whether a mapping is where it must be; tells if it is bounced.
    fn judge(&self, phys: Phys, size: usize, at: Machine) -> Result<bool> {
        let limits = device::limits(self.dev());
        let bounced = match self.expected(phys, size) {
            Placement::Direct(there) => {
                check!(at == there, "{size} bytes: {at:?}, not {there:?}");
                false
            }
            Placement::Bounce(_) => {
                check!(
                    self.shared.aperture.find(at).is_some(),
                    "{size} bytes at {at:?}"
                );
                true
            }
            Placement::Refuse(why) => {
                check!(false, "{size} bytes: {why:?}");
                false
            }
        };
        check!(limits.reaches(at, size as u64), "{size} bytes at {at:?}");
        check!(
            !limits.crosses_boundary(at, size as u64),
            "{size} bytes at {at:?}"
        );
        check!(!limits.misaligns(at, phys), "{size} bytes at {at:?}");
        Ok(bounced)
    }

    /// What the device reads.
    fn peek(&self, at: Machine, to: &Buffer, offset: usize, size: usize) -> Result {
        let extent = self.shared.aperture.find(at).ok_or(ENXIO)?;
        check!(extent
            .region
            .copy_out(extent.offset(at), phys(to, offset), size));
        Ok(())
    }

    /// The device writes.
    fn poke(&self, at: Machine, from: &Buffer, offset: usize, size: usize) -> Result {
        let extent = self.shared.aperture.find(at).ok_or(ENXIO)?;
        check!(extent
            .region
            .copy_in(extent.offset(at), phys(from, offset), size));
        Ok(())
    }
}

fn phys(buffer: &Buffer, offset: usize) -> Phys {
    Phys::new(buffer.phys().raw() + offset as u64)
}

fn after(at: Machine, bytes: usize) -> Machine {
    Machine::new(at.raw() + bytes as u64)
}

/// A byte that depends on where it stands, and on who wrote it.
fn pattern(seed: usize, index: usize) -> u8 {
    (index ^ (index >> 8) ^ (index >> 16))
        .wrapping_add(seed)
        .wrapping_mul(167) as u8
}

/// Writes the bytes of `seed` from one offset up to another.
fn paint(buffer: &mut Buffer, seed: usize, from: usize, to: usize) {
    buffer.fill(from, to - from, |index| pattern(seed, from + index));
}

/// Writes the bytes of `seed` everywhere.
fn cover(buffer: &mut Buffer, seed: usize) {
    buffer.fill(0, usize::MAX, |index| pattern(seed, index));
}

/// Whether the bytes from one offset up to another are those of `seed`.
fn shows(buffer: &Buffer, seed: usize, from: usize, to: usize) -> bool {
    let every = if to - from > CLOSE_LOOK { 61 } else { 1 };
    let right = |i: usize| buffer.byte(i) == pattern(seed, i);
    (from..to).step_by(every).all(right)
        && (from..to).take(CLOSE_EDGE).all(right)
        && (from..to).rev().take(CLOSE_EDGE).all(right)
}

/// One mapping from end to end: what the device sees, what the CPU gets back.
fn travel(bench: &Bench, buffers: [&mut Buffer; 2], at: (usize, usize), dir: Direction) -> Result {
    let [buffer, scratch] = buffers;
    let (from, size) = at;
    let to = from + size;
    let (low, high) = (from - GUARD, to + GUARD);
    paint(buffer, 1, low, high);

    let at = client::map(bench.dev(), phys(buffer, from), size, dir, Attrs::NONE)?;
    let bounced = bench.judge(phys(buffer, from), size, at)?;
    if bounced {
        bench.peek(at, scratch, from, size)?;
        check!(
            shows(scratch, 1, from, to),
            "{from}+{size} {dir:?}: not what was mapped"
        );
        paint(scratch, 2, from, to);
        bench.poke(at, scratch, from, size)?;
    }
    client::unmap(bench.dev(), at, size, dir, Attrs::NONE);

    let back = bounced && dir.device_writes();
    check!(
        shows(buffer, if back { 2 } else { 1 }, from, to),
        "{from}+{size} {dir:?}"
    );
    check!(
        shows(buffer, 1, low, from),
        "{from}+{size} {dir:?}: bytes before"
    );
    check!(
        shows(buffer, 1, to, high),
        "{from}+{size} {dir:?}: bytes after"
    );
    check!(bench.in_use() == 0, "{from}+{size} {dir:?}");
    Ok(())
}

/// Two pages that are neighbours for Linux and not for the machine.
fn torn_pair(p2m: &LinearP2m) -> Result<Option<(Buffer, Buffer)>> {
    // Pages that were traded come back with other frames.
    drop(Region::new(8, 32, Way::Scattered)?);
    let mut pages = KVVec::new();
    for _ in 0..1024 {
        pages.push(Buffer::new(0)?, GFP_KERNEL)?;
    }
    // In the order of their addresses; the low bits say which page it is.
    let mut order = KVVec::new();
    for (index, page) in pages.iter().enumerate() {
        order.push(page.phys().raw() | index as u64, GFP_KERNEL)?;
    }
    order.sort_unstable();
    let page = |key: &u64| (Phys::new(*key).pfn(), *key as usize % PAGE_SIZE);
    for pair in order.windows(2) {
        let ((low, first), (high, second)) = (page(&pair[0]), page(&pair[1]));
        if let (Frame::Local(one), Frame::Local(two)) = (p2m.frame(low), p2m.frame(high)) {
            if low.checked_add(1) == Some(high) && one.checked_add(1) != Some(two) {
                // The later one first: it does not move the other.
                let later = pages.remove(first.max(second))?;
                let earlier = pages.remove(first.min(second))?;
                return Ok(Some(if first < second {
                    (earlier, later)
                } else {
                    (later, earlier)
                }));
            }
        }
    }
    Ok(None)
}
