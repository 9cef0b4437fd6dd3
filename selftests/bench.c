// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's side of the benchmarks: one measurement per boot.
 *
 * Started by init with the words of selftests/benchmarks; "plot" before them
 * asks for samples. What it finds goes to stdout, in lines of fields separated by
 * tabs:
 *
 *   bench  METRIC  UNIT  VALUE
 *   plot   SECONDS  MIB             the size of the balloon over time
 *   bench  done                     or something has gone wrong
 *
 * Nothing here knows which kernel it runs on.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "balloon.h"

#define PAGE		4096UL
#define PAGES_PER_GIB	(1UL << 18)

static int host;

static __attribute__((noreturn, format(printf, 1, 2)))
void die(const char *fmt, ...)
{
	va_list args;

	printf("bench\terror\t");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	exit(1);
}

static void report(const char *metric, const char *unit, double value)
{
	printf("bench\t%s\t%s\t%.6g\n", metric, unit, value);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* Ask for what can't fail. */
static long ask(const char *request)
{
	long value = host_request(host, request);

	if (value < 0)
		die("the host can't answer \"%s\"", request);
	return value;
}

static void set_target(unsigned long bytes)
{
	if (host_target(host, bytes) < 0)
		die("the host does not set the target");
}

/* Resize the balloon. Nobody polls in the guest meanwhile. */
static void resize(unsigned long bytes)
{
	char request[64];

	set_target(bytes);
	snprintf(request, sizeof(request), "wait %lu", bytes);
	ask(request);
}

static void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("can't run on CPU %d", cpu);
}

/*
 * Interrupts of the balloon's device. All of them go to CPU 0 from the first call
 * on: how many are taken and how many fall together must not depend on chance.
 */
static long interrupts(void)
{
	char device[NAME_MAX + 1], line[1024], path[64];
	static bool routed;
	long sum = 0;
	FILE *f;

	virtio_balloon_device(device);
	f = fopen("/proc/interrupts", "r");
	if (!f || !device[0])
		die("no interrupts of a balloon");
	while (fgets(line, sizeof(line), f)) {
		char *p = strchr(line, ':');

		if (!p || !strstr(line, device))
			continue;
		snprintf(path, sizeof(path), "/proc/irq/%d/smp_affinity",
			 atoi(line));
		if (!routed && write_file(path, "1"))
			die("can't route interrupt %d to CPU 0", atoi(line));
		for (p++;;) {
			char *end;
			long value = strtol(p, &end, 10);

			if (end == p || (*end != ' ' && *end != '\n'))
				break;
			sum += value;
			p = end;
		}
	}
	fclose(f);
	routed = true;
	return sum;
}

/* Free blocks of 2 MiB, or what larger ones are worth. */
static long free_2m_blocks(void)
{
	FILE *f = fopen("/proc/buddyinfo", "r");
	char line[512];
	long sum = 0;

	if (!f)
		die("no /proc/buddyinfo");
	while (fgets(line, sizeof(line), f)) {
		char *p = strstr(line, "zone");
		long nr;
		int n;

		if (!p || sscanf(p, "zone %*s%n", &n) < 0)
			continue;
		p += n;
		for (int order = 0; sscanf(p, "%ld%n", &nr, &n) == 1; order++) {
			p += n;
			if (order >= 9)
				sum += nr << (order - 9);
		}
	}
	fclose(f);
	return sum;
}

/* How often a kernel function has been called since count_calls(). */
#define TRACING "/sys/kernel/tracing"

static void count_calls(const char *function)
{
	char event[128];

	snprintf(event, sizeof(event), "p:bench/%s %s", function, function);
	if (write_file(TRACING "/kprobe_events", event) ||
	    write_file(TRACING "/events/bench/enable", "1"))
		die("can't count the calls of %s", function);
}

static long calls(const char *function)
{
	FILE *f = fopen(TRACING "/kprobe_profile", "r");
	char line[256], name[64];
	long hits, found = -1;

	if (!f)
		die("no " TRACING "/kprobe_profile");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " %63s %ld", name, &hits) == 2 &&
		    !strcmp(name, function))
			found = hits;
	fclose(f);
	if (found < 0)
		die("the calls of %s have not been counted", function);
	return found;
}

