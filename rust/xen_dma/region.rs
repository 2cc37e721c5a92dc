// SPDX-License-Identifier: GPL-2.0

//! A machine-contiguous region of memory: owns its frames, clear when it comes and when it
//! goes, given back on drop.
//!
//! C: `xen_create_contiguous_region()`, `xen_destroy_contiguous_region()`.

use crate::{
    bindings,
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
        Pages, //
    },
};
use core::{
    ptr::NonNull,
    sync::atomic::Ordering, //
};
use dma_core::{
    Machine,
    Mfn,
    P2m,
    Pfn,
    Phys,
    PAGE_SHIFT, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// How a region gets its extent.  Both behave the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Our own exchange of pages from anywhere: any order that Xen allows.
    Scattered,
    /// Our own exchange of pages that are neighbours in pfn, for those who need a `struct page`:
    /// orders that the page allocator has.
    Neighbours,
    /// The kernel's own function, which code that is built in can link.  Neighbours, too.
    #[cfg(not(MODULE))]
    Linked,
}

/// What stands behind a region, and so what its end takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The pages were machine-contiguous and low enough as they came.
    Fitting,
    Exchanged,
    #[cfg(not(MODULE))]
    Linked,
}

/// Machine-contiguous memory, naturally aligned, of `1 << order` pages.
///
/// # Invariants
///
/// - Page `i` of `pages` is backed by machine frame `base + i`.
/// - `view` maps all pages in order, for as long as `self` lives; it is the linear map's address
///   of the first page if `mapped` is false, else an area of its own.
pub struct Region {
    pages: Pages,
    base: Machine,
    order: u32,
    /// In bytes.
    size: usize,
    view: NonNull<u8>,
    mapped: bool,
    origin: Origin,
    linear: LinearMap,
}

// SAFETY: `self` owns its pages and its view; neither is bound to a thread.
unsafe impl Send for Region {}
// SAFETY: Shared access copies raw bytes, as the device does at the same time: the users of the
// memory decide who owns which bytes when.
unsafe impl Sync for Region {}

/// Frames taken from and returned to Xen's pool of exchangeable memory, since load.
static TAKEN: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
static RETURNED: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Pages that were traded for extents since load, and pages whose extents went back.
pub fn traded_pages() -> (u64, u64) {
    (
        TAKEN.load(Ordering::Relaxed),
        RETURNED.load(Ordering::Relaxed),
    )
}

impl Region {
    /// Obtains a cleared region of `1 << order` pages whose last byte lies below
    /// `1 << address_bits`.
    ///
    /// Memory that fits as it comes is taken as it is.  [`ENOMEM`] when Linux has no pages or
    /// Xen has no such extent; nothing is lost then.  May sleep.
    pub fn new(order: u32, address_bits: u32, way: Way) -> Result<Self> {
        Self::near(Node::ANY, order, address_bits, way)
    }

    /// As [`Region::new`], on a node if that has memory, else anywhere.
    pub fn near(node: Node, order: u32, address_bits: u32, way: Way) -> Result<Self> {
        // Xen would read 0 as "anywhere".
        if address_bits == 0 {
            return Err(ENOMEM);
        }
        match way {
            Way::Scattered => {
                let count = 1usize.checked_shl(order).ok_or(EINVAL)?;
                let pages = Pages::scattered(count, node)?;
                Self::exchanged(pages, true, order, address_bits, node)
            }
            Way::Neighbours => {
                let pages = Pages::contiguous(order, Context::Sleepable, node)?;
                Self::exchanged(pages, false, order, address_bits, node)
            }
            #[cfg(not(MODULE))]
            Way::Linked => Self::linked(order, address_bits),
        }
    }

