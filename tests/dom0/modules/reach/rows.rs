// SPDX-License-Identifier: GPL-2.0

//! The results: a line a case, `name tried wrong`.

use core::fmt;
use kernel::{
    debugfs::Writer,
    prelude::*, //
};

struct Row {
    name: &'static str,
    tried: u64,
    wrong: u64,
}

/// All results.
pub(crate) struct Rows(KVec<Row>);

impl Rows {
    pub(crate) fn new() -> Self {
        Self(KVec::new())
    }

    /// Adds a result, or counts another try of a case that is there.
    pub(crate) fn add(&mut self, name: &'static str, tried: u64, wrong: u64) -> Result {
        match self.0.iter_mut().find(|row| row.name == name) {
            Some(row) => {
                row.tried += tried;
                row.wrong += wrong;
                Ok(())
            }
            None => Ok(self.0.push(Row { name, tried, wrong }, GFP_KERNEL)?),
        }
    }

    /// Counts one try.
    pub(crate) fn judge(&mut self, name: &'static str, right: bool) -> Result {
        self.add(name, 1, u64::from(!right))
    }
}

impl Writer for Rows {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { name, tried, wrong } in &self.0 {
            writeln!(f, "{name} {tried} {wrong}")?;
        }
        Ok(())
    }
}
