// SPDX-License-Identifier: GPL-2.0

//! Small runs: up to 64 slots, in one open chunk.
//!
//! Where they are looked for, in this order: in the chunk where the processor was served last; there
//! again, opening it; in open chunks with ample room; in a free chunk, opening it; in every open
//! chunk with a free run that is long enough. So open chunks fill up before others are opened, and
//! yet a run is found wherever enough slots are free side by side. For a while after a refusal the
//! order is another one: see `careful`.
//!
//! A chunk is closed by replacing its word of zeros by ones: from then on nobody finds room in it,
//! and its taken bit can be cleared. Chunks that fall empty stay open, ready for the next run, until
//! a large run lacks chunks; only a run that had most of a chunk to itself closes it.

use crate::{
    atomic::{
        AtomicWord,
        Backing, //
    },
    bits::{
        bit,
        count,
        every,
        low,
        place_of,
        WORD, //
    },
    fit::Fit,
    request::{
        ClaimError,
        CHUNK_SLOTS, //
    },
    room::{
        next,
        AtLeast,
        LANES, //
    },
    slots::Slots, //
};

/// How often a search is repeated because others were faster.
pub(crate) const PASSES: usize = 16;

/// What came of trying one chunk.
pub(crate) enum Outcome {
    /// The slot where the run begins.
    Claimed(usize),
    /// The chunk has no place for the run.
    NoRoom,
    /// Another processor was faster.
    Lost,
}

impl Outcome {
    /// The slot where the run begins, if there is one.
    pub(crate) fn claimed(self) -> Option<usize> {
        match self {
            Self::Claimed(first) => Some(first),
            Self::NoRoom | Self::Lost => None,
        }
    }
}

/// Where a search for open chunks begins, in words of eight, and at which word it comes round.
#[derive(Clone, Copy)]
pub(crate) struct Begin {
    pub(crate) word: usize,
    turn: usize,
}

impl<W: AtomicWord, B: Backing<W>> Slots<W, B> {
    /// Claims one slot, or the two of a page, in this chunk, and returns the first.
    #[inline(always)]
    pub(crate) fn claim_here(&self, two: bool, chunk: usize) -> Option<usize> {
        let word = self.words.chunk_word(chunk)?;
        let old = word.load();
        let free = !old;
        let (starts, run) = if two {
            (free & (free >> 1) & every(1), 3u64)
        } else {
            (free, 1)
        };
        if starts == 0 {
            return None;
        }
        let start = starts.trailing_zeros();

        let new = old | run.wrapping_shl(start);
        word.compare_exchange(old, new).ok()?;
        Some(
            chunk
                .wrapping_mul(CHUNK_SLOTS)
                .wrapping_add(place_of(start)),
        )
    }

    /// Claims a run and returns its first slot.
    #[inline]
    pub(crate) fn claim_small(&self, fit: &Fit, near: usize) -> Result<usize, ClaimError> {
        if fit.admits(near) {
            if let Outcome::Claimed(first) = self.try_chunk(near, fit, false) {
                return Ok(first);
            }
        }
        self.search(fit, near)
    }

    /// Claims a run in a chunk, if that is open and has room. The chunk's byte may be too high then.
    #[inline]
    pub(crate) fn try_chunk(&self, chunk: usize, fit: &Fit, desperate: bool) -> Outcome {
        let Some(word) = self.words.chunk_word(chunk) else {
            return Outcome::NoRoom;
        };
        let old = word.load();
        let Some(start) = fit.start(old, desperate) else {
            return Outcome::NoRoom;
        };
        match word.compare_exchange(old, old | fit.mask(start)) {
            Ok(()) => Outcome::Claimed(chunk.wrapping_mul(CHUNK_SLOTS).wrapping_add(start)),
            Err(_) => Outcome::Lost,
        }
    }

    #[inline(never)]
    fn search(&self, fit: &Fit, near: usize) -> Result<usize, ClaimError> {
        // Behind the homes, and apart from where the other processors go on.
        let onward = if near < self.homes {
            self.homes.wrapping_add(near)
        } else {
            near
        };
        self.words.put_room_right(near);
        let careful = self.words.careful();
        let (ample, enough) = (AtLeast::new(fit.ample()), AtLeast::new(fit.slots()));

        for _ in 0..PASSES {
            let mut lost = false;

            if fit.admits(near) {
                if let Some(first) = self.open(near, fit) {
                    return Ok(first);
                }
            }
            // In this order a chunk that is opened meanwhile is seen before or after.
            let any_free = self.any_free(fit);
            let from = self.first_open(enough, onward);
            if careful {
                let claimed = self.search_carefully(fit, ample, onward, from, &mut lost);
                if let Some(first) = claimed {
                    return Ok(first);
                }
            } else if let Some(from) = from {
                if let Some(first) = self.search_open(fit, ample, false, from, &mut lost) {
                    return Ok(first);
                }
            }
            if any_free {
                if let Some(first) = self.search_free(fit, onward, &mut lost) {
                    return Ok(first);
                }
                // Who took it opened it.
                lost = true;
            }
            if let Some(from) = from {
                if let Some(first) = self.search_open(fit, enough, true, from, &mut lost) {
                    return Ok(first);
                }
            }
            if !lost {
                break;
            }
        }
        Err(self.full())
    }

