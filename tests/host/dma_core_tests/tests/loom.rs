// SPDX-License-Identifier: GPL-2.0

//! Every way in which two threads can interleave, on the smallest extent: two chunks.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --test loom`. The model lets a thread be
//! preempted a few times only; `LOOM_MAX_PREEMPTIONS` says how often.

#![cfg(loom)]

use dma_core::{
    addr::{Machine, Phys},
    record::{Misuse, Owner, Run},
    request::{ClaimError, Request},
};
use dma_core_tests::{extent, Extent, STRICT};
use loom::sync::Arc;
use loom::thread;

fn model(check: impl Fn(Arc<Extent>) + Send + Sync + 'static) {
    let check = std::sync::Arc::new(check);

    for strict in [false, true] {
        let check = check.clone();
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 20_000;
        builder.preemption_bound = builder.preemption_bound.or(Some(4));
        STRICT.set(strict);
        builder.check(move || check(Arc::new(extent(0, 128, 1))));
    }
}

fn request(slots: usize) -> Request {
    Request::new(slots).unwrap()
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

/// A large claim closes the empty chunk that a small claim wants.
#[test]
fn large_against_small() {
    model(|extent| {
        let run = extent.claim(&request(2), 0).unwrap();
        assert_eq!(extent.cancel(run), 0);

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
