// SPDX-License-Identifier: GPL-2.0

//! The other side of the DMA API: what drivers call.
//!
//! The kernel crate covers coherent memory and scatterlists of its own making, not single
//! streaming mappings, and nothing that a careful driver would not do.  Tests need both.
//! Compiled for tests only.
//!
//! C: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h).

use self::faux::FauxDevice;
use crate::{
    bindings,
    device::raw,
    ops::{
        Attrs,
        Coherent,
        CoherentPages,
        Direction, //
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
    region::Region,
    scatterlist::ScatterList, //
};
use core::{
    cell::UnsafeCell,
    pin::Pin,
    ptr::NonNull, //
};
use dma_core::{
    Machine,
    Pfn,
    Phys, //
};
#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
use kernel::ThisModule;
use kernel::{
    device::Device,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    types::Opaque, //
};

/// Bytes that the CPU and, while mapped, a device touch: neighbouring pages.
pub struct Buffer(Pages);

impl Buffer {
    /// `1 << order` pages, cleared.  May sleep.
    pub fn new(order: u32) -> Result<Self> {
        let mut pages = Pages::contiguous(order, Context::Sleepable, Node::ANY)?;
        pages.clear();
        Ok(Self(pages))
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.0.len() * PAGE_SIZE
    }

    /// The physical address of the first byte.
    pub fn phys(&self) -> Phys {
        self.0
            .pfns()
            .next()
            .map_or(Phys::new(u64::MAX), |pfn| pfn.start())
    }

    /// Where a device sees each page, in order.  Ends at one that is not this domain's own.
    pub fn machine_pages(&self) -> impl Iterator<Item = Machine> + '_ {
        self.0.pfns().map_while(|pfn| machine(pfn.start()))
    }

    /// Where the CPU sees the first byte.
    pub(crate) fn start(&self) -> Option<NonNull<u8>> {
        self.0.linear()
    }

    /// Writes `byte(i)` to each byte `i` of `size` from `offset` on; stops at the end.
    pub fn fill(&mut self, offset: usize, size: usize, byte: impl Fn(usize) -> u8) {
        let Some(base) = self.start() else {
            return;
        };
        for index in offset..offset.saturating_add(size).min(self.size()) {
            // SAFETY: Within the pages, which `self` owns.  A device may touch them too, so each byte
            // is written as such.
            unsafe {
                base.as_ptr()
                    .add(index)
                    .write_volatile(byte(index - offset))
            };
        }
    }

    /// Whether the bytes from `offset` on are these.  Bytes past the end are not.
    pub fn holds(&self, offset: usize, bytes: &[u8]) -> bool {
        const WORD: usize = size_of::<u64>();
        let Some(base) = self.start() else {
            return false;
        };
        if offset.saturating_add(bytes.len()) > self.size() {
            return false;
        }
        // Words from where they are aligned, and the bytes around them.
        let (lead, bulk) = bytes.split_at(bytes.len().min(offset.wrapping_neg() % WORD));
        let words = bulk.chunks_exact(WORD);
        let end = words.remainder();
        let same = |from: usize, bytes: &[u8]| {
            let mut places = (from..).zip(bytes);
            places.all(|(at, &byte)| self.byte(at) == byte)
        };
        let mut places = (offset + lead.len()..).step_by(WORD).zip(words);
        places.all(|(at, word)| {
            // SAFETY: As in `fill`; aligned, since pages are.
            let there = unsafe { base.as_ptr().add(at).cast::<u64>().read_volatile() };
            there.to_ne_bytes() == *word
        }) && same(offset, lead)
            && same(offset + bytes.len() - end.len(), end)
    }

    /// The byte at `offset`; 0 past the end.
    pub fn byte(&self, offset: usize) -> u8 {
        match self.start() {
            // SAFETY: As in `fill`.
            Some(base) if offset < self.size() => unsafe {
                base.as_ptr().add(offset).read_volatile()
            },
            _ => 0,
        }
    }
}

/// Where a device sees a page of this domain's own memory.
pub fn machine(page: Phys) -> Option<Machine> {
    Some(local_mfn(LinearP2m::get()?, page.pfn())?.start())
}

/// Whether each page of a region has the frame that its place asks for.
pub fn is_contiguous(region: &Region) -> bool {
    let places = (region.base().raw()..).step_by(PAGE_SIZE);
    let mut pages = region.pages().pfns().zip(places);
    pages.all(|(pfn, place)| machine(pfn.start()) == Some(Machine::new(place)))
}

