// SPDX-License-Identifier: GPL-2.0

//! A device made of software: it reads and writes memory where a device would, by machine address.
//!
//! Xen's own table says what is behind an address, so that an address that is not the buffer's, or
//! not this domain's, shows.  It is as fast as the processor, which no emulated device is.
//!
//! C: [`arch/x86/include/asm/xen/page.h`](srctree/arch/x86/include/asm/xen/page.h),
//! `bfn_to_local_pfn()`.

use crate::{
    bindings,
    p2m::LinearP2m,
    pages::linear_address, //
};
use dma_core::{
    Machine,
    Pfn, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// How many of `size` bytes from `at` on are not `byte(i)`.  [`EFAULT`] if one is not this domain's
/// memory.  Any context.
pub fn differences(at: Machine, size: usize, byte: impl Fn(usize) -> u8) -> Result<usize> {
    let mut wrong = 0;
    each(at, size, |place, index| {
        // SAFETY: A byte of this domain's memory, by `each`; others may touch it, as with a device.
        wrong += usize::from(unsafe { place.read_volatile() } != byte(index));
    })?;
    Ok(wrong)
}

/// Writes `byte(i)` to each byte `i` of `size` from `at` on; errors as of [`differences`].
///
/// The caller vouches that the memory is mapped for a device that may write there.
pub fn write(at: Machine, size: usize, byte: impl Fn(usize) -> u8) -> Result {
    each(at, size, |place, index| {
        // SAFETY: As in `differences`; by this function's contract it is a device's to write.
        unsafe { place.write_volatile(byte(index)) }
    })
}

/// Calls `touch` with where the CPU sees each byte, and its number.
fn each(at: Machine, size: usize, mut touch: impl FnMut(*mut u8, usize)) -> Result {
    let p2m = LinearP2m::get().ok_or(ENODEV)?;
    let mut done = 0;
    while done < size {
        // CAST: Widens.
        let here = at.checked_add(done as u64).ok_or(EFAULT)?;
        // SAFETY: Callable for every frame: what has no entry faults, and C catches that.
        let pfn = unsafe { bindings::bfn_to_local_pfn(here.mfn().raw() as usize) } as u64;
        // What is no memory of this domain has no place in its table.
        if pfn >= p2m.end() {
            return Err(EFAULT);
        }
        // CAST: Below a page's size.
        let inside = here.raw() as usize % PAGE_SIZE;
        let page = linear_address(Pfn::new(pfn));
        let part = (PAGE_SIZE - inside).min(size - done);
        for index in 0..part {
            touch(page.wrapping_add(inside + index), done + index);
        }
        done += part;
    }
    Ok(())
}
