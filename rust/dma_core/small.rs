// SPDX-License-Identifier: GPL-2.0

//! Small runs: up to 64 slots, in one open chunk.
//!
//! Where they are looked for, in this order: at home; at home again, opening it; in open chunks that
//! surely have room; in a free chunk, opening it; in open chunks that may have room between other
//! runs. So the slow and exact search comes only when everything is in use, and yet a run is found
//! wherever enough slots are free side by side.
//!
//! A chunk is closed by replacing its word of zeros by ones: from then on nobody finds room in it,
//! and its taken bit can be cleared. Chunks that fall empty stay open, ready for the next run, until
//! a large run lacks chunks; only a run that had most of a chunk to itself closes it.

use crate::{
    atomic::AtomicWord,
    bits::{
        bit,
        count,
        level,
        low,
        place_of,
        WORD, //
    },
    fit::Fit,
    request::{
        ClaimError,
        CHUNK_SLOTS, //
    },
    slots::Slots,
    words::Map, //
};

/// How often a search is repeated because others were faster.
pub(crate) const PASSES: usize = 16;

/// What came of trying one chunk.
enum Outcome {
    /// The slot where the run begins.
    Claimed(usize),
    /// The chunk had this word, which has no room.
    NoRoom(u64),
    /// Another processor was faster.
    Lost,
}

impl<W: AtomicWord, B: AsRef<[W]>> Slots<W, B> {
    /// Claims a run and returns its first slot.
    #[inline]
    pub(crate) fn claim_small(&self, fit: &Fit, home: usize) -> Result<usize, ClaimError> {
        if fit.admits(home) {
            if let Outcome::Claimed(first) = self.try_chunk(home, fit, false) {
                return Ok(first);
            }
        }
        self.search(fit, home)
    }

    /// Claims a run in a chunk, if that is open and has room.
    #[inline]
    fn try_chunk(&self, chunk: usize, fit: &Fit, desperate: bool) -> Outcome {
        let at = self.words.chunk(chunk);
        let old = self.words.load(at);
        let Some(start) = fit.start(old, desperate) else {
            return Outcome::NoRoom(old);
        };
        let new = old | fit.mask(start);

        match self.words.replace(at, old, new) {
            Ok(()) => {
                self.words.lost_room(chunk, old, new);
                Outcome::Claimed(chunk.wrapping_mul(CHUNK_SLOTS).wrapping_add(start))
            }
            Err(_) => Outcome::Lost,
        }
    }

    #[inline(never)]
    fn search(&self, fit: &Fit, home: usize) -> Result<usize, ClaimError> {
        // Behind the homes, and apart from where the other processors go on.
        let onward = self.homes.wrapping_add(home);

        for _ in 0..PASSES {
            let mut lost = false;

            if fit.admits(home) {
                if let Some(first) = self.open(home, fit) {
                    return Ok(first);
                }
            }
            let surely = fit.class().map(|class| (class, false));
            if let Some(first) = self.search_open(surely, fit, onward, &mut lost) {
                return Ok(first);
            }
            if let Some(first) = self.scan(Map::Free, onward, fit, |chunk| {
                let opened = self.open(chunk, fit);
                lost |= opened.is_none();
                opened
            }) {
                return Ok(first);
            }
            let maybe = Some((fit.floor(), true));
            if let Some(first) = self.search_open(maybe, fit, onward, &mut lost) {
                return Ok(first);
            }
            if !lost {
                break;
            }
        }
        Err(ClaimError::Full)
    }

    /// Tries the open chunks with hints of a class.
    fn search_open(
        &self,
        class: Option<(u32, bool)>,
        fit: &Fit,
        onward: usize,
        lost: &mut bool,
    ) -> Option<usize> {
        let (class, desperate) = class?;

        self.scan(Map::Hint(class), onward, fit, |chunk| {
            match self.try_chunk(chunk, fit, desperate) {
                Outcome::Claimed(first) => Some(first),
                Outcome::NoRoom(word) => {
                    if level(word) <= class {
                        self.words.retract(chunk, class);
                    }
                    None
                }
                Outcome::Lost => {
                    *lost = true;
                    None
                }
            }
        })
    }