/*
 * The size of the balloon over time, for plots.
 */
#define SAMPLE_US	20000
#define MAX_SAMPLES	8192

static struct {
	bool wanted;
	double begin;
	int nr;
	struct {
		double time;
		long pages;
	} sample[MAX_SAMPLES];
	volatile bool stop;
	pthread_t thread;
} plot;

static void *sample(void *arg)
{
	int fd = open("/proc/meminfo", O_RDONLY);
	static char buf[4096];
	cpu_set_t set;

	(void)arg;
	/* Not where the work is, if there is another CPU. */
	CPU_ZERO(&set);
	CPU_SET(1, &set);
	sched_setaffinity(0, sizeof(set), &set);
	while (!plot.stop && plot.nr < MAX_SAMPLES) {
		ssize_t len = pread(fd, buf, sizeof(buf) - 1, 0);
		char *p;

		if (len <= 0)
			break;
		buf[len] = '\0';
		p = strstr(buf, "Balloon:");
		if (!p)
			break;
		plot.sample[plot.nr].time = now() - plot.begin;
		plot.sample[plot.nr++].pages = atol(p + 8) / 4;
		usleep(SAMPLE_US);
	}
	close(fd);
	return NULL;
}

static void plot_start(void)
{
	if (!plot.wanted)
		return;
	plot.begin = now();
	plot.nr = 0;
	plot.stop = false;
	if (pthread_create(&plot.thread, NULL, sample, NULL))
		die("pthread_create");
}

static void plot_stop(void)
{
	if (!plot.wanted)
		return;
	plot.stop = true;
	pthread_join(plot.thread, NULL);
	for (int i = 0; i < plot.nr; i++)
		printf("plot\t%.3f\t%.1f\n", plot.sample[i].time,
		       plot.sample[i].pages / 256.0);
}

static char *map_small_pages(unsigned long bytes)
{
	char *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	if (madvise(mem, bytes, MADV_NOHUGEPAGE))
		die("MADV_NOHUGEPAGE: %s", strerror(errno));
	return mem;
}

static void touch(char *mem, unsigned long bytes)
{
	for (unsigned long i = 0; i < bytes; i += PAGE)
		mem[i] = 1;
}

/* Give the host a reason to have memory behind all of the guest's. */
static void use_all_memory(void)
{
	long all = (read_meminfo("MemAvailable") - MIB(96)) & ~(MIB(2) - 1);
	char *mem = map_small_pages(all);

	touch(mem, all);
	munmap(mem, all);
}

struct cost {
	double time;
	long cpu;		/* Microseconds. */
	long irqs;
};

static struct cost cost_begin(void)
{
	struct cost c = { .cpu = ask("cpu"), .irqs = interrupts() };

	c.time = now();
	return c;
}

/* Add what has been spent since @begin to @sum. */
static void cost_end(struct cost *sum, struct cost begin)
{
	sum->time += now() - begin.time;
	sum->cpu += ask("cpu") - begin.cpu;
	sum->irqs += interrupts() - begin.irqs;
}

static void report_cost(const char *what, struct cost sum, double gib)
{
	char metric[64];

	report(what, "MB/s", gib * MIB(1024) / 1e6 / sum.time);
	snprintf(metric, sizeof(metric), "%s: CPU", what);
	report(metric, "ms/GiB", sum.cpu / 1e3 / gib);
	snprintf(metric, sizeof(metric), "%s: interrupts", what);
	report(metric, "1/GiB", sum.irqs / gib);
}

/*
 * resize TIMES MIB...: inflate to that and deflate to nothing, so often. The host
 * has no memory behind these pages, so that what is measured is the guest.
 * resize-used: all memory has been in use before each inflation.
 */
