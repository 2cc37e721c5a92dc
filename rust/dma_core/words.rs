// SPDX-License-Identifier: GPL-2.0

//! The words of an extent, and what each of them means.
//!
//! All state of an extent lies in memory that the caller brings. There are the records, a pair of
//! words for each slot that says what the run that begins there carries, and there are maps, in one
//! slice. Its sections, in this order:
//!
//! | section | words | a bit or a word says |
//! |---|---|---|
//! | chunks | 1 a chunk | one bit a slot: not free |
//! | taken | 1 for 64 chunks | one bit a chunk: open for small runs, or part of a large one |
//! | room | 1 for 8 chunks | one byte a chunk: the longest free run |
//! | counts | 3 | chunks that are taken, the most that were, and searches that are to be careful |
//!
//! Chunks that follow each other have their words in different cache lines: they are the homes of
//! different processors.

use core::marker::PhantomData;

use crate::{
    atomic::{
        AtomicWord,
        Backing, //
    },
    bits::{
        count,
        index,
        low,
        wide,
        WORD, //
    },
    request::CHUNK_SLOTS,
    room::LANES, //
};

/// How far apart the words of two chunks are that follow each other: more than the eight of a cache line, and
/// odd, so that each chunk has a word of its own among a power of two of them.
const STRIDE: usize = 9;

/// Words of counts: chunks taken now, and at most; careful searches.
const COUNTS: usize = 3;

/// How many searches are careful after one found no room: more than the request needs that is made
/// again then.
const CAREFUL: u64 = 256;

/// The sections of an extent's slice.
pub(crate) struct Words<W, B> {
    words: B,
    chunks: usize,
    /// The number of chunks, a power of two, less one.
    chunk_mask: usize,
    /// Words of a bitmap with one bit a chunk: a power of two.
    map: usize,
    /// Where the counts are.
    counts: usize,
    _words: PhantomData<W>,
}

/// Words of a bitmap with one bit for each of `chunks`.
const fn map_words(chunks: usize) -> usize {
    chunks.div_ceil(WORD)
}

/// Words of bytes, one for each of `chunks`.
const fn room_words(chunks: usize) -> usize {
    chunks.div_ceil(LANES)
}

/// Words before the counts.
const fn before_counts(chunks: usize) -> usize {
    chunks
        .saturating_add(map_words(chunks))
        .saturating_add(room_words(chunks))
}

/// Words of the maps of an extent of `slots`.
pub(crate) const fn needed(slots: usize) -> usize {
    before_counts(slots / CHUNK_SLOTS).saturating_add(COUNTS)
}

impl<W: AtomicWord, B: Backing<W>> Words<W, B> {
    /// Makes every chunk free and every record dead; `slots` is a power of two.
    pub(crate) fn new(words: B, slots: usize) -> Option<Self> {
        let chunks = slots / CHUNK_SLOTS;
        let new = Self {
            words,
            chunks,
            chunk_mask: chunks.wrapping_sub(1),
            map: map_words(chunks),
            counts: before_counts(chunks),
            _words: PhantomData,
        };

        let maps = new.words.words().get(..needed(slots))?;
        let records = new.words.records().get(..slots)?;
        for (at, word) in maps.iter().chain(records.as_flattened()).enumerate() {
            let empty = if at < chunks { u64::MAX } else { 0 };
            if word.load() != empty {
                word.store(empty);
            }
        }
        Some(new)
    }

    #[inline]
    pub(crate) const fn chunks(&self) -> usize {
        self.chunks
    }

    /// A chunk of this extent, whatever the number.
    #[inline]
    pub(crate) const fn wrap(&self, chunk: usize) -> usize {
        chunk & self.chunk_mask
    }

    /// Words of the taken bits: a power of two.
    #[inline]
    pub(crate) const fn map_len(&self) -> usize {
        self.map
    }

    /// Words of the bytes: a power of two.
    #[inline]
    pub(crate) const fn room_len(&self) -> usize {
        room_words(self.chunks)
    }

    /// The bits of a map's word that stand for chunks.
    #[inline]
    pub(crate) const fn in_word(&self, word: usize) -> u64 {
        low(self.chunks.saturating_sub(word.wrapping_mul(WORD)))
    }

    /// Where the word of a chunk is.
    #[inline]
    pub(crate) const fn chunk(&self, chunk: usize) -> usize {
        chunk.wrapping_mul(STRIDE) & self.chunk_mask
    }

    /// The word of a chunk.
    #[inline]
    pub(crate) fn chunk_word(&self, chunk: usize) -> Option<&W> {
        self.words.words().get(self.chunk(chunk))
    }

