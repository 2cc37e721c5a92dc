// SPDX-License-Identifier: GPL-2.0

//! One device's measurement: buffers, and how a pair of calls is measured.

use crate::{
    fill::Dice,
    rows::{
        Label,
        Rows,
        Samples, //
    }, //
};
use dma_core::{
    Machine,
    Phys, //
};
use kernel::{
    device::{
        Bound,
        Device, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client::{
        self,
        Buffer, //
    },
    measure::Meter,
    ops::{
        Attrs,
        Direction, //
    }, //
};

/// Copied in at a map, and out at an unmap.
pub(crate) const BOTH: Direction = Direction::BIDIRECTIONAL;

/// Requests that fail are part of the measurement; a line in the log would be, too.
pub(crate) const QUIET: Attrs = Attrs::NO_WARN;

/// Masks of devices that reach all memory, and that must bounce.
pub(crate) const WIDE: u64 = u64::MAX;
pub(crate) const NARROW: u64 = u32::MAX as u64;

/// After so many refusals a case is clear.
const MAX_REFUSED: usize = 16;

/// 4 MiB: as large as the page allocator has.
const LARGE_ORDER: u32 = 10;

/// 1 MiB.
const CONTIGUOUS_ORDER: u32 = 8;

/// Device, buffers and results.
pub(crate) struct Session<'a> {
    pub(crate) dev: &'a Device<Bound>,
    pub(crate) meter: Meter,
    /// Above 4 GiB of machine addresses.
    pub(crate) large: Buffer,
    /// Above 4 GiB, too, and machine-contiguous.
    pub(crate) contiguous: Buffer,
    spare: Buffer,
    rows: Rows,
    round: u32,
}

impl<'a> Session<'a> {
    /// Obtains the buffers.  May sleep.
    pub(crate) fn new(dev: &'a Device<Bound>) -> Result<Self> {
        Ok(Self {
            dev,
            meter: Meter::calibrate(),
            large: buffer(LARGE_ORDER, is_high)?,
            contiguous: buffer(CONTIGUOUS_ORDER, |buffer| {
                is_high(buffer) && is_contiguous(buffer)
            })?,
            spare: Buffer::new(LARGE_ORDER)?,
            rows: Rows::new(),
            round: 0,
        })
    }

    /// Measures everything once, or only `growth`.  Sleeps, and takes long.
    pub(crate) fn run(&mut self, round: u32, growth: bool) -> Result {
        self.round = round;
        if growth {
            return self.growth();
        }
        self.single()?;
        self.patterns()
    }

    pub(crate) fn finish(self) -> Rows {
        self.rows
    }

    pub(crate) fn set_mask(&self, mask: u64) -> Result {
        client::set_masks(self.dev, mask)
    }

    /// What a copy of `size` bytes takes.
    pub(crate) fn copy_cost(&mut self, size: usize) -> Result<u64> {
        let mut least = u64::MAX;
        for _ in 0..3 {
            least = least.min(self.meter.copy(&mut self.spare, &self.large, size)?);
        }
        Ok(least)
    }

    /// What it takes to clear `size` bytes; of more than a buffer has, so many times that.
    pub(crate) fn clear_cost(&mut self, size: usize) -> Result<u64> {
        let part = size.min(self.spare.size());
        let mut least = u64::MAX;
        for _ in 0..3 {
            least = least.min(self.meter.clear(&mut self.spare, part)?);
        }
        Ok(least * (size / part) as u64)
    }

    /// Adds a result.
    pub(crate) fn note(
        &mut self,
        label: Label,
        call: &'static str,
        samples: Samples,
        copy: u64,
    ) -> Result {
        self.rows.add(label, call, self.round, samples, copy)
    }

    /// Maps and unmaps, one at a time.  `between` is called before each map.
    pub(crate) fn pairs(
        &mut self,
        label: Label,
        phys: Phys,
        copy: u64,
        mut between: impl FnMut() -> Result,
    ) -> Result {
        let (dev, size) = (self.dev, label.bytes);
        let mut calls = Calls::new();
        for _ in 0..count(size) {
            between()?;
            if let Some(addr) = calls.map(&mut self.meter, dev, phys, size)? {
                calls.unmap(&mut self.meter, dev, addr, size)?;
            } else if calls.refused() == MAX_REFUSED {
                break;
            }
        }
        self.note_calls(label, calls, copy)
    }

