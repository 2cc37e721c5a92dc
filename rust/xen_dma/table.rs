// SPDX-License-Identifier: GPL-2.0

//! The C table of a provider.
//!
//! A [`Table`] holds one provider and the `dma_map_ops` made for it, side by side, so that
//! a callback finds its provider from `dev->dma_ops` alone, without a look-up.  The three
//! error conventions of the C table (`DMA_MAPPING_ERROR`, null, negative numbers) exist in
//! this file only.
//!
//! C: [`include/linux/dma-map-ops.h`](srctree/include/linux/dma-map-ops.h).

use crate::{
    bindings,
    device::raw,
    ops::{
        peer_memory,
        Attrs,
        Coherent,
        CoherentPages,
        Direction,
        Provider, //
    },
    pages::Context,
    scatterlist::ScatterList,
    user::{
        Pages as UserPages,
        SgTable, //
    },
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::offset_of,
    ptr::NonNull, //
};
use dma_core::{
    Machine,
    Phys, //
};
use kernel::{
    device::Device,
    error::from_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*, //
};

/// A provider and the C table that leads to it.
///
/// The C table comes first, so that its address is the table's.
///
/// # Invariants
///
/// After [`Table::new`] the fields of `ops` do not change, but for those of the syncs, which go from
/// null to their callbacks.
#[repr(C)]
pub struct Table<P> {
    ops: UnsafeCell<bindings::dma_map_ops>,
    provider: P,
}

// SAFETY: C reads the fields of `ops` one by one, and each is written as one word.
unsafe impl<P: Sync> Sync for Table<P> {}

impl<P: Provider> Table<P> {
    /// Makes the C table for a provider.
    pub fn new(provider: P) -> Self {
        let mut ops = Callbacks::<P>::OPS;
        if P::SYNCS_LATER {
            ops.sync_single_for_cpu = None;
            ops.sync_single_for_device = None;
            ops.sync_sg_for_cpu = None;
            ops.sync_sg_for_device = None;
        }
        Self {
            ops: UnsafeCell::new(ops),
            provider,
        }
    }

    /// The provider.
    pub fn provider(&self) -> &P {
        &self.provider
    }

    /// The C table.
    pub(crate) fn ops(&self) -> *const bindings::dma_map_ops {
        self.ops.get()
    }
}

/// Makes the core call a provider's syncs from now on, before this returns.  For a provider with
/// [`Provider::SYNCS_LATER`], when the first mapping is made that needs them; more calls change
/// nothing.  Any context.  C: `dma_reset_need_sync()`.
///
/// Nothing happens if the device is not attached to this very provider.
#[cold]
pub fn start_syncs<P: Provider>(dev: &Device, provider: &P) {
    let dev = raw(dev);
    // SAFETY: A live device; only compared.
    let ops: *mut bindings::dma_map_ops = unsafe { (*dev).dma_ops }.cast();
    let inside = ops
        .cast::<Table<P>>()
        .wrapping_byte_add(offset_of!(Table<P>, provider));
    if !core::ptr::eq(inside.cast::<P>(), provider) {
        return;
    }
    let all = Callbacks::<P>::OPS;
    // SAFETY: The provider lives in a `Table<P>`, whose first field `ops` points to; see the type
    // invariant.
    unsafe { (&raw mut (*ops).sync_single_for_cpu).write_volatile(all.sync_single_for_cpu) };
    // SAFETY: As above.
    unsafe { (&raw mut (*ops).sync_single_for_device).write_volatile(all.sync_single_for_device) };
    // SAFETY: As above.
    unsafe { (&raw mut (*ops).sync_sg_for_cpu).write_volatile(all.sync_sg_for_cpu) };
    // SAFETY: As above.
    unsafe { (&raw mut (*ops).sync_sg_for_device).write_volatile(all.sync_sg_for_device) };
    // SAFETY: A live device.  x86 keeps the order of stores: who finds the flag cleared finds the
    // callbacks.
    unsafe { bindings::dma_reset_need_sync(dev) };
}

/// The C side of `P`.
struct Callbacks<P>(PhantomData<P>);

