#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# xen-tools-start: brings up in dom0 what `xl` works with: the store, the console daemon.
set -e
for module in xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xenfs xen-blkback; do
	modprobe "$module"
done
mountpoint -q /proc/xen 2>/dev/null || [ -e /proc/xen/capabilities ] || mount -t xenfs xenfs /proc/xen
mkdir -p /run/xen /run/xenstored /var/lib/xen /var/lib/xenstored /var/log/xen/console
[ -e /etc/xen/xl.conf ] || : >/etc/xen/xl.conf
[ -e /var/run ] || ln -s ../run /var/run
[ -e /var/lock ] || ln -s ../run /var/lock
xenstored --pid-file /run/xenstored.pid
tries=50
until xenstore-exists / 2>/dev/null; do
	tries=$((tries - 1))
	[ "$tries" -gt 0 ] || {
		echo "xen-tools-start: xenstored does not answer" >&2
		exit 1
	}
	sleep 0.2
done
xen-init-dom0 >/dev/null
xenconsoled --log=all --log-dir=/var/log/xen/console
