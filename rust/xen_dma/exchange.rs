// SPDX-License-Identifier: GPL-2.0

//! Memory exchange: trading single machine frames for one machine-contiguous extent, and
//! back.
//!
//! The kernel exports neither `xen_create_contiguous_region()` nor its inverse, so a
//! module performs the same trade from parts that are exported.  For every page: take its
//! linear mapping and its p2m entry away, hand all frames over in one `XENMEM_exchange`,
//! then give each page its new frame, in m2p, p2m and linear map, and flush all TLBs.
//! Mappings change in batches by multicall.
//!
//! The pages need not be neighbours; their order defines the extent.  One call to Xen
//! moves exactly one extent, and Xen exchanges an extent whole or not at all, so a refusal
//! leaves every page with the frame that it had.
//!
//! C: [`arch/x86/xen/mmu_pv.c`](srctree/arch/x86/xen/mmu_pv.c); Xen: `memory_exchange()` in
//! `xen/common/memory.c`.

use crate::{
    bindings,
    fault::{
        due,
        Point, //
    },
    p2m::{
        local_mfn,
        LinearP2m,
        INVALID_ENTRY, //
    },
    pages::{
        linear_address,
        Node,
        Part, //
    },
};
use dma_core::{
    Mfn,
    Pfn,
    PAGE_SHIFT, //
};
use kernel::prelude::*;

/// Mapping changes handed to Xen in one hypercall.  64 calls fill one page.
const BATCH: usize = 64;

/// Everything a trade needs, obtained before the first page is touched: nothing can fail for
/// lack of memory half-way.
pub(crate) struct Trade {
    p2m: LinearP2m,
    calls: KVec<bindings::multicall_entry>,
    updates: KVec<bindings::mmu_update>,
    /// The frame behind each page, in page order.
    singles: KVVec<bindings::xen_pfn_t>,
}

impl Trade {
    /// Prepares for trades of `count` pages.  May sleep.  [`ENODEV`] outside a PV domain.
    pub(crate) fn new(count: usize) -> Result<Self> {
        Ok(Self {
            p2m: LinearP2m::get().ok_or(ENODEV)?,
            calls: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            updates: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            singles: KVVec::with_capacity(count, GFP_KERNEL)?,
        })
    }

    /// Trades the frames of `1 << order` pages for one extent that lies below
    /// `1 << address_bits`, on `node` if it has one; page `i` gets frame `i` of it.
    ///
    /// Returns the extent's first frame.  [`ENOMEM`] when Xen has no such extent: then every
    /// page has its old frame again.  The pages' contents are undefined afterwards.  May sleep.
    pub(crate) fn gather(
        &mut self,
        pages: Part<'_>,
        order: u32,
        address_bits: u32,
        node: Node,
    ) -> Result<Mfn> {
        self.note_frames(pages)?;
        // Lazily unmapped areas may still hold a mapping, and with it a reference on a frame.
        // SAFETY: Callable wherever sleeping is allowed.
        unsafe { bindings::vm_unmap_aliases() };
        self.take_away(pages, Point::Unmap)?;

        // On input, the pfn that Xen writes into the first frame's m2p entry; on output, the frame.
        let mut extent = [pages.pfns().next().ok_or(EINVAL)?.raw() as bindings::xen_pfn_t];
        // Xen looks on the other nodes, too, but refuses one that it cannot number.
        let flags = address_bits | node.mem_flags();
        let willing = !due(Point::Exchange);
        let mut traded = willing && exchange(&mut self.singles, 0, &mut extent, order, flags);
        if willing && !traded && flags != address_bits {
            traded = exchange(&mut self.singles, 0, &mut extent, order, address_bits);
        }
        let first = extent[0] as u64;
        if traded {
            for (index, frame) in self.singles.iter_mut().enumerate() {
                *frame = first as usize + index;
            }
            // Xen wrote the m2p for neighbouring pfns; ours need not be.
            self.write_m2p(pages);
        }
        self.give(pages);
        if traded {
            Ok(Mfn::new(first))
        } else {
            Err(ENOMEM)
        }
    }

