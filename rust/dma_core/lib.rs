// SPDX-License-Identifier: GPL-2.0

//! The thinking part of a Xen-aware bounce buffer.
//!
//! This crate decides and counts; it never touches memory that a device sees. It answers two
//! questions:
//!
//! * *May the device have the buffer as it is?* [`place`] looks at the buffer's machine frames and
//!   at the device's [`Limits`] and says [`Placement::Direct`], [`Placement::Bounce`] with the
//!   [`Reason`], or [`Placement::Refuse`].
//! * *Which part of an extent carries the bounced bytes?* [`Slots`] hands out runs of 2 KiB slots
//!   without a lock, remembers what each run carries in a [`Record`], and notices misuse.
//!
//! It knows nobody: no kernel type, no allocation, no `unsafe`, only `core`. The same source is
//! compiled into the kernel and into the host tests. Everything here may be called in any context,
//! with interrupts off and from an interrupt handler: nothing sleeps, nothing waits for a lock.
//!
//! [`place`]: placement::place
//! [`Limits`]: limits::Limits
//! [`Placement::Direct`]: placement::Placement::Direct
//! [`Placement::Bounce`]: placement::Placement::Bounce
//! [`Placement::Refuse`]: placement::Placement::Refuse
//! [`Reason`]: placement::Reason
//! [`Slots`]: slots::Slots
//! [`Record`]: record::Record

// Kbuild adds `no_std` by itself.
#![cfg_attr(not(kernel), no_std)]
#![forbid(unsafe_code)]
#![warn(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod addr;
pub mod atomic;
mod bits;
pub mod bundle;
mod careful;
mod census;
mod fit;
mod large;
pub mod limits;
pub mod p2m;
pub mod placement;
pub mod record;
pub mod request;
mod room;
pub mod segment;
pub mod slots;
mod small;
mod words;

pub use self::{
    addr::*,
    atomic::*,
    bundle::*,
    limits::*,
    p2m::*,
    placement::*,
    record::*,
    request::*,
    segment::*,
    slots::*, //
};
