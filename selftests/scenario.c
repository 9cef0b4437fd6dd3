// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the guest does while its balloon's host misbehaves.
 *
 * Usage: scenario STEP... (in selftests/scenarios). A step is one of these, or a
 * request to the host (um_host.c), with "=" and ":" instead of blanks. The
 * first one that fails is the last.
 *
 *   settle          the balloon gets to its target, and all counters agree
 *   exact           all counters agree
 *   wait=WHAT:N     the host's WHAT gets to N, or more
 *   sleep=MS
 *   hog=MIB         use memory, without being killed
 *   try-hog=MIB     use memory
 *   scatter=MIB     use memory, and free half of it, a page here, a page there
 *   release         what scatter still uses
 *   compact
 *   unbind, bind    the driver
 *   churn=TIMES     unbind and bind
 *   freeze          suspend, but for the last bit, and resume
 *   gone            the device disappears
 *   restored        nothing is in the balloon, and all memory is free again
 *   load=MS         use memory, and compact, again and again
 *
 * "STEP&" goes on in the background while the next steps are done; "join" waits
 * for all of those.
 *
 * Prints what it does; at last, "ok" or "not ok".
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>

#define INDENT		""
#include "guest.h"

#define PORT		"/dev/ttyS0"
#define PAGE_KIB	4
#define PAGE_BYTES	(PAGE_KIB * 1024UL)
#define GIVE_UP_MS	5000	/* Without any progress. */
#define LOAD		MIB(24)
#define LEAK_KIB	3072	/* What may be in use at the end, more than before. */

static int port = -1;
static char device[NAME_MAX + 1];	/* What it was in the beginning: virtio0. */
static bool managed;		/* Pages in the balloon are missing in MemTotal:. */
static long total_kib, free_kib;

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Where there are several CPUs, they have to fold their counts. */
static void refresh(void)
{
	if (!access("/proc/sys/vm/stat_refresh", F_OK) && refresh_counters())
		fail("the counters can't be refreshed");
}

