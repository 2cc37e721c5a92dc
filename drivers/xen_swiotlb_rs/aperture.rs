// SPDX-License-Identifier: GPL-2.0

//! The aperture: the extents that bounces live in, and the directory that finds them.
//!
//! Extents are machine-contiguous, naturally aligned and below 4 GiB, so a table indexed by
//! the machine address answers "is this one of ours, and which?" with one load.  No inverse
//! look-up is needed, and a foreign frame can never be in it.
//!
//! Extents come and go while mappings are made.  Readers see one for as long as they look at it (RCU),
//! and an extent goes only when all of its slots are held for that purpose, so a mapping keeps its
//! extent without knowing.  An extent is in the directory before anything can be claimed there, and
//! until nothing can.
//!
//! Ordinary extents serve every device that reaches them; narrow ones, which lie lower, only devices
//! that reach less than 32 bits, so that others cannot use them up.
//!
//! C: `swiotlb_init_io_tlb_pool()`, `xen_swiotlb_fixup()`, `swiotlb_find_pool()`.

use crate::extent::{
    Extent,
    Kind, //
};
use core::{
    fmt,
    ops::{
        Range,
        RangeInclusive, //
    },
};
use dma_core::{
    AtomicWord,
    Bundle,
    ClaimError,
    Limits,
    Machine,
    Owner,
    Phys,
    Record,
    Request,
    SLOT_SIZE, //
};
use kernel::{
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use xen_dma::{
    atomic::{
        Byte,
        Word, //
    },
    per_cpu::PerCpu,
    rcu::{
        Kept,
        Reading,
        Table, //
    },
    region::{
        Region,
        Way, //
    },
};

/// Address bits of ordinary extents: every PCI device of today reaches them.
pub(crate) const ORDINARY_BITS: u32 = 32;

/// The reach of devices that need no narrow extent.
const ORDINARY_REACH: u64 = (1 << ORDINARY_BITS) - 1;

/// The smallest extent worth having: 256 KiB, as much as C's largest mapping.
pub(crate) const MIN_ORDER: u32 = 6;

/// Its size in bytes.
const MIN_EXTENT: usize = PAGE_SIZE << MIN_ORDER;

/// The largest extent that Xen gives a dom0: 1 GiB.
pub(crate) const MAX_ORDER: u32 = 18;

/// Its size in bytes.
const LARGEST: usize = PAGE_SIZE << MAX_ORDER;

/// Each entry of the directory stands for the smallest extent.
const DIRECTORY_SHIFT: u32 = MIN_ORDER + PAGE_SHIFT as u32;
const DIRECTORY_ENTRIES: usize = 1 << (ORDINARY_BITS - DIRECTORY_SHIFT);

/// Directory entries are places.  At place 0 there is never an extent; narrow ones have the last places.
const NOWHERE: u8 = 0;
const ORDINARY: Range<u8> = 1..192;
const NARROW: RangeInclusive<u8> = 192..=u8::MAX;

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

/// What keeps devices from each other's bytes, where no IOMMU does.  Either takes the long way at each
/// mapping: no processor has an extent at hand then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Care {
    /// Slots are cleared when they are freed.
    pub(crate) scrub: bool,
    /// Mappings do not share pages.
    pub(crate) isolate: bool,
}

impl Care {
    #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
    pub(crate) const NONE: Self = Self {
        scrub: false,
        isolate: false,
    };

    /// Is any wanted?
    fn any(self) -> bool {
        self.scrub || self.isolate
    }
}

/// The set of extents.
pub(crate) struct Aperture {
    /// Of those that are there from the beginning the lowest has the last place, so that narrow
    /// devices find it unused by others.
    extents: Table<Extent>,
    directory: KVVec<Byte>,
    /// One more than the last place of an ordinary extent.
    end: Word,
    /// Size of the largest extent in bytes.
    most: Word,
    /// The place of the ordinary extent where each processor was served last; nowhere, if the long way
    /// is to be taken.
    near: PerCpu<1>,
    pub(crate) care: Care,
}

