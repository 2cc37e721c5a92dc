// SPDX-License-Identifier: GPL-2.0
/*
 * xen-pages dom0|free|below BITS: a page count of Xen's, exact, in one hypercall.
 *
 *   dom0        the pages that Xen has given to this domain
 *   free        the free pages of the host
 *   below BITS  those of them whose machine addresses have at most BITS bits
 *
 * Needs the module xen-privcmd.  Xen's interface: xen/include/public/memory.h and sysctl.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096

#define HYPERVISOR_MEMORY_OP 12
#define XENMEM_CURRENT_RESERVATION 3
#define DOMID_SELF 0x7ff0

#define HYPERVISOR_SYSCTL 35
#define SYSCTL_AVAILHEAP 9
/* The interface's version changes with Xen's, this command's layout does not. */
#define SYSCTL_OLDEST 0x10
#define SYSCTL_NEWEST 0x40

struct privcmd_hypercall {
	uint64_t op;
	uint64_t arg[5];
};

#define PRIVCMD_HYPERCALL _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))

struct availheap {
	uint32_t command, version;
	uint32_t min_bits, max_bits;
	int32_t node;
	uint32_t padding;
	uint64_t bytes;
	uint8_t rest[128];
};

static int privcmd;

static long hypercall(unsigned int op, uint64_t first, uint64_t second)
{
	struct privcmd_hypercall call = { .op = op, .arg = { first, second } };
	long result = ioctl(privcmd, PRIVCMD_HYPERCALL, &call);

	return result < 0 ? -errno : result;
}

static long current_reservation(void *buffer)
{
	uint16_t *domain = buffer;

	*domain = DOMID_SELF;
	return hypercall(HYPERVISOR_MEMORY_OP, XENMEM_CURRENT_RESERVATION, (uintptr_t)domain);
}

static long free_pages(void *buffer, unsigned int bits)
{
	struct availheap *call = buffer;
	unsigned int version;
	long result = -EACCES;

	for (version = SYSCTL_OLDEST; version <= SYSCTL_NEWEST && result == -EACCES; version++) {
		*call = (struct availheap){
			.command = SYSCTL_AVAILHEAP,
			.version = version,
			.max_bits = bits,
			.node = -1,
		};
		result = hypercall(HYPERVISOR_SYSCTL, (uintptr_t)call, 0);
	}
	return result < 0 ? result : (long)(call->bytes / PAGE_BYTES);
}

int main(int argc, char **argv)
{
	/* Xen reads and writes it in place: it must be present all the while. */
	void *buffer = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
	long pages;

	privcmd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);
	if (privcmd < 0 || buffer == MAP_FAILED) {
		perror("xen-pages: /dev/xen/privcmd");
		return 1;
	}
	if (argc == 2 && !strcmp(argv[1], "dom0")) {
		pages = current_reservation(buffer);
	} else if (argc == 2 && !strcmp(argv[1], "free")) {
		pages = free_pages(buffer, 0);
	} else if (argc == 3 && !strcmp(argv[1], "below")) {
		pages = free_pages(buffer, atoi(argv[2]));
	} else {
		fprintf(stderr, "usage: xen-pages dom0|free|below BITS\n");
		return 2;
	}
	if (pages < 0) {
		fprintf(stderr, "xen-pages: %s\n", strerror(-pages));
		return 1;
	}
	printf("%ld\n", pages);
	return 0;
}
