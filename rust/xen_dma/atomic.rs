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

use crate::fault;
use core::{
    arch::asm,
    mem::size_of_val,
    sync::atomic::{
        compiler_fence,
        Ordering, //
    }, //
};
use dma_core::{
    AtomicWord,
    Backing,
    Slots, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Release, //
    }, //
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
        // SAFETY: A live, aligned word, read at once.  x86 keeps the order of loads.
        let value = unsafe { self.0.as_ptr().read_volatile() };
        compiler_fence(Ordering::Acquire);
        value
    }

    /// C: `smp_store_release()`.
    #[inline]
    fn store(&self, value: u64) {
        compiler_fence(Ordering::Release);
        // SAFETY: A live, aligned word that only atomic operations touch, written at once.  x86 keeps
        // the order of stores, and of loads before them.
        unsafe { self.0.as_ptr().write_volatile(value) };
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

impl Word {
    /// Adds to it, and returns what it was.  C: `atomic64_fetch_add()`.
    #[inline]
    pub fn fetch_add(&self, value: u64) -> u64 {
        let old;
        // SAFETY: As in `store`.  A locked instruction is a full barrier.
        unsafe {
            asm!(
                "lock xadd [{word}], {value}",
                word = in(reg) self.0.as_ptr(),
                value = inlateout(reg) value => old,
                options(nostack),
            )
        };
        old
    }

    /// Subtracts from it, and returns what it was.  C: `atomic64_fetch_sub()`.
    #[inline]
    pub fn fetch_sub(&self, value: u64) -> u64 {
        self.fetch_add(value.wrapping_neg())
    }
}

/// A byte of a table that is read all the time and seldom changed.
pub struct Byte(Atomic<i8>);

impl Byte {
    /// A byte with this value.
    pub const fn new(value: u8) -> Self {
        Self(Atomic::new(value as i8))
    }

    /// Reads it; later reads come after.  C: `smp_load_acquire()`.
    #[inline]
    pub fn load(&self) -> u8 {
        // SAFETY: A live byte, read at once.  x86 keeps the order of loads.
        unsafe { self.0.as_ptr().read_volatile() as u8 }
    }

    /// Writes it.  C: `smp_store_release()`.
    pub fn store(&self, value: u8) {
        self.0.store(value as i8, Release);
    }
}

/// The backing of a slot allocator.
pub struct Words {
    words: KVVec<Word>,
    records: KVVec<[Word; 2]>,
}

impl Words {
    /// Obtains zeroed memory for an extent of `slots`.  May sleep.
    pub fn for_slots(slots: usize) -> Result<Self> {
        let word = || Word::new(0);
        Ok(Self {
            words: filled(Slots::<Word, Self>::words(slots), word)?,
            records: filled(slots, || [word(), word()])?,
        })
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        size_of_val(&*self.words) + size_of_val(&*self.records)
    }
}

fn filled<T>(count: usize, value: impl Fn() -> T) -> Result<KVVec<T>> {
    fault::check(fault::Point::Memory)?;
    let mut values = KVVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        values.push(value(), GFP_KERNEL)?;
    }
    Ok(values)
}

impl Backing<Word> for Words {
    #[inline]
    fn words(&self) -> &[Word] {
        &self.words
    }

    #[inline]
    fn records(&self) -> &[[Word; 2]] {
        &self.records
    }
}
