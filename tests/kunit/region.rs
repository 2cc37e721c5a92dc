// SPDX-License-Identifier: GPL-2.0

//! Regions: memory that is traded with Xen, and comes back.

use crate::check::check;
use dma_core::Phys;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client::Buffer,
    p2m::Domain,
    region::{
        traded_pages,
        Region,
        Way, //
    },
    Context,
    Node, //
};

/// Every way to get an extent.  Only code that is built in can link the kernel's own.
pub(crate) const WAYS: &[Way] = &[
    Way::Scattered,
    Way::Neighbours,
    #[cfg(not(MODULE))]
    Way::Linked,
];

/// Bytes that are looked at in one go.
const PIECE_ORDER: u32 = 4;

pub(crate) fn pv() -> bool {
    Domain::current() == Domain::Pv
}

/// A byte that depends on where it stands, and on whose it is.
pub(crate) fn pattern(seed: usize, index: usize) -> u8 {
    (index ^ (index >> 8) ^ (index >> 16))
        .wrapping_add(seed)
        .wrapping_mul(167) as u8
}

/// Writes its pattern over a whole region.
pub(crate) fn write(region: &Region, seed: usize) -> Result {
    let mut piece = Buffer::new(PIECE_ORDER)?;
    for start in (0..region.size()).step_by(piece.size()) {
        let size = piece.size().min(region.size() - start);
        piece.fill(0, size, |index| pattern(seed, start + index));
        check!(region.copy_in(start, piece.phys(), size), "at {start:#x}");
    }
    Ok(())
}

/// Whether each byte of a region is what `expected` says.
pub(crate) fn verify(region: &Region, expected: impl Fn(usize) -> u8) -> Result {
    let mut piece = Buffer::new(PIECE_ORDER)?;
    for start in (0..region.size()).step_by(piece.size()) {
        let size = piece.size().min(region.size() - start);
        piece.fill(0, size, |_| 0xa5);
        check!(region.copy_out(start, piece.phys(), size), "at {start:#x}");
        // The edges of each page, and some of the rest, for time's sake.
        for index in (0..size).filter(|i| i % 61 == 0 || matches!(i % PAGE_SIZE, 0 | 4095)) {
            let (found, wanted) = (piece.byte(index), expected(start + index));
            check!(
                found == wanted,
                "at {:#x}: {found:#x}, not {wanted:#x}",
                start + index
            );
        }
    }
    Ok(())
}

/// Takes a region and looks at everything that is promised of it.
fn take(order: u32, bits: u32, way: Way) -> Result<Region> {
    let region = Region::new(order, bits, way)
        .inspect_err(|error| pr_err!("order {order}, {bits} bits, {way:?}: {error:?}\n"))?;
    let (base, size) = (region.base().raw(), region.size() as u64);
    check!(size == (PAGE_SIZE as u64) << order);
    check!(
        base & (size - 1) == 0,
        "order {order}, {bits} bits, {way:?}: {base:#x}"
    );
    check!(
        (base + size - 1) >> bits == 0,
        "order {order}, {bits} bits, {way:?}: {base:#x}"
    );
    verify(&region, |_| 0)?;
    Ok(region)
}

fn round_trips(way: Way, orders: &[u32]) -> Result {
    let before = traded_pages();
    for &order in orders {
        for bits in [32, 28] {
            let region = take(order, bits, way)?;
            write(&region, order as usize)?;
            verify(&region, |index| pattern(order as usize, index))?;
            check!(region.first_page().is_some() == (way != Way::Scattered));
        }
    }
    balanced(before)
}

/// Whether Xen got back as many frames as it gave since `before`.
pub(crate) fn balanced(before: (u64, u64)) -> Result {
    let now = traded_pages();
    let (taken, returned) = (now.0 - before.0, now.1 - before.1);
    check!(taken == returned, "{taken} taken, {returned} returned");
    Ok(())
}

#[kunit_tests(xen_dma_region)]
mod tests {
    use super::*;

    #[test]
    fn scattered_pages_become_an_extent() -> Result {
        if !pv() {
            return Ok(());
        }
        round_trips(Way::Scattered, &[0, 1, 6, 9, 11])
    }

    #[test]
    fn neighbours_become_an_extent() -> Result {
        if !pv() {
            return Ok(());
        }
        round_trips(Way::Neighbours, &[0, 1, 6, 9])
    }

    #[test]
    #[cfg(not(MODULE))]
    fn the_kernels_own_way_is_as_good() -> Result {
        if !pv() {
            return Ok(());
        }
        round_trips(Way::Linked, &[0, 1, 6, 9])
    }