static void resize_often(int argc, char *argv[], bool used)
{
	int times = argc < 2 ? 0 : atoi(argv[0]);
	char size[32] = "", what[64];

	if (!times)
		die("resize: no sizes");
	for (int i = 1; i < argc; i++) {
		struct cost inflate = {}, deflate = {}, begin;
		unsigned long mib = atol(argv[i]);
		double gib = times * mib / 1024.0;

		if (argc > 2)
			snprintf(size, sizeof(size), " %lu GiB", mib / 1024);
		if (i == 1) {
			/* What happens for the first time takes longer. */
			resize(MIB(mib));
			resize(0);
			plot_start();
		}
		for (int j = 0; j < times; j++) {
			if (used)
				use_all_memory();
			begin = cost_begin();
			resize(MIB(mib));
			cost_end(&inflate, begin);
			begin = cost_begin();
			resize(0);
			cost_end(&deflate, begin);
		}
		if (i == 1)
			plot_stop();
		snprintf(what, sizeof(what), "inflate%s", size);
		report_cost(what, inflate, gib);
		snprintf(what, sizeof(what), "deflate%s", size);
		report_cost(what, deflate, gib);
	}
}

static void bench_resize(int argc, char *argv[])
{
	resize_often(argc, argv, false);
}

static void bench_resize_used(int argc, char *argv[])
{
	resize_often(argc, argv, true);
}

/*
 * offline NR: fill the balloon and take NR memory blocks offline, one after the
 * other, always the one with the most balloon pages.
 */
static void bench_offline(int argc, char *argv[])
{
	unsigned long room = 2 * memory_block_pages() * PAGE + MIB(96);
	long bytes = (read_meminfo("MemFree") - room) & ~(MIB(1) - 1);
	struct cost cost = {};
	long pages = 0;
	int ret;

	if (argc < 1 || bytes <= 0)
		die("no memory to migrate in");
	resize(bytes);
	plot_start();
	for (int i = 0; i < atoi(argv[0]); i++) {
		long migrated = read_vmstat("balloon_migrate");
		struct cost begin;
		int block = -1;

		for (int nid = 0; nid < MAX_NODES; nid++)
			if (node_balloon_pages(nid) >= 0)
				sum_memory_blocks(nid, fullest_block, &block);
		if (block < 0)
			die("no movable memory block with balloon pages");
		begin = cost_begin();
		ret = set_memory_block(block, "offline");
		if (ret)
			die("memory block %d does not go offline: %s", block,
			    strerror(-ret));
		cost_end(&cost, begin);
		pages += read_vmstat("balloon_migrate") - migrated;
		if (set_memory_block(block, "online_movable"))
			die("memory block %d does not come back", block);
	}
	plot_stop();
	if (pages < (long)memory_block_pages())
		die("only %ld pages were migrated", pages);
	report("migration by offline", "pages/s", pages / cost.time);
	report("migration by offline: CPU", "us/page", (double)cost.cpu / pages);
	report("migration by offline: interrupts", "1/page",
	       (double)cost.irqs / pages);
	resize(0);
}

/* A generator whose numbers depend on nothing but the seed (xorshift64*). */
static uint64_t random_state;

static uint64_t random_number(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1dULL;
}

static void compact(void)
{
	if (write_file("/proc/sys/vm/compact_memory", "1"))
		die("can't compact memory");
}

/* How many pages CPUs may keep where they must not count, and what makes them look. */
#define MAX_PAGES_OF_CPUS	2048
#define DRAIN_BYTES		MIB(4)
#define DRAIN_TRIES		200

/* Pages that the CPUs keep for themselves, and that are in no block therefore. */
static long pages_of_cpus(void)
{
	long pages = sum_lines("/proc/zoneinfo", " count: %ld");

	if (pages < 0)
		die("/proc/zoneinfo: %s", strerror(errno));
	return pages;
}

/*
 * Have the CPUs give back nearly all: how many they have depends on how fast pages
 * have been freed, and how long ago. They look at it when they free some.
 */
