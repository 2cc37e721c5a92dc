// SPDX-License-Identifier: GPL-2.0

//! Others' mappings: what is in the aperture while something is measured.
//!
//! Their choice is random, but the same in every run.

use dma_core::{
    Machine,
    Phys, //
};
use kernel::{
    alloc::{
        Allocator,
        Vec, //
    },
    device::Device,
    prelude::*, //
};
use xen_dma::{
    client,
    ops::{
        Attrs,
        Direction, //
    }, //
};

/// What both backends carve their apertures into.
pub(crate) const SLOT: usize = 2048;

/// Throws the same numbers in every run.  Xorshift, after Marsaglia.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // CAST: The remainder is below a `usize`.
        (self.0 % end as u64) as usize
    }

    /// Takes one out of `all`, whichever.
    pub(crate) fn draw<T, A: Allocator>(&mut self, all: &mut Vec<T, A>) -> Option<T> {
        let last = all.len().checked_sub(1)?;
        let index = self.below(all.len());
        all.swap(index, last);
        all.pop()
    }
}

/// Mappings that are held; they end with it.
pub(crate) struct Fill<'a> {
    dev: &'a Device,
    /// One buffer serves them all: the device never looks.
    buffer: Phys,
    held: KVVec<(Machine, usize)>,
    dice: Dice,
}

impl<'a> Fill<'a> {
    /// None.  `buffer` has as many bytes as the largest that will be asked for.
    pub(crate) fn new(dev: &'a Device, buffer: Phys) -> Self {
        Self {
            dev,
            buffer,
            held: KVVec::new(),
            dice: Dice::new(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Adds one, if the backend has room.
    pub(crate) fn add(&mut self, size: usize) -> Result<bool> {
        let (dir, attrs) = (Direction::TO_DEVICE, Attrs::NO_WARN);
        let Some(addr) = client::map_alone(self.dev, self.buffer, size, dir, attrs) else {
            return Ok(false);
        };
        match self.held.push((addr, size), GFP_KERNEL) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.end(addr, size);
                Err(error.into())
            }
        }
    }

    /// Adds single slots until there is no more room.
    pub(crate) fn add_all(&mut self) -> Result {
        while self.add(SLOT)? {}
        Ok(())
    }

    /// Ends one, whichever; returns its size, or 0 if there is none.
    pub(crate) fn remove_any(&mut self) -> usize {
        let Some((addr, size)) = self.dice.draw(&mut self.held) else {
            return 0;
        };
        self.end(addr, size);
        size
    }

    /// Ends those that `keep` does not want: it is told their slot's number in the machine.
    pub(crate) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let dev = self.dev;
        self.held.retain(|&mut (addr, size)| {
            let kept = keep(addr.raw() / SLOT as u64);
            if !kept {
                client::unmap(dev, addr, size, Direction::TO_DEVICE, Attrs::NONE);
            }
            kept
        });
    }

    /// Replaces one by another of the same size, elsewhere.
    pub(crate) fn stir(&mut self) -> Result {
        match self.remove_any() {
            0 => Ok(()),
            size => self.add(size).map(|_| ()),
        }
    }

    fn end(&self, addr: Machine, size: usize) {
        client::unmap(self.dev, addr, size, Direction::TO_DEVICE, Attrs::NONE);
    }
}

impl Drop for Fill<'_> {
    fn drop(&mut self) {
        self.retain(|_| false);
    }
}