    /// Trades an extent behind `pages` for single frames from anywhere.
    ///
    /// Returns `false` when Xen has no frames to give: then the pages keep the extent, which is
    /// as good as any memory.  May sleep.
    pub(crate) fn scatter(&mut self, pages: Part<'_>, order: u32, first: Mfn) -> Result<bool> {
        self.note_frames(pages)?;
        // SAFETY: Callable wherever sleeping is allowed.
        unsafe { bindings::vm_unmap_aliases() };
        self.take_away(pages, Point::GiveBack)?;

        for (frame, pfn) in self.singles.iter_mut().zip(pages.pfns()) {
            *frame = pfn.raw() as usize;
        }
        let mut extent = [first.raw() as bindings::xen_pfn_t];
        let willing = !due(Point::GiveBack);
        let traded = willing && exchange(&mut extent, order, &mut self.singles, 0, 0);
        if !traded {
            for (index, frame) in self.singles.iter_mut().enumerate() {
                *frame = first.raw() as usize + index;
            }
        }
        self.give(pages);
        Ok(traded)
    }

    /// Notes the frame behind each page.
    fn note_frames(&mut self, pages: Part<'_>) -> Result {
        self.singles.clear();
        for pfn in pages.pfns() {
            let mfn = local_mfn(self.p2m, pfn).ok_or(EFAULT)?;
            self.singles.push(mfn.raw() as usize, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Takes linear mapping and p2m entry of each page away; all of them, or none.
    fn take_away(&mut self, pages: Part<'_>, point: Point) -> Result {
        // A refusal on demand comes half-way.
        let count = if due(point) {
            pages.len() / 2
        } else {
            pages.len()
        };
        let done = self.remap(pages.pfns().map(|pfn| (pfn, 0)).take(count));
        if done < pages.len() {
            pr_err!("Xen refused to unmap a page before an exchange; undone\n");
            let again = self.map_notes(pages, done);
            if again < done {
                pr_err!("Xen refused to map {} pages again\n", done - again);
            }
            return Err(EIO);
        }
        for pfn in pages.pfns() {
            // SAFETY: Our page, unmapped above, with a valid entry until now (its frame was read).
            unsafe { self.p2m.set(pfn, INVALID_ENTRY) };
        }
        Ok(())
    }

    /// Gives each page the frame noted for it, and makes every CPU see it.
    fn give(&mut self, pages: Part<'_>) {
        for (pfn, &mfn) in pages.pfns().zip(self.singles.iter()) {
            // SAFETY: Our page, not mapped, whose leaf of the p2m is an ordinary one.
            unsafe { self.p2m.set(pfn, mfn as u64) };
        }
        let done = self.map_notes(pages, pages.len());
        if done < pages.len() {
            // Linux and Xen disagree about our own memory.  C stops the machine here (BUG_ON).
            // The pages stay unmapped: any use faults, instead of reading someone else's memory.
            pr_err!(
                "Xen refused to map {} pages after an exchange\n",
                pages.len() - done
            );
        }
        flush_all_tlbs();
    }

    /// Maps the first `count` pages to the frames noted; returns how many could be.
    fn map_notes(&mut self, pages: Part<'_>, count: usize) -> usize {
        // The iterator must not borrow `self`, which the batch needs.
        let singles = core::mem::replace(&mut self.singles, KVVec::new());
        let done = self.remap(
            pages
                .pfns()
                .zip(singles.iter())
                .take(count)
                .map(|(pfn, &mfn)| {
                    // SAFETY: Arithmetic on the frame number only.
                    (pfn, unsafe { bindings::mfn_pte(mfn) })
                }),
        );
        self.singles = singles;
        done
    }

    /// Writes the linear map's entry of each pfn; returns how many were written.
    fn remap(&mut self, entries: impl Iterator<Item = (Pfn, bindings::pteval_t)>) -> usize {
        let mut done = 0;
        let mut entries = entries.peekable();
        while entries.peek().is_some() {
            self.calls.clear();
            while self.calls.len() < BATCH {
                let Some((pfn, pte)) = entries.next() else {
                    break;
                };
                let address = linear_address(pfn) as usize;
                let call = bindings::multicall_entry {
                    op: bindings::__HYPERVISOR_update_va_mapping as usize,
                    result: 0,
                    args: [address, pte, 0, 0, 0, 0],
                };
                // Within the capacity, so this cannot fail.
                if self.calls.push(call, GFP_KERNEL).is_err() {
                    return done;
                }
            }
            // SAFETY: A list of initialised entries that lives across the call; each concerns the
            // linear mapping of a page that the caller owns and nobody uses.
            let failed =
                unsafe { bindings::multicall(self.calls.as_mut_ptr(), self.calls.len() as i32) };
            let good = self
                .calls
                .iter()
                .take_while(|call| call.result == 0)
                .count();
            done += good;
            if failed != 0 || good < self.calls.len() {
                return done;
            }
        }
        done
    }

    /// Tells Xen the pfn behind each noted frame.
    fn write_m2p(&mut self, pages: Part<'_>) {
        let mut pairs = pages.pfns().zip(self.singles.iter()).peekable();
        while pairs.peek().is_some() {
            self.updates.clear();
            for (pfn, &mfn) in pairs.by_ref().take(BATCH) {
                let update = bindings::mmu_update {
                    ptr: (mfn as u64) << PAGE_SHIFT | u64::from(bindings::MMU_MACHPHYS_UPDATE),
                    val: pfn.raw(),
                };
                // Within the capacity, so this cannot fail.
                let _ = self.updates.push(update, GFP_KERNEL);
            }
            // SAFETY: A list of initialised entries that lives across the call; the frames are
            // ours since the exchange.
            let failed = unsafe {
                bindings::mmu_update(
                    self.updates.as_mut_ptr(),
                    self.updates.len() as i32,
                    core::ptr::null_mut(),
                )
            };
            if failed != 0 {
                pr_err!("Xen refused an m2p update ({failed})\n");
            }
        }
    }
}

/// One `XENMEM_exchange`; `true` when everything was traded, `false` when nothing was.
fn exchange(
    input: &mut [bindings::xen_pfn_t],
    input_order: u32,
    output: &mut [bindings::xen_pfn_t],
    output_order: u32,
    output_flags: u32,
) -> bool {
    let side =
        |frames: &mut [bindings::xen_pfn_t], order, flags| bindings::xen_memory_reservation {
            extent_start: frames.as_mut_ptr(),
            nr_extents: frames.len(),
            extent_order: order,
            // Xen's name for it is `mem_flags`: a number of bits, and a node above them.
            address_bits: flags,
            // CAST: DOMID_SELF is a 16-bit id.
            domid: bindings::DOMID_SELF as bindings::domid_t,
        };
    let mut request = bindings::xen_memory_exchange {
        in_: side(input, input_order, 0),
        out: side(output, output_order, output_flags),
        // Xen requires 0 here, and counts input extents up.
        nr_exchanged: 0,
    };
    // SAFETY: A valid request, whose lists live across the call; the input frames are unmapped
    // and belong to the caller.
    unsafe { bindings::memory_op(bindings::XENMEM_exchange, (&raw mut request).cast()) };
    // The count is the truth: Xen's return value can be an error after all was done.
    request.nr_exchanged == input.len()
}

/// Flushes the TLBs of all CPUs that this domain runs on.  C: `xen_flush_tlb_all()`.
fn flush_all_tlbs() {
    let mut flush = bindings::mmuext_op {
        cmd: bindings::MMUEXT_TLB_FLUSH_ALL,
        ..Default::default()
    };
    // SAFETY: One initialised operation that lives across the call.
    let failed = unsafe { bindings::mmuext_op(&mut flush, 1, core::ptr::null_mut()) };
    if failed != 0 {
        pr_err!("Xen refused to flush the TLBs ({failed})\n");
    }
}
