// SPDX-License-Identifier: GPL-2.0

//! What users read: `/sys/kernel/debug/xen_swiotlb_rs/summary` for people,
//! `/sys/kernel/debug/xen_swiotlb_rs/stats.json` for programs.  No address is shown.

use crate::{
    aperture::Layout,
    counters::{
        total,
        Event,
        Json, //
    },
    devices::Devices, //
};
use core::{
    fmt,
    pin::Pin, //
};
use dma_core::Reason;
use kernel::{
    debugfs::{
        Dir,
        File,
        Writer, //
    },
    prelude::*,
    sync::Arc, //
};
use xen_dma::{
    device::{
        for_each_pci,
        Name, //
    },
    region::traded_pages, //
};

/// The files, while the driver is loaded.
pub(crate) struct Report {
    _summary: Pin<KBox<File<Summary>>>,
    _stats: Pin<KBox<File<Stats>>>,
}

impl Report {
    pub(crate) fn new(devices: Arc<Devices>) -> Result<Self> {
        let dir = Dir::new(c"xen_swiotlb_rs");
        let summary = KBox::pin_init(
            dir.read_only_file(c"summary", Summary(devices.clone())),
            GFP_KERNEL,
        )?;
        let stats = KBox::pin_init(
            dir.read_only_file(c"stats.json", Stats(devices)),
            GFP_KERNEL,
        )?;
        Ok(Self {
            _summary: summary,
            _stats: stats,
        })
    }
}

struct Summary(Arc<Devices>);

impl Writer for Summary {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.0.shared;
        let (used, peak) = shared.aperture.usage();
        let (regions, bytes) = shared.coherent.usage();
        writeln!(
            f,
            "aperture   {} KiB: {}",
            shared.aperture.size() / 1024,
            Layout(&shared.aperture)
        )?;
        writeln!(
            f,
            "in use     {} KiB, at most {} KiB",
            used / 1024,
            peak / 1024
        )?;
        let (grown, shrunk) = shared.breath.counts();
        writeln!(f, "breath     {grown} extents added, {shrunk} gone back")?;
        let (pool, cached) = (shared.coherent.pooled(), shared.coherent.cached());
        writeln!(
            f,
            "coherent   {regions} regions of their own, {} KiB; {} more unused, {} KiB, one used again {} times",
            bytes / 1024,
            cached.regions,
            cached.bytes / 1024,
            cached.reused
        )?;
        writeln!(
            f,
            "pool       {} KiB for small coherent buffers, {} KiB in use",
            pool.size / 1024,
            pool.used / 1024
        )?;
        writeln!(f)?;
        write!(
            f,
            "{:<14}{:<9}{:>11}{:>11}{:>13}{:>11}",
            "device", "state", "direct", "bounced", "KiB bounced", "KiB peak"
        )?;
        for reason in Reason::ALL {
            write!(f, "{:>14}", reason.name())?;
        }
        writeln!(f, "{:>10}{:>8}", "failures", "misuse")?;
        self.0.for_each(|served| {
            let counters = &served.provider().counters;
            let state = if served.in_use() { "attached" } else { "free" };
            let bounces = counters.by_reason(Event::Bounce);
            write!(
                f,
                "{:<14}{state:<9}{:>11}{:>11}{:>13}{:>11}",
                Padded(Name(served.device())),
                counters.get(Event::Direct),
                total(&bounces),
                counters.bounced_bytes() / 1024,
                counters.held().1 / 1024
            )?;
            for bounced in bounces {
                write!(f, "{bounced:>14}")?;
            }
            writeln!(f, "{:>10}{:>8}", counters.failures(), counters.misuse())
        })?;
        let mut result = Ok(());
        for_each_pci(|dev| {
            if result.is_ok() && self.0.left_alone(dev) {
                result = writeln!(f, "{:<14}left alone: it had a driver", Padded(Name(dev)));
            }
        });
        result
    }
}

struct Stats(Arc<Devices>);

impl Writer for Stats {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.0.shared;
        let (used, peak) = shared.aperture.usage();
        let (regions, bytes) = shared.coherent.usage();
        let (pool, cached) = (shared.coherent.pooled(), shared.coherent.cached());
        let (taken, returned) = traded_pages();
        write!(
            f,
            "{{\"version\":1,\"aperture\":{{\"bytes\":{},\"in_use\":{used},\"peak\":{peak},\"extents\":[",
            shared.aperture.size()
        )?;
        for (index, extent) in shared.aperture.each().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}", extent.size())?;
        }
        let (grown, shrunk) = shared.breath.counts();
        write!(
            f,
            "],\"grown\":{grown},\"shrunk\":{shrunk}}},\"coherent\":{{\"regions\":{regions},\"bytes\":{bytes},\
             \"cached_regions\":{},\"cached_bytes\":{},\"reused\":{},\
             \"pool_extents\":{},\"pool_bytes\":{},\"pool_in_use\":{}}},\
             \"pages\":{{\"taken\":{taken},\"returned\":{returned}}},\"devices\":[",
            cached.regions, cached.bytes, cached.reused, pool.extents, pool.size, pool.used
        )?;
        let mut comma = "";
        self.0.for_each(|served| {
            write!(
                f,
                "{comma}{{\"name\":\"{}\",\"attached\":{},{}}}",
                Name(served.device()),
                served.in_use(),
                Json(&served.provider().counters)
            )?;
            comma = ",";
            Ok(())
        })?;
        writeln!(f, "]}}")
    }
}

/// Pads what cannot pad itself.
struct Padded<T>(T);

impl<T: fmt::Display> fmt::Display for Padded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut width = Width(0);
        fmt::write(&mut width, format_args!("{}", self.0))?;
        write!(f, "{}", self.0)?;
        for _ in width.0..f.width().unwrap_or(0) {
            f.write_str(" ")?;
        }
        Ok(())
    }
}

struct Width(usize);

impl fmt::Write for Width {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}
