#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# xl's hotplug script for a `phy:` disk: tells the backend which device it is.
case $1 in
add)
	params=$(xenstore-read "$XENBUS_PATH/params")
	device=$(stat -L -c '%t:%T' "$params") || exit 1
	xenstore-write "$XENBUS_PATH/physical-device" "$device" "$XENBUS_PATH/hotplug-status" connected
	;;
esac
