// SPDX-License-Identifier: GPL-2.0

//! The model's lists: room that is claimed for many buffers, and the segments in it.

use super::{slots_of, Ask, Live, Model, BASE};
use crate::{ensure, ensure_eq, Verdict};
use dma_core::{
    addr::{Machine, Phys, PAGE_SIZE},
    bundle::{bundled_slots, Bundle, Ended, Leaving},
    limits::Limits,
    record::{Held, Misuse, Owner, Record},
    request::{CHUNK_SLOTS, SLOT_SIZE},
    segment::{Segment, SegmentLimits},
};

impl Model {
    /// Carries buffers of several sizes in room that is claimed together; some of it is left in the end.
    pub(super) fn list(&mut self, ask: &Ask, count: usize) -> Verdict {
        let near = self.near[ask.cpu % self.near.len()];
        let (seed, owner) = (ask.phys as usize / 4096, ask.owner());
        let sizes: Vec<usize> = (0..count)
            .map(|index| match (seed + index) % 5 {
                0 => ask.size,
                1 => SLOT_SIZE as usize * (1 + seed % 80),
                2 => 3 * ask.size,
                _ => PAGE_SIZE as usize,
            })
            .collect();
        let wanted: usize = sizes.iter().map(|size| bundled_slots(*size)).sum();
        if wanted == 0 {
            return Ok(());
        }
        let mut bundle = match self.extent.claim_bundle(wanted, near) {
            Some(bundle) => bundle,
            None => {
                ensure!(!self.has_run(wanted), "no run, but there is one");
                let Some(bundle) = self.extent.claim_scattered(wanted, near) else {
                    let chunk = near % (self.used.len() / CHUNK_SLOTS) * CHUNK_SLOTS;
                    let chunk = chunk..chunk + CHUNK_SLOTS;
                    let full = !self.used[chunk.clone()].contains(&false);
                    ensure!(full || self.free(chunk), "nothing, but there are slots");
                    return Ok(());
                };
                bundle
            }
        };

        // Every fourth buffer is not mapped in the end.
        let most = 1 << (12 + seed % 8);
        let limits = SegmentLimits::new(&Limits::new(!0, 0, 0xffff, 0), most);
        let mut segment = Segment::NONE;
        let mut last = Machine::new(0);
        for (index, size) in sizes.into_iter().enumerate() {
            let phys = Phys::new(ask.phys + index as u64 * 0x10_0000);
            let Some(place) = self.extent.place_in(&mut bundle, size) else {
                continue;
            };
            let at = place.start();
            self.place(at, size)?;
            if index % 4 == 3 {
                let first = ((at.raw() - BASE) / SLOT_SIZE) as usize;
                self.used[first..first + slots_of(size)].fill(false);
                self.extent.unplace(&mut bundle, place, size);
                continue;
            }
            let joined = segment.extend(at, size as u64, true);
            self.extent.carry_in(place, phys, size, owner, joined);
            if joined {
                self.extent.lead(segment.start());
            }
            let record = self.extent.find(at, owner);
            let record = record.map_err(|misuse| format!("carried, but {misuse:?}"))?;
            ensure_eq!((record.start(), record.slots()), (at, slots_of(size)));
            ensure_eq!((record.phys(), record.size()), (phys, size as u64));
            ensure_eq!((record.follows(), record.leads()), (joined, false));
            if joined {
                self.join(record, last, owner)?;
            } else {
                segment = Segment::new(at, size as u64, true, &limits);
                self.live.push(Live::alone(record, true));
            }
            last = at;
            if seed % 2 == 0 {
                let pages = (phys, seed / 2 % 40);
                last = self.list_pages(&mut bundle, &mut segment, pages, last, owner)?;
            }
        }
        self.leave(bundle)
    }

    /// Carries up to so many pages right behind the last mapping. Returns where the last one is.
    fn list_pages(
        &mut self,
        bundle: &mut Bundle,
        segment: &mut Segment,
        (phys, wanted): (Phys, usize),
        last: Machine,
        owner: Owner,
    ) -> Result<Machine, String> {
        let Some(next) = self.extent.page_in(bundle) else {
            return Ok(last);
        };
        let most = (segment.room_at(next) / PAGE_SIZE) as usize;
        let mut pages = Vec::new();
        let carried = self.extent.carry_pages(bundle, most, owner, |at| {
            let phys = Phys::new(phys.raw() + (pages.len() as u64 + 1) * PAGE_SIZE);
            (pages.len() < wanted).then(|| {
                pages.push((at, phys));
                phys
            })
        });
        ensure_eq!(carried, pages.len());

        let mut last = last;
        for (at, phys) in pages {
            self.place(at, PAGE_SIZE as usize)?;
            ensure!(segment.extend(at, PAGE_SIZE, true), "not behind the last");
            self.extent.lead(segment.start());
            let record = self.extent.find(at, owner);
            let record = record.map_err(|misuse| format!("carried, but {misuse:?}"))?;
            ensure_eq!((record.start(), record.size()), (at, PAGE_SIZE));
            ensure_eq!((record.phys(), record.follows()), (phys, true));
            self.join(record, last, owner)?;
            last = at;
        }
        if carried < wanted.min(most) {
            let behind = Machine::new(last.raw() + PAGE_SIZE);
            ensure!(
                self.extent.page_in(bundle) != Some(behind),
                "one more had room"
            );
        }
        Ok(last)
    }

