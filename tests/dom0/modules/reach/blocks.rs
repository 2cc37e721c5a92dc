// SPDX-License-Identifier: GPL-2.0

//! Memory as dom0 has it: blocks that are neighbours for Linux, and are neighbours for the machine, or not.

use core::ops::Range;
use dma_core::{
    Machine,
    Phys, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client::Buffer,
    region::{
        Region,
        Way, //
    }, //
};

/// As large as the page allocator has: 4 MiB.
const ORDER: u32 = 10;
pub(crate) const BLOCK: usize = PAGE_SIZE << ORDER;

/// How many blocks are looked at.
const COUNT: usize = 96;

/// Pages that are traded with Xen and come back with other frames: 64 MiB.
const TRADED_ORDER: u32 = 14;

/// Any frames will do.
const ANYWHERE_BITS: u32 = 40;

/// How far from its ends a torn span is torn, at least, so that a part of it is torn, too.
const MARGIN: usize = 4 * PAGE_SIZE;

/// Blocks, in the order of their addresses.
pub(crate) struct Blocks(KVec<Buffer>);

/// Bytes that follow each other in Linux: of blocks that do.
pub(crate) struct Span {
    blocks: Range<usize>,
    /// Where they do not follow each other in the machine, if they do not.
    pub(crate) tear: Option<usize>,
}

impl Blocks {
    /// Takes what the page allocator gives.  May sleep.
    pub(crate) fn new() -> Result<Self> {
        drop(Region::new(TRADED_ORDER, ANYWHERE_BITS, Way::Scattered)?);
        let mut blocks = KVec::<Buffer>::with_capacity(COUNT, GFP_KERNEL)?;
        for _ in 0..COUNT {
            let block = Buffer::new(ORDER)?;
            let place = blocks.partition_point(|other| other.phys() < block.phys());
            blocks
                .insert_within_capacity(place, block)
                .map_err(|_| ENOMEM)?;
        }
        Ok(Self(blocks))
    }

    /// `count` blocks that are neighbours for Linux, and for the machine if they are to be `whole`.
    /// With `above`, no byte of them lies below 4 GiB.
    pub(crate) fn find(&self, count: usize, whole: bool, above: bool) -> Option<Span> {
        (0..=self.0.len().checked_sub(count)?)
            .map(|first| first..first + count)
            .find(|blocks| {
                let inner = MARGIN..count * BLOCK - MARGIN;
                self.neighbours(blocks.clone())
                    && match self.tear(blocks.clone()) {
                        None => whole,
                        Some(tear) => !whole && inner.contains(&tear),
                    }
                    && (!above || self.pages(blocks.clone()).all(is_high))
            })
            .map(|blocks| Span {
                tear: self.tear(blocks.clone()),
                blocks,
            })
    }

    fn neighbours(&self, mut blocks: Range<usize>) -> bool {
        let Some(first) = blocks.next() else {
            return false;
        };
        let start = self.0[first].phys().raw();
        blocks.zip(1..).all(|(block, ahead)| {
            // CAST: Widens.
            self.0[block].phys().raw() == start + ahead * BLOCK as u64
        })
    }

    /// Where a device sees each page.
    fn pages(&self, blocks: Range<usize>) -> impl Iterator<Item = Machine> + '_ {
        blocks.flat_map(|block| self.0[block].machine_pages())
    }

    /// The first byte that does not follow the one before it in the machine; it is on a page's start.
    fn tear(&self, blocks: Range<usize>) -> Option<usize> {
        let mut pages = self.pages(blocks);
        let mut last = pages.next()?;
        for (number, page) in (1..).zip(pages) {
            // CAST: Widens.
            if last.checked_add(PAGE_SIZE as u64) != Some(page) {
                return Some(number * PAGE_SIZE);
            }
            last = page;
        }
        None
    }

    pub(crate) fn phys(&self, span: &Span) -> Phys {
        self.0[span.blocks.start].phys()
    }

    /// Where a device sees the first byte.
    pub(crate) fn machine(&self, span: &Span) -> Option<Machine> {
        self.pages(span.blocks.clone()).next()
    }

    /// Writes `byte(i)` to each byte `i` of `size` from `offset` on.
    pub(crate) fn fill(
        &mut self,
        span: &Span,
        offset: usize,
        size: usize,
        byte: impl Fn(usize) -> u8,
    ) {
        for index in 0..size {
            let at = offset + index;
            self.0[span.blocks.start + at / BLOCK].fill(at % BLOCK, 1, |_| byte(index));
        }
    }

    pub(crate) fn byte(&self, span: &Span, offset: usize) -> u8 {
        self.0[span.blocks.start + offset / BLOCK].byte(offset % BLOCK)
    }
}

fn is_high(page: Machine) -> bool {
    page.raw() > u64::from(u32::MAX)
}
