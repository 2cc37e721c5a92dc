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
    aperture::Aperture,
    breath::{
        narrow_bits,
        swap,
        Bounds,
        Breath, //
    },
    coherent::Holder,
    counters::{
        worth_a_line,
        Cause,
        Counters,
        Event,
        Wrong, //
    },
};
use dma_core::{
    decide,
    place_page,
    place_pages,
    AtomicWord,
    Bounces,
    Limits,
    Machine,
    Owner,
    PagePlacement,
    Phys,
    Placement,
    Unseen, //
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
    workqueue::{
        new_delayed_work,
        DelayedWork, //
    },
};
use xen_dma::{
    atomic::Word,
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
    user,
    Context, //
};

/// What all devices share.
#[pin_data]
pub(crate) struct Shared {
    pub(crate) aperture: Aperture,
    pub(crate) coherent: Holder,
    pub(crate) p2m: LinearP2m,
    force: bool,
    owners: Atomic<u32>,
    #[pin]
    pub(crate) breath: Breath,
    #[pin]
    pub(crate) grow: DelayedWork<Self, 1>,
    #[pin]
    pub(crate) watch: DelayedWork<Self>,
}

impl Shared {
    pub(crate) fn new(
        aperture: Aperture,
        p2m: LinearP2m,
        force: bool,
        bounds: Bounds,
    ) -> Result<Arc<Self>> {
        let coherent = Holder::new()?;
        Arc::pin_init(
            pin_init!(Self {
                breath <- Breath::new(bounds, &aperture),
                aperture,
                coherent,
                p2m,
                force,
                owners: Atomic::new(0),
                grow <- new_delayed_work!("Shared::grow"),
                watch <- new_delayed_work!("Shared::watch"),
            }),
            GFP_KERNEL,
        )
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
    pub(crate) streaming: Owner,
    /// Whose mappings end the short way: the same, or nobody's if their slots must be cleared.
    pub(crate) hasty: Owner,
    /// Coherent runs have an owner of their own, so that a stray unmap cannot touch them.
    pub(crate) coherent: Owner,
    /// For a short look at a buffer; it knows of none if all must bounce.
    pub(crate) glance_p2m: LinearP2m,
    /// The fewest bits that the device's driver has set, if that makes it a narrow one, or 0.
    narrow: Word,
    /// Mappings that earlier drivers of the device never ended.
    left_behind: Word,
    /// 1 from a probe that failed until somebody has seen to it.
    failed: Word,
}

impl Backend {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self> {
        let streaming = shared.owner()?;
        Ok(Self {
            counters: Counters::new()?,
            streaming,
            hasty: if shared.aperture.care.scrub {
                shared.owner()?
            } else {
                streaming
            },
            coherent: shared.owner()?,
            glance_p2m: if shared.force {
                shared.p2m.without_ordinary()
            } else {
                shared.p2m
            },
            narrow: Word::new(0),
            left_behind: Word::new(0),
            failed: Word::new(0),
            shared,
        })
    }

    /// Notes that a probe of the device failed.
    pub(crate) fn note_failed(&self) {
        self.failed.store(1);
    }

    /// Whether a probe failed since the last call.
    pub(crate) fn take_failed(&self) -> bool {
        swap(&self.failed, 0) != 0
    }

    /// The device's driver is gone: what it needed, and what it left, is not its successor's.
    pub(crate) fn forget_driver(&self) {
        self.left_behind.store(self.counters.mapped());
        Shared::lose_interest(&self.shared, swap(&self.narrow, 0));
    }

