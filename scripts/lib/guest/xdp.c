// SPDX-License-Identifier: GPL-2.0
/*
 * Has the driver of a network card send datagrams back from the buffers that they came in.
 *
 *	xdp CARD PORT
 *
 * The XDP program runs in the driver itself; the kernel's substitute for drivers that cannot is
 * refused.  It turns UDP datagrams for PORT round, and lets all else pass.  Says "attached", and
 * keeps it there until it is killed.
 */
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <net/if.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where a frame has what. */
#define ETHER(field) offsetof(struct ethhdr, field)
#define IP(field) (ETH_HLEN + offsetof(struct iphdr, field))
#define UDP(field) (ETH_HLEN + sizeof(struct iphdr) + offsetof(struct udphdr, field))
#define HEADERS (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr))
/* The first byte of an IPv4 header without options. */
#define PLAIN_IP 0x45
/* The offset and the flag of a fragment that is not the only one. */
#define FRAGMENT 0x3fff

enum { RESULT = BPF_REG_0, CONTEXT, FRAME, END, ONE, OTHER };

static struct bpf_insn program[64];
static size_t length;

static void emit(int code, int to, int from, int at, int value)
{
	program[length++] = (struct bpf_insn){
		.code = code, .dst_reg = to, .src_reg = from, .off = at, .imm = value
	};
}

static void load(int size, int to, int from, int at)
{
	emit(BPF_LDX | BPF_MEM | size, to, from, at, 0);
}

static void store(int size, int at, int from)
{
	emit(BPF_STX | BPF_MEM | size, FRAME, from, at, 0);
}

static void set(int to, int value)
{
	emit(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value);
}

/* Of a frame that is otherwise, the program says nothing more. */
static void must_have(int size, int at, int mask, int value)
{
	load(size, ONE, FRAME, at);
	emit(BPF_ALU64 | BPF_AND | BPF_K, ONE, 0, 0, mask);
	emit(BPF_JMP | BPF_JNE | BPF_K, ONE, 0, 0, value);
}

static void swap(int size, int at, int other)
{
	load(size, ONE, FRAME, at);
	load(size, OTHER, FRAME, other);
	store(size, at, OTHER);
	store(size, other, ONE);
}

/* What is swapped leaves both checksums as they were. */
static void write_program(uint16_t port)
{
	load(BPF_W, FRAME, CONTEXT, offsetof(struct xdp_md, data));
	load(BPF_W, END, CONTEXT, offsetof(struct xdp_md, data_end));
	set(RESULT, XDP_PASS);
	emit(BPF_ALU64 | BPF_MOV | BPF_X, ONE, FRAME, 0, 0);
	emit(BPF_ALU64 | BPF_ADD | BPF_K, ONE, 0, 0, HEADERS);
	emit(BPF_JMP | BPF_JGT | BPF_X, ONE, END, 0, 0);
	must_have(BPF_H, ETHER(h_proto), 0xffff, htons(ETH_P_IP));
	must_have(BPF_B, ETH_HLEN, 0xff, PLAIN_IP);
	must_have(BPF_H, IP(frag_off), htons(FRAGMENT), 0);
	must_have(BPF_B, IP(protocol), 0xff, IPPROTO_UDP);
	must_have(BPF_H, UDP(dest), 0xffff, htons(port));
	for (int at = 0; at < ETH_ALEN; at += 2)
		swap(BPF_H, ETHER(h_dest) + at, ETHER(h_source) + at);
	swap(BPF_W, IP(saddr), IP(daddr));
	swap(BPF_H, UDP(source), UDP(dest));
	set(RESULT, XDP_TX);
	/* All jumps lead to the end. */
	for (size_t i = 0; i < length; i++)
		if (BPF_CLASS(program[i].code) == BPF_JMP)
			program[i].off = length - i - 1;
	emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static int bpf(int command, union bpf_attr *attr, const char *what)
{
	int fd = syscall(__NR_bpf, command, attr, sizeof(*attr));

	if (fd < 0) {
		perror(what);
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	union bpf_attr attr;
	int fd, card = argc == 3 ? if_nametoindex(argv[1]) : 0;

	if (!card) {
		fprintf(stderr, argc == 3 ? "no such card\n" : "usage: xdp CARD PORT\n");
		return 2;
	}
	write_program(atoi(argv[2]));

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_XDP;
	attr.expected_attach_type = BPF_XDP;
	/* It needs no more of a frame than its headers, so a frame may lie in several buffers. */
	attr.prog_flags = BPF_F_XDP_HAS_FRAGS;
	attr.insns = (uintptr_t)program;
	attr.insn_cnt = length;
	attr.license = (uintptr_t)"GPL";
	fd = bpf(BPF_PROG_LOAD, &attr, "the kernel does not take the program");

	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = fd;
	attr.link_create.target_ifindex = card;
	attr.link_create.attach_type = BPF_XDP;
	attr.link_create.flags = XDP_FLAGS_DRV_MODE;
	bpf(BPF_LINK_CREATE, &attr, "the card's driver does not take the program");

	puts("attached");
	fflush(stdout);
	for (;;)
		pause();
}
