// SPDX-License-Identifier: GPL-2.0

//! Room for several buffers at once, for lists.
//!
//! A list claims one run for its buffers, as long as there is such a run; or else the free slots of a
//! chunk. It fills them one buffer after the other, and the device sees those that follow each other
//! without a gap as one segment. Each still has a record of its own, so that who knows the address of
//! one may sync it as if it had been mapped alone.
//!
//! A run of more than 64 slots is claimed as a large run is, but its chunks go back one by one, or
//! slot by slot: a chunk of a large run and an open chunk in which nothing is free are the same. So a
//! buffer never lies in two chunks.

use crate::{
    addr::{
        Machine,
        Phys,
        PAGE_SIZE, //
    },
    atomic::{
        AtomicWord,
        Backing, //
    },
    bits::{
        between,
        count,
        every,
        index,
        low,
        place_of,
        runs,
        wide, //
    },
    record::{
        is_leading,
        leading,
        size_of,
        slots_for,
        Owner, //
    },
    request::{
        Request,
        CHUNK_SLOTS,
        PAGE_SLOTS,
        SLOT_SHIFT,
        SLOT_SIZE, //
    },
    slots::Slots, //
};

/// Slots that are claimed and carry nothing yet. It must be given to [`Slots::return_bundle`], or what
/// is left of it is lost.
#[derive(Debug)]
#[must_use = "slots that are dropped are never free again"]
pub struct Bundle {
    chunk: usize,
    /// Slots of the chunk that carry nothing.
    slots: u64,
    /// How many slots of the chunks behind it belong to the bundle: all of them, but for the last one.
    more: usize,
    /// Slots that were to be freed and were not in use.
    missing: usize,
}

/// A place in an extent for one buffer. It must be given to [`Slots::carry_in`], or back to its
/// bundle.
#[derive(Debug)]
#[must_use = "a place that is dropped is never free again"]
pub struct Place {
    first: usize,
    at: Machine,
}

impl Place {
    /// Where the device will see the buffer.
    #[inline]
    pub const fn start(&self) -> Machine {
        self.at
    }
}

impl Bundle {
    /// Slots of one chunk.
    const fn of(chunk: usize, slots: u64) -> Self {
        Self {
            chunk,
            slots,
            more: 0,
            missing: 0,
        }
    }

    /// The chunk that the next buffer is for.
    #[inline]
    pub const fn chunk(&self) -> usize {
        self.chunk
    }

    /// May it have a place for a buffer of this size?
    #[inline]
    pub fn has_place(&self, size: usize) -> bool {
        self.more > 0 || self.starts(size).0 != 0
    }

    /// Where in the chunk at hand a buffer of this size may begin, and the run that it needs as bits. A
    /// page begins on a page.
    #[inline(always)]
    fn starts(&self, size: usize) -> (u64, u64) {
        let free = self.slots;
        match slots_of(size) {
            1 => (free, 1),
            2 => (free & (free >> 1) & every(1), 3),
            slots if slots <= CHUNK_SLOTS => (runs(free, slots) & every(1), low(slots)),
            _ => (0, 0),
        }
    }

    /// Takes a place in the chunk at hand for a buffer of this size.
    #[inline(always)]
    fn take(&mut self, size: usize) -> Option<usize> {
        let free = self.slots;
        // Most are pages, and take a few instructions.
        let (starts, run) = if slots_of(size) == 2 {
            (free & (free >> 1) & every(1), 3)
        } else {
            self.starts(size)
        };
        if starts == 0 {
            return None;
        }
        let start = starts.trailing_zeros();
        self.slots = free & !run.wrapping_shl(start);
        Some(
            self.chunk
                .wrapping_mul(CHUNK_SLOTS)
                .wrapping_add(place_of(start)),
        )
    }

    /// The slot where a page would be placed in the chunk at hand, and how many pages could follow each
    /// other from there on.
    #[inline(always)]
    fn pages(&self) -> Option<(usize, usize)> {
        let free = self.slots;
        let starts = free & (free >> 1) & every(1);
        if starts == 0 {
            return None;
        }
        let start = starts.trailing_zeros();
        let slots = free.wrapping_shr(start).trailing_ones();
        let first = self
            .chunk
            .wrapping_mul(CHUNK_SLOTS)
            .wrapping_add(place_of(start));
        Some((first, place_of(slots >> 1)))
    }

