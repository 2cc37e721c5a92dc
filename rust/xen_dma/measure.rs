// SPDX-License-Identifier: GPL-2.0

//! Counts what a call takes, by the time-stamp counter.
//!
//! Where the emulator lets that counter count instructions (QEMU: `-icount shift=0`), the
//! figures are exact, and the same in every run.  What could be counted along is kept out: interrupts
//! are off, and a measurement begins soon after a tick of the timer, so that Xen has
//! none to take.  Compiled for benchmarks only.

use crate::{
    bindings,
    client::{
        Buffer,
        TestDevice, //
    },
    device::raw,
};
use core::{
    arch::asm,
    hint::{
        black_box,
        spin_loop, //
    },
    mem::MaybeUninit,
};
use kernel::{
    ffi::{
        c_ulong,
        c_void, //
    },
    prelude::*, //
};

/// Measures calls.
pub struct Meter {
    /// What a measurement of nothing says.
    own: u64,
    /// The counter soon after the last tick that was seen.
    tick: u64,
    /// Counts between two ticks.
    period: u64,
}

impl Meter {
    /// Free of ticks at the start of each measurement, in counts.
    const ROOM: u64 = 1_700_000;

    /// Learns the timer's period and its own cost.  Takes a few ticks; may sleep.
    pub fn calibrate() -> Self {
        next_tick();
        let first = counter();
        next_tick();
        let tick = counter();
        let period = tick - first;
        let mut meter = Self {
            own: 0,
            tick,
            period,
        };
        let nothing = (0..8).map(|_| meter.measure(|| ()).1);
        meter.own = nothing.min().unwrap_or(0);
        meter
    }

    /// Runs `call` with interrupts off; returns what it answered and what it took.
    #[inline]
    pub fn measure<R>(&mut self, call: impl FnOnce() -> R) -> (R, u64) {
        self.find_room();
        // SAFETY: Restored below; `call` may not sleep, by this function's contract.
        let flags = unsafe { bindings::local_irq_save() };
        let measured = self.count(call);
        // SAFETY: The flags from above.
        unsafe { bindings::local_irq_restore(flags) };
        measured
    }

    /// As [`Self::measure`], for a call that may sleep: interrupts stay on, and may be counted.
    #[inline]
    pub fn measure_sleeping<R>(&mut self, call: impl FnOnce() -> R) -> (R, u64) {
        self.find_room();
        self.count(call)
    }

    /// What the kernel's `memcpy()` takes for `size` bytes.  [`EINVAL`] if a buffer is smaller.
    pub fn copy(&mut self, to: &mut Buffer, from: &Buffer, size: usize) -> Result<u64> {
        if size > to.size() || size > from.size() {
            return Err(EINVAL);
        }
        let (to, from) = (to.start().ok_or(EINVAL)?, from.start().ok_or(EINVAL)?);
        let ((), count) = self.measure(|| {
            // SAFETY: Two buffers of at least that size, of which the first is ours alone.
            unsafe { to.copy_from_nonoverlapping(from, black_box(size)) }
        });
        Ok(count)
    }

    /// What the kernel's `memset()` takes to clear `size` bytes.  [`EINVAL`] if the buffer is smaller.
    pub fn clear(&mut self, buffer: &mut Buffer, size: usize) -> Result<u64> {
        if size > buffer.size() {
            return Err(EINVAL);
        }
        let start = buffer.start().ok_or(EINVAL)?;
        let ((), count) = self.measure(|| {
            // SAFETY: A buffer of at least that size, which is ours alone.
            unsafe { start.write_bytes(0, black_box(size)) }
        });
        Ok(count)
    }

    #[inline]
    fn count<R>(&self, call: impl FnOnce() -> R) -> (R, u64) {
        let before = counter();
        let answer = call();
        let after = counter();
        (answer, (after - before).saturating_sub(self.own))
    }

    /// Waits for a tick if the next one is near.
    fn find_room(&mut self) {
        let room = Self::ROOM.min(self.period / 2);
        if counter() - self.tick > self.period - room {
            next_tick();
            self.tick = counter();
        }
    }
}

/// The time-stamp counter.  C: `rdtsc()`.
#[inline]
fn counter() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: Reads a counter that Xen lets its domains read.  No code moves across: the compiler
    // must think that memory is touched.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Waits for the timer's next tick.  C: `jiffies`.
fn next_tick() {
    // SAFETY: A variable that is always there; interrupts change it, so each read is one.
    let now = || unsafe { (&raw const bindings::jiffies).read_volatile() };
    let before = now();
    while now() == before {
        spin_loop();
    }
}

/// Gives the device a backend that does nothing, so that what a call takes is the DMA API's own
/// part of it: its checks, its tracing, and an indirect call.
pub fn serve_with_nothing(device: &TestDevice) {
    // SAFETY: A live device that nobody else uses; the table is static.
    unsafe { (*raw(device.device())).dma_ops = (&raw const NOTHING).cast_mut().cast() };
}

static NOTHING: bindings::dma_map_ops = bindings::dma_map_ops {
    alloc: Some(alloc_nothing),
    free: Some(free_nothing),
    map_phys: Some(map_nothing),
    unmap_phys: Some(unmap_nothing),
    sync_single_for_cpu: Some(sync_nothing),
    sync_single_for_device: Some(sync_nothing),
    // SAFETY: Null is valid for every field: the operation is not there.
    ..unsafe { MaybeUninit::zeroed().assume_init() }
};

/// Whoever asks gets a pointer that is not null, to nothing of his own.
extern "C" fn alloc_nothing(
    _dev: *mut bindings::device,
    _size: usize,
    handle: *mut bindings::dma_addr_t,
    _gfp: bindings::gfp_t,
    _attrs: c_ulong,
) -> *mut c_void {
    handle.cast()
}

extern "C" fn free_nothing(
    _dev: *mut bindings::device,
    _size: usize,
    _cpu: *mut c_void,
    _addr: bindings::dma_addr_t,
    _attrs: c_ulong,
) {
}

extern "C" fn map_nothing(
    _dev: *mut bindings::device,
    phys: bindings::phys_addr_t,
    _size: usize,
    _dir: bindings::dma_data_direction,
    _attrs: c_ulong,
) -> bindings::dma_addr_t {
    phys
}

extern "C" fn unmap_nothing(
    _dev: *mut bindings::device,
    _addr: bindings::dma_addr_t,
    _size: usize,
    _dir: bindings::dma_data_direction,
    _attrs: c_ulong,
) {
}

extern "C" fn sync_nothing(
    _dev: *mut bindings::device,
    _addr: bindings::dma_addr_t,
    _size: usize,
    _dir: bindings::dma_data_direction,
) {
}
