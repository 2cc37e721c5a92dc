// SPDX-License-Identifier: GPL-2.0

//! Hints: which open chunk may have a free block of which size.
//!
//! A hint only saves looking. It may promise too much, until somebody looks and finds nothing; it
//! must not stay away for good from a chunk that has room. That is kept by an order of two words:
//! who makes room changes the chunk's word first and then looks at the hint; who takes a hint away
//! reads the chunk's word again after that. Whichever comes second sees the other.

use crate::{
    atomic::AtomicWord,
    bits::{
        bit,
        half_free,
        level,
        CLASSES,
        WORD, //
    },
    words::Words,
};

impl<W: AtomicWord, B: AsRef<[W]>> Words<W, B> {
    /// Reports that a chunk's word went from `old` to `new` because slots were claimed.
    #[inline]
    pub(crate) fn lost_room(&self, chunk: usize, old: u64, new: u64) {
        // The fuller word decides: as long as it has all block sizes, so has the other.
        if !half_free(new) {
            self.lower(chunk, level(old), level(new));
        }
    }

    /// Reports that a chunk's word went from `old` to `new` because slots were released, or because
    /// the chunk was opened.
    #[inline]
    pub(crate) fn gained_room(&self, chunk: usize, old: u64, new: u64) {
        if !half_free(old) {
            self.raise(chunk, level(old), level(new));
        }
    }

    #[inline(never)]
    fn lower(&self, chunk: usize, old: u32, new: u32) {
        for class in new..old {
            self.retract(chunk, class);
        }
    }

    #[inline(never)]
    fn raise(&self, chunk: usize, old: u32, new: u32) {
        for class in old..new {
            self.set(self.hint(class, chunk / WORD), bit(chunk & (WORD - 1)));
        }
    }

    /// Takes a hint away from a chunk, unless it turns out to be true.
    pub(crate) fn retract(&self, chunk: usize, class: u32) {
        let (at, hint) = (self.hint(class, chunk / WORD), bit(chunk & (WORD - 1)));

        if self.clear(at, hint) != 0 && level(self.load(self.chunk(chunk))) > class {
            self.set(at, hint);
        }
    }

    /// Takes all hints away from a chunk that is no longer open.
    pub(crate) fn forget(&self, chunk: usize) {
        self.lower(chunk, CLASSES, 0);
    }
}
