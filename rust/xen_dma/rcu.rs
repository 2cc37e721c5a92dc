// SPDX-License-Identifier: GPL-2.0

//! Values that are read while they come and go, protected by RCU.
//!
//! A [`Table`] has places for values.  A reader pays a counter of its own task, and never waits.  A
//! value that is taken out is given to the taker once all readers that may still see it are done.  A reader who
//! must sleep keeps a reference of its own.
//! The kernel crate has the guard, but no container.
//!
//! C: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h).

use crate::bindings;
use core::ops::Deref;
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

/// A read-side critical section of the current task.
///
/// # Invariants
///
/// The section lasts as long as the value.
struct Section(NotThreadSafe);

impl Section {
    /// Begins one.  Any context but NMI.  C: `rcu_read_lock()`.
    #[inline(always)]
    fn new() -> Self {
        // The kernel's helper, a call more, is for kernels where the inline function does more than
        // this.
        #[cfg(all(CONFIG_PREEMPT_RCU, not(CONFIG_DEBUG_LOCK_ALLOC)))]
        // SAFETY: Nests; ended by `drop`.
        unsafe {
            bindings::__rcu_read_lock()
        };
        #[cfg(not(all(CONFIG_PREEMPT_RCU, not(CONFIG_DEBUG_LOCK_ALLOC))))]
        // SAFETY: As above.
        unsafe {
            bindings::rcu_read_lock()
        };
        // INVARIANT: Just begun.
        Self(NotThreadSafe)
    }
}

impl Drop for Section {
    #[inline(always)]
    fn drop(&mut self) {
        #[cfg(all(CONFIG_PREEMPT_RCU, not(CONFIG_DEBUG_LOCK_ALLOC)))]
        // SAFETY: Ends what `new` began, by the type invariant.
        unsafe {
            bindings::__rcu_read_unlock()
        };
        #[cfg(not(all(CONFIG_PREEMPT_RCU, not(CONFIG_DEBUG_LOCK_ALLOC))))]
        // SAFETY: As above.
        unsafe {
            bindings::rcu_read_unlock()
        };
    }
}

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
    /// A reference that outlasts the reading.
    pub fn keep(&self) -> Arc<T> {
        // SAFETY: A value of an `Arc`, of which the table owns a reference as long as the section lasts.
        unsafe { ArcBorrow::from_raw(core::ptr::from_ref(self.value)) }.into()
    }
}

/// Places for values, each empty at first.
///
/// # Invariants
///
/// A place holds null, or the address of a value of which the table owns a reference.
pub struct Table<T> {
    places: KVec<Atomic<*mut T>>,
}

// SAFETY: It owns values that are shared, and may end on any processor.
unsafe impl<T: Send + Sync> Send for Table<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for Table<T> {}

impl<T> Table<T> {
    /// Makes `count` empty places.  May sleep.
    pub fn new(count: usize) -> Result<Self> {
        let mut places = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            // INVARIANT: Empty.
            places.push(Atomic::new(core::ptr::null_mut()), GFP_KERNEL)?;
        }
        Ok(Self { places })
    }

    /// The value at a place, if there is one.  Any context but NMI.  C: `rcu_dereference()`.
    #[inline(always)]
    pub fn read(&self, place: usize) -> Option<Reading<'_, T>> {
        let place = self.places.get(place)?;
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

    /// Puts a value into an empty place.  It comes back if the place is in use, or if there is no such
    /// place.  Any context.  C: `rcu_assign_pointer()`.
    pub fn put(&self, place: usize, value: Arc<T>) -> Result<(), Arc<T>> {
        let Some(place) = self.places.get(place) else {
            return Err(value);
        };
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
    pub fn take(&self, place: usize) -> Option<Arc<T>> {
        let value = self.places.get(place)?.xchg(core::ptr::null_mut(), Full);
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
        for place in &self.places {
            let value = place.load(Relaxed);
            if !value.is_null() {
                place.store(core::ptr::null_mut(), Release);
                // SAFETY: By the type invariant; nobody else knows the table any more.
                drop(unsafe { Arc::from_raw(value) });
            }
        }
    }
}
