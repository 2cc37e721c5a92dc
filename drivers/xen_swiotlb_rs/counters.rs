// SPDX-License-Identifier: GPL-2.0

//! What is counted for each device: maps, bounces by reason, bytes, failures by cause, misuse.
//!
//! Each processor counts on a cache line of its own; readers add up.  Numbers read while the
//! device works may be a few events apart from each other.

use core::fmt;
use dma_core::{
    Misuse,
    Reason,
    Refusal, //
};
use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use crate::aperture::NoRoom;

/// Everything that is counted.  The names are those of the machine-readable report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Direct,
    DirectBytes,
    Bounce(Reason),
    BounceBytes,
    Unmap,
    BounceUnmap,
    BounceSync,
    Coherent,
    CoherentFree,
    Failure(Cause),
    Misuse(Wrong),
}

/// Why a request could not be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Full,
    TooLarge,
    Impossible,
    Unreachable,
    RequireCoherent,
    PeerMemory,
    NoMemory,
    Empty,
    Wraps,
    Hole,
}

impl Cause {
    pub(crate) const ALL: [Self; 10] = [
        Self::Full,
        Self::TooLarge,
        Self::Impossible,
        Self::Unreachable,
        Self::RequireCoherent,
        Self::PeerMemory,
        Self::NoMemory,
        Self::Empty,
        Self::Wraps,
        Self::Hole,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooLarge => "larger_than_extent",
            Self::Impossible => "impossible",
            Self::Unreachable => "unreachable",
            Self::RequireCoherent => "require_coherent",
            Self::PeerMemory => "peer_memory",
            Self::NoMemory => "no_memory",
            Self::Empty => "empty",
            Self::Wraps => "wraps",
            Self::Hole => "hole",
        }
    }

    /// What happened, and what helps; for the log.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Full => "the aperture is full; load with a larger aperture_mb",
            Self::TooLarge => {
                "larger than the largest extent; low memory was fragmented at load, or the driver ignores dma_max_mapping_size()"
            }
            Self::Impossible => "its alignment and boundary contradict each other; a bug of its driver",
            Self::Unreachable => {
                "no extent lies below its DMA mask; low memory was used up at load"
            }
            Self::RequireCoherent => {
                "it must not be bounced (DMA_ATTR_REQUIRE_COHERENT), and is not reachable as it lies"
            }
            Self::PeerMemory => "memory of another device cannot be bounced",
            Self::NoMemory => "neither Linux nor Xen had memory for it",
            Self::Empty => "a size of 0; a bug of its driver",
            Self::Wraps => "the buffer wraps around the address space; a bug of its driver",
            Self::Hole => "no memory is behind the buffer; a bug of its driver, or ballooned away",
        }
    }

    /// What the DMA API is told: [`ENOMEM`] for what may succeed later.
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Full | Self::NoMemory => ENOMEM,
            Self::PeerMemory => xen_dma::ops::peer_memory(),
            _ => EINVAL,
        }
    }
}

impl From<NoRoom> for Cause {
    fn from(why: NoRoom) -> Self {
        match why {
            NoRoom::Full => Self::Full,
            NoRoom::TooLarge => Self::TooLarge,
            NoRoom::Impossible => Self::Impossible,
            NoRoom::Unreachable => Self::Unreachable,
        }
    }
}

impl From<Refusal> for Cause {
    fn from(why: Refusal) -> Self {
        match why {
            Refusal::Empty => Self::Empty,
            Refusal::Wraps => Self::Wraps,
            Refusal::Hole => Self::Hole,
        }
    }
}

/// How an unmap, sync or free went wrong.  All are refused and harm nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    NotMapped,
    NotOwner,
    NotHead,
    Size,
    Range,
    Leak,
}

impl Wrong {
    pub(crate) const ALL: [Self; 6] = [
        Self::NotMapped,
        Self::NotOwner,
        Self::NotHead,
        Self::Size,
        Self::Range,
        Self::Leak,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotMapped => "not_mapped",
            Self::NotOwner => "not_owner",
            Self::NotHead => "inner_address",
            Self::Size => "other_size",
            Self::Range => "out_of_range",
            Self::Leak => "left_mapped",
        }
    }
}

