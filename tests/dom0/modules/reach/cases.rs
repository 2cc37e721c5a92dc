// SPDX-License-Identifier: GPL-2.0

//! What is tried: sizes, limits and attributes, as a driver sees them and as its device does.

use crate::{
    blocks::{
        Blocks,
        Span,
        BLOCK, //
    },
    device::{
        Edu,
        INTERNAL_SIZE, //
    },
    rows::Rows, //
};
use dma_core::{
    Machine,
    Phys, //
};
use kernel::{
    device::Device,
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client,
    int_param::value,
    ops::{
        Attrs,
        Direction, //
    },
    Context, //
};

mod shared;

const BOTH: Direction = Direction::BIDIRECTIONAL;

const WIDE: u64 = u64::MAX;
const NARROW: u64 = u32::MAX as u64;
/// Does not reach device registers.
const VERY_NARROW: u64 = (1 << 28) - 1;

/// What dom0's layout must offer: blocks of 4 MiB, and whether they are in one piece for the machine.
const LAYOUTS: [(&str, usize, bool); 4] = [
    ("whole_4M", 1, true),
    ("torn_4M", 1, false),
    ("whole_16M", 4, true),
    ("torn_16M", 4, false),
];

/// Without a boundary; C's value when nobody set one.
const NO_BOUNDARY: u64 = u32::MAX as u64;

/// Of each kind of request so many are held at a time, so that they lie all over an aperture.
const HELD: usize = 200;

/// What a buffer holds where no pattern is.
const SENTINEL: u8 = 0xa5;

/// A byte of a pattern; never the sentinel.
fn pattern(seed: usize, index: usize) -> u8 {
    // CAST: The low bits.
    let byte = (seed.wrapping_mul(0x9e37_79b1) ^ index.wrapping_mul(0x85eb_ca6b) >> 11) as u8;
    if byte == SENTINEL {
        !byte
    } else {
        byte
    }
}

fn advance(addr: Machine, count: usize) -> Result<Machine> {
    // CAST: Widens.
    addr.checked_add(count as u64).ok_or(EINVAL)
}

/// Notes the mask that is said to reach all memory.
pub(crate) fn required_mask(dev: &Device, rows: &mut Rows) -> Result {
    let mask = client::required_mask(dev);
    rows.add("required_mask_bits", u64::from(mask.count_ones()), 0)
}

/// One device's run of all cases.
pub(crate) struct Session<'a> {
    edu: Edu<'a>,
    /// The device's own registers.
    registers: Phys,
    blocks: Blocks,
    /// Patterns used so far.
    patterns: usize,
    rows: Rows,
}

impl<'a> Session<'a> {
    /// Obtains the memory.  May sleep.
    pub(crate) fn new(edu: Edu<'a>, registers: Phys) -> Result<Self> {
        Ok(Self {
            edu,
            registers,
            blocks: Blocks::new()?,
            patterns: 0,
            rows: Rows::new(),
        })
    }

    /// Runs all cases.  Sleeps.
    pub(crate) fn run(&mut self) -> Result {
        required_mask(self.edu.device(), &mut self.rows)?;
        self.sizes()?;
        self.boundaries()?;
        self.low_bits()?;
        self.skipped_copies()?;
        self.registers()?;
        self.shared_memory()
    }

    /// Maps in every way, and goes without a word.
    pub(crate) fn leave(&mut self) -> Result {
        let dev = self.edu.device();
        let span = self.blocks.find(1, true, true).ok_or(ENOENT)?;
        for mask in [NARROW, WIDE] {
            client::set_masks(dev, mask)?;
            for size in [64, PAGE_SIZE, 64 * PAGE_SIZE] {
                client::map(dev, self.blocks.phys(&span), size, BOTH, Attrs::NONE)?;
                client::alloc(dev, size, Context::Sleepable, Attrs::NONE)?;
                self.rows.add("left", 2, 0)?;
            }
        }
        Ok(())
    }

    /// Ends the session.
    pub(crate) fn finish(self, outcome: Result) -> Rows {
        if outcome == Err(ETIMEDOUT) || value::<u8>(crate::module_parameters::leave.value()) != 0 {
            // The device may still touch it.
            core::mem::forget(self.blocks);
        }
        self.rows
    }

    fn map(&self, span: &Span, at: (usize, usize), attrs: Attrs) -> Result<Machine> {
        let (offset, size) = at;
        let phys = self.blocks.phys(span);
        // CAST: Widens.
        let phys = phys.checked_add(offset as u64).ok_or(EINVAL)?;
        let attrs = attrs.with(Attrs::NO_WARN);
        client::map(self.edu.device(), phys, size, BOTH, attrs)
    }

