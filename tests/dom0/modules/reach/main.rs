// SPDX-License-Identifier: GPL-2.0

//! What a backend promises for every size and every limit, tried with `edu` devices on dom0's real p2m.
//!
//! The backend behind a device is whatever it was attached to: ours for one, C's for another, in
//! one boot.  Binding a device runs all [`cases`].  `/sys/kernel/debug/xen_swiotlb_rs_reach-<address>`
//! then has a line for each: its name, how often it was tried, how often the answer was wrong.  What
//! is wrong under C is C's; a script judges.
//!
//! The device must reach 64 bits: `-device edu,dma_mask=0xffffffffffffffff`.
//!
//! QEMU: `docs/specs/edu.rst`.

use crate::{
    cases::Session,
    device::Edu,
    rows::Rows, //
};
use dma_core::Phys;
use kernel::{
    debugfs::{
        Dir,
        File, //
    },
    device::Core,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    str::{
        CStr,
        CString, //
    }, //
};
use xen_dma::{
    client,
    int_param::value, //
};

mod blocks;
mod cases;
#[path = "../edu/device.rs"]
mod device;
#[path = "../edu_table.rs"]
mod edu_table;
mod rows;

kernel::module_pci_driver! {
    type: Reach,
    name: "xen_swiotlb_rs_reach",
    authors: ["xen_swiotlb_rs maintainers"],
    description: "Test of sizes and limits of DMA mappings with QEMU's edu devices",
    license: "GPL",
    params: {
        leave: u8 {
            default: 0,
            description: "1: try nothing, but map and never unmap, as a driver that the machine's end surprises",
        },
        fails: u8 {
            default: 0,
            description: "1: try nothing, but obtain memory that the driver core manages, and fail",
        },
        mask_only: u8 {
            default: 0,
            description: "1: try nothing but the mask that reaches all memory",
        },
    },
}

/// The name of the device's registers in the kernel's books.
const NAME: &CStr = c"xen_swiotlb_rs_reach";

/// A device that was tried, and its results.
#[pin_data]
struct Reach {
    #[pin]
    _rows: File<Rows>,
    _folder: Dir,
}

edu_table::edu_table!();

impl pci::Driver for Reach {
    type IdInfo = ();
    type Data<'bound> = Self;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: edu_table::Info<'bound>,
    ) -> impl PinInit<Self, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            if !edu_table::is_edu(pdev) {
                return Err(ENODEV);
            }
            let registers = Phys::new(pdev.resource_start(0)?);
            let edu = Edu::new(pdev)?;
            if value::<u8>(module_parameters::fails.value()) != 0 {
                client::alloc_managed(pdev.as_ref(), PAGE_SIZE)?;
                return Err(EIO);
            }
            let rows = if value::<u8>(module_parameters::mask_only.value()) != 0 {
                let mut rows = Rows::new();
                cases::required_mask(pdev.as_ref(), &mut rows)?;
                rows
            } else {
                let mut session = Session::new(edu, registers)?;
                let outcome = match value::<u8>(module_parameters::leave.value()) {
                    0 => session.run(),
                    _ => session.leave(),
                };
                let rows = session.finish(outcome);
                outcome?;
                rows
            };

            let name = pdev.as_ref().name().to_str()?;
            let name = CString::try_from_fmt(fmt!("xen_swiotlb_rs_reach-{name}"))?;
            let folder = Dir::new(&name);
            Ok(try_pin_init!(Self {
                _rows <- folder.read_only_file(c"rows", rows),
                _folder: folder,
            }))
        })
    }
}