static void drain_cpus(void)
{
	if (write_file("/proc/sys/vm/percpu_pagelist_high_fraction", "1000000"))
		die("can't set what CPUs keep");
	for (int i = 0; pages_of_cpus() > MAX_PAGES_OF_CPUS; i++) {
		char *mem;

		if (i == DRAIN_TRIES)
			die("the CPUs keep %ld pages", pages_of_cpus());
		run_on(i % sysconf(_SC_NPROCESSORS_ONLN));
		mem = map_small_pages(DRAIN_BYTES);
		touch(mem, DRAIN_BYTES);
		munmap(mem, DRAIN_BYTES);
	}
}

/*
 * fragment SEED: a process has touched nearly all memory and freed most of it
 * again, page by page, at random. Now the balloon takes half of the guest, out of
 * what is left of blocks. Then the process ends, and compaction has to make
 * blocks of 2 MiB of its pages: how many are there at each point, and how much
 * does the host have in huge pages?
 */
static void bench_fragment(int argc, char *argv[])
{
	long half = (read_meminfo("MemTotal") / 2) & ~(MIB(2) - 1);
	long all = (read_meminfo("MemAvailable") - MIB(96)) & ~(MIB(2) - 1);
	struct cost cost = {}, begin;
	long migrated;
	char *mem;

	if (argc < 1)
		die("fragment: no seed");
	random_state = strtoul(argv[0], NULL, 0) * 0x9e3779b97f4a7c15ULL + 1;
	mem = map_small_pages(all);
	touch(mem, all);
	/* Three of four. */
	for (long i = 0; i < all; i += PAGE)
		if (random_number() >> 62 && madvise(mem + i, PAGE, MADV_DONTNEED))
			die("MADV_DONTNEED: %s", strerror(errno));
	report("fragmented: free blocks", "2MiB", free_2m_blocks());
	report("fragmented: host AnonHugePages", "MiB", ask("anonhuge") / 1024.0);

	begin = cost_begin();
	resize(half);
	cost_end(&cost, begin);
	report_cost("inflate fragmented", cost, half / (double)MIB(1024));
	report("inflated: free blocks", "2MiB", free_2m_blocks());
	report("inflated: host AnonHugePages", "MiB", ask("anonhuge") / 1024.0);

	munmap(mem, all);
	report("process gone: free blocks", "2MiB", free_2m_blocks());

	migrated = read_vmstat("balloon_migrate");
	memset(&cost, 0, sizeof(cost));
	begin = cost_begin();
	compact();
	cost_end(&cost, begin);
	migrated = read_vmstat("balloon_migrate") - migrated;
	if (!migrated)
		die("compaction has moved no balloon page");
	drain_cpus();
	report("compacted: free blocks", "2MiB", free_2m_blocks());
	report("compacted: host AnonHugePages", "MiB", ask("anonhuge") / 1024.0);
	report("compaction: time", "s", cost.time);
	report("compaction: CPU", "s", cost.cpu / 1e6);
	report("compaction: balloon pages moved", "", migrated);
	/* In all that compaction does besides. */
	report("migration by compaction", "pages/s", migrated / cost.time);
	resize(0);
}

/*
 * oom BALLOON HOG: a balloon of so many MiB, reached or not, and a process that
 * wants so many.
 */
