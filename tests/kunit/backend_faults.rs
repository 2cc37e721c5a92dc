// SPDX-License-Identifier: GPL-2.0

//! Faults: each step that may fail does so in its turn, until none is left that was not tried.
//!
//! After each: nothing is lost, the directory tells the truth, and the driver works.

use super::*;
use crate::{
    aperture::MIN_ORDER,
    devices::Devices, //
};
use breath::{
    wait,
    Load, //
};
use xen_dma::{
    bus::BusEvents,
    fault::{
        self,
        Point, //
    },
    pages_held,
    region::traded_pages, //
};

/// No path has so many steps.
const MANY: u32 = 500;

/// What anything is made of that could be lost: pages, and those whose frames are Xen's extents.
fn stock() -> (isize, u64) {
    let (taken, returned) = traded_pages();
    (pages_held(), taken - returned)
}

/// Whether the directory knows each extent, and nothing else.
fn directory_is_true(shared: &Shared) -> Result {
    const GRAIN: u64 = 256 << 10;
    let grains = (0..(1 << 32) / GRAIN).map(|grain| Machine::new(grain * GRAIN));
    let known = grains.filter(|at| shared.aperture.place(*at).is_some());
    let known = known.count() as u64 * GRAIN;
    let size = shared.aperture.size() as u64;
    check!(known == size, "{known} bytes, not {size}");
    Ok(())
}

/// As much is held as before; what is on its way back may take a moment.
fn balanced(before: (isize, u64)) -> Result {
    check!(wait(|| stock() == before), "{:?}, not {before:?}", stock());
    Ok(())
}

/// Does a path again and again: at the first time its first step of a kind fails, and so on.  What it
/// leaves must be nothing, whether it failed or went on without.  Returns how many steps there are.
fn each_fails(point: Point, mut path: impl FnMut() -> Result) -> Result<u32> {
    let mut before = stock();
    path()?;
    balanced(before)?;
    let (mut kept, kind) = match point {
        Point::Slab => (Some(0), "allocations"),
        _ => (None, "steps"),
    };
    for n in 1..MANY {
        fault::fail_nth(point, n);
        let outcome = path();
        let failed = fault::stop(point);
        if let Some(kept) = kept.as_mut().filter(|_| failed) {
            // An extent that cannot go back, for want of memory to say so, stays as good memory.
            let more = stock().1.saturating_sub(before.1);
            *kept += u64::from(more > 0);
            before.1 += more;
        }
        balanced(before).inspect_err(|_| pr_err!("{point:?} {n}\n"))?;
        if !failed {
            outcome?;
            pr_info!("tally: {kind}-failed={}\n", n - 1);
            pr_info!("tally: extents-kept={}\n", kept.unwrap_or(0));
            return Ok(n - 1);
        }
        // Only for want of memory; C does not say why it made no device.
        check!(
            matches!(outcome, Ok(()) | Err(ENOMEM) | Err(EIO))
                || (point == Point::Slab && outcome == Err(ENODEV)),
            "{point:?} {n}: {outcome:?}"
        );
        path().inspect_err(|_| pr_err!("after {point:?} {n}\n"))?;
        balanced(before).inspect_err(|_| pr_err!("after {point:?} {n}\n"))?;
    }
    Err(ERANGE)
}

/// Coherent memory is had and freed, or is not; nothing of it is left.
fn coherent_comes_and_goes(bench: &Bench, size: usize) -> Result {
    let outcome = client::alloc(bench.dev(), size, Context::Sleepable, Attrs::NO_WARN);
    if let Ok(memory) = outcome {
        client::free(bench.dev(), size, memory, Attrs::NONE);
    }
    bench.shared.coherent.finish();
    check!(bench.shared.coherent.usage() == (0, 0) && bench.in_use() == 0);
    check!(bench.backend().counters.outstanding() == 0);
    outcome.map(|_| ())
}

/// Bytes travel through a device's mappings.
fn works(bench: &Bench) -> Result {
    let (mut buffer, mut scratch) = (Buffer::new(2)?, Buffer::new(2)?);
    let buffers = [&mut buffer, &mut scratch];
    travel(bench, buffers, (GUARD, 5000), Direction::BIDIRECTIONAL)
}