/// What C code is told when a mapping failed.  C: `DMA_MAPPING_ERROR`.
const MAPPING_ERROR: bindings::dma_addr_t = bindings::dma_addr_t::MAX;

impl<P: Provider> Callbacks<P> {
    /// Every field stands here, so that a new operation in C breaks the build until it is met.
    const OPS: bindings::dma_map_ops = bindings::dma_map_ops {
        alloc: Some(Self::alloc),
        free: Some(Self::free),
        alloc_pages_op: Some(Self::alloc_pages),
        free_pages: Some(Self::free_pages),
        mmap: Some(Self::mmap),
        get_sgtable: Some(Self::get_sgtable),
        map_phys: Some(Self::map),
        unmap_phys: Some(Self::unmap),
        map_sg: Some(Self::map_sg),
        unmap_sg: Some(Self::unmap_sg),
        sync_single_for_cpu: Some(Self::sync_for_cpu),
        sync_single_for_device: Some(Self::sync_for_device),
        sync_sg_for_cpu: Some(Self::sync_sg_for_cpu),
        sync_sg_for_device: Some(Self::sync_sg_for_device),
        cache_sync: if P::HAS_CACHE_SYNC {
            Some(Self::cache_sync)
        } else {
            None
        },
        dma_supported: Some(Self::supported),
        get_required_mask: Some(Self::required_mask),
        max_mapping_size: Some(Self::max_mapping_size),
        opt_mapping_size: Some(Self::opt_mapping_size),
        get_merge_boundary: Some(Self::merge_boundary),
    };

