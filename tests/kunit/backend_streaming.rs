// SPDX-License-Identifier: GPL-2.0

//! Streaming mappings: what the device sees, and what the CPU gets back.

use super::*;

#[kunit_tests(xen_dma_streaming)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_at_every_offset_and_size() -> Result {
        let cases = [
            (GUARD, 1),
            (GUARD + 1, 1),
            (4095, 2),
            (4096, 4096),
            (4096 + 123, 4096),
            (2047, 2050),
            (8192, 0x1_0000),
            (4095, 0x1_0001),
        ];
        let (mut buffer, mut scratch) = (Buffer::new(5)?, Buffer::new(5)?);
        for mask in [MASK_64, MASK_32, MASK_28] {
            for force in [false, true] {
                let Some(bench) = Bench::new(c"xen-dma-travel", mask, force)? else {
                    return Ok(());
                };
                for at in cases {
                    for dir in DIRECTIONS {
                        travel(&bench, [&mut buffer, &mut scratch], at, dir)
                            .inspect_err(|_| pr_err!("mask {mask:#x}, force {force}\n"))?;
                    }
                }
                if force {
                    check!(bench.count(Event::Bounce(Reason::Forced)) == 24);
                    check!(bench.count(Event::Direct) == 0);
                }
                bench.done()?;
            }
        }
        Ok(())
    }

    #[test]
    fn large_mappings_bounce_in_one_piece() -> Result {
        let (mut buffer, mut scratch) = (Buffer::new(9)?, Buffer::new(9)?);
        for (mask, force) in [(MASK_64, true), (MASK_32, false), (MASK_28, false)] {
            let Some(bench) = Bench::new(c"xen-dma-large", mask, force)? else {
                return Ok(());
            };
            for (offset, size) in [(4096, 0x4_0000), (512, 0x4_1000), (2049, 0x10_0000)] {
                let at = (offset, size);
                travel(
                    &bench,
                    [&mut buffer, &mut scratch],
                    at,
                    Direction::BIDIRECTIONAL,
                )
                .inspect_err(|_| pr_err!("mask {mask:#x}, force {force}\n"))?;
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn torn_buffers_bounce() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-torn", MASK_64, false)? else {
            return Ok(());
        };
        let Some((mut first, mut second)) = torn_pair(&bench.p2m)? else {
            pr_info!("no neighbours with frames apart were found\n");
            return bench.done();
        };
        let mut scratch = Buffer::new(1)?;
        first.fill(0, PAGE_SIZE, |index| pattern(1, index));
        second.fill(0, PAGE_SIZE, |index| pattern(1, PAGE_SIZE + index));
        let at = phys(&first, 2048);
        let dma = client::map(bench.dev(), at, 4096, Direction::FROM_DEVICE, Attrs::NONE)?;
        check!(bench.judge(at, 4096, dma)?);
        check!(bench.count(Event::Bounce(Reason::Discontiguous)) == 1);
        bench.peek(dma, &scratch, 2048, 4096)?;
        check!(shows(&scratch, 1, 2048, 2048 + 4096));
        paint(&mut scratch, 2, 2048, 2048 + 4096);
        bench.poke(dma, &scratch, 2048, 4096)?;
        client::unmap(bench.dev(), dma, 4096, Direction::FROM_DEVICE, Attrs::NONE);
        check!(shows(&first, 1, 0, 2048) && shows(&first, 2, 2048, PAGE_SIZE));
        check!((0..2048).all(|i| second.byte(i) == pattern(2, PAGE_SIZE + i)));
        check!((2048..PAGE_SIZE).all(|i| second.byte(i) == pattern(1, PAGE_SIZE + i)));
        bench.done()
    }

    #[test]
    fn syncs_copy_what_was_asked() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-sync", MASK_32, true)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(3)?, Buffer::new(3)?);
        let dir = Direction::BIDIRECTIONAL;
        let (from, size) = (100, 0x5123);
        let end = from + size;
        cover(&mut buffer, 1);
        let at = client::map(bench.dev(), phys(&buffer, from), size, dir, Attrs::NONE)?;
        let parts = [
            (0, 1),
            (1, 7),
            (2047, 2),
            (4000, 200),
            (0x3001, 0x1000),
            (size - 1, 1),
            (0, size),
        ];
        for (skip, part) in parts {
            let (low, high) = (from + skip, from + skip + part);

            // To the CPU: the device wrote all, the CPU sees a part.
            cover(&mut buffer, 1);
            paint(&mut scratch, 2, from, end);
            bench.poke(at, &scratch, from, size)?;
            client::sync_for_cpu(bench.dev(), after(at, skip), part, dir);
            check!(shows(&buffer, 2, low, high), "{skip}+{part} for the CPU");
            check!(
                shows(&buffer, 1, 0, low),
                "{skip}+{part} for the CPU: before"
            );
            check!(
                shows(&buffer, 1, high, buffer.size()),
                "{skip}+{part} for the CPU: after"
            );

            // To the device: the CPU wrote all, the device sees a part.
            cover(&mut buffer, 3);
            client::sync_for_device(bench.dev(), after(at, skip), part, dir);
            bench.peek(at, &scratch, from, size)?;
            check!(
                shows(&scratch, 3, low, high),
                "{skip}+{part} for the device"
            );
            check!(
                shows(&scratch, 2, from, low),
                "{skip}+{part} for the device: before"
            );
            check!(
                shows(&scratch, 2, high, end),
                "{skip}+{part} for the device: after"
            );
        }
        client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
        bench.done()
    }

    #[test]
    fn syncs_heed_the_direction() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-way", MASK_32, true)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(0)?, Buffer::new(0)?);
        let (backend, size) = (bench.backend(), 4096);
        for dir in [Direction::TO_DEVICE, Direction::FROM_DEVICE] {
            paint(&mut buffer, 1, 0, size);
            let at = client::map(bench.dev(), buffer.phys(), size, dir, Attrs::NONE)?;
            paint(&mut buffer, 2, 0, size);
            backend.sync_for_device(bench.dev(), at, size, dir);
            bench.peek(at, &scratch, 0, size)?;
            check!(
                shows(&scratch, if dir.device_reads() { 2 } else { 1 }, 0, size),
                "{dir:?}"
            );
            paint(&mut scratch, 3, 0, size);
            bench.poke(at, &scratch, 0, size)?;
            backend.sync_for_cpu(bench.dev(), at, size, dir);
            check!(
                shows(&buffer, if dir.device_writes() { 3 } else { 2 }, 0, size),
                "{dir:?}"
            );
            client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
        }
        bench.done()
    }

    #[test]
    fn lists_travel_entry_by_entry() -> Result {
        for (mask, force) in [
            (MASK_64, false),
            (MASK_64, true),
            (MASK_32, false),
            (MASK_28, true),
        ] {
            let Some(bench) = Bench::new(c"xen-dma-list", mask, force)? else {
                return Ok(());
            };
            let mut scratch = Buffer::new(0)?;
            for count in [1, 16, 128] {
                let mut buffers = KVVec::new();
                for index in 0..count {
                    let mut buffer = Buffer::new(0)?;
                    paint(&mut buffer, index, 0, PAGE_SIZE);
                    buffers.push(buffer, GFP_KERNEL)?;
                }
                let part = |index: usize| (index % 7 * 100, 1 + index * 29 % 3000);
                for dir in DIRECTIONS {
                    let parts = buffers.iter().enumerate().map(|(index, buffer)| {
                        let (offset, size) = part(index);
                        (buffer, offset, size)
                    });
                    let mut list = List::of_parts(count, parts)?;
                    list.map(bench.dev(), dir, Attrs::NONE)?;
                    check!(list.mapped().count() == count);
                    for (index, (at, length)) in list.mapped().enumerate() {
                        let (offset, size) = part(index);
                        check!(length == size, "entry {index} of {count}");
                        if bench.judge(phys(&buffers[index], offset), size, at)? {
                            bench.peek(at, &scratch, offset, size)?;
                            let seen = shows(&scratch, index, offset, offset + size);
                            check!(seen, "entry {index} of {count} {dir:?}");
                            paint(&mut scratch, index + 1, offset, offset + size);
                            bench.poke(at, &scratch, offset, size)?;
                        }
                    }
                    if dir == Direction::BIDIRECTIONAL {
                        list.sync_for_cpu(bench.dev(), dir);
                        list.sync_for_device(bench.dev(), dir);
                    }
                    list.unmap(bench.dev(), dir, Attrs::NONE);
                    for (index, buffer) in buffers.iter_mut().enumerate() {
                        let (offset, size) = part(index);
                        let bounced = matches!(
                            bench.expected(phys(buffer, offset), size),
                            Placement::Bounce(_)
                        );
                        let seed = index + usize::from(bounced && dir.device_writes());
                        check!(
                            shows(buffer, seed, offset, offset + size),
                            "entry {index} {dir:?}"
                        );
                        check!(
                            shows(buffer, index, 0, offset),
                            "entry {index} {dir:?}: before"
                        );
                        check!(
                            shows(buffer, index, offset + size, PAGE_SIZE),
                            "entry {index}: after"
                        );
                        paint(buffer, index, 0, PAGE_SIZE);
                    }
                    check!(bench.in_use() == 0);
                }
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn lists_that_fail_leave_nothing() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-undo", MASK_32, true)? else {
            return Ok(());
        };
        let mut large = Buffer::new(9)?;
        let small = Buffer::new(0)?;
        let size = large.size();
        paint(&mut large, 1, 0, size);
        let dir = Direction::FROM_DEVICE;
        for _ in 0..3 {
            // More than the aperture has.
            let parts = (0..32).map(|_| (&large, 0, size));
            let full = List::of_parts(32, parts)?.map(bench.dev(), dir, Attrs::NO_WARN);
            check!(full.err() == Some(ENOMEM), "{full:?}");
            check!(bench.backend().counters.outstanding() == 0 && bench.in_use() == 0);

            // An entry without bytes.
            let parts = (0..5).map(|index| (&small, 0, if index == 3 { 0 } else { 64 }));
            let empty = List::of_parts(5, parts)?.map(bench.dev(), dir, Attrs::NO_WARN);
            check!(empty.err() == Some(EINVAL), "{empty:?}");
            check!(bench.backend().counters.outstanding() == 0 && bench.in_use() == 0);
        }
        check!(bench.count(Event::Failure(Cause::Full)) == 3);
        check!(bench.count(Event::Failure(Cause::Empty)) == 3);
        check!(shows(&large, 1, 0, size));
        bench.done()
    }

    #[test]
    fn a_list_may_take_the_last_room() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-last", MASK_32, false, 1)? else {
            return Ok(());
        };
        let dir = Direction::TO_DEVICE;
        let (page, pages) = (beyond(&bench, 0)?, beyond(&bench, 1)?);
        let mut live = KVVec::new();
        while let Ok(at) = client::map(bench.dev(), page.phys(), PAGE_SIZE, dir, Attrs::NO_WARN) {
            live.push(at, GFP_KERNEL)?;
        }
        live.sort_unstable();

        // Four pages side by side, in the upper extent, are all the room there is.  The list takes the
        // first, claims the next two together, and needs one of these again for its last buffer.
        let four = live.windows(4).rposition(|four| {
            four[0].raw() % (4 * PAGE_SIZE as u64) == 0
                && four[3].raw() - four[0].raw() == 3 * PAGE_SIZE as u64
        });
        let first = four.ok_or(EINVAL)?;
        for _ in 0..4 {
            let at = live.remove(first).map_err(|_| EINVAL)?;
            client::unmap(bench.dev(), at, PAGE_SIZE, dir, Attrs::NONE);
        }
        let parts = [
            (&page, PAGE_SIZE),
            (&page, PAGE_SIZE),
            (&pages, 2 * PAGE_SIZE),
        ];
        let parts = parts.into_iter().map(|(buffer, size)| (buffer, 0, size));
        let mut list = List::of_parts(3, parts)?;
        list.map(bench.dev(), dir, Attrs::NONE)?;
        list.unmap(bench.dev(), dir, Attrs::NONE);

        for &at in live.iter() {
            client::unmap(bench.dev(), at, PAGE_SIZE, dir, Attrs::NONE);
        }
        bench.done()
    }

    #[test]
    fn nothing_sleeps_on_the_mapping_path() -> Result {
        let irq = KBox::pin_init(new_irq_lock!((), "xen_dma_backend::irq"), GFP_KERNEL)?;
        for mask in [MASK_64, MASK_32, MASK_28] {
            let Some(bench) = Bench::new(c"xen-dma-irq", mask, mask == MASK_64)? else {
                return Ok(());
            };
            let buffer = Buffer::new(6)?;
            let dir = Direction::BIDIRECTIONAL;
            for size in [1, 4096, 0x1_0001, 0x4_0000] {
                let guard = irq.lock();
                let at = client::map(bench.dev(), buffer.phys(), size, dir, Attrs::NONE)?;
                client::sync_for_cpu(bench.dev(), at, size, dir);
                client::sync_for_device(bench.dev(), at, size, dir);
                client::unmap(bench.dev(), at, size, dir, Attrs::NONE);
                drop(guard);
            }
            let buffers = [Buffer::new(0)?, Buffer::new(1)?, Buffer::new(2)?];
            let mut list = List::new(&buffers)?;
            let guard = irq.lock();
            list.map(bench.dev(), dir, Attrs::NONE)?;
            list.sync_for_cpu(bench.dev(), dir);
            list.sync_for_device(bench.dev(), dir);
            list.unmap(bench.dev(), dir, Attrs::NONE);
            drop(guard);
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn attributes_are_heeded() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-attrs", MASK_32, true)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(1)?, Buffer::new(1)?);
        let (dev, size, dir) = (bench.dev(), 5000, Direction::FROM_DEVICE);

        let coherent = Attrs::REQUIRE_COHERENT.with(Attrs::NO_WARN);
        check!(client::map(dev, buffer.phys(), size, dir, coherent) == Err(EIO));
        check!(bench.count(Event::Failure(Cause::RequireCoherent)) == 1);

        for attrs in [Attrs::NONE, Attrs::SKIP_CPU_SYNC] {
            cover(&mut buffer, 1);
            let at = client::map(dev, buffer.phys(), size, dir, attrs)?;
            // Whatever the attributes, nothing older is shown to the device.
            bench.peek(at, &scratch, 0, size)?;
            check!(shows(&scratch, 1, 0, size));
            paint(&mut scratch, 2, 0, size);
            bench.poke(at, &scratch, 0, size)?;
            client::unmap(dev, at, size, dir, attrs);
            let back = attrs != Attrs::SKIP_CPU_SYNC;
            check!(
                shows(&buffer, if back { 2 } else { 1 }, 0, size),
                "{attrs:?}"
            );
            check!(shows(&buffer, 1, size, buffer.size()), "{attrs:?}");
        }
        bench.done()
    }

    #[test]
    fn devices_share_an_aperture() -> Result {
        let Some(wide) = Bench::new(c"xen-dma-wide", MASK_32, true)? else {
            return Ok(());
        };
        let narrow = Bench::beside(c"xen-dma-narrow", MASK_28, true, wide.shared.clone())?;
        let (dir, size) = (Direction::TO_DEVICE, 0x2_0000);
        let (mut first, mut second, mut scratch) =
            (Buffer::new(5)?, Buffer::new(5)?, Buffer::new(5)?);
        paint(&mut first, 1, 0, size);
        paint(&mut second, 2, 0, size);
        let mut live = KVec::new();
        for _ in 0..6 {
            let one = client::map(wide.dev(), first.phys(), size, dir, Attrs::NONE)?;
            let two = client::map(narrow.dev(), second.phys(), size, dir, Attrs::NONE)?;
            live.push((one, two), GFP_KERNEL)?;
        }
        for &(one, two) in live.iter() {
            for (at, seed) in [(one, 1), (two, 2)] {
                wide.peek(at, &scratch, 0, size)?;
                check!(shows(&scratch, seed, 0, size));
                scratch.fill(0, size, |_| 0);
            }
            client::unmap(wide.dev(), one, size, dir, Attrs::NONE);
            client::unmap(narrow.dev(), two, size, dir, Attrs::NONE);
        }
        wide.done()?;
        narrow.done()
    }
}

/// A buffer that the device does not reach where it lies.
fn beyond(bench: &Bench, order: u32) -> Result<Buffer> {
    let mut others = KVec::new();
    for _ in 0..256 {
        let buffer = Buffer::new(order)?;
        let placement = bench.expected(buffer.phys(), buffer.size());
        if placement == Placement::Bounce(Reason::Unreachable) {
            return Ok(buffer);
        }
        others.push(buffer, GFP_KERNEL)?;
    }
    check!(false, "all memory is within reach");
    Err(ENOMEM)
}
