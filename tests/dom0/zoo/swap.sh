# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Swap on a disk, in the zoo: files in memory, more than there is room for beside the system, go out and come back.
: "${at:?}"
# shellcheck source=tests/dom0/zoo/disk.sh
. /zoo/disk.sh
least_kb=16384

comes() {
	until_true 60 disk_there
}

# fill_memory KB: blocks in files, each with its place and its sum; then all are read.
fill_memory() {
	fio --name=zoo --directory=/mnt --size="$1k" --bs=64k --rw=write --fallocate=none --invalidate=0 \
		--verify=crc32c --verify_fatal=1 --output-format=json >/tmp/fio || { tail -n 5 /tmp/fio; return 1; }
	compared "$(verified_by_fio)" 0
}

used_kb() {
	awk 'NR == 2 { print $4 }' /proc/swaps
}

lives() {
	come
	mkswap "/dev/$disk" >/dev/null
	expect "the disk is swap" swapon "/dev/$disk"
	total_kb=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
	mount -t tmpfs -o size=$((total_kb * 2))k tmpfs /mnt
	expect "more is written than there is room for, and all of it is there" fill_memory $((total_kb * 3 / 4))
	echo "$(used_kb) KiB of swap in use, of $total_kb KiB of memory"
	expect "swap holds much of it" [ "$(used_kb)" -ge $least_kb ]
	umount /mnt
	expect "swap is turned off" swapoff "/dev/$disk"
}

ends() {
	:
}
