// SPDX-License-Identifier: GPL-2.0

//! A module parameter whose value is text, readable and writable at run time.
//!
//! `module!` knows integers only, and those cannot change after load.  The C side of this
//! parameter is `rust/helpers/text_param.c`.
//!
//! C: `struct kernel_param_ops` in
//! [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h).

use crate::bindings;
use core::fmt::Write;
use kernel::{
    error::from_result,
    ffi::{
        c_char,
        c_int, //
    },
    prelude::*,
    str::CStr,
    ThisModule, //
};

/// Where a text parameter's value goes and comes from.  Called with the kernel's parameter lock
/// held; may sleep.  Also called before the module's own initialisation.
pub trait TextParam {
    /// Takes a new value; [`EINVAL`] leaves the old one.
    fn set(text: &str) -> Result;

    /// Writes the value.
    fn get(to: &mut dyn Write) -> core::fmt::Result;
}

/// Runs `read` while the value cannot change: with the kernel's parameter lock of `module` held.
/// May sleep.  C: `kernel_param_lock()`.
pub fn steady<R>(module: &'static ThisModule, read: impl FnOnce() -> R) -> R {
    // SAFETY: A loaded module, or null for code that is built in.
    unsafe { bindings::kernel_param_lock(module.as_ptr()) };
    let answer = read();
    // SAFETY: Locked above.
    unsafe { bindings::kernel_param_unlock(module.as_ptr()) };
    answer
}

/// `set` of the C side.
///
/// # Safety
///
/// `text` is null or a valid C string.
pub unsafe fn set<T: TextParam>(text: *const c_char) -> c_int {
    from_result(|| {
        if text.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: By this function's contract.
        let text = unsafe { CStr::from_char_ptr(text) };
        T::set(text.to_str().map_err(|_| EINVAL)?.trim()).map(|()| 0)
    })
}

/// `get` of the C side; returns the number of bytes written.
///
/// # Safety
///
/// `buffer` is writable for `size` bytes.
pub unsafe fn get<T: TextParam>(buffer: *mut c_char, size: usize) -> c_int {
    // SAFETY: By this function's contract.
    let room = unsafe { core::slice::from_raw_parts_mut(buffer.cast::<u8>(), size) };
    let mut to = Text { room, used: 0 };
    from_result(|| {
        T::get(&mut to).map_err(|_| ENOSPC)?;
        to.write_char('\n').map_err(|_| ENOSPC)?;
        c_int::try_from(to.used).map_err(|_| ENOSPC)
    })
}

/// A writer that fails where its room ends.
struct Text<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.used.checked_add(text.len()).ok_or(core::fmt::Error)?;
        let room = self.room.get_mut(self.used..end).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

/// Makes a type the value of the module's text parameter.
#[macro_export]
macro_rules! text_param {
    ($type:ty) => {
        /// C: called by `text_param.c`.
        ///
        /// # Safety
        ///
        /// `text` is null or a valid C string.
        #[no_mangle]
        unsafe extern "C" fn xen_swiotlb_rs_text_set(
            text: *const ::kernel::ffi::c_char,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: By this function's contract.
            unsafe { $crate::text_param::set::<$type>(text) }
        }

        /// C: called by `text_param.c`.
        ///
        /// # Safety
        ///
        /// `buffer` is writable for `size` bytes.
        #[no_mangle]
        unsafe extern "C" fn xen_swiotlb_rs_text_get(
            buffer: *mut ::kernel::ffi::c_char,
            size: usize,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: By this function's contract.
            unsafe { $crate::text_param::get::<$type>(buffer, size) }
        }
    };
}
