// SPDX-License-Identifier: GPL-2.0

//! `Slots` against a model with one owner for each slot.
//!
//! The model knows nothing of words and chunks' states; it checks each answer by looking at every
//! place where a run could have been.

#![cfg(not(loom))]

use dma_core::{
    addr::{Machine, Phys},
    limits::Limits,
    record::{Misuse, Owner, Record},
    request::{ClaimError, Request, CHUNK_SLOTS, SLOT_SIZE},
};
use dma_core_tests::{config, extent, Extent};
use proptest::prelude::*;

const BASE: u64 = 0x4000_0000;

struct Model {
    extent: Extent,
    used: Vec<bool>,
    live: Vec<Record>,
}

/// What a mapping asks for.
#[derive(Clone, Copy, Debug)]
struct Ask {
    phys: u64,
    size: usize,
    boundary: u64,
    min_align: u64,
    cpu: usize,
    owner: u32,
}

impl Ask {
    fn limits(&self) -> Limits {
        Limits::new(!0, 0, self.boundary, self.min_align)
    }

    /// May the mapping begin at this machine address, as far as the device is concerned?
    fn obeys(&self, start: u64) -> bool {
        let last = start + self.size as u64 - 1;
        let window = self.boundary.wrapping_add(1);

        (start ^ self.phys) & self.min_align == 0
            && (window == 0 || self.size as u64 > window || start / window == last / window)
    }
}

impl Model {
    fn new(slots: usize, processors: usize) -> Self {
        Self {
            extent: extent(BASE, slots, processors),
            used: vec![false; slots],
            live: Vec::new(),
        }
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
        let small = (0..self.used.len()).any(|first| {
            let end = first + slots;
            end <= self.used.len()
                && first / CHUNK_SLOTS == (end - 1) / CHUNK_SLOTS
                && (ever || self.free(first..end))
                && ask.obeys(start(first))
        });
        // Across chunks: whole ones, and only if no chunk could hold it.
        small
            || (0..self.used.len()).any(|first| {
                let chunk = first / CHUNK_SLOTS * CHUNK_SLOTS;
                let end = (first + slots).next_multiple_of(CHUNK_SLOTS);
                end - chunk > CHUNK_SLOTS
                    && end <= self.used.len()
                    && (ever || self.free(chunk..end))
                    && ask.obeys(start(first))
            })
    }

    fn map(&mut self, ask: &Ask) -> Result<(), TestCaseError> {
        let phys = Phys::new(ask.phys);
        let claimed = self
            .extent
            .request(phys, ask.size, &ask.limits())
            .and_then(|request| {
                let run = self.extent.claim(&request, ask.cpu)?;
                Ok((request.offset(phys), run))
            });

        match claimed {
            Ok((offset, run)) => {
                let (first, slots) = ((run.start().raw() - BASE) / SLOT_SIZE, run.slots());
                let first = first as usize;
                let start = run.start().raw() + offset;
                let end = first + slots;
                prop_assert!(self.free(first..end), "{} to {} overlap", first, end);
                prop_assert!(ask.obeys(start), "{:x}", start);
                prop_assert!(start + ask.size as u64 <= BASE + end as u64 * SLOT_SIZE);
                prop_assert!(offset == 0 || ask.min_align != 0);
                self.used[first..end].fill(true);

                let owner = Owner::new(ask.owner).unwrap();
                let record = self.extent.publish(run, phys, ask.size, owner);
                let record = record.map_err(|_| TestCaseError::fail("not published"))?;
                prop_assert_eq!(record.start().raw(), start);
                prop_assert_eq!(record.slots(), slots);
                prop_assert_eq!((record.phys(), record.owner()), (phys, owner));
                prop_assert_eq!(record.size(), ask.size as u64);
                self.live.push(record);
            }
            Err(ClaimError::Full) => {
                prop_assert!(!self.has_room(ask, false), "full, but there is room");
            }
            Err(ClaimError::Impossible) => {
                prop_assert!(
                    !self.has_room(ask, true),
                    "impossible, but there is a place"
                );
            }
            Err(ClaimError::TooLarge) => {
                let room = self.used.len() as u64 * SLOT_SIZE;
                prop_assert!(ask.size as u64 + (ask.phys & ask.min_align & 0x1ffff) > room);
            }
        }
        Ok(())
    }

