// SPDX-License-Identifier: GPL-2.0

//! Raw bindings: the kernel crate's, and what it lacks, generated from `rust/bindings`.
//!
//! Types that the generated file only refers to (`struct device`, `struct page`) are the
//! kernel crate's, so both sides speak of the same type.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    improper_ctypes,
    unreachable_pub,
    unused_imports,
    dead_code,
    unsafe_op_in_unsafe_fn
)]

pub(crate) use kernel::bindings::*;
use kernel::ffi;
use pin_init::MaybeZeroable;

include!(env!("XEN_DMA_BINDINGS"));
