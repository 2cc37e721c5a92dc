// SPDX-License-Identifier: GPL-2.0

//! A model of two devices' mappings: what each must hold, and what each call must do.
//!
//! A wrong call must do nothing but be counted.  After each call the counts of both devices, the mapping
//! that was meant and one other are compared with the model; all that there is, now and then.
//!
//! The calls go below the DMA API's own checks, which would stop some of them, and complain of the
//! others.

use super::*;
use client::below::{
    self,
    RawList, //
};

/// Ended mappings that are remembered.
const GHOSTS: usize = 16;

/// How often everything is looked at: every so many calls.
const ROUND: u64 = 64;

/// Orders of the buffers' sizes: only the last is so large that a copy of it takes a path of its own.
pub(super) const ORDERS: [u32; 16] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5];

/// A buffer, and what it must hold.
pub(super) struct Own {
    pub(super) buffer: Buffer,
    pub(super) bytes: KVVec<u8>,
    pub(super) mapped: bool,
}

impl Own {
    fn new(order: u32, seed: usize) -> Result<Self> {
        let mut buffer = Buffer::new(order)?;
        cover(&mut buffer, seed);
        let mut bytes = KVVec::new();
        for index in 0..buffer.size() {
            bytes.push(pattern(seed, index), GFP_KERNEL)?;
        }
        Ok(Self {
            buffer,
            bytes,
            mapped: false,
        })
    }
}

/// A part of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) own: usize,
    pub(super) from: usize,
    pub(super) size: usize,
}

/// What a device sees as one: a mapping, or the segment of a list; and what is in the slots.
pub(super) struct Live {
    pub(super) dev: usize,
    pub(super) at: Machine,
    pub(super) dir: Direction,
    pub(super) pieces: KVec<Piece>,
    pub(super) bytes: KVVec<u8>,
}

impl Live {
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    fn end(&self) -> u64 {
        self.at.raw() + self.size() as u64
    }

    fn has(&self, at: Machine) -> bool {
        (self.at.raw()..self.end()).contains(&at.raw())
    }

    /// What the buffers must hold from here on of `size` bytes from `skip` on.
    fn bring(&self, owns: &mut [Own], skip: usize, size: usize) {
        self.parts(skip, size, |piece, from, at, bytes| {
            owns[piece.own].bytes[from..from + bytes].copy_from_slice(&self.bytes[at..at + bytes]);
        });
    }

    /// The other way round.
    fn fetch(&mut self, owns: &[Own], skip: usize, size: usize) {
        let mut inside = core::mem::take(&mut self.bytes);
        self.parts(skip, size, |piece, from, at, bytes| {
            inside[at..at + bytes].copy_from_slice(&owns[piece.own].bytes[from..from + bytes]);
        });
        self.bytes = inside;
    }

    /// Calls `part` with each piece of a range: where it begins in its buffer and in the mapping.
    fn parts(&self, skip: usize, size: usize, mut part: impl FnMut(Piece, usize, usize, usize)) {
        let mut at = 0;
        for piece in self.pieces.iter() {
            let low = skip.clamp(at, at + piece.size);
            let high = skip.saturating_add(size).clamp(low, at + piece.size);
            part(*piece, piece.from + low - at, low, high - low);
            at += piece.size;
        }
    }
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unmap,
    ForCpu,
    ForDevice,
}

pub(super) const KINDS: [Kind; 3] = [Kind::Unmap, Kind::ForCpu, Kind::ForDevice];

/// One call, of one device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) dev: usize,
    pub(super) dir: Direction,
    pub(super) skip: bool,
}

/// What is counted.
const EVENTS: [Event; 3] = [
    Event::DirectUnmap,
    Event::BounceUnmap,
    Event::BounceUnmapBytes,
];
const COUNTS: usize = EVENTS.len() + Wrong::ALL.len() + 1;

type Counts = [u64; COUNTS];

fn counts(bench: &Bench) -> Counts {
    let wrongs = Iterator::chain(EVENTS.into_iter(), Wrong::ALL.map(Event::Misuse));
    let mut all = Iterator::chain(wrongs, [Event::BounceSync]);
    core::array::from_fn(|_| all.next().map_or(0, |event| bench.count(event)))
}

/// Two devices that share an aperture, and all that they may touch.
pub(super) struct World {
    pub(super) benches: [Bench; 2],
    pub(super) owns: KVec<Own>,
    pub(super) live: KVec<Live>,
    pub(super) ghosts: KVec<(Machine, usize)>,
    pub(super) scratch: Buffer,
    pub(super) counts: [Counts; 2],
    pub(super) calls: u64,
}

