// SPDX-License-Identifier: GPL-2.0

//! Lists of buffers: the segments that a device sees, and the buffers in them.

use super::*;
use client::below::RawList;

/// What the DMA API knows of failures: try again; never; another device's memory.
const AGAIN: i32 = -12;
const NEVER: i32 = -22;
const PEER: i32 = -121;

/// A part of a buffer of its own: the order of that one's size, and offset and size of the part.
type Part = (u32, usize, usize);

/// What a device allows in a segment.
#[derive(Clone, Copy, Debug)]
struct Allows {
    most: u32,
    boundary: u64,
    min_align: u32,
}

/// A list, its buffers, and where the device sees each.
struct Load {
    buffers: KVVec<Buffer>,
    parts: KVVec<Part>,
    list: List,
    places: KVVec<Machine>,
}

impl Load {
    /// A list that is not mapped.  Each buffer shows what it is, from end to end.
    fn new(count: usize, part: impl Fn(usize) -> Part) -> Result<Self> {
        let (mut buffers, mut parts) = (KVVec::new(), KVVec::new());
        for index in 0..count {
            let mut buffer = Buffer::new(part(index).0)?;
            cover(&mut buffer, index);
            buffers.push(buffer, GFP_KERNEL)?;
            parts.push(part(index), GFP_KERNEL)?;
        }
        let pieces = buffers.iter().zip(parts.iter());
        let list = List::of_parts(count, pieces.map(|(buffer, part)| (buffer, part.1, part.2)))?;
        Ok(Self {
            buffers,
            parts,
            list,
            places: KVVec::new(),
        })
    }

    fn map(&mut self, bench: &Bench, allows: Allows, dir: Direction) -> Result {
        self.list.map(bench.dev(), dir, Attrs::NONE)?;
        self.places = self.check_segments(bench, allows)?;
        Ok(())
    }

    /// Each buffer lies in one segment, and each segment is as the device wants it.
    fn check_segments(&self, bench: &Bench, allows: Allows) -> Result<KVVec<Machine>> {
        let mut places = KVVec::new();
        let mut segments = self.list.mapped();
        let (mut start, mut length, mut used) = (Machine::new(0), 0, 0);
        for (index, &(_, offset, size)) in self.parts.iter().enumerate() {
            let first = used == length;
            if first {
                (start, length) = segments.next().ok_or(EINVAL)?;
                used = 0;
                let last = after(start, length - 1);
                let inside = (start.raw() ^ last.raw()) & !allows.boundary == 0;
                let alone = length == size;
                check!(alone || inside, "{index}: {length} bytes at {start:?}");
                check!(alone || length <= allows.most as usize, "{index}: {length}");
            }
            let at = after(start, used);
            used += size;
            check!(used <= length, "{index}: {used} of {length}");
            let bounced = bench.judge(phys(&self.buffers[index], offset), size, at)?;
            check!(
                bounced == bench.shared.aperture.find(start).is_some(),
                "{index}"
            );
            places.push(at, GFP_KERNEL)?;
        }
        check!(used == length && segments.next().is_none());
        Ok(places)
    }

    /// Whether the bytes travel, and no others.  A bounced buffer `i` shows `i + 1` where the device wrote.
    fn check_bytes(&mut self, bench: &Bench, dir: Direction) -> Result {
        let mut scratch = Buffer::new(5)?;
        for (index, &(_, offset, size)) in self.parts.iter().enumerate() {
            let (at, end) = (self.places[index], offset + size);
            if bench.shared.aperture.find(at).is_some() {
                bench.peek(at, &scratch, offset, size)?;
                check!(
                    shows(&scratch, index, offset, end),
                    "{index}: to the device"
                );
                paint(&mut scratch, index + 1, offset, end);
                bench.poke(at, &scratch, offset, size)?;
            }
        }
        self.check_sync(bench, dir)?;
        self.list.unmap(bench.dev(), dir, Attrs::NONE);
        for (index, &(_, offset, size)) in self.parts.iter().enumerate() {
            let (buffer, end) = (&self.buffers[index], offset + size);
            let bounced = bench.shared.aperture.find(self.places[index]).is_some();
            let seed = index + usize::from(bounced && dir.device_writes());
            check!(shows(buffer, seed, offset, end), "{index} {dir:?}");
            check!(shows(buffer, index, 0, offset), "{index} {dir:?}: before");
            let behind = shows(buffer, index, end, buffer.size());
            check!(behind, "{index} {dir:?}: behind");
        }
        check!(bench.in_use() == 0, "{}", bench.in_use());
        Ok(())
    }