    fn unmap(&self, addr: Machine, size: usize, attrs: Attrs) {
        client::unmap(self.edu.device(), addr, size, BOTH, attrs);
    }

    /// Memory that is in one piece is direct at any size, other memory is carried at any size; a device
    /// that reaches 32 bits is served, too; who wants no bounce is refused one.
    fn sizes(&mut self) -> Result {
        for (name, count, whole) in LAYOUTS {
            let Some(span) = self.blocks.find(count, whole, true) else {
                self.rows.judge(name, false)?;
                continue;
            };
            let all = count * BLOCK;
            client::set_masks(self.edu.device(), WIDE)?;
            let middle = span.tear.unwrap_or(all / 2);
            for at in [
                (0, all),
                (512, all - 1024),
                (PAGE_SIZE + 1, all - 3 * PAGE_SIZE),
                (middle - 3000, 8000),
            ] {
                let direct = advance(self.blocks.machine(&span).ok_or(EFAULT)?, at.0)?;
                let right = match self.map(&span, at, Attrs::NONE) {
                    Ok(addr) => {
                        let right = (addr == direct) == whole && self.travels(&span, at, addr)?;
                        self.unmap(addr, at.1, Attrs::NONE);
                        right
                    }
                    Err(_) => false,
                };
                self.rows.judge(name, right)?;

                let mapped = self.map(&span, at, Attrs::REQUIRE_COHERENT);
                if let Ok(addr) = mapped {
                    self.unmap(addr, at.1, Attrs::REQUIRE_COHERENT);
                }
                let right = mapped.ok() == whole.then_some(direct);
                self.rows.judge("require_coherent", right)?;
            }

            client::set_masks(self.edu.device(), NARROW)?;
            let right = match self.map(&span, (0, all), Attrs::NONE) {
                Ok(addr) => {
                    let right = self.travels(&span, (0, all), addr)?;
                    self.unmap(addr, all, Attrs::NONE);
                    // CAST: Widens.
                    right && addr.raw() + (all as u64) <= NARROW + 1
                }
                Err(_) => false,
            };
            self.rows.judge("unreachable", right)?;
        }
        Ok(())
    }

    /// The device reads the start, the middle or where it is torn, and the end of a mapping as they are
    /// in memory, and what it writes there comes back.
    fn travels(&mut self, span: &Span, at: (usize, usize), addr: Machine) -> Result<bool> {
        let (offset, size) = at;
        let torn = span.tear.unwrap_or(size / 2);
        let middle = torn.saturating_sub(offset + INTERNAL_SIZE / 2);
        let mut right = true;
        for inside in [0, middle, size - INTERNAL_SIZE] {
            let there = advance(addr, inside)?;
            self.patterns += 1;
            let seed = self.patterns;
            let byte = |index| pattern(seed, index);
            self.blocks.fill(span, offset + inside, INTERNAL_SIZE, byte);
            client::sync_for_device(self.edu.device(), addr, size, BOTH);
            self.edu.read_memory(there, 0, INTERNAL_SIZE)?;
            self.blocks
                .fill(span, offset + inside, INTERNAL_SIZE, |_| SENTINEL);
            client::sync_for_device(self.edu.device(), addr, size, BOTH);
            self.edu.write_memory(there, 0, INTERNAL_SIZE)?;
            client::sync_for_cpu(self.edu.device(), addr, size, BOTH);
            right &= (0..INTERNAL_SIZE)
                .all(|index| self.blocks.byte(span, offset + inside + index) == byte(index));
        }
        Ok(right)
    }

    /// A segment boundary holds for the addresses that the device sees.
    fn boundaries(&mut self) -> Result {
        let dev = self.edu.device();
        let span = self.blocks.find(1, true, true).ok_or(ENOENT)?;
        client::set_masks(dev, NARROW)?;
        for (name, boundary) in [
            ("boundary_4K", 0xfff),
            ("boundary_64K", 0xffff),
            ("boundary_128K", 0x1_ffff),
        ] {
            client::set_boundary(dev, boundary)?;
            // CAST: 64 bits both.
            let window = boundary as usize + 1;
            for size in [2048, 4096, window / 4 * 3, window] {
                let tried = self.hold(&span, 0, size, |at| {
                    // CAST: Widens.
                    at.raw() & !boundary == (at.raw() + size as u64 - 1) & !boundary
                });
                self.rows.add(name, tried.0, tried.1)?;
            }
        }
        client::set_boundary(dev, NO_BOUNDARY)
    }

