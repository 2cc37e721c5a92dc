// SPDX-License-Identifier: GPL-2.0

//! The driver's backend through the DMA API, with devices that have no hardware.
//!
//! Part of the driver's crate, whose aperture lets a test see and write what a device would:
//! the slots of a bounced mapping.  Callers' mistakes go to the provider directly, past
//! DMA_API_DEBUG, which would complain before it has to answer.
//!
//! Without a PV domain every test passes at once.

use crate::{
    aperture::Aperture,
    backend::{
        Backend,
        Shared, //
    },
    counters::{
        Cause,
        Event,
        Wrong, //
    },
};
use check::check;
use dma_core::{
    place,
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
    sync::Arc, //
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

#[path = "check.rs"]
mod check;

/// Size of the aperture of a test, in MiB.
const APERTURE: u32 = 8;

const DIRECTIONS: [Direction; 3] =
    [Direction::Bidirectional, Direction::ToDevice, Direction::FromDevice];

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
        let Some(p2m) = LinearP2m::get() else {
            return Ok(None);
        };
        let shared = Shared::new(Aperture::new(megabytes)?, p2m, force)?;
        Self::beside(name, mask, force, shared).map(Some)
    }

    /// Sets up another device that shares an aperture.
    fn beside(name: &'static CStr, mask: u64, force: bool, shared: Arc<Shared>) -> Result<Self> {
        let p2m = LinearP2m::get().ok_or(ENODEV)?;
        let device = TestDevice::new(name)?;
        let backend = Backend::new(shared.clone())?;
        let attachment = Attachment::new(device.device(), backend, &crate::THIS_MODULE)?;
        attachment.attach(&Quiet::lock(device.device())?)?;
        client::set_masks(device.device(), mask)?;
        Ok(Self { attachment, device, shared, p2m, force })
    }

    fn dev(&self) -> &Device {
        self.device.device()
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

    fn in_use(&self) -> u64 {
        self.shared.aperture.usage().0
    }

    /// What the backend has to do with a buffer.
    fn expected(&self, phys: Phys, size: usize) -> Placement {
        place(&self.p2m, phys, size, &device::limits(self.dev()), self.force)
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
                check!(self.shared.aperture.find(at).is_some(), "{size} bytes at {at:?}");
                true
            }
            Placement::Refuse(why) => {
                check!(false, "{size} bytes: {why:?}");
                false
            }
        };
        check!(limits.reaches(at, size as u64), "{size} bytes at {at:?}");
        check!(!limits.crosses_boundary(at, size as u64), "{size} bytes at {at:?}");
        check!(!limits.misaligns(at, phys), "{size} bytes at {at:?}");
        Ok(bounced)
    }

    /// What the device reads.
    fn peek(&self, at: Machine, to: &Buffer, offset: usize, size: usize) -> Result {
        let extent = self.shared.aperture.find(at).ok_or(ENXIO)?;
        check!(extent.region.copy_out(extent.offset(at), phys(to, offset), size));
        Ok(())
    }

    /// The device writes.
    fn poke(&self, at: Machine, from: &Buffer, offset: usize, size: usize) -> Result {
        let extent = self.shared.aperture.find(at).ok_or(ENXIO)?;
        check!(extent.region.copy_in(extent.offset(at), phys(from, offset), size));
        Ok(())
    }

    /// Nothing may be left at the end of a test.
    fn done(&self) -> Result {
        self.shared.coherent.finish();
        let (outstanding, misuse) =
            (self.backend().counters.outstanding(), self.backend().counters.misuse());
        check!(outstanding == 0, "{outstanding}");
        check!(misuse == 0, "{misuse}");
        self.empty()
    }

    /// As [`Self::done`], after wrong calls.
    fn empty(&self) -> Result {
        self.shared.coherent.finish();
        check!(self.in_use() == 0, "{} bytes of the aperture", self.in_use());
        check!(self.shared.coherent.usage() == (0, 0));
        check!(self.shared.aperture.extents().iter().all(|extent| extent.slots.used() == 0));
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
    (index ^ (index >> 8) ^ (index >> 16)).wrapping_add(seed).wrapping_mul(167) as u8
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
        check!(shows(scratch, 1, from, to), "{from}+{size} {dir:?}: not what was mapped");
        paint(scratch, 2, from, to);
        bench.poke(at, scratch, from, size)?;
    }
    client::unmap(bench.dev(), at, size, dir, Attrs::NONE);

    let back = bounced && dir.device_writes();
    check!(shows(buffer, if back { 2 } else { 1 }, from, to), "{from}+{size} {dir:?}");
    check!(shows(buffer, 1, low, from), "{from}+{size} {dir:?}: bytes before");
    check!(shows(buffer, 1, to, high), "{from}+{size} {dir:?}: bytes after");
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
                return Ok(Some(if first < second { (earlier, later) } else { (later, earlier) }));
            }
        }
    }
    Ok(None)
}