    /// Goes on to the next chunk of the run. Returns what of the last one must be freed.
    fn advance(&mut self) -> Option<Leaving> {
        if self.more == 0 {
            return None;
        }
        let left = Leaving {
            chunk: self.chunk,
            slots: self.slots,
        };
        let slots = self.more.min(CHUNK_SLOTS);
        self.chunk = self.chunk.wrapping_add(1);
        self.slots = low(slots);
        self.more = self.more.wrapping_sub(slots);
        Some(left)
    }
}

/// The slots of a buffer of up to a chunk; more for a larger one, and for none.
#[inline]
fn slots_of(size: usize) -> usize {
    index(wide(size).wrapping_sub(1) >> SLOT_SHIFT).wrapping_add(1)
}

/// How many slots a buffer of this size takes in a bundle, with what may be lost before it; 0 if it is
/// larger than a chunk, and so not for a bundle.
#[inline]
pub fn bundled_slots(size: usize) -> usize {
    match slots_of(size) {
        1 => 1,
        slots if slots <= CHUNK_SLOTS => slots.wrapping_add(slots & 1),
        _ => 0,
    }
}

/// Mappings that nobody can find any more, one after the other, whose slots are not free yet. They must
/// be given to [`Slots::free_with`], or their slots are lost.
#[derive(Debug)]
#[must_use = "the slots of mappings that are dropped are never free again"]
pub struct Ended {
    first: usize,
    end: usize,
    count: u64,
    bytes: u64,
}

impl Ended {
    /// How many they are.
    #[inline]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Their sizes in bytes, added up.
    #[inline]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Mappings of one chunk that were retired, and whose slots are still to be freed. It must be given to
/// [`Slots::free_leaving`], or they are lost.
#[derive(Debug, Default)]
#[must_use = "slots that are dropped are never free again"]
pub struct Leaving {
    chunk: usize,
    slots: u64,
}

impl<W: AtomicWord, B: Backing<W>> Slots<W, B> {
    /// Claims a run of this many slots, in chunk `near` if there is one. [`None`] if there is none
    /// at all.
    #[inline]
    pub fn claim_bundle(&self, slots: usize, near: usize) -> Option<Bundle> {
        let slots = slots.wrapping_add(slots & 1);
        if slots <= CHUNK_SLOTS {
            let near = self.words.wrap(near);
            let word = self.words.chunk_word(near)?;
            let old = word.load();
            let starts = runs(!old, slots) & every(1);
            if starts != 0 {
                let run = low(slots).wrapping_shl(starts.trailing_zeros());
                if word.compare_exchange(old, old | run).is_ok() {
                    return Some(Bundle::of(near, run));
                }
            }
        }
        self.claim_bundle_far(slots, near)
    }

    /// As [`Slots::claim_bundle`], if the run is not to be had in the chunk `near`.
    #[inline(never)]
    fn claim_bundle_far(&self, slots: usize, near: usize) -> Option<Bundle> {
        let run = self.claim(&Request::new(slots)?, near).ok()?;
        let (chunk, start) = (run.first / CHUNK_SLOTS, run.first & (CHUNK_SLOTS - 1));
        let here = run.slots.min(CHUNK_SLOTS);
        Some(Bundle {
            more: run.slots.wrapping_sub(here),
            ..Bundle::of(chunk, low(here).wrapping_shl(count(start)))
        })
    }

    /// Claims up to this many free slots of the chunk `near`, wherever in it they are. [`None`] if
    /// there is none, or if others change the chunk at this moment.
    #[inline]
    pub fn claim_scattered(&self, most: usize, near: usize) -> Option<Bundle> {
        let chunk = self.words.wrap(near);
        let word = self.words.chunk_word(chunk)?;
        let old = word.load();
        let free = !old;

        // The lowest ones: take away what is behind them.
        let mut rest = free;
        let mut left = most;
        while rest != 0 && left != 0 {
            rest &= rest.wrapping_sub(1);
            left = left.wrapping_sub(1);
        }
        let slots = free & !rest;
        if slots == 0 {
            return None;
        }
        word.compare_exchange(old, old | slots).ok()?;
        Some(Bundle::of(chunk, slots))
    }

