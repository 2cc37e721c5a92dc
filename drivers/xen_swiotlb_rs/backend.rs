// SPDX-License-Identifier: GPL-2.0

//! The walks of one device's mappings: decide, then direct or bounce.
//!
//! Every map copies the original in, whatever the direction: the device may leave bytes
//! unwritten, and what the slots held before must neither reach the device nor the buffer
//! (CVE-2022-0854).  Unmap and sync copy the bytes asked for, no others.
//!
//! C: [`drivers/xen/swiotlb-xen.c`](srctree/drivers/xen/swiotlb-xen.c),
//! [`kernel/dma/swiotlb.c`](srctree/kernel/dma/swiotlb.c).

use crate::{
    aperture::{
        complain,
        Aperture,
        Extent, //
    },
    coherent::Store,
    counters::{
        worth_a_line,
        Cause,
        Counters,
        Event,
        Wrong, //
    },
};
use dma_core::{
    place,
    place_page,
    Bounces,
    Bundle,
    Held,
    Leaving,
    Limits,
    Machine,
    Owner,
    PagePlacement,
    Phys,
    Placement,
    Reason, //
};
use kernel::{
    dev_warn,
    device::Device,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};
use xen_dma::{
    device,
    ops::{
        Attrs,
        Coherent,
        CoherentPages,
        Direction,
        Provider, //
    },
    p2m::{
        top_of_memory,
        LinearP2m, //
    },
    scatterlist::ScatterList,
    table::start_syncs,
    user,
    Context, //
};

/// What all devices share.
pub(crate) struct Shared {
    pub(crate) aperture: Aperture,
    pub(crate) coherent: Arc<Store>,
    p2m: LinearP2m,
    force: bool,
    owners: Atomic<u32>,
}

impl Shared {
    pub(crate) fn new(aperture: Aperture, p2m: LinearP2m, force: bool) -> Result<Arc<Self>> {
        let shared = Self {
            aperture,
            coherent: Store::new()?,
            p2m,
            force,
            owners: Atomic::new(0),
        };
        Ok(Arc::new(shared, GFP_KERNEL)?)
    }

    /// A number that no other device has.
    fn owner(&self) -> Result<Owner> {
        Owner::new(self.owners.fetch_add(1, Relaxed)).ok_or(ENOSPC)
    }
}

/// The backend of one device.
pub(crate) struct Backend {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Counters,
    streaming: Owner,
    /// Coherent runs have an owner of their own, so that a stray unmap cannot touch them.
    pub(crate) coherent: Owner,
    /// For a short look at a buffer; it knows of none if all must bounce.
    glance_p2m: LinearP2m,
}

impl Backend {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self> {
        Ok(Self {
            counters: Counters::new()?,
            streaming: shared.owner()?,
            coherent: shared.owner()?,
            glance_p2m: if shared.force {
                shared.p2m.without_ordinary()
            } else {
                shared.p2m
            },
            shared,
        })
    }

    /// Notes why a request failed, and says so now and then.
    #[cold]
    #[inline(never)]
    pub(crate) fn fail(&self, dev: &Device, size: usize, cause: Cause, quiet: bool) -> Error {
        let times = self.counters.note(Event::Failure(cause));
        if !quiet && worth_a_line(times) {
            dev_warn!(
                dev,
                "xen_swiotlb_rs: cannot map {size} bytes: {}: {} (seen {times} times)\n",
                cause.name(),
                cause.remedy()
            );
        }
        cause.error()
    }

    /// Notes a wrong call, and says so now and then.
    #[cold]
    #[inline(never)]
    pub(crate) fn misuse(&self, dev: &Device, what: &str, size: usize, wrong: Wrong) {
        let times = self.counters.note(Event::Misuse(wrong));
        if worth_a_line(times) {
            dev_warn!(
                dev,
                "xen_swiotlb_rs: wrong {what} of {size} bytes refused: {}; a bug of its driver (seen {times} times)\n",
                wrong.name()
            );
        }
    }

