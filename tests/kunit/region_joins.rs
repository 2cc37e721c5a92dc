// SPDX-License-Identifier: GPL-2.0

//! Regions that lie side by side, joined to one: no byte and no page is lost, whatever fails.

use crate::{
    check::check,
    region::{
        balanced,
        pattern,
        pv,
        verify,
        write,
        WAYS, //
    },
};
use dma_core::Machine;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client::{
        self,
        Buffer, //
    },
    fault::{
        self,
        Point, //
    },
    pages_held,
    region::{
        traded_pages,
        Region,
        Way, //
    },
    Context,
    Node, //
};

/// A region, and the seeds of the bytes in its parts.
struct Marked {
    region: Region,
    seeds: KVec<usize>,
}

impl Marked {
    /// Takes regions, the lowest first, each with a pattern of its own.
    fn take(count: usize, order: u32, bits: u32, way: Way) -> Result<KVec<Self>> {
        let mut taken = KVec::with_capacity(count, GFP_KERNEL)?;
        for seed in 0..count {
            taken.push(Self::new(Region::new(order, bits, way)?, seed)?, GFP_KERNEL)?;
        }
        taken.sort_unstable_by_key(Self::base);
        Ok(taken)
    }

    fn new(region: Region, seed: usize) -> Result<Self> {
        write(&region, seed)?;
        let mut seeds = KVec::new();
        seeds.push(seed, GFP_KERNEL)?;
        Ok(Self { region, seeds })
    }

    fn base(&self) -> Machine {
        self.region.base()
    }

    /// Whether both could be one.
    fn meets(&self, next: &Self) -> bool {
        let (base, size) = (self.region.base().raw(), self.region.size() as u64);
        let follows = next.region.base().raw() == base + size && next.region.size() as u64 == size;
        follows && base % (2 * size) == 0
    }

    /// Whether all bytes are there, seen side by side and page by page, and each page is where it must be.
    fn verify(&self) -> Result {
        let part = self.region.size() / self.seeds.len();
        let expected = |index: usize| pattern(self.seeds[index / part], index % part);
        verify(&self.region, expected)?;
        check!(client::is_contiguous(&self.region));

        let mut seen = Buffer::new(0)?;
        let page = Region::new(0, 64, Way::Scattered)?;
        let pages = client::physical_pages(&self.region);
        for (phys, start) in pages.zip((0..).step_by(PAGE_SIZE)) {
            let there = Machine::new(self.region.base().raw() + start as u64);
            check!(client::machine(phys) == Some(there), "{phys:?}");
            seen.fill(0, PAGE_SIZE, |_| 0xa5);
            check!(page.copy_in(0, phys, PAGE_SIZE) && page.copy_out(0, seen.phys(), PAGE_SIZE));
            for index in (0..PAGE_SIZE).step_by(61) {
                let wanted = expected(start + index);
                check!(seen.byte(index) == wanted, "page at {start:#x}: {index}");
            }
        }
        Ok(())
    }

    /// Takes over the next one, or returns it.
    fn join(&mut self, next: Self) -> Option<Self> {
        let Self { region, seeds } = next;
        match self.region.join(region) {
            Ok(()) => {
                // If it fails, the bytes are not those expected.
                let _ = self.seeds.extend_from_slice(&seeds, GFP_KERNEL);
                None
            }
            Err(region) => Some(Self { region, seeds }),
        }
    }
}

/// Joins whatever can be; returns how often that was.
fn join_all(regions: &mut KVec<Marked>) -> Result<usize> {
    let (mut at, mut times) = (0, 0);
    while at + 1 < regions.len() {
        if !regions[at].meets(&regions[at + 1]) {
            at += 1;
            continue;
        }
        let next = regions.remove(at + 1)?;
        check!(regions[at].join(next).is_none(), "{at}");
        times += 1;
        // It may be the other half of the one before.
        at = at.saturating_sub(1);
    }
    Ok(times)
}

/// Two regions that can be one.
fn pair(order: u32, bits: u32, way: Way) -> Result<(Marked, Marked)> {
    const MANY: usize = 64;

    let mut regions = Marked::take(MANY, order, bits, way)?;
    let met = regions.windows(2).position(|two| two[0].meets(&two[1]));
    let first = met.ok_or(ENOENT)?;
    let next = regions.remove(first + 1)?;
    Ok((regions.remove(first)?, next))
}

#[kunit_tests(xen_dma_joins)]
mod tests {
    use super::*;

