// SPDX-License-Identifier: GPL-2.0

//! The pure logic, as the kernel's compiler and atomics make it.
//!
//! The host tests search far; these make sure that the same holds in the kernel build.

use crate::check::check;
use dma_core::{
    place,
    Bounces,
    ClaimError,
    Frame,
    Limits,
    Machine,
    Mfn,
    Misuse,
    Owner,
    P2m,
    Pfn,
    Phys,
    Placement,
    Reason,
    Refusal,
    Slots,
    SLOT_SIZE, //
};
use kernel::prelude::*;
use xen_dma::atomic::{
    Word,
    Words, //
};

fn bounces(forced: bool) -> Bounces {
    if forced {
        Bounces::FORCED
    } else {
        Bounces::AS_NEEDED
    }
}

/// A p2m with every kind of frame.
struct Fake;

impl P2m for Fake {
    fn frame(&self, pfn: Pfn) -> Frame {
        match pfn.raw() {
            n @ 0x10..0x14 => Frame::Local(Mfn::new(n + 0x10_0000)),
            0x14 => Frame::Local(Mfn::new(0x5000)),
            n @ 0x15..0x17 => Frame::Foreign(Mfn::new(n + 0x20_0000)),
            n @ 0x17..0x19 => Frame::Identity(Mfn::new(n)),
            n @ 0x20..0x22 => Frame::Local(Mfn::new(n - 0x20 + 0xf_ffff)),
            _ => Frame::Hole,
        }
    }
}

const ALL: u64 = u64::MAX;
const LOW: u64 = 0xffff_ffff;

const fn limits(mask: u64, boundary: u64, min_align: u64) -> Limits {
    Limits::new(mask, 0, boundary, min_align)
}

/// Buffer, size, limits, forced, and what is to be done.
const PLACES: [(u64, usize, Limits, bool, Placement); 17] = {
    use Placement::*;
    use Reason::*;
    use Refusal::*;
    const WIDE: Limits = limits(ALL, ALL, 0);
    const NARROW: Limits = limits(LOW, ALL, 0);
    [
        (
            0x1_0800,
            0x1000,
            WIDE,
            false,
            Direct(Machine::new(0x1_0001_0800)),
        ),
        (
            0x1_0000,
            0x4000,
            WIDE,
            false,
            Direct(Machine::new(0x1_0001_0000)),
        ),
        (0x1_0800, 0x1000, NARROW, false, Bounce(Unreachable)),
        (0x1_3800, 0x1000, WIDE, false, Bounce(Discontiguous)),
        (
            0x1_4000,
            0x1000,
            NARROW,
            false,
            Direct(Machine::new(0x500_0000)),
        ),
        (
            0x1_5010,
            0x1ff0,
            WIDE,
            false,
            Direct(Machine::new(0x2_0001_5010)),
        ),
        (
            0x1_7000,
            0x2000,
            NARROW,
            false,
            Direct(Machine::new(0x1_7000)),
        ),
        (0x1_8800, 0x1000, WIDE, false, Refuse(Hole)),
        (0x1_9000, 1, WIDE, true, Refuse(Hole)),
        (
            0x2_0000,
            0x1000,
            NARROW,
            false,
            Direct(Machine::new(0xffff_f000)),
        ),
        (0x2_0000, 0x1001, NARROW, false, Bounce(Unreachable)),
        (
            0x2_0000,
            0x1001,
            limits(ALL, LOW, 0),
            false,
            Bounce(Boundary),
        ),
        (
            0x2_0000,
            0x1001,
            WIDE,
            false,
            Direct(Machine::new(0xffff_f000)),
        ),
        (
            0x1_4000,
            0x1000,
            limits(ALL, ALL, 0xffff),
            false,
            Bounce(Misaligned),
        ),
        (0x1_0000, 0, WIDE, false, Refuse(Empty)),
        (0xffff_ffff_ffff_f000, 0x2000, WIDE, false, Refuse(Wraps)),
        (0x1_0000, 1, WIDE, true, Bounce(Forced)),
    ]
};

/// Slots of the extent under test: 1 MiB.
const COUNT: usize = 512;
const BASE: Machine = Machine::new(0x1000_0000);
const ANY: Limits = limits(ALL, ALL, 0);

fn slots() -> Result<Slots<Word, Words>> {
    let words = Words::for_slots(COUNT)?;
    Slots::new(words, BASE, COUNT, 2).ok_or(EINVAL)
}

fn owner(number: u32) -> Result<Owner> {
    Owner::new(number).ok_or(EINVAL)
}

/// Claims and publishes; what a map does.
fn map(
    slots: &Slots<Word, Words>,
    phys: u64,
    size: usize,
    limits: &Limits,
    owner: Owner,
) -> Result<Machine, ClaimError> {
    let phys = Phys::new(phys);
    let run = slots.claim(&slots.request(phys, size, limits)?, 0)?;
    match slots.publish(run, phys, size, owner) {
        Ok(record) => Ok(record.start()),
        Err(run) => {
            slots.cancel(run);
            Err(ClaimError::Impossible)
        }
    }
}