/// The physical address of each page of a region, in machine order.
pub fn physical_pages(region: &Region) -> impl Iterator<Item = Phys> + '_ {
    region.pages().pfns().map(Pfn::start)
}

/// Reads a byte of coherent memory.
///
/// # Safety
///
/// `memory` is allocated, and has more than `offset` bytes.
pub unsafe fn read_coherent(memory: Coherent, offset: usize) -> u8 {
    // SAFETY: By this function's contract.
    unsafe { memory.cpu.as_ptr().add(offset).read_volatile() }
}

/// Maps physical memory.  [`EIO`] when refused.  C: `dma_map_phys()`.
///
/// As with C's, the caller vouches that the memory is its own while a device may use it.
pub fn map(dev: &Device, phys: Phys, size: usize, dir: Direction, attrs: Attrs) -> Result<Machine> {
    let addr = map_alone(dev, phys, size, dir, attrs).ok_or(EIO)?;
    // SAFETY: A live device; tells DMA_API_DEBUG that the result was looked at.
    to_result(unsafe { bindings::dma_mapping_error(raw(dev), addr.raw()) })?;
    Ok(addr)
}

/// As [`map`], without the `dma_mapping_error()` that a driver owes: that one call, to measure it.
#[inline]
pub fn map_alone(
    dev: &Device,
    phys: Phys,
    size: usize,
    dir: Direction,
    attrs: Attrs,
) -> Option<Machine> {
    // SAFETY: A live device with a DMA mask, or C refuses.
    let addr =
        unsafe { bindings::dma_map_phys(raw(dev), phys.raw(), size, dir.to_raw(), attrs.to_raw()) };
    (addr != bindings::dma_addr_t::MAX).then_some(Machine::new(addr))
}

/// Ends a mapping.  C: `dma_unmap_phys()`.
#[inline]
pub fn unmap(dev: &Device, addr: Machine, size: usize, dir: Direction, attrs: Attrs) {
    // SAFETY: A live device.
    unsafe { bindings::dma_unmap_phys(raw(dev), addr.raw(), size, dir.to_raw(), attrs.to_raw()) };
}

/// C: `dma_sync_single_for_cpu()`.
#[inline]
pub fn sync_for_cpu(dev: &Device, addr: Machine, size: usize, dir: Direction) {
    // SAFETY: A live device.
    unsafe { bindings::dma_sync_single_for_cpu(raw(dev), addr.raw(), size, dir.to_raw()) };
}

/// C: `dma_sync_single_for_device()`.
#[inline]
pub fn sync_for_device(dev: &Device, addr: Machine, size: usize, dir: Direction) {
    // SAFETY: A live device.
    unsafe { bindings::dma_sync_single_for_device(raw(dev), addr.raw(), size, dir.to_raw()) };
}

/// Sets both masks.  [`EIO`] if the backend cannot serve them.  C: `dma_set_mask_and_coherent()`.
pub fn set_masks(dev: &Device, mask: u64) -> Result {
    // SAFETY: A live device, used by nobody else at this time.
    to_result(unsafe { bindings::dma_set_mask_and_coherent(raw(dev), mask) })
}

/// Obtains coherent memory that the driver core frees after the device's driver.  May sleep.
/// C: `dmam_alloc_coherent()`.
pub fn alloc_managed(dev: &Device, size: usize) -> Result<Machine> {
    let (mut dma, flags) = (0, bindings::GFP_KERNEL);
    // SAFETY: A live device, which is being probed.
    let cpu = unsafe { bindings::dmam_alloc_attrs(raw(dev), size, &mut dma, flags, 0) };
    NonNull::new(cpu).map(|_| Machine::new(dma)).ok_or(ENOMEM)
}

/// Sets the mask of mappings alone.  [`EIO`] if the backend cannot serve it.  C: `dma_set_mask()`.
pub fn set_mask(dev: &Device, mask: u64) -> Result {
    // SAFETY: A live device, used by nobody else at this time.
    to_result(unsafe { bindings::dma_set_mask(raw(dev), mask) })
}

/// Sets that of coherent memory.  [`EIO`] if the backend cannot serve it.
/// C: `dma_set_coherent_mask()`.
pub fn set_coherent_mask(dev: &Device, mask: u64) -> Result {
    // SAFETY: A live device, used by nobody else at this time.
    to_result(unsafe { bindings::dma_set_coherent_mask(raw(dev), mask) })
}