    #[test]
    fn regions_side_by_side_become_one() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = (traded_pages(), pages_held());
        for &way in WAYS {
            for (order, bits) in [(2, 32), (0, 32), (1, 28)] {
                let mut regions = Marked::take(96, order, bits, way)?;
                let times = join_all(&mut regions)?;
                let largest = regions.iter().map(|marked| marked.seeds.len()).max();
                pr_info!(
                    "order {order}, {bits} bits, {way:?}: {times} joined, {largest:?} in one\n"
                );
                check!(times > 0, "order {order}, {bits} bits, {way:?}");
                for marked in regions.iter_mut() {
                    marked.verify()?;
                    let (base, size) = (marked.region.base().raw(), marked.region.size() as u64);
                    check!(base % size == 0 && marked.region.last().raw() == base + size - 1);
                    // All of it can be written as one.
                    write(&marked.region, 7)?;
                    verify(&marked.region, |index| pattern(7, index))?;
                    marked.region.clear();
                    verify(&marked.region, |_| 0)?;
                }
                drop(regions);
                balanced(before.0)?;
                check!(pages_held() == before.1, "{}", pages_held());
            }
        }
        Ok(())
    }

    #[test]
    fn regions_of_neighbours_stay_neighbours() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = (traded_pages(), pages_held());
        // Single pages always fit.  Many lie side by side in the machine as they do in Linux.
        let mut pages = KVec::new();
        for _ in 0..1024 {
            let page = Region::fitting(0, 64, Node::ANY, Context::Sleepable)?;
            pages.push(page, GFP_KERNEL)?;
        }
        let mut regions = KVec::new();
        for (seed, page) in pages.into_iter().enumerate() {
            regions.push(Marked::new(page, seed)?, GFP_KERNEL)?;
        }
        regions.sort_unstable_by_key(Marked::base);
        let times = join_all(&mut regions)?;
        pr_info!("of 1024 pages as they came {times} were joined\n");
        let mut some = false;
        for marked in regions.iter().filter(|marked| marked.seeds.len() > 1) {
            let region = &marked.region;
            let pages = client::physical_pages(region);
            let mut apart = pages.zip((0..).step_by(PAGE_SIZE));
            let first = client::physical_pages(region).next().ok_or(ENXIO)?.raw();
            let neighbours = apart.all(|(phys, start)| phys.raw() == first + start);
            // Only those who are have a page that leads to all others.
            check!(region.first_page().is_some() == neighbours);
            check!(region.page_at(PAGE_SIZE).is_some() == neighbours);
            check!(region.ends_atomically() == neighbours);
            some |= neighbours;
        }
        check!(some, "none were neighbours");
        for marked in regions.iter() {
            marked.verify()?;
        }
        drop(regions);
        check!((traded_pages(), pages_held()) == before, "{}", pages_held());
        Ok(())
    }

    #[test]
    fn what_does_not_fit_together_stays_apart() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = (traded_pages(), pages_held());
        let (low, high) = pair(1, 32, Way::Scattered)?;
        let apart = |mut one: Marked, other: Marked| -> Result<(Marked, Marked)> {
            match one.join(other) {
                None => Err(EINVAL),
                Some(other) => {
                    one.verify()?;
                    other.verify()?;
                    Ok((one, other))
                }
            }
        };
        // The wrong way round.
        let (high, low) = apart(high, low)?;
        // Of another size.
        let mut small = Marked::take(1, 0, 32, Way::Scattered)?;
        let (low, small) = apart(low, small.remove(0)?)?;
        let (small, low) = apart(small, low)?;
        // Side by side, but not aligned together; and far apart.
        let mut odd = None;
        let mut regions = Marked::take(64, 1, 32, Way::Scattered)?;
        for at in 1..regions.len() {
            let follows =
                regions[at - 1].region.last().raw() + 1 == regions[at].region.base().raw();
            if follows && !regions[at - 1].meets(&regions[at]) {
                odd = Some(at - 1);
            }
        }
        let odd = odd.ok_or(ENOENT)?;
        let next = regions.remove(odd + 1)?;
        apart(regions.remove(odd)?, next)?;
        let last = regions.len() - 1;
        let last = regions.remove(last)?;
        apart(regions.remove(0)?, last)?;
        drop((low, high, small, regions));
        balanced(before.0)?;
        check!(pages_held() == before.1, "{}", pages_held());
        Ok(())
    }

    #[test]
    fn a_join_that_fails_leaves_both() -> Result {
        if !pv() {
            return Ok(());
        }
        let before = (traded_pages(), pages_held());
        for &way in WAYS {
            let (mut low, mut high) = pair(2, 32, way)?;
            let mut failed = 0;
            loop {
                fault::fail_nth(Point::Memory, failed + 1);
                let outcome = low.join(high);
                if !fault::stop(Point::Memory) {
                    check!(outcome.is_none());
                    break;
                }
                let Some(same) = outcome else {
                    check!(false, "joined without memory");
                    return Ok(());
                };
                high = same;
                failed += 1;
                check!(low.seeds.len() == 1 && high.seeds.len() == 1);
                low.verify()?;
                high.verify()?;
            }
            // For the list of parts, for that of pages, and mostly for a view.
            check!(failed >= 2, "{way:?}: {failed}");
            low.verify()?;
            drop(low);
            balanced(before.0)?;
            check!(pages_held() == before.1, "{way:?}: {}", pages_held());
        }
        Ok(())
    }

    #[test]
    fn parts_go_back_as_they_came() -> Result {
        if !pv() {
            return Ok(());
        }
        let pages = |count: u64| (count, pages_held());
        let before = (traded_pages(), pages_held());
        let (mut low, high) = pair(3, 32, Way::Scattered)?;
        check!(low.join(high).is_none());
        // Xen does not take the first part: it stays with dom0, the second goes.
        let returned = traded_pages().1;
        fault::fail_nth(Point::GiveBack, 1);
        drop(low);
        check!(fault::stop(Point::GiveBack));
        check!(pages(traded_pages().1 - returned) == (8, before.1));

        // One that is exchanged and one that fits as it comes are one, too: of the latter Xen hears nothing.
        for _ in 0..16 {
            let before = (traded_pages(), pages_held());
            let (first, second) = pair(0, 32, Way::Scattered)?;
            let base = first.region.base();
            // So its page becomes ordinary memory, which the next one who asks gets.
            fault::fail_nth(Point::GiveBack, 1);
            drop(first);
            if !fault::stop(Point::GiveBack) {
                continue;
            }
            let held = traded_pages();
            let mut found = Marked::take(1, 0, 32, Way::Scattered)?;
            let mut first = found.remove(0)?;
            if first.region.base() != base || traded_pages() != held {
                continue;
            }
            check!(first.join(second).is_none());
            first.verify()?;
            drop(first);
            // One page was not taken back, and that was all.
            balanced((before.0 .0 + 1, before.0 .1))?;
            check!(pages_held() == before.1, "{}", pages_held());
            return Ok(());
        }
        check!(false, "no page came back");
        Ok(())
    }
}
