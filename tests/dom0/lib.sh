# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What scenarios share inside dom0; there it is /lib/test.sh.  Sourced, never run.

failures=0

# fail MESSAGE: the scenario ends here.
fail() {
	echo "not ok: $*"
	exit 1
}

# check NAME COMMAND...: says whether COMMAND succeeded, counts failures, goes on.
check() {
	name=$1
	shift
	if "$@"; then
		echo "  ok: $name"
	else
		echo "  not ok: $name"
		failures=$((failures + 1))
	fi
}

# wait_for PATH [SECONDS]: until it exists.
wait_for() {
	tries=$((${2:-30} * 5))
	until [ -e "$1" ]; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || fail "$1 did not appear within ${2:-30} s"
		sleep 0.2
	done
}

# pci_above PATH: the PCI device that a sysfs object hangs from.
pci_above() {
	readlink -f "$1" | grep -o '[0-9a-f]\{4\}:[0-9a-f]\{2\}:[0-9a-f]\{2\}\.[0-7]' | tail -n 1
}

pci_of_block() {
	pci_above "/sys/class/block/$1"
}

pci_of_net() {
	pci_above "/sys/class/net/$1"
}

# pci_of DRIVER: the devices bound to it.
pci_of() {
	for link in "/sys/bus/pci/drivers/$1/"[0-9a-f]*:*; do
		[ ! -e "$link" ] || basename "$link"
	done
}

# driver_of DEVICE: the driver it is bound to.
driver_of() {
	[ ! -e "/sys/bus/pci/devices/$1/driver" ] || basename "$(readlink -f "/sys/bus/pci/devices/$1/driver")"
}

driver_of_block() {
	driver_of "$(pci_of_block "$1")"
}

# block_of DRIVER: the disks behind a PCI driver.
block_of() {
	for disk in /sys/block/*; do
		[ "$(driver_of_block "${disk##*/}")" != "$1" ] || echo "${disk##*/}"
	done
}

# wait_for_block DRIVER: until a disk is there.
wait_for_block() {
	tries=150
	until [ -n "$(block_of "$1")" ]; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || fail "no disk of $1 within 30 s"
		sleep 0.2
	done
	wait_for "/dev/$(block_of "$1" | head -n 1)"
}

unbind() {
	echo "$1" >"/sys/bus/pci/devices/$1/driver/unbind"
}

# unbind_all DRIVER: takes every device from it.
unbind_all() {
	for device in $(pci_of "$1"); do
		unbind "$device"
	done
}

# finish: the scenario's end; its status tells whether a check failed.
finish() {
	[ "$failures" = 0 ] || echo "$failures failed"
	[ "$failures" = 0 ]
	exit
}

# The driver, as scenarios that load it themselves find it.
# shellcheck disable=SC2034 # scenarios use it
driver_file=/lib/modules/$(uname -r)/extra/xen_swiotlb_rs.ko

# Xen's own counts of pages, exact: --tool xen-pages, --module xen-privcmd.
dom0_pages() {
	xen-pages dom0
}

xen_free_pages() {
	xen-pages free
}

# xen_low_pages [BITS]: free pages below 2^BITS, 4 GiB unless said otherwise.
xen_low_pages() {
	xen-pages below "${1:-32}"
}

# monitor_open: QEMU's monitor is at hand; needs --monitor.
monitor_open() {
	request=0
	stty -F /dev/ttyS1 115200 raw -echo
	exec 3<>/dev/ttyS1
	# The kernel's search for the port has sent something; this byte has it forgotten.
	printf '\377' >&3
	qemu qmp_capabilities || fail "QEMU's monitor does not answer"
}

# monitor_line: the next line that QEMU says, in $answer.
monitor_line() {
	# shellcheck disable=SC3045 # busybox has it
	read -r -t 30 answer <&3
}

# qemu COMMAND [ARGUMENTS]: has QEMU do something; ARGUMENTS are the inside of a JSON object.
# What QEMU says besides its answer is passed over.
qemu() {
	request=$((request + 1))
	echo "{\"execute\":\"$1\",\"arguments\":{${2:-}},\"id\":\"$request\"}" >&3
	while monitor_line; do
		case $answer in
		*"\"id\": \"$request\""*)
			case $answer in *'"return"'*) return 0 ;; esac
			echo "$1: $answer"
			return 1
			;;
		esac
	done
	echo "$1: no answer"
	return 1
}

