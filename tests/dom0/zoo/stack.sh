# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# A filesystem, in the zoo, and the layers between it and a disk: dm-crypt, software RAID over
# parts of the disk.
: "${at:?}" "${filesystem:?}"
layers=${layers:-}
# There is no udev to make the nodes.
export DM_DISABLE_UDEV=1
# shellcheck source=tests/dom0/zoo/disk.sh
. /zoo/disk.sh

comes() {
	until_true 60 disk_there || return
	requests
}

sectors() {
	blockdev --getsz "$1"
}

# layer NAME TABLE: a device-mapper device on top of $top, which it becomes.
layer() {
	dmsetup create "$1" --table "$2" && until_true 10 [ -b "/dev/mapper/$1" ] || return
	made="$1 $made"
	top=/dev/mapper/$1
}

crypt() {
	key=$(od -An -v -tx1 -N64 /dev/urandom | tr -d ' \n')
	layer zoo-crypt "0 $(sectors "$top") crypt aes-xts-plain64 $key 0 $top 0"
}

# parts COUNT: equal parts of the disk, in $parts as a RAID table names them.
parts() {
	below=$top parts=''
	length=$(($(sectors "$below") / $1 / 2048 * 2048))
	for part in $(seq 0 $(($1 - 1))); do
		layer "zoo-part$part" "0 $length linear $below $((part * length))" || return
		parts="$parts - $top"
	done
}

raid1() {
	parts 2 && layer zoo-raid1 "0 $length raid raid1 1 0 2$parts"
}

raid5() {
	parts 3 && layer zoo-raid5 "0 $((2 * length)) raid raid5_ls 1 128 3$parts"
}

build() {
	top=/dev/$disk made=''
	modprobe dm-mod
	for module in dm-crypt xts dm-raid raid1 raid456; do modprobe $module; done
	for each in $layers; do $each || return; done
	modprobe "$filesystem"
	mkfs."$filesystem" -q "$top" || return
	mount -t "$filesystem" "$top" /mnt
}

# compare FILE COPY
compare() {
	compared "$(stat -c %s "$1")" "$(cmp -l "$1" "$2" 2>&1 | wc -l)"
}

# fill_it: many small files and a large one through the page cache, a large one past it, by several at a time.
fill_it() {
	mkdir /mnt/small
	for file in $small; do
		head -c $((700 + file * 977)) /tmp/data >"/mnt/small/$file" &
	done
	dd if=/tmp/data of=/mnt/direct bs=3M oflag=direct 2>/dev/null &
	direct=$!
	cp /tmp/data /mnt/data && wait $direct && wait && sync
}

same() {
	echo 3 >/proc/sys/vm/drop_caches
	for file in $small; do
		head -c $((700 + file * 977)) /tmp/data >/tmp/one
		compare /tmp/one "/mnt/small/$file" || return
	done
	dd if=/mnt/data of=/tmp/seen bs=4M iflag=direct 2>/dev/null
	compare /tmp/data /mnt/direct && compare /tmp/data /mnt/data && compare /tmp/data /tmp/seen
}

sound() {
	case $filesystem in
	ext4) e2fsck -fn "$top" ;;
	xfs) xfs_repair -n "$top" ;;
	btrfs) btrfs check --readonly "$top" ;;
	esac >/tmp/sound 2>&1 || { tail -n 5 /tmp/sound; return 1; }
}

take_apart() {
	for each in $made; do dmsetup remove "$each" || return; done
}

exercise() {
	small=$(seq 1 20)
	dd if=/dev/urandom of=/tmp/data bs=1M count=6 2>/dev/null
	build || give_up "the stack is not built"
	expect "files are written" fill_it
	expect "they hold what was written" same
	umount /mnt
	expect "the filesystem is sound" sound
	expect "the stack is taken apart" take_apart
}

lives() {
	come
	exercise
}

ends() {
	:
}