impl From<Misuse> for Wrong {
    fn from(misuse: Misuse) -> Self {
        match misuse {
            Misuse::OutOfRange | Misuse::NotMapped => Self::NotMapped,
            Misuse::NotOwner { .. } => Self::NotOwner,
            Misuse::NotHead { .. } => Self::NotHead,
        }
    }
}

const FIXED: usize = 8;
const EVENTS: usize = FIXED + Reason::COUNT + Cause::ALL.len() + Wrong::ALL.len();

impl Event {
    #[inline]
    const fn index(self) -> usize {
        match self {
            Self::Direct => 0,
            Self::DirectBytes => 1,
            Self::BounceBytes => 2,
            Self::Unmap => 3,
            Self::BounceUnmap => 4,
            Self::BounceSync => 5,
            Self::Coherent => 6,
            Self::CoherentFree => 7,
            Self::Bounce(reason) => FIXED + reason.index(),
            // CAST: Unit variants, numbered from 0.
            Self::Failure(cause) => FIXED + Reason::COUNT + cause as usize,
            Self::Misuse(wrong) => FIXED + Reason::COUNT + Cause::ALL.len() + wrong as usize,
        }
    }
}

/// One processor's counts, on cache lines of their own.
#[repr(align(64))]
struct Shard([Atomic<u64>; EVENTS]);

/// The largest value seen so far.
struct Peak(Atomic<u64>);

impl Peak {
    #[inline]
    fn note(&self, value: u64) {
        let mut peak = self.0.load(Relaxed);
        while value > peak {
            match self.0.cmpxchg(peak, value, Relaxed) {
                Ok(_) => break,
                Err(other) => peak = other,
            }
        }
    }
}

/// An amount in use, and the most that ever was.
pub(crate) struct Gauge {
    now: Atomic<u64>,
    peak: Peak,
}

impl Gauge {
    pub(crate) fn new() -> Self {
        Self {
            now: Atomic::new(0),
            peak: Peak(Atomic::new(0)),
        }
    }

    /// Takes `amount` more into use.  Any context.
    #[inline]
    pub(crate) fn take(&self, amount: u64) {
        let before = self.now.fetch_add(amount, Relaxed);
        self.peak.note(before.wrapping_add(amount));
    }

    /// Takes `amount` out of use.  Any context.
    #[inline]
    pub(crate) fn give(&self, amount: u64) {
        self.now.fetch_sub(amount, Relaxed);
    }

    /// The amount in use now, and the most that ever was.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.now.load(Relaxed), self.peak.0.load(Relaxed))
    }
}

/// The counts of one device.
pub(crate) struct Counters {
    shards: KVec<Shard>,
    largest: Peak,
    /// Bytes of bounced mappings that are not undone yet.
    pub(crate) held: Gauge,
}

impl Counters {
    pub(crate) fn new() -> Result<Self> {
        let mut shards = KVec::new();
        for _ in 0..kernel::cpu::nr_cpu_ids() {
            shards.push(Shard([const { Atomic::new(0) }; EVENTS]), GFP_KERNEL)?;
        }
        Ok(Self {
            shards,
            largest: Peak(Atomic::new(0)),
            held: Gauge::new(),
        })
    }

    /// Counts `by` more.  Any context.
    #[inline]
    pub(crate) fn add(&self, event: Event, by: u64) {
        let shard = self.shards.get(CpuId::current().as_u32() as usize);
        if let Some(count) = shard.and_then(|shard| shard.0.get(event.index())) {
            count.add(by, Relaxed);
        }
    }

    /// Counts a bounced mapping of `size` bytes.  Any context.
    #[inline]
    pub(crate) fn bounced(&self, reason: Reason, size: u64) {
        self.add(Event::Bounce(reason), 1);
        self.add(Event::BounceBytes, size);
        self.largest.note(size);
        self.held.take(size);
    }