    /// Everything that can be wrong about an unmap, and then the right one.
    fn unmap(&mut self, at: usize) -> Result<(), TestCaseError> {
        if self.live.is_empty() {
            return Ok(());
        }
        let record = self.live.swap_remove(at % self.live.len());
        let (start, owner) = (record.start(), record.owner());
        let other = Owner::new(owner.raw() ^ 1).unwrap();
        let last = Machine::new(start.raw() + record.size() - 1);

        prop_assert_eq!(self.extent.find(last, owner), Ok(record));
        let wrong = self.extent.retire(start, other).unwrap_err();
        prop_assert_eq!(wrong, Misuse::NotOwner { owner });
        if last != start {
            let wrong = self.extent.retire(last, owner).unwrap_err();
            prop_assert_eq!(wrong, Misuse::NotHead { head: start });
        }

        let held = self.extent.retire(start, owner);
        let held = held.map_err(|misuse| TestCaseError::fail(format!("{misuse:?}")))?;
        prop_assert_eq!((held.phys(), held.size()), (record.phys(), record.size()));
        prop_assert_eq!(held.slots(), record.slots());
        prop_assert_eq!(
            self.extent.retire(start, owner).unwrap_err(),
            Misuse::NotMapped
        );
        prop_assert_eq!(self.extent.free(held), 0);
        let first = ((start.raw() - BASE) / SLOT_SIZE) as usize;
        // A large run may begin with slots before its first byte.
        let lead = record.slots() - (last.raw() / SLOT_SIZE - start.raw() / SLOT_SIZE + 1) as usize;
        self.used[first - lead..first - lead + record.slots()].fill(false);
        Ok(())
    }

    /// Looks up an address, whatever is there.
    fn look(&self, at: u64) -> Result<(), TestCaseError> {
        let want = self.live.iter().find(|record| {
            (record.start().raw()..record.start().raw() + record.size()).contains(&at)
        });
        let size = self.used.len() as u64 * SLOT_SIZE;
        let owner = want.map_or(Owner::new(0).unwrap(), Record::owner);
        let found = self.extent.find(Machine::new(at), owner);

        match want {
            Some(record) => {
                let (skip, rest) = (
                    at - record.start().raw(),
                    record.start().raw() + record.size() - at,
                );
                let part = Some(Phys::new(record.phys().raw() + skip));
                prop_assert_eq!(found, Ok(*record));
                prop_assert_eq!(record.part(Machine::new(at), rest), part);
                prop_assert_eq!(record.part(Machine::new(at), rest + 1), None);
            }
            None if (BASE..BASE + size).contains(&at) => {
                prop_assert_eq!(found, Err(Misuse::NotMapped));
            }
            None => prop_assert_eq!(found, Err(Misuse::OutOfRange)),
        }
        Ok(())
    }

    fn count(&self) -> Result<(), TestCaseError> {
        let used = self.used.iter().filter(|used| **used).count();
        prop_assert_eq!(self.extent.used(), used);
        prop_assert_eq!(self.extent.available(), self.used.len() - used);
        prop_assert_eq!(self.extent.is_idle(), used == 0);

        let (mut most, mut whole) = (0, 0);
        for chunk in self.used.chunks(CHUNK_SLOTS) {
            let inside = chunk
                .split(|used| *used)
                .map(<[bool]>::len)
                .max()
                .unwrap_or(0);
            whole = if inside == CHUNK_SLOTS {
                whole + inside
            } else {
                0
            };
            most = most.max(inside).max(whole);
        }
        prop_assert_eq!(self.extent.largest_free_run(), most);
        Ok(())
    }

