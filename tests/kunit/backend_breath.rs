// SPDX-License-Identifier: GPL-2.0

//! The aperture breathes: it grows, shrinks, and makes extents for narrow devices.

use super::*;
use crate::{
    aperture::MIN_ORDER,
    breath::Bounds,
    extent::Kind, //
};
use kernel::{
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        delay::fsleep,
        msecs_to_jiffies,
        Delta, //
    },
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    }, //
};
use xen_dma::deferred;

/// The first size of the aperture in MiB, and in bytes.
const FIRST: u32 = 2;
const FIRST_BYTES: usize = (FIRST as usize) << 20;

/// How far it grows, when, and how soon it shrinks.
const BOUNDS: Bounds = Bounds {
    maximum: 8 << 20,
    low_water: 25,
    idle_ms: 50,
};

pub(super) const BLOCK: usize = PAGE_SIZE;

/// Waits for a condition, some seconds at most.
pub(super) fn wait(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..400 {
        if condition() {
            return true;
        }
        fsleep(Delta::from_millis(20));
    }
    false
}

/// Mappings of one page that go through the aperture.
pub(super) struct Load<'a> {
    bench: &'a Bench,
    buffer: Buffer,
    live: KVVec<Machine>,
}

impl<'a> Load<'a> {
    pub(super) fn new(bench: &'a Bench) -> Result<Self> {
        let mut buffer = Buffer::new(0)?;
        cover(&mut buffer, 5);
        Ok(Self {
            bench,
            buffer,
            live: KVVec::new(),
        })
    }

