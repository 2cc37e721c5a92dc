// SPDX-License-Identifier: GPL-2.0

//! How a test module's driver comes by QEMU's `edu` devices, on each kernel that is supported.

use kernel::pci;

/// What a probe is told besides the device: nothing.
#[cfg(linux_7_2)]
pub(crate) type Info<'a> = &'a ();
#[cfg(not(linux_7_2))]
pub(crate) type Info<'a> = Option<&'a ()>;

/// Devices that may be ours.  The kernel crate has no name for QEMU's vendor number and takes
/// none without a name, so this goes by the class, "unclassified, other"; ask [`is_edu`] too.
pub(crate) const fn candidates() -> pci::DeviceId {
    const CLASS_OTHER: u32 = 0x00_ff00;
    const CLASS_MASK: u32 = 0xff_ff00;
    pci::DeviceId::from_class(CLASS_OTHER, CLASS_MASK)
}

/// Whether this is the device.
pub(crate) fn is_edu(pdev: &pci::Device) -> bool {
    const VENDOR: u16 = 0x1234;
    const DEVICE: u16 = 0x11e8;
    pdev.vendor_id().as_raw() == VENDOR && pdev.device_id() == DEVICE
}

/// Makes `PCI_TABLE`.
#[cfg(linux_7_2)]
macro_rules! edu_table {
    () => {
        kernel::pci_device_table!(
            PCI_TABLE,
            MODULE_PCI_TABLE,
            (),
            [(edu_table::candidates(), ())]
        );
    };
}
#[cfg(not(linux_7_2))]
macro_rules! edu_table {
    () => {
        kernel::pci_device_table!(PCI_TABLE, @none, [edu_table::candidates()]);
    };
}
pub(crate) use edu_table;
