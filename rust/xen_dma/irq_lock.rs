// SPDX-License-Identifier: GPL-2.0

//! A spin lock that keeps interrupts off, and restores what was.
//!
//! The kernel crate has no such lock yet; the DMA API may be called from any context, so
//! state that it shares needs one.
//!
//! C: `spin_lock_irqsave()`, `spin_unlock_irqrestore()`.

use crate::bindings;
use kernel::{
    ffi,
    sync::lock::{
        Backend,
        Guard,
        Lock, //
    }, //
};

/// A value behind an interrupt-saving spin lock.  Lockable in any context.
pub type IrqLock<T> = Lock<T, IrqSave>;

/// Makes an [`IrqLock`] with a lock class of its own, as `new_spinlock!` does.
#[macro_export]
macro_rules! new_irq_lock {
    ($inner:expr, $name:literal) => {
        $crate::irq_lock::IrqLock::new(
            $inner,
            ::kernel::optional_name!($name),
            ::kernel::static_lock_class!(),
        )
    };
}
pub use new_irq_lock;

/// The guard of an [`IrqLock`].
pub type IrqGuard<'a, T> = Guard<'a, T, IrqSave>;

/// The backend of [`IrqLock`].
pub struct IrqSave;

// SAFETY: `spin_lock_irqsave` gives exclusion between CPUs and against interrupts of this one; the
// flags travel in the guard, which is not `Send`.
unsafe impl Backend for IrqSave {
    type State = bindings::spinlock_t;
    type GuardState = ffi::c_ulong;

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const ffi::c_char,
        key: *mut bindings::lock_class_key,
    ) {
        // SAFETY: By the contract of `init`.
        unsafe { bindings::spin_lock_init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: Initialised, by the contract of `lock`.
        unsafe { bindings::spin_lock_irqsave(ptr) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        let mut flags = 0;
        // SAFETY: Initialised, by the contract of `try_lock`.
        unsafe { bindings::spin_trylock_irqsave(ptr, &mut flags) }.then_some(flags)
    }

    unsafe fn unlock(ptr: *mut Self::State, flags: &Self::GuardState) {
        // SAFETY: The caller owns the lock, and took it with these flags.
        unsafe { bindings::spin_unlock_irqrestore(ptr, *flags) }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: Initialised, by the contract of `assert_is_held`.
        unsafe { bindings::spin_assert_is_held(ptr) }
    }
}
