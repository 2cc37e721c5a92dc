// SPDX-License-Identifier: GPL-2.0

//! `place()` against a model that looks at every single byte.
//!
//! It serves the property tests and the fuzz targets.

use crate::{ensure, ensure_eq, Verdict};
use dma_core::{
    addr::{Machine, Pfn, Phys, ADDRESS_BITS, PAGE_SHIFT, PAGE_SIZE},
    limits::Limits,
    p2m::{Frame, P2m, FOREIGN, IDENTITY, INVALID},
    placement::{
        decide, place, place_page, place_pages, Bounces, PagePlacement, Placement, Reason, Refusal,
        Unseen,
    },
};

/// A p2m that knows a few frames from `first` on, and takes all others for holes.
#[derive(Clone, Debug)]
pub struct Table {
    /// The first frame number of the guest's.
    pub first: u64,
    /// Entries as they are in memory.
    pub entries: Vec<u64>,
}

impl P2m for Table {
    fn frame(&self, pfn: Pfn) -> Frame {
        let at = pfn.raw().checked_sub(self.first);
        let entry = at.and_then(|at| self.entries.get(at as usize));
        Frame::decode(*entry.unwrap_or(&INVALID))
    }
}

impl Table {
    fn entry(&self, phys: u64) -> Option<u64> {
        let at = (phys / PAGE_SIZE).checked_sub(self.first)?;
        self.entries.get(at as usize).copied()
    }

    /// The machine address of one byte.
    fn byte(&self, phys: u64) -> Option<u64> {
        let entry = self.entry(phys)?;
        let mfn = entry & !(FOREIGN | IDENTITY);
        // No machine has frames further up; an entry without a frame is all ones.
        (mfn >> (ADDRESS_BITS - PAGE_SHIFT) == 0).then(|| mfn * PAGE_SIZE + phys % PAGE_SIZE)
    }

    /// Does the byte lie in device memory?
    fn is_device(&self, phys: u64) -> bool {
        self.entry(phys)
            .is_some_and(|entry| entry & (FOREIGN | IDENTITY) == IDENTITY)
    }
}

/// The device, as its driver describes it.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// The DMA mask.
    pub mask: u64,
    /// The bus's limit; 0 for none.
    pub bus: u64,
    /// The segment boundary mask.
    pub boundary: u64,
    /// The low address bits that it relies on, as a mask.
    pub min_align: u64,
}

impl Device {
    fn limits(&self) -> Limits {
        Limits::new(self.mask, self.bus, self.boundary, self.min_align)
    }
}

/// What should come out, byte by byte.
fn expected(table: &Table, phys: u64, size: usize, device: &Device, bounces: Bounces) -> Placement {
    if size == 0 {
        return Placement::Refuse(Refusal::Empty);
    }
    let bytes: Option<Vec<u64>> = (0..size as u64).map(|n| table.byte(phys + n)).collect();
    let Some(bytes) = bytes else {
        return Placement::Refuse(Refusal::Hole);
    };
    let reach = match device.bus {
        0 => device.mask,
        bus => bus.min(device.mask),
    };
    let window = u128::from(device.boundary) + 1;
    let at = |n: &u64| u128::from(*n) / window;

    let is_device = (0..size as u64).any(|n| table.is_device(phys + n));

    let on_first = (PAGE_SIZE - phys % PAGE_SIZE) as usize;
    let reason = if bounces.forced && !is_device {
        Reason::Forced
    } else if bytes.iter().take(on_first).any(|byte| *byte > reach) {
        Reason::Unreachable
    } else if bytes.windows(2).any(|pair| pair[0] + 1 != pair[1]) {
        Reason::Discontiguous
    } else if bytes.iter().any(|byte| *byte > reach) {
        Reason::Unreachable
    } else if size as u128 <= window && bytes.iter().any(|byte| at(byte) != at(&bytes[0])) {
        Reason::Boundary
    } else if bytes[0] & device.min_align != phys & device.min_align {
        Reason::Misaligned
    } else {
        return Placement::Direct(Machine::new(bytes[0]));
    };
    if is_device {
        Placement::Refuse(Refusal::DeviceMemory)
    } else if size > bounces.most {
        Placement::Refuse(Refusal::TooLarge)
    } else {
        Placement::Bounce(reason)
    }
}

/// Checks what is decided about a buffer, the short ways and the long one.
pub fn judge(table: &Table, phys: u64, size: usize, device: &Device, bounces: Bounces) -> Verdict {
    let limits = device.limits();
    let want = expected(table, phys, size, device, bounces);
    let got = place(table, Phys::new(phys), size, &limits, bounces);
    // What is too large may be refused for that without a look at the rest of it.
    if got != Placement::Refuse(Refusal::TooLarge) || !matches!(want, Placement::Refuse(_)) {
        ensure_eq!(got, want);
    }

    judge_pieces(table, phys, size, &limits, bounces, got)?;
    if limits.only_reach_in_page() {
        let want = expected(table, phys, size, device, Bounces::AS_NEEDED);
        judge_page(table, phys, size, &limits, want)?;
        judge_pages(table, phys, size, device, want)?;
    }
    Ok(())
}

/// What is decided before all is looked at, and what the rest says, come to the same.
fn judge_pieces(
    table: &Table,
    phys: u64,
    size: usize,
    limits: &Limits,
    bounces: Bounces,
    all: Placement,
) -> Verdict {
    let (placement, unseen) = decide(table, Phys::new(phys), size, limits, bounces);
    match (placement, unseen.check(table)) {
        (Placement::Bounce(_), Err(refusal)) => ensure_eq!(all, Placement::Refuse(refusal)),
        (Placement::Bounce(reason), Ok(())) => ensure_eq!(all, Placement::Bounce(reason)),
        (settled, _) => {
            ensure_eq!(unseen, Unseen::NONE);
            ensure_eq!(all, settled);
        }
    }
    Ok(())
}

/// The way for a page agrees, and knows all that it should.
fn judge_page(table: &Table, phys: u64, size: usize, limits: &Limits, want: Placement) -> Verdict {
    let inside = size != 0 && phys % PAGE_SIZE + size as u64 <= PAGE_SIZE;
    let ordinary = table.ordinary(Phys::new(phys).pfn()).is_some();
    let short = place_page(table, Phys::new(phys), size, limits.reach());
    let right = match short {
        PagePlacement::Direct(start) => inside && want == Placement::Direct(start),
        PagePlacement::Beyond => inside && want == Placement::Bounce(Reason::Unreachable),
        PagePlacement::Unsure => !inside || !ordinary,
    };
    ensure!(right, "{short:?}, not {want:?}");
    Ok(())
}

/// The way for several pages agrees, or says nothing where it should not know.
fn judge_pages(table: &Table, phys: u64, size: usize, device: &Device, want: Placement) -> Verdict {
    let (reach, boundary) = (device.limits().reach(), device.boundary);
    let right = match place_pages(table, Phys::new(phys), size, reach, boundary) {
        Some(start) => want == Placement::Direct(start),
        None if !matches!(want, Placement::Direct(_)) => true,
        None => {
            // A window of another kind, a segment longer than that, or memory of another kind.
            let end = phys + size as u64 - 1;
            boundary & boundary.wrapping_add(1) != 0
                || size as u64 - 1 > boundary
                || (phys / PAGE_SIZE..=end / PAGE_SIZE)
                    .any(|pfn| table.ordinary(Pfn::new(pfn)).is_none())
        }
    };
    ensure!(right, "several pages, not {want:?}");
    Ok(())
}
