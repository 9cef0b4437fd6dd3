// SPDX-License-Identifier: GPL-2.0-only
/*
 * VMware hosts that fail, refuse, reset and lie, one after the other, and a guest
 * that moves its pages meanwhile. After each, host and guest have to agree about
 * every page, and all memory has to come back.
 *
 * Usage: vmware SEEDS RESETS HYPERCALLS
 *
 *   SEEDS        how many hosts are random
 *   RESETS       how many sessions a host ends that is friendly otherwise
 *   HYPERCALLS   how many a hostile host answers with garbage
 *
 * vmw_host plays all of them.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "guest.h"

#define CAPABILITIES	0x3e		/* All. */
#define NO_DOORBELL	0x2e
#define SIZE		MIB(64)
#define LARGE		MIB(512)
#define SHRINK_DELAY_MS	5000		/* In which the driver does not inflate. */
#define MOVES		12		/* For each seed. */
#define MORE_SEEDS	200		/* To see all there is. */
#define SMALL		MIB(4)		/* For each reset. */
#define WARM_UP		20		/* Resets after which nothing is new. */

#define LEAK_PAGES	64		/* Slabs come and go. */

static int port = -1;
static long nr_seeds, nr_resets, nr_hypercalls;
static long total_kb, moved, moved_pages;

/* Send a request to the host. Return: its value, 0 if it has none, -1 on error. */
static long __attribute__((format(printf, 1, 2))) host(const char *fmt, ...)
{
	char request[64];
	va_list args;
	long value;

	va_start(args, fmt);
	vsnprintf(request, sizeof(request), fmt, args);
	va_end(args);
	value = host_request(port, request);
	if (value < 0)
		fail("host: %s: no answer", request);
	return value;
}

static void resize(unsigned long bytes)
{
	long actual = balloon_resize(port, bytes);

	if (actual != (long)bytes)
		fail("the balloon has %ld bytes, not %lu", actual, bytes);
}

/* Base pages, as the driver says in debugfs. */
static long driver_size(void)
{
	char line[128];
	long size = -1;
	FILE *f = fopen("/sys/kernel/debug/vmmemctl", "r");

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		sscanf(line, "current : %ld", &size);
	fclose(f);
	return size;
}

/* vmw_host's: the sum of this is the same only for the same pages. */
static uint64_t mix(uint64_t pfn)
{
	pfn = (pfn + 1) * 0x9e3779b97f4a7c15UL;
	return pfn ^ pfn >> 29;
}

/*
 * Base pages of memory block @block that are in the balloon: those that have the page
 * flag have to be those that the host has.
 */
static long block_pages(int block, void *arg)
{
	const unsigned long nr_pages = memory_block_pages(), pfn = block * nr_pages;
	static uint64_t flags[1 << 15];
	unsigned long sum = 0;
	long pages = 0;
	int fd;

	(void)arg;
	if (!memory_block_online(block))
		return 0;
	fd = open("/proc/kpageflags", O_RDONLY);
	if (fd < 0 || nr_pages > sizeof(flags) / sizeof(flags[0]) ||
	    pread(fd, flags, nr_pages * 8, pfn * 8) != (ssize_t)(nr_pages * 8))
		fail("can't read the page flags of memory block %d", block);
	close(fd);
	for (unsigned long i = 0; i < nr_pages; i++) {
		if (flags[i] >> KPF_OFFLINE & 1) {
			sum += mix(pfn + i);
			pages++;
		}
	}
	if (host("hash %lu %lu", pfn, nr_pages) != (long)(sum & LONG_MAX))
		fail("memory block %d: the host has %ld pages, which are not the %ld that the guest has given",
		     block, host("held %lu %lu", pfn, nr_pages), pages);
	return pages;
}

/* All counters say that the balloon has @bytes. */
static void expect_counters(unsigned long bytes)
{
	if (refresh_counters())
		fail("the counters can't be refreshed");
	expect("Balloon:", meminfo("Balloon") * 1024, bytes);
	expect("current", driver_size() * sysconf(_SC_PAGESIZE), bytes);
	expect("MemTotal:", meminfo("MemTotal"), total_kb);
	expect("violations", host("violations"), 0);
}

