// SPDX-License-Identifier: GPL-2.0

//! Large runs: more than 64 slots, in free chunks side by side.
//!
//! A large run claims chunks by their taken bits alone; the words of its chunks stay all ones. Only
//! the last chunk is opened if the run does not need all of it, and small runs share the rest. The
//! search goes from the top of the extent downwards, away from the chunks that small runs open, and
//! ends above the reserve.

use crate::{
    atomic::{
        AtomicWord,
        Backing, //
    },
    bits::{
        between,
        low,
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

impl<W: AtomicWord, B: Backing<W>> Slots<W, B> {
    /// Claims a run and returns its first slot.
    #[inline(never)]
    pub(crate) fn claim_large(&self, request: &Request) -> Result<usize, ClaimError> {
        let chunks = self.words.chunks();
        let span = Span::new(request, chunks).ok_or(ClaimError::Impossible)?;
        let highest = span.highest(chunks);
        if highest.is_none_or(|first| first < self.reserve) {
            return Err(ClaimError::TooLarge);
        }

        // Chunks that fell idle are left open as long as there are others.
        let free = chunks.saturating_sub(self.words.taken_now());
        let mut idle = free < span.chunks() || self.words.careful();
        if idle && free == 0 && !self.any_roomy() {
            return Err(self.full());
        }
        for _ in 0..PASSES {
            let outcome = if span.chunks() <= WORD {
                self.search_words(&span, idle)
            } else {
                self.search_stretches(&span, idle)
            };
            match outcome {
                Outcome::Claimed(first) => {
                    if span.tail() != 0 {
                        let last = first.wrapping_add(span.chunks()).wrapping_sub(1);
                        self.start_chunk(last, low(span.tail()));
                    }
                    return Ok(first.wrapping_mul(CHUNK_SLOTS));
                }
                Outcome::NoRoom if idle => break,
                Outcome::NoRoom => idle = true,
                Outcome::Lost => {}
            }
        }
        Err(self.full())
    }

    /// Looks for up to 64 chunks: they begin in one word and end there or in the next.
    fn search_words(&self, span: &Span, idle: bool) -> Outcome {
        let mut above = 0;

        for word in (0..self.words.map_len()).rev() {
            let free = self.usable(word, idle);
            if free != 0 {
                let starts = runs_across(free, above, span.chunks()) & span.starts(word);
                if let Some(chunk) = starts.checked_ilog2() {
                    let first = word.wrapping_mul(WORD).wrapping_add(place_of(chunk));
                    return self.take_span(first, span);
                }
            }
            above = free;
        }
        Outcome::NoRoom
    }

    /// Looks for more than 64 chunks: such a stretch reaches from one word into others, so free
    /// chunks in the middle of a word do not matter.
    fn search_stretches(&self, span: &Span, idle: bool) -> Outcome {
        let mut end = self.words.chunks();

        for word in (0..self.words.map_len()).rev() {
            let free = self.usable(word, idle);
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

    /// The chunks among the 64 of a word of the taken bits that large runs may take: free ones, or also
    /// `idle` ones.
    fn usable(&self, word: usize, idle: bool) -> u64 {
        let reserve = low(self.reserve.saturating_sub(word.wrapping_mul(WORD)));
        let free = self.words.free(word);
        let usable = if idle { free | self.idle(word) } else { free };
        usable & !reserve
    }

    fn take_span(&self, first: usize, span: &Span) -> Outcome {
        if self.take_chunks(first, span.chunks()) {
            Outcome::Claimed(first)
        } else {
            Outcome::Lost
        }
    }

    /// Takes all of the chunks, free ones and idle ones, or none.
    pub(crate) fn take_chunks(&self, first: usize, chunks: usize) -> bool {
        let end = first.wrapping_add(chunks);

        for (word, bits) in words_of(first, end) {
            if !self.take_in_word(word, bits) {
                self.give_chunks(first, word.wrapping_mul(WORD));
                return false;
            }
        }
        true
    }

    /// As [`Slots::take_chunks`], for those in one word of the taken bits.
    fn take_in_word(&self, word: usize, bits: u64) -> bool {
        let free = bits & self.words.free(word);
        if !self.words.take(self.words.taken(word), free) {
            return false;
        }
        self.words.took(place_of(free.count_ones()));

        let open = bits & !free;
        let mut rest = open;
        while rest != 0 {
            let chunk = place_of(rest.trailing_zeros());
            if !self.enlist(word.wrapping_mul(WORD).wrapping_add(chunk)) {
                // What was enlisted up to here is like the others now.
                self.words.no_room_in(word, open & !rest);
                self.give_in_word(word, bits & !rest);
                return false;
            }
            rest &= rest.wrapping_sub(1);
        }
        self.words.no_room_in(word, open);
        true
    }

    /// Clears the taken bits from `first` up to `end`. Returns how many were not set.
    pub(crate) fn give_chunks(&self, first: usize, end: usize) -> usize {
        words_of(first, end).fold(0usize, |missing, (word, bits)| {
            missing.wrapping_add(self.give_in_word(word, bits))
        })
    }

    fn give_in_word(&self, word: usize, bits: u64) -> usize {
        let were = self.words.clear(self.words.taken(word), bits);
        self.words.gave(place_of(were.count_ones()));
        place_of((bits & !were).count_ones())
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