    /// Empties the extent, and takes all of it in one piece.
    fn finish(mut self) -> Result<(), TestCaseError> {
        while !self.live.is_empty() {
            prop_assert!(self.extent.seize().is_none());
            self.unmap(self.live.len() / 2)?;
        }
        self.count()?;

        let all = Request::new(self.used.len()).unwrap();
        let run = self.extent.claim(&all, 0);
        let run = run.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        prop_assert_eq!(self.extent.available(), 0);
        prop_assert_eq!(self.extent.cancel(run), 0);

        let seized = self.extent.seize();
        let seized = seized.ok_or(TestCaseError::fail("an idle extent cannot be seized"))?;
        prop_assert!(self.extent.seize().is_none());
        let one = Request::new(1).unwrap();
        prop_assert_eq!(self.extent.claim(&one, 0).unwrap_err(), ClaimError::Full);
        prop_assert!(self.extent.unseize(seized).is_ok());
        self.count()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map(Ask),
    Unmap(usize),
    Look(u64),
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => Just(4096usize),
        2 => 1usize..2049,
        4 => 1usize..20_000,
        3 => 1usize..140_000,
        2 => 100_000usize..600_000,
        1 => 1usize..5_000_000,
    ]
}

fn asks() -> impl Strategy<Value = Ask> {
    let ones = |bits: std::ops::Range<u32>| bits.prop_map(|bits| (1u64 << bits) - 1);
    let boundary = prop_oneof![4 => Just(u64::MAX), 2 => ones(8..22), 1 => Just(0xffff)];
    let min_align = prop_oneof![4 => Just(0), 2 => Just(4095), 1 => ones(0..13), 1 => ones(9..24)];
    let phys = prop_oneof![(0u64..1 << 30).prop_map(|page| page << 12), 0u64..1 << 42];

    (phys, sizes(), boundary, min_align, 0usize..9, 0u32..4).prop_map(
        |(phys, size, boundary, min_align, cpu, owner)| Ask {
            phys,
            size,
            boundary,
            min_align,
            cpu,
            owner,
        },
    )
}

fn steps(slots: usize) -> impl Strategy<Value = Vec<Step>> {
    let end = slots as u64 * SLOT_SIZE;
    let step = prop_oneof![
        6 => asks().prop_map(Step::Map),
        4 => any::<usize>().prop_map(Step::Unmap),
        2 => (BASE - 2..BASE + end + 2).prop_map(Step::Look),
    ];
    prop::collection::vec(step, 1..160)
}

