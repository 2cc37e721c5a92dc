// SPDX-License-Identifier: GPL-2.0

//! `Slots` against a model with one owner for each slot.
//!
//! The model knows nothing of words and chunks' states; it checks each answer by looking at every
//! place where a run could have been. It serves the property tests and the fuzz targets.

use crate::{ensure, ensure_eq, extent, Extent, Verdict};
use dma_core::{
    addr::{Machine, Phys, PAGE_SIZE},
    bundle::Leaving,
    limits::Limits,
    record::{Misuse, Owner, Record},
    request::{ClaimError, Request, CHUNK_SLOTS, SLOT_SIZE},
};

mod lists;

/// Where the model's extent lies.
pub const BASE: u64 = 0x4000_0000;

/// Owners in use. Each has a neighbour that is another.
pub const OWNERS: u32 = 4;

/// How many steps the sums are taken after.
const COUNT_EVERY: usize = 8;

/// What a mapping asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The buffer.
    pub phys: u64,
    /// Its size in bytes, from 1 on.
    pub size: usize,
    /// The device's segment boundary mask.
    pub boundary: u64,
    /// The low address bits that the device relies on, as a mask.
    pub min_align: u64,
    /// The processor that asks.
    pub cpu: usize,
    /// For whom, below [`OWNERS`].
    pub owner: u32,
}

impl Ask {
    fn limits(&self) -> Limits {
        Limits::new(!0, 0, self.boundary, self.min_align)
    }

    fn owner(&self) -> Owner {
        Owner::new(self.owner).expect("a small number")
    }

    /// May the mapping begin at this machine address, as far as the device is concerned?
    fn obeys(&self, start: u64) -> bool {
        let last = start + self.size as u64 - 1;
        let window = self.boundary.wrapping_add(1);

        (start ^ self.phys) & self.min_align == 0
            && (window == 0 || self.size as u64 > window || start / window == last / window)
    }

    /// Is it one of those that may be carried? The others take the long way.
    fn is_plain(&self) -> bool {
        self.min_align == 0
            && self.boundary >= PAGE_SIZE - 1
            && self.phys % PAGE_SIZE + self.size as u64 <= PAGE_SIZE
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A mapping in two steps: claim and publish.
    Map(Ask),
    /// As the driver does: carried if it may be and there is room at hand, or else in two steps.
    Carry(Ask),
    /// A list: room for so many buffers, of which this is one, is claimed together, and some is used.
    List(Ask, usize),
    /// The mapping with this number ends: by the short way, if that is asked for and allowed.
    Unmap(usize, bool),
    /// So many mappings end as a list, from the one with this number on.
    UnmapList(usize, usize),
    /// A run is claimed and given back unused.
    Cancel(Ask),
    /// A look-up of an address, whatever is there.
    Look(u64),
    /// A processor was served last in this chunk, or says so.
    Hint(usize, usize),
}

/// A mapping that is live.
struct Live {
    record: Record,
    /// Does it begin with its run, whatever its address?
    plain: bool,
    /// Those behind it, in the same segment of a list.
    followers: Vec<Record>,
}

impl Live {
    fn alone(record: Record, plain: bool) -> Self {
        Self {
            record,
            plain,
            followers: Vec::new(),
        }
    }

    /// All mappings of the segment.
    fn records(&self) -> impl Iterator<Item = &Record> {
        std::iter::once(&self.record).chain(&self.followers)
    }
}

/// How many slots a buffer needs.
fn slots_of(size: usize) -> usize {
    size.div_ceil(SLOT_SIZE as usize)
}

/// An extent, and what should be in it.
pub struct Model {
    extent: Extent,
    used: Vec<bool>,
    live: Vec<Live>,
    /// Where each processor was served last.
    near: Vec<usize>,
    /// Slots that large runs leave alone, from the first one on.
    reserve: usize,
    steps: usize,
}

impl Model {
    /// An empty extent of `slots`, for `processors`; with a `reserve` or without.
    pub fn new(slots: usize, processors: usize, reserve: bool) -> Self {
        let mut extent = extent(BASE, slots, processors);
        if reserve {
            extent = extent.with_reserve();
        }
        Self {
            near: (0..processors).map(|cpu| extent.home(cpu)).collect(),
            reserve: if reserve {
                (slots / 8).max(CHUNK_SLOTS)
            } else {
                0
            },
            extent,
            used: vec![false; slots],
            live: Vec::new(),
            steps: 0,
        }
    }

