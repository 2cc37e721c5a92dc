// SPDX-License-Identifier: GPL-2.0

//! A crowd: threads that map, sync and unmap, and obtain and free coherent memory, for several devices
//! at the same time.
//!
//! What each of them does follows from its seed; only how they meet varies.  Every mapping is
//! looked at: what the device sees, what the CPU gets back, and that nothing else changes.

use super::*;
use breath::{
    wait,
    Load, //
};
use kernel::{
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};
use xen_dma::{
    client::engine,
    deferred,
    ops::Coherent, //
};

/// What each thread does.
const STEPS: usize = 3000;

/// Mappings that a thread holds at most, and entries of a list.
const HELD: usize = 20;
const ENTRIES: u64 = 6;

/// Coherent buffers that a thread holds at most, and their sizes in bytes.
const MEMORIES: usize = 6;
const SIZES: [usize; 5] = [1, 4096, 4096, 0x3000, 0x1_0000];

/// Size of their aperture in MiB, and how many of the blocks that fill it they are left: so few that
/// it is full again and again.  Larger blocks would leave the reserve.
const SCARCE: u32 = 1;
const LEFT: usize = 4;
const BLOCK_ORDER: u32 = 5;

/// The devices, one for each thread, by mask and alignment: DMA_API_DEBUG confuses mappings of one device
/// if an address is used again before it has noted its end.
const OTHERS: [(&CStr, u64, u32); 5] = [
    (c"xen-dma-crowd-2", MASK_28, 0),
    (c"xen-dma-crowd-3", MASK_64, 0xfff),
    (c"xen-dma-crowd-4", MASK_32, 0),
    (c"xen-dma-crowd-5", MASK_28, 0),
    (c"xen-dma-crowd-6", MASK_64, 0xfff),
];

/// Size of an aperture that has room for all of them, in MiB; and how often a load comes and goes for
/// which it must grow, of so many bytes.
const AMPLE: u32 = 4;
const TIDES: u64 = 4;
const TIDE: usize = 8 << 20;

/// A small generator, the same everywhere.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed << 40))
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    pub(super) fn pick(&mut self, count: usize) -> usize {
        self.roll(count as u64) as usize
    }
}

/// How many threads are at work, and how many were at most.
struct Meeting {
    now: Atomic<u32>,
    most: Atomic<u32>,
}

impl Meeting {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Full) + 1;
        let mut most = self.most.load(Relaxed);
        while now > most {
            match self.most.cmpxchg(most, now, Full) {
                Ok(_) => break,
                Err(other) => most = other,
            }
        }
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Full);
    }
}

/// One thread: a work item of a workqueue that gives each its own.
#[pin_data]
struct Worker {
    seat: Seat,
    seed: u64,
    meeting: Arc<Meeting>,
    /// Mappings made, or an error's number, or 0 before the end.
    outcome: Atomic<i32>,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Worker { self.work }
}

impl WorkItem for Worker {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.meeting.enter();
        let outcome = match this.labour() {
            Ok(made) => made,
            Err(error) => error.to_errno(),
        };
        this.outcome.store(outcome, Relaxed);
        this.meeting.leave();
    }
}

impl Worker {
    fn new(seat: Seat, seed: u64, meeting: Arc<Meeting>) -> Result<Arc<Self>> {
        let worker = pin_init!(Self {
            seat,
            seed,
            meeting,
            outcome: Atomic::new(0),
            work <- new_work!("xen_dma_crowd::Worker::work"),
        });
        Arc::pin_init(worker, GFP_KERNEL)
    }

    /// All the steps; returns how many mappings were made.
    fn labour(&self) -> Result<i32> {
        let mut dice = Dice::new(self.seed);
        let mut scratch = Buffer::new(MOST_ORDER)?;
        let (mut live, mut held) = (KVec::new(), KVec::new());
        let mut made = 0;
        for _ in 0..STEPS {
            if dice.roll(4) == 0 {
                self.obtain_or_free(&mut held, &mut dice)?;
            } else if live.len() < HELD && dice.roll(5) < 3 {
                if let Some(mapping) = Mapping::new(&self.seat, &mut dice)? {
                    mapping.look(&self.seat, &scratch)?;
                    live.push(mapping, GFP_KERNEL)?;
                    made += 1;
                }
            } else if !live.is_empty() {
                let at = dice.pick(live.len());
                if dice.roll(4) == 0 {
                    live[at].sync(&self.seat, &mut scratch, &mut dice)?;
                } else {
                    live.remove(at)?.end(&self.seat, &mut scratch)?;
                }
            }
        }
        while let Some(mapping) = live.pop() {
            mapping.end(&self.seat, &mut scratch)?;
        }
        while let Some(memory) = held.pop() {
            memory.end(&self.seat)?;
        }
        Ok(made)
    }

