// SPDX-License-Identifier: GPL-2.0

//! Takes the host's memory below 4 GiB, all but what is asked to be left, as guests would.
//!
//! Given back when the module is removed.  Needs no device.

use kernel::prelude::*;
use xen_dma::{
    int_param::value,
    region::{
        Region,
        Way, //
    }, //
};

module! {
    type: Hog,
    name: "xen_swiotlb_rs_hog",
    authors: ["xen_swiotlb_rs maintainers"],
    description: "Test: takes memory below 4 GiB",
    license: "GPL",
    params: {
        leave_kb: u32 {
            default: 0,
            description: "KiB to leave, at least",
        },
    },
}

/// What lies below 4 GiB.
const ADDRESS_BITS: u32 = 32;

/// The largest extent to begin with: 64 MiB.
const FIRST_ORDER: u32 = 14;

struct Hog {
    _held: KVec<Region>,
}

impl kernel::Module for Hog {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let mut held = KVec::new();
        // Down to single pages: whoever comes next finds nothing of any size.
        for order in (0..=FIRST_ORDER).rev() {
            while let Ok(region) = Region::new(order, ADDRESS_BITS, Way::Scattered) {
                held.push(region, GFP_KERNEL)?;
            }
        }
        let total: usize = held.iter().map(Region::size).sum();

        let leave = value::<u32>(module_parameters::leave_kb.value()) as usize * 1024;
        let mut left = 0;
        // The smallest came last.
        while left < leave {
            let Some(region) = held.pop() else {
                break;
            };
            left += region.size();
        }
        pr_info!("took {} KiB, left {} KiB\n", total / 1024, left / 1024);
        Ok(Self { _held: held })
    }
}