    /// The extent.
    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    /// How many mappings are live.
    pub fn mapped(&self) -> usize {
        self.live.len()
    }

    /// Does one operation, and checks what came of it.
    pub fn step(&mut self, step: &Step) -> Verdict {
        match step {
            Step::Map(ask) => self.map(ask)?,
            Step::Carry(ask) => self.carry(ask)?,
            Step::List(ask, count) => self.list(ask, *count)?,
            Step::Unmap(at, short) => self.unmap(*at, *short)?,
            Step::UnmapList(at, count) => self.unmap_list(*at, *count)?,
            Step::Cancel(ask) => self.cancel(ask)?,
            Step::Look(at) => self.look(*at)?,
            Step::Hint(cpu, near) => {
                let cpu = cpu % self.near.len();
                self.near[cpu] = *near;
            }
        }
        self.steps += 1;
        if self.steps % COUNT_EVERY == 0 {
            self.count()?;
        }
        Ok(())
    }

    fn free(&self, range: std::ops::Range<usize>) -> bool {
        range.end <= self.used.len() && !self.used[range].contains(&true)
    }

    /// Is there a run that keeps the allocator's own rules? If `ever`, then in an empty extent.
    fn has_room(&self, ask: &Ask, ever: bool) -> bool {
        let inside = ask.phys & ask.min_align & (SLOT_SIZE - 1);
        let slots = (inside + ask.size as u64).div_ceil(SLOT_SIZE) as usize;
        let start = |slot: usize| BASE + slot as u64 * SLOT_SIZE + inside;

        // In a chunk: anywhere.
        let small = slots <= CHUNK_SLOTS
            && (0..self.used.len()).any(|first| {
                let end = first + slots;
                end <= self.used.len()
                    && first / CHUNK_SLOTS == (end - 1) / CHUNK_SLOTS
                    && (ever || !self.used[first])
                    && ask.obeys(start(first))
                    && (ever || self.free(first..end))
            });
        // Across chunks: whole ones above the reserve, and only if no chunk could hold it.
        small
            || (self.reserve..self.used.len()).any(|first| {
                let chunk = first / CHUNK_SLOTS * CHUNK_SLOTS;
                let end = (first + slots).next_multiple_of(CHUNK_SLOTS);
                end - chunk > CHUNK_SLOTS
                    && end <= self.used.len()
                    && ask.obeys(start(first))
                    && (ever || self.free(chunk..end))
            })
    }

    /// Checks the slots that a run was given, and notes them.
    fn take(&mut self, first: usize, slots: usize) -> Verdict {
        let end = first + slots;
        ensure!(self.free(first..end), "{first} to {end} overlap");
        self.used[first..end].fill(true);
        Ok(())
    }

    /// Maps a buffer in two steps.
    pub fn map(&mut self, ask: &Ask) -> Verdict {
        let Some((run, offset)) = self.claim(ask)? else {
            return Ok(());
        };
        let (phys, slots) = (Phys::new(ask.phys), run.slots());
        let start = run.start().raw() + offset;
        let record = self.extent.publish(run, phys, ask.size, ask.owner());
        let record = record.map_err(|_| String::from("not published"))?;

        ensure_eq!(record.start().raw(), start);
        ensure_eq!(record.slots(), slots);
        ensure_eq!((record.phys(), record.owner()), (phys, ask.owner()));
        ensure_eq!(record.size(), ask.size as u64);
        if record.is_small() {
            let cpu = ask.cpu % self.near.len();
            self.near[cpu] = record.chunk();
            ensure_eq!(
                record.chunk(),
                (start - BASE) as usize / SLOT_SIZE as usize / CHUNK_SLOTS
            );
        }
        let plain = ask.min_align == 0;
        self.live.push(Live::alone(record, plain));
        Ok(())
    }

