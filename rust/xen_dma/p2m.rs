// SPDX-License-Identifier: GPL-2.0

//! The domain and its physical-to-machine table.
//!
//! A PV kernel keeps its p2m as one linear array of machine frame numbers, indexed by
//! pfn (`xen_p2m_addr`, `xen_p2m_size`).  Every index below the size is mapped: where no
//! memory is, a shared page of invalid entries stands.  So a look-up is one load.
//!
//! C: [`arch/x86/include/asm/xen/page.h`](srctree/arch/x86/include/asm/xen/page.h),
//! `__pfn_to_mfn()`.

use crate::bindings;
use core::arch::asm;
use dma_core::{
    Frame,
    Machine,
    Mfn,
    P2m,
    Pfn,
    ADDRESS_BITS,
    PAGE_SHIFT, //
};

/// What the machine runs as, as far as a DMA backend cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// No Xen underneath.
    Native,
    /// A Xen domain whose memory the hypervisor translates (PVH, HVM): nothing to do for us.
    Translated,
    /// A Xen PV domain: physical addresses are not machine addresses.
    Pv,
}

impl Domain {
    /// Tells what this kernel runs as.  Any context.  C: `xen_domain()`, `xen_pv_domain()`.
    pub fn current() -> Self {
        // SAFETY: Reads variables that are constant after early boot.
        if unsafe { bindings::pv_domain() } {
            return Self::Pv;
        }
        // SAFETY: As above.
        if unsafe { bindings::domain() } {
            Self::Translated
        } else {
            Self::Native
        }
    }
}

/// This domain's own p2m.
///
/// # Invariants
///
/// The kernel runs in a PV domain, so the linear table exists.  It is mapped at `table` for every
/// index below `end`, and stays so.
#[derive(Clone, Copy)]
pub struct LinearP2m {
    table: *mut usize,
    end: u64,
}

// SAFETY: The table is the kernel's; entries are read and written as single words.
unsafe impl Send for LinearP2m {}
// SAFETY: As above.
unsafe impl Sync for LinearP2m {}

impl LinearP2m {
    /// The table, if this is a PV domain.
    pub fn get() -> Option<Self> {
        if Domain::current() != Domain::Pv {
            return None;
        }
        // INVARIANT: Checked above; the kind of domain never changes.
        Some(Self {
            // SAFETY: A variable that C sets up before any module or initcall runs and that is
            // constant from then on.
            table: unsafe { bindings::xen_p2m_addr },
            // SAFETY: As above.
            end: unsafe { bindings::xen_p2m_size as u64 },
        })
    }

    /// The same table, in which [`P2m::ordinary`] finds nothing.
    pub fn without_ordinary(self) -> Self {
        // INVARIANT: A part of what is mapped.
        Self { end: 0, ..self }
    }

    /// The first pfn that the table does not cover.
    #[inline]
    pub fn end(self) -> u64 {
        self.end
    }

    /// The entry of a pfn below [`LinearP2m::end`].
    #[inline]
    fn entry(self, pfn: Pfn) -> u64 {
        // SAFETY: By the type invariant; another CPU may write the entry, as one store.
        unsafe { self.table.add(pfn.raw() as usize).read_volatile() as u64 }
    }

    /// Looks a pfn up where the linear table has no plain answer.  C: `get_phys_to_machine()`
    /// tells missing memory from identity-mapped memory; the table shows both as invalid.
    #[cold]
    fn slow(self, pfn: Pfn) -> Frame {
        // SAFETY: Callable for every pfn, in any context: it walks page tables that are never
        // freed.
        Frame::decode(unsafe { bindings::get_phys_to_machine(pfn.raw() as usize) } as u64)
    }

    /// Writes one entry.
    ///
    /// # Safety
    ///
    /// The caller owns the page of `pfn`, and no mapping of it that the change would make wrong
    /// is in use.  `pfn` lies below [`LinearP2m::end`], and had a valid entry before, so that its
    /// leaf of the table is not one of the shared read-only ones.
    pub(crate) unsafe fn set(self, pfn: Pfn, entry: u64) {
        // SAFETY: In bounds and writable by the function's contract.
        let slot = unsafe { self.table.add(pfn.raw() as usize) };
        // SAFETY: As above; other CPUs read entries with single loads, so this is a single store.
        unsafe { slot.write_volatile(entry as usize) };
    }
}

/// The host's highest machine address that is memory, of any domain.  May sleep.
///
/// Asked of Xen at each call, so that memory hotplug is seen.
pub fn top_of_memory() -> Machine {
    // SAFETY: The operation takes no argument.
    let page =
        unsafe { bindings::memory_op(bindings::XENMEM_maximum_ram_page, core::ptr::null_mut()) };
    // CAST: A negative answer is an error (no such operation): assume all that x86 can have.
    match u64::try_from(page) {
        Ok(page) => Machine::new(((page + 1) << PAGE_SHIFT) - 1),
        Err(_) => Machine::new(u64::MAX),
    }
}

