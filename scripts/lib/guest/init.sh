#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The first process in dom0.  Mounts what a system needs, loads the driver and the
# modules, runs the script, and tells the machine outside what came of it.
#
# Script output and results leave through I/O ports of their own: they work without DMA, so
# the driver under test cannot break them, and kernel messages, which go to the console,
# cannot garble them.
#
# /etc/run is the runner's: output_port, records_port, driver, params, modules, interactive.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
export PATH=/usr/tools:/bin HOME=/ TERM="${TERM:-vt100}"
hostname dom0
ip link set lo up

output_port='' records_port='' driver='' params='' modules='' interactive=''
# shellcheck disable=SC1091 # is there in dom0
. /etc/run

# tell WHAT [DETAIL]: a record for the runner; see outcome.py.
tell() {
	if [ -n "$interactive" ]; then echo "init: $*"; else echo "$*" | outport "$records_port"; fi
}

# failed WHAT DETAIL: without what was asked for, the script is not run; a person may go on.
failed() {
	tell "$1-failed $(echo "$2" | tr '\n' ' ')"
	[ -n "$interactive" ] || poweroff -f
}

tell init
if [ -n "$driver" ]; then
	# shellcheck disable=SC2086 # one word a parameter
	if answer=$(insmod "$driver" $params 2>&1); then tell driver; else failed driver "$answer"; fi
fi
for module in $modules; do
	answer=$(modprobe "$module" 2>&1) || failed "$module" "$answer"
done
[ ! -d /proc/xen ] || mount -t xenfs xenfs /proc/xen 2>/dev/null

cd /
if [ -n "$interactive" ]; then
	echo "dom0 is up; Ctrl-A x ends it."
	setsid cttyhack sh
	poweroff -f
fi

tell script
# What comes after the script leaves by a process that has its rights now: lockdown takes them.
mkfifo /run/output /run/records
outport "$records_port" </run/records &
recorder=$!
exec 9>/run/records
outport "$output_port" </run/output 9>&- &
sender=$!
/etc/script </dev/null >/run/output 2>&1 9>&-
status=$?
kill -TERM "$sender"
wait "$sender"
sync
if [ -n "$(ls -A /out)" ]; then
	tar -c -C /out . | gzip -1 >/tmp/out.tgz
	echo "out $(stat -c %s /tmp/out.tgz)" >&9
	cat /tmp/out.tgz >&9
fi
echo "status $status" >&9
exec 9>&-
wait "$recorder"
poweroff -f
