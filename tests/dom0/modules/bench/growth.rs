// SPDX-License-Identifier: GPL-2.0

//! What it takes to make an extent and to give it back, and what mappings notice of it.
//!
//! There is one processor, and a mapping is measured with interrupts off.  One that waited for the work
//! item that makes extents would never return.

use crate::{
    fill::{
        Dice,
        SLOT, //
    },
    rows::{
        Label,
        Samples, //
    },
    session::{
        Calls,
        Session,
        NARROW, //
    },
};
use dma_core::Slots;
use kernel::{
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    },
};
use xen_dma::{
    atomic::{
        Word,
        Words, //
    },
    region::{
        Region,
        Way, //
    },
};

/// Sizes of extents, and samples of each.
const EXTENTS: [usize; 4] = [1 << 20, 2 << 20, 4 << 20, 8 << 20];
const EXTENT_SAMPLES: usize = 2;

/// Address bits of an extent.
const ADDRESS_BITS: u32 = 32;

/// Bytes that are mapped in the end: far more than the aperture has at first.
const FULL: usize = 24 << 20;

/// After so many mappings the work item gets its turn, and after a refusal, of which so many are too many.
const AT_ONCE: usize = 128;
const TURN: Delta = Delta::from_millis(1);
const MAX_REFUSED: usize = 1000;

/// Mappings while the aperture shrinks, and the time between two of them: 20 s in all.
const SHRINKING: usize = 64;
const PAUSE: Delta = Delta::from_millis(320);

/// What the driver makes an extent of: the memory, the words and records of its slots.
struct Extent {
    _slots: Slots<Word, Words>,
    // Goes after those who tell of it.
    _region: Region,
}

impl Extent {
    fn new(size: usize) -> Result<Self> {
        let order = (size >> PAGE_SHIFT).ilog2();
        let region = Region::new(order, ADDRESS_BITS, Way::Scattered)?;
        let count = size / SLOT;
        let slots = Slots::new(Words::for_slots(count)?, region.base(), count, 1);
        Ok(Self {
            _slots: slots.ok_or(EINVAL)?,
            _region: region,
        })
    }
}

impl Session<'_> {
    pub(crate) fn growth(&mut self) -> Result {
        self.set_mask(NARROW)?;
        self.extents()?;
        self.tide()
    }

    fn extents(&mut self) -> Result {
        for size in EXTENTS {
            let clear = self.clear_cost(size)?;
            let [mut makes, mut removes] = [Samples::new(), Samples::new()];
            for _ in 0..EXTENT_SAMPLES {
                let (extent, took) = self.meter.measure_sleeping(|| Extent::new(size));
                let extent = extent?;
                makes.add(took)?;
                let ((), took) = self.meter.measure_sleeping(|| drop(extent));
                removes.add(took)?;
            }
            let label = Label::new("extent", size);
            self.note(label, "make", makes, clear)?;
            self.note(label, "remove", removes, clear)?;
        }
        Ok(())
    }

    /// Pages are mapped for which the aperture must grow; they go, and while it shrinks some come and go.
    fn tide(&mut self) -> Result {
        let (dev, phys) = (self.dev, self.contiguous.phys());
        let copy = self.copy_cost(PAGE_SIZE)?;
        let (mut calls, mut held) = (Calls::new(), KVVec::new());
        while held.len() < FULL / PAGE_SIZE {
            match calls.map(&mut self.meter, dev, phys, PAGE_SIZE)? {
                Some(addr) => held.push(addr, GFP_KERNEL)?,
                None if calls.refused() > MAX_REFUSED => break,
                None => fsleep(TURN),
            }
            if held.len() % AT_ONCE == 0 {
                fsleep(TURN);
            }
        }
        let grew = held.len() == FULL / PAGE_SIZE;
        let mut dice = Dice::new();
        while let Some(addr) = dice.draw(&mut held) {
            calls.unmap(&mut self.meter, dev, addr, PAGE_SIZE)?;
        }
        if !grew {
            dev_err!(dev, "the aperture does not grow\n");
            return Err(ENOMEM);
        }
        self.note_calls(Label::new("growth", PAGE_SIZE), calls, copy)?;

        let mut calls = Calls::new();
        for _ in 0..SHRINKING {
            fsleep(PAUSE);
            if let Some(addr) = calls.map(&mut self.meter, dev, phys, PAGE_SIZE)? {
                calls.unmap(&mut self.meter, dev, addr, PAGE_SIZE)?;
            }
        }
        self.note_calls(Label::new("shrink", PAGE_SIZE), calls, copy)
    }
}