/// The entry of a pfn without memory.  C: `INVALID_P2M_ENTRY`.
pub(crate) const INVALID_ENTRY: u64 = u64::MAX;

impl P2m for LinearP2m {
    #[inline]
    fn frame(&self, pfn: Pfn) -> Frame {
        if pfn.raw() >= self.end {
            return self.slow(pfn);
        }
        match self.entry(pfn) {
            INVALID_ENTRY => self.slow(pfn),
            entry => Frame::decode(entry),
        }
    }

    #[inline]
    fn ordinary(&self, pfn: Pfn) -> Option<Mfn> {
        if pfn.raw() >= self.end {
            return None;
        }
        let entry = self.entry(pfn);
        // Foreign, identity and missing frames have bits above those of a frame number.
        (entry >> (ADDRESS_BITS - PAGE_SHIFT) == 0).then_some(Mfn::new(entry))
    }

    #[inline]
    fn following(&self, pfn: Pfn, mfn: Mfn, count: u64) -> u64 {
        let entries = self.covered(pfn, count);
        // What the last frame may be: numbers that no frame has end it earlier.
        let most = (1u64 << (ADDRESS_BITS - PAGE_SHIFT)).saturating_sub(mfn.raw());
        let entries = entries.min(most);
        let mut done = 0;
        while entries.wrapping_sub(done) >= BLOCK {
            // SAFETY: Below `entries`, so the table covers the block.
            if unsafe { self.differences(at(pfn, done), mfn.raw().wrapping_add(done)) } != 0 {
                break;
            }
            done = done.wrapping_add(BLOCK);
        }
        while done < entries && self.entry(Pfn::new(at(pfn, done))) == mfn.raw().wrapping_add(done)
        {
            done = done.wrapping_add(1);
        }
        done
    }

    #[inline]
    fn all_ordinary(&self, pfn: Pfn, count: u64) -> bool {
        if self.covered(pfn, count) != count {
            return false;
        }
        let (mut all, mut done) = (0, 0);
        while count.wrapping_sub(done) >= BLOCK {
            // SAFETY: The table covers all of them.
            all |= unsafe { self.bits(at(pfn, done)) };
            done = done.wrapping_add(BLOCK);
        }
        let rest = (done..count).fold(all, |all, n| all | self.entry(Pfn::new(at(pfn, n))));
        rest >> (ADDRESS_BITS - PAGE_SHIFT) == 0
    }
}

/// The number of the frame `more` behind another one.
#[inline]
fn at(pfn: Pfn, more: u64) -> u64 {
    pfn.raw().wrapping_add(more)
}

/// Entries that are looked at together, so that a loop around them costs little.
const BLOCK: u64 = 8;

impl LinearP2m {
    /// How many of the `count` entries from `pfn` on the table covers.
    #[inline]
    fn covered(self, pfn: Pfn, count: u64) -> u64 {
        self.end.saturating_sub(pfn.raw()).min(count)
    }

    /// What differs between the entries of [`BLOCK`] frames and `mfn` and its followers; 0: nothing.
    ///
    /// # Safety
    ///
    /// The table covers the frames.
    #[inline]
    unsafe fn differences(self, pfn: u64, mfn: u64) -> u64 {
        let differences;
        // SAFETY: By this function's contract; another CPU may write an entry, as one store.
        unsafe {
            asm!(
                "xor {all:e}, {all:e}",
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
                "lea {one}, [{mfn} + \\n]",
                "xor {one}, [{entry} + 8 * \\n]",
                "or {all}, {one}",
                ".endr",
                entry = in(reg) self.table.wrapping_add(pfn as usize),
                mfn = in(reg) mfn,
                one = out(reg) _,
                all = out(reg) differences,
                options(nostack, readonly),
            )
        };
        differences
    }

    /// The bits that are set in any of the entries of [`BLOCK`] frames.
    ///
    /// # Safety
    ///
    /// The table covers the frames.
    #[inline]
    unsafe fn bits(self, pfn: u64) -> u64 {
        let bits;
        // SAFETY: As in `differences`.
        unsafe {
            asm!(
                "mov {all}, [{entry}]",
                ".irp n, 1, 2, 3, 4, 5, 6, 7",
                "or {all}, [{entry} + 8 * \\n]",
                ".endr",
                entry = in(reg) self.table.wrapping_add(pfn as usize),
                all = out(reg) bits,
                options(nostack, readonly),
            )
        };
        bits
    }
}

/// The machine frame of an ordinary page of this domain, or `None`.
pub(crate) fn local_mfn(p2m: LinearP2m, pfn: Pfn) -> Option<Mfn> {
    match p2m.frame(pfn) {
        Frame::Local(mfn) => Some(mfn),
        _ => None,
    }
}