    /// Obtains coherent memory or frees some.
    fn obtain_or_free(&self, held: &mut KVec<Memory>, dice: &mut Dice) -> Result {
        if held.len() < MEMORIES && dice.roll(2) == 0 {
            if let Some(memory) = Memory::new(&self.seat, dice)? {
                held.push(memory, GFP_KERNEL)?;
            }
        } else if !held.is_empty() {
            held.remove(dice.pick(held.len()))?.end(&self.seat)?;
        }
        Ok(())
    }
}

/// Coherent memory, and the bytes that its device wrote there.
struct Memory {
    coherent: Coherent,
    size: usize,
    seed: usize,
}

impl Memory {
    /// [`None`] if there is no memory at this moment.
    fn new(seat: &Seat, dice: &mut Dice) -> Result<Option<Self>> {
        let size = SIZES[dice.pick(SIZES.len())];
        let context = match dice.roll(2) {
            0 => Context::Atomic,
            _ => Context::Sleepable,
        };
        let Ok(coherent) = client::alloc(seat.dev(), size, context, Attrs::NO_WARN) else {
            return Ok(None);
        };
        let stale = engine::differences(coherent.dma, size, |_| 0)?;
        check!(stale == 0, "{stale} of {size} bytes at {:?}", coherent.dma);
        let seed = dice.pick(1 << 20);
        engine::write(coherent.dma, size, |index| pattern(seed, index))?;
        Ok(Some(Self {
            coherent,
            size,
            seed,
        }))
    }

    /// Nobody else wrote there.
    fn end(self, seat: &Seat) -> Result {
        let Self {
            coherent,
            size,
            seed,
        } = self;
        let wrong = engine::differences(coherent.dma, size, |index| pattern(seed, index))?;
        check!(wrong == 0, "{wrong} of {size} bytes at {:?}", coherent.dma);
        client::free(seat.dev(), size, coherent, Attrs::NONE);
        Ok(())
    }
}

/// Order of the largest buffer.
const MOST_ORDER: u32 = 4;

/// A piece of a buffer of its own, and where the device sees it.
struct Piece {
    buffer: Buffer,
    from: usize,
    size: usize,
    at: Machine,
    bounced: bool,
}

impl Piece {
    fn new(dice: &mut Dice) -> Result<Self> {
        let order = match dice.roll(16) {
            0 => MOST_ORDER,
            1..=3 => 1,
            _ => 0,
        };
        let buffer = Buffer::new(order)?;
        let room = buffer.size() - 2 * GUARD;
        let size = 1 + dice.pick(room);
        Ok(Self {
            from: GUARD + dice.pick(room - size + 1),
            size,
            buffer,
            at: Machine::new(0),
            bounced: false,
        })
    }

    fn phys(&self) -> Phys {
        phys(&self.buffer, self.from)
    }

    fn to(&self) -> usize {
        self.from + self.size
    }
}

/// A buffer or a list that is mapped, and the bytes that it had then.
struct Mapping {
    pieces: KVec<Piece>,
    list: Option<List>,
    dir: Direction,
    seed: usize,
}

impl Mapping {
    /// Maps something; [`None`] if there is no room at this moment.
    fn new(seat: &Seat, dice: &mut Dice) -> Result<Option<Self>> {
        let count = if dice.roll(4) == 0 {
            2 + dice.roll(ENTRIES - 1)
        } else {
            1
        };
        let mut mapping = Self {
            pieces: KVec::new(),
            list: None,
            dir: DIRECTIONS[dice.pick(DIRECTIONS.len())],
            seed: dice.pick(1 << 20),
        };
        for _ in 0..count {
            let mut piece = Piece::new(dice)?;
            let (low, high) = (piece.from - GUARD, piece.to() + GUARD);
            paint(&mut piece.buffer, mapping.seed, low, high);
            mapping.pieces.push(piece, GFP_KERNEL)?;
        }
        if !mapping.map(seat)? {
            return Ok(None);
        }
        for piece in mapping.pieces.iter_mut() {
            piece.bounced = seat.judge(piece.phys(), piece.size, piece.at)?;
        }
        Ok(Some(mapping))
    }

