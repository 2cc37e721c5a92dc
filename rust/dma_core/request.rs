// SPDX-License-Identifier: GPL-2.0

//! What a mapping asks of the slot allocator.
//!
//! C source: `swiotlb_search_pool_area()` in
//! [`kernel/dma/swiotlb.c`](srctree/kernel/dma/swiotlb.c)
//!
//! The allocator counts in slots, a device's limits speak of bytes in machine space. An extent is
//! naturally aligned there, so a slot's index has the low bits of its machine address, and a limit
//! becomes a condition on the index: "this, modulo that".
//!
//! A run that fits a chunk may begin at any slot. A larger one begins at the first slot of a chunk.
//! If the alignment wants such a mapping to begin further in, the slots before it belong to the run
//! as well, and the mapping's bytes begin with an *offset* in its run. The offset never needs to be
//! stored: it is the low bits of the buffer's own address.

use crate::{
    addr::{
        Machine,
        Phys,
        PAGE_SHIFT, //
    },
    bits::{
        index,
        low,
        wide, //
    },
    limits::Limits,
};

/// Bits of an address that lie inside a slot: C's `IO_TLB_SHIFT`.
pub const SLOT_SHIFT: u32 = 11;

/// Bytes in a slot: C's `IO_TLB_SIZE`.
pub const SLOT_SIZE: u64 = 1 << SLOT_SHIFT;

/// Slots in a chunk: the unit that is either shared by small runs or part of a large one.
pub const CHUNK_SLOTS: usize = 64;

/// Bits of an address that lie inside a chunk.
pub const CHUNK_SHIFT: u32 = SLOT_SHIFT + CHUNK_SLOTS.trailing_zeros();

/// The largest extent, in slots: 1 GiB, the most that Xen exchanges at once.
pub const MAX_SLOTS: usize = 1 << 19;

/// Slots in a page.
pub(crate) const PAGE_SLOTS: usize = 2;

/// Why a claim was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// The extent, or what large runs are given of it, is smaller than the request.
    TooLarge,
    /// There is no room now. Under heavy contention this is also said after many lost races.
    Full,
    /// No run of this extent can ever meet the conditions.
    Impossible,
}

/// A number of adjacent slots, and conditions on where they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    slots: usize,
    align: usize,
    offset: usize,
    window: usize,
    keep: u32,
}

impl Request {
    /// Asks for `slots` adjacent slots anywhere; [`None`] for no slots.
    #[inline]
    pub const fn new(slots: usize) -> Option<Self> {
        if slots == 0 {
            return None;
        }
        Some(Self {
            slots,
            align: 1,
            offset: 0,
            window: 0,
            keep: 0,
        })
    }

    /// Asks for a first slot whose index is `offset` modulo `align`.
    ///
    /// [`None`] unless `align` is a power of two and `offset` lies below it. A run of more than
    /// [`CHUNK_SLOTS`] begins with a chunk, so that another offset in a chunk is impossible for it.
    #[inline]
    pub const fn aligned(self, align: usize, offset: usize) -> Option<Self> {
        if !align.is_power_of_two() || offset >= align {
            return None;
        }
        Some(Self {
            align,
            offset,
            ..self
        })
    }

    /// Asks for a run that does not leave a naturally aligned window of `window` slots.
    ///
    /// [`None`] unless `window` is a power of two.
    #[inline]
    pub const fn within(self, window: usize) -> Option<Self> {
        if !window.is_power_of_two() {
            return None;
        }
        Some(Self { window, ..self })
    }

    /// Asks for what a mapping of `size` bytes at `phys` needs in an extent at `base`, which must
    /// be aligned to its own size (a power of two, of two chunks at least).
    ///
    /// The low bits of the machine address under [`Limits::min_align`] will be those of `phys`, and
    /// the mapping will not cross [`Limits::boundary`] unless it is longer than that window.
    ///
    /// # Errors
    ///
    /// [`ClaimError::TooLarge`] beyond the largest extent; [`ClaimError::Impossible`] for no bytes,
    /// or if the bits to keep would make every possible place cross the boundary.
    ///
    /// # Examples
    ///
    /// An NVMe controller wants the offset in the page kept.
    ///
    /// ```
    /// use dma_core::{addr::{Machine, Phys}, limits::Limits, request::Request};
    ///
    /// let nvme = Limits::new(!0, 0, !0, 0xfff);
    /// let base = Machine::new(0x1000_0000);
    /// let request = Request::for_mapping(base, Phys::new(0x1a40), 4096, &nvme).unwrap();
    /// assert_eq!(request, Request::for_mapping(base, Phys::new(0x5a40), 4096, &nvme).unwrap());
    /// assert_eq!((request.slots(), request.offset(Phys::new(0x1a40))), (3, 0x240));
    /// ```
    #[inline]
    pub const fn for_mapping(
        base: Machine,
        phys: Phys,
        size: usize,
        limits: &Limits,
    ) -> Result<Self, ClaimError> {
        let size = wide(size);
        if size == 0 {
            return Err(ClaimError::Impossible);
        }
        if size > wide(MAX_SLOTS) << SLOT_SHIFT {
            return Err(ClaimError::TooLarge);
        }

        let min_align = limits.min_align();
        let inside = phys.raw() & min_align & (SLOT_SIZE - 1);
        let slots = index(inside.wrapping_add(size).wrapping_add(SLOT_SIZE - 1) >> SLOT_SHIFT);
        let mut request = Self {
            slots,
            align: 1,
            offset: 0,
            window: 0,
            // The mask is all ones from bit 0. Counting them is slow without an instruction for it.
            keep: u64::BITS.wrapping_sub(min_align.leading_zeros()),
        };

        if min_align >= SLOT_SIZE {
            request.align = index((min_align >> SLOT_SHIFT).wrapping_add(1));
            request.offset = index((phys.raw().wrapping_sub(base.raw()) & min_align) >> SLOT_SHIFT);
        }

        let boundary = limits.boundary();
        if boundary < SLOT_SIZE - 1 {
            // The first place in a window that the alignment leaves is also the best one.
            if limits.crosses_boundary(Machine::new(inside), size) {
                return Err(ClaimError::Impossible);
            }
        } else if boundary != u64::MAX && size.wrapping_sub(1) <= boundary {
            request.window = index((boundary >> SLOT_SHIFT).wrapping_add(1));
        }

        if slots > 1 || min_align >= SLOT_SIZE {
            request.fold()
        } else {
            request.keep = cap(request.keep, SLOT_SHIFT);
            Ok(request)
        }
    }

