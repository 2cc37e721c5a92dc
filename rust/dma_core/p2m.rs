// SPDX-License-Identifier: GPL-2.0

//! What backs a guest frame.
//!
//! C header: [`arch/x86/include/asm/xen/page.h`](srctree/arch/x86/include/asm/xen/page.h)
//!
//! The p2m maps each guest frame to the machine frame behind it. Two bits of an entry say that the
//! frame is not simply the guest's own memory: a *foreign* frame belongs to another domain (it was
//! granted), an *identity* frame is the machine frame of the same number (device memory, mostly).
//! All three can be given to a device. A *hole* has nothing behind it.

use crate::addr::{
    Machine,
    Mfn,
    Pfn,
    FRAME_END, //
};

/// `FOREIGN_FRAME_BIT`: another domain owns the frame.
pub const FOREIGN: u64 = 1 << 63;

/// `IDENTITY_FRAME_BIT`: the machine frame has the guest frame's own number.
pub const IDENTITY: u64 = 1 << 62;

/// `INVALID_P2M_ENTRY`: nothing is behind the frame.
pub const INVALID: u64 = !0;

/// What the p2m says about one guest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Memory of this domain.
    Local(Mfn),
    /// Memory that another domain granted.
    Foreign(Mfn),
    /// The machine frame of the same number.
    Identity(Mfn),
    /// Nothing: neither a device nor the processor may touch it.
    Hole,
}

impl Frame {
    /// Reads a p2m entry as `__pfn_to_mfn()` returns it, with its indicator bits.
    ///
    /// An entry whose frame number no machine address can have counts as a hole.
    ///
    /// # Examples
    ///
    /// ```
    /// use dma_core::{addr::Mfn, p2m::{Frame, FOREIGN, INVALID}};
    ///
    /// assert_eq!(Frame::decode(0x1234), Frame::Local(Mfn::new(0x1234)));
    /// assert_eq!(Frame::decode(FOREIGN | 0x1234), Frame::Foreign(Mfn::new(0x1234)));
    /// assert_eq!(Frame::decode(INVALID), Frame::Hole);
    /// ```
    #[inline]
    pub const fn decode(entry: u64) -> Self {
        let mfn = entry & !(FOREIGN | IDENTITY);

        // An invalid entry is among these: all its bits are set.
        if mfn >= FRAME_END {
            Self::Hole
        } else if entry & FOREIGN != 0 {
            Self::Foreign(Mfn::new(mfn))
        } else if entry & IDENTITY != 0 {
            Self::Identity(Mfn::new(mfn))
        } else {
            Self::Local(Mfn::new(mfn))
        }
    }

    /// The machine frame, if there is one: C's `pfn_to_mfn()`.
    #[inline]
    pub const fn mfn(self) -> Option<Mfn> {
        match self {
            Self::Local(mfn) | Self::Foreign(mfn) | Self::Identity(mfn) => Some(mfn),
            Self::Hole => None,
        }
    }

    /// The machine frame's first address, if there is one that a machine can have.
    #[inline]
    pub const fn machine(self) -> Option<Machine> {
        match self.mfn() {
            Some(mfn) if mfn.raw() < FRAME_END => Some(mfn.start()),
            _ => None,
        }
    }
}

/// The table from guest frames to machine frames.
pub trait P2m {
    /// What is behind `pfn`: C's `__pfn_to_mfn()`.
    ///
    /// Called with interrupts off and from interrupt handlers; it must not sleep. A frame that the
    /// table does not know is whatever Xen's own code takes it for.
    fn frame(&self, pfn: Pfn) -> Frame;

    /// The machine frame of ordinary memory of this domain, quickly; [`None`] for all that
    /// [`P2m::frame`] must be asked about, among it numbers that no address has.
    #[inline]
    fn ordinary(&self, pfn: Pfn) -> Option<Mfn> {
        match self.frame(pfn) {
            Frame::Local(mfn) if mfn.raw() < FRAME_END && pfn.raw() < FRAME_END => Some(mfn),
            _ => None,
        }
    }

    /// How many of the `count` frames from `pfn` on are ordinary memory, backed by those from `mfn` on
    /// one after the other: all before the first that is not.
    #[inline]
    fn following(&self, pfn: Pfn, mfn: Mfn, count: u64) -> u64 {
        let frame = |number: u64, more: u64| number.wrapping_add(more);
        let follows = |n: &u64| {
            let (pfn, mfn) = (frame(pfn.raw(), *n), frame(mfn.raw(), *n));
            self.ordinary(Pfn::new(pfn)) == Some(Mfn::new(mfn))
        };
        (0..count).find(|n| !follows(n)).unwrap_or(count)
    }

    /// Are the `count` frames from `pfn` on ordinary memory, whatever backs them?
    #[inline]
    fn all_ordinary(&self, pfn: Pfn, count: u64) -> bool {
        let frame = |n| Pfn::new(pfn.raw().wrapping_add(n));
        (0..count).all(|n| self.ordinary(frame(n)).is_some())
    }
}

impl<T: P2m + ?Sized> P2m for &T {
    #[inline]
    fn frame(&self, pfn: Pfn) -> Frame {
        (**self).frame(pfn)
    }

    #[inline]
    fn ordinary(&self, pfn: Pfn) -> Option<Mfn> {
        (**self).ordinary(pfn)
    }

    #[inline]
    fn following(&self, pfn: Pfn, mfn: Mfn, count: u64) -> u64 {
        (**self).following(pfn, mfn, count)
    }

    #[inline]
    fn all_ordinary(&self, pfn: Pfn, count: u64) -> bool {
        (**self).all_ordinary(pfn, count)
    }
}