    /// Whether the driver has set a mask for mappings that leaves fewer bits than these; 0 stands for all.
    ///
    /// A mask that is asked about may be the other one, for coherent memory, which drivers set after it.
    fn streams_narrower(&self, dev: &Device, bits: u32) -> bool {
        let set = narrow_bits(&device::limits(dev));
        u64::from(set) == self.narrow.load() && set != 0 && (bits == 0 || set < bits)
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
    pub(crate) fn look(&self, reach: u64, phys: Phys, size: usize) -> Result<Machine, u64> {
        match place_page(&self.glance_p2m, phys, size, reach) {
            PagePlacement::Direct(at) => {
                self.counters.direct(size);
                Ok(at)
            }
            PagePlacement::Beyond => Err(reach),
            PagePlacement::Unsure => Err(0),
        }
    }

    /// Maps a buffer of several pages directly, if that is easily seen.
    #[inline]
    pub(crate) fn place_pages(&self, dev: &Device, phys: Phys, size: usize) -> Option<Machine> {
        let (reach, boundary) = (device::page_reach(dev)?, device::segment_boundary(dev));
        let at = place_pages(&self.glance_p2m, phys, size, reach, boundary)?;
        self.counters.direct(size);
        Some(at)
    }

    /// What is to be done with a buffer, and what must be known yet if it bounces.
    #[inline]
    pub(crate) fn decide(&self, phys: Phys, size: usize, limits: &Limits) -> (Placement, Unseen) {
        let bounces = Bounces {
            most: self.shared.aperture.most(),
            forced: self.shared.force,
        };
        decide(&self.shared.p2m, phys, size, limits, bounces)
    }

    /// Maps a buffer, or says why not.
    #[inline(never)]
    pub(crate) fn place(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        attrs: Attrs,
    ) -> Result<Machine, Cause> {
        let limits = device::limits(dev);
        match self.decide(phys, size, &limits) {
            (Placement::Direct(at), _) => {
                self.counters.direct(size);
                Ok(at)
            }
            (Placement::Bounce(reason), unseen) => {
                self.bounce(dev, phys, size, &limits, (reason, unseen), attrs)
            }
            (Placement::Refuse(refusal), _) => Err(refusal.into()),
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.forget_driver();
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

    #[inline(always)]
    fn map_told(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        attrs: Attrs,
        told: u64,
    ) -> Result<Machine> {
        let placed = match told {
            0 => match self.place_pages(dev, phys, size) {
                Some(at) => return Ok(at),
                None => self.place(dev, phys, size, attrs),
            },
            reach => self.place_beyond(dev, phys, size, reach, attrs),
        };
        placed.map_err(|cause| self.fail(dev, size, cause, attrs.contains(Attrs::NO_WARN)))
    }

    #[inline]
    fn unmap(&self, dev: &Device, addr: Machine, size: usize, dir: Direction, attrs: Attrs) {
        match self.shared.aperture.place(addr) {
            None => self.counters.count(Event::DirectUnmap),
            Some(place) => {
                let copy = dir.device_writes() && !attrs.contains(Attrs::SKIP_CPU_SYNC);
                self.end_bounce(dev, place, addr, size, copy);
            }
        }
    }

    #[inline]
    fn map_sg(
        &self,
        dev: &Device,
        list: ScatterList<'_>,
        dir: Direction,
        attrs: Attrs,
    ) -> Result<usize> {
        if list.is_single() {
            self.map_single(dev, list, dir, attrs)
        } else {
            self.map_list(dev, list, dir, attrs)
        }
    }

    #[inline]
    fn unmap_sg(&self, dev: &Device, mut list: ScatterList<'_>, dir: Direction, attrs: Attrs) {
        if list.is_single() {
            self.unmap_single(dev, list, dir, attrs);
        } else {
            self.unmap_list(dev, &mut list, dir, attrs);
        }
    }

    #[inline]
    fn sync_for_cpu(&self, dev: &Device, addr: Machine, size: usize, dir: Direction) {
        if let Some(place) = self.shared.aperture.place(addr) {
            if dir.device_writes() {
                self.sync(dev, place, addr, size, false);
            }
        }
    }

    #[inline]
    fn sync_for_device(&self, dev: &Device, addr: Machine, size: usize, dir: Direction) {
        if let Some(place) = self.shared.aperture.place(addr) {
            if dir.device_reads() {
                self.sync(dev, place, addr, size, true);
            }
        }
    }

    fn sync_sg_for_cpu(&self, dev: &Device, mut list: ScatterList<'_>, dir: Direction) {
        for (addr, size) in list.segments() {
            self.sync_for_cpu(dev, addr, size, dir);
        }
    }

    fn sync_sg_for_device(&self, dev: &Device, mut list: ScatterList<'_>, dir: Direction) {
        for (addr, size) in list.segments() {
            self.sync_for_device(dev, addr, size, dir);
        }
    }

    #[inline]
    fn alloc(&self, dev: &Device, size: usize, context: Context, attrs: Attrs) -> Result<Coherent> {
        self.alloc_coherent(dev, size, context, attrs)
    }

    #[inline]
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

    /// Some memory must lie where the mask reaches: an extent for bounces, which is made if need be, or
    /// all that the host has.  A mask that leaves behind what is mapped is refused.
    fn supported(&self, dev: &Device, mask: u64) -> bool {
        if device::narrows(dev, mask) && self.counters.mapped() > self.left_behind.load() {
            let times = self.counters.note(Event::Misuse(Wrong::Mask));
            if worth_a_line(times) {
                dev_warn!(
                    dev,
                    "xen_swiotlb_rs: a mask of {mask:#x} refused: it is narrower than before, and mappings are in use (seen {times} times)\n"
                );
            }
            return false;
        }
        let limits = device::limits_for(dev, mask);
        // First the interest, then the extent, which then stays.
        let bits = narrow_bits(&limits);
        self.shared.take_interest(bits);
        let provided = self.shared.provide(&limits);
        let unneeded = if provided && !self.streams_narrower(dev, bits) {
            swap(&self.narrow, u64::from(bits))
        } else {
            u64::from(bits)
        };
        Shared::lose_interest(&self.shared, unneeded);
        provided
    }

    fn required_mask(&self, _dev: &Device) -> u64 {
        u64::MAX >> top_of_memory().raw().leading_zeros()
    }

    /// Half an extent, so that one mapping cannot keep all others waiting; less what
    /// `min_align_mask`, or a page of its own, may take at its start.
    fn max_mapping_size(&self, dev: &Device) -> usize {
        let limits = self.shared.aperture.kept(device::limits(dev));
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
