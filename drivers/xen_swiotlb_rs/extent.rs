// SPDX-License-Identifier: GPL-2.0

//! One extent: machine-contiguous memory, who holds which of its slots, and where each processor
//! goes on.
//!
//! C: `struct io_tlb_pool`.

use crate::ledger::Ledger;
use dma_core::{
    AtomicWord,
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
    cpu::nr_cpu_ids,
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

/// Whom an extent is for, and how long it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// For devices of 32 bits and more, as long as the driver is loaded.
    Lasting,
    /// As above, until it has been idle for a while.
    Spare,
    /// For devices that reach less, of so many bits: as long as there is such a device.
    Narrow(u32),
}

/// One extent and the allocator of its slots.
pub(crate) struct Extent {
    pub(crate) region: Region,
    pub(crate) slots: Slots<Word, Words>,
    pub(crate) kind: Kind,
    /// The last machine address.
    last: u64,
    /// The chunk where each processor was served last.
    near: PerCpu<1>,
    /// When it was first seen idle after something had been in use, plus one; or 0.
    idle_since: Word,
    /// Who owns each slot, if that is kept.
    pub(crate) ledger: Ledger,
}

impl Extent {
    /// Obtains an extent of `1 << order` pages below `1 << bits`.  [`ENOMEM`] if there is none.  May
    /// sleep.
    pub(crate) fn new(order: u32, bits: u32, kind: Kind) -> Result<Self> {
        Self::of(Region::new(order, bits, Way::Scattered)?, kind)
    }

    /// Makes an extent of a region, which goes back if memory is missing.  May sleep.
    pub(crate) fn of(region: Region, kind: Kind) -> Result<Self> {
        let count = region.size() / SLOT_SIZE as usize;
        let words = Words::for_slots(count)?;
        // CAST: Widens.
        let processors = nr_cpu_ids() as usize;
        let slots = Slots::new(words, region.base(), count, processors).ok_or(EINVAL)?;
        // Large mappings must not keep small ones waiting.
        let slots = slots.with_reserve();
        let mut near = PerCpu::new()?;
        near.fill(0, |cpu| slots.home(cpu) as u64);
        Ok(Self {
            last: region.base().raw() + region.size() as u64 - 1,
            region,
            slots,
            kind,
            near,
            idle_since: Word::new(0),
            ledger: Ledger::new(count)?,
        })
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.region.size()
    }

    /// How many bits the last machine address has.
    pub(crate) fn bits(&self) -> u32 {
        u64::BITS - self.last.leading_zeros()
    }

    /// Whether a device with this reach can use all of it.
    #[inline]
    pub(crate) fn reached(&self, reach: u64) -> bool {
        self.last <= reach
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

    /// The common case of [`Extent::claim`]: 1 to 4096 bytes on one page, of which no address bits
    /// are kept.  [`None`]: take the long way.  Any context.
    #[inline(always)]
    pub(crate) fn carry(&self, phys: Phys, size: usize, owner: Owner) -> Option<Machine> {
        let at = self.slots.carry(phys, size, owner, self.near())?;
        self.ledger.claim(self.offset(at), size, owner);
        Some(at)
    }

    /// Claims a run of this many slots for buffers of a list.  Any context.
    pub(crate) fn claim_bundle(&self, slots: usize) -> Option<Bundle> {
        let near = self.near();
        let bundle = self.slots.claim_bundle(slots, near)?;
        if slots <= CHUNK_SLOTS && bundle.chunk() != near {
            self.near.set(0, bundle.chunk() as u64);
        }
        Some(bundle)
    }

    /// As [`Extent::claim_bundle`], up to this many slots that are free where the processor was served
    /// last.
    pub(crate) fn claim_scattered(&self, most: usize) -> Option<Bundle> {
        self.slots.claim_scattered(most, self.near())
    }

    /// Claims a run for a mapping and records it.  Any context.
    pub(crate) fn claim(
        &self,
        request: &Request,
        phys: Phys,
        size: usize,
        owner: Owner,
    ) -> Result<Record, ClaimError> {
        let near = self.near();
        let run = self.slots.claim(request, near).inspect_err(|why| {
            // Who asks again shall find room from the bottom on.
            if *why == ClaimError::Full {
                self.near.set(0, 0);
            }
        })?;
        let (at, all) = (self.offset(run.start()), bytes(run.slots()));
        self.ledger.claim(at, all, owner);
        match self.slots.publish(run, phys, size, owner) {
            Ok(record) => {
                if record.is_small() && record.chunk() != near {
                    self.near.set(0, record.chunk() as u64);
                }
                Ok(record)
            }
            Err(run) => {
                self.ledger.free(at, all, owner);
                complain(self.slots.cancel(run));
                Err(ClaimError::Impossible)
            }
        }
    }

    /// What a mapping asks of the extent.
    #[inline]
    pub(crate) fn request(
        &self,
        phys: Phys,
        size: usize,
        limits: &Limits,
    ) -> Result<Request, ClaimError> {
        self.slots.request(phys, size, limits)
    }

    /// Frees the run of a mapping that was retired.  Any context.
    #[inline(always)]
    pub(crate) fn release(&self, held: Held) {
        self.note_end(&held);
        complain(self.slots.free(held));
    }

    /// Clears the run of a mapping that was retired.
    pub(crate) fn scrub(&self, held: &Held) {
        let run = self.offset(held.run());
        self.region.clear_range(run, bytes(held.slots()));
    }

    /// Notes that a run is about to be freed.
    #[inline]
    fn note_end(&self, held: &Held) {
        let (at, all) = (self.offset(held.run()), bytes(held.slots()));
        self.ledger.free(at, all, held.owner());
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        bytes(self.slots.used())
    }

    /// How long nothing of it has been in use, as far as this was asked, in the unit of `now`.
    pub(crate) fn idle_for(&self, now: i64) -> i64 {
        let since = if self.slots.is_idle() {
            match self.idle_since.load() {
                0 => now + 1,
                // CAST: Only times are stored.
                since => since as i64,
            }
        } else {
            0
        };
        // CAST: As above.
        self.idle_since.store(since as u64);
        if since == 0 {
            -1
        } else {
            now + 1 - since
        }
    }

    /// Whether so much of it is set apart that less than `percent` is left.  That may be far more than
    /// is in use; but to tell takes a few instructions.
    #[inline]
    pub(crate) fn is_low(&self, percent: usize) -> bool {
        let (all, apart) = (self.slots.slots(), self.slots.set_apart());
        all.saturating_sub(apart).saturating_mul(100) < all.saturating_mul(percent)
    }
}

/// The bytes of so many slots.
#[inline]
fn bytes(slots: usize) -> usize {
    // CAST: An extent has at most 2^30 bytes.
    slots.wrapping_mul(SLOT_SIZE as usize)
}

/// Says that slots were free before their release, if some were.
#[inline(always)]
pub(crate) fn complain(strays: usize) {
    if strays > 0 {
        complain_of(strays);
    }
}

#[cold]
#[inline(never)]
fn complain_of(strays: usize) {
    pr_err!("{strays} slots were free before their release; this is a bug of this driver\n");
}
