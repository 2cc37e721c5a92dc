// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over the kernel for a Xen DMA backend.
//!
//! All that a backend needs of C and of Xen, and the only unsafe code of the project:
//!
//! - providing `dma_map_ops`: [`ops`], [`table`], [`attach`], [`bus`], [`scatterlist`], [`user`];
//! - Xen memory: [`p2m`], [`region`], and the exchange behind it;
//! - for tests, the API's other side: `client`, what its calls take: `measure`, and failures: [`fault`];
//! - devices and plumbing: [`device`], [`irq_lock`], [`atomic`], [`per_cpu`], [`rcu`], [`shrinker`],
//!   [`int_param`], [`text_param`].

pub mod atomic;
pub mod attach;
mod bindings;
pub mod bus;
#[cfg(any(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST, xen_dma_client))]
pub mod client;
pub mod deferred;
pub mod device;
mod exchange;
pub mod fault;
mod frames;
pub mod int_param;
pub mod irq_lock;
#[cfg(xen_dma_client)]
pub mod measure;
pub mod ops;
pub mod p2m;
mod pages;
pub mod per_cpu;
pub mod rcu;
pub mod region;
pub mod scatterlist;
pub mod shrinker;
pub mod table;
pub mod text_param;
pub mod user;

#[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
pub use pages::pages_held;
pub use pages::{
    Context,
    Node, //
};

/// What log lines of this crate begin with: it speaks for the module that it is part of.
const __LOG_PREFIX: &[u8] = b"xen_swiotlb_rs\0";
