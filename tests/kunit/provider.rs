// SPDX-License-Identifier: GPL-2.0

//! Providers of DMA operations, shown with somebody else's: a backend whose devices see physical
//! addresses, and that counts its calls.
//!
//! Nothing here needs Xen: the abstractions serve any backend.

use crate::check::check;
use core::ptr::NonNull;
use dma_core::{
    Machine,
    Phys, //
};
use kernel::{
    device::Device,
    page::Page,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};
use xen_dma::{
    attach::Attachment,
    client::{
        self,
        faux::FauxDevice,
        Buffer,
        List,
        TestDevice, //
    },
    device::Quiet,
    ops::{
        Attrs,
        Coherent,
        CoherentPages,
        Direction,
        Provider, //
    },
    scatterlist::ScatterList,
    user,
    Context, //
};

/// Sizes that make the provider fail, in its own words.
const LACKS_MEMORY: usize = 13;
const BUSY: usize = 17;

/// Answers by which the provider is known.
const LARGEST: usize = 123 * 4096;
const CHEAPEST: usize = 77 * 4096;
const REQUIRED: u64 = 0x1f_ffff_ffff;
const MERGED: usize = 4095;
const NARROWEST: u64 = 0xffff;

/// The operations that are counted.
#[derive(Clone, Copy)]
enum Call {
    Map,
    Unmap,
    MapSg,
    UnmapSg,
    SyncForCpu,
    SyncForDevice,
    SyncSgForCpu,
    SyncSgForDevice,
    Alloc,
    Free,
    AllocPages,
    FreePages,
    GetSgtable,
}

const CALLS: usize = Call::GetSgtable as usize + 1;

/// A page's worth of bytes, on a page.
#[repr(align(4096))]
struct Bytes {
    _bytes: [u8; 4096],
}

/// The backend.
struct Tally {
    calls: [Atomic<u64>; CALLS],
    bytes: KBox<Bytes>,
    page: Page,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            calls: [const { Atomic::new(0) }; CALLS],
            bytes: KBox::new(Bytes { _bytes: [0; 4096] }, GFP_KERNEL)?,
            page: Page::alloc_page(GFP_KERNEL)?,
        })
    }

    fn note(&self, call: Call) {
        self.calls[call as usize].add(1, Relaxed);
    }

    fn counts(&self) -> [u64; CALLS] {
        let mut counts = [0; CALLS];
        for (count, call) in counts.iter_mut().zip(self.calls.iter()) {
            *count = call.load(Relaxed);
        }
        counts
    }

    fn total(&self) -> u64 {
        self.counts().iter().sum()
    }

    fn seen(phys: Phys, size: usize) -> Result<Machine> {
        match size {
            LACKS_MEMORY => Err(ENOMEM),
            BUSY => Err(EBUSY),
            _ => Ok(Machine::new(phys.raw())),
        }
    }
}

#[vtable]
impl Provider for Tally {
    fn map(
        &self,
        _dev: &Device,
        phys: Phys,
        size: usize,
        _dir: Direction,
        _attrs: Attrs,
    ) -> Result<Machine> {
        self.note(Call::Map);
        Self::seen(phys, size)
    }

    fn unmap(&self, _dev: &Device, _at: Machine, _size: usize, _dir: Direction, _attrs: Attrs) {
        self.note(Call::Unmap);
    }

    fn map_sg(
        &self,
        _dev: &Device,
        mut list: ScatterList<'_>,
        _dir: Direction,
        _attrs: Attrs,
    ) -> Result<usize> {
        self.note(Call::MapSg);
        let (buffers, mut segments) = list.to_map();
        for (phys, size) in buffers {
            segments.push(Self::seen(phys, size)?, size);
        }
        Ok(segments.end())
    }

    fn unmap_sg(&self, _dev: &Device, _list: ScatterList<'_>, _dir: Direction, _attrs: Attrs) {
        self.note(Call::UnmapSg);
    }

    fn sync_for_cpu(&self, _dev: &Device, _at: Machine, _size: usize, _dir: Direction) {
        self.note(Call::SyncForCpu);
    }

    fn sync_for_device(&self, _dev: &Device, _at: Machine, _size: usize, _dir: Direction) {
        self.note(Call::SyncForDevice);
    }

