# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2154
#
# How cargo is run in the tool root.  Sourced, never run; `cache` and `top` are set.

# On the host: a user who names a bundle of certificates (a proxy's, say) means it for
# the tool root too.
share_certificates() {
	mkdir -p "$cache"
	[ ! -f "${SSL_CERT_FILE:-}" ] || cp "$SSL_CERT_FILE" "$cache/certificates.crt"
}

# Inside: downloads and results in the cache.  Two checkouts do not share results: cargo
# would build all anew for each.
set_up_cargo() {
	mkdir -p "$cache/cargo"
	export CARGO_HOME="$cache/cargo" CARGO_TERM_COLOR=never
	CARGO_TARGET_DIR=$cache/host-test/$(stat -c %d-%i "$top")
	export CARGO_TARGET_DIR
	[ ! -f "$cache/certificates.crt" ] || export CARGO_HTTP_CAINFO="$cache/certificates.crt"
}
