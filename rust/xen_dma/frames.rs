// SPDX-License-Identifier: GPL-2.0

//! Pages whose machine frames follow each other, and what stands behind them: how the frames
//! came, and so how they go back.
//!
//! Frames that follow others may be appended to them.  Each piece goes back as it came: Xen may
//! limit how much one exchange moves, and what fitted as it came is not Xen's.

#[cfg(not(MODULE))]
use crate::bindings;
use crate::{
    exchange::Trade,
    fault::{
        check,
        Point, //
    },
    p2m::{
        local_mfn,
        LinearP2m, //
    },
    pages::{
        Context,
        Node,
        Pages,
        Part, //
    },
};
use core::{
    iter,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};
use dma_core::{
    Machine,
    Mfn,
    P2m,
    Pfn,
    PAGE_SHIFT, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// Frames taken from and returned to Xen's pool of exchangeable memory, since load.
static TAKEN: AtomicU64 = AtomicU64::new(0);
static RETURNED: AtomicU64 = AtomicU64::new(0);

/// Pages that were traded for extents since load, and pages whose extents went back.
pub fn traded_pages() -> (u64, u64) {
    (
        TAKEN.load(Ordering::Relaxed),
        RETURNED.load(Ordering::Relaxed),
    )
}

/// What stands behind pages, and so what their end takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The pages were machine-contiguous and low enough as they came.
    Fitting,
    Exchanged,
    /// The kernel's own exchange.
    #[cfg(not(MODULE))]
    Linked,
}

/// What came at once, and goes back at once: `1 << order` pages.
#[derive(Clone, Copy)]
struct Piece {
    order: u32,
    origin: Origin,
}

impl Piece {
    /// Undoes whatever stands behind the pages of a piece, of which `base` is the first frame; tells whether
    /// they have other frames now.  Their owner frees them.
    fn give_back(self, pages: Part<'_>, base: Mfn) -> bool {
        let returned = match self.origin {
            Origin::Fitting => return false,
            Origin::Exchanged => {
                let trade = check(Point::GiveBack).and_then(|()| Trade::new(pages.len()));
                trade.and_then(|mut t| t.scatter(pages, self.order, base))
            }
            #[cfg(not(MODULE))]
            Origin::Linked => {
                if let Some(pfn) = pages.pfns().next() {
                    let phys = pfn.raw() << PAGE_SHIFT;
                    // A mapping of their own may have ended without Xen's knowing.
                    // SAFETY: Callable wherever sleeping is allowed.
                    unsafe { bindings::vm_unmap_aliases() };
                    // SAFETY: The same pages and order as at creation.
                    unsafe { bindings::xen_destroy_contiguous_region(phys, self.order) };
                }
                Ok(true)
            }
        };
        match returned {
            Ok(true) => {
                RETURNED.fetch_add(pages.len() as u64, Ordering::Relaxed);
                true
            }
            // Good memory all the same, only machine-contiguous: the page allocator may have it.
            Ok(false) | Err(_) => {
                pr_warn!(
                    "Xen did not take back an extent of {} KiB; it stays with this domain as ordinary memory\n",
                    (PAGE_SIZE << self.order) / 1024
                );
                false
            }
        }
    }
}

/// Pages with frames that follow each other; cleared and given back on drop, when nobody sees them
/// any more but through the linear map.
///
/// # Invariants
///
/// Page `i` is backed by machine frame `base + i`.
pub(crate) struct Frames {
    pages: Pages,
    base: Machine,
    piece: Piece,
    /// What was appended, in order.
    others: KVec<Piece>,
}

impl Frames {
    /// Gives pages frames that are an aligned extent below `1 << address_bits`, unless they have such
    /// ones as they come.
    ///
    /// [`ENOMEM`] when Xen has no such extent; nothing is lost then.  May sleep.
    pub(crate) fn gather(
        mut pages: Pages,
        order: u32,
        address_bits: u32,
        node: Node,
    ) -> Result<Self> {
        // Clear before the frames leave this domain.
        pages.clear();
        let (base, origin) = match fitting_base(&pages, order, address_bits) {
            Some(base) => (base, Origin::Fitting),
            None => {
                check(Point::Memory)?;
                let mut trade = Trade::new(pages.len())?;
                let base = trade.gather(pages.all(), order, address_bits, node)?;
                TAKEN.fetch_add(pages.len() as u64, Ordering::Relaxed);
                (base, Origin::Exchanged)
            }
        };
        // INVARIANT: `gather` or `fitting_base` vouch for the frames.
        Ok(Self::new(pages, base, Piece { order, origin }))
    }