    fn exchanged(
        mut pages: Pages,
        mapped: bool,
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
                let base = Trade::new(pages.len())?.gather(&pages, order, address_bits, node)?;
                TAKEN.fetch_add(pages.len() as u64, Ordering::Relaxed);
                (base, Origin::Exchanged)
            }
        };
        let view = if mapped {
            map_view(&pages)
        } else {
            pages.linear().ok_or(ENOMEM)
        };
        match view {
            Ok(view) => {
                // INVARIANT: `gather` or `fitting_base` vouch for the frames, `map_view` for the
                // view.
                let region = Self {
                    pages,
                    base: base.start(),
                    order,
                    size: PAGE_SIZE << order,
                    view,
                    mapped,
                    origin,
                    linear: LinearMap::get(),
                };
                region.clear();
                Ok(region)
            }
            Err(error) => {
                give_back(&mut pages, order, base, origin);
                Err(error)
            }
        }
    }

    /// As [`Region::new`], by the kernel's own function.
    #[cfg(not(MODULE))]
    fn linked(order: u32, address_bits: u32) -> Result<Self> {
        let mut pages = Pages::contiguous(order, Context::Sleepable, Node::ANY)?;
        pages.clear();
        let view = pages.linear().ok_or(ENOMEM)?;
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
        // INVARIANT: The function vouches for the frames; neighbours are mapped in order by the
        // linear map.
        let region = Self {
            pages,
            base: base.start(),
            order,
            size: PAGE_SIZE << order,
            view,
            mapped: false,
            origin,
            linear: LinearMap::get(),
        };
        region.clear();
        Ok(region)
    }

    /// Takes neighbouring pages that are machine-contiguous and low enough as they come, without
    /// any hypercall.  [`ENOMEM`] when the ones at hand are not, which is found out soon.
    pub fn fitting(order: u32, address_bits: u32, node: Node, context: Context) -> Result<Self> {
        let p2m = LinearP2m::get().ok_or(ENODEV)?;
        let mut base = None;
        let mut pages = Pages::contiguous_if(order, context, node, |first| {
            base = extent_base(p2m, first, order, address_bits);
            base.is_some()
        })?;
        let base = base.ok_or(ENOMEM)?;
        let view = pages.linear().ok_or(ENOMEM)?;
        pages.clear();
        // INVARIANT: As in `linked`.
        Ok(Self {
            pages,
            base: base.start(),
            order,
            size: PAGE_SIZE << order,
            view,
            mapped: false,
            origin: Origin::Fitting,
            linear: LinearMap::get(),
        })
    }

    /// The first machine address.
    #[inline]
    pub fn base(&self) -> Machine {
        self.base
    }

    /// Size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The last machine address.
    #[inline]
    pub fn last(&self) -> Machine {
        Machine::new(self.base.raw() + self.size as u64 - 1)
    }

    /// Where the CPU sees the first byte.
    #[inline]
    pub fn view(&self) -> NonNull<u8> {
        self.view
    }

    /// Where the CPU sees the byte at `offset`.
    #[inline]
    pub fn at(&self, offset: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.within(offset, 1)?)
    }

    /// Whether the region's end may be reached where sleeping is not allowed.
    pub fn ends_atomically(&self) -> bool {
        self.origin == Origin::Fitting && !self.mapped
    }

    /// The first page, if the pages are neighbours in pfn.
    pub fn first_page(&self) -> Option<NonNull<bindings::page>> {
        if self.mapped {
            None
        } else {
            self.pages.first()
        }
    }

    /// The page that has the byte at `offset`, if the pages are neighbours in pfn.
    pub fn page_at(&self, offset: usize) -> Option<NonNull<bindings::page>> {
        self.first_page()?;
        self.pages.get(offset / PAGE_SIZE)
    }

    /// The pages, in machine order.
    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Clears the bytes from `offset` on; what lies outside the region is left alone.
    pub fn clear_range(&self, offset: usize, size: usize) {
        if let Some(at) = self.within(offset, size) {
            // SAFETY: `within` checked the range against the view.
            unsafe { at.write_bytes(0, size) };
        }
    }

    /// Clears all of it.
    pub fn clear(&self) {
        self.clear_range(0, self.size());
    }

    /// Copies `size` bytes from physical memory into the region.
    ///
    /// `false`, and nothing copied, if either range lies outside what exists.  The caller of the
    /// DMA API vouches that the buffer is its own.  Any context.
    #[inline]
    pub fn copy_in(&self, offset: usize, from: Phys, size: usize) -> bool {
        let Some(at) = self.within(offset, size) else {
            return false;
        };
        let Some(from) = self.linear.range(from, size) else {
            return false;
        };
        // SAFETY: Both ranges were checked; the view and the buffer are distinct memory.
        unsafe { at.copy_from_nonoverlapping(from, size) };
        true
    }

    /// Copies `size` bytes out of the region into physical memory; as [`Region::copy_in`].
    #[inline]
    pub fn copy_out(&self, offset: usize, to: Phys, size: usize) -> bool {
        let Some(at) = self.within(offset, size) else {
            return false;
        };
        let Some(to) = self.linear.range(to, size) else {
            return false;
        };
        // SAFETY: As in `copy_in`.
        unsafe { to.copy_from_nonoverlapping(at, size) };
        true
    }

    /// The view's address of a range, if the region has all of it.
    #[inline]
    fn within(&self, offset: usize, size: usize) -> Option<*mut u8> {
        let end = offset.checked_add(size)?;
        (end <= self.size).then(|| self.view.as_ptr().wrapping_add(offset))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.clear();
        if self.mapped {
            // SAFETY: `view` came from `vmap`, and nobody uses it any more.
            unsafe { bindings::vunmap(self.view.as_ptr().cast()) };
        }
        give_back(&mut self.pages, self.order, self.base.mfn(), self.origin);
    }
}