    /// Claims a run, and checks it or the reason that there is none.
    fn claim(&mut self, ask: &Ask) -> Result<Option<(dma_core::record::Run, u64)>, String> {
        let phys = Phys::new(ask.phys);
        let near = self.near[ask.cpu % self.near.len()];
        let claimed = self
            .extent
            .request(phys, ask.size, &ask.limits())
            .and_then(|request| {
                let run = self.extent.claim(&request, near)?;
                Ok((run, request.offset(phys)))
            });

        match claimed {
            Ok((run, offset)) => {
                let (first, slots) = ((run.start().raw() - BASE) / SLOT_SIZE, run.slots());
                let start = run.start().raw() + offset;
                let end = BASE + (first + slots as u64) * SLOT_SIZE;
                self.take(first as usize, slots)?;
                ensure!(ask.obeys(start), "{start:x}");
                ensure!(start + ask.size as u64 <= end, "{start:x} to {end:x}");
                ensure!(offset == 0 || ask.min_align != 0, "{offset}");
                return Ok(Some((run, offset)));
            }
            Err(ClaimError::Full) => {
                ensure!(!self.has_room(ask, false), "full, but there is room");
            }
            Err(ClaimError::Impossible) => {
                ensure!(
                    !self.has_room(ask, true),
                    "impossible, but there is a place"
                );
            }
            Err(ClaimError::TooLarge) => {
                let room = self.used.len() as u64 * SLOT_SIZE;
                let needs = ask.size as u64 + (ask.phys & ask.min_align & 0x1ffff);
                ensure!(
                    needs > room || self.reserve != 0,
                    "too large, but {needs} are not more than {room}"
                );
                ensure!(!self.has_room(ask, true), "too large, but there is a place");
            }
        }
        Ok(None)
    }

    /// Maps a buffer as the driver does.
    pub fn carry(&mut self, ask: &Ask) -> Verdict {
        if !ask.is_plain() {
            return self.map(ask);
        }
        let near = self.near[ask.cpu % self.near.len()];
        let (phys, owner) = (Phys::new(ask.phys), ask.owner());
        let chunk = near % (self.used.len() / CHUNK_SLOTS) * CHUNK_SLOTS;
        let slots = ask.size.div_ceil(SLOT_SIZE as usize);

        let Some(at) = self.extent.carry(phys, ask.size, owner, near) else {
            // Nobody else is at it. A chunk without runs may be open or not; any other is open, or
            // it is full.
            let room = (chunk..chunk + CHUNK_SLOTS)
                .step_by(slots)
                .any(|first| self.free(first..first + slots));
            let empty = self.free(chunk..chunk + CHUNK_SLOTS);
            ensure!(!room || empty, "not carried in {chunk}, but there is room");
            return self.map(ask);
        };
        let first = ((at.raw() - BASE) / SLOT_SIZE) as usize;
        ensure_eq!((at.raw() - BASE) % (slots as u64 * SLOT_SIZE), 0);
        ensure_eq!(first / CHUNK_SLOTS * CHUNK_SLOTS, chunk);
        ensure!(ask.obeys(at.raw()), "{at:?}");
        self.take(first, slots)?;

        let record = self.extent.find(at, owner);
        let record = record.map_err(|misuse| format!("carried, but {misuse:?}"))?;
        ensure_eq!((record.start(), record.slots()), (at, slots));
        ensure_eq!((record.phys(), record.size()), (phys, ask.size as u64));
        self.live.push(Live::alone(record, true));
        Ok(())
    }

