// SPDX-License-Identifier: GPL-2.0

//! Providers of `dma_map_ops`.
//!
//! A backend implements [`Provider`]: methods that take typed addresses and answer with
//! `Result`.  A [`Table`] holds one provider and the C table made for it, side by side, so
//! that a callback finds its provider from `dev->dma_ops` alone, without a look-up.  The
//! three error conventions of the C table (`DMA_MAPPING_ERROR`, null, negative numbers)
//! exist in this file only.
//!
//! C: [`include/linux/dma-map-ops.h`](srctree/include/linux/dma-map-ops.h).

use crate::{
    bindings,
    pages::Context,
    scatterlist::ScatterList,
    user::{
        Pages as UserPages,
        SgTable, //
    },
};
use core::{
    marker::PhantomData,
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

/// The error for memory of another device that this one cannot reach.  C: `EREMOTEIO`.
pub fn peer_memory() -> Error {
    Error::from_errno(-(bindings::EREMOTEIO as c_int))
}

/// Which way the bytes go.  C: `enum dma_data_direction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    Bidirectional,
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
}

impl Direction {
    #[inline]
    fn from_raw(raw: bindings::dma_data_direction) -> Result<Self> {
        match raw {
            bindings::dma_data_direction_DMA_BIDIRECTIONAL => Ok(Self::Bidirectional),
            bindings::dma_data_direction_DMA_TO_DEVICE => Ok(Self::ToDevice),
            bindings::dma_data_direction_DMA_FROM_DEVICE => Ok(Self::FromDevice),
            _ => Err(EINVAL),
        }
    }

    /// Whether the device may have written, so that the CPU's copy must be refreshed.
    #[inline]
    pub fn device_writes(self) -> bool {
        self != Self::ToDevice
    }

    /// Whether the device may read, so that its copy must be refreshed.
    #[inline]
    pub fn device_reads(self) -> bool {
        self != Self::FromDevice
    }
}

/// Attributes of a mapping.  C: `DMA_ATTR_*`, `Documentation/core-api/dma-attributes.rst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs(c_ulong);

impl Attrs {
    /// None set.
    pub const NONE: Self = Self(0);
    /// The caller synchronises by itself.
    pub const SKIP_CPU_SYNC: Self = Self(bindings::DMA_ATTR_SKIP_CPU_SYNC as c_ulong);
    /// Failure is expected; do not log it.
    pub const NO_WARN: Self = Self(bindings::DMA_ATTR_NO_WARN as c_ulong);
    /// The address is a device's register space, not memory.
    pub const MMIO: Self = Self(bindings::DMA_ATTR_MMIO as c_ulong);
    /// CPU and device must see the same bytes at all times: no bouncing.
    pub const REQUIRE_COHERENT: Self = Self(bindings::DMA_ATTR_REQUIRE_COHERENT as c_ulong);

    /// Whether all of `other` are set.
    #[inline]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As C has them.
    #[cfg(any(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST, xen_dma_client))]
    pub(crate) fn to_raw(self) -> c_ulong {
        self.0
    }

    /// Those of both.
    #[inline]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Memory that CPU and device share.
#[derive(Clone, Copy, Debug)]
pub struct Coherent {
    /// Where the CPU sees it.
    pub cpu: NonNull<u8>,
    /// Where the device sees it.
    pub dma: Machine,
}

/// Memory that CPU and device share by turns, with its first page.
#[derive(Clone, Copy, Debug)]
pub struct CoherentPages {
    /// The first of its neighbouring pages.
    pub first: NonNull<bindings::page>,
    /// Where the device sees it.
    pub dma: Machine,
}

/// A DMA backend for one device.
///
/// Unless said otherwise a method may be called in any context, with interrupts off, and must
/// not sleep.  `dev` is the device that the table is attached to.
#[vtable]
pub trait Provider: Sized + Send + Sync + 'static {
    /// Makes a buffer visible to the device.  C: `map_phys`.
    fn map(&self, dev: &Device, phys: Phys, size: usize, dir: Direction, attrs: Attrs)
        -> Result<Machine>;

    /// Ends a mapping.  C: `unmap_phys`.
    fn unmap(&self, dev: &Device, addr: Machine, size: usize, dir: Direction, attrs: Attrs);

