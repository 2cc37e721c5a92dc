// SPDX-License-Identifier: GPL-2.0

//! Coherent memory that CPU, device and user see at once: what one writes the others read.
//!
//! The user is the process that loads this module; the memory is mapped into it.

use super::{
    advance,
    Pattern,
    Session,
    INTERNAL_SIZE,
    SENTINEL, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client::shared::{
        Shared,
        View, //
    },
    Context, //
};

/// Bytes of the memory: the smaller ones are cut from the backend's pool, if none fits as it comes;
/// the last one is larger than any block of Linux's page allocator.
const SIZES: [usize; 4] = [0x2000, 0x1_0000, 0x10_0000, 0x80_0000];

/// Places in a large buffer that the device copies between.
const PLACES: usize = 24;

impl Session<'_> {
    /// All of it; sleeps.
    pub(super) fn shared_memory(&mut self) -> Result {
        for size in SIZES {
            let memory = Shared::new(self.edu.device(), size, Context::Sleepable)?;
            let outcome = self.three_sides(&memory, size);
            if outcome == Err(ETIMEDOUT) {
                // The device may still touch it.
                core::mem::forget(memory);
            }
            outcome?;
        }
        Ok(())
    }

    /// One buffer of many MiB: the device copies pages between places in it, and to no other.
    pub(super) fn large_memory(&mut self, size: usize) -> Result {
        let memory = Shared::new(self.edu.device(), size, Context::Sleepable)?;
        let outcome = self.far_apart(&memory, size);
        if outcome == Err(ETIMEDOUT) {
            // The device may still touch it.
            core::mem::forget(memory);
        }
        outcome
    }

    fn far_apart(&mut self, memory: &Shared<'_>, size: usize) -> Result {
        let pages = size / PAGE_SIZE;
        let mut seen = KVec::from_elem(0, INTERNAL_SIZE, GFP_KERNEL)?;
        // From the first page to the last one, and odd ones in between.
        let place = |number: usize| number * (pages - 1) / (PLACES - 1) * PAGE_SIZE;
        for number in 0..PLACES {
            look(memory, place(number), &mut seen);
            self.compare("new memory", &seen, |_| 0);
        }
        for number in 0..PLACES {
            memory.fill(place(number), INTERNAL_SIZE, |_| SENTINEL);
        }
        for number in 0..PLACES {
            let (from, to) = (place(number), place((number + PLACES / 2) % PLACES));
            let pattern = self.next_pattern();
            memory.fill(from, INTERNAL_SIZE, |index| pattern.byte(index));
            self.read_memory(advance(memory.machine(), from)?, 0, INTERNAL_SIZE)?;
            self.write_memory(advance(memory.machine(), to)?, 0, INTERNAL_SIZE)?;
            look(memory, to, &mut seen);
            self.compare("copied by the device", &seen, |index| pattern.byte(index));
            memory.fill(from, INTERNAL_SIZE, |_| SENTINEL);
        }
        Ok(())
    }

    fn three_sides(&mut self, memory: &Shared<'_>, size: usize) -> Result {
        self.refusals(memory, size)?;
        let user = memory.to_user(0, size)?;
        let mut seen = KVVec::from_elem(0, size, GFP_KERNEL)?;

        // CPU and user, every byte.
        let pattern = self.next_pattern();
        memory.fill(0, size, |index| pattern.byte(index));
        user.read(0, &mut seen)?;
        self.compare("user reads what CPU wrote", &seen, |index| {
            pattern.byte(index)
        });
        self.window(memory, &pattern)?;
        if memory.is_linear() {
            let alone = memory.to_user_privately()?;
            alone.read(0, &mut seen)?;
            self.compare("user reads it privately", &seen, |index| {
                pattern.byte(index)
            });
        }
        let pattern = self.next_pattern();
        write(&user, 0, &mut seen, |index| pattern.byte(index))?;
        look(memory, 0, &mut seen);
        self.compare("CPU reads what user wrote", &seen, |index| {
            pattern.byte(index)
        });

        // With the device: the start, across a page's end, the end.
        seen.truncate(INTERNAL_SIZE);
        for offset in [0, size / 2 - 2047, size - INTERNAL_SIZE] {
            let addr = advance(memory.machine(), offset)?;

            let pattern = self.next_pattern();
            memory.fill(offset, INTERNAL_SIZE, |index| pattern.byte(index));
            self.read_memory(addr, 0, INTERNAL_SIZE)?;
            write(&user, offset, &mut seen, |_| SENTINEL)?;
            self.write_memory(addr, 0, INTERNAL_SIZE)?;
            user.read(offset, &mut seen)?;
            self.compare("CPU to device to user", &seen, |index| pattern.byte(index));

            let pattern = self.next_pattern();
            write(&user, offset, &mut seen, |index| pattern.byte(index))?;
            self.read_memory(addr, 0, INTERNAL_SIZE)?;
            memory.fill(offset, INTERNAL_SIZE, |_| SENTINEL);
            self.write_memory(addr, 0, INTERNAL_SIZE)?;
            look(memory, offset, &mut seen);
            self.compare("user to device to CPU", &seen, |index| pattern.byte(index));
        }
        Ok(())
    }

    /// A view of the second page alone shows the second page.
    fn window(&mut self, memory: &Shared<'_>, pattern: &Pattern) -> Result {
        let mut seen = KVec::from_elem(0, PAGE_SIZE, GFP_KERNEL)?;
        memory.to_user(1, PAGE_SIZE)?.read(0, &mut seen)?;
        self.compare("user reads the second page", &seen, |index| {
            pattern.byte(PAGE_SIZE + index)
        });
        Ok(())
    }

    /// More than there is cannot be mapped.
    fn refusals(&mut self, memory: &Shared<'_>, size: usize) -> Result {
        let pages = size / PAGE_SIZE;
        for (first, length) in [
            (0, size + 1),
            (1, size),
            (pages, PAGE_SIZE),
            (pages - 1, 2 * PAGE_SIZE),
        ] {
            if memory.to_user(first, length).err() != Some(ENXIO) {
                let dev = self.edu.device();
                dev_err!(
                    dev,
                    "{length} bytes from page {first} on of {size} were not refused\n"
                );
                self.tally.mismatches += 1;
            }
        }
        Ok(())
    }

    /// Compares what was seen with what should be.  Logs the first difference of the session.
    fn compare(&mut self, case: &str, seen: &[u8], byte: impl Fn(usize) -> u8) {
        for (index, &found) in seen.iter().enumerate() {
            let expected = byte(index);
            self.tally.bytes += 1;
            if found == expected {
                continue;
            }
            if self.tally.mismatches == 0 {
                let dev = self.edu.device();
                dev_err!(
                    dev,
                    "first mismatch: {case}: byte {index} is {found:#04x}, not {expected:#04x}\n"
                );
            }
            self.tally.mismatches += 1;
        }
    }
}

/// The user writes `byte(i)` to each byte `i` from `offset` on, as many as `scratch` holds.
fn write(
    user: &View<'_, '_>,
    offset: usize,
    scratch: &mut [u8],
    byte: impl Fn(usize) -> u8,
) -> Result {
    for (index, place) in scratch.iter_mut().enumerate() {
        *place = byte(index);
    }
    user.write(offset, scratch)
}

/// The CPU reads from `offset` on.
fn look(memory: &Shared<'_>, offset: usize, seen: &mut [u8]) {
    for (index, place) in seen.iter_mut().enumerate() {
        *place = memory.byte(offset + index);
    }
}