    /// Visits the chunks of a map that the request admits, from `onward` upwards and around, until a
    /// visit yields something.
    fn scan(
        &self,
        map: Map,
        onward: usize,
        fit: &Fit,
        mut visit: impl FnMut(usize) -> Option<usize>,
    ) -> Option<usize> {
        let words = self.words.map_len();
        let ahead = !low(onward & (WORD - 1));

        // The first word is visited twice: its upper part first, its lower part last.
        for step in 0..=words {
            let word = (onward / WORD).wrapping_add(step) & words.wrapping_sub(1);
            let mut chunks = self.words.map(map, word) & fit.in_word(word);
            if step == 0 {
                chunks &= ahead;
            } else if step == words {
                chunks &= !ahead;
            }
            while chunks != 0 {
                let chunk = place_of(chunks.trailing_zeros());
                chunks &= chunks.wrapping_sub(1);
                let found = visit(word.wrapping_mul(WORD).wrapping_add(chunk));
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// Opens a free chunk with a run in it.
    fn open(&self, chunk: usize, fit: &Fit) -> Option<usize> {
        let start = fit.start(0, true)?;
        if !self.words.take(self.taken(chunk), bit(chunk & (WORD - 1))) {
            return None;
        }
        self.start_chunk(chunk, fit.mask(start));
        Some(chunk.wrapping_mul(CHUNK_SLOTS).wrapping_add(start))
    }

    /// Opens a chunk whose taken bit the caller has set, with these slots in use.
    pub(crate) fn start_chunk(&self, chunk: usize, used: u64) {
        // A full barrier, so that who retracts a hint after it sees the chunk open. It cannot fail:
        // nobody else writes the word of a chunk that is not open.
        let opened = self.words.replace(self.words.chunk(chunk), u64::MAX, used);
        if opened.is_ok() {
            self.words.gained_room(chunk, u64::MAX, used);
        }
    }

    /// Closes a chunk in which nothing is in use.
    pub(crate) fn close(&self, chunk: usize) -> bool {
        let closed = self.words.replace(self.words.chunk(chunk), 0, u64::MAX);
        if closed.is_ok() {
            self.bury(chunk);
        }
        closed.is_ok()
    }

    /// Makes a chunk free whose word nobody else can change: it is the caller's, and all ones.
    fn bury(&self, chunk: usize) {
        self.words.forget(chunk);
        self.words.clear(self.taken(chunk), bit(chunk & (WORD - 1)));
    }

    /// Where the taken bit of a chunk is.
    fn taken(&self, chunk: usize) -> usize {
        self.words.taken(chunk / WORD)
    }

    /// Closes every chunk in which nothing is in use. Returns how many there were.
    #[cold]
    pub(crate) fn sweep(&self) -> usize {
        let mut closed = 0usize;

        for word in 0..self.words.map_len() {
            let mut taken = !self.words.map(Map::Free, word) & self.words.in_word(word);
            while taken != 0 {
                let chunk = word
                    .wrapping_mul(WORD)
                    .wrapping_add(place_of(taken.trailing_zeros()));
                taken &= taken.wrapping_sub(1);
                if self.words.load(self.words.chunk(chunk)) == 0 && self.close(chunk) {
                    closed = closed.wrapping_add(1);
                }
            }
        }
        closed
    }

    /// Frees a run of up to 64 slots. Returns how many of them were not in use.
    #[inline]
    pub(crate) fn free_small(&self, first: usize, slots: usize) -> usize {
        let (chunk, start) = (first / CHUNK_SLOTS, first & (CHUNK_SLOTS - 1));
        let run = low(slots).wrapping_shl(count(start));
        let at = self.words.chunk(chunk);
        let mut old = self.words.load(at);

        if slots > CHUNK_SLOTS / 2 && old == run && self.words.replace(at, old, u64::MAX).is_ok() {
            self.bury(chunk);
            return 0;
        }
        loop {
            let new = old & !run;
            if new == old {
                break;
            }
            match self.words.replace(at, old, new) {
                Ok(()) => {
                    self.words.gained_room(chunk, old, new);
                    break;
                }
                Err(now) => old = now,
            }
        }
        match run & !old {
            0 => 0,
            missing => place_of(missing.count_ones()),
        }
    }
}