fn extents() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![128usize, 256, 512, 1024, 2048, 8192])
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn does_what_the_model_does(
        (slots, steps) in extents().prop_flat_map(|slots| (Just(slots), steps(slots))),
        processors in 1usize..9,
    ) {
        let mut model = Model::new(slots, processors);
        for step in &steps {
            match step {
                Step::Map(ask) => model.map(ask)?,
                Step::Unmap(at) => model.unmap(*at)?,
                Step::Look(at) => model.look(*at)?,
            }
            model.count()?;
        }
        model.finish()?;
    }

    /// One size after the other until nothing fits, and back in another order.
    #[test]
    fn fills_and_empties(
        slots in prop::sample::select(vec![128usize, 512, 4096, 16384]),
        first in asks(),
        back in any::<usize>(),
    ) {
        let mut model = Model::new(slots, 4);
        for size in [first.size, first.size / 2 + 1, 4096, 1] {
            let ask = Ask { size, ..first };
            loop {
                let before = model.live.len();
                model.map(&Ask { cpu: before, ..ask })?;
                if model.live.len() == before {
                    break;
                }
            }
        }
        model.count()?;
        if first.min_align < SLOT_SIZE {
            // Otherwise only the slots with the buffer's own low bits can be had.
            prop_assert_eq!(model.extent.available(), 0);
        }
        for step in 0..model.live.len() / 2 {
            model.unmap(back.wrapping_mul(step))?;
        }
        model.map(&first)?;
        model.finish()?;
    }

    /// Requests that no mapping makes: any alignment, remainder and window.
    #[test]
    fn meets_every_condition(
        slots in extents(),
        asks in prop::collection::vec((1usize..300, 0u32..14, any::<usize>(), 0u32..15, 0usize..5), 1..60),
    ) {
        let extent = extent(BASE, slots, 3);
        let mut used = vec![false; slots];
        let mut runs = Vec::new();
        for (size, align, offset, window, cpu) in asks {
            let (align, window) = (1usize << align, 1usize << window);
            let offset = offset % align;
            let request = Request::new(size).unwrap();
            let request = request.aligned(align, offset).unwrap().within(window).unwrap();
            let obeys = |first: usize| {
                first % align == offset
                    && first / window == (first + size - 1) / window
                    && first + size <= slots
                    && if size > 64 { first % 64 == 0 } else { first % 64 + size <= 64 }
            };
            match extent.claim(&request, cpu) {
                Ok(run) => {
                    let first = ((run.start().raw() - BASE) / SLOT_SIZE) as usize;
                    prop_assert!(obeys(first));
                    prop_assert!(!used[first..first + size].contains(&true));
                    used[first..first + size].fill(true);
                    runs.push(run);
                }
                Err(ClaimError::TooLarge) => prop_assert!(size > slots),
                Err(ClaimError::Impossible) => prop_assert!(!(0..slots).any(obeys)),
                Err(ClaimError::Full) => {
                    let needs = |first: usize| if size > 64 { size.next_multiple_of(64) } else { size } + first;
                    let room = (0..slots).any(|first| obeys(first) && !used[first..needs(first)].contains(&true));
                    prop_assert!(!room);
                }
            }
        }
        for run in runs {
            prop_assert_eq!(extent.cancel(run), 0);
        }
        prop_assert!(extent.is_idle());
        prop_assert!(extent.seize().is_some());
    }

    #[test]
    fn any_request_is_answered(base in 0u64..64, phys in any::<u64>(), size in any::<usize>(), masks in any::<(u64, u64)>()) {
        let base = base << 30;
        let extent = extent(base, 1 << 12, 2);
        for size in [size, size & 0xff_ffff, size & 0xffff] {
            for min_align in [masks.1, masks.1 >> 40, masks.1 >> 52] {
                let limits = Limits::new(!0, 0, masks.0 >> 30, min_align);
                let Ok(request) = extent.request(Phys::new(phys), size, &limits) else { continue };
                let Ok(run) = extent.claim(&request, 1) else { continue };
                let start = Machine::new(run.start().raw() + request.offset(Phys::new(phys)));
                prop_assert!(!limits.crosses_boundary(start, size as u64));
                prop_assert!(!limits.misaligns(start, Phys::new(phys)));
                prop_assert_eq!(extent.cancel(run), 0);
            }
        }
    }
}

#[test]
fn pages_first() {
    let extent = extent(BASE, 128, 1);
    let (one, two) = (Request::new(1).unwrap(), Request::new(2).unwrap());
    let single = extent.claim(&one, 0).unwrap();
    let mut starts: Vec<u64> = (0..63)
        .map(|_| extent.claim(&two, 0).unwrap().start().raw())
        .collect();
    assert!(starts.iter().all(|start| start % 4096 == 0));
    // What is left is the neighbour of the single slot; together they are a page again.
    assert_eq!(extent.claim(&two, 0).unwrap_err(), ClaimError::Full);
    assert_eq!(extent.cancel(single), 0);
    starts.push(extent.claim(&two, 0).unwrap().start().raw());
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), 64);
}

