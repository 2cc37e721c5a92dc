// SPDX-License-Identifier: GPL-2.0

//! A hostile caller: wrong unmaps and syncs of every kind, among mappings that are in order.
//!
//! A [`World`] knows what must come of each call: most often nothing but a count.

use super::*;
use client::below;
use crowd::Dice;
use world::{
    right,
    Call,
    Kind,
    Piece,
    World,
    KINDS,
    ORDERS, //
};

/// Wrong calls at random, in each of the settings.
const TRIALS: u64 = 25_000;

/// Mappings at a time.
const HELD: usize = 8;

impl World {
    /// Some piece of a buffer that is not mapped.
    fn piece(&self, dice: &mut Dice) -> Option<Piece> {
        let large = usize::from(dice.roll(8) == 0);
        let own = dice.pick(self.owns.len() - 1 + large);
        let room = self.owns[own].bytes.len() - 2 * GUARD;
        // Most are small.
        let most = if dice.roll(3) == 0 { room } else { 600 };
        let size = 1 + dice.pick(most);
        (!self.owns[own].mapped).then(|| Piece {
            own,
            from: GUARD + dice.pick(room - size + 1),
            size,
        })
    }

    /// Maps something at random, if there is a buffer for it.
    pub(super) fn map_any(&mut self, dice: &mut Dice) -> Result {
        let (dev, dir) = (dice.pick(2), DIRECTIONS[dice.pick(3)]);
        let mut pieces: KVec<Piece> = KVec::new();
        let whole = dice.roll(2) == 0;
        for _ in 0..if dice.roll(3) == 0 { 4 } else { 1 } {
            let Some(mut piece) = self.piece(dice) else {
                continue;
            };
            if whole && piece.own < ORDERS.len() - 1 {
                (piece.from, piece.size) = (0, PAGE_SIZE);
            }
            if pieces.iter().all(|other| other.own != piece.own) {
                pieces.push(piece, GFP_KERNEL)?;
            }
        }
        if pieces.is_empty() {
            return Ok(());
        }
        self.map(dev, dir, &pieces)
    }

    /// An address and a size that have something to do with each other, or nothing.
    fn aim(&self, dice: &mut Dice) -> (Machine, usize) {
        let extent = {
            let first = self.benches[0].shared.aperture.each().next();
            first.map_or((Machine::new(0), 0), |extent| {
                (extent.region.base(), extent.size())
            })
        };
        let (at, size) = match dice.roll(10) {
            0..=5 if !self.live.is_empty() => {
                let live = &self.live[dice.pick(self.live.len())];
                (live.at, live.size())
            }
            0..=7 if !self.ghosts.is_empty() => self.ghosts[dice.pick(self.ghosts.len())],
            8 => (after(extent.0, dice.pick(extent.1.max(1))), 2048),
            _ => {
                let outside = [
                    0,
                    4096,
                    u64::MAX,
                    u64::MAX - 4095,
                    extent.0.raw().wrapping_sub(1),
                    1 << 32,
                    1 << 45,
                ];
                (Machine::new(outside[dice.pick(outside.len())]), extent.1)
            }
        };
        let skips = [
            0,
            0,
            0,
            0,
            0,
            1,
            2047,
            2048,
            2049,
            4096,
            size / 2,
            size.wrapping_sub(1),
            size,
            size + 1,
            usize::MAX,
            usize::MAX - 2047,
        ];
        let skip = skips[dice.pick(skips.len())];
        let sizes = [
            size,
            size,
            size,
            size.wrapping_sub(skip),
            0,
            1,
            size.wrapping_sub(1),
            size + 1,
            2 * size,
            65537,
            1 << 32,
            usize::MAX,
            usize::MAX - skip,
            1 + dice.pick(8192),
        ];
        (
            Machine::new(at.raw().wrapping_add(skip as u64)),
            sizes[dice.pick(sizes.len())],
        )
    }

    /// A wrong call at random; it may happen to be right.
    fn strike(&mut self, dice: &mut Dice) -> Result {
        let ways = [0, 1, 2, 3, 17, u32::MAX];
        let call = Call {
            kind: KINDS[dice.pick(3)],
            dev: dice.pick(2),
            dir: below::direction(ways[dice.pick(ways.len())]),
            skip: dice.roll(4) == 0,
        };
        if dice.roll(6) > 0 {
            let (at, size) = self.aim(dice);
            return self.call(call, at, size);
        }
        let mut segments = KVec::new();
        for _ in 0..1 + dice.roll(4) {
            let (at, size) = self.aim(dice);
            segments.push((at, size as u32), GFP_KERNEL)?;
        }
        self.call_list(call, &segments)
    }
}

#[kunit_tests(xen_dma_hostile)]
mod tests {
    use super::*;

