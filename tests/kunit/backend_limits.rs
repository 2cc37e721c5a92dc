// SPDX-License-Identifier: GPL-2.0

//! Limits of a device, and what is beyond them.

use super::*;
use crate::{
    aperture::MIN_ORDER,
    extent::{
        Extent,
        Kind, //
    }, //
};
use dma_core::CHUNK_SLOTS;
use xen_dma::fault::{
    self,
    Point, //
};

/// Larger mappings must leave a reserve to others.
const LARGE: usize = CHUNK_SLOTS * SLOT_SIZE as usize;

#[kunit_tests(xen_dma_limits)]
mod tests {
    use super::*;

    #[test]
    fn low_bits_are_kept() -> Result {
        let (mut buffer, mut scratch) = (Buffer::new(6)?, Buffer::new(6)?);
        for (mask, keep) in [
            (MASK_64, 511),
            (MASK_64, 0xfff),
            (MASK_32, 0x7ff),
            (MASK_28, 0xffff),
        ] {
            let Some(bench) = Bench::new(c"xen-dma-align", mask, true)? else {
                return Ok(());
            };
            bench.device.set_min_align(keep);
            for offset in [GUARD, 511, 2048, 4095, 4096 + 1234, 0x1_2345] {
                for size in [1, 512, 4096, 0x1_0000, 0x2_1234] {
                    // Where the mapping is, and its offset, `judge` knows.
                    travel(
                        &bench,
                        [&mut buffer, &mut scratch],
                        (offset, size),
                        Direction::FROM_DEVICE,
                    )
                    .inspect_err(|_| pr_err!("mask {mask:#x}, kept {keep:#x}\n"))?;
                }
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn no_mapping_crosses_the_boundary() -> Result {
        for (mask, boundary) in [
            (MASK_64, 0xffff),
            (MASK_32, 0xffff),
            (MASK_28, 0x1_ffff),
            (MASK_32, 0xfff),
        ] {
            let Some(bench) = Bench::new(c"xen-dma-boundary", mask, true)? else {
                return Ok(());
            };
            bench.device.set_boundary(boundary);
            // Slots lie elsewhere in Linux than in the machine: who judged by that would be wrong.
            let odd = |extent: &Region| {
                let places = (extent.base().raw()..).step_by(PAGE_SIZE);
                let mut pages = client::physical_pages(extent).zip(places);
                pages.any(|(page, place)| (page.raw() ^ place) & boundary != 0)
            };
            let layout = bench.shared.aperture.each().any(|e| odd(&e.region));
            check!(layout || boundary < PAGE_SIZE as u64, "{boundary:#x}");
            let buffer = Buffer::new(6)?;
            let dir = Direction::TO_DEVICE;
            let mut live = KVec::new();
            for round in 0..6 {
                for size in [1, 2048, 3000, 4096, 0x5000, 0xc001, 0x1_0000] {
                    let (phys, attrs) = (phys(&buffer, round * 1111), Attrs::NONE);
                    let at = client::map(bench.dev(), phys, size, dir, attrs)?;
                    let last = after(at, size - 1);
                    if size as u64 - 1 <= boundary {
                        check!(
                            (at.raw() ^ last.raw()) & !boundary == 0,
                            "{size} bytes at {at:?}"
                        );
                    }
                    check!(bench.judge(phys, size, at)?);
                    live.push((at, size), GFP_KERNEL)?;
                }
            }
            for &(at, size) in live.iter() {
                client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn a_bus_limits_as_a_mask_does() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-bus", MASK_64, false)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(2)?, Buffer::new(2)?);
        for limit in [MASK_32, MASK_28, 0] {
            bench.device.set_bus_limit(limit);
            // As drivers do: what the device reaches is known from then on.
            client::set_masks(bench.dev(), MASK_64)?;
            for dir in DIRECTIONS {
                travel(&bench, [&mut buffer, &mut scratch], (4000, 5000), dir)
                    .inspect_err(|_| pr_err!("bus limit {limit:#x}\n"))?;
            }
        }
        bench.done()
    }

    #[test]
    fn masks_are_served_truthfully() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-masks", MASK_64, true)? else {
            return Ok(());
        };
        check!(client::set_masks(bench.dev(), 0xfff) == Err(EIO));
        let (mut buffer, mut scratch) = (Buffer::new(2)?, Buffer::new(2)?);
        for bits in [
            63, 48, 40, 36, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 20, 16,
        ] {
            let mask = (1 << bits) - 1;
            if client::set_masks(bench.dev(), mask).is_err() {
                check!(bits < 28, "a mask of {bits} bits is refused");
                continue;
            }
            // A promise: mappings that must bounce work.
            travel(
                &bench,
                [&mut buffer, &mut scratch],
                (100, 9000),
                Direction::BIDIRECTIONAL,
            )
            .inspect_err(|_| pr_err!("a mask of {bits} bits\n"))?;
        }
        bench.done()
    }

    #[test]
    fn limits_are_true() -> Result {
        let buffer = Buffer::new(10)?;
        for (mask, keep) in [(MASK_64, 0), (MASK_32, 0xfff), (MASK_28, 0)] {
            let Some(bench) = Bench::new(c"xen-dma-limits", mask, true)? else {
                return Ok(());
            };
            bench.device.set_min_align(keep);
            check!(client::required_mask(bench.dev()) >= MASK_32);
            check!(client::required_mask(bench.dev()) >= xen_dma::p2m::top_of_memory().raw());
            check!(client::merge_boundary(bench.dev()) == 0);
            let most = client::max_mapping_size(bench.dev());
            check!(most > 0x4_0000, "{most}");
            check!(client::opt_mapping_size(bench.dev()) == most);
            let dir = Direction::TO_DEVICE;
            for offset in [0, 1, 4095] {
                let size = most.min(buffer.size() - offset);
                let at = client::map(bench.dev(), phys(&buffer, offset), size, dir, Attrs::NONE)?;
                check!(
                    bench.judge(phys(&buffer, offset), size, at)?,
                    "{offset}+{size}"
                );
                client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn a_full_aperture_recovers() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-full", MASK_32, true, 4)? else {
            return Ok(());
        };
        let (dir, buffer) = (Direction::TO_DEVICE, Buffer::new(6)?);
        let most = bench.shared.aperture.size();
        for size in [0x4_0000, 4096, 3 * SLOT_SIZE as usize] {
            let mut live = KVVec::new();
            while let Ok(at) = client::map(bench.dev(), buffer.phys(), size, dir, Attrs::NO_WARN) {
                live.push(at, GFP_KERNEL)?;
                check!(live.len() * size <= most, "{} of {size} bytes", live.len());
            }
            // Runs begin on pages, so that of each two pages one slot is lost to runs of three.
            check!(
                live.len() * size >= most / 4 * 3,
                "{} of {size} bytes",
                live.len()
            );
            live.sort_unstable();
            check!(live
                .windows(2)
                .all(|pair| pair[0].raw() + size as u64 <= pair[1].raw()));
            check!(bench.count(Event::Failure(Cause::Full)) > 0);
            for &at in live.iter() {
                client::unmap(bench.dev(), at, size, dir, Attrs::NO_WARN);
            }
            check!(bench.in_use() == 0, "{size} bytes");
        }
        check!(bench.shared.aperture.usage().1 > most as u64 / 10 * 9);
        bench.done()
    }

    #[test]
    fn large_mappings_leave_room_for_small_ones() -> Result {
        let Some(greedy) = Bench::new(c"xen-dma-greedy", MASK_32, true)? else {
            return Ok(());
        };
        let modest = Bench::beside(c"xen-dma-modest", MASK_32, true, greedy.shared.clone())?;
        let (dir, quiet) = (Direction::TO_DEVICE, Attrs::NO_WARN);
        let (block, mut page) = (Buffer::new(10)?, Buffer::new(0)?);
        let scratch = Buffer::new(0)?;
        cover(&mut page, 3);
        let all = greedy.shared.aperture.size();

        // Everything that can be had in large mappings, and what is left by those in smaller ones: the
        // largest that it may ask for first.
        let mut held = KVVec::new();
        let mut size = client::max_mapping_size(greedy.dev()).min(block.size());
        while size > LARGE {
            while let Ok(at) = client::map(greedy.dev(), block.phys(), size, dir, quiet) {
                held.push((at, size), GFP_KERNEL)?;
            }
            size /= 2;
        }
        let taken: usize = held.iter().map(|(_, size)| size).sum();
        check!(taken >= all / 4 * 3, "{taken} bytes of {all}");
        check!(greedy.count(Event::Failure(Cause::Full)) > 0);

        // An eighth is left to others, of whatever size up to the smallest.
        let mut live = KVVec::new();
        for _ in 0..all / 8 / PAGE_SIZE {
            let at = client::map(modest.dev(), page.phys(), PAGE_SIZE, dir, Attrs::NONE)?;
            live.push(at, GFP_KERNEL)?;
        }
        for &at in live.iter() {
            modest.peek(at, &scratch, 0, PAGE_SIZE)?;
            check!(shows(&scratch, 3, 0, PAGE_SIZE), "at {at:?}");
            client::unmap(modest.dev(), at, PAGE_SIZE, dir, Attrs::NONE);
        }
        check!(modest.backend().counters.failures() == 0);
        for _ in 0..all / 8 / LARGE {
            let at = client::map(modest.dev(), block.phys(), LARGE, dir, Attrs::NONE)?;
            held.push((at, LARGE), GFP_KERNEL)?;
        }
        for &(at, size) in held.iter() {
            let dev = if size == LARGE { &modest } else { &greedy };
            client::unmap(dev.dev(), at, size, dir, Attrs::NONE);
        }
        modest.done()?;
        greedy.done()
    }

    #[test]
    fn what_is_promised_fits_wherever_it_begins() -> Result {
        for isolate in [false, true] {
            let care = Care {
                isolate,
                ..Care::NONE
            };
            let room = (1, Bounds::FIXED);
            let Some(bench) = Bench::careful(c"xen-dma-fits", MASK_32, true, room, care)? else {
                return Ok(());
            };
            let aperture = &bench.shared.aperture;
            let first = aperture.places().next().map(|(place, _)| place);
            aperture.add(Extent::new(MIN_ORDER, 32, Kind::Lasting)?)?;
            check!(first.is_some_and(|place| aperture.remove(place).is_some()));

            let (dir, none) = (Direction::TO_DEVICE, Attrs::NONE);
            let block = Buffer::new(MIN_ORDER)?;
            for keep in [0, 0x1ff, 0xfff] {
                bench.device.set_min_align(keep);
                let most = client::max_mapping_size(bench.dev());
                check!(most >= (PAGE_SIZE << MIN_ORDER) / 2 - PAGE_SIZE);
                for offset in [0, 1, 0x200, 2047, 4095] {
                    let at = client::map(bench.dev(), phys(&block, offset), most, dir, none)?;
                    client::unmap(bench.dev(), at, most, dir, none);
                }
            }
            bench.done()?;
        }
        Ok(())
    }

    /// A small extent is in the way: what is too large for it fits into the other one, later.
    #[test]
    fn what_fits_into_a_full_extent_may_come_again() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-sizes", MASK_32, true, 1)? else {
            return Ok(());
        };
        bench.device.set_min_align(0xfff);
        let aperture = &bench.shared.aperture;
        let first = aperture.places().next().map(|(place, _)| place);
        for order in [MIN_ORDER, MIN_ORDER + 2] {
            aperture.add(Extent::new(order, 32, Kind::Lasting)?)?;
        }
        check!(first.is_some_and(|place| aperture.remove(place).is_some()));

        let (dir, quiet) = (Direction::TO_DEVICE, Attrs::NO_WARN);
        let (block, size) = (Buffer::new(6)?, (PAGE_SIZE << MIN_ORDER) / 2);
        let large = || client::map(bench.dev(), phys(&block, 0x200), size, dir, quiet);
        let at = large()?;
        client::unmap(bench.dev(), at, size, dir, quiet);
        let mut live = KVVec::new();
        while let Ok(at) = client::map(bench.dev(), block.phys(), PAGE_SIZE, dir, quiet) {
            live.push(at, GFP_KERNEL)?;
        }
        let full = bench.count(Event::Failure(Cause::Full));
        check!(large().is_err());
        check!(bench.count(Event::Failure(Cause::Full)) == full + 1);
        check!(bench.count(Event::Failure(Cause::TooLarge)) == 0);
        for &at in live.iter() {
            client::unmap(bench.dev(), at, PAGE_SIZE, dir, quiet);
        }
        let at = large()?;
        client::unmap(bench.dev(), at, size, dir, quiet);
        bench.done()
    }

    /// A driver that is refused a piece of its request gives the others back and asks again, for ever.
    #[test]
    fn pieces_of_a_request_have_room_in_the_end() -> Result {
        const KIB: usize = 1024;
        const REQUESTS: [&[usize]; 4] = [
            &[64 * KIB, 448 * KIB],
            &[72 * KIB, 116 * KIB, 324 * KIB],
            &[72 * KIB, 72 * KIB, 72 * KIB, 296 * KIB],
            &[4 * KIB, 124 * KIB, 384 * KIB],
        ];
        /// Chunks of an aperture of a megabyte, which is one extent.
        const CHUNKS: usize = (1 << 20) / LARGE;
        /// More than there are processors that may go on in between.
        const TRIES: usize = 8;

        let Some(bench) = Bench::with(c"xen-dma-pieces", MASK_32, true, 1)? else {
            return Ok(());
        };
        let (dir, quiet) = (Direction::TO_DEVICE, Attrs::NO_WARN);
        let buffer = Buffer::new(7)?;
        let map = |size| client::map(bench.dev(), buffer.phys(), size, dir, quiet);
        let unmap = |at, size| client::unmap(bench.dev(), at, size, dir, Attrs::NONE);

        for last in 0..CHUNKS {
            // The processor is led to one chunk after the other: only there is room for a page.
            let lead = || -> Result {
                let (mut here, mut elsewhere) = (KVec::new(), KVec::new());
                while let Ok(at) = map(PAGE_SIZE) {
                    let is_here = at.raw() as usize / LARGE % CHUNKS == last;
                    let kept = if is_here { &mut here } else { &mut elsewhere };
                    kept.push(at, GFP_KERNEL)?;
                }
                check!(!here.is_empty());
                here.into_iter().for_each(|at| unmap(at, PAGE_SIZE));
                elsewhere.push(map(PAGE_SIZE)?, GFP_KERNEL)?;
                elsewhere.into_iter().for_each(|at| unmap(at, PAGE_SIZE));
                Ok(())
            };
            for pieces in REQUESTS {
                lead()?;
                let served = (0..TRIES).find(|_| {
                    let mut held = [None; 4];
                    let mut tried = Iterator::zip(held.iter_mut(), pieces);
                    let all = tried.all(|(held, size)| {
                        *held = map(*size).ok().map(|at| (at, *size));
                        held.is_some()
                    });
                    held.into_iter()
                        .flatten()
                        .for_each(|(at, size)| unmap(at, size));
                    all
                });
                check!(served.is_some(), "{pieces:?} after chunk {last}");
            }
        }
        bench.done()
    }

    #[test]
    fn extents_side_by_side_are_one() -> Result {
        const MEGABYTES: u32 = 4;
        const SIZE: usize = (MEGABYTES as usize) << 20;

        let (mut buffer, mut scratch) = (Buffer::new(10)?, Buffer::new(10)?);
        let (mut benches, mut odd, mut joined) = (KVec::new(), KVec::new(), 0);
        for name in [c"xen-dma-joined", c"xen-dma-joined-2", c"xen-dma-joined-3"] {
            // Xen refuses the whole, and then gives halves of what it has in one piece.
            fault::fail_nth(Point::Exchange, 1);
            let bench = Bench::with(name, MASK_32, true, MEGABYTES);
            let refused = fault::stop(Point::Exchange);
            let Some(bench) = bench? else {
                return Ok(());
            };
            check!(refused && bench.shared.aperture.size() == SIZE);
            let ends = || {
                bench
                    .shared
                    .aperture
                    .each()
                    .map(|e| (e.region.base().raw(), e.size()))
            };
            let count = ends().count();
            for (base, size) in ends() {
                let could = |(next, other): (u64, usize)| {
                    let size = size as u64;
                    next == base + size && other as u64 == size && base % (2 * size) == 0
                };
                check!(!ends().any(could), "{count} extents");
            }
            if count == 1 {
                joined += 1;
                // More than half of it is larger than either half.
                let limits = device::limits(bench.dev());
                check!(bench.shared.aperture.largest(&limits) == SIZE);
                check!(client::max_mapping_size(bench.dev()) == SIZE / 2);
                let at = (GUARD, SIZE / 4 * 3);
                travel(
                    &bench,
                    [&mut buffer, &mut scratch],
                    at,
                    Direction::BIDIRECTIONAL,
                )?;
            }
            benches.push(bench, GFP_KERNEL)?;
            // If this time they came from two blocks, the next time they come from one.
            odd.push(Region::new(9, 32, Way::Scattered)?, GFP_KERNEL)?;
        }
        check!(joined > 0, "no two halves were one");
        benches.iter().try_for_each(Bench::done)
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-refuse", MASK_32, true, 2)? else {
            return Ok(());
        };
        let (dev, backend, buffer) = (bench.dev(), bench.backend(), Buffer::new(10)?);
        let end = Phys::new(u64::MAX - 4095);
        for (phys, size, cause) in [
            (buffer.phys(), 0, Cause::Empty),
            (end, 8192, Cause::Wraps),
            (buffer.phys(), usize::MAX, Cause::Wraps),
            (buffer.phys(), buffer.size(), Cause::TooLarge),
        ] {
            let event = Event::Failure(cause);
            let before = bench.count(event);
            for dir in DIRECTIONS {
                let mapped = backend.map(dev, phys, size, dir, Attrs::NO_WARN);
                check!(mapped.is_err(), "{cause:?}: {mapped:?}");
            }
            check!(bench.count(event) == before + 3, "{cause:?}");
        }
        for size in [0, usize::MAX, usize::MAX / 2 + 2, 1 << 40] {
            for context in [Context::Sleepable, Context::Atomic] {
                check!(
                    backend.alloc(dev, size, context, Attrs::NO_WARN).is_err(),
                    "{size}"
                );
            }
            let pages = backend.alloc_pages(dev, size, Direction::TO_DEVICE, Context::Sleepable);
            check!(pages.is_err(), "{size}");
        }
        bench.done()
    }

    #[test]
    fn device_memory_is_mapped_as_it_is() -> Result {
        // The registers of an interrupt controller.
        let registers = Pfn::new(0xfee00).start();
        for (mask, served) in [(MASK_64, true), (MASK_32, true), (MASK_28, false)] {
            let Some(bench) = Bench::new(c"xen-dma-mmio", mask, true)? else {
                return Ok(());
            };
            let (dev, backend) = (bench.dev(), bench.backend());
            let dir = Direction::BIDIRECTIONAL;
            let quiet = Attrs::NO_WARN;
            // It is never copied, even if bounces are forced, and whether its kind is told or not.
            for attrs in [Attrs::MMIO.with(quiet), quiet] {
                let mapped = backend.map(dev, registers, 4096, dir, attrs);
                if served {
                    check!(mapped == Ok(Machine::new(registers.raw())), "{mapped:?}");
                    backend.unmap(dev, Machine::new(registers.raw()), 4096, dir, attrs);
                } else {
                    check!(mapped.is_err(), "{mapped:?}");
                }
            }
            check!(bench.count(Event::Failure(Cause::PeerMemory)) == 2 * u64::from(!served));
            bench.done()?;
        }
        Ok(())
    }
}
