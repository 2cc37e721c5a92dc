# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# A network card, in the zoo.  Its peer, an e1000 that keeps the kernel's own operations, is on
# another host: files go both ways by TCP, datagrams of all sizes there and back by UDP, and
# large frames where the card and its driver have them.
: "${at:?}" "${mtu:?}"
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
	inside ip link set "$peer" mtu "$mtu" up
	inside datagrams answer 7000 &
	dd if=/dev/urandom of=/tmp/sent bs=1M count=2 2>/dev/null
}

answers() {
	ping -c 1 -W 1 $peer_address >/dev/null 2>&1
}

comes() {
	[ -n "$other" ] || peer_comes
	until_true 30 card_there || return
	ip addr add $address/24 dev "$card" && ip link set "$card" mtu "$mtu" up && until_true 60 answers
}

# across SENDER RECEIVER ADDRESS
across() {
	transfer "$@" >/dev/null
	compared "$(stat -c %s /tmp/received)" "$(cmp -l /tmp/sent /tmp/received 2>&1 | wc -l)"
}

# datagrams_return COUNT: of all sizes up to what fits a frame, and twice that.
datagrams_return() {
	for largest in $((mtu - 28)) $((2 * mtu)); do
		said=$(datagrams ask $peer_address 7000 "$largest" "$1") || { echo "$said"; return 1; }
		# shellcheck disable=SC2086 # two numbers
		compared $said || return
	done
}

exercise() {
	across here inside $peer_address || { echo "a file does not go across"; return 1; }
	across inside here $address || { echo "a file does not come back"; return 1; }
	datagrams_return 300
}

holds() {
	across here inside $peer_address && datagrams_return 50
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
