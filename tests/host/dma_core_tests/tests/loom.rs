// SPDX-License-Identifier: GPL-2.0

//! Every way in which two threads can interleave, on the smallest extent: two chunks.
//!
//! `scripts/host-test` runs it, with `RUSTFLAGS="--cfg loom"`. The model lets a thread be
//! preempted a few times only; `LOOM_MAX_PREEMPTIONS` says how often.

#![cfg(loom)]

use dma_core::{
    addr::{Machine, Phys},
    atomic::{AtomicWord, Backing},
    bundle::Leaving,
    record::{Misuse, Owner, Run},
    request::{ClaimError, Request, CHUNK_SLOTS, SLOT_SIZE},
};
use dma_core_tests::{extent, extent_in, Extent, Memory, STRICT};
use loom::sync::Arc;
use loom::thread;

fn model(check: impl Fn(Arc<Extent>) + Send + Sync + 'static) {
    explore(move || check(Arc::new(extent(0, 128, 1))));
}

fn explore(check: impl Fn() + Send + Sync + 'static) {
    let check = std::sync::Arc::new(check);

    for strict in [false, true] {
        let check = check.clone();
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 20_000;
        builder.preemption_bound = builder.preemption_bound.or(Some(5));
        STRICT.set(strict);
        builder.check(move || check());
    }
}

fn request(slots: usize) -> Request {
    Request::new(slots).unwrap()
}

fn owner(number: u32) -> Owner {
    Owner::new(number).unwrap()
}

/// Opens the first chunk and leaves it empty: only there a mapping is carried.
fn open(extent: &Extent) {
    let run = extent.claim(&request(2), 0).unwrap();
    assert_eq!(extent.cancel(run), 0);
}

/// Ends a mapping as the driver does as a rule.
fn end(extent: &Extent, at: Machine, phys: u64, size: usize, owner: Owner) {
    let held = extent.retire_plain(at, size, owner).unwrap();
    assert_eq!((held.phys().raw(), held.slots()), (phys, 2));
    assert_eq!(held.free(), 0);
}

fn disjoint(one: &Run, two: &Run) {
    let end = |run: &Run| run.start().raw() + run.slots() as u64 * 2048;
    assert!(end(one) <= two.start().raw() || end(two) <= one.start().raw());
}

/// Nothing is in use, so everything can be had: a lost hint or taken bit would show here.
fn whole(extent: &Extent) {
    assert!(extent.is_idle());
    let run = extent.claim(&request(128), 0).unwrap();
    assert_eq!(extent.cancel(run), 0);
}

#[test]
fn two_claims() {
    model(|extent| {
        let other = extent.clone();
        let thread = thread::spawn(move || other.claim(&request(2), 0).unwrap());
        let mine = extent.claim(&request(3), 0).unwrap();
        let theirs = thread.join().unwrap();
        disjoint(&mine, &theirs);
        assert_eq!(extent.used(), 5);
        assert_eq!(extent.cancel(mine) + extent.cancel(theirs), 0);
        whole(&extent);
    });
}

/// A release makes room just as a claim takes the last of it: the hint must say so in the end.
#[test]
fn a_hint_is_not_lost() {
    model(|extent| {
        // Chunk 0 is full, chunk 1 has two pairs left.
        let home = extent.claim(&request(64), 0).unwrap();
        let most = extent.claim(&request(32), 0).unwrap();
        let more = extent.claim(&request(16), 0).unwrap();
        let pad = extent.claim(&request(12), 0).unwrap();
        let pair = extent.claim(&request(2), 0).unwrap();

        let other = extent.clone();
        let thread = thread::spawn(move || other.claim(&request(2), 0).unwrap());
        assert_eq!(extent.cancel(pair), 0);
        let theirs = thread.join().unwrap();

        // One pair is left, and the search sees it only if a hint leads there.
        let last = extent.claim(&request(2), 0).unwrap();
        disjoint(&theirs, &last);
        assert_eq!(extent.claim(&request(1), 0).unwrap_err(), ClaimError::Full);
        for run in [home, most, more, pad, theirs, last] {
            assert_eq!(extent.cancel(run), 0);
        }
        whole(&extent);
    });
}

