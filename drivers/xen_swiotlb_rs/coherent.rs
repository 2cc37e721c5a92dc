// SPDX-License-Identifier: GPL-2.0

//! Coherent memory: bytes that CPU and device share for long.
//!
//! Up to 2 MiB, for a device that reaches all of the host's memory: pages that fit as they come.  For
//! others, or if those at hand do not fit: a run of the [`pool`].  Larger: a region that was freed
//! before, pages that fit, an exchange.  The bounces' aperture is the last resort of
//! what is small.  What is neither a run of the pool nor of the aperture is in the [`store`], by its
//! machine address.
//!
//! C: `xen_swiotlb_alloc_coherent()`, `xen_swiotlb_free_coherent()`.

use crate::{
    backend::Backend,
    counters::{
        Cause,
        Event,
        Wrong, //
    },
};
use dma_core::{
    Limits,
    Machine, //
};
use kernel::{
    alloc::flags::GFP_ATOMIC,
    device::Device,
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};
use pool::{
    Ask,
    Claim, //
};
use xen_dma::{
    device,
    ops::{
        Attrs,
        Coherent,
        CoherentPages, //
    },
    rcu::{
        Reading,
        Section, //
    },
    region::{
        Region,
        Way, //
    },
    Context,
    Node, //
};

mod pool;
mod store;

pub(crate) use store::Holder;

/// Address bits that lie wholly within a device's reach.
fn bits(limits: &Limits) -> u32 {
    match limits.reach().checked_add(1) {
        Some(end) => end.checked_ilog2().unwrap_or(0),
        None => u64::BITS,
    }
}

/// The order of the smallest block of `size` bytes.  C: `get_order()`.
fn order(size: usize) -> u32 {
    size.div_ceil(PAGE_SIZE)
        .next_power_of_two()
        .trailing_zeros()
}

/// Whether memory of this size is a page.
#[inline]
fn is_page(size: usize) -> bool {
    size.wrapping_sub(1) < PAGE_SIZE
}

/// Obtains a region: of neighbours, which need no mapping of their own, if Linux has them, or if it must
/// be.  May sleep.
fn obtain(node: Node, order: u32, bits: u32, neighbours: bool) -> Result<Region> {
    let region = Region::near(node, order, bits, Way::Neighbours);
    if neighbours {
        return region;
    }
    region.or_else(|_| Region::near(node, order, bits, Way::Scattered))
}

/// A request for coherent memory.
struct Request<'a> {
    dev: &'a Device,
    size: usize,
    order: u32,
    context: Context,
    limits: Limits,
    /// Whether the pages must be neighbours in pfn.
    neighbours: bool,
}

impl Request<'_> {
    fn bits(&self) -> u32 {
        bits(&self.limits)
    }

    fn node(&self) -> Node {
        device::node(self.dev)
    }

    fn may_sleep(&self) -> bool {
        self.context == Context::Sleepable
    }

    fn whole(&self) -> usize {
        self.size.next_multiple_of(PAGE_SIZE)
    }
}

/// Where coherent memory is: a place in a region.
struct Found {
    region: Arc<Region>,
    offset: usize,
}

impl Found {
    fn all(region: Arc<Region>) -> Self {
        Self { region, offset: 0 }
    }
}

impl Backend {
    /// Obtains coherent memory: most often a page of the pool, or less, for a device that does not reach all
    /// memory.
    #[inline(always)]
    pub(crate) fn alloc_coherent(
        &self,
        dev: &Device,
        size: usize,
        context: Context,
        attrs: Attrs,
    ) -> Result<Coherent> {
        let store = &self.shared.coherent;
        let section = match device::coherent_reach(dev) {
            Some(reach) if is_page(size) && reach < store.top() => {
                let told = || self.counters.count(Event::Coherent);
                match store.pool.page(reach, self.coherent, told) {
                    Ok(memory) => return Ok(memory),
                    Err(section) => Some(section),
                }
            }
            _ => None,
        };
        self.alloc_other(dev, size, (context, attrs), section)
    }

