// SPDX-License-Identifier: GPL-2.0

//! Where in an extent a request fits.
//!
//! The conditions of a [`Request`] are worked out once, into masks, so that each chunk that is
//! looked at costs a few instructions.

use crate::{
    bits::{
        bit,
        count,
        every,
        low,
        order,
        runs,
        WORD, //
    },
    request::{
        Request,
        CHUNK_SLOTS, //
    }, //
};

/// A condition on the index of a chunk: `offset` modulo `mask + 1`.
#[derive(Clone, Copy)]
struct Stride {
    mask: usize,
    offset: usize,
}

impl Stride {
    #[inline]
    const fn new(align: usize, offset: usize) -> Self {
        Self {
            mask: (align / CHUNK_SLOTS).saturating_sub(1),
            offset: offset / CHUNK_SLOTS,
        }
    }

    #[inline]
    const fn admits(self, chunk: usize) -> bool {
        chunk & self.mask == self.offset
    }

    /// The admitted ones among the 64 chunks of a bitmap's word.
    #[inline]
    const fn in_word(self, word: usize) -> u64 {
        if self.mask == 0 {
            return u64::MAX;
        }
        let first = word.wrapping_mul(WORD);
        let ours = bit(self.offset & (WORD - 1));
        if self.mask < WORD {
            ours.wrapping_mul(every(order(self.mask.wrapping_add(1))))
        } else if first & self.mask == self.offset & !(WORD - 1) {
            ours
        } else {
            0
        }
    }
}

/// Where a run of up to 64 slots may begin: in which chunks, and where in a chunk.
pub(crate) struct Fit {
    slots: usize,
    /// Starts that meet every condition.
    allowed: u64,
    /// Of these, the ones at the start of a page, if there are any.
    paged: u64,
    /// Of these, the naturally aligned ones.
    natural: u64,
    /// A free run of so many slots has a place for this one, unless the conditions are odd.
    ample: usize,
    stride: Stride,
}

impl Fit {
    /// Works out a request of up to 64 slots; [`None`] if none of `total` chunks can meet it.
    #[inline]
    pub(crate) fn new(request: &Request, total: usize) -> Option<Self> {
        let slots = request.slots();
        let (align, offset) = request.alignment();
        let window = request.window();
        let mut step = if request.has_pages() { 2 } else { 1 };

        let mut allowed = low(WORD.wrapping_add(1).wrapping_sub(slots));
        if align > 1 {
            let align = if align < WORD { align } else { WORD };
            let offset = offset & align.wrapping_sub(1);
            allowed &= bit(offset).wrapping_mul(every(order(align)));
            step = align.max(step);
        }
        if window != 0 && window < WORD {
            let room = window.wrapping_add(1).checked_sub(slots)?;
            allowed &= low(room).wrapping_mul(every(order(window)));
            step = slots.max(step);
        }
        let stride = Stride::new(align, offset);
        if allowed == 0 || stride.offset >= total {
            return None;
        }

        let paged = match allowed & every(1) {
            starts if starts != 0 && request.has_pages() => starts,
            _ => allowed,
        };
        Some(Self {
            slots,
            allowed,
            paged,
            natural: paged & every(order(slots)),
            ample: slots.wrapping_add(step).wrapping_sub(1),
            stride,
        })
    }

    /// The length of a free run that most likely has a place, at the start of a page if it should.
    #[inline]
    pub(crate) const fn ample(&self) -> usize {
        self.ample
    }

    /// The length without which there is no place.
    #[inline]
    pub(crate) const fn slots(&self) -> usize {
        self.slots
    }

    #[inline]
    pub(crate) const fn admits(&self, chunk: usize) -> bool {
        self.stride.admits(chunk)
    }

    #[inline]
    pub(crate) const fn in_word(&self, word: usize) -> u64 {
        self.stride.in_word(word)
    }

    /// The best start in a chunk with this word. A start inside a page is taken only by the
    /// `desperate`.
    #[inline]
    pub(crate) const fn start(&self, word: u64, desperate: bool) -> Option<usize> {
        let starts = runs(!word, self.slots);
        let mut good = starts & self.natural;

        if good == 0 {
            good = starts & self.paged;
        }
        if good == 0 && desperate {
            good = starts & self.allowed;
        }
        if good == 0 {
            None
        } else {
            Some(crate::bits::place_of(good.trailing_zeros()))
        }
    }

    /// The slots of the run that begins at `start`, as bits.
    #[inline]
    pub(crate) const fn mask(&self, start: usize) -> u64 {
        low(self.slots).wrapping_shl(count(start))
    }
}

/// Where a run of more than 64 slots may begin.
pub(crate) struct Span {
    /// The chunks that the run touches.
    chunks: usize,
    /// How many slots of the last chunk it needs, if not all.
    tail: usize,
    stride: Stride,
    /// The window in chunks, or 0 for none.
    window: usize,
}

impl Span {
    /// Works out a request of more than 64 slots; [`None`] if `total` chunks cannot meet it.
    pub(crate) fn new(request: &Request, total: usize) -> Option<Self> {
        let (align, offset) = request.alignment();
        let window = request.window();
        if offset & (CHUNK_SLOTS - 1) != 0 || (window != 0 && window < request.slots()) {
            return None;
        }

        let span = Self {
            chunks: request.slots().div_ceil(CHUNK_SLOTS),
            tail: request.slots() & (CHUNK_SLOTS - 1),
            stride: Stride::new(align, offset),
            window: window / CHUNK_SLOTS,
        };
        // If the first place that the alignment leaves does not do, then none does.
        let first = span.stride.offset;
        if span.fits(first) && first.checked_add(span.chunks)? <= total {
            Some(span)
        } else {
            None
        }
    }

    pub(crate) const fn chunks(&self) -> usize {
        self.chunks
    }

    pub(crate) const fn tail(&self) -> usize {
        self.tail
    }

    /// Does a run from this chunk stay in its window?
    const fn fits(&self, first: usize) -> bool {
        let inside = first & self.window.wrapping_sub(1);
        self.window == 0 || inside.wrapping_add(self.chunks) <= self.window
    }

    /// The chunks among the 64 of a bitmap's word from which a run of up to 64 chunks may begin.
    pub(crate) fn starts(&self, word: usize) -> u64 {
        let allowed = self.stride.in_word(word);
        if self.window == 0 {
            return allowed;
        }
        let room = self.window.wrapping_add(1).saturating_sub(self.chunks);
        if self.window < WORD {
            return allowed & low(room).wrapping_mul(every(order(self.window)));
        }
        let inside = word.wrapping_mul(WORD) & self.window.wrapping_sub(1);
        allowed & low(room.saturating_sub(inside))
    }

    /// The highest chunk from which the run ends at or below `end`, whatever is in use.
    pub(crate) fn highest(&self, end: usize) -> Option<usize> {
        let mut first = end.checked_sub(self.chunks)?;

        // A second try, from the highest place in the same window, is the last that is needed.
        for _ in 0..2 {
            let above = first.wrapping_sub(self.stride.offset) & self.stride.mask;
            first = first.checked_sub(above)?;
            if self.fits(first) {
                break;
            }
            let window = first & !self.window.wrapping_sub(1);
            first = window.wrapping_add(self.window.wrapping_sub(self.chunks));
        }
        Some(first).filter(|first| self.stride.admits(*first) && self.fits(*first))
    }
}