    /// As [`Request::for_mapping`], in pages that no other run lies on. The mapping begins in its run
    /// where its buffer does on its page.
    ///
    /// # Errors
    ///
    /// As [`Request::for_mapping`].
    ///
    /// # Examples
    ///
    /// ```
    /// use dma_core::{addr::{Machine, Phys}, limits::Limits, request::Request};
    ///
    /// let (base, any) = (Machine::new(0x1000_0000), Limits::new(!0, 0, !0, 0));
    /// let request = Request::pages_for_mapping(base, Phys::new(0x1fff), 2, &any).unwrap();
    /// assert_eq!((request.slots(), request.offset(Phys::new(0x1fff))), (4, 0xfff));
    /// ```
    pub const fn pages_for_mapping(
        base: Machine,
        phys: Phys,
        size: usize,
        limits: &Limits,
    ) -> Result<Self, ClaimError> {
        match Self::for_mapping(base, phys, size, &limits.keeping_page()) {
            Ok(request) => Ok(request.in_pages()),
            Err(why) => Err(why),
        }
    }

    /// Lets a run whose place in a page is kept consist of whole pages.
    const fn in_pages(mut self) -> Self {
        if self.keep < PAGE_SHIFT {
            let lead = self.offset & (PAGE_SLOTS - 1);
            self.slots = whole_pages(self.slots.wrapping_add(lead));
            self.offset = self.offset.wrapping_sub(lead);
            self.keep = PAGE_SHIFT;
            // What lies in a slot where its buffer does crosses nothing there.
            if self.window < PAGE_SLOTS {
                self.window = 0;
            }
        }
        self
    }

    /// Lets a run that no chunk can hold begin with a chunk, and checks that the window is met.
    const fn fold(mut self) -> Result<Self, ClaimError> {
        let lead = self.offset & self.align.wrapping_sub(1) & (CHUNK_SLOTS - 1);

        if lead.wrapping_add(self.slots) <= CHUNK_SLOTS {
            self.keep = cap(self.keep, SLOT_SHIFT);
        } else {
            self.keep = cap(self.keep, CHUNK_SHIFT);
            if lead != 0 {
                self.slots = self.slots.wrapping_add(lead);
                self.offset = self.offset.wrapping_sub(lead);
                if self.align < CHUNK_SLOTS {
                    self.align = CHUNK_SLOTS;
                }
            }
            if self.keep >= PAGE_SHIFT {
                self.slots = whole_pages(self.slots);
            }
        }

        // Nowhere in a window is there more room than at the first place in it that is allowed.
        let first = self.offset & self.window.wrapping_sub(1);
        if self.window != 0 && first.wrapping_add(self.slots) > self.window {
            return Err(ClaimError::Impossible);
        }
        Ok(self)
    }

    /// The slots of the run.
    #[inline]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// How far into its run the mapping of the buffer at `phys` begins, in bytes.
    #[inline]
    pub const fn offset(&self, phys: Phys) -> u64 {
        kept(phys, self.keep)
    }

    /// The alignment of the first slot's index, and its remainder.
    #[inline]
    pub(crate) const fn alignment(&self) -> (usize, usize) {
        (self.align, self.offset)
    }

    /// The window, or 0 for none.
    #[inline]
    pub(crate) const fn window(&self) -> usize {
        self.window
    }

    /// How many low bits of a buffer's address are its offset in the run.
    #[inline]
    pub(crate) const fn keep(&self) -> u32 {
        self.keep
    }

    /// Does a run of this size have pages to align to?
    #[inline]
    pub(crate) const fn has_pages(&self) -> bool {
        self.slots >= PAGE_SLOTS
    }
}

/// The slots of whole pages, for so many.
#[inline]
pub(crate) const fn whole_pages(slots: usize) -> usize {
    slots.wrapping_add(slots & (PAGE_SLOTS - 1))
}

/// The lowest `keep` bits of `phys`.
#[inline]
pub(crate) const fn kept(phys: Phys, keep: u32) -> u64 {
    phys.raw() & low(crate::bits::place_of(keep))
}

/// `n`, but not more than `most`.
#[inline]
const fn cap(n: u32, most: u32) -> u32 {
    if n < most {
        n
    } else {
        most
    }
}
