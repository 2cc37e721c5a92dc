// SPDX-License-Identifier: GPL-2.0

//! Several threads on one extent, with a ledger that knows who holds each slot.
//!
//! What each thread does follows from its seed; only how they interleave varies.

#![cfg(not(loom))]

use dma_core::{
    addr::{Machine, Phys},
    limits::Limits,
    record::{Misuse, Owner, Record},
    request::{ClaimError, Request, SLOT_SIZE},
};
use dma_core_tests::{extent, Extent};
use std::sync::{
    atomic::{AtomicU32, AtomicUsize, Ordering},
    Barrier,
};
use std::thread;

const BASE: u64 = 0x4000_0000;

/// A small generator, the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Who holds each slot; 0 for nobody.
struct Ledger(Vec<AtomicU32>);

impl Ledger {
    fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| AtomicU32::new(0)).collect())
    }

    fn change(&self, first: u64, slots: usize, from: u32, to: u32) {
        let first = ((first - BASE) / SLOT_SIZE) as usize;
        for slot in &self.0[first..first + slots] {
            let done = slot.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
            assert_eq!(done, Ok(from), "two at one slot");
        }
    }
}

/// A mapping, and where its run begins: that may be before the mapping's first byte.
struct Live {
    record: Record,
    first: u64,
}

struct Plan {
    slots: usize,
    threads: usize,
    steps: usize,
    /// How many mappings a thread keeps.
    keep: usize,
    /// The largest mapping in bytes; one in `rarely` is up to 16 times as large.
    size: u64,
    rarely: u64,
    min_align: u64,
}

fn work(plan: &Plan, extent: &Extent, ledger: &Ledger, me: usize) -> (usize, usize) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ ((me as u64 + 1) << 40));
    let owner = Owner::new(me as u32).unwrap();
    let limits = Limits::new(!0, 0, !0, plan.min_align);
    let mut live: Vec<Live> = Vec::new();
    let (mut done, mut full) = (0, 0);

    for _ in 0..plan.steps {
        if live.len() < plan.keep && dice.roll(5) < 3 {
            let most = if dice.roll(plan.rarely) == 0 {
                16 * plan.size
            } else {
                plan.size
            };
            let (phys, size) = (Phys::new(dice.roll(1 << 40)), dice.roll(most) as usize + 1);
            let request = extent.request(phys, size, &limits).unwrap();
            match extent.claim(&request, me) {
                Ok(run) => {
                    let first = run.start().raw();
                    ledger.change(first, run.slots(), 0, me as u32 + 1);
                    let record = extent.publish(run, phys, size, owner).unwrap();
                    live.push(Live { record, first });
                    done += 1;
                }
                Err(ClaimError::Full) => full += 1,
                Err(error) => panic!("{error:?}"),
            }
        } else if !live.is_empty() {
            let one = live.swap_remove(dice.roll(live.len() as u64) as usize);
            unmap(extent, ledger, one, me);
        }
        if let Some(Live { record, .. }) = live.last() {
            let at = Machine::new(record.start().raw() + dice.roll(record.size()));
            assert_eq!(extent.find(at, owner), Ok(*record));
        }
        assert!(extent.used() <= plan.slots);
    }
    for one in live {
        unmap(extent, ledger, one, me);
    }
    (done, full)
}

fn unmap(extent: &Extent, ledger: &Ledger, live: Live, me: usize) {
    let Live { record, first } = live;
    let held = extent.retire(record.start(), record.owner()).unwrap();
    assert_eq!((held.phys(), held.size()), (record.phys(), record.size()));
    assert_eq!(held.slots(), record.slots());
    // Nobody may have the slots before they are free.
    ledger.change(first, record.slots(), me as u32 + 1, 0);
    assert_eq!(extent.free(held), 0);
}

