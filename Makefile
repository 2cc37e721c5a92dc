# SPDX-License-Identifier: GPL-2.0
#
# For people; kbuild reads Kbuild.  `make help` tells what there is.

export V KVER SUITE MIRROR

.PHONY: module demo test bench limits kunit host-test fuzz dom0-test soak zoo lint shell clean help

ifneq ($(KDIR),)

# Plain kbuild with this machine's own tools, against a full kernel build folder.  The
# results stay out of the sources unless MO= says otherwise.
MO ?= $(CURDIR)/out/kdir

module:
	@scripts/lib/kdir.sh '$(or $(O),$(KDIR))' '$(LLVM)'
	@mkdir -p '$(MO)'
	+$(MAKE) -C '$(KDIR)' M='$(CURDIR)' MO='$(MO)' $(if $(LLVM),LLVM=$(LLVM)) modules
	@echo '$(MO)/xen_swiotlb_rs.ko'

else

module:
	@scripts/build-module

endif

demo:
	@scripts/demo

test:
	@scripts/test

zoo:
	@scripts/zoo

bench:
	@scripts/bench

limits:
	@scripts/limits

kunit:
	@scripts/kunit

host-test:
	@scripts/host-test

fuzz:
	@scripts/fuzz

dom0-test:
	@scripts/test scenarios demo

soak:
	@scripts/soak

lint:
	@scripts/lint

shell:
	@scripts/build-module >&2
	@scripts/dom0 --interactive

# Also what a kbuild run without MO= leaves beside the sources.
clean:
	@rm -rf out
	@find . -path ./.git -prune -o -type f \( -name '*.o' -o -name '*.ko' -o -name '*.mod' \
		-o -name '*.mod.c' -o -name '.*.cmd' -o -name '.*.d' -o -name '*.rmeta' -o -name '*.a' \
		-o -name '*_generated.rs' -o -name modules.order -o -name Module.symvers \) -exec rm {} +

help:
	@echo 'make                  build xen_swiotlb_rs.ko for the suite'\''s stock kernel'
	@echo 'make KVER=<release>   the same for that Debian kernel'
	@echo 'make KDIR=<folder>    for your own kernel: its full build folder (with Rust metadata)'
	@echo '                      [LLVM=1] [MO=<folder for the results>] [O=<folder with .config>]'
	@echo 'make demo             boot Xen and dom0 in QEMU with the driver at work'
	@echo 'make shell            the same, with a shell in dom0'
	@echo 'make test             everything below; exit status 1 if anything fails'
	@echo 'make lint             rustfmt, Clippy, checkpatch, shellcheck and the house rules'
	@echo 'make host-test        the pure logic, on this machine'
	@echo 'make fuzz             the same with made-up inputs, a minute for each target'
	@echo 'make kunit            the KUnit suites, without a hypervisor and as dom0'
	@echo 'make dom0-test        the scenarios in a booted dom0'
	@echo 'make soak             one of them, for ten million maps and unmaps'
	@echo 'make zoo              real devices of many kinds, their stock drivers, in many layouts'
	@echo 'make bench            measure it against the C driver, in exact instructions'
	@echo 'make limits           compare what disks'\'' drivers may ask for: bare metal, C, ours'
	@echo 'make clean            remove what was built in the checkout (the cache stays)'
	@echo 'V=1 shows whole logs; SUITE=sid takes kernels and tools from sid.'