    fn cancel(&mut self, ask: &Ask) -> Verdict {
        if let Some((run, _)) = self.claim(ask)? {
            let first = ((run.start().raw() - BASE) / SLOT_SIZE) as usize;
            self.used[first..first + run.slots()].fill(false);
            ensure_eq!(self.extent.cancel(run), 0);
        }
        Ok(())
    }

    /// Everything that can be wrong about an unmap, and then the right one.
    pub fn unmap(&mut self, at: usize, short: bool) -> Verdict {
        if self.live.is_empty() {
            return Ok(());
        }
        let live = self.live.swap_remove(at % self.live.len());
        let (record, plain) = (live.record, live.plain && live.followers.is_empty());
        let (start, owner) = (record.start(), record.owner());
        let other = Owner::new(owner.raw() ^ 1).expect("a small number");
        let last = Machine::new(start.raw() + record.size() - 1);
        let extent = &self.extent;
        let size = record.size() as usize;

        ensure_eq!(extent.find(last, owner), Ok(record));
        ensure_eq!(
            extent.retire(start, other).unwrap_err(),
            Misuse::NotOwner { owner }
        );
        ensure!(
            extent.retire_plain(start, size, other).is_none(),
            "{start:?}"
        );
        if last != start {
            ensure_eq!(
                extent.retire(last, owner).unwrap_err(),
                Misuse::NotHead { head: start }
            );
            ensure!(extent.retire_plain(last, size, owner).is_none(), "{last:?}");
        }

        for follower in &live.followers {
            let inner = follower.start();
            ensure_eq!(extent.find(inner, owner), Ok(*follower));
            ensure_eq!(
                extent.retire(inner, owner).unwrap_err(),
                Misuse::NotHead { head: start }
            );
            ensure!(
                extent.retire_plain(inner, size, owner).is_none(),
                "{inner:?}"
            );
            let segment = extent.retire_segment(inner, owner, |_, _, _| ());
            ensure!(segment.is_none(), "{inner:?}");
        }

        if !live.followers.is_empty() {
            ensure_eq!(extent.retire(start, owner).unwrap_err(), Misuse::NotMapped);
            let mut leaving = Leaving::default();
            let ended = self.end_segment(&live)?;
            ensure_eq!(self.extent.free_with(&mut leaving, ended), 0);
            ensure_eq!(self.extent.free_leaving(leaving), 0);
            return Ok(());
        }
        for wrong in [0, size - 1, size + 1, size | (1 << 32)] {
            ensure!(
                extent.retire_plain(start, wrong, owner).is_none(),
                "{start:?}, {wrong}"
            );
        }
        let slot = |at: Machine| ((at.raw() - BASE) / SLOT_SIZE) as usize;
        let (run, phys, slots, strays) = if short && plain {
            let held = extent.retire_plain(start, size, owner).ok_or("not plain")?;
            ensure!(
                extent.retire_plain(start, size, owner).is_none(),
                "{start:?}"
            );
            ensure_eq!(extent.retire(start, owner).unwrap_err(), Misuse::NotMapped);
            (start, held.phys(), held.slots(), held.free())
        } else {
            if !plain {
                ensure!(
                    extent.retire_plain(start, size, owner).is_none(),
                    "{start:?}"
                );
            }
            let held = extent
                .retire(start, owner)
                .map_err(|why| format!("{why:?}"))?;
            ensure_eq!(held.size(), record.size());
            ensure!(
                extent.retire_plain(start, size, owner).is_none(),
                "{start:?}"
            );
            ensure_eq!(extent.retire(start, owner).unwrap_err(), Misuse::NotMapped);
            (held.run(), held.phys(), held.slots(), extent.free(held))
        };
        ensure_eq!((phys, slots), (record.phys(), record.slots()));
        ensure_eq!(strays, 0);

        // A large run may begin with slots before its first byte, and ends with a page if it keeps the
        // place in one.
        let run = slot(run)..slot(run) + slots;
        ensure!(run.start <= slot(start) && slot(last) < run.end, "{run:?}");
        ensure!(run.end - slot(last) <= 2, "{run:?}");
        ensure!(!self.used[run.clone()].contains(&false), "{run:?}");
        self.used[run].fill(false);
        Ok(())
    }

