// SPDX-License-Identifier: GPL-2.0

//! Lists of buffers: what the device sees of them is as few segments as it allows.
//!
//! Buffers that the device reaches, and that follow each other for the machine, become one segment.
//! Those that bounce are carried one after the other in a run that was claimed for all of them, and
//! so become one segment, too, where each but the last fills its slots.  Each has a record of its own
//! all the same, so that drivers may sync a single one.
//!
//! What is counted of a list is counted here first, and written down once.
//!
//! C: `xen_swiotlb_map_sg()`, `xen_swiotlb_unmap_sg()`.

use crate::{
    backend::{
        Backend,
        Shared, //
    },
    counters::{
        Cause,
        Sum, //
    },
    extent::{
        complain,
        Extent, //
    },
};
use dma_core::{
    bundled_slots,
    place_page,
    Bundle,
    Leaving,
    Limits,
    Machine,
    PagePlacement,
    Phys,
    Placement,
    Reason,
    Segment,
    SegmentLimits,
    Unseen,
    PAGE_SIZE,
    SLOT_SIZE, //
};
use kernel::{
    device::Device,
    prelude::*, //
};
use xen_dma::{
    device,
    ops::{
        Attrs,
        Direction,
        Provider, //
    },
    p2m::LinearP2m,
    rcu::{
        Kept,
        Reading, //
    },
    scatterlist::{
        Buffers,
        NewSegments,
        ScatterList, //
    },
};

/// A run of so few slots that it is not worth a search in the whole aperture if there is no larger one.
const FEW: usize = 16;

/// A run of so many slots is not claimed on a guess: 1 MiB.
const MUCH: usize = 512;

/// A list that is being mapped.
struct Walk<'a> {
    backend: &'a Backend,
    dev: &'a Device,
    limits: Limits,
    segments_may: SegmentLimits,
    attrs: Attrs,
    /// Slots for the buffers that are still to come.
    room: Option<(Kept<'a, Extent>, Bundle)>,
    /// A run of more slots was not to be had.
    at_most: usize,
    /// The segment that is being put together.
    segment: Segment,
    /// Is there but one buffer in it?
    alone: bool,
    directs: Sum,
    unreachable: Sum,
    largest: usize,
}

impl Backend {
    /// Maps a list of one buffer as that is mapped by itself: there is nothing to put together.
    #[inline]
    pub(crate) fn map_single(
        &self,
        dev: &Device,
        mut list: ScatterList<'_>,
        dir: Direction,
        attrs: Attrs,
    ) -> Result<usize> {
        let (mut buffers, mut segments) = list.to_map();
        let (phys, size) = buffers.next().ok_or(EINVAL)?;
        match self.map(dev, phys, size, dir, attrs) {
            Ok(at) => segments.push(at, size),
            Err(error) => {
                segments.end();
                return Err(error);
            }
        }
        Ok(segments.end())
    }

    /// Ends the mapping of a list of one buffer.
    #[inline]
    pub(crate) fn unmap_single(
        &self,
        dev: &Device,
        mut list: ScatterList<'_>,
        dir: Direction,
        attrs: Attrs,
    ) {
        if let Some((addr, size)) = list.segments().next() {
            self.unmap(dev, addr, size, dir, attrs);
        }
    }

    /// Maps a list: all of it, or nothing.
    #[inline(never)]
    pub(crate) fn map_list(
        &self,
        dev: &Device,
        mut list: ScatterList<'_>,
        dir: Direction,
        attrs: Attrs,
    ) -> Result<usize> {
        let mut walk = Walk::new(self, dev, attrs);
        let (buffers, mut segments) = list.to_map();
        let outcome = walk.map(buffers, &mut segments);
        let mapped = walk.finish(segments);
        let (size, cause) = match outcome {
            Ok(()) if mapped > 0 => return Ok(mapped),
            Ok(()) => return Err(EINVAL),
            Err(failed) => failed,
        };
        self.unmap_list(dev, &mut list, dir, attrs.with(Attrs::SKIP_CPU_SYNC));
        list.to_map().1.end();
        Err(self.fail(dev, size, cause, attrs.contains(Attrs::NO_WARN)))
    }

