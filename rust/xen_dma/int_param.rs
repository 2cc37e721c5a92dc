// SPDX-License-Identifier: GPL-2.0

//! The values of a module's integer parameters.
//!
//! C: `module_param()` in [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h).

use core::borrow::Borrow;

/// A parameter's value, of what the kernel crate gives: a reference up to Linux 7.2, and the value itself
/// from 7.3 on.
pub fn value<T: Copy>(given: impl Borrow<T>) -> T {
    *given.borrow()
}
