// SPDX-License-Identifier: GPL-2.0

//! Arithmetic on words of 64 bits, without a branch that could panic.
//!
//! A chunk of 64 slots is one word, so that questions about slots are bit tricks: where do `n`
//! zeros follow each other, and how large is the largest naturally aligned block of zeros?

const _: () = assert!(usize::BITS == u64::BITS, "only for 64-bit kernels");

/// How many bits a word has.
pub(crate) const WORD: usize = 64;

/// Sizes of naturally aligned blocks below a whole word: 1, 2, 4, 8, 16 and 32 bits.
pub(crate) const CLASSES: u32 = 6;

/// A length or an index as a word.
#[inline]
pub(crate) const fn wide(n: usize) -> u64 {
    // CAST: Both have 64 bits, as asserted above.
    n as u64
}

/// A word as a length or an index.
#[inline]
pub(crate) const fn index(n: u64) -> usize {
    // CAST: Both have 64 bits, as asserted above.
    n as usize
}

/// A count of bits as an index.
#[inline]
pub(crate) const fn place_of(n: u32) -> usize {
    // CAST: `usize` has more bits than `u32`.
    n as usize
}

/// An index within a word as a count of bits.
#[inline]
pub(crate) const fn count(n: usize) -> u32 {
    // CAST: Only used for values up to 64.
    n as u32
}

/// The lowest `n` bits; all of them from 64 on.
#[inline]
pub(crate) const fn low(n: usize) -> u64 {
    if n >= WORD {
        u64::MAX
    } else {
        !u64::MAX.wrapping_shl(count(n))
    }
}

/// Bit `n` of a word.
#[inline]
pub(crate) const fn bit(n: usize) -> u64 {
    1u64.wrapping_shl(count(n))
}

/// The bits from `from` up to, not including, `to`.
#[inline]
pub(crate) const fn between(from: usize, to: usize) -> u64 {
    low(to) & !low(from)
}

/// The bits whose index is a multiple of `2^order`.
#[inline]
pub(crate) const fn every(order: u32) -> u64 {
    match order {
        0 => 0xffff_ffff_ffff_ffff,
        1 => 0x5555_5555_5555_5555,
        2 => 0x1111_1111_1111_1111,
        3 => 0x0101_0101_0101_0101,
        4 => 0x0001_0001_0001_0001,
        5 => 0x0000_0001_0000_0001,
        _ => 1,
    }
}

/// The least order such that `2^order >= n`.
#[inline]
pub(crate) const fn order(n: usize) -> u32 {
    usize::BITS.wrapping_sub(n.saturating_sub(1).leading_zeros())
}

/// The indices from which `n` (1 to 64) ones follow each other in `ones`.
#[inline]
pub(crate) const fn runs(ones: u64, n: usize) -> u64 {
    let mut starts = ones;
    let mut have = 1;

    // Each step doubles the length that every remaining bit vouches for.
    while have < n {
        let rest = n.wrapping_sub(have);
        let step = if rest < have { rest } else { have };
        starts &= starts.wrapping_shr(count(step));
        have = have.wrapping_add(step);
    }
    starts
}

/// Is one half of the word all zeros?
#[inline]
pub(crate) const fn half_free(word: u64) -> bool {
    word >> 32 == 0 || word << 32 == 0
}

/// How many of the block sizes have a naturally aligned block of zeros: 0 for a full word, and
/// `n + 1` if `2^n` is the largest, up to [`CLASSES`].
#[inline]
pub(crate) const fn level(word: u64) -> u32 {
    let mut free = !word;
    let mut level = 0;

    while free != 0 && level < CLASSES {
        // Each bit left stands for a free block of `2^level`; two neighbours make the next size.
        free &= free.wrapping_shr(1 << level) & every(level.wrapping_add(1));
        level = level.wrapping_add(1);
    }
    level
}

/// The longest run of ones.
pub(crate) const fn longest(ones: u64) -> usize {
    let mut left = ones;
    let mut longest = 0usize;

    while left != 0 {
        left &= left << 1;
        longest = longest.wrapping_add(1);
    }
    longest
}
