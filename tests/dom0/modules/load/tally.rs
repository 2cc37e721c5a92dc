// SPDX-License-Identifier: GPL-2.0

//! What all workers did and found since the module was loaded.

use kernel::{
    fmt,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// What is counted.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    /// Buffers mapped and unmapped, one by one or as part of a list.
    Map,
    Unmap,
    /// Calls that synchronised a mapping.
    Sync,
    /// Requests that found no room.
    Refused,
    /// Bytes compared, those beside the mappings included; of these, the ones that differed.
    Byte,
    Mismatch,
    /// The most instructions that one map and one unmap took, if it was asked for.
    WorstMap,
    WorstUnmap,
}

const NAMES: [(Count, &str); 8] = [
    (Count::Map, "maps"),
    (Count::Unmap, "unmaps"),
    (Count::Sync, "syncs"),
    (Count::Refused, "refused"),
    (Count::Byte, "bytes"),
    (Count::Mismatch, "mismatches"),
    (Count::WorstMap, "worst_map"),
    (Count::WorstUnmap, "worst_unmap"),
];

static COUNTS: [Atomic<u64>; NAMES.len()] = [const { Atomic::new(0) }; NAMES.len()];

/// Adds to a count.
pub(crate) fn add(count: Count, more: usize) {
    // CAST: Widens.
    COUNTS[count as usize].add(more as u64, Relaxed);
}

/// Notes a value if it is the largest so far.
pub(crate) fn note(count: Count, value: u64) {
    let place = &COUNTS[count as usize];
    let mut old = place.load(Relaxed);
    while value > old {
        match place.cmpxchg(old, value, Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

/// What was counted.
pub(crate) fn get(count: Count) -> u64 {
    COUNTS[count as usize].load(Relaxed)
}

/// Writes the counts as JSON.
pub(crate) fn show(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut mark = "{";
    for (count, name) in NAMES {
        write!(f, "{mark}\"{name}\":{}", get(count))?;
        mark = ",";
    }
    writeln!(f, "}}")
}
