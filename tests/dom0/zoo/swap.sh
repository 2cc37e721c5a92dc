# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Swap on a disk, in the zoo: files in memory, more than dom0 has, go out and come back.
: "${at:?}"
# shellcheck source=tests/dom0/zoo/disk.sh
. /zoo/disk.sh
least_kb=65536

comes() {
	until_true 60 disk_there
}

# turned NUMBER: 4 MiB that differ from those of any other number in every page.
turned() {
	tail -c +$(($1 * 613)) /tmp/base
	head -c $(($1 * 613 - 1)) /tmp/base
}

fill_memory() {
	for file in $files; do
		turned "$file" | tee "/mnt/$file" | md5sum | cut -d' ' -f1 >"/tmp/sum$file" || return
	done
}

# same: by their sums; byte by byte only where that differs, since it takes long.
same() {
	for file in $files; do
		differ=0
		[ "$(md5sum <"/mnt/$file" | cut -d' ' -f1)" = "$(cat "/tmp/sum$file")" ] ||
			differ=$(turned "$file" | cmp -l - "/mnt/$file" 2>&1 | wc -l)
		compared 4194304 "$differ" || return
	done
}

used_kb() {
	awk 'NR == 2 { print $4 }' /proc/swaps
}

lives() {
	come
	mkswap "/dev/$disk" >/dev/null
	expect "the disk is swap" swapon "/dev/$disk"
	dd if=/dev/urandom of=/tmp/base bs=1M count=4 2>/dev/null
	total_kb=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
	files=$(seq 1 $((total_kb / 4096 + 8)))
	mount -t tmpfs -o size=$((total_kb * 2))k tmpfs /mnt
	expect "more is written than memory holds" fill_memory
	echo "$(used_kb) KiB of swap in use, of $total_kb KiB of memory"
	expect "swap holds much of it" [ "$(used_kb)" -ge $least_kb ]
	expect "it is all there" same
	umount /mnt
	expect "swap is turned off" swapoff "/dev/$disk"
}

ends() {
	:
}
