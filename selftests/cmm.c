// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of pseries' balloon, cmm. With simulate=1 it asks a file in sysfs, not the
 * hypervisor, how much to loan, and so it needs no machine that can overcommit.
 *
 * What is loaned has to be the same, to the kB, in cmm's sysfs, in Balloon: and in what
 * is missing from MemTotal: of /proc/meminfo.
 */
#define _GNU_SOURCE
#include <glob.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "guest.h"

#define MODULE		"/lib/cmm.ko"
#define CMM		"/sys/devices/system/cmm/cmm0/"
#define PARAMETERS	"/sys/module/cmm/parameters/"
#define TARGET		CMM "simulate_loan_target_kb"
#define MIB_KB(n)	((n) * 1024L)	/* All sizes are in kB. */
#define WAIT_SECONDS	30		/* cmm looks once a second. */

static long total_kb;		/* MemTotal: with nothing loaned. */

static long read_long(const char *path)
{
	char line[64];

	read_line(path, line, sizeof(line));
	return line[0] ? atol(line) : -1;
}

static void set_long(const char *path, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	set(path, text);
}

/* All counters say that @kb are loaned. */
static void expect_now(long kb)
{
	/* What the CPUs have counted gets where it is read. */
	if (refresh_counters())
		fail("the counters can't be refreshed");
	expect("loaned_kb", read_long(CMM "loaned_kb"), kb);
	expect("Balloon:", meminfo("Balloon"), kb);
	expect("MemTotal:", meminfo("MemTotal"), total_kb - kb);
}

/* They come to say that in time, and then it stays so. */
static void expect_loaned(long kb)
{
	for (int i = 0; i < WAIT_SECONDS * 10 &&
	     read_long(CMM "loaned_kb") != kb; i++)
		nap(100);
	nap(1500);
	expect_now(kb);
}

static void loan(long kb)
{
	set_long(TARGET, kb);
	expect_loaned(kb);
}

