// SPDX-License-Identifier: GPL-2.0

//! `Slots` against its model, with any sequence of operations and any condition.

#![cfg(not(loom))]

use dma_core::{
    addr::{Machine, Phys},
    limits::Limits,
    record::{Owner, Run},
    request::{ClaimError, Request, CHUNK_SLOTS, SLOT_SIZE},
};
use dma_core_tests::{
    config, extent,
    model::{Ask, Model, Step, BASE, OWNERS},
    Extent,
};
use proptest::prelude::*;

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

    (phys, sizes(), boundary, min_align, 0usize..9, 0..OWNERS).prop_map(
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

/// Most of what a driver does: buffers on one page, without conditions.
fn pages() -> impl Strategy<Value = Ask> {
    (0u64..1 << 30, 0u64..4096, 1u64..4097, 0usize..9, 0..OWNERS).prop_map(
        |(page, offset, size, cpu, owner)| Ask {
            phys: (page << 12) | offset,
            size: size.min(4096 - offset) as usize,
            boundary: u64::from(u32::MAX),
            min_align: 0,
            cpu,
            owner,
        },
    )
}

fn steps(slots: usize) -> impl Strategy<Value = Vec<Step>> {
    let end = slots as u64 * SLOT_SIZE;
    let step = prop_oneof![
        5 => asks().prop_map(Step::Map),
        5 => pages().prop_map(Step::Carry),
        1 => asks().prop_map(Step::Carry),
        8 => any::<(usize, bool)>().prop_map(|(at, short)| Step::Unmap(at, short)),
        1 => (pages(), 0usize..40).prop_map(|(ask, count)| Step::List(ask, count)),
        1 => (any::<usize>(), 0usize..40).prop_map(|(at, count)| Step::UnmapList(at, count)),
        1 => asks().prop_map(Step::Cancel),
        2 => (BASE - 2..BASE + end + 2).prop_map(Step::Look),
        1 => (0usize..9, any::<usize>()).prop_map(|(cpu, near)| Step::Hint(cpu, near)),
    ];
    prop::collection::vec(step, 1..STEPS)
}

/// The chunk where a run begins.
fn chunk_of(run: &Run) -> usize {
    ((run.start().raw() - BASE) / SLOT_SIZE) as usize / CHUNK_SLOTS
}

/// Claims these pieces as a processor does, until one is refused, and frees them. Were all served?
fn serve(extent: &Extent, pieces: &[usize], near: &mut usize) -> bool {
    let mut runs = Vec::new();
    for piece in pieces {
        match extent.claim(&Request::new(*piece).unwrap(), *near) {
            Ok(run) => {
                if *piece <= CHUNK_SLOTS {
                    *near = chunk_of(&run);
                }
                runs.push(run);
            }
            Err(_) => {
                *near = 0;
                break;
            }
        }
    }
    let all = runs.len() == pieces.len();
    for run in runs {
        assert_eq!(extent.cancel(run), 0);
    }
    all
}

/// The most operations in a case, and the number of cases: a million operations in all.
const STEPS: usize = 1000;
const CASES: u32 = 2200;

fn extents() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => prop::sample::select(vec![128usize, 256, 512]),
        2 => prop::sample::select(vec![1024usize, 2048]),
        1 => Just(8192),
    ]
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn does_what_the_model_does(
        (slots, steps) in extents().prop_flat_map(|slots| (Just(slots), steps(slots))),
        processors in 1usize..9,
        reserve in any::<bool>(),
    ) {
        let mut model = Model::new(slots, processors, reserve);
        for step in &steps {
            model.step(step).map_err(TestCaseError::fail)?;
        }
        model.finish().map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(config(1500))]

    /// One size after the other until nothing fits, and back in another order.
    #[test]
    fn fills_and_empties(
        slots in prop::sample::select(vec![128usize, 512, 4096, 16384]),
        first in asks(),
        back in any::<usize>(),
        reserve in any::<bool>(),
    ) {
        let mut model = Model::new(slots, 4, reserve);
        for size in [first.size, first.size / 2 + 1, 4096, 1] {
            let ask = Ask { size, ..first };
            loop {
                let before = model.mapped();
                let ask = Ask { cpu: before, ..ask };
                model.map(&ask).map_err(TestCaseError::fail)?;
                if model.mapped() == before {
                    break;
                }
            }
        }
        model.count().map_err(TestCaseError::fail)?;
        if first.min_align < SLOT_SIZE {
            // Otherwise only the slots with the buffer's own low bits can be had.
            prop_assert_eq!(model.extent().available(), 0);
        }
        for step in 0..model.mapped() / 2 {
            let unmapped = model.unmap(back.wrapping_mul(step), step % 2 == 0);
            unmapped.map_err(TestCaseError::fail)?;
        }
        model.map(&first).map_err(TestCaseError::fail)?;
        model.finish().map_err(TestCaseError::fail)?;
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

    /// Whatever large runs have come and gone, an eighth is left to small ones, and all of it is theirs.
    #[test]
    fn large_runs_leave_a_reserve(
        slots in extents(),
        sizes in prop::collection::vec((65usize..2000, any::<bool>()), 1..80),
        cpu in 0usize..4,
    ) {
        let extent = extent(BASE, slots, 4).with_reserve();
        prop_assert_eq!(extent.reserve(), (slots / 8).max(64));
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for (size, back) in sizes {
            match extent.claim(&Request::new(size).unwrap(), cpu) {
                Ok(run) if back => prop_assert_eq!(extent.cancel(run), 0),
                Ok(run) => {
                    prop_assert!(run.start().raw() >= BASE + extent.reserve() as u64 * SLOT_SIZE);
                    large.push(run);
                }
                Err(ClaimError::TooLarge) => {
                    prop_assert!(size.next_multiple_of(64) > slots - extent.reserve());
                }
                Err(why) => prop_assert_eq!(why, ClaimError::Full),
            }
        }
        prop_assert!(extent.available() >= extent.reserve());
        let page = Request::new(2).unwrap();
        for _ in 0..extent.reserve() / 2 {
            small.push(extent.claim(&page, cpu).unwrap());
        }
        for run in large.into_iter().chain(small) {
            prop_assert_eq!(extent.cancel(run), 0);
        }
        prop_assert!(extent.is_idle());
        prop_assert!(extent.seize().is_some());
    }

    /// What devices are told that they may map is to be had in an empty extent, reserve or not.
    #[test]
    fn half_an_extent_is_given(slots in extents(), phys in 0u64..1 << 42, masks in (0u32..13, 11u32..33)) {
        let extent = extent(BASE, slots, 2).with_reserve();
        let (min_align, boundary) = ((1u64 << masks.0) - 1, (1u64 << masks.1) - 1);
        let half = slots * SLOT_SIZE as usize / 2 - ((min_align as usize + 1) & !1);
        for size in [half, half / 2 + 1, half / 8 * 7] {
            let limits = Limits::new(!0, 0, boundary, min_align);
            match extent.request(Phys::new(phys), size, &limits) {
                Ok(request) => {
                    let run = extent.claim(&request, 0).unwrap();
                    prop_assert_eq!(extent.cancel(run), 0);
                }
                // No place keeps such low bits within such a boundary.
                Err(why) => {
                    prop_assert_eq!(why, ClaimError::Impossible);
                    prop_assert!((phys & min_align) + size as u64 > boundary + 1);
                }
            }
        }
    }

    /// A driver maps the pieces of one request, and if one is refused it gives all back and asks again, for ever
    /// if need be. What a new extent gives, one that is not in use gives at the second try, wherever earlier
    /// runs led.
    #[test]
    fn pieces_have_room_at_the_second_try(
        slots in extents(),
        pieces in prop::collection::vec(prop_oneof![Just(2usize), 1usize..64, 1usize..600], 1..40),
        past in prop::collection::vec((1usize..65, 0usize..128), 0..40),
        processors in 1usize..9,
    ) {
        let make = || extent(BASE, slots, processors).with_reserve();
        let (new, used) = (make(), make());
        let mut near = 0;
        for (size, start) in past {
            let run = used.claim(&Request::new(size).unwrap(), start).unwrap();
            near = chunk_of(&run);
            prop_assert_eq!(used.cancel(run), 0);
        }

        if serve(&new, &pieces, &mut 0) {
            prop_assert!(serve(&used, &pieces, &mut near) || serve(&used, &pieces, &mut near));
        }
        prop_assert!(used.is_idle());
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

    /// Runs of whole pages, besides others that have what they leave.
    #[test]
    fn pages_are_not_shared(slots in extents(), asks in prop::collection::vec((asks(), any::<bool>()), 1..40)) {
        let extent = extent(BASE, slots, 2);
        let mut runs = Vec::new();
        for (ask, apart) in asks {
            let (phys, limits) = (Phys::new(ask.phys), Limits::new(!0, 0, ask.boundary, ask.min_align));
            let request = if apart {
                Request::pages_for_mapping(Machine::new(BASE), phys, ask.size, &limits)
            } else {
                extent.request(phys, ask.size, &limits)
            };
            let run = match request.and_then(|request| extent.claim(&request, ask.cpu)) {
                Ok(run) => run,
                Err(ClaimError::Impossible) => {
                    // Only a boundary, or another condition, can make it so.
                    prop_assert!(ask.boundary < u64::MAX || ask.min_align > 4095);
                    continue;
                }
                Err(_) => continue,
            };
            let (first, count) = (run.start().raw(), run.slots());
            prop_assert!(!apart || first % 4096 == 0 && count % 2 == 0, "{run:?}");
            let owner = Owner::new(7).unwrap();
            let record = extent.publish(run, phys, ask.size, owner).map_err(|_| TestCaseError::fail("not published"))?;
            let (start, end) = (record.start().raw(), record.end().raw());
            prop_assert!(first <= start && end <= first + count as u64 * SLOT_SIZE);
            prop_assert!(!apart || start % 4096 == ask.phys % 4096);
            prop_assert!(!limits.crosses_boundary(record.start(), ask.size as u64));
            prop_assert!(!limits.misaligns(record.start(), phys));
            prop_assert_eq!(extent.find(Machine::new(end - 1), owner).unwrap(), record);
            runs.push((record.start(), first, count, apart));
        }
        let page = |at: u64| at / 4096;
        for (index, &(_, first, count, apart)) in runs.iter().enumerate() {
            for &(_, other, more, also) in &runs[index + 1..] {
                let (end, last) = (first + count as u64 * SLOT_SIZE - 1, other + more as u64 * SLOT_SIZE - 1);
                prop_assert!(end < other || last < first);
                prop_assert!(!(apart || also) || page(end) < page(other) || page(last) < page(first));
            }
        }
        for (start, ..) in runs {
            let held = extent.retire(start, Owner::new(7).unwrap()).unwrap();
            prop_assert_eq!(extent.free(held), 0);
        }
        prop_assert!(extent.is_idle());
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
    use dma_core_tests::Memory;

    let make_with = |base, slots, words, records| {
        Slots::new(Memory::new(words, records, 7), Machine::new(base), slots, 1).is_some()
    };
    let make = |base, slots, words| make_with(base, slots, words, slots);
    let need = Extent::words(128);
    assert!(make(0, 128, need));
    assert!(!make(0, 128, need - 1));
    assert!(!make_with(0, 128, need, 127));
    assert!(!make(0, 64, need));
    assert!(!make(0, 192, 2 * need));
    assert!(!make(0x20000, 128, need));
    assert!(!make(!0x3ffff, 128, need));
    assert!(!make(0, 0, need));
    assert!(!make(0, 1 << 20, need));
    assert!(make(1 << 30, 1 << 19, Extent::words(1 << 19)));
}
