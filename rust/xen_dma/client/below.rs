// SPDX-License-Identifier: GPL-2.0

//! The DMA API below its own checks: a table as the core calls it.
//!
//! The core stops some of what a bad driver does, by `BUG()`, and DMA_API_DEBUG complains of much of
//! the rest before a backend has to answer.  A backend must survive by itself, so here its table is
//! called as the core does, and with whatever the caller likes.
//!
//! C: [`kernel/dma/mapping.c`](srctree/kernel/dma/mapping.c).

use super::Buffer;
use crate::{
    bindings,
    device::raw,
    ops::{
        Attrs,
        Coherent,
        Direction, //
    },
    p2m::LinearP2m,
};
use core::marker::PhantomData;
use dma_core::{
    Machine,
    P2m,
    Pfn,
    Phys,
    FOREIGN, //
};
use kernel::{
    device::Device,
    prelude::*, //
};

/// A direction by its number in C, which need not be one that there is.
pub fn direction(number: u32) -> Direction {
    Direction::from_number(number)
}

/// The device's table; [`ENODEV`] if it has none of its own.
fn table(dev: &Device) -> Result<&bindings::dma_map_ops> {
    // SAFETY: A live device.
    let ops: *const bindings::dma_map_ops = unsafe { (*raw(dev)).dma_ops }.cast();
    // SAFETY: Null, or a table that lives while the device has it; a test does not detach meanwhile.
    unsafe { ops.as_ref() }.ok_or(ENODEV)
}

/// As [`super::map_alone`]: nobody looked at what is mapped before.
pub fn map(dev: &Device, phys: Phys, size: usize, dir: Direction, attrs: Attrs) -> Result<Machine> {
    let map = table(dev)?.map_phys.ok_or(ENODEV)?;
    // SAFETY: A live device with this table.
    let addr = unsafe { map(raw(dev), phys.raw(), size, dir.to_raw(), attrs.to_raw()) };
    if addr == bindings::dma_addr_t::MAX {
        Err(EIO)
    } else {
        Ok(Machine::new(addr))
    }
}

/// As [`super::unmap`].
pub fn unmap(dev: &Device, at: Machine, size: usize, dir: Direction, attrs: Attrs) -> Result {
    let unmap = table(dev)?.unmap_phys.ok_or(ENODEV)?;
    // SAFETY: As in `map`.
    unsafe { unmap(raw(dev), at.raw(), size, dir.to_raw(), attrs.to_raw()) };
    Ok(())
}

/// As [`super::sync_for_cpu`].  Nothing happens if the table has no such operation.
pub fn sync_for_cpu(dev: &Device, at: Machine, size: usize, dir: Direction) -> Result {
    if let Some(sync) = table(dev)?.sync_single_for_cpu {
        // SAFETY: As in `map`.
        unsafe { sync(raw(dev), at.raw(), size, dir.to_raw()) };
    }
    Ok(())
}

/// As [`super::sync_for_device`].  Nothing happens if the table has no such operation.
pub fn sync_for_device(dev: &Device, at: Machine, size: usize, dir: Direction) -> Result {
    if let Some(sync) = table(dev)?.sync_single_for_device {
        // SAFETY: As in `map`.
        unsafe { sync(raw(dev), at.raw(), size, dir.to_raw()) };
    }
    Ok(())
}

/// As [`super::free`].
pub fn free(dev: &Device, size: usize, memory: Coherent, attrs: Attrs) -> Result {
    let free = table(dev)?.free.ok_or(ENODEV)?;
    let (cpu, dma) = (memory.cpu.as_ptr().cast(), memory.dma.raw());
    // SAFETY: As in `map`.
    unsafe { free(raw(dev), size, cpu, dma, attrs.to_raw()) };
    Ok(())
}

/// Bits of an entry's `page_link` beside the address.
const CHAIN: usize = bindings::SG_CHAIN as usize;
const END: usize = bindings::SG_END as usize;

/// A scatterlist that need not make sense.  It is one for C all the same.
///
/// # Invariants
///
/// Of the entries, which stay where they are, the last one is marked as such, and a link leads to
/// one that is no link.  So who follows the list meets entries only.
pub struct RawList(KVec<bindings::scatterlist>);

