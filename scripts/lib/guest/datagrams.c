// SPDX-License-Identifier: GPL-2.0
/*
 * Sends datagrams of many sizes to an echo, and compares what returns.
 *
 *	datagrams answer PORT				is the echo, until it is killed
 *	datagrams ask ADDRESS PORT LARGEST COUNT	asks it
 *
 * Asking prints the bytes that were compared and how many of them differed; status 1 if a
 * datagram did not return although it was sent several times.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define LARGEST 65000
#define IN_FLIGHT 8
#define ATTEMPTS 10

struct pending {
	uint32_t number;
	size_t size;
	int done;
};

static unsigned char out[LARGEST], in[LARGEST];

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

/* The contents of a datagram: its number, then bytes that follow from it. */
static void fill(unsigned char *at, size_t size, uint32_t number)
{
	uint32_t state = number * 2654435761u + 1;

	for (size_t i = sizeof(number); i < size; i++) {
		state = state * 1664525u + 1013904223u;
		at[i] = state >> 24;
	}
	memcpy(at, &number, sizeof(number));
}

static size_t difference(const unsigned char *a, const unsigned char *b, size_t size)
{
	size_t count = 0;

	for (size_t i = 0; i < size; i++)
		count += a[i] != b[i];
	return count;
}

static void answer(int fd)
{
	struct sockaddr_in from;

	for (;;) {
		socklen_t length = sizeof(from);
		ssize_t size = recvfrom(fd, in, sizeof(in), 0, (struct sockaddr *)&from, &length);

		if (size >= 0)
			sendto(fd, in, size, 0, (struct sockaddr *)&from, length);
	}
}

/* Sends what is not back yet, and takes what comes until nothing does for a while. */
static void round_trip(int fd, struct pending *all, size_t count, size_t *compared, size_t *wrong)
{
	size_t left = 0;

	for (size_t i = 0; i < count; i++) {
		if (all[i].done)
			continue;
		fill(out, all[i].size, all[i].number);
		send(fd, out, all[i].size, 0);
		left++;
	}
	while (left) {
		ssize_t size = recv(fd, in, sizeof(in), 0);
		uint32_t number;

		if (size < (ssize_t)sizeof(number))
			return;
		memcpy(&number, in, sizeof(number));
		for (size_t i = 0; i < count; i++) {
			if (all[i].done || all[i].number != number)
				continue;
			all[i].done = 1;
			left--;
			fill(out, all[i].size, number);
			*compared += all[i].size;
			/* Of another size, all of it is wrong. */
			*wrong += (size_t)size == all[i].size ? difference(in, out, size)
							      : all[i].size;
		}
	}
}

static int ask(int fd, size_t largest, uint32_t count)
{
	size_t compared = 0, wrong = 0, span = largest - sizeof(uint32_t);

	for (uint32_t first = 0; first < count; first += IN_FLIGHT) {
		struct pending all[IN_FLIGHT] = {};
		size_t many = count - first < IN_FLIGHT ? count - first : IN_FLIGHT, back = 0;

		/* The largest one, then sizes all over the range. */
		for (size_t i = 0; i < many; i++) {
			all[i].number = first + i;
			all[i].size = largest - (uint64_t)(first + i) * 7919 % (span + 1);
		}
		for (int attempt = 0; attempt < ATTEMPTS && back < many; attempt++) {
			round_trip(fd, all, many, &compared, &wrong);
			back = 0;
			for (size_t i = 0; i < many; i++)
				back += all[i].done;
		}
		if (back < many) {
			printf("%zu of %zu datagrams from number %u on did not return\n",
			       many - back, many, first);
			return 1;
		}
	}
	printf("%zu %zu\n", compared, wrong);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct timeval patience = { .tv_sec = 1 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		fail("socket");
	if (argc == 3 && !strcmp(argv[1], "answer")) {
		address.sin_port = htons(atoi(argv[2]));
		if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
			fail("bind");
		answer(fd);
	}
	if (argc == 6 && !strcmp(argv[1], "ask")) {
		size_t largest = strtoul(argv[4], NULL, 0);

		address.sin_port = htons(atoi(argv[3]));
		if (!inet_aton(argv[2], &address.sin_addr) || largest < 8 || largest > LARGEST) {
			fprintf(stderr, "no such address or size\n");
			return 2;
		}
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
			fail("connect");
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		return ask(fd, largest, strtoul(argv[5], NULL, 0));
	}
	fprintf(stderr, "usage: datagrams answer PORT | ask ADDRESS PORT LARGEST COUNT\n");
	return 2;
}
