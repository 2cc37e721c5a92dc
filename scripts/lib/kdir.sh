#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Usage: scripts/lib/kdir.sh BUILD_FOLDER [LLVM]
#
# Says clearly why the driver cannot be built against BUILD_FOLDER, where kbuild would
# fail with a riddle.  LLVM is what will be given to kbuild as LLVM=.
set -eu

die() {
	printf 'KDIR: error: %s\n' "$1" >&2
	shift
	for line in "$@"; do printf '    %s\n' "$line" >&2; done
	exit 1
}

case ${1:-} in
-h | --help | '')
	sed -n '3,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
	exit 0
	;;
esac
build=$1 llvm=${2:-}

[ -d "$build" ] || die "there is no folder '$build'" "Name the folder in which a kernel was built."
[ -f "$build/.config" ] || die "'$build' has no .config" \
	"Configure and build the kernel there first. Built with O=? Then name that folder as KDIR or O=."

# on OPTION: whether the kernel has it built in.
on() {
	grep -q "^CONFIG_$1=y" "$build/.config"
}
on RUST || die "the kernel in '$build' was configured without Rust (CONFIG_RUST is not y)" \
	"Ask it why: make -C '$build' rustavailable. Then set CONFIG_RUST=y and build it again."
on XEN_PV && on SWIOTLB_XEN || die "the kernel in '$build' cannot be a Xen PV domain with devices" \
	"Set CONFIG_XEN_PV=y and CONFIG_XEN_PV_DOM0=y and build it again."
on MODULES || die "the kernel in '$build' has no modules (CONFIG_MODULES is not y)" \
	"Set it, or build the driver in: scripts/overlay puts it into a kernel tree."
! on CFI || die "the kernel in '$build' has CONFIG_CFI=y, which the driver does not support"

[ -f "$build/rust/libkernel.rmeta" ] || die "'$build' has no Rust metadata (rust/libkernel.rmeta)" \
	"A header package is not enough. In a tree of your own: make prepare modules_prepare." \
	"For a Debian kernel: make KVER=<release> rebuilds the metadata from its source."

if on CC_IS_CLANG; then
	[ -n "$llvm" ] || die "the kernel in '$build' was built by clang" "Add LLVM=1 (or LLVM=-19 and the like)."
elif [ -n "$llvm" ]; then
	die "the kernel in '$build' was built by gcc" "Leave LLVM= out."
fi

built=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$/\1/p' "$build/.config")
found=$("${RUSTC:-rustc}" --version 2>/dev/null) || die "there is no rustc on this machine" \
	"The kernel was built by: $built"
[ "$built" = "$found" ] || die "the kernel's Rust metadata is of another compiler" \
	"The kernel was built by: $built" "Here is:                 $found" \
	"Use the former (RUSTC=), or build the kernel again."
