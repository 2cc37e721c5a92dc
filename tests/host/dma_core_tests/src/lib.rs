// SPDX-License-Identifier: GPL-2.0

//! What the tests of `dma_core` share: a word, an extent made of such words, and models.
//!
//! With `--cfg loom` the word is the model checker's.

#[cfg(not(loom))]
pub mod bytes;
#[cfg(not(loom))]
pub mod model;

use dma_core::{
    addr::Machine,
    atomic::{AtomicWord, Backing},
    slots::Slots,
};
use std::sync::Arc;

#[cfg(loom)]
use loom::sync::atomic::{fence, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
std::thread_local! {
    /// Does the model take each load for a write?
    ///
    /// A load can see old values, and the model tries them; but it also forgets that a thread read a
    /// word once another thread has read it, and then misses orders. It never forgets a write. So a
    /// test is complete only if it runs both ways.
    pub static STRICT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A shared word.
#[derive(Debug)]
pub struct Word(AtomicU64);

impl AtomicWord for Word {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn load(&self) -> u64 {
        #[cfg(loom)]
        if STRICT.get() {
            return self.0.fetch_add(0, Ordering::AcqRel);
        }
        self.0.load(Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    #[cfg(not(loom))]
    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        self.0
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::Acquire)
            .map(|_| ())
    }

    /// The model knows full barriers as fences only.
    #[cfg(loom)]
    fn compare_exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        fence(Ordering::SeqCst);
        let done = self
            .0
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ());
        fence(Ordering::SeqCst);
        done
    }
}

/// What a model says of an answer: nothing, or what is wrong with it.
pub type Verdict = Result<(), String>;

/// Says what is wrong, and returns, unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($why:tt)+) => {
        if !$cond {
            return Err(format!("{}: {}", stringify!($cond), format_args!($($why)+)));
        }
    };
}

/// Says what is wrong, and returns, unless both sides are equal.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr $(,)?) => {
        match (&$left, &$right) {
            (left, right) => $crate::ensure!(
                left == right,
                "{} is {left:?}, not {right:?}",
                stringify!($left)
            ),
        }
    };
}

/// A property test's configuration: `cases` of them, or as many as `PROPTEST_CASES` says.
///
/// A failing case is printed, not kept: what it teaches belongs into a test of its own.
#[cfg(not(loom))]
pub fn config(cases: u32) -> proptest::test_runner::Config {
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => proptest::test_runner::Config::default().cases,
        None => cases,
    };
    proptest::test_runner::Config {
        cases,
        failure_persistence: None,
        ..Default::default()
    }
}

/// The memory of an extent on the host. A clone is the same memory, for tests that look into it.
#[derive(Clone)]
pub struct Memory(Arc<(Vec<Word>, Vec<[Word; 2]>)>);

impl Memory {
    /// So many words and records, all of this value.
    pub fn new(words: usize, records: usize, value: u64) -> Self {
        let word = || Word::new(value);
        Self(Arc::new((
            (0..words).map(|_| word()).collect(),
            (0..records).map(|_| [word(), word()]).collect(),
        )))
    }

    /// What an extent of `slots` needs, with rubbish in it.
    pub fn for_slots(slots: usize) -> Self {
        let rubbish = if cfg!(loom) { 0 } else { 0x5a5a };
        Self::new(Extent::words(slots), slots, rubbish)
    }
}

impl Backing<Word> for Memory {
    fn words(&self) -> &[Word] {
        &self.0 .0
    }

    fn records(&self) -> &[[Word; 2]] {
        &self.0 .1
    }
}

/// An extent on the host.
pub type Extent = Slots<Word, Memory>;

/// Makes an extent of `slots` at `base`, in memory of its own.
pub fn extent(base: u64, slots: usize, processors: usize) -> Extent {
    extent_in(Memory::for_slots(slots), base, slots, processors)
}

/// Makes an extent of `slots` at `base` in this memory.
pub fn extent_in(memory: Memory, base: u64, slots: usize, processors: usize) -> Extent {
    Slots::new(memory, Machine::new(base), slots, processors).expect("a valid extent")
}