#[test]
fn finds_room_between_runs() {
    // Holes of two slots at odd places only: no page is free, but two slots side by side are.
    let extent = extent(BASE, 128, 1);
    let one = Request::new(1).unwrap();
    let runs: Vec<_> = (0..128).map(|_| extent.claim(&one, 0).unwrap()).collect();
    for run in runs {
        let slot = (run.start().raw() - BASE) / SLOT_SIZE;
        if slot % 4 == 1 || slot % 4 == 2 {
            assert_eq!(extent.cancel(run), 0);
        }
    }
    let two = Request::new(2).unwrap();
    for _ in 0..32 {
        let run = extent.claim(&two, 0).unwrap();
        assert_eq!((run.start().raw() - BASE) / SLOT_SIZE % 4, 1);
    }
    assert_eq!(extent.available(), 0);
}

#[test]
fn a_tail_is_shared() {
    // 65 slots take one chunk and one slot of the next; 63 runs of one slot fit behind them.
    let extent = extent(BASE, 128, 1);
    let large = extent.claim(&Request::new(65).unwrap(), 0).unwrap();
    let one = Request::new(1).unwrap();
    let runs: Vec<_> = (0..63).map(|_| extent.claim(&one, 0).unwrap()).collect();
    assert_eq!(extent.claim(&one, 0).unwrap_err(), ClaimError::Full);
    assert_eq!(extent.cancel(large), 0);
    assert_eq!(extent.used(), 63);
    for run in runs {
        assert_eq!(extent.cancel(run), 0);
    }
    assert!(extent.is_idle());
}

#[test]
fn small_runs_from_below_large_runs_from_above() {
    let extent = extent(BASE, 4096, 4);
    for cpu in 0..4 {
        let run = extent.claim(&Request::new(2).unwrap(), cpu).unwrap();
        assert_eq!(run.start().raw(), BASE + cpu as u64 * 64 * SLOT_SIZE);
    }
    let run = extent.claim(&Request::new(128).unwrap(), 0).unwrap();
    assert_eq!(run.start().raw(), BASE + (4096 - 128) * SLOT_SIZE);
}

#[test]
fn tokens_of_another_extent_are_refused() {
    let (one, two) = (extent(0, 128, 1), extent(BASE, 128, 1));
    let owner = Owner::new(3).unwrap();
    let request = Request::new(2).unwrap();
    let run = one.claim(&request, 0).unwrap();
    let run = two.publish(run, Phys::new(0), 4096, owner).unwrap_err();
    // The size must be that of the run.
    let run = one.publish(run, Phys::new(0), 4097, owner).unwrap_err();
    let run = one.publish(run, Phys::new(0), 2048, owner).unwrap_err();
    let run = one.publish(run, Phys::new(0), 0, owner).unwrap_err();
    let start = one.publish(run, Phys::new(0), 4096, owner).unwrap().start();
    let held = one.retire(start, owner).unwrap();
    let _ = two.claim(&request, 0).unwrap();
    assert_eq!(two.free(held), 2);
    assert_eq!(two.used(), 2);
    assert!(Owner::new(1 << Owner::BITS).is_none());
}

#[test]
fn extents_are_checked() {
    use dma_core::slots::Slots;
    use dma_core_tests::Word;

    let words = |count| {
        (0..count)
            .map(|_| <Word as dma_core::atomic::AtomicWord>::new(7))
            .collect::<Vec<_>>()
    };
    let make =
        |base, slots, count| Slots::new(words(count), Machine::new(base), slots, 1).is_some();
    let need = Extent::words(128);
    assert!(make(0, 128, need));
    assert!(!make(0, 128, need - 1));
    assert!(!make(0, 64, need));
    assert!(!make(0, 192, 2 * need));
    assert!(!make(0x20000, 128, need));
    assert!(!make(!0x3ffff, 128, need));
    assert!(!make(0, 0, need));
    assert!(!make(0, 1 << 20, need));
    assert!(make(1 << 30, 1 << 19, Extent::words(1 << 19)));
}
