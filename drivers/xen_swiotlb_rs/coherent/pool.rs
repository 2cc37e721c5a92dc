// SPDX-License-Identifier: GPL-2.0

//! The pool that small coherent buffers are cut from.
//!
//! Its extents are regions of 2 MiB, apart from the aperture: the two live differently long.  They are
//! made where sleeping is allowed, before they are needed as a rule, so that to obtain a buffer and
//! to free it takes no hypercall and no memory.
//!
//! An extent is used from its bottom, and of several the highest one that a device reaches, so
//! that narrow devices find the lower ones unused.

use super::obtain;
use crate::{
    counters::Wrong,
    extent::complain, //
};
use dma_core::{
    Limits,
    Machine,
    Owner,
    Phys,
    Request,
    Slots,
    SLOT_SIZE, //
};
use kernel::{
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};
use xen_dma::{
    atomic::{
        Word,
        Words, //
    },
    irq_lock::{
        new_irq_lock,
        IrqLock, //
    },
    region::Region,
    Node, //
};

/// The order of an extent: 2 MiB.
pub(crate) const ORDER: u32 = 9;

/// The size of an extent in bytes, and so of the largest buffer.
const SIZE: usize = PAGE_SIZE << ORDER;

/// The most extents: 128 MiB.  Who needs more gets regions of their own.
const MOST: usize = 64;

/// Extents that nobody uses and that are kept all the same.
const SPARE: usize = 2;

/// With less than this left, in bytes, more is to be obtained.
const LOW_WATER: usize = 256 << 10;

/// An extent and its allocator.
struct Extent {
    region: Arc<Region>,
    slots: Slots<Word, Words>,
    /// The last machine address.
    last: u64,
    /// Free bytes.
    free: usize,
    /// The chunk that served last.
    near: usize,
}

impl Extent {
    fn new(region: Region) -> Result<KBox<Self>> {
        let count = region.size() / SLOT_SIZE as usize;
        let words = Words::for_slots(count)?;
        let slots = Slots::new(words, region.base(), count, 1).ok_or(EINVAL)?;
        let extent = Self {
            last: region.last().raw(),
            free: region.size(),
            near: slots.home(0),
            slots,
            region: Arc::new(region, GFP_KERNEL)?,
        };
        Ok(KBox::new(extent, GFP_KERNEL)?)
    }

    fn is_idle(&self) -> bool {
        self.free == SIZE
    }

    fn reached(&self, limits: &Limits) -> bool {
        self.last <= limits.reach()
    }

    fn serves(&self, ask: &Ask<'_>) -> bool {
        self.free >= ask.size
            && self.reached(ask.limits)
            && (!ask.neighbours || self.region.first_page().is_some())
    }

    /// Claims a naturally aligned run and records its owner.
    fn claim(&mut self, ask: &Ask<'_>) -> Option<Machine> {
        let at = self.claim_page(ask).or_else(|| self.claim_any(ask))?;
        self.free -= ask.size;
        Some(at)
    }

    /// The common case: a page, near to the last one.
    #[inline]
    fn claim_page(&self, ask: &Ask<'_>) -> Option<Machine> {
        if ask.size != PAGE_SIZE {
            return None;
        }
        self.slots
            .carry(Phys::new(0), PAGE_SIZE, ask.owner, self.near)
    }

    fn claim_any(&mut self, ask: &Ask<'_>) -> Option<Machine> {
        let slots = ask.size / SLOT_SIZE as usize;
        let request = Request::new(slots)?.aligned(slots.next_power_of_two(), 0)?;
        let run = self.slots.claim(&request, self.near).ok()?;
        match self.slots.publish(run, Phys::new(0), ask.size, ask.owner) {
            Ok(record) => {
                if record.is_small() {
                    self.near = record.chunk();
                }
                Some(record.start())
            }
            Err(run) => {
                self.slots.cancel(run);
                None
            }
        }
    }
}

/// What is asked of the pool.
pub(crate) struct Ask<'a> {
    /// In bytes; whole pages.
    pub(crate) size: usize,
    pub(crate) limits: &'a Limits,
    /// Whether the pages must be neighbours in pfn.
    pub(crate) neighbours: bool,
    pub(crate) owner: Owner,
}

/// A run of the pool.
pub(crate) struct Claim {
    pub(crate) region: Arc<Region>,
    /// Where in the region it begins.
    pub(crate) offset: usize,
    /// Little is left for the next one.
    pub(crate) low: bool,
}

/// A run that was freed.
pub(crate) struct Freed {
    /// In bytes.
    pub(crate) size: usize,
    /// There are idle extents to spare.
    pub(crate) spare: bool,
}

/// What the pool has, in bytes but for the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) extents: usize,
    pub(crate) size: usize,
    pub(crate) used: usize,
}

/// The extents, the lowest first.
#[pin_data]
pub(crate) struct Pool {
    #[pin]
    extents: IrqLock<KVec<KBox<Extent>>>,
    /// One at a time obtains an extent: the others may find that they need none.
    #[pin]
    turn: Mutex<()>,
}