/// Undoes whatever stands behind the pages; they are then freed by their owner.
fn give_back(pages: &mut Pages, order: u32, base: Mfn, origin: Origin) {
    let returned = match origin {
        Origin::Fitting => return,
        Origin::Exchanged => {
            let trade = check(Point::GiveBack).and_then(|()| Trade::new(pages.len()));
            trade.and_then(|mut t| t.scatter(pages, order, base))
        }
        #[cfg(not(MODULE))]
        Origin::Linked => {
            if let Some(pfn) = pages.pfns().next() {
                // SAFETY: The same pages and order as at creation.
                unsafe { bindings::xen_destroy_contiguous_region(pfn.raw() << PAGE_SHIFT, order) };
            }
            Ok(true)
        }
    };
    match returned {
        Ok(true) => {
            RETURNED.fetch_add(pages.len() as u64, Ordering::Relaxed);
            // Frames that came from Xen may hold another domain's bytes.
            pages.clear();
        }
        // Good memory all the same, only machine-contiguous: the page allocator may have it.
        Ok(false) | Err(_) => pr_warn!(
            "Xen did not take back an extent of {} KiB; it stays with this domain as ordinary memory\n",
            (PAGE_SIZE << order) / 1024
        ),
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

/// Maps pages from anywhere side by side.  May sleep.
fn map_view(pages: &Pages) -> Result<NonNull<u8>> {
    check(Point::Memory)?;
    // SAFETY: A list of `len` pages that stay allocated while the mapping lives.
    let view = unsafe {
        bindings::vmap(
            pages.as_ptr().cast_mut(),
            pages.len() as u32,
            bindings::VM_MAP as usize,
            bindings::page_kernel(),
        )
    };
    NonNull::new(view.cast()).ok_or(ENOMEM)
}

/// Where the kernel sees all memory, side by side.  The same for all regions, and kept in each so
/// that a copy finds it at hand.
#[derive(Clone, Copy)]
struct LinearMap {
    start: *mut u8,
    /// The first physical address that is not memory: the p2m covers all that Linux may call so.
    end: u64,
}

impl LinearMap {
    /// The map; empty outside a PV domain.
    fn get() -> Self {
        Self {
            // SAFETY: Arithmetic only.
            start: unsafe { bindings::phys_to_virt(0) }.cast(),
            end: LinearP2m::get().map_or(0, |p2m| p2m.end() << PAGE_SHIFT),
        }
    }

    /// The address of a physical range, if memory can be there at all.
    #[inline]
    fn range(self, phys: Phys, size: usize) -> Option<*mut u8> {
        let end = phys.raw().checked_add(size as u64)?;
        (end <= self.end).then(|| self.start.wrapping_add(phys.raw() as usize))
    }
}