fn run(plan: Plan) {
    let extent = extent(BASE, plan.slots, plan.threads);
    let ledger = Ledger::new(plan.slots);
    let start = Barrier::new(plan.threads);
    let (done, full) = (AtomicUsize::new(0), AtomicUsize::new(0));

    thread::scope(|scope| {
        for me in 0..plan.threads {
            let (plan, extent, ledger, start) = (&plan, &extent, &ledger, &start);
            let (done, full) = (&done, &full);
            scope.spawn(move || {
                start.wait();
                let (mapped, refused) = work(plan, extent, ledger, me);
                done.fetch_add(mapped, Ordering::Relaxed);
                full.fetch_add(refused, Ordering::Relaxed);
            });
        }
    });

    assert!(extent.is_idle());
    assert!(done.into_inner() > 0);
    // Everything can be had in one piece again, and every slot on its own.
    let all = Request::new(plan.slots).unwrap();
    let whole = extent.claim(&all, 0).unwrap();
    assert_eq!(extent.cancel(whole), 0);
    let one = Request::new(1).unwrap();
    let runs: Vec<_> = (0..plan.slots)
        .map(|cpu| extent.claim(&one, cpu).unwrap())
        .collect();
    assert_eq!(extent.claim(&one, 0).unwrap_err(), ClaimError::Full);
    for run in runs {
        assert_eq!(extent.cancel(run), 0);
    }
    assert!(extent.seize().is_some());
}

#[test]
fn a_crowd_in_two_chunks() {
    run(Plan {
        slots: 128,
        threads: 8,
        steps: 20_000,
        keep: 8,
        size: 16_000,
        rarely: 16,
        min_align: 4095,
    });
}

#[test]
fn pages_in_a_common_extent() {
    run(Plan {
        slots: 4096,
        threads: 4,
        steps: 20_000,
        keep: 64,
        size: 4096,
        rarely: 1000,
        min_align: 0,
    });
}

#[test]
fn large_and_small_nearly_full() {
    run(Plan {
        slots: 2048,
        threads: 6,
        steps: 20_000,
        keep: 24,
        size: 64_000,
        rarely: 6,
        min_align: 4095,
    });
}

/// Somebody takes the extent whenever it is idle, while others come and go.
#[test]
fn seizing_takes_all_or_nothing() {
    let (extent, ledger) = (extent(BASE, 256, 3), Ledger::new(256));
    let start = Barrier::new(4);
    let working = AtomicUsize::new(3);
    let seizures = AtomicUsize::new(0);

    thread::scope(|scope| {
        for me in 0..3usize {
            let (extent, ledger, start, working) = (&extent, &ledger, &start, &working);
            scope.spawn(move || {
                let mut dice = Dice(77 + me as u64);
                start.wait();
                for _ in 0..30_000 {
                    let request = Request::new(dice.roll(90) as usize + 1).unwrap();
                    if let Ok(run) = extent.claim(&request, me) {
                        let (first, slots) = (run.start().raw(), run.slots());
                        ledger.change(first, slots, 0, me as u32 + 1);
                        ledger.change(first, slots, me as u32 + 1, 0);
                        assert_eq!(extent.cancel(run), 0);
                    }
                }
                working.fetch_sub(1, Ordering::AcqRel);
            });
        }
        start.wait();
        while working.load(Ordering::Acquire) != 0 {
            if let Some(seized) = extent.seize() {
                seizures.fetch_add(1, Ordering::Relaxed);
                ledger.change(BASE, 256, 0, 9);
                ledger.change(BASE, 256, 9, 0);
                extent.unseize(seized).unwrap();
            }
            thread::yield_now();
        }
    });
    assert!(extent.seize().is_some());
}

/// Of many threads that unmap the same mapping one succeeds.
#[test]
fn a_mapping_ends_once() {
    let extent = extent(BASE, 128, 1);
    let owner = Owner::new(5).unwrap();
    let request = Request::new(2).unwrap();

    for _ in 0..2000 {
        let run = extent.claim(&request, 0).unwrap();
        let start = extent
            .publish(run, Phys::new(0x1000), 4096, owner)
            .unwrap()
            .start();
        let ended = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| match extent.retire(start, owner) {
                    Ok(held) => {
                        ended.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(extent.free(held), 0);
                    }
                    Err(misuse) => assert_eq!(misuse, Misuse::NotMapped),
                });
            }
        });
        assert_eq!(ended.into_inner(), 1);
    }
    assert!(extent.is_idle());
}