/// The parameters that a bus gives to its devices; [`ENODEV`] if it did not.
fn parameters(dev: &Device) -> Result<NonNull<bindings::device_dma_parameters>> {
    // SAFETY: A live device; bus code sets the pointer once.
    NonNull::new(unsafe { (*raw(dev)).dma_parms }).ok_or(ENODEV)
}

/// C: `dma_set_seg_boundary()`.  Nothing may be mapped meanwhile.
pub fn set_boundary(dev: &Device, mask: u64) -> Result {
    // SAFETY: They live as long as the device, which nobody else uses at this time.
    unsafe { (*parameters(dev)?.as_ptr()).segment_boundary_mask = mask as usize };
    Ok(())
}

/// C: `dma_set_min_align_mask()`.  Nothing may be mapped meanwhile.
pub fn set_min_align(dev: &Device, mask: u32) -> Result {
    // SAFETY: As in `set_boundary`.
    unsafe { (*parameters(dev)?.as_ptr()).min_align_mask = mask };
    Ok(())
}

/// Whether the core leaves out syncs of the device.  C: `dev_dma_skip_sync()`.
pub fn skips_syncs(dev: &Device) -> bool {
    // SAFETY: A live device.
    unsafe { bindings::dev_dma_skip_sync(raw(dev)) }
}

/// C: `dma_max_mapping_size()`.
pub fn max_mapping_size(dev: &Device) -> usize {
    // SAFETY: A live device.
    unsafe { bindings::dma_max_mapping_size(raw(dev)) }
}

/// C: `dma_opt_mapping_size()`.
pub fn opt_mapping_size(dev: &Device) -> usize {
    // SAFETY: A live device.
    unsafe { bindings::dma_opt_mapping_size(raw(dev)) }
}

/// C: `dma_get_required_mask()`.
pub fn required_mask(dev: &Device) -> u64 {
    // SAFETY: A live device.
    unsafe { bindings::dma_get_required_mask(raw(dev)) }
}

/// C: `dma_get_merge_boundary()`.
pub fn merge_boundary(dev: &Device) -> usize {
    // SAFETY: A live device.
    unsafe { bindings::dma_get_merge_boundary(raw(dev)) }
}

/// Allocates coherent memory.  C: `dma_alloc_attrs()`.
pub fn alloc(dev: &Device, size: usize, context: Context, attrs: Attrs) -> Result<Coherent> {
    let mut dma = 0;
    // SAFETY: A live device; the flags fit the context that the caller names.
    let cpu = unsafe {
        bindings::dma_alloc_attrs(raw(dev), size, &mut dma, context.gfp(), attrs.to_raw())
    };
    let cpu = NonNull::new(cpu.cast()).ok_or(ENOMEM)?;
    let dma = Machine::new(dma);
    Ok(Coherent { cpu, dma })
}

/// Frees coherent memory.  C: `dma_free_attrs()`.
pub fn free(dev: &Device, size: usize, memory: Coherent, attrs: Attrs) {
    let (cpu, dma) = (memory.cpu.as_ptr().cast(), memory.dma.raw());
    // SAFETY: A live device; our backend looks the memory up before it believes the caller.
    unsafe { bindings::dma_free_attrs(raw(dev), size, cpu, dma, attrs.to_raw()) };
}

/// Allocates pages for a device.  C: `dma_alloc_pages()`.
pub fn alloc_pages(dev: &Device, size: usize, dir: Direction) -> Result<CoherentPages> {
    let mut dma = 0;
    // SAFETY: A live device; may sleep.
    let first = unsafe {
        bindings::dma_alloc_pages(raw(dev), size, &mut dma, dir.to_raw(), bindings::GFP_KERNEL)
    };
    let first = NonNull::new(first).ok_or(ENOMEM)?;
    let dma = Machine::new(dma);
    Ok(CoherentPages { first, dma })
}

/// Frees pages.  C: `dma_free_pages()`.
pub fn free_pages(dev: &Device, size: usize, pages: CoherentPages, dir: Direction) {
    let (first, dma) = (pages.first.as_ptr(), pages.dma.raw());
    // SAFETY: A live device and pages that were allocated for it.
    unsafe { bindings::dma_free_pages(raw(dev), size, first, dma, dir.to_raw()) };
}

/// A scatterlist of a caller, one buffer an entry.
pub struct List {
    table: bindings::sg_table,
}

// SAFETY: It owns its entries, which are not bound to a thread.
unsafe impl Send for List {}

impl List {
    /// Describes whole buffers, each as one entry.  May sleep.
    pub fn new(buffers: &[Buffer]) -> Result<Self> {
        let pieces = buffers.iter().map(|buffer| (buffer, 0, buffer.size()));
        Self::of_parts(buffers.len(), pieces)
    }

