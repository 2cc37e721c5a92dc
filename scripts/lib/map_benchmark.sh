#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Usage: map_benchmark.sh RELEASE FOLDER
#
# Builds the kernel's own benchmark of DMA mappings, unmodified, from the sources of that
# release: a module, FOLDER/tests/dma_map_benchmark.ko, and the program that drives it,
# FOLDER/usr/tools/dma_map_benchmark.  Runs inside the tool root.
set -eu
release=$1 folder=$2
kernel=/cache/kernel/$release
source=$kernel/build/source
work=/cache/map-benchmark/$release
mkdir -p "$work/include/linux" "$folder/tests" "$folder/usr/tools"

# first_of FILE...: the one that this kernel has; they move between releases.
first_of() {
	for file in "$@"; do
		if [ -f "$source/$file" ]; then
			echo "$source/$file"
			return
		fi
	done
	echo "map_benchmark.sh: Linux $release has none of: $*" >&2
	return 1
}

cp "$source/kernel/dma/map_benchmark.c" "$work/"
# Meant to be built in, it says its licence in a comment only, and calls what modules cannot:
# to keep its threads on a node, which nobody asks it to.
cat >"$work/rest.c" <<'END'
// SPDX-License-Identifier: GPL-2.0
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>

void kthread_bind_mask(struct task_struct *task, const struct cpumask *mask)
{
	set_cpus_allowed_ptr(task, mask);
}

MODULE_LICENSE("GPL");
END
printf 'obj-m := dma_map_benchmark.o\ndma_map_benchmark-y := map_benchmark.o rest.o\n' >"$work/Kbuild"
make -C "$kernel/build" CC="$(cat "$kernel/cc")" -j"$JOBS" M="$work" modules
strip --strip-debug -o "$folder/tests/dma_map_benchmark.ko" "$work/dma_map_benchmark.ko"

header=$(first_of include/uapi/linux/map_benchmark.h include/linux/map_benchmark.h)
program=$(first_of tools/dma/dma_map_benchmark.c tools/testing/selftests/dma/dma_map_benchmark.c)
cp "$header" "$work/include/linux/"
gcc -O2 -static -s -D_GNU_SOURCE -I "$work/include" -o "$folder/usr/tools/dma_map_benchmark" "$program"
