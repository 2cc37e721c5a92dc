#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The demo's part inside dom0: real devices move data through the driver, and every byte
# is compared.  Writes /out/verified (device, kind, bytes, mismatches), /out/stats.json
# (the driver's numbers while everything was attached) and /out/facts (name value).
# shellcheck source=tests/dom0/lib.sh disable=SC2317 # functions that check calls
. /lib/test.sh

stats=/sys/kernel/debug/xen_swiotlb_rs/stats.json
files_mb=24

# verified DEVICE KIND BYTES MISMATCHES
verified() {
	echo "$1 $2 $3 $4" >>/out/verified
	echo "  $2 ($1): $3 bytes compared, $4 mismatches"
}

# disk KIND BLOCKDEV: a filesystem, files through the page cache, and large direct requests.
disk() {
	kind=$1 block=$2
	device=$(pci_of_block "$block")
	where=/mnt/$kind
	mkdir -p "$where"
	# As large as the device and the driver's limit allow; the default would hide that.
	cat "/sys/block/$block/queue/max_hw_sectors_kb" >"/sys/block/$block/queue/max_sectors_kb" 2>/dev/null
	mkfs.ext4 -q -F "/dev/$block" && mount -t ext4 "/dev/$block" "$where" || fail "$kind: no filesystem"
	bytes=0 bad=0
	for size in 1 2; do
		dd if=/dev/urandom of=/tmp/original bs=1M count=$((files_mb / 2)) 2>/dev/null
		# One file through the page cache, one by requests of 4 MiB past it.
		[ $size = 1 ] && flags= || flags=oflag=direct
		# shellcheck disable=SC2086 # none or one word
		dd if=/tmp/original of="$where/file$size" bs=4M $flags conv=fsync 2>/dev/null || fail "$kind: cannot write"
		sync
		echo 3 >/proc/sys/vm/drop_caches
		[ $size = 1 ] && flags= || flags=iflag=direct
		# shellcheck disable=SC2086
		bad=$((bad + $(dd if="$where/file$size" bs=4M $flags 2>/dev/null | cmp -l /tmp/original - | wc -l)))
		bytes=$((bytes + $(stat -c %s "$where/file$size")))
	done
	umount "$where" || fail "$kind: cannot unmount"
	verified "$device" "$kind" "$bytes" "$bad"
	sha256sum "/dev/$block" | sed "s| .*|  $kind|" >>/out/disks.sha256
}

# network: two cards on one wire, each in a namespace of its own; a file goes across.
network() {
	first=$(pci_of_net eth0)
	second=$(pci_of_net eth1)
	other_host
	ip link set eth1 netns "$other" || fail "network: no namespace"
	ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up
	inside ip addr add 10.0.0.2/24 dev eth1
	inside ip link set eth1 up
	dd if=/dev/urandom of=/tmp/sent bs=1M count=4 2>/dev/null
	for tries in 1 2 3 4 5 6 7 8 9 10; do
		ping -c 1 -W 2 10.0.0.2 >/dev/null 2>&1 && break
		sleep 1
	done
	transfer here inside 10.0.0.2 >/dev/null
	bad=$(cmp -l /tmp/sent /tmp/received 2>&1 | wc -l)
	bytes=$(stat -c %s /tmp/received)
	[ "$bytes" = "$(stat -c %s /tmp/sent)" ] || bad=$((bad + 1))
	verified "$first" net-sender "$bytes" "$bad"
	verified "$second" net-receiver "$bytes" "$bad"
	kill "$other"
}

# engine: the DMA engine of edu, driven by a test driver of ours.
engine() {
	insmod /tests/xen_swiotlb_rs_edu.ko
	result=$(cat /sys/kernel/debug/xen_swiotlb_rs_edu/result)
	device=$(pci_of xen_swiotlb_rs_edu)
	[ -n "$device" ] || fail "edu: its test ended with $result; the kernel's log tells where"
	verified "$device" edu "$(field bytes "$result")" "$(field mismatches "$result")"
}

# field NAME TEXT: a number out of one level of JSON.
field() {
	echo "$2" | sed "s/.*\"$1\": *\([0-9]*\).*/\1/"
}

# rebind DEVICE: takes a device from its driver and gives it back.
rebind() {
	driver=$(readlink -f "/sys/bus/pci/devices/$1/driver")
	echo "$1" >"$driver/unbind" || return
	[ ! -e "/sys/bus/pci/devices/$1/driver" ] || return
	echo "$1" >"$driver/bind" || return
	[ -e "/sys/bus/pci/devices/$1/driver" ]
}

echo "load"
modprobe xen-privcmd
echo "dom0_pages_before $(xen-pages dom0)" >>/out/facts
insmod "$driver_file" || fail "the driver does not load"
for module in nvme ata_piix ahci sd_mod e1000 ext4; do
	modprobe $module || fail "$module does not load"
done
echo "disks"
wait_for /dev/nvme0n1
wait_for /dev/sda
wait_for /dev/sdb
disk nvme nvme0n1
for block in sda sdb; do
	case $(driver_of_block $block) in
	ata_piix) disk ide $block ;;
	ahci) disk ahci $block ;;
	esac
done
echo "network"
network
echo "DMA engine"
engine

cp "$stats" /out/stats.json
cat /sys/kernel/debug/xen_swiotlb_rs/summary

echo "unbind, bind, unload"
check "unload while used is refused" sh -c '! rmmod xen_swiotlb_rs 2>/dev/null'
check "unbind and bind the IDE controller" rebind "$(pci_of ata_piix)"
wait_for_block ata_piix
block=$(block_of ata_piix)
check "the IDE disk works again" sh -c "dd if=/dev/$block of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null"
for driver in nvme ata_piix ahci e1000 xen_swiotlb_rs_edu; do
	unbind_all $driver
done
check "unload" rmmod xen_swiotlb_rs
echo "pages_taken $(dmesg | sed -n 's/.*xen_swiotlb_rs: unloaded: \([0-9]*\) pages.*/\1/p')" >>/out/facts
echo "pages_returned $(dmesg | sed -n 's/.*xen_swiotlb_rs: unloaded: .*, \([0-9]*\) went back.*/\1/p')" >>/out/facts
rmmod xen_swiotlb_rs_edu
echo "dom0_pages_after $(xen-pages dom0)" >>/out/facts
echo "checks_failed $failures" >>/out/facts
[ "$failures" = 0 ]
