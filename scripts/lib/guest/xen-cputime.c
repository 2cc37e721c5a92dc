// SPDX-License-Identifier: GPL-2.0
/*
 * xen-cputime: the time that dom0's processors have run, in ns, as Xen counts it.
 *
 * Idle time is not in it, so where the emulator gives each instruction one nanosecond it is the
 * number of instructions that dom0 has taken, those of Xen on its behalf included.
 *
 * Needs the module xen-privcmd.  Xen's interface: xen/include/public/domctl.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define HYPERVISOR_DOMCTL 36
#define DOMCTL_GETDOMAININFO 5
/* The interface's version changes with Xen's, this command's layout seldom. */
#define DOMCTL_OLDEST 0x15
#define DOMCTL_NEWEST 0x20

struct privcmd_hypercall {
	uint64_t op;
	uint64_t arg[5];
};

#define PRIVCMD_HYPERCALL _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))

struct getdomaininfo {
	uint32_t command, version;
	uint16_t wanted, padding[3];
	uint16_t domain, more_padding;
	uint32_t flags;
	uint64_t total_pages, max_pages, outstanding_pages, shared_pages, paged_pages;
	uint64_t shared_info_frame;
	uint64_t cpu_time;
	uint8_t rest[128];
};

int main(void)
{
	/* Xen reads and writes it in place: it must be present all the while. */
	struct getdomaininfo *call = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
	struct privcmd_hypercall hypercall = {
		.op = HYPERVISOR_DOMCTL, .arg = { (uintptr_t)call },
	};
	int privcmd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);
	unsigned int version;

	if (privcmd < 0 || call == MAP_FAILED) {
		perror("xen-cputime: /dev/xen/privcmd");
		return 1;
	}
	for (version = DOMCTL_OLDEST; version <= DOMCTL_NEWEST; version++) {
		*call = (struct getdomaininfo){
			.command = DOMCTL_GETDOMAININFO,
			.version = version,
		};
		if (!ioctl(privcmd, PRIVCMD_HYPERCALL, &hypercall)) {
			printf("%llu\n", (unsigned long long)call->cpu_time);
			return 0;
		}
		if (errno != EACCES)
			break;
	}
	fprintf(stderr, "xen-cputime: %s\n", strerror(errno));
	return 1;
}
