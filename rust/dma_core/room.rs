// SPDX-License-Identifier: GPL-2.0

//! How much room each chunk has: the length of its longest free run, a byte a chunk.
//!
//! Eight chunks share a word, so one load and two operations tell which of them can hold a run of
//! `n` slots. A search costs little even if nothing is found, and nothing that fits is missed.
//!
//! Lengths stop at half a chunk. A byte is never too low, once those at work on the chunk are done:
//! who releases slots looks at the byte after that and raises it if need be. It may be too high for
//! the few chunks where processors claim run after run, since nothing is written there; who leaves
//! such a chunk, or looks for room in vain, puts its byte right.
//!
//! Who changed a byte looks at the chunk's word after that. Changes of both are full barriers, so of
//! a release and somebody who lowers the byte the later one sees the other.

use crate::{
    atomic::{
        AtomicWord,
        Backing, //
    },
    bits::{
        around,
        count,
        longest,
        low,
        place_of,
        wide,
        WORD, //
    },
    words::Words, //
};

/// Chunks in a word of bytes.
pub(crate) const LANES: usize = 8;

/// Words that [`AtLeast::position`] looks at together.
const BLOCK: usize = 8;

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

/// Where the byte of a chunk begins in its word.
#[inline]
const fn shift(chunk: usize) -> u32 {
    LANE.wrapping_mul(count(chunk & (LANES - 1)))
}

/// The bytes of the chunks whose bits are among the lowest eight.
#[inline]
pub(crate) const fn bytes_of(chunks: u64) -> u64 {
    // Bit `n` of each byte, and of these that of byte `n`; then whether there is one.
    let bits = chunks.wrapping_mul(ONES) & 0x8040_2010_0804_0201;
    let high = bits.wrapping_add(!HIGH);
    ((high & HIGH) >> (LANE - 1)).wrapping_mul(0xff)
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

    /// The first of these words that has such a chunk. Most often none has, so it looks at several at a
    /// time.
    #[inline]
    pub(crate) fn position<W: AtomicWord>(self, words: &[W]) -> Option<usize> {
        let blocks = words.chunks_exact(BLOCK);
        let rest = words.len().wrapping_sub(blocks.remainder().len());
        for (number, block) in blocks.enumerate() {
            if block.iter().fold(0, |any, word| any | self.of(word.load())) != 0 {
                // Somebody may have been there in between.
                if let Some(inside) = self.find(block) {
                    return Some(number.wrapping_mul(BLOCK).wrapping_add(inside));
                }
            }
        }
        let inside = self.find(words.get(rest..)?)?;
        Some(rest.wrapping_add(inside))
    }

    #[inline]
    fn find<W: AtomicWord>(self, words: &[W]) -> Option<usize> {
        words.iter().position(|word| self.of(word.load()) != 0)
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

impl<W: AtomicWord, B: Backing<W>> Words<W, B> {
    /// Reports that a run around `slot` of a chunk was released from its word `old`, which is now
    /// `new`.
    #[inline(always)]
    pub(crate) fn room_grew(&self, chunk: usize, slot: u32, old: u64, new: u64) {
        // With half of it free the byte was as high as can be.
        if old >> 32 == 0 {
            return;
        }
        let length = wide(around(!new, slot).min(MOST));
        let said = self.load(self.room(chunk / LANES));
        if length > said.wrapping_shr(shift(chunk)) & 0xff {
            self.put_room_right(chunk);
        }
    }

    /// Reports that slots of a chunk were released from its word `old`.
    #[inline]
    pub(crate) fn room_may_have_grown(&self, chunk: usize, old: u64) {
        if old >> 32 != 0 {
            self.put_room_right(chunk);
        }
    }

    /// Notes that a chunk is full for as long as the caller wants: only the caller can change its word.
    #[inline]
    pub(crate) fn no_room(&self, chunk: usize) {
        let byte = 0xffu64.wrapping_shl(shift(chunk));
        self.clear(self.room(chunk / LANES), byte);
    }

    /// As [`Words::no_room`], for these chunks among the 64 of a word of the taken bits.
    pub(crate) fn no_room_in(&self, word: usize, chunks: u64) {
        let first = self.room(word.wrapping_mul(WORD / LANES));
        let mut rest = chunks;
        let mut at = first;
        while rest != 0 {
            let bytes = bytes_of(rest & low(LANES));
            if bytes != 0 {
                self.clear(at, bytes);
            }
            rest = rest.wrapping_shr(count(LANES));
            at = at.wrapping_add(1);
        }
    }

    /// Makes a chunk's byte what its word says.
    #[inline(never)]
    pub(crate) fn put_room_right(&self, chunk: usize) {
        let at = self.room(chunk / LANES);
        let shift = shift(chunk);
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
