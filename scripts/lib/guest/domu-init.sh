#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The first process of a guest that a scenario starts in dom0: runs /script, which the
# scenario has appended to the guest's initramfs.  Output goes to the guest's console.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
export PATH=/bin HOME=/
modprobe xen-blkfront
/script </dev/null
echo "guest: status $?"
poweroff -f