    /// Maps a list; returns how many entries the device uses.  Errors: [`EINVAL`] (never will),
    /// [`ENOMEM`] (try again), [`peer_memory`] (another device's); others become [`EIO`].
    /// C: `map_sg`.
    fn map_sg(&self, dev: &Device, list: ScatterList<'_>, dir: Direction, attrs: Attrs)
        -> Result<usize>;

    /// Ends the mappings of a list.  C: `unmap_sg`.
    fn unmap_sg(&self, dev: &Device, list: ScatterList<'_>, dir: Direction, attrs: Attrs);

    /// Lets the CPU see what the device wrote.  C: `sync_single_for_cpu`.
    fn sync_for_cpu(&self, dev: &Device, addr: Machine, size: usize, dir: Direction);

    /// Lets the device see what the CPU wrote.  C: `sync_single_for_device`.
    fn sync_for_device(&self, dev: &Device, addr: Machine, size: usize, dir: Direction);

    /// As [`Provider::sync_for_cpu`], for a list.  C: `sync_sg_for_cpu`.
    fn sync_sg_for_cpu(&self, dev: &Device, list: ScatterList<'_>, dir: Direction);

    /// As [`Provider::sync_for_device`], for a list.  C: `sync_sg_for_device`.
    fn sync_sg_for_device(&self, dev: &Device, list: ScatterList<'_>, dir: Direction);

    /// Obtains cleared coherent memory, naturally aligned.  Sleeps only as `context` allows.
    /// C: `alloc`.
    fn alloc(&self, dev: &Device, size: usize, context: Context, attrs: Attrs) -> Result<Coherent>;

    /// Frees coherent memory.  C: `free`.
    fn free(&self, dev: &Device, size: usize, memory: Coherent, attrs: Attrs);

    /// Obtains neighbouring pages that the device reaches directly.  C: `alloc_pages_op`.
    fn alloc_pages(&self, dev: &Device, size: usize, dir: Direction, context: Context)
        -> Result<CoherentPages>;

    /// Frees pages.  C: `free_pages`.
    fn free_pages(&self, dev: &Device, size: usize, pages: CoherentPages, dir: Direction);

    /// Maps coherent memory into user space.  May sleep.  C: `mmap`.
    fn mmap(&self, dev: &Device, user: &mut UserPages<'_>, memory: Coherent, size: usize) -> Result;

    /// Describes coherent memory by a list.  May sleep.  C: `get_sgtable`.
    fn get_sgtable(&self, dev: &Device, table: &mut SgTable<'_>, memory: Coherent, size: usize)
        -> Result;

    /// Writes caches back for memory that is not coherent.  C: `cache_sync`.
    fn cache_sync(&self, _dev: &Device, _cpu: NonNull<u8>, _size: usize, _dir: Direction) {
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Whether the device can work under a mask.  May sleep.  C: `dma_supported`.
    fn supported(&self, dev: &Device, mask: u64) -> bool;

    /// The mask that reaches all memory.  C: `get_required_mask`.
    fn required_mask(&self, dev: &Device) -> u64;

    /// The largest single mapping in bytes.  C: `max_mapping_size`.
    fn max_mapping_size(&self, dev: &Device) -> usize;

    /// The largest mapping that is cheap, in bytes.  C: `opt_mapping_size`, which knows no device.
    fn opt_mapping_size() -> usize;

    /// Pieces that meet at multiples of this plus one are merged; 0: none are.
    /// C: `get_merge_boundary`.
    fn merge_boundary(&self, dev: &Device) -> usize;
}

/// A provider and the C table that leads to it.
///
/// The C table comes first, so that its address is the table's.
#[repr(C)]
pub struct Table<P> {
    ops: bindings::dma_map_ops,
    provider: P,
}

impl<P: Provider> Table<P> {
    /// Makes the C table for a provider.
    pub fn new(provider: P) -> Self {
        Self {
            ops: Callbacks::<P>::OPS,
            provider,
        }
    }

    /// The provider.
    pub fn provider(&self) -> &P {
        &self.provider
    }

    /// The C table.
    pub(crate) fn ops(&self) -> *const bindings::dma_map_ops {
        &self.ops
    }
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
        let (dev, provider) = unsafe { Self::enter(dev) };
        Direction::from_raw(dir)
            .and_then(|dir| provider.map(dev, Phys::new(phys), size, dir, Attrs(attrs)))
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
        if let Ok(dir) = Direction::from_raw(dir) {
            provider.unmap(dev, Machine::new(addr), size, dir, Attrs(attrs));
        }
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
            let dir = Direction::from_raw(dir)?;
            let mapped = provider.map_sg(dev, list, dir, Attrs(attrs));
            mapped.and_then(|n| c_int::try_from(n).map_err(|_| EINVAL)).map_err(|error| {
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
        if let Ok(dir) = Direction::from_raw(dir) {
            provider.unmap_sg(dev, list, dir, Attrs(attrs));
        }
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
        if let Ok(dir) = Direction::from_raw(dir) {
            provider.sync_for_cpu(dev, Machine::new(addr), size, dir);
        }
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
        if let Ok(dir) = Direction::from_raw(dir) {
            provider.sync_for_device(dev, Machine::new(addr), size, dir);
        }
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
        if let Ok(dir) = Direction::from_raw(dir) {
            provider.sync_sg_for_cpu(dev, list, dir);
        }
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
        if let Ok(dir) = Direction::from_raw(dir) {
            provider.sync_sg_for_device(dev, list, dir);
        }
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
        match provider.alloc(dev, size, Context::from_gfp(gfp), Attrs(attrs)) {
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
            provider.free(dev, size, memory, Attrs(attrs));
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
        let pages = Direction::from_raw(dir)
            .and_then(|dir| provider.alloc_pages(dev, size, dir, Context::from_gfp(gfp)));
        match pages {
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
        if let (Some(first), Ok(dir)) = (NonNull::new(page), Direction::from_raw(dir)) {
            let dma = Machine::new(dma);
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
            provider.get_sgtable(dev, &mut table, memory, size).map(|()| 0)
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
        if let (Some(cpu), Ok(dir)) = (NonNull::new(cpu.cast()), Direction::from_raw(dir)) {
            provider.cache_sync(dev, cpu, size, dir);
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
