#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The benchmark's part inside dom0: of two like devices, one is served by our driver and one
# by the kernel's own.  Then ours alone, with an aperture that grows and shrinks.  Writes
# /out/ours, /out/c and /out/growth (a line a result; the bench module's rows.rs describes it)
# and /out/facts (name value).
# shellcheck source=tests/dom0/lib.sh
. /lib/test.sh

ours=0000:00:04.0
c=0000:00:05.0
debugfs=/sys/kernel/debug

# As many MiB as the kernel's own pool has.
insmod "$driver_file" devices=$ours aperture_mb=64 aperture_max_mb=64 || fail "the driver does not load"
insmod /tests/xen_swiotlb_rs_bench.ko || fail "the measurement does not load"
for device in $ours $c; do
	[ "$(driver_of "$device")" = xen_swiotlb_rs_bench ] || fail "$device was not measured; the log tells why"
done
cat $debugfs/xen_swiotlb_rs_bench-$ours/rows >/out/ours
cat $debugfs/xen_swiotlb_rs_bench-$c/rows >/out/c

# A measurement of our driver against itself, or of nothing, would look good too.
grep -q "^$ours .*attached" $debugfs/xen_swiotlb_rs/summary || fail "$ours is not served by our driver"
! grep -q "^$c .*attached" $debugfs/xen_swiotlb_rs/summary || fail "$c is served by our driver"
{
	echo "kernel $(uname -r)"
	echo "aperture_kb $(($(sed 's/.*"aperture":{"bytes":\([0-9]*\).*/\1/' $debugfs/xen_swiotlb_rs/stats.json) / 1024))"
	echo "c_pool_kb $(($(cat $debugfs/swiotlb/io_tlb_nslabs) * 2))"
	echo "bookkeeping $(cat $debugfs/xen_swiotlb_rs_bench-$ours/bookkeeping)"
} >/out/facts

rmmod xen_swiotlb_rs_bench xen_swiotlb_rs || fail "the driver does not unload"
echo 1 >/sys/bus/pci/devices/$c/remove
insmod "$driver_file" devices=$ours aperture_mb=4 aperture_max_mb=32 low_water=50 idle_s=1 ||
	fail "the driver does not load again"
insmod /tests/xen_swiotlb_rs_bench.ko growth=1 || fail "the measurement of growth does not load"
[ "$(driver_of $ours)" = xen_swiotlb_rs_bench ] || fail "growth was not measured; the log tells why"
cat $debugfs/xen_swiotlb_rs_bench-$ours/rows >/out/growth
breath=$(sed 's/.*"grown":\([0-9]*\),"shrunk":\([0-9]*\).*/\1 \2/' $debugfs/xen_swiotlb_rs/stats.json)
echo "extents that came and went: $breath"
# Three rounds, each of which must see all of it.
[ "${breath% *}" -ge 6 ] && [ "${breath% *}" = "${breath#* }" ] || fail "the aperture did not breathe"