    fn look(&self, at: u64) -> Verdict {
        let covers = |record: &Record| {
            (record.start().raw()..record.start().raw() + record.size()).contains(&at)
        };
        let mut records = self.live.iter().flat_map(Live::records);
        let want = records.find(|record| covers(record)).copied();
        let size = self.used.len() as u64 * SLOT_SIZE;
        let owner = want.map_or(Owner::new(0).expect("a number"), |record| record.owner());
        let found = self.extent.find(Machine::new(at), owner);

        match want {
            Some(record) => {
                let skip = at - record.start().raw();
                let rest = record.size() - skip;
                let part = Some(Phys::new(record.phys().raw() + skip));
                ensure_eq!(found, Ok(record));
                ensure_eq!(record.part(Machine::new(at), rest), part);
                ensure_eq!(record.part(Machine::new(at), rest + 1), None);
            }
            None if (BASE..BASE + size).contains(&at) => {
                ensure_eq!(found, Err(Misuse::NotMapped));
            }
            None => ensure_eq!(found, Err(Misuse::OutOfRange)),
        }
        Ok(())
    }

    /// Compares the sums.
    pub fn count(&self) -> Verdict {
        let used = self.used.iter().filter(|used| **used).count();
        ensure_eq!(self.extent.used(), used);
        ensure_eq!(self.extent.available(), self.used.len() - used);
        ensure_eq!(self.extent.is_idle(), used == 0);
        // A byte may still tell of room that is gone.
        let full = used == self.used.len();
        ensure!(full || !self.extent.is_full(), "not full");

        let (mut most, mut whole) = (0, 0);
        for (index, chunk) in self.used.chunks(CHUNK_SLOTS).enumerate() {
            let inside = chunk.split(|used| *used).map(<[bool]>::len).max();
            let inside = inside.unwrap_or(0);
            whole = if inside == CHUNK_SLOTS && index >= self.reserve / CHUNK_SLOTS {
                whole + inside
            } else {
                0
            };
            most = most.max(inside).max(whole);
        }
        ensure_eq!(self.extent.largest_free_run(), most);
        Ok(())
    }

    /// Empties the extent, and takes all of it in one piece: all but the reserve.
    pub fn finish(mut self) -> Verdict {
        while !self.live.is_empty() {
            ensure!(self.extent.seize().is_none(), "seized, but in use");
            self.unmap(self.live.len() / 2, self.live.len() % 2 == 0)?;
        }
        self.count()?;

        let most = self.used.len() - self.reserve;
        if self.reserve != 0 {
            let more = Request::new(most + 1).ok_or("no slots")?;
            ensure_eq!(
                self.extent.claim(&more, 0).unwrap_err(),
                ClaimError::TooLarge
            );
        }
        let all = Request::new(most).ok_or("no slots")?;
        let run = self.extent.claim(&all, 0);
        let run = run.map_err(|error| format!("{error:?}"))?;
        ensure_eq!(self.extent.available(), self.reserve);
        ensure_eq!(self.extent.cancel(run), 0);

        let seized = self.extent.seize();
        let seized = seized.ok_or("an idle extent cannot be seized")?;
        ensure!(self.extent.seize().is_none(), "seized twice");
        let one = Request::new(1).ok_or("no slot")?;
        ensure_eq!(self.extent.claim(&one, 0).unwrap_err(), ClaimError::Full);
        ensure!(self.extent.is_full(), "nothing is free, and it is not full");
        ensure!(self.extent.unseize(seized).is_ok(), "not its own token");
        self.count()
    }
}