impl World {
    pub(super) fn new(align: u32, care: Care) -> Result<Option<Self>> {
        let aperture = (APERTURE, Bounds::FIXED);
        let first = Bench::careful(c"xen-dma-hostile", MASK_32, true, aperture, care)?;
        let Some(first) = first else {
            return Ok(None);
        };
        let second = Bench::beside(
            c"xen-dma-hostile-other",
            MASK_28,
            true,
            first.shared.clone(),
        )?;
        second.device.set_min_align(align);
        let mut owns = KVec::new();
        for (seed, order) in ORDERS.into_iter().enumerate() {
            owns.push(Own::new(order, 3 * seed + 1)?, GFP_KERNEL)?;
        }
        // From the first bounce on there are syncs.
        for bench in [&first, &second] {
            let (phys, dir) = (owns[0].buffer.phys(), Direction::TO_DEVICE);
            let at = below::map(bench.dev(), phys, 1, dir, Attrs::NONE)?;
            below::unmap(bench.dev(), at, 1, dir, Attrs::NONE)?;
        }
        let counts = [counts(&first), counts(&second)];
        Ok(Some(Self {
            benches: [first, second],
            owns,
            live: KVec::new(),
            ghosts: KVec::new(),
            scratch: Buffer::new(5)?,
            counts,
            calls: 0,
        }))
    }

    /// Maps a piece, or several as a list.
    pub(super) fn map(&mut self, dev: usize, dir: Direction, pieces: &[Piece]) -> Result {
        for piece in pieces {
            check!(!core::mem::replace(&mut self.owns[piece.own].mapped, true));
        }
        let place = |piece: &Piece| phys(&self.owns[piece.own].buffer, piece.from);
        let bench = &self.benches[dev];
        if let [piece] = pieces {
            let at = below::map(bench.dev(), place(piece), piece.size, dir, Attrs::NONE)?;
            return self.enter(dev, dir, at, piece.size, pieces);
        }
        let mut list = RawList::new(pieces.len())?;
        for (index, piece) in pieces.iter().enumerate() {
            let buffer = Some(&self.owns[piece.own].buffer);
            list.set(index, buffer, piece.from as u32, piece.size as u32)?;
        }
        let segments = list.map(bench.dev(), pieces.len() as i32, dir, Attrs::NONE)?;
        check!(segments > 0, "{segments}");
        let mut rest = pieces;
        for index in 0..segments as usize {
            let (at, size) = list.mapped(index).ok_or(EINVAL)?;
            let mut sum = 0;
            let count = rest.iter().position(|piece| {
                sum += piece.size;
                sum == size
            });
            let (own, others) = rest.split_at(count.ok_or(EINVAL)? + 1);
            self.enter(dev, dir, at, size, own)?;
            rest = others;
        }
        check!(rest.is_empty());
        Ok(())
    }

    fn enter(
        &mut self,
        dev: usize,
        dir: Direction,
        at: Machine,
        size: usize,
        of: &[Piece],
    ) -> Result {
        let mut pieces = KVec::new();
        pieces.extend_from_slice(of, GFP_KERNEL)?;
        let mut bytes = KVVec::new();
        bytes.resize(size, 0, GFP_KERNEL)?;
        let mut live = Live {
            dev,
            at,
            dir,
            pieces,
            bytes,
        };
        live.fetch(&self.owns, 0, size);
        let apart = self
            .live
            .iter()
            .all(|other| live.end() <= other.at.raw() || other.end() <= at.raw());
        check!(apart, "{size} bytes at {at:?} are in use");
        self.live.push(live, GFP_KERNEL)?;
        self.look(self.live.len() - 1)
    }

    /// The device writes into a part of a mapping.
    pub(super) fn write(&mut self, index: usize, skip: usize, size: usize, seed: usize) -> Result {
        let live = &mut self.live[index];
        let dev = live.dev;
        for (more, byte) in live.bytes[skip..skip + size].iter_mut().enumerate() {
            *byte = pattern(seed, more);
        }
        self.scratch.fill(0, size, |more| pattern(seed, more));
        self.benches[dev].poke(after(live.at, skip), &self.scratch, 0, size)
    }

    /// What a call must do: to the model first.
    fn foresee(&mut self, call: Call, at: Machine, size: usize) -> Result {
        let Call { kind, dev, dir, .. } = call;
        let counts = &mut self.counts[dev];
        let mut wrong = |wrong: Wrong| counts[EVENTS.len() + wrong as usize] += 1;
        if self.benches[0].shared.aperture.find(at).is_none() {
            counts[0] += u64::from(kind == Kind::Unmap);
            return Ok(());
        }
        let copies = match kind {
            Kind::Unmap => dir.device_writes() && !call.skip,
            Kind::ForCpu => dir.device_writes(),
            Kind::ForDevice => dir.device_reads(),
        };
        if kind != Kind::Unmap && !copies {
            return Ok(());
        }
        let Some(index) = self.live.iter().position(|live| live.has(at)) else {
            wrong(Wrong::NotMapped);
            return Ok(());
        };
        let live = &mut self.live[index];
        let skip = (at.raw() - live.at.raw()) as usize;
        if live.dev != dev {
            wrong(Wrong::NotOwner);
        } else if kind == Kind::Unmap && skip != 0 {
            wrong(Wrong::NotHead);
        } else if kind == Kind::Unmap {
            if size != live.size() {
                wrong(Wrong::Size);
            }
            counts[1] += live.pieces.len() as u64;
            counts[2] += live.size() as u64;
            let live = self.live.remove(index)?;
            if copies {
                live.bring(&mut self.owns, 0, size);
            }
            for piece in live.pieces.iter() {
                self.owns[piece.own].mapped = false;
            }
            if self.ghosts.len() == GHOSTS {
                self.ghosts.remove(0)?;
            }
            self.ghosts.push((live.at, live.size()), GFP_KERNEL)?;
        } else if skip.checked_add(size).is_none_or(|end| end > live.size()) {
            wrong(Wrong::Range);
        } else {
            counts[COUNTS - 1] += 1;
            if kind == Kind::ForCpu {
                live.bring(&mut self.owns, skip, size);
            } else {
                live.fetch(&self.owns, skip, size);
            }
        }
        Ok(())
    }

