// SPDX-License-Identifier: GPL-2.0

//! Coherent memory: bytes that CPU and device share for long.
//!
//! Three sources, the cheapest first: pages that fit the device as they come; a run of the
//! aperture, for what is small or may not sleep; a region of its own, by exchange.  What is
//! not a run of the aperture is kept in a [`Store`] under its machine address.
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
    Machine,
    Owner, //
};
use kernel::{
    alloc::flags::GFP_ATOMIC,
    device::Device,
    page::PAGE_SIZE,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::Arc,
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};
use xen_dma::{
    deferred,
    device,
    irq_lock::{
        new_irq_lock,
        IrqLock, //
    },
    ops::{
        Coherent,
        CoherentPages, //
    },
    region::{
        Region,
        Way, //
    },
    Context, //
};

/// Up to here, memory that does not fit as it comes is taken from the aperture, without a
/// hypercall; beyond, it would crowd out the bounces.
const SMALL: usize = 64 * 1024;

type Regions = RBTree<u64, (Owner, Arc<Region>)>;

/// Regions and their owners by machine address, and those whose end must wait for a context that may sleep.
#[pin_data]
pub(crate) struct Store {
    #[pin]
    live: IrqLock<Regions>,
    #[pin]
    ended: IrqLock<Regions>,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Store { self.work }
}

impl WorkItem for Store {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.end_all();
    }
}

impl Store {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                live <- new_irq_lock!(RBTree::new(), "Store::live"),
                ended <- new_irq_lock!(RBTree::new(), "Store::ended"),
                work <- new_work!("Store::work"),
            }),
            GFP_KERNEL,
        )
    }

    /// Keeps a region.  The memory for its entry is obtained before the lock.
    fn keep(&self, region: Arc<Region>, owner: Owner) -> Result<(), Cause> {
        let key = region.base().raw();
        let node =
            RBTreeNode::new(key, (owner, region), GFP_ATOMIC).map_err(|_| Cause::NoMemory)?;
        let twin = self.live.lock().insert(node);
        // Two live regions cannot have one address; if they had, the older one ends here.
        drop(twin);
        Ok(())
    }

    fn get(&self, at: Machine, owner: Owner) -> Option<Arc<Region>> {
        let live = self.live.lock();
        let (whose, region) = live.get(&at.raw())?;
        (*whose == owner).then(|| region.clone())
    }

    /// Ends a region: now, if that needs no sleep, else soon.
    fn end(this: &Arc<Self>, at: Machine, size: usize, owner: Owner) -> Result<(), Wrong> {
        let mut live = this.live.lock();
        let now = match live.get(&at.raw()) {
            None => return Err(Wrong::NotMapped),
            Some((whose, _)) if *whose != owner => return Err(Wrong::NotOwner),
            Some((_, region)) if size > region.size() => return Err(Wrong::Size),
            Some((_, region)) => region.ends_atomically(),
        };
        let node = live.remove_node(&at.raw());
        drop(live);
        if now {
            return Ok(());
        }
        if let Some(node) = node {
            // The node moves on as it is: this cannot fail, and drops nothing here.
            let twin = this.ended.lock().insert(node);
            drop(twin);
        }
        let _ = workqueue::system_long().enqueue(this.clone());
        Ok(())
    }

    fn end_all(&self) {
        loop {
            let ended = core::mem::replace(&mut *self.ended.lock(), RBTree::new());
            if ended.is_empty() {
                return;
            }
            drop(ended);
        }
    }

    /// Waits for what must still end.  May sleep.
    pub(crate) fn finish(&self) {
        deferred::finish(&self.work);
        self.end_all();
    }

    /// Number and bytes of the regions in use.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let live = self.live.lock();
        live.values().fold((0, 0), |(n, bytes), (_, region)| {
            (n + 1, bytes + region.size())
        })
    }
}

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