    /// The device and its provider.
    ///
    /// # Safety
    ///
    /// `dev` is a live device whose operations are those of a [`Table<P>`] that lives as long as
    /// the call; the DMA API calls a table through its device alone.
    #[inline]
    unsafe fn enter<'a>(dev: *mut bindings::device) -> (&'a Device, &'a P) {
        // SAFETY: By this function's contract.
        let ops = unsafe { (*dev).dma_ops };
        // SAFETY: By this function's contract `ops` is the first field of a live `Table<P>`.
        let table = unsafe { &*ops.cast::<Table<P>>() };
        // SAFETY: By this function's contract.
        (unsafe { Device::from_raw(dev) }, &table.provider)
    }

    /// # Safety
    ///
    /// Called by the DMA API, as all callbacks here.
    unsafe extern "C" fn map(
        dev: *mut bindings::device,
        phys: bindings::phys_addr_t,
        size: usize,
        dir: bindings::dma_data_direction,
        attrs: c_ulong,
    ) -> bindings::dma_addr_t {
        // SAFETY: Called by the DMA API.
        let (device, provider) = unsafe { Self::enter(dev) };
        let phys = Phys::new(phys);
        if P::HAS_GLANCE {
            return match provider.glance(device, phys, size) {
                Ok(at) => at.raw(),
                // SAFETY: As this function.
                Err(told) => unsafe { Self::map_told(dev, phys, size, told, attrs) },
            };
        }
        provider
            .map(
                device,
                phys,
                size,
                Direction::from_raw(dir),
                Attrs::from_raw(attrs),
            )
            .map_or(MAPPING_ERROR, Machine::raw)
    }

    /// What is left of [`Self::map`] after a glance.  The parameters are where C put them, and what
    /// is returned is what C is told, so that the one goes over into the other.
    ///
    /// # Safety
    ///
    /// As [`Self::map`].
    #[inline(never)]
    unsafe extern "C" fn map_told(
        dev: *mut bindings::device,
        phys: Phys,
        size: usize,
        told: u64,
        attrs: c_ulong,
    ) -> bindings::dma_addr_t {
        // SAFETY: By this function's contract.
        let (dev, provider) = unsafe { Self::enter(dev) };
        provider
            .map_told(dev, phys, size, Attrs::from_raw(attrs), told)
            .map_or(MAPPING_ERROR, Machine::raw)
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn unmap(
        dev: *mut bindings::device,
        addr: bindings::dma_addr_t,
        size: usize,
        dir: bindings::dma_data_direction,
        attrs: c_ulong,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        let dir = Direction::from_raw(dir);
        provider.unmap(dev, Machine::new(addr), size, dir, Attrs::from_raw(attrs));
    }

    /// # Safety
    ///
    /// As [`Self::map`]; `sg` starts a list of `nents` entries, lent for the call.
    unsafe extern "C" fn map_sg(
        dev: *mut bindings::device,
        sg: *mut bindings::scatterlist,
        nents: c_int,
        dir: bindings::dma_data_direction,
        attrs: c_ulong,
    ) -> c_int {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        // SAFETY: By this function's contract.
        let list = unsafe { ScatterList::from_raw(sg, nents) };
        from_result(|| {
            let dir = Direction::from_raw(dir);
            let mapped = provider.map_sg(dev, list, dir, Attrs::from_raw(attrs));
            mapped
                .and_then(|n| c_int::try_from(n).map_err(|_| EINVAL))
                .map_err(|error| {
                    // The DMA API knows these only.
                    if [EINVAL, ENOMEM, peer_memory()].contains(&error) {
                        error
                    } else {
                        EIO
                    }
                })
        })
    }

    /// # Safety
    ///
    /// As [`Self::map_sg`].
    unsafe extern "C" fn unmap_sg(
        dev: *mut bindings::device,
        sg: *mut bindings::scatterlist,
        nents: c_int,
        dir: bindings::dma_data_direction,
        attrs: c_ulong,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        // SAFETY: By this function's contract.
        let list = unsafe { ScatterList::from_raw(sg, nents) };
        let dir = Direction::from_raw(dir);
        provider.unmap_sg(dev, list, dir, Attrs::from_raw(attrs));
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn sync_for_cpu(
        dev: *mut bindings::device,
        addr: bindings::dma_addr_t,
        size: usize,
        dir: bindings::dma_data_direction,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        let dir = Direction::from_raw(dir);
        provider.sync_for_cpu(dev, Machine::new(addr), size, dir);
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn sync_for_device(
        dev: *mut bindings::device,
        addr: bindings::dma_addr_t,
        size: usize,
        dir: bindings::dma_data_direction,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        let dir = Direction::from_raw(dir);
        provider.sync_for_device(dev, Machine::new(addr), size, dir);
    }

    /// # Safety
    ///
    /// As [`Self::map_sg`].
    unsafe extern "C" fn sync_sg_for_cpu(
        dev: *mut bindings::device,
        sg: *mut bindings::scatterlist,
        nents: c_int,
        dir: bindings::dma_data_direction,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        // SAFETY: By this function's contract.
        let list = unsafe { ScatterList::from_raw(sg, nents) };
        let dir = Direction::from_raw(dir);
        provider.sync_sg_for_cpu(dev, list, dir);
    }

    /// # Safety
    ///
    /// As [`Self::map_sg`].
    unsafe extern "C" fn sync_sg_for_device(
        dev: *mut bindings::device,
        sg: *mut bindings::scatterlist,
        nents: c_int,
        dir: bindings::dma_data_direction,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        // SAFETY: By this function's contract.
        let list = unsafe { ScatterList::from_raw(sg, nents) };
        let dir = Direction::from_raw(dir);
        provider.sync_sg_for_device(dev, list, dir);
    }

    /// # Safety
    ///
    /// As [`Self::map`]; `handle` is writable.
    unsafe extern "C" fn alloc(
        dev: *mut bindings::device,
        size: usize,
        handle: *mut bindings::dma_addr_t,
        gfp: bindings::gfp_t,
        attrs: c_ulong,
    ) -> *mut c_void {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        match provider.alloc(dev, size, Context::from_gfp(gfp), Attrs::from_raw(attrs)) {
            Ok(memory) => {
                // SAFETY: By this function's contract.
                unsafe { handle.write(memory.dma.raw()) };
                memory.cpu.as_ptr().cast()
            }
            Err(_) => core::ptr::null_mut(),
        }
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn free(
        dev: *mut bindings::device,
        size: usize,
        cpu: *mut c_void,
        dma: bindings::dma_addr_t,
        attrs: c_ulong,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        if let Some(memory) = coherent(cpu, dma) {
            provider.free(dev, size, memory, Attrs::from_raw(attrs));
        }
    }

    /// # Safety
    ///
    /// As [`Self::alloc`].
    unsafe extern "C" fn alloc_pages(
        dev: *mut bindings::device,
        size: usize,
        handle: *mut bindings::dma_addr_t,
        dir: bindings::dma_data_direction,
        gfp: bindings::gfp_t,
    ) -> *mut bindings::page {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        let (dir, context) = (Direction::from_raw(dir), Context::from_gfp(gfp));
        match provider.alloc_pages(dev, size, dir, context) {
            Ok(pages) => {
                // SAFETY: By this function's contract.
                unsafe { handle.write(pages.dma.raw()) };
                pages.first.as_ptr()
            }
            Err(_) => core::ptr::null_mut(),
        }
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn free_pages(
        dev: *mut bindings::device,
        size: usize,
        page: *mut bindings::page,
        dma: bindings::dma_addr_t,
        dir: bindings::dma_data_direction,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        if let Some(first) = NonNull::new(page) {
            let (dma, dir) = (Machine::new(dma), Direction::from_raw(dir));
            provider.free_pages(dev, size, CoherentPages { first, dma }, dir);
        }
    }

    /// # Safety
    ///
    /// As [`Self::map`]; `vma` is a user mapping being set up, under its mm's lock.
    unsafe extern "C" fn mmap(
        dev: *mut bindings::device,
        vma: *mut bindings::vm_area_struct,
        cpu: *mut c_void,
        dma: bindings::dma_addr_t,
        size: usize,
        _attrs: c_ulong,
    ) -> c_int {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        // SAFETY: By this function's contract.
        let mut user = unsafe { UserPages::from_raw(vma) };
        from_result(|| {
            let memory = coherent(cpu, dma).ok_or(EINVAL)?;
            provider.mmap(dev, &mut user, memory, size).map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// As [`Self::map`]; `table` is an empty table to fill.
    unsafe extern "C" fn get_sgtable(
        dev: *mut bindings::device,
        table: *mut bindings::sg_table,
        cpu: *mut c_void,
        dma: bindings::dma_addr_t,
        size: usize,
        _attrs: c_ulong,
    ) -> c_int {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        // SAFETY: By this function's contract.
        let mut table = unsafe { SgTable::from_raw(table) };
        from_result(|| {
            let memory = coherent(cpu, dma).ok_or(EINVAL)?;
            provider
                .get_sgtable(dev, &mut table, memory, size)
                .map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn cache_sync(
        dev: *mut bindings::device,
        cpu: *mut c_void,
        size: usize,
        dir: bindings::dma_data_direction,
    ) {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        if let Some(cpu) = NonNull::new(cpu.cast()) {
            provider.cache_sync(dev, cpu, size, Direction::from_raw(dir));
        }
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn supported(dev: *mut bindings::device, mask: u64) -> c_int {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        c_int::from(provider.supported(dev, mask))
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn required_mask(dev: *mut bindings::device) -> u64 {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        provider.required_mask(dev)
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn max_mapping_size(dev: *mut bindings::device) -> usize {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        provider.max_mapping_size(dev)
    }

    /// # Safety
    ///
    /// None.
    unsafe extern "C" fn opt_mapping_size() -> usize {
        P::opt_mapping_size()
    }

    /// # Safety
    ///
    /// As [`Self::map`].
    unsafe extern "C" fn merge_boundary(dev: *mut bindings::device) -> c_ulong {
        // SAFETY: Called by the DMA API.
        let (dev, provider) = unsafe { Self::enter(dev) };
        provider.merge_boundary(dev)
    }
}

/// Coherent memory as C speaks of it.
fn coherent(cpu: *mut c_void, dma: bindings::dma_addr_t) -> Option<Coherent> {
    let cpu = NonNull::new(cpu.cast())?;
    let dma = Machine::new(dma);
    Some(Coherent { cpu, dma })
}
