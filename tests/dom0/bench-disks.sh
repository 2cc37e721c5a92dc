#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The benchmark's part inside dom0: what a read past the page cache costs, all of dom0 and Xen
# included.  Served by our driver if it is loaded, by the kernel's own backend if not.
# Writes /out/disks: disk, bytes of a read, instructions for each.
# shellcheck source=tests/dom0/lib.sh
. /lib/test.sh

# cost DISK SIZE COUNT: the instructions of a dd, the least of several: whatever else happens
# in dom0 can only add.
cost() {
	least=
	for _ in 1 2 3 4 5; do
		before=$(xen-cputime) || fail "Xen does not tell dom0's time"
		dd if="/dev/$1" of=/dev/null bs="$2" count="$3" iflag=direct 2>/dev/null || fail "$1 cannot be read"
		took=$(($(xen-cputime) - before))
		[ -n "$least" ] && [ "$least" -le "$took" ] || least=$took
	done
	echo "$least"
}

for pair in nvme:nvme ide:ata_piix; do
	wait_for_block "${pair#*:}"
	disk=$(block_of "${pair#*:}" | head -n 1)
	large_requests "$disk" >/dev/null
	for size in 4096 65536 262144 1048576; do
		# The difference: a dd's beginning and end cost the same.
		few=$(cost "$disk" $size 16) || fail "$few"
		many=$(cost "$disk" $size 144) || fail "$many"
		echo "${pair%:*} $size $(((many - few) / 128))" >>/out/disks
	done
done
if [ -e /sys/kernel/debug/xen_swiotlb_rs/summary ]; then
	for name in nvme ata_piix; do
		device=$(pci_of $name)
		grep -q "^$device *attached" /sys/kernel/debug/xen_swiotlb_rs/summary || fail "$name is not served by our driver"
	done
fi
cat /out/disks
