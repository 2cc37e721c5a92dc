// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of a text parameter: the macros of moduleparam.h have no Rust counterpart
 * for it.  Its value lives in Rust, rust/xen_dma/text_param.rs.
 */
#include <linux/mm.h>
#include <linux/moduleparam.h>

#include "text_param.h"

static int devices_set(const char *text, const struct kernel_param *param)
{
	return xen_swiotlb_rs_text_set(text);
}

static int devices_get(char *buffer, const struct kernel_param *param)
{
	return xen_swiotlb_rs_text_get(buffer, PAGE_SIZE);
}

static const struct kernel_param_ops devices_ops = {
	.set = devices_set,
	.get = devices_get,
};

module_param_cb(devices, &devices_ops, NULL, 0644);
MODULE_PARM_DESC(devices, "which PCI devices to serve: all, none, or a list of addresses (0000:00:04.0) and vendor:device numbers (8086:100e)");