/// Retires and frees; what an unmap does.
fn unmap(slots: &Slots<Word, Words>, at: Machine, owner: Owner) -> Result {
    let held = slots.retire(at, owner).map_err(|_| ENXIO)?;
    check!(slots.free(held) == 0);
    Ok(())
}

#[kunit_tests(xen_dma_core)]
mod tests {
    use super::*;

    #[test]
    fn place_decides_every_kind_of_frame() -> Result {
        for (phys, size, limits, force, expected) in PLACES {
            let placement = place(&Fake, Phys::new(phys), size, &limits, bounces(force));
            check!(
                placement == expected,
                "{phys:#x}+{size:#x}: {placement:?}, not {expected:?}"
            );
        }
        Ok(())
    }

    #[test]
    fn place_heeds_the_bus() -> Result {
        for (limit, expected) in [
            (0, Placement::Direct(Machine::new(0x500_0000))),
            (0x500_0fff, Placement::Direct(Machine::new(0x500_0000))),
            (0x500_0ffe, Placement::Bounce(Reason::Unreachable)),
        ] {
            let limits = Limits::new(ALL, limit, ALL, 0);
            let placement = place(&Fake, Phys::new(0x1_4000), 0x1000, &limits, bounces(false));
            check!(placement == expected, "limit {limit:#x}: {placement:?}");
        }
        Ok(())
    }

    #[test]
    fn device_memory_never_bounces() -> Result {
        for (phys, mask, force, expected) in [
            (
                0x1_7000,
                LOW,
                false,
                Placement::Direct(Machine::new(0x1_7000)),
            ),
            (
                0x1_7000,
                LOW,
                true,
                Placement::Direct(Machine::new(0x1_7000)),
            ),
            (
                0x1_7000,
                0xffff,
                false,
                Placement::Refuse(Refusal::DeviceMemory),
            ),
            (0x1_9000, LOW, false, Placement::Refuse(Refusal::Hole)),
        ] {
            let placement = place(
                &Fake,
                Phys::new(phys),
                0x1000,
                &limits(mask, ALL, 0),
                bounces(force),
            );
            check!(
                placement == expected,
                "{phys:#x}, mask {mask:#x}: {placement:?}"
            );
        }
        Ok(())
    }

    #[test]
    fn a_mapping_lives_once() -> Result {
        let (slots, mine) = (slots()?, owner(7)?);
        for size in [
            1, 2048, 2049, 4096, 0x1_0000, 0x2_0000, 0x2_0001, 0x8_0000, 0x10_0000,
        ] {
            let phys = 0x12_3456_7890;
            let at = map(&slots, phys, size, &ANY, mine).map_err(|_| ENOMEM)?;
            check!(
                slots.used() == size.div_ceil(SLOT_SIZE as usize),
                "size {size}"
            );

            let last = Machine::new(at.raw() + size as u64 - 1);
            let record = slots.find(last, mine).map_err(|_| ENXIO)?;
            check!(
                record.start() == at && record.size() == size as u64,
                "size {size}"
            );
            let part = record.part(last, 1);
            check!(
                part == Some(Phys::new(phys + size as u64 - 1)),
                "size {size}"
            );
            check!(record.part(last, 2).is_none(), "size {size}");

            unmap(&slots, at, mine)?;
            check!(
                matches!(slots.retire(at, mine), Err(Misuse::NotMapped)),
                "size {size}"
            );
            check!(
                matches!(slots.find(last, mine), Err(Misuse::NotMapped)),
                "size {size}"
            );
            check!(slots.is_idle() && slots.used() == 0, "size {size}");
        }
        Ok(())
    }

    #[test]
    fn misuse_is_refused() -> Result {
        let (slots, mine, other) = (slots()?, owner(1)?, owner(2)?);
        let at = map(&slots, 0x4000, 0x3000, &ANY, mine).map_err(|_| ENOMEM)?;
        let inner = Machine::new(at.raw() + 0x1000);
        let beyond = Machine::new(BASE.raw() + slots.size());

        check!(matches!(slots.retire(at, other), Err(Misuse::NotOwner { owner }) if owner == mine));
        check!(matches!(
            slots.find(inner, other),
            Err(Misuse::NotOwner { .. })
        ));
        check!(matches!(slots.retire(inner, mine), Err(Misuse::NotHead { head }) if head == at));
        check!(matches!(slots.find(beyond, mine), Err(Misuse::OutOfRange)));
        check!(matches!(
            slots.retire(Machine::new(0), mine),
            Err(Misuse::OutOfRange)
        ));

        check!(slots.used() == 6);
        unmap(&slots, at, mine)?;
        check!(slots.is_idle());
        Ok(())
    }