    /// What becomes of a mapping before the wrong call comes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum State {
        Mapped,
        Ended,
        /// Another device's mapping took its place.
        Taken,
    }

    /// A mapping in this state, between two others; returns where it is or was.
    fn set_up(
        world: &mut World,
        dev: usize,
        pieces: &[Piece],
        state: State,
    ) -> Result<(Machine, usize)> {
        let neighbour = |own| Piece {
            own,
            from: GUARD,
            size: 3000,
        };
        let dir = Direction::BIDIRECTIONAL;
        world.map(1, dir, &[neighbour(0)])?;
        let first = world.live.len();
        world.map(dev, dir, pieces)?;
        let end = world.live.len();
        world.map(0, dir, &[neighbour(1)])?;
        let (at, size) = (world.live[first].at, world.live[first].size());
        world.write(first, size / 3, size - size / 3, 77)?;
        for _ in first..end {
            let live = &world.live[first];
            let (call, at, size) = (right(Kind::Unmap, live), live.at, live.size());
            if state != State::Mapped {
                world.call(call, at, size)?;
            }
        }
        if state == State::Taken {
            world.map(1 - dev, dir, pieces)?;
        }
        Ok((at, size))
    }

    #[test]
    fn wrong_calls_of_every_kind_harm_nobody() -> Result {
        let one = |own, from, size| [Piece { own, from, size }; 1];
        let (tiny, slot, more) = (one(2, 33, 1), one(2, 64, 2048), one(2, 77, 2049));
        let (torn, large) = (one(2, 1000, 6000), one(15, 77, 70_000));
        let page = |own| Piece {
            own,
            from: 0,
            size: PAGE_SIZE,
        };
        let list = [
            page(2),
            page(3),
            Piece {
                own: 4,
                from: 0,
                size: 2100,
            },
        ];
        let shapes: [&[Piece]; 6] = [&tiny, &slot, &more, &torn, &large, &list];
        let mut calls = 0;
        for (align, care) in [(0, Care::NONE), (0xfff, Care::NONE)] {
            let Some(mut world) = World::new(align, care)? else {
                return Ok(());
            };
            for (shape, state) in shapes.into_iter().flat_map(|shape| {
                [State::Mapped, State::Ended, State::Taken].map(|state| (shape, state))
            }) {
                for (dev, by) in [(0, 0), (0, 1), (1, 1)] {
                    // With one device's mapping under the other's condition all has been seen.
                    if align != 0 && dev == 0 {
                        continue;
                    }
                    wrongs(&mut world, (dev, by), shape, state)?;
                }
            }
            calls += world.calls;
            world.end()?;
        }
        pr_info!("tally: wrong-calls-each={calls}\n");
        Ok(())
    }

    /// All wrong calls of a mapping of one device `by` the same or the other one.
    fn wrongs(
        world: &mut World,
        (dev, by): (usize, usize),
        shape: &[Piece],
        state: State,
    ) -> Result {
        let all = usize::MAX;
        let (mut at, mut size) = set_up(world, dev, shape, state)?;
        for kind in KINDS {
            for dir in [0, 1, 2, 3] {
                for skip in [0, 1, 2048, size - 1, size, size + 2048, all] {
                    for part in [0, 1, size - 1, size, size + 1, all, all - skip] {
                        let call = Call {
                            kind,
                            dev: by,
                            dir: below::direction(dir),
                            skip: false,
                        };
                        let before = world.live.len();
                        world.call(call, Machine::new(at.raw().wrapping_add(skip as u64)), part)?;
                        if world.live.len() != before {
                            world.end_all()?;
                            (at, size) = set_up(world, dev, shape, state)?;
                        }
                    }
                }
            }
        }
        world.end_all()
    }

    #[test]
    fn wrong_calls_at_random_harm_nobody() -> Result {
        let mut calls = 0;
        for (align, seed, care) in [
            (0, 1, Care::NONE),
            (0xfff, 2, Care::NONE),
            (0x7ff, 3, Care::NONE),
            (0, 4, secrets::BOTH),
        ] {
            let Some(mut world) = World::new(align, care)? else {
                return Ok(());
            };
            let mut dice = Dice::new(seed);
            let mut struck = 0;
            while struck < TRIALS {
                let count = world.live.len();
                match dice.roll(8) {
                    0 | 1 if count < HELD => world.map_any(&mut dice)?,
                    2 if count > 0 => {
                        let index = dice.pick(count);
                        let size = world.live[index].size();
                        let skip = dice.pick(size);
                        let bytes = 1 + dice.pick((size - skip).min(200));
                        world.write(index, skip, bytes, dice.pick(255))?;
                    }
                    3 if count > 0 => {
                        let live = &world.live[dice.pick(count)];
                        let (kind, at, size) = (KINDS[dice.pick(3)], live.at, live.size());
                        world.call(right(kind, live), at, size)?;
                    }
                    _ => {
                        world
                            .strike(&mut dice)
                            .inspect_err(|_| pr_err!("seed {seed}, {struck}\n"))?;
                        struck += 1;
                    }
                }
            }
            calls += struck;
            world.end()?;
        }
        pr_info!("tally: wrong-calls-random={calls}\n");
        Ok(())
    }

    #[test]
    fn the_log_is_not_flooded() -> Result {
        let lines = (1..=100_000u64).filter(|n| worth_a_line(*n)).count();
        check!(lines == 17, "{lines}");
        Ok(())
    }
}
