// SPDX-License-Identifier: GPL-2.0

//! Shrinkers: who keeps memory that it could do without is told when others need it.
//!
//! C: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h),
//! [`mm/shrinker.c`](srctree/mm/shrinker.c).

use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_ulong,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable, //
};

/// Keeps memory that it could do without.
pub trait Shrink: Send + Sync + 'static {
    /// How many pages could be given back.  Any context that may reclaim: may not allocate, nor
    /// take a lock that somebody holds who allocates.
    fn count(&self) -> usize;

    /// Gives up to `pages` back, or sees to it that they soon are; returns how many.  Context as in
    /// [`Shrink::count`].
    fn scan(&self, pages: usize) -> usize;
}

/// A registered shrinker; gone on drop.
///
/// # Invariants
///
/// `raw` is registered, and its private data is an `Arc<T>` turned foreign.
pub struct Shrinker<T: Shrink> {
    raw: NonNull<bindings::shrinker>,
    keeper: PhantomData<Arc<T>>,
}

// SAFETY: The shrinker may be freed by any thread, and `T` may be used by all.
unsafe impl<T: Shrink> Send for Shrinker<T> {}
// SAFETY: A shared reference offers nothing.
unsafe impl<T: Shrink> Sync for Shrinker<T> {}

impl<T: Shrink> Shrinker<T> {
    /// Registers `keeper`.  May sleep.  C: `shrinker_alloc()`, `shrinker_register()`.
    pub fn new(name: &'static CStr, keeper: Arc<T>) -> Result<Self> {
        // SAFETY: No flags, and a name that is a format without arguments in all uses.
        let raw = unsafe { bindings::shrinker_alloc(0, c"%s".as_char_ptr(), name.as_char_ptr()) };
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;
        let shrinker = raw.as_ptr();
        // SAFETY: Allocated above, and not registered yet.
        unsafe { (*shrinker).count_objects = Some(Self::count) };
        // SAFETY: As above.
        unsafe { (*shrinker).scan_objects = Some(Self::scan) };
        // SAFETY: As above.
        unsafe { (*shrinker).seeks = bindings::DEFAULT_SEEKS as i32 };
        // SAFETY: As above.
        unsafe { (*shrinker).private_data = keeper.into_foreign() };
        // SAFETY: As above; all that it needs is set.
        unsafe { bindings::shrinker_register(shrinker) };
        // INVARIANT: As just done.
        Ok(Self {
            raw,
            keeper: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Called by the memory management with a shrinker that [`Shrinker::new`] registered.
    unsafe fn keeper<'a>(shrinker: *mut bindings::shrinker) -> ArcBorrow<'a, T> {
        // SAFETY: By this function's contract.
        let keeper = unsafe { (*shrinker).private_data };
        // SAFETY: By the type invariant, and `shrinker_free()` waits for calls under way.
        unsafe { Arc::<T>::borrow(keeper) }
    }

    /// # Safety
    ///
    /// As [`Self::keeper`].
    unsafe extern "C" fn count(
        shrinker: *mut bindings::shrinker,
        _control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: By this function's contract.
        unsafe { Self::keeper(shrinker) }.count()
    }

    /// # Safety
    ///
    /// As [`Self::keeper`].
    unsafe extern "C" fn scan(
        shrinker: *mut bindings::shrinker,
        control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: Lent for the call.
        let pages = unsafe { (*control).nr_to_scan };
        // SAFETY: By this function's contract.
        unsafe { Self::keeper(shrinker) }.scan(pages)
    }
}

impl<T: Shrink> Drop for Shrinker<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        let keeper = unsafe { (*self.raw.as_ptr()).private_data };
        // SAFETY: Registered; afterwards no call is under way, and none will come.
        unsafe { bindings::shrinker_free(self.raw.as_ptr()) };
        // SAFETY: By the type invariant, and nobody else has it any more.
        drop(unsafe { Arc::<T>::from_foreign(keeper) });
    }
}
