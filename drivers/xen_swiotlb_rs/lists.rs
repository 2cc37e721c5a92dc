// SPDX-License-Identifier: GPL-2.0

//! Lists of buffers: each is mapped by itself, but those that bounce share the work.
//!
//! Buffers of a page that the device does not reach take pages of one chunk that were claimed
//! together, and give them back together.  Each has a record of its own all the same, so that
//! drivers may sync a single one.
//!
//! C: `xen_swiotlb_map_sg()`, `xen_swiotlb_unmap_sg()`.

use crate::{
    backend::Backend,
    counters::{
        Cause,
        Event, //
    },
    extent::{
        complain,
        Extent, //
    },
};
use dma_core::{
    Bundle,
    Leaving,
    Machine,
    Phys,
    Reason, //
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
    rcu::Reading,
    scatterlist::ScatterList, //
};

impl Backend {
    /// Maps a list: all of it, or nothing.
    pub(crate) fn map_list(
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
                Err(0) => match self.place_pages(dev, phys, size) {
                    Some(at) => Ok(at),
                    None => self.place(dev, phys, size, attrs),
                },
                Err(reach) if plain => {
                    let left = count - mapped;
                    match self.carry_in(dev, &mut pages, left, phys, size, reach) {
                        Some(at) => Ok(at),
                        None => self.place_alone(dev, phys, size, reach, attrs),
                    }
                }
                Err(reach) => self.place_alone(dev, phys, size, reach, attrs),
            };
            let placed = match placed {
                // What is missing may be the pages at hand.
                Err(Cause::Full) if pages.is_some() => {
                    return_pages(&mut pages);
                    self.place(dev, phys, size, attrs)
                }
                placed => placed,
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
        return_pages(&mut pages);
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

    /// Ends the mappings of a list.
    pub(crate) fn unmap_list(
        &self,
        dev: &Device,
        mut list: ScatterList<'_>,
        dir: Direction,
        attrs: Attrs,
    ) {
        let copy = dir.device_writes() && !attrs.contains(Attrs::SKIP_CPU_SYNC);
        let mut leaving: Option<(Reading<'_, Extent>, Leaving)> = None;
        // A length of 0 ends the mapped part: an entry that was mapped has bytes.
        for entry in list.entries().take_while(|entry| entry.dma_length() > 0) {
            let (addr, size) = (entry.dma_address(), entry.dma_length());
            let Some(extent) = self.shared.aperture.find(addr) else {
                self.counters.count(Event::DirectUnmap);
                continue;
            };
            let Some(held) = extent.slots.retire_plain(addr, self.streaming) else {
                self.end_other(dev, &extent, addr, size, copy);
                continue;
            };
            self.copy_back(dev, &extent, addr, &held, size, copy);
            self.counters.unbounced(held.size());
            match &mut leaving {
                Some((of, leaving)) if core::ptr::eq::<Extent>(&**of, &*extent) => {
                    extent.release_with(leaving, held);
                }
                other => {
                    let mut first = Leaving::default();
                    extent.release_with(&mut first, held);
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
        pages: &mut Option<(Reading<'a, Extent>, Bundle)>,
        left: usize,
        phys: Phys,
        size: usize,
        reach: u64,
    ) -> Option<Machine> {
        if !pages.as_ref().is_some_and(|(_, bundle)| bundle.has_more()) {
            *pages = self.shared.aperture.claim_pages(left, reach);
        }
        let (extent, bundle) = pages.as_mut()?;
        let at = extent.carry_in(bundle, phys, size, self.streaming)?;
        self.carried(dev, extent, at, phys, size, Reason::Unreachable)
            .ok()
    }
}

/// Frees pages that were claimed for a list and carry nothing.
fn return_pages(pages: &mut Option<(Reading<'_, Extent>, Bundle)>) {
    if let Some((extent, bundle)) = pages.take() {
        complain(extent.slots.return_pages(bundle));
    }
}
