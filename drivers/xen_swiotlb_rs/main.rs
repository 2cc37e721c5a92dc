// SPDX-License-Identifier: GPL-2.0

//! Xen-aware DMA backend for PCI devices of a PV domain.
//!
//! This file only wires: the [`aperture`] that bounces live in and how it [`breath`]es, the [`backend`] that maps
//! (with [`bounce`]s, [`lists`] and [`coherent`] memory), the [`devices`] that it is attached
//! to by [`policy`], and the [`report`] of what the [`counters`] counted.
//!
//! C: [`drivers/xen/swiotlb-xen.c`](srctree/drivers/xen/swiotlb-xen.c).

use crate::{
    aperture::{
        Aperture,
        Care, //
    },
    backend::Shared,
    breath::Bounds,
    devices::Devices,
    policy::Policy,
    report::Report, //
};
use core::{
    ops::RangeInclusive,
    pin::Pin, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use xen_dma::{
    bus::PciWatch,
    int_param::value,
    p2m::{
        Domain,
        LinearP2m, //
    },
    region::traded_pages, //
};

mod aperture;
mod backend;
#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
#[path = "../../tests/kunit/backend.rs"]
mod backend_test;
mod bounce;
mod breath;
mod coherent;
mod counters;
mod devices;
mod extent;
mod ledger;
mod lists;
mod policy;
mod report;

module! {
    type: Driver,
    name: "xen_swiotlb_rs",
    authors: ["xen_swiotlb_rs maintainers"],
    description: "Xen-aware DMA backend: direct where memory allows, bounced where it must",
    license: "GPL",
    params: {
        aperture_mb: u32 {
            default: 64,
            description: "memory for bounces at first, in MiB, below 4 GiB of machine addresses (1 to 2048)",
        },
        aperture_max_mb: u32 {
            default: 256,
            description: "memory for bounces at most, in MiB; it grows when little is left (up to 2048; not above aperture_mb: it stays as it is)",
        },
        low_water: u32 {
            default: 25,
            description: "memory for bounces grows when less than so many per cent are left (1 to 50)",
        },
        idle_s: u32 {
            default: 30,
            description: "what was added goes back when it has been idle for so many seconds (1 to 86400)",
        },
        force_bounce: u8 {
            default: 0,
            description: "1: bounce every mapping, to test drivers",
        },
        scrub: u8 {
            default: 0,
            description: "1: clear memory for bounces whenever a mapping ends",
        },
        isolate_pages: u8 {
            default: 0,
            description: "1: no two bounced mappings share a page",
        },
    },
}

xen_dma::text_param!(Policy);

/// The largest aperture: half of what a 32-bit device can see.
const MAX_APERTURE_MB: u32 = 2048;

/// The loaded driver.  Fields end in this order: first nothing new is attached, then the report
/// goes, then the memory, and then the books are closed.
struct Driver {
    _watch: Pin<KBox<PciWatch<Devices>>>,
    _settled: Settled,
    _report: Report,
    _breath: LastBreath,
    _farewell: Farewell,
}

impl kernel::Module for Driver {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let p2m = pv_domain()?;
        let within = |name: &str, value: u32, range: RangeInclusive<u32>| {
            if range.contains(&value) {
                return Ok(value);
            }
            let (low, high) = (range.start(), range.end());
            pr_err!("{name}={value} is out of range; give {low} to {high}\n");
            Err(EINVAL)
        };
        let megabytes = value(module_parameters::aperture_mb.value());
        let megabytes = within("aperture_mb", megabytes, 1..=MAX_APERTURE_MB)?;
        let most = value(module_parameters::aperture_max_mb.value());
        let most = within("aperture_max_mb", most, 0..=MAX_APERTURE_MB)?;
        let low_water = within(
            "low_water",
            value(module_parameters::low_water.value()),
            1..=50,
        )?;
        let idle = within(
            "idle_s",
            value(module_parameters::idle_s.value()),
            1..=86400,
        )?;
        // CAST: Both widen.
        let bounds = Bounds {
            maximum: (most as usize) << 20,
            low_water: low_water as usize,
            idle_ms: i64::from(idle) * 1000,
        };
        let flag = |name: &str, value: u8| match value {
            0 => Ok(false),
            1 => Ok(true),
            other => {
                pr_err!("{name}={other} is neither 0 nor 1\n");
                Err(EINVAL)
            }
        };
        let force = flag(
            "force_bounce",
            value(module_parameters::force_bounce.value()),
        )?;
        let care = Care {
            scrub: flag("scrub", value(module_parameters::scrub.value()))?,
            isolate: flag(
                "isolate_pages",
                value(module_parameters::isolate_pages.value()),
            )?,
        };

        let aperture = Aperture::new(megabytes, care)?;
        let shared = Shared::new(aperture, p2m, force, bounds)?;
        let devices = Devices::new(shared.clone(), module)?;
        devices.list_left_alone();
        let report = Report::new(devices.clone())?;
        let watch = KBox::pin_init(PciWatch::new(devices.clone()), GFP_KERNEL)?;
        Ok(Self {
            _watch: watch,
            _settled: Settled(devices),
            _report: report,
            _breath: LastBreath(shared),
            _farewell: Farewell,
        })
    }
}

/// The devices, when nothing more is heard of any.
struct Settled(Arc<Devices>);

impl Drop for Settled {
    fn drop(&mut self) {
        self.0.settle();
    }
}

/// What all devices share, when no device is left that could ask it for room.
struct LastBreath(Arc<Shared>);

impl Drop for LastBreath {
    fn drop(&mut self) {
        self.0.hold_breath();
    }
}

/// Says at the very end whether every page that was traded for an extent went back.
struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        let (taken, returned) = traded_pages();
        pr_info!("unloaded: {taken} pages were traded for extents, {returned} went back\n");
    }
}

/// The p2m of this PV domain; elsewhere [`ENODEV`], and a line that says what to do.
fn pv_domain() -> Result<LinearP2m> {
    match Domain::current() {
        Domain::Native => pr_err!(
            "not running under Xen; the kernel's own DMA mapping serves this machine, nothing to load\n"
        ),
        Domain::Translated => pr_err!(
            "not a Xen PV domain; Xen translates this domain's memory (PVH or HVM), nothing to load\n"
        ),
        Domain::Pv => {}
    }
    LinearP2m::get().ok_or(ENODEV)
}