static void open_port(void)
{
	struct termios tio;

	port = open(PORT, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (port < 0 || tcgetattr(port, &tio)) {
		fail(PORT ": %s", strerror(errno));
		return;
	}
	cfmakeraw(&tio);
	tcsetattr(port, TCSANOW, &tio);
}

/* Send a request to the host. Return: its value, 0 if it has none, -1 on error. */
static long host(const char *request)
{
	struct pollfd pfd = { .fd = port, .events = POLLIN };
	char answer[256];
	size_t len = 0;

	dprintf(port, "%s\n", request);
	do {
		if (len == sizeof(answer) - 1 || poll(&pfd, 1, GIVE_UP_MS) != 1 ||
		    read(port, answer + len, 1) != 1) {
			fail("%s: the host does not answer", request);
			return -1;
		}
	} while (answer[len++] != '\n');
	answer[len - 1] = '\0';
	if (strncmp(answer, "ok", 2)) {
		fail("host: %s: %s", request, answer);
		return -1;
	}
	return atol(answer + 2);
}

/*
 * Call @done until it is, for as long as @progress changes.
 */
static bool wait_until(bool (*done)(void *), void *arg, const char *progress)
{
	long last = -1, since = now_ms();

	while (!failed && !done(arg)) {
		long now = progress ? host(progress) : -1;

		if (now != last)
			since = now_ms();
		last = now;
		if (now_ms() - since > GIVE_UP_MS)
			return false;
		nap(2);
	}
	return !failed;
}

/* Do all who count pages in the balloon say the same? */
static const char *differences(void)
{
	static char text[256];
	long inflated = host("inflated"), actual = host("actual");
	long balloon, total;

	refresh();
	balloon = meminfo("Balloon") / PAGE_KIB;
	total = (total_kib - meminfo("MemTotal")) / PAGE_KIB;
	if (balloon == inflated && actual == inflated &&
	    total == (managed ? inflated : 0))
		return NULL;
	snprintf(text, sizeof(text),
		 "in pages, the host has %ld, and is told %ld; Balloon: says %ld, and MemTotal: has lost %ld",
		 inflated, actual, balloon, total);
	return text;
}

static bool is_exact(void *arg)
{
	(void)arg;
	return !differences();
}

static void step_exact(void)
{
	if (!wait_until(is_exact, NULL, NULL))
		fail("%s", differences() ?: "late");
}

static bool is_settled(void *arg)
{
	(void)arg;
	return host("inflated") == host("goal");
}

static void step_settle(void)
{
	if (!wait_until(is_settled, NULL, "inflated"))
		fail("%ld pages in the balloon, and not %ld", host("inflated"),
		     host("goal"));
	else
		step_exact();
}

struct level {
	char what[64];
	long least;
};

static bool is_there(void *arg)
{
	struct level *l = arg;

	return host(l->what) >= l->least;
}

static void step_wait(const char *arg)
{
	struct level l = {};

	if (sscanf(arg, "%63[^:]:%ld", l.what, &l.least) != 2)
		fail("wait=%s?", arg);
	else if (!wait_until(is_there, &l, l.what))
		fail("%s is %ld, and not %ld", l.what, host(l.what), l.least);
}

/* Use memory in a process of its own. Return: whether it lived. */
static bool hog(size_t size)
{
	pid_t pid = fork();
	int status;
	char *p;

	if (!pid) {
		set("/proc/self/oom_score_adj", "1000");
		p = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			_exit(1);
		for (size_t i = 0; i < size; i += PAGE_BYTES)
			p[i] = 1;
		_exit(0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

static char *scattered;
static size_t scattered_size;

static void step_scatter(size_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		fail("mmap: %s", strerror(errno));
		return;
	}
	scattered = p;
	scattered_size = size;
	memset(p, 1, size);
	for (size_t i = 0; i < size; i += 2 * PAGE_BYTES)
		madvise(p + i, PAGE_BYTES, MADV_DONTNEED);
}

static bool is_gone(void *arg)
{
	char name[NAME_MAX + 1];

	(void)arg;
	virtio_balloon_device(name);
	return !name[0];
}

static bool is_restored(void *arg)
{
	(void)arg;
	refresh();
	return !meminfo("Balloon") && meminfo("MemTotal") == total_kib &&
	       meminfo("MemFree") >= free_kib - LEAK_KIB;
}

static void step_restored(void)
{
	if (!wait_until(is_restored, NULL, NULL))
		fail("in kB, Balloon: %ld, MemTotal: %+ld, MemFree: %+ld",
		     meminfo("Balloon"), meminfo("MemTotal") - total_kib,
		     meminfo("MemFree") - free_kib);
}

/* Use memory, free it, and compact what is left, again and again. */
static void step_load(long ms)
{
	long end = now_ms() + ms;

	while (now_ms() < end && !failed) {
		if (!hog(LOAD))
			fail("the load was killed");
		set("/proc/sys/vm/compact_memory", "1");
	}
}

static void step_churn(long times)
{
	while (times-- && !failed) {
		set(VIRTIO_BALLOON_DRIVER "unbind", device);
		set(VIRTIO_BALLOON_DRIVER "bind", device);
		nap(20);
	}
}

static void step_freeze(void)
{
	/* Without delay. Who does not freeze is waited for, for 20 s. */
	set("/sys/module/suspend/parameters/pm_test_delay", "0");
	set("/sys/power/pm_test", "devices");
	set("/sys/power/state", "mem");
}

static void step_host(const char *step)
{
	char request[256];

	snprintf(request, sizeof(request), "%s", step);
	for (char *p = request; *p; p++)
		if (*p == '=' || *p == ':')
			*p = ' ';
	host(request);
}

static void do_step(char *step)
{
	char *arg = strchr(step, '=');
	size_t name = arg ? (size_t)(arg - step) : strlen(step);
	size_t size = arg ? MIB(strtoul(arg + 1, NULL, 0)) : 0;

#define IS(s) (name == strlen(s) && !strncmp(step, s, name))
	if (IS("settle"))
		step_settle();
	else if (IS("exact"))
		step_exact();
	else if (IS("wait") && arg)
		step_wait(arg + 1);
	else if (IS("sleep") && arg)
		nap(atol(arg + 1));
	else if (IS("hog")) {
		if (!hog(size))
			fail("the hog was killed");
	} else if (IS("try-hog"))
		printf("# the hog %s\n", hog(size) ? "lived" : "was killed");
	else if (IS("scatter"))
		step_scatter(size);
	else if (IS("release"))
		munmap(scattered, scattered_size);
	else if (IS("compact"))
		set("/proc/sys/vm/compact_memory", "1");
	else if (IS("unbind"))
		set(VIRTIO_BALLOON_DRIVER "unbind", device);
	else if (IS("bind"))
		set(VIRTIO_BALLOON_DRIVER "bind", device);
	else if (IS("churn") && arg)
		step_churn(atol(arg + 1));
	else if (IS("freeze"))
		step_freeze();
	else if (IS("gone")) {
		if (!wait_until(is_gone, NULL, NULL))
			fail("%s is still there", device);
	} else if (IS("restored"))
		step_restored();
	else if (IS("load") && arg)
		step_load(atol(arg + 1));
	else
		step_host(step);
#undef IS
}

static void join(void)
{
	int status;

	while (wait(&status) > 0)
		if (status)
			failed = true;
}

int main(int argc, char *argv[])
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	open_port();
	/* The driver comes while the kernel boots. */
	virtio_balloon_device(device);
	if (!device[0])
		fail("the driver has no device");
	managed = !virtio_balloon_has(VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	total_kib = meminfo("MemTotal");
	if (managed)
		total_kib += host("actual") * PAGE_KIB;
	free_kib = meminfo("MemFree") + meminfo("Balloon");

	for (int i = 1; i < argc && !failed; i++) {
		size_t len = strlen(argv[i]);

		printf("# step %s\n", argv[i]);
		if (!strcmp(argv[i], "join")) {
			join();
		} else if (len && argv[i][len - 1] == '&') {
			argv[i][len - 1] = '\0';
			if (!fork()) {
				do_step(argv[i]);
				_exit(failed);
			}
		} else {
			do_step(argv[i]);
		}
	}
	printf("%sok\n", failed ? "not " : "");
	return failed;
}
