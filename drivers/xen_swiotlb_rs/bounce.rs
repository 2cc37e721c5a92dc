// SPDX-License-Identifier: GPL-2.0

//! Mappings that go through the aperture: carried in, synchronised, ended.
//!
//! The common ones, of up to a page without conditions on where they lie, take a straight path
//! without a call; all others go the long way.
//!
//! C: [`kernel/dma/swiotlb.c`](srctree/kernel/dma/swiotlb.c).

use crate::{
    aperture::NoRoom,
    backend::{
        Backend,
        Shared, //
    },
    counters::{
        Cause,
        Event,
        Sum,
        Wrong, //
    },
    extent::{
        complain,
        Extent, //
    },
};
use dma_core::{
    Held,
    Leaving,
    Limits,
    Machine,
    Phys,
    Reason,
    Unseen, //
};
use kernel::{
    device::Device,
    prelude::*, //
};
use xen_dma::{
    device,
    ops::Attrs,
    table::start_syncs, //
};

/// A copy of more bytes does not keep its processor: the mapping keeps a reference on the extent instead.
const LONG_COPY: usize = 64 * 1024;

impl Backend {
    /// Maps a buffer that lies on one page beyond the device's reach, or says why not.
    #[inline(always)]
    pub(crate) fn place_beyond(
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
                return self.carried(dev, &extent, at, phys, size, Reason::Unreachable);
            }
        }
        self.bounce(
            dev,
            phys,
            size,
            &device::limits(dev),
            (Reason::Unreachable, Unseen::NONE),
            attrs,
        )
    }

    /// Carries a buffer through the aperture, if the pages that nobody looked at can be copied.
    #[inline(never)]
    pub(crate) fn bounce(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        limits: &Limits,
        (reason, unseen): (Reason, Unseen),
        attrs: Attrs,
    ) -> Result<Machine, Cause> {
        if attrs.contains(Attrs::REQUIRE_COHERENT) {
            return Err(Cause::RequireCoherent);
        }
        if attrs.contains(Attrs::MMIO) {
            return Err(Cause::PeerMemory);
        }
        self.counters.note_peak();
        let (shared, owner) = (&self.shared, self.streaming);
        match shared.aperture.claim(phys, size, limits, owner) {
            Ok((extent, record)) => {
                Shared::claimed(shared, &extent);
                let at = record.start();
                if let Err(refusal) = unseen.check(&shared.p2m) {
                    self.release(&extent, at);
                    return Err(refusal.into());
                }
                if size > LONG_COPY {
                    let extent = extent.into_kept();
                    return self.carried(dev, &extent, at, phys, size, reason);
                }
                self.carried(dev, &extent, at, phys, size, reason)
            }
            Err(why) => {
                if why == NoRoom::Full {
                    Shared::refused(shared, size, limits);
                }
                Err(why.into())
            }
        }
    }

    /// Copies the original into a run that was claimed for it.
    #[inline(always)]
    pub(crate) fn carried(
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
        self.note_bounce(dev, size);
        // CAST: Widens.
        self.counters.bounced(reason, size as u64);
        Ok(at)
    }

    /// Notes the size of a mapping that bounces, before its driver is told of it.
    #[inline(always)]
    pub(crate) fn note_bounce(&self, dev: &Device, size: usize) {
        // CAST: Widens.
        if self.counters.is_largest(size as u64) {
            self.largest_bounce(dev, size);
        }
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
            extent.release(held);
        }
    }

    /// Ends a mapping that goes through an extent; with `copy`, its bytes go to the original first.
    #[inline(never)]
    pub(crate) fn end_bounce(
        &self,
        dev: &Device,
        place: u8,
        addr: Machine,
        size: usize,
        copy: bool,
    ) {
        let Some(extent) = self.shared.aperture.read(place) else {
            return self.misuse(dev, "unmap", size, Wrong::NotMapped);
        };
        if size > LONG_COPY {
            let extent = extent.into_kept();
            return self.end_other(dev, &extent, addr, size, copy);
        }
        let Some(held) = extent.slots.retire_plain(addr, size, self.hasty) else {
            return self.end_other(dev, &extent, addr, size, copy);
        };
        let offset = extent.offset(addr);
        if copy {
            extent.region.copy_out(offset, held.phys(), size);
        }
        extent.ledger.free(offset, size, self.streaming);
        complain(held.free());
        // CAST: Widens.
        self.counters.unbounced(size as u64);
    }

    /// As [`Backend::end_bounce`], for mappings of any kind, or none.
    #[inline(never)]
    pub(crate) fn end_other(
        &self,
        dev: &Device,
        extent: &Extent,
        addr: Machine,
        size: usize,
        copy: bool,
    ) {
        let mut leaving = Leaving::default();
        if let Some(ended) = self.end_segment(dev, extent, &mut leaving, (addr, size), copy) {
            self.counters.bounces_ended(ended);
            return complain(extent.slots.free_leaving(leaving));
        }
        match extent.slots.retire(addr, self.streaming) {
            Ok(held) => {
                self.copy_back(dev, extent, addr, &held, size, copy);
                let mapped = held.size();
                if self.shared.aperture.care.scrub {
                    extent.scrub(&held);
                }
                extent.release(held);
                self.counters.unbounced(mapped);
            }
            Err(misuse) => self.misuse(dev, "unmap", size, misuse.into()),
        }
    }

    /// Ends what the device sees as one segment of a list: most often several mappings.  With `copy`,
    /// their bytes go to the originals first: those asked for.  Says what was ended; [`None`] if
    /// that was not to be done here.
    #[inline(never)]
    pub(crate) fn end_segment(
        &self,
        dev: &Device,
        extent: &Extent,
        leaving: &mut Leaving,
        (addr, size): (Machine, usize),
        copy: bool,
    ) -> Option<Sum> {
        let owner = self.hasty;
        let end = extent.offset(addr).saturating_add(size);
        let ended = extent
            .slots
            .retire_segment(addr, owner, |offset, phys, mapped| {
                if copy {
                    let bytes = if offset.wrapping_add(mapped) <= end {
                        mapped
                    } else {
                        end.saturating_sub(offset)
                    };
                    extent.region.copy_out(offset, phys, bytes);
                }
                extent.ledger.free(offset, mapped, owner);
            })?;
        let sum = Sum {
            count: ended.count(),
            bytes: ended.bytes(),
        };
        // CAST: Widens.
        if sum.bytes != size as u64 {
            self.misuse(dev, "unmap", size, Wrong::Size);
        }
        complain(extent.slots.free_with(leaving, ended));
        Some(sum)
    }

    /// With `copy`, copies the bytes of a mapping that was ended to the original: those asked for.
    pub(crate) fn copy_back(
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
    pub(crate) fn sync(&self, dev: &Device, place: u8, addr: Machine, size: usize, into: bool) {
        match self.shared.aperture.read(place) {
            None => self.misuse(dev, "sync", size, Wrong::NotMapped),
            Some(extent) if size > LONG_COPY => {
                self.sync_in(dev, &extent.into_kept(), addr, size, into);
            }
            Some(extent) => self.sync_in(dev, &extent, addr, size, into),
        }
    }

    #[inline]
    fn sync_in(&self, dev: &Device, extent: &Extent, addr: Machine, size: usize, into: bool) {
        let record = extent.slots.find(addr, self.streaming);
        // CAST: Widens.
        let part = match &record {
            Ok(record) => record.part(addr, size as u64).ok_or(Wrong::Range),
            Err(misuse) => Err((*misuse).into()),
        };
        let offset = extent.offset(addr);
        match part {
            Err(Wrong::Range) if record.is_ok_and(|r| r.leads() || r.follows()) => {
                if let Err(wrong) = self.sync_segment(extent, addr, size, into) {
                    return self.misuse(dev, "sync", size, wrong);
                }
                true
            }
            Ok(phys) if into => extent.region.copy_in(offset, phys, size),
            Ok(phys) => extent.region.copy_out(offset, phys, size),
            Err(wrong) => return self.misuse(dev, "sync", size, wrong),
        };
        self.counters.count(Event::BounceSync);
    }

    /// As [`Backend::sync`], for a part of a segment that several mappings of a list share.
    #[cold]
    fn sync_segment(
        &self,
        extent: &Extent,
        addr: Machine,
        size: usize,
        into: bool,
    ) -> Result<(), Wrong> {
        // CAST: Widens.
        let end = addr.checked_add(size as u64).ok_or(Wrong::Range)?;
        // All of it must be there before anything is copied.
        for dry in [true, false] {
            let mut at = addr;
            loop {
                let record = extent.slots.find(at, self.streaming)?;
                let stop = end.min(record.end());
                let bytes = stop.raw().wrapping_sub(at.raw());
                let phys = record.part(at, bytes).ok_or(Wrong::Range)?;
                // CAST: At most `size`.
                let (offset, bytes) = (extent.offset(at), bytes as usize);
                match (dry, into) {
                    (true, _) => true,
                    (false, true) => extent.region.copy_in(offset, phys, bytes),
                    (false, false) => extent.region.copy_out(offset, phys, bytes),
                };
                if stop == end {
                    break;
                }
                at = stop;
                let next = extent.slots.find(at, self.streaming);
                if !next.is_ok_and(|record| record.follows()) {
                    return Err(Wrong::Range);
                }
            }
        }
        Ok(())
    }
}
