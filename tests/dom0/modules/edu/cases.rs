// SPDX-License-Identifier: GPL-2.0

//! What is tried with the device, and how the bytes are judged.
//!
//! A case puts a pattern of its own into memory and a sentinel around it, lets the device copy,
//! and compares all of the buffer that came back: a byte that was lost, stale, or written
//! outside the mapping shows.

use crate::{
    device::{
        Edu,
        INTERNAL_SIZE,
        MASK, //
    },
    tally::Tally, //
};
use core::ops::Range;
use dma_core::Machine;
use kernel::prelude::*;
use xen_dma::{
    client::{
        self,
        Buffer, //
    },
    ops::{
        Attrs,
        Direction, //
    }, //
};

mod shared;

/// Sizes of the transfers: around words, slots (2 KiB) and pages, and odd ones.
const SIZES: [usize; 13] = [
    1,
    2,
    3,
    4,
    7,
    64,
    255,
    1500,
    2047,
    2048,
    2049,
    4095,
    INTERNAL_SIZE,
];

/// Where in a buffer they begin: odd, and with the larger sizes across one or two pages' ends.
const OFFSETS: [usize; 11] = [1, 63, 511, 2045, 2047, 2049, 4093, 4095, 4097, 6143, 8191];

/// Pages of a buffer, as an order: room for the largest size at the largest offset.
const BUFFER_ORDER: u32 = 2;

/// As [`BUFFER_ORDER`], of the buffer for mappings that the C backend cannot bounce: 1 MiB.
const LARGE_ORDER: u32 = 8;

/// What a buffer holds where no pattern is.
const SENTINEL: u8 = 0xa5;

/// Bytes unlike those of any other pattern, and never the sentinel.
#[derive(Clone, Copy)]
struct Pattern(u32);

impl Pattern {
    fn byte(self, index: usize) -> u8 {
        // Odd constants with their bits mixed: neighbours in either number look unrelated.
        // CAST: An index of a buffer is small; the last one keeps the low bits.
        let mixed = self.0.wrapping_mul(0x9e37_79b1) ^ (index as u32).wrapping_mul(0x85eb_ca6b);
        let byte = (mixed.wrapping_mul(0xc2b2_ae35) >> 15) as u8;
        if byte == SENTINEL {
            !byte
        } else {
            byte
        }
    }
}

/// One device's run of all cases.
pub(crate) struct Session<'a> {
    edu: Edu<'a>,
    /// What the device reads.
    source: Buffer,
    /// What the device writes, and what is judged.
    target: Buffer,
    /// The target's stand-in for large mappings.
    large: Buffer,
    /// Patterns used so far.
    patterns: u32,
    tally: Tally,
}

impl<'a> Session<'a> {
    /// Obtains the buffers.  May sleep.
    pub(crate) fn new(edu: Edu<'a>) -> Result<Self> {
        Ok(Self {
            edu,
            source: Buffer::new(BUFFER_ORDER)?,
            target: Buffer::new(BUFFER_ORDER)?,
            large: Buffer::new(LARGE_ORDER)?,
            patterns: 0,
            tally: Tally::default(),
        })
    }

    /// Runs all cases, or with `large` that of a coherent buffer of so many bytes.  Differences are logged and counted; errors of the DMA API or the device
    /// end it.  Sleeps.
    pub(crate) fn run(&mut self, rounds: u32, large: usize) -> Result {
        if large > 0 {
            return self.large_memory(large);
        }
        core::mem::swap(&mut self.target, &mut self.large);
        let outcome = self.large_mappings();
        core::mem::swap(&mut self.target, &mut self.large);
        outcome?;
        self.shared_memory()?;
        for round in 0..rounds as usize {
            for (index, &size) in SIZES.iter().enumerate() {
                // Each round pairs sizes with other offsets; source and target differ.
                let from = OFFSETS[(index + 3 * round) % OFFSETS.len()];
                let to = OFFSETS[(5 * index + round + 1) % OFFSETS.len()];
                self.round_trip(size, from, to)?;
            }
            self.partial_write()?;
            self.syncs()?;
        }
        Ok(())
    }