    /// A driver syncs one buffer in the middle, by its address, and a part of it; and then all.
    fn check_sync(&mut self, bench: &Bench, dir: Direction) -> Result {
        let index = self.parts.len() / 2;
        let ((_, offset, size), at) = (self.parts[index], self.places[index]);
        let bounced = bench.shared.aperture.find(at).is_some();
        let wrote = bounced && dir.device_writes();
        let half = size / 2;
        if half > 0 && wrote {
            client::sync_for_cpu(bench.dev(), at, half, dir);
            let buffer = &self.buffers[index];
            check!(shows(buffer, index + 1, offset, offset + half));
            check!(shows(buffer, index, offset + half, buffer.size()));
            client::sync_for_device(bench.dev(), at, half, dir);
        }
        if dir == Direction::BIDIRECTIONAL {
            self.list.sync_for_cpu(bench.dev(), dir);
            for (index, &(_, offset, size)) in self.parts.iter().enumerate() {
                let bounced = bench.shared.aperture.find(self.places[index]).is_some();
                let seed = index + usize::from(bounced);
                let buffer = &self.buffers[index];
                check!(
                    shows(buffer, seed, offset, offset + size),
                    "{index}: synced"
                );
            }
            self.list.sync_for_device(bench.dev(), dir);
        }
        Ok(())
    }
}

/// A device that allows so much.
fn bench(name: &'static CStr, mask: u64, force: bool, allows: Allows) -> Result<Option<Bench>> {
    let Some(bench) = Bench::new(name, mask, force)? else {
        return Ok(None);
    };
    bench.device.set_max_segment(allows.most);
    bench.device.set_boundary(allows.boundary);
    bench.device.set_min_align(allows.min_align);
    Ok(Some(bench))
}

const USUAL: Allows = Allows {
    most: 64 << 10,
    boundary: MASK_32,
    min_align: 0,
};

