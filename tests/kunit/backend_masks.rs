// SPDX-License-Identifier: GPL-2.0

//! Devices of every reach: what is promised to them, and where their bounces lie.

use super::*;
use crate::{
    aperture::MIN_ORDER,
    extent::Kind, //
};

/// Bits of a mask, and whether a host surely has memory for it.
const MASKS: [(u32, bool); 8] = [
    (24, false),
    (26, false),
    (28, true),
    (30, true),
    (31, true),
    (32, true),
    (36, true),
    (64, true),
];

/// Size of the aperture in MiB.
const APERTURE: u32 = 2;

/// Pages to choose from: some lie low in the machine, some high.
const PAGES: usize = 8192;

/// Up to so many bits some page lies beyond the mask, and from so many on within it, on any host.
const ALWAYS_BEYOND: u32 = 28;
const ALWAYS_WITHIN: u32 = 36;

/// Whether all of a page lies within a mask.
fn lies_within(page: &Buffer, mask: u64) -> bool {
    let mut pages = page.machine_pages();
    pages.all(|at| at.raw() <= mask - (PAGE_SIZE as u64 - 1))
}

/// All that is promised to a device whose mask has so many bits.
fn serve(pages: &mut [Buffer], bits: u32, certain: bool, force: bool) -> Result {
    let Some(bench) = Bench::with(c"xen-dma-mask", MASK_32, force, APERTURE)? else {
        return Ok(());
    };
    let mask = u64::MAX >> (u64::BITS - bits);
    let limits = device::limits_for(bench.dev(), mask);
    let possible = bench.shared.aperture.largest(&limits) > 0
        || Region::new(MIN_ORDER, bits, Way::Scattered).is_ok();
    check!(possible || !certain);
    let supported = client::set_masks(bench.dev(), mask).is_ok();
    check!(supported == possible, "supported {supported}");
    if !supported {
        return bench.done();
    }
    check!(client::max_mapping_size(bench.dev()) >= 64 << 10);

    let mut scratch = Buffer::new(0)?;
    for within in [true, false] {
        let mut wanted = pages.iter_mut();
        let Some(page) = wanted.find(|page| lies_within(page, mask) == within) else {
            let must = (within && bits >= ALWAYS_WITHIN) || (!within && bits <= ALWAYS_BEYOND);
            check!(!must, "no page, within {within}");
            continue;
        };
        let (dir, attrs) = (Direction::BIDIRECTIONAL, Attrs::NONE);
        let at = client::map(bench.dev(), page.phys(), PAGE_SIZE, dir, attrs)?;
        let bounced = bench.judge(page.phys(), PAGE_SIZE, at)?;
        check!(bounced == (force || !within), "within {within}: {bounced}");
        if bounced {
            let extent = bench.shared.aperture.find(at);
            let (top, kind) = extent.map(|e| (e.bits(), e.kind)).ok_or(ENXIO)?;
            check!(top <= bits, "an extent of {top} bits");
            // Others must not use up what only few devices can use.
            check!(bits < 32 || !matches!(kind, Kind::Narrow(_)), "{kind:?}");
        }
        client::unmap(bench.dev(), at, PAGE_SIZE, dir, attrs);
        travel(
            &bench,
            [page, &mut scratch],
            (GUARD, PAGE_SIZE - 2 * GUARD),
            dir,
        )?;
    }
    bench.done()
}

#[kunit_tests(xen_dma_masks)]
mod tests {
    use super::*;

    #[test]
    fn every_mask_is_served_where_it_reaches() -> Result {
        let mut pages = KVVec::new();
        for _ in 0..PAGES {
            pages.push(Buffer::new(0)?, GFP_KERNEL)?;
        }
        for (bits, certain) in MASKS {
            for force in [false, true] {
                serve(&mut pages, bits, certain, force)
                    .inspect_err(|_| pr_err!("{bits} bits, forced {force}\n"))?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_mask_that_is_set_waits_for_memory() -> Result {
        let Some(bench) = Bench::with(c"xen-dma-mask-waits", MASK_32, true, 1)? else {
            return Ok(());
        };
        // Narrower than what there is; growth is as good as off until it is asked for.
        let extents = bench.shared.aperture.each().map(|extent| extent.bits());
        let bits = extents.min().ok_or(ENXIO)? - 1;
        check!(Region::new(MIN_ORDER, bits, Way::Scattered).is_ok());
        let mask = u64::MAX >> (u64::BITS - bits);
        let page = Buffer::new(0)?;
        let (dev, dir) = (bench.dev(), Direction::TO_DEVICE);
        let map = || client::map(dev, page.phys(), PAGE_SIZE, dir, Attrs::NO_WARN);

        // A mapping may not wait: without an extent it is refused.
        bench.shared.hold_breath();
        bench.device.set_mask(mask);
        check!(map().is_err() && bench.count(Event::Failure(Cause::Unreachable)) == 1);
        bench.device.set_mask(MASK_32);
        bench.done()?;

        // Who sets a mask may, and the very first mapping finds room.
        let bench = Bench::with(c"xen-dma-mask-waited", MASK_32, true, 1)?.ok_or(ENODEV)?;
        client::set_masks(bench.dev(), mask)?;
        let at = client::map(bench.dev(), page.phys(), PAGE_SIZE, dir, Attrs::NO_WARN)?;
        check!(bench.judge(page.phys(), PAGE_SIZE, at)?);
        client::unmap(bench.dev(), at, PAGE_SIZE, dir, Attrs::NO_WARN);
        bench.done()
    }

    #[test]
    fn a_mask_may_not_shrink_under_mappings() -> Result {
        for force in [false, true] {
            let Some(bench) = Bench::with(c"xen-dma-mask-shrinks", MASK_64, force, APERTURE)?
            else {
                return Ok(());
            };
            let (dev, dir, page) = (bench.dev(), Direction::TO_DEVICE, Buffer::new(0)?);
            // Direct or bounced: what is mapped may lie anywhere in its reach.
            let at = client::map(dev, page.phys(), PAGE_SIZE, dir, Attrs::NONE)?;
            for (shrinks, mask) in (1..).zip([MASK_32, MASK_28]) {
                check!(client::set_masks(dev, mask) == Err(EIO), "{mask:#x}");
                check!(bench.wrongs(Wrong::Mask) == shrinks);
            }
            // It is as it was, and so is the mapping.
            check!(device::limits(dev).reach() == MASK_64);
            check!(bench.judge(page.phys(), PAGE_SIZE, at)? == force);
            // The same one, and those that are asked for only, are no matter.
            client::set_masks(dev, MASK_64)?;
            client::unmap(dev, at, PAGE_SIZE, dir, Attrs::NONE);
            client::set_masks(dev, MASK_32)?;
            check!(device::limits(dev).reach() == MASK_32);
            check!(bench.backend().counters.outstanding() == 0);
            bench.empty()?;
        }
        Ok(())
    }
}
