// SPDX-License-Identifier: GPL-2.0

//! The `edu` device: its registers, and one transfer.
//!
//! QEMU: `docs/specs/edu.rst`, `hw/misc/edu.c`.

use dma_core::Machine;
use kernel::{
    device::{
        Bound,
        Core,
        Device, //
    },
    io::Io,
    pci,
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};
use xen_dma::client;

mod regs {
    use kernel::io::register;

    register! {
        /// Says which device this is.
        pub(super) IDENTIFICATION(u32) @ 0x00 {
            31:0 value;
        }

        /// Reads as the inverse of what was written.
        pub(super) LIVENESS(u32) @ 0x04 {
            31:0 value;
        }

        /// Where a transfer reads.
        pub(super) SOURCE(u64) @ 0x80 {
            63:0 address;
        }

        /// Where a transfer writes.
        pub(super) DESTINATION(u64) @ 0x88 {
            63:0 address;
        }

        /// Bytes of a transfer.
        pub(super) COUNT(u64) @ 0x90 {
            63:0 bytes;
        }

        /// Starts a transfer.
        pub(super) COMMAND(u64) @ 0x98 {
            /// From the device to memory, not the other way.
            1:1 to_memory => bool;
            /// Start; still set while the transfer runs.
            0:0 run => bool;
        }
    }

    /// Bytes of BAR 0.
    pub(super) const SIZE: usize = 0x10_0000;
    /// What [`IDENTIFICATION`] reads as, in the version that QEMU has.
    pub(super) const IDENTITY: u32 = 0x0100_00ed;
}

/// The addresses that the device can put on the bus.
pub(crate) const MASK: u64 = (1 << 28) - 1;

/// Bytes of the device's own buffer, and the most of one transfer.
pub(crate) const INTERNAL_SIZE: usize = 4096;

/// The device's address of its own buffer.
const INTERNAL: u64 = 0x4_0000;

/// A device that answers, with its registers mapped and its DMA masks set.
pub(crate) struct Edu<'a> {
    pdev: &'a pci::Device<Bound>,
    bar: pci::Bar<'a, { regs::SIZE }>,
}

impl<'a> Edu<'a> {
    /// Wakes the device.  [`ENODEV`] if it does not answer as it should.  May sleep.
    pub(crate) fn new(pdev: &'a pci::Device<Core<'_>>) -> Result<Self> {
        const PROBE: u32 = 0x1234_abcd;

        pdev.enable_device_mem()?;
        pdev.set_master();
        client::set_masks(pdev.as_ref(), MASK)?;
        let bar = pdev.iomap_region_sized::<{ regs::SIZE }>(0, crate::NAME)?;

        let identity = bar.read(regs::IDENTIFICATION).into_raw();
        bar.write_reg(regs::LIVENESS::from(PROBE));
        let answer = bar.read(regs::LIVENESS).into_raw();
        if identity != regs::IDENTITY || answer != !PROBE {
            dev_err!(
                pdev,
                "not an edu device: identity {identity:#x}, liveness {answer:#x}\n"
            );
            return Err(ENODEV);
        }
        Ok(Self { pdev, bar })
    }

    /// The device, to map for.
    pub(crate) fn device(&self) -> &'a Device<Bound> {
        self.pdev.as_ref()
    }

    /// The device reads `size` bytes of memory into its buffer, at `inside`.  Sleeps.
    pub(crate) fn read_memory(&self, from: Machine, inside: usize, size: usize) -> Result {
        self.transfer(from.raw(), INTERNAL + inside as u64, size, false)
    }

    /// The device writes `size` bytes of its buffer, from `inside` on, to memory.  Sleeps.
    pub(crate) fn write_memory(&self, to: Machine, inside: usize, size: usize) -> Result {
        self.transfer(INTERNAL + inside as u64, to.raw(), size, true)
    }

    /// [`ETIMEDOUT`] if the device does not finish; then it may still touch the memory.
    fn transfer(&self, source: u64, destination: u64, size: usize, to_memory: bool) -> Result {
        // QEMU's device takes 100 ms, whatever the size.
        const STEP: Delta = Delta::from_millis(5);
        const MAX_STEPS: usize = 1000;

        // The kernel crate promises an alignment of 4 beforehand, so that of 8 is looked at here.
        self.bar.try_write_reg(regs::SOURCE::from(source))?;
        self.bar
            .try_write_reg(regs::DESTINATION::from(destination))?;
        // CAST: `usize` has 64 bits.
        self.bar.try_write_reg(regs::COUNT::from(size as u64))?;
        self.bar.try_write_reg(
            regs::COMMAND::zeroed()
                .with_to_memory(to_memory)
                .with_run(true),
        )?;
        for _ in 0..MAX_STEPS {
            fsleep(STEP);
            if !self.bar.try_read(regs::COMMAND)?.run() {
                return Ok(());
            }
        }
        dev_err!(self.pdev, "a transfer of {size} bytes does not end\n");
        Err(ETIMEDOUT)
    }
}