/// A mapping becomes the first of several as somebody ends it: an older one there, once more. What has
/// ended stays so.
#[test]
fn a_lead_against_an_end() {
    model(|extent| {
        open(&extent);
        let mine = owner(1);
        let at = extent.carry(Phys::new(0x1000), 4096, mine, 0).unwrap();
        let other = extent.clone();
        let thread = thread::spawn(move || {
            let held = other.retire_plain(at, 4096, mine);
            held.map(|held| held.free())
        });
        extent.lead(at);
        match thread.join().unwrap() {
            Some(strays) => {
                assert_eq!(strays, 0);
                assert!(extent.find(at, mine).is_err());
            }
            None => {
                let ended = extent.retire_segment(at, mine, |_, _, _| ()).unwrap();
                let mut leaving = Leaving::default();
                let strays = extent.free_with(&mut leaving, ended);
                assert_eq!(strays + extent.free_leaving(leaving), 0);
            }
        }
        whole(&extent);
    });
}

/// A large claim closes the empty chunk that a small claim wants.
#[test]
fn large_against_small() {
    model(|extent| {
        open(&extent);
        let other = extent.clone();
        let thread = thread::spawn(move || other.claim(&request(128), 0));
        let mine = extent.claim(&request(2), 0);
        let theirs = thread.join().unwrap();
        if let (Ok(_), Ok(_)) = (&mine, &theirs) {
            panic!("more than there is");
        }
        for run in [mine, theirs].into_iter().flatten() {
            assert_eq!(extent.cancel(run), 0);
        }
        whole(&extent);
    });
}

/// Two large runs want the same chunks, and one of them a tail.
#[test]
fn large_against_large() {
    model(|extent| {
        let other = extent.clone();
        let thread = thread::spawn(move || other.claim(&request(100), 0));
        let mine = extent.claim(&request(128), 0);
        let theirs = thread.join().unwrap();
        assert!(mine.is_err() || theirs.is_err());
        assert!(mine.is_ok() || theirs.is_ok());
        for run in [mine, theirs].into_iter().flatten() {
            assert_eq!(extent.cancel(run), 0);
        }
        whole(&extent);
    });
}

/// A small run's release and a large run's release meet in a chunk that was a tail.
#[test]
fn a_shared_tail() {
    model(|extent| {
        let large = extent.claim(&request(65), 0).unwrap();
        let small = extent.claim(&request(2), 0).unwrap();
        let other = extent.clone();
        let thread = thread::spawn(move || assert_eq!(other.cancel(large), 0));
        assert_eq!(extent.cancel(small), 0);
        thread.join().unwrap();
        whole(&extent);
    });
}

/// Of two unmaps of one mapping one succeeds, and a lookup sees all of it or nothing.
#[test]
fn one_mapping_ends_once() {
    model(|extent| {
        let owner = Owner::new(9).unwrap();
        let run = extent.claim(&request(2), 0).unwrap();
        let record = extent.publish(run, Phys::new(0x5000), 4096, owner).unwrap();

        let other = extent.clone();
        let thread = thread::spawn(move || match other.retire(record.start(), owner) {
            Ok(held) => {
                assert_eq!(other.free(held), 0);
                // The slots go on to somebody else.
                let run = other.claim(&request(2), 0).unwrap();
                other.publish(run, Phys::new(0x9000), 4096, owner).unwrap();
                true
            }
            Err(misuse) => {
                assert_eq!(misuse, Misuse::NotMapped);
                false
            }
        });
        match extent.find(Machine::new(0x800), owner) {
            Ok(found) => assert!([0x5000, 0x9000].contains(&found.phys().raw())),
            Err(misuse) => assert_eq!(misuse, Misuse::NotMapped),
        }
        assert!(thread.join().unwrap());
    });
}