    /// Ends the mappings of a list.
    #[inline(never)]
    pub(crate) fn unmap_list(
        &self,
        dev: &Device,
        list: &mut ScatterList<'_>,
        dir: Direction,
        attrs: Attrs,
    ) {
        let copy = dir.device_writes() && !attrs.contains(Attrs::SKIP_CPU_SYNC);
        let mut leaving: Option<(Kept<'_, Extent>, Leaving)> = None;
        let (mut directs, mut bounces) = (0, Sum::default());
        for (addr, size) in list.segments() {
            let Some(extent) = self.shared.aperture.find(addr).map(Reading::into_kept) else {
                directs = u64::wrapping_add(directs, 1);
                continue;
            };
            if !leaving
                .as_ref()
                .is_some_and(|(of, _)| core::ptr::eq::<Extent>(&**of, &*extent))
            {
                free_leaving(leaving.replace((extent, Leaving::default())));
            }
            let Some((extent, leaving)) = &mut leaving else {
                continue;
            };
            let Some(ended) = self.end_segment(dev, extent, leaving, (addr, size), copy) else {
                self.end_other(dev, extent, addr, size, copy);
                continue;
            };
            bounces.add_all(ended);
        }
        free_leaving(leaving);
        self.counters.directs_ended(directs);
        self.counters.bounces_ended(bounces);
    }
}

impl<'a> Walk<'a> {
    fn new(backend: &'a Backend, dev: &'a Device, attrs: Attrs) -> Self {
        let limits = device::limits(dev);
        Self {
            backend,
            dev,
            segments_may: device::segment_limits(dev, &limits),
            limits,
            attrs,
            room: None,
            at_most: usize::MAX,
            segment: Segment::NONE,
            alone: true,
            directs: Sum::default(),
            unreachable: Sum::default(),
            largest: 0,
        }
    }

    /// Maps the buffers one after the other; or tells the size of one that cannot be, and why.
    #[inline(always)]
    fn map(
        &mut self,
        mut buffers: Buffers<'_>,
        segments: &mut NewSegments<'_>,
    ) -> Result<(), (usize, Cause)> {
        let p2m = self.backend.glance_p2m;
        let (p2m, reach) = match device::page_reach(self.dev) {
            Some(reach) => (p2m, reach),
            None => (p2m.without_ordinary(), 0),
        };
        let mut next = buffers.next();
        while let Some((phys, size)) = next {
            let seen = place_page(&p2m, phys, size, reach);
            if let PagePlacement::Direct(at) = seen {
                self.direct(segments, at, size);
                next = buffers.next();
                continue;
            }
            if seen == PagePlacement::Beyond {
                let filled = self.fill(&mut buffers, segments, (phys, size), &p2m, reach);
                if let Some(other) = filled {
                    next = other;
                    continue;
                }
            }
            self.map_other(segments, buffers.clone(), phys, size, seen)
                .map_err(|cause| (size, cause))?;
            next = buffers.next();
        }
        Ok(())
    }

    /// Carries buffers in the room at hand, each of which lies on one page beyond the device's reach:
    /// this one, and those that come next.  Returns the next one that is not so, or for which there is
    /// no place; [`None`] if that is the very first.
    #[inline(never)]
    fn fill(
        &mut self,
        buffers: &mut Buffers<'_>,
        segments: &mut NewSegments<'_>,
        first: (Phys, usize),
        p2m: &LinearP2m,
        reach: u64,
    ) -> Option<Option<(Phys, usize)>> {
        let (mut phys, mut size) = first;
        if !self.carry(segments, phys, size, false) {
            return None;
        }
        loop {
            // CAST: Widens.
            self.unreachable.add(size as u64);
            let next = if size == PAGE_SIZE as usize {
                self.fill_pages(buffers, p2m, reach)
            } else {
                buffers.next()
            };
            (phys, size) = match next {
                Some(next) => next,
                None => return Some(None),
            };
            if place_page(p2m, phys, size, reach) != PagePlacement::Beyond
                || !self.carry(segments, phys, size, false)
            {
                return Some(Some((phys, size)));
            }
        }
    }

