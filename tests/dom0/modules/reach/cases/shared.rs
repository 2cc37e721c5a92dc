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
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client::{
        self,
        shared::{
            Shared,
            View, //
        }, //
    },
    ops::Attrs,
    Context, //
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
        self.last_resort()?;
        for (name, mask) in [
            ("mmap_64", WIDE),
            ("mmap_32", NARROW),
            ("mmap_28", VERY_NARROW),
        ] {
            client::set_masks(dev, mask)?;
            for size in SIZES {
                let memory = Shared::new(dev, size, Context::Sleepable)?;
                self.judge_sides(name, memory, size)?;
            }
        }
        Ok(())
    }

    /// Memory that is a run of the bounces' aperture: what is left to who cannot sleep, before there is a pool for
    /// the device.  It must come first.
    fn last_resort(&mut self) -> Result {
        const SIZE: usize = 0x2_0000;
        const MOST: usize = 64;

        let dev = self.edu.device();
        client::set_masks(dev, VERY_NARROW)?;
        // All of the aperture is one extent, which is aligned to its size; half of it can be mapped at once.
        // CAST: Widens.
        let extent = 2 * client::max_mapping_size(dev) as u64;
        let span = self.blocks.find(1, true, true).ok_or(ENOENT)?;
        let bounce = self.map(&span, (0, PAGE_SIZE), Attrs::NONE)?;
        let mut others = KVec::with_capacity(MOST, GFP_KERNEL)?;
        let found = (0..MOST).find_map(|_| {
            let memory = Shared::new(dev, SIZE, Context::Atomic).ok()?;
            if memory.machine().raw() / extent == bounce.raw() / extent {
                return Some(memory);
            }
            others.push_within_capacity(memory).ok()?;
            None
        });
        let right = match found {
            Some(memory) => self.judge_sides("mmap_aperture", memory, SIZE),
            None => self.rows.judge("mmap_aperture", false),
        };
        self.unmap(bounce, PAGE_SIZE, Attrs::NONE);
        right
    }

    /// Tries memory on all sides, and frees it.
    fn judge_sides(&mut self, name: &'static str, memory: Shared<'_>, size: usize) -> Result {
        let outcome = self.three_sides(&memory, size);
        if outcome == Err(ETIMEDOUT) {
            // The device may still touch it.
            core::mem::forget(memory);
        }
        self.rows.judge(name, outcome?)
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
