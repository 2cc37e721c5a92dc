// SPDX-License-Identifier: GPL-2.0

//! The decision: direct, bounce, or refuse.
//!
//! C source: `xen_swiotlb_map_phys()` in
//! [`drivers/xen/swiotlb-xen.c`](srctree/drivers/xen/swiotlb-xen.c)
//!
//! One total function looks at the buffer from both sides. From the guest's side come the pages
//! that it spans, from the machine's side the frames behind them; and the device's limits apply to
//! the latter only. A buffer goes to the device as it is if its frames follow each other and the
//! whole of it keeps within the limits. Everything else bounces, always with a reason, because
//! that is what an administrator needs to know.

use crate::{
    addr::{
        Machine,
        Mfn,
        Pfn,
        Phys,
        ADDRESS_BITS,
        PAGE_SIZE, //
    },
    bits::wide,
    limits::Limits,
    p2m::{
        Frame,
        P2m, //
    }, //
};

/// Why a buffer cannot go to the device as it is.
///
/// If several reasons hold, the first that comes to light is reported: a first page that is out of
/// reach, then frames that do not follow each other, and then the limits of the whole, in this order. So
/// what is out of reach where it begins, as most that bounces is, is known after a look at one page;
/// and as long as the frames do not follow each other there is no machine address that could be judged
/// for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The administrator asked for it.
    Forced,
    /// The machine frames do not follow each other.
    Discontiguous,
    /// The device's mask, or its bus, does not go as far as the machine address.
    Unreachable,
    /// The machine range crosses the device's segment boundary.
    Boundary,
    /// The machine address lacks low bits that the device relies on.
    Misaligned,
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every reason, in the order of [`Reason::index`].
    pub const ALL: [Self; 5] = [
        Self::Forced,
        Self::Discontiguous,
        Self::Unreachable,
        Self::Boundary,
        Self::Misaligned,
    ];

    /// The reason's place in a table of [`Reason::COUNT`] entries.
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            Self::Forced => 0,
            Self::Discontiguous => 1,
            Self::Unreachable => 2,
            Self::Boundary => 3,
            Self::Misaligned => 4,
        }
    }

    /// The reason in a word, for statistics and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Discontiguous => "discontiguous",
            Self::Unreachable => "unreachable",
            Self::Boundary => "boundary",
            Self::Misaligned => "misaligned",
        }
    }
}

/// Why a buffer cannot be mapped at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no bytes.
    Empty,
    /// It runs past the end of the physical address space.
    Wraps,
    /// A page of it has no machine frame, so that not even the processor could copy it.
    Hole,
    /// It would have to bounce, and part of it is device memory: reads and writes have effects there.
    DeviceMemory,
    /// It would have to bounce, and is larger than any bounce.
    TooLarge,
}

impl Refusal {
    /// The refusal in a word, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Wraps => "wraps",
            Self::Hole => "hole",
            Self::DeviceMemory => "device memory",
            Self::TooLarge => "too large",
        }
    }
}

/// What is to be done with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The device gets the buffer's own machine address.
    Direct(Machine),
    /// The bytes go through an aperture run.
    Bounce(Reason),
    /// The mapping fails.
    Refuse(Refusal),
}

/// What the caller can do with buffers that cannot be direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounces {
    /// The largest one, in bytes.
    pub most: usize,
    /// Makes everything bounce that can be mapped, but for device memory.
    pub forced: bool,
}

impl Bounces {
    /// Of any size, where it must be.
    pub const AS_NEEDED: Self = Self {
        most: usize::MAX,
        forced: false,
    };

    /// Of any size, wherever it can be.
    pub const FORCED: Self = Self {
        forced: true,
        ..Self::AS_NEEDED
    };
}

/// Pages of a buffer that must bounce, of which nothing is known yet. The processor must be able to copy
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a page without memory cannot be copied"]
pub struct Unseen {
    pfn: Pfn,
    count: u64,
}

impl Unseen {
    /// All pages were looked at.
    pub const NONE: Self = Self {
        pfn: Pfn::new(0),
        count: 0,
    };

    /// Looks at the pages.
    ///
    /// # Errors
    ///
    /// [`Refusal::Hole`] or [`Refusal::DeviceMemory`].
    #[inline]
    pub fn check(&self, p2m: &impl P2m) -> Result<(), Refusal> {
        if self.count == 0 || p2m.all_ordinary(self.pfn, self.count) {
            Ok(())
        } else {
            self.check_each(p2m)
        }
    }

    /// As [`Unseen::check`], for pages of any kind: a hole anywhere counts first.
    #[cold]
    fn check_each(&self, p2m: &impl P2m) -> Result<(), Refusal> {
        let mut device = false;
        for more in 0..self.count {
            let frame = p2m.frame(Pfn::new(self.pfn.raw().wrapping_add(more)));
            frame.machine().ok_or(Refusal::Hole)?;
            device |= matches!(frame, Frame::Identity(_));
        }
        if device {
            Err(Refusal::DeviceMemory)
        } else {
            Ok(())
        }
    }
}

