// SPDX-License-Identifier: GPL-2.0

//! Values that are read while they come and go, protected by RCU.
//!
//! A [`Table`] has places for values.  A reader keeps its processor, for the cost of two instructions, and
//! never waits.  A value that is taken out is given to the taker once all readers that may still see it
//! are done.  A reader who must sleep, or is at it for long, keeps it without a section.  The kernel
//! crate has neither this kind of section, nor a container.
//!
//! C: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h),
//! [`include/linux/preempt.h`](srctree/include/linux/preempt.h).

use crate::{
    bindings,
    fault, //
};
use core::{
    arch::asm,
    ops::Deref, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        }, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    types::NotThreadSafe, //
};

/// A read-side critical section: what runs in it is not preempted.
///
/// # Invariants
///
/// The section lasts as long as the value.
pub struct Section(NotThreadSafe);

/// Whether the count of sections is nothing but a word of each processor.  Debugging kernels do more.
const PLAIN_COUNT: bool = cfg!(all(
    CONFIG_PREEMPT_COUNT,
    not(CONFIG_DEBUG_PREEMPT),
    not(CONFIG_TRACE_PREEMPT_TOGGLE)
));

impl Section {
    /// Begins one.  Any context but NMI.  C: `rcu_read_lock_sched()`.
    #[inline(always)]
    fn new() -> Self {
        if PLAIN_COUNT {
            // SAFETY: The processor's own count, in one instruction; `drop` undoes it.  Reads stay
            // behind it, as for the compiler it may touch any memory.
            unsafe {
                asm!(
                    "inc dword ptr gs:[rip + {count}]",
                    count = sym bindings::__preempt_count,
                    options(nostack),
                )
            };
        } else {
            // SAFETY: Nests; ended by `drop`.
            unsafe { bindings::preempt_disable() };
        }
        // INVARIANT: Just begun.
        Self(NotThreadSafe)
    }

    /// Ends a section in which the scheduler wanted the processor.
    #[cold]
    #[inline(never)]
    fn end_late() {
        // SAFETY: Nests; ended by what follows, which looks whether the scheduler is to run.
        unsafe { bindings::preempt_disable() };
        // SAFETY: Ends what was begun above.
        unsafe { bindings::preempt_enable() };
    }
}

impl Drop for Section {
    #[inline(always)]
    fn drop(&mut self) {
        if PLAIN_COUNT {
            // SAFETY: Ends what `new` began, by the type invariant.
            unsafe {
                asm!(
                    "dec dword ptr gs:[rip + {count}]",
                    "jz {late}",
                    count = sym bindings::__preempt_count,
                    late = label { Self::end_late() },
                    options(nostack),
                )
            };
        } else {
            // SAFETY: As above.
            unsafe { bindings::preempt_enable() };
        }
    }
}

/// As many as a byte can name.
const PLACES: usize = 256;

/// A value of a [`Table`], which stays at least as long as this.  Whoever has one must not sleep.
pub struct Reading<'a, T> {
    guarded: &'a Guarded<T>,
    section: Section,
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.guarded.value
    }
}

impl<'a, T> Reading<'a, T> {
    /// Ends the reading, but keeps the value: who takes it out waits for that, too.  Whoever keeps one may
    /// sleep, but not for long.
    pub fn into_kept(self) -> Kept<'a, T> {
        self.guarded.keepers.fetch_add(1, Full);
        // INVARIANT: Counted above, while the section lasted.
        Kept(self.guarded)
    }

    /// Ends the reading, but not yet the section.
    #[inline(always)]
    pub fn into_section(self) -> Section {
        self.section
    }
}

/// A value of a [`Table`] that is kept without a section.
///
/// # Invariants
///
/// It is one of the value's keepers.
pub struct Kept<'a, T>(&'a Guarded<T>);