    /// Maps a buffer that lies on one page within the device's `reach`.  The error is what
    /// [`Backend::glance`] tells.
    #[inline(always)]
    fn look(&self, reach: u64, phys: Phys, size: usize) -> Result<Machine, u64> {
        match place_page(&self.glance_p2m, phys, size, reach) {
            PagePlacement::Direct(at) => {
                self.counters.direct(size);
                Ok(at)
            }
            PagePlacement::Beyond => Err(reach),
            PagePlacement::Unsure => Err(0),
        }
    }

    /// Maps a buffer that lies on one page beyond the device's reach, or says why not.
    #[inline(always)]
    fn place_beyond(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        reach: u64,
        attrs: Attrs,
    ) -> Result<Machine, Cause> {
        if attrs.allow_bounce() && device::min_align(dev) == 0 {
            let carried = self
                .shared
                .aperture
                .carry(phys, size, reach, self.streaming);
            if let Some((extent, at)) = carried {
                return self.carried(dev, extent, at, phys, size, Reason::Unreachable);
            }
        }
        self.bounce(
            dev,
            phys,
            size,
            &device::limits(dev),
            Reason::Unreachable,
            attrs,
        )
    }

    /// As [`Backend::place_beyond`], for a buffer of a list.
    #[inline(never)]
    fn place_alone(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        reach: u64,
        attrs: Attrs,
    ) -> Result<Machine, Cause> {
        self.place_beyond(dev, phys, size, reach, attrs)
    }

    /// Carries a buffer of a list that lies on one page beyond the device's reach on one of `pages`,
    /// which are claimed for the `left` buffers that are still to come.  [`None`]: take another way.
    #[inline(always)]
    fn carry_in<'a>(
        &'a self,
        dev: &Device,
        pages: &mut Option<(&'a Extent, Bundle)>,
        left: usize,
        phys: Phys,
        size: usize,
        reach: u64,
    ) -> Option<Machine> {
        if !pages.as_ref().is_some_and(|(_, bundle)| bundle.has_more()) {
            *pages = self.shared.aperture.claim_pages(left, reach);
        }
        let (extent, bundle) = pages.as_mut()?;
        let at = extent.slots.carry_in(bundle, phys, size, self.streaming)?;
        self.carried(dev, extent, at, phys, size, Reason::Unreachable)
            .ok()
    }

    /// Maps a buffer, or says why not.
    #[inline(never)]
    fn place(&self, dev: &Device, phys: Phys, size: usize, attrs: Attrs) -> Result<Machine, Cause> {
        let limits = device::limits(dev);
        let bounces = Bounces {
            most: self.shared.aperture.most(),
            forced: self.shared.force,
        };
        match place(&self.shared.p2m, phys, size, &limits, bounces) {
            Placement::Direct(at) => {
                self.counters.direct(size);
                Ok(at)
            }
            Placement::Bounce(reason) => self.bounce(dev, phys, size, &limits, reason, attrs),
            Placement::Refuse(refusal) => Err(refusal.into()),
        }
    }

    /// Carries a buffer through the aperture.
    #[inline(never)]
    fn bounce(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        limits: &Limits,
        reason: Reason,
        attrs: Attrs,
    ) -> Result<Machine, Cause> {
        if attrs.contains(Attrs::REQUIRE_COHERENT) {
            return Err(Cause::RequireCoherent);
        }
        if attrs.contains(Attrs::MMIO) {
            return Err(Cause::PeerMemory);
        }
        self.counters.note_peak();
        let (extent, record) = self
            .shared
            .aperture
            .claim(phys, size, limits, self.streaming)?;
        self.carried(dev, extent, record.start(), phys, size, reason)
    }

    /// Copies the original into a run that was claimed for it.
    #[inline(always)]
    fn carried(
        &self,
        dev: &Device,
        extent: &Extent,
        at: Machine,
        phys: Phys,
        size: usize,
        reason: Reason,
    ) -> Result<Machine, Cause> {
        if !extent.region.copy_in(extent.offset(at), phys, size) {
            self.release(extent, at);
            return Err(Cause::Hole);
        }
        // CAST: Widens.
        if self.counters.is_largest(size as u64) {
            self.largest_bounce(dev, size);
        }
        // CAST: Widens.
        self.counters.bounced(reason, size as u64);
        Ok(at)
    }