/// Where a buffer lies in machine space.
struct Backing {
    /// Its first byte.
    start: Machine,
    /// Is it in one piece?
    whole: bool,
    /// Is part of it device memory?
    device: bool,
}

/// The buffer's last frame.
#[inline]
fn last(phys: Phys, size: usize) -> Result<Pfn, Refusal> {
    let Some(rest) = wide(size).checked_sub(1) else {
        return Err(Refusal::Empty);
    };
    match phys.checked_add(rest) {
        Some(last) if last.raw() >> ADDRESS_BITS == 0 => Ok(last.pfn()),
        _ => Err(Refusal::Wraps),
    }
}

/// Looks at every page, whatever it is: a hole anywhere counts. What is too large to bounce is
/// refused where its first piece ends.
#[cold]
fn follow(p2m: &impl P2m, phys: Phys, last: Pfn, too_large: bool) -> Result<Backing, Refusal> {
    // Differences between the two sides are constant where frames follow each other.
    let ahead = |pfn: u64, machine: Machine| machine.mfn().raw().wrapping_sub(pfn);
    let first = phys.pfn().raw();
    let start = p2m.frame(phys.pfn()).machine().ok_or(Refusal::Hole)?;
    let (mut whole, mut device) = (true, false);

    for pfn in first..last.raw().wrapping_add(1) {
        let frame = p2m.frame(Pfn::new(pfn));
        let page = frame.machine().ok_or(Refusal::Hole)?;
        whole &= ahead(pfn, page) == ahead(first, start);
        if too_large && !whole {
            return Err(Refusal::TooLarge);
        }
        device |= matches!(frame, Frame::Identity(_));
    }
    Ok(Backing {
        start: Machine::new(start.raw() | phys.page_offset()),
        whole,
        device,
    })
}

/// Is the first page of a buffer out of the device's reach, as far as the buffer lies on it?
#[inline]
fn begins_beyond(limits: &Limits, start: Machine, size: u64) -> bool {
    let rest = PAGE_SIZE.wrapping_sub(start.page_offset());
    !limits.reaches(start, if size < rest { size } else { rest })
}

/// The first of a device's limits that a machine range breaks.
#[inline]
fn broken(limits: &Limits, start: Machine, phys: Phys, size: u64) -> Option<Reason> {
    if !limits.reaches(start, size) {
        Some(Reason::Unreachable)
    } else if limits.crosses_boundary(start, size) {
        Some(Reason::Boundary)
    } else if limits.misaligns(start, phys) {
        Some(Reason::Misaligned)
    } else {
        None
    }
}

/// Decides what is to be done with `size` bytes at `phys` for a device with `limits`.
///
/// Reads one p2m entry for each page of a buffer that is in one piece or not too large to bounce.
///
/// # Examples
///
/// ```
/// use dma_core::{
///     addr::{Machine, Mfn, Pfn, Phys},
///     limits::Limits,
///     p2m::{Frame, P2m},
///     placement::{place, Bounces, Placement, Reason},
/// };
///
/// /// Every page lies 16 MiB further up than the guest thinks.
/// struct Shifted;
/// impl P2m for Shifted {
///     fn frame(&self, pfn: Pfn) -> Frame {
///         Frame::Local(Mfn::new(pfn.raw() + 0x1000))
///     }
/// }
///
/// let isa = Limits::new(0xff_ffff, 0, 0xffff, 0);
/// let pci = Limits::new(0xffff_ffff, 0, !0, 0);
/// let buffer = Phys::new(0x5_0800);
/// let place = |limits| place(&Shifted, buffer, 9000, limits, Bounces::AS_NEEDED);
/// assert_eq!(place(&pci), Placement::Direct(Machine::new(0x105_0800)));
/// assert_eq!(place(&isa), Placement::Bounce(Reason::Unreachable));
/// ```
#[inline]
pub fn place(
    p2m: &impl P2m,
    phys: Phys,
    size: usize,
    limits: &Limits,
    bounces: Bounces,
) -> Placement {
    match decide(p2m, phys, size, limits, bounces) {
        (Placement::Bounce(reason), unseen) => match unseen.check(p2m) {
            Ok(()) => Placement::Bounce(reason),
            Err(refusal) => Placement::Refuse(refusal),
        },
        (placement, _) => placement,
    }
}