impl Aperture {
    /// Obtains up to `megabytes` of extents, the largest first, and says what it got.
    ///
    /// [`ENOMEM`] if there is nothing at all.  May sleep.
    pub(crate) fn new(megabytes: u32, care: Care) -> Result<Self> {
        // CAST: Widens.
        let wanted = (megabytes as usize) << (20 - PAGE_SHIFT);
        let (mut regions, mut missing) = obtain(wanted)?;
        if missing == wanted {
            pr_err!(
                "Xen has no memory below 4 GiB to give, not even {} KiB; \
                 end a guest that holds some, or start dom0 with less memory\n",
                (1usize << (MIN_ORDER as usize + PAGE_SHIFT)) / 1024
            );
            return Err(ENOMEM);
        }
        let mut directory = KVVec::with_capacity(DIRECTORY_ENTRIES, GFP_KERNEL)?;
        for _ in 0..DIRECTORY_ENTRIES {
            directory.push(Byte::new(NOWHERE), GFP_KERNEL)?;
        }
        let aperture = Self {
            extents: Table::new()?,
            directory,
            end: Word::new(u64::from(ORDINARY.start)),
            most: Word::new(0),
            near: PerCpu::new()?,
            care,
        };
        aperture.go_home();
        // The highest one first.
        while let Some(region) = regions.pop() {
            let pages = region.size() / PAGE_SIZE;
            // Without memory for its records an extent goes back; the others are kept.
            match Extent::of(region, Kind::Lasting) {
                Ok(extent) => aperture.add(extent)?,
                Err(_) => missing += pages,
            }
        }
        if missing == wanted {
            return Err(ENOMEM);
        }
        aperture.announce(megabytes, missing);
        Ok(aperture)
    }

    fn announce(&self, megabytes: u32, missing: usize) {
        let kib = self.size() / 1024;
        pr_info!(
            "aperture of {kib} KiB: {}\n",
            format_args!("{}", Layout(self))
        );
        if missing > 0 {
            pr_warn!(
                "low memory gave {kib} KiB of the {megabytes} MiB asked for; going on with that. \
                 Guests and dom0 share what lies below 4 GiB\n"
            );
        }
    }

    /// Makes an extent part of the aperture.  [`ENOSPC`] if there is no place for it.  One caller at a
    /// time; may sleep.
    pub(crate) fn add(&self, extent: Extent) -> Result {
        let (first, last) = match extent.kind {
            Kind::Narrow(_) => (*NARROW.start(), *NARROW.end()),
            _ => (ORDINARY.start, ORDINARY.end - 1),
        };
        let mut vacant = (first..=last).filter(|place| self.extents.read(*place).is_none());
        let place = vacant.next().ok_or(ENOSPC)?;
        let (base, size) = (extent.region.base(), extent.size());
        self.enter(base, size, place);
        if let Err(error) = self.extents.put(place, extent) {
            self.enter(base, size, NOWHERE);
            return Err(error);
        }
        // CAST: Widens.
        let size = size as u64;
        self.most.store(self.most.load().max(size));
        if ORDINARY.contains(&place) {
            self.end.store(self.end.load().max(u64::from(place) + 1));
        }
        Ok(())
    }

    /// Takes an extent out, if nothing of it is in use, and returns its size.  One caller at a time;
    /// may sleep.
    pub(crate) fn remove(&self, place: u8) -> Option<usize> {
        {
            let extent = self.extents.read(place)?;
            let _ = extent.slots.seize()?;
            // Nothing can be claimed any more: who has an address of it has none that is mapped.
            self.enter(extent.region.base(), extent.size(), NOWHERE);
        }
        let extent = self.extents.take(place)?;
        let sizes = self.each().map(|extent| extent.size() as u64);
        self.most.store(sizes.max().unwrap_or(0));
        Some(extent.size())
    }

    /// Lets all processors begin at the first extent again, so that the others fall idle.  Any context.
    pub(crate) fn go_home(&self) {
        let home = if self.care.any() {
            NOWHERE
        } else {
            ORDINARY.start
        };
        self.near.set_all(0, u64::from(home));
    }

    /// Writes the directory's entries of an extent with this base and size.
    fn enter(&self, base: Machine, size: usize, entry: u8) {
        // CAST: The index has few bits.
        let first = (base.raw() >> DIRECTORY_SHIFT) as usize;
        let count = size >> DIRECTORY_SHIFT;
        for byte in self.directory.iter().skip(first).take(count) {
            byte.store(entry);
        }
    }

