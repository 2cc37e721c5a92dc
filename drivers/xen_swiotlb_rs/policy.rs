// SPDX-License-Identifier: GPL-2.0

//! Which devices are served: the `devices` parameter.
//!
//! `all` (the default), `none`, or a list of up to 16 entries, separated by commas or
//! spaces: addresses as `lspci -D` shows them (`0000:00:04.0`) and vendor:device numbers
//! (`8086:100e`).  Root may change it at any time through
//! `/sys/module/xen_swiotlb_rs/parameters/devices`; a device is asked about at its next
//! bind.

use core::fmt::Write;
use kernel::{
    device::Device,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    ThisModule, //
};
use xen_dma::{
    device,
    text_param::{
        steady,
        TextParam, //
    },
};

/// The most entries of a list.
const MAX_ENTRIES: usize = 16;

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// Domain, bus, device and function.
    Address(u32, u8, u8),
    /// Vendor and device number.
    Kind(u16, u16),
}

/// The kernel's parameter lock guards these: `set` and `get` hold it, `wants` takes it.  Atomic
/// only so that safe code may write a static.
static COUNT: Atomic<u64> = Atomic::new(ALL);
static LIST: [Atomic<u64>; MAX_ENTRIES] = [const { Atomic::new(0) }; MAX_ENTRIES];

/// In place of a number of entries: every device.
const ALL: u64 = u64::MAX;

impl Entry {
    fn parse(text: &str) -> Result<Self> {
        let bad = |_| EINVAL;
        match text.split_once('.') {
            Some((slot, function)) => {
                let mut parts = slot.rsplit(':');
                let device = u8::from_str_radix(parts.next().ok_or(EINVAL)?, 16).map_err(bad)?;
                let bus = u8::from_str_radix(parts.next().ok_or(EINVAL)?, 16).map_err(bad)?;
                let domain = parts
                    .next()
                    .map_or(Ok(0), |text| u32::from_str_radix(text, 16));
                let function = u8::from_str_radix(function, 8).map_err(bad)?;
                if parts.next().is_some() || device > 0x1f || function > 7 {
                    return Err(EINVAL);
                }
                Ok(Self::Address(
                    domain.map_err(bad)?,
                    bus,
                    device << 3 | function,
                ))
            }
            None => {
                let (vendor, device) = text.split_once(':').ok_or(EINVAL)?;
                Ok(Self::Kind(
                    u16::from_str_radix(vendor, 16).map_err(bad)?,
                    u16::from_str_radix(device, 16).map_err(bad)?,
                ))
            }
        }
    }

    fn to_word(self) -> u64 {
        match self {
            Self::Address(domain, bus, slot) => {
                u64::from(domain) << 16 | u64::from(bus) << 8 | u64::from(slot)
            }
            Self::Kind(vendor, device) => 1 << 63 | u64::from(vendor) << 16 | u64::from(device),
        }
    }

    fn from_word(word: u64) -> Self {
        // CAST: Each field is cut to its width.
        if word >> 63 == 1 {
            Self::Kind((word >> 16) as u16, word as u16)
        } else {
            Self::Address((word >> 16) as u32, (word >> 8) as u8, word as u8)
        }
    }

    fn fits(self, dev: &Device) -> bool {
        match self {
            Self::Kind(vendor, number) => device::pci_id(dev) == Some((vendor, number)),
            Self::Address(..) => {
                let name = dev.name().to_str();
                name.ok().and_then(|name| Self::parse(name).ok()) == Some(self)
            }
        }
    }

    fn write(self, to: &mut dyn Write) -> core::fmt::Result {
        match self {
            Self::Address(domain, bus, slot) => {
                write!(to, "{domain:04x}:{bus:02x}:{:02x}.{}", slot >> 3, slot & 7)
            }
            Self::Kind(vendor, device) => write!(to, "{vendor:04x}:{device:04x}"),
        }
    }
}

/// The policy in force.
pub(crate) struct Policy;

impl Policy {
    /// Whether a device is to be served.  May sleep.
    pub(crate) fn wants(dev: &Device, module: &'static ThisModule) -> bool {
        steady(module, || match COUNT.load(Relaxed) {
            ALL => true,
            // CAST: Never more than `MAX_ENTRIES`.
            count => entries(count as usize).any(|entry| entry.fits(dev)),
        })
    }
}

fn entries(count: usize) -> impl Iterator<Item = Entry> {
    LIST.iter()
        .take(count)
        .map(|word| Entry::from_word(word.load(Relaxed)))
}

impl TextParam for Policy {
    fn set(text: &str) -> Result {
        let count = match text {
            "all" => ALL,
            "none" => 0,
            list => {
                let parts = || list.split([',', ' ']).filter(|part| !part.is_empty());
                // All of it must be right before any of it counts.
                for part in parts() {
                    if Entry::parse(part).is_err() {
                        pr_err!(
                            "devices: '{part}' is neither an address (0000:00:04.0) nor vendor:device (8086:100e); nothing changed\n"
                        );
                        return Err(EINVAL);
                    }
                }
                let count = parts().count();
                if count == 0 || count > MAX_ENTRIES {
                    pr_err!(
                        "devices: give all, none, or 1 to {MAX_ENTRIES} entries; nothing changed\n"
                    );
                    return Err(EINVAL);
                }
                for (slot, part) in LIST.iter().zip(parts()) {
                    slot.store(Entry::parse(part)?.to_word(), Relaxed);
                }
                count as u64
            }
        };
        COUNT.store(count, Relaxed);
        Ok(())
    }

    fn get(to: &mut dyn Write) -> core::fmt::Result {
        match COUNT.load(Relaxed) {
            ALL => to.write_str("all"),
            0 => to.write_str("none"),
            count => {
                // CAST: Never more than `MAX_ENTRIES`.
                for (index, entry) in entries(count as usize).enumerate() {
                    if index > 0 {
                        to.write_char(',')?;
                    }
                    entry.write(to)?;
                }
                Ok(())
            }
        }
    }
}