/* Nothing is moving: everybody knows the same about each page. */
static void expect_agreement(unsigned long bytes)
{
	expect_counters(bytes);
	for (int nid = 0; nid < MAX_NODES; nid++) {
		long count = node_balloon_pages(nid);

		if (count >= 0)
			expect("nr_balloon_pages of a node", count,
			       sum_memory_blocks(nid, block_pages, NULL));
	}
}

static void wait_for_session(long before)
{
	time_t begin = time(NULL);

	while (host("sessions") <= before && !failed) {
		if (time(NULL) - begin > STALL_SECONDS) {
			fail("the driver does not begin a session");
			return;
		}
		nap(100);
	}
}

/* The host ends the session, and offers other capabilities for those to come. */
static void new_session(unsigned long capabilities)
{
	long sessions = host("sessions");

	host("capabilities %#lx", capabilities);
	host("reset");
	wait_for_session(sessions);
}

/* Both ends of a session that a bad host has begun, when nothing moves any more. */
static void expect_session_agreement(void)
{
	long bytes = host("actual"), last = -1, sessions = -1;

	if (bytes > (long)SIZE)
		bytes = SIZE;
	host("target %ld", bytes);
	for (int i = 0; i < STALL_SECONDS && !failed &&
	     (last != host("actual") || sessions != host("sessions")); i++) {
		last = host("actual");
		sessions = host("sessions");
		nap(2500);	/* Twice as long as the driver waits, or more. */
	}
	expect_agreement(host("actual"));
}

/* From now on, the host is friendly. */
static void settle(void)
{
	host("quiet");
	expect_session_agreement();
	host("target 0");
	new_session(CAPABILITIES);
	resize(SIZE);
	expect_agreement(SIZE);
	resize(0);
	expect_counters(0);
}

/* The movable block with the most pages in the balloon, but not one that can't go. */
struct choice {
	int block, never;
	long pages;
};

static long choose(int block, void *arg)
{
	struct choice *c = arg;
	long pages;

	if (block == c->never || !memory_block_movable(block))
		return 0;
	pages = block_offline_pages(block, NULL);
	if (pages > c->pages) {
		c->pages = pages;
		c->block = block;
	}
	return 0;
}

/* A block of memory goes, with what the balloon has there, and comes back. */
static void move(void)
{
	static struct choice c = { .never = -1 };
	int ret;

	c.pages = 0;
	for (int nid = 0; nid < MAX_NODES; nid++)
		sum_memory_blocks(nid, choose, &c);
	if (!c.pages)
		return;
	ret = set_memory_block(c.block, "offline");
	/* The firmware's tables are in it: a hole. */
	if (ret == -EINVAL)
		c.never = c.block;
	if (ret)
		return;
	moved++;
	moved_pages += c.pages;
	if (set_memory_block(c.block, "online_movable"))
		fail("memory block %d stays offline", c.block);
}

static void drive(const char *host_is, long seed)
{
	host("%s %ld", host_is, seed);
	/* What the host offers is up to chance as well, in a session that begins now. */
	host("reset");
	for (int i = 0; i < MOVES && !failed; i++) {
		nap(250);
		if (i % 4 == 3)
			set("/proc/sys/vm/compact_memory", "1");
		else
			move();
	}
}

/* Free pages of all zones, with those that the CPUs keep. */
static long free_pages(void)
{
	FILE *f;
	char line[256];
	long value, sum = 0;

	set("/proc/sys/vm/drop_caches", "3");
	if (refresh_counters())
		fail("the counters can't be refreshed");
	f = fopen("/proc/zoneinfo", "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " nr_free_pages %ld", &value) == 1 ||
		    sscanf(line, " count: %ld", &value) == 1)
			sum += value;
	fclose(f);
	return sum;
}

static void expect_free(long before)
{
	long now = free_pages();

	printf(INDENT "# free pages: %ld before, %+ld\n", before, now - before);
	if (now < before - LEAK_PAGES)
		fail("%ld pages are missing", before - now);
}

static void test_random(void)
{
	long before = free_pages(), calls = host("hypercalls");

	for (long seed = 1; seed <= nr_seeds && !failed; seed++) {
		drive("random", seed);
		settle();
		if (failed)
			fail("that was seed %ld", seed);
		else if (seed % 10 == 0)
			printf(INDENT "# %ld seeds, %ld hypercalls, %ld blocks moved with %ld pages\n",
			       seed, host("hypercalls") - calls, moved, moved_pages);
	}
	if (!moved)
		fail("no page has been moved");
	expect_free(before);
}

