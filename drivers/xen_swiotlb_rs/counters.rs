// SPDX-License-Identifier: GPL-2.0

//! What is counted for each device: maps, bounces by reason, bytes, failures by cause, misuse.
//!
//! Each processor counts for itself; readers add up.  Numbers read while the device works may be
//! a few events apart from each other.

use core::fmt;
use dma_core::{
    AtomicWord,
    Misuse,
    Reason,
    Refusal, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};
use xen_dma::{
    atomic::Word,
    per_cpu::PerCpu, //
};

use crate::aperture::NoRoom;

/// Everything that is counted.  The names are those of the machine-readable report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Direct,
    DirectBytes,
    Bounce(Reason),
    BounceBytes(Reason),
    DirectUnmap,
    BounceUnmap,
    BounceUnmapBytes,
    BounceSync,
    Coherent,
    CoherentFree,
    Failure(Cause),
    Misuse(Wrong),
}

/// Why a request could not be met.  As wide as an address, so that either is returned in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
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
                "larger than what the largest extent gives one mapping; low memory was fragmented at load, or the driver ignores dma_max_mapping_size()"
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
            Refusal::DeviceMemory => Self::PeerMemory,
            Refusal::TooLarge => Self::TooLarge,
        }
    }
}

/// How an unmap, sync, free or mask was wrong.  All are refused and harm nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    NotMapped,
    NotOwner,
    NotHead,
    Size,
    Range,
    Leak,
    Mask,
}

