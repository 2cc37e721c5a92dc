// SPDX-License-Identifier: GPL-2.0

//! What must not be mapped: no memory, lists that make no sense, devices that reach nothing or are not
//! served any more.
//!
//! Each refusal is counted under its cause, and leaves nothing behind.

use super::*;
use client::below::{
    self,
    Disguise,
    Look,
    RawList, //
};

/// Pages of a buffer.
const PAGES: usize = 4;

/// Nothing is held, and nothing was counted as wrong.
fn clean(bench: &Bench) -> Result {
    let counters = &bench.backend().counters;
    check!(counters.outstanding() == 0, "{}", counters.outstanding());
    check!(counters.misuse() == 0, "{}", counters.misuse());
    check!(bench.in_use() == 0, "{}", bench.in_use());
    Ok(())
}

/// A failure is counted under this cause alone.
fn counted(bench: &Bench, cause: Cause, fail: impl FnOnce() -> Result) -> Result {
    let (one, all) = (Event::Failure(cause), &bench.backend().counters);
    let before = (all.get(one), all.failures());
    fail()?;
    let now = (all.get(one), all.failures());
    check!(
        now == (before.0 + 1, before.1 + 1),
        "{cause:?}: {now:?}, {before:?}"
    );
    clean(bench)
}

/// The list is refused with this error, and its driver may unmap it all the same.
fn refused(bench: &Bench, list: &mut RawList, count: i32, cause: Cause) -> Result {
    let (dev, dir) = (bench.dev(), Direction::BIDIRECTIONAL);
    counted(bench, cause, || {
        let mapped = list.map(dev, count, dir, Attrs::NO_WARN)?;
        check!(mapped == cause.error().to_errno(), "{mapped}");
        list.sync_for_cpu(dev, count, dir)?;
        list.sync_for_device(dev, count, dir)?;
        list.unmap(dev, count, dir, Attrs::NONE)
    })
}

/// A list of the buffer's pages, `size` bytes of each.
fn pages(buffer: &Buffer, size: usize) -> Result<RawList> {
    let mut list = RawList::new(PAGES)?;
    for index in 0..PAGES {
        list.set(index, Some(buffer), (index * PAGE_SIZE) as u32, size as u32)?;
    }
    Ok(list)
}

#[kunit_tests(xen_dma_refusals)]
mod tests {
    use super::*;

    /// One mapping of a buffer of which a page looks like something else.
    fn try_one(
        bench: &Bench,
        buffer: &mut Buffer,
        scratch: &mut Buffer,
        case: (Look, usize, usize, usize),
    ) -> Result {
        let (look, page, from, size) = case;
        let (dev, dir) = (bench.dev(), Direction::FROM_DEVICE);
        let met = from / PAGE_SIZE <= page && page <= (from + size - 1) / PAGE_SIZE;
        let phys = phys(buffer, from);
        let map = || {
            let _disguise = Disguise::new(buffer, page, look)?;
            below::map(dev, phys, size, dir, Attrs::NO_WARN)
        };
        if met && look != Look::Foreign {
            return counted(bench, Cause::Hole, || {
                check!(map().is_err());
                Ok(())
            });
        }
        let at = map()?;
        let bounced = bench.shared.aperture.find(at).is_some();
        if bounced {
            bench.peek(at, scratch, from, size)?;
            check!(shows(scratch, 1, from, from + size));
            paint(scratch, 2, from, from + size);
            bench.poke(at, scratch, from, size)?;
        }
        below::unmap(dev, at, size, dir, Attrs::NONE)?;
        check!(shows(
            buffer,
            if bounced { 2 } else { 1 },
            from,
            from + size
        ));
        if bounced {
            paint(buffer, 1, from, from + size);
        }
        clean(bench)
    }

    #[test]
    fn what_is_no_memory_is_refused() -> Result {
        let (mut buffer, mut scratch) = (Buffer::new(2)?, Buffer::new(2)?);
        cover(&mut buffer, 1);
        let mut tried = 0;
        let sizes = [
            1,
            2048,
            PAGE_SIZE,
            PAGE_SIZE + 1,
            2 * PAGE_SIZE,
            3 * PAGE_SIZE - 1,
        ];
        for (mask, force) in [
            (MASK_64, false),
            (MASK_64, true),
            (MASK_32, false),
            (MASK_28, false),
        ] {
            let Some(bench) = Bench::new(c"xen-dma-no-memory", mask, force)? else {
                return Ok(());
            };
            for look in [Look::Hole, Look::Impossible, Look::Foreign] {
                for (page, size) in (0..PAGES).flat_map(|page| sizes.map(|size| (page, size))) {
                    for from in [0, 1, 2048, PAGE_SIZE, 2 * PAGE_SIZE - 1] {
                        if from + size > PAGES * PAGE_SIZE {
                            continue;
                        }
                        let case = (look, page, from, size);
                        try_one(&bench, &mut buffer, &mut scratch, case).inspect_err(|_| {
                            pr_err!("mask {mask:#x}, force {force}, {case:?}\n")
                        })?;
                        tried += 1;
                    }
                }
            }
            // So it is in a list, wherever, and those before are undone.
            for (look, page) in [(Look::Hole, 0), (Look::Hole, 3), (Look::Impossible, 2)] {
                let mut list = pages(&buffer, 100)?;
                let _disguise = Disguise::new(&buffer, page, look)?;
                refused(&bench, &mut list, PAGES as i32, Cause::Hole)?;
            }
            check!(shows(&buffer, 1, 0, buffer.size()));
            bench.done()?;
        }
        pr_info!("tally: buffers-refused={tried}\n");
        Ok(())
    }

