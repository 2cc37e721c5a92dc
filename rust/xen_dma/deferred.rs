// SPDX-License-Identifier: GPL-2.0

//! Waiting for work that was handed to a workqueue, so that no code of a module runs after
//! the module is gone.
//!
//! C: `flush_work()`.

use crate::bindings;
use kernel::workqueue::Work;

/// Waits until an item that was queued before has run.  May sleep.
pub fn finish<T>(work: &Work<T>) {
    // SAFETY: A reference is a valid pointer.
    let item = unsafe { Work::raw_get(work) };
    // SAFETY: An initialised item, that lives for the call.
    unsafe { bindings::flush_work(item) };
}
