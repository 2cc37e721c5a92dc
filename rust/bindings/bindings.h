/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Input of bindgen: what `kernel::bindings` lacks.  The parameters beside this file
 * choose from it.
 */
#include <linux/anon_inodes.h>
#include <linux/dma-map-ops.h>
#include <linux/device/bus.h>
#include <linux/mman.h>
#include <linux/numa.h>
#include <linux/shrinker.h>
#include <xen/interface/xen.h>
#include <xen/interface/memory.h>
#include <asm/xen/hypercall.h>
#include <asm/xen/page.h>
#include <asm/xen/swiotlb-xen.h>

#include "../helpers/helpers.c"

/* Macros with casts are beyond bindgen; a constant is not. */
const gfp_t XEN_DMA_GFP_NORETRY = __GFP_NORETRY;
