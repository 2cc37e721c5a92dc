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

    /// Whether one entry of the list is lent, no more and no less.
    #[inline]
    pub fn is_single(&self) -> bool {
        self.count == 1
    }

    /// The buffers in order, and room to note where the device sees them: as many segments, or fewer.
    /// They end early where the list itself ends.
    #[inline]
    pub fn to_map(&mut self) -> (Buffers<'_>, NewSegments<'_>) {
        let at = Cursor::new(self);
        // The two use different fields of the entries.
        let segments = NewSegments {
            at,
            count: 0,
            lent: PhantomData,
        };
        let lent = PhantomData;
        (Buffers { at, lent }, segments)
    }

    /// Where the device sees the buffers, as it was noted.
    #[inline]
    pub fn segments(&mut self) -> Segments<'_> {
        Segments {
            at: Cursor::new(self),
            lent: PhantomData,
        }
    }
}

/// Bits of an entry's `page_link` beside the address.
const CHAIN: usize = bindings::SG_CHAIN as usize;
const END: usize = bindings::SG_END as usize;

/// An entry of a list, or its end.
///
/// # Invariants
///
/// Unless `left` is 0, `entry` is a valid entry of a list that is lent, and `link` its `page_link`.
#[derive(Clone, Copy)]
struct Cursor {
    entry: *mut bindings::scatterlist,
    link: usize,
    left: usize,
}

impl Cursor {
    #[inline]
    fn new(list: &ScatterList<'_>) -> Self {
        let (entry, left) = (list.first, list.count);
        let link = if left > 0 {
            // SAFETY: By the list's invariant there is an entry.
            unsafe { (*entry).page_link }
        } else {
            0
        };
        // INVARIANT: By the list's invariant.
        Self { entry, link, left }
    }

    /// The entry; then goes on to the next one.  C: `sg_next()`.
    #[inline(always)]
    fn next(&mut self) -> Option<*mut bindings::scatterlist> {
        let entry = self.entry;
        match self.left {
            0 => return None,
            1 => self.left = 0,
            _ if self.link & END != 0 => self.left = 0,
            _ => {
                self.left = self.left.wrapping_sub(1);
                self.entry = entry.wrapping_add(1);
                // SAFETY: Not the last entry, so another one, or a link to one, follows it.
                self.link = unsafe { (*self.entry).page_link };
                if self.link & CHAIN != 0 {
                    self.entry = core::ptr::with_exposed_provenance_mut(self.link & !(CHAIN | END));
                    // SAFETY: A link leads to an entry.
                    self.link = unsafe { (*self.entry).page_link };
                }
            }
        }
        Some(entry)
    }
}

/// Iterator over the buffers of a [`ScatterList`]: where each lies, and its size in bytes.
#[derive(Clone)]
pub struct Buffers<'a> {
    at: Cursor,
    lent: PhantomData<&'a bindings::scatterlist>,
}

impl Buffers<'_> {
    /// At most so many are still to come.
    #[inline]
    pub fn left(&self) -> usize {
        self.at.left
    }
}

impl Iterator for Buffers<'_> {
    type Item = (Phys, usize);

    /// C: `sg_phys()`.
    #[inline(always)]
    fn next(&mut self) -> Option<(Phys, usize)> {
        let link = self.at.link;
        let entry = self.at.next()?;
        // SAFETY: A valid entry.
        let (offset, length) = unsafe { ((*entry).offset, (*entry).length) };
        // SAFETY: A variable that C sets up in early boot.
        let first = unsafe { bindings::vmemmap_base };
        // C: `page_to_pfn()`, with all `struct page` side by side.
        let pfn = (link & !(CHAIN | END)).wrapping_sub(first) / size_of::<bindings::page>();
        // CAST: Both widen.
        let page = Pfn::new(pfn as u64).start();
        let phys = page.raw().wrapping_add(u64::from(offset));
        Some((Phys::new(phys), length as usize))
    }
}

/// Where the device sees the buffers of a [`ScatterList`], to be noted.
pub struct NewSegments<'a> {
    at: Cursor,
    count: usize,
    lent: PhantomData<&'a mut bindings::scatterlist>,
}

impl NewSegments<'_> {
    /// Notes the next segment.  There are not more of them than buffers.
    /// C: `sg_dma_address()`, `sg_dma_len()`.
    #[inline(always)]
    pub fn push(&mut self, address: Machine, size: usize) {
        if let Some(entry) = self.at.next() {
            // SAFETY: A valid entry, lent for writing.
            unsafe { (*entry).dma_address = address.raw() };
            // CAST: C gives lengths 32 bits.
            // SAFETY: As above.
            unsafe { (*entry).dma_length = size as u32 };
            self.count = self.count.wrapping_add(1);
        }
    }

    /// How many were noted; from now on they are all that the list has.
    #[inline]
    pub fn end(mut self) -> usize {
        let count = self.count;
        // A length of 0 ends the mapped part of a list.
        self.push(Machine::new(bindings::dma_addr_t::MAX), 0);
        count
    }
}

/// Iterator over the segments of a [`ScatterList`]: where the device sees each, and its size in bytes.
pub struct Segments<'a> {
    at: Cursor,
    lent: PhantomData<&'a bindings::scatterlist>,
}

impl Iterator for Segments<'_> {
    type Item = (Machine, usize);

    #[inline(always)]
    fn next(&mut self) -> Option<(Machine, usize)> {
        let entry = self.at.next()?;
        // SAFETY: A valid entry.
        let (address, length) = unsafe { ((*entry).dma_address, (*entry).dma_length) };
        // Which is not there ends the list.
        (length > 0).then_some((Machine::new(address), length as usize))
    }
}