    /// Notes a size; the first one means that from now on the device needs syncs.
    #[cold]
    #[inline(never)]
    fn largest_bounce(&self, dev: &Device, size: usize) {
        if self.counters.largest() == 0 {
            start_syncs(dev, self);
        }
        // CAST: Widens.
        self.counters.note_largest(size as u64);
    }

    /// Gives a run back that was just claimed.
    #[cold]
    #[inline(never)]
    fn release(&self, extent: &Extent, at: Machine) {
        if let Ok(held) = extent.slots.retire(at, self.streaming) {
            self.shared.aperture.release(extent, held);
        }
    }

    /// Ends a mapping that goes through an extent; with `copy`, its bytes go to the original first.
    #[inline(never)]
    fn end_bounce(&self, dev: &Device, extent: &Extent, addr: Machine, size: usize, copy: bool) {
        match extent.slots.retire_plain(addr, self.streaming) {
            Some(held) => self.finish(dev, extent, addr, held, size, copy),
            None => self.end_other(dev, extent, addr, size, copy),
        }
    }

    /// As [`Backend::end_bounce`], for mappings of any kind, or none.
    #[inline(never)]
    fn end_other(&self, dev: &Device, extent: &Extent, addr: Machine, size: usize, copy: bool) {
        match extent.slots.retire(addr, self.streaming) {
            Ok(held) => self.finish(dev, extent, addr, held, size, copy),
            Err(misuse) => self.misuse(dev, "unmap", size, misuse.into()),
        }
    }

    /// Copies the bytes of a mapping that was ended, and frees its run.
    #[inline(always)]
    fn finish(
        &self,
        dev: &Device,
        extent: &Extent,
        addr: Machine,
        held: Held,
        size: usize,
        copy: bool,
    ) {
        self.copy_back(dev, extent, addr, &held, size, copy);
        let mapped = held.size();
        self.shared.aperture.release(extent, held);
        self.counters.unbounced(mapped);
    }

    /// With `copy`, copies the bytes of a mapping that was ended to the original: those asked for.
    #[inline(always)]
    fn copy_back(
        &self,
        dev: &Device,
        extent: &Extent,
        addr: Machine,
        held: &Held,
        size: usize,
        copy: bool,
    ) {
        // CAST: A mapping's size came as a `usize`.
        let mapped = held.size() as usize;
        let bytes = if size == mapped {
            size
        } else {
            self.misuse(dev, "unmap", size, Wrong::Size);
            size.min(mapped)
        };
        if copy {
            extent
                .region
                .copy_out(extent.offset(addr), held.phys(), bytes);
        }
    }

    /// Copies a part of a bounced mapping, `into` the run or out of it.
    #[inline(never)]
    fn sync(&self, dev: &Device, extent: &Extent, addr: Machine, size: usize, into: bool) {
        let record = extent.slots.find(addr, self.streaming);
        let part = record
            .map_err(Wrong::from)
            // CAST: Widens.
            .and_then(|record| record.part(addr, size as u64).ok_or(Wrong::Range));
        let offset = extent.offset(addr);
        match part {
            Ok(phys) if into => extent.region.copy_in(offset, phys, size),
            Ok(phys) => extent.region.copy_out(offset, phys, size),
            Err(wrong) => return self.misuse(dev, "sync", size, wrong),
        };
        self.counters.count(Event::BounceSync);
    }
}

#[vtable]
impl Provider for Backend {
    /// A device that maps all its buffers directly is never asked to sync one.
    const SYNCS_LATER: bool = true;

    #[inline]
    fn map(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        _dir: Direction,
        attrs: Attrs,
    ) -> Result<Machine> {
        match self.glance(dev, phys, size) {
            Ok(at) => Ok(at),
            Err(told) => self.map_told(dev, phys, size, attrs, told),
        }
    }

    /// Tells the device's reach, if it is clear that the buffer lies on one page beyond it; or else 0.
    #[inline]
    fn glance(&self, dev: &Device, phys: Phys, size: usize) -> Result<Machine, u64> {
        self.look(device::page_reach(dev).ok_or(0u64)?, phys, size)
    }