    /// May there be a free chunk?
    fn any_free(&self, fit: &Fit) -> bool {
        (0..self.words.map_len()).any(|word| self.words.free(word) & fit.in_word(word) != 0)
    }

    /// Finds the first word of open chunks with `enough` room, from about `onward` upwards and around.
    fn first_open(&self, enough: AtLeast, onward: usize) -> Option<Begin> {
        let rooms = self.words.rooms();
        let turn = (onward / LANES) & rooms.len().wrapping_sub(1);
        let (before, behind) = rooms.split_at_checked(turn)?;

        match enough.position(behind) {
            Some(word) => Some(Begin {
                word: turn.wrapping_add(word),
                turn,
            }),
            None => enough.position(before).map(|word| Begin { word, turn }),
        }
    }

    /// Tries the open chunks with `enough` room, where a search found the first ones.
    fn search_open(
        &self,
        fit: &Fit,
        enough: AtLeast,
        desperate: bool,
        from: Begin,
        lost: &mut bool,
    ) -> Option<usize> {
        let Begin { word, turn } = from;
        let (before, behind) = self.words.rooms().split_at_checked(turn)?;

        if word < turn {
            return self.search_rooms(fit, enough, desperate, word, before.get(word..)?, lost);
        }
        let behind = behind.get(word.wrapping_sub(turn)..)?;
        self.search_rooms(fit, enough, desperate, word, behind, lost)
            .or_else(|| self.search_rooms(fit, enough, desperate, 0, before, lost))
    }

    /// As [`Slots::search_open`], in these words, of which the one at index `first` comes first.
    #[inline]
    fn search_rooms(
        &self,
        fit: &Fit,
        enough: AtLeast,
        desperate: bool,
        first: usize,
        rooms: &[W],
        lost: &mut bool,
    ) -> Option<usize> {
        let mut at = 0usize;
        loop {
            let rest = rooms.get(at..)?;
            at = at.wrapping_add(enough.position(rest)?);
            let found = enough.of(rooms.get(at)?.load());
            let word = first.wrapping_add(at);
            let claimed = self.try_lanes(fit, desperate, word, found, lost);
            if claimed.is_some() {
                return claimed;
            }
            at = at.wrapping_add(1);
        }
    }

    /// Tries the chunks of one word that were `found` to have room.
    #[inline(never)]
    pub(crate) fn try_lanes(
        &self,
        fit: &Fit,
        desperate: bool,
        word: usize,
        mut found: u64,
        lost: &mut bool,
    ) -> Option<usize> {
        while let Some((lane, others)) = next(found) {
            found = others;
            let chunk = word.wrapping_mul(LANES).wrapping_add(lane);
            if !fit.admits(chunk) {
                continue;
            }
            let tried = self.try_chunk(chunk, fit, desperate);
            self.words.put_room_right(chunk);
            match tried {
                Outcome::Claimed(first) => return Some(first),
                Outcome::NoRoom => {}
                Outcome::Lost => *lost = true,
            }
        }
        None
    }

    /// Opens a free chunk, the first from `onward` upwards and around.
    fn search_free(&self, fit: &Fit, onward: usize, lost: &mut bool) -> Option<usize> {
        for (first, mut chunks) in self.free_chunks(fit, onward) {
            while chunks != 0 {
                let chunk = first.wrapping_add(place_of(chunks.trailing_zeros()));
                chunks &= chunks.wrapping_sub(1);
                let opened = self.open(chunk, fit);
                if opened.is_some() {
                    return opened;
                }
                *lost = true;
            }
        }
        None
    }

