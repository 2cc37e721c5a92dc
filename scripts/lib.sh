# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What every script on the host shares: where things are, how to speak, how to fail.
# Sourced, never run.  The sourcing script sets `top` to the checkout first.

# Everything downloaded or built lives here, outside the checkout.
cache=${XEN_SWIOTLB_RS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/xen-swiotlb-rs}
SUITE=${SUITE:-trixie-backports}
V=${V:-0}
export SUITE V

say() {
	printf '==> %s\n' "$*" >&2
}

die() {
	printf '%s: error: %s\n' "$(basename "$0")" "$1" >&2
	shift
	for line in "$@"; do printf '    %s\n' "$line" >&2; done
	exit 1
}

# The comment block at the head of a script is its manual.
usage() {
	sed -n '3,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
	exit "${1:-0}"
}

# refuse ARGUMENT: one that the script does not know.
refuse() {
	printf '%s: error: unknown argument '\''%s'\''\n    See scripts/%s --help.\n' \
		"$(basename "$0")" "$1" "$(basename "$0")" >&2
	exit 2
}

# need_space DIR MIB: fails early and clearly instead of in the middle of a build.
need_space() {
	free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }')
	[ "$free" -ge "$2" ] || die "only $free MiB free for $1, $2 MiB are needed" \
		"Free some space, or set XEN_SWIOTLB_RS_CACHE to a folder on a larger disk." \
		"Nothing is lost: the next run goes on where this one stopped."
}

# logged NAME CMD...: runs CMD, its output in a log (or on the terminal with V=1), a dot a second.  Standard
# output is left alone: it is for what a script has found.
logged() {
	name=$1
	shift
	mkdir -p "$cache/log"
	log=$cache/log/$name.log
	start=$(date +%s)
	if [ "$V" = 1 ]; then
		"$@" >&2 || return
	else
		"$@" >"$log" 2>&1 &
		pid=$!
		while kill -0 "$pid" 2>/dev/null; do
			sleep 1
			printf '.' >&2
		done
		printf ' %s s\n' "$(($(date +%s) - start))" >&2
		wait "$pid" || {
			tail -n 15 "$log" | sed 's/^/    | /' >&2
			printf '    (whole log: %s)\n' "$log" >&2
			return 1
		}
	fi
}
