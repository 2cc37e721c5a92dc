# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# A network card, in the zoo.  Its peer, an e1000 that keeps the kernel's own operations, is on
# another host: files go both ways by TCP, datagrams of all sizes there and back by UDP, large
# frames where the card and its driver have them, and XDP in the driver where it has that.
: "${at:?}" "${mtu:?}"
xdp=${xdp:-}
address=10.0.0.1 peer_address=10.0.0.2
other=''

# card_there: the card's name, in $card.
card_there() {
	for card in /sys/class/net/*; do
		card=${card##*/}
		[ "$(pci_of_net "$card")" != "$at" ] || return 0
	done
	return 1
}

# peer_comes: once; the peer and the one that answers datagrams stay on the other host.
peer_comes() {
	modprobe e1000
	other_host
	# shellcheck disable=SC2154 # other_host sets it
	peer=$(ls /sys/bus/pci/devices/0000:00:11.0/net)
	ip link set "$peer" netns "$other"
	inside ip addr add $peer_address/24 dev "$peer"
	inside datagrams answer 7000 &
	dd if=/dev/urandom of=/tmp/sent bs=1M count=2 2>/dev/null
}

answers() {
	ping -c 1 -W 1 $peer_address >/dev/null 2>&1
}

comes() {
	[ -n "$other" ] || peer_comes
	until_true 30 card_there || return
	ip addr add $address/24 dev "$card" && framed "$mtu"
}

# framed MTU: on both sides.
framed() {
	inside ip link set "$peer" mtu "$1" up && ip link set "$card" mtu "$1" up && until_true 60 answers
}

# across SENDER RECEIVER ADDRESS
across() {
	transfer "$@" >/dev/null
	compared "$(stat -c %s /tmp/received)" "$(cmp -l /tmp/sent /tmp/received 2>&1 | wc -l)"
}

# returned SENDER ADDRESS PORT LARGEST COUNT: datagrams of all sizes up to that.
returned() {
	said=$($1 datagrams ask "$2" "$3" "$4" "$5") || { echo "$said"; return 1; }
	# shellcheck disable=SC2086 # two numbers
	compared $said
}

# datagrams_return COUNT: up to what fits a frame, and twice that.
datagrams_return() {
	for largest in $((mtu - 28)) $((2 * mtu)); do
		returned here $peer_address 7000 "$largest" "$1" || return
	done
}

both_ways() {
	across here inside $peer_address || { echo "a file does not go across"; return 1; }
	across inside here $address || { echo "a file does not come back"; return 1; }
}

# through_xdp: the driver shows each frame to a program, with frames as large as it bears then.  Files pass;
# datagrams for a port at which nobody listens go back from the buffers that they came in.  The first are
# small, and more than the card's ring has buffers: those of before have no room for the program, and virtio-net
# drops what fills them.
through_xdp() {
	framed "$xdp" || { echo "no answer with frames of $xdp"; return 1; }
	xdp "$card" 7001 >/tmp/xdp 2>&1 &
	program=$!
	until_true 10 grep -q attached /tmp/xdp && until_true 60 answers &&
		returned inside $address 7001 1000 300 && both_ways &&
		returned inside $address 7001 $((xdp - 28)) 300
	status=$?
	[ $status = 0 ] || cat /tmp/xdp
	kill $program
	wait $program
	framed "$mtu" && return $status
}

exercise() {
	both_ways && datagrams_return 300 || return
	[ -z "$xdp" ] || through_xdp
}

holds() {
	until_true 60 answers && across here inside $peer_address && datagrams_return 50
}

load() {
	for _ in 1 2 3; do
		(while ping -c 1 -W 1 -s 40000 $peer_address >/dev/null 2>&1; do :; done) &
		busy="$busy $!"
	done
}

ends() {
	:
}
