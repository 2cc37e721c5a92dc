// SPDX-License-Identifier: GPL-2.0

//! Secrets: a device sees what was mapped for it, and the caller's buffer changes where the device wrote.
//!
//! Slots that are free hold poison here, which stands for what others left in them.

use super::*;
use client::below;
use crowd::Dice;
use world::{
    Piece,
    World, //
};

/// Mappings whose device writes less than it was asked.
const TRIALS: u64 = 100_000;

/// What others left.
const POISON: u8 = 0xa5;

/// Order of the largest buffer, and how many of the mappings are so large.
const ORDER: u32 = 4;
const RARE: u64 = 64;

pub(super) const BOTH: Care = Care {
    scrub: true,
    isolate: true,
};
const SCRUB: Care = Care {
    isolate: false,
    ..BOTH
};
const ISOLATE: Care = Care {
    scrub: false,
    ..BOTH
};

/// Writes the first bytes of a buffer all over each extent, in which nothing is mapped.
fn smear(bench: &Bench, poison: &Buffer) -> Result {
    for extent in bench.shared.aperture.each() {
        for at in (0..extent.size()).step_by(PAGE_SIZE) {
            check!(extent.region.copy_in(at, poison.phys(), PAGE_SIZE));
        }
    }
    Ok(())
}

