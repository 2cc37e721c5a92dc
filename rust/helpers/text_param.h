/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What `xen_dma::text_param!` defines in Rust.
 */
#ifndef XEN_SWIOTLB_RS_TEXT_PARAM_H
#define XEN_SWIOTLB_RS_TEXT_PARAM_H

#include <linux/types.h>

int xen_swiotlb_rs_text_set(const char *text);
int xen_swiotlb_rs_text_get(char *buffer, size_t size);

#endif