/// As [`place`], but stops where it is clear that the buffer must bounce: the pages that were not looked
/// at are to be checked before they are copied. So nothing is spent on them if there is no room.
#[inline]
pub fn decide(
    p2m: &impl P2m,
    phys: Phys,
    size: usize,
    limits: &Limits,
    bounces: Bounces,
) -> (Placement, Unseen) {
    let refuse = |refusal| (Placement::Refuse(refusal), Unseen::NONE);
    let (first, last) = match last(phys, size) {
        Ok(last) => (phys.pfn().raw(), last.raw()),
        Err(refusal) => return refuse(refusal),
    };
    let too_large = size > bounces.most;
    let bounce = |reason, next: u64| {
        if too_large {
            return refuse(Refusal::TooLarge);
        }
        let (pfn, count) = (Pfn::new(next), last.wrapping_add(1).wrapping_sub(next));
        (Placement::Bounce(reason), Unseen { pfn, count })
    };

    // Most buffers are ordinary memory all over.
    if let Some(mfn) = p2m.ordinary(phys.pfn()).filter(|_| !bounces.forced) {
        let start = Machine::new(mfn.start().raw() | phys.page_offset());
        let next = |number: u64| number.wrapping_add(1);
        if begins_beyond(limits, start, wide(size)) {
            return bounce(Reason::Unreachable, next(first));
        }
        let whole = broken(limits, start, phys, wide(size));
        if too_large && whole.is_some() {
            return refuse(Refusal::TooLarge);
        }
        let more = last.wrapping_sub(first);
        let (pfn, mfn) = (Pfn::new(next(first)), Mfn::new(next(mfn.raw())));
        let following = p2m.following(pfn, mfn, more);
        if following == more {
            return match whole {
                None => (Placement::Direct(start), Unseen::NONE),
                Some(reason) => bounce(reason, next(last)),
            };
        }
        let apart = next(first).wrapping_add(following);
        if p2m.ordinary(Pfn::new(apart)).is_some() {
            return bounce(Reason::Discontiguous, next(apart));
        }
    }
    (place_any(p2m, phys, size, limits, bounces), Unseen::NONE)
}

/// As [`place`], for pages of any kind.
#[cold]
#[inline(never)]
fn place_any(
    p2m: &impl P2m,
    phys: Phys,
    size: usize,
    limits: &Limits,
    bounces: Bounces,
) -> Placement {
    let too_large = size > bounces.most;
    let backing = last(phys, size).and_then(|last| follow(p2m, phys, last, too_large));
    let Backing {
        start,
        whole,
        device,
    } = match backing {
        Ok(backing) => backing,
        Err(refusal) => return Placement::Refuse(refusal),
    };
    // Device memory is never made to bounce.
    let reason = if bounces.forced && !device {
        Reason::Forced
    } else if begins_beyond(limits, start, wide(size)) {
        Reason::Unreachable
    } else if !whole {
        Reason::Discontiguous
    } else {
        match broken(limits, start, phys, wide(size)) {
            None => return Placement::Direct(start),
            Some(reason) => reason,
        }
    };
    if device {
        Placement::Refuse(Refusal::DeviceMemory)
    } else if too_large {
        Placement::Refuse(Refusal::TooLarge)
    } else {
        Placement::Bounce(reason)
    }
}

/// What [`place`] says of a buffer within one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagePlacement {
    /// [`Placement::Direct`].
    Direct(Machine),
    /// [`Placement::Bounce`], because it is [`Reason::Unreachable`].
    Beyond,
    /// [`place`] must be asked.
    Unsure,
}

/// The common case of [`place`], in a few instructions: a buffer within one page of ordinary memory.
/// `reach` is that of a device with [`Limits::only_reach_in_page`].
#[inline]
pub fn place_page(p2m: &impl P2m, phys: Phys, size: usize, reach: u64) -> PagePlacement {
    // No bytes wrap around here, and so are more than a page has.
    let rest = wide(size).wrapping_sub(1);
    let last = phys.page_offset().wrapping_add(rest);
    if (rest | last) >= PAGE_SIZE {
        return PagePlacement::Unsure;
    }
    let Some(mfn) = p2m.ordinary(phys.pfn()) else {
        return PagePlacement::Unsure;
    };
    let last = mfn.start().raw().wrapping_add(last);
    if last <= reach {
        PagePlacement::Direct(Machine::new(last.wrapping_sub(rest)))
    } else {
        PagePlacement::Beyond
    }
}

/// The next common case of [`place`]: pages of ordinary memory that follow each other, within reach and
/// within a segment. [`None`]: [`place`] must be asked.
///
/// `reach` is as for [`place_page`]; `boundary` is one less than the window that a segment may not
/// leave.
#[inline]
pub fn place_pages(
    p2m: &impl P2m,
    phys: Phys,
    size: usize,
    reach: u64,
    boundary: u64,
) -> Option<Machine> {
    let (first, last) = (phys.pfn(), last(phys, size).ok()?);
    let mfn = p2m.ordinary(first)?;
    let start = mfn.start().raw() | phys.page_offset();
    let end = start.wrapping_add(wide(size).wrapping_sub(1));
    // Another window than a power of two, or a segment that is longer, is not for here.
    let windowed = boundary & boundary.wrapping_add(1) == 0 && (start ^ end) & !boundary == 0;
    if end > reach || !windowed {
        return None;
    }
    let next = |number: u64| Pfn::new(number.wrapping_add(1));
    let more = last.raw().wrapping_sub(first.raw());
    let mfn = Mfn::new(mfn.raw().wrapping_add(1));
    let whole = p2m.following(next(first.raw()), mfn, more) == more;
    whole.then_some(Machine::new(start))
}
