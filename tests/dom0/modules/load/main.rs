// SPDX-License-Identifier: GPL-2.0

//! Load: maps and unmaps without end for every `edu` device that it is given, and compares every byte.
//!
//! The devices stand for their masks alone: what they would read and write is done by software
//! ([`xen_dma::client::engine`]), at the addresses that they were given.  So a load is as fast as the
//! processors are.  It begins when a device is bound and ends when it is unbound, whatever it holds.
//! `/sys/kernel/debug/xen_swiotlb_rs_load/result` tells what was done.
//!
//! QEMU: `docs/specs/edu.rst`.

use crate::{
    tally::Count,
    worker::Worker, //
};
use kernel::{
    debugfs,
    device::Core,
    driver,
    pci,
    prelude::*,
    str::CStr,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    InPlaceModule, //
};
use xen_dma::{
    client,
    int_param::value, //
};

#[path = "../edu_table.rs"]
mod edu_table;
mod mapping;
mod tally;
mod worker;

module! {
    type: LoadModule,
    name: "xen_swiotlb_rs_load",
    authors: ["xen_swiotlb_rs maintainers"],
    description: "Test: maps and unmaps without end for QEMU's edu devices",
    license: "GPL",
    params: {
        workers: u32 {
            default: 1,
            description: "work items for each device (1 to 16)",
        },
        measure: u8 {
            default: 0,
            description: "1: measure each call, by the time-stamp counter; one worker on one processor, please",
        },
    },
}

/// Also the name of the folder in debugfs.
const NAME: &CStr = c"xen_swiotlb_rs_load";

/// What the devices reach, by turns: mask and the low address bits that they keep.
const REACH: [(u64, u32); 4] = [
    (u32::MAX as u64, 0),
    ((1 << 28) - 1, 0),
    (u64::MAX, 0),
    (u32::MAX as u64, 0xfff),
];

/// Devices that were bound so far: whose turn it is.
static TURN: Atomic<u64> = Atomic::new(0);

/// The loaded module.  The driver ends before the report does.
#[pin_data]
struct LoadModule {
    #[pin]
    _driver: driver::Registration<pci::Adapter<Load>>,
    #[pin]
    _result: debugfs::File<()>,
    _folder: debugfs::Dir,
}

impl InPlaceModule for LoadModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let folder = debugfs::Dir::new(NAME);
        try_pin_init!(Self {
            _result <- folder.read_callback_file(c"result", (), &|(), f| tally::show(f)),
            _folder: folder,
            _driver <- driver::Registration::new(NAME, module),
        })
    }
}

/// A device under load.
struct Load {
    workers: KVec<Arc<Worker>>,
}

edu_table::edu_table!();

impl pci::Driver for Load {
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
        Self::new(pdev)
    }
}

impl Load {
    /// Begins the load of a device.  [`EIO`] if nobody serves its mask.
    fn new(pdev: &pci::Device<Core<'_>>) -> Result<Self> {
        const MAX_WORKERS: u32 = 16;

        let dev = pdev.as_ref();
        let count = value::<u32>(module_parameters::workers.value()).clamp(1, MAX_WORKERS);
        let measured = value::<u8>(module_parameters::measure.value()) != 0;
        let turn = TURN.fetch_add(1, Relaxed);
        // CAST: Below the array's length.
        let (mask, low_bits) = REACH[(turn % REACH.len() as u64) as usize];
        client::set_masks(dev, mask)?;
        client::set_min_align(dev, low_bits)?;
        let mut load = Self {
            workers: KVec::new(),
        };
        for number in 0..count {
            let seed = turn * u64::from(MAX_WORKERS) + u64::from(number) + 1;
            let worker = Worker::start(dev, seed, measured)?;
            // Who is not in the list is not stopped by `drop`.
            if load.workers.push(worker.clone(), GFP_KERNEL).is_err() {
                worker.stop();
                return Err(ENOMEM);
            }
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for worker in self.workers.iter() {
            worker.stop();
        }
        pr_info!(
            "{} bytes compared, {} differ\n",
            tally::get(Count::Byte),
            tally::get(Count::Mismatch)
        );
    }
}
