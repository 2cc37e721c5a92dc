// SPDX-License-Identifier: GPL-2.0

//! Coherent memory, and wrong calls.

use super::*;

#[kunit_tests(xen_dma_coherent)]
mod tests {
    use super::*;
    use xen_dma::{
        fault::{
            self,
            Point, //
        },
        ops::Coherent,
        region::traded_pages, //
    };

    /// Looks at everything that is promised of coherent memory, and leaves a pattern in it.
    fn inspect(bench: &Bench, scratch: &mut Buffer, memory: Coherent, ask: (usize, u64)) -> Result {
        let (size, mask) = ask;
        let (at, whole) = (memory.dma.raw(), size.next_multiple_of(PAGE_SIZE));
        let block = whole.next_power_of_two() as u64;
        check!(
            at & (block - 1) == 0,
            "{size} bytes, mask {mask:#x}: {at:#x}"
        );
        check!(
            at + whole as u64 - 1 <= mask,
            "{size} bytes, mask {mask:#x}: {at:#x}"
        );
        for start in (0..whole).step_by(scratch.size()) {
            let piece = scratch.size().min(whole - start);
            paint(scratch, 5, 0, piece);
            let to = scratch.phys();
            bench
                .backend()
                .with_coherent(memory.dma, size, |region, offset| {
                    check!(
                        start > 0 || client::is_contiguous(region),
                        "{size} bytes, mask {mask:#x}"
                    );
                    let at = region.base().raw() + offset as u64;
                    check!(at == memory.dma.raw() && region.at(offset) == Some(memory.cpu));
                    check!(region.copy_out(offset + start, to, piece));
                    Ok(())
                })?;
            let stale = (0..piece).find(|&index| scratch.byte(index) != 0);
            check!(
                stale.is_none(),
                "{size} bytes, mask {mask:#x}: byte {start}+{stale:?}"
            );
        }
        let listed = client::sgtable_bytes(bench.dev(), memory, size)?;
        check!(listed == size, "mask {mask:#x}: {listed} of {size} bytes");
        stamp(bench, scratch, memory, size, 6)
    }

    /// Writes the bytes of `seed`, piece by piece.
    fn stamp(
        bench: &Bench,
        scratch: &mut Buffer,
        memory: Coherent,
        size: usize,
        seed: usize,
    ) -> Result {
        let all = scratch.size();
        cover(scratch, seed);
        let from = scratch.phys();
        bench
            .backend()
            .with_coherent(memory.dma, size, |region, offset| {
                for start in (0..size).step_by(all) {
                    check!(region.copy_in(offset + start, from, all.min(size - start)));
                }
                Ok(())
            })
    }

    /// Whether the bytes are still those of `seed`.
    fn keeps(
        bench: &Bench,
        scratch: &mut Buffer,
        memory: Coherent,
        size: usize,
        seed: usize,
    ) -> Result {
        let all = scratch.size();
        let to = scratch.phys();
        for start in (0..size).step_by(all) {
            let piece = all.min(size - start);
            bench
                .backend()
                .with_coherent(memory.dma, size, |region, offset| {
                    check!(region.copy_out(offset + start, to, piece));
                    Ok(())
                })?;
            check!(shows(scratch, seed, 0, piece), "{size} bytes of {seed}");
        }
        Ok(())
    }

    fn get(bench: &Bench, size: usize) -> Result<Coherent> {
        client::alloc(bench.dev(), size, Context::Sleepable, Attrs::NONE)
            .inspect_err(|_| pr_err!("{size} bytes\n"))
    }

    fn put(bench: &Bench, size: usize, memory: Coherent) {
        client::free(bench.dev(), size, memory, Attrs::NONE);
    }

