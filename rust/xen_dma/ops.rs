// SPDX-License-Identifier: GPL-2.0

//! What a DMA backend is: the operations of one device, in Rust's terms.
//!
//! A backend implements [`Provider`]: methods that take typed addresses and answer with
//! `Result`.  How C calls them is the matter of [`table`](crate::table).
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
use core::ptr::NonNull;
use dma_core::{
    Machine,
    Phys, //
};
use kernel::{
    device::Device,
    dma::DataDirection,
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*, //
};

/// The error for memory of another device that this one cannot reach.  C: `EREMOTEIO`.
pub fn peer_memory() -> Error {
    Error::from_errno(-(bindings::EREMOTEIO as c_int))
}

/// Which way the bytes go.  C: `enum dma_data_direction`.
///
/// Kept as C's number, so that who does not look at it does not pay for it.  The DMA API lets no
/// number through but those of the constants; another one would stand for both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction(u32);

impl Direction {
    /// Both ways.
    pub const BIDIRECTIONAL: Self = Self(DataDirection::Bidirectional as u32);
    /// The device reads.
    pub const TO_DEVICE: Self = Self(DataDirection::ToDevice as u32);
    /// The device writes.
    pub const FROM_DEVICE: Self = Self(DataDirection::FromDevice as u32);

    #[inline]
    pub(crate) const fn from_raw(raw: bindings::dma_data_direction) -> Self {
        // SAFETY: An enum of C's is such a number, be that bindgen's type for it or inside that.
        Self(unsafe { (&raw const raw).cast::<u32>().read() })
    }

    /// Any number, also one that the DMA API would not let through.
    #[cfg(any(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST, xen_dma_client))]
    pub(crate) const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// As C has it.
    #[cfg(any(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST, xen_dma_client))]
    pub(crate) const fn to_raw(self) -> bindings::dma_data_direction {
        // SAFETY: As above; every number is a value of either type.
        unsafe {
            (&raw const self.0)
                .cast::<bindings::dma_data_direction>()
                .read()
        }
    }

    /// Whether the device may have written, so that the CPU's copy must be refreshed.
    #[inline]
    pub fn device_writes(self) -> bool {
        self != Self::TO_DEVICE
    }

    /// Whether the device may read, so that its copy must be refreshed.
    #[inline]
    pub fn device_reads(self) -> bool {
        self != Self::FROM_DEVICE
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

    /// Whether nothing forbids that the bytes are carried elsewhere: neither
    /// [`Attrs::REQUIRE_COHERENT`] nor [`Attrs::MMIO`] is set.
    #[inline]
    pub fn allow_bounce(self) -> bool {
        self.0 & (Self::REQUIRE_COHERENT.0 | Self::MMIO.0) == 0
    }

    /// Whether all of `other` are set.
    #[inline]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[inline]
    pub(crate) fn from_raw(raw: c_ulong) -> Self {
        Self(raw)
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
    /// Whether nothing needs a sync until [`Table::start_syncs`] is called: the core does not even
    /// call the backend then.
    ///
    /// [`Table::start_syncs`]: crate::table::Table::start_syncs
    const SYNCS_LATER: bool = false;

    /// Makes a buffer visible to the device.  C has one error for all, so that which one it is
    /// matters to nobody.  C: `map_phys`.
    fn map(
        &self,
        dev: &Device,
        phys: Phys,
        size: usize,
        dir: Direction,
        attrs: Attrs,
    ) -> Result<Machine>;

    /// Maps a buffer if a short look is enough, as it is for most; or else tells [`Provider::map_told`]
    /// a number.
    ///
    /// A provider may do without both.  With them, [`Provider::map`] is not called from C: the look is
    /// part of C's callback, and only if it fails does a function with a frame of its own follow.
    #[inline]
    fn glance(&self, _dev: &Device, _phys: Phys, _size: usize) -> Result<Machine, u64> {
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// As [`Provider::map`], after a look that told a number.
    fn map_told(
        &self,
        _dev: &Device,
        _phys: Phys,
        _size: usize,
        _attrs: Attrs,
        _told: u64,
    ) -> Result<Machine> {
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// Ends a mapping.  C: `unmap_phys`.
    fn unmap(&self, dev: &Device, addr: Machine, size: usize, dir: Direction, attrs: Attrs);

    /// Maps a list; returns how many entries the device uses.  Errors: [`EINVAL`] (never will),
    /// [`ENOMEM`] (try again), [`peer_memory`] (another device's); others become [`EIO`].
    /// C: `map_sg`.
    fn map_sg(
        &self,
        dev: &Device,
        list: ScatterList<'_>,
        dir: Direction,
        attrs: Attrs,
    ) -> Result<usize>;

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
    fn alloc_pages(
        &self,
        dev: &Device,
        size: usize,
        dir: Direction,
        context: Context,
    ) -> Result<CoherentPages>;

    /// Frees pages.  C: `free_pages`.
    fn free_pages(&self, dev: &Device, size: usize, pages: CoherentPages, dir: Direction);

    /// Maps coherent memory into user space.  May sleep.  C: `mmap`.
    fn mmap(&self, dev: &Device, user: &mut UserPages<'_>, memory: Coherent, size: usize)
        -> Result;

    /// Describes coherent memory by a list.  May sleep.  C: `get_sgtable`.
    fn get_sgtable(
        &self,
        dev: &Device,
        table: &mut SgTable<'_>,
        memory: Coherent,
        size: usize,
    ) -> Result;

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
