// SPDX-License-Identifier: GPL-2.0

//! How much of an extent is in use, and taking all of it when nothing is.
//!
//! Nothing is counted when slots are claimed and released; whoever wants to know counts then. The
//! figures are exact while nothing changes, and honest while something does: each chunk is counted
//! as it was at some moment in between.

use core::iter;

use crate::{
    addr::Machine,
    atomic::{
        AtomicWord,
        Backing, //
    },
    bits::{
        longest,
        place_of,
        WORD, //
    },
    request::CHUNK_SLOTS,
    slots::Slots, //
};

/// All slots of an idle extent, so that it can go back to Xen. Dropping it keeps the extent closed.
#[derive(Debug)]
#[must_use = "an extent that stays seized serves nobody"]
pub struct Seized {
    base: Machine,
}

impl<W: AtomicWord, B: Backing<W>> Slots<W, B> {
    /// The slots in use. Looks at every chunk that is not free.
    pub fn used(&self) -> usize {
        self.taken_words().fold(0, |used: usize, word| {
            used.wrapping_add(place_of(word.count_ones()))
        })
    }

    /// Is there no room for any run? Of an extent that is not full one look tells it most often; of one that
    /// is, a word for each eight chunks.
    pub fn is_full(&self) -> bool {
        // In this order a chunk that is opened meanwhile is seen before or after.
        (0..self.words.map_len()).all(|word| self.words.free(word) == 0)
            && self.words.rooms().iter().all(|room| room.load() == 0)
    }

    /// The slots not in use. Looks at every chunk that is not free.
    pub fn available(&self) -> usize {
        self.slots.wrapping_sub(self.used())
    }

    /// The slots set apart now: see [`Slots::most_set_apart`].
    #[inline]
    pub fn set_apart(&self) -> usize {
        self.words.taken_now().wrapping_mul(CHUNK_SLOTS)
    }

    /// The most slots that were set apart at a time: all those of the chunks that were open for small
    /// runs or part of large ones.
    pub fn most_set_apart(&self) -> usize {
        self.words.most_taken().wrapping_mul(CHUNK_SLOTS)
    }

    /// The slots of the largest run that a claim without conditions would be given.
    pub fn largest_free_run(&self) -> usize {
        let (mut most, mut whole) = (0usize, 0usize);

        for chunk in 0..self.words.chunks() {
            let used = self.in_use(chunk);
            // A run goes beyond a chunk only if it begins and ends in chunks without other runs, above the
            // reserve.
            whole = if used == 0 && chunk >= self.reserve {
                whole.wrapping_add(CHUNK_SLOTS)
            } else {
                0
            };
            most = most.max(whole).max(longest(!used));
        }
        most
    }

    /// Is no slot in use? Looks at chunks that are not free.
    pub fn is_idle(&self) -> bool {
        self.taken_words().all(|word| word == 0)
    }

    /// Takes all slots of the extent, so that nothing can be claimed any more. [`None`] if something
    /// is in use, or if somebody claims something meanwhile.
    pub fn seize(&self) -> Option<Seized> {
        if self.take_chunks(0, self.words.chunks()) {
            Some(Seized { base: self.base })
        } else {
            None
        }
    }

    /// Opens a seized extent again.
    ///
    /// # Errors
    ///
    /// The token, if it is of another extent.
    pub fn unseize(&self, seized: Seized) -> Result<(), Seized> {
        if seized.base != self.base {
            return Err(seized);
        }
        self.give_chunks(0, self.words.chunks());
        Ok(())
    }

    /// The words of the chunks that are not free: their slots in use, as bits.
    fn taken_words(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.words.map_len()).flat_map(move |map| {
            let mut taken = !self.words.free(map) & self.words.in_word(map);
            iter::from_fn(move || {
                if taken == 0 {
                    return None;
                }
                let bit = place_of(taken.trailing_zeros());
                taken &= taken.wrapping_sub(1);
                let chunk = map.wrapping_mul(WORD).wrapping_add(bit);
                Some(self.words.load(self.words.chunk(chunk)))
            })
        })
    }

    /// The slots of a chunk that are in use, as bits.
    fn in_use(&self, chunk: usize) -> u64 {
        let free = self.words.free(chunk / WORD);
        if free & crate::bits::bit(chunk & (WORD - 1)) != 0 {
            0
        } else {
            self.words.load(self.words.chunk(chunk))
        }
    }
}
