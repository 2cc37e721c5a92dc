// SPDX-License-Identifier: GPL-2.0

//! The aperture: the extents that bounces live in, and the directory that finds them.
//!
//! Extents are machine-contiguous, naturally aligned and below 4 GiB, so a table indexed by
//! the machine address answers "is this one of ours, and which?" with one load.  No inverse
//! look-up is needed, and a foreign frame can never be in it.
//!
//! The extents are as large as Xen can give them: one for the whole aperture if low memory
//! allows, smaller ones where it is fragmented.  One small extent lies lower than the others,
//! for devices that reach less than 32 bits.
//!
//! C: `swiotlb_init_io_tlb_pool()`, `xen_swiotlb_fixup()`, `swiotlb_find_pool()`.

use crate::ledger::Ledger;
use core::fmt;
use dma_core::{
    Bundle,
    ClaimError,
    Held,
    Limits,
    Machine,
    Owner,
    Phys,
    Record,
    Request,
    Slots,
    CHUNK_SLOTS,
    SLOT_SIZE, //
};
use kernel::{
    page::PAGE_SHIFT,
    prelude::*, //
};
use xen_dma::{
    atomic::{
        Word,
        Words, //
    },
    per_cpu::PerCpu,
    region::{
        Region,
        Way, //
    },
};

/// Address bits of ordinary extents: every PCI device of today reaches them.
const ORDINARY_BITS: u32 = 32;

/// Address bits and order of the low extent.  28 bits serve the narrow devices that are still met;
/// 2 MiB are little enough to ask of memory that all guests share.
const LOW_BITS: u32 = 28;
const LOW_ORDER: u32 = 9;

/// The smallest extent worth having: 256 KiB, as much as C's largest mapping.
const MIN_ORDER: u32 = 6;

/// The largest extent that Xen gives a dom0: 1 GiB.
const MAX_ORDER: u32 = 18;

/// Each entry of the directory stands for the smallest extent.
const DIRECTORY_SHIFT: u32 = MIN_ORDER + PAGE_SHIFT as u32;
const DIRECTORY_ENTRIES: usize = 1 << (ORDINARY_BITS - DIRECTORY_SHIFT);

/// Directory entries are an extent's number plus one, in a byte.
const MAX_EXTENTS: usize = u8::MAX as usize;

/// Why no run could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Every extent that the device reaches is in use.
    Full,
    /// Larger than every extent that the device reaches.
    TooLarge,
    /// The device's alignment and boundary contradict each other.
    Impossible,
    /// The device reaches no extent.
    Unreachable,
}

/// One extent and the allocator of its slots.
pub(crate) struct Extent {
    pub(crate) region: Region,
    pub(crate) slots: Slots<Word, Words>,
    /// The last machine address.
    last: u64,
    /// The chunk where each processor was served last.
    near: PerCpu<1>,
    /// Who owns each slot, if that is kept.
    pub(crate) ledger: Ledger,
}

impl Extent {
    fn new(order: u32, bits: u32, processors: usize) -> Result<Self> {
        let region = Region::new(order, bits, Way::Scattered)?;
        let count = region.size() / SLOT_SIZE as usize;
        let words = Words::for_slots(count)?;
        let slots = Slots::new(words, region.base(), count, processors).ok_or(EINVAL)?;
        let mut near = PerCpu::new()?;
        near.fill(0, |cpu| slots.home(cpu) as u64);
        Ok(Self {
            last: region.base().raw() + region.size() as u64 - 1,
            region,
            slots,
            near,
            ledger: Ledger::new(count)?,
        })
    }

    /// Where the processor was served last.
    #[inline]
    fn near(&self) -> usize {
        // CAST: Only chunks' numbers are stored.
        self.near.get(0) as usize
    }

    /// Where a machine address lies in the extent, in bytes.
    #[inline]
    pub(crate) fn offset(&self, at: Machine) -> usize {
        // CAST: An extent has at most 2^30 bytes.
        at.raw().wrapping_sub(self.region.base().raw()) as usize
    }

    /// Notes that a run is about to be freed.
    #[inline]
    fn note_end(&self, held: &Held) {
        let (at, all) = (self.offset(held.run()), bytes(held.slots()));
        self.ledger.free(at, all, held.owner());
    }

    fn reached(&self, limits: &Limits) -> bool {
        self.last <= limits.reach()
    }
}

/// The bytes of a run's slots.
#[inline]
fn bytes(slots: usize) -> usize {
    // CAST: A run has at most 2^30 bytes.
    slots.wrapping_mul(SLOT_SIZE as usize)
}

/// The set of extents.
pub(crate) struct Aperture {
    /// The lowest extent last, so that narrow devices find it unused by others.
    extents: KVec<Extent>,
    directory: KVVec<u8>,
    /// Size of the largest extent in bytes.
    most: usize,
}