impl RawList {
    /// A list of empty entries.  [`EINVAL`] if there are none.  May sleep.
    pub fn new(count: usize) -> Result<Self> {
        let mut entries = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            entries.push(bindings::scatterlist::default(), GFP_KERNEL)?;
        }
        entries.last_mut().ok_or(EINVAL)?.page_link |= END;
        // INVARIANT: Marked above; no links.
        Ok(Self(entries))
    }

    fn entry(&mut self, index: usize) -> Result<&mut bindings::scatterlist> {
        self.0.get_mut(index).ok_or(EINVAL)
    }

    /// Makes an entry show a part of a buffer, or what lies around it, or with [`None`] nothing at
    /// all.  C: `sg_set_page()`.
    pub fn set(&mut self, index: usize, of: Option<&Buffer>, offset: u32, length: u32) -> Result {
        let page = match of {
            Some(buffer) => buffer.0.first().ok_or(EINVAL)?.as_ptr().expose_provenance(),
            None => 0,
        };
        let entry = self.entry(index)?;
        if entry.page_link & CHAIN != 0 {
            return Err(EINVAL);
        }
        entry.page_link = page | (entry.page_link & END);
        (entry.offset, entry.length) = (offset, length);
        Ok(())
    }

    /// Makes an entry a link to another one.  [`EINVAL`] for the last one, which must end the list, for
    /// the first, and if that were a link to a link.  C: `sg_chain()`.
    pub fn link(&mut self, index: usize, to: usize) -> Result {
        let links = self.0.iter().any(|entry| entry.page_link & CHAIN != 0);
        if links || index == 0 || index == to || index.saturating_add(1) >= self.0.len() {
            return Err(EINVAL);
        }
        let to: *mut bindings::scatterlist = self.entry(to)?;
        // INVARIANT: The only link, and not to itself.
        self.entry(index)?.page_link = to.expose_provenance() | CHAIN;
        Ok(())
    }

    /// Lets an entry claim to be mapped.  C: `sg_dma_address()`, `sg_dma_len()`.
    pub fn forge(&mut self, index: usize, at: Machine, length: u32) -> Result {
        let entry = self.entry(index)?;
        (entry.dma_address, entry.dma_length) = (at.raw(), length);
        Ok(())
    }

    /// Where the device sees an entry's segment.
    pub fn mapped(&self, index: usize) -> Option<(Machine, usize)> {
        let entry = self.0.get(index)?;
        // CAST: Widens.
        Some((Machine::new(entry.dma_address), entry.dma_length as usize))
    }

    /// Maps `count` entries: what C says, a number of segments or an error's.
    pub fn map(&mut self, dev: &Device, count: i32, dir: Direction, attrs: Attrs) -> Result<i32> {
        let map = table(dev)?.map_sg.ok_or(ENODEV)?;
        let list = self.0.as_mut_ptr();
        // SAFETY: As in `map`, and by the type invariant.
        Ok(unsafe { map(raw(dev), list, count, dir.to_raw(), attrs.to_raw()) })
    }

    /// Unmaps `count` entries.
    pub fn unmap(&mut self, dev: &Device, count: i32, dir: Direction, attrs: Attrs) -> Result {
        let unmap = table(dev)?.unmap_sg.ok_or(ENODEV)?;
        let list = self.0.as_mut_ptr();
        // SAFETY: As in `map`, and by the type invariant.
        unsafe { unmap(raw(dev), list, count, dir.to_raw(), attrs.to_raw()) };
        Ok(())
    }

    /// Syncs `count` entries for the CPU.
    pub fn sync_for_cpu(&mut self, dev: &Device, count: i32, dir: Direction) -> Result {
        let list = self.0.as_mut_ptr();
        if let Some(sync) = table(dev)?.sync_sg_for_cpu {
            // SAFETY: As in `map`, and by the type invariant.
            unsafe { sync(raw(dev), list, count, dir.to_raw()) };
        }
        Ok(())
    }

    /// Syncs `count` entries for the device.
    pub fn sync_for_device(&mut self, dev: &Device, count: i32, dir: Direction) -> Result {
        let list = self.0.as_mut_ptr();
        if let Some(sync) = table(dev)?.sync_sg_for_device {
            // SAFETY: As in `map`, and by the type invariant.
            unsafe { sync(raw(dev), list, count, dir.to_raw()) };
        }
        Ok(())
    }
}

/// What the p2m may say of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing is there.
    Hole,
    /// A frame with a number that no frame has.
    Impossible,
    /// It is another domain's.
    Foreign,
}

/// A page of a buffer that the p2m says something else of, as long as this lives.
pub struct Disguise<'a> {
    p2m: LinearP2m,
    pfn: Pfn,
    entry: u64,
    lent: PhantomData<&'a Buffer>,
}

impl<'a> Disguise<'a> {
    /// Disguises a page.  [`EINVAL`] if the buffer has no such page of this domain's own.
    pub fn new(buffer: &'a Buffer, page: usize, look: Look) -> Result<Self> {
        let p2m = LinearP2m::get().ok_or(ENODEV)?;
        let pfn = buffer.0.pfns().nth(page).ok_or(EINVAL)?;
        let entry = p2m.ordinary(pfn).ok_or(EINVAL)?.raw();
        let shown = match look {
            Look::Hole => crate::p2m::INVALID_ENTRY,
            Look::Impossible => 1 << 60,
            Look::Foreign => FOREIGN | entry,
        };
        // SAFETY: The buffer's page, with an entry; what the test maps of it is ended before.
        unsafe { p2m.set(pfn, shown) };
        Ok(Self {
            p2m,
            pfn,
            entry,
            lent: PhantomData,
        })
    }
}

impl Drop for Disguise<'_> {
    fn drop(&mut self) {
        // SAFETY: What was there before.
        unsafe { self.p2m.set(self.pfn, self.entry) };
    }
}
