// SPDX-License-Identifier: GPL-2.0

//! Addresses and frame numbers, one type for each side of the p2m.
//!
//! C header: [`arch/x86/include/asm/xen/page.h`](srctree/arch/x86/include/asm/xen/page.h)
//!
//! Under Xen PV a number can be a guest's or the machine's, and mixing the two up compiles in C.
//! Here [`Pfn`] and [`Phys`] belong to the guest, [`Mfn`] and [`Machine`] to the machine. Only the
//! p2m leads from one side to the other.

/// Bits of an address that lie inside a page.
pub const PAGE_SHIFT: u32 = 12;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// Bits in a physical or machine address: the most that the x86-64 architecture allows.
pub const ADDRESS_BITS: u32 = 52;

/// The first frame number, of either side, that no address can belong to.
pub(crate) const FRAME_END: u64 = 1 << (ADDRESS_BITS - PAGE_SHIFT);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Names a raw number.
            #[inline]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[inline]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The number `count` units further on, or [`None`] past the end of 64 bits.
            #[inline]
            pub const fn checked_add(self, count: u64) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// How many units this is past `start`, or [`None`] if it comes before.
            #[inline]
            pub const fn since(self, start: Self) -> Option<u64> {
                self.0.checked_sub(start.0)
            }
        }
    };
}

number! {
    /// A guest frame number (pseudo-physical under Xen), counted in pages.
    Pfn
}
number! {
    /// A machine frame number, counted in pages.
    Mfn
}
number! {
    /// A guest physical address, counted in bytes: C's `phys_addr_t`.
    Phys
}
number! {
    /// A machine address, counted in bytes: what a device puts on the bus, C's `dma_addr_t`.
    Machine
}

impl Phys {
    /// The frame that the address lies in: C's `PFN_DOWN()`.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }

    /// Bytes from the start of the page: C's `offset_in_page()`.
    #[inline]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Pfn {
    /// The frame's first address: C's `PFN_PHYS()`. Bits past 64 are lost.
    #[inline]
    pub const fn start(self) -> Phys {
        Phys(self.0 << PAGE_SHIFT)
    }
}

impl Machine {
    /// The frame that the address lies in.
    #[inline]
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// Bytes from the start of the page.
    #[inline]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Mfn {
    /// The frame's first address. Bits past 64 are lost, so ask [`Frame::machine`] for a frame
    /// that comes from a table.
    ///
    /// [`Frame::machine`]: crate::p2m::Frame::machine
    #[inline]
    pub const fn start(self) -> Machine {
        Machine(self.0 << PAGE_SHIFT)
    }
}