impl Aperture {
    /// Obtains up to `megabytes` of extents, the largest first, and says what it got.
    ///
    /// [`ENOMEM`] if there is nothing at all.  May sleep.
    pub(crate) fn new(megabytes: u32) -> Result<Self> {
        let processors = kernel::cpu::nr_cpu_ids() as usize;
        let mut extents = KVec::new();
        let wanted = (megabytes as usize) << (20 - PAGE_SHIFT);
        let mut missing = wanted;
        let mut order = MAX_ORDER;
        while missing > 0 && order >= MIN_ORDER && extents.len() < MAX_EXTENTS - 1 {
            order = order.min(missing.ilog2());
            match Extent::new(order, ORDINARY_BITS, processors) {
                Ok(extent) => {
                    extents.push(extent, GFP_KERNEL)?;
                    missing -= 1 << order;
                }
                Err(_) => order -= 1,
            }
        }
        let got = wanted - missing;
        if got == 0 {
            pr_err!(
                "Xen has no memory below 4 GiB to give, not even {} KiB; \
                 end a guest that holds some, or start dom0 with less memory\n",
                (1usize << (MIN_ORDER as usize + PAGE_SHIFT)) / 1024
            );
            return Err(ENOMEM);
        }
        let lowest = extents.iter().map(|e: &Extent| e.region.base()).min();
        if lowest.is_none_or(|base| base.raw() >> LOW_BITS != 0) {
            match Extent::new(LOW_ORDER, LOW_BITS, processors) {
                Ok(extent) => extents.push(extent, GFP_KERNEL)?,
                Err(_) => pr_info!(
                    "no memory below {LOW_BITS} bits of address; devices that reach less than {ORDINARY_BITS} bits cannot bounce\n"
                ),
            }
        }
        extents.sort_unstable_by_key(|e| core::cmp::Reverse(e.region.base()));

        let mut directory = KVVec::from_elem(0u8, DIRECTORY_ENTRIES, GFP_KERNEL)?;
        for (extent, number) in extents.iter().zip(1u8..) {
            let first = extent.region.base().raw() >> DIRECTORY_SHIFT;
            let count = extent.region.size() >> DIRECTORY_SHIFT;
            for entry in directory.iter_mut().skip(first as usize).take(count) {
                *entry = number;
            }
        }
        let most = extents.iter().map(|e| e.region.size()).max().unwrap_or(0);
        let aperture = Self {
            extents,
            directory,
            most,
        };
        aperture.announce(megabytes, missing);
        Ok(aperture)
    }

    fn announce(&self, megabytes: u32, missing: usize) {
        pr_info!(
            "aperture of {} KiB: {}\n",
            self.size() / 1024,
            format_args!("{}", Layout(self))
        );
        if missing > 0 {
            pr_warn!(
                "low memory gave {} KiB of the {megabytes} MiB asked for; going on with that. \
                 Guests and dom0 share what lies below 4 GiB\n",
                (((megabytes as usize) << (20 - PAGE_SHIFT)) - missing) << (PAGE_SHIFT - 10)
            );
        }
    }

    /// Size of all extents in bytes.
    pub(crate) fn size(&self) -> usize {
        self.extents.iter().map(|e| e.region.size()).sum()
    }