    #[test]
    fn every_slot_is_handed_out_once() -> Result {
        let (slots, mine) = (slots()?, owner(3)?);
        let mut given = KVec::with_capacity(COUNT, GFP_KERNEL)?;
        while given.len() <= COUNT {
            match map(&slots, 0x1000, 100, &ANY, mine) {
                Ok(at) => given.push(at, GFP_KERNEL)?,
                Err(error) => {
                    check!(error == ClaimError::Full, "{error:?}");
                    break;
                }
            }
        }
        check!(
            given.len() == COUNT && slots.used() == COUNT,
            "{}",
            given.len()
        );
        check!(slots.available() == 0);
        given.sort_unstable();
        check!(given.windows(2).all(|pair| pair[0] < pair[1]));

        // One hole of two slots serves one mapping of two.
        for index in [10, 11] {
            unmap(&slots, given[index], mine)?;
        }
        check!(map(&slots, 0x1000, 4097, &ANY, mine) == Err(ClaimError::Full));
        check!(map(&slots, 0x1000, 4096, &ANY, mine) == Ok(given[10]));
        check!(map(&slots, 0x1000, 1, &ANY, mine) == Err(ClaimError::Full));
        unmap(&slots, given[10], mine)?;

        for (index, &at) in given.iter().enumerate() {
            if ![10, 11].contains(&index) {
                unmap(&slots, at, mine)?;
            }
        }
        check!(slots.is_idle());
        Ok(())
    }

    #[test]
    fn size_alignment_and_boundary_are_kept() -> Result {
        let (slots, mine) = (slots()?, owner(4)?);
        let over = map(&slots, 0, 0x10_0001, &ANY, mine);
        check!(over == Err(ClaimError::TooLarge), "{over:?}");
        check!(map(&slots, 0, 0, &ANY, mine).is_err());

        for (phys, size, boundary, keep) in [
            (0x1_2345u64, 4096usize, ALL, 0xfffu64),
            (0x1_2345, 0x1_0000, ALL, 0xfff),
            (0x1_2a00, 0x3_0000, ALL, 0x7ff),
            (0x1_fff0, 100, ALL, 0xffff),
            (0x1_0000, 0x1_0000, 0xffff, 0),
            (0x1_0200, 0x8000, 0xffff, 0xfff),
        ] {
            let device = limits(ALL, boundary, keep);
            for _ in 0..3 {
                let at = map(&slots, phys, size, &device, mine).map_err(|_| ENOMEM)?;
                check!(
                    (at.raw() ^ phys) & keep == 0,
                    "{phys:#x}+{size:#x} at {:#x}",
                    at.raw()
                );
                let last = at.raw() + size as u64 - 1;
                check!(
                    (at.raw() ^ last) & !boundary == 0,
                    "{phys:#x}+{size:#x} at {:#x}",
                    at.raw()
                );
            }
            // Three of each stand side by side; all go before the next case.
            let seats = (0..COUNT as u64).map(|n| Machine::new(BASE.raw() + n * SLOT_SIZE));
            for seat in seats {
                for low in [0, phys & keep & (SLOT_SIZE - 1)] {
                    let at = Machine::new(seat.raw() + low);
                    if slots
                        .find(at, mine)
                        .is_ok_and(|record| record.start() == at)
                    {
                        unmap(&slots, at, mine)?;
                    }
                }
            }
            check!(
                slots.is_idle(),
                "{phys:#x}+{size:#x}: {} left",
                slots.used()
            );
        }
        Ok(())
    }

    #[test]
    fn a_run_unused_is_cancelled() -> Result {
        let slots = slots()?;
        let request = slots
            .request(Phys::new(0), 0x9000, &ANY)
            .map_err(|_| EINVAL)?;
        let run = slots.claim(&request, 1).map_err(|_| ENOMEM)?;
        check!(slots.used() == run.slots());
        let Err(run) = slots.publish(run, Phys::new(0), 1, owner(5)?) else {
            return Err(EINVAL);
        };
        check!(slots.cancel(run) == 0 && slots.is_idle());
        Ok(())
    }

    #[test]
    fn an_idle_extent_can_be_seized() -> Result {
        let (slots, mine) = (slots()?, owner(6)?);
        let at = map(&slots, 0, 1, &ANY, mine).map_err(|_| ENOMEM)?;
        check!(slots.seize().is_none());
        unmap(&slots, at, mine)?;
        let Some(seized) = slots.seize() else {
            return Err(EBUSY);
        };
        check!(map(&slots, 0, 1, &ANY, mine) == Err(ClaimError::Full));
        check!(slots.unseize(seized).is_ok());
        let at = map(&slots, 0, 1, &ANY, mine).map_err(|_| ENOMEM)?;
        unmap(&slots, at, mine)
    }
}