# ejected ID: waits until dom0 has ejected the device that QEMU knows by that name.
ejected() {
	while monitor_line; do
		case $answer in
		*'"DEVICE_DELETED"'*"\"device\": \"$1\""*) return 0 ;;
		esac
	done
	return 1
}

# large_requests DISK: requests as large as the device and the DMA backend allow; the
# kernel's default would hide their limit.  Prints it in KiB.
large_requests() {
	cat "/sys/block/$1/queue/max_hw_sectors_kb" >"/sys/block/$1/queue/max_sectors_kb"
	cat "/sys/block/$1/queue/max_sectors_kb"
}

# disk_digest DISK: of all that a disk holds, read past the page cache.
disk_digest() {
	dd if="/dev/$1" bs=4M iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1
}

# disk_is_given NAME DISK: DISK still holds what the runner's --disk NAME=...:random put there.
disk_is_given() {
	grep -q "^$(disk_digest "$2")  $1\$" /etc/disks.sha256
}

# disk_final NAME DISK: after the last write; the runner compares it with NAME's image.
disk_final() {
	sync
	echo "$(disk_digest "$2")  $1" >>/out/disks.sha256
}

# round DISK [PLACE]: a disk takes 2 MiB of new data past the page cache, and gives the same back: its
# first ones, unless another place is named.
round() {
	data=/tmp/$1.${2:-0}
	# A task that is frozen for a suspend gets less than it asked for at a time.
	dd if=/dev/urandom of="$data.out" bs=1M count=2 iflag=fullblock 2>/dev/null
	dd if="$data.out" of="/dev/$1" bs=2M seek="${2:-0}" oflag=direct 2>/dev/null || return
	dd if="/dev/$1" of="$data.in" bs=2M count=1 skip="${2:-0}" iflag=direct 2>/dev/null || return
	cmp "$data.out" "$data.in"
}

# work DISK...: each disk is written and read past the page cache, and every byte is compared, over
# and over, until `work_ends`.
work() {
	rm -f /tmp/work.stop /tmp/work.wrong
	workers=
	for disk; do
		echo 0 >"/tmp/$disk.rounds"
		(
			rounds=0
			until [ -e /tmp/work.stop ]; do
				round "$disk" || {
					: >/tmp/work.wrong
					exit
				}
				rounds=$((rounds + 1))
				echo "$rounds" >"/tmp/$disk.rounds"
			done
		) &
		workers="$workers $!"
	done
}

# work_goes_on DISK...: each disk does a round that is begun from now on.
work_goes_on() {
	for disk; do
		goal=$(($(cat "/tmp/$disk.rounds") + 2))
		tries=300
		until [ "$(cat "/tmp/$disk.rounds")" -ge "$goal" ]; do
			tries=$((tries - 1))
			[ "$tries" -gt 0 ] && [ ! -e /tmp/work.wrong ] || return 1
			sleep 0.2
		done
	done
}

# work_ends: whether no byte ever differed, and no request failed.
work_ends() {
	: >/tmp/work.stop
	# shellcheck disable=SC2086 # a word a process
	wait $workers
	[ ! -e /tmp/work.wrong ]
}

# other_host: a network namespace of its own; its process, for `inside`, is $other.
other_host() {
	unshare -n sleep 100000 &
	other=$!
	tries=50
	until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || fail "no second network namespace"
		sleep 0.1
	done
}

inside() {
	nsenter -t "$other" -n "$@"
}

here() {
	"$@"
}

# transfer SENDER RECEIVER ADDRESS: /tmp/sent goes from one host (`here` or `inside`) to
# the other, which has ADDRESS, and is compared.  Bounded, whatever happens: the sender
# holds its side open until the receiver has every byte.
transfer() {
	rm -f /tmp/received
	size=$(stat -c %s /tmp/sent)
	$2 timeout 120 nc -l -p 5000 -e dd bs=4096 of=/tmp/received 2>/dev/null &
	receiver=$!
	sleep 1
	(
		cat /tmp/sent
		sleep 120
	) | $1 timeout 120 nc "$3" 5000 &
	sender=$!
	tries=600
	until [ "$(stat -c %s /tmp/received 2>/dev/null)" = "$size" ] || [ "$tries" = 0 ]; do
		tries=$((tries - 1))
		sleep 0.2
	done
	kill "$receiver" "$sender" 2>/dev/null
	cmp /tmp/sent /tmp/received
}
