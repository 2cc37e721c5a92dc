// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of the Xen DMA backend: what the driver is made of.
//!
//! The driver's own suite, [`backend.rs`](backend.rs), is part of the driver's crate, because a
//! module's crate cannot be used by another.  Suites that need a PV domain pass at once
//! elsewhere.

mod built_in;
mod check;
mod core_logic;
mod p2m;
mod provider;
mod region;
mod region_joins;

/// The module that `#[vtable]` asks for from Linux 7.3 on.
#[cfg(not(linux_7_2))]
use xen_dma::client::BuiltIn as LocalModule;

/// What log lines of the suites begin with.
const __LOG_PREFIX: &[u8] = b"xen_swiotlb_rs_kunit\0";
