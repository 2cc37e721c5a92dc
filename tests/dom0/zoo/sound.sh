# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# A sound card, in the zoo: it plays and records, in time, and silence is what it hears.
# All of its DMA is coherent memory.
: "${at:?}"

card_there() {
	for card in /proc/asound/card[0-9]; do
		[ "$(pci_above "/sys/class/sound/${card##*/}")" != "$at" ] || [ ! -c /dev/dsp ] || return 0
	done
	return 1
}

comes() {
	modprobe snd-pcm-oss && until_true 30 card_there
}

# position p|c: how far the card has read or written its buffer, in frames.
position() {
	sed -n 's/^hw_ptr *: //p' "$card"/pcm0"$1"/sub0/status
}

# moves p|c: its position goes on.
moves() {
	until_true 10 opened "$1" || return
	was=$(position "$1")
	until_true 10 moved "$1"
}

opened() {
	[ -n "$(position "$1")" ]
}

moved() {
	now=$(position "$1")
	[ -n "$now" ] && [ "$now" -gt "$was" ]
}

# plays: a tone of two seconds, 8000 bytes each as the device is opened.
plays() {
	dd if=/dev/urandom of=/dev/dsp bs=1000 count=16 2>/dev/null &
	player=$!
	sleep 0.5
	moves p
	status=$?
	wait $player && [ $status = 0 ]
}

# records: what it hears is silence, which is written by the card over what the kernel had there.
records() {
	dd if=/dev/dsp of=/tmp/heard bs=1000 count=8 2>/dev/null &
	listener=$!
	sleep 0.5
	moves c
	status=$?
	wait $listener && [ $status = 0 ] || return
	tr '\0' '\200' </dev/zero | head -c 8000 >/tmp/silence
	compared 8000 "$(cmp -l /tmp/silence /tmp/heard 2>&1 | wc -l)"
}

exercise() {
	plays || { echo "it does not play"; return 1; }
	records || { echo "it does not record"; return 1; }
}

holds() {
	exercise
}

# load: who is told to end lets its player come to its end, which would keep the card from others.
load() {
	(
		over=''
		trap over=1 TERM
		while [ -z "$over" ] && [ -c /dev/dsp ] && dd if=/dev/zero of=/dev/dsp bs=1000 count=8 2>/dev/null; do :; done
	) &
	busy="$busy $!"
}

ends() {
	:
}
