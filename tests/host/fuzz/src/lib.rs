// SPDX-License-Identifier: GPL-2.0

//! How the fuzz targets read the fuzzer's bytes: simply, so that a small change of the bytes is a
//! small change of the case, and seeds can be written by hand.

/// The fuzzer's bytes, read as numbers from the front. Past the end all are zero.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Reads these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Has all been read?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number of so many bytes, the lowest first.
    pub fn number(&mut self, bytes: usize) -> u64 {
        let (now, later) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = later;
        now.iter()
            .rev()
            .fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }

    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: u64) -> u64 {
        let bits = u64::BITS - (end - 1).leading_zeros();
        self.number(bits.div_ceil(8) as usize) % end
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A mask of up to `bits` ones.
    pub fn ones(&mut self, bits: u32) -> u64 {
        let bits = self.below(u64::from(bits) + 1) as u32;
        u64::MAX.checked_shr(u64::BITS - bits).unwrap_or(0)
    }
}
