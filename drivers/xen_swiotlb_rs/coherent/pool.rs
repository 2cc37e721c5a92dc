// SPDX-License-Identifier: GPL-2.0

//! The pool that small coherent buffers are cut from.
//!
//! Its extents are regions of 2 MiB, apart from the aperture: the two live differently long.  They are
//! made where sleeping is allowed, before they are needed as a rule, so that to obtain a buffer and
//! to free it takes no hypercall and no memory.
//!
//! An extent is used from its bottom, and of several the highest one that a device reaches, so
//! that narrow devices find the lower ones unused.
//!
//! A page, which is what is asked for most, comes from the extent at hand, the highest one with ample
//! room, and goes back there, without a lock.  All else, and other extents, take the lock.

use super::obtain;
use crate::{
    counters::Wrong,
    extent::complain, //
};
use core::ops::Range;
use dma_core::{
    AtomicWord,
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
        Byte,
        Word,
        Words, //
    },
    irq_lock::{
        new_irq_lock,
        IrqLock, //
    },
    ops::Coherent,
    rcu::{
        Reading,
        Section,
        Table, //
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

/// Where they are in a table, and a place where none is.
const PLACES: Range<u8> = 1..(MOST as u8 + 1);
const NOWHERE: u8 = 0;

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
    /// The chunk that served last.
    near: Word,
}

impl Extent {
    fn new(region: Region) -> Result<Self> {
        let count = region.size() / SLOT_SIZE as usize;
        let words = Words::for_slots(count)?;
        let slots = Slots::new(words, region.base(), count, 1).ok_or(EINVAL)?;
        Ok(Self {
            last: region.last().raw(),
            // CAST: Widens.
            near: Word::new(slots.home(0) as u64),
            slots,
            region: Arc::new(region, GFP_KERNEL)?,
        })
    }

    fn used(&self) -> usize {
        self.slots.used() * SLOT_SIZE as usize
    }

    /// Whether much of it is free: most often so many chunks are that nobody needs to count.
    fn is_ample(&self) -> bool {
        let apart = self.slots.set_apart() * SLOT_SIZE as usize;
        apart <= SIZE - LOW_WATER || self.used() <= SIZE - LOW_WATER
    }

    #[inline]
    fn reached(&self, reach: u64) -> bool {
        self.last <= reach
    }

    /// Where a machine address lies in the extent, in bytes.
    #[inline]
    fn offset(&self, at: Machine) -> usize {
        // CAST: Within the extent.
        at.raw().wrapping_sub(self.slots.base().raw()) as usize
    }

    fn serves(&self, ask: &Ask<'_>) -> bool {
        self.reached(ask.limits.reach())
            && (!ask.neighbours || self.region.first_page().is_some())
            && !self.slots.is_full()
    }

    /// Claims a page, near to the last one.
    #[inline(always)]
    fn claim_page(&self, owner: Owner) -> Option<Machine> {
        // CAST: Only chunks' numbers are stored.
        let near = self.near.load() as usize;
        self.slots.carry(Phys::new(0), PAGE_SIZE, owner, near)
    }

    /// Frees the run that begins at `at`, most likely of `size` bytes, and tells how many it had.
    fn free(&self, at: Machine, size: usize, owner: Owner) -> Result<usize, Wrong> {
        if let Some(held) = self.slots.retire_plain(at, size, owner) {
            complain(held.free());
            return Ok(size);
        }
        let held = self.slots.retire(at, owner)?;
        let size = held.size();
        complain(self.slots.free(held));
        // CAST: It came as a `usize`.
        Ok(size as usize)
    }

