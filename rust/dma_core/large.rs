// SPDX-License-Identifier: GPL-2.0

//! Large runs: more than 64 slots, in free chunks side by side.
//!
//! A large run claims chunks by their taken bits alone; the words of its chunks stay all ones. Only
//! the last chunk is opened if the run does not need all of it, and small runs share the rest. The
//! search goes from the top of the extent downwards, away from the chunks that small runs open.

use crate::{
    atomic::AtomicWord,
    bits::{
        between,
        low,
        place_of,
        WORD, //
    },
    fit::Span,
    request::{
        ClaimError,
        Request,
        CHUNK_SLOTS, //
    },
    slots::Slots,
    small::PASSES,
    words::Map, //
};

/// What came of a search.
enum Outcome {
    /// The chunk where the run begins.
    Claimed(usize),
    /// There was no room.
    NoRoom,
    /// Another processor was faster.
    Lost,
}

impl<W: AtomicWord, B: AsRef<[W]>> Slots<W, B> {
    /// Claims a run and returns its first slot.
    #[inline(never)]
    pub(crate) fn claim_large(&self, request: &Request) -> Result<usize, ClaimError> {
        let span = Span::new(request, self.words.chunks()).ok_or(ClaimError::Impossible)?;

        for _ in 0..PASSES {
            match self.search_large(&span) {
                Outcome::Claimed(first) => {
                    if span.tail() != 0 {
                        let last = first.wrapping_add(span.chunks()).wrapping_sub(1);
                        self.start_chunk(last, low(span.tail()));
                    }
                    return Ok(first.wrapping_mul(CHUNK_SLOTS));
                }
                Outcome::NoRoom if self.sweep() == 0 => break,
                Outcome::NoRoom | Outcome::Lost => {}
            }
        }
        Err(ClaimError::Full)
    }

    fn search_large(&self, span: &Span) -> Outcome {
        let mut end = self.words.chunks();

        while let Some(top) = self.last_chunk(end, true) {
            let bottom = match self.last_chunk(top, false) {
                Some(taken) => taken.wrapping_add(1),
                None => 0,
            };
            match span.highest(top.wrapping_add(1)) {
                None => break,
                Some(first) if first < bottom => end = bottom,
                Some(first) if self.take_chunks(first, span.chunks()) => {
                    return Outcome::Claimed(first)
                }
                Some(_) => return Outcome::Lost,
            }
        }
        Outcome::NoRoom
    }

    /// The last chunk before `end` that is free, or that is not.
    fn last_chunk(&self, end: usize, free: bool) -> Option<usize> {
        for word in (0..end.div_ceil(WORD)).rev() {
            let first = word.wrapping_mul(WORD);
            let map = self.words.map(Map::Free, word);
            let found = if free { map } else { !map } & low(end.wrapping_sub(first));
            if let Some(chunk) = found.checked_ilog2() {
                return Some(first.wrapping_add(place_of(chunk)));
            }
        }
        None
    }

    /// Takes all of the chunks, or none.
    pub(crate) fn take_chunks(&self, first: usize, chunks: usize) -> bool {
        let end = first.wrapping_add(chunks);

        for (word, bits) in words_of(first, end) {
            if !self.words.take(self.words.taken(word), bits) {
                self.give_chunks(first, word.wrapping_mul(WORD));
                return false;
            }
        }
        true
    }

    /// Clears the taken bits from `first` up to `end`. Returns how many were not set.
    pub(crate) fn give_chunks(&self, first: usize, end: usize) -> usize {
        let mut missing = 0usize;

        for (word, bits) in words_of(first, end) {
            let were = self.words.clear(self.words.taken(word), bits);
            missing = missing.wrapping_add(place_of((bits & !were).count_ones()));
        }
        missing
    }

    /// Frees a run of more than 64 slots. Returns how many of them were not in use.
    #[inline(never)]
    pub(crate) fn free_large(&self, first: usize, slots: usize) -> usize {
        let chunk = first / CHUNK_SLOTS;
        let last = chunk.wrapping_add(slots / CHUNK_SLOTS);
        let tail = slots & (CHUNK_SLOTS - 1);
        let missing = self.give_chunks(chunk, last).wrapping_mul(CHUNK_SLOTS);

        if tail == 0 {
            return missing;
        }
        missing.wrapping_add(self.free_small(last.wrapping_mul(CHUNK_SLOTS), tail))
    }
}

/// The words of a bitmap that hold the chunks from `first` up to `end`, each with their bits in it.
fn words_of(first: usize, end: usize) -> impl Iterator<Item = (usize, u64)> {
    (first / WORD..end.div_ceil(WORD)).map(move |word| {
        let start = word.wrapping_mul(WORD);
        let bits = between(first.saturating_sub(start), end.saturating_sub(start));
        (word, bits)
    })
}
