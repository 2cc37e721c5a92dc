// SPDX-License-Identifier: GPL-2.0
/*
 * outport PORT: sends standard input to an I/O port, byte for byte, until its end.
 *
 * The way out of dom0 for scripts' output and results.  Each access to a port traps into
 * Xen; a string instruction traps once for many bytes, which makes this some thirty times
 * as fast as a serial port.
 *
 * On SIGTERM it sends what is there already and ends, even if some process of the script
 * still holds the other end of the pipe.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>
#include <unistd.h>

static void do_not_wait(int signal)
{
	(void)signal;
	/* Whether a read is under way or is yet to come, it no longer waits. */
	fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = do_not_wait };
	static char block[65536];
	unsigned short port;
	ssize_t size;

	if (argc != 2) {
		fprintf(stderr, "usage: outport PORT\n");
		return 2;
	}
	port = strtoul(argv[1], NULL, 0);
	if (iopl(3)) {
		perror("outport: iopl");
		return 1;
	}
	sigaction(SIGTERM, &action, NULL);
	for (;;) {
		size = read(STDIN_FILENO, block, sizeof(block));
		if (size > 0)
			outsb(port, block, size);
		else if (size == 0 || fcntl(STDIN_FILENO, F_GETFL) & O_NONBLOCK)
			return 0;
	}
}
