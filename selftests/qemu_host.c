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
 *   wait BYTES         QMP "query-balloon", again and again
 *   anonhuge           memory of the guest that is in huge pages, in KiB
 *   fault unplug       QMP "device_del" of the device "balloon0"
 *   fault plug         QMP "device_add" of a new one, like the first
 *
 * The other requests are those of host.h. Ends with QEMU.
 */
#define _GNU_SOURCE
#include <getopt.h>

#include "host.h"

#define PLUG_TRIES	500
#define PLUG_WAIT_US	20000
#define WAIT_US		1000

/* The device, in QMP's words. */
#define BALLOON	"\"path\":\"/machine/peripheral/balloon0\""

static struct connection qmp;
static pid_t qemu;
static unsigned long long ram_bytes;
static bool verbose;

/* For "device_add": where the balloon is, as an argument, and what it does on OOM. */
static char bus[64];
static const char *on_oom = "off";

static void usage(FILE *f)
{
	fputs("Usage: qemu_host --qmp SOCKET --port SOCKET [--verbose]\n"
	      "Answer the balloon requests of a guest's virtio-serial port.\n"
	      "  --qmp SOCKET    where QEMU listens for QMP\n"
	      "  --port SOCKET   where QEMU listens on behalf of the port\n"
	      "  --verbose       show requests and answers on stderr\n", f);
}

/*
 * KiB of a process that are in huge pages, in mappings of @size KiB: there are
 * others than the guest's memory. -1 without such a mapping.
 */
static long long anonhuge_kib(pid_t pid, unsigned long long size)
{
	unsigned long long value;
	long long sum = -1;
	char path[64], line[256];
	bool ours = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Size: %llu", &value) == 1)
			ours = value == size;
		else if (ours && sscanf(line, "AnonHugePages: %llu", &value) == 1)
			sum = (sum < 0 ? 0 : sum) + value;
	}
	fclose(f);
	return sum;
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

/* The balloon may be gone before anybody asks for another. Where there is none, do nothing. */
static void remember_balloon(void)
{
	char *path = qmp_command("{\"execute\":\"qom-get\",\"arguments\":{" BALLOON ","
				 "\"property\":\"parent_bus\"}}");

	/* The name of a bus is the last part of its path. */
	if (!strncmp(path, "{\"return\"", 9) && strchr(path, '/')) {
		path = strrchr(path, '/') + 1;
		snprintf(bus, sizeof(bus), ",\"bus\":\"%.*s\"", (int)strcspn(path, "\""), path);
	}
	if (strstr(qmp_command("{\"execute\":\"qom-get\",\"arguments\":{" BALLOON ","
			       "\"property\":\"deflate-on-oom\"}}"), "true"))
		on_oom = "on";
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

/* The size of the balloon in bytes; -1 if QEMU does not tell. */
static long long balloon_bytes(void)
{
	unsigned long long value;

	if (!qmp_number(qmp_command("{\"execute\":\"query-balloon\"}"), "actual",
			&value))
		return -1;
	return ram_bytes - value;
}

/* Answer when the balloon has come to @bytes, or has come to a halt. */
static void wait_for(FILE *port, long long bytes)
{
	time_t since = time(NULL);
	long long now, last = -1;

	for (;;) {
		now = balloon_bytes();
		if (now == bytes) {
			fputs("ok\n", port);
			return;
		}
		if (now < 0 || time(NULL) - since > STALL_SECONDS) {
			fprintf(port, "error the balloon has %lld bytes\n", now);
			return;
		}
		if (now != last)
			since = time(NULL);
		last = now;
		usleep(WAIT_US);
	}
}

static void handle(FILE *port, const char *request)
{
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
		answer_value(port, balloon_bytes());
	} else if (sscanf(request, "wait %llu", &value) == 1) {
		wait_for(port, value);
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
		answer(port, qmp_command("{\"execute\":\"device_del\","
					 "\"arguments\":{\"id\":\"balloon0\"}}"));
	} else if (!strcmp(request, "fault plug")) {
		snprintf(command, sizeof(command),
			 "{\"execute\":\"device_add\",\"arguments\":{"
			 "\"driver\":\"virtio-balloon-pci\","
			 "\"id\":\"balloon0\",\"deflate-on-oom\":\"%s\"%s}}",
			 on_oom, bus);
		/* The guest may still be about to let go of the old one. */
		for (int i = 0; i < PLUG_TRIES; i++) {
			reply = qmp_command(command);
			if (!strstr(reply, "Duplicate device ID"))
				break;
			usleep(PLUG_WAIT_US);
		}
		answer(port, reply);
	} else if (!strcmp(request, "cpu")) {
		answer_value(port, cpu_us(qemu));
	} else if (!strcmp(request, "anonhuge")) {
		answer_value(port, anonhuge_kib(qemu, ram_bytes / 1024));
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

	host_init();
	qmp = connect_streams(qmp_path);
	qemu = peer_pid(fileno(qmp.in));
	if (getline(&line, &size, qmp.in) < 0)	/* The greeting. */
		exit(0);
	qmp_command("{\"execute\":\"qmp_capabilities\"}");
	if (!qmp_number(qmp_command("{\"execute\":\"query-memory-size-summary\"}"),
			"base-memory", &ram_bytes))
		die("QEMU does not tell the size of the guest");
	remember_balloon();

	port = connect_streams(port_path);
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
