// SPDX-License-Identifier: GPL-2.0

//! Failures on demand: one of the next steps that may fail does, so that a test sees what becomes of it.
//!
//! The kernel's own fault injection must be set up from user space, and knows nothing of Xen.  Outside
//! of tests nothing of this is left.

use kernel::prelude::*;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Point {
    /// Linux has no memory.
    Memory,
    /// Xen refuses an exchange for an extent.
    Exchange,
    /// Xen refuses to take a page's mapping away.
    Unmap,
    /// An extent cannot go back: memory is missing for it, or Xen refuses.
    GiveBack,
    /// Linux has no small block of memory, whoever of this thread asks: the driver, or C on its behalf.
    /// Done by the kernel itself, which must have been told to (`failslab`).
    Slab,
}

#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
mod armed {
    use super::Point;
    use crate::bindings;
    use kernel::sync::atomic::{
        Atomic,
        Relaxed, //
    };

    /// How many steps of each kind are left, with the one that fails; 0: none fails.
    static LEFT: [Atomic<u32>; 4] = [const { Atomic::new(0) }; 4];

    /// Makes the `n`-th step of a kind from now on fail, once.  Other threads' steps count, too.
    pub fn fail_nth(point: Point, n: u32) {
        match LEFT.get(point as usize) {
            Some(left) => left.store(n, Relaxed),
            None => _ = swap_slab(n),
        }
    }

    /// Nothing is to fail any more; tells whether it did.
    pub fn stop(point: Point) -> bool {
        match LEFT.get(point as usize) {
            Some(left) => left.xchg(0, Relaxed) == 0,
            None => swap_slab(0) == 0,
        }
    }

    /// Sets how many blocks this thread is given, with the one that it is not.  Returns what was left.
    #[cfg(CONFIG_FAULT_INJECTION)]
    fn swap_slab(n: u32) -> u32 {
        // SAFETY: The thread that runs, which lives.
        let thread = unsafe { bindings::get_current() };
        // SAFETY: As above; nobody else writes the field.
        let left = unsafe { &raw mut (*thread).fail_nth };
        // SAFETY: As above.
        unsafe { left.replace(n) }
    }

    /// Nothing fails in this kernel.
    #[cfg(not(CONFIG_FAULT_INJECTION))]
    fn swap_slab(n: u32) -> u32 {
        n.max(1)
    }

    pub(crate) fn due(point: Point) -> bool {
        let Some(left) = LEFT.get(point as usize) else {
            return false;
        };
        let mut old = left.load(Relaxed);
        while old > 0 {
            match left.cmpxchg(old, old - 1, Relaxed) {
                Ok(_) => return old == 1,
                Err(now) => old = now,
            }
        }
        false
    }
}

#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
pub(crate) use armed::due;
#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
pub use armed::{
    fail_nth,
    stop, //
};

/// Whether this step is to fail.
#[cfg(not(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST))]
#[inline(always)]
pub(crate) fn due(_point: Point) -> bool {
    false
}

/// [`ENOMEM`] if this step is to fail.
#[inline(always)]
pub(crate) fn check(point: Point) -> Result {
    if due(point) {
        Err(ENOMEM)
    } else {
        Ok(())
    }
}