    /// Takes a place in a bundle for a buffer of this size. [`None`] if there is none left; the bundle
    /// may have others for smaller ones.
    ///
    /// A buffer that is larger than a chunk has no place in a bundle.
    #[inline(always)]
    pub fn place_in(&self, bundle: &mut Bundle, size: usize) -> Option<Place> {
        let first = match bundle.take(size) {
            Some(first) => first,
            None => self.place_further(bundle, size)?,
        };
        let at = self.address(first);
        Some(Place { first, at })
    }

    /// As [`Slots::place_in`], in the next chunk.
    #[inline(never)]
    fn place_further(&self, bundle: &mut Bundle, size: usize) -> Option<usize> {
        if bundled_slots(size) == 0 {
            return None;
        }
        loop {
            let left = bundle.advance()?;
            bundle.missing = bundle.missing.wrapping_add(self.free_leaving(left));
            if let Some(first) = bundle.take(size) {
                return Some(first);
            }
        }
    }

    /// Gives a place for a buffer of this size back to the bundle that it was taken from last.
    pub fn unplace(&self, bundle: &mut Bundle, place: Place, size: usize) {
        let start = count(place.first & (CHUNK_SLOTS - 1));
        bundle.slots |= low(slots_of(size)).wrapping_shl(start);
    }

    /// As [`Slots::carry`], at a place. If it is right behind the mapping that was carried last, and
    /// that one has a whole number of slots, then it may be one that `follows` in the same segment;
    /// [`Slots::lead`] is owed to the first of them then.
    #[inline(always)]
    pub fn carry_in(&self, place: Place, phys: Phys, size: usize, owner: Owner, follows: bool) {
        self.write(place.first, phys, owner.listed(wide(size), follows));
    }

    /// Carries whole pages that follow each other, up to `most` and as many as the chunk at hand has room
    /// for, right behind the mapping that was carried last, as part of its segment; so they must be placed
    /// there (see [`Slots::page_in`]), and [`Slots::lead`] is owed, too. `each` is asked for one page after the
    /// other: it is told where the device will see it, and names the buffer, or ends the matter. Returns
    /// how many were carried.
    #[inline(always)]
    pub fn carry_pages(
        &self,
        bundle: &mut Bundle,
        most: usize,
        owner: Owner,
        mut each: impl FnMut(Machine) -> Option<Phys>,
    ) -> usize {
        let Some((first, pages)) = bundle.pages() else {
            return 0;
        };
        let end = first.wrapping_add(pages.min(most).wrapping_mul(PAGE_SLOTS));
        let live = owner.listed(PAGE_SIZE, true);
        let (mut slot, mut at) = (first, self.address(first));
        while slot != end {
            let Some(phys) = each(at) else {
                break;
            };
            self.write(slot, phys, live);
            slot = slot.wrapping_add(PAGE_SLOTS);
            at = Machine::new(at.raw().wrapping_add(PAGE_SIZE));
        }
        let slots = slot.wrapping_sub(first);
        bundle.slots &= !low(slots).wrapping_shl(count(first & (CHUNK_SLOTS - 1)));
        slots / PAGE_SLOTS
    }

    /// Where the next page would be placed, if that is in the chunk at hand.
    #[inline(always)]
    pub fn page_in(&self, bundle: &Bundle) -> Option<Machine> {
        bundle.pages().map(|(first, _)| self.address(first))
    }

    /// Marks the mapping that was carried at the machine address `at` as the first of several.
    #[inline]
    pub fn lead(&self, at: Machine) {
        if let Some([_, rest]) = self.words.record(self.inside(at)) {
            let word = rest.load();
            // Nobody was told of it yet; but who ends an older mapping twice may end this one, and it
            // stays so.
            let _ = rest.compare_exchange(word, leading(word));
        }
    }

    /// The slot of an address of this extent.
    #[inline(always)]
    fn inside(&self, at: Machine) -> usize {
        index(at.raw().wrapping_sub(self.base.raw()) >> SLOT_SHIFT)
    }

