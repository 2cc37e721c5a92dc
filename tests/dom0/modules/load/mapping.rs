// SPDX-License-Identifier: GPL-2.0

//! One mapping, of a buffer or of a list, and what must be true of it: the device sees the bytes
//! that were mapped, the caller gets what the device wrote, and nothing beside them changes.

use crate::tally::{
    self,
    Count, //
};
use dma_core::Machine;
use kernel::{
    device::Device,
    prelude::*, //
};
use xen_dma::{
    client::{
        self,
        engine,
        Buffer,
        List, //
    },
    measure::Meter,
    ops::{
        Attrs,
        Direction, //
    }, //
};

/// Bytes around a buffer that nobody may touch.
pub(crate) const GUARD: usize = 32;

/// What is larger is not measured: there the copy is all that counts.
const MEASURED: usize = 4096;

/// Requests that find no room are counted; a line in the log each would be too many.
const QUIET: Attrs = Attrs::NO_WARN;

/// A byte that depends on where it stands, and on who wrote it.
fn pattern(seed: usize, index: usize) -> u8 {
    // CAST: The low bits.
    (index ^ (index >> 8))
        .wrapping_add(seed)
        .wrapping_mul(0x9e37_79b1) as u8
}

/// A part of a buffer, and where the device sees it.
pub(crate) struct Piece {
    pub(crate) buffer: Buffer,
    pub(crate) from: usize,
    pub(crate) size: usize,
    at: Machine,
}

impl Piece {
    pub(crate) fn new(buffer: Buffer, from: usize, size: usize) -> Self {
        let at = Machine::new(0);
        Self {
            buffer,
            from,
            size,
            at,
        }
    }

    fn paint(&mut self, seed: usize) {
        let (low, size) = (self.from - GUARD, self.size + 2 * GUARD);
        self.buffer.fill(low, size, |index| pattern(seed, index));
    }

    /// Compares the buffer and what is around it with what `seed` wrote, and within `written` of the mapping
    /// `device`.
    fn check(&self, seed: usize, written: usize, device: usize) -> bool {
        let (low, size) = (self.from - GUARD, self.size + 2 * GUARD);
        let wanted = |index: usize| {
            let inside = index.wrapping_sub(GUARD);
            if inside < written {
                pattern(device, inside)
            } else {
                pattern(seed, index)
            }
        };
        let wrong = |&index: &usize| self.buffer.byte(low + index) != wanted(index);
        judge(size, Ok((0..size).filter(wrong).count()))
    }
}

/// Notes what a comparison of so many bytes came to; whether it was as it should be.
fn judge(size: usize, outcome: Result<usize>) -> bool {
    tally::add(Count::Byte, size);
    // Where there is no memory of this domain's, nothing is right.
    let wrong = outcome.unwrap_or(size);
    tally::add(Count::Mismatch, wrong);
    wrong == 0
}

/// A buffer or a list that is mapped.
pub(crate) struct Mapping {
    pieces: KVec<Piece>,
    list: Option<List>,
    dir: Direction,
    seed: usize,
}

impl Mapping {
    /// Maps the pieces; gives them back if there is no room.
    pub(crate) fn new(
        dev: &Device,
        mut pieces: KVec<Piece>,
        dir: Direction,
        seed: usize,
        meter: Option<&mut Meter>,
    ) -> Result<Self, KVec<Piece>> {
        for piece in pieces.iter_mut() {
            piece.paint(seed);
        }
        let mut mapping = Self {
            pieces,
            list: None,
            dir,
            seed,
        };
        if mapping.map(dev, meter).is_err() {
            tally::add(Count::Refused, 1);
            return Err(mapping.pieces);
        }
        tally::add(Count::Map, mapping.pieces.len());
        if !mapping.device_sees(seed) {
            dev_err!(dev, "the device does not see what was mapped\n");
        }
        Ok(mapping)
    }