    /// The free chunks from `onward` upwards and around, 64 at a time: the first one, and those that are free.
    #[inline]
    pub(crate) fn free_chunks<'a>(
        &'a self,
        fit: &'a Fit,
        onward: usize,
    ) -> impl Iterator<Item = (usize, u64)> + 'a {
        let words = self.words.map_len();
        let ahead = !low(onward & (WORD - 1));

        // The first word is visited twice: its upper part first, its lower part last.
        (0..=words).map(move |step| {
            let word = (onward / WORD).wrapping_add(step) & words.wrapping_sub(1);
            let mut chunks = self.words.free(word) & fit.in_word(word);
            if step == 0 {
                chunks &= ahead;
            } else if step == words {
                chunks &= !ahead;
            }
            (word.wrapping_mul(WORD), chunks)
        })
    }

    /// Opens a free chunk with a run in it.
    pub(crate) fn open(&self, chunk: usize, fit: &Fit) -> Option<usize> {
        let start = fit.start(0, true)?;
        if !self.words.take(self.taken(chunk), bit(chunk & (WORD - 1))) {
            return None;
        }
        self.words.took(1);
        self.start_chunk(chunk, fit.mask(start));
        Some(chunk.wrapping_mul(CHUNK_SLOTS).wrapping_add(start))
    }

    /// Opens a chunk whose taken bit the caller has set, with these slots in use.
    pub(crate) fn start_chunk(&self, chunk: usize, used: u64) {
        // It cannot fail: nobody else writes the word of a chunk that is not open.
        let opened = self.words.replace(self.words.chunk(chunk), u64::MAX, used);
        if opened.is_ok() {
            self.words.put_room_right(chunk);
        }
    }

    /// Makes a chunk free whose word nobody else can change: it is the caller's, and all ones.
    fn bury(&self, chunk: usize) {
        self.words.no_room(chunk);
        self.words.clear(self.taken(chunk), bit(chunk & (WORD - 1)));
        self.words.gave(1);
    }

    /// Where the taken bit of a chunk is.
    fn taken(&self, chunk: usize) -> usize {
        self.words.taken(chunk / WORD)
    }

    /// The open chunks among the 64 of a word of the taken bits in which nothing is in use.
    pub(crate) fn idle(&self, word: usize) -> u64 {
        let roomy = AtLeast::new(CHUNK_SLOTS);
        let first = word.wrapping_mul(WORD);
        let rooms = self.words.rooms().iter().skip(first / LANES).take(LANES);
        let mut idle = 0;

        for (lanes, room) in rooms.enumerate() {
            if roomy.of(room.load()) != 0 {
                let before = lanes.wrapping_mul(LANES);
                let empty = self.words.empty_from(first.wrapping_add(before));
                idle |= empty.wrapping_shl(count(before));
            }
        }
        idle
    }

    /// May there be an open chunk in which nothing is in use?
    pub(crate) fn any_roomy(&self) -> bool {
        let roomy = AtLeast::new(CHUNK_SLOTS);
        let all = |found, room: &W| found | roomy.of(room.load());
        self.words.rooms().iter().fold(0, all) != 0
    }

    /// Makes an open chunk in which nothing is in use part of a large run. The caller owes
    /// [`Words::no_room_in`](crate::words::Words).
    #[inline]
    pub(crate) fn enlist(&self, chunk: usize) -> bool {
        let word = self.words.chunk_word(chunk);
        word.is_some_and(|word| word.compare_exchange(0, u64::MAX).is_ok())
    }

    /// Frees a run of up to 64 slots. Returns how many of them were not in use.
    #[inline(always)]
    pub(crate) fn free_small(&self, first: usize, slots: usize) -> usize {
        let (chunk, start) = (first / CHUNK_SLOTS, first & (CHUNK_SLOTS - 1));

        // What had more than half a chunk had it to itself as a rule, and closes it.
        if slots <= CHUNK_SLOTS / 2 {
            if let Some(word) = self.words.chunk_word(chunk) {
                let run = bit(slots).wrapping_sub(1).wrapping_shl(count(start));
                let old = word.load();
                let new = old & !run;
                if old & run == run && word.compare_exchange(old, new).is_ok() {
                    self.words.room_grew(chunk, count(start), old, new);
                    return 0;
                }
            }
        }
        self.free_slowly(chunk, low(slots).wrapping_shl(count(start)))
    }

    /// As [`Slots::free_small`], if the chunk may be closed, if others are at it, or if something is
    /// wrong.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_slowly(&self, chunk: usize, run: u64) -> usize {
        let at = self.words.chunk(chunk);
        let old = self.words.load(at);

        if old == run && self.words.replace(at, old, u64::MAX).is_ok() {
            self.bury(chunk);
            return 0;
        }
        self.free_bits(chunk, run)
    }

    /// Frees slots of a chunk, not all of which need be in use: how many were not is returned.
    pub(crate) fn free_bits(&self, chunk: usize, run: u64) -> usize {
        let at = self.words.chunk(chunk);
        let mut old = self.words.load(at);

        loop {
            let new = old & !run;
            if new == old {
                break;
            }
            match self.words.replace(at, old, new) {
                Ok(()) => {
                    self.words.room_may_have_grown(chunk, old);
                    break;
                }
                Err(now) => old = now,
            }
        }
        place_of((run & !old).count_ones())
    }
}
