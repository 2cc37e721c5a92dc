// SPDX-License-Identifier: GPL-2.0

//! The aperture breathes: it grows before it is full, and gives back what has been idle.
//!
//! All of this happens in work items, under a mutex that no mapping takes.  Mappings only say that
//! little is left ([`Shared::claimed`]) or that there was no room ([`Shared::refused`]), and that
//! costs them an item to enqueue, once.  From then on a timer watches, until there is room again and
//! nothing is left to give back.
//!
//! Low memory is shared by all guests of the host, so the aperture takes it in extents of a quarter
//! of its size and only up to a maximum, and an extent that was added goes back to Xen when nothing
//! of it has been in use for a while and the rest has twice the room that would make it grow.
//!
//! Narrow extents, for devices that reach less than 32 bits, are made when such a mask is set, and go
//! back when no device with such a mask has a driver.

use crate::{
    aperture::{
        Aperture,
        MAX_ORDER,
        MIN_ORDER,
        ORDINARY_BITS, //
    },
    backend::Shared,
    counters::worth_a_line,
    extent::{
        Extent,
        Kind, //
    },
};
use dma_core::{
    AtomicWord,
    Limits, //
};
use kernel::{
    new_mutex,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Instant,
        Monotonic, //
    },
    workqueue::{
        self,
        impl_has_delayed_work,
        WorkItem, //
    },
};
use xen_dma::{
    atomic::Word,
    deferred, //
};

/// How often the timer looks while little room is left, and while there is something to give back.
const ALERT_MS: u32 = 100;
const RELAXED_MS: u32 = 1000;

/// How often the first of them is doubled, at most, while there is no memory to grow by: 6.4 s.
const MOST_DOUBLED: u32 = 6;

/// The smallest extent to grow by, as an order of pages: 2 MiB.
const GROWTH_ORDER: u32 = 9;

/// What narrow extents may take for all devices together: memory below 2 GiB is scarce.
const NARROW_BYTES: usize = 16 << 20;

/// How far the aperture grows, and when.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Its largest size in bytes, narrow extents apart.
    pub(crate) maximum: usize,
    /// It grows when less than so many per cent are left.
    pub(crate) low_water: usize,
    /// How long an extent has been idle when it goes back.
    pub(crate) idle_ms: i64,
}

impl Bounds {
    /// Those of an aperture that stays as it is.
    #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
    pub(crate) const FIXED: Self = Self {
        maximum: 0,
        low_water: 0,
        idle_ms: 0,
    };
}

/// What only the one who changes the aperture touches.
pub(crate) struct State {
    /// How often there was no memory to grow by.
    in_vain: u64,
    /// How often in a row.
    lately: u32,
}

/// When and how the aperture breathes.
#[pin_data]
pub(crate) struct Breath {
    bounds: Bounds,
    loaded: Instant<Monotonic>,
    #[pin]
    state: Mutex<State>,
    /// 1 from the last breath on.
    closed: Word,
    /// 1 while the aperture has its largest size: to ask for more is of no use.
    full_grown: Word,
    /// 1 while a work item is on its way that looks after the room that is left, or nobody needs to.
    watched: Word,
    /// 1 from a refusal on, until growth was tried.
    asked: Word,
    /// The largest mapping that found no room, in bytes.
    wanted: Word,
    /// Address bits of a narrow device whose mapping found no room, or 0.
    wanted_bits: Word,
    /// Devices with a driver, by the bits of their masks, if those are less than 32.
    narrow_devices: [Word; ORDINARY_BITS as usize],
    /// Extents that were added to the first ones, and those of them that went back.
    grown: Word,
    shrunk: Word,
}

impl Breath {
    pub(crate) fn new(bounds: Bounds, aperture: &Aperture) -> impl PinInit<Self> {
        let settled = u64::from(headroom(&bounds, ordinary(aperture).0) == 0);
        pin_init!(Self {
            bounds,
            loaded: Instant::now(),
            state <- new_mutex!(State { in_vain: 0, lately: 0 }, "Breath::state"),
            closed: Word::new(0),
            full_grown: Word::new(settled),
            watched: Word::new(settled),
            asked: Word::new(0),
            wanted: Word::new(0),
            wanted_bits: Word::new(0),
            narrow_devices: core::array::from_fn(|_| Word::new(0)),
            grown: Word::new(0),
            shrunk: Word::new(0),
        })
    }

    /// Extents that were added since load, and those of them that went back.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.grown.load(), self.shrunk.load())
    }

    /// Does a device with a driver need a narrow extent of so many bits?
    fn is_needed(&self, bits: u32) -> bool {
        let devices = self.narrow_devices.iter().skip(bits as usize);
        devices.map(Word::load).any(|count| count > 0)
    }

    /// Milliseconds since load.
    fn now(&self) -> i64 {
        self.loaded.elapsed().as_millis()
    }
}