    fn map(&mut self, dev: &Device, meter: Option<&mut Meter>) -> Result {
        if let [piece] = &mut self.pieces[..] {
            // CAST: Widens.
            let phys = piece.buffer.phys().checked_add(piece.from as u64);
            let (phys, size, dir) = (phys.ok_or(EINVAL)?, piece.size, self.dir);
            piece.at = match meter.filter(|_| size <= MEASURED) {
                Some(meter) => {
                    let call = || client::map_alone(dev, phys, size, dir, QUIET);
                    let (mapped, took) = meter.measure(call);
                    tally::note(Count::WorstMap, took);
                    mapped.ok_or(EIO)?
                }
                None => client::map(dev, phys, size, dir, QUIET)?,
            };
            return Ok(());
        }
        let parts = self.pieces.iter().map(|p| (&p.buffer, p.from, p.size));
        let mut list = List::of_parts(self.pieces.len(), parts)?;
        list.map(dev, self.dir, QUIET)?;
        // What lies side by side may have become one segment.
        let mut segments = list.mapped();
        let (mut at, mut left) = (Machine::new(0), 0);
        for piece in self.pieces.iter_mut() {
            if left == 0 {
                (at, left) = segments.next().unwrap_or((Machine::new(0), piece.size));
            }
            piece.at = at;
            // CAST: Widens.
            at = Machine::new(at.raw().wrapping_add(piece.size as u64));
            left = left.saturating_sub(piece.size);
        }
        drop(segments);
        self.list = Some(list);
        Ok(())
    }

    /// Whether the device sees the bytes of `seed`.
    fn device_sees(&self, seed: usize) -> bool {
        let mut right = true;
        for piece in self.pieces.iter() {
            let wanted = |index: usize| pattern(seed, index + GUARD);
            right &= judge(
                piece.size,
                engine::differences(piece.at, piece.size, wanted),
            );
        }
        right
    }

    /// The CPU looks while the mapping lasts, and may change the bytes; then the device looks.
    pub(crate) fn sync(&mut self, dev: &Device, seed: usize) {
        self.hand_over(dev, true);
        if !self.pieces.iter().all(|piece| piece.check(self.seed, 0, 0)) {
            dev_err!(dev, "the CPU does not see what was mapped\n");
        }
        if self.dir.device_reads() {
            for piece in self.pieces.iter_mut() {
                piece.paint(seed);
            }
            self.seed = seed;
        }
        self.hand_over(dev, false);
        tally::add(Count::Sync, 2);
        if !self.device_sees(self.seed) {
            dev_err!(dev, "the device does not see what was synchronised\n");
        }
    }

    fn hand_over(&mut self, dev: &Device, to_cpu: bool) {
        let dir = self.dir;
        match (&mut self.list, to_cpu) {
            (Some(list), true) => list.sync_for_cpu(dev, dir),
            (Some(list), false) => list.sync_for_device(dev, dir),
            (None, _) => {
                for piece in self.pieces.iter() {
                    if to_cpu {
                        client::sync_for_cpu(dev, piece.at, piece.size, dir);
                    } else {
                        client::sync_for_device(dev, piece.at, piece.size, dir);
                    }
                }
            }
        }
    }

    /// The device writes, if it may, and as often as not less than it was asked; the mapping ends, and the
    /// caller looks.  Returns the buffers.
    pub(crate) fn end(
        mut self,
        dev: &Device,
        device: usize,
        meter: Option<&mut Meter>,
    ) -> KVec<Piece> {
        let written = |piece: &Piece| match (self.dir.device_writes(), device % 2) {
            (false, _) => 0,
            (true, 0) => piece.size,
            (true, _) => device % piece.size,
        };
        for piece in self.pieces.iter() {
            let bytes = |index| pattern(device, index);
            if engine::write(piece.at, written(piece), bytes).is_err() {
                judge(piece.size, Err(EFAULT));
            }
        }
        let dir = self.dir;
        match (&mut self.list, &self.pieces[..]) {
            (Some(list), _) => list.unmap(dev, dir, Attrs::NONE),
            (None, [piece]) => match meter.filter(|_| piece.size <= MEASURED) {
                Some(meter) => {
                    let call = || client::unmap(dev, piece.at, piece.size, dir, Attrs::NONE);
                    let ((), took) = meter.measure(call);
                    tally::note(Count::WorstUnmap, took);
                }
                None => client::unmap(dev, piece.at, piece.size, dir, Attrs::NONE),
            },
            (None, _) => {}
        }
        tally::add(Count::Unmap, self.pieces.len());
        for piece in self.pieces.iter() {
            if !piece.check(self.seed, written(piece), device) {
                dev_err!(dev, "a buffer did not come back as it must\n");
            }
        }
        self.pieces
    }
}
