#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The benchmark's part inside dom0: the kernel's own dma_map_benchmark for two like devices,
# one served by our driver and one by the kernel's own backend.  Writes /out/map: side, bits of the
# mask, mode (0 single, 1 scatterlist), pages, threads, average of a map and of an unmap in us.
# shellcheck source=tests/dom0/lib.sh
. /lib/test.sh

driver=dma_map_benchmark

# average CALL: out of the program's answer.
average() {
	sed -n "s/^average $1 latency(us):\([0-9.]*\) .*/\1/p" /tmp/answer
}

# run SIDE BITS MODE PAGES THREADS
run() {
	dma_map_benchmark -s 1 -b "$2" -m "$3" -g "$4" -t "$5" >/tmp/answer 2>&1 || fail "$*: $(cat /tmp/answer)"
	echo "$* $(average map) $(average unmap)" >>/out/map
}

insmod "$driver_file" devices=0000:00:04.0 aperture_mb=64 aperture_max_mb=64 || fail "the driver does not load"
insmod /tests/$driver.ko || fail "$driver does not load"
for pair in ours=0000:00:04.0 c=0000:00:05.0; do
	side=${pair%%=*} device=${pair#*=}
	echo $driver >"/sys/bus/pci/devices/$device/driver_override"
	echo "$device" >/sys/bus/pci/drivers_probe
	[ "$(driver_of "$device")" = $driver ] || fail "$device has no driver"
	for bits in 64 32; do
		for threads in 1 4; do
			run $side $bits 0 1 $threads
			run $side $bits 0 16 $threads
			run $side $bits 1 16 $threads
		done
	done
	unbind "$device"
done
grep -q '^0000:00:04.0 ' /sys/kernel/debug/xen_swiotlb_rs/summary || fail "our driver served nothing"
cat /out/map
