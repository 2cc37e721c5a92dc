// SPDX-License-Identifier: GPL-2.0

//! What a run carries.
//!
//! Each run has one record, two words at its first slot: the buffer's address, and then in one
//! word whether it is live, the owner, the size, and how many low bits of the address are its
//! offset in the run. A record lives from the moment when that second word is written to the
//! moment when somebody replaces it by zero, and only one can: that is how a double unmap is
//! caught. Inner slots have no record, so looking one up walks back to the run's head.
//!
//! Buffers of a list may lie one after the other, so that the device sees them as one *segment*. Each
//! has a record all the same. A bit of the first one says that it *leads*, and a bit of each other that
//! it *follows* the one before it. The first one stands for the segment: who ends it, ends all.

use crate::{
    addr::{
        Machine,
        Phys,
        PAGE_SHIFT, //
    },
    bits::{
        index,
        wide, //
    },
    request::{
        kept,
        whole_pages,
        CHUNK_SLOTS,
        SLOT_SHIFT,
        SLOT_SIZE, //
    }, //
};

const LIVE: u64 = 1 << 63;
const LEADS: u64 = 1 << 62;
const FOLLOWS: u64 = 1 << 61;
const KEEP_SHIFT: u32 = 56;
const KEEP_MASK: u64 = 0x1f;
const OWNER_SHIFT: u32 = 32;
const OWNER_MASK: u64 = ((1 << KEEP_SHIFT) - 1) & !SIZE_MASK;
const SIZE_MASK: u64 = (1 << OWNER_SHIFT) - 1;

/// Who made a mapping: a number that the caller gives each device.
///
/// Kept as the second word of a live record without size and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Owner(u64);

impl Owner {
    /// Bits in an owner's number.
    pub const BITS: u32 = KEEP_SHIFT - OWNER_SHIFT;

    /// Names an owner; [`None`] if the number has more than [`Owner::BITS`].
    #[inline]
    pub const fn new(number: u32) -> Option<Self> {
        if number >> Self::BITS == 0 {
            // CAST: Widens.
            Some(Self(LIVE | ((number as u64) << OWNER_SHIFT)))
        } else {
            None
        }
    }

    /// The owner of a live record with this second word.
    #[inline]
    const fn of(word: u64) -> Self {
        Self(word & (LIVE | OWNER_MASK))
    }

    /// The owner's number.
    #[inline]
    pub const fn raw(self) -> u32 {
        // CAST: The value has fewer than 32 bits.
        ((self.0 & OWNER_MASK) >> OWNER_SHIFT) as u32
    }

    /// The second word of a live record of this owner's. The size fits, as no run is larger than
    /// 1 GiB.
    #[inline]
    pub(crate) const fn live(self, size: u64, keep: u32) -> u64 {
        // CAST: Widens.
        self.0 | ((keep as u64) << KEEP_SHIFT) | (size & SIZE_MASK)
    }

    /// The second word of a live record of this owner's, for a mapping that begins with its run whatever
    /// the buffer's address is, and that no other one follows or leads to. [`None`] if no mapping can
    /// have this size.
    #[inline]
    pub(crate) const fn plain(self, size: u64) -> Option<u64> {
        if size > SIZE_MASK {
            return None;
        }
        Some(self.0 | size)
    }

    /// Is this the second word of a live record of this owner's, for a mapping of a list that begins
    /// with its run, and that is the first of a segment, or one that `follows`?
    #[inline]
    pub(crate) const fn has_listed(self, word: u64, follows: bool) -> bool {
        word & !(SIZE_MASK | LEADS) == self.following(follows)
    }

    /// Marks that a mapping `follows` another one.
    #[inline]
    const fn following(self, follows: bool) -> u64 {
        if follows {
            self.0 | FOLLOWS
        } else {
            self.0
        }
    }

    /// As [`Owner::live`], for a mapping of a list that begins with its run.
    #[inline]
    pub(crate) const fn listed(self, size: u64, follows: bool) -> u64 {
        self.following(follows) | (size & SIZE_MASK)
    }
}

/// The size of a mapping, from the second word of its record.
#[inline]
pub(crate) const fn size_of(word: u64) -> u64 {
    word & SIZE_MASK
}

/// Is a mapping the first of several, by the second word of its record?
#[inline]
pub(crate) const fn is_leading(word: u64) -> bool {
    word & LEADS != 0
}

/// How many low bits of the address are its offset in the run.
#[inline]
const fn keep_of(word: u64) -> u32 {
    // CAST: The value is masked to a few bits.
    ((word >> KEEP_SHIFT) & KEEP_MASK) as u32
}

/// The second word of a live record, which is the first of several from now on.
#[inline]
pub(crate) const fn leading(word: u64) -> u64 {
    word | LEADS
}

/// A mapping that goes through an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    phys: Phys,
    size: u64,
    owner: Owner,
    start: Machine,
    first: usize,
    slots: usize,
    keep: u32,
    /// Its place in a segment: [`LEADS`] and [`FOLLOWS`].
    links: u64,
}

impl Record {
    /// The second word.
    #[inline]
    pub(crate) const fn encode(&self) -> u64 {
        self.owner.live(self.size, self.keep) | self.links
    }

    /// Decodes the words of the slot `first` of an extent at `base`; [`None`] if they are dead.
    #[inline]
    pub(crate) const fn decode(base: Machine, first: usize, phys: u64, word: u64) -> Option<Self> {
        if word & LIVE == 0 {
            return None;
        }
        Some(Self::of(base, first, phys, word))
    }

    /// As [`Record::decode`], for words that were live.
    #[inline]
    pub(crate) const fn of(base: Machine, first: usize, phys: u64, word: u64) -> Self {
        let (owner, keep) = (Owner::of(word), keep_of(word));
        Self {
            links: word & (LEADS | FOLLOWS),
            ..Self::new(base, first, Phys::new(phys), word & SIZE_MASK, owner, keep)
        }
    }

