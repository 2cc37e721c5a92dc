// SPDX-License-Identifier: GPL-2.0

//! The slot allocator of one extent.
//!
//! C source: [`kernel/dma/swiotlb.c`](srctree/kernel/dma/swiotlb.c)
//!
//! An extent is machine-contiguous memory, aligned to its size, in slots of 2 KiB. 64 slots are a
//! *chunk*, and the free ones among them are the zero bits of one word. A chunk is in one of three
//! states:
//!
//! * *free*: its taken bit is clear and its word is all ones, so that nobody finds room in it;
//! * *open*: its taken bit is set and its word says which slots small runs use;
//! * part of a *large* run: its taken bit is set and its word is all ones.
//!
//! A small run, up to 64 slots, lies in one open chunk and is claimed by one compare-and-swap of the
//! chunk's word. A large run claims free chunks by their taken bits, 64 of them at a time; of its
//! last chunk it takes only what it needs and opens it for small runs. Small runs are served from
//! the bottom of the extent, large ones from its top. Each processor begins at a chunk of its own,
//! its home, and goes on where it was served last, so that processors rarely meet.
//!
//! An extent may have a *reserve*, its first eighth, which large runs never touch: however greedy they
//! are, small runs find room there. Where the reserve is never changes, so nothing is counted for it, and
//! no race of claims and releases can use it up.
//!
//! No operation waits for another: a compare-and-swap fails only because another one succeeded.
//! None needs interrupts off.
//!
//! # Examples
//!
//! ```
//! use dma_core::{
//!     addr::{Machine, Phys},
//!     atomic::{AtomicWord, Backing},
//!     limits::Limits,
//!     record::{Misuse, Owner},
//!     slots::Slots,
//! };
//! use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
//!
//! struct Word(AtomicU64);
//! impl AtomicWord for Word {
//!     fn new(value: u64) -> Self { Word(AtomicU64::new(value)) }
//!     fn load(&self) -> u64 { self.0.load(SeqCst) }
//!     fn store(&self, value: u64) { self.0.store(value, SeqCst) }
//!     fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
//!         self.0.compare_exchange(old, new, SeqCst, SeqCst).map(|_| ())
//!     }
//! }
//!
//! struct Memory(Vec<Word>, Vec<[Word; 2]>);
//! impl Backing<Word> for Memory {
//!     fn words(&self) -> &[Word] { &self.0 }
//!     fn records(&self) -> &[[Word; 2]] { &self.1 }
//! }
//!
//! // An extent of 1 MiB, and one processor.
//! let word = || Word::new(0);
//! let memory = Memory(
//!     (0..Slots::<Word, Memory>::words(512)).map(|_| word()).collect(),
//!     (0..512).map(|_| [word(), word()]).collect(),
//! );
//! let slots = Slots::new(memory, Machine::new(0x1000_0000), 512, 1).unwrap();
//!
//! // Map 3000 bytes for a device.
//! let device = Owner::new(7).unwrap();
//! let buffer = Phys::new(0x12_3456_7890);
//! let request = slots.request(buffer, 3000, &Limits::new(0xffff_ffff, 0, !0, 0)).unwrap();
//! let run = slots.claim(&request, slots.home(0)).unwrap();
//! let at = slots.publish(run, buffer, 3000, device).unwrap().start();
//! assert_eq!(slots.used(), 2);
//!
//! // Sync the last 1000 bytes: they may be copied from and to here.
//! let later = Machine::new(at.raw() + 2000);
//! let record = slots.find(later, device).unwrap();
//! assert_eq!(record.part(later, 1000), Some(Phys::new(buffer.raw() + 2000)));
//! assert_eq!(record.part(later, 1001), None);
//!
//! // Unmap it, once.
//! let held = slots.retire(at, device).unwrap();
//! assert_eq!(slots.retire(at, device).unwrap_err(), Misuse::NotMapped);
//! assert_eq!(slots.free(held), 0);
//! assert!(slots.is_idle());
//! ```

use crate::{
    addr::{
        Machine,
        Phys, //
    },
    atomic::{
        AtomicWord,
        Backing, //
    },
    bits::{
        index,
        wide, //
    },
    fit::Fit,
    limits::Limits,
    record::{
        run_slots,
        slots_for,
        Held,
        Misuse,
        Owner,
        Record,
        Run, //
    },
    request::{
        ClaimError,
        Request,
        CHUNK_SLOTS,
        MAX_SLOTS,
        SLOT_SHIFT,
        SLOT_SIZE, //
    },
    words::{
        needed,
        Words, //
    }, //
};

