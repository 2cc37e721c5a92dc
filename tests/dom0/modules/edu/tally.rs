// SPDX-License-Identifier: GPL-2.0

//! What the cases did and found: of one probe, and of all.

use kernel::{
    fmt,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// One probe's counts.  Shown in one line, for programs to read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// DMA transfers that the device finished.
    pub(crate) transfers: u64,
    /// Bytes compared, those beside the mappings included.
    pub(crate) bytes: u64,
    /// Of these, the ones that differed.
    pub(crate) mismatches: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            transfers,
            bytes,
            mismatches,
        } = self;
        write!(
            f,
            "transfers={transfers} bytes={bytes} mismatches={mismatches}"
        )
    }
}

/// The counts of all probes since the module was loaded.
pub(crate) struct Totals {
    transfers: Atomic<u64>,
    bytes: Atomic<u64>,
    mismatches: Atomic<u64>,
    failed: Atomic<u64>,
}

impl Totals {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self {
            transfers: Atomic::new(0),
            bytes: Atomic::new(0),
            mismatches: Atomic::new(0),
            failed: Atomic::new(0),
        }
    }

    /// Adds a probe's counts.
    pub(crate) fn add(&self, tally: &Tally) {
        self.transfers.add(tally.transfers, Relaxed);
        self.bytes.add(tally.bytes, Relaxed);
        self.mismatches.add(tally.mismatches, Relaxed);
    }

    /// Counts a probe that failed, for whatever reason.
    pub(crate) fn add_failed(&self) {
        self.failed.add(1u64, Relaxed);
    }

    /// Writes the counts as JSON.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{{\"transfers\":{},\"bytes\":{},\"mismatches\":{},\"failed\":{}}}",
            self.transfers.load(Relaxed),
            self.bytes.load(Relaxed),
            self.mismatches.load(Relaxed),
            self.failed.load(Relaxed),
        )
    }
}