/* The doorbell is set once in each session, if it is offered, and gone after it. */
static void test_doorbell(void)
{
	expect("doorbell", host("doorbell"), 1);
	new_session(CAPABILITIES);
	resize(SIZE);
	expect("doorbell", host("doorbell"), 1);
	new_session(NO_DOORBELL);
	resize(0);
	expect("doorbell", host("doorbell"), 0);
	expect("violations", host("violations"), 0);
}

/* Use this much memory for a moment; nobody is to be killed for it. */
static void hog(size_t size)
{
	int status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (p == MAP_FAILED)
			_exit(1);
		for (size_t i = 0; i < size; i += sysconf(_SC_PAGESIZE))
			p[i] = 1;
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		fail("a process can't use %zu MiB", size >> 20);
}

/*
 * With vmwballoon_shrinker_enable, who needs memory gets it from the balloon; and the
 * host gets it again, but not at once.
 */
static void test_shrinker(void)
{
	long kills = read_vmstat("oom_kill"), actual;

	resize(LARGE);
	hog(read_meminfo("MemFree") + LARGE / 4);
	actual = host("actual");
	printf(INDENT "# %ld of %lu MiB are left in the balloon\n", actual >> 20, LARGE >> 20);
	if (actual >= (long)LARGE)
		fail("the balloon has not been shrunk");
	nap(SHRINK_DELAY_MS / 4);
	expect("actual", host("actual"), actual);
	nap(SHRINK_DELAY_MS);
	resize(LARGE);
	expect_agreement(LARGE);
	expect("oom_kill", read_vmstat("oom_kill"), kills);
}

static void reset(long times)
{
	while (times-- && !failed) {
		long sessions = host("sessions");

		host("reset");
		wait_for_session(sessions);
	}
}

/* Sessions that end with something in the balloon. */
static void test_resets(void)
{
	long before;

	resize(SMALL);
	reset(WARM_UP);
	resize(0);
	before = free_pages();
	host("target %lu", SMALL);
	for (long i = 0; i < nr_resets && !failed; i += 100) {
		reset(nr_resets - i < 100 ? nr_resets - i : 100);
		printf(INDENT "# %ld sessions\n", host("sessions"));
	}
	resize(SMALL);
	expect_agreement(SMALL);
	resize(0);
	expect_free(before);
}

static void test_hostile(void)
{
	long before = free_pages(), end = host("hypercalls") + nr_hypercalls;

	for (long seed = 1; host("hypercalls") < end && !failed; seed++) {
		drive("hostile", seed);
		settle();
		printf(INDENT "# %ld hypercalls to go\n", end - host("hypercalls"));
		if (failed)
			fail("that was seed %ld", seed);
	}
	expect_free(before);
}

/* There is nothing in the protocol that none of the hosts has answered, in the end. */
static void test_all_statuses(void)
{
	for (long seed = 1; host("unseen") && seed <= MORE_SEEDS && !failed; seed++) {
		drive("hostile", seed);
		settle();
		if (seed % 10 == 0)
			printf(INDENT "# %ld statuses to go\n", host("unseen"));
	}
	expect("the number of statuses not seen", host("unseen"), 0);
}

static const struct test tests[] = {
	{ "vmware_test_doorbell", test_doorbell },
	{ "vmware_test_shrinker", test_shrinker },
	{ "vmware_test_random", test_random },
	{ "vmware_test_resets", test_resets },
	{ "vmware_test_hostile", test_hostile },
	{ "vmware_test_all_statuses", test_all_statuses },
};

int main(int argc, char *argv[])
{
	const unsigned int nr = sizeof(tests) / sizeof(tests[0]);
	const char *lacking;

	begin_tests("vmware", nr);
	if (argc == 4) {
		nr_seeds = atol(argv[1]);
		nr_resets = atol(argv[2]);
		nr_hypercalls = atol(argv[3]);
	}
	lacking = connect_host(&port);
	if (lacking)
		fail("%s", lacking);
	else if (nr_seeds <= 0 || nr_resets <= 0 || nr_hypercalls <= 0)
		fail("usage: vmware SEEDS RESETS HYPERCALLS");
	else if (!vmware_balloon())
		fail("this guest is not VMware's");
	total_kb = meminfo("MemTotal");
	if (failed)
		return 1;
	run_tests("vmware", tests, nr, settle);
	return 0;
}
