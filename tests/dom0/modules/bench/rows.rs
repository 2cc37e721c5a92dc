// SPDX-License-Identifier: GPL-2.0

//! The results: for each case and call, the least, the median and the most that it took.
//!
//! One line each, of `name=value`:
//!
//! - `case`, `call`: what was measured; a call that failed is `refused`;
//! - `bytes`: size of a request; `entries`: of a scatterlist, else 1;
//! - `fill`: per cent of the aperture that others held; `round`: 0 to 2;
//! - `samples`, `min`, `median`, `max`: instructions of the whole call;
//! - `copy`: how many of them the kernel's `memcpy()` takes for the bytes that the call copies, or its
//!   `memset()` for those that it clears, once.

use core::fmt;
use kernel::{
    debugfs::Writer,
    prelude::*, //
};

/// What a row is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub(crate) case: &'static str,
    pub(crate) bytes: usize,
    pub(crate) entries: usize,
    pub(crate) fill: usize,
}

impl Label {
    /// A case with an aperture that nobody else uses.
    pub(crate) fn new(case: &'static str, bytes: usize) -> Self {
        Self {
            case,
            bytes,
            entries: 1,
            fill: 0,
        }
    }

    pub(crate) fn with_entries(self, entries: usize) -> Self {
        Self { entries, ..self }
    }

    pub(crate) fn at_fill(self, fill: usize) -> Self {
        Self { fill, ..self }
    }
}

/// What one call took, again and again; in order of size.
pub(crate) struct Samples(KVec<u64>);

impl Samples {
    pub(crate) fn new() -> Self {
        Self(KVec::new())
    }

    pub(crate) fn add(&mut self, count: u64) -> Result {
        self.0.reserve(1, GFP_KERNEL)?;
        let place = self.0.partition_point(|&other| other < count);
        self.0
            .insert_within_capacity(place, count)
            .map_err(|_| ENOMEM)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

struct Row {
    label: Label,
    call: &'static str,
    round: u32,
    samples: usize,
    min: u64,
    median: u64,
    max: u64,
    copy: u64,
}

/// All results.
pub(crate) struct Rows(KVVec<Row>);

impl Rows {
    pub(crate) fn new() -> Self {
        Self(KVVec::new())
    }

    /// Adds a row; none if there are no samples.
    pub(crate) fn add(
        &mut self,
        label: Label,
        call: &'static str,
        round: u32,
        samples: Samples,
        copy: u64,
    ) -> Result {
        let sorted = samples.0;
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Ok(());
        };
        let row = Row {
            label,
            call,
            round,
            samples: sorted.len(),
            min,
            median: sorted[sorted.len() / 2],
            max,
            copy,
        };
        Ok(self.0.push(row, GFP_KERNEL)?)
    }
}

impl Writer for Rows {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.0 {
            let Label {
                case,
                bytes,
                entries,
                fill,
            } = row.label;
            let Row {
                call,
                round,
                samples,
                min,
                median,
                max,
                copy,
                ..
            } = row;
            writeln!(
                f,
                "case={case} call={call} bytes={bytes} entries={entries} fill={fill} round={round} \
                 samples={samples} min={min} median={median} max={max} copy={copy}"
            )?;
        }
        Ok(())
    }
}
