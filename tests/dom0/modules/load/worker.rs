// SPDX-License-Identifier: GPL-2.0

//! A worker: maps, syncs and unmaps for a device, one after the other, until it is told to stop.

use crate::mapping::{
    Mapping,
    Piece,
    GUARD, //
};
use kernel::{
    device::Device,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Full, //
        },
        Arc,
        Mutex, //
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
    client::Buffer,
    deferred,
    measure::Meter,
    ops::Direction, //
};

/// What a worker does before others may have the processor.
const BATCH: usize = 64;

/// Buffers that are kept to be used again, and one in so many that is not.
const KEPT: usize = 24;
const RENEWED: usize = 16;

/// The tide: the most mappings that are held, for so many steps, and then for so many.
const EBB: usize = 3;
const FLOOD: usize = 40;
const TURN: usize = 4096;

/// The most buffers of a list.
const ENTRIES: usize = 5;

const DIRECTIONS: [Direction; 3] = [
    Direction::BIDIRECTIONAL,
    Direction::TO_DEVICE,
    Direction::FROM_DEVICE,
];

/// Throws the same numbers for the same seed.  Xorshift, after Marsaglia.
struct Dice(u64);

impl Dice {
    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // CAST: The remainder is below a `usize`.
        (self.0 % end as u64) as usize
    }
}

/// Takes one out of `all`, in whose place comes the last one.
fn take<T>(all: &mut KVec<T>, place: usize) -> Result<T> {
    let last = all.len().checked_sub(1).ok_or(EINVAL)?;
    all.swap(place, last);
    all.pop().ok_or(EINVAL)
}

/// What a worker has at hand.
struct State {
    dice: Dice,
    steps: usize,
    spare: KVec<Buffer>,
    live: KVec<Mapping>,
    meter: Option<Meter>,
}

impl State {
    /// One step: something is mapped, synchronised or unmapped.
    fn step(&mut self, dev: &Device) -> Result {
        self.steps = self.steps.wrapping_add(1);
        let most = if self.steps / TURN % 2 == 0 {
            FLOOD
        } else {
            EBB
        };
        let (held, what) = (self.live.len(), self.dice.below(16));
        if held == 0 || (held < most && what < 9) {
            return self.begin(dev);
        }
        let (place, seed) = (self.dice.below(held), self.dice.below(1 << 16));
        if what == 15 {
            self.live[place].sync(dev, seed);
        } else {
            let mapping = take(&mut self.live, place)?;
            let pieces = mapping.end(dev, seed, self.meter.as_mut());
            self.keep(pieces)?;
        }
        Ok(())
    }

    fn begin(&mut self, dev: &Device) -> Result {
        let count = match self.dice.below(4) {
            0 => 2 + self.dice.below(ENTRIES - 1),
            _ => 1,
        };
        let mut pieces = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            pieces.push(self.piece()?, GFP_KERNEL)?;
        }
        let dir = DIRECTIONS[self.dice.below(DIRECTIONS.len())];
        let seed = self.dice.below(1 << 16);
        match Mapping::new(dev, pieces, dir, seed, self.meter.as_mut()) {
            Ok(mapping) => Ok(self.live.push(mapping, GFP_KERNEL)?),
            Err(pieces) => self.keep(pieces),
        }
    }

    /// Some part of some buffer; most are small.
    fn piece(&mut self) -> Result<Piece> {
        let buffer = if self.spare.len() < KEPT || self.dice.below(RENEWED) == 0 {
            let order = match self.dice.below(64) {
                0 => 6,
                1..=4 => 4,
                5..=20 => 1,
                _ => 0,
            };
            Buffer::new(order)?
        } else {
            let place = self.dice.below(self.spare.len());
            take(&mut self.spare, place)?
        };
        let room = buffer.size() - 2 * GUARD;
        let most = if self.dice.below(3) == 0 { room } else { 600 };
        let size = 1 + self.dice.below(most);
        let from = GUARD + self.dice.below(room - size + 1);
        Ok(Piece::new(buffer, from, size))
    }

    /// Keeps the buffers, as far as there is room for them.
    fn keep(&mut self, pieces: KVec<Piece>) -> Result {
        for piece in pieces {
            if self.spare.len() < KEPT {
                self.spare.push(piece.buffer, GFP_KERNEL)?;
            }
        }
        Ok(())
    }

    fn end_all(&mut self, dev: &Device) {
        while let Some(mapping) = self.live.pop() {
            let seed = self.dice.below(1 << 16);
            drop(mapping.end(dev, seed, None));
        }
    }
}

/// A worker of a device, as a work item that sees to its own return.
#[pin_data]
pub(crate) struct Worker {
    dev: ARef<Device>,
    stop: Atomic<bool>,
    #[pin]
    state: Mutex<State>,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Worker { self.work }
}

impl WorkItem for Worker {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if this.stop.load(Acquire) {
            return;
        }
        let mut state = this.state.lock();
        for _ in 0..BATCH {
            // For want of memory something is left out, and tried again.
            let _ = state.step(&this.dev);
        }
        drop(state);
        let _ = workqueue::system_unbound().enqueue(this);
    }
}

impl Worker {
    /// Begins to work for a device.  With `measured` each call is measured.  May sleep.
    pub(crate) fn start(dev: &Device, seed: u64, measured: bool) -> Result<Arc<Self>> {
        let state = State {
            dice: Dice(0x9e37_79b9_7f4a_7c15 ^ (seed << 40)),
            steps: 0,
            spare: KVec::new(),
            live: KVec::new(),
            meter: measured.then(Meter::calibrate),
        };
        let worker = Arc::pin_init(
            pin_init!(Self {
                dev: dev.into(),
                stop: Atomic::new(false),
                state <- new_mutex!(state, "Worker::state"),
                work <- new_work!("Worker::work"),
            }),
            GFP_KERNEL,
        )?;
        let _ = workqueue::system_unbound().enqueue(worker.clone());
        Ok(worker)
    }

    /// Ends the work, and all mappings.  May sleep.
    pub(crate) fn stop(&self) {
        self.stop.xchg(true, Full);
        // An item that ran meanwhile may have come back once more, to find that it shall stop.
        deferred::finish(&self.work);
        deferred::finish(&self.work);
        self.state.lock().end_all(&self.dev);
    }
}
