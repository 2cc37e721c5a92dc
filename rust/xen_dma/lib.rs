// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over the kernel for a Xen DMA backend.

mod bindings;
