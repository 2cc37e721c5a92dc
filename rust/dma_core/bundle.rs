// SPDX-License-Identifier: GPL-2.0

//! Several pages of a chunk at once, for lists of buffers.
//!
//! The pages of a list are claimed and freed by one compare-and-swap for each chunk that they lie in.
//! Each still carries a mapping of its own, with its own record, so that whoever knows the address of
//! one may sync or unmap it as if it had been mapped alone.

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
        bit,
        count,
        every,
        place_of,
        wide, //
    },
    record::{
        Held,
        Owner, //
    },
    request::{
        CHUNK_SLOTS,
        SLOT_SIZE, //
    },
    slots::Slots, //
};

/// The two slots of a page.
const PAGE: u64 = 3;

/// Pages of one chunk that are claimed and carry nothing yet. It must be given to
/// [`Slots::return_pages`], or what is left of it is lost.
#[derive(Debug)]
#[must_use = "pages that are dropped are never free again"]
pub struct Bundle {
    chunk: usize,
    /// The first slot of each page.
    pages: u64,
}

impl Bundle {
    /// Is there a page left?
    #[inline]
    pub const fn has_more(&self) -> bool {
        self.pages != 0
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
    /// Claims up to `most` pages in the chunk `near`. [`None`] if there are none, or if others change
    /// the chunk at this moment.
    #[inline]
    pub fn claim_pages(&self, most: usize, near: usize) -> Option<Bundle> {
        let chunk = self.words.wrap(near);
        let word = self.words.chunk_word(chunk)?;
        let old = word.load();
        let free = !old & (!old >> 1) & every(1);

        // The lowest ones: take away what is behind them.
        let mut rest = free;
        let mut left = most;
        while rest != 0 && left != 0 {
            rest &= rest.wrapping_sub(1);
            left = left.wrapping_sub(1);
        }
        let pages = free & !rest;
        if pages == 0 {
            return None;
        }
        word.compare_exchange(old, old | pages.wrapping_mul(PAGE))
            .ok()?;
        Some(Bundle { chunk, pages })
    }

    /// As [`Slots::carry`], on the next page of a bundle. [`None`] if there is none left, and for a
    /// buffer that does not need the two slots of a page.
    #[inline(always)]
    pub fn carry_in(
        &self,
        bundle: &mut Bundle,
        phys: Phys,
        size: usize,
        owner: Owner,
    ) -> Option<Machine> {
        if bundle.pages == 0 || wide(size) <= SLOT_SIZE {
            return None;
        }
        let start = place_of(bundle.pages.trailing_zeros());
        bundle.pages &= bundle.pages.wrapping_sub(1);

        let first = bundle.chunk.wrapping_mul(CHUNK_SLOTS).wrapping_add(start);
        self.write(first, phys, owner.live(wide(size), 0));
        Some(self.address(first))
    }

    /// Frees the pages of a bundle that carry nothing. Returns how many slots were not in use: not 0
    /// means that the extent's state is corrupt.
    #[inline]
    pub fn return_pages(&self, bundle: Bundle) -> usize {
        if bundle.pages == 0 {
            return 0;
        }
        self.free_bits(bundle.chunk, bundle.pages.wrapping_mul(PAGE))
    }

    /// Frees the slots of a mapping that was retired, together with others of its chunk: when another
    /// chunk's turn comes, or at [`Slots::free_leaving`]. Returns as [`Slots::free`].
    #[inline(always)]
    pub fn free_with(&self, leaving: &mut Leaving, held: Held) -> usize {
        if held.slots() > CHUNK_SLOTS / 2 || held.base != self.base {
            return self.free(held);
        }
        let (chunk, start) = (held.first / CHUNK_SLOTS, held.first & (CHUNK_SLOTS - 1));
        let run = bit(held.slots()).wrapping_sub(1).wrapping_shl(count(start));
        let missing = if chunk == leaving.chunk {
            0
        } else {
            let before = core::mem::take(leaving);
            leaving.chunk = chunk;
            self.free_leaving(before)
        };
        leaving.slots |= run;
        missing
    }

    /// Frees what was left by [`Slots::free_with`]. Returns as [`Slots::free`].
    #[inline(never)]
    pub fn free_leaving(&self, leaving: Leaving) -> usize {
        if leaving.slots == 0 {
            return 0;
        }
        self.free_bits(leaving.chunk, leaving.slots)
    }
}
