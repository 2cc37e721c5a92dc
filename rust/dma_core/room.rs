// SPDX-License-Identifier: GPL-2.0

//! How much room each chunk has: the length of its longest free run, a byte a chunk.
//!
//! Eight chunks share a word, so one load and two operations tell which of them can hold a run of
//! `n` slots. A search costs little even if nothing is found, and nothing that fits is missed.
//!
//! Lengths stop at half a chunk. So a chunk that has a free half before and after a change, which
//! is the common case, has the same byte, and nobody writes the word that eight chunks share.
//!
//! A byte is right whenever nobody is at work on its chunk. Whoever changes a chunk's word so that
//! its byte must change looks at the byte after that, and whoever changed the byte looks at the
//! chunk's word after that. Both changes are full barriers, so the later of the two sees the other.

use crate::{
    atomic::AtomicWord,
    bits::{
        count,
        half_free,
        longest,
        place_of,
        wide, //
    },
    words::Words, //
};

/// Chunks in a word of bytes.
pub(crate) const LANES: usize = 8;

/// Bits of a byte.
const LANE: u32 = 8;

/// The length where bytes stop.
const MOST: usize = 32;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The byte of a chunk with this word.
fn room(word: u64) -> u64 {
    wide(longest(!word).min(MOST))
}

/// A test for chunks that have a free run of a length, eight at a time.
#[derive(Clone, Copy)]
pub(crate) struct AtLeast {
    addend: u64,
}

impl AtLeast {
    /// For runs of `slots`, or of half a chunk if that is less.
    #[inline]
    pub(crate) const fn new(slots: usize) -> Self {
        let slots = if slots < MOST { slots } else { MOST };
        // Bytes are small, so that the highest bit of each is set by those that reach the length,
        // and nothing is carried to the next.
        Self {
            addend: ONES.wrapping_mul(wide(0x80usize.wrapping_sub(slots))),
        }
    }

    /// The chunks of a word that have it, as the highest bits of their bytes.
    #[inline]
    pub(crate) const fn of(self, word: u64) -> u64 {
        word.wrapping_add(self.addend) & HIGH
    }
}

/// The first chunk that [`AtLeast::of`] found, and the others.
#[inline]
pub(crate) const fn next(found: u64) -> Option<(usize, u64)> {
    if found == 0 {
        return None;
    }
    let lane = found.trailing_zeros() / LANE;
    Some((place_of(lane), found & found.wrapping_sub(1)))
}

impl<W: AtomicWord, B: AsRef<[W]>> Words<W, B> {
    /// Reports that a chunk's word went from `old` to `new`.
    #[inline]
    pub(crate) fn room_changed(&self, chunk: usize, old: u64, new: u64) {
        if !half_free(old | new) {
            self.room_may_have_changed(chunk, old, new);
        }
    }

    #[inline(never)]
    fn room_may_have_changed(&self, chunk: usize, old: u64, new: u64) {
        if room(old) != room(new) {
            self.put_room_right(chunk);
        }
    }

    /// Makes a chunk's byte what its word says.
    pub(crate) fn put_room_right(&self, chunk: usize) {
        let at = self.room(chunk / LANES);
        let shift = LANE.wrapping_mul(count(chunk & (LANES - 1)));
        let mut said = self.load(at);

        loop {
            let right = room(self.load(self.chunk(chunk)));
            let new = said & !0xffu64.wrapping_shl(shift) | right.wrapping_shl(shift);
            if new == said {
                return;
            }
            // After a success, too: the chunk may have changed before this was written.
            said = match self.replace(at, said, new) {
                Ok(()) => self.load(at),
                Err(now) => now,
            };
        }
    }
}
