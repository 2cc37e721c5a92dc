// SPDX-License-Identifier: GPL-2.0

//! Words of which each processor has its own.
//!
//! An operation on the own word is one instruction, so an interrupt or a move to another processor
//! comes before or after it, and no cache line goes from processor to processor.  The kernel crate
//! has no abstraction of this.
//!
//! C: [`arch/x86/include/asm/percpu.h`](srctree/arch/x86/include/asm/percpu.h),
//! [`include/linux/percpu.h`](srctree/include/linux/percpu.h).

use crate::{
    bindings,
    fault, //
};
use core::{
    arch::asm,
    ptr::NonNull, //
};
use kernel::{
    cpu::nr_cpu_ids,
    prelude::*, //
};

/// `N` words for each processor, zero at first.
///
/// # Invariants
///
/// `words` is a per-CPU pointer to `N` words that live as long as `self`.
pub struct PerCpu<const N: usize> {
    words: NonNull<u64>,
}

// SAFETY: All access is by single instructions on aligned words.
unsafe impl<const N: usize> Send for PerCpu<N> {}
// SAFETY: As above.
unsafe impl<const N: usize> Sync for PerCpu<N> {}

impl<const N: usize> PerCpu<N> {
    /// Obtains the words.  May sleep.  C: `__alloc_percpu()`.
    pub fn new() -> Result<Self> {
        fault::check(fault::Point::Memory)?;
        // SAFETY: No preconditions but that sleeping is allowed.
        let words = unsafe { bindings::alloc_percpu_words(N) };
        // INVARIANT: Just obtained, and freed on drop.
        Ok(Self {
            words: NonNull::new(words).ok_or(ENOMEM)?,
        })
    }

    /// Where this processor's word is, as its own instructions name it.
    #[inline]
    fn word(&self, index: usize) -> *mut u64 {
        // The index is a constant as a rule, and then nothing is left of this.
        let index = if index < N { index } else { 0 };
        self.words.as_ptr().wrapping_add(index)
    }

    /// Adds 1 to this processor's word; wraps.  Any context.  C: `this_cpu_inc()`.
    #[inline]
    pub fn increment(&self, index: usize) {
        // SAFETY: By the type invariant; the processor's own word, in one instruction.
        unsafe {
            asm!(
                "inc qword ptr gs:[{word}]",
                word = in(reg) self.word(index),
                options(nostack),
            )
        };
    }

    /// Adds 1 to this processor's word, and `value` to the one after it; both wrap.  Any context.
    #[inline]
    pub fn tally(&self, index: usize, value: u64) {
        // The last word has no other after it.
        let index = if index < N - 1 { index } else { 0 };
        // SAFETY: By the type invariant; the processor's own words, each in one instruction.
        unsafe {
            asm!(
                "inc qword ptr gs:[{word}]",
                "add qword ptr gs:[{word} + 8], {value}",
                word = in(reg) self.word(index),
                value = in(reg) value,
                options(nostack),
            )
        };
    }

    /// Adds to this processor's word; wraps.  Any context.  C: `this_cpu_add()`.
    #[inline]
    pub fn add(&self, index: usize, value: u64) {
        // SAFETY: As in `increment`.
        unsafe {
            asm!(
                "add qword ptr gs:[{word}], {value}",
                word = in(reg) self.word(index),
                value = in(reg) value,
                options(nostack),
            )
        };
    }

    /// As [`PerCpu::add`]; returns what was there before.  C: `this_cpu_xadd()`.
    #[inline]
    pub fn fetch_add(&self, index: usize, value: u64) -> u64 {
        let before;
        // SAFETY: As in `increment`.
        unsafe {
            asm!(
                "xadd qword ptr gs:[{word}], {value}",
                word = in(reg) self.word(index),
                value = inlateout(reg) value => before,
                options(nostack),
            )
        };
        before
    }

    /// This processor's word.  Any context.  C: `this_cpu_read()`.
    #[inline]
    pub fn get(&self, index: usize) -> u64 {
        let value;
        // SAFETY: As in `increment`.
        unsafe {
            asm!(
                "mov {value}, qword ptr gs:[{word}]",
                word = in(reg) self.word(index),
                value = lateout(reg) value,
                options(nostack, preserves_flags, readonly),
            )
        };
        value
    }

    /// Sets this processor's word.  Any context.  C: `this_cpu_write()`.
    #[inline]
    pub fn set(&self, index: usize, value: u64) {
        // SAFETY: As in `increment`.
        unsafe {
            asm!(
                "mov qword ptr gs:[{word}], {value}",
                word = in(reg) self.word(index),
                value = in(reg) value,
                options(nostack, preserves_flags),
            )
        };
    }

    /// One word of each processor, in order of their numbers.
    fn each(&self, index: usize) -> impl Iterator<Item = *mut u64> + '_ {
        (0..nr_cpu_ids()).filter_map(move |cpu| {
            // SAFETY: By the type invariant; null for a processor that cannot be.
            let word = unsafe { bindings::per_cpu_word(self.word(index), cpu) };
            (!word.is_null()).then_some(word)
        })
    }

    /// Sets the words of all processors, by their numbers, while nobody else uses them.
    pub fn fill(&mut self, index: usize, value: impl Fn(usize) -> u64) {
        for (cpu, word) in self.each(index).enumerate() {
            // SAFETY: A live word; `self` is borrowed for this alone.
            unsafe { word.write(value(cpu)) };
        }
    }

    /// As [`PerCpu::set`], for all processors, which may set their own words meanwhile.  Any context.
    pub fn set_all(&self, index: usize, value: u64) {
        for word in self.each(index) {
            // SAFETY: A live, aligned word, written at once.
            unsafe { word.write_volatile(value) };
        }
    }

    /// The sum over all processors; wraps.  What others add meanwhile may be in it or not.
    pub fn sum(&self, index: usize) -> u64 {
        self.sum_of([index])
    }

    /// The sum of several words over all processors; as [`PerCpu::sum`].
    pub fn sum_of<const M: usize>(&self, indices: [usize; M]) -> u64 {
        let offsets = indices.map(|index| if index < N { index } else { 0 });
        self.each(0).fold(0, |sum, first| {
            offsets.iter().fold(sum, |sum, offset| {
                // SAFETY: One of the `N` live words, read at once.
                sum.wrapping_add(unsafe { first.add(*offset).read_volatile() })
            })
        })
    }
}

impl<const N: usize> Drop for PerCpu<N> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; nobody uses the words any more.
        unsafe { bindings::free_percpu_words(self.words.as_ptr()) };
    }
}