    /// Whether it could be mapped.
    fn map(&mut self, seat: &Seat) -> Result<bool> {
        if let [piece] = &mut self.pieces[..] {
            let (from, size) = (piece.phys(), piece.size);
            let Ok(at) = client::map(seat.dev(), from, size, self.dir, Attrs::NO_WARN) else {
                return Ok(false);
            };
            piece.at = at;
            return Ok(true);
        }
        let parts = self.pieces.iter().map(|p| (&p.buffer, p.from, p.size));
        let mut list = List::of_parts(self.pieces.len(), parts)?;
        if list.map(seat.dev(), self.dir, Attrs::NO_WARN).is_err() {
            return Ok(false);
        }
        // Pieces that follow each other without a gap are one segment.
        let mut pieces = self.pieces.iter_mut();
        for (at, size) in list.mapped() {
            let mut inside = 0;
            while inside < size {
                let piece = pieces.next();
                check!(piece.is_some(), "{size} bytes, but {inside} are left");
                if let Some(piece) = piece {
                    piece.at = Machine::new(at.raw() + inside as u64);
                    inside += piece.size;
                }
            }
            check!(inside == size, "{size} bytes, not {inside}");
        }
        check!(pieces.next().is_none());
        self.list = Some(list);
        Ok(true)
    }

    fn unmap(&mut self, seat: &Seat) {
        match &mut self.list {
            Some(list) => list.unmap(seat.dev(), self.dir, Attrs::NONE),
            None => {
                for piece in self.pieces.iter() {
                    client::unmap(seat.dev(), piece.at, piece.size, self.dir, Attrs::NONE);
                }
            }
        }
    }

    /// What the device sees is what was mapped.
    fn look(&self, seat: &Seat, scratch: &Buffer) -> Result {
        for piece in self.pieces.iter().filter(|piece| piece.bounced) {
            seat.peek(piece.at, scratch, piece.from, piece.size)?;
            check!(
                shows(scratch, self.seed, piece.from, piece.to()),
                "{} bytes at {:?} are not what was mapped",
                piece.size,
                piece.at
            );
        }
        Ok(())
    }

    /// The device writes other bytes into all of a mapping.
    fn write(&mut self, seat: &Seat, scratch: &mut Buffer, seed: usize) -> Result {
        for piece in self.pieces.iter().filter(|piece| piece.bounced) {
            paint(scratch, seed, piece.from, piece.to());
            seat.poke(piece.at, scratch, piece.from, piece.size)?;
        }
        Ok(())
    }

    /// The device writes, and the CPU looks in between.
    fn sync(&mut self, seat: &Seat, scratch: &mut Buffer, dice: &mut Dice) -> Result {
        let seed = dice.pick(1 << 20);
        if self.dir.device_writes() {
            self.write(seat, scratch, seed)?;
        }
        match &mut self.list {
            Some(list) => list.sync_for_cpu(seat.dev(), self.dir),
            None => {
                for piece in self.pieces.iter() {
                    client::sync_for_cpu(seat.dev(), piece.at, piece.size, self.dir);
                }
            }
        }
        for piece in self.pieces.iter_mut() {
            if piece.bounced && self.dir.device_writes() {
                check!(shows(&piece.buffer, seed, piece.from, piece.to()), "synced");
            }
            // So that all of the buffer is alike again, for the look at the end.
            let (low, high) = (piece.from - GUARD, piece.to() + GUARD);
            paint(&mut piece.buffer, seed, low, high);
        }
        self.seed = seed;
        match &mut self.list {
            Some(list) => list.sync_for_device(seat.dev(), self.dir),
            None => {
                for piece in self.pieces.iter() {
                    client::sync_for_device(seat.dev(), piece.at, piece.size, self.dir);
                }
            }
        }
        self.look(seat, scratch)
    }

    /// The device writes, if it may, and the CPU gets that back, and nothing else.
    fn end(mut self, seat: &Seat, scratch: &mut Buffer) -> Result {
        self.look(seat, scratch)?;
        let written = self.seed + 1;
        self.write(seat, scratch, written)?;
        self.unmap(seat);
        for piece in self.pieces.iter() {
            let back = piece.bounced && self.dir.device_writes();
            let seed = if back { written } else { self.seed };
            let (low, high) = (piece.from - GUARD, piece.to() + GUARD);
            check!(
                shows(&piece.buffer, seed, piece.from, piece.to())
                    && shows(&piece.buffer, self.seed, low, piece.from)
                    && shows(&piece.buffer, self.seed, piece.to(), high),
                "{} bytes at {:?} came back changed",
                piece.size,
                piece.at
            );
        }
        Ok(())
    }
}

#[kunit_tests(xen_dma_crowd)]
mod tests {
    use super::*;

    /// Fills an aperture, but for a little; returns what is held.
    fn leave_little(bench: &Bench, block: &Buffer) -> Result<KVec<Machine>> {
        let (dir, quiet) = (Direction::TO_DEVICE, Attrs::NO_WARN);
        let mut held = KVec::new();
        while let Ok(at) = client::map(bench.dev(), block.phys(), block.size(), dir, quiet) {
            held.push(at, GFP_KERNEL)?;
        }
        for _ in 0..LEFT {
            let at = held.pop().ok_or(ENOSPC)?;
            client::unmap(bench.dev(), at, block.size(), dir, quiet);
        }
        Ok(held)
    }

