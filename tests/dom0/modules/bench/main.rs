// SPDX-License-Identifier: GPL-2.0

//! Measures the calls of the DMA API for every `edu` device that it is given.
//!
//! The backend behind a device is whatever it was attached to: ours for one, C's for
//! another, in one boot.  Binding a device runs all cases, so `modprobe` returns when the
//! measurement is over.  `/sys/kernel/debug/xen_swiotlb_rs_bench-<address>/` then holds `rows`,
//! one line a result, as [`rows`] describes, and `bookkeeping`, the bytes that our backend has for
//! each MiB of aperture.  No DMA is done: the device stands for its masks.
//!
//! With `growth=1` only [`growth`] is measured, which makes sense of a backend whose aperture grows.
//!
//! QEMU: `docs/specs/edu.rst`.

use crate::{
    rows::Rows,
    session::Session, //
};
use kernel::{
    debugfs::{
        Dir,
        File, //
    },
    device::Core,
    pci,
    prelude::*,
    str::CString, //
};
use xen_dma::{
    atomic::Words,
    int_param::value, //
};

#[path = "../edu_table.rs"]
mod edu_table;
mod fill;
mod growth;
mod patterns;
mod rows;
mod session;
mod single;

kernel::module_pci_driver! {
    type: Bench,
    name: "xen_swiotlb_rs_bench",
    authors: ["xen_swiotlb_rs maintainers"],
    description: "Measures DMA mappings with QEMU's edu devices",
    license: "GPL",
    params: {
        growth: u32 {
            default: 0,
            description: "1 measures instead how the aperture grows and shrinks",
        },
    },
}

/// How often all is measured.  What disturbs one round spares the other.
const ROUNDS: u32 = 3;

/// A device that was measured, and its results.
#[pin_data]
struct Bench {
    #[pin]
    _rows: File<Rows>,
    #[pin]
    _bookkeeping: File<usize>,
    _folder: Dir,
}

edu_table::edu_table!();

/// Bytes for each MiB of an aperture of 64 MiB.
fn bookkeeping() -> Result<usize> {
    const MEGABYTES: usize = 64;
    Ok(Words::for_slots((MEGABYTES << 20) / fill::SLOT)?.size() / MEGABYTES)
}

impl pci::Driver for Bench {
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
            let dev = pdev.as_ref();
            let mut session = Session::new(dev)?;
            let growth = value::<u32>(module_parameters::growth.value()) != 0;
            for round in 0..ROUNDS {
                session.run(round, growth)?;
            }
            let rows = session.finish();
            dev_info!(dev, "measured\n");

            let name = dev.name().to_str()?;
            let name = CString::try_from_fmt(fmt!("xen_swiotlb_rs_bench-{name}"))?;
            let folder = Dir::new(&name);
            Ok(try_pin_init!(Self {
                _rows <- folder.read_only_file(c"rows", rows),
                _bookkeeping <- folder.read_only_file(c"bookkeeping", bookkeeping()?),
                _folder: folder,
            }))
        })
    }
}