    /// Describes parts of buffers: `(buffer, offset, size)`.  May sleep.
    pub fn of_parts<'a>(
        count: usize,
        parts: impl Iterator<Item = (&'a Buffer, usize, usize)>,
    ) -> Result<Self> {
        let mut table = bindings::sg_table::default();
        // SAFETY: A table to fill.
        to_result(unsafe {
            bindings::sg_alloc_table(&mut table, count as u32, bindings::GFP_KERNEL)
        })?;
        let list = Self { table };
        let mut entry = list.table.sgl;
        for (buffer, offset, size) in parts.take(count) {
            let first = buffer.0.first().ok_or(EINVAL)?;
            // SAFETY: An entry of the list just made, and a page that outlives its use.
            unsafe { bindings::sg_set_page(entry, first.as_ptr(), size as u32, offset as u32) };
            // SAFETY: An entry of the list.
            entry = unsafe { bindings::sg_next(entry) };
        }
        Ok(list)
    }

    /// C: `dma_map_sgtable()`.
    pub fn map(&mut self, dev: &Device, dir: Direction, attrs: Attrs) -> Result {
        // SAFETY: A live device and a list of ours.
        to_result(unsafe {
            bindings::dma_map_sgtable(raw(dev), &mut self.table, dir.to_raw(), attrs.to_raw())
        })
    }

    /// C: `dma_unmap_sg_attrs()`, with the original number of entries.
    pub fn unmap(&mut self, dev: &Device, dir: Direction, attrs: Attrs) {
        let (first, count) = (self.table.sgl, self.table.orig_nents as i32);
        // SAFETY: As in `map`.
        unsafe {
            bindings::dma_unmap_sg_attrs(raw(dev), first, count, dir.to_raw(), attrs.to_raw())
        };
    }

    /// C: `dma_sync_sg_for_cpu()`.
    pub fn sync_for_cpu(&mut self, dev: &Device, dir: Direction) {
        let (first, count) = (self.table.sgl, self.table.orig_nents as i32);
        // SAFETY: As in `map`.
        unsafe { bindings::dma_sync_sg_for_cpu(raw(dev), first, count, dir.to_raw()) };
    }

    /// C: `dma_sync_sg_for_device()`.
    pub fn sync_for_device(&mut self, dev: &Device, dir: Direction) {
        let (first, count) = (self.table.sgl, self.table.orig_nents as i32);
        // SAFETY: As in `map`.
        unsafe { bindings::dma_sync_sg_for_device(raw(dev), first, count, dir.to_raw()) };
    }

    /// Where the device sees the mapped entries: address and length of each.
    pub fn mapped(&self) -> impl Iterator<Item = (Machine, usize)> + '_ {
        let mut entry = self.table.sgl;
        (0..self.table.nents).map_while(move |_| {
            if entry.is_null() {
                return None;
            }
            // SAFETY: An entry of the list.
            let address = unsafe { bindings::sg_dma_address(entry) };
            // SAFETY: As above.
            let length = unsafe { bindings::sg_dma_len(entry) };
            // SAFETY: As above.
            entry = unsafe { bindings::sg_next(entry) };
            Some((Machine::new(address), length as usize))
        })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: A list made by `of_parts`, or C's empty one.
        unsafe { bindings::sg_free_table(&mut self.table) };
    }
}

/// Describes coherent memory by pages; returns how many bytes of the list, from its start on, are those that
/// the device sees there.  C: `dma_get_sgtable_attrs()`.
pub fn sgtable_bytes(dev: &Device, memory: Coherent, size: usize) -> Result<usize> {
    let mut table = bindings::sg_table::default();
    let (cpu, dma) = (memory.cpu.as_ptr().cast(), memory.dma.raw());
    // SAFETY: A live device, an empty table, and memory that the backend looks up.
    to_result(unsafe { bindings::dma_get_sgtable_attrs(raw(dev), &mut table, cpu, dma, size, 0) })?;
    let mut bytes = 0;
    // SAFETY: The list just made.
    let mut list = unsafe { ScatterList::from_raw(table.sgl, table.orig_nents as i32) };
    for (phys, length) in list.to_map().0 {
        let starts = (phys.raw()..phys.raw() + length as u64).step_by(PAGE_SIZE);
        let mut pages = starts.zip((dma + bytes as u64..).step_by(PAGE_SIZE));
        let seen = |(page, at)| machine(Phys::new(page)) == Some(Machine::new(at));
        if phys.page_offset() != 0 || !pages.all(seen) {
            break;
        }
        bytes += length;
    }
    // SAFETY: Made above.
    unsafe { bindings::sg_free_table(&mut table) };
    Ok(bytes)
}

