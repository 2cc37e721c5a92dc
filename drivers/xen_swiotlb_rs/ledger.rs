// SPDX-License-Identifier: GPL-2.0

//! The ledger: who owns each slot, kept apart from the allocator to check it.
//!
//! DMA_API_DEBUG checks drivers, and nobody checks the allocator: if it handed out a slot twice,
//! two mappings would overwrite each other's bytes, and nothing would say so.  With
//! `CONFIG_XEN_SWIOTLB_RS_LEDGER` each slot has a word with its owner.  A claim is noted after the
//! allocator made it and a release before the allocator hears of it, so that a slot that changes
//! hands rightly is nobody's in between.  Without the option nothing of this is left.
//!
//! A driver that ends a mapping while it is being made confuses the ledger: that is a bug, too.

#[cfg(CONFIG_XEN_SWIOTLB_RS_LEDGER)]
pub(crate) use kept::Ledger;

#[cfg(CONFIG_XEN_SWIOTLB_RS_LEDGER)]
mod kept {
    use core::fmt;
    use dma_core::{
        Owner,
        SLOT_SIZE, //
    };
    use kernel::{
        prelude::*,
        sync::atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        warn_on, //
    };

    /// Whose a slot is.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Holder(u32);

    impl Holder {
        const NOBODY: Self = Self(0);

        fn new(owner: Owner) -> Self {
            // An owner's number has few bits.
            Self(owner.raw() + 1)
        }
    }

    impl fmt::Display for Holder {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.0 {
                0 => write!(f, "nobody"),
                number => write!(f, "owner {}", number - 1),
            }
        }
    }

    /// The first slot of a run that was not its giver's.
    pub(crate) struct Fault {
        slot: usize,
        expected: Holder,
        /// [`None`]: there is no such slot.
        found: Option<Holder>,
    }

    impl fmt::Display for Fault {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let (slot, expected) = (self.slot, self.expected);
            match self.found {
                Some(found) => write!(f, "slot {slot} is held by {found}, not by {expected}"),
                None => write!(f, "there is no slot {slot}"),
            }
        }
    }

    /// The owners of an extent's slots.
    pub(crate) struct Ledger {
        holders: KVVec<Atomic<u32>>,
        faults: Atomic<u32>,
    }

    impl Ledger {
        /// All slots are nobody's.  May sleep.
        pub(crate) fn new(slots: usize) -> Result<Self> {
            let mut holders = KVVec::with_capacity(slots, GFP_KERNEL)?;
            for _ in 0..slots {
                holders.push(Atomic::new(Holder::NOBODY.0), GFP_KERNEL)?;
            }
            Ok(Self {
                holders,
                faults: Atomic::new(0),
            })
        }

        /// Notes that the slots of so many bytes were claimed.  Warns unless they were nobody's.  Any
        /// context.
        pub(crate) fn claim(&self, offset: usize, size: usize, owner: Owner) {
            warn(self.try_claim(offset, size, owner));
        }

        /// Notes that slots are about to be freed.  Warns unless they were the owner's.  Any context.
        pub(crate) fn free(&self, offset: usize, size: usize, owner: Owner) {
            warn(self.try_free(offset, size, owner));
        }

        /// As [`Ledger::claim`], but counts only.
        pub(crate) fn try_claim(&self, at: usize, size: usize, owner: Owner) -> Result<(), Fault> {
            self.pass(at, size, Holder::NOBODY, Holder::new(owner))
        }

        /// As [`Ledger::free`], but counts only.
        pub(crate) fn try_free(&self, at: usize, size: usize, owner: Owner) -> Result<(), Fault> {
            self.pass(at, size, Holder::new(owner), Holder::NOBODY)
        }

        /// Runs that were not their giver's, so far.
        #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
        pub(crate) fn faults(&self) -> u32 {
            self.faults.load(Relaxed)
        }

        /// The number of the owner of the slot at this offset in bytes, if it has one.
        #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
        pub(crate) fn holder(&self, offset: usize) -> Option<u32> {
            let holder = self.holders.get(offset / SLOT_SIZE as usize)?;
            holder.load(Relaxed).checked_sub(1)
        }

        /// Is every slot nobody's?
        #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
        pub(crate) fn is_clear(&self) -> bool {
            self.holders
                .iter()
                .all(|holder| holder.load(Relaxed) == Holder::NOBODY.0)
        }

        fn pass(&self, at: usize, size: usize, from: Holder, to: Holder) -> Result<(), Fault> {
            let slot_of = |at: usize| at / SLOT_SIZE as usize;
            let last = at.saturating_add(size).saturating_sub(1);
            let mut fault = None;
            for slot in slot_of(at)..=slot_of(last) {
                // All of the run changes hands, so that one fault is said once.
                let found = self.holders.get(slot);
                let found = found.map(|holder| Holder(holder.xchg(to.0, Full)));
                if found != Some(from) && fault.is_none() {
                    fault = Some(Fault {
                        slot,
                        expected: from,
                        found,
                    });
                }
            }
            match fault {
                None => Ok(()),
                Some(fault) => {
                    self.faults.fetch_add(1, Relaxed);
                    Err(fault)
                }
            }
        }
    }

    /// Shows where a fault was noticed, and which.
    fn warn(outcome: Result<(), Fault>) {
        if let Err(fault) = outcome {
            pr_err!("ledger: {}\n", format_args!("{fault}"));
            warn_on!(true);
        }
    }
}

/// Stands for a ledger where none is kept.
#[cfg(not(CONFIG_XEN_SWIOTLB_RS_LEDGER))]
pub(crate) struct Ledger;

#[cfg(not(CONFIG_XEN_SWIOTLB_RS_LEDGER))]
impl Ledger {
    pub(crate) fn new(_slots: usize) -> kernel::error::Result<Self> {
        Ok(Self)
    }

    #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
    pub(crate) fn faults(&self) -> u32 {
        0
    }

    #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
    pub(crate) fn is_clear(&self) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn claim(&self, _offset: usize, _size: usize, _owner: dma_core::Owner) {}

    #[inline(always)]
    pub(crate) fn free(&self, _offset: usize, _size: usize, _owner: dma_core::Owner) {}
}