    /// The low bits of an address that a device relies on are those that the device sees.
    fn low_bits(&mut self) -> Result {
        let dev = self.edu.device();
        let span = self.blocks.find(1, true, true).ok_or(ENOENT)?;
        client::set_masks(dev, NARROW)?;
        for (name, mask, boundary) in [
            ("low_bits_4K", 0xfff_u32, NO_BOUNDARY),
            ("low_bits_64K", 0xffff, NO_BOUNDARY),
            ("low_bits_4K_boundary_64K", 0xfff, 0xffff),
        ] {
            client::set_min_align(dev, mask)?;
            client::set_boundary(dev, boundary)?;
            for offset in [0, 512, 0x1e00, 0x9200] {
                for size in [512, 2048, 0x6000] {
                    // CAST: Widens, here and below.
                    let wanted = self.blocks.phys(&span).raw() + offset as u64;
                    let tried = self.hold(&span, offset, size, |at| {
                        let last = at.raw() + size as u64 - 1;
                        (at.raw() ^ wanted) & u64::from(mask) == 0
                            && (at.raw() ^ last) & !boundary == 0
                    });
                    self.rows.add(name, tried.0, tried.1)?;
                }
            }
        }
        client::set_min_align(dev, 0)?;
        client::set_boundary(dev, NO_BOUNDARY)
    }

    /// Holds many mappings of one piece at a time; counts them, and those that `right` rejects or that
    /// failed before an eighth of them was made.
    fn hold(
        &self,
        span: &Span,
        offset: usize,
        size: usize,
        right: impl Fn(Machine) -> bool,
    ) -> (u64, u64) {
        let mut held = [None; HELD];
        let (mut tried, mut wrong) = (0, 0);
        for place in held.iter_mut() {
            match self.map(span, (offset, size), Attrs::NONE) {
                Ok(addr) => {
                    *place = Some(addr);
                    tried += 1;
                    wrong += u64::from(!right(addr));
                }
                // Full.
                Err(_) if tried > HELD as u64 / 8 => break,
                Err(_) => {
                    tried += 1;
                    wrong += 1;
                }
            }
        }
        for addr in held.into_iter().flatten() {
            self.unmap(addr, size, Attrs::NONE);
        }
        (tried, wrong)
    }

    /// With `SKIP_CPU_SYNC` an unmap copies nothing back.  A map copies in all the same: the device must
    /// not see what others left there.
    fn skipped_copies(&mut self) -> Result {
        const AT: (usize, usize) = (1234, INTERNAL_SIZE);

        let span = self.blocks.find(1, true, true).ok_or(ENOENT)?;
        client::set_masks(self.edu.device(), NARROW)?;
        let byte = |index| pattern(0x5eed, index);
        self.blocks.fill(&span, AT.0, AT.1, byte);
        let addr = self.map(&span, AT, Attrs::SKIP_CPU_SYNC)?;
        self.edu.read_memory(addr, 0, AT.1)?;
        self.unmap(addr, AT.1, Attrs::SKIP_CPU_SYNC);

        for (name, attrs, copied) in [
            ("skip_sync_unmap", Attrs::SKIP_CPU_SYNC, false),
            ("skip_sync_map", Attrs::NONE, true),
        ] {
            self.blocks.fill(&span, AT.0, AT.1, |_| SENTINEL);
            let addr = self.map(&span, AT, Attrs::NONE)?;
            self.edu.write_memory(addr, 0, AT.1)?;
            self.unmap(addr, AT.1, attrs);
            let right = (0..AT.1).all(|index| {
                let wanted = if copied { byte(index) } else { SENTINEL };
                self.blocks.byte(&span, AT.0 + index) == wanted
            });
            self.rows.judge(name, right)?;
        }
        Ok(())
    }

    /// Registers of a device lie where they lie, whether the caller says that they are ones or not, and
    /// a device that does not reach them is refused.  C's backend is not asked that: it warns, or reads
    /// them as if they were memory, and the kernel dies.
    fn registers(&mut self) -> Result {
        let dev = self.edu.device();
        for (mask, served) in [(WIDE, true), (NARROW, true), (VERY_NARROW, false)] {
            if !served && !client::has_own_ops(dev) {
                continue;
            }
            client::set_masks(dev, mask)?;
            for attrs in [Attrs::MMIO, Attrs::NONE] {
                let attrs = attrs.with(Attrs::NO_WARN);
                let mapped = client::map(dev, self.registers, PAGE_SIZE, BOTH, attrs);
                if let Ok(addr) = mapped {
                    client::unmap(dev, addr, PAGE_SIZE, BOTH, attrs);
                }
                let wanted = served.then_some(Machine::new(self.registers.raw()));
                self.rows.judge("registers", mapped.ok() == wanted)?;
            }
        }
        Ok(())
    }
}