    /// Bytes in use now, and the most that were set apart at a time, which are whole chunks.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let bytes = |slots: usize| slots as u64 * SLOT_SIZE;
        self.extents.iter().fold((0, 0), |(now, most), extent| {
            let slots = &extent.slots;
            (
                now + bytes(slots.used()),
                most + bytes(slots.most_set_apart()),
            )
        })
    }

    /// Size of the largest extent in bytes: no mapping of any device can be larger.
    #[inline]
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// The extents.
    pub(crate) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The extent that a machine address lies in, if it is one of ours.  Any context.
    #[inline]
    pub(crate) fn find(&self, at: Machine) -> Option<&Extent> {
        // All extents lie below: most addresses of direct mappings are settled here.
        if at.raw() >> ORDINARY_BITS != 0 {
            return None;
        }
        // CAST: The index has few bits.
        let entry = (at.raw() >> DIRECTORY_SHIFT) as usize;
        let number = usize::from(*self.directory.get(entry)?);
        self.extents.get(number.checked_sub(1)?)
    }

    /// The largest extent that a device reaches, in bytes.
    pub(crate) fn largest(&self, limits: &Limits) -> usize {
        let reached = self.extents.iter().filter(|e| e.reached(limits));
        reached.map(|e| e.region.size()).max().unwrap_or(0)
    }

    /// The common case of [`Aperture::claim`]: 1 to 4096 bytes, of which no address bits are kept, on
    /// one page, for a device with this reach.  [`None`]: take the long way.  Any context.
    #[inline(always)]
    pub(crate) fn carry(
        &self,
        phys: Phys,
        size: usize,
        reach: u64,
        owner: Owner,
    ) -> Option<(&Extent, Machine)> {
        let extent = self.extents.first()?;
        if extent.last > reach {
            return None;
        }
        let at = extent.slots.carry(phys, size, owner, extent.near())?;
        extent.ledger.claim(extent.offset(at), size, owner);
        Some((extent, at))
    }

    /// Claims a run of this many slots for buffers of a list that a device with this reach maps.  Any
    /// context.
    pub(crate) fn claim_bundle(&self, slots: usize, reach: u64) -> Option<(&Extent, Bundle)> {
        let extent = self.extents.first().filter(|extent| extent.last <= reach)?;
        let near = extent.near();
        let bundle = extent.slots.claim_bundle(slots, near)?;
        if slots <= CHUNK_SLOTS && bundle.chunk() != near {
            extent.near.set(0, bundle.chunk() as u64);
        }
        Some((extent, bundle))
    }

    /// As [`Aperture::claim_bundle`], up to this many slots that are free where the processor was
    /// served last.
    pub(crate) fn claim_scattered(&self, most: usize, reach: u64) -> Option<(&Extent, Bundle)> {
        let extent = self.extents.first().filter(|extent| extent.last <= reach)?;
        let bundle = extent.slots.claim_scattered(most, extent.near())?;
        Some((extent, bundle))
    }

    /// Claims a run for a mapping and records it.  Any context.
    #[inline]
    pub(crate) fn claim(
        &self,
        phys: Phys,
        size: usize,
        limits: &Limits,
        owner: Owner,
    ) -> Result<(&Extent, Record), NoRoom> {
        self.claim_as(phys, size, limits, owner, |extent| {
            extent.slots.request(phys, size, limits)
        })
    }

    /// Claims a naturally aligned run of whole pages for coherent memory.  Any context.
    pub(crate) fn claim_aligned(
        &self,
        size: usize,
        limits: &Limits,
        owner: Owner,
    ) -> Result<(&Extent, Record), NoRoom> {
        let slots = size.div_ceil(SLOT_SIZE as usize);
        let request = Request::new(slots)
            .and_then(|request| request.aligned(slots.next_power_of_two(), 0))
            .ok_or(NoRoom::Impossible)?;
        self.claim_as(Phys::new(0), size, limits, owner, |_| Ok(request))
    }

    #[inline]
    fn claim_as(
        &self,
        phys: Phys,
        size: usize,
        limits: &Limits,
        owner: Owner,
        request: impl Fn(&Extent) -> Result<Request, ClaimError>,
    ) -> Result<(&Extent, Record), NoRoom> {
        let mut why = NoRoom::Unreachable;
        for extent in self.extents.iter().filter(|extent| extent.reached(limits)) {
            let near = extent.near();
            let claimed = request(extent).and_then(|request| extent.slots.claim(&request, near));
            match claimed {
                Ok(run) => {
                    let (at, all) = (extent.offset(run.start()), bytes(run.slots()));
                    extent.ledger.claim(at, all, owner);
                    return match extent.slots.publish(run, phys, size, owner) {
                        Ok(record) => {
                            if record.is_small() && record.chunk() != near {
                                extent.near.set(0, record.chunk() as u64);
                            }
                            Ok((extent, record))
                        }
                        Err(run) => {
                            extent.ledger.free(at, all, owner);
                            extent.slots.cancel(run);
                            Err(NoRoom::Impossible)
                        }
                    };
                }
                // Of several reasons the one that may pass comes first.
                Err(ClaimError::Full) => why = NoRoom::Full,
                Err(ClaimError::TooLarge) if why != NoRoom::Full => why = NoRoom::TooLarge,
                Err(ClaimError::Impossible) if why == NoRoom::Unreachable => {
                    why = NoRoom::Impossible;
                }
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// Frees the run of a mapping that was retired.  Any context.
    #[inline(always)]
    pub(crate) fn release(&self, extent: &Extent, held: Held) {
        extent.note_end(&held);
        complain(extent.slots.free(held));
    }
}

/// Says that slots were free before their release, if some were.
#[inline]
pub(crate) fn complain(strays: usize) {
    if strays > 0 {
        pr_err!(
            "{strays} slots were free before their release; this is a bug of this driver
"
        );
    }
}

/// Shows the extents: `1 of 64 MiB below 32 bits, 1 of 2 MiB below 28 bits`.
pub(crate) struct Layout<'a>(pub(crate) &'a Aperture);

impl fmt::Display for Layout<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |e: &Extent| {
            let end = e.region.base().raw() + e.region.size() as u64 - 1;
            (e.region.size() / 1024, u64::BITS - end.leading_zeros())
        };
        for (index, group) in self
            .0
            .extents
            .chunk_by(|a, b| kind(a) == kind(b))
            .enumerate()
        {
            let comma = if index > 0 { ", " } else { "" };
            if let Some((kib, bits)) = group.first().map(kind) {
                write!(f, "{comma}{} of {kib} KiB below {bits} bits", group.len())?;
            }
        }
        Ok(())
    }
}