/// The smallest extent, in slots.
pub const MIN_SLOTS: usize = 2 * CHUNK_SLOTS;

/// Which part of an extent its reserve is: one of so many, and at least a chunk.
const RESERVE: usize = 8;

/// The slots of one extent. All methods may be called in any context, from several processors.
pub struct Slots<W, B> {
    pub(crate) words: Words<W, B>,
    pub(crate) base: Machine,
    pub(crate) slots: usize,
    pub(crate) homes: usize,
    /// Chunks from the bottom on that no large run takes.
    pub(crate) reserve: usize,
}

/// As [`Held`], of a mapping that began with its run; it knows its extent. It must be freed, or its run
/// is lost.
#[must_use = "the run of a mapping that is dropped is never free again"]
pub struct HeldPlain<'a, W, B> {
    of: &'a Slots<W, B>,
    first: usize,
    phys: &'a W,
    slots: usize,
}

impl<W: AtomicWord, B: Backing<W>> HeldPlain<'_, W, B> {
    /// The buffer that the run stood in for.
    #[inline]
    pub fn phys(&self) -> Phys {
        // Nobody else writes the record of a mapping that was retired.
        Phys::new(self.phys.load())
    }

    /// The slots of the run.
    #[inline]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// As [`Slots::free`].
    #[inline(always)]
    pub fn free(self) -> usize {
        self.of.release(self.first, self.slots)
    }
}

impl<W: AtomicWord, B: Backing<W>> Slots<W, B> {
    /// How many words [`Slots::new`] needs for an extent of `slots`, besides a record for each slot.
    #[inline]
    pub const fn words(slots: usize) -> usize {
        needed(slots)
    }

    /// Describes an extent of `slots` at `base`, all of them free, for about `processors`.
    ///
    /// `words` holds [`Slots::words`] words and `slots` records, whatever is in them. [`None`] if it
    /// has fewer, if `slots` is
    /// not a power of two from [`MIN_SLOTS`] to [`MAX_SLOTS`], or if `base` is not aligned to the
    /// extent's size.
    pub fn new(words: B, base: Machine, slots: usize, processors: usize) -> Option<Self> {
        let size = wide(slots).checked_shl(SLOT_SHIFT)?;
        if !slots.is_power_of_two()
            || !(MIN_SLOTS..=MAX_SLOTS).contains(&slots)
            || base.raw() & size.wrapping_sub(1) != 0
            || base.checked_add(size).is_none()
        {
            return None;
        }

        let words = Words::new(words, slots)?;
        // Homes must leave room for large runs, so in a small extent processors share them.
        let most = (words.chunks() / 4).max(1);
        Some(Self {
            words,
            base,
            slots,
            homes: processors.clamp(1, most),
            reserve: 0,
        })
    }

    /// Keeps the first eighth of the extent, a chunk at least, for runs of up to [`CHUNK_SLOTS`].
    ///
    /// A run of half the extent still has its place in the upper half, under any alignment and any
    /// window that it could have in the lower one.
    #[inline]
    pub fn with_reserve(self) -> Self {
        Self {
            reserve: (self.words.chunks() / RESERVE).max(1),
            ..self
        }
    }

    /// How many slots only runs of up to [`CHUNK_SLOTS`] are given.
    #[inline]
    pub const fn reserve(&self) -> usize {
        self.reserve.wrapping_mul(CHUNK_SLOTS)
    }

    /// The extent's first machine address.
    #[inline]
    pub const fn base(&self) -> Machine {
        self.base
    }

    /// The extent's size in bytes.
    #[inline]
    pub const fn size(&self) -> u64 {
        wide(self.slots) << SLOT_SHIFT
    }

    /// The extent's size in slots.
    #[inline]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// What a mapping asks of this extent: see [`Request::for_mapping`].
    ///
    /// # Errors
    ///
    /// As [`Request::for_mapping`].
    #[inline]
    pub fn request(&self, phys: Phys, size: usize, limits: &Limits) -> Result<Request, ClaimError> {
        Request::for_mapping(self.base, phys, size, limits)
    }

