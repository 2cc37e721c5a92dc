// SPDX-License-Identifier: GPL-2.0

//! Coherent memory handed on: into user space, or described as a scatterlist.
//!
//! The pages of a region need not be neighbours in pfn.
//!
//! C: `dma_common_mmap()`, `dma_common_get_sgtable()` in
//! [`kernel/dma/ops_helpers.c`](srctree/kernel/dma/ops_helpers.c).

use crate::{
    bindings,
    region::Region, //
};
use core::marker::PhantomData;
use dma_core::PAGE_SHIFT;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// A user mapping being set up.
pub struct Pages<'a> {
    vma: *mut bindings::vm_area_struct,
    lent: PhantomData<&'a mut bindings::vm_area_struct>,
}

impl Pages<'_> {
    /// # Safety
    ///
    /// `vma` is valid, and its mm is locked for writing, for the lifetime.
    pub(crate) unsafe fn from_raw(vma: *mut bindings::vm_area_struct) -> Self {
        Self {
            vma,
            lent: PhantomData,
        }
    }

    /// Maps what the user asked for of the `size` bytes at `offset` (a multiple of the page
    /// size) of a region.  [`ENXIO`] if that reaches beyond them.
    pub fn map(&mut self, region: &Region, offset: usize, size: usize) -> Result {
        // SAFETY: Valid by the contract of `from_raw`; both live in a union of C.
        let (start, end) = unsafe {
            let range = &(*self.vma).__bindgen_anon_1.__bindgen_anon_1;
            (range.vm_start, range.vm_end)
        };
        // SAFETY: Valid by the contract of `from_raw`.
        let skipped = unsafe { (*self.vma).vm_pgoff };
        // SAFETY: As above; a plain value.
        let protection = unsafe { (*self.vma).vm_page_prot };

        let asked = end.saturating_sub(start) >> PAGE_SHIFT;
        let there = size.div_ceil(PAGE_SIZE);
        if skipped >= there || asked > there - skipped {
            return Err(ENXIO);
        }
        let mut pages = region
            .pages()
            .pfns()
            .skip(offset / PAGE_SIZE + skipped)
            .take(asked)
            .map(|pfn| pfn.raw() as usize)
            .peekable();
        let mut address = start;
        while let Some(first) = pages.next() {
            // Neighbours go in one call: a private mapping may consist of one only.
            let mut count = 1;
            while pages.next_if_eq(&(first + count)).is_some() {
                count += 1;
            }
            let length = count * PAGE_SIZE;
            // SAFETY: The pages stay allocated until the driver frees the region, which it may
            // not do before the user mapping is gone (C: `dma_mmap_attrs()`).
            let error =
                unsafe { bindings::remap_pfn_range(self.vma, address, first, length, protection) };
            kernel::error::to_result(error)?;
            address += length;
        }
        Ok(())
    }
}

/// An empty `struct sg_table` of a caller.
pub struct SgTable<'a> {
    raw: *mut bindings::sg_table,
    lent: PhantomData<&'a mut bindings::sg_table>,
}

impl SgTable<'_> {
    /// # Safety
    ///
    /// `raw` is writable and holds no list, for the lifetime.
    pub(crate) unsafe fn from_raw(raw: *mut bindings::sg_table) -> Self {
        Self {
            raw,
            lent: PhantomData,
        }
    }

    /// Makes the table describe `size` bytes at `offset` (a multiple of the page size) of a
    /// region.  [`EINVAL`] if they reach beyond it, [`ENOMEM`] without memory for the list.
    pub fn describe(&mut self, region: &Region, offset: usize, size: usize) -> Result {
        let count = size.div_ceil(PAGE_SIZE);
        let first = offset / PAGE_SIZE;
        if size == 0
            || first
                .checked_add(count)
                .is_none_or(|end| end > region.pages().len())
        {
            return Err(EINVAL);
        }
        // SAFETY: Within the list of pages, as just checked.
        let pages = unsafe { region.pages().as_ptr().add(first) };
        // SAFETY: An empty table, and `count` pages that outlive it by the DMA API's rules.
        let error = unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                self.raw,
                pages.cast_mut(),
                count as u32,
                0,
                size,
                u32::MAX,
                bindings::GFP_KERNEL,
            )
        };
        kernel::error::to_result(error)
    }
}