/// Whether all of the extents is clear.
fn all_clear(bench: &Bench, scratch: &Buffer) -> Result<bool> {
    let zeros = [0; PAGE_SIZE / 8];
    for extent in bench.shared.aperture.each() {
        for at in (0..extent.size()).step_by(PAGE_SIZE) {
            check!(extent.region.copy_out(at, scratch.phys(), PAGE_SIZE));
            let mut parts = (0..PAGE_SIZE).step_by(zeros.len());
            if !parts.all(|part| scratch.holds(part, &zeros)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// What a trial needs.
struct Trial<'a> {
    bench: &'a Bench,
    buffer: Buffer,
    scratch: Buffer,
    poison: Buffer,
    /// What the buffer must hold.
    bytes: KVVec<u8>,
}

impl Trial<'_> {
    /// Maps a part of the buffer; the device reads all and writes less, or nothing.
    fn run(&mut self, dice: &mut Dice) -> Result {
        let most = if dice.roll(RARE) == 0 {
            self.buffer.size()
        } else {
            PAGE_SIZE
        };
        let size = 1 + dice.pick(most);
        let from = dice.pick(self.buffer.size() - size + 1);
        let (dev, dir) = (self.bench.dev(), DIRECTIONS[dice.pick(DIRECTIONS.len())]);
        let at = below::map(dev, phys(&self.buffer, from), size, dir, Attrs::NONE)?;
        self.bench.peek(at, &self.scratch, 0, size)?;
        check!(
            self.scratch.holds(0, &self.bytes[from..from + size]),
            "seen: {size} bytes, {dir:?}"
        );

        let skip = dice.pick(size);
        let wrote = dice.pick((size - skip).min(128) + 1);
        let byte = dice.roll(128) as u8;
        self.scratch.fill(0, wrote, |_| byte);
        self.bench.poke(after(at, skip), &self.scratch, 0, wrote)?;
        if dir.device_writes() {
            self.bytes[from + skip..from + skip + wrote].fill(byte);
        }
        below::unmap(dev, at, size, dir, Attrs::NONE)?;
        check!(
            self.buffer.holds(0, &self.bytes),
            "left: {size} bytes, {dir:?}"
        );
        // The slots are free now: whoever was there leaves something.
        let run = Machine::new(at.raw() & !(SLOT_SIZE - 1));
        let slots = (at.raw() + size as u64).next_multiple_of(SLOT_SIZE) - run.raw();
        self.bench.poke(run, &self.poison, 0, slots as usize)
    }
}

#[kunit_tests(xen_dma_secrets)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaks_through_slots() -> Result {
        let mut poison = Buffer::new(ORDER + 1)?;
        poison.fill(0, usize::MAX, |_| POISON);
        let kinds = [
            (0, Care::NONE),
            (0xfff, Care::NONE),
            (0, SCRUB),
            (0, ISOLATE),
        ];
        for (seed, (align, care)) in kinds.into_iter().enumerate() {
            let (name, aperture) = (c"xen-dma-secrets", (1, Bounds::FIXED));
            let Some(bench) = Bench::careful(name, MASK_32, true, aperture, care)? else {
                return Ok(());
            };
            bench.device.set_min_align(align);
            smear(&bench, &poison)?;
            let mut trial = Trial {
                bench: &bench,
                buffer: Buffer::new(ORDER)?,
                scratch: Buffer::new(ORDER)?,
                poison,
                bytes: KVVec::new(),
            };
            // Nothing of the poison is in it.
            trial
                .buffer
                .fill(0, usize::MAX, |index| pattern(seed, index) & 0x7f);
            for index in 0..trial.buffer.size() {
                trial.bytes.push(pattern(seed, index) & 0x7f, GFP_KERNEL)?;
            }
            let mut dice = Dice::new(seed as u64 + 1);
            for number in 0..TRIALS / kinds.len() as u64 {
                trial
                    .run(&mut dice)
                    .inspect_err(|_| pr_err!("{care:?}, {align:#x}, {number}\n"))?;
            }
            poison = trial.poison;
            bench.done()?;
        }
        pr_info!("tally: partial-writes={TRIALS}\n");
        Ok(())
    }

    #[test]
    fn scrubbed_slots_are_clear() -> Result {
        for (align, care) in [(0, SCRUB), (0xfff, SCRUB), (0x7ff, BOTH)] {
            let Some(mut world) = World::new(align, care)? else {
                return Ok(());
            };
            let scratch = Buffer::new(0)?;
            let mut dice = Dice::new(u64::from(align) + 1);
            for _ in 0..40 {
                for _ in 0..6 {
                    world.map_any(&mut dice)?;
                }
                world.end_all()?;
                check!(all_clear(world.bench(), &scratch)?);
            }
            // It was not so by itself.
            let whole = Piece {
                own: 1,
                from: 0,
                size: PAGE_SIZE,
            };
            world.map(0, Direction::TO_DEVICE, &[whole])?;
            check!(!all_clear(world.bench(), &scratch)?);
            world.end()?;
        }
        Ok(())
    }

    #[test]
    fn mappings_share_no_page() -> Result {
        for (align, care) in [(0, ISOLATE), (0xfff, ISOLATE), (0x3ff, BOTH)] {
            let Some(mut world) = World::new(align, care)? else {
                return Ok(());
            };
            let mut dice = Dice::new(u64::from(align) + 7);
            let mut most = 0;
            for _ in 0..300 {
                for _ in 0..6 {
                    world.map_any(&mut dice)?;
                    most = most.max(pages_apart(&world)?);
                }
                world.end_all()?;
            }
            check!(most > 6, "{most}");
            world.end()?;
        }
        // Without the option they do, or this would show nothing.
        let Some(mut world) = World::new(0, Care::NONE)? else {
            return Ok(());
        };
        for own in 0..4 {
            let small = Piece {
                own,
                from: 0,
                size: 100,
            };
            world.map(own % 2, Direction::TO_DEVICE, &[small])?;
        }
        check!(pages_apart(&world).is_err());
        world.end()
    }

    /// How many mappings there are, if no two of them share a page.
    fn pages_apart(world: &World) -> Result<usize> {
        let pages = |live: &world::Live| {
            let end = live.at.raw() + live.size() as u64;
            (
                live.at.raw() & !(PAGE_SIZE as u64 - 1),
                end.next_multiple_of(PAGE_SIZE as u64),
            )
        };
        for (index, one) in world.live.iter().enumerate() {
            for other in world.live.iter().skip(index + 1) {
                let ((start, end), (from, to)) = (pages(one), pages(other));
                if start < to && from < end {
                    return Err(EEXIST);
                }
            }
        }
        Ok(world.live.len())
    }

    #[test]
    fn no_size_is_too_large_apart() -> Result {
        let (name, aperture) = (c"xen-dma-apart", (2, Bounds::FIXED));
        let Some(bench) = Bench::careful(name, MASK_32, true, aperture, BOTH)? else {
            return Ok(());
        };
        let (mut buffer, mut scratch) = (Buffer::new(9)?, Buffer::new(9)?);
        for align in [0, 0xfff, 0xffff] {
            bench.device.set_min_align(align);
            let most = client::max_mapping_size(bench.dev());
            for (from, size) in [
                (33, 2048),
                (4095, 2),
                (2048, 4096),
                (100, 0x1_f000),
                (4095, 0x2_0001),
                (2049, most),
            ] {
                let size = size.min(buffer.size() - from - GUARD);
                travel(
                    &bench,
                    [&mut buffer, &mut scratch],
                    (from, size),
                    Direction::BIDIRECTIONAL,
                )
                .inspect_err(|_| pr_err!("{align:#x}\n"))?;
            }
        }
        bench.done()
    }
}