    /// Claims a run. A small one is looked for from the chunk `near` on: where the processor was
    /// served last ([`Record::chunk`]), or its [`Slots::home`].
    ///
    /// A run of a page or more begins on a page as long as there is such a place.
    ///
    /// # Errors
    ///
    /// See [`ClaimError`].
    #[inline]
    pub fn claim(&self, request: &Request, near: usize) -> Result<Run, ClaimError> {
        if request.slots() > self.slots {
            return Err(ClaimError::TooLarge);
        }

        let first = if request.slots() <= CHUNK_SLOTS {
            let fit = Fit::new(request, self.words.chunks()).ok_or(ClaimError::Impossible)?;
            self.claim_small(&fit, self.words.wrap(near))?
        } else {
            self.claim_large(request)?
        };
        Ok(Run {
            base: self.base,
            first,
            slots: request.slots(),
            keep: request.keep(),
        })
    }

    /// Records what a run carries, from when on it can be found. C: `slot->orig_addr` and its like.
    ///
    /// # Errors
    ///
    /// The run, if it is of another extent or if `size` bytes of `phys` do not need just its slots.
    #[inline]
    pub fn publish(&self, run: Run, phys: Phys, size: usize, owner: Owner) -> Result<Record, Run> {
        let size = wide(size);
        let fits = size != 0 && size <= self.size() && run_slots(phys, size, run.keep) == run.slots;
        if run.base != self.base || !fits {
            return Err(run);
        }

        let record = Record::new(self.base, run.first, phys, size, owner, run.keep);
        self.write(run.first, phys, record.encode());
        Ok(record)
    }

    /// The common case of [`Slots::claim`] and [`Slots::publish`]: 1 to 4096 bytes, of which no
    /// address bits are kept, in the chunk `near`. They lie on one page, so that they cross no boundary
    /// that is a multiple of pages. Returns the mapping's machine address, or [`None`] if that chunk
    /// has no place or is changed by others at this moment.
    #[inline(always)]
    pub fn carry(&self, phys: Phys, size: usize, owner: Owner, near: usize) -> Option<Machine> {
        let first = self.claim_here(wide(size) > SLOT_SIZE, self.words.wrap(near))?;
        self.write(first, phys, owner.live(wide(size), 0));
        Some(self.address(first))
    }

    /// Writes the record of a run that is not published, its second word last.
    #[inline]
    pub(crate) fn write(&self, first: usize, phys: Phys, live: u64) {
        if let Some([at, rest]) = self.words.record(first) {
            at.store(phys.raw());
            rest.store(live);
        }
    }

    /// Gives back a run that was not published. Returns how many of its slots were not in use: not
    /// 0 means that the extent's state is corrupt.
    pub fn cancel(&self, run: Run) -> usize {
        if run.base != self.base {
            return run.slots;
        }
        self.release(run.first, run.slots)
    }

    /// Finds the mapping that the machine address `at` is part of.
    ///
    /// # Errors
    ///
    /// [`Misuse::OutOfRange`], [`Misuse::NotMapped`] or [`Misuse::NotOwner`].
    #[inline]
    pub fn find(&self, at: Machine, owner: Owner) -> Result<Record, Misuse> {
        let record = self.lookup(at)?;
        if record.owner() == owner {
            Ok(record)
        } else {
            Err(Misuse::NotOwner {
                owner: record.owner(),
            })
        }
    }

    /// Ends the mapping that begins at the machine address `at`. Of several callers one succeeds.
    /// Its bytes stay where they are until [`Slots::free`]. A segment of several mappings ends by
    /// [`Slots::retire_segment`] only.
    ///
    /// # Errors
    ///
    /// As [`Slots::find`], and [`Misuse::NotHead`] for an address inside the mapping, or inside the
    /// segment that it is part of.
    pub fn retire(&self, at: Machine, owner: Owner) -> Result<Held, Misuse> {
        let found = self.find(at, owner)?;
        if found.start() != at || found.follows() {
            return Err(Misuse::NotHead {
                head: self.head(found).start(),
            });
        }
        if found.leads() {
            return Err(Misuse::NotMapped);
        }
        let Some([phys, rest]) = self.words.record(found.first()) else {
            return Err(Misuse::OutOfRange);
        };
        let live = found.encode();
        if rest.compare_exchange(live, 0).is_err() {
            return Err(Misuse::NotMapped);
        }
        // From here on nobody else writes the record. If a mapping just like this one took its place
        // in between, then that is the one that ends, so take its address.
        Ok(Held::new(self.base, found.first(), phys.load(), live))
    }