    /// Counts the end of a bounced mapping of `size` bytes.  Any context.
    #[inline]
    pub(crate) fn unbounced(&self, size: u64) {
        self.add(Event::BounceUnmap, 1);
        self.held.give(size);
    }

    /// Size of the largest mapping that was bounced.
    pub(crate) fn largest(&self) -> u64 {
        self.largest.0.load(Relaxed)
    }

    /// Counts one, and returns how many there are in all.
    pub(crate) fn note(&self, event: Event) -> u64 {
        self.add(event, 1);
        self.get(event)
    }

    /// The sum over all processors.
    pub(crate) fn get(&self, event: Event) -> u64 {
        let counts = self
            .shards
            .iter()
            .filter_map(|shard| shard.0.get(event.index()));
        counts.fold(0, |sum: u64, count| sum.wrapping_add(count.load(Relaxed)))
    }

    /// Mappings bounced, for any reason.
    pub(crate) fn bounces(&self) -> u64 {
        Reason::ALL
            .iter()
            .map(|&reason| self.get(Event::Bounce(reason)))
            .sum()
    }

    /// Bounced mappings and coherent buffers that are not undone yet.
    pub(crate) fn outstanding(&self) -> u64 {
        let made = self.bounces() + self.get(Event::Coherent);
        made.saturating_sub(self.get(Event::BounceUnmap) + self.get(Event::CoherentFree))
    }

    /// Requests that failed, for any cause.
    pub(crate) fn failures(&self) -> u64 {
        Cause::ALL
            .iter()
            .map(|&cause| self.get(Event::Failure(cause)))
            .sum()
    }

    /// Wrong calls of any kind.
    pub(crate) fn misuse(&self) -> u64 {
        Wrong::ALL
            .iter()
            .map(|&wrong| self.get(Event::Misuse(wrong)))
            .sum()
    }
}

/// Whether the `n`-th event of a kind is worth a line in the log: the 1st, 2nd, 4th, 8th.
pub(crate) fn worth_a_line(n: u64) -> bool {
    n.is_power_of_two()
}

/// Shows the counts as the fields of a JSON object.
pub(crate) struct Json<'a>(pub(crate) &'a Counters);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let get = |event| self.0.get(event);
        write!(
            f,
            "\"direct\":{},\"direct_bytes\":{},\"bounced\":{},\"bounced_bytes\":{},\"largest_bounce\":{},\"held_bytes\":{},\"peak_bytes\":{},\"unmaps\":{},\
             \"bounce_unmaps\":{},\"bounce_syncs\":{},\"coherent\":{},\"coherent_frees\":{},\"outstanding\":{}",
            get(Event::Direct),
            get(Event::DirectBytes),
            self.0.bounces(),
            get(Event::BounceBytes),
            self.0.largest(),
            self.0.held.read().0,
            self.0.held.read().1,
            get(Event::Unmap),
            get(Event::BounceUnmap),
            get(Event::BounceSync),
            get(Event::Coherent),
            get(Event::CoherentFree),
            self.0.outstanding(),
        )?;
        let reasons = Reason::ALL
            .iter()
            .map(|&r| (r.name(), get(Event::Bounce(r))));
        object(f, "reasons", reasons)?;
        let causes = Cause::ALL
            .iter()
            .map(|&c| (c.name(), get(Event::Failure(c))));
        object(f, "failures", causes)?;
        let wrongs = Wrong::ALL
            .iter()
            .map(|&w| (w.name(), get(Event::Misuse(w))));
        object(f, "misuse", wrongs)
    }
}

fn object<'a>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    fields: impl Iterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    write!(f, ",\"{name}\":{{")?;
    for (index, (key, value)) in fields.enumerate() {
        let comma = if index > 0 { "," } else { "" };
        write!(f, "{comma}\"{key}\":{value}")?;
    }
    write!(f, "}}")
}