    /// As [`Walk::fill`], for whole pages that come right behind what was carried last, in the same segment:
    /// little is left to be done for each. Returns the first buffer that is not so.
    #[inline(always)]
    fn fill_pages(
        &mut self,
        buffers: &mut Buffers<'_>,
        p2m: &LinearP2m,
        reach: u64,
    ) -> Option<(Phys, usize)> {
        let Some((extent, bundle)) = &mut self.room else {
            return buffers.next();
        };
        // A copy of its own can be kept in registers.
        let mut ahead = buffers.clone();
        let mut next = ahead.next();
        let at = extent.slots.page_in(bundle);
        let room = at.map_or(0, |at| self.segment.room_at(at)) / PAGE_SIZE;
        let owner = self.backend.streaming;
        // CAST: At most a segment's length, and that came as a `u32`.
        let most = room as usize;
        let pages = extent.slots.carry_pages(bundle, most, owner, |at| {
            let (phys, size) = next?;
            let (offset, whole) = (extent.offset(at), PAGE_SIZE as usize);
            if size != whole
                || phys.page_offset() != 0
                || place_page(p2m, phys, whole, reach) != PagePlacement::Beyond
                || !extent.region.copy_in(offset, phys, whole)
            {
                return None;
            }
            extent.ledger.claim(offset, whole, owner);
            next = ahead.next();
            Some(phys)
        });
        *buffers = ahead;
        if let Some(at) = at.filter(|_| pages > 0) {
            // CAST: Widens.
            let sum = Sum {
                count: pages as u64,
                bytes: pages as u64 * PAGE_SIZE,
            };
            self.unreachable.add_all(sum);
            self.segment.extend(at, sum.bytes, true);
            self.largest = self.largest.max(PAGE_SIZE as usize);
            if self.alone {
                self.alone = false;
                extent.slots.lead(self.segment.start());
            }
        }
        next
    }

    /// The device sees a buffer where it lies.
    #[inline(always)]
    fn direct(&mut self, segments: &mut NewSegments<'_>, at: Machine, size: usize) {
        // CAST: Widens.
        let bytes = size as u64;
        if self.segment.extend(at, bytes, false) {
            self.directs.bytes = self.directs.bytes.wrapping_add(bytes);
        } else {
            self.directs.add(bytes);
            self.begin(segments, Segment::new(at, bytes, false, &self.segments_may));
        }
    }

    /// Notes the segment at hand, and begins another one.
    #[inline(always)]
    fn begin(&mut self, segments: &mut NewSegments<'_>, segment: Segment) {
        let done = core::mem::replace(&mut self.segment, segment);
        if done.size() > 0 {
            // CAST: Came as a `usize`.
            segments.push(done.start(), done.size() as usize);
        }
    }

    /// Carries a buffer in the room at hand, if there is a place for it.  What lies on one page cannot
    /// cross a boundary there, since that is a page's at least; what `may_cross` one is looked at.
    #[inline(always)]
    fn carry(
        &mut self,
        segments: &mut NewSegments<'_>,
        phys: Phys,
        size: usize,
        may_cross: bool,
    ) -> bool {
        // CAST: Widens.
        let bytes = size as u64;
        let Some((extent, bundle)) = &mut self.room else {
            return false;
        };
        let Some(place) = extent.slots.place_in(bundle, size) else {
            return false;
        };
        let at = place.start();
        // The low bits to be kept are those that neither has.
        if (phys.raw() | at.raw()) & self.limits.min_align() != 0
            || (may_cross && self.limits.crosses_boundary(at, bytes))
            || !extent.region.copy_in(extent.offset(at), phys, size)
        {
            extent.slots.unplace(bundle, place, size);
            return false;
        }
        let owner = self.backend.streaming;
        extent.ledger.claim(extent.offset(at), size, owner);
        self.largest = self.largest.max(size);
        if self.segment.extend(at, bytes, true) {
            extent.slots.carry_in(place, phys, size, owner, true);
            if self.alone {
                self.alone = false;
                extent.slots.lead(self.segment.start());
            }
        } else {
            extent.slots.carry_in(place, phys, size, owner, false);
            self.begin_bounced(segments, at, bytes);
        }
        true
    }

    /// Begins a segment with a buffer that bounces.
    #[inline(never)]
    fn begin_bounced(&mut self, segments: &mut NewSegments<'_>, at: Machine, bytes: u64) {
        self.alone = true;
        self.begin(segments, Segment::new(at, bytes, true, &self.segments_may));
    }

