// SPDX-License-Identifier: GPL-2.0

//! Bounces while others hold part of the aperture, in several patterns.

use crate::{
    fill::{
        Dice,
        Fill,
        SLOT, //
    },
    rows::Label,
    session::{
        Session,
        NARROW, //
    },
};
use kernel::prelude::*;

/// Sizes of bounced mappings.
const BOUNCED: [usize; 8] = [
    64,
    1500,
    2 << 10,
    4 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
];

/// Up to here they are also mapped in numbers.
const MAX_BATCH: usize = 64 << 10;

/// Per cent of the aperture that others hold.
const FILLS: [usize; 7] = [100, 98, 90, 75, 50, 25, 0];

/// What is asked for between the holes of a pattern.
const ASKED: [usize; 2] = [4 << 10, 64 << 10];

impl Session<'_> {
    pub(crate) fn patterns(&mut self) -> Result {
        self.set_mask(NARROW)?;
        self.random_fills()?;
        self.holes("every-second-free", 50, |slot| slot % 2 == 0)?;
        self.holes("three-of-four-free", 25, |slot| slot % 4 == 0)?;
        self.lifetimes()
    }

    /// All of it, then less and less, by taking away what chance says.
    fn random_fills(&mut self) -> Result {
        let mut fill = Fill::new(self.dev, self.large.phys());
        fill.add_all()?;
        let all = fill.len();
        for percent in FILLS {
            while fill.len() * 100 > all * percent {
                fill.remove_any();
            }
            for size in BOUNCED {
                let (phys, copy) = (self.large.phys(), self.copy_cost(size)?);
                let label = Label::new("bounce", size).at_fill(percent);
                self.pairs(label, phys, copy, || fill.stir())?;
                if size <= MAX_BATCH {
                    let label = Label::new("bounce-batch", size).at_fill(percent);
                    self.batch(label, phys, copy)?;
                }
            }
        }
        Ok(())
    }

    /// Single slots in a regular pattern.
    fn holes(&mut self, case: &'static str, percent: usize, kept: fn(u64) -> bool) -> Result {
        let mut fill = Fill::new(self.dev, self.large.phys());
        fill.add_all()?;
        fill.retain(kept);
        self.ask(case, percent)
    }

    /// Mappings of several sizes that came and went for a while.
    fn lifetimes(&mut self) -> Result {
        const SIZES: [usize; 6] = [512, 2 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
        const STEPS: usize = 8000;
        const APERTURE: usize = 64 << 20;
        const PERCENT: usize = 75;

        let mut fill = Fill::new(self.dev, self.large.phys());
        let mut dice = Dice::new();
        let mut held = 0;
        for _ in 0..STEPS {
            let size = SIZES[dice.below(SIZES.len())];
            if held < APERTURE / 100 * PERCENT && fill.add(size)? {
                held += size.next_multiple_of(SLOT);
            } else {
                held -= fill.remove_any().next_multiple_of(SLOT);
            }
        }
        self.ask("random-lifetimes", PERCENT)
    }

    fn ask(&mut self, case: &'static str, percent: usize) -> Result {
        for size in ASKED {
            let (phys, copy) = (self.large.phys(), self.copy_cost(size)?);
            let label = Label::new(case, size).at_fill(percent);
            self.pairs(label, phys, copy, || Ok(()))?;
        }
        Ok(())
    }
}