    /// Makes a call and looks at what came of it.
    pub(super) fn call(&mut self, call: Call, at: Machine, size: usize) -> Result {
        let meant = self.live.iter().find(|live| live.has(at));
        let meant = meant.and_then(|live| Some((live.at, live.pieces.first()?.own)));
        self.foresee(call, at, size)?;
        let (dev, dir) = (self.benches[call.dev].dev(), call.dir);
        match call.kind {
            Kind::Unmap => below::unmap(dev, at, size, dir, attrs(call))?,
            Kind::ForCpu => below::sync_for_cpu(dev, at, size, dir)?,
            Kind::ForDevice => below::sync_for_device(dev, at, size, dir)?,
        }
        self.judge(meant)
            .inspect_err(|_| pr_err!("{call:?} of {size:#x} bytes at {at:?}\n"))
    }

    /// As [`Self::call`], by a list that claims to have these segments.
    pub(super) fn call_list(&mut self, call: Call, segments: &[(Machine, u32)]) -> Result {
        let mut list = RawList::new(segments.len())?;
        for (index, &(at, size)) in segments.iter().enumerate() {
            list.forge(index, at, size)?;
        }
        // One without bytes ends it.
        for &(at, size) in segments.iter().take_while(|(_, size)| *size > 0) {
            self.foresee(call, at, size as usize)?;
        }
        let (dev, dir, count) = (
            self.benches[call.dev].dev(),
            call.dir,
            segments.len() as i32,
        );
        match call.kind {
            Kind::Unmap => list.unmap(dev, count, dir, attrs(call))?,
            Kind::ForCpu => list.sync_for_cpu(dev, count, dir)?,
            Kind::ForDevice => list.sync_for_device(dev, count, dir)?,
        }
        self.judge(None)
            .inspect_err(|_| pr_err!("{call:?} of {segments:?}\n"))
    }

    /// Is everything as it must be, as far as a call may have changed it?
    fn judge(&mut self, meant: Option<(Machine, usize)>) -> Result {
        for (bench, foreseen) in self.benches.iter().zip(&self.counts) {
            let seen = counts(bench);
            check!(seen == *foreseen, "{seen:?}, not {foreseen:?}");
        }
        self.calls += 1;
        if self.calls % ROUND == 0 {
            return self.look_at_all();
        }
        if let Some((at, own)) = meant {
            self.look_at_buffer(own)?;
            if let Some(index) = self.live.iter().position(|live| live.at == at) {
                self.look(index)?;
            }
        }
        let count = self.live.len();
        if count > 0 {
            self.look(self.calls as usize % count)?;
        }
        self.look_at_buffer(self.calls as usize % (ORDERS.len() - 1))
    }

    fn look(&self, index: usize) -> Result {
        let live = &self.live[index];
        self.benches[0].peek(live.at, &self.scratch, 0, live.size())?;
        check!(
            self.scratch.holds(0, &live.bytes),
            "{} bytes at {:?}",
            live.size(),
            live.at
        );
        Ok(())
    }

    fn look_at_buffer(&self, own: usize) -> Result {
        let Own { buffer, bytes, .. } = &self.owns[own];
        check!(buffer.holds(0, bytes), "buffer {own}");
        Ok(())
    }

    fn look_at_all(&self) -> Result {
        (0..self.live.len()).try_for_each(|index| self.look(index))?;
        (0..self.owns.len()).try_for_each(|own| self.look_at_buffer(own))?;
        self.benches[0].books()
    }

    /// Their aperture is that of either.
    pub(super) fn bench(&self) -> &Bench {
        &self.benches[0]
    }

    /// Ends all mappings as is right.
    pub(super) fn end_all(&mut self) -> Result {
        while let Some(live) = self.live.last() {
            let (at, size) = (live.at, live.size());
            self.call(right(Kind::Unmap, live), at, size)?;
        }
        Ok(())
    }

    pub(super) fn end(mut self) -> Result {
        self.end_all()?;
        self.look_at_all()?;
        for bench in &self.benches {
            check!(bench.backend().counters.outstanding() == 0);
        }
        self.benches[0].empty()
    }
}

fn attrs(call: Call) -> Attrs {
    if call.skip {
        Attrs::SKIP_CPU_SYNC
    } else {
        Attrs::NONE
    }
}

/// The call that a mapping's owner may make.
pub(super) fn right(kind: Kind, live: &Live) -> Call {
    Call {
        kind,
        dev: live.dev,
        dir: live.dir,
        skip: false,
    }
}