    #[inline]
    fn map_told(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        attrs: Attrs,
        told: u64,
    ) -> Result<Machine> {
        let placed = match told {
            0 => self.place(dev, phys, size, attrs),
            reach => self.place_beyond(dev, phys, size, reach, attrs),
        };
        placed.map_err(|cause| self.fail(dev, size, cause, attrs.contains(Attrs::NO_WARN)))
    }

    #[inline]
    fn unmap(&self, dev: &Device, addr: Machine, size: usize, dir: Direction, attrs: Attrs) {
        match self.shared.aperture.find(addr) {
            None => self.counters.count(Event::DirectUnmap),
            Some(extent) => {
                let copy = dir.device_writes() && !attrs.contains(Attrs::SKIP_CPU_SYNC);
                self.end_bounce(dev, extent, addr, size, copy);
            }
        }
    }

    fn map_sg(
        &self,
        dev: &Device,
        mut list: ScatterList<'_>,
        dir: Direction,
        attrs: Attrs,
    ) -> Result<usize> {
        let plain = device::min_align(dev) == 0 && attrs.allow_bounce();
        let reach = device::page_reach(dev);
        let mut pages = None;
        let mut failed = None;
        let mut mapped = 0;
        let count = list.len();
        for mut entry in list.entries() {
            let size = entry.length();
            let phys = entry.phys();
            let seen = match reach {
                Some(reach) => self.look(reach, phys, size),
                None => Err(0),
            };
            let placed = match seen {
                Ok(at) => Ok(at),
                Err(0) => self.place(dev, phys, size, attrs),
                Err(reach) if plain => {
                    let left = count - mapped;
                    match self.carry_in(dev, &mut pages, left, phys, size, reach) {
                        Some(at) => Ok(at),
                        None => self.place_alone(dev, phys, size, reach, attrs),
                    }
                }
                Err(reach) => self.place_alone(dev, phys, size, reach, attrs),
            };
            match placed {
                Ok(addr) => entry.set_dma(addr, size),
                Err(cause) => {
                    failed = Some((size, cause));
                    break;
                }
            }
            mapped += 1;
        }
        if let Some((extent, bundle)) = pages {
            complain(extent.slots.return_pages(bundle));
        }
        let Some((size, cause)) = failed else {
            return if mapped > 0 { Ok(mapped) } else { Err(EINVAL) };
        };
        let undo = attrs.with(Attrs::SKIP_CPU_SYNC);
        for mut entry in list.entries().take(mapped) {
            self.unmap(dev, entry.dma_address(), entry.dma_length(), dir, undo);
            entry.set_dma(Machine::new(u64::MAX), 0);
        }
        Err(self.fail(dev, size, cause, attrs.contains(Attrs::NO_WARN)))
    }

    fn unmap_sg(&self, dev: &Device, mut list: ScatterList<'_>, dir: Direction, attrs: Attrs) {
        let copy = dir.device_writes() && !attrs.contains(Attrs::SKIP_CPU_SYNC);
        let mut leaving: Option<(&Extent, Leaving)> = None;
        // A length of 0 ends the mapped part: an entry that was mapped has bytes.
        for entry in list.entries().take_while(|entry| entry.dma_length() > 0) {
            let (addr, size) = (entry.dma_address(), entry.dma_length());
            let Some(extent) = self.shared.aperture.find(addr) else {
                self.counters.count(Event::DirectUnmap);
                continue;
            };
            let Some(held) = extent.slots.retire_plain(addr, self.streaming) else {
                self.end_other(dev, extent, addr, size, copy);
                continue;
            };
            self.copy_back(dev, extent, addr, &held, size, copy);
            self.counters.unbounced(held.size());
            match &mut leaving {
                Some((of, leaving)) if core::ptr::eq(*of, extent) => {
                    complain(extent.slots.free_with(leaving, held));
                }
                other => {
                    let mut first = Leaving::default();
                    complain(extent.slots.free_with(&mut first, held));
                    if let Some((of, leaving)) = other.replace((extent, first)) {
                        complain(of.slots.free_leaving(leaving));
                    }
                }
            }
        }
        if let Some((extent, leaving)) = leaving {
            complain(extent.slots.free_leaving(leaving));
        }
    }

