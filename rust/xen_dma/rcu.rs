// SPDX-License-Identifier: GPL-2.0

//! Values that are read while they come and go, protected by RCU.
//!
//! A [`Table`] has places for values.  A reader keeps its processor, for the cost of two instructions, and
//! never waits.  A value that is taken out is given to the taker once all readers that may still see it
//! are done.  A reader who must sleep, or is at it for long, keeps a reference of its own.  The kernel
//! crate has neither this kind of section, nor a container.
//!
//! C: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h),
//! [`include/linux/preempt.h`](srctree/include/linux/preempt.h).

use crate::bindings;
use core::{
    arch::asm,
    ops::Deref, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc,
        ArcBorrow, //
    },
    types::NotThreadSafe, //
};

/// A read-side critical section: what runs in it is not preempted.
///
/// # Invariants
///
/// The section lasts as long as the value.
struct Section(NotThreadSafe);

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
            let waited: u8;
            // SAFETY: Ends what `new` began, by the type invariant.
            unsafe {
                asm!(
                    "dec dword ptr gs:[rip + {count}]",
                    "setz {waited}",
                    count = sym bindings::__preempt_count,
                    waited = out(reg_byte) waited,
                    options(nostack),
                )
            };
            if waited != 0 {
                Self::end_late();
            }
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
    value: &'a T,
    _section: Section,
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> Reading<'_, T> {
    /// Ends the reading, but for a reference that outlasts it.
    pub fn into_kept(self) -> Arc<T> {
        // SAFETY: A value of an `Arc`, of which the table owns a reference as long as the section lasts.
        unsafe { ArcBorrow::from_raw(core::ptr::from_ref(self.value)) }.into()
    }
}

/// Places for values, 256 of them, each empty at first.
///
/// # Invariants
///
/// A place holds null, or the address of a value of which the table owns a reference.
pub struct Table<T> {
    places: KBox<[Atomic<*mut T>; PLACES]>,
}

// SAFETY: It owns values that are shared, and may end on any processor.
unsafe impl<T: Send + Sync> Send for Table<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for Table<T> {}

impl<T> Table<T> {
    /// Makes empty places.  May sleep.
    pub fn new() -> Result<Self> {
        // INVARIANT: All are empty.
        let places = [const { Atomic::new(core::ptr::null_mut()) }; PLACES];
        Ok(Self {
            places: KBox::new(places, GFP_KERNEL)?,
        })
    }

    /// The value at a place, if there is one.  Any context but NMI.  C: `rcu_dereference()`.
    #[inline(always)]
    pub fn read(&self, place: u8) -> Option<Reading<'_, T>> {
        let place = &self.places[usize::from(place)];
        let section = Section::new();
        // SAFETY: A live, aligned word, read at once; what is read through it depends on it.
        let value = unsafe { place.as_ptr().read_volatile() };
        // SAFETY: By the type invariant a live value, and `take` does not let go of it before the
        // section ends.
        let value = unsafe { value.as_ref() }?;
        Some(Reading {
            value,
            _section: section,
        })
    }

    /// Puts a value into an empty place.  It comes back if the place is in use.  Any context.
    /// C: `rcu_assign_pointer()`.
    pub fn put(&self, place: u8, value: Arc<T>) -> Result<(), Arc<T>> {
        let place = &self.places[usize::from(place)];
        let value = Arc::into_raw(value).cast_mut();
        // INVARIANT: If the place takes it, the table owns the reference from here on.
        match place.cmpxchg(core::ptr::null_mut(), value, Full) {
            Ok(_) => Ok(()),
            // SAFETY: From `into_raw` above; the place did not take it.
            Err(_) => Err(unsafe { Arc::from_raw(value) }),
        }
    }

    /// Empties a place, and returns what was there when its last reader is done, but for those who keep it.  May sleep.
    /// C: `synchronize_rcu()`.
    pub fn take(&self, place: u8) -> Option<Arc<T>> {
        let value = self.places[usize::from(place)].xchg(core::ptr::null_mut(), Full);
        if value.is_null() {
            return None;
        }
        // SAFETY: May sleep, as the caller may.
        unsafe { bindings::synchronize_rcu() };
        // SAFETY: By the type invariant; the place does not own the reference any more.
        Some(unsafe { Arc::from_raw(value) })
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        for place in self.places.iter() {
            let value = place.load(Relaxed);
            if !value.is_null() {
                place.store(core::ptr::null_mut(), Release);
                // SAFETY: By the type invariant; nobody else knows the table any more.
                drop(unsafe { Arc::from_raw(value) });
            }
        }
    }
}
