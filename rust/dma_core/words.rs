// SPDX-License-Identifier: GPL-2.0

//! The words of an extent, and what each of them means.
//!
//! All state of an extent lies in one slice, so that the caller allocates once and outside of any
//! lock. Its sections, in this order:
//!
//! | section | words | a bit or a word says |
//! |---|---|---|
//! | chunks | 1 a chunk | one bit a slot: not free |
//! | taken | 1 for 64 chunks | one bit a chunk: open for small runs, or part of a large one |
//! | hints | 6 times as many | one bit a chunk: it may have a free block of this class |
//! | records | 2 a slot | what the run that begins here carries |
//!
//! Chunks that follow each other have their words in different cache lines: they are the homes of
//! different processors.

use core::marker::PhantomData;

use crate::{
    atomic::AtomicWord,
    bits::{
        low,
        place_of,
        CLASSES,
        WORD, //
    },
    request::CHUNK_SLOTS,
};

/// Words in a cache line.
const LINE: usize = 8;

/// Bitmaps with one bit a chunk: the taken bits, and the hints of each class.
const MAPS: usize = 1 + place_of(CLASSES);

/// Words in a record.
const RECORD: usize = 2;

/// A bitmap with one bit a chunk.
#[derive(Clone, Copy)]
pub(crate) enum Map {
    /// Chunks that are neither open nor part of a large run.
    Free,
    /// Open chunks that may have a free block of this class.
    Hint(u32),
}

/// The sections of an extent's slice.
pub(crate) struct Words<W, B> {
    words: B,
    chunks: usize,
    /// Words of a bitmap with one bit a chunk.
    map: usize,
    /// Cache lines of the chunk section, less one.
    line_mask: usize,
    /// Logarithm of their number.
    line_shift: u32,
    _words: PhantomData<W>,
}

/// Words of a bitmap with one bit for each of `chunks`.
const fn map_words(chunks: usize) -> usize {
    chunks.div_ceil(WORD)
}

/// Words for an extent of `slots`.
pub(crate) const fn needed(slots: usize) -> usize {
    let chunks = slots / CHUNK_SLOTS;
    let maps = map_words(chunks).saturating_mul(MAPS);

    chunks
        .saturating_add(maps)
        .saturating_add(slots.saturating_mul(RECORD))
}

impl<W: AtomicWord, B: AsRef<[W]>> Words<W, B> {
    /// Makes every chunk free and every record dead; `slots` is a power of two.
    pub(crate) fn new(words: B, slots: usize) -> Option<Self> {
        let chunks = slots / CHUNK_SLOTS;
        let lines = (chunks / LINE).max(1);
        let new = Self {
            words,
            chunks,
            map: map_words(chunks),
            line_mask: lines.wrapping_sub(1),
            line_shift: lines.trailing_zeros(),
            _words: PhantomData,
        };

        let section = new.words.as_ref().get(..needed(slots))?;
        for (at, word) in section.iter().enumerate() {
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

    /// Words of a [`Map`]: a power of two.
    #[inline]
    pub(crate) const fn map_len(&self) -> usize {
        self.map
    }

    /// The bits of a map's word that stand for chunks.
    #[inline]
    pub(crate) const fn in_word(&self, word: usize) -> u64 {
        low(self.chunks.saturating_sub(word.wrapping_mul(WORD)))
    }

    /// Where the word of a chunk is.
    #[inline]
    pub(crate) const fn chunk(&self, chunk: usize) -> usize {
        if self.line_shift == 0 {
            return chunk;
        }
        let line = chunk & self.line_mask;
        line.wrapping_mul(LINE)
            .wrapping_add(chunk.wrapping_shr(self.line_shift))
    }

    /// Where a word of the taken bits is.
    #[inline]
    pub(crate) const fn taken(&self, word: usize) -> usize {
        self.chunks.wrapping_add(word)
    }

    /// Where a word of a class's hints is.
    #[inline]
    pub(crate) const fn hint(&self, class: u32, word: usize) -> usize {
        let before = self.map.wrapping_mul(1usize.wrapping_add(place_of(class)));
        self.taken(before).wrapping_add(word)
    }

    /// Where the record of a slot is: the address; the rest follows it.
    #[inline]
    pub(crate) const fn record(&self, slot: usize) -> usize {
        let before = self.map.wrapping_mul(MAPS);
        self.taken(before).wrapping_add(slot.wrapping_mul(RECORD))
    }

    /// A word of a map, as it is now.
    #[inline]
    pub(crate) fn map(&self, map: Map, word: usize) -> u64 {
        match map {
            Map::Free => !self.load(self.taken(word)) & self.in_word(word),
            Map::Hint(class) => self.load(self.hint(class, word)) & self.in_word(word),
        }
    }

    /// Reads a word. One that is not there is full.
    #[inline]
    pub(crate) fn load(&self, at: usize) -> u64 {
        match self.words.as_ref().get(at) {
            Some(word) => word.load(),
            None => u64::MAX,
        }
    }

    #[inline]
    pub(crate) fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.words.as_ref().get(at) {
            word.store(value);
        }
    }

    /// Replaces `old` by `new`, or says what was there.
    #[inline]
    pub(crate) fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        match self.words.as_ref().get(at) {
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

    /// Sets `bits`, without writing if they are set.
    #[inline]
    pub(crate) fn set(&self, at: usize, bits: u64) {
        let mut old = self.load(at);

        while old & bits != bits {
            match self.replace(at, old, old | bits) {
                Ok(()) => return,
                Err(now) => old = now,
            }
        }
    }

    /// Clears `bits`, without writing if they are clear. Returns those that were set.
    #[inline]
    pub(crate) fn clear(&self, at: usize, bits: u64) -> u64 {
        let Some(word) = self.words.as_ref().get(at) else {
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
}
