# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What scenarios share inside dom0; there it is /lib/test.sh.  Sourced, never run.

failures=0

# load_driver [PARAM...]: our driver, which the runner put there.
load_driver() {
	insmod "/lib/modules/$(uname -r)/extra/xen_swiotlb_rs.ko" "$@"
}

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