    #[inline]
    fn sync_for_cpu(&self, dev: &Device, addr: Machine, size: usize, dir: Direction) {
        if let Some(extent) = self.shared.aperture.find(addr) {
            if dir.device_writes() {
                self.sync(dev, extent, addr, size, false);
            }
        }
    }

    #[inline]
    fn sync_for_device(&self, dev: &Device, addr: Machine, size: usize, dir: Direction) {
        if let Some(extent) = self.shared.aperture.find(addr) {
            if dir.device_reads() {
                self.sync(dev, extent, addr, size, true);
            }
        }
    }

    fn sync_sg_for_cpu(&self, dev: &Device, mut list: ScatterList<'_>, dir: Direction) {
        for entry in list.entries().take_while(|entry| entry.dma_length() > 0) {
            self.sync_for_cpu(dev, entry.dma_address(), entry.dma_length(), dir);
        }
    }

    fn sync_sg_for_device(&self, dev: &Device, mut list: ScatterList<'_>, dir: Direction) {
        for entry in list.entries().take_while(|entry| entry.dma_length() > 0) {
            self.sync_for_device(dev, entry.dma_address(), entry.dma_length(), dir);
        }
    }

    fn alloc(&self, dev: &Device, size: usize, context: Context, attrs: Attrs) -> Result<Coherent> {
        self.alloc_coherent(dev, size, context)
            .map_err(|cause| self.fail(dev, size, cause, attrs.contains(Attrs::NO_WARN)))
    }

    fn free(&self, dev: &Device, size: usize, memory: Coherent, _attrs: Attrs) {
        self.free_coherent(dev, size, memory.dma);
    }

    fn alloc_pages(
        &self,
        dev: &Device,
        size: usize,
        _dir: Direction,
        context: Context,
    ) -> Result<CoherentPages> {
        self.alloc_neighbours(dev, size, context)
            .map_err(|cause| self.fail(dev, size, cause, false))
    }

    fn free_pages(&self, dev: &Device, size: usize, pages: CoherentPages, _dir: Direction) {
        self.free_coherent(dev, size, pages.dma);
    }

    fn mmap(
        &self,
        _dev: &Device,
        user: &mut user::Pages<'_>,
        memory: Coherent,
        size: usize,
    ) -> Result {
        self.with_coherent(memory.dma, size, |region, offset| {
            user.map(region, offset, size)
        })
    }

    fn get_sgtable(
        &self,
        _dev: &Device,
        table: &mut user::SgTable<'_>,
        memory: Coherent,
        size: usize,
    ) -> Result {
        self.with_coherent(memory.dma, size, |region, offset| {
            table.describe(region, offset, size)
        })
    }

    /// Some memory must lie where the mask reaches: an extent for bounces and coherent buffers, or
    /// all that the host has.
    fn supported(&self, dev: &Device, mask: u64) -> bool {
        let limits = device::limits_for(dev, mask);
        self.shared.aperture.largest(&limits) > 0 || limits.reach() >= top_of_memory().raw()
    }

    fn required_mask(&self, _dev: &Device) -> u64 {
        u64::MAX >> top_of_memory().raw().leading_zeros()
    }

    /// Half an extent, so that one mapping cannot keep all others waiting; less what
    /// `min_align_mask` may take at its start.
    fn max_mapping_size(&self, dev: &Device) -> usize {
        let limits = device::limits(dev);
        let half = self.shared.aperture.largest(&limits) / 2;
        // CAST: The mask has 32 bits in C.
        half.saturating_sub((limits.min_align() as usize).saturating_add(1) & !1)
    }

    /// No size is dearer than its bytes: a bounce costs one copy whatever its size.
    fn opt_mapping_size() -> usize {
        usize::MAX
    }

    /// Pieces are never merged by translation: neighbours in pfn need not be in mfn.
    fn merge_boundary(&self, _dev: &Device) -> usize {
        0
    }
}
