// SPDX-License-Identifier: GPL-2.0

//! The kernel's atomics, as `dma_core` wants them, without a call.
//!
//! The kernel crate reaches C's atomics through helper functions, and a stock kernel is not built
//! with link-time optimisation.  On the mapping path those calls would cost more than the
//! operations.  So the operations of a [`Word`] are the instructions that C's macros come to on
//! x86, the only architecture with PV domains; each is a barrier for the compiler as well.
//!
//! C: [`arch/x86/include/asm/cmpxchg.h`](srctree/arch/x86/include/asm/cmpxchg.h),
//! [`arch/x86/include/asm/barrier.h`](srctree/arch/x86/include/asm/barrier.h).

use core::arch::asm;
use dma_core::AtomicWord;
use kernel::{
    prelude::*,
    sync::atomic::Atomic, //
};

/// One word of a slot allocator.
pub struct Word(Atomic<u64>);

impl AtomicWord for Word {
    fn new(value: u64) -> Self {
        Self(Atomic::new(value))
    }

    /// C: `smp_load_acquire()`.
    #[inline]
    fn load(&self) -> u64 {
        let value;
        // SAFETY: Reads a live, aligned word.  x86 keeps the order of loads.
        unsafe {
            asm!(
                "mov {value}, [{word}]",
                word = in(reg) self.0.as_ptr(),
                value = lateout(reg) value,
                options(nostack, preserves_flags),
            )
        };
        value
    }

    /// C: `smp_store_release()`.
    #[inline]
    fn store(&self, value: u64) {
        // SAFETY: Writes a live, aligned word that only atomic operations touch.  x86 keeps the
        // order of stores, and of loads before them.
        unsafe {
            asm!(
                "mov [{word}], {value}",
                word = in(reg) self.0.as_ptr(),
                value = in(reg) value,
                options(nostack, preserves_flags),
            )
        };
    }

    /// C: `try_cmpxchg()`.
    #[inline]
    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        let found;
        // SAFETY: As in `store`.  A locked instruction is a full barrier.
        unsafe {
            asm!(
                "lock cmpxchg [{word}], {new}",
                word = in(reg) self.0.as_ptr(),
                new = in(reg) new,
                inlateout("rax") old => found,
                options(nostack),
            )
        };
        if found == old {
            Ok(())
        } else {
            Err(found)
        }
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