    #[inline(never)]
    fn alloc_other(
        &self,
        dev: &Device,
        size: usize,
        (context, attrs): (Context, Attrs),
        section: Option<Section>,
    ) -> Result<Coherent> {
        // To end it here costs the short way no registers.
        drop(section);
        self.alloc_any(dev, size, context)
            .map_err(|cause| self.fail(dev, size, cause, attrs.contains(Attrs::NO_WARN)))
    }

    fn alloc_any(&self, dev: &Device, size: usize, context: Context) -> Result<Coherent, Cause> {
        let request = Request {
            dev,
            size,
            order: order(size),
            context,
            limits: device::coherent_limits(dev),
            neighbours: false,
        };
        let memory = match self.obtain_coherent(&request) {
            Ok(found) => Coherent {
                cpu: found.region.at(found.offset).ok_or(Cause::Impossible)?,
                dma: dma(&found),
            },
            // What is large would crowd out the bounces.
            Err(cause) if size == 0 || request.order > pool::ORDER => return Err(cause),
            Err(_) => self.last_resort(&request)?,
        };
        self.counters.count(Event::Coherent);
        Ok(memory)
    }

    /// Coherent memory with a `struct page`.
    pub(crate) fn alloc_neighbours(
        &self,
        dev: &Device,
        size: usize,
        context: Context,
    ) -> Result<CoherentPages, Cause> {
        let found = self.obtain_coherent(&Request {
            dev,
            size,
            order: order(size),
            context,
            limits: device::coherent_limits(dev),
            neighbours: true,
        })?;
        let pages = CoherentPages {
            first: found
                .region
                .page_at(found.offset)
                .ok_or(Cause::Impossible)?,
            dma: dma(&found),
        };
        self.counters.count(Event::Coherent);
        Ok(pages)
    }

    /// Cleared memory from the cheapest source that has it.  It is never one that bounces live in.
    fn obtain_coherent(&self, request: &Request<'_>) -> Result<Found, Cause> {
        if request.size == 0 {
            return Err(Cause::Empty);
        }
        let store = &self.shared.coherent;
        if request.order <= pool::ORDER {
            // Who does not reach all memory rarely reaches the pages that are at hand.
            if request.limits.reach() >= self.shared.coherent.top() {
                if let Ok(found) = self.fitting(request) {
                    return Ok(found);
                }
            }
            if let Some(found) = self.pooled(request) {
                return Ok(found);
            }
        }
        let kept = store.reuse(
            request.order,
            request.neighbours,
            &request.limits,
            self.coherent,
        );
        if let Some(region) = kept {
            region.clear();
            return Ok(Found::all(region));
        }
        if let Ok(found) = self.fitting(request) {
            return Ok(found);
        }
        if !request.may_sleep() {
            return Err(Cause::NoMemory);
        }
        let exchange = || {
            let (node, order, bits) = (request.node(), request.order, request.bits());
            obtain(node, order, bits, request.neighbours)
        };
        let region = match exchange() {
            Ok(region) => region,
            // What is kept unused may be just what is missing.
            Err(_) if store.give_all_back() => exchange().map_err(|_| Cause::NoMemory)?,
            Err(_) => return Err(Cause::NoMemory),
        };
        self.keep(region)
    }

    /// Pages that fit as they come.
    fn fitting(&self, request: &Request<'_>) -> Result<Found, Cause> {
        let region = Region::fitting(
            request.order,
            request.bits(),
            request.node(),
            request.context,
        );
        self.keep(region.map_err(|_| Cause::NoMemory)?)
    }

    fn keep(&self, region: Region) -> Result<Found, Cause> {
        let region = Arc::new(region, GFP_ATOMIC).map_err(|_| Cause::NoMemory)?;
        self.shared.coherent.keep(region.clone(), self.coherent)?;
        Ok(Found::all(region))
    }