    /// Ends the session.
    pub(crate) fn finish(self, outcome: Result) -> Tally {
        if outcome == Err(ETIMEDOUT) {
            // The device may still touch them.
            core::mem::forget(self.source);
            core::mem::forget(self.target);
            core::mem::forget(self.large);
        }
        self.tally
    }

    /// Memory to device, device to memory: the bytes arrive, and nothing beside them changes.
    fn round_trip(&mut self, size: usize, from: usize, to: usize) -> Result {
        let inside = (INTERNAL_SIZE - size) / 2;
        let pattern = self.send(size, from, inside)?;

        self.target.fill(0, self.target.size(), |_| SENTINEL);
        let addr = map(&self.edu, &self.target, to, size, Direction::FROM_DEVICE)?;
        self.write_memory(addr, inside, size)?;
        unmap(&self.edu, addr, size, Direction::FROM_DEVICE);
        self.check("round trip", 0..self.target.size(), to..to + size, pattern);
        Ok(())
    }

    /// Mappings of nearly 1 MiB, or of as much as the backend says that it maps, of which the device
    /// writes a little at the start, inside, and at the very end.
    fn large_mappings(&mut self) -> Result {
        const OFFSET: usize = 4095;

        let most = client::max_mapping_size(self.edu.device());
        let size = most.min(self.target.size() - OFFSET - 1);
        for written in [0, size / 3 | 1, size - INTERNAL_SIZE] {
            let pattern = self.send(INTERNAL_SIZE, 1, 0)?;
            self.target.fill(0, self.target.size(), |_| SENTINEL);
            let addr = map(
                &self.edu,
                &self.target,
                OFFSET,
                size,
                Direction::FROM_DEVICE,
            )?;
            self.write_memory(advance(addr, written)?, 0, INTERNAL_SIZE)?;
            unmap(&self.edu, addr, size, Direction::FROM_DEVICE);
            let start = OFFSET + written;
            let filled = start..start + INTERNAL_SIZE;
            self.check("large mapping", 0..self.target.size(), filled, pattern);
        }
        Ok(())
    }

    /// The device writes less than was mapped: the rest of the buffer keeps its bytes.
    fn partial_write(&mut self) -> Result {
        const OFFSET: usize = 2047;
        const SIZE: usize = 4096;
        const WRITTEN_FROM: usize = 301;
        const WRITTEN: usize = 1000;

        let pattern = self.send(WRITTEN, 1, 0)?;

        self.target.fill(0, self.target.size(), |_| SENTINEL);
        let addr = map(
            &self.edu,
            &self.target,
            OFFSET,
            SIZE,
            Direction::FROM_DEVICE,
        )?;
        self.write_memory(advance(addr, WRITTEN_FROM)?, 0, WRITTEN)?;
        unmap(&self.edu, addr, SIZE, Direction::FROM_DEVICE);
        let start = OFFSET + WRITTEN_FROM;
        self.check(
            "partial write",
            0..self.target.size(),
            start..start + WRITTEN,
            pattern,
        );
        Ok(())
    }

    /// One mapping is kept; its bytes change hands by syncs, whole and in part.
    fn syncs(&mut self) -> Result {
        const OFFSET: usize = 4093;
        const SIZE: usize = INTERNAL_SIZE;
        const PART_FROM: usize = 1001;
        const PART: usize = 2050;
        const TURNS: usize = 2;
        const DIR: Direction = Direction::BIDIRECTIONAL;

        let dev = self.edu.device();
        let whole = OFFSET..OFFSET + SIZE;
        let part = OFFSET + PART_FROM..OFFSET + PART_FROM + PART;

        self.target.fill(0, self.target.size(), |_| SENTINEL);
        let mut pattern = self.next_pattern();
        self.target.fill(OFFSET, SIZE, |index| pattern.byte(index));
        let addr = map(&self.edu, &self.target, OFFSET, SIZE, DIR)?;
        for turn in 0..TURNS {
            // The first pattern reached the device with the mapping.
            if turn > 0 {
                pattern = self.next_pattern();
                self.target.fill(OFFSET, SIZE, |index| pattern.byte(index));
                client::sync_for_device(dev, addr, SIZE, DIR);
            }
            self.read_memory(addr, 0, SIZE)?;

            client::sync_for_cpu(dev, addr, SIZE, DIR);
            self.target.fill(OFFSET, SIZE, |_| SENTINEL);
            client::sync_for_device(dev, addr, SIZE, DIR);
            self.write_memory(addr, 0, SIZE)?;

            client::sync_for_cpu(dev, advance(addr, PART_FROM)?, PART, DIR);
            self.check("sync of a part", part.clone(), whole.clone(), pattern);
            client::sync_for_cpu(dev, addr, SIZE, DIR);
            self.check("sync", 0..self.target.size(), whole.clone(), pattern);
        }
        unmap(&self.edu, addr, SIZE, DIR);
        self.check("unmap after syncs", 0..self.target.size(), whole, pattern);
        Ok(())
    }