    /// Maps one more page, if there is room.
    fn add(&mut self) -> Result<bool> {
        let (dir, quiet) = (Direction::TO_DEVICE, Attrs::NO_WARN);
        match client::map(self.bench.dev(), self.buffer.phys(), BLOCK, dir, quiet) {
            Ok(at) => {
                self.live.push(at, GFP_KERNEL)?;
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// Maps until so many bytes are mapped; waits for room where there is none.
    pub(super) fn reach(&mut self, bytes: usize) -> Result {
        while self.live.len() * BLOCK < bytes {
            let mut outcome = Ok(false);
            let added = wait(|| {
                outcome = self.add();
                !matches!(outcome, Ok(false))
            });
            check!(added && outcome?, "{} are mapped", self.live.len());
        }
        Ok(())
    }

    /// What the device sees is what was mapped, in every extent.
    fn look(&self) -> Result {
        let scratch = Buffer::new(0)?;
        for &at in self.live.iter().step_by(7) {
            self.bench.peek(at, &scratch, 0, BLOCK)?;
            check!(shows(&scratch, 5, 0, BLOCK), "at {at:?}");
        }
        Ok(())
    }

    pub(super) fn end(&mut self) {
        while let Some(at) = self.live.pop() {
            let (dir, attrs) = (Direction::TO_DEVICE, Attrs::NONE);
            client::unmap(self.bench.dev(), at, BLOCK, dir, attrs);
        }
    }
}

fn size(bench: &Bench) -> usize {
    bench.shared.aperture.size()
}

#[kunit_tests(xen_dma_breath)]
mod tests {
    use super::*;

    #[test]
    fn grows_before_it_is_full_and_shrinks_when_idle() -> Result {
        let Some(bench) = Bench::breathing(c"xen-dma-breath", MASK_32, FIRST, BOUNDS)? else {
            return Ok(());
        };
        for round in 1..=3u64 {
            let mut load = Load::new(&bench)?;
            load.reach(FIRST_BYTES / 100 * 85)?;
            check!(wait(|| size(&bench) > FIRST_BYTES), "round {round}");
            check!(bench.count(Event::Failure(Cause::Full)) == 0);
            load.reach(FIRST_BYTES / 100 * 150)?;
            load.look()?;
            load.end();
            check!(wait(|| size(&bench) == FIRST_BYTES), "round {round}");
            let counts = || bench.shared.breath.counts();
            check!(wait(|| counts().0 == counts().1), "round {round}");
            check!(counts().0 >= round, "round {round}");
        }
        bench.done()
    }

    #[test]
    fn grows_to_its_maximum_and_no_further() -> Result {
        let Some(bench) = Bench::breathing(c"xen-dma-breath-most", MASK_32, FIRST, BOUNDS)? else {
            return Ok(());
        };
        // It has shrunk before the second round: what was of no use to ask for is asked for again.
        for _ in 0..2 {
            let mut load = Load::new(&bench)?;
            load.reach(BOUNDS.maximum)?;
            check!(size(&bench) == BOUNDS.maximum, "{}", size(&bench));
            for _ in 0..3 {
                check!(!load.add()?);
                fsleep(Delta::from_millis(150));
            }
            check!(size(&bench) == BOUNDS.maximum, "{}", size(&bench));
            load.look()?;
            load.end();
            check!(wait(|| size(&bench) == FIRST_BYTES), "{}", size(&bench));
        }
        bench.done()
    }

    #[test]
    fn an_extent_in_use_stays() -> Result {
        let Some(bench) = Bench::breathing(c"xen-dma-breath-stay", MASK_32, FIRST, BOUNDS)? else {
            return Ok(());
        };
        let mut load = Load::new(&bench)?;
        load.reach(FIRST_BYTES + FIRST_BYTES / 4)?;
        // The last one lies in an extent that was added.
        let kept = load.live.pop().ok_or(ENOSPC)?;
        let kind = bench.shared.aperture.find(kept).map(|extent| extent.kind);
        check!(kind == Some(Kind::Spare), "{kind:?}");
        load.end();
        fsleep(Delta::from_millis(1500));
        check!(bench.shared.aperture.find(kept).is_some());
        let scratch = Buffer::new(0)?;
        bench.peek(kept, &scratch, 0, BLOCK)?;
        check!(shows(&scratch, 5, 0, BLOCK));
        load.live.push(kept, GFP_KERNEL)?;
        load.end();
        check!(wait(|| size(&bench) == FIRST_BYTES), "{}", size(&bench));
        check!(bench.shared.aperture.find(kept).is_none());
        bench.done()
    }

    #[test]
    fn a_stopped_aperture_stays_as_it_is() -> Result {
        let Some(bench) = Bench::breathing(c"xen-dma-breath-stop", MASK_32, FIRST, BOUNDS)? else {
            return Ok(());
        };
        bench.shared.hold_breath();
        let mut load = Load::new(&bench)?;
        load.reach(FIRST_BYTES)?;
        check!(!load.add()?);
        fsleep(Delta::from_millis(300));
        check!(size(&bench) == FIRST_BYTES, "{}", size(&bench));
        load.end();
        bench.done()
    }

    /// Another thread that ends all breathing.
    #[pin_data]
    struct Stop {
        shared: Arc<Shared>,
        over: Atomic<i32>,
        #[pin]
        work: Work<Self>,
    }

    impl_has_work! {
        impl HasWork<Self> for Stop { self.work }
    }

    impl WorkItem for Stop {
        type Pointer = Arc<Self>;

        fn run(this: Arc<Self>) {
            this.shared.hold_breath();
            this.over.store(1, Relaxed);
        }
    }

    #[test]
    fn the_last_breath_waits_for_one_under_way() -> Result {
        let Some(bench) = Bench::breathing(c"xen-dma-breath-last", MASK_32, FIRST, BOUNDS)? else {
            return Ok(());
        };
        let shared = &bench.shared;
        let stop = pin_init!(Stop {
            shared: shared.clone(),
            over: Atomic::new(0),
            work <- new_work!("Stop::work"),
        });
        let stop = Arc::pin_init(stop, GFP_KERNEL)?;
        let next = || {
            let wait = msecs_to_jiffies(200);
            workqueue::system_long()
                .enqueue_delayed::<_, 0>(shared.clone(), wait)
                .is_ok()
        };
        shared.amid_a_breath(|| {
            check!(workqueue::system_unbound().enqueue(stop.clone()).is_ok());
            fsleep(Delta::from_millis(100));
            check!(stop.over.load(Relaxed) == 0, "it did not wait");
            check!(next(), "as a breath does at its end");
            Ok(())
        })?;
        deferred::finish(&stop.work);
        check!(stop.over.load(Relaxed) == 1);
        check!(next(), "a timer runs still");
        deferred::finish_delayed(&shared.watch);
        bench.done()
    }

    /// Bytes of the narrow extents that a device of so many bits reaches.
    fn narrow(bench: &Bench, bits: u32) -> usize {
        let extents = bench.shared.aperture.each();
        let reached = extents.filter(|extent| matches!(extent.kind, Kind::Narrow(_)));
        let reached = reached.filter(|extent| extent.bits() <= bits);
        reached.map(|extent| extent.size()).sum()
    }

    #[test]
    fn narrow_devices_get_extents_that_they_reach() -> Result {
        for bits in [24, 26, 28, 30, 31] {
            let mask = (1 << bits) - 1;
            let Some(bench) = Bench::breathing(c"xen-dma-narrow", MASK_32, FIRST, BOUNDS)? else {
                return Ok(());
            };
            let limits = device::limits_for(bench.dev(), mask);
            let served = bench.shared.aperture.largest(&limits) > 0;
            // Xen may have no memory that low.
            let possible = served || Region::new(MIN_ORDER, bits, Way::Scattered).is_ok();
            pr_info!("{bits} bits: served {served}, possible {possible}\n");
            check!(
                client::set_masks(bench.dev(), mask).is_ok() == possible,
                "{bits} bits"
            );
            if !possible {
                check!(bits < 28, "{bits} bits");
                bench.done()?;
                continue;
            }
            // One is made only if there is none that serves.
            check!((narrow(&bench, bits) > 0) != served, "{bits} bits");
            check!(
                client::max_mapping_size(bench.dev()) >= 64 << 10,
                "{bits} bits"
            );
            let mut load = Load::new(&bench)?;
            load.reach(192 << 10)?;
            check!(load
                .live
                .iter()
                .all(|at| at.raw() + BLOCK as u64 <= 1 << bits));
            load.look()?;

            // A narrower mask would leave mappings behind; a wider one does not.
            check!(
                client::set_masks(bench.dev(), mask >> 1).is_err(),
                "{bits} bits"
            );
            check!(bench.wrongs(Wrong::Mask) == 1 && bench.backend().counters.misuse() == 1);
            load.end();
            bench.empty()?;

            // When nobody has such a mask any more, they go back.
            check!(client::set_masks(bench.dev(), MASK_32).is_ok());
            check!(wait(|| narrow(&bench, bits) == 0), "{bits} bits");
        }
        Ok(())
    }

    #[test]
    fn ordinary_devices_leave_narrow_extents_alone() -> Result {
        let Some(wide) = Bench::breathing(c"xen-dma-wide", MASK_32, FIRST, Bounds::FIXED)? else {
            return Ok(());
        };
        let mask = below(&wide)?;
        let slim = Bench::beside(c"xen-dma-slim", mask, true, wide.shared.clone())?;
        let mut load = Load::new(&wide)?;
        while load.add()? {}
        check!(load.live.len() * BLOCK == FIRST_BYTES);
        let mut other = Load::new(&slim)?;
        check!((0..16).all(|_| matches!(other.add(), Ok(true))));
        other.end();
        load.end();
        slim.done()?;
        wide.done()
    }

    /// A mask that no extent of an aperture serves.
    fn below(bench: &Bench) -> Result<u64> {
        let extents = bench.shared.aperture.each();
        let lowest = extents.map(|extent| extent.bits()).min().ok_or(ENXIO)?;
        Ok((1 << (lowest - 1)) - 1)
    }

    #[test]
    fn ordinary_devices_are_promised_no_narrow_extent() -> Result {
        let Some(wide) = Bench::breathing(c"xen-dma-promise", MASK_32, 1, Bounds::FIXED)? else {
            return Ok(());
        };
        let promised = client::max_mapping_size(wide.dev());
        let mask = below(&wide)?;
        let slim = Bench::beside(c"xen-dma-promise-slim", mask, true, wide.shared.clone())?;
        check!(client::max_mapping_size(slim.dev()) > promised);
        check!(client::max_mapping_size(wide.dev()) == promised);

        let block = Buffer::new(8)?;
        check!(promised > 0 && promised < block.size());
        let (dir, attrs) = (Direction::TO_DEVICE, Attrs::NONE);
        let at = client::map(wide.dev(), block.phys(), promised, dir, attrs)?;
        client::unmap(wide.dev(), at, promised, dir, attrs);
        slim.done()?;
        wide.done()
    }

    #[test]
    fn a_wider_coherent_mask_takes_no_extent_away() -> Result {
        let Some(bench) = Bench::breathing(c"xen-dma-two-masks", MASK_32, FIRST, BOUNDS)? else {
            return Ok(());
        };
        let mask = below(&bench)?;
        let bits = mask.count_ones();
        client::set_mask(bench.dev(), mask)?;
        client::set_coherent_mask(bench.dev(), MASK_32)?;
        fsleep(Delta::from_millis(1500));
        check!(narrow(&bench, bits) > 0);
        let mut load = Load::new(&bench)?;
        check!((0..16).all(|_| matches!(load.add(), Ok(true))));
        load.end();
        client::set_masks(bench.dev(), MASK_32)?;
        check!(wait(|| narrow(&bench, bits) == 0));
        bench.done()
    }

    #[test]
    fn nothing_lies_below_a_page() -> Result {
        let Some(bench) = Bench::breathing(c"xen-dma-tiny", MASK_32, FIRST, BOUNDS)? else {
            return Ok(());
        };
        for bits in [0, 1, 11, 12, 17] {
            check!(
                client::set_masks(bench.dev(), (1 << bits) - 1).is_err(),
                "{bits} bits"
            );
        }
        // A refusal changes nothing.
        let mut load = Load::new(&bench)?;
        check!(load.add()?);
        load.end();
        bench.done()
    }
}
