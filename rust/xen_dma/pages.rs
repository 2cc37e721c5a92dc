// SPDX-License-Identifier: GPL-2.0

//! Whole pages that one owner holds, in any order and from anywhere.
//!
//! An exchange with Xen takes pages as they come: they need not be neighbours.  Where
//! neighbours are needed, a block of the page allocator is split into single pages, so
//! that both kinds are freed alike.

use crate::{
    bindings,
    fault::{
        check,
        Point, //
    },
};
use core::ptr::NonNull;
use dma_core::{
    Pfn,
    PAGE_SHIFT, //
};
use kernel::{
    ffi::c_int,
    page::PAGE_SIZE,
    prelude::*, //
};

/// How an allocation may behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// May sleep and reclaim.  C: `GFP_KERNEL`.
    Sleepable,
    /// May do neither.  C: `GFP_ATOMIC`.
    Atomic,
}

impl Context {
    /// The context that a caller's allocation flags speak of.  C: `gfpflags_allow_blocking()`.
    pub(crate) fn from_gfp(gfp: bindings::gfp_t) -> Self {
        if gfp & bindings::GFP_KERNEL == bindings::GFP_KERNEL {
            Self::Sleepable
        } else {
            Self::Atomic
        }
    }

    /// Flags for memory whose absence the caller survives and reports itself.
    pub(crate) fn gfp(self) -> bindings::gfp_t {
        match self {
            Self::Sleepable => bindings::GFP_KERNEL | bindings::__GFP_NOWARN,
            Self::Atomic => bindings::GFP_ATOMIC | bindings::__GFP_NOWARN,
        }
    }

    pub(crate) fn flags(self) -> kernel::alloc::Flags {
        match self {
            Self::Sleepable => GFP_KERNEL,
            Self::Atomic => kernel::alloc::flags::GFP_ATOMIC,
        }
    }
}

/// Where memory had best lie: a NUMA node, or anywhere.  C: `dev_to_node()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(c_int);

impl Node {
    /// No wish.
    pub const ANY: Self = Self(bindings::NUMA_NO_NODE);

    /// As C has it: -1 for any.
    pub const fn from_raw(raw: c_int) -> Self {
        Self(raw)
    }

    /// The node as Linux's page allocator takes it.
    fn linux(self) -> c_int {
        // SAFETY: Any number may be asked about.
        if unsafe { bindings::node_online(self.0) } {
            self.0
        } else {
            bindings::NUMA_NO_NODE
        }
    }

    /// The node as a part of Xen's flags for an allocation; 0 for none.  Xen takes memory from
    /// elsewhere if that node has none.  Xen: `XENMEMF_node()`.
    pub(crate) fn mem_flags(self) -> u32 {
        const SHIFT: u32 = 8;
        // Eight bits, in which 0 stands for no node.
        match u8::try_from(self.0.saturating_add(1)) {
            Ok(number) => u32::from(number) << SHIFT,
            Err(_) => 0,
        }
    }
}

/// The most pages that are taken at once: 1 GiB, which is as much as Xen exchanges.  A list of many
/// more would make C's allocator warn.
const MOST: usize = 1 << 18;

/// Pages held now, by all owners.
#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
static HELD: core::sync::atomic::AtomicIsize = core::sync::atomic::AtomicIsize::new(0);

/// Pages that the driver and its tests hold now.
#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
pub fn pages_held() -> isize {
    HELD.load(core::sync::atomic::Ordering::Relaxed)
}

/// Notes that so many more pages are held.
#[inline(always)]
fn held(_more: isize) {
    #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
    HELD.fetch_add(_more, core::sync::atomic::Ordering::Relaxed);
}

/// Pages held by one owner; freed on drop.
///
/// # Invariants
///
/// Every element is an order-0 page, owned by `self` alone and mapped in the linear map.
pub(crate) struct Pages(KVVec<*mut bindings::page>);

// SAFETY: `self` owns its pages; nothing about them is bound to a thread.
unsafe impl Send for Pages {}
// SAFETY: Shared access only reads the list.
unsafe impl Sync for Pages {}

impl Pages {
    /// Takes `count` single pages, of `node` if it has them.  May sleep.  [`ENOMEM`] when there are
    /// not that many.
    pub(crate) fn scattered(count: usize, node: Node) -> Result<Self> {
        if count > MOST {
            return Err(ENOMEM);
        }
        check(Point::Memory)?;
        // INVARIANT: Empty.
        let mut pages = Self(KVVec::with_capacity(count, GFP_KERNEL)?);
        let gfp = Context::Sleepable.gfp() | bindings::XEN_DMA_GFP_NORETRY;
        let node = node.linux();
        for _ in 0..count {
            // SAFETY: Any flags and order are valid; the context may sleep by contract.
            let page = unsafe { bindings::alloc_pages_node(node, gfp, 0) };
            if page.is_null() {
                return Err(ENOMEM);
            }
            held(1);
            // INVARIANT: Just allocated, order 0, and not highmem.  The capacity is there.
            pages.0.push(page, GFP_KERNEL)?;
        }
        // The last one was not to be had.
        check(Point::Memory)?;
        Ok(pages)
    }

    /// Takes `1 << order` neighbouring pages, naturally aligned in pfn, of `node` if it has them.
    pub(crate) fn contiguous(order: u32, context: Context, node: Node) -> Result<Self> {
        Self::contiguous_if(order, context, node, |_| true)
    }

