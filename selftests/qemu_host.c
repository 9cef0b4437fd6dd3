// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host's side of the balloon selftests, for QEMU.
 *
 * Stands between the port on which a guest asks for balloon sizes and faults
 * (tools/testing/selftests/balloon/balloon.h in the series) and QMP, which QEMU
 * understands.
 *
 *   target BYTES       QMP "balloon"
 *   actual             QMP "query-balloon"
 *   stats SECONDS      the device's property guest-stats-polling-interval
 *   stat NAME          a number of its property guest-stats
 *   fault unplug       QMP "device_del" of the device "balloon0"
 *   fault plug         QMP "device_add" of a new one, like the first
 *
 * Ends with QEMU.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <signal.h>
#include <unistd.h>

#define CONNECT_TRIES	500
#define CONNECT_WAIT_US	20000
#define PLUG_TRIES	500
#define PLUG_WAIT_US	20000

/* A socket; a stream of its own for each direction, as it can't seek. */
struct connection {
	FILE *in;
	FILE *out;
};

/* The device, in QMP's words. */
#define BALLOON	"\"path\":\"/machine/peripheral/balloon0\""

static struct connection qmp;
static unsigned long long ram_bytes;
static bool verbose;

static void usage(FILE *f)
{
	fputs("Usage: qemu_host --qmp SOCKET --port SOCKET [--verbose]\n"
	      "Answer the balloon requests of a guest's virtio-serial port.\n"
	      "  --qmp SOCKET    where QEMU listens for QMP\n"
	      "  --port SOCKET   where QEMU listens on behalf of the port\n"
	      "  --verbose       show requests and answers on stderr\n", f);
}

static void die(const char *fmt, ...)
{
	va_list args;

	fputs("qemu_host: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* QEMU may not be there yet: be patient, but not for ever. */
static struct connection connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct connection c;
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
	c.in = fdopen(fd, "r");
	c.out = fdopen(dup(fd), "w");
	if (!c.in || !c.out)
		die("fdopen: %s", strerror(errno));
	setvbuf(c.out, NULL, _IOLBF, 0);
	return c;
}

/*
 * Send a QMP command and wait for what it returns, past any events.
 *
 * Return: the line with "return", or with "error", until the next command.
 */
static char *qmp_command(const char *command)
{
	static size_t size;
	static char *line;

	fprintf(qmp.out, "%s\n", command);
	for (;;) {
		if (getline(&line, &size, qmp.in) < 0)
			exit(0);	/* QEMU is gone. */
		if (verbose)
			fprintf(stderr, "qmp: %s", line);
		if (!strncmp(line, "{\"return\"", 9) ||
		    !strncmp(line, "{\"error\"", 8))
			return line;
	}
}

/* The number behind "@key": in a QMP reply. */
static bool qmp_number(const char *reply, const char *key,
		       unsigned long long *value)
{
	char pattern[64];
	const char *found;

	snprintf(pattern, sizeof(pattern), "\"%s\":", key);
	found = strstr(reply, pattern);
	return found &&
	       sscanf(found + strlen(pattern), "%llu", value) == 1;
}

/* Pass the outcome of a QMP command on to the guest. */
static void answer(FILE *port, const char *reply)
{
	const char *desc = strstr(reply, "\"desc\": \"");

	if (!strncmp(reply, "{\"return\"", 9)) {
		fputs("ok\n", port);
	} else if (desc) {
		desc += 9;
		fprintf(port, "error %.*s\n", (int)strcspn(desc, "\""), desc);
	} else {
		fputs("error\n", port);
	}
}

static void handle(FILE *port, const char *request)
{
	static const char *on_oom = "off";
	unsigned long long value;
	char command[256];
	char name[64];
	char *reply;

	if (sscanf(request, "target %llu", &value) == 1) {
		if (value > ram_bytes) {
			fputs("error larger than the guest\n", port);
			return;
		}
		snprintf(command, sizeof(command),
			 "{\"execute\":\"balloon\",\"arguments\":{\"value\":%llu}}",
			 ram_bytes - value);
		answer(port, qmp_command(command));
	} else if (!strcmp(request, "actual")) {
		reply = qmp_command("{\"execute\":\"query-balloon\"}");
		if (!qmp_number(reply, "actual", &value)) {
			answer(port, reply);
			return;
		}
		fprintf(port, "ok %llu\n", ram_bytes - value);
	} else if (sscanf(request, "stats %llu", &value) == 1) {
		snprintf(command, sizeof(command),
			 "{\"execute\":\"qom-set\",\"arguments\":{" BALLOON ","
			 "\"property\":\"guest-stats-polling-interval\","
			 "\"value\":%llu}}", value);
		answer(port, qmp_command(command));
	} else if (sscanf(request, "stat %63[a-z-]", name) == 1) {
		reply = qmp_command("{\"execute\":\"qom-get\",\"arguments\":{"
				    BALLOON ",\"property\":\"guest-stats\"}}");
		if (qmp_number(reply, name, &value))
			fprintf(port, "ok %llu\n", value);
		else
			fputs("error no such number\n", port);
	} else if (!strcmp(request, "fault unplug")) {
		/* "device_add" wants to know, later. */
		on_oom = strstr(qmp_command("{\"execute\":\"qom-get\","
					    "\"arguments\":{" BALLOON ","
					    "\"property\":\"deflate-on-oom\"}}"),
				"true") ? "on" : "off";
		answer(port, qmp_command("{\"execute\":\"device_del\","
					 "\"arguments\":{\"id\":\"balloon0\"}}"));
	} else if (!strcmp(request, "fault plug")) {
		snprintf(command, sizeof(command),
			 "{\"execute\":\"device_add\",\"arguments\":{"
			 "\"driver\":\"virtio-balloon-pci\","
			 "\"id\":\"balloon0\",\"deflate-on-oom\":\"%s\"}}", on_oom);
		/* The guest may still be about to let go of the old one. */
		for (int i = 0; i < PLUG_TRIES; i++) {
			reply = qmp_command(command);
			if (!strstr(reply, "Duplicate device ID"))
				break;
			usleep(PLUG_WAIT_US);
		}
		answer(port, reply);
	} else {
		fputs("error no such request\n", port);
	}
}

int main(int argc, char *argv[])
{
	static const struct option options[] = {
		{ "qmp", required_argument, NULL, 'q' },
		{ "port", required_argument, NULL, 'p' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	const char *qmp_path = NULL, *port_path = NULL;
	char *line = NULL;
	size_t size = 0;
	struct connection port;
	int opt;

	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case 'q':
			qmp_path = optarg;
			break;
		case 'p':
			port_path = optarg;
			break;
		case 'v':
			verbose = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (!qmp_path || !port_path) {
		usage(stderr);
		return 2;
	}

	/* Nobody wants a host without its QEMU. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);

	qmp = connect_to(qmp_path);
	if (getline(&line, &size, qmp.in) < 0)	/* The greeting. */
		exit(0);
	qmp_command("{\"execute\":\"qmp_capabilities\"}");
	if (!qmp_number(qmp_command("{\"execute\":\"query-memory-size-summary\"}"),
			"base-memory", &ram_bytes))
		die("QEMU does not tell the size of the guest");

	port = connect_to(port_path);
	for (;;) {
			if (getline(&line, &size, port.in) < 0)
			break;
		line[strcspn(line, "\n")] = '\0';
		if (verbose)
			fprintf(stderr, "guest: %s\n", line);
		handle(port.out, line);
	}
	free(line);
	return 0;
}
