// SPDX-License-Identifier: GPL-2.0

//! Searching again after a search that found no room.
//!
//! A driver maps the pieces of one request; if one is refused it gives all back and asks again, for
//! ever if need be. Small runs go where the processor was served last and into open chunks, even if
//! those are idle, and that may leave no large run a place between them. The next try would be
//! refused in the same way, although nothing else is in use. So for a while after a refusal a chunk
//! that is open but idle counts as a free one. Who begins at the first chunk then is served as well
//! as by a new extent; in an extent of many chunks most likely so, since a search looks at a part of
//! them only.

use crate::{
    atomic::{
        AtomicWord,
        Backing, //
    },
    bits::{
        count,
        low,
        place_of,
        WORD, //
    },
    fit::Fit,
    request::ClaimError,
    room::{
        bytes_of,
        AtLeast,
        LANES, //
    },
    slots::Slots,
    small::Begin, //
};

/// How many words of bytes with room are looked into once there is a place: those of 8 MiB.
const LOOKS: usize = 8;

impl<W: AtomicWord, B: Backing<W>> Slots<W, B> {
    /// Says that there is no room, and has the next searches be careful.
    #[cold]
    pub(crate) fn full(&self) -> ClaimError {
        self.words.take_care();
        ClaimError::Full
    }

    /// Claims a small run: in an open chunk with `ample` room in which something is in use; else in
    /// the first one from `onward` upwards and around that is free or idle.
    #[inline(never)]
    pub(crate) fn search_carefully(
        &self,
        fit: &Fit,
        ample: AtLeast,
        onward: usize,
        from: Option<Begin>,
        lost: &mut bool,
    ) -> Option<usize> {
        let rooms = self.words.rooms();
        let sooner = |one: usize, other: usize| {
            let way = |chunk: usize| self.words.wrap(chunk.wrapping_sub(onward));
            if way(one) < way(other) {
                one
            } else {
                other
            }
        };
        let mut free = self.free_chunks(fit, onward);
        let mut unused = free.find_map(|(first, chunks)| nth(first, chunks));
        let mut looks = 0usize;

        for step in 0..from.map_or(0, |_| rooms.len()) {
            let word = from?.word.wrapping_add(step) & rooms.len().wrapping_sub(1);
            let found = ample.of(rooms.get(word)?.load());
            if found == 0 {
                continue;
            }
            let first = word.wrapping_mul(LANES);
            let idle = self.words.empty_from(first);
            let in_use = found & !bytes_of(idle);
            if in_use != 0 {
                let claimed = self.try_lanes(fit, false, word, in_use, lost);
                if claimed.is_some() {
                    return claimed;
                }
            }
            let admitted = fit.in_word(first / WORD).wrapping_shr(count(first));
            let idle = idle & admitted;
            let ahead = idle & !low(onward.saturating_sub(first));
            if let Some(chunk) = nth(first, ahead).or_else(|| nth(first, idle)) {
                unused = Some(unused.map_or(chunk, |other| sooner(chunk, other)));
            }
            looks = looks.wrapping_add(1);
            if looks >= LOOKS && unused.is_some() {
                break;
            }
        }
        let chunk = unused?;
        let claimed = match self.open(chunk, fit) {
            None => self.try_chunk(chunk, fit, false).claimed(),
            opened => opened,
        };
        *lost |= claimed.is_none();
        claimed
    }
}

/// The chunk of the lowest of these bits, where the lowest of all stands for the chunk `first`.
fn nth(first: usize, bits: u64) -> Option<usize> {
    (bits != 0).then(|| first.wrapping_add(place_of(bits.trailing_zeros())))
}