    /// Threads and their devices, of different reach, that share the aperture of the first.
    fn crowd(first: Bench, meanwhile: impl FnOnce(&Bench) -> Result) -> Result<KVec<Bench>> {
        let shared = first.shared.clone();
        let mut benches = KVec::new();
        benches.push(first, GFP_KERNEL)?;
        for (name, mask, align) in OTHERS {
            let bench = Bench::beside(name, mask, false, shared.clone())?;
            bench.device.set_min_align(align);
            benches.push(bench, GFP_KERNEL)?;
        }

        let meeting = Arc::new(
            Meeting {
                now: Atomic::new(0),
                most: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        let mut workers = KVec::new();
        for bench in benches.iter() {
            let seed = workers.len() as u64 + 1;
            let worker = Worker::new(bench.seat.clone(), seed, meeting.clone())?;
            workers.push(worker, GFP_KERNEL)?;
        }
        for worker in workers.iter() {
            check!(workqueue::system_unbound().enqueue(worker.clone()).is_ok());
        }
        let came_of_it = benches.first().map_or(Ok(()), meanwhile);
        for worker in workers.iter() {
            deferred::finish(&worker.work);
        }
        came_of_it?;

        let coherent: u64 = benches.iter().map(|b| b.count(Event::Coherent)).sum();
        check!(coherent > STEPS as u64 / 4, "{coherent}");
        let mut mappings = 0;
        for worker in workers.iter() {
            let made = worker.outcome.load(Relaxed);
            check!(made > STEPS as i32 / 8, "seed {}: {made}", worker.seed);
            mappings += made;
        }
        pr_info!("tally: crowd-mappings={mappings}\n");
        let together = meeting.most.load(Relaxed);
        check!(together > 1, "{together}");
        for bench in benches.iter() {
            pr_info!(
                "{} direct, {} bounced, {} refused, {together} threads at a time\n",
                bench.count(Event::Direct),
                bench.backend().counters.bounces(),
                bench.count(Event::Failure(Cause::Full))
            );
        }
        let bounced: u64 = benches.iter().map(|b| b.backend().counters.bounces()).sum();
        check!(bounced > STEPS as u64, "{bounced}");
        Ok(benches)
    }

    /// All that was mapped has ended, and room was all that was ever missing.
    fn balanced(benches: &[Bench]) -> Result {
        for bench in benches {
            let counters = &bench.backend().counters;
            check!(counters.failures() == bench.count(Event::Failure(Cause::Full)));
            check!(bench.count(Event::Direct) + counters.bounces() == counters.unmaps());
            check!(counters.bounces() == bench.count(Event::BounceUnmap));
            check!(bench.count(Event::Coherent) == bench.count(Event::CoherentFree));
            check!(bench.shared.coherent.pooled().used == 0);
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn threads_and_devices_share_an_aperture() -> Result {
        let Some(first) = Bench::with(c"xen-dma-crowd-32", MASK_32, false, SCARCE)? else {
            return Ok(());
        };
        let block = Buffer::new(BLOCK_ORDER)?;
        let held = leave_little(&first, &block)?;
        let before = first.count(Event::Failure(Cause::Full));
        let benches = crowd(first, |_| Ok(()))?;
        for &at in held.iter() {
            let (dir, attrs) = (Direction::TO_DEVICE, Attrs::NONE);
            client::unmap(benches[0].dev(), at, block.size(), dir, attrs);
        }
        // It was as full as it should be.
        let refused = |bench: &Bench| bench.count(Event::Failure(Cause::Full));
        let refused: u64 = benches.iter().map(refused).sum();
        check!(refused > before + LEFT as u64, "{refused}");
        balanced(&benches)
    }

    #[test]
    fn extents_come_and_go_meanwhile() -> Result {
        let bounds = Bounds {
            maximum: 24 << 20,
            low_water: 25,
            idle_ms: 0,
        };
        let name = c"xen-dma-crowd-breath";
        let Some(first) = Bench::bounded(name, MASK_32, false, AMPLE, bounds)? else {
            return Ok(());
        };
        let shared = first.shared.clone();
        // The tide comes and goes while the others are at work.
        let benches = crowd(first, |bench| {
            for round in 1..=TIDES {
                let mut load = Load::new(bench)?;
                load.reach(TIDE)?;
                load.end();
                // What the pool does not use goes back, too.
                bench.shared.coherent.press(usize::MAX >> 1);
                check!(wait(|| bench.shared.breath.counts().1 >= round), "{round}");
            }
            Ok(())
        })?;
        let (grown, shrunk) = shared.breath.counts();
        check!(grown >= TIDES && shrunk >= TIDES, "{grown}, {shrunk}");
        balanced(&benches)
    }
}