    /// Maps many, one after the other, and then unmaps them in an order that is none.
    pub(crate) fn batch(&mut self, label: Label, phys: Phys, copy: u64) -> Result {
        let (dev, size) = (self.dev, label.bytes);
        let mut calls = Calls::new();
        let mut held = KVec::new();
        for _ in 0..count(size) {
            if let Some(addr) = calls.map(&mut self.meter, dev, phys, size)? {
                held.push(addr, GFP_KERNEL)?;
            } else if calls.refused() == MAX_REFUSED {
                break;
            }
        }
        let mut dice = Dice::new();
        while let Some(addr) = dice.draw(&mut held) {
            calls.unmap(&mut self.meter, dev, addr, size)?;
        }
        self.note_calls(label, calls, copy)
    }

    pub(crate) fn note_calls(&mut self, label: Label, calls: Calls, copy: u64) -> Result {
        self.note(label, "map", calls.maps, copy)?;
        self.note(label, "unmap", calls.unmaps, copy)?;
        // What is refused is not copied.
        self.note(label, "refused", calls.refused, 0)
    }
}

/// What single mappings took.
pub(crate) struct Calls {
    maps: Samples,
    unmaps: Samples,
    refused: Samples,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self {
            maps: Samples::new(),
            unmaps: Samples::new(),
            refused: Samples::new(),
        }
    }

    /// How many were refused.
    pub(crate) fn refused(&self) -> usize {
        self.refused.len()
    }

    pub(crate) fn map(
        &mut self,
        meter: &mut Meter,
        dev: &Device,
        phys: Phys,
        size: usize,
    ) -> Result<Option<Machine>> {
        let (mapped, took) = meter.measure(|| client::map_alone(dev, phys, size, BOTH, QUIET));
        match mapped {
            Some(_) => self.maps.add(took)?,
            None => self.refused.add(took)?,
        }
        Ok(mapped)
    }

    pub(crate) fn unmap(
        &mut self,
        meter: &mut Meter,
        dev: &Device,
        addr: Machine,
        size: usize,
    ) -> Result {
        let ((), took) = meter.measure(|| client::unmap(dev, addr, size, BOTH, QUIET));
        self.unmaps.add(took)
    }
}

/// Samples of a case; fewer where each of them copies much.
pub(crate) fn count(size: usize) -> usize {
    const MANY: usize = 64;
    const ENOUGH: usize = 8;
    const COPIED: usize = 16 << 20;
    (COPIED / size.max(1)).clamp(ENOUGH, MANY)
}

/// A buffer that is as it must be.  [`ENOMEM`] if none of many is.
pub(crate) fn buffer(order: u32, fits: impl Fn(&Buffer) -> bool) -> Result<Buffer> {
    const TRIES: usize = 32;
    // Kept until the end, so that no page comes twice.
    let mut others = KVec::new();
    for _ in 0..TRIES {
        let buffer = Buffer::new(order)?;
        if fits(&buffer) {
            return Ok(buffer);
        }
        others.push(buffer, GFP_KERNEL)?;
    }
    Err(ENOMEM)
}

/// Whether no 32-bit device reaches any of it.
pub(crate) fn is_high(buffer: &Buffer) -> bool {
    buffer
        .machine_pages()
        .filter(|page| page.raw() > NARROW)
        .count()
        == buffer.size() / PAGE_SIZE
}

/// Whether a page lies just behind another one.
pub(crate) fn follows(page: &Buffer, other: &Buffer) -> bool {
    let end = other.machine_pages().last();
    let end = end.and_then(|last| last.checked_add(PAGE_SIZE as u64));
    end.is_some() && page.machine_pages().next() == end
}

fn is_contiguous(buffer: &Buffer) -> bool {
    let first = buffer.machine_pages().next();
    let mut pages = buffer.machine_pages().zip(0u64..);
    pages.all(|(page, index)| {
        Some(page) == first.and_then(|f| f.checked_add(index * PAGE_SIZE as u64))
    })
}