    #[test]
    fn sizes_and_places_that_cannot_be_are_refused() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-cannot-be", MASK_32, true, 2)? else {
            return Ok(());
        };
        let (dev, buffer) = (bench.dev(), Buffer::new(0)?);
        let here = buffer.phys().raw();
        let most = 1 << 52;
        let large = bench.shared.aperture.most() + 1;
        for number in [0, 1, 2, 3, u32::MAX] {
            let dir = below::direction(number);
            for (phys, size, cause) in [
                (here, 0, Cause::Empty),
                (u64::MAX, 0, Cause::Empty),
                (u64::MAX, 1, Cause::Wraps),
                (u64::MAX, 2, Cause::Wraps),
                (u64::MAX - 4095, 4096, Cause::Wraps),
                (u64::MAX - 4095, 4097, Cause::Wraps),
                (here, usize::MAX, Cause::Wraps),
                (here, usize::MAX - here as usize, Cause::Wraps),
                (here, usize::MAX - here as usize + 2, Cause::Wraps),
                (most - 1, 2, Cause::Wraps),
                (most, 1, Cause::Wraps),
                (most - 4096, 4096, Cause::PeerMemory),
                (here, large, Cause::TooLarge),
            ] {
                let phys = Phys::new(phys);
                for attrs in [Attrs::NO_WARN, Attrs::NO_WARN.with(Attrs::SKIP_CPU_SYNC)] {
                    counted(&bench, cause, || {
                        let mapped = below::map(dev, phys, size, dir, attrs);
                        check!(mapped.is_err(), "{phys:?}, {size:#x}: {mapped:?}");
                        Ok(())
                    })?;
                }
            }
            let attrs = Attrs::REQUIRE_COHERENT.with(Attrs::NO_WARN);
            counted(&bench, Cause::RequireCoherent, || {
                check!(below::map(dev, buffer.phys(), 1, dir, attrs).is_err());
                Ok(())
            })?;
        }
        bench.done()
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() -> Result {
        let mut buffer = Buffer::new(2)?;
        cover(&mut buffer, 1);
        for (mask, force) in [(MASK_32, true), (MASK_32, false), (MASK_28, false)] {
            let Some(bench) = Bench::new(c"xen-dma-no-sense", mask, force)? else {
                return Ok(());
            };
            let (dev, dir) = (bench.dev(), Direction::BIDIRECTIONAL);
            // Nothing at all.
            for count in [0, -1, i32::MIN] {
                let mut list = pages(&buffer, 100)?;
                let mapped = list.map(dev, count, dir, Attrs::NONE)?;
                check!(mapped == EINVAL.to_errno(), "{count}: {mapped}");
                list.unmap(dev, count, dir, Attrs::NONE)?;
                clean(&bench)?;
            }
            // One entry that cannot be, wherever.
            for index in 0..PAGES {
                for (of, offset, length, cause) in [
                    (Some(&buffer), 0, 0, Cause::Empty),
                    (None, 0, 64, Cause::PeerMemory),
                    (None, u32::MAX, 64, Cause::PeerMemory),
                ] {
                    let mut list = pages(&buffer, 100)?;
                    list.set(index, of, offset, length)?;
                    refused(&bench, &mut list, PAGES as i32, cause)
                        .inspect_err(|_| pr_err!("entry {index}, {cause:?}, {mask:#x}\n"))?;
                }
            }
            // More entries are claimed than there are.
            for count in [PAGES as i32 + 1, 1000, i32::MAX] {
                let mut list = pages(&buffer, 100)?;
                let mapped = list.map(dev, count, dir, Attrs::NONE)?;
                check!(mapped > 0 && mapped <= PAGES as i32, "{count}: {mapped}");
                list.unmap(dev, count, dir, Attrs::NONE)?;
                clean(&bench)?;
            }
            check!(shows(&buffer, 1, 0, buffer.size()));
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn links_are_followed_as_far_as_was_asked() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-links", MASK_32, true)? else {
            return Ok(());
        };
        let (dev, dir) = (bench.dev(), Direction::TO_DEVICE);
        let (mut buffer, scratch) = (Buffer::new(2)?, Buffer::new(2)?);
        cover(&mut buffer, 1);
        let fill = |list: &mut RawList, entries: &[usize]| -> Result {
            for (page, &index) in entries.iter().enumerate() {
                list.set(index, Some(&buffer), (page * PAGE_SIZE) as u32, 100)?;
            }
            Ok(())
        };
        // Forward, over an entry that is not part of the list, and back.
        for (link, to, order) in [(2, 4, [0, 1, 4, 5]), (3, 1, [0, 1, 2, 0])] {
            let mut list = RawList::new(6)?;
            fill(&mut list, &order)?;
            list.link(link, to)?;
            let count = if to > link { PAGES as i32 } else { 50 };
            let mapped = list.map(dev, count, dir, Attrs::NONE)?;
            check!(mapped == count, "{mapped}");
            if to > link {
                for (page, &index) in order.iter().enumerate() {
                    let (at, size) = list.mapped(index).ok_or(EINVAL)?;
                    check!(size == 100);
                    bench.peek(at, &scratch, page * PAGE_SIZE, size)?;
                    check!(shows(
                        &scratch,
                        1,
                        page * PAGE_SIZE,
                        page * PAGE_SIZE + size
                    ));
                }
                list.unmap(dev, count, dir, Attrs::NONE)?;
                clean(&bench)?;
                continue;
            }
            // Round and round: what was noted was noted again, so the caller lost the first ones, and
            // the second round of unmaps meets what the first one ended.
            list.unmap(dev, count, dir, Attrs::NONE)?;
            let left = bench.backend().counters.outstanding();
            check!(bench.wrongs(Wrong::NotMapped) == left, "{left}");
            check!(left > 0 && left < 50 && bench.in_use() == 2048 * left);
            bench.books()?;
        }
        check!(shows(&buffer, 1, 0, buffer.size()));
        Ok(())
    }

    #[test]
    fn a_device_without_reach_gets_nothing() -> Result {
        for force in [false, true] {
            let Some(bench) = Bench::new(c"xen-dma-no-reach", MASK_32, force)? else {
                return Ok(());
            };
            let (dev, dir) = (bench.dev(), Direction::TO_DEVICE);
            check!(client::set_masks(dev, 0) == Err(EIO));
            let buffer = Buffer::new(2)?;
            for mask in [0, 1, 0xfff] {
                bench.device.set_mask(mask);
                bench.device.set_coherent_mask(mask);
                for size in [1, 2048, PAGE_SIZE, buffer.size()] {
                    counted(&bench, Cause::Unreachable, || {
                        let mapped = below::map(dev, buffer.phys(), size, dir, Attrs::NO_WARN);
                        check!(mapped.is_err(), "{size}: {mapped:?}");
                        Ok(())
                    })?;
                }
                refused(
                    &bench,
                    &mut pages(&buffer, 100)?,
                    PAGES as i32,
                    Cause::Unreachable,
                )?;
                for context in [Context::Sleepable, Context::Atomic] {
                    let memory = bench.backend().alloc(dev, 64, context, Attrs::NO_WARN);
                    check!(memory.is_err(), "{mask:#x}");
                    clean(&bench)?;
                }
            }
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn a_detached_table_serves_who_still_has_it() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-detached", MASK_32, true)? else {
            return Ok(());
        };
        let (dev, dir, none) = (bench.dev(), Direction::FROM_DEVICE, Attrs::NONE);
        let (mut buffer, mut scratch) = (Buffer::new(0)?, Buffer::new(0)?);
        cover(&mut buffer, 1);
        let size = 3000;
        let at = below::map(dev, buffer.phys(), size, dir, none)?;
        paint(&mut scratch, 2, 0, size);
        bench.poke(at, &scratch, 0, size)?;

        bench.attachment.detach(&Quiet::lock(dev)?)?;
        // The API leads elsewhere, where the mapping is not known.
        check!(below::unmap(dev, at, size, dir, none).is_err());
        let theirs = client::map(dev, buffer.phys(), size, Direction::TO_DEVICE, none)?;
        check!(bench.shared.aperture.find(theirs).is_none());
        client::unmap(dev, theirs, size, Direction::TO_DEVICE, none);
        check!(shows(&buffer, 1, 0, PAGE_SIZE) && bench.in_use() > 0);
        // A call that was on its way ends well.
        let late = bench.backend().map(dev, buffer.phys(), size, dir, none)?;
        check!(late != at);
        bench.backend().unmap(dev, late, size, dir, none);
        bench.backend().unmap(dev, late, size, dir, none);
        check!(bench.wrongs(Wrong::NotMapped) == 1);
        check!(shows(&buffer, 1, 0, PAGE_SIZE));

        bench.attachment.attach(&Quiet::lock(dev)?)?;
        below::unmap(dev, at, size, dir, none)?;
        check!(shows(&buffer, 2, 0, size) && shows(&buffer, 1, size, PAGE_SIZE));
        check!(bench.backend().counters.outstanding() == 0);
        bench.empty()
    }
}
