// SPDX-License-Identifier: GPL-2.0

//! Coherent memory, and wrong calls.

use super::*;

#[kunit_tests(xen_dma_coherent)]
mod tests {
    use super::*;

    #[test]
    fn coherent_memory_is_clear_and_aligned() -> Result {
        for mask in [MASK_64, MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-coherent", mask, false)? else {
                return Ok(());
            };
            let (mut scratch, mut dirt) = (Buffer::new(4)?, Buffer::new(9)?);
            dirt.fill(0, dirt.size(), |_| 0xee);
            for size in [1, 4096, 4097, 0x1_0000, 0x1_0001, 0x10_0000, 0x40_0000] {
                // Something was here before.
                let dir = Direction::TO_DEVICE;
                if let Ok(at) =
                    client::map(bench.dev(), dirt.phys(), dirt.size() / 2, dir, Attrs::NONE)
                {
                    client::unmap(bench.dev(), at, dirt.size() / 2, dir, Attrs::NONE);
                }
                let memory = client::alloc(bench.dev(), size, Context::Sleepable, Attrs::NONE)
                    .inspect_err(|_| pr_err!("mask {mask:#x}, {size} bytes\n"))?;
                let whole = size.next_multiple_of(PAGE_SIZE);
                let block = whole.next_power_of_two() as u64;
                check!(
                    memory.dma.raw() & (block - 1) == 0,
                    "{size} bytes at {:?}",
                    memory.dma
                );
                check!(
                    memory.dma.raw() + whole as u64 - 1 <= mask,
                    "{size} bytes at {:?}",
                    memory.dma
                );
                for start in (0..whole).step_by(scratch.size()) {
                    let piece = scratch.size().min(whole - start);
                    scratch.fill(0, piece, |_| 0x55);
                    let to = scratch.phys();
                    let copied =
                        bench
                            .backend()
                            .with_coherent(memory.dma, size, |region, offset| {
                                Ok(region.copy_out(offset + start, to, piece))
                            })?;
                    check!(copied, "mask {mask:#x}, {size} bytes at {start}");
                    check!(
                        (0..piece).step_by(7).all(|i| scratch.byte(i) == 0),
                        "{size} bytes"
                    );
                }
                let bytes = client::sgtable_bytes(bench.dev(), memory, size)?;
                check!(bytes == size, "mask {mask:#x}: {bytes} of {size} bytes");
                client::free(bench.dev(), size, memory, Attrs::NONE);
                check!(bench.backend().counters.outstanding() == 0, "{size} bytes");
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn coherent_memory_comes_without_sleep() -> Result {
        let spin = KBox::pin_init(new_spinlock!((), "xen_dma_backend::spin"), GFP_KERNEL)?;
        let irq = KBox::pin_init(new_irq_lock!((), "xen_dma_backend::irq"), GFP_KERNEL)?;
        for mask in [MASK_64, MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-atomic", mask, false)? else {
                return Ok(());
            };
            for size in [4096, 0x1_0000, 0x8_0000] {
                let guard = irq.lock();
                let memory = client::alloc(bench.dev(), size, Context::Atomic, Attrs::NONE)?;
                drop(guard);
                check!(memory.dma.raw() & (size as u64 - 1) == 0, "{size} bytes");
                check!(memory.dma.raw() + size as u64 - 1 <= mask, "{size} bytes");
                let guard = spin.lock();
                client::free(bench.dev(), size, memory, Attrs::NONE);
                drop(guard);
            }
            // Regions of their own end later, where sleeping is allowed.
            for size in [0x2_0000, 0x20_0000] {
                let memory = client::alloc(bench.dev(), size, Context::Sleepable, Attrs::NONE)?;
                let guard = spin.lock();
                client::free(bench.dev(), size, memory, Attrs::NONE);
                drop(guard);
            }
            bench.done()?;
        }
        Ok(())
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
        // One from the aperture, one of its own.
        for (round, size) in [(1, 4096), (2, 0x10_0000)] {
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