    /// As [`Frames::gather`], for neighbours and by the kernel's own function.
    #[cfg(not(MODULE))]
    pub(crate) fn linked(order: u32, address_bits: u32) -> Result<Self> {
        let mut pages = Pages::contiguous(order, Context::Sleepable, Node::ANY)?;
        pages.clear();
        let (base, origin) = match fitting_base(&pages, order, address_bits) {
            Some(base) => (base, Origin::Fitting),
            None => {
                let phys = pages.pfns().next().ok_or(EINVAL)?.raw() << PAGE_SHIFT;
                let mut handle = 0;
                // SAFETY: The pages are ours, neighbours, and `1 << order` of them.
                let failed = unsafe {
                    bindings::xen_create_contiguous_region(phys, order, address_bits, &mut handle)
                };
                if failed != 0 {
                    return Err(ENOMEM);
                }
                TAKEN.fetch_add(1 << order, Ordering::Relaxed);
                (Mfn::new(handle >> PAGE_SHIFT), Origin::Linked)
            }
        };
        // INVARIANT: The function or `fitting_base` vouch for the frames.
        Ok(Self::new(pages, base, Piece { order, origin }))
    }

    /// Takes neighbouring pages whose frames are an aligned extent below `1 << address_bits` as they
    /// come.  [`ENOMEM`] when the ones at hand are not.
    pub(crate) fn fitting(
        order: u32,
        address_bits: u32,
        node: Node,
        context: Context,
    ) -> Result<Self> {
        let p2m = LinearP2m::get().ok_or(ENODEV)?;
        let mut base = None;
        let pages = Pages::contiguous_if(order, context, node, |first| {
            base = extent_base(p2m, first, order, address_bits);
            base.is_some()
        })?;
        let origin = Origin::Fitting;
        // INVARIANT: `extent_base` vouches for the frames.
        Ok(Self::new(
            pages,
            base.ok_or(ENOMEM)?,
            Piece { order, origin },
        ))
    }

    fn new(pages: Pages, base: Mfn, piece: Piece) -> Self {
        Self {
            pages,
            base: base.start(),
            piece,
            others: KVec::new(),
        }
    }

    #[inline]
    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// The first machine address.
    #[inline]
    pub(crate) fn base(&self) -> Machine {
        self.base
    }

    /// Whether the frames were never Xen's to give.
    pub(crate) fn are_fitting(&self) -> bool {
        self.pieces().all(|piece| piece.origin == Origin::Fitting)
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        Iterator::chain(iter::once(self.piece), self.others.iter().copied())
    }

    /// Takes over the frames that follow these, if `see` makes something of all pages; else, or without
    /// memory, both are as they were.  [`EINVAL`] if others follow.  May sleep.
    pub(crate) fn append<T>(
        &mut self,
        next: &mut Self,
        see: impl FnOnce(&Pages) -> Result<T>,
    ) -> Result<T> {
        let own = self.pages.len();
        // CAST: Widens.
        if self.base.mfn().checked_add(own as u64) != Some(next.base.mfn()) {
            return Err(EINVAL);
        }
        check(Point::Memory)?;
        self.others.reserve(1 + next.others.len(), GFP_KERNEL)?;
        // INVARIANT: The frames follow, as just checked.
        self.pages.append(&mut next.pages)?;
        let seen = see(&self.pages);
        match &seen {
            Ok(_) => {
                for piece in next.pieces() {
                    // Within the capacity, so this cannot fail.
                    let _ = self.others.push_within_capacity(piece);
                }
            }
            Err(_) => self.pages.hand_back(own, &mut next.pages),
        }
        seen
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.pages.clear();
        let (mut first, mut other_frames) = (0, false);
        for piece in self.pieces() {
            // There are no pages left of what was appended to others.
            let Some(part) = self.pages.part(first, 1 << piece.order) else {
                break;
            };
            // CAST: Widens.
            let base = Mfn::new(self.base.mfn().raw() + first as u64);
            other_frames |= piece.give_back(part, base);
            first += part.len();
        }
        if other_frames {
            // Frames that came from Xen may hold another domain's bytes.
            self.pages.clear();
        }
    }
}

/// The first frame of pages that are an aligned extent below `1 << address_bits` as they are.
fn fitting_base(pages: &Pages, order: u32, address_bits: u32) -> Option<Mfn> {
    let p2m = LinearP2m::get()?;
    let mut frames = pages.pfns();
    let first = low_and_aligned(local_mfn(p2m, frames.next()?)?, order, address_bits)?;
    frames
        .zip(first.raw() + 1..)
        .all(|(pfn, mfn)| local_mfn(p2m, pfn) == Some(Mfn::new(mfn)))
        .then_some(first)
}

/// As [`fitting_base`], for neighbours from `first` on.
fn extent_base(p2m: LinearP2m, first: Pfn, order: u32, address_bits: u32) -> Option<Mfn> {
    let mfn = low_and_aligned(local_mfn(p2m, first)?, order, address_bits)?;
    (p2m.following(first, mfn, 1 << order) == 1 << order).then_some(mfn)
}

/// A frame, if an extent that begins with it is aligned and ends below `1 << address_bits`.
fn low_and_aligned(first: Mfn, order: u32, address_bits: u32) -> Option<Mfn> {
    let end = first.raw().checked_add(1 << order)?;
    let low = (end - 1) >> address_bits.saturating_sub(PAGE_SHIFT).min(63) == 0;
    (low && first.raw() & ((1 << order) - 1) == 0).then_some(first)
}
