// SPDX-License-Identifier: GPL-2.0

//! The ledger of slots notices what an allocator must not do.

use super::*;
use crate::ledger::Ledger;
use dma_core::Owner;

/// Bytes of a slot.
const SLOT: usize = SLOT_SIZE as usize;

#[kunit_tests(xen_dma_ledger)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_is_right() -> Result {
        let ledger = Ledger::new(128)?;
        let (one, two) = (Owner::new(0).ok_or(EINVAL)?, Owner::new(7).ok_or(EINVAL)?);
        for _ in 0..3 {
            check!(ledger.try_claim(0, 64 * SLOT, one).is_ok());
            check!(ledger.try_claim(64 * SLOT, 1, two).is_ok());
            check!(ledger.try_claim(65 * SLOT, 63 * SLOT, one).is_ok());
            check!(!ledger.is_clear());
            check!(ledger.try_free(64 * SLOT, SLOT, two).is_ok());
            check!(ledger.try_free(0, 64 * SLOT, one).is_ok());
            check!(ledger.try_free(65 * SLOT, 63 * SLOT, one).is_ok());
            check!(ledger.is_clear() && ledger.faults() == 0);
        }
        Ok(())
    }

    #[test]
    fn a_slot_claimed_twice_is_noticed() -> Result {
        let ledger = Ledger::new(128)?;
        let (one, two) = (Owner::new(0).ok_or(EINVAL)?, Owner::new(1).ok_or(EINVAL)?);
        check!(ledger.try_claim(8 * SLOT, 4 * SLOT, one).is_ok());
        // By the same owner, by another, at either end.
        let mut faults = 0;
        for owner in [one, two] {
            for (first, slots) in [(8, 4), (11, 2), (5, 4), (9, 1)] {
                let ledger_before = ledger.faults();
                check!(ledger.try_claim(first * SLOT, slots * SLOT, owner).is_err());
                check!(ledger.faults() == ledger_before + 1, "{first}+{slots}");
                faults += 1;
            }
        }
        check!(ledger.faults() == faults);
        Ok(())
    }

    #[test]
    fn a_foreign_free_is_noticed() -> Result {
        let (one, two) = (Owner::new(0).ok_or(EINVAL)?, Owner::new(1).ok_or(EINVAL)?);
        for (first, slots, owner) in [
            // Another's, nobody's, more than its own, and beyond the end.
            (8, 2, two),
            (0, 1, one),
            (8, 3, one),
            (7, 2, one),
            (126, 3, one),
            (usize::MAX / SLOT, 1, one),
        ] {
            let ledger = Ledger::new(128)?;
            check!(ledger.try_claim(8 * SLOT, 2 * SLOT, one).is_ok());
            check!(ledger.try_claim(126 * SLOT, 2 * SLOT, one).is_ok());
            check!(
                ledger.try_free(first * SLOT, slots * SLOT, owner).is_err(),
                "{first}+{slots}"
            );
            check!(ledger.faults() == 1, "{first}+{slots}");
        }
        Ok(())
    }

    #[test]
    fn mappings_are_entered() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-ledger", MASK_32, true)? else {
            return Ok(());
        };
        let buffer = Buffer::new(7)?;
        let (dir, attrs) = (Direction::TO_DEVICE, Attrs::NONE);
        let clear = || {
            let mut extents = bench.shared.aperture.each();
            extents.all(|extent| extent.ledger.is_clear())
        };
        // Carried, claimed, and beyond a chunk; then coherent memory of the aperture.
        for size in [1, 4096, 9000, 0x4_0001] {
            let at = client::map(bench.dev(), buffer.phys(), size, dir, attrs)?;
            check!(!clear(), "{size}");
            // Any slot of it is taken, as another claim would find.
            let extent = bench.shared.aperture.find(at).ok_or(ENXIO)?;
            let last = extent.offset(after(at, size - 1));
            let found = extent.ledger.holder(last);
            check!(
                found == extent.ledger.holder(extent.offset(at)) && found.is_some(),
                "{size}"
            );
            client::unmap(bench.dev(), at, size, dir, attrs);
            check!(clear(), "{size}");
        }
        bench.done()
    }
}