    #[test]
    fn every_size_for_every_mask() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-coherent", MASK_64, false)? else {
            return Ok(());
        };
        let mut scratch = Buffer::new(5)?;
        for bits in 26..=64 {
            let mask = u64::MAX >> (64 - bits);
            bench.device.set_coherent_mask(mask);
            if Region::new(0, bits as u32, Way::Scattered).is_err() {
                // The host has nothing there, and nothing else will do.
                check!(bits < 28, "{bits} bits");
                let refused = client::alloc(bench.dev(), 1, Context::Sleepable, Attrs::NO_WARN);
                check!(refused.err() == Some(ENOMEM), "{bits} bits");
                continue;
            }
            // From bits to bits another choice of the larger ones, for time's sake.
            let larger = [
                0x4000, 0x1_0001, 0x8_0000, 0x10_0000, 0x20_0000, 0x20_0001, 0x40_0000,
            ];
            let few = [1, 4096, 4097, 0x1_0000, larger[bits % larger.len()]];
            for size in few {
                let memory = get(&bench, size).inspect_err(|_| pr_err!("mask {mask:#x}\n"))?;
                inspect(&bench, &mut scratch, memory, (size, mask))?;
                put(&bench, size, memory);
                check!(bench.backend().counters.outstanding() == 0, "{size} bytes");
            }
            check!(bench.in_use() == 0, "the aperture is for bounces");
        }
        for mask in [MASK_28, MASK_32, MASK_64] {
            bench.device.set_coherent_mask(mask);
            let memory = get(&bench, 0x80_0000)?;
            inspect(&bench, &mut scratch, memory, (0x80_0000, mask))?;
            put(&bench, 0x80_0000, memory);
        }
        bench.done()
    }

    #[test]
    fn buffers_of_the_pool_are_apart() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-pool", MASK_32, false)? else {
            return Ok(());
        };
        let mut scratch = Buffer::new(4)?;
        let sizes = [
            4096, 0x3000, 0x1_0000, 100, 0x8000, 0x2_1000, 0x5000, 0x10_0000,
        ];
        let mut held = KVec::new();
        for round in 0..96 {
            let size = sizes[round * 5 % sizes.len()];
            let memory = get(&bench, size)?;
            inspect(&bench, &mut scratch, memory, (size, MASK_32))?;
            stamp(&bench, &mut scratch, memory, size, round)?;
            held.push((round, size, memory), GFP_KERNEL)?;
            // Every third time an older one goes, and its place is used again.
            if round % 3 == 2 {
                let (seed, size, memory) = held.remove(round * 7 % held.len())?;
                keeps(&bench, &mut scratch, memory, size, seed)?;
                put(&bench, size, memory);
            }
        }
        let pool = bench.shared.coherent.pooled();
        let pages = |size: usize| size.next_multiple_of(PAGE_SIZE);
        let sum: usize = held.iter().map(|&(_, size, _)| pages(size)).sum();
        check!(pool.used == sum, "{pool:?}, not {sum}");
        for (seed, size, memory) in held {
            keeps(&bench, &mut scratch, memory, size, seed)?;
            put(&bench, size, memory);
        }
        bench.shared.coherent.settle();
        let pool = bench.shared.coherent.pooled();
        check!(pool.used == 0 && pool.extents <= 2, "{pool:?}");
        bench.done()
    }

    #[test]
    fn the_pool_costs_no_exchange() -> Result {
        for mask in [MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-ready", mask, false)? else {
                return Ok(());
            };
            let irq = KBox::pin_init(new_irq_lock!((), "xen_dma_backend::irq"), GFP_KERNEL)?;
            let mut scratch = Buffer::new(4)?;
            // The first one has the pool made.  It leaves nothing, so that one more is made soon.
            let first = get(&bench, 0x20_0000)?;
            bench.shared.coherent.settle();
            put(&bench, 0x20_0000, first);
            let pool = bench.shared.coherent.pooled();
            check!(pool.extents == 2 && pool.used == 0, "{pool:?}");
            let before = traded_pages();
            for size in [1, 4096, 0x1_0000, 0x8_0000, 0x20_0000] {
                let guard = irq.lock();
                let memory = client::alloc(bench.dev(), size, Context::Atomic, Attrs::NONE);
                drop(guard);
                inspect(&bench, &mut scratch, memory?, (size, mask))?;
                check!(bench.in_use() == 0, "{size} bytes are of the aperture");
                put(&bench, size, memory?);
            }
            check!(traded_pages() == before);
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn coherent_memory_comes_without_sleep() -> Result {
        let spin = KBox::pin_init(new_spinlock!((), "xen_dma_backend::spin"), GFP_KERNEL)?;
        let irq = KBox::pin_init(new_irq_lock!((), "xen_dma_backend::irq"), GFP_KERNEL)?;
        let mut lent = 0;
        for mask in [MASK_64, MASK_32, MASK_28] {
            // Without a pool as yet.
            let Some(bench) = Bench::new(c"xen-dma-atomic", mask, false)? else {
                return Ok(());
            };
            let mut scratch = Buffer::new(4)?;
            for size in [4096, 0x1_0000, 0x8_0000] {
                let guard = irq.lock();
                let memory = client::alloc(bench.dev(), size, Context::Atomic, Attrs::NONE);
                drop(guard);
                inspect(&bench, &mut scratch, memory?, (size, mask))?;
                lent += bench.in_use();
                let guard = spin.lock();
                put(&bench, size, memory?);
                drop(guard);
            }
            // Regions of their own end later, where sleeping is allowed.
            for size in [0x2_0000, 0x20_0000, 0x40_0000] {
                let memory = get(&bench, size)?;
                let guard = spin.lock();
                put(&bench, size, memory);
                drop(guard);
            }
            bench.done()?;
        }
        check!(lent > 0, "nothing was lent by the aperture");
        Ok(())
    }

    #[test]
    fn who_may_sleep_waits_for_memory() -> Result {
        const SIZE: usize = 0x20_0000;

        let Some(bench) = Bench::with(c"xen-dma-waits", MASK_32, false, 1)? else {
            return Ok(());
        };
        let (dev, backend, dir) = (bench.dev(), bench.backend(), Direction::TO_DEVICE);
        let store = &bench.shared.coherent;
        let extents = || {
            store.settle();
            store.pooled().extents
        };
        // Of the pool's only extent so little is used that no more is made in advance.
        let small = get(&bench, PAGE_SIZE)?;
        check!(extents() == 1);
        let quiet = Attrs::NO_WARN;
        check!(backend.alloc(dev, SIZE, Context::Atomic, quiet).is_err());
        check!(extents() == 1);
        let memory = get(&bench, SIZE)?;
        check!(extents() == 2);
        let pages = |context| backend.alloc_pages(dev, SIZE, dir, context);
        check!(pages(Context::Atomic).is_err());
        check!(extents() == 2);
        let pages = pages(Context::Sleepable)?;
        check!(extents() == 3);

        backend.free_pages(dev, SIZE, pages, dir);
        put(&bench, SIZE, memory);
        put(&bench, PAGE_SIZE, small);
        bench.done()
    }

    #[test]
    fn a_freed_region_is_used_again() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-reuse", MASK_32, false)? else {
            return Ok(());
        };
        let other = Bench::beside(c"xen-dma-reuse-28", MASK_28, false, bench.shared.clone())?;
        let store = &bench.shared.coherent;
        let mut scratch = Buffer::new(4)?;
        for size in [0x40_0000, 0x80_0000] {
            let first = get(&bench, size)?;
            stamp(&bench, &mut scratch, first, size, 3)?;
            put(&bench, size, first);
            let cached = store.cached();
            check!(cached.regions >= 1 && cached.bytes >= size, "{cached:?}");

            // Whose it was does not matter, what was in it is gone.
            let (before, reused) = (traded_pages(), cached.reused);
            let second = get(&bench, size)?;
            check!(second.dma == first.dma && store.cached().reused == reused + 1);
            check!(traded_pages() == before);
            inspect(&bench, &mut scratch, second, (size, MASK_32))?;
            put(&bench, size, second);

            // Who does not reach it does not get it.
            let low = get(&other, size)?;
            inspect(&other, &mut scratch, low, (size, MASK_28))?;
            put(&other, size, low);
            let again = get(&other, size)?;
            inspect(&other, &mut scratch, again, (size, MASK_28))?;
            put(&other, size, again);
        }
        other.done()?;
        bench.done()
    }

    #[test]
    fn unused_memory_goes_back() -> Result {
        let before = traded_pages();
        {
            let Some(bench) = Bench::new(c"xen-dma-shrink", MASK_32, false)? else {
                return Ok(());
            };
            let store = &bench.shared.coherent;
            let aperture = traded_pages();
            let kept = get(&bench, 4096)?;
            for size in [0x40_0000, 0x80_0000, 0x20_0000] {
                put(&bench, size, get(&bench, size)?);
            }
            store.settle();
            let (cached, pool) = (store.cached(), store.pooled());
            check!(
                cached.bytes == 0xc0_0000 && pool.extents >= 2,
                "{cached:?} {pool:?}"
            );

            // One page is asked for: the oldest goes, the other stays.
            check!(store.press(1) == 1);
            store.settle();
            check!(store.cached().bytes == 0x80_0000, "{:?}", store.cached());
            // All: what is in use stays.
            check!(store.press(usize::MAX >> 1) >= 0x80_0000 / PAGE_SIZE);
            store.settle();
            let (cached, pool) = (store.cached(), store.pooled());
            check!(
                cached.regions == 0 && pool.extents == 1,
                "{cached:?} {pool:?}"
            );
            check!(store.press(1) == 0);
            store.settle();
            put(&bench, 4096, kept);
            check!(store.press(1) == 1);
            store.settle();
            check!(store.pooled().extents == 0);
            let (taken, returned) = traded_pages();
            check!(
                taken - aperture.0 == returned - aperture.1,
                "{taken}, {returned}"
            );
            bench.done()?;
        }
        let (taken, returned) = traded_pages();
        check!(
            taken - before.0 == returned - before.1,
            "{taken}, {returned}"
        );
        Ok(())
    }

    #[test]
    fn the_cache_is_bounded() -> Result {
        const SIZE: usize = 24 << 20;
        let Some(bench) = Bench::new(c"xen-dma-bounded", MASK_64, false)? else {
            return Ok(());
        };
        let memory = [get(&bench, SIZE)?, get(&bench, SIZE)?, get(&bench, SIZE)?];
        for memory in memory {
            put(&bench, SIZE, memory);
        }
        bench.shared.coherent.settle();
        let cached = bench.shared.coherent.cached();
        check!(
            cached.regions == 2 && cached.bytes == 64 << 20,
            "{cached:?}"
        );
        bench.done()
    }

    #[test]
    fn pages_are_neighbours_in_reach() -> Result {
        for mask in [MASK_64, MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-pages", mask, false)? else {
                return Ok(());
            };
            for size in [1, 4096, 0x4000, 0x1_0000, 0x10_0000] {
                for dir in DIRECTIONS {
                    let pages = client::alloc_pages(bench.dev(), size, dir)
                        .inspect_err(|_| pr_err!("mask {mask:#x}, {size} bytes\n"))?;
                    let whole = size.next_multiple_of(PAGE_SIZE) as u64;
                    check!(
                        pages.dma.raw() & (whole - 1) == 0,
                        "{size} bytes at {:?}",
                        pages.dma
                    );
                    check!(
                        pages.dma.raw() + whole - 1 <= mask,
                        "{size} bytes at {:?}",
                        pages.dma
                    );
                    client::free_pages(bench.dev(), size, pages, dir);
                }
            }
            bench.done()?;
        }
        Ok(())
    }

    /// Linux has no block as large as an extent, or something else is missing.
    #[test]
    fn the_pool_grows_by_what_serves() -> Result {
        for n in 1.. {
            let Some(bench) = Bench::new(c"xen-dma-no-block", MASK_32, false)? else {
                return Ok(());
            };
            let dir = Direction::TO_DEVICE;
            fault::fail_nth(Point::Memory, n);
            let pages = client::alloc_pages(bench.dev(), 2 * PAGE_SIZE, dir);
            let failed = fault::stop(Point::Memory);
            if let Ok(pages) = pages {
                // They are a region of their own, or a part of the one extent.
                let pool = bench.shared.coherent.pooled();
                check!((pool.extents > 0) == (pool.used > 0), "{n}: {pool:?}");
                client::free_pages(bench.dev(), 2 * PAGE_SIZE, pages, dir);
            }
            bench.done()?;
            if !failed {
                check!(n > 1 && pages.is_ok(), "{n}");
                break;
            }
        }
        Ok(())
    }

    #[test]
    fn a_wrong_unmap_harms_nobody() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-wrong", MASK_32, true)? else {
            return Ok(());
        };
        let other = Bench::beside(c"xen-dma-other", MASK_32, true, bench.shared.clone())?;
        let (mut buffer, mut scratch) = (Buffer::new(3)?, Buffer::new(3)?);
        let (dev, backend) = (bench.dev(), bench.backend());
        let (dir, none, size) = (Direction::BIDIRECTIONAL, Attrs::NONE, 0x6000);
        cover(&mut buffer, 1);

        // By another device, and inside.
        let at = backend.map(dev, buffer.phys(), size, dir, none)?;
        paint(&mut scratch, 2, 0, size);
        bench.poke(at, &scratch, 0, size)?;
        other.backend().unmap(other.dev(), at, size, dir, none);
        check!(other.wrongs(Wrong::NotOwner) == 1);
        for skip in [1, 2048, 4096, size - 1] {
            backend.unmap(dev, after(at, skip), size - skip, dir, none);
        }
        check!(bench.wrongs(Wrong::NotHead) == 4);
        check!(shows(&buffer, 1, 0, buffer.size()));
        check!(bench.in_use() == size as u64 && backend.counters.outstanding() == 1);

        // Too much is asked for: only what is mapped is copied.
        backend.unmap(dev, at, buffer.size(), dir, none);
        check!(bench.wrongs(Wrong::Size) == 1);
        check!(shows(&buffer, 2, 0, size) && shows(&buffer, 1, size, buffer.size()));
        check!(bench.in_use() == 0);

        // Twice, while somebody else's mapping took the place.
        backend.unmap(dev, at, size, dir, none);
        check!(bench.wrongs(Wrong::NotMapped) == 1);
        let theirs = other
            .backend()
            .map(other.dev(), buffer.phys(), size, dir, none)?;
        backend.unmap(dev, theirs, size, dir, none);
        check!(bench.wrongs(Wrong::NotOwner) == 1);
        check!(other.in_use() == size as u64);

        // Too little is asked for.
        paint(&mut scratch, 3, 0, size);
        other.poke(theirs, &scratch, 0, size)?;
        cover(&mut buffer, 1);
        other.backend().unmap(other.dev(), theirs, 100, dir, none);
        check!(other.wrongs(Wrong::Size) == 1);
        check!(shows(&buffer, 3, 0, 100) && shows(&buffer, 1, 100, buffer.size()));

        check!(backend.counters.misuse() == 7 && other.backend().counters.misuse() == 2);
        check!(backend.counters.outstanding() == 0);
        check!(other.backend().counters.outstanding() == 0);
        bench.empty()
    }

    #[test]
    fn a_wrong_sync_copies_nothing() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-badsync", MASK_32, true)? else {
            return Ok(());
        };
        let other = Bench::beside(
            c"xen-dma-badsync-other",
            MASK_32,
            true,
            bench.shared.clone(),
        )?;
        let (mut buffer, mut scratch) = (Buffer::new(2)?, Buffer::new(2)?);
        let (dev, backend) = (bench.dev(), bench.backend());
        let (dir, none, from, size) = (Direction::BIDIRECTIONAL, Attrs::NONE, 2000, 5000);
        cover(&mut buffer, 1);
        let at = backend.map(dev, phys(&buffer, from), size, dir, none)?;
        cover(&mut scratch, 2);
        bench.poke(at, &scratch, from, size)?;

        let beyond = [
            (0, size + 1),
            (1, size),
            (size - 1, 2),
            (4096, 4096),
            (0, usize::MAX),
        ];
        for (skip, part) in beyond {
            backend.sync_for_cpu(dev, after(at, skip), part, dir);
            backend.sync_for_device(dev, after(at, skip), part, dir);
        }
        check!(bench.wrongs(Wrong::Range) == 2 * beyond.len() as u64);
        // The run goes on to the end of its slot, the mapping does not.
        backend.sync_for_cpu(dev, after(at, size), 8, dir);
        backend.sync_for_cpu(dev, after(at, 0x1_0000), 8, dir);
        check!(bench.wrongs(Wrong::NotMapped) == 2);
        other.backend().sync_for_cpu(other.dev(), at, 8, dir);
        other.backend().sync_for_device(other.dev(), at, 8, dir);
        check!(other.wrongs(Wrong::NotOwner) == 2);

        check!(shows(&buffer, 1, 0, buffer.size()));
        bench.peek(at, &scratch, from, size)?;
        check!(shows(&scratch, 2, from, from + size));
        backend.unmap(dev, at, size, dir, Attrs::SKIP_CPU_SYNC);
        check!(backend.counters.outstanding() == 0);
        bench.empty()
    }

    #[test]
    fn a_wrong_free_harms_nobody() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-badfree", MASK_32, true)? else {
            return Ok(());
        };
        let other = Bench::beside(
            c"xen-dma-badfree-other",
            MASK_32,
            true,
            bench.shared.clone(),
        )?;
        let (dev, backend) = (bench.dev(), bench.backend());
        let (dir, none) = (Direction::BIDIRECTIONAL, Attrs::NONE);
        // One from the pool, one of its own.
        for (round, size) in [(1, 4096), (2, 0x40_0000)] {
            let memory = backend.alloc(dev, size, Context::Sleepable, none)?;
            other.backend().free(other.dev(), size, memory, none);
            check!(other.backend().counters.misuse() == round, "{size} bytes");
            check!(
                backend
                    .with_coherent(memory.dma, size, |_, _| Ok(()))
                    .is_ok(),
                "{size} bytes"
            );
            check!(backend.counters.outstanding() == 1, "{size} bytes");
            backend.free(dev, size, memory, none);
            backend.free(dev, size, memory, none);
            check!(bench.wrongs(Wrong::NotMapped) == round, "{size} bytes");
            check!(backend
                .with_coherent(memory.dma, size, |_, _| Ok(()))
                .is_err());
            check!(backend.counters.outstanding() == 0, "{size} bytes");
        }

        // More is freed than there was: what there was is.
        for (round, size) in [(1, 4097), (2, usize::MAX), (3, usize::MAX - 4094)] {
            let memory = backend.alloc(dev, 4096, Context::Sleepable, none)?;
            backend.free(dev, size, memory, none);
            check!(bench.wrongs(Wrong::Size) == round && backend.counters.outstanding() == 0);
            check!(bench.shared.coherent.pooled().used == 0);
        }

        // A mapping is no coherent memory.
        let buffer = Buffer::new(0)?;
        let at = backend.map(dev, buffer.phys(), 4096, dir, none)?;
        backend.free_coherent(dev, 4096, at);
        check!(bench.wrongs(Wrong::NotOwner) == 1 && bench.in_use() == 4096);
        backend.unmap(dev, at, 4096, dir, none);
        check!(backend.counters.outstanding() == 0);
        check!(other.backend().counters.outstanding() == 0);
        bench.empty()
    }
}