#[kunit_tests(xen_dma_lists)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_travels() -> Result {
        let allowed = [
            USUAL,
            Allows {
                most: 4096,
                ..USUAL
            },
            Allows {
                most: u32::MAX,
                ..USUAL
            },
            Allows {
                boundary: 0xffff,
                ..USUAL
            },
            Allows {
                min_align: 0xfff,
                ..USUAL
            },
            Allows {
                min_align: 0x1ff,
                ..USUAL
            },
        ];
        // Pages, halves of pages, odd pieces, and what is larger than a page.
        let mixed = |index: usize| match index % 11 {
            0..=3 => (0, 0, PAGE_SIZE),
            4 => (0, 0, 2048),
            5 => (0, index % 7 * 100, 1 + index * 29 % 3000),
            6 => (0, 2048, 2048),
            7 => (2, 0, 3 * PAGE_SIZE),
            8 => (2, 512, 9000),
            9 => (4, 0, 16 * PAGE_SIZE),
            _ => (0, 1, PAGE_SIZE - 1),
        };
        let small = |index: usize| match index % 3 {
            0 => (0, index % 7 * 100, 1 + index * 29 % 3000),
            _ => (0, 0, PAGE_SIZE),
        };
        for (mask, force) in [(MASK_64, false), (MASK_32, false), (MASK_32, true)] {
            for allows in allowed {
                let Some(bench) = bench(c"xen-dma-kinds", mask, force, allows)? else {
                    return Ok(());
                };
                // Of one piece, for every kind of it, and of several.
                let alone = (0..11).map(|kind| (kind, 1));
                for (first, count) in Iterator::chain(alone, [(0, 2), (0, 40)]) {
                    for dir in DIRECTIONS {
                        let part = |index| match allows.most {
                            4096 => small(first + index),
                            _ => mixed(first + index),
                        };
                        let mut load = Load::new(count, part)?;
                        load.map(&bench, allows, dir)
                            .and_then(|()| load.check_bytes(&bench, dir))
                            .inspect_err(|_| {
                                pr_err!("{mask:#x} {force} {first} {count} {allows:?}\n")
                            })?;
                    }
                }
                bench.done()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_list_that_bounces_is_one_segment() -> Result {
        // More entries than a page holds, so that the list has links.
        for (most, boundary, count, segments) in [
            (u32::MAX, MASK_32, 200, 1),
            (64 << 10, MASK_32, 128, 8),
            (4096, MASK_32, 50, 50),
            (u32::MAX, 0xffff, 128, 8),
        ] {
            let allows = Allows {
                most,
                boundary,
                ..USUAL
            };
            let Some(bench) = bench(c"xen-dma-one", MASK_32, true, allows)? else {
                return Ok(());
            };
            let mut load = Load::new(count, |_| (0, 0, PAGE_SIZE))?;
            load.map(&bench, allows, Direction::BIDIRECTIONAL)?;
            let seen = load.list.mapped().count();
            check!(seen == segments, "{seen}, not {segments}");
            check!(bench.in_use() == (count * PAGE_SIZE) as u64);
            load.check_bytes(&bench, Direction::BIDIRECTIONAL)?;
            check!(bench.count(Event::Bounce(Reason::Forced)) == count as u64);
            check!(bench.count(Event::BounceUnmap) == count as u64);
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn direct_neighbours_are_one_segment() -> Result {
        let Some(bench) = bench(c"xen-dma-near", MASK_64, false, USUAL)? else {
            return Ok(());
        };
        let large = Buffer::new(5)?;
        let parts = (0..16).map(|page| (&large, page * PAGE_SIZE, PAGE_SIZE));
        let mut list = List::of_parts(16, parts)?;
        list.map(bench.dev(), Direction::TO_DEVICE, Attrs::NONE)?;
        let mut breaks = 0;
        let mut last = None;
        for page in large.machine_pages().take(16) {
            breaks += usize::from(last != Some(page));
            last = page.checked_add(PAGE_SIZE as u64);
        }
        let seen = list.mapped().count();
        check!(seen == breaks, "{seen}, not {breaks}");
        check!(bench.count(Event::Direct) == breaks as u64);
        check!(bench.count(Event::DirectBytes) == 16 * PAGE_SIZE as u64);
        list.unmap(bench.dev(), Direction::TO_DEVICE, Attrs::NONE);
        check!(bench.count(Event::DirectUnmap) == breaks as u64);
        bench.done()
    }

    #[test]
    fn a_segment_ends_as_a_whole() -> Result {
        let Some(bench) = bench(c"xen-dma-whole", MASK_32, true, USUAL)? else {
            return Ok(());
        };
        let (dev, backend, dir) = (bench.dev(), bench.backend(), Direction::FROM_DEVICE);
        let mut load = Load::new(8, |_| (0, 0, PAGE_SIZE))?;
        load.map(&bench, USUAL, dir)?;
        let size = 8 * PAGE_SIZE;
        let start = load.places[0];
        check!(load.list.mapped().eq([(start, size)]));
        let scratch = Load::new(8, |_| (0, 0, PAGE_SIZE))?;
        for (index, at) in load.places.iter().enumerate() {
            bench.poke(*at, &scratch.buffers[(index + 1) % 8], 0, PAGE_SIZE)?;
        }

        // A part of it is no mapping.
        for inner in [load.places[1], load.places[7]] {
            backend.unmap(dev, inner, PAGE_SIZE, dir, Attrs::NONE);
        }
        check!(bench.wrongs(Wrong::NotHead) == 2);
        check!(bench.in_use() == size as u64);

        // A sync may go from one buffer into the next, and not beyond the last.
        backend.sync_for_cpu(dev, after(start, 2048), PAGE_SIZE, dir);
        check!(shows(&load.buffers[0], 0, 0, 2048) && shows(&load.buffers[0], 1, 2048, PAGE_SIZE));
        check!(shows(&load.buffers[1], 2, 0, 2048) && shows(&load.buffers[1], 1, 2048, PAGE_SIZE));
        backend.sync_for_cpu(dev, after(start, 2048), size, dir);
        check!(bench.wrongs(Wrong::Range) == 1);
        check!((2..8).all(|index| shows(&load.buffers[index], index, 0, PAGE_SIZE)));

        // Less than all of it ends all of it, and copies what was asked for.
        backend.unmap(dev, start, 5 * PAGE_SIZE + 100, dir, Attrs::NONE);
        check!(bench.wrongs(Wrong::Size) == 1);
        check!((0..5).all(|index| shows(&load.buffers[index], index + 1, 0, PAGE_SIZE)));
        check!(shows(&load.buffers[5], 6, 0, 100) && shows(&load.buffers[5], 5, 100, PAGE_SIZE));
        check!((6..8).all(|index| shows(&load.buffers[index], index, 0, PAGE_SIZE)));
        check!(backend.counters.outstanding() == 0);

        // As DMA_API_DEBUG wants it; all is gone.
        load.list.unmap(dev, dir, Attrs::NONE);
        check!(bench.wrongs(Wrong::NotMapped) == 1);
        bench.empty()
    }

    #[test]
    fn a_list_takes_what_room_there_is() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-scattered", MASK_32, true, 1)? else {
            return Ok(());
        };
        let dir = Direction::TO_DEVICE;
        let page = Buffer::new(0)?;
        let mut live = KVVec::new();
        while let Ok(at) = client::map(bench.dev(), page.phys(), PAGE_SIZE, dir, Attrs::NO_WARN) {
            live.push(at, GFP_KERNEL)?;
        }
        // Every second page is free, so that no two buffers can be neighbours.
        live.sort_unstable();
        for (index, &at) in live.iter().enumerate() {
            if index % 2 == 0 {
                client::unmap(bench.dev(), at, PAGE_SIZE, dir, Attrs::NONE);
            }
        }
        let before = bench.in_use();
        let mut load = Load::new(60, |_| (0, 0, PAGE_SIZE))?;
        load.map(&bench, USUAL, dir)?;
        check!(load.list.mapped().count() == 60);
        check!(bench.in_use() == before + 60 * PAGE_SIZE as u64);
        load.list.unmap(bench.dev(), dir, Attrs::NONE);
        check!(bench.in_use() == before);

        // More than there is fails as a whole.
        let full = Load::new(live.len(), |_| (0, 0, PAGE_SIZE))?.list.map(
            bench.dev(),
            dir,
            Attrs::NO_WARN,
        );
        check!(full == Err(ENOMEM), "{full:?}");
        check!(bench.in_use() == before);
        for at in live.iter().skip(1).step_by(2) {
            client::unmap(bench.dev(), *at, PAGE_SIZE, dir, Attrs::NONE);
        }
        bench.done()
    }

    #[test]
    fn errors_tell_whether_to_try_again() -> Result {
        for (cause, errno) in [
            (Cause::Full, AGAIN),
            (Cause::NoMemory, AGAIN),
            (Cause::PeerMemory, PEER),
            (Cause::TooLarge, NEVER),
            (Cause::Impossible, NEVER),
            (Cause::Unreachable, NEVER),
            (Cause::RequireCoherent, NEVER),
            (Cause::Empty, NEVER),
            (Cause::Wraps, NEVER),
            (Cause::Hole, NEVER),
        ] {
            check!(cause.error().to_errno() == errno, "{cause:?}");
        }

        let Some(bench) = Bench::with(c"xen-dma-errors", MASK_32, true, 1)? else {
            return Ok(());
        };
        let (dev, dir, quiet) = (bench.dev(), Direction::TO_DEVICE, Attrs::NO_WARN);
        let page = Buffer::new(0)?;
        // What is full now has room later.
        let mut live = KVVec::new();
        while let Ok(at) = client::map(dev, page.phys(), PAGE_SIZE, dir, quiet) {
            live.push(at, GFP_KERNEL)?;
        }
        let mut loads = [
            Load::new(1, |_| (0, 0, PAGE_SIZE))?,
            Load::new(4, |_| (0, 0, PAGE_SIZE))?,
        ];
        for load in &mut loads {
            for _ in 0..2 {
                check!(load.list.map(dev, dir, quiet).map_err(Error::to_errno) == Err(AGAIN));
            }
        }
        for at in live.iter() {
            client::unmap(dev, *at, PAGE_SIZE, dir, quiet);
        }
        for load in &mut loads {
            load.list.map(dev, dir, quiet)?;
            load.list.unmap(dev, dir, quiet);
        }

        // What is larger than the aperture never fits, however much of it is free.
        let mut load = Load::new(2, |index| (9 * index as u32, 0, PAGE_SIZE << (9 * index)))?;
        for _ in 0..2 {
            check!(load.list.map(dev, dir, quiet).map_err(Error::to_errno) == Err(NEVER));
        }
        // What is no memory is another device's.
        let mut list = RawList::new(2)?;
        list.set(0, Some(&page), 0, PAGE_SIZE as u32)?;
        list.set(1, None, 0, PAGE_SIZE as u32)?;
        check!(list.map(dev, 2, dir, quiet)? == PEER);
        list.set(0, None, 0, PAGE_SIZE as u32)?;
        check!(list.map(dev, 1, dir, quiet)? == PEER);
        bench.done()
    }
}
