// SPDX-License-Identifier: GPL-2.0

//! The kernel's atomics, as `dma_core` wants them.

use dma_core::AtomicWord;
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Release, //
    },
};

/// One word of a slot allocator.
pub struct Word(Atomic<u64>);

impl AtomicWord for Word {
    fn new(value: u64) -> Self {
        Self(Atomic::new(value))
    }

    #[inline]
    fn load(&self) -> u64 {
        self.0.load(Acquire)
    }

    #[inline]
    fn store(&self, value: u64) {
        self.0.store(value, Release);
    }

    #[inline]
    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        self.0.cmpxchg(old, new, Full).map(|_| ())
    }
}

/// The backing of a slot allocator.
pub struct Words(KVVec<Word>);

impl Words {
    /// Obtains `count` words of zero.  May sleep.
    pub fn zeroed(count: usize) -> Result<Self> {
        let mut words = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            words.push(Word::new(0), GFP_KERNEL)?;
        }
        Ok(Self(words))
    }
}

impl AsRef<[Word]> for Words {
    #[inline]
    fn as_ref(&self) -> &[Word] {
        &self.0
    }
}
