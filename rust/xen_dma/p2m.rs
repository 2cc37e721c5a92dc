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
    fn follows(&self, pfn: Pfn, mfn: Mfn, count: u64) -> bool {
        match pfn.raw().checked_add(count) {
            Some(end) if end <= self.end => {}
            _ => return false,
        }
        if mfn.raw().wrapping_add(count) >> (ADDRESS_BITS - PAGE_SHIFT) != 0 {
            return false;
        }
        // The difference is constant where frames follow each other.
        let ahead = mfn.raw().wrapping_sub(pfn.raw());
        let (mut next, end) = (pfn.raw(), pfn.raw().wrapping_add(count));
        // Eight at a time, so that the loop itself costs little.
        while end.wrapping_sub(next) >= 8 {
            let is = |n: u64| {
                let pfn = next.wrapping_add(n);
                ahead.wrapping_add(pfn) == self.entry(Pfn::new(pfn))
            };
            if !(is(0) && is(1) && is(2) && is(3) && is(4) && is(5) && is(6) && is(7)) {
                return false;
            }
            next = next.wrapping_add(8);
        }
        (next..end).all(|pfn| ahead.wrapping_add(pfn) == self.entry(Pfn::new(pfn)))
    }
}

/// The machine frame of an ordinary page of this domain, or `None`.
pub(crate) fn local_mfn(p2m: LinearP2m, pfn: Pfn) -> Option<Mfn> {
    match p2m.frame(pfn) {
        Frame::Local(mfn) => Some(mfn),
        _ => None,
    }
}
