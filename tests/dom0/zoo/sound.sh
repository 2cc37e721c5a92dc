# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# A sound card, in the zoo: it plays and records, in time, and silence is what it hears.
# All of its DMA is coherent memory.
: "${at:?}"

# What stands between a card and /dev/dsp is there before the first card.  A card that registers while ALSA's
# mixer for OSS initialises gets that mixer twice, and then never goes: the one half of an entry is lost, with
# a reference on the card (alsa_mixer_oss_init(), snd_register_oss_device()).
modprobe snd-pcm-oss || give_up "snd-pcm-oss does not load"

card_there() {
	for card in /proc/asound/card[0-9]; do
		[ "$(pci_above "/sys/class/sound/${card##*/}")" != "$at" ] || [ ! -c /dev/dsp ] || return 0
	done
	return 1
}

comes() {
	until_true 30 card_there
}

# position: how far the card has played, in frames.
position() {
	sed -n 's/^hw_ptr *: //p' "$card"/pcm0p/sub0/status
}

# moves: its position goes on.
moves() {
	until_true 10 opened || return
	was=$(position)
	until_true 10 moved
}

opened() {
	[ -n "$(position)" ]
}

moved() {
	now=$(position)
	[ -n "$now" ] && [ "$now" -gt "$was" ]
}

# plays: a tone of four seconds, 8000 bytes each as the device is opened: enough to be looked at twice.
plays() {
	dd if=/dev/urandom of=/dev/dsp bs=1000 count=32 2>/dev/null &
	player=$!
	moves
	status=$?
	wait $player && [ $status = 0 ]
}

# records: what it hears is silence, which is written by the card over what the kernel had there.
# It comes only as the card writes it.
records() {
	dd if=/dev/dsp of=/tmp/heard bs=1000 count=8 2>/dev/null || return
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
# A player that finds the card gone has made a file of that name, which would keep the next card from it.
load() {
	(
		over=''
		trap over=1 TERM
		while [ -z "$over" ] && [ -c /dev/dsp ] && dd if=/dev/zero of=/dev/dsp bs=1000 count=8 2>/dev/null; do :; done
		[ -c /dev/dsp ] || rm -f /dev/dsp
	) &
	busy="$busy $!"
}

ends() {
	:
}