    /// A run of the pool, which grows if need be and the caller may sleep; else soon.
    fn pooled(&self, request: &Request<'_>) -> Option<Found> {
        let store = &self.shared.coherent;
        let ask = Ask {
            size: request.whole(),
            limits: &request.limits,
            neighbours: request.neighbours,
            owner: self.coherent,
        };
        let grow = || {
            let (bits, node) = (request.bits(), request.node());
            let sleepable = request.may_sleep();
            sleepable.then(|| store.grow(&ask, bits, node).ok())?
        };
        let claim = store.pool.claim(&ask).or_else(grow);
        if claim.as_ref().is_none_or(|claim| claim.low) {
            store.wish(&request.limits, request.bits(), request.node());
        }
        let Claim { region, offset, .. } = claim?;
        region.clear_range(offset, request.whole());
        Some(Found { region, offset })
    }

    /// A cleared run of the aperture.
    #[cold]
    fn last_resort(&self, request: &Request<'_>) -> Result<Coherent, Cause> {
        let (extent, record) =
            self.shared
                .aperture
                .claim_aligned(request.whole(), &request.limits, self.coherent)?;
        let offset = extent.offset(record.start());
        let cleared = extent.region.clear_range(offset, request.whole());
        Ok(Coherent {
            cpu: cleared.ok_or(Cause::Impossible)?,
            dma: record.start(),
        })
    }

    /// Frees coherent memory: most often a page of the pool.
    #[inline(always)]
    pub(crate) fn free_coherent(&self, dev: &Device, size: usize, at: Machine) {
        if !is_page(size) {
            return self.free_other(dev, size, at, None);
        }
        let told = || self.counters.count(Event::CoherentFree);
        let pool = &self.shared.coherent.pool;
        if let Err(section) = pool.free_page(at, self.coherent, told) {
            self.free_other(dev, size, at, Some(section));
        }
    }

    #[inline(never)]
    fn free_other(&self, dev: &Device, size: usize, at: Machine, section: Option<Section>) {
        drop(section);
        let store = &self.shared.coherent;
        // A driver may have taken an error for a size.
        let whole = size
            .checked_next_multiple_of(PAGE_SIZE)
            .unwrap_or(usize::MAX);
        let ended = match store.pool.release(at, whole, self.coherent) {
            Some(Ok(freed)) => {
                if freed.spare {
                    store.hurry();
                }
                if size > freed.size {
                    self.misuse(dev, "free", size, Wrong::Size);
                }
                Ok(())
            }
            Some(Err(wrong)) => Err(wrong),
            None => self.end_coherent(at, size),
        };
        match ended {
            Ok(()) => self.counters.count(Event::CoherentFree),
            Err(wrong) => self.misuse(dev, "free", size, wrong),
        }
    }

    /// Frees what does not come from the pool.
    fn end_coherent(&self, at: Machine, size: usize) -> Result<(), Wrong> {
        match self.shared.aperture.find(at) {
            Some(extent) => {
                let held = extent.slots.retire(at, self.coherent)?;
                if self.shared.aperture.care.scrub {
                    extent.scrub(&held);
                }
                extent.release(held);
                Ok(())
            }
            None => self.shared.coherent.end(at, size, self.coherent),
        }
    }

    /// Calls `with` with the region behind coherent memory, and the offset in it.
    pub(crate) fn with_coherent<R>(
        &self,
        at: Machine,
        size: usize,
        with: impl FnOnce(&Region, usize) -> Result<R>,
    ) -> Result<R> {
        let store = &self.shared.coherent;
        if let Some((region, offset)) = store.pool.get(at, size, self.coherent) {
            return with(&region, offset);
        }
        // What follows may sleep.
        match self.shared.aperture.find(at).map(Reading::into_kept) {
            Some(extent) => {
                let record = extent.slots.find(at, self.coherent).map_err(|_| ENXIO)?;
                if record.start() != at || record.size() < size as u64 {
                    return Err(ENXIO);
                }
                with(&extent.region, extent.offset(at))
            }
            None => {
                let region = store.get(at, self.coherent).ok_or(ENXIO)?;
                with(&region, 0)
            }
        }
    }
}

/// Where the device sees it.
fn dma(found: &Found) -> Machine {
    // CAST: Widens.
    Machine::new(found.region.base().raw() + found.offset as u64)
}