impl Wrong {
    pub(crate) const ALL: [Self; 7] = [
        Self::NotMapped,
        Self::NotOwner,
        Self::NotHead,
        Self::Size,
        Self::Range,
        Self::Leak,
        Self::Mask,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotMapped => "not_mapped",
            Self::NotOwner => "not_owner",
            Self::NotHead => "inner_address",
            Self::Size => "other_size",
            Self::Range => "out_of_range",
            Self::Leak => "left_mapped",
            Self::Mask => "narrowed_mask",
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
const CAUSES: usize = FIXED + 2 * Reason::COUNT;
const WRONGS: usize = CAUSES + Cause::ALL.len();
const EVENTS: usize = WRONGS + Wrong::ALL.len();

/// Behind the events: the bytes that the processor had bounced when it last noted the peak.
const NOTED: usize = EVENTS;
const WORDS: usize = NOTED + 1;

/// How many bytes a processor bounces before it notes the peak again.
const PEAK_STEP: u64 = 256 << 10;

impl Event {
    #[inline]
    const fn index(self) -> usize {
        match self {
            // Each number of mappings has their bytes behind it.
            Self::Direct => 0,
            Self::DirectBytes => 1,
            Self::DirectUnmap => 2,
            Self::BounceUnmap => 3,
            Self::BounceUnmapBytes => 4,
            Self::BounceSync => 5,
            Self::Coherent => 6,
            Self::CoherentFree => 7,
            Self::Bounce(reason) => FIXED + 2 * reason.index(),
            Self::BounceBytes(reason) => FIXED + 2 * reason.index() + 1,
            // CAST: Unit variants, numbered from 0.
            Self::Failure(cause) => CAUSES + cause as usize,
            Self::Misuse(wrong) => WRONGS + wrong as usize,
        }
    }
}

/// The largest value seen so far.
struct Peak(Atomic<u64>);

impl Peak {
    /// Notes a value; returns the largest.
    fn note(&self, value: u64) -> u64 {
        let mut peak = self.0.load(Relaxed);
        while value > peak {
            match self.0.cmpxchg(peak, value, Relaxed) {
                Ok(_) => return value,
                Err(other) => peak = other,
            }
        }
        peak
    }
}

/// Mappings of a list, counted there first: so many, of so many bytes in all.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Sum {
    /// Adds one of so many bytes.
    #[inline(always)]
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count = self.count.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes);
    }

    /// Adds those of another sum.
    #[inline(always)]
    pub(crate) fn add_all(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

/// The counts of one device.
pub(crate) struct Counters {
    words: PerCpu<WORDS>,
    largest: Word,
    /// The most bytes that were held, as far as it was noted.
    peak: Peak,
}

impl Counters {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            words: PerCpu::new()?,
            largest: Word::new(0),
            peak: Peak(Atomic::new(0)),
        })
    }

    /// Counts one.  Any context.
    #[inline]
    pub(crate) fn count(&self, event: Event) {
        self.words.increment(event.index());
    }

    /// Counts a direct mapping of `size` bytes.  Any context.
    #[inline]
    pub(crate) fn direct(&self, size: usize) {
        // CAST: Widens.
        self.words.tally(Event::Direct.index(), size as u64);
    }

    /// Counts a bounced mapping of `size` bytes.  Any context.
    #[inline]
    pub(crate) fn bounced(&self, reason: Reason, size: u64) {
        self.words.tally(Event::Bounce(reason).index(), size);
    }

    /// Counts direct mappings of so many bytes in all.  Any context.
    #[inline]
    pub(crate) fn directs(&self, sum: Sum) {
        self.add(Event::Direct, sum);
    }

    /// Counts bounced mappings of so many bytes in all.  Any context.
    #[inline]
    pub(crate) fn bounces_for(&self, reason: Reason, sum: Sum) {
        self.add(Event::Bounce(reason), sum);
    }

    /// Counts the ends of bounced mappings of so many bytes in all.  Any context.
    #[inline]
    pub(crate) fn bounces_ended(&self, sum: Sum) {
        self.add(Event::BounceUnmap, sum);
    }

    /// Counts the ends of direct mappings.  Any context.
    #[inline]
    pub(crate) fn directs_ended(&self, count: u64) {
        self.words.add(Event::DirectUnmap.index(), count);
    }

    #[inline]
    fn add(&self, event: Event, sum: Sum) {
        if sum.bytes > 0 {
            self.words.add(event.index(), sum.count);
            self.words.add(event.index() + 1, sum.bytes);
        }
    }

    /// Counts the end of a bounced mapping of `size` bytes.  Any context.
    #[inline]
    pub(crate) fn unbounced(&self, size: u64) {
        self.words.tally(Event::BounceUnmap.index(), size);
    }

    /// Notes the bytes held, if this processor has bounced many since it did so last.  Any context.
    ///
    /// To be called when room is searched: who takes more and more bytes comes here each time that
    /// a chunk is full.
    pub(crate) fn note_peak(&self) {
        let own = Reason::ALL.iter().fold(0u64, |sum, &reason| {
            let bytes = Event::BounceBytes(reason);
            sum.wrapping_add(self.words.get(bytes.index()))
        });
        if own.wrapping_sub(self.words.get(NOTED)) >= PEAK_STEP {
            self.words.set(NOTED, own);
            self.held();
        }
    }

    /// Size of the largest mapping that was bounced, or 0.
    pub(crate) fn largest(&self) -> u64 {
        self.largest.load()
    }

    /// Is a mapping larger than all that bounced before?  Any context.
    #[inline]
    pub(crate) fn is_largest(&self, size: u64) -> bool {
        size > self.largest.load()
    }

    /// Notes a mapping that [`Counters::is_largest`].  Any context.
    #[cold]
    pub(crate) fn note_largest(&self, size: u64) {
        let mut largest = self.largest.load();
        while size > largest {
            match self.largest.compare_exchange(largest, size) {
                Ok(()) => break,
                Err(other) => largest = other,
            }
        }
    }

    /// Bytes held now, and the most that ever were: the latter to within [`PEAK_STEP`] for each
    /// processor, and not less than the largest mapping.
    pub(crate) fn held(&self) -> (u64, u64) {
        // In this order: what is bounced and undone meanwhile must not look like more.
        let bounced = self.bounced_bytes();
        let now = bounced.saturating_sub(self.get(Event::BounceUnmapBytes));
        (now, self.peak.note(now.max(self.largest())))
    }

    /// Counts one, and returns how many there are in all.
    pub(crate) fn note(&self, event: Event) -> u64 {
        self.count(event);
        self.get(event)
    }

    /// The sum over all processors.
    pub(crate) fn get(&self, event: Event) -> u64 {
        self.words.sum(event.index())
    }

    /// One number for each reason, to be shown beside their [`total`]: later ones may be others.
    pub(crate) fn by_reason(&self, event: impl Fn(Reason) -> Event) -> [u64; Reason::COUNT] {
        Reason::ALL.map(|reason| self.get(event(reason)))
    }

    /// Mappings bounced, for any reason.
    pub(crate) fn bounces(&self) -> u64 {
        let bounces = Reason::ALL.map(|reason| Event::Bounce(reason).index());
        self.words.sum_of(bounces)
    }

    /// Bytes that were bounced, for any reason.
    pub(crate) fn bounced_bytes(&self) -> u64 {
        let bytes = Reason::ALL.map(|reason| Event::BounceBytes(reason).index());
        self.words.sum_of(bytes)
    }

    /// Ends of mappings, direct and bounced.
    pub(crate) fn unmaps(&self) -> u64 {
        self.get(Event::DirectUnmap) + self.get(Event::BounceUnmap)
    }

    /// Bounced mappings and coherent buffers that are not undone yet.
    pub(crate) fn outstanding(&self) -> u64 {
        let made = self.bounces() + self.get(Event::Coherent);
        made.saturating_sub(self.get(Event::BounceUnmap) + self.get(Event::CoherentFree))
    }

    /// Mappings and coherent buffers that are not undone yet.
    pub(crate) fn mapped(&self) -> u64 {
        let direct = self.get(Event::Direct);
        direct.saturating_sub(self.get(Event::DirectUnmap)) + self.outstanding()
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

/// The sum of what was read.
pub(crate) fn total(numbers: &[u64]) -> u64 {
    numbers
        .iter()
        .fold(0, |sum, &number| sum.wrapping_add(number))
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
        let (held, peak) = self.0.held();
        let (bounces, bytes) = (
            self.0.by_reason(Event::Bounce),
            self.0.by_reason(Event::BounceBytes),
        );
        write!(
            f,
            "\"direct\":{},\"direct_bytes\":{},\"bounced\":{},\"bounced_bytes\":{},\"largest_bounce\":{},\"held_bytes\":{},\"peak_bytes\":{},\"unmaps\":{},\
             \"bounce_unmaps\":{},\"bounce_syncs\":{},\"coherent\":{},\"coherent_frees\":{},\"outstanding\":{}",
            get(Event::Direct),
            get(Event::DirectBytes),
            total(&bounces),
            total(&bytes),
            self.0.largest(),
            held,
            peak,
            self.0.unmaps(),
            get(Event::BounceUnmap),
            get(Event::BounceSync),
            get(Event::Coherent),
            get(Event::CoherentFree),
            self.0.outstanding(),
        )?;
        let names = || Reason::ALL.iter().map(|reason| reason.name());
        object(f, "reasons", Iterator::zip(names(), bounces))?;
        object(f, "reason_bytes", Iterator::zip(names(), bytes))?;
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
