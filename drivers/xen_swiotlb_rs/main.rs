// SPDX-License-Identifier: GPL-2.0
//! x
use kernel::prelude::*;
module! {
    type: Driver,
    name: "xen_swiotlb_rs",
    authors: ["xen_swiotlb_rs maintainers"],
    description: "Xen-aware swiotlb DMA backend",
    license: "GPL",
}
struct Driver;
impl kernel::Module for Driver {
    fn init(_m: &'static ThisModule) -> Result<Self> { Ok(Driver) }
}