static void load(const char *parameters)
{
	int fd = open(MODULE, O_RDONLY);

	if (fd < 0 || syscall(SYS_finit_module, fd, parameters, 0))
		fail("can't load " MODULE ": %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void unload(void)
{
	if (syscall(SYS_delete_module, "cmm", 0))
		fail("can't unload cmm: %s", strerror(errno));
	if (refresh_counters())
		fail("the counters can't be refreshed");
	expect("Balloon:", meminfo("Balloon"), 0);
	expect("MemTotal:", meminfo("MemTotal"), total_kb);
}

static void test_loans(void)
{
	long page_kb = sysconf(_SC_PAGESIZE) / 1024;
	long inflated = read_vmstat("balloon_inflate");

	loan(MIB_KB(64));
	expect("balloon_inflate", read_vmstat("balloon_inflate") - inflated,
	       MIB_KB(64) / page_kb);
}

static void test_up_and_down(void)
{
	long deflated = read_vmstat("balloon_deflate");
	long page_kb = sysconf(_SC_PAGESIZE) / 1024;

	loan(MIB_KB(32));
	loan(MIB_KB(256));
	loan(MIB_KB(100));
	loan(MIB_KB(300));
	loan(0);
	expect("balloon_deflate", read_vmstat("balloon_deflate") - deflated,
	       MIB_KB(156 + 300) / page_kb);
}

/* Targets are in kB: what is less than a page is not loaned. */
static void test_odd_target(void)
{
	long page_kb = sysconf(_SC_PAGESIZE) / 1024;

	set_long(TARGET, MIB_KB(10) + page_kb - 1);
	expect_loaned(MIB_KB(10));
	set_long(TARGET, MIB_KB(10) + page_kb);
	expect_loaned(MIB_KB(10) + page_kb);
	set_long(TARGET, page_kb - 1);
	expect_loaned(0);
}

/* However much is asked for, some memory stays. */
static void test_min_mem(void)
{
	long min_mb = total_kb / 1024 - 200;

	set_long(PARAMETERS "min_mem_mb", min_mb);
	set_long(TARGET, 10 * total_kb);
	expect_loaned(total_kb - MIB_KB(min_mb));
	set_long(TARGET, 0);
	expect_loaned(0);
	set_long(PARAMETERS "min_mem_mb", 256);
}

/*
 * Fill memory, loan what is freed in between, and free the rest: the loaned pages
 * are everywhere, and compaction has something to do.
 */
static void test_compaction(void)
{
	long size_kb = meminfo("MemFree") - MIB_KB(64), migrated;
	const long hole_kb = MIB_KB(1);
	char *mem;

	if (size_kb <= 0) {
		fail("no memory is free");
		return;
	}
	mem = mmap(NULL, size_kb * 1024, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED) {
		fail("mmap: %s", strerror(errno));
		return;
	}
	madvise(mem, size_kb * 1024, MADV_NOHUGEPAGE);
	memset(mem, 1, size_kb * 1024);
	for (long kb = 0; kb + hole_kb < size_kb; kb += 2 * hole_kb)
		madvise(mem + kb * 1024, hole_kb * 1024, MADV_DONTNEED);
	loan(MIB_KB(192));
	munmap(mem, size_kb * 1024);

	migrated = read_vmstat("balloon_migrate");
	set("/proc/sys/vm/compact_memory", "1");
	migrated = read_vmstat("balloon_migrate") - migrated;
	printf("    # %ld pages migrated\n", migrated);
	if (!migrated)
		fail("no page has been migrated");
	expect_now(MIB_KB(192));
	loan(0);
}

/* Loaned pages leave a block of memory that goes offline, and stay loaned. */
static long offline_and_online(int block, void *arg)
{
	const long loaned_kb = *(long *)arg, online_kb = total_kb;

	/* What booting has allocated can be in the way. */
	if (failed || !memory_block_movable(block) ||
	    set_memory_block(block, "offline"))
		return 0;
	total_kb -= memory_block_pages() * sysconf(_SC_PAGESIZE) / 1024;
	expect_now(loaned_kb);
	if (set_memory_block(block, "online_movable"))
		fail("memory block %d stays offline", block);
	total_kb = online_kb;
	return 1;
}

/* cmm takes the memory next to it first. */
static void run_cmm_on(int cpu)
{
	bool done = false;
	cpu_set_t cpus;
	char comm[32];
	glob_t tasks;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (glob("/proc/[0-9]*/comm", 0, NULL, &tasks))
		tasks.gl_pathc = 0;
	for (size_t i = 0; i < tasks.gl_pathc; i++) {
		read_line(tasks.gl_pathv[i], comm, sizeof(comm));
		if (!strcmp(comm, "cmmthread") &&
		    !sched_setaffinity(atoi(tasks.gl_pathv[i] + strlen("/proc/")),
				       sizeof(cpus), &cpus))
			done = true;
	}
	if (!done)
		fail("there is no cmmthread");
	globfree(&tasks);
}

/*
 * Memory that goes offline moves to another node, and a block has room there. Most
 * of the first node's movable memory is loaned: no block of it can be without.
 */
static void test_offline(void)
{
	long migrated, blocks_done = 0, loaned_kb = MIB_KB(600);

	run_cmm_on(0);
	loan(loaned_kb);
	migrated = read_vmstat("balloon_migrate");
	for (int nid = 0; nid < 2; nid++)
		blocks_done += sum_memory_blocks(nid, offline_and_online,
						 &loaned_kb);
	migrated = read_vmstat("balloon_migrate") - migrated;
	printf("    # %ld blocks, %ld pages migrated\n", blocks_done, migrated);
	if (!blocks_done)
		fail("no block of movable memory can go offline");
	if (!migrated)
		fail("no page has been migrated");
	/* cmm rests for a while, and goes on. */
	loan(MIB_KB(200));
	loan(0);
	expect("nr_balloon_pages of node 0", node_balloon_pages(0), 0);
	expect("nr_balloon_pages of node 1", node_balloon_pages(1), 0);
}

/* The OOM killer gets some of it, and that is not loaned again. */
static void test_oom(void)
{
	loan(MIB_KB(50));
	/* Only the notifiers have something to give: nobody is to be killed. */
	set("/proc/self/oom_score_adj", "-1000");
	set("/proc/sysrq-trigger", "f");
	expect_loaned(MIB_KB(49));
	expect("oom_freed_kb", read_long(CMM "oom_freed_kb"), MIB_KB(1));
	set(CMM "oom_freed_kb", "0");
	expect_loaned(MIB_KB(50));
	loan(0);
}

static void test_disable(void)
{
	loan(MIB_KB(128));
	set(PARAMETERS "disable", "1");
	expect_now(0);
	/* Nobody is there to see the target. */
	expect_loaned(0);
	set(PARAMETERS "disable", "0");
	expect_loaned(MIB_KB(128));
	set(PARAMETERS "disable", "1");
	set(PARAMETERS "disable", "0");
	expect_loaned(MIB_KB(128));
}

/* Pages that are loaned when the module is unloaded come back. */
static void test_unload(void)
{
	loan(MIB_KB(128));
	unload();
	load("simulate=1");
	loan(MIB_KB(64));
}

static void test_load_disabled(void)
{
	unload();
	load("simulate=1 disable=1");
	set_long(TARGET, MIB_KB(16));
	expect_loaned(0);
	set(PARAMETERS "disable", "0");
	expect_loaned(MIB_KB(16));
	set(PARAMETERS "disable", "1");
	expect_now(0);
	unload();
	load("simulate=1");
}

static const struct test tests[] = {
	{ "cmm_test_loans", test_loans },
	{ "cmm_test_up_and_down", test_up_and_down },
	{ "cmm_test_odd_target", test_odd_target },
	{ "cmm_test_min_mem", test_min_mem },
	{ "cmm_test_compaction", test_compaction },
	{ "cmm_test_offline", test_offline },
	{ "cmm_test_oom", test_oom },
	{ "cmm_test_disable", test_disable },
	{ "cmm_test_unload", test_unload },
	{ "cmm_test_load_disabled", test_load_disabled },
};

static void begin(void)
{
	set_long(TARGET, 0);
	expect_loaned(0);
}

int main(void)
{
	const unsigned int nr = sizeof(tests) / sizeof(tests[0]);

	begin_tests("cmm", nr);
	total_kb = meminfo("MemTotal");
	load("simulate=1");
	run_tests("cmm", tests, nr, begin);
	return 0;
}