    #[test]
    fn regions_are_apart() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = traded_pages();
        {
            let ways = WAYS;
            let mut regions = KVec::new();
            for (seed, way) in ways.iter().cycle().take(9).enumerate() {
                let region = take(5, 32, *way)?;
                write(&region, seed)?;
                regions.push((seed, region), GFP_KERNEL)?;
            }
            // Others come and go; these keep their bytes.
            regions.retain(|(seed, _)| *seed % 2 == 0);
            for order in [0, 3, 7] {
                write(&take(order, 32, Way::Scattered)?, 99)?;
            }
            for (seed, region) in regions.iter() {
                verify(region, |index| pattern(*seed, index))?;
            }
        }
        balanced(before)
    }

    #[test]
    fn any_bytes_can_be_copied() -> Result {
        if !pv() {
            return Ok(());
        }
        let region = take(3, 32, Way::Scattered)?;
        let (mut from, mut to) = (Buffer::new(3)?, Buffer::new(3)?);
        let all = region.size();
        from.fill(0, all, |index| pattern(1, index));
        for (at, offset, size) in [
            (0, 0, 1),
            (1, 3, 1),
            (4095, 0, 2),
            (4093, 4090, 4100),
            (2047, 5, 0x3001),
            (7, 1, 0x6fff),
            (all - 1, all - 1, 1),
            (0, 0, all),
        ] {
            region.clear_range(0, all);
            to.fill(0, all, |_| 0x77);
            let phys = |buffer: &Buffer| Phys::new(buffer.phys().raw() + offset as u64);
            check!(region.copy_in(at, phys(&from), size), "{at}+{size}");
            check!(region.copy_out(at, phys(&to), size), "{at}+{size}");
            for index in 0..all {
                let copied = (offset..offset + size).contains(&index);
                let wanted = if copied { pattern(1, index) } else { 0x77 };
                check!(to.byte(index) == wanted, "{at}+{size}: byte {index}");
            }
            // And the bytes beside them are still clear.
            check!(region.copy_out(0, to.phys(), all));
            for index in (0..all).filter(|index| !(at..at + size).contains(index)) {
                check!(
                    to.byte(index) == 0,
                    "{at}+{size}: byte {index} of the region"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn what_lies_outside_is_refused() -> Result {
        if !pv() {
            return Ok(());
        }
        let region = take(1, 32, Way::Scattered)?;
        let mut buffer = Buffer::new(2)?;
        let all = region.size();
        write(&region, 3)?;
        buffer.fill(0, buffer.size(), |_| 0x11);
        for (at, size) in [
            (0, all + 1),
            (1, all),
            (all, 1),
            (all + 1, 0),
            (usize::MAX, 1),
            (usize::MAX, 2),
            (1, usize::MAX),
            (0, usize::MAX),
        ] {
            check!(
                !region.copy_in(at, buffer.phys(), size),
                "{at:#x}+{size:#x}"
            );
            check!(
                !region.copy_out(at, buffer.phys(), size),
                "{at:#x}+{size:#x}"
            );
            region.clear_range(at, size);
        }
        for phys in [u64::MAX, u64::MAX - 4095, 1 << 52, 1 << 46] {
            check!(!region.copy_in(0, Phys::new(phys), 16), "{phys:#x}");
            check!(!region.copy_out(0, Phys::new(phys), 16), "{phys:#x}");
        }
        check!(region.at(all).is_none() && region.at(all - 1).is_some());
        verify(&region, |index| pattern(3, index))?;
        check!((0..buffer.size()).all(|index| buffer.byte(index) == 0x11));
        Ok(())
    }

    #[test]
    fn what_xen_lacks_is_refused() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = traded_pages();
        let mut bystander = Buffer::new(4)?;
        bystander.fill(0, bystander.size(), |index| pattern(5, index));
        for &way in WAYS {
            for bits in [0, 1, 12, 13, 14, 16] {
                for order in [0, 2, 5] {
                    // Frame 0 and its neighbours are never free, and 2^16 bytes have 16 frames.
                    let refused = Region::new(order, bits, way).err();
                    check!(
                        refused == Some(ENOMEM),
                        "order {order}, {bits} bits, {way:?}: {refused:?}"
                    );
                }
            }
        }
        // More than the host has, and more than the page allocator gives.
        check!(Region::new(12, 24, Way::Scattered).err() == Some(ENOMEM));
        check!(Region::new(11, 32, Way::Neighbours).err() == Some(ENOMEM));
        check!(Region::new(64, 32, Way::Scattered).is_err());
        check!(Region::new(64, 32, Way::Neighbours).is_err());
        check!(traded_pages() == before);

        // The memory that was offered is in use again, and works.
        let mut buffers = KVec::new();
        for seed in 0..32 {
            let mut buffer = Buffer::new(2)?;
            buffer.fill(0, buffer.size(), |index| pattern(seed, index));
            buffers.push(buffer, GFP_KERNEL)?;
        }
        for (seed, buffer) in buffers.iter().enumerate() {
            check!((0..buffer.size()).all(|index| buffer.byte(index) == pattern(seed, index)));
        }
        check!((0..bystander.size()).all(|index| bystander.byte(index) == pattern(5, index)));
        drop(take(2, 32, Way::Scattered)?);
        balanced(before)
    }

    #[test]
    fn regions_come_and_go() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = traded_pages();
        let ways = WAYS;
        for (round, way) in ways.iter().cycle().take(96).enumerate() {
            let region = Region::new(round as u32 % 5, 32, *way)?;
            region.clear_range(0, region.size());
        }
        balanced(before)
    }

    #[test]
    fn memory_that_fits_costs_nothing() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = traded_pages();
        for context in [Context::Sleepable, Context::Atomic] {
            let region = Region::fitting(0, 64, Node::ANY, context)?;
            check!(region.ends_atomically() && region.first_page().is_some());
            verify(&region, |_| 0)?;
        }
        // Neither is it traded when asked for by the way of exchange.
        drop(Region::new(0, 64, Way::Scattered)?);
        check!(traded_pages() == before);
        Ok(())
    }

    #[test]
    fn a_node_is_a_wish() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = traded_pages();
        // The host has node 0 alone, and some of these nobody could have.
        for node in [-1, 0, 1, 63, 254, 255, 1 << 20, i32::MAX, i32::MIN] {
            for &way in WAYS {
                let region = Region::near(Node::from_raw(node), 4, 28, way)
                    .inspect_err(|error| pr_err!("node {node}, {way:?}: {error:?}\n"))?;
                check!(region.last().raw() >> 28 == 0, "node {node}, {way:?}");
                verify(&region, |_| 0)?;
            }
            drop(Region::fitting(
                0,
                64,
                Node::from_raw(node),
                Context::Atomic,
            )?);
        }
        balanced(before)
    }
}
