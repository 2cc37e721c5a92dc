// SPDX-License-Identifier: GPL-2.0

//! What a device sees of a list: segments, each of one or more buffers.
//!
//! C header: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)
//!
//! Buffers whose machine addresses follow each other become one segment, so that the device needs one
//! descriptor for all of them. A segment is as long as the device takes it, does not cross the
//! device's boundary, and is either direct or bounced: its first address says which.

use crate::{
    addr::Machine,
    limits::Limits, //
};

/// How long a device's segments may be, and where they must end.
#[derive(Clone, Copy, Debug)]
pub struct SegmentLimits {
    most: u64,
    boundary: u64,
}

impl SegmentLimits {
    /// For a device with these limits and `dma_get_max_seg_size()`.
    #[inline]
    pub const fn new(limits: &Limits, max_seg_size: u32) -> Self {
        Self {
            // CAST: Widens.
            most: max_seg_size as u64,
            boundary: limits.boundary(),
        }
    }
}

/// The last segment of a list that is being mapped.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    start: Machine,
    /// Where it ends, and a buffer must begin to be part of it. Marked, so that a bounced segment is
    /// never taken for a direct one.
    end: u64,
    /// The highest end that it may have, marked likewise; 0 if nothing more may be part of it.
    limit: u64,
}

/// The mark of a bounced segment: a bit that no machine address has.
const BOUNCED: u64 = 1 << 63;

impl Segment {
    /// A segment of one buffer.
    #[inline(always)]
    pub const fn new(at: Machine, size: u64, bounced: bool, limits: &SegmentLimits) -> Self {
        let start = at.raw();
        let (most, window) = (
            start.saturating_add(limits.most),
            (start | limits.boundary).saturating_add(1),
        );
        let limit = if most < window { most } else { window };
        Self {
            start: at,
            end: mark(start.wrapping_add(size), bounced),
            limit: mark(limit, bounced),
        }
    }

    /// No segment.
    pub const NONE: Self = Self {
        start: Machine::new(0),
        end: 0,
        limit: 0,
    };

    /// Lets no more buffers become part of it.
    #[inline]
    pub const fn close(&mut self) {
        self.limit = 0;
    }

    /// Where the device sees it.
    #[inline]
    pub const fn start(&self) -> Machine {
        self.start
    }

    /// Its size in bytes.
    #[inline]
    pub const fn size(&self) -> u64 {
        (self.end & !BOUNCED).wrapping_sub(self.start.raw())
    }

    /// Makes a buffer part of the segment, if it may be.
    ///
    /// # Examples
    ///
    /// ```
    /// use dma_core::{
    ///     addr::Machine,
    ///     limits::Limits,
    ///     segment::{Segment, SegmentLimits},
    /// };
    ///
    /// let device = SegmentLimits::new(&Limits::new(!0, 0, 0xffff, 0), 0x3000);
    /// let mut segment = Segment::new(Machine::new(0x1000), 0x1000, false, &device);
    /// assert!(segment.extend(Machine::new(0x2000), 0x1800, false));
    /// // Neither what lies elsewhere, nor what is bounced, nor more than the device takes.
    /// assert!(!segment.extend(Machine::new(0x4000), 1, false));
    /// assert!(!segment.extend(Machine::new(0x3800), 1, true));
    /// assert!(!segment.extend(Machine::new(0x3800), 0x1000, false));
    /// assert_eq!(segment.size(), 0x2800);
    /// // Only what is bounced itself has bounced neighbours.
    /// assert_eq!(segment.room_at(Machine::new(0x3800)), 0);
    /// let bounced = Segment::new(Machine::new(0x1000), 0x1000, true, &device);
    /// assert_eq!(bounced.room_at(Machine::new(0x2000)), 0x2000);
    /// assert_eq!(bounced.room_at(Machine::new(0x3000)), 0);
    /// ```
    #[inline(always)]
    pub const fn extend(&mut self, at: Machine, size: u64, bounced: bool) -> bool {
        let start = mark(at.raw(), bounced);
        let end = start.wrapping_add(size);
        if start != self.end || end > self.limit {
            return false;
        }
        self.end = end;
        true
    }

    /// How many bytes that are bounced from this address on may become part of the segment.
    #[inline(always)]
    pub const fn room_at(&self, at: Machine) -> u64 {
        let start = mark(at.raw(), true);
        if start == self.end && start <= self.limit {
            self.limit.wrapping_sub(start)
        } else {
            0
        }
    }
}

/// An address, with its kind.
#[inline]
const fn mark(at: u64, bounced: bool) -> u64 {
    if bounced {
        at | BOUNCED
    } else {
        at
    }
}
