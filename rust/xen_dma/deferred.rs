// SPDX-License-Identifier: GPL-2.0

//! Waiting for work that was handed to a workqueue, so that no code of a module runs after
//! the module is gone.
//!
//! C: `flush_work()`.

use crate::bindings;
use kernel::container_of;
use kernel::workqueue::{
    DelayedWork,
    Work, //
};

/// Waits until an item that was queued before has run.  May sleep.
pub fn finish<T, const ID: u64>(work: &Work<T, ID>) {
    // SAFETY: A reference is a valid pointer.
    let item = unsafe { Work::raw_get(work) };
    // SAFETY: An initialised item, that lives for the call.
    unsafe { bindings::flush_work(item) };
}

/// As [`finish`], for an item that waits for its time: it runs now.  May sleep.
/// C: `flush_delayed_work()`.
pub fn finish_delayed<T, const ID: u64>(work: &DelayedWork<T, ID>) {
    // SAFETY: A reference is a valid pointer.
    let item = unsafe { Work::raw_get(DelayedWork::raw_as_work(work)) };
    // SAFETY: The item is that of a `delayed_work`.
    let item = unsafe { container_of!(item, bindings::delayed_work, work) };
    // SAFETY: Initialised, and lives for the call.
    unsafe { bindings::flush_delayed_work(item) };
}