#[kunit_tests(xen_dma_backend)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_at_every_offset_and_size() -> Result {
        let cases = [
            (GUARD, 1),
            (GUARD + 1, 1),
            (4095, 2),
            (4096, 4096),
            (4096 + 123, 4096),
            (2047, 2050),
            (8192, 0x1_0000),
            (4095, 0x1_0001),
        ];
        let (mut buffer, mut scratch) = (Buffer::new(5)?, Buffer::new(5)?);
        for mask in [MASK_64, MASK_32, MASK_28] {
            for force in [false, true] {
                let Some(bench) = Bench::new(c"xen-dma-travel", mask, force)? else {
                    return Ok(());
                };
                for at in cases {
                    for dir in DIRECTIONS {
                        travel(&bench, [&mut buffer, &mut scratch], at, dir)
                            .inspect_err(|_| pr_err!("mask {mask:#x}, force {force}\n"))?;
                    }
                }
                if force {
                    check!(bench.count(Event::Bounce(Reason::Forced)) == 24);
                    check!(bench.count(Event::Direct) == 0);
                }
                bench.done()?;
            }
        }
        Ok(())
    }

    #[test]
    fn large_mappings_bounce_in_one_piece() -> Result {
        let (mut buffer, mut scratch) = (Buffer::new(9)?, Buffer::new(9)?);
        for (mask, force) in [(MASK_64, true), (MASK_32, false), (MASK_28, false)] {
            let Some(bench) = Bench::new(c"xen-dma-large", mask, force)? else {
                return Ok(());
            };
            for (offset, size) in [(4096, 0x4_0000), (512, 0x4_1000), (2049, 0x10_0000)] {
                let at = (offset, size);
                travel(&bench, [&mut buffer, &mut scratch], at, Direction::Bidirectional)
                    .inspect_err(|_| pr_err!("mask {mask:#x}, force {force}\n"))?;
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn torn_buffers_bounce() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-torn", MASK_64, false)? else {
            return Ok(());
        };
        let Some((mut first, mut second)) = torn_pair(&bench.p2m)? else {
            pr_info!("no neighbours with frames apart were found\n");
            return bench.done();
        };
        let mut scratch = Buffer::new(1)?;
        first.fill(0, PAGE_SIZE, |index| pattern(1, index));
        second.fill(0, PAGE_SIZE, |index| pattern(1, PAGE_SIZE + index));
        let at = phys(&first, 2048);
        let dma = client::map(bench.dev(), at, 4096, Direction::FromDevice, Attrs::NONE)?;
        check!(bench.judge(at, 4096, dma)?);
        check!(bench.count(Event::Bounce(Reason::Discontiguous)) == 1);
        bench.peek(dma, &scratch, 2048, 4096)?;
        check!(shows(&scratch, 1, 2048, 2048 + 4096));
        paint(&mut scratch, 2, 2048, 2048 + 4096);
        bench.poke(dma, &scratch, 2048, 4096)?;
        client::unmap(bench.dev(), dma, 4096, Direction::FromDevice, Attrs::NONE);
        check!(shows(&first, 1, 0, 2048) && shows(&first, 2, 2048, PAGE_SIZE));
        check!((0..2048).all(|i| second.byte(i) == pattern(2, PAGE_SIZE + i)));
        check!((2048..PAGE_SIZE).all(|i| second.byte(i) == pattern(1, PAGE_SIZE + i)));
        bench.done()
    }

    #[test]
    fn syncs_copy_what_was_asked() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-sync", MASK_32, true)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(3)?, Buffer::new(3)?);
        let dir = Direction::Bidirectional;
        let (from, size) = (100, 0x5123);
        let end = from + size;
        cover(&mut buffer, 1);
        let at = client::map(bench.dev(), phys(&buffer, from), size, dir, Attrs::NONE)?;
        let parts = [(0, 1), (1, 7), (2047, 2), (4000, 200), (0x3001, 0x1000), (size - 1, 1), (0, size)];
        for (skip, part) in parts {
            let (low, high) = (from + skip, from + skip + part);

            // To the CPU: the device wrote all, the CPU sees a part.
            cover(&mut buffer, 1);
            paint(&mut scratch, 2, from, end);
            bench.poke(at, &scratch, from, size)?;
            client::sync_for_cpu(bench.dev(), after(at, skip), part, dir);
            check!(shows(&buffer, 2, low, high), "{skip}+{part} for the CPU");
            check!(shows(&buffer, 1, 0, low), "{skip}+{part} for the CPU: before");
            check!(shows(&buffer, 1, high, buffer.size()), "{skip}+{part} for the CPU: after");

            // To the device: the CPU wrote all, the device sees a part.
            cover(&mut buffer, 3);
            client::sync_for_device(bench.dev(), after(at, skip), part, dir);
            bench.peek(at, &scratch, from, size)?;
            check!(shows(&scratch, 3, low, high), "{skip}+{part} for the device");
            check!(shows(&scratch, 2, from, low), "{skip}+{part} for the device: before");
            check!(shows(&scratch, 2, high, end), "{skip}+{part} for the device: after");
        }
        client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
        bench.done()
    }

    #[test]
    fn syncs_heed_the_direction() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-way", MASK_32, true)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(0)?, Buffer::new(0)?);
        let (backend, size) = (bench.backend(), 4096);
        for dir in [Direction::ToDevice, Direction::FromDevice] {
            paint(&mut buffer, 1, 0, size);
            let at = client::map(bench.dev(), buffer.phys(), size, dir, Attrs::NONE)?;
            paint(&mut buffer, 2, 0, size);
            backend.sync_for_device(bench.dev(), at, size, dir);
            bench.peek(at, &scratch, 0, size)?;
            check!(shows(&scratch, if dir.device_reads() { 2 } else { 1 }, 0, size), "{dir:?}");
            paint(&mut scratch, 3, 0, size);
            bench.poke(at, &scratch, 0, size)?;
            backend.sync_for_cpu(bench.dev(), at, size, dir);
            check!(shows(&buffer, if dir.device_writes() { 3 } else { 2 }, 0, size), "{dir:?}");
            client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
        }
        bench.done()
    }

    #[test]
    fn low_bits_are_kept() -> Result {
        let (mut buffer, mut scratch) = (Buffer::new(6)?, Buffer::new(6)?);
        for (mask, keep) in [(MASK_64, 511), (MASK_64, 0xfff), (MASK_32, 0x7ff), (MASK_28, 0xffff)] {
            let Some(bench) = Bench::new(c"xen-dma-align", mask, true)? else {
                return Ok(());
            };
            bench.device.set_min_align(keep);
            for offset in [GUARD, 511, 2048, 4095, 4096 + 1234, 0x1_2345] {
                for size in [1, 512, 4096, 0x1_0000, 0x2_1234] {
                    // Where the mapping is, and its offset, `judge` knows.
                    travel(&bench, [&mut buffer, &mut scratch], (offset, size), Direction::FromDevice)
                        .inspect_err(|_| pr_err!("mask {mask:#x}, kept {keep:#x}\n"))?;
                }
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn no_mapping_crosses_the_boundary() -> Result {
        for (mask, boundary) in [(MASK_64, 0xffff), (MASK_32, 0xffff), (MASK_28, 0x1_ffff), (MASK_32, 0xfff)] {
            let Some(bench) = Bench::new(c"xen-dma-boundary", mask, true)? else {
                return Ok(());
            };
            bench.device.set_boundary(boundary);
            let buffer = Buffer::new(6)?;
            let dir = Direction::ToDevice;
            let mut live = KVec::new();
            for round in 0..6 {
                for size in [1, 2048, 3000, 4096, 0x5000, 0xc001, 0x1_0000] {
                    let (phys, attrs) = (phys(&buffer, round * 1111), Attrs::NONE);
                    let at = client::map(bench.dev(), phys, size, dir, attrs)?;
                    let last = after(at, size - 1);
                    if size as u64 - 1 <= boundary {
                        check!((at.raw() ^ last.raw()) & !boundary == 0, "{size} bytes at {at:?}");
                    }
                    check!(bench.judge(phys, size, at)?);
                    live.push((at, size), GFP_KERNEL)?;
                }
            }
            for &(at, size) in live.iter() {
                client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn a_bus_limits_as_a_mask_does() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-bus", MASK_64, false)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(2)?, Buffer::new(2)?);
        for limit in [MASK_32, MASK_28, 0] {
            bench.device.set_bus_limit(limit);
            for dir in DIRECTIONS {
                travel(&bench, [&mut buffer, &mut scratch], (4000, 5000), dir)
                    .inspect_err(|_| pr_err!("bus limit {limit:#x}\n"))?;
            }
        }
        bench.done()
    }

    #[test]
    fn lists_travel_entry_by_entry() -> Result {
        for (mask, force) in [(MASK_64, false), (MASK_64, true), (MASK_32, false), (MASK_28, true)] {
            let Some(bench) = Bench::new(c"xen-dma-list", mask, force)? else {
                return Ok(());
            };
            let mut scratch = Buffer::new(0)?;
            for count in [1, 16, 128] {
                let mut buffers = KVVec::new();
                for index in 0..count {
                    let mut buffer = Buffer::new(0)?;
                    paint(&mut buffer, index, 0, PAGE_SIZE);
                    buffers.push(buffer, GFP_KERNEL)?;
                }
                let part = |index: usize| (index % 7 * 100, 1 + index * 29 % 3000);
                for dir in DIRECTIONS {
                    let parts = buffers.iter().enumerate().map(|(index, buffer)| {
                        let (offset, size) = part(index);
                        (buffer, offset, size)
                    });
                    let mut list = List::of_parts(count, parts)?;
                    list.map(bench.dev(), dir, Attrs::NONE)?;
                    check!(list.mapped().count() == count);
                    for (index, (at, length)) in list.mapped().enumerate() {
                        let (offset, size) = part(index);
                        check!(length == size, "entry {index} of {count}");
                        if bench.judge(phys(&buffers[index], offset), size, at)? {
                            bench.peek(at, &scratch, offset, size)?;
                            let seen = shows(&scratch, index, offset, offset + size);
                            check!(seen, "entry {index} of {count} {dir:?}");
                            paint(&mut scratch, index + 1, offset, offset + size);
                            bench.poke(at, &scratch, offset, size)?;
                        }
                    }
                    if dir == Direction::Bidirectional {
                        list.sync_for_cpu(bench.dev(), dir);
                        list.sync_for_device(bench.dev(), dir);
                    }
                    list.unmap(bench.dev(), dir, Attrs::NONE);
                    for (index, buffer) in buffers.iter_mut().enumerate() {
                        let (offset, size) = part(index);
                        let bounced = matches!(
                            bench.expected(phys(buffer, offset), size),
                            Placement::Bounce(_)
                        );
                        let seed = index + usize::from(bounced && dir.device_writes());
                        check!(shows(buffer, seed, offset, offset + size), "entry {index} {dir:?}");
                        check!(shows(buffer, index, 0, offset), "entry {index} {dir:?}: before");
                        check!(shows(buffer, index, offset + size, PAGE_SIZE), "entry {index}: after");
                        paint(buffer, index, 0, PAGE_SIZE);
                    }
                    check!(bench.in_use() == 0);
                }
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn lists_that_fail_leave_nothing() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-undo", MASK_32, true)? else {
            return Ok(());
        };
        let mut large = Buffer::new(9)?;
        let small = Buffer::new(0)?;
        let size = large.size();
        paint(&mut large, 1, 0, size);
        let dir = Direction::FromDevice;
        for _ in 0..3 {
            // More than the aperture has.
            let parts = (0..32).map(|_| (&large, 0, size));
            let full = List::of_parts(32, parts)?.map(bench.dev(), dir, Attrs::NO_WARN);
            check!(full.err() == Some(ENOMEM), "{full:?}");
            check!(bench.backend().counters.outstanding() == 0 && bench.in_use() == 0);

            // An entry without bytes.
            let parts = (0..5).map(|index| (&small, 0, if index == 3 { 0 } else { 64 }));
            let empty = List::of_parts(5, parts)?.map(bench.dev(), dir, Attrs::NO_WARN);
            check!(empty.err() == Some(EINVAL), "{empty:?}");
            check!(bench.backend().counters.outstanding() == 0 && bench.in_use() == 0);
        }
        check!(bench.count(Event::Failure(Cause::Full)) == 3);
        check!(bench.count(Event::Failure(Cause::Empty)) == 3);
        check!(shows(&large, 1, 0, size));
        bench.done()
    }

    #[test]
    fn coherent_memory_is_clear_and_aligned() -> Result {
        for mask in [MASK_64, MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-coherent", mask, false)? else {
                return Ok(());
            };
            let (mut scratch, mut dirt) = (Buffer::new(4)?, Buffer::new(9)?);
            dirt.fill(0, dirt.size(), |_| 0xee);
            for size in [1, 4096, 4097, 0x1_0000, 0x1_0001, 0x10_0000, 0x40_0000] {
                // Something was here before.
                let dir = Direction::ToDevice;
                if let Ok(at) = client::map(bench.dev(), dirt.phys(), dirt.size() / 2, dir, Attrs::NONE) {
                    client::unmap(bench.dev(), at, dirt.size() / 2, dir, Attrs::NONE);
                }
                let memory = client::alloc(bench.dev(), size, Context::Sleepable, Attrs::NONE)
                    .inspect_err(|_| pr_err!("mask {mask:#x}, {size} bytes\n"))?;
                let whole = size.next_multiple_of(PAGE_SIZE);
                let block = whole.next_power_of_two() as u64;
                check!(memory.dma.raw() & (block - 1) == 0, "{size} bytes at {:?}", memory.dma);
                check!(memory.dma.raw() + whole as u64 - 1 <= mask, "{size} bytes at {:?}", memory.dma);
                for start in (0..whole).step_by(scratch.size()) {
                    let piece = scratch.size().min(whole - start);
                    scratch.fill(0, piece, |_| 0x55);
                    let to = scratch.phys();
                    let copied = bench.backend().with_coherent(memory.dma, size, |region, offset| {
                        Ok(region.copy_out(offset + start, to, piece))
                    })?;
                    check!(copied, "mask {mask:#x}, {size} bytes at {start}");
                    check!((0..piece).step_by(7).all(|i| scratch.byte(i) == 0), "{size} bytes");
                }
                let bytes = client::sgtable_bytes(bench.dev(), memory, size)?;
                check!(bytes == size, "mask {mask:#x}: {bytes} of {size} bytes");
                client::free(bench.dev(), size, memory, Attrs::NONE);
                check!(bench.backend().counters.outstanding() == 0, "{size} bytes");
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn nothing_sleeps_on_the_mapping_path() -> Result {
        let irq = KBox::pin_init(new_irq_lock!((), "xen_dma_backend::irq"), GFP_KERNEL)?;
        for mask in [MASK_64, MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-irq", mask, mask == MASK_64)? else {
                return Ok(());
            };
            let buffer = Buffer::new(6)?;
            let dir = Direction::Bidirectional;
            for size in [1, 4096, 0x1_0001, 0x4_0000] {
                let guard = irq.lock();
                let at = client::map(bench.dev(), buffer.phys(), size, dir, Attrs::NONE)?;
                client::sync_for_cpu(bench.dev(), at, size, dir);
                client::sync_for_device(bench.dev(), at, size, dir);
                client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
                drop(guard);
            }
            let buffers = [Buffer::new(0)?, Buffer::new(1)?, Buffer::new(2)?];
            let mut list = List::new(&buffers)?;
            let guard = irq.lock();
            list.map(bench.dev(), dir, Attrs::NONE)?;
            list.sync_for_cpu(bench.dev(), dir);
            list.sync_for_device(bench.dev(), dir);
            list.unmap(bench.dev(), dir, Attrs::NONE);
            drop(guard);
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn coherent_memory_comes_without_sleep() -> Result {
        let spin = KBox::pin_init(new_spinlock!((), "xen_dma_backend::spin"), GFP_KERNEL)?;
        let irq = KBox::pin_init(new_irq_lock!((), "xen_dma_backend::irq"), GFP_KERNEL)?;
        for mask in [MASK_64, MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-atomic", mask, false)? else {
                return Ok(());
            };
            for size in [4096, 0x1_0000, 0x8_0000] {
                let guard = irq.lock();
                let memory = client::alloc(bench.dev(), size, Context::Atomic, Attrs::NONE)?;
                drop(guard);
                check!(memory.dma.raw() & (size as u64 - 1) == 0, "{size} bytes");
                check!(memory.dma.raw() + size as u64 - 1 <= mask, "{size} bytes");
                let guard = spin.lock();
                client::free(bench.dev(), size, memory, Attrs::NONE);
                drop(guard);
            }
            // Regions of their own end later, where sleeping is allowed.
            for size in [0x2_0000, 0x20_0000] {
                let memory = client::alloc(bench.dev(), size, Context::Sleepable, Attrs::NONE)?;
                let guard = spin.lock();
                client::free(bench.dev(), size, memory, Attrs::NONE);
                drop(guard);
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn pages_are_neighbours_in_reach() -> Result {
        for mask in [MASK_64, MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-pages", mask, false)? else {
                return Ok(());
            };
            for size in [1, 4096, 0x4000, 0x1_0000, 0x10_0000] {
                for dir in DIRECTIONS {
                    let pages = client::alloc_pages(bench.dev(), size, dir)
                        .inspect_err(|_| pr_err!("mask {mask:#x}, {size} bytes\n"))?;
                    let whole = size.next_multiple_of(PAGE_SIZE) as u64;
                    check!(pages.dma.raw() & (whole - 1) == 0, "{size} bytes at {:?}", pages.dma);
                    check!(pages.dma.raw() + whole - 1 <= mask, "{size} bytes at {:?}", pages.dma);
                    client::free_pages(bench.dev(), size, pages, dir);
                }
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn masks_are_served_truthfully() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-masks", MASK_64, true)? else {
            return Ok(());
        };
        check!(client::set_masks(bench.dev(), 0xfff) == Err(EIO));
        let (mut buffer, mut scratch) = (Buffer::new(2)?, Buffer::new(2)?);
        for bits in [63, 48, 40, 36, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 20, 16] {
            let mask = (1 << bits) - 1;
            if client::set_masks(bench.dev(), mask).is_err() {
                check!(bits < 28, "a mask of {bits} bits is refused");
                continue;
            }
            // A promise: mappings that must bounce work.
            travel(&bench, [&mut buffer, &mut scratch], (100, 9000), Direction::Bidirectional)
                .inspect_err(|_| pr_err!("a mask of {bits} bits\n"))?;
        }
        bench.done()
    }

    #[test]
    fn limits_are_true() -> Result {
        let buffer = Buffer::new(10)?;
        for (mask, keep) in [(MASK_64, 0), (MASK_32, 0xfff), (MASK_28, 0)] {
            let Some(bench) = Bench::new(c"xen-dma-limits", mask, true)? else {
                return Ok(());
            };
            bench.device.set_min_align(keep);
            check!(client::required_mask(bench.dev()) >= MASK_32);
            check!(client::required_mask(bench.dev()) >= xen_dma::p2m::top_of_memory().raw());
            check!(client::merge_boundary(bench.dev()) == 0);
            let most = client::max_mapping_size(bench.dev());
            check!(most > 0x4_0000, "{most}");
            check!(client::opt_mapping_size(bench.dev()) == most);
            let dir = Direction::ToDevice;
            for offset in [0, 1, 4095] {
                let size = most.min(buffer.size() - offset);
                let at = client::map(bench.dev(), phys(&buffer, offset), size, dir, Attrs::NONE)?;
                check!(bench.judge(phys(&buffer, offset), size, at)?, "{offset}+{size}");
                client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn a_full_aperture_recovers() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-full", MASK_32, true, 4)? else {
            return Ok(());
        };
        let (dir, buffer) = (Direction::ToDevice, Buffer::new(6)?);
        let most = bench.shared.aperture.size();
        for size in [0x4_0000, 4096, 3 * SLOT_SIZE as usize] {
            let mut live = KVVec::new();
            while let Ok(at) = client::map(bench.dev(), buffer.phys(), size, dir, Attrs::NO_WARN) {
                live.push(at, GFP_KERNEL)?;
                check!(live.len() * size <= most, "{} of {size} bytes", live.len());
            }
            // Runs begin on pages, so that of each two pages one slot is lost to runs of three.
            check!(live.len() * size >= most / 4 * 3, "{} of {size} bytes", live.len());
            live.sort_unstable();
            check!(live.windows(2).all(|pair| pair[0].raw() + size as u64 <= pair[1].raw()));
            check!(bench.count(Event::Failure(Cause::Full)) > 0);
            for &at in live.iter() {
                client::unmap(bench.dev(), at, size, dir, Attrs::NO_WARN);
            }
            check!(bench.in_use() == 0, "{size} bytes");
        }
        check!(bench.shared.aperture.usage().1 > most as u64 / 10 * 9);
        bench.done()
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-refuse", MASK_32, true, 2)? else {
            return Ok(());
        };
        let (dev, backend, buffer) = (bench.dev(), bench.backend(), Buffer::new(10)?);
        let end = Phys::new(u64::MAX - 4095);
        for (phys, size, cause) in [
            (buffer.phys(), 0, Cause::Empty),
            (end, 8192, Cause::Wraps),
            (buffer.phys(), usize::MAX, Cause::Wraps),
            (buffer.phys(), buffer.size(), Cause::TooLarge),
        ] {
            let event = Event::Failure(cause);
            let before = bench.count(event);
            for dir in DIRECTIONS {
                let error = backend.map(dev, phys, size, dir, Attrs::NO_WARN).err();
                check!(error == Some(cause.error()), "{cause:?}: {error:?}");
            }
            check!(bench.count(event) == before + 3, "{cause:?}");
        }
        for size in [0, usize::MAX, usize::MAX / 2 + 2, 1 << 40] {
            for context in [Context::Sleepable, Context::Atomic] {
                check!(backend.alloc(dev, size, context, Attrs::NO_WARN).is_err(), "{size}");
            }
            let pages = backend.alloc_pages(dev, size, Direction::ToDevice, Context::Sleepable);
            check!(pages.is_err(), "{size}");
        }
        bench.done()
    }

    #[test]
    fn device_memory_is_mapped_as_it_is() -> Result {
        // The registers of an interrupt controller.
        let registers = Pfn::new(0xfee00).start();
        for (mask, served) in [(MASK_64, true), (MASK_32, true), (MASK_28, false)] {
            let Some(bench) = Bench::new(c"xen-dma-mmio", mask, true)? else {
                return Ok(());
            };
            let (dev, backend) = (bench.dev(), bench.backend());
            let dir = Direction::Bidirectional;
            let quiet = Attrs::NO_WARN;
            let mapped = backend.map(dev, registers, 4096, dir, Attrs::MMIO.with(quiet));
            if served {
                check!(mapped == Ok(Machine::new(registers.raw())), "{mapped:?}");
                backend.unmap(dev, Machine::new(registers.raw()), 4096, dir, Attrs::MMIO);
            } else {
                check!(mapped.is_err(), "{mapped:?}");
            }
            // It cannot be copied, whoever asks.
            check!(backend.map(dev, registers, 4096, dir, quiet).is_err());
            check!(bench.count(Event::Failure(Cause::PeerMemory)) == 1 + u64::from(!served));
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn attributes_are_heeded() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-attrs", MASK_32, true)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(1)?, Buffer::new(1)?);
        let (dev, size, dir) = (bench.dev(), 5000, Direction::FromDevice);

        let coherent = Attrs::REQUIRE_COHERENT.with(Attrs::NO_WARN);
        check!(client::map(dev, buffer.phys(), size, dir, coherent) == Err(EIO));
        check!(bench.count(Event::Failure(Cause::RequireCoherent)) == 1);

        for attrs in [Attrs::NONE, Attrs::SKIP_CPU_SYNC] {
            cover(&mut buffer, 1);
            let at = client::map(dev, buffer.phys(), size, dir, attrs)?;
            // Whatever the attributes, nothing older is shown to the device.
            bench.peek(at, &scratch, 0, size)?;
            check!(shows(&scratch, 1, 0, size));
            paint(&mut scratch, 2, 0, size);
            bench.poke(at, &scratch, 0, size)?;
            client::unmap(dev, at, size, dir, attrs);
            let back = attrs != Attrs::SKIP_CPU_SYNC;
            check!(shows(&buffer, if back { 2 } else { 1 }, 0, size), "{attrs:?}");
            check!(shows(&buffer, 1, size, buffer.size()), "{attrs:?}");
        }
        bench.done()
    }

    #[test]
    fn a_wrong_unmap_harms_nobody() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-wrong", MASK_32, true)? else {
            return Ok(());
        };
        let other = Bench::beside(c"xen-dma-other", MASK_32, true, bench.shared.clone())?;
        let (mut buffer, mut scratch) = (Buffer::new(3)?, Buffer::new(3)?);
        let (dev, backend) = (bench.dev(), bench.backend());
        let (dir, none, size) = (Direction::Bidirectional, Attrs::NONE, 0x6000);
        cover(&mut buffer, 1);

        // By another device, and inside.
        let at = backend.map(dev, buffer.phys(), size, dir, none)?;
        paint(&mut scratch, 2, 0, size);
        bench.poke(at, &scratch, 0, size)?;
        other.backend().unmap(other.dev(), at, size, dir, none);
        check!(other.wrongs(Wrong::NotOwner) == 1);
        for skip in [1, 2048, 4096, size - 1] {
            backend.unmap(dev, after(at, skip), size - skip, dir, none);
        }
        check!(bench.wrongs(Wrong::NotHead) == 4);
        check!(shows(&buffer, 1, 0, buffer.size()));
        check!(bench.in_use() == size as u64 && backend.counters.outstanding() == 1);

        // Too much is asked for: only what is mapped is copied.
        backend.unmap(dev, at, buffer.size(), dir, none);
        check!(bench.wrongs(Wrong::Size) == 1);
        check!(shows(&buffer, 2, 0, size) && shows(&buffer, 1, size, buffer.size()));
        check!(bench.in_use() == 0);

        // Twice, while somebody else's mapping took the place.
        backend.unmap(dev, at, size, dir, none);
        check!(bench.wrongs(Wrong::NotMapped) == 1);
        let theirs = other.backend().map(other.dev(), buffer.phys(), size, dir, none)?;
        backend.unmap(dev, theirs, size, dir, none);
        check!(bench.wrongs(Wrong::NotOwner) == 1);
        check!(other.in_use() == size as u64);

        // Too little is asked for.
        paint(&mut scratch, 3, 0, size);
        other.poke(theirs, &scratch, 0, size)?;
        cover(&mut buffer, 1);
        other.backend().unmap(other.dev(), theirs, 100, dir, none);
        check!(other.wrongs(Wrong::Size) == 1);
        check!(shows(&buffer, 3, 0, 100) && shows(&buffer, 1, 100, buffer.size()));

        check!(backend.counters.misuse() == 7 && other.backend().counters.misuse() == 2);
        check!(backend.counters.outstanding() == 0);
        check!(other.backend().counters.outstanding() == 0);
        bench.empty()
    }

    #[test]
    fn a_wrong_sync_copies_nothing() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-badsync", MASK_32, true)? else {
            return Ok(());
        };
        let other = Bench::beside(c"xen-dma-badsync-other", MASK_32, true, bench.shared.clone())?;
        let (mut buffer, mut scratch) = (Buffer::new(2)?, Buffer::new(2)?);
        let (dev, backend) = (bench.dev(), bench.backend());
        let (dir, none, from, size) = (Direction::Bidirectional, Attrs::NONE, 2000, 5000);
        cover(&mut buffer, 1);
        let at = backend.map(dev, phys(&buffer, from), size, dir, none)?;
        cover(&mut scratch, 2);
        bench.poke(at, &scratch, from, size)?;

        let beyond = [(0, size + 1), (1, size), (size - 1, 2), (4096, 4096), (0, usize::MAX)];
        for (skip, part) in beyond {
            backend.sync_for_cpu(dev, after(at, skip), part, dir);
            backend.sync_for_device(dev, after(at, skip), part, dir);
        }
        check!(bench.wrongs(Wrong::Range) == 2 * beyond.len() as u64);
        // The run goes on to the end of its slot, the mapping does not.
        backend.sync_for_cpu(dev, after(at, size), 8, dir);
        backend.sync_for_cpu(dev, after(at, 0x1_0000), 8, dir);
        check!(bench.wrongs(Wrong::NotMapped) == 2);
        other.backend().sync_for_cpu(other.dev(), at, 8, dir);
        other.backend().sync_for_device(other.dev(), at, 8, dir);
        check!(other.wrongs(Wrong::NotOwner) == 2);

        check!(shows(&buffer, 1, 0, buffer.size()));
        bench.peek(at, &scratch, from, size)?;
        check!(shows(&scratch, 2, from, from + size));
        backend.unmap(dev, at, size, dir, Attrs::SKIP_CPU_SYNC);
        check!(backend.counters.outstanding() == 0);
        bench.empty()
    }

    #[test]
    fn a_wrong_free_harms_nobody() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-badfree", MASK_32, true)? else {
            return Ok(());
        };
        let other = Bench::beside(c"xen-dma-badfree-other", MASK_32, true, bench.shared.clone())?;
        let (dev, backend) = (bench.dev(), bench.backend());
        let (dir, none) = (Direction::Bidirectional, Attrs::NONE);
        // One from the aperture, one of its own.
        for (round, size) in [(1, 4096), (2, 0x10_0000)] {
            let memory = backend.alloc(dev, size, Context::Sleepable, none)?;
            other.backend().free(other.dev(), size, memory, none);
            check!(other.backend().counters.misuse() == round, "{size} bytes");
            check!(backend.with_coherent(memory.dma, size, |_, _| Ok(())).is_ok(), "{size} bytes");
            check!(backend.counters.outstanding() == 1, "{size} bytes");
            backend.free(dev, size, memory, none);
            backend.free(dev, size, memory, none);
            check!(bench.wrongs(Wrong::NotMapped) == round, "{size} bytes");
            check!(backend.with_coherent(memory.dma, size, |_, _| Ok(())).is_err());
            check!(backend.counters.outstanding() == 0, "{size} bytes");
        }

        // A mapping is no coherent memory.
        let buffer = Buffer::new(0)?;
        let at = backend.map(dev, buffer.phys(), 4096, dir, none)?;
        backend.free_coherent(dev, 4096, at);
        check!(bench.wrongs(Wrong::NotOwner) == 1 && bench.in_use() == 4096);
        backend.unmap(dev, at, 4096, dir, none);
        check!(backend.counters.outstanding() == 0);
        check!(other.backend().counters.outstanding() == 0);
        bench.empty()
    }

    #[test]
    fn devices_share_an_aperture() -> Result {
        let Some(wide) = Bench::new(c"xen-dma-wide", MASK_32, true)? else {
            return Ok(());
        };
        let narrow = Bench::beside(c"xen-dma-narrow", MASK_28, true, wide.shared.clone())?;
        let (dir, size) = (Direction::ToDevice, 0x2_0000);
        let (mut first, mut second, mut scratch) = (Buffer::new(5)?, Buffer::new(5)?, Buffer::new(5)?);
        paint(&mut first, 1, 0, size);
        paint(&mut second, 2, 0, size);
        let mut live = KVec::new();
        for _ in 0..6 {
            let one = client::map(wide.dev(), first.phys(), size, dir, Attrs::NONE)?;
            let two = client::map(narrow.dev(), second.phys(), size, dir, Attrs::NONE)?;
            live.push((one, two), GFP_KERNEL)?;
        }
        for &(one, two) in live.iter() {
            for (at, seed) in [(one, 1), (two, 2)] {
                wide.peek(at, &scratch, 0, size)?;
                check!(shows(&scratch, seed, 0, size));
                scratch.fill(0, size, |_| 0);
            }
            client::unmap(wide.dev(), one, size, dir, Attrs::NONE);
            client::unmap(narrow.dev(), two, size, dir, Attrs::NONE);
        }
        wide.done()?;
        narrow.done()
    }
}
