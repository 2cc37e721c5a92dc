// SPDX-License-Identifier: GPL-2.0

//! A machine-contiguous region of memory: owns its frames, clear when it comes and when it
//! goes, given back on drop.
//!
//! Two regions that lie side by side can be joined to one.
//!
//! C: `xen_create_contiguous_region()`, `xen_destroy_contiguous_region()`.

use crate::{
    bindings,
    fault::{
        check,
        Point, //
    },
    frames::Frames,
    p2m::LinearP2m,
    pages::{
        Context,
        Node,
        Pages, //
    },
};
use core::ptr::NonNull;
use dma_core::{
    Machine,
    Phys,
    PAGE_SHIFT, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

pub use crate::frames::traded_pages;

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

/// Machine-contiguous memory, naturally aligned; its size is a power of two.
///
/// # Invariants
///
/// `view` shows all pages of `frames` in order.
pub struct Region {
    // Ends before the frames that it shows.
    view: View,
    frames: Frames,
    /// In bytes.
    size: usize,
    linear: LinearMap,
}

// SAFETY: `self` owns its pages and its view; neither is bound to a thread.
unsafe impl Send for Region {}
// SAFETY: Shared access copies raw bytes, as the device does at the same time: the users of the
// memory decide who owns which bytes when.
unsafe impl Sync for Region {}

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
                let frames = Frames::gather(pages, order, address_bits, node)?;
                Ok(Self::cleared(View::mapped(frames.pages())?, frames))
            }
            Way::Neighbours => {
                let pages = Pages::contiguous(order, Context::Sleepable, node)?;
                let frames = Frames::gather(pages, order, address_bits, node)?;
                Ok(Self::cleared(View::linear(frames.pages())?, frames))
            }
            #[cfg(not(MODULE))]
            Way::Linked => {
                let frames = Frames::linked(order, address_bits)?;
                Ok(Self::cleared(View::linear(frames.pages())?, frames))
            }
        }
    }

    /// Takes neighbouring pages that are machine-contiguous and low enough as they come, without
    /// any hypercall.  [`ENOMEM`] when the ones at hand are not, which is found out soon.
    pub fn fitting(order: u32, address_bits: u32, node: Node, context: Context) -> Result<Self> {
        let frames = Frames::fitting(order, address_bits, node, context)?;
        Ok(Self::cleared(View::linear(frames.pages())?, frames))
    }

    /// A region of these frames, which the view shows.
    fn cleared(view: View, frames: Frames) -> Self {
        // INVARIANT: By this function's contract.
        let region = Self {
            size: frames.pages().len() << PAGE_SHIFT,
            view,
            frames,
            linear: LinearMap::get(),
        };
        region.clear();
        region
    }

    /// Takes over the region that follows this one in the machine, if it has the same size and both
    /// together are naturally aligned.  Their bytes stay what they were, their views do not.
    ///
    /// Returns the other one if it is another, or if memory is missing; both are as they were then.  At the
    /// end each part goes back as it came.  May sleep.
    pub fn join(&mut self, mut next: Self) -> Result<(), Self> {
        // CAST: Widens.
        let aligned = self.base().raw() & (2 * self.size as u64 - 1) == 0;
        if next.size != self.size || !aligned {
            return Err(next);
        }
        let linear = !self.view.mapped && !next.view.mapped;
        let seen = self.frames.append(&mut next.frames, |pages| {
            if linear && pages.are_neighbours() {
                View::linear(pages)
            } else {
                View::mapped(pages)
            }
        });
        match seen {
            Ok(view) => {
                // INVARIANT: It shows the pages of both.
                self.view = view;
                self.size *= 2;
                Ok(())
            }
            Err(_) => Err(next),
        }
    }

    /// The first machine address.
    #[inline]
    pub fn base(&self) -> Machine {
        self.frames.base()
    }

    /// Size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The last machine address.
    #[inline]
    pub fn last(&self) -> Machine {
        Machine::new(self.base().raw() + self.size as u64 - 1)
    }

    /// Where the CPU sees the first byte.
    #[inline]
    pub fn view(&self) -> NonNull<u8> {
        self.view.start
    }

    /// Where the CPU sees the byte at `offset`.
    #[inline]
    pub fn at(&self, offset: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.within(offset, 1)?)
    }

    /// Whether the region's end may be reached where sleeping is not allowed.
    pub fn ends_atomically(&self) -> bool {
        !self.view.mapped && self.frames.are_fitting()
    }

    /// The first page, if the pages are neighbours in pfn.
    pub fn first_page(&self) -> Option<NonNull<bindings::page>> {
        if self.view.mapped {
            None
        } else {
            self.pages().first()
        }
    }

    /// The page that has the byte at `offset`, if the pages are neighbours in pfn.
    pub fn page_at(&self, offset: usize) -> Option<NonNull<bindings::page>> {
        self.first_page()?;
        self.pages().get(offset / PAGE_SIZE)
    }

    /// The pages, in machine order.
    pub(crate) fn pages(&self) -> &Pages {
        self.frames.pages()
    }

    /// Clears a part, and tells where the CPU sees it.  [`None`], and nothing cleared, if the region has
    /// not all of it.  Any context.
    #[inline]
    pub fn clear_range(&self, offset: usize, size: usize) -> Option<NonNull<u8>> {
        let at = NonNull::new(self.within(offset, size)?)?;
        // SAFETY: `within` checked the range against the view.
        unsafe { at.write_bytes(0, size) };
        Some(at)
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
        (end <= self.size).then(|| self.view.start.as_ptr().wrapping_add(offset))
    }
}

/// Where the CPU sees pages side by side.
///
/// # Invariants
///
/// `start` is an area of its own if `mapped` is true, else the linear map's address of the first page.
struct View {
    start: NonNull<u8>,
    mapped: bool,
}

impl View {
    /// Of pages that are neighbours in pfn.
    fn linear(pages: &Pages) -> Result<Self> {
        Ok(Self {
            start: pages.linear().ok_or(ENOMEM)?,
            mapped: false,
        })
    }

    /// Of pages from anywhere.  May sleep.
    fn mapped(pages: &Pages) -> Result<Self> {
        check(Point::Memory)?;
        // SAFETY: A list of `len` pages that stay allocated while the mapping lives.
        let start = unsafe {
            bindings::vmap(
                pages.as_ptr().cast_mut(),
                pages.len() as u32,
                bindings::VM_MAP as usize,
                bindings::page_kernel(),
            )
        };
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            mapped: true,
        })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: It came from `vmap`, and nobody uses it any more.
            unsafe { bindings::vunmap(self.start.as_ptr().cast()) };
        }
    }
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