    /// Is there a run of so many slots, for a list?
    fn has_run(&self, slots: usize) -> bool {
        let slots = slots.next_multiple_of(2);
        let (from, step, needs) = if slots <= CHUNK_SLOTS {
            (0, 1, slots)
        } else {
            let whole = slots.next_multiple_of(CHUNK_SLOTS);
            (self.reserve, CHUNK_SLOTS, whole)
        };
        (from..self.used.len()).step_by(step).any(|first| {
            let in_chunk = first % CHUNK_SLOTS + slots <= CHUNK_SLOTS || slots > CHUNK_SLOTS;
            in_chunk && self.free(first..first + needs)
        })
    }

    /// Checks the place of a buffer, and notes it.
    fn place(&mut self, at: Machine, size: usize) -> Verdict {
        let (first, slots) = (((at.raw() - BASE) / SLOT_SIZE) as usize, slots_of(size));
        ensure!(at.raw() % SLOT_SIZE == 0, "{at:?}");
        ensure!(slots == 1 || at.raw() % PAGE_SIZE == 0, "{at:?}");
        ensure_eq!(first / CHUNK_SLOTS, (first + slots - 1) / CHUNK_SLOTS);
        self.take(first, slots)
    }

    /// Notes a mapping that is part of the last segment.
    fn join(&mut self, record: Record, last: Machine, owner: Owner) -> Verdict {
        let before = self.extent.find(last, owner);
        let before = before.map_err(|misuse| format!("before it: {misuse:?}"))?;
        ensure_eq!(before.end(), record.start());
        ensure_eq!(before.size() % SLOT_SIZE, 0);
        ensure!(before.leads() != before.follows(), "{before:?}");

        let segment = self.live.last_mut().ok_or("no segment")?;
        match segment.followers.last_mut() {
            Some(last) => *last = before,
            None => segment.record = before,
        }
        segment.followers.push(record);
        Ok(())
    }

    /// Gives back what of a bundle is left.
    fn leave(&mut self, bundle: Bundle) -> Verdict {
        ensure_eq!(self.extent.return_bundle(bundle), 0);
        self.count()
    }

    /// Ends mappings together.
    pub(super) fn unmap_list(&mut self, at: usize, count: usize) -> Verdict {
        let mut leaving = Leaving::default();
        for _ in 0..count.min(self.live.len()) {
            let live = self.live.swap_remove(at % self.live.len());
            let (start, owner) = (live.record.start(), live.record.owner());
            if live.plain {
                let ended = self.end_segment(&live)?;
                ensure_eq!(self.extent.free_with(&mut leaving, ended), 0);
            } else {
                let segment = self.extent.retire_segment(start, owner, |_, _, _| ());
                ensure!(segment.is_none(), "not a list's");
                let held = self.extent.retire(start, owner);
                let held = held.map_err(|why| format!("{why:?}"))?;
                self.let_go(&held);
                ensure_eq!(self.extent.free(held), 0);
            }
        }
        ensure_eq!(self.extent.free_leaving(leaving), 0);
        Ok(())
    }

    /// The slots of a mapping are nobody's.
    fn let_go(&mut self, held: &Held) {
        let first = ((held.run().raw() - BASE) / SLOT_SIZE) as usize;
        self.used[first..first + held.slots()].fill(false);
    }

    /// Ends the mappings of a segment, and checks what is said of each.
    pub(super) fn end_segment(&mut self, live: &Live) -> Result<Ended, String> {
        let (start, owner) = (live.record.start(), live.record.owner());
        let mut seen = Vec::new();
        let ended = self.extent.retire_segment(start, owner, |at, phys, size| {
            seen.push((Machine::new(BASE + at as u64), phys, size as u64));
        });
        let ended = ended.ok_or("not a list's")?;
        let want: Vec<_> = live
            .records()
            .map(|record| (record.start(), record.phys(), record.size()))
            .collect();
        ensure_eq!(seen, want);
        ensure_eq!(ended.count(), want.len() as u64);
        ensure_eq!(ended.bytes(), want.iter().map(|one| one.2).sum::<u64>());
        for record in live.records() {
            let first = ((record.start().raw() - BASE) / SLOT_SIZE) as usize;
            self.used[first..first + record.slots()].fill(false);
            let gone = self.extent.find(record.start(), owner);
            ensure_eq!(gone, Err(Misuse::NotMapped));
        }
        Ok(ended)
    }
}