    fn sync_sg_for_cpu(&self, _dev: &Device, _list: ScatterList<'_>, _dir: Direction) {
        self.note(Call::SyncSgForCpu);
    }

    fn sync_sg_for_device(&self, _dev: &Device, _list: ScatterList<'_>, _dir: Direction) {
        self.note(Call::SyncSgForDevice);
    }

    fn alloc(
        &self,
        _dev: &Device,
        size: usize,
        _context: Context,
        _attrs: Attrs,
    ) -> Result<Coherent> {
        self.note(Call::Alloc);
        let dma = Self::seen(Phys::new(0x1234_5000), size)?;
        Ok(Coherent {
            cpu: NonNull::from(&*self.bytes).cast(),
            dma,
        })
    }

    fn free(&self, _dev: &Device, _size: usize, _memory: Coherent, _attrs: Attrs) {
        self.note(Call::Free);
    }

    fn alloc_pages(
        &self,
        _dev: &Device,
        size: usize,
        _dir: Direction,
        _context: Context,
    ) -> Result<CoherentPages> {
        self.note(Call::AllocPages);
        let first = NonNull::new(self.page.as_ptr()).ok_or(ENOMEM)?;
        let dma = Self::seen(Phys::new(0x2345_6000), size)?;
        Ok(CoherentPages { first, dma })
    }

    fn free_pages(&self, _dev: &Device, _size: usize, _pages: CoherentPages, _dir: Direction) {
        self.note(Call::FreePages);
    }

    fn mmap(
        &self,
        _dev: &Device,
        _user: &mut user::Pages<'_>,
        _memory: Coherent,
        _size: usize,
    ) -> Result {
        Err(ENXIO)
    }

    fn get_sgtable(
        &self,
        _dev: &Device,
        _table: &mut user::SgTable<'_>,
        _memory: Coherent,
        _size: usize,
    ) -> Result {
        self.note(Call::GetSgtable);
        Err(ENXIO)
    }

    fn supported(&self, _dev: &Device, mask: u64) -> bool {
        mask >= NARROWEST
    }

    fn required_mask(&self, _dev: &Device) -> u64 {
        REQUIRED
    }

    fn max_mapping_size(&self, _dev: &Device) -> usize {
        LARGEST
    }

    fn opt_mapping_size() -> usize {
        CHEAPEST
    }

    fn merge_boundary(&self, _dev: &Device) -> usize {
        MERGED
    }
}

/// Attaches a backend to a device; the attachment ends first.
fn attached(device: &TestDevice) -> Result<Attachment<Tally>> {
    let attachment = Attachment::new(device.device(), Tally::new()?, client::built_in())?;
    attachment.attach(&Quiet::lock(device.device())?)?;
    Ok(attachment)
}

/// Whether a device is served by our backend.
fn serves(device: &TestDevice) -> bool {
    client::max_mapping_size(device.device()) == LARGEST
}

/// The counts of calls, of which only some were made.
fn calls<const N: usize>(made: [(Call, u64); N]) -> [u64; CALLS] {
    let mut counts = [0; CALLS];
    for (call, count) in made {
        counts[call as usize] = count;
    }
    counts
}

#[kunit_tests(xen_dma_provider)]
mod tests {
    use super::*;

    #[test]
    fn mappings_reach_the_provider() -> Result {
        let device = TestDevice::new(c"xen-dma-provider-map")?;
        let attachment = attached(&device)?;
        let dev = device.device();
        let buffer = Buffer::new(2)?;
        let directions = [
            Direction::BIDIRECTIONAL,
            Direction::TO_DEVICE,
            Direction::FROM_DEVICE,
        ];
        for dir in directions {
            for (offset, size) in [(0, 1), (5, 100), (4095, 2), (1, 0x3fff), (0, 0x4000)] {
                let phys = Phys::new(buffer.phys().raw() + offset);
                let at = client::map(dev, phys, size, dir, Attrs::NONE)?;
                check!(at.raw() == phys.raw(), "{dir:?} {offset}+{size}");
                client::sync_for_cpu(dev, at, size, dir);
                client::sync_for_device(dev, at, size, dir);
                client::unmap(dev, at, size, dir, Attrs::NONE);
            }
        }
        let expected = calls([
            (Call::Map, 15),
            (Call::Unmap, 15),
            (Call::SyncForCpu, 15),
            (Call::SyncForDevice, 15),
        ]);
        let counts = attachment.provider().counts();
        check!(counts == expected, "{counts:?}");
        Ok(())
    }

