// SPDX-License-Identifier: GPL-2.0

//! Built into the kernel, the driver is there before the first PCI driver probes.
//!
//! The machine of the tests has a device whose driver is built in, too.

use crate::check::check;
use kernel::prelude::*;
use xen_dma::{
    client,
    device::{
        for_each_pci,
        has_driver, //
    },
    p2m::Domain, //
};

#[kunit_tests(xen_dma_built_in)]
mod tests {
    use super::*;

    #[test]
    fn no_pci_driver_came_first() -> Result {
        let (mut bound, mut served) = (0, 0);
        for_each_pci(|dev| {
            if has_driver(dev) {
                bound += 1;
                served += usize::from(client::has_own_ops(dev));
            }
        });
        check!(bound > 0);
        // Without Xen there is nothing to serve.
        let expected = if Domain::current() == Domain::Pv {
            bound
        } else {
            0
        };
        check!(served == expected, "{served} of {bound} are served");
        Ok(())
    }
}
