// SPDX-License-Identifier: GPL-2.0

//! Scatterlists as the DMA API hands them to a backend: read the buffer, set the mapping.
//!
//! The kernel crate's `SGTable` serves drivers, who own a list; a backend is lent one.
//!
//! C: [`include/linux/scatterlist.h`](srctree/include/linux/scatterlist.h).

use crate::bindings;
use core::{
    marker::PhantomData,
    mem::size_of, //
};
use dma_core::{
    Machine,
    Pfn,
    Phys, //
};

/// A list lent for one call.
///
/// # Invariants
///
/// `first` starts a valid list; at most `count` entries of it are visited.
pub struct ScatterList<'a> {
    first: *mut bindings::scatterlist,
    count: usize,
    lent: PhantomData<&'a mut bindings::scatterlist>,
}

impl ScatterList<'_> {
    /// # Safety
    ///
    /// `first` starts a list that lives for the lifetime and that nobody else changes.
    pub(crate) unsafe fn from_raw(first: *mut bindings::scatterlist, count: i32) -> Self {
        // INVARIANT: By the contract above.
        Self {
            first,
            count: usize::try_from(count).unwrap_or(0),
            lent: PhantomData,
        }
    }

    /// Number of entries that the caller speaks of.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries in order.  Ends early where the list itself ends.
    #[inline]
    pub fn entries(&mut self) -> Entries<'_> {
        Entries {
            next: self.first,
            left: self.count,
            lent: PhantomData,
        }
    }
}

/// Iterator over the entries of a [`ScatterList`].
pub struct Entries<'a> {
    next: *mut bindings::scatterlist,
    left: usize,
    lent: PhantomData<&'a mut bindings::scatterlist>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        if self.left == 0 || self.next.is_null() {
            return None;
        }
        let entry = Entry {
            raw: self.next,
            lent: PhantomData,
        };
        self.left -= 1;
        self.next = entry.following();
        Some(entry)
    }
}

/// Bits of an entry's `page_link` beside the address.
const CHAIN: usize = bindings::SG_CHAIN as usize;
const END: usize = bindings::SG_END as usize;

/// One entry: a piece of buffer, and where the device sees it.
pub struct Entry<'a> {
    raw: *mut bindings::scatterlist,
    lent: PhantomData<&'a mut bindings::scatterlist>,
}

impl Entry<'_> {
    /// The entry after this one; null after the last.  C: `sg_next()`.
    #[inline]
    fn following(&self) -> *mut bindings::scatterlist {
        // SAFETY: A valid entry.
        if unsafe { (*self.raw).page_link } & END != 0 {
            return core::ptr::null_mut();
        }
        let next = self.raw.wrapping_add(1);
        // SAFETY: Not the last entry, so another one follows it.
        let link = unsafe { (*next).page_link };
        if link & CHAIN == 0 {
            next
        } else {
            core::ptr::with_exposed_provenance_mut(link & !(CHAIN | END))
        }
    }

    /// Where the piece lies.  C: `sg_phys()`.
    #[inline]
    pub fn phys(&self) -> Phys {
        // SAFETY: A valid entry.
        let (link, offset) = unsafe { ((*self.raw).page_link, (*self.raw).offset) };
        // SAFETY: A variable that C sets up in early boot.
        let first = unsafe { bindings::vmemmap_base };
        // C: `page_to_pfn()`, with all `struct page` side by side.
        let pfn = (link & !(CHAIN | END)).wrapping_sub(first) / size_of::<bindings::page>();
        Phys::new(
            Pfn::new(pfn as u64)
                .start()
                .raw()
                .wrapping_add(u64::from(offset)),
        )
    }

    /// Its size in bytes.
    #[inline]
    pub fn length(&self) -> usize {
        // SAFETY: A valid entry.
        unsafe { (*self.raw).length as usize }
    }

    /// Where the device sees it.  C: `sg_dma_address()`.
    #[inline]
    pub fn dma_address(&self) -> Machine {
        // SAFETY: A valid entry.
        Machine::new(unsafe { (*self.raw).dma_address })
    }

    /// Size of the mapping.  C: `sg_dma_len()`.
    #[inline]
    pub fn dma_length(&self) -> usize {
        // SAFETY: A valid entry.
        unsafe { (*self.raw).dma_length as usize }
    }

    /// Notes where the device sees the piece; length 0 ends the mapped part of a list.
    #[inline]
    pub fn set_dma(&mut self, address: Machine, length: usize) {
        // SAFETY: A valid entry, lent for writing.
        unsafe { (*self.raw).dma_address = address.raw() };
        // SAFETY: As above.
        unsafe { (*self.raw).dma_length = length as u32 };
    }
}