/// Nothing is claimed from an extent that was seized.
#[test]
fn seized_or_claimed() {
    model(|extent| {
        let other = extent.clone();
        let thread = thread::spawn(move || other.claim(&request(2), 0));
        let seized = extent.seize();
        let claimed = thread.join().unwrap();
        assert!(seized.is_none() || claimed.is_err());
        if let Ok(run) = claimed {
            assert_eq!(extent.cancel(run), 0);
        }
        if let Some(seized) = seized {
            assert!(extent.unseize(seized).is_ok());
        }
        whole(&extent);
    });
}

/// Two mappings are carried in one chunk: one may have to take the long way, never both.
#[test]
fn two_are_carried() {
    model(|extent| {
        open(&extent);
        let other = extent.clone();
        let thread = thread::spawn(move || other.carry(Phys::new(0x5000), 4096, owner(1), 0));
        let mine = extent.carry(Phys::new(0x9000), 4096, owner(2), 0);
        let theirs = thread.join().unwrap();
        assert!(mine.is_some() || theirs.is_some());
        assert!(mine != theirs);

        let carried = [(theirs, 0x5000, owner(1)), (mine, 0x9000, owner(2))];
        let count = carried.iter().filter(|(at, ..)| at.is_some()).count();
        assert_eq!(extent.used(), 2 * count);
        for (at, phys, owner) in carried {
            if let Some(at) = at {
                assert_eq!(extent.find(at, owner).unwrap().phys().raw(), phys);
                end(&extent, at, phys, 4096, owner);
            }
        }
        whole(&extent);
    });
}

/// A mapping is carried just as another one ends, in a chunk that has room for one of them.
#[test]
fn one_is_carried_in_the_place_of_another() {
    model(|extent| {
        open(&extent);
        let old = extent.carry(Phys::new(0x5000), 4096, owner(1), 0).unwrap();
        let rest = extent.claim(&request(62), 0).unwrap();
        assert_eq!((old.raw(), rest.start().raw()), (0, 2 * SLOT_SIZE));

        let other = extent.clone();
        let thread = thread::spawn(move || end(&other, old, 0x5000, 4096, owner(1)));
        let new = extent.carry(Phys::new(0x9000), 4095, owner(2), 0);
        assert!(new.is_none() || new == Some(old));
        thread.join().unwrap();

        assert!(extent.retire_plain(old, 4096, owner(1)).is_none());
        let new = new.or_else(|| extent.carry(Phys::new(0x9000), 4095, owner(2), 0));
        end(&extent, new.unwrap(), 0x9000, 4095, owner(2));
        assert_eq!(extent.cancel(rest), 0);
        whole(&extent);
    });
}

/// The same in a chunk that has room for both: the slots of neither are lost.
#[test]
fn one_is_carried_beside_another_that_ends() {
    model(|extent| {
        let rest = extent.claim(&request(60), 0).unwrap();
        let old = extent.carry(Phys::new(0x5000), 4096, owner(1), 0).unwrap();

        let other = extent.clone();
        let thread = thread::spawn(move || end(&other, old, 0x5000, 4096, owner(1)));
        let new = extent.carry(Phys::new(0x9000), 4096, owner(2), 0);
        thread.join().unwrap();

        assert_eq!(extent.used(), if new.is_some() { 62 } else { 60 });
        if let Some(at) = new {
            end(&extent, at, 0x9000, 4096, owner(2));
        }
        assert_eq!(extent.cancel(rest), 0);
        whole(&extent);
    });
}

/// Who looks for a mapping that is being carried sees all of it or nothing.
#[test]
fn a_carried_mapping_is_seen_whole() {
    model(|extent| {
        open(&extent);
        let old = extent.carry(Phys::new(0x5000), 4096, owner(1), 0).unwrap();
        end(&extent, old, 0x5000, 4096, owner(1));

        let other = extent.clone();
        let thread = thread::spawn(move || match other.find(old, owner(1)) {
            Ok(found) => assert_eq!((found.phys().raw(), found.size()), (0x9000, 2049)),
            Err(misuse) => assert_eq!(misuse, Misuse::NotMapped),
        });
        let new = extent.carry(Phys::new(0x9000), 2049, owner(1), 0);
        assert_eq!(new, Some(old));
        thread.join().unwrap();
    });
}