    /// Lets the device read a new pattern from the source at `offset` into its buffer at `inside`.
    fn send(&mut self, size: usize, offset: usize, inside: usize) -> Result<Pattern> {
        let pattern = self.next_pattern();
        self.source.fill(0, self.source.size(), |_| SENTINEL);
        self.source.fill(offset, size, |index| pattern.byte(index));
        let addr = map(&self.edu, &self.source, offset, size, Direction::TO_DEVICE)?;
        self.read_memory(addr, inside, size)?;
        unmap(&self.edu, addr, size, Direction::TO_DEVICE);
        Ok(pattern)
    }

    fn read_memory(&mut self, addr: Machine, inside: usize, size: usize) -> Result {
        self.edu.read_memory(addr, inside, size)?;
        self.tally.transfers += 1;
        Ok(())
    }

    fn write_memory(&mut self, addr: Machine, inside: usize, size: usize) -> Result {
        self.edu.write_memory(addr, inside, size)?;
        self.tally.transfers += 1;
        Ok(())
    }

    fn next_pattern(&mut self) -> Pattern {
        self.patterns += 1;
        Pattern(self.patterns)
    }

    /// Compares the bytes `within` the target: those in `filled` must be the pattern, the others
    /// the sentinel.  Logs the first difference of the session.
    fn check(
        &mut self,
        case: &str,
        within: Range<usize>,
        filled: Range<usize>,
        pattern: Pattern, //
    ) {
        for offset in within {
            let expected = match offset.checked_sub(filled.start) {
                Some(index) if filled.contains(&offset) => pattern.byte(index),
                _ => SENTINEL,
            };
            let found = self.target.byte(offset);
            self.tally.bytes += 1;
            if found == expected {
                continue;
            }
            if self.tally.mismatches == 0 {
                let (dev, size) = (self.edu.device(), filled.len());
                dev_err!(
                    dev,
                    "first mismatch: {case}, {size} bytes at offset {}: offset {offset} is {found:#04x}, not {expected:#04x}\n",
                    filled.start
                );
            }
            self.tally.mismatches += 1;
        }
    }
}

/// Maps part of a buffer.  [`EIO`] if refused, or if the device cannot reach the address.
fn map(
    edu: &Edu<'_>,
    buffer: &Buffer,
    offset: usize,
    size: usize,
    dir: Direction,
) -> Result<Machine> {
    let dev = edu.device();
    // CAST: `usize` has 64 bits, here and below.
    let phys = buffer.phys().checked_add(offset as u64).ok_or(EINVAL)?;
    let addr = client::map(dev, phys, size, dir, Attrs::NONE)?;
    let reachable = addr
        .checked_add(size as u64 - 1)
        .is_some_and(|last| last.raw() <= MASK);
    if !reachable {
        dev_err!(
            dev,
            "{size} bytes were mapped to {addr:x?}, past the mask {MASK:#x}\n"
        );
        unmap(edu, addr, size, dir);
        return Err(EIO);
    }
    Ok(addr)
}

/// Ends a mapping.  Not done after a time-out: then the device may still use it.
fn unmap(edu: &Edu<'_>, addr: Machine, size: usize, dir: Direction) {
    client::unmap(edu.device(), addr, size, dir, Attrs::NONE);
}

/// An address inside a mapping.
fn advance(addr: Machine, count: usize) -> Result<Machine> {
    addr.checked_add(count as u64).ok_or(EINVAL)
}