    /// The common case of [`Slots::retire`]: a mapping of just this size that begins where its run
    /// does, because its buffer's address bits were not to be kept. [`None`] if it is not known for one.
    #[inline(always)]
    pub fn retire_plain(
        &self,
        at: Machine,
        size: usize,
        owner: Owner,
    ) -> Option<HeldPlain<'_, W, B>> {
        let inside = at.raw().wrapping_sub(self.base.raw());
        if inside & (SLOT_SIZE - 1) != 0 {
            return None;
        }
        let first = index(inside >> SLOT_SHIFT);
        let live = owner.plain(wide(size))?;
        let [phys, rest] = self.words.record(first)?;

        // What such a mapping's record says is known, so that it need not be read first.
        rest.compare_exchange(live, 0).ok()?;
        Some(HeldPlain {
            of: self,
            first,
            phys,
            slots: slots_for(0, wide(size)),
        })
    }

    /// Frees the slots of a mapping that was retired. Returns how many of them were not in use: not
    /// 0 means that the extent's state is corrupt.
    #[inline(always)]
    pub fn free(&self, held: Held) -> usize {
        if held.base != self.base {
            return held.slots();
        }
        self.release(held.first, held.slots())
    }

    #[inline(always)]
    pub(crate) fn release(&self, first: usize, slots: usize) -> usize {
        if slots <= CHUNK_SLOTS {
            self.free_small(first, slots)
        } else {
            self.free_large(first, slots)
        }
    }

    /// The chunk where a processor begins.
    pub fn home(&self, cpu: usize) -> usize {
        cpu.checked_rem(self.homes).unwrap_or(0)
    }

    /// The first record of the segment that a record is part of.
    #[cold]
    fn head(&self, record: Record) -> Record {
        let mut head = record;
        while head.follows() {
            let before = Machine::new(head.start().raw().wrapping_sub(1));
            match self.lookup(before) {
                Ok(record) => head = record,
                // The segment ends just now.
                Err(_) => break,
            }
        }
        head
    }

    /// The machine address of a slot.
    #[inline]
    pub(crate) const fn address(&self, slot: usize) -> Machine {
        Machine::new(self.base.raw().wrapping_add(wide(slot) << SLOT_SHIFT))
    }

    /// The slot that an address lies in.
    #[inline]
    fn slot(&self, at: Machine) -> Result<usize, Misuse> {
        match at.since(self.base) {
            Some(inside) if inside < self.size() => Ok(index(inside >> SLOT_SHIFT)),
            _ => Err(Misuse::OutOfRange),
        }
    }

    #[inline]
    fn lookup(&self, at: Machine) -> Result<Record, Misuse> {
        let slot = self.slot(at)?;
        let record = match self.record(slot) {
            Some(record) => record,
            None => self.look_back(slot).ok_or(Misuse::NotMapped)?,
        };

        // The run may end before the slot, and the mapping before the run.
        match record.part(at, 1) {
            Some(_) => Ok(record),
            None => Err(Misuse::NotMapped),
        }
    }

    /// The record of the run that begins at `slot`.
    #[inline]
    fn record(&self, slot: usize) -> Option<Record> {
        let [at, rest] = self.words.record(slot)?;
        let word = rest.load();
        let phys = at.load();
        let record = Record::decode(self.base, slot, phys, word)?;

        // The address belongs to the rest if that is still there: it is written in between.
        if rest.load() == word {
            Some(record)
        } else {
            None
        }
    }

    /// The last record before `slot`, in its chunk or at the head of a large run.
    #[cold]
    #[inline(never)]
    fn look_back(&self, slot: usize) -> Option<Record> {
        let mut chunk = slot / CHUNK_SLOTS;
        let within = chunk.wrapping_mul(CHUNK_SLOTS)..slot;

        if let Some(record) = within.rev().find_map(|slot| self.record(slot)) {
            return Some(record);
        }
        loop {
            chunk = chunk.checked_sub(1)?;
            // All chunks of a large run but the last are full.
            if self.words.load(self.words.chunk(chunk)) != u64::MAX {
                return None;
            }
            if let Some(record) = self.record(chunk.wrapping_mul(CHUNK_SLOTS)) {
                return Some(record);
            }
        }
    }
}
