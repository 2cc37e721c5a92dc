#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The first process in dom0.  Mounts what a system needs, loads the driver and the
# modules, runs the script, and tells the machine outside what came of it.
#
# ttyS1 carries the script's output and nothing else; ttyS3 carries what the runner
# reads (lines of "what [detail]", then the archive of /out).  Both are ISA ports: they
# work without DMA, so the driver under test cannot break them.  Kernel messages go to
# the console.
#
# /etc/run is written by the runner: driver, params, modules, interactive.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/shm /dev/pts /tmp /run /out /mnt /var/log/xen /var/lib /etc
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
export PATH=/usr/tools:/bin HOME=/ TERM=vt100
hostname dom0
ip link set lo up

driver='' params='' modules='' interactive=''
. /etc/run

if [ -n "$interactive" ]; then
	tell() { echo "$*"; }
else
	stty -F /dev/ttyS1 raw -echo 115200 && stty -F /dev/ttyS3 raw -echo 115200 || {
		echo "init: no serial port for results"
		poweroff -f
	}
	tell() { echo "$*" >/dev/ttyS3; }
fi

# finish STATUS: everything is said; what is in /out goes the same way, then the machine ends.
finish() {
	sync
	if [ -n "$(ls -A /out)" ]; then
		tar -c -C /out . | gzip -1 >/tmp/out.tgz
		tell "out $(stat -c %s /tmp/out.tgz)"
		cat /tmp/out.tgz >/dev/ttyS3
	fi
	tell "status $1"
	poweroff -f
}

tell "init $(cut -d' ' -f1 /proc/uptime)"
if [ -n "$driver" ]; then
	# shellcheck disable=SC2086 # one word a parameter
	if answer=$(insmod "$driver" $params 2>&1); then
		tell "driver"
	else
		dmesg | tail -n 5
		tell "driver-failed $answer"
		[ -n "$interactive" ] || poweroff -f
	fi
fi
for module in $modules; do
	answer=$(modprobe "$module" 2>&1) || {
		tell "module-failed $module $answer"
		[ -n "$interactive" ] || poweroff -f
	}
done
[ ! -d /proc/xen ] || mount -t xenfs xenfs /proc/xen 2>/dev/null

if [ -n "$interactive" ]; then
	echo "dom0 is up. Ctrl-A x ends it."
	cd / && setsid cttyhack sh
	poweroff -f
fi
tell "script $(cut -d' ' -f1 /proc/uptime)"
cd /
/etc/script </dev/null >/dev/ttyS1 2>&1
finish $?
