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
        place_of,
        runs_across,
        WORD, //
    },
    fit::Span,
    request::{
        ClaimError,
        Request,
        CHUNK_SLOTS, //
    },
    slots::Slots,
    small::PASSES, //
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
            let outcome = if span.chunks() <= WORD {
                self.search_words(&span)
            } else {
                self.search_stretches(&span)
            };
            match outcome {
                Outcome::Claimed(first) => {
                    self.words.took(span.chunks());
                    if span.tail() != 0 {
                        let last = first.wrapping_add(span.chunks()).wrapping_sub(1);
                        self.start_chunk(last, crate::bits::low(span.tail()));
                    }
                    return Ok(first.wrapping_mul(CHUNK_SLOTS));
                }
                Outcome::NoRoom if self.sweep() == 0 => break,
                Outcome::NoRoom | Outcome::Lost => {}
            }
        }
        Err(ClaimError::Full)
    }

    /// Looks for up to 64 chunks: they begin in one word and end there or in the next.
    fn search_words(&self, span: &Span) -> Outcome {
        let mut above = 0;

        for word in (0..self.words.map_len()).rev() {
            let free = self.words.free(word);
            let starts = runs_across(free, above, span.chunks()) & span.starts(word);
            if let Some(chunk) = starts.checked_ilog2() {
                return self.take_span(word.wrapping_mul(WORD).wrapping_add(place_of(chunk)), span);
            }
            above = free;
        }
        Outcome::NoRoom
    }

    /// Looks for more than 64 chunks: such a stretch reaches from one word into others, so free
    /// chunks in the middle of a word do not matter.
    fn search_stretches(&self, span: &Span) -> Outcome {
        let mut end = self.words.chunks();

        for word in (0..self.words.map_len()).rev() {
            let free = self.words.free(word);
            if free == u64::MAX && word != 0 {
                continue;
            }
            let first = word.wrapping_mul(WORD);
            let bottom = if free == u64::MAX {
                0
            } else {
                let taken = place_of(free.leading_ones());
                first.wrapping_add(WORD).saturating_sub(taken)
            };
            if let Some(start) = span.highest(end).filter(|start| *start >= bottom) {
                return self.take_span(start, span);
            }
            end = first.wrapping_add(place_of(free.trailing_ones()));
        }
        Outcome::NoRoom
    }

    fn take_span(&self, first: usize, span: &Span) -> Outcome {
        if self.take_chunks(first, span.chunks()) {
            Outcome::Claimed(first)
        } else {
            Outcome::Lost
        }
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
        let missing = self.give_chunks(chunk, last);
        self.words
            .gave(last.wrapping_sub(chunk).wrapping_sub(missing));
        let missing = missing.wrapping_mul(CHUNK_SLOTS);

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