#[kunit_tests(xen_dma_faults)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_fails_leaves_nothing() -> Result {
        let Some(p2m) = LinearP2m::get() else {
            return Ok(());
        };
        for point in [Point::Memory, Point::Exchange, Point::Unmap] {
            let steps = each_fails(point, || {
                let aperture = Aperture::new(2, Care::NONE)?;
                let shared = Shared::new(aperture, p2m, true, Bounds::FIXED)?;
                let bench = Bench::beside(c"xen-dma-fault-load", MASK_32, true, shared)?;
                directory_is_true(&bench.shared)?;
                works(&bench)?;
                bench.done()
            })?;
            pr_info!("load: {steps} of {point:?} failed\n");
            check!(steps > 0);
        }
        Ok(())
    }

    #[test]
    fn an_attach_that_fails_leaves_nothing() -> Result {
        let Some(first) = Bench::new(c"xen-dma-fault-first", MASK_32, true)? else {
            return Ok(());
        };
        let steps = each_fails(Point::Memory, || {
            let shared = first.shared.clone();
            let bench = Bench::beside(c"xen-dma-fault-attach", MASK_32, true, shared)?;
            works(&bench)?;
            bench.done()
        })?;
        pr_info!("attach: {steps} failed\n");
        check!(steps > 2);
        works(&first)?;
        first.done()
    }

    #[test]
    fn growth_that_fails_is_tried_again() -> Result {
        let bounds = Bounds {
            maximum: 4 << 20,
            low_water: 25,
            idle_ms: 0,
        };
        for point in [Point::Memory, Point::Exchange, Point::Unmap] {
            let name = c"xen-dma-fault-growth";
            let Some(bench) = Bench::breathing(name, MASK_32, 1, bounds)? else {
                return Ok(());
            };
            let size = bench.shared.aperture.size();
            let mut load = Load::new(&bench)?;
            let steps = each_fails(point, || {
                load.reach(size / 2 * 3)?;
                check!(bench.shared.aperture.size() > size);
                directory_is_true(&bench.shared)?;
                load.end();
                check!(wait(|| bench.shared.aperture.size() == size));
                directory_is_true(&bench.shared)
            })?;
            pr_info!("growth: {steps} of {point:?} failed\n");
            check!(steps > 0);
            works(&bench)?;
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn a_narrow_extent_that_fails_is_a_mask_refused() -> Result {
        let Some(first) = Bench::with(c"xen-dma-fault-wide", MASK_32, true, 1)? else {
            return Ok(());
        };
        let shared = first.shared.clone();
        let size = shared.aperture.size();
        let narrow = Bench::beside(c"xen-dma-fault-narrow", MASK_32, true, shared.clone())?;
        // Xen has such memory, and no extent that is there will do.
        let mask = [26, 27, 28]
            .map(|bits| (1 << bits) - 1)
            .into_iter()
            .find(|&mask| {
                let served = shared
                    .aperture
                    .largest(&device::limits_for(narrow.dev(), mask))
                    > 0;
                !served && Region::new(MIN_ORDER, mask.count_ones(), Way::Scattered).is_ok()
            });
        let mask = mask.ok_or(ENXIO)?;
        for point in [Point::Memory, Point::Exchange, Point::Unmap] {
            let steps = each_fails(point, || {
                let outcome = client::set_masks(narrow.dev(), mask);
                directory_is_true(&shared)?;
                // What fails may be the test's own buffer.
                let worked = outcome.and_then(|()| works(&narrow));
                client::set_masks(narrow.dev(), MASK_32)?;
                check!(wait(|| shared.aperture.size() == size));
                worked.and_then(|()| works(&narrow))
            })?;
            pr_info!("narrow extent: {steps} of {point:?} failed\n");
            check!(steps > 0);
        }
        narrow.done()?;
        first.done()
    }

    #[test]
    fn coherent_memory_that_fails_leaves_nothing() -> Result {
        for (mask, size) in [
            (MASK_28, 64),
            (MASK_28, 4096),
            (MASK_28, 0x40_0000),
            (MASK_64, 0x10_0000),
        ] {
            let Some(bench) = Bench::new(c"xen-dma-fault-coherent", mask, true)? else {
                return Ok(());
            };
            for point in [Point::Memory, Point::Exchange] {
                let steps = each_fails(point, || coherent_comes_and_goes(&bench, size))?;
                pr_info!("{size} bytes of coherent memory: {steps} of {point:?} failed\n");
            }
            works(&bench)?;
            bench.done()?;
        }
        Ok(())
    }

    #[test]
    fn what_cannot_go_back_stays_good_memory() -> Result {
        if LinearP2m::get().is_none() {
            return Ok(());
        }
        for n in 1..=3 {
            let before = stock();
            let region = Region::new(6, 32, Way::Scattered)?;
            let traded = stock().1 - before.1;
            fault::fail_nth(Point::GiveBack, n);
            drop(region);
            // It was memory that fitted, or it stays.
            check!(fault::stop(Point::GiveBack) == (traded > 0));
            check!(
                stock() == (before.0, before.1 + traded),
                "{:?}, {before:?}",
                stock()
            );
        }
        let Some(bench) = Bench::new(c"xen-dma-fault-stays", MASK_32, true)? else {
            return Ok(());
        };
        works(&bench)?;
        bench.done()
    }
}

/// Runs a second time from user space, which tells the kernel before to let allocations fail
/// (tests/kunit/init); the first time there is nothing to see.
#[kunit_tests(xen_dma_scarce)]
mod scarce {
    use super::*;

    /// Whether the kernel lets allocations fail.
    fn can_fail() -> bool {
        fault::fail_nth(Point::Slab, 1);
        let refused = KBox::new([0u64; 8], GFP_KERNEL).is_err();
        fault::stop(Point::Slab) && refused
    }

    #[test]
    fn a_load_without_memory_leaves_nothing() -> Result {
        let Some(p2m) = LinearP2m::get().filter(|_| can_fail()) else {
            return Ok(());
        };
        let steps = each_fails(Point::Slab, || {
            let aperture = Aperture::new(1, Care::NONE)?;
            let shared = Shared::new(aperture, p2m, true, Bounds::FIXED)?;
            let bench = Bench::beside(c"xen-dma-scarce-load", MASK_32, true, shared)?;
            directory_is_true(&bench.shared)?;
            works(&bench)?;
            bench.done()
        })?;
        check!(steps > 10, "{steps}");
        Ok(())
    }

    #[test]
    fn a_device_without_memory_is_not_served() -> Result {
        let Some(p2m) = LinearP2m::get().filter(|_| can_fail()) else {
            return Ok(());
        };
        let shared = Shared::new(Aperture::new(1, Care::NONE)?, p2m, true, Bounds::FIXED)?;
        let device = TestDevice::new(c"xen-dma-scarce-device")?;
        let steps = each_fails(Point::Slab, || {
            let devices = Devices::new(shared.clone(), client::built_in())?;
            devices.binding(&Quiet::lock(device.device())?);
            let served = client::has_own_ops(device.device());
            devices.unbound(&Quiet::lock(device.device())?);
            devices.removed(device.device());
            check!(!client::has_own_ops(device.device()));
            served.then_some(()).ok_or(ENOMEM)
        })?;
        check!(steps > 3, "{steps}");
        shared.hold_breath();
        Ok(())
    }

    #[test]
    fn coherent_memory_without_memory_leaves_nothing() -> Result {
        if !can_fail() {
            return Ok(());
        }
        for (mask, size) in [(MASK_28, 64), (MASK_28, 0x40_0000), (MASK_64, 0x10_0000)] {
            let Some(bench) = Bench::new(c"xen-dma-scarce-coherent", mask, true)? else {
                return Ok(());
            };
            each_fails(Point::Slab, || coherent_comes_and_goes(&bench, size))?;
            works(&bench)?;
            bench.done()?;
        }
        Ok(())
    }
}