    /// Ends the mappings of the segment that begins at the machine address `at`, most often one. Of
    /// several callers one succeeds. Calls `each` with the offset in the extent, the buffer and the size of
    /// each, in bytes.
    /// [`None`] if no mapping is known there for one that begins with its run.
    #[inline(always)]
    pub fn retire_segment(
        &self,
        at: Machine,
        owner: Owner,
        mut each: impl FnMut(usize, Phys, usize),
    ) -> Option<Ended> {
        if at.raw() & (SLOT_SIZE - 1) != 0 {
            return None;
        }
        let first = self.inside(at);
        let (phys, live) = self.retire_at(first, owner, false)?;
        let mut ended = Ended {
            first,
            end: first,
            count: 0,
            bytes: 0,
        };
        let (mut phys, mut size) = (phys, size_of(live));
        let page = owner.listed(PAGE_SIZE, true);
        loop {
            each(ended.end.wrapping_shl(SLOT_SHIFT), phys, index(size));
            ended.count = ended.count.wrapping_add(1);
            ended.bytes = ended.bytes.wrapping_add(size);
            ended.end = ended.end.wrapping_add(slots_for(0, size));
            if !is_leading(live) {
                return Some(ended);
            }
            // What follows a page is another one as a rule, and then its record is known.
            if size == PAGE_SIZE {
                if let Some(follower) = self.retire_known(ended.end, page) {
                    phys = follower;
                    continue;
                }
            }
            match self.retire_at(ended.end, owner, true) {
                Some((follower, word)) => (phys, size) = (follower, size_of(word)),
                None => return Some(ended),
            }
        }
    }

    /// Ends the mapping at a slot, if it is one of a list.
    #[inline(always)]
    fn retire_at(&self, slot: usize, owner: Owner, follows: bool) -> Option<(Phys, u64)> {
        let [phys, rest] = self.words.record(slot)?;
        let live = rest.load();
        if !owner.has_listed(live, follows) {
            return None;
        }
        rest.compare_exchange(live, 0).ok()?;
        Some((Phys::new(phys.load()), live))
    }

    /// Ends the mapping at a slot, if the second word of its record is this one.
    #[inline(always)]
    fn retire_known(&self, slot: usize, live: u64) -> Option<Phys> {
        let [phys, rest] = self.words.record(slot)?;
        rest.compare_exchange(live, 0).ok()?;
        Some(Phys::new(phys.load()))
    }

    /// Frees the slots of a bundle that carry nothing. Returns how many slots were not in use: not 0
    /// means that the extent's state is corrupt.
    pub fn return_bundle(&self, bundle: Bundle) -> usize {
        let next = bundle.chunk.wrapping_add(1);
        let missing = if bundle.more > 0 {
            self.release(next.wrapping_mul(CHUNK_SLOTS), bundle.more)
        } else {
            0
        };
        let left = self.free_leaving(Leaving {
            chunk: bundle.chunk,
            slots: bundle.slots,
        });
        bundle.missing.wrapping_add(missing).wrapping_add(left)
    }

    /// Frees the slots of mappings that were ended, together with others of their chunk: when another
    /// chunk's turn comes, or at [`Slots::free_leaving`]. Returns as [`Slots::free`].
    #[inline(always)]
    pub fn free_with(&self, leaving: &mut Leaving, ended: Ended) -> usize {
        let slots = ended.end.wrapping_sub(ended.first);
        if slots > CHUNK_SLOTS && ended.count == 1 {
            return self.release(ended.first, slots);
        }
        let mut missing = 0usize;
        let mut first = ended.first;
        while first < ended.end {
            let (chunk, start) = (first / CHUNK_SLOTS, first & (CHUNK_SLOTS - 1));
            let stop = start.wrapping_add(ended.end.wrapping_sub(first));
            if chunk != leaving.chunk {
                let before = core::mem::take(leaving);
                leaving.chunk = chunk;
                missing = missing.wrapping_add(self.free_leaving(before));
            }
            leaving.slots |= between(start, stop);
            first = chunk.wrapping_add(1).wrapping_mul(CHUNK_SLOTS);
        }
        missing
    }

    /// Frees what was left by [`Slots::free_with`]. Returns as [`Slots::free`].
    #[inline(never)]
    pub fn free_leaving(&self, leaving: Leaving) -> usize {
        let Leaving { chunk, slots } = leaving;
        if slots == 0 {
            0
        } else if place_of(slots.count_ones()) > CHUNK_SLOTS / 2 {
            // As a run of that size, it had the chunk to itself as a rule.
            self.free_slowly(chunk, slots)
        } else {
            self.free_bits(chunk, slots)
        }
    }
}