/// The fewest bits that an extent can have: the first one of the smallest size holds address 0, which
/// is not given away.
const FEWEST_BITS: u32 = MIN_ORDER + PAGE_SHIFT as u32 + 1;

/// How many bits a device reaches, if that makes it a narrow one, or 0.
pub(crate) fn narrow_bits(limits: &Limits) -> u32 {
    match limits.reach().saturating_add(1).ilog2() {
        bits if bits < ORDINARY_BITS => bits.max(1),
        _ => 0,
    }
}

/// Replaces a word, and returns what it was.
pub(crate) fn swap(word: &Word, new: u64) -> u64 {
    let mut old = word.load();
    while let Err(now) = word.compare_exchange(old, new) {
        old = now;
    }
    old
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for Shared { self.grow }
    impl HasDelayedWork<Self> for Shared { self.watch }
}

impl WorkItem<1> for Shared {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        Self::breathe(&this, false);
    }
}

impl WorkItem for Shared {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        Self::breathe(&this, true);
    }
}

impl Shared {
    /// Reports that a run was claimed in an extent.  Any context.
    #[inline]
    pub(crate) fn claimed(this: &Arc<Self>, extent: &Extent) {
        if extent.is_low(this.breath.bounds.low_water) && this.breath.watched.load() == 0 {
            Self::wake(this);
        }
    }

    /// Reports that there was no room for a mapping.  Any context.
    #[cold]
    #[inline(never)]
    pub(crate) fn refused(this: &Arc<Self>, size: usize, limits: &Limits) {
        if this.breath.asked.load() != 0 {
            return;
        }
        match narrow_bits(limits) {
            0 if this.breath.full_grown.load() != 0 => return,
            0 => this.breath.wanted.store(size as u64),
            bits => this.breath.wanted_bits.store(u64::from(bits)),
        }
        this.breath.asked.store(1);
        Self::wake(this);
    }

    /// Lets the aperture breathe as soon as possible.  Any context.
    #[cold]
    #[inline(never)]
    fn wake(this: &Arc<Self>) {
        if this.breath.closed.load() != 0 {
            return;
        }
        this.breath.watched.store(1);
        // At the next tick: a timer costs the mapping less than waking somebody.  If the item is on its way
        // already, all the better.
        let _ = workqueue::system_long().enqueue_delayed::<_, 1>(this.clone(), 1);
    }

    /// One breath: grows if need be, gives back what can go, and sees to the next one.
    fn breathe(this: &Arc<Self>, timer: bool) {
        let mut state = this.breath.state.lock();
        if this.breath.closed.load() != 0 {
            return;
        }
        let grew = this.expand(&mut state);
        let more = this.shrink();
        // What was refused in vain is asked for again with the timer, not with every refusal.
        if grew || timer {
            this.breath.asked.store(0);
        }
        let full_grown = headroom(&this.breath.bounds, ordinary(&this.aperture).0) == 0;
        this.breath.full_grown.store(u64::from(full_grown));
        let low = |extent: &Extent| extent.is_low(this.breath.bounds.low_water);
        let alert = !full_grown && this.aperture.each().any(|extent| low(&extent));
        let wait = match (alert, more || this.breath.asked.load() != 0) {
            (true, _) => ALERT_MS << state.lately.min(MOST_DOUBLED),
            (false, true) => RELAXED_MS,
            (false, false) => return this.breath.watched.store(u64::from(full_grown)),
        };
        let wait = msecs_to_jiffies(wait);
        let _ = workqueue::system_long().enqueue_delayed::<_, 0>(this.clone(), wait);
    }

    /// Adds an extent if too little is left or if a mapping found no room, and tells whether it did.
    fn expand(&self, state: &mut State) -> bool {
        let breath = &self.breath;
        let bits = breath.wanted_bits.load();
        breath.wanted_bits.store(0);
        // CAST: Only address bits are stored.
        let narrow = bits != 0 && self.make_narrow(bits as u32);

        // CAST: Only sizes are stored.
        let wanted = breath.wanted.load() as usize;
        breath.wanted.store(0);
        let (size, used) = ordinary(&self.aperture);
        let left = size.saturating_sub(used);
        let low = left.saturating_mul(100) < size.saturating_mul(breath.bounds.low_water);
        let may = headroom(&breath.bounds, size).checked_ilog2();
        let Some(most) = may.filter(|_| low || wanted > 0) else {
            state.lately = 0;
            return narrow;
        };
        // Room for more than the one mapping; but who was refused asks for little, as asking takes pages of dom0.
        let step = match state.lately {
            0 => (size / 4).max(wanted.saturating_mul(2)) / PAGE_SIZE,
            _ => 0,
        };
        let order = step.checked_ilog2().unwrap_or(0).max(GROWTH_ORDER);
        let order = order.min(most).min(MAX_ORDER);
        for order in (GROWTH_ORDER.min(order)..=order).rev() {
            let added = Extent::new(order, ORDINARY_BITS, Kind::Spare)
                .and_then(|extent| self.aperture.add(extent));
            if added.is_ok() {
                breath.grown.fetch_add(1);
                state.lately = 0;
                return true;
            }
        }
        state.in_vain += 1;
        state.lately = state.lately.saturating_add(1);
        if worth_a_line(state.in_vain) {
            pr_warn!(
                "the aperture cannot grow ({} KiB, {} KiB in use): Xen has no memory below 4 GiB, or Linux \
                 none to trade; mappings may fail until some is free (seen {} times)\n",
                size / 1024,
                used / 1024,
                state.in_vain
            );
        }
        narrow
    }

