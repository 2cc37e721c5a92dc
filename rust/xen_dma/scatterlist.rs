// SPDX-License-Identifier: GPL-2.0

//! Scatterlists as the DMA API hands them to a backend: read the buffer, set the mapping.
//!
//! The kernel crate's `SGTable` serves drivers, who own a list; a backend is lent one.
//!
//! C: [`include/linux/scatterlist.h`](srctree/include/linux/scatterlist.h).

use crate::bindings;
use core::marker::PhantomData;
use dma_core::{
    Machine,
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
        // SAFETY: An entry of the list; C ends a list with null.
        self.next = unsafe { bindings::sg_next(self.next) };
        Some(entry)
    }
}

/// One entry: a piece of buffer, and where the device sees it.
pub struct Entry<'a> {
    raw: *mut bindings::scatterlist,
    lent: PhantomData<&'a mut bindings::scatterlist>,
}

impl Entry<'_> {
    /// Where the piece lies.  C: `sg_phys()`.
    #[inline]
    pub fn phys(&self) -> Phys {
        // SAFETY: A valid entry.
        Phys::new(unsafe { bindings::sg_phys(self.raw) })
    }

    /// Its size in bytes.
    #[inline]
    pub fn length(&self) -> usize {
        // SAFETY: A valid entry.
        unsafe { (*self.raw).length as usize }
    }

    /// Whether the piece is memory of another device.  C: `is_pci_p2pdma_page()`.
    #[inline]
    pub fn is_peer_memory(&self) -> bool {
        // SAFETY: A valid entry.
        unsafe { bindings::sg_is_p2pdma(self.raw) }
    }

    /// Where the device sees it.  C: `sg_dma_address()`.
    #[inline]
    pub fn dma_address(&self) -> Machine {
        // SAFETY: A valid entry.
        Machine::new(unsafe { bindings::sg_dma_address(self.raw) })
    }

    /// Size of the mapping.  C: `sg_dma_len()`.
    #[inline]
    pub fn dma_length(&self) -> usize {
        // SAFETY: A valid entry.
        unsafe { bindings::sg_dma_len(self.raw) as usize }
    }

    /// Notes where the device sees the piece; length 0 ends the mapped part of a list.
    #[inline]
    pub fn set_dma(&mut self, address: Machine, length: usize) {
        // SAFETY: A valid entry, lent for writing.
        unsafe { bindings::sg_set_dma(self.raw, address.raw(), length as u32) };
    }
}
