// SPDX-License-Identifier: GPL-2.0
//! Placement decision and slot allocator, pure.
#![no_std]
#![forbid(unsafe_code)]
