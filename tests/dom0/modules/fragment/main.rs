// SPDX-License-Identifier: GPL-2.0

//! Tears dom0's own memory apart: takes single pages and gives every second one back, so that no
//! two that are free are neighbours.
//!
//! The rest is given back when the module is removed.  Needs no device.

use kernel::prelude::*;
use xen_dma::{
    client::Buffer,
    int_param::value, //
};

module! {
    type: Fragment,
    name: "xen_swiotlb_rs_fragment",
    authors: ["xen_swiotlb_rs maintainers"],
    description: "Test: leaves dom0 no two free pages side by side",
    license: "GPL",
    params: {
        take_mb: u32 {
            default: 0,
            description: "MiB to tear apart",
        },
    },
}

struct Fragment {
    _held: KVVec<Buffer>,
}

impl kernel::Module for Fragment {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        const PAGES_PER_MB: usize = 256;

        let wanted = value::<u32>(module_parameters::take_mb.value()) as usize * PAGES_PER_MB;
        let mut held = KVVec::with_capacity(wanted, GFP_KERNEL)?;
        while held.len() < wanted {
            held.push(Buffer::new(0)?, GFP_KERNEL)?;
        }
        held.retain(|page: &mut Buffer| page.phys().pfn().raw() % 2 == 1);
        pr_info!("tore {wanted} pages apart, kept {}\n", held.len());
        Ok(Self { _held: held })
    }
}
