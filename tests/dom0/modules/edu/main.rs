// SPDX-License-Identifier: GPL-2.0

//! Driver of QEMU's `edu` device, to test the DMA mappings that the device works with.
//!
//! The device copies up to 4 KiB between memory and a buffer of its own.  Binding it runs all
//! [`cases`]: bytes go out through one mapping, come back through another, and are compared.
//! So `modprobe` returns when the test is over.  The probe fails if it found anything.
//!
//! QEMU: `docs/specs/edu.rst`.

use crate::{
    cases::Session,
    device::Edu,
    tally::Totals, //
};
use kernel::{
    debugfs,
    device::Core,
    driver,
    pci,
    prelude::*,
    str::CStr,
    InPlaceModule, //
};
use xen_dma::{
    client,
    int_param::value, //
};

mod cases;
mod device;
#[path = "../edu_table.rs"]
mod edu_table;
mod tally;

module! {
    type: EduModule,
    name: "xen_swiotlb_rs_edu",
    authors: ["xen_swiotlb_rs maintainers"],
    description: "Test of DMA mappings with QEMU's edu device",
    license: "GPL",
    params: {
        rounds: u32 {
            default: 2,
            description: "how often to run all cases, about 3 s each (1 to 1000)",
        },
        large_mb: u32 {
            default: 0,
            description: "instead, a coherent buffer of so many MiB",
        },
        mask_bits: u32 {
            default: 28,
            description: "that buffer's device reaches so many bits (28 to 32)",
        },
    },
}

/// Also the name of the folder in debugfs.
const NAME: &CStr = c"xen_swiotlb_rs_edu";

/// What all probes found.  Outlives them: a probe that fails leaves no driver data.
static TOTALS: Totals = Totals::new();

/// The loaded module.  The driver ends before the report does.
#[pin_data]
struct EduModule {
    #[pin]
    _driver: driver::Registration<pci::Adapter<EduDriver>>,
    #[pin]
    _result: debugfs::File<()>,
    _folder: debugfs::Dir,
}

impl InPlaceModule for EduModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let folder = debugfs::Dir::new(NAME);
        try_pin_init!(Self {
            _result <- folder.read_callback_file(c"result", (), &|(), f| TOTALS.show(f)),
            _folder: folder,
            _driver <- driver::Registration::new(NAME, module),
        })
    }
}

struct EduDriver;

edu_table::edu_table!();

impl pci::Driver for EduDriver {
    type IdInfo = ();
    type Data<'bound> = Self;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: edu_table::Info<'bound>,
    ) -> impl PinInit<Self, Error> + 'bound {
        if !edu_table::is_edu(pdev) {
            return Err(ENODEV);
        }
        test(pdev).inspect_err(|_| TOTALS.add_failed())?;
        Ok(Self)
    }
}

/// Runs all cases.  [`EIO`] if a byte is not what it should be.
fn test(pdev: &pci::Device<Core<'_>>) -> Result {
    const MAX_ROUNDS: u32 = 1000;

    let rounds = value::<u32>(module_parameters::rounds.value());
    if !(1..=MAX_ROUNDS).contains(&rounds) {
        dev_err!(
            pdev,
            "rounds={rounds} is out of range; give 1 to {MAX_ROUNDS}\n"
        );
        return Err(EINVAL);
    }

    let mut session = Session::new(Edu::new(pdev)?)?;
    let large = value::<u32>(module_parameters::large_mb.value()) as usize;
    if large > 0 {
        let bits = value::<u32>(module_parameters::mask_bits.value()).clamp(28, 32);
        client::set_masks(pdev.as_ref(), (1 << bits) - 1)?;
    }
    let outcome = session.run(rounds, large << 20);
    let tally = session.finish(outcome);
    TOTALS.add(&tally);
    if let Err(error) = outcome {
        dev_err!(pdev, "stopped by {error:?} after {tally}\n");
        return Err(error);
    }
    pr_info!("edu: {tally}\n");
    if tally.mismatches > 0 {
        return Err(EIO);
    }
    Ok(())
}
