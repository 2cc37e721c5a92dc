// SPDX-License-Identifier: GPL-2.0

//! What a device can put on the bus.
//!
//! C headers: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h),
//! [`include/linux/dma-direct.h`](srctree/include/linux/dma-direct.h)
//!
//! All of these limits speak of machine addresses. C's `dma_capable()` checks the first of them on
//! the machine side, too, but Linux's bounce buffer checks the other two on guest addresses, which
//! under Xen PV says nothing about what the device will see.

use crate::addr::{
    Machine,
    Phys,
    PAGE_SIZE, //
};

/// The limits of one device. Cheap to copy, and to rebuild when a driver changes a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    reach: u64,
    boundary: u64,
    min_align: u64,
}

impl Limits {
    /// Puts a device's limits together, from `*dev->dma_mask`, `dev->bus_dma_limit`,
    /// `dma_get_seg_boundary()` and `dma_get_min_align_mask()`.
    ///
    /// * `dma_mask` and `bus_dma_limit` are the highest addresses that the device and its bus can
    ///   name; a bus limit of 0 means none.
    /// * `seg_boundary_mask` is one less than the window that a segment may not leave; `!0` means
    ///   none. C demands a power of two; another window is rounded down to one.
    /// * `min_align_mask` has the low address bits that a bounce must keep. Bits missing below its
    ///   highest are kept as well.
    ///
    /// # Examples
    ///
    /// ```
    /// use dma_core::{addr::Machine, limits::Limits};
    ///
    /// let ide = Limits::new(0xffff_ffff, 0, 0xffff, 0);
    /// assert!(ide.reaches(Machine::new(0xffff_f000), 0x1000));
    /// assert!(!ide.reaches(Machine::new(0xffff_f000), 0x1001));
    /// assert!(ide.crosses_boundary(Machine::new(0x1_f000), 0x1001));
    /// ```
    #[inline]
    pub const fn new(
        dma_mask: u64,
        bus_dma_limit: u64,
        seg_boundary_mask: u64,
        min_align_mask: u64,
    ) -> Self {
        let reach = if bus_dma_limit != 0 && bus_dma_limit < dma_mask {
            bus_dma_limit
        } else {
            dma_mask
        };
        let boundary = match seg_boundary_mask.checked_add(1) {
            // The window's own highest bit and those below it, less that bit.
            Some(window) => u64::MAX.wrapping_shr(window.leading_zeros()) >> 1,
            None => u64::MAX,
        };
        let min_align = match u64::MAX.checked_shr(min_align_mask.leading_zeros()) {
            Some(mask) => mask,
            None => 0,
        };

        Self {
            reach,
            boundary,
            min_align,
        }
    }

    /// Does nothing but the reach matter for a buffer within one page? It does unless boundary or
    /// alignment divide a page or are wider than one.
    #[inline]
    pub const fn only_reach_in_page(&self) -> bool {
        self.boundary >= PAGE_SIZE - 1 && self.min_align < PAGE_SIZE
    }

    /// The highest machine address that the device can use.
    #[inline]
    pub const fn reach(&self) -> u64 {
        self.reach
    }

    /// One less than the window, in bytes, that a segment may not leave; `!0` if there is none.
    #[inline]
    pub const fn boundary(&self) -> u64 {
        self.boundary
    }

    /// The low address bits that a bounce must keep, as a mask of ones from bit 0.
    #[inline]
    pub const fn min_align(&self) -> u64 {
        self.min_align
    }

    /// As if the device relied on the place in a page, too.
    #[inline]
    pub const fn keeping_page(self) -> Self {
        Self {
            min_align: self.min_align | (PAGE_SIZE - 1),
            ..self
        }
    }

    /// Can the device name every one of `size` bytes from `start`? No bytes are always within
    /// reach.
    #[inline]
    pub const fn reaches(&self, start: Machine, size: u64) -> bool {
        match size.checked_sub(1) {
            Some(rest) => match start.raw().checked_add(rest) {
                Some(last) => last <= self.reach,
                None => false,
            },
            None => true,
        }
    }

    /// Do `size` bytes from `start` leave the window in which they begin?
    ///
    /// A segment longer than the window cannot obey wherever it lies, so for it the answer is no:
    /// its driver splits it, as it must with C's dma-direct.
    #[inline]
    pub const fn crosses_boundary(&self, start: Machine, size: u64) -> bool {
        match size.checked_sub(1) {
            Some(rest) => match self.boundary.checked_sub(rest) {
                Some(room) => start.raw() & self.boundary > room,
                None => false,
            },
            None => false,
        }
    }

    /// Does a machine address lack low bits of the guest address that the device relies on?
    #[inline]
    pub const fn misaligns(&self, start: Machine, phys: Phys) -> bool {
        (start.raw() ^ phys.raw()) & self.min_align != 0
    }
}
