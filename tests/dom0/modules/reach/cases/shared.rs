// SPDX-License-Identifier: GPL-2.0

//! Coherent memory of each source, as CPU, device and user see it: what one writes the others read.
//!
//! The user is the process that loads this module; the memory is mapped into it.

use super::{
    advance,
    pattern,
    Session,
    INTERNAL_SIZE,
    NARROW,
    SENTINEL,
    VERY_NARROW,
    WIDE, //
};
use kernel::prelude::*;
use xen_dma::client::{
    self,
    shared::{
        Shared,
        View, //
    }, //
};

/// From pages that fit, or a run of the pool, up to what only an exchange of pages from anywhere gives.
const SIZES: [usize; 5] = [0x2000, 0x1_0000, 0x20_0000, 0x40_0000, 0x80_0000];

impl Session<'_> {
    /// Memory of each size for a device of each reach.  C's backend is not asked: it has no such large
    /// blocks.
    pub(super) fn shared_memory(&mut self) -> Result {
        let dev = self.edu.device();
        if !client::has_own_ops(dev) {
            return Ok(());
        }
        for (name, mask) in [
            ("mmap_64", WIDE),
            ("mmap_32", NARROW),
            ("mmap_28", VERY_NARROW),
        ] {
            client::set_masks(dev, mask)?;
            for size in SIZES {
                let memory = Shared::new(dev, size)?;
                let outcome = self.three_sides(&memory, size);
                if outcome == Err(ETIMEDOUT) {
                    // The device may still touch it.
                    core::mem::forget(memory);
                }
                self.rows.judge(name, outcome?)?;
            }
        }
        Ok(())
    }

    /// The start, across a page's end in the middle, and the end.
    fn three_sides(&mut self, memory: &Shared<'_>, size: usize) -> Result<bool> {
        let user = memory.to_user(0, size)?;
        let mut right = true;
        for offset in [0, size / 2 - 2047, size - INTERNAL_SIZE] {
            let there = advance(memory.machine(), offset)?;

            // From the CPU, by the device, to the user.
            self.patterns += 1;
            let seed = self.patterns;
            memory.fill(offset, INTERNAL_SIZE, |index| pattern(seed, index));
            self.edu.read_memory(there, 0, INTERNAL_SIZE)?;
            user_writes(&user, offset, |_| SENTINEL)?;
            self.edu.write_memory(there, 0, INTERNAL_SIZE)?;
            let mut seen = KVec::from_elem(0, INTERNAL_SIZE, GFP_KERNEL)?;
            user.read(offset, &mut seen)?;
            right &= (0..INTERNAL_SIZE).all(|index| seen[index] == pattern(seed, index));

            // And back.
            self.patterns += 1;
            let seed = self.patterns;
            user_writes(&user, offset, |index| pattern(seed, index))?;
            self.edu.read_memory(there, 0, INTERNAL_SIZE)?;
            memory.fill(offset, INTERNAL_SIZE, |_| SENTINEL);
            self.edu.write_memory(there, 0, INTERNAL_SIZE)?;
            right &=
                (0..INTERNAL_SIZE).all(|index| memory.byte(offset + index) == pattern(seed, index));
        }
        Ok(right)
    }
}

/// The user writes as much as the device copies at once.
fn user_writes(user: &View<'_, '_>, offset: usize, byte: impl Fn(usize) -> u8) -> Result {
    let mut bytes = KVec::with_capacity(INTERNAL_SIZE, GFP_KERNEL)?;
    for index in 0..INTERNAL_SIZE {
        bytes.push(byte(index), GFP_KERNEL)?;
    }
    user.write(offset, &bytes)
}