    #[test]
    fn lists_reach_the_provider() -> Result {
        let device = TestDevice::new(c"xen-dma-provider-list")?;
        let attachment = attached(&device)?;
        let dev = device.device();
        for count in [1, 2, 16, 200] {
            let mut buffers = KVec::new();
            for _ in 0..count {
                buffers.push(Buffer::new(0)?, GFP_KERNEL)?;
            }
            let mut list = List::new(&buffers)?;
            let dir = Direction::BIDIRECTIONAL;
            list.map(dev, dir, Attrs::NONE)?;
            check!(list.mapped().count() == count, "{count}");
            for ((at, size), buffer) in list.mapped().zip(buffers.iter()) {
                check!(
                    at.raw() == buffer.phys().raw() && size == buffer.size(),
                    "{count}"
                );
            }
            list.sync_for_cpu(dev, dir);
            list.sync_for_device(dev, dir);
            list.unmap(dev, dir, Attrs::NONE);
        }
        let expected = calls([
            (Call::MapSg, 4),
            (Call::UnmapSg, 4),
            (Call::SyncSgForCpu, 4),
            (Call::SyncSgForDevice, 4),
        ]);
        let counts = attachment.provider().counts();
        check!(counts == expected, "{counts:?}");
        Ok(())
    }

    #[test]
    fn coherent_memory_reaches_the_provider() -> Result {
        let device = TestDevice::new(c"xen-dma-provider-coherent")?;
        let attachment = attached(&device)?;
        let dev = device.device();

        for context in [Context::Sleepable, Context::Atomic] {
            let memory = client::alloc(dev, 4096, context, Attrs::NONE)?;
            check!(memory.dma == Machine::new(0x1234_5000));
            check!(client::sgtable_bytes(dev, memory, 4096) == Err(ENXIO));
            client::free(dev, 4096, memory, Attrs::NONE);
        }
        let pages = client::alloc_pages(dev, 4096, Direction::TO_DEVICE)?;
        check!(pages.dma == Machine::new(0x2345_6000));
        client::free_pages(dev, 4096, pages, Direction::TO_DEVICE);

        let expected = calls([
            (Call::Alloc, 2),
            (Call::Free, 2),
            (Call::GetSgtable, 2),
            (Call::AllocPages, 1),
            (Call::FreePages, 1),
        ]);
        let counts = attachment.provider().counts();
        check!(counts == expected, "{counts:?}");
        Ok(())
    }

    #[test]
    fn limits_are_the_providers() -> Result {
        let device = TestDevice::new(c"xen-dma-provider-limits")?;
        let _attachment = attached(&device)?;
        let dev = device.device();
        check!(client::max_mapping_size(dev) == LARGEST);
        check!(client::opt_mapping_size(dev) == CHEAPEST);
        check!(client::required_mask(dev) == REQUIRED);
        check!(client::merge_boundary(dev) == MERGED);
        for (mask, served) in [(NARROWEST, true), (u64::MAX, true), (NARROWEST >> 1, false)] {
            check!(client::set_masks(dev, mask).is_ok() == served, "{mask:#x}");
        }
        Ok(())
    }

    #[test]
    fn failures_are_told_in_cs_words() -> Result {
        let device = TestDevice::new(c"xen-dma-provider-fail")?;
        let attachment = attached(&device)?;
        let dev = device.device();
        let dir = Direction::TO_DEVICE;
        let buffers = [Buffer::new(0)?, Buffer::new(0)?];
        for (size, of_list) in [(LACKS_MEMORY, ENOMEM), (BUSY, EIO)] {
            let one = client::map(dev, buffers[0].phys(), size, dir, Attrs::NO_WARN);
            check!(one.err() == Some(EIO), "{size}: {one:?}");
            let parts = buffers.iter().map(|buffer| (buffer, 0, size));
            let mapped = List::of_parts(2, parts)?.map(dev, dir, Attrs::NO_WARN);
            check!(mapped.err() == Some(of_list), "{size}: {mapped:?}");
            check!(
                client::alloc(dev, size, Context::Sleepable, Attrs::NO_WARN).is_err(),
                "{size}"
            );
        }
        check!(attachment.provider().total() == 6);
        Ok(())
    }