impl<T> Deref for Kept<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Drop for Kept<'_, T> {
    fn drop(&mut self) {
        // After this the value may be gone.
        self.0.keepers.fetch_sub(1, Full);
    }
}

/// A value, and how many keep it.
struct Guarded<T> {
    value: T,
    keepers: Atomic<u64>,
}

/// Places for values, 256 of them, each empty at first.
///
/// # Invariants
///
/// A place holds null, or the address of a boxed value that the table owns.
pub struct Table<T> {
    places: KBox<[Atomic<*mut Guarded<T>>; PLACES]>,
}

// SAFETY: It owns values that are shared, and may end on any processor.
unsafe impl<T: Send + Sync> Send for Table<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for Table<T> {}

impl<T> Table<T> {
    /// Makes empty places.  May sleep.
    pub fn new() -> Result<Self> {
        fault::check(fault::Point::Memory)?;
        // INVARIANT: All are empty.
        let places = [const { Atomic::new(core::ptr::null_mut()) }; PLACES];
        Ok(Self {
            places: KBox::new(places, GFP_KERNEL)?,
        })
    }

    /// The value at a place, if there is one.  Any context but NMI.  C: `rcu_dereference()`.
    #[inline(always)]
    pub fn read(&self, place: u8) -> Option<Reading<'_, T>> {
        self.look(place).ok()
    }

    /// As [`Table::read`].  If there is no value, its caller ends the section, where that costs least.
    #[inline(always)]
    pub fn look(&self, place: u8) -> Result<Reading<'_, T>, Section> {
        let place = &self.places[usize::from(place)];
        let section = Section::new();
        // SAFETY: A live, aligned word, read at once; what is read through it depends on it.
        let guarded = unsafe { place.as_ptr().read_volatile() };
        // SAFETY: By the type invariant a boxed value, and `take` does not let go of it before the
        // section ends.
        match unsafe { guarded.as_ref() } {
            Some(guarded) => Ok(Reading { guarded, section }),
            None => Err(section),
        }
    }

    /// Puts a value into an empty place.  [`EBUSY`] if the place is in use; the value ends then.  May
    /// sleep.  C: `rcu_assign_pointer()`.
    pub fn put(&self, place: u8, value: T) -> Result {
        fault::check(fault::Point::Memory)?;
        let keepers = Atomic::new(0);
        let guarded = KBox::into_raw(KBox::new(Guarded { value, keepers }, GFP_KERNEL)?);
        let place = &self.places[usize::from(place)];
        // INVARIANT: If the place takes it, the table owns the value from here on.
        if place.cmpxchg(core::ptr::null_mut(), guarded, Full).is_err() {
            // SAFETY: From `into_raw` above; the place did not take it.
            drop(unsafe { KBox::from_raw(guarded) });
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Empties a place, and returns what was there when nobody reads it or keeps it any more.  May sleep.
    /// C: `synchronize_rcu()`.
    pub fn take(&self, place: u8) -> Option<T> {
        let guarded = self.places[usize::from(place)].xchg(core::ptr::null_mut(), Full);
        if guarded.is_null() {
            return None;
        }
        // SAFETY: May sleep, as the caller may.
        unsafe { bindings::synchronize_rcu() };
        // SAFETY: By the type invariant a boxed value, which nobody else lets go of.
        let keepers = unsafe { &(*guarded).keepers };
        // Nobody finds it any more, so they only become fewer.
        while keepers.load(Acquire) > 0 {
            fsleep(Delta::from_millis(1));
        }
        // SAFETY: The place does not own it any more; sections that saw it have ended, and so have those
        // who kept it.
        let guarded = unsafe { KBox::from_raw(guarded) };
        Some(KBox::into_inner(guarded).value)
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        for place in self.places.iter() {
            let guarded = place.load(Relaxed);
            if !guarded.is_null() {
                // SAFETY: By the type invariant; nobody else knows the table any more.
                drop(unsafe { KBox::from_raw(guarded) });
            }
        }
    }
}