    /// Gives back one extent that has been idle for long enough, and tells whether others may follow.
    fn shrink(&self) -> bool {
        let breath = &self.breath;
        let now = breath.now();
        let (size, used) = ordinary(&self.aperture);
        let enough = breath.bounds.low_water.saturating_mul(2).min(90);
        let (mut gone, mut more) = (None, false);
        for (place, extent) in self.aperture.places() {
            let dispensable = match extent.kind {
                Kind::Lasting => continue,
                Kind::Narrow(bits) => !breath.is_needed(bits),
                Kind::Spare => {
                    let size = size.saturating_sub(extent.size());
                    let left = size.saturating_sub(used);
                    left.saturating_mul(100) >= size.saturating_mul(enough)
                }
            };
            more |= dispensable || extent.kind == Kind::Spare;
            if dispensable && extent.kind == Kind::Spare {
                self.aperture.go_home();
            }
            if extent.idle_for(now) >= breath.bounds.idle_ms && dispensable {
                gone = Some(place);
            }
        }
        if gone.is_some_and(|place| self.aperture.remove(place).is_some()) {
            breath.shrunk.fetch_add(1);
        }
        more
    }

    /// Makes a narrow extent.  The caller holds the state's lock.
    fn make_narrow(&self, bits: u32) -> bool {
        let narrow = |extent: &Extent| matches!(extent.kind, Kind::Narrow(_));
        let taken: usize = self
            .aperture
            .each()
            .filter(|extent| narrow(extent))
            .map(|extent| extent.size())
            .sum();
        let orders = (MIN_ORDER..=GROWTH_ORDER).rev();
        let mut orders = orders.filter(|order| taken + (PAGE_SIZE << order) <= NARROW_BYTES);
        orders.any(|order| {
            Extent::new(order, bits, Kind::Narrow(bits))
                .and_then(|extent| self.aperture.add(extent))
                .is_ok()
        })
    }

    /// Sees to it that a device of these limits has an extent that it reaches; `false` if that cannot
    /// be.  May sleep, if the device is a narrow one.
    pub(crate) fn provide(&self, limits: &Limits) -> bool {
        let bits = narrow_bits(limits);
        if bits == 0 {
            return true;
        }
        if bits < FEWEST_BITS {
            return false;
        }
        let _state = self.breath.state.lock();
        self.breath.closed.load() == 0
            && (self.aperture.largest(limits) > 0 || self.make_narrow(bits))
    }

    /// Notes that a device of so many bits has a driver, which [`Shared::lose_interest`] undoes.
    pub(crate) fn take_interest(&self, bits: u32) {
        if let Some(devices) = self.breath.narrow_devices.get(bits as usize) {
            devices.fetch_add(1);
        }
    }

    /// Undoes [`Shared::take_interest`].
    pub(crate) fn lose_interest(this: &Arc<Self>, bits: u64) {
        // 0 stands for devices that are not narrow.
        let devices = this.breath.narrow_devices.get(bits as usize);
        if let Some(devices) = devices.filter(|_| bits != 0) {
            if devices.fetch_sub(1) == 1 {
                Self::wake(this);
            }
        }
    }

    /// Ends all breathing.  What asks for room at the same time may still enqueue an item, so that nobody
    /// may at the very end.  May sleep.
    pub(crate) fn hold_breath(&self) {
        // One that is under way sees to the next one, which is waited for below; then comes no other.
        let state = self.breath.state.lock();
        self.breath.closed.store(1);
        drop(state);
        deferred::finish_delayed(&self.grow);
        deferred::finish_delayed(&self.watch);
    }
}

#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
impl Shared {
    /// Does something in the middle of a breath.  May sleep.
    pub(crate) fn amid_a_breath<R>(&self, act: impl FnOnce() -> R) -> R {
        let _state = self.breath.state.lock();
        act()
    }
}

/// How many pages an aperture of this size may grow by.
fn headroom(bounds: &Bounds, size: usize) -> usize {
    bounds.maximum.saturating_sub(size) / PAGE_SIZE
}

/// Size and use of the ordinary extents, in bytes.
fn ordinary(aperture: &Aperture) -> (usize, usize) {
    aperture
        .each()
        .filter(|extent| !matches!(extent.kind, Kind::Narrow(_)))
        .fold((0, 0), |(size, used), extent| {
            (size + extent.size(), used + extent.used())
        })
}