    /// The extents and their places, ordinary ones first.  Whoever looks at one must not sleep.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u8, Reading<'_, Extent>)> {
        (0..=u8::MAX).filter_map(|place| Some((place, self.extents.read(place)?)))
    }

    /// The extents, as [`Aperture::places`].
    pub(crate) fn each(&self) -> impl Iterator<Item = Reading<'_, Extent>> {
        self.places().map(|(_, extent)| extent)
    }

    /// Size of all extents in bytes.
    pub(crate) fn size(&self) -> usize {
        self.each().map(|extent| extent.size()).sum()
    }

    /// Bytes in use now, and the most that were set apart at a time, which are whole chunks.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.each().fold((0, 0), |(now, most), extent| {
            let apart = extent.slots.most_set_apart() as u64 * SLOT_SIZE;
            (now + extent.used() as u64, most + apart)
        })
    }

    /// Size of the largest extent in bytes: no mapping of any device can be larger.
    #[inline]
    pub(crate) fn most(&self) -> usize {
        // CAST: Only sizes are stored.
        self.most.load() as usize
    }

    /// The place of the extent that a machine address lies in, if it is one of ours.  Any context.
    #[inline]
    pub(crate) fn place(&self, at: Machine) -> Option<u8> {
        // All extents lie below: most addresses of direct mappings are settled here.
        if at.raw() >> ORDINARY_BITS != 0 {
            return None;
        }
        // CAST: The index has few bits.
        let entry = (at.raw() >> DIRECTORY_SHIFT) as usize;
        let place = self.directory.get(entry)?.load();
        (place != NOWHERE).then_some(place)
    }

    /// The extent at a place, if it is still there, as one with a mapping is.  Any context.
    #[inline(always)]
    pub(crate) fn read(&self, place: u8) -> Option<Reading<'_, Extent>> {
        self.extents.read(place)
    }

    /// The extent that a machine address lies in, if it is one of ours.  Any context.
    #[inline]
    pub(crate) fn find(&self, at: Machine) -> Option<Reading<'_, Extent>> {
        self.read(self.place(at)?)
    }

    /// The largest extent that serves a device with these limits and that does not go as long as the
    /// device has its driver, in bytes.
    pub(crate) fn largest(&self, limits: &Limits) -> usize {
        let reach = limits.reach();
        let stays = |extent: &Extent| match extent.kind {
            Kind::Lasting => true,
            Kind::Narrow(_) => reach < ORDINARY_REACH,
            Kind::Spare => false,
        };
        self.each()
            .filter(|extent| stays(extent) && extent.reached(reach))
            .map(|extent| extent.size())
            .max()
            .unwrap_or(0)
    }

    /// The ordinary extent where this processor was served last, if a device with this reach can use
    /// it.  Any context.
    #[inline(always)]
    fn at_hand(&self, reach: u64) -> Option<Reading<'_, Extent>> {
        // CAST: Only places are stored.
        let extent = self.extents.read(self.near.get(0) as u8)?;
        extent.reached(reach).then_some(extent)
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
    ) -> Option<(Reading<'_, Extent>, Machine)> {
        let extent = self.at_hand(reach)?;
        let at = extent.carry(phys, size, owner)?;
        Some((extent, at))
    }

    /// Claims a run of this many slots for buffers of a list that a device with this reach maps.  Any
    /// context.
    pub(crate) fn claim_bundle(
        &self,
        slots: usize,
        reach: u64,
    ) -> Option<(Kept<'_, Extent>, Bundle)> {
        let extent = self.at_hand(reach)?;
        let bundle = extent.claim_bundle(slots)?;
        Some((extent.into_kept(), bundle))
    }

    /// As [`Aperture::claim_bundle`], up to this many slots that are free where the processor was
    /// served last.
    pub(crate) fn claim_scattered(
        &self,
        most: usize,
        reach: u64,
    ) -> Option<(Kept<'_, Extent>, Bundle)> {
        let extent = self.at_hand(reach)?;
        let bundle = extent.claim_scattered(most)?;
        Some((extent.into_kept(), bundle))
    }

    /// A device's limits, to which a bounce keeps; one in pages of its own keeps its place in them, too.
    pub(crate) fn kept(&self, limits: Limits) -> Limits {
        if self.care.isolate {
            limits.keeping_page()
        } else {
            limits
        }
    }

    /// Claims a run for a mapping and records it.  Any context.
    #[inline]
    pub(crate) fn claim(
        &self,
        phys: Phys,
        size: usize,
        limits: &Limits,
        owner: Owner,
    ) -> Result<(Reading<'_, Extent>, Record), NoRoom> {
        if self.care.isolate {
            return self.claim_as(phys, size, limits, owner, |extent| {
                Request::pages_for_mapping(extent.region.base(), phys, size, limits)
            });
        }
        self.claim_as(phys, size, limits, owner, |extent| {
            extent.request(phys, size, limits)
        })
    }

    /// Claims a naturally aligned run of whole pages for coherent memory.  Any context.
    pub(crate) fn claim_aligned(
        &self,
        size: usize,
        limits: &Limits,
        owner: Owner,
    ) -> Result<(Reading<'_, Extent>, Record), NoRoom> {
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
    ) -> Result<(Reading<'_, Extent>, Record), NoRoom> {
        let reach = limits.reach();
        // CAST: Only places, and the one behind the last, are stored.
        let ordinary = ORDINARY.start..self.end.load() as u8;
        let narrow = NARROW.take(if reach < ORDINARY_REACH {
            usize::MAX
        } else {
            0
        });
        let mut why = NoRoom::Unreachable;
        for place in Iterator::chain(ordinary, narrow) {
            let Some(extent) = self.extents.read(place) else {
                continue;
            };
            if !extent.reached(reach) {
                continue;
            }
            // One of those without room was asked, which knows why, unless it was too small.
            if why != NoRoom::Unreachable && size <= MIN_EXTENT / 2 && extent.slots.is_full() {
                if why == NoRoom::TooLarge {
                    why = NoRoom::Full;
                }
                continue;
            }
            match request(&extent).and_then(|request| extent.claim(&request, phys, size, owner)) {
                Ok(record) => {
                    if ORDINARY.contains(&place) && !self.care.any() {
                        self.near.set(0, u64::from(place));
                    }
                    return Ok((extent, record));
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
}

/// Obtains regions of so many pages, the largest first, and makes one of those that lie side by side.
///
/// Returns them, the lowest first, and how many pages are missing.  May sleep.
fn obtain(pages: usize) -> Result<(KVec<Region>, usize)> {
    let mut regions = KVec::new();
    let (mut missing, mut order) = (pages, MAX_ORDER);
    while missing > 0 && order >= MIN_ORDER {
        // There are no more places than these.
        if regions.len() == ORDINARY.len() && !join(&mut regions) {
            break;
        }
        order = order.min(missing.ilog2());
        match Region::new(order, ORDINARY_BITS, Way::Scattered) {
            Ok(region) => {
                regions.push(region, GFP_KERNEL)?;
                missing -= 1 << order;
            }
            Err(_) => order -= 1,
        }
    }
    join(&mut regions);
    Ok((regions, missing))
}

/// Joins regions to larger ones, again and again, up to the largest extent; tells whether any were.  Those
/// that cannot be for want of memory stay apart.  Sorts them.
///
/// Where Xen may give only so much at once, it gives the parts of a large free block one after another; and
/// what dom0 trades in may be just what lay between two parts.
fn join(regions: &mut KVec<Region>) -> bool {
    let before = regions.len();
    regions.sort_unstable_by_key(Region::base);
    let Ok(mut joined) = KVec::<Region>::with_capacity(before, GFP_KERNEL) else {
        return false;
    };
    // As a buddy allocator does: what was joined may be one half of something yet larger.
    for mut region in regions.drain_all() {
        while let Some(mut lower) = joined.pop() {
            let joint = if lower.size() < LARGEST {
                lower.join(region)
            } else {
                Err(region)
            };
            match joint {
                Ok(()) => region = lower,
                Err(same) => {
                    region = same;
                    let _ = joined.push_within_capacity(lower);
                    break;
                }
            }
        }
        let _ = joined.push_within_capacity(region);
    }
    *regions = joined;
    regions.len() < before
}

/// Shows the extents: `1 of 65536 KiB below 32 bits, 1 of 2048 KiB below 28 bits`.
pub(crate) struct Layout<'a>(pub(crate) &'a Aperture);

impl fmt::Display for Layout<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = self
            .0
            .each()
            .map(|e| (e.size() / 1024, e.bits()))
            .peekable();
        let mut comma = "";
        while let Some((kib, bits)) = kinds.next() {
            let mut count = 1;
            while kinds.next_if_eq(&(kib, bits)).is_some() {
                count += 1;
            }
            write!(f, "{comma}{count} of {kib} KiB below {bits} bits")?;
            comma = ", ";
        }
        Ok(())
    }
}
