# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# A disk, in the zoo: all of it is written and read past the page cache, in requests as large as the driver allows,
# and by many small ones at a time.  /tmp/held is what it should hold.
: "${at:?}"
round=${round:-}

# disk_there: the disk behind the device, in $disk.
disk_there() {
	for disk in /sys/block/*; do
		disk=${disk##*/}
		[ "$(pci_of_block "$disk")" != "$at" ] || [ ! -b "/dev/$disk" ] || return 0
	done
	return 1
}

comes() {
	until_true 60 disk_there || return
	bytes=$(($(cat "/sys/block/$disk/size") * 512))
	requests
	[ -e /tmp/held ] || expect "it holds what the host put there" given
}

# requests: as large as the driver allows.  Only, all that a request maps must fit an aperture that
# cannot grow: else the disk's driver asks again for ever.
requests() {
	large_requests "$disk" >/dev/null
	case $round in
	tiny*) [ "$(cat "/sys/block/$disk/queue/max_sectors_kb")" -le 512 ] || echo 512 >"/sys/block/$disk/queue/max_sectors_kb" ;;
	esac
}

given() {
	dd if="/dev/$disk" of=/tmp/held bs=4M iflag=direct 2>/dev/null
	compared "$(stat -c %s /tmp/held)" 0
	grep -q "^$(sha256sum </tmp/held | cut -d' ' -f1)  image\$" /etc/disks.sha256
}

holds() {
	dd if="/dev/$disk" of=/tmp/seen bs=4M iflag=direct 2>/dev/null
	compared "$bytes" "$(cmp -l /tmp/held /tmp/seen 2>&1 | wc -l)" || return
	dd if=/dev/urandom of=/tmp/held bs=1M count=1 conv=notrunc 2>/dev/null
	dd if=/tmp/held of="/dev/$disk" bs=1M count=1 oflag=direct 2>/dev/null
}

# verified_by_fio: the bytes that it read and found right.
verified_by_fio() {
	sed -n '/"read" :/,/io_bytes/s/.*"io_bytes" : \([0-9]*\).*/\1/p' /tmp/fio
}

# shuffle: requests of many sizes in any order, several at a time; each block tells its place and its sum.
shuffle() {
	fio --name=zoo --filename="/dev/$disk" --direct=1 --ioengine=io_uring --iodepth=8 --rw=randwrite \
		--bsrange=512-128k --verify=crc32c --verify_fatal=1 --size="$bytes" --output-format=json >/tmp/fio ||
		return
	compared "$(verified_by_fio)" 0
}

exercise() {
	shuffle || { tail -n 5 /tmp/fio; return 1; }
	dd if=/dev/urandom of=/tmp/held bs=1M count=$((bytes >> 20)) 2>/dev/null
	dd if=/tmp/held of="/dev/$disk" bs=4M oflag=direct 2>/dev/null || return
	holds
}

# load: readers, so that what it holds stays known.
load() {
	for _ in 1 2 3; do
		(while dd if="/dev/$disk" of=/dev/null bs=256K iflag=direct 2>/dev/null; do :; done) &
		busy="$busy $!"
	done
}

ends() {
	disk_final image "$disk"
}
