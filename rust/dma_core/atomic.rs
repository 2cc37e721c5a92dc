// SPDX-License-Identifier: GPL-2.0

//! The one kind of shared memory that the slot allocator needs.
//!
//! The kernel has its own memory model and its own atomics; a model checker brings atomics of its
//! own, too. So the allocator asks for a word of 64 bits and three operations, and each
//! environment brings them.

/// A word of 64 bits that several processors read and write.
///
/// A successful [`compare_exchange`] is a full barrier, before and after, as the kernel's
/// `atomic64_cmpxchg()` is: the allocator's hints rely on "write one word, then read another"
/// staying in that order.
///
/// [`compare_exchange`]: AtomicWord::compare_exchange
pub trait AtomicWord: Send + Sync {
    /// Makes a word.
    fn new(value: u64) -> Self;

    /// Reads the word with acquire ordering.
    fn load(&self) -> u64;

    /// Writes the word with release ordering.
    fn store(&self, value: u64);

    /// Replaces `old` by `new`, fully ordered.
    ///
    /// # Errors
    ///
    /// The value found, if it was not `old`. Must not fail while the word holds `old`.
    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64>;
}

/// The memory of a slot allocator: words for its maps, and a pair of words for each slot's record.
///
/// It must go on returning the same ones. It is best aligned to cache lines.
pub trait Backing<W> {
    /// The words of the maps.
    fn words(&self) -> &[W];

    /// The records.
    fn records(&self) -> &[[W; 2]];
}
