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

/// How many of them are traded with Xen at first, and come back with frames from anywhere; and at most.
/// A block that lies low enough as it is, is not traded.
const TRADED: usize = 8;
const TRADED_MOST: usize = 40;

/// The largest torn span that is needed: 16 MiB.
const TORN: usize = 4;

/// An extent below 4 GiB, which most blocks are not.
const TRADED_BITS: u32 = 32;

/// How far from its ends a torn span is torn, at least, so that a part of it is torn, too.
const MARGIN: usize = 4 * PAGE_SIZE;

/// Blocks, in the order of their addresses.
pub(crate) struct Blocks(KVec<Buffer>);

/// Bytes that follow each other in Linux: of blocks that do.
pub(crate) struct Span {
    blocks: Range<usize>,
    /// A place where they do not follow each other in the machine, if they do not.
    pub(crate) tear: Option<usize>,
}

impl Blocks {
    /// Takes what the page allocator gives, some of it torn.  May sleep.
    pub(crate) fn new() -> Result<Self> {
        let mut traded = TRADED;
        loop {
            trade(traded)?;
            let blocks = Self::take()?;
            if blocks.find(TORN, false, true).is_some() || traded == TRADED_MOST {
                return Ok(blocks);
            }
            pr_info!("no torn memory after {traded} blocks were traded: once more\n");
            traded += TRADED;
        }
    }

    fn take() -> Result<Self> {
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

    /// `count` blocks that are neighbours for Linux, and for the machine if they are to be `whole`; if
    /// not, they are torn somewhere inside.  With `above`, no byte of them lies below 4 GiB.
    pub(crate) fn find(&self, count: usize, whole: bool, above: bool) -> Option<Span> {
        let inner = MARGIN..count * BLOCK - MARGIN;
        (0..=self.0.len().checked_sub(count)?)
            .map(|first| first..first + count)
            .filter(|blocks| self.neighbours(blocks.clone()))
            .filter(|blocks| !above || self.pages(blocks.clone()).all(is_high))
            .find_map(|blocks| {
                let mut tears = self.tears(blocks.clone());
                let tear = if whole {
                    tears.next().is_none().then_some(None)
                } else {
                    tears.find(|tear| inner.contains(tear)).map(Some)
                };
                drop(tears);
                tear.map(|tear| Span { blocks, tear })
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

    /// The bytes that do not follow the one before them in the machine; each is at a page's start.
    fn tears(&self, blocks: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let next_pages = self.pages(blocks.clone()).skip(1);
        (1..)
            .zip(self.pages(blocks).zip(next_pages))
            // CAST: Widens.
            .filter(|(_, (page, next))| page.checked_add(PAGE_SIZE as u64) != Some(*next))
            .map(|(number, _)| number * PAGE_SIZE)
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

/// Gives `count` blocks other frames.  They are what the page allocator then gives first.
fn trade(count: usize) -> Result {
    let mut traded = KVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        traded.push(
            Region::new(ORDER, TRADED_BITS, Way::Neighbours)?,
            GFP_KERNEL,
        )?;
    }
    Ok(())
}
