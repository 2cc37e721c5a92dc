// SPDX-License-Identifier: GPL-2.0

//! The core's leave to skip syncs: a device has it until its first bounce, and then never again.

use super::*;
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
use xen_dma::deferred;

/// Threads that want a device's first bounce.
const THREADS: u32 = 2;

/// Devices that they do it with, one after another.
const RACES: usize = 60;

/// How often a thread looks for the others before it goes on alone.
const PATIENCE: u32 = 1_000_000;

/// Bytes of a mapping.
const SIZE: usize = 512;

/// Where threads meet before a race.
struct Gate {
    there: Atomic<u32>,
    /// Threads that saw all others there.
    together: Atomic<u32>,
}

impl Gate {
    fn pass(&self) {
        self.there.fetch_add(1, Full);
        for _ in 0..PATIENCE {
            if self.there.load(Relaxed) == THREADS {
                self.together.fetch_add(1, Full);
                return;
            }
            core::hint::spin_loop();
        }
    }
}

/// One thread: a work item of a workqueue that gives each its own.
#[pin_data]
struct Racer {
    seat: Seat,
    seed: usize,
    gate: Arc<Gate>,
    /// 1 when all was well, or an error's number, or 0 before the end.
    outcome: Atomic<i32>,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Racer { self.work }
}

impl WorkItem for Racer {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let outcome = match this.race() {
            Ok(()) => 1,
            Err(error) => error.to_errno(),
        };
        this.outcome.store(outcome, Relaxed);
    }
}

impl Racer {
    fn new(seat: Seat, seed: usize, gate: Arc<Gate>) -> Result<Arc<Self>> {
        let racer = pin_init!(Self {
            seat,
            seed,
            gate,
            outcome: Atomic::new(0),
            work <- new_work!("xen_dma_syncs::Racer::work"),
        });
        Arc::pin_init(racer, GFP_KERNEL)
    }

    /// Maps, and has the very next sync do its work.
    fn race(&self) -> Result {
        let dir = Direction::BIDIRECTIONAL;
        let (mut buffer, mut device) = (Buffer::new(0)?, Buffer::new(0)?);
        paint(&mut buffer, self.seed, 0, PAGE_SIZE);
        paint(&mut device, self.seed + 1, 0, PAGE_SIZE);
        let dev = self.seat.dev();

        self.gate.pass();
        let at = client::map(dev, buffer.phys(), SIZE, dir, Attrs::NONE)?;
        let skips = client::skips_syncs(dev);
        self.seat.poke(at, &device, 0, SIZE)?;
        client::sync_for_cpu(dev, at, SIZE, dir);
        let came = shows(&buffer, self.seed + 1, 0, SIZE);

        paint(&mut buffer, self.seed + 2, 0, PAGE_SIZE);
        client::sync_for_device(dev, at, SIZE, dir);
        self.seat.peek(at, &device, 0, SIZE)?;
        let went = shows(&device, self.seed + 2, 0, SIZE);
        client::unmap(dev, at, SIZE, dir, Attrs::NONE);

        check!(!skips, "syncs are skipped after a bounce");
        check!(came && went, "{came}, {went}");
        Ok(())
    }
}

#[kunit_tests(xen_dma_syncs)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bounce_ends_it_for_good() -> Result {
        let Some(bench) = Bench::new(c"xen-dma-skip", MASK_64, false)? else {
            return Ok(());
        };
        let (dev, dir, buffer) = (bench.dev(), Direction::TO_DEVICE, Buffer::new(0)?);
        let mapped = || -> Result<bool> {
            let at = client::map(dev, buffer.phys(), SIZE, dir, Attrs::NONE)?;
            client::unmap(dev, at, SIZE, dir, Attrs::NONE);
            Ok(client::skips_syncs(dev))
        };
        check!(mapped()?, "direct mappings need no sync");
        for mask in [MASK_32, MASK_28, MASK_64] {
            client::set_masks(dev, mask)?;
            let skips = mapped()?;
            check!(
                skips == (bench.backend().counters.bounces() == 0),
                "{mask:#x}"
            );
        }

        let forced = Bench::new(c"xen-dma-skip-forced", MASK_64, true)?.ok_or(ENODEV)?;
        let dev = forced.dev();
        check!(client::skips_syncs(dev), "nothing is mapped yet");
        let at = client::map(dev, buffer.phys(), SIZE, dir, Attrs::NONE)?;
        check!(!client::skips_syncs(dev), "the first bounce");
        client::unmap(dev, at, SIZE, dir, Attrs::NONE);
        check!(!client::skips_syncs(dev), "its end");
        // Drivers set masks again, and that asks anew whether syncs may be skipped.
        client::set_masks(dev, MASK_64)?;
        check!(!client::skips_syncs(dev), "a mask that is set again");
        bench.done()?;
        forced.done()
    }

    #[test]
    fn threads_race_for_the_first_bounce() -> Result {
        let Some(first) = Bench::with(c"xen-dma-race", MASK_64, true, 1)? else {
            return Ok(());
        };
        let mut together = 0;
        for round in 0..RACES {
            let bench = Bench::beside(c"xen-dma-racer", MASK_64, true, first.shared.clone())?;
            check!(client::skips_syncs(bench.dev()));
            let gate = Arc::new(
                Gate {
                    there: Atomic::new(0),
                    together: Atomic::new(0),
                },
                GFP_KERNEL,
            )?;
            let mut racers = KVec::new();
            for thread in 0..THREADS as usize {
                let seed = 10 * (round * THREADS as usize + thread) + 1;
                racers.push(
                    Racer::new(bench.seat.clone(), seed, gate.clone())?,
                    GFP_KERNEL,
                )?;
            }
            for racer in racers.iter() {
                check!(workqueue::system_unbound().enqueue(racer.clone()).is_ok());
            }
            for racer in racers.iter() {
                deferred::finish(&racer.work);
            }
            for racer in racers.iter() {
                let outcome = racer.outcome.load(Relaxed);
                check!(outcome == 1, "round {round}: {outcome}");
            }
            together += u32::from(gate.together.load(Relaxed) == THREADS);
            bench.done()?;
        }
        check!(together > 0, "no two threads ever met");
        pr_info!("{together} of {RACES} races were ones\n");
        first.done()
    }
}
