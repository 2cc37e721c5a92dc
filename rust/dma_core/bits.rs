// SPDX-License-Identifier: GPL-2.0

//! Arithmetic on words of 64 bits, without a branch that could panic.
//!
//! A chunk of 64 slots is one word, so that questions about slots are bit tricks: where do `n`
//! zeros follow each other, and how large is the largest naturally aligned block of zeros?

const _: () = assert!(usize::BITS == u64::BITS, "only for 64-bit kernels");

/// How many bits a word has.
pub(crate) const WORD: usize = 64;

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

/// The indices in `word` from which `n` (1 to 64) ones follow each other, on into `above`.
#[inline]
pub(crate) const fn runs_across(word: u64, above: u64, n: usize) -> u64 {
    // CAST: Both widen; then the lower half is meant.
    let mut starts = ((above as u128) << u64::BITS) | word as u128;
    let mut have = 1;

    while have < n {
        let rest = n.wrapping_sub(have);
        let step = if rest < have { rest } else { have };
        starts &= starts.wrapping_shr(count(step));
        have = have.wrapping_add(step);
    }
    starts as u64
}

/// The length of the run of ones around bit `at` (0 to 63), which is one of them; 63 stands for 64, too.
#[inline]
pub(crate) const fn around(ones: u64, at: u32) -> usize {
    let above = ones.wrapping_shr(at).trailing_ones();
    // With a bit that is set, whatever the others are, there is nothing special to be done for zero.
    let below = (!(ones << (u64::BITS - 1).wrapping_sub(at)) | 1).leading_zeros();

    place_of(above.wrapping_add(below).wrapping_sub(1))
}

/// The longest run of ones. Takes the same time for every word.
pub(crate) fn longest(ones: u64) -> usize {
    if ones == u64::MAX {
        return WORD;
    }
    // In each of these a bit says that so many ones follow each other from there.
    let two = ones & (ones >> 1);
    let four = two & (two >> 2);
    let eight = four & (four >> 4);
    let sixteen = eight & (eight >> 8);
    let half = sixteen & (sixteen >> 16);

    // The length's bits from the highest down: does one of the runs go on for so much longer?
    let (mut starts, mut length) = (u64::MAX, 0u32);
    let runs = [
        (half, 32),
        (sixteen, 16),
        (eight, 8),
        (four, 4),
        (two, 2),
        (ones, 1),
    ];
    for (run, more) in runs {
        let longer = starts & run.wrapping_shr(length);
        if longer != 0 {
            starts = longer;
            length = length.wrapping_add(more);
        }
    }
    place_of(length)
}