    /// The chunks among the eight from `first` on, a multiple of eight, whose word is zero.
    pub(crate) fn empty_from(&self, first: usize) -> u64 {
        let bit = |lane: usize, word: &W| u64::from(word.load() == 0).wrapping_shl(count(lane));
        let lanes = LANES.min(self.chunks.wrapping_sub(first));
        (0..lanes).fold(0, |all, lane| {
            let word = self.chunk_word(first.wrapping_add(lane));
            all | word.map_or(0, |word| bit(lane, word))
        })
    }

    /// The words of the bytes.
    pub(crate) fn rooms(&self) -> &[W] {
        let first = self.room(0);
        let all = first..first.wrapping_add(self.room_len());
        self.words.words().get(all).unwrap_or(&[])
    }

    /// Where a word of the taken bits is.
    #[inline]
    pub(crate) const fn taken(&self, word: usize) -> usize {
        self.chunks.wrapping_add(word)
    }

    /// Where a word of the bytes is.
    #[inline]
    pub(crate) const fn room(&self, word: usize) -> usize {
        self.chunks.wrapping_add(self.map).wrapping_add(word)
    }

    /// The record of a slot: the buffer's address, and the rest.
    #[inline]
    pub(crate) fn record(&self, slot: usize) -> Option<&[W; 2]> {
        self.words.records().get(slot)
    }

    /// The chunks of a word of the taken bits that are free.
    #[inline]
    pub(crate) fn free(&self, word: usize) -> u64 {
        !self.load(self.taken(word)) & self.in_word(word)
    }

    /// Reads a word. One that is not there is full.
    #[inline]
    pub(crate) fn load(&self, at: usize) -> u64 {
        match self.words.words().get(at) {
            Some(word) => word.load(),
            None => u64::MAX,
        }
    }

    /// Replaces `old` by `new`, or says what was there.
    #[inline]
    pub(crate) fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        match self.words.words().get(at) {
            Some(word) => word.compare_exchange(old, new),
            None => Err(u64::MAX),
        }
    }

    /// Sets all of `bits` if none of them is set.
    ///
    /// Tries again when other bits of the word change, so it fails only for these bits.
    #[inline]
    pub(crate) fn take(&self, at: usize, bits: u64) -> bool {
        let mut old = self.load(at);

        while old & bits == 0 {
            match self.replace(at, old, old | bits) {
                Ok(()) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// Clears `bits`, without writing if they are clear. Returns those that were set.
    #[inline]
    pub(crate) fn clear(&self, at: usize, bits: u64) -> u64 {
        let Some(word) = self.words.words().get(at) else {
            return 0;
        };
        let mut old = word.load();

        while old & bits != 0 {
            match word.compare_exchange(old, old & !bits) {
                Ok(()) => return old & bits,
                Err(now) => old = now,
            }
        }
        0
    }

    /// Counts chunks that were taken.
    pub(crate) fn took(&self, chunks: usize) {
        let at = self.counts;
        let taken = self.update(at, |taken| taken.wrapping_add(wide(chunks)));
        self.update(at.wrapping_add(1), |most| most.max(taken));
    }

    /// Counts chunks that are taken no longer.
    pub(crate) fn gave(&self, chunks: usize) {
        let at = self.counts;
        self.update(at, |taken| taken.wrapping_sub(wide(chunks)));
    }

    /// The chunks that are taken now; a little behind while others take and give some.
    pub(crate) fn taken_now(&self) -> usize {
        index(self.load(self.counts))
    }

    /// The most chunks that were taken at a time.
    pub(crate) fn most_taken(&self) -> usize {
        index(self.load(self.counts.wrapping_add(1)))
    }

    /// Has the next searches be careful.
    pub(crate) fn take_care(&self) {
        self.update(self.counts.wrapping_add(2), |_| CAREFUL);
    }

    /// Is this search to be careful?
    #[inline]
    pub(crate) fn careful(&self) -> bool {
        let at = self.counts.wrapping_add(2);
        let left = self.load(at);
        if left == 0 {
            return false;
        }
        // If another one counted, that will do.
        let _ = self.replace(at, left, left.wrapping_sub(1));
        true
    }

    /// Replaces a word by what `change` makes of it, and returns that.
    fn update(&self, at: usize, change: impl Fn(u64) -> u64) -> u64 {
        let mut old = self.load(at);

        loop {
            let new = change(old);
            if new == old {
                return new;
            }
            match self.replace(at, old, new) {
                Ok(()) => return new,
                // A word that is not there stays what it is.
                Err(now) if now == old => return old,
                Err(now) => old = now,
            }
        }
    }
}