impl Pool {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            extents <- new_irq_lock!(KVec::with_capacity(MOST, GFP_KERNEL)?, "Pool::extents"),
            turn <- new_mutex!((), "Pool::turn"),
        })
    }

    /// Claims a naturally aligned run; its bytes are what they were.  Any context.
    pub(crate) fn claim(&self, ask: &Ask<'_>) -> Option<Claim> {
        let mut extents = self.extents.lock();
        let mut fitting = extents.iter_mut().rev().filter(|e| e.serves(ask));
        let (extent, at) = fitting.find_map(|e| e.claim(ask).map(|at| (e, at)))?;
        // The others are lower ones: what is left there counts, too.
        let low = extent.free < LOW_WATER && !fitting.any(|e| e.free >= LOW_WATER);
        // CAST: Within the extent.
        let offset = (at.raw() - extent.slots.base().raw()) as usize;
        Some(Claim {
            region: extent.region.clone(),
            offset,
            low,
        })
    }

    /// Frees the run that begins at `at`, of `size` bytes unless that is wrong.  [`None`] if the pool does
    /// not reach there.  Any context.
    pub(crate) fn release(
        &self,
        at: Machine,
        size: usize,
        owner: Owner,
    ) -> Option<Result<Freed, Wrong>> {
        let mut extents = self.extents.lock();
        let extent = find(&mut extents, at)?;
        let (freed, strays) = match extent.slots.retire_plain(at, size, owner) {
            Some(held) => (size, held.free()),
            None => match extent.slots.retire(at, owner) {
                // CAST: It came as a `usize`.
                Ok(held) => (held.size() as usize, extent.slots.free(held)),
                Err(misuse) => return Some(Err(misuse.into())),
            },
        };
        complain(strays);
        extent.free += freed;
        let spare = extent.is_idle() && idle(&extents) > SPARE;
        Some(Ok(Freed { size: freed, spare }))
    }

    /// The region that a run lies in, and where in it.  Any context.
    pub(crate) fn get(
        &self,
        at: Machine,
        size: usize,
        owner: Owner,
    ) -> Option<(Arc<Region>, usize)> {
        let mut extents = self.extents.lock();
        let extent = find(&mut extents, at)?;
        let record = extent.slots.find(at, owner).ok()?;
        if record.start() != at || record.size() < size as u64 {
            return None;
        }
        // CAST: Within the extent.
        let offset = (at.raw() - extent.slots.base().raw()) as usize;
        Some((extent.region.clone(), offset))
    }

    /// As [`Pool::claim`], from an extent below `1 << bits` that is obtained for it, unless somebody else
    /// did so meanwhile.  May sleep.
    pub(crate) fn claim_new(&self, ask: &Ask<'_>, bits: u32, node: Node) -> Result<Claim> {
        let _turn = self.turn.lock();
        if let Some(claim) = self.claim(ask) {
            return Ok(claim);
        }
        self.add(bits, node)?;
        self.claim(ask).ok_or(ENOMEM)
    }

    /// Obtains an extent if those that the device reaches have little left.  May sleep.
    pub(crate) fn replenish(&self, limits: &Limits, bits: u32, node: Node) -> Result {
        let _turn = self.turn.lock();
        let ample = |e: &KBox<Extent>| e.reached(limits) && e.free >= LOW_WATER;
        if self.extents.lock().iter().any(ample) {
            return Ok(());
        }
        self.add(bits, node)
    }

    fn add(&self, bits: u32, node: Node) -> Result {
        if self.usage().extents == MOST {
            return Err(ENOSPC);
        }
        let extent = Extent::new(obtain(node, ORDER, bits)?)?;
        let base = extent.slots.base();
        let mut extents = self.extents.lock();
        let place = extents.partition_point(|e| e.slots.base() < base);
        let refused = extents.insert_within_capacity(place, extent);
        drop(extents);
        refused.map_err(|_| ENOSPC)
    }

    /// Gives an idle extent back, if there are more than `kept`; tells whether there were.  May
    /// sleep.
    pub(crate) fn shrink(&self, kept: usize) -> bool {
        let mut extents = self.extents.lock();
        if idle(&extents) <= kept {
            return false;
        }
        let first = extents.iter().position(|e| e.is_idle());
        let extent = first.and_then(|index| extents.remove(index).ok());
        drop(extents);
        // Here its frames go back.
        extent.is_some()
    }

    /// As [`Pool::shrink`], down to what is always kept.
    pub(crate) fn trim(&self) {
        while self.shrink(SPARE) {}
    }

    /// Pages of idle extents.  Any context.
    pub(crate) fn idle_pages(&self) -> usize {
        idle(&self.extents.lock()) << ORDER
    }

    pub(crate) fn usage(&self) -> Usage {
        let extents = self.extents.lock();
        let size = extents.len() * SIZE;
        let free: usize = extents.iter().map(|e| e.free).sum();
        Usage {
            extents: extents.len(),
            size,
            used: size - free,
        }
    }
}

fn idle(extents: &[KBox<Extent>]) -> usize {
    extents.iter().filter(|e| e.is_idle()).count()
}

/// The extent that an address lies in.
fn find(extents: &mut [KBox<Extent>], at: Machine) -> Option<&mut KBox<Extent>> {
    let next = extents.partition_point(|e| e.slots.base() <= at);
    let extent = extents.get_mut(next.checked_sub(1)?)?;
    (at.raw() <= extent.last).then_some(extent)
}
