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
 *   none=WHAT       the host's WHAT is 0
 *   sleep=MS
 *   hog=MIB         use memory, without being killed
 *   try-hog=MIB     use memory
 *   scatter=MIB     use memory, and free half of it, a page here, a page there
 *   release         what scatter still uses
 *   compact
 *   unbind, bind    the driver
 *   churn=TIMES     unbind and bind
 *   bind-faults     bind it, with each allocation on the way failing once, many times
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
#include <glob.h>

#define INDENT		""
#include "guest.h"

#define PORT		"/dev/ttyS0"
#define PAGE_KIB	4
#define PAGE_BYTES	(PAGE_KIB * 1024UL)
#define GIVE_UP_MS	5000	/* Without any progress. */
#define LOAD		MIB(24)
#define LEAK_KIB	3072	/* What may be in use at the end, more than before. */
#define FAULTS		512	/* Of each allocation. */
#define FAULTS_SLACK	256	/* Of objects and pages: below what a leak comes to. */

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

static void step_none(const char *what)
{
	long value = host(what);

	if (value)
		fail("%s is %ld, and not 0", what, value);
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

/* As sum_lines(), of what has to be there. */
static long sum(const char *path, const char *format)
{
	long value = sum_lines(path, format);

	if (value < 0)
		fail("%s: %s", path, strerror(errno));
	return value;
}

/* The caches give back what they keep for later, and would count as in use. */
static void shrink_caches(void)
{
	glob_t caches;

	if (glob("/sys/kernel/slab/*/shrink", 0, NULL, &caches)) {
		fail("no caches in /sys/kernel/slab");
		return;
	}
	for (size_t i = 0; i < caches.gl_pathc; i++)
		set(caches.gl_pathv[i], "1");
	globfree(&caches);
}

/*
 * Objects of slab caches, and pages that are neither theirs nor free. What tracks
 * objects keeps some for later.
 */
static long used_memory(void)
{
	shrink_caches();
	return sum("/proc/slabinfo", "%*s %ld") -
	       sum("/proc/slabinfo", "debug_objects_cache %ld") -
	       (meminfo("MemFree") + meminfo("Slab")) / PAGE_KIB -
	       sum("/proc/zoneinfo", " count: %ld");
}

/* What is to be freed in a moment is not in use. */
static long least_used_memory(void)
{
	long least = LONG_MAX;

	for (int i = 0; i < 5; i++) {
		long used = used_memory();

		if (used < least)
			least = used;
		nap(40);
	}
	return least;
}

struct leak {
	long used;
	long least;	/* Of several looks: others come and go. */
};

static bool is_no_leak(void *arg)
{
	struct leak *l = arg;
	long more = used_memory() - l->used;

	if (more < l->least)
		l->least = more;
	return more < FAULTS_SLACK;
}

/*
 * Bind with the @nth allocation failing. Return: whether there are so many. Then,
 * the driver may be bound all the same, as not all of them have to succeed.
 */
static bool bind_with_fault(int bind, int nth)
{
	char left[16] = "";
	int fd, ret;

	fd = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
	if (fd < 0 || dprintf(fd, "%d", nth) < 0) {
		fail("/proc/self/fail-nth: %s", strerror(errno));
		return false;
	}
	ret = pwrite(bind, device, strlen(device), 0);
	if (pread(fd, left, sizeof(left) - 1, 0) <= 0 || pwrite(fd, "0", 1, 0) != 1)
		fail("/proc/self/fail-nth: %s", strerror(errno));
	close(fd);
	if (atoi(left) && ret < 0)
		fail("bind fails without a fault: %s", strerror(errno));
	return !atoi(left);
}

/* Where a function of the kernel begins, and where the next one does. */
static void function_at(const char *name, char start[32], char end[32])
{
	FILE *f = fopen("/proc/kallsyms", "r");
	char address[32], symbol[128];

	start[0] = end[0] = '\0';
	while (f && !end[0] && fscanf(f, "%31s %*s %127s%*[^\n]", address, symbol) == 2) {
		if (start[0])
			sprintf(end, "0x%.29s", address);
		else if (!strcmp(symbol, name))
			sprintf(start, "0x%.29s", address);
	}
	if (f)
		fclose(f);
	if (!end[0])
		fail("/proc/kallsyms has no %s()", name);
}

/*
 * It fails, or not, and nothing is lost. UML's um_request_irq() is spared: it keeps
 * its file when it fails.
 */
static void step_bind_faults(void)
{
	int bind = open(VIRTIO_BALLOON_DRIVER "bind", O_WRONLY | O_CLOEXEC);
	const char *const kinds[] = { "failslab", "fail_page_alloc" };
	int nth = 0, nr_bound = 0;
	char start[32], end[32];
	bool more = true;
	char path[64];

	function_at("um_request_irq", start, end);
	if (failed)
		return;
	for (int i = 0; i < 2; i++) {
		const struct { const char *name, *value; } settings[] = {
			{ "ignore-gfp-wait", "N" },
			{ "verbose", "0" },
			{ "reject-end", end },
			{ "reject-start", start },
		};

		for (int j = 0; j < 4; j++) {
			snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s",
				 kinds[i], settings[j].name);
			set(path, settings[j].value);
		}
	}
	set("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	set("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");

	while (more && !failed) {
		struct leak leak = { .least = LONG_MAX };

		printf("allocation %d\n", ++nth);
		/* The first ones fill caches. */
		for (int i = -16; i < FAULTS && more && !failed; i++) {
			if (!i)
				leak.used = least_used_memory();
			more = bind_with_fault(bind, nth);
			snprintf(path, sizeof(path), VIRTIO_BALLOON_DRIVER "%s", device);
			if (!access(path, F_OK) && more) {
				nr_bound += !i;
				set(VIRTIO_BALLOON_DRIVER "unbind", device);
			}
		}
		if (more && !failed && !wait_until(is_no_leak, &leak, NULL))
			fail("allocation %d: %ld objects and pages are lost when it fails %d times",
			     nth, leak.least, FAULTS);
	}
	close(bind);
	printf("%d allocations have failed; the driver does without %d\n", nth - 1, nr_bound);
	if (!failed && nth < 10)
		fail("not even ten allocations can fail");
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
	else if (IS("none") && arg)
		step_none(arg + 1);
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
	else if (IS("bind-faults"))
		step_bind_faults();
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
	port = host_open_terminal(PORT);
	if (port < 0)
		fail(PORT ": %s", strerror(errno));
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