/// Nothing is carried in an extent that was seized, and what is carried keeps it from that.
#[test]
fn seized_or_carried() {
    model(|extent| {
        open(&extent);
        let other = extent.clone();
        let thread = thread::spawn(move || {
            let carried = other.carry(Phys::new(0x5000), 4096, owner(1), 0);
            carried.map_or_else(|| other.claim(&request(2), 0).map(Err), |at| Ok(Ok(at)))
        });
        let seized = extent.seize();
        let theirs = thread.join().unwrap();
        assert!(seized.is_none() || theirs.is_err());
        match theirs {
            Ok(Ok(at)) => end(&extent, at, 0x5000, 4096, owner(1)),
            Ok(Err(run)) => assert_eq!(extent.cancel(run), 0),
            Err(error) => assert_eq!(error, ClaimError::Full),
        }
        if let Some(seized) = seized {
            assert_eq!(extent.used(), 128);
            assert!(extent.unseize(seized).is_ok());
        }
        whole(&extent);
    });
}

/// The last run of a chunk ends while a large claim sweeps up empty chunks.
#[test]
fn a_sweep_meets_the_last_release() {
    model(|extent| {
        let last = extent.claim(&request(1), 0).unwrap();
        let other = extent.clone();
        let thread = thread::spawn(move || assert_eq!(other.cancel(last), 0));
        let large = extent.claim(&request(128), 0);
        thread.join().unwrap();
        match large {
            Ok(run) => {
                assert_eq!(extent.used(), 128);
                assert_eq!(extent.cancel(run), 0);
            }
            Err(error) => assert_eq!(error, ClaimError::Full),
        }
        whole(&extent);
    });
}

/// A chunk gets room just as somebody puts its byte right; what the byte says in the end is right.
#[test]
fn a_room_byte_is_right_in_the_end() {
    explore(|| {
        let memory = Memory::for_slots(128);
        let extent = Arc::new(extent_in(memory.clone(), 0, 128, 1));
        // In the first chunk: 48 slots in use, 8 free, 8 in use.
        let most = extent.claim(&request(32), 0).unwrap();
        let more = extent.claim(&request(16), 0).unwrap();
        let gap = extent.claim(&request(8), 0).unwrap();
        let end = extent.claim(&request(8), 0).unwrap();
        assert_eq!(end.start().raw(), 56 * SLOT_SIZE);
        assert_eq!(extent.cancel(gap), 0);
        // Claims let the byte be too high; who looks for more room in vain puts it right.
        let probe = extent.claim(&request(33), 0).unwrap();
        assert_eq!(room_byte(&memory, 0), 8);

        let other = extent.clone();
        let thread = thread::spawn(move || assert_eq!(other.cancel(end), 0));
        let mine = extent.claim(&request(17), 0).unwrap();
        thread.join().unwrap();

        assert_eq!(longest_free(&memory, 0), 16);
        assert_eq!(room_byte(&memory, 0), 16);
        assert_eq!(extent.cancel(mine) + extent.cancel(probe), 0);
        assert_eq!(extent.cancel(most) + extent.cancel(more), 0);
        whole(&extent);
    });
}

/// Where the maps of an extent of two chunks have the first chunk's word, and the bytes: behind two
/// words of chunks and one of taken bits (`rust/dma_core/words.rs`).
const CHUNKS: usize = 0;
const ROOM: usize = 3;

/// What the maps say of the longest free run in a chunk.
fn room_byte(memory: &Memory, chunk: usize) -> u64 {
    (memory.words()[ROOM].load() >> (8 * chunk)) & 0xff
}

/// The longest free run in a chunk, as far as bytes count: to half a chunk.
fn longest_free(memory: &Memory, chunk: usize) -> u64 {
    let used = memory.words()[CHUNKS + chunk].load();
    let mut longest = 0;
    let mut length = 0;
    for slot in 0..CHUNK_SLOTS {
        length = if (used >> slot) & 1 == 0 {
            length + 1
        } else {
            0
        };
        longest = longest.max(length);
    }
    longest.min(CHUNK_SLOTS as u64 / 2)
}
