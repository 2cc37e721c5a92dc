// SPDX-License-Identifier: GPL-2.0

//! What is measured with an aperture that nobody else uses.

use crate::{
    rows::{
        Label,
        Samples, //
    },
    session::{
        buffer,
        count,
        follows,
        is_high,
        Session,
        BOTH,
        NARROW,
        QUIET,
        WIDE, //
    },
};
use dma_core::{
    Machine,
    Phys, //
};
use kernel::{
    device::Device,
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client::{
        self,
        Buffer,
        List,
        TestDevice, //
    },
    measure::serve_with_nothing,
    Context, //
};

/// Sizes of direct mappings.
const DIRECT: [usize; 5] = [1, 4 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Entries of scatterlists, a page each.
const ENTRIES: [usize; 3] = [1, 16, 128];

/// Sizes of coherent buffers.
const COHERENT: [usize; 5] = [4 << 10, 64 << 10, 1 << 20, 2 << 20, 16 << 20];

/// Sizes of coherent buffers that only the host's memory bounds, and samples of each: they are slow.
const LARGE: [usize; 3] = [16 << 20, 64 << 20, 256 << 20];
const LARGE_SAMPLES: usize = 2;

/// More than any aperture here: 68 MiB.
const TOO_LARGE: usize = 68 << 20;

/// A part of a mapping, and where it begins.
const PART: usize = 64;
const PART_AT: u64 = 1024;

impl Session<'_> {
    pub(crate) fn single(&mut self) -> Result {
        self.wrapper()?;
        self.direct()?;
        self.lists()?;
        self.syncs()?;
        self.too_large()?;
        self.coherent()
    }

    /// What the DMA API itself takes.
    fn wrapper(&mut self) -> Result {
        let device = TestDevice::new(c"xen_swiotlb_rs_bench")?;
        serve_with_nothing(&device);
        let label = Label::new("wrapper", PAGE_SIZE);
        let (dev, phys) = (device.device(), self.contiguous.phys());
        let [mut maps, mut unmaps] = [Samples::new(), Samples::new()];
        for _ in 0..count(PAGE_SIZE) {
            let (mapped, took) = self
                .meter
                .measure(|| client::map_alone(dev, phys, PAGE_SIZE, BOTH, QUIET));
            maps.add(took)?;
            let addr = mapped.ok_or(EIO)?;
            let ((), took) = self
                .meter
                .measure(|| client::unmap(dev, addr, PAGE_SIZE, BOTH, QUIET));
            unmaps.add(took)?;
        }
        self.note(label, "map", maps, 0)?;
        self.note(label, "unmap", unmaps, 0)?;
        self.sync(label, dev, Machine::new(phys.raw()), 0)?;
        self.buffers(label, dev, count(PAGE_SIZE), 0)
    }

    fn direct(&mut self) -> Result {
        self.set_mask(WIDE)?;
        let phys = self.contiguous.phys();
        for size in DIRECT {
            self.pairs(Label::new("direct", size), phys, 0, || Ok(()))?;
        }
        Ok(())
    }

    fn lists(&mut self) -> Result {
        let mut pages = KVec::new();
        for &entries in &ENTRIES {
            while pages.len() < entries {
                // How many follow each other by chance is not the same in two boots: none does.
                let page = buffer(0, |page| {
                    is_high(page) && !pages.last().is_some_and(|last| follows(page, last))
                })?;
                pages.push(page, GFP_KERNEL)?;
            }
        }
        let copy = self.copy_cost(PAGE_SIZE)?;
        for (case, mask, copy) in [("list-direct", WIDE, 0), ("list-bounce", NARROW, copy)] {
            self.set_mask(mask)?;
            for entries in ENTRIES {
                let label = Label::new(case, entries * PAGE_SIZE).with_entries(entries);
                let part = pages.get(..entries).ok_or(EINVAL)?;
                self.list(label, part, copy * entries as u64)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, label: Label, pages: &[Buffer], copy: u64) -> Result {
        let dev = self.dev;
        let mut list = List::new(pages)?;
        let [mut maps, mut unmaps] = [Samples::new(), Samples::new()];
        for _ in 0..count(label.bytes) {
            let (mapped, took) = self.meter.measure(|| list.map(dev, BOTH, QUIET));
            mapped?;
            maps.add(took)?;
            let ((), took) = self.meter.measure(|| list.unmap(dev, BOTH, QUIET));
            unmaps.add(took)?;
        }
        self.note(label, "map", maps, copy)?;
        self.note(label, "unmap", unmaps, copy)
    }

    fn syncs(&mut self) -> Result {
        let (dev, phys) = (self.dev, self.contiguous.phys());
        for (case, mask) in [("sync-direct", WIDE), ("sync-bounce", NARROW)] {
            self.set_mask(mask)?;
            let addr = client::map(dev, phys, PAGE_SIZE, BOTH, QUIET)?;
            let inside = addr.checked_add(PART_AT).ok_or(EINVAL)?;
            for (at, size) in [(addr, PAGE_SIZE), (inside, PART)] {
                let copy = match mask {
                    NARROW => self.copy_cost(size)?,
                    _ => 0,
                };
                self.sync(Label::new(case, size), dev, at, copy)?;
            }
            client::unmap(dev, addr, PAGE_SIZE, BOTH, QUIET);
        }
        Ok(())
    }

    fn sync(&mut self, label: Label, dev: &Device, at: Machine, copy: u64) -> Result {
        let size = label.bytes;
        let [mut for_cpu, mut for_device] = [Samples::new(), Samples::new()];
        for _ in 0..count(size) {
            let ((), took) = self
                .meter
                .measure(|| client::sync_for_cpu(dev, at, size, BOTH));
            for_cpu.add(took)?;
            let ((), took) = self
                .meter
                .measure(|| client::sync_for_device(dev, at, size, BOTH));
            for_device.add(took)?;
        }
        self.note(label, "sync_for_cpu", for_cpu, copy)?;
        self.note(label, "sync_for_device", for_device, copy)
    }

    /// A request that nobody can meet.  Of the memory only its addresses are looked at.
    fn too_large(&mut self) -> Result {
        self.set_mask(NARROW)?;
        // All of it must be there, and its first page where the device does not reach.
        let end = self.large.phys().raw();
        let last = end.checked_sub(TOO_LARGE as u64).ok_or(ENOMEM)?;
        let phys = (0..=last)
            .rev()
            .step_by(PAGE_SIZE)
            .map(Phys::new)
            .find(|&phys| client::machine(phys).is_some_and(|at| at.raw() > NARROW))
            .ok_or(ENOMEM)?;
        self.pairs(Label::new("too-large", TOO_LARGE), phys, 0, || Ok(()))
    }

    fn coherent(&mut self) -> Result {
        self.set_mask(NARROW)?;
        for size in COHERENT {
            let clear = self.clear_cost(size)?;
            let label = Label::new("coherent", size);
            self.buffers(label, self.dev, count(size), clear)?;
        }
        self.set_mask(WIDE)?;
        for size in LARGE {
            let clear = self.clear_cost(size)?;
            let label = Label::new("coherent-large", size);
            self.buffers(label, self.dev, LARGE_SAMPLES, clear)?;
        }
        Ok(())
    }

    /// Coherent buffers, one at a time.
    fn buffers(&mut self, label: Label, dev: &Device, samples: usize, clear: u64) -> Result {
        let size = label.bytes;
        let [mut allocs, mut frees, mut refused] = [Samples::new(), Samples::new(), Samples::new()];
        for _ in 0..samples {
            let (memory, took) = self
                .meter
                .measure_sleeping(|| client::alloc(dev, size, Context::Sleepable, QUIET));
            let Ok(memory) = memory else {
                refused.add(took)?;
                continue;
            };
            allocs.add(took)?;
            let ((), took) = self
                .meter
                .measure_sleeping(|| client::free(dev, size, memory, QUIET));
            frees.add(took)?;
        }
        self.note(label, "alloc", allocs, clear)?;
        self.note(label, "free", frees, 0)?;
        self.note(label, "refused", refused, 0)
    }
}