    #[inline]
    pub(crate) const fn new(
        base: Machine,
        first: usize,
        phys: Phys,
        size: u64,
        owner: Owner,
        keep: u32,
    ) -> Self {
        let offset = kept(phys, keep);
        let run = base.raw().wrapping_add(wide(first) << SLOT_SHIFT);

        Self {
            phys,
            size,
            owner,
            start: Machine::new(run.wrapping_add(offset)),
            first,
            slots: run_slots(phys, size, keep),
            keep,
            links: 0,
        }
    }

    /// Is it the first of a segment of several?
    #[inline]
    pub const fn leads(&self) -> bool {
        self.links & LEADS != 0
    }

    /// Does the device see it right behind another buffer of the same list, in the same segment?
    #[inline]
    pub const fn follows(&self) -> bool {
        self.links & FOLLOWS != 0
    }

    /// The machine address behind the mapping's last byte.
    #[inline]
    pub const fn end(&self) -> Machine {
        Machine::new(self.start.raw().wrapping_add(self.size))
    }

    /// The buffer that the run stands in for.
    #[inline]
    pub const fn phys(&self) -> Phys {
        self.phys
    }

    /// The mapping's size in bytes.
    #[inline]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Who made the mapping.
    #[inline]
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    /// The machine address of the mapping's first byte: what the device was given.
    #[inline]
    pub const fn start(&self) -> Machine {
        self.start
    }

    /// The slots of the run.
    #[inline]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// Does the run lie in one chunk, among others?
    #[inline]
    pub const fn is_small(&self) -> bool {
        self.slots <= CHUNK_SLOTS
    }

    /// The chunk that the run begins in: if it is a small one, a good place to look for the next one.
    #[inline]
    pub const fn chunk(&self) -> usize {
        self.first / CHUNK_SLOTS
    }

    /// The run's first slot.
    #[inline]
    pub(crate) const fn first(&self) -> usize {
        self.first
    }

    /// Where in the buffer the `size` bytes at the machine address `at` belong; [`None`] if they
    /// are not all part of the mapping.
    ///
    /// This is the bounds check of a sync: C copies beyond the buffer if it is asked to.
    #[inline]
    pub const fn part(&self, at: Machine, size: u64) -> Option<Phys> {
        match at.since(self.start) {
            Some(skip) => match self.size.checked_sub(skip) {
                Some(rest) if size <= rest => self.phys.checked_add(skip),
                _ => None,
            },
            None => None,
        }
    }
}

/// The slots of a run that keeps so many low bits of the buffer's address. With those of a page it
/// consists of whole pages.
#[inline]
pub(crate) const fn run_slots(phys: Phys, size: u64, keep: u32) -> usize {
    let slots = slots_for(kept(phys, keep), size);
    if keep < PAGE_SHIFT {
        slots
    } else {
        whole_pages(slots)
    }
}

/// The slots that `size` bytes need from `offset` bytes into a run; both fit 32 bits.
#[inline]
pub(crate) const fn slots_for(offset: u64, size: u64) -> usize {
    index(offset.wrapping_add(size).wrapping_add(SLOT_SIZE - 1) >> SLOT_SHIFT)
}

/// What is wrong with an address that should belong to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// The address lies outside the extent.
    OutOfRange,
    /// No mapping is there, or no longer.
    NotMapped,
    /// The mapping belongs to somebody else.
    NotOwner {
        /// Whose it is.
        owner: Owner,
    },
    /// The mapping begins elsewhere.
    NotHead {
        /// Where it begins.
        head: Machine,
    },
}

/// A claimed run that carries nothing yet. It must be published or cancelled, or it is lost.
#[derive(Debug)]
#[must_use = "a run that is dropped is never free again"]
pub struct Run {
    pub(crate) base: Machine,
    pub(crate) first: usize,
    pub(crate) slots: usize,
    pub(crate) keep: u32,
}

impl Run {
    /// The machine address of the run's first slot.
    #[inline]
    pub const fn start(&self) -> Machine {
        Machine::new(self.base.raw().wrapping_add(wide(self.first) << SLOT_SHIFT))
    }

    /// The slots of the run.
    #[inline]
    pub const fn slots(&self) -> usize {
        self.slots
    }
}

/// A mapping that nobody can find any more, but whose slots are not free yet: the time to copy its
/// bytes out. It must be given to `free`, or its run is lost.
#[derive(Debug)]
#[must_use = "the run of a mapping that is dropped is never free again"]
pub struct Held {
    pub(crate) base: Machine,
    pub(crate) first: usize,
    phys: Phys,
    size: u64,
    slots: usize,
    owner: Owner,
}

impl Held {
    /// Takes over the words of a record that was ended.
    #[inline]
    pub(crate) const fn new(base: Machine, first: usize, phys: u64, word: u64) -> Self {
        let (phys, size) = (Phys::new(phys), word & SIZE_MASK);
        Self {
            base,
            first,
            phys,
            size,
            slots: run_slots(phys, size, keep_of(word)),
            owner: Owner::of(word),
        }
    }

    /// The buffer that the run stood in for.
    #[inline]
    pub const fn phys(&self) -> Phys {
        self.phys
    }

    /// The mapping's size in bytes.
    #[inline]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Who made the mapping.
    #[inline]
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    /// The machine address of the run's first slot.
    #[inline]
    pub const fn run(&self) -> Machine {
        Machine::new(self.base.raw().wrapping_add(wide(self.first) << SLOT_SHIFT))
    }

    /// The slots of the run.
    #[inline]
    pub const fn slots(&self) -> usize {
        self.slots
    }
}