    #[test]
    fn a_detached_device_is_as_before() -> Result {
        let device = TestDevice::new(c"xen-dma-provider-detach")?;
        check!(!serves(&device));
        let before = client::max_mapping_size(device.device());
        let attachment = attached(&device)?;
        check!(attachment.in_use() && serves(&device));
        for _ in 0..3 {
            attachment.detach(&Quiet::lock(device.device())?)?;
            check!(!attachment.in_use());
            check!(client::max_mapping_size(device.device()) == before);
        }
        // A device can be attached again, by the same table.
        attachment.attach(&Quiet::lock(device.device())?)?;
        check!(attachment.in_use() && serves(&device));
        check!(attachment.provider().total() == 0);
        Ok(())
    }

    #[test]
    fn an_attachment_that_ends_restores() -> Result {
        let device = TestDevice::new(c"xen-dma-provider-drop")?;
        let before = client::max_mapping_size(device.device());
        for _ in 0..3 {
            let attachment = attached(&device)?;
            check!(serves(&device));
            drop(attachment);
            check!(client::max_mapping_size(device.device()) == before);
        }
        // One that was never used changes nothing, neither do its ends.
        drop(Attachment::new(
            device.device(),
            Tally::new()?,
            client::built_in(),
        )?);
        check!(client::max_mapping_size(device.device()) == before);
        Ok(())
    }

    #[test]
    fn attaching_twice_is_attaching_once() -> Result {
        let device = TestDevice::new(c"xen-dma-provider-twice")?;
        let before = client::max_mapping_size(device.device());
        let attachment = attached(&device)?;
        attachment.attach(&Quiet::lock(device.device())?)?;
        check!(serves(&device));
        attachment.detach(&Quiet::lock(device.device())?)?;
        check!(!attachment.in_use());
        check!(client::max_mapping_size(device.device()) == before);
        Ok(())
    }

    #[test]
    fn a_proof_is_of_one_device() -> Result {
        let (mine, other) = (
            TestDevice::new(c"xen-dma-provider-mine")?,
            TestDevice::new(c"xen-dma-provider-other")?,
        );
        let attachment = Attachment::new(mine.device(), Tally::new()?, client::built_in())?;
        check!(core::ptr::eq(attachment.device(), mine.device()));
        check!(attachment.attach(&Quiet::lock(other.device())?) == Err(EINVAL));
        check!(!attachment.in_use() && !serves(&mine) && !serves(&other));
        attachment.attach(&Quiet::lock(mine.device())?)?;
        check!(attachment.detach(&Quiet::lock(other.device())?) == Err(EINVAL));
        check!(attachment.in_use() && serves(&mine) && !serves(&other));
        Ok(())
    }

    #[test]
    fn a_device_with_a_driver_is_left_alone() -> Result {
        // The faux bus binds a driver of its own.
        let bound = FauxDevice::new(c"xen-dma-provider-bound")?;
        for _ in 0..3 {
            check!(Quiet::lock(bound.device()).err() == Some(EBUSY));
        }
        Ok(())
    }

    #[test]
    fn devices_have_tables_of_their_own() -> Result {
        let (one, two) = (
            TestDevice::new(c"xen-dma-provider-one")?,
            TestDevice::new(c"xen-dma-provider-two")?,
        );
        let (first, second) = (attached(&one)?, attached(&two)?);
        let buffer = Buffer::new(0)?;
        let dir = Direction::TO_DEVICE;
        for (device, rounds) in [(&one, 3), (&two, 5)] {
            for _ in 0..rounds {
                let at = client::map(device.device(), buffer.phys(), 64, dir, Attrs::NONE)?;
                client::unmap(device.device(), at, 64, dir, Attrs::NONE);
            }
        }
        check!(first.provider().counts() == calls([(Call::Map, 3), (Call::Unmap, 3)]));
        check!(second.provider().counts() == calls([(Call::Map, 5), (Call::Unmap, 5)]));
        drop(first);
        check!(!serves(&one) && serves(&two));
        Ok(())
    }
}