    /// Claims a naturally aligned run and records its owner.
    fn claim(&self, ask: &Ask<'_>) -> Option<Machine> {
        let slots = ask.size / SLOT_SIZE as usize;
        let request = Request::new(slots)?.aligned(slots.next_power_of_two(), 0)?;
        // CAST: Only chunks' numbers are stored.
        let near = self.near.load() as usize;
        let run = self.slots.claim(&request, near).ok()?;
        match self.slots.publish(run, Phys::new(0), ask.size, ask.owner) {
            Ok(record) => {
                if record.is_small() {
                    // CAST: Widens.
                    self.near.store(record.chunk() as u64);
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

/// Where an extent begins, and its place.
type Entry = (Machine, u8);

/// The extents.
#[pin_data]
pub(crate) struct Pool {
    extents: Table<Extent>,
    /// Where they are, the lowest first.
    #[pin]
    order: IrqLock<KVec<Entry>>,
    /// The place of the extent at hand, or [`NOWHERE`].
    at_hand: Byte,
    /// One at a time obtains an extent: the others may find that they need none.
    #[pin]
    turn: Mutex<()>,
}
impl Pool {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            extents: Table::new()?,
            order <- new_irq_lock!(KVec::with_capacity(MOST, GFP_KERNEL)?, "Pool::order"),
            at_hand: Byte::new(NOWHERE),
            turn <- new_mutex!((), "Pool::turn"),
        })
    }

    /// Claims a page of the extent at hand for a device with this reach, says so to `told`, and clears it.  Or
    /// else end the section, and take the long way, by [`Pool::claim`].  Any context.
    #[inline(always)]
    pub(crate) fn page(
        &self,
        reach: u64,
        owner: Owner,
        told: impl FnOnce(),
    ) -> Result<Coherent, Section> {
        let extent = self.extents.look(self.at_hand.load())?;
        if !extent.reached(reach) {
            return Err(extent.into_section());
        }
        let Some(at) = extent.claim_page(owner) else {
            return Err(extent.into_section());
        };
        let offset = extent.offset(at);
        told();
        match extent.region.clear_range(offset, PAGE_SIZE) {
            Some(cpu) => Ok(Coherent { cpu, dma: at }),
            // Cannot be: the region has all of its slots.
            None => Err(extent.into_section()),
        }
    }

    /// Frees what begins at `at`, if that is a page of the extent at hand, and says so to `told`.  Or else
    /// end the section, and take the long way, by [`Pool::release`].  Any context.
    #[inline(always)]
    pub(crate) fn free_page(
        &self,
        at: Machine,
        owner: Owner,
        told: impl FnOnce(),
    ) -> Result<(), Section> {
        let extent = self.extents.look(self.at_hand.load())?;
        let Some(held) = extent.slots.retire_plain(at, PAGE_SIZE, owner) else {
            return Err(extent.into_section());
        };
        told();
        complain(held.free());
        Ok(())
    }

    /// Claims a naturally aligned run; its bytes are what they were.  Any context.
    pub(crate) fn claim(&self, ask: &Ask<'_>) -> Option<Claim> {
        let order = self.order.lock();
        let mut extents = self.in_order(&order).rev();
        let mut highest = true;
        let (place, extent, at) = extents.find_map(|(place, extent)| {
            match extent.serves(ask).then(|| extent.claim(ask)).flatten() {
                Some(at) => Some((place, extent, at)),
                None => {
                    highest &= !extent.is_ample();
                    None
                }
            }
        })?;
        let ample = extent.is_ample();
        if highest {
            self.at_hand.store(if ample { place } else { NOWHERE });
        }
        // The others are lower ones: what is left there counts, too.
        let low = !ample && !extents.any(|(_, e)| e.serves(ask) && e.is_ample());
        Some(Claim {
            region: extent.region.clone(),
            offset: extent.offset(at),
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
        let order = self.order.lock();
        let (place, extent) = self.find(&order, at)?;
        let freed = match extent.free(at, size, owner) {
            Ok(freed) => freed,
            Err(wrong) => return Some(Err(wrong)),
        };
        // It may have become the highest one with ample room.
        if self.at_hand.load() != place {
            self.at_hand.store(NOWHERE);
        }
        let spare = order.len() > SPARE && extent.slots.is_idle() && self.idle(&order) > SPARE;
        Some(Ok(Freed { size: freed, spare }))
    }

    /// The region that a run lies in, and where in it.  Any context.
    pub(crate) fn get(
        &self,
        at: Machine,
        size: usize,
        owner: Owner,
    ) -> Option<(Arc<Region>, usize)> {
        let order = self.order.lock();
        let (_, extent) = self.find(&order, at)?;
        let record = extent.slots.find(at, owner).ok()?;
        // CAST: Widens.
        if record.start() != at || record.size() < size as u64 {
            return None;
        }
        Some((extent.region.clone(), extent.offset(at)))
    }

    /// As [`Pool::claim`], from an extent below `1 << bits` that is obtained for it, unless somebody else
    /// did so meanwhile.  May sleep.
    pub(crate) fn claim_new(&self, ask: &Ask<'_>, bits: u32, node: Node) -> Result<Claim> {
        let _turn = self.turn.lock();
        if let Some(claim) = self.claim(ask) {
            return Ok(claim);
        }
        self.add(obtain(node, ORDER, bits, ask.neighbours)?)?;
        self.claim(ask).ok_or(ENOMEM)
    }

    /// Obtains an extent if those that the device reaches have little left.  May sleep.
    pub(crate) fn replenish(&self, limits: &Limits, bits: u32, node: Node) -> Result {
        let _turn = self.turn.lock();
        let ample = |extent: &Extent| extent.reached(limits.reach()) && extent.is_ample();
        if (self.in_order(&self.order.lock())).any(|(_, extent)| ample(&extent)) {
            return Ok(());
        }
        self.add(obtain(node, ORDER, bits, false)?)
    }

    /// Adds an extent.  The caller has the turn.
    fn add(&self, region: Region) -> Result {
        let mut vacant = PLACES.filter(|place| self.extents.read(*place).is_none());
        let place = vacant.next().ok_or(ENOSPC)?;
        let extent = Extent::new(region)?;
        let base = extent.slots.base();
        self.extents.put(place, extent)?;
        let mut order = self.order.lock();
        let index = order.partition_point(|(other, _)| *other < base);
        let refused = order.insert_within_capacity(index, (base, place));
        drop(order);
        if refused.is_err() {
            drop(self.extents.take(place));
            return Err(ENOSPC);
        }
        Ok(())
    }

    /// Gives an idle extent back, if there are more than `kept`; tells whether there were.  May
    /// sleep.
    pub(crate) fn shrink(&self, kept: usize) -> bool {
        let mut order = self.order.lock();
        if self.idle(&order) <= kept {
            return false;
        }
        // Who has it at hand can claim nothing of it from then on.
        let seized = |extent: &Extent| extent.slots.is_idle() && extent.slots.seize().is_some();
        let index = self.in_order(&order).position(|(_, e)| seized(&e));
        let Some(Ok((_, place))) = index.map(|index| order.remove(index)) else {
            return false;
        };
        if self.at_hand.load() == place {
            self.at_hand.store(NOWHERE);
        }
        drop(order);
        // Here its frames go back.
        self.extents.take(place).is_some()
    }

    /// As [`Pool::shrink`], down to what is always kept.
    pub(crate) fn trim(&self) {
        while self.shrink(SPARE) {}
    }

    /// Pages of idle extents.  Any context.
    pub(crate) fn idle_pages(&self) -> usize {
        self.idle(&self.order.lock()) << ORDER
    }

    pub(crate) fn usage(&self) -> Usage {
        let order = self.order.lock();
        Usage {
            extents: order.len(),
            size: order.len() * SIZE,
            used: self.in_order(&order).map(|(_, e)| e.used()).sum(),
        }
    }

    /// The extents and their places, the lowest first.
    fn in_order<'a>(
        &'a self,
        order: &'a [Entry],
    ) -> impl DoubleEndedIterator<Item = (u8, Reading<'a, Extent>)> {
        let read = |&(_, place): &Entry| Some((place, self.extents.read(place)?));
        order.iter().filter_map(read)
    }

    fn idle(&self, order: &[Entry]) -> usize {
        self.in_order(order)
            .filter(|(_, e)| e.slots.is_idle())
            .count()
    }

    /// The extent that an address lies in, and its place.
    fn find(&self, order: &[Entry], at: Machine) -> Option<(u8, Reading<'_, Extent>)> {
        let next = order.partition_point(|(base, _)| *base <= at);
        let (_, place) = *order.get(next.checked_sub(1)?)?;
        let extent = self.extents.read(place)?;
        (at.raw() <= extent.last).then_some((place, extent))
    }
}