impl Backend {
    pub(crate) fn alloc_coherent(
        &self,
        dev: &Device,
        size: usize,
        context: Context,
    ) -> Result<Coherent, Cause> {
        if size == 0 {
            return Err(Cause::Empty);
        }
        let limits = device::coherent_limits(dev);
        if let Ok(region) = Region::fitting(order(size), bits(&limits), device::node(dev), context) {
            return self.keep(region);
        }
        let sleepable = context == Context::Sleepable;
        if size <= SMALL || !sleepable {
            match self.run(size, &limits) {
                Err(cause) if !sleepable => return Err(cause),
                Err(_) => {}
                Ok(memory) => return Ok(memory),
            }
        }
        let region = Region::new(order(size), bits(&limits), Way::Scattered);
        self.keep(region.map_err(|_| Cause::NoMemory)?)
    }

    /// Coherent memory with a `struct page`.
    pub(crate) fn alloc_neighbours(
        &self,
        dev: &Device,
        size: usize,
        context: Context,
    ) -> Result<CoherentPages, Cause> {
        if size == 0 {
            return Err(Cause::Empty);
        }
        let limits = device::coherent_limits(dev);
        let (order, bits) = (order(size), bits(&limits));
        let region = match (Region::fitting(order, bits, device::node(dev), context), context) {
            (Ok(region), _) => region,
            (Err(_), Context::Atomic) => return Err(Cause::NoMemory),
            (Err(_), Context::Sleepable) => {
                Region::new(order, bits, Way::Neighbours).map_err(|_| Cause::NoMemory)?
            }
        };
        let first = region.first_page().ok_or(Cause::NoMemory)?;
        let dma = self.keep(region)?.dma;
        Ok(CoherentPages { first, dma })
    }

    fn keep(&self, region: Region) -> Result<Coherent, Cause> {
        let memory = Coherent {
            cpu: region.view(),
            dma: region.base(),
        };
        let region = Arc::new(region, GFP_ATOMIC).map_err(|_| Cause::NoMemory)?;
        self.shared.coherent.keep(region, self.coherent)?;
        self.counters.count(Event::Coherent);
        Ok(memory)
    }

    /// A cleared run of the aperture.
    fn run(&self, size: usize, limits: &Limits) -> Result<Coherent, Cause> {
        let whole = size.next_multiple_of(PAGE_SIZE);
        let (extent, record) = self
            .shared
            .aperture
            .claim_aligned(whole, limits, self.coherent)?;
        let offset = extent.offset(record.start());
        extent.region.clear_range(offset, whole);
        let cpu = extent.region.at(offset).ok_or(Cause::Impossible)?;
        self.counters.count(Event::Coherent);
        Ok(Coherent {
            cpu,
            dma: record.start(),
        })
    }

    pub(crate) fn free_coherent(&self, dev: &Device, size: usize, at: Machine) {
        let ended = match self.shared.aperture.find(at) {
            Some(extent) => extent
                .slots
                .retire(at, self.coherent)
                .map(|held| self.shared.aperture.release(extent, held))
                .map_err(Wrong::from),
            None => Store::end(&self.shared.coherent, at, size, self.coherent),
        };
        match ended {
            Ok(()) => self.counters.count(Event::CoherentFree),
            Err(wrong) => self.misuse(dev, "free", size, wrong),
        }
    }

    /// Calls `with` with the region behind coherent memory, and the offset in it.
    pub(crate) fn with_coherent<R>(
        &self,
        at: Machine,
        size: usize,
        with: impl FnOnce(&Region, usize) -> Result<R>,
    ) -> Result<R> {
        match self.shared.aperture.find(at) {
            Some(extent) => {
                let record = extent.slots.find(at, self.coherent).map_err(|_| ENXIO)?;
                if record.start() != at || record.size() < size as u64 {
                    return Err(ENXIO);
                }
                with(&extent.region, extent.offset(at))
            }
            None => {
                let region = self.shared.coherent.get(at, self.coherent).ok_or(ENXIO)?;
                with(&region, 0)
            }
        }
    }
}