/// The module of tests that are built into the kernel: none.
#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
pub struct BuiltIn;

#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
// SAFETY: Null stands for code that is built in.
const NO_MODULE: ThisModule = unsafe { ThisModule::from_ptr(core::ptr::null_mut()) };

#[cfg(all(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST, not(linux_7_2)))]
impl kernel::ModuleMetadata for BuiltIn {
    const NAME: &'static CStr = c"xen_swiotlb_rs_kunit";
    const THIS_MODULE: ThisModule = NO_MODULE;
}

/// The module of [`BuiltIn`].
#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
pub fn built_in() -> &'static ThisModule {
    static BUILT_IN: ThisModule = NO_MODULE;
    &BUILT_IN
}

pub mod faux;

/// A device without hardware, to map for.  No driver is bound to it.
pub struct TestDevice {
    // Ends before the parameters that it points to.
    faux: FauxDevice,
    parameters: Pin<KBox<Parameters>>,
}

/// What `struct device` only points to.
#[pin_data]
struct Parameters {
    #[pin]
    dma: Opaque<bindings::device_dma_parameters>,
    mask: UnsafeCell<u64>,
}

impl TestDevice {
    /// Makes a device.  May sleep.
    pub fn new(name: &'static CStr) -> Result<Self> {
        let faux = FauxDevice::new(name)?;
        let parameters = KBox::pin_init(
            pin_init!(Parameters {
                dma <- Opaque::ffi_init(|slot: *mut bindings::device_dma_parameters| {
                    // SAFETY: Memory for the parameters, as yet unused.
                    unsafe { slot.write(Default::default()) }
                }),
                mask: UnsafeCell::new(u64::MAX),
            }),
            GFP_KERNEL,
        )?;
        let device = Self { faux, parameters };
        let dev = raw(device.device());
        // SAFETY: A live device, with the faux bus's own driver, which does nothing.
        unsafe { bindings::device_release_driver(dev) };
        // SAFETY: A live device that nobody else uses yet; the parameters outlive it.
        unsafe { (*dev).dma_parms = device.parameters.dma.get() };
        // SAFETY: As above.
        unsafe { (*dev).dma_mask = device.parameters.mask.get() };
        // SAFETY: As above.
        unsafe { (*dev).coherent_dma_mask = u64::MAX };
        Ok(device)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.faux.device()
    }

    /// Sets the mask for streaming mappings, whether the backend likes it or not.
    pub fn set_mask(&self, mask: u64) {
        // SAFETY: As in `set_boundary`.
        unsafe { *self.parameters.mask.get() = mask };
    }

    /// Sets the mask for coherent memory, whether the backend likes it or not.
    pub fn set_coherent_mask(&self, mask: u64) {
        // SAFETY: As in `set_boundary`.
        unsafe { (*raw(self.device())).coherent_dma_mask = mask };
    }

    /// C: `dma_set_seg_boundary()`.
    pub fn set_boundary(&self, mask: u64) {
        // SAFETY: Ours; nothing is being mapped.
        unsafe { (*self.parameters.dma.get()).segment_boundary_mask = mask as usize };
    }

    /// C: `dma_set_max_seg_size()`.
    pub fn set_max_segment(&self, size: u32) {
        // SAFETY: As in `set_boundary`.
        unsafe { (*self.parameters.dma.get()).max_segment_size = size };
    }

    /// C: `dma_set_min_align_mask()`.
    pub fn set_min_align(&self, mask: u32) {
        // SAFETY: As in `set_boundary`.
        unsafe { (*self.parameters.dma.get()).min_align_mask = mask };
    }

    /// Sets the highest address that the bus passes on; 0: all.
    pub fn set_bus_limit(&self, limit: u64) {
        // SAFETY: As in `set_boundary`.
        unsafe { (*raw(self.device())).bus_dma_limit = limit };
    }
}

pub mod below;
pub mod engine;
pub mod shared;

/// Whether a device has operations of its own, and not those that all devices have.  A hint:
/// seen without the device's lock.
pub fn has_own_ops(dev: &Device) -> bool {
    // SAFETY: A live device; only compared.
    !unsafe { (&raw const (*raw(dev)).dma_ops).read_volatile() }.is_null()
}
