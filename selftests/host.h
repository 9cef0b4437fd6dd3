/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the hosts share: messages, sockets, and what they know of QEMU.
 *
 * A host answers the requests that guests make through a virtio-serial port
 * (tools/testing/selftests/balloon/balloon.h in the series), and these for
 * benchmarks:
 *
 *   wait BYTES   answer when the balloon has that size
 *   cpu          CPU time that QEMU has used, in microseconds
 */
#ifndef HOST_H
#define HOST_H

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TRIES	500
#define CONNECT_WAIT_US	20000

/* Give up on a balloon that does not move for so long. */
#define STALL_SECONDS	120

static __attribute__((noreturn, format(printf, 1, 2)))
void die(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* Nobody wants a host without its QEMU, nor without who started it. */
static inline void host_init(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
}

/* QEMU may not be there yet: be patient, but not for ever. */
static inline int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		die("socket path too long: %s", path);
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		die("socket: %s", strerror(errno));
	for (int i = 0; connect(fd, (struct sockaddr *)&addr, sizeof(addr)); i++) {
		if (i == CONNECT_TRIES)
			die("can't connect to %s: %s", path, strerror(errno));
		usleep(CONNECT_WAIT_US);
	}
	return fd;
}

/* A socket; a stream of its own for each direction, as it can't seek. */
struct connection {
	FILE *in;
	FILE *out;
};

static inline struct connection connect_streams(const char *path)
{
	int fd = connect_to(path);
	struct connection c = {
		.in = fdopen(fd, "r"),
		.out = fdopen(dup(fd), "w"),
	};

	if (!c.in || !c.out)
		die("fdopen: %s", strerror(errno));
	setvbuf(c.out, NULL, _IOLBF, 0);
	return c;
}

/* The process that listens at the other end of a socket. */
static inline pid_t peer_pid(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		die("SO_PEERCRED: %s", strerror(errno));
	return peer.pid;
}

/* CPU time of a process in microseconds; -1 without. */
static inline long long cpu_us(pid_t pid)
{
	struct timespec ts;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts))
		return -1;
	return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

/* Answer with a value, or that there is none if it is negative. */
static inline void answer_value(FILE *port, long long value)
{
	if (value < 0)
		fputs("error there is no such value\n", port);
	else
		fprintf(port, "ok %lld\n", value);
}

#endif /* HOST_H */