    /// As [`Pages::contiguous`], if the block that is at hand is as it must be: its first pfn is
    /// shown.  [`ENOMEM`] if not; that costs little.
    pub(crate) fn contiguous_if(
        order: u32,
        context: Context,
        node: Node,
        fits: impl FnOnce(Pfn) -> bool,
    ) -> Result<Self> {
        let count = 1usize.checked_shl(order).ok_or(ENOMEM)?;
        if order > bindings::MAX_PAGE_ORDER {
            return Err(ENOMEM);
        }
        check(Point::Memory)?;
        // SAFETY: Any flags are valid, `order` is in range, and the flags match the context.
        let first = unsafe { bindings::alloc_pages_node(node.linux(), context.gfp(), order) };
        if first.is_null() {
            return Err(ENOMEM);
        }
        let list = if fits(pfn(first)) {
            check(Point::Memory).and_then(|()| Ok(KVVec::with_capacity(count, context.flags())?))
        } else {
            Err(ENOMEM)
        };
        let mut list = match list {
            Ok(list) => list,
            Err(error) => {
                // SAFETY: The block of `order` that was just allocated.
                unsafe { bindings::__free_pages(first, order) };
                return Err(error);
            }
        };
        if order > 0 {
            // SAFETY: `first` is a block of `order` that was just allocated without `__GFP_COMP`.
            unsafe { bindings::split_page(first, order) };
        }
        for index in 0..count {
            // Within the capacity, so this cannot fail.
            let _ = list.push_within_capacity(first.wrapping_add(index));
        }
        held(count as isize);
        // INVARIANT: The split made each page of the block an order-0 page.
        Ok(Self(list))
    }

    /// Takes over all pages of another owner, behind its own.  Without memory for a longer list both are
    /// as they were.  May sleep.
    pub(crate) fn append(&mut self, next: &mut Self) -> Result {
        check(Point::Memory)?;
        self.0.reserve(next.0.len(), GFP_KERNEL)?;
        // INVARIANT: Each page has one owner before and after.
        for &page in next.0.iter() {
            // Within the capacity, so this cannot fail.
            let _ = self.0.push_within_capacity(page);
        }
        next.0.clear();
        Ok(())
    }

    /// Undoes [`Pages::append`]: the pages from `first` on were `to`'s, whose list is as long as ever.
    pub(crate) fn hand_back(&mut self, first: usize, to: &mut Self) {
        // INVARIANT: As in `append`.
        for &page in self.0.iter().skip(first) {
            // Within the capacity, so this cannot fail.
            let _ = to.0.push_within_capacity(page);
        }
        self.0.truncate(first);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All pages.
    pub(crate) fn all(&self) -> Part<'_> {
        Part(&self.0)
    }

    /// `count` pages from `first` on, if there are so many.
    pub(crate) fn part(&self, first: usize, count: usize) -> Option<Part<'_>> {
        self.0.get(first..first.checked_add(count)?).map(Part)
    }

    /// Whether each page but the first is the pfn's neighbour of the one before it.
    pub(crate) fn are_neighbours(&self) -> bool {
        let after = |pfn: Pfn| pfn.checked_add(1);
        Iterator::zip(self.pfns(), self.pfns().skip(1)).all(|(pfn, next)| after(pfn) == Some(next))
    }

    pub(crate) fn as_ptr(&self) -> *const *mut bindings::page {
        self.0.as_ptr()
    }

    /// The pfn of each page, in order.
    pub(crate) fn pfns(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.all().pfns()
    }

    /// The page at a place in the order.
    pub(crate) fn get(&self, index: usize) -> Option<NonNull<bindings::page>> {
        self.0.get(index).copied().and_then(NonNull::new)
    }

    /// The first page.
    pub(crate) fn first(&self) -> Option<NonNull<bindings::page>> {
        self.get(0)
    }

    /// Where the linear map has the first page.
    pub(crate) fn linear(&self) -> Option<NonNull<u8>> {
        NonNull::new(linear_address(self.pfns().next()?))
    }

    /// Clears every page through the linear map.
    pub(crate) fn clear(&mut self) {
        for pfn in self.pfns() {
            // SAFETY: By the type invariant the page is mapped there, and `self` owns it.
            unsafe { linear_address(pfn).write_bytes(0, PAGE_SIZE) };
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        held(-(self.0.len() as isize));
        for &page in self.0.iter() {
            // SAFETY: An order-0 page owned by `self`, by the type invariant.
            unsafe { bindings::__free_pages(page, 0) };
        }
    }
}

/// Pages that follow each other in an owner's list.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a>(&'a [*mut bindings::page]);

impl<'a> Part<'a> {
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    /// The pfn of each page, in order.
    pub(crate) fn pfns(self) -> impl Iterator<Item = Pfn> + 'a {
        self.0.iter().map(|&page| pfn(page))
    }
}

/// The pfn of a page.  C: `page_to_pfn()`.
fn pfn(page: *mut bindings::page) -> Pfn {
    // SAFETY: Arithmetic only.
    Pfn::new(unsafe { bindings::page_to_pfn(page) } as u64)
}

/// Where the linear map has a pfn.  C: `__va(PFN_PHYS(pfn))`.
pub(crate) fn linear_address(pfn: Pfn) -> *mut u8 {
    // SAFETY: Arithmetic only.
    unsafe { bindings::phys_to_virt(pfn.raw() << PAGE_SHIFT) }.cast()
}