    /// Maps a buffer that is none of the common ones, or says why not.
    #[inline(never)]
    fn map_other(
        &mut self,
        segments: &mut NewSegments<'_>,
        others: Buffers<'_>,
        phys: Phys,
        size: usize,
        seen: PagePlacement,
    ) -> Result<(), Cause> {
        let (reason, unseen) = match seen {
            PagePlacement::Beyond => (Reason::Unreachable, Unseen::NONE),
            _ => match self.backend.decide(phys, size, &self.limits) {
                (Placement::Direct(at), _) => {
                    self.direct(segments, at, size);
                    return Ok(());
                }
                (Placement::Bounce(reason), unseen) => (reason, unseen),
                (Placement::Refuse(why), _) => return Err(why.into()),
            },
        };
        unseen.check(&self.backend.shared.p2m)?;
        if self.find_room(others, phys, size) && self.carry(segments, phys, size, true) {
            self.backend.counters.bounced(reason, size as u64);
            return Ok(());
        }
        let on_page = seen == PagePlacement::Beyond;
        let at = match self.bounce(phys, size, reason, on_page) {
            // What is missing may be the room at hand.
            Err(Cause::Full) if self.room.is_some() => {
                self.leave_room();
                self.bounce(phys, size, reason, on_page)?
            }
            at => at?,
        };
        // CAST: Widens.
        let mut alone = Segment::new(at, size as u64, true, &self.segments_may);
        alone.close();
        self.begin(segments, alone);
        Ok(())
    }

    /// Carries a buffer by itself.
    fn bounce(
        &self,
        phys: Phys,
        size: usize,
        reason: Reason,
        on_page: bool,
    ) -> Result<Machine, Cause> {
        let Self { backend, dev, .. } = self;
        if on_page {
            let reach = self.limits.reach();
            backend.place_beyond(dev, phys, size, reach, self.attrs)
        } else {
            let decided = (reason, Unseen::NONE);
            backend.bounce(dev, phys, size, &self.limits, decided, self.attrs)
        }
    }

    /// Claims room for a buffer of this size and for others that are still to come, unless there is room
    /// for it, or it is better carried by itself.
    fn find_room(&mut self, others: Buffers<'_>, phys: Phys, size: usize) -> bool {
        let (own, kept) = (bundled_slots(size), self.limits.min_align());
        // A place keeps the low bits of what begins with a page, or with a slot.
        let odd = kept >= PAGE_SIZE || (kept >= SLOT_SIZE && own < 2) || phys.raw() & kept != 0;
        if (others.left() == 0 && self.room.is_none())
            || own == 0
            || odd
            || !self.attrs.allow_bounce()
        {
            return false;
        }
        if self
            .room
            .as_ref()
            .is_some_and(|(_, bundle)| bundle.has_place(size))
        {
            return true;
        }
        self.leave_room();
        self.backend.counters.note_peak();
        let aperture = &self.backend.shared.aperture;
        let reach = self.limits.reach();
        // Buffers have one size as a rule; where that would be much, it is looked at.
        let mut all = own.saturating_mul(others.left().saturating_add(1));
        if all > MUCH {
            all = others.fold(own, |all, (_, size)| {
                all.saturating_add(bundled_slots(size))
            });
        }

        let mut wanted = all.min(self.at_most);
        loop {
            self.room = aperture.claim_bundle(wanted, reach);
            if self.room.is_some() || wanted / 4 < FEW.max(own) {
                break;
            }
            wanted /= 4;
            self.at_most = wanted;
        }
        if self.room.is_none() {
            self.room = aperture.claim_scattered(all, reach);
        }
        if let Some((extent, _)) = &self.room {
            Shared::claimed(&self.backend.shared, extent);
        }
        self.room.is_some()
    }

    /// Gives back the room at hand.
    fn leave_room(&mut self) {
        // What is carried elsewhere does not follow what was carried here.
        self.segment.close();
        if let Some((extent, bundle)) = self.room.take() {
            complain(extent.slots.return_bundle(bundle));
        }
    }

    /// Writes down what is left to be, and returns the number of segments.
    fn finish(mut self, mut segments: NewSegments<'_>) -> usize {
        self.begin(&mut segments, Segment::NONE);
        self.leave_room();
        let counters = &self.backend.counters;
        counters.directs(self.directs);
        if self.largest > 0 {
            counters.bounces_for(Reason::Unreachable, self.unreachable);
            self.backend.note_bounce(self.dev, self.largest);
            counters.note_peak();
        }
        segments.end()
    }
}

/// Frees the slots of mappings that were ended.
#[inline]
fn free_leaving(leaving: Option<(Kept<'_, Extent>, Leaving)>) {
    if let Some((extent, leaving)) = leaving {
        complain(extent.slots.free_leaving(leaving));
    }
}