static void bench_oom(int argc, char *argv[])
{
	long target = argc < 2 ? 0 : MIB(atol(argv[0]));
	long hog = argc < 2 ? 0 : MIB(atol(argv[1]));
	long inflated, deflated, kills, rounds, size, last = -1;
	double begin, since;
	int status;
	pid_t pid;

	if (!hog)
		die("oom: no sizes");
	count_calls("out_of_memory");
	set_target(target);
	/* Until it is there, or can't get there. */
	for (since = now(); now() - since < 2; usleep(50000)) {
		size = host_actual(host);
		if (size == target)
			break;
		if (size / (long)MIB(8) != last) {
			last = size / (long)MIB(8);
			since = now();
		}
	}
	plot_start();
	usleep(500000);

	kills = read_vmstat("oom_kill");
	inflated = read_vmstat("balloon_inflate");
	deflated = read_vmstat("balloon_deflate");
	rounds = calls("out_of_memory");
	begin = now();
	pid = fork();
	if (!pid) {
		die_with_parent(host);
		touch(map_small_pages(hog), hog);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("can't run the hog");
	begin = now() - begin;
	if (status && !WIFSIGNALED(status))
		die("the hog could not hog");
	report("hog: time", "s", begin);
	report("hog: OOM rounds", "", calls("out_of_memory") - rounds);
	report("hog: given back", "MiB",
	       (read_vmstat("balloon_deflate") - deflated) / 256.0);
	report("hog: inflated again", "MiB",
	       (read_vmstat("balloon_inflate") - inflated) / 256.0);
	report("hog: killed", "", read_vmstat("oom_kill") - kills);
	usleep(1500000);
	plot_stop();
}

/*
 * instructions TIMES MIB: guest instructions that a balloon page costs, on a machine
 * with one CPU and a time stamp counter that counts instructions (QEMU's -icount
 * shift=0). A process with the lowest priority spends what is left over, and
 * knows how much that was: the CPU is never idle.
 */
#define SPIN_INSNS	2003	/* Of a round of spin(). */

static uint64_t tsc(void)
{
	return __builtin_ia32_rdtsc();
}

static void spin(volatile uint64_t *rounds)
{
	asm volatile("1: mov $1000, %%ecx\n"
		     "2: dec %%ecx\n"
		     "jnz 2b\n"
		     "incq %0\n"
		     "jmp 1b\n" : "+m"(*rounds) : : "ecx");
}

struct interval {
	uint64_t insns;		/* All of them, */
	uint64_t spent;		/* and those that were not spun away. */
};

static volatile uint64_t *spun;

static struct interval interval_begin(void)
{
	return (struct interval){ tsc(), *spun };
}

static struct interval interval_end(struct interval since)
{
	struct interval i = interval_begin();

	i.spent = i.insns - since.insns - SPIN_INSNS * (i.spent - since.spent);
	i.insns -= since.insns;
	return i;
}

/* What the rest of the guest costs meanwhile is not the balloon's. */
static double background;

struct insns {
	double spent;
	long calls;
};

static void measure_insns(struct insns *sum, unsigned long bytes)
{
	long calls = host_request(host, "calls");
	struct interval i = interval_begin();

	resize(bytes);
	i = interval_end(i);
	sum->spent += i.spent - background * i.insns;
	if (calls >= 0)
		sum->calls += ask("calls") - calls;
}

static void report_insns(const char *what, struct insns sum, double gib)
{
	char metric[64];

	snprintf(metric, sizeof(metric), "%s: instructions", what);
	report(metric, "1/page", sum.spent / (gib * PAGES_PER_GIB));
	if (!sum.calls)
		return;
	snprintf(metric, sizeof(metric), "%s: hypercalls", what);
	report(metric, "1/GiB", sum.calls / gib);
}

static void bench_instructions(int argc, char *argv[])
{
	struct insns inflate = {}, deflate = {};
	struct sched_param param = {};
	unsigned long bytes;
	struct interval i;
	int times;
	pid_t pid;

	if (argc < 2)
		die("instructions: no size");
	times = atoi(argv[0]);
	bytes = MIB(atol(argv[1]));
	spun = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid = fork();
	if (!pid) {
		die_with_parent(host);
		if (sched_setscheduler(0, SCHED_IDLE, &param))
			_exit(1);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		spin(spun);
	}
	/* Is the clock what we think it is? */
	sleep(1);
	i = interval_begin();
	sleep(2);
	i = interval_end(i);
	background = (double)i.spent / i.insns;
	if (background < 0 || background > 0.1)
		die("%.1f %% of an idle CPU's instructions are unaccounted for",
		    background * 100);

	for (int n = 0; n < times; n++) {
		measure_insns(&inflate, bytes);
		measure_insns(&deflate, 0);
	}
	report_insns("inflate", inflate, times * bytes / (double)MIB(1024));
	report_insns("deflate", deflate, times * bytes / (double)MIB(1024));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (host_request(host, "violations") > 0)
		die("the driver violates the protocol: see the host's log");
}

/*
 * core TIMES MIB [icount]: what the core of the balloon costs, without its driver:
 * as virtio_balloon calls it, that is v7.3 page by page and the series with lists
 * of 256; with lists of 256 both of them; and with long lists. Managed pages are
 * adjusted. Where the clock counts instructions (QEMU's -icount), it tells these,
 * and for how many of them interrupts were off, and a realtime thread had to wait.
 */
#define CORE	"/sys/kernel/debug/balloon_bench"

static void core_run(bool single, int batch, long pages, bool latency,
		     long value[6])
{
	char line[128];
	int ret;

	snprintf(line, sizeof(line), "%d %d %ld 1 %d", single, batch, pages,
		 latency);
	ret = write_file(CORE, line);
	if (ret)
		die("core: \"%s\": %s", line, strerror(-ret));
	read_line(CORE, line, sizeof(line));
	if (sscanf(line, "%ld %ld %ld %ld %ld %ld", &value[0], &value[1],
		   &value[2], &value[3], &value[4], &value[5]) != 6)
		die("core: it says \"%s\"", line);
}

static const struct {
	const char *name;
	bool single;
	int batch;
} core_ways[] = {
	{ "as virtio does", true, 256 },
	{ "lists of 256", false, 256 },
	{ "lists of 4096", false, 4096 },
};

/* A metric of the core, in one of the ways to use it. */
static void report_core(const char *metric, const char *name, const char *unit,
			double value)
{
	char buf[64];

	snprintf(buf, sizeof(buf), "%s (%s)", metric, name);
	report(buf, unit, value);
}

static void bench_core(int argc, char *argv[])
{
	long pages = argc < 2 ? 0 : MIB(atol(argv[1])) / PAGE;
	bool icount = argc > 2 && !strcmp(argv[2], "icount");

	if (!pages)
		die("core: no size");
	for (size_t i = 0; i < ARRAY_SIZE(core_ways); i++) {
		double enqueue = 0, dequeue = 0, all;
		int times = atoi(argv[0]);
		long value[6];

		/* What happens for the first time takes longer. */
		for (int n = -1; n < times; n++) {
			core_run(core_ways[i].single, core_ways[i].batch, pages,
				 false, value);
			if (n < 0)
				continue;
			enqueue += value[0];
			dequeue += value[1];
		}
		all = (double)pages * times;
		report_core("core: enqueue", core_ways[i].name,
			    icount ? "instr/page" : "pages/s",
			    icount ? enqueue / all : all / enqueue * 1e9);
		report_core("core: dequeue", core_ways[i].name,
			    icount ? "instr/page" : "pages/s",
			    icount ? dequeue / all : all / dequeue * 1e9);
	}
	if (!icount)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(core_ways); i++) {
		long value[6];

		core_run(core_ways[i].single, core_ways[i].batch, pages, true,
			 value);
		report_core("core: interrupts off", core_ways[i].name, "instr",
			    value[2] > value[4] ? value[2] : value[4]);
		report_core("core: preemption off", core_ways[i].name, "instr",
			    value[3] > value[5] ? value[3] : value[5]);
	}
}

int main(int argc, char *argv[])
{
	static const struct {
		const char *name;
		void (*run)(int argc, char *argv[]);
	} programs[] = {
		{ "resize", bench_resize },
		{ "resize-used", bench_resize_used },
		{ "offline", bench_offline },
		{ "fragment", bench_fragment },
		{ "oom", bench_oom },
		{ "instructions", bench_instructions },
		{ "core", bench_core },
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	host = host_open();
	if (host < 0)
		die("no host on port " HOST_PORT);
	run_on(0);
	/* What boot has left to do. */
	sleep(1);
	if (argc > 1 && !strcmp(argv[1], "plot")) {
		plot.wanted = true;
		argc--;
		argv++;
	}
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
		if (argc < 2 || strcmp(argv[1], programs[i].name))
			continue;
		programs[i].run(argc - 2, argv + 2);
		puts("bench\tdone");
		return 0;
	}
	die("no benchmark \"%s\"", argc < 2 ? "" : argv[1]);
}
